/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/ring.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Three words, so that a torn item shows. */
struct item {
	uint64_t a, b, c;
};

static struct item item_of(uint64_t i)
{
	return (struct item){.a = i, .b = ~i, .c = i * 0x9e3779b97f4a7c15ull};
}

static bool is_item(const struct item *it, uint64_t i)
{
	const struct item want = item_of(i);

	return memcmp(it, &want, sizeof(want)) == 0;
}

static void test_fills_and_empties(void **state)
{
	struct dp_ring r;
	struct item it;
	uint64_t i;

	(void)state;
	assert_true(dp_ring_init(&r, 8, sizeof(it)));
	assert_true(dp_ring_empty(&r));
	assert_null(dp_ring_peek(&r));
	assert_false(dp_ring_pop(&r, &it));
	for (i = 0; i < 8; i++) {
		it = item_of(i);
		assert_true(dp_ring_can_push(&r));
		assert_true(dp_ring_push(&r, &it));
	}
	assert_false(dp_ring_can_push(&r));
	assert_false(dp_ring_push(&r, &it));
	assert_false(dp_ring_empty(&r));
	for (i = 0; i < 8; i++) {
		assert_true(is_item(dp_ring_peek(&r), i)); /* peeking takes nothing away */
		assert_true(dp_ring_pop(&r, &it));
		assert_true(is_item(&it, i));
	}
	assert_true(dp_ring_empty(&r));
	dp_ring_fini(&r);
}

/* The counters are 32 bits and run on for ever: they must survive the step from UINT32_MAX to 0. */
static void test_counters_wrap(void **state)
{
	const uint32_t start = UINT32_MAX - 5;
	struct dp_ring r;
	struct item it;
	uint64_t pushed = 0, popped = 0;
	uint32_t step;

	(void)state;
	assert_true(dp_ring_init(&r, 4, sizeof(it)));
	atomic_store(&r.head, start);
	atomic_store(&r.tail, start);
	r.head_seen = start;
	r.tail_seen = start;
	for (step = 0; step < 40; step++) {
		while (it = item_of(pushed), dp_ring_push(&r, &it))
			pushed++;
		assert_int_equal(pushed - popped, 4);
		for (uint32_t k = 0; k <= step % 4; k++, popped++) {
			assert_true(dp_ring_pop(&r, &it));
			assert_true(is_item(&it, popped));
		}
	}
	while (dp_ring_pop(&r, &it))
		popped++;
	assert_int_equal(pushed, popped);
	dp_ring_fini(&r);
}

#define STRESS 300000u

static void *produce(void *arg)
{
	struct dp_ring *r = arg;
	uint64_t i;

	for (i = 0; i < STRESS; i++) {
		const struct item it = item_of(i);

		while (!dp_ring_push(r, &it))
			sched_yield();
	}
	return NULL;
}

/* By turns pop, and peek with drop. */
static bool consume(struct dp_ring *r)
{
	struct item it;
	uint64_t i = 0;

	while (i < STRESS) {
		const struct item *p = dp_ring_peek(r);

		if (p == NULL) {
			sched_yield();
			continue;
		}
		if ((i & 1) == 0) {
			if (!dp_ring_pop(r, &it))
				return false;
		} else {
			it = *p;
			dp_ring_drop(r);
		}
		if (!is_item(&it, i++))
			return false;
	}
	return true;
}

static void stress(uint32_t size)
{
	struct dp_ring r;
	pthread_t t;

	assert_true(dp_ring_init(&r, size, sizeof(struct item)));
	assert_int_equal(pthread_create(&t, NULL, produce, &r), 0);
	assert_true(consume(&r));
	pthread_join(t, NULL);
	assert_true(dp_ring_empty(&r));
	dp_ring_fini(&r);
}

static void test_two_threads(void **state)
{
	(void)state;
	stress(2);
	stress(64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fills_and_empties),
	    cmocka_unit_test(test_counters_wrap),
	    cmocka_unit_test(test_two_threads),
	};

	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
