/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/pause.h"

/* A pause is about 20-40 ns on the cores we know: some tens of microseconds. */
#define SPIN_PAUSES 1000u
/* Then the core is offered to others this often before the worker sleeps. */
#define SPIN_YIELDS 50u

/*
 * The loop in progress is one word, so that a late worker can neither take a
 * chunk twice nor see half a loop: generation, number of chunks, next chunk.
 * Whoever takes a chunk with next < number owns it, and fn and ctx stay as they
 * are until it is counted as done.
 */
#define TICKET_BITS 20u
#define TICKET_MASK ((1ull << TICKET_BITS) - 1)

struct worker {
	pthread_t thread;
	struct pool *pool;
	uint32_t index;
};

struct pool {
	_Alignas(64) _Atomic uint64_t ticket;
	_Alignas(64) _Atomic uint32_t n_done;
	_Alignas(64) _Atomic uint32_t epoch; /* futex word: counts loops and the stop */
	_Atomic uint32_t n_sleepers;
	_Atomic bool active; /* between pool_begin and pool_end */
	_Atomic bool stop;
	pool_fn *fn;
	void *ctx;
	uint64_t generation;
	uint32_t n_threads, n_started;
	struct worker *workers; /* [n_threads - 1] */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Takes and runs chunks until there is none left. */
static void take_chunks(struct pool *p, uint32_t thread)
{
	for (;;) {
		uint64_t t = atomic_load_explicit(&p->ticket, memory_order_relaxed);
		uint32_t next = (uint32_t)(t & TICKET_MASK);
		uint32_t n = (uint32_t)(t >> TICKET_BITS & TICKET_MASK);

		if (next >= n)
			return;
		/* Acquire pairs with the release in pool_run: fn and ctx of this ticket. */
		if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t + 1, memory_order_acquire,
							   memory_order_relaxed))
			continue;
		p->fn(p->ctx, next, thread);
		/* Release pairs with the acquire in pool_run's wait: the chunk's results. */
		atomic_fetch_add_explicit(&p->n_done, 1, memory_order_release);
	}
}

/* Waits until the epoch is another than `seen`; returns it. */
static uint32_t wait_epoch(struct pool *p, uint32_t seen)
{
	uint32_t now;

	for (uint32_t i = 0; i < SPIN_PAUSES + SPIN_YIELDS; i++) {
		/* Acquire pairs with the release part of the increment in pool_run and pool_close. */
		now = atomic_load_explicit(&p->epoch, memory_order_acquire);
		if (now != seen)
			return now;
		if (!atomic_load_explicit(&p->active, memory_order_relaxed))
			break;
		if (i < SPIN_PAUSES)
			ps_pause();
		else
			sched_yield();
	}
	/* Sequentially consistent with the increment of epoch and the load of n_sleepers in announce():
	 * either that one sees this sleeper, or this one sees the new epoch. */
	atomic_fetch_add_explicit(&p->n_sleepers, 1, memory_order_seq_cst);
	while ((now = atomic_load_explicit(&p->epoch, memory_order_seq_cst)) == seen)
		futex_wait(&p->epoch, seen);
	atomic_fetch_sub_explicit(&p->n_sleepers, 1, memory_order_relaxed);
	return now;
}

static void announce(struct pool *p)
{
	atomic_fetch_add_explicit(&p->epoch, 1, memory_order_seq_cst);
	if (atomic_load_explicit(&p->n_sleepers, memory_order_seq_cst) > 0)
		futex_wake_all(&p->epoch);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;
	uint32_t seen = 0;

	for (;;) {
		seen = wait_epoch(p, seen);
		/* Acquire pairs with the release in pool_close. */
		if (atomic_load_explicit(&p->stop, memory_order_acquire))
			return NULL;
		take_chunks(p, w->index);
	}
}

static int pin(pthread_t thread, int core, struct ps_err *err)
{
	cpu_set_t set;
	int rc;

	if (core < 0 || core >= CPU_SETSIZE)
		return ps_err_set(err, -EINVAL, "core %d: expected 0..%d", core, CPU_SETSIZE - 1);
	CPU_ZERO(&set);
	CPU_SET((size_t)core, &set);
	rc = pthread_setaffinity_np(thread, sizeof(set), &set);
	if (rc != 0)
		return ps_err_set(err, -rc, "core %d: a compute thread cannot run there: %s", core,
				  strerror(rc));
	return 0;
}

static uint32_t n_cores(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return 1;
	return CPU_COUNT(&set) > 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static int start_workers(struct pool *p, const int *cores, struct ps_err *err)
{
	for (uint32_t i = 1; i < p->n_threads; i++) {
		struct worker *w = &p->workers[i - 1];
		int rc;

		*w = (struct worker){.pool = p, .index = i};
		rc = pthread_create(&w->thread, NULL, worker_main, w);
		if (rc != 0)
			return ps_err_set(err, -rc, "compute thread %u of %u: %s", i + 1, p->n_threads,
					  strerror(rc));
		p->n_started++;
		rc = cores != NULL ? pin(w->thread, cores[i], err) : 0;
		if (rc != 0)
			return rc;
	}
	return cores != NULL ? pin(pthread_self(), cores[0], err) : 0;
}

int pool_open(uint32_t n_threads, const int *cores, struct pool **pool_out, struct ps_err *err)
{
	struct pool *p = aligned_alloc(64, (sizeof(*p) + 63) / 64 * 64);
	int rc;

	if (p == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for the compute threads");
	memset(p, 0, sizeof(*p));
	p->n_threads = n_threads != 0 ? n_threads : n_cores();
	p->workers = calloc(p->n_threads, sizeof(*p->workers));
	if (p->workers == NULL) {
		free(p);
		return ps_err_set(err, -ENOMEM, "no memory for the compute threads");
	}
	rc = start_workers(p, cores, err);
	if (rc != 0) {
		pool_close(p);
		return rc;
	}
	*pool_out = p;
	return 0;
}

void pool_close(struct pool *p)
{
	/* Release pairs with the acquire in worker_main. */
	atomic_store_explicit(&p->stop, true, memory_order_release);
	announce(p);
	for (uint32_t i = 0; i < p->n_started; i++)
		pthread_join(p->workers[i].thread, NULL);
	free(p->workers);
	free(p);
}

uint32_t pool_n_threads(const struct pool *p)
{
	return p->n_threads;
}

void pool_begin(struct pool *p)
{
	atomic_store_explicit(&p->active, true, memory_order_relaxed);
	/* Wake them now, so that they are there when the first loop comes. */
	if (p->n_threads > 1)
		announce(p);
}

void pool_end(struct pool *p)
{
	atomic_store_explicit(&p->active, false, memory_order_relaxed);
}

void pool_run(struct pool *p, pool_fn *fn, void *ctx, uint32_t n_chunks)
{
	if (n_chunks <= 1 || p->n_threads == 1) {
		for (uint32_t i = 0; i < n_chunks; i++)
			fn(ctx, i, 0);
		return;
	}
	CHECK(n_chunks <= POOL_MAX_CHUNKS);
	p->fn = fn;
	p->ctx = ctx;
	atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
	p->generation++;
	/* Release pairs with the acquire in take_chunks. */
	atomic_store_explicit(&p->ticket,
			      p->generation << 2 * TICKET_BITS | (uint64_t)n_chunks << TICKET_BITS,
			      memory_order_release);
	announce(p);
	take_chunks(p, 0);
	/* Acquire pairs with the release in take_chunks. The wait is for chunks already running, so it
	 * is short unless their core was taken away; then yield to whoever took it. */
	for (uint32_t i = 0; atomic_load_explicit(&p->n_done, memory_order_acquire) < n_chunks; i++) {
		if (i < SPIN_PAUSES)
			ps_pause();
		else
			sched_yield();
	}
}
