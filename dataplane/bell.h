/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_BELL_H
#define PENSTOCK_DATAPLANE_BELL_H
/*
 * A doorbell on which one thread sleeps and that any thread, of this process or
 * of another on the same host, can ring. Ringing a thread that is awake costs
 * one load and no system call. Where the sleeper only waits for bells it sleeps
 * on a futex; where it also waits for descriptors (an AF_XDP socket) it sleeps
 * in ppoll on them and on a FIFO beside the bell's file.
 *
 * The use is always: poll, dp_bell_arm, poll once more, dp_bell_wait (or
 * dp_bell_disarm when that second poll found work). Without the second poll a
 * ring between the first one and arming would be lost.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct dp_bell;

#define DP_BELL_MAX_FDS 72u /* descriptors of one wait */

/* A bell of this process only. NULL when out of memory. */
struct dp_bell *dp_bell_create(void);
/* A bell that other processes open by path: creates PATH (one shared page) and PATH.fifo,
 * replacing stale ones; both are removed by dp_bell_destroy. */
int ps_warn_unused dp_bell_create_shared(const char *path, struct dp_bell **bell_out, struct ps_err *err);
/* Opens a peer's bell for ringing only. -ENOENT while the peer has not made it yet. */
int ps_warn_unused dp_bell_open(const char *path, struct dp_bell **bell_out, struct ps_err *err);
void dp_bell_destroy(struct dp_bell *b);

/* Wakes the sleeper, if it sleeps. Any thread. */
void dp_bell_ring(struct dp_bell *b);

/* Sleeper only. `with_fds`: the wait will name descriptors. */
void dp_bell_arm(struct dp_bell *b, bool with_fds);
void dp_bell_disarm(struct dp_bell *b);
/* Sleeps until rung, until a descriptor is readable, or for timeout_ns. Disarms. */
void dp_bell_wait(struct dp_bell *b, struct pollfd *fds, uint32_t n_fds, uint64_t timeout_ns);

/* How often a thread has slept and been rung awake (counters for `status`). */
uint64_t dp_bell_sleeps(const struct dp_bell *b);

#endif
