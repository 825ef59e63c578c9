/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "accel/cpu/pool.h"

#define MAX_CHUNKS 64u

struct counts {
	uint32_t n_threads;
	uint32_t round;            /* plain memory that every chunk must see as the caller left it */
	uint32_t seen[MAX_CHUNKS]; /* by each chunk, read by the caller afterwards */
	_Atomic uint32_t ran[MAX_CHUNKS];
	_Atomic uint32_t wrong;
};

static void count(void *ctx, uint32_t chunk, uint32_t thread)
{
	struct counts *c = ctx;

	if (chunk >= MAX_CHUNKS || thread >= c->n_threads) {
		atomic_fetch_add_explicit(&c->wrong, 1, memory_order_relaxed);
		return;
	}
	c->seen[chunk] = c->round;
	atomic_fetch_add_explicit(&c->ran[chunk], 1, memory_order_relaxed);
}

/* Every chunk once a loop, with what was written before it, and done when pool_run returns; within
 * batches (workers spin) and across them (they sleep), with more threads than cores. */
static void check_rounds(uint32_t n_threads)
{
	static struct counts c;
	uint32_t expected[MAX_CHUNKS] = {0};
	struct pool *p;

	memset(&c, 0, sizeof(c));
	assert_int_equal(pool_open(n_threads, NULL, &p, NULL), 0);
	c.n_threads = pool_n_threads(p);
	assert_int_equal(c.n_threads, n_threads);
	for (uint32_t round = 1; round <= 3000; round++) {
		uint32_t n = round * 7 % (MAX_CHUNKS + 1);

		c.round = round;
		if (round % 10 == 1)
			pool_begin(p);
		pool_run(p, count, &c, n);
		for (uint32_t i = 0; i < n; i++) {
			expected[i]++;
			assert_int_equal(c.seen[i], round);
		}
		if (round % 10 == 0)
			pool_end(p);
	}
	for (uint32_t i = 0; i < MAX_CHUNKS; i++)
		assert_int_equal(atomic_load_explicit(&c.ran[i], memory_order_relaxed), expected[i]);
	assert_int_equal(atomic_load_explicit(&c.wrong, memory_order_relaxed), 0);
	pool_close(p);
}

static void test_rounds(void **state)
{
	(void)state;
	check_rounds(1);
	check_rounds(2);
	check_rounds(5);
}

static void test_default_threads(void **state)
{
	struct pool *p;
	cpu_set_t set;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
	assert_int_equal(pool_open(0, NULL, &p, NULL), 0);
	assert_int_equal(pool_n_threads(p), CPU_COUNT(&set));
	pool_close(p);
}

static void test_pinning(void **state)
{
	cpu_set_t before, now;
	int cores[2] = {0, 0};
	struct ps_err err;
	struct pool *p;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	while (!CPU_ISSET((size_t)cores[0], &before))
		cores[0]++;
	cores[1] = cores[0];
	assert_int_equal(pool_open(2, cores, &p, &err), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
	assert_true(CPU_COUNT(&now) == 1 && CPU_ISSET((size_t)cores[0], &now));
	pool_close(p);
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
	cores[1] = CPU_SETSIZE;
	assert_int_equal(pool_open(2, cores, &p, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "core 1024"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rounds),
	    cmocka_unit_test(test_default_threads),
	    cmocka_unit_test(test_pinning),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
