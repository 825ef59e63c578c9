/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_CPU_POOL_H
#define PENSTOCK_ACCEL_CPU_POOL_H
/*
 * Threads that share the chunks of one loop at a time. The caller of pool_run
 * takes chunks too, so a pool of one has no threads of its own. A worker
 * without work spins for tens of microseconds, then yields (several stages may
 * share the cores), then sleeps on a futex; between pool_begin and pool_end it
 * expects more work soon, outside it sleeps at once. Which thread runs a chunk
 * is not determined: a chunk's result must not depend on it.
 *
 * One thread calls all functions. Nothing allocates after pool_open.
 */
#include <stdint.h>

#include "base/err.h"

#define POOL_MAX_CHUNKS ((1u << 20) - 1)

struct pool;

/* `thread` is in [0, n_threads): for scratch memory of the thread's own. */
typedef void pool_fn(void *ctx, uint32_t chunk, uint32_t thread);

/* 0 threads: one a core this thread may run on. cores: thread i (0: the caller) is pinned to cores[i];
 * may be NULL. */
int ps_warn_unused pool_open(uint32_t n_threads, const int *cores, struct pool **pool_out,
			     struct ps_err *err);
void pool_close(struct pool *p);
uint32_t pool_n_threads(const struct pool *p);

void pool_begin(struct pool *p);
void pool_end(struct pool *p);

/* Runs fn for each chunk in [0, n_chunks) and returns when all are done. */
void pool_run(struct pool *p, pool_fn *fn, void *ctx, uint32_t n_chunks);

#endif
