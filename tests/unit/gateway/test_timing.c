/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/timing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STAGES 2u

/* An answer with the hops of the gateway and of two stages; all times are offsets from base. */
struct answer {
	uint8_t buf[1024] __attribute__((aligned(64)));
	struct act a;
	uint64_t rx_ns;
};

/* The gateway: 1 queue, 2 compute, 3 host, 4 wire to stage 0; stage 0: 5, 6, 7, 8; stage 1: 9, 10, 11, 12
 * (back to the gateway); each times `scale`. */
static void make_answer(struct answer *m, uint64_t base, uint64_t scale, uint32_t n_hops,
			const uint32_t *clocks)
{
	static const uint64_t at[3][4] = {{0, 1, 3, 6}, {10, 15, 21, 28}, {36, 45, 55, 66}};
	uint32_t i;

	memset(m, 0, sizeof(*m));
	m->a = (struct act){.kind = ACT_SAMPLED, .dtype = ACT_F32, .n_hops = n_hops};
	assert_int_equal(act_begin(&m->a, m->buf, sizeof(m->buf)), 0);
	for (i = 0; i < n_hops; i++) {
		const struct act_hop hop = {
		    .proc = i == 0 ? ACT_PROC_GATEWAY : i - 1,
		    .clock_id = clocks[i],
		    .rx_ns = base + scale * at[i][0],
		    .start_ns = base + scale * at[i][1],
		    .end_ns = base + scale * at[i][2],
		    .tx_ns = base + scale * at[i][3],
		};

		act_hop_put(&m->a, i, &hop);
	}
	m->rx_ns = base + scale * 78;
}

static const uint32_t one_clock[3] = {7, 7, 7};

static void expect_part(const struct gw_timing *t, uint32_t proc, enum gw_part part, uint64_t p50,
			uint64_t p99, uint64_t sum)
{
	struct gw_timing_stat s;

	gw_timing_part(t, proc, part, &s);
	assert_true(s.known);
	assert_int_equal(s.p50_ns, p50);
	assert_int_equal(s.p99_ns, p99);
	assert_int_equal(s.sum_ns, sum);
}

/* The first token is the time to it; the next ones are split into their parts, which add up. */
static void test_parts_add_up(void **state)
{
	static const uint64_t want[STAGES + 1][GW_N_PARTS] = {{4, 5, 6, 7}, {8, 9, 10, 11}, {12, 1, 2, 3}};
	struct gw_timing_stat total;
	struct gw_timing t;
	struct answer m;
	uint64_t sum = 0;
	uint32_t i, k;

	(void)state;
	assert_true(gw_timing_init(&t, STAGES, 10, 900));
	make_answer(&m, 1000, 1, 3, one_clock);
	gw_timing_add(&t, &m.a, m.rx_ns);
	assert_int_equal(t.ttft_ns, 178);
	assert_int_equal(t.n_tokens, 0);
	for (i = 1; i <= 3; i++) {
		make_answer(&m, 10000 * i, i, 3, one_clock);
		gw_timing_add(&t, &m.a, m.rx_ns);
	}
	assert_int_equal(t.n_tokens, 3);
	assert_int_equal(t.n_generated, 4);
	assert_int_equal(t.last_ns, 30000 + 3 * 78);
	for (i = 0; i < STAGES + 1; i++) {
		for (k = 0; k < GW_N_PARTS; k++) {
			expect_part(&t, i, (enum gw_part)k, 2 * want[i][k], 3 * want[i][k], 6 * want[i][k]);
			sum += 6 * want[i][k];
		}
	}
	gw_timing_token(&t, &total);
	assert_true(total.known && total.p50_ns == 2 * 78 && total.p99_ns == 3 * 78);
	assert_int_equal(total.sum_ns, sum);
	/* Wire 4, 8, 12 and host 7, 11, 3 of 78. */
	assert_float_equal((float)gw_timing_network_share(&t), 45.0f / 78.0f, 1e-6);
	gw_timing_fini(&t);
}

/* Nearest rank: of n values the ceil(p n)-th, whatever order they came in. */
static void test_percentiles(void **state)
{
	static const struct {
		uint32_t n;
		uint64_t p50, p99;
	} cases[] = {{1, 1, 1},     {2, 1, 2},      {3, 2, 3},       {99, 50, 99},
		     {100, 50, 99}, {101, 51, 100}, {200, 100, 198}, {201, 101, 199}};
	struct gw_timing_stat s;
	struct gw_timing t;
	struct answer m;
	uint32_t i, k;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t n = cases[i].n;

		assert_true(gw_timing_init(&t, STAGES, n, 0));
		make_answer(&m, 0, 1, 3, one_clock);
		gw_timing_add(&t, &m.a, m.rx_ns);
		for (k = 0; k < n; k++) {
			/* 1 to n, each once: 7 divides none of the counts. */
			make_answer(&m, 1000, (uint64_t)k * 7 % n + 1, 3, one_clock);
			gw_timing_add(&t, &m.a, m.rx_ns);
		}
		gw_timing_token(&t, &s);
		assert_int_equal(s.p50_ns, 78 * cases[i].p50);
		assert_int_equal(s.p99_ns, 78 * cases[i].p99);
		assert_int_equal(s.sum_ns, 78ull * n * (n + 1) / 2);
		gw_timing_fini(&t);
	}
}

/* A wire between two clocks is unknown, and with it the share; what one clock measured is known. */
static void test_unknown_clocks(void **state)
{
	static const uint32_t clocks[3][3] = {{7, 8, 7}, {7, 7, 8}, {7, 8, 8}};
	static const bool known[3][3] = {{false, false, true}, {true, false, false}, {false, true, false}};
	struct gw_timing_stat s;
	struct gw_timing t;
	struct answer m;
	uint32_t i, k;

	(void)state;
	for (i = 0; i < 3; i++) {
		assert_true(gw_timing_init(&t, STAGES, 4, 0));
		for (k = 0; k < 3; k++) {
			make_answer(&m, 1000, 1, 3, clocks[i]);
			gw_timing_add(&t, &m.a, m.rx_ns);
		}
		for (k = 0; k < 3; k++) {
			gw_timing_part(&t, k, GW_WIRE, &s);
			assert_int_equal(s.known, known[i][k]);
			gw_timing_part(&t, k, GW_COMPUTE, &s);
			assert_true(s.known);
		}
		assert_true(gw_timing_network_share(&t) < 0);
		gw_timing_fini(&t);
	}
}

/* One token whose clocks differ makes the part unknown, though the others are known. */
static void test_one_unknown_token(void **state)
{
	static const uint32_t restarted[3] = {7, 8, 7};
	struct gw_timing_stat s;
	struct gw_timing t;
	struct answer m;
	uint32_t k;

	(void)state;
	assert_true(gw_timing_init(&t, STAGES, 4, 0));
	for (k = 0; k < 4; k++) {
		make_answer(&m, 1000, 1, 3, k == 2 ? restarted : one_clock);
		gw_timing_add(&t, &m.a, m.rx_ns);
	}
	gw_timing_part(&t, 0, GW_WIRE, &s);
	assert_false(s.known);
	assert_int_equal(s.sum_ns, 0);
	gw_timing_part(&t, 2, GW_WIRE, &s);
	assert_true(s.known && s.sum_ns == 36);
	gw_timing_fini(&t);
}

/* Without a decode token there is nothing to tell. */
static void test_nothing_to_tell(void **state)
{
	struct gw_timing_stat s;
	struct gw_timing t;
	struct answer m;

	(void)state;
	assert_true(gw_timing_init(&t, STAGES, 0, 500));
	gw_timing_token(&t, &s);
	assert_false(s.known);
	gw_timing_part(&t, 2, GW_HOST, &s);
	assert_false(s.known);
	assert_true(gw_timing_network_share(&t) < 0);
	make_answer(&m, 1000, 1, 3, one_clock);
	gw_timing_add(&t, &m.a, m.rx_ns);
	assert_int_equal(t.ttft_ns, 578);
	assert_true(gw_timing_network_share(&t) < 0);
	gw_timing_fini(&t);
	gw_timing_fini(&t);
}

/* More tokens than there is room for, answers with other hops, and times that run backwards change
 * nothing of what was measured and break nothing. */
static void test_odd_answers(void **state)
{
	struct gw_timing_stat s;
	struct gw_timing t;
	struct answer m;
	uint32_t i;

	(void)state;
	assert_true(gw_timing_init(&t, STAGES, 2, 5000));
	make_answer(&m, 1000, 1, 3, one_clock);
	gw_timing_add(&t, &m.a, m.rx_ns); /* before it was submitted */
	assert_int_equal(t.ttft_ns, 0);
	make_answer(&m, 1000, 1, 2, one_clock);
	gw_timing_add(&t, &m.a, m.rx_ns);
	assert_int_equal(t.n_tokens, 0);
	for (i = 0; i < 5; i++) {
		make_answer(&m, 1000, 1, 3, one_clock);
		gw_timing_add(&t, &m.a, i == 1 ? 1050 : m.rx_ns);
	}
	assert_int_equal(t.n_tokens, 2);
	assert_int_equal(t.n_generated, 7);
	gw_timing_part(&t, 2, GW_WIRE, &s);
	assert_true(s.known && s.sum_ns == 12 && s.p50_ns == 0 && s.p99_ns == 12);
	gw_timing_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_parts_add_up),    cmocka_unit_test(test_percentiles),
	    cmocka_unit_test(test_unknown_clocks),  cmocka_unit_test(test_one_unknown_token),
	    cmocka_unit_test(test_nothing_to_tell), cmocka_unit_test(test_odd_answers),
	};

	return cmocka_run_group_tests_name("timing", tests, NULL, NULL);
}
