/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_NIC_INTR_GUARD_H
#define PENSTOCK_NIC_INTR_GUARD_H
/*
 * Keeps DPDK's interrupt thread and our polling thread out of the memif driver at
 * the same time. The driver (22.11) unmaps its rings from the interrupt thread
 * when the peer goes away, with nothing that stops a poll in progress: the
 * survivor of a peer's kill -9 crashed in 1 of 12 runs.
 *
 * How: the program defines rte_intr_callback_register and its three counterparts
 * for unregistering, so that the driver's calls bind to ours before EAL's (the
 * usual order of dynamic linking), and every callback of the memif driver is
 * run under a lock. The poll thread only ever tries the lock: while the
 * interrupt thread works on the connection a burst moves nothing. Callbacks of
 * other drivers pass through untouched. Two more faults of the driver are mended
 * on the same way: see drop_dead_registration and rte_memseg_get_fd in the .c.
 */
#include <stdatomic.h>
#include <stdbool.h>

#include "base/check.h"
#include "base/err.h"

extern atomic_bool nic_intr_guard_busy;

/* Checks that the driver will really find our functions; -ENOTSUP with a text when DPDK was
 * linked in a way that hides them. Once, before a memif port is made. */
int ps_warn_unused nic_intr_guard_check(struct ps_err *err);

/* Poll thread: true when the driver may be entered; leave with nic_intr_guard_leave. */
static inline bool nic_intr_guard_try(void)
{
	/* Acquire pairs with the release in leave(): what the other thread did to the rings shows. */
	return !atomic_load_explicit(&nic_intr_guard_busy, memory_order_relaxed) &&
	       !atomic_exchange_explicit(&nic_intr_guard_busy, true, memory_order_acquire);
}

static inline void nic_intr_guard_leave(void)
{
	atomic_store_explicit(&nic_intr_guard_busy, false, memory_order_release);
}

/* Interrupt thread and start-up: waits for the lock. A poll thread holds it for one burst. */
void nic_intr_guard_enter(void);

/* Lets no callback in any more, before the ports are closed: closing one frees what a callback that
 * is on its way (peers that end at the same time hang up) would still use. False: a new start. */
void nic_intr_guard_shut(bool now_shut);

#endif
