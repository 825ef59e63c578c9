/* SPDX-License-Identifier: BSD-3-Clause */
/* The sampler: what it may draw, how often it draws it, and that nothing but the arguments matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/sampler.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))
#define N_MAX    1000u

static struct sampler_scratch *scratch;

static int make_scratch(void **state)
{
	(void)state;
	scratch = sampler_scratch_create(N_MAX);
	return scratch != NULL ? 0 : -1;
}

static int free_scratch(void **state)
{
	(void)state;
	sampler_scratch_free(scratch);
	return 0;
}

static struct sampler_params params(float temperature)
{
	struct sampler_params p;

	sampler_params_default(&p);
	p.temperature = temperature;
	p.seed = 42;
	return p;
}

/* One draw from a copy, without history. */
static int32_t sample(const struct sampler_params *p, const float *logits, uint32_t n, uint64_t position)
{
	float copy[N_MAX];

	memcpy(copy, logits, n * sizeof(*copy));
	return sampler_sample(p, scratch, copy, n, NULL, 0, position);
}

/* splitmix64, for made-up logits */
static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void random_logits(uint64_t seed, float *logits, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		logits[i] = (float)(next_random(&seed) % 1000) / 100.0f - 5.0f;
}

static void test_params(void **state)
{
	struct sampler_params p;

	(void)state;
	sampler_params_default(&p);
	assert_null(sampler_params_check(&p));
	assert_true(p.temperature == 0.0f);
	const struct {
		struct sampler_params p;
		const char *name;
	} bad[] = {
	    {{.temperature = -1, .top_p = 1, .repeat_penalty = 1}, "temperature"},
	    {{.temperature = NAN, .top_p = 1, .repeat_penalty = 1}, "temperature"},
	    {{.temperature = INFINITY, .top_p = 1, .repeat_penalty = 1}, "temperature"},
	    {{.top_k = -1, .top_p = 1, .repeat_penalty = 1}, "top_k"},
	    {{.top_p = 1.5f, .repeat_penalty = 1}, "top_p"},
	    {{.top_p = NAN, .repeat_penalty = 1}, "top_p"},
	    {{.top_p = 1, .min_p = -0.1f, .repeat_penalty = 1}, "min_p"},
	    {{.top_p = 1, .repeat_penalty = 0}, "repeat_penalty"},
	    {{.top_p = 1, .repeat_penalty = NAN}, "repeat_penalty"},
	    {{.top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1}, "repeat_last_n"},
	};
	for (size_t i = 0; i < N(bad); i++) {
		const char *text = sampler_params_check(&bad[i].p);

		assert_non_null(text);
		assert_memory_equal(text, bad[i].name, strlen(bad[i].name));
	}
}

static void test_greedy(void **state)
{
	const float ties[] = {1, 3, 2, 3, 3}, nans[] = {NAN, 1, NAN, 2, NAN};
	const float none[] = {NAN, NAN, -INFINITY}, infs[] = {1, INFINITY, INFINITY, NAN},
		    low[] = {-INFINITY, -1e38f};
	float temperatures[] = {0.0f, 0.7f};

	(void)state;
	for (size_t i = 0; i < N(temperatures); i++) {
		struct sampler_params p = params(temperatures[i]);

		p.top_k = 1;
		for (uint64_t at = 0; at < 20; at++) {
			assert_int_equal(sample(&p, ties, N(ties), at), 1);
			assert_int_equal(sample(&p, nans, N(nans), at), 3);
			assert_int_equal(sample(&p, none, N(none), at), -1);
			assert_int_equal(sample(&p, infs, N(infs), at), 1);
			assert_int_equal(sample(&p, low, N(low), at), 1);
		}
	}
}

/* Each of these filters leaves the best alone, so they all agree with greedy. */
static void test_one_left(void **state)
{
	struct sampler_params greedy = params(0), k = params(2), p = params(2), m = params(2),
			      cold = params(1e-30f);
	float logits[N_MAX];

	(void)state;
	k.top_k = 1;
	p.top_p = 0;
	m.min_p = 1;
	for (uint64_t seed = 0; seed < 200; seed++) {
		random_logits(seed, logits, N_MAX);
		logits[seed] = 6.0f + (float)seed;
		assert_int_equal(sample(&greedy, logits, N_MAX, seed), seed);
		assert_int_equal(sample(&k, logits, N_MAX, seed), seed);
		assert_int_equal(sample(&p, logits, N_MAX, seed), seed);
		assert_int_equal(sample(&m, logits, N_MAX, seed), seed);
		assert_int_equal(sample(&cold, logits, N_MAX, seed), seed);
	}
}

static void test_seed_and_position(void **state)
{
	struct sampler_scratch *other = sampler_scratch_create(2 * N_MAX);
	struct sampler_params p = params(1), q = params(1);
	float logits[N_MAX] = {0}, copy[N_MAX];
	size_t same_seed = 0, same_next = 0;

	(void)state;
	assert_non_null(other);
	q.seed = 43;
	for (uint64_t at = 0; at < 1000; at++) {
		int32_t id = sample(&p, logits, N_MAX, at);

		/* The same again, in any order and with any scratch. */
		assert_int_equal(sample(&p, logits, N_MAX, at), id);
		memcpy(copy, logits, sizeof(copy));
		assert_int_equal(sampler_sample(&p, other, copy, N_MAX, NULL, 0, at), id);
		same_seed += sample(&q, logits, N_MAX, at) == id;
		same_next += sample(&p, logits, N_MAX, at + 1) == id;
	}
	/* One in a thousand is expected by chance. */
	assert_true(same_seed < 10);
	assert_true(same_next < 10);
	sampler_scratch_free(other);
}

/* Draws often and compares with the expected shares: chi-square with n - 1 <= 7 degrees of freedom is
 * above 29.9 in one of 10,000 cases, and the seed is fixed. Ids of share 0 must not come at all. */
static void check_shares(const struct sampler_params *p, const float *logits, const double *share, uint32_t n)
{
	enum { DRAWS = 40000 };
	double sum = 0.0, chi2 = 0.0;
	uint32_t count[8] = {0};

	for (uint32_t i = 0; i < n; i++)
		sum += share[i];
	for (uint64_t at = 0; at < DRAWS; at++) {
		int32_t id = sample(p, logits, n, at);

		assert_true(id >= 0 && (uint32_t)id < n);
		count[id]++;
	}
	for (uint32_t i = 0; i < n; i++) {
		double expected = DRAWS * share[i] / sum;

		if (share[i] == 0.0)
			assert_int_equal(count[i], 0);
		else
			chi2 += ((double)count[i] - expected) * ((double)count[i] - expected) / expected;
	}
	if (!(chi2 < 29.9))
		fail_msg("chi-square %g", chi2);
}

/* Logarithms of 8, 1, 4, 2, 1 in an order that is not sorted, and one that is impossible. */
static const float shares_logits[] = {2.0794415f, 0.0f, 1.3862944f, 0.6931472f, 0.0f, -INFINITY, NAN};

static void test_temperature(void **state)
{
	struct sampler_params p = params(1);

	(void)state;
	check_shares(&p, shares_logits, (double[]){8, 1, 4, 2, 1, 0, 0}, 7);
	p.temperature = 0.5f;
	check_shares(&p, shares_logits, (double[]){64, 1, 16, 4, 1, 0, 0}, 7);
	p.temperature = 2.0f;
	check_shares(&p, shares_logits, (double[]){2.8284271, 1, 2, 1.4142136, 1, 0, 0}, 7);
	/* Infinite logits share everything among themselves. */
	check_shares(&p, (float[]){INFINITY, 5, INFINITY, NAN}, (double[]){1, 0, 1, 0}, 4);
}

static void test_filters(void **state)
{
	struct sampler_params p = params(1);

	(void)state;
	p.top_k = 3;
	check_shares(&p, shares_logits, (double[]){8, 0, 4, 2, 0, 0, 0}, 7);
	/* Of equals the lower id stays. */
	p.top_k = 4;
	check_shares(&p, shares_logits, (double[]){8, 1, 4, 2, 0, 0, 0}, 7);
	p.top_k = 100;
	check_shares(&p, shares_logits, (double[]){8, 1, 4, 2, 1, 0, 0}, 7);
	/* 8/16 reaches 0.45 alone, 12/16 reaches 0.7, 14/16 is needed for 0.8. */
	p = params(1);
	p.top_p = 0.45f;
	check_shares(&p, shares_logits, (double[]){8, 0, 0, 0, 0, 0, 0}, 7);
	p.top_p = 0.7f;
	check_shares(&p, shares_logits, (double[]){8, 0, 4, 0, 0, 0, 0}, 7);
	p.top_p = 0.8f;
	check_shares(&p, shares_logits, (double[]){8, 0, 4, 2, 0, 0, 0}, 7);
	/* After top-k the shares are of 12: 8/12 reaches 0.6 alone. */
	p.top_k = 2;
	p.top_p = 0.6f;
	check_shares(&p, shares_logits, (double[]){8, 0, 0, 0, 0, 0, 0}, 7);
	p = params(1);
	p.min_p = 0.2f;
	check_shares(&p, shares_logits, (double[]){8, 0, 4, 2, 0, 0, 0}, 7);
	p.min_p = 0.3f;
	check_shares(&p, shares_logits, (double[]){8, 0, 4, 0, 0, 0, 0}, 7);
	/* The filters look at temperature 1: a hot draw is no wider. */
	p.temperature = 2.0f;
	check_shares(&p, shares_logits, (double[]){2.8284271, 0, 2, 0, 0, 0, 0}, 7);
	p.top_k = 3;
	p.top_p = 0.9f;
	p.min_p = 0.2f;
	p.temperature = 0.5f;
	check_shares(&p, shares_logits, (double[]){64, 0, 16, 4, 0, 0, 0}, 7);
}

static int compare_best_first(const void *a, const void *b, void *arg)
{
	const float *logits = arg;
	int32_t ia = *(const int32_t *)a, ib = *(const int32_t *)b;

	if (logits[ia] != logits[ib])
		return logits[ia] > logits[ib] ? -1 : 1;
	return ia < ib ? -1 : 1;
}

/* How many of the sorted ids the filters leave, by the book. */
static size_t count_left(const struct sampler_params *p, const float *logits, const int32_t *ids, size_t n)
{
	double mass = 0.0, reached = 0.0;
	size_t left = 0;

	if (p->top_k > 0 && (size_t)p->top_k < n)
		n = (size_t)p->top_k;
	for (size_t i = 0; i < n; i++)
		mass += exp((double)logits[ids[i]] - (double)logits[ids[0]]);
	while (left < n) {
		double weight = exp((double)logits[ids[left]] - (double)logits[ids[0]]);

		if ((p->top_p < 1.0f && left > 0 && reached >= (double)p->top_p * mass) ||
		    weight < (double)p->min_p)
			break;
		reached += weight;
		left++;
	}
	return left;
}

/* Against a full sort, with many ties: what is drawn is what may be drawn, to the last one. */
static void test_against_sorting(void **state)
{
	float logits[N_MAX];
	int32_t ids[N_MAX];

	(void)state;
	for (uint64_t seed = 0; seed < 24; seed++) {
		struct sampler_params p = params(100.0f);
		bool drawn[N_MAX] = {false};
		uint64_t random = seed;
		size_t left;

		random_logits(seed, logits, N_MAX);
		for (int32_t i = 0; i < (int32_t)N_MAX; i++)
			ids[i] = i;
		qsort_r(ids, N_MAX, sizeof(*ids), compare_best_first, logits);
		p.top_k = (int32_t)(next_random(&random) % 100);
		p.top_p = seed % 3 == 0 ? 1.0f : (float)(next_random(&random) % 100) / 100.0f;
		p.min_p = seed % 2 == 0 ? 0.0f : (float)(next_random(&random) % 100) / 100.0f;
		p.top_k = p.top_k == 0 ? 50 : p.top_k;
		left = count_left(&p, logits, ids, N_MAX);
		/* At temperature 100 each of at most 100 is about as likely: 1500 draws miss none. */
		for (uint64_t at = 0; at < 1500; at++)
			drawn[sample(&p, logits, N_MAX, at)] = true;
		for (size_t i = 0; i < N_MAX; i++)
			assert_int_equal(drawn[ids[i]], i < left);
	}
}

static void test_penalty(void **state)
{
	struct sampler_params p = params(0);
	float logits[] = {4, 3, -1, -1.5f}, copy[4];
	const int32_t history[] = {3, 0, 0, -1, 4, 1000000};

	(void)state;
	p.repeat_penalty = 2;
	/* 0 once only (4 -> 2), 3 as well (-1.5 -> -3); ids of no token are passed over. */
	memcpy(copy, logits, sizeof(copy));
	assert_int_equal(sampler_sample(&p, scratch, copy, 4, history, N(history), 0), 1);
	assert_true(copy[0] == 2.0f && copy[1] == 3.0f && copy[2] == -1.0f && copy[3] == -3.0f);
	/* Only the newest five: 3 is out of sight. */
	p.repeat_last_n = 5;
	memcpy(copy, logits, sizeof(copy));
	assert_int_equal(sampler_sample(&p, scratch, copy, 4, history, N(history), 0), 1);
	assert_true(copy[0] == 2.0f && copy[3] == -1.5f);
	p.repeat_last_n = 0;
	memcpy(copy, logits, sizeof(copy));
	assert_int_equal(sampler_sample(&p, scratch, copy, 4, history, N(history), 0), 0);
	assert_memory_equal(copy, logits, sizeof(copy));
	/* NaN and infinity stay what they are. */
	p.repeat_last_n = 64;
	memcpy(copy, (float[]){NAN, 1, -INFINITY, 0}, sizeof(copy));
	assert_int_equal(sampler_sample(&p, scratch, copy, 4, (int32_t[]){0, 2}, 2, 0), 1);
	/* With a draw: 8, 1, 4, 2, 1 with the first halved in its logarithm. */
	p = params(1);
	p.repeat_penalty = 2;
	for (uint64_t at = 0; at < 100; at++) {
		float c[] = {100, 49, 99, NAN};

		assert_int_equal(sampler_sample(&p, scratch, c, 4, (int32_t[]){0}, 1, at), 2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_params),          cmocka_unit_test(test_greedy),
	    cmocka_unit_test(test_one_left),        cmocka_unit_test(test_seed_and_position),
	    cmocka_unit_test(test_temperature),     cmocka_unit_test(test_filters),
	    cmocka_unit_test(test_against_sorting), cmocka_unit_test(test_penalty),
	};

	return cmocka_run_group_tests(tests, make_scratch, free_scratch);
}
