/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_HUGEPAGES_H
#define PENSTOCK_TOPOLOGY_HUGEPAGES_H
/*
 * The kernel's pool of 2 MB pages: what a deployment needs beyond what is free
 * is added, and exactly that is given back.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct hugepages {
	uint32_t total, free; /* free: not even reserved */
};

/* The pool's folder in sysfs; tests have one of their own. */
extern const char *hugepages_pool;

/* -ENOENT where the kernel has no 2 MB pages. */
int ps_warn_unused hugepages_read(struct hugepages *out, struct ps_err *err);

/* Makes at least `need` pages free, and holds the lock under which deployments count pages until
 * hugepages_unlock: call that when they are taken. `added_out` is also set on failure (0 then).
 * Errors: -EACCES, -ENOMEM (memory too scattered; what was added is given back), -ENOENT,
 * -EBUSY (another deployment has held the lock for 60 s), -EINTR. The text says what mends it. */
int ps_warn_unused hugepages_reserve(uint32_t need, int *lock_out, uint32_t *added_out, struct ps_err *err);
void hugepages_unlock(int lock);

/* Takes `pages` out of the pool again. */
int ps_warn_unused hugepages_give_back(uint32_t pages, struct ps_err *err);

#endif
