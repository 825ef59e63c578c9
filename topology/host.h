/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_HOST_H
#define PENSTOCK_TOPOLOGY_HOST_H
/*
 * What this machine needs for a deployment, as steps with check, apply and undo.
 * Checking needs no root and changes nothing. Applying prints each command that
 * it runs and writes down how it was before, so that undo restores it. What only
 * the owner of the machine can decide (capabilities, memlock, the kernel) is
 * said, with what mends it, and never changed. Not for what a single deployment
 * takes and gives back (launch.h).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "topology/topology.h"

#define HOST_STATE_PATH "/run/penstock-host.yaml" /* what is applied does not survive a reboot either */
#define HOST_MAX_STEPS  16u

enum host_verdict {
	HOST_OK,
	HOST_HINT,    /* works; the text says what would be better */
	HOST_MISSING, /* the driver asked for will not work */
};

struct host_result {
	enum host_verdict verdict;
	char found[160];
	char fix[240]; /* what mends it; "" if nothing is to be mended */
};

struct host_ctx {
	enum topo_driver driver; /* check for this one; af_xdp needs all that memif needs */
	uint32_t hugepages_mb;   /* free memory in hugepages wanted */
	const char *state_path;  /* NULL: HOST_STATE_PATH */
	const char *root; /* prefix of /proc, /sys and /dev; NULL: "" (tests have a tree of their own) */
	FILE *out;        /* what is found and what is run */
	/* Runs a program; NULL: really. */
	int (*run)(const char *const argv[], struct ps_err *err);
};

/* Checks every step and prints a line each (and the fix below it). Returns how many are missing. */
uint32_t host_check(const struct host_ctx *c);
/* Applies the steps that are not in order and can be applied. The first failure; -EPERM without root.
 * What was applied before it stays, and undo knows it. */
int ps_warn_unused host_apply(const struct host_ctx *c, struct ps_err *err);
/* Restores what host_apply changed, in the opposite order. 0 when there is nothing to undo. */
int ps_warn_unused host_undo(const struct host_ctx *c, struct ps_err *err);

/* One step, for tests: its name or NULL beyond the last, and what a check finds. */
const char *host_step_name(uint32_t i);
void host_step_check(const struct host_ctx *c, uint32_t i, struct host_result *out);

#endif
