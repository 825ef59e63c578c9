/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage/values.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_pooling(void **state)
{
	static const float x[3 * 2] = {1, 10, 2, 20, 6, -60};
	float out[2];

	(void)state;
	stage_pool(MODEL_POOL_MEAN, x, 3, 2, out);
	assert_true(out[0] == 3 && out[1] == -10);
	stage_pool(MODEL_POOL_NONE, x, 3, 2, out);
	assert_true(out[0] == 3 && out[1] == -10);
	stage_pool(MODEL_POOL_CLS, x, 3, 2, out);
	assert_true(out[0] == 1 && out[1] == 10);
	stage_pool(MODEL_POOL_LAST, x, 3, 2, out);
	assert_true(out[0] == 6 && out[1] == -60);
	stage_pool(MODEL_POOL_LAST, x, 1, 2, out);
	assert_true(out[0] == 1 && out[1] == 10);
}

/* A sum in float would lose the small ones. */
static void test_mean_is_exact(void **state)
{
	enum { N = 1 << 16 };
	float *x = malloc(N * sizeof(*x)), out;
	int i;

	(void)state;
	assert_non_null(x);
	for (i = 0; i < N; i++)
		x[i] = i == 0 ? 16777216.0f : 1.0f;
	stage_pool(MODEL_POOL_MEAN, x, N, 1, &out);
	assert_true(out == (float)((16777216.0 + N - 1) / N));
	free(x);
}

static void test_fill_best(void **state)
{
	enum { N = 1000 };
	float logits[N], out[2 * ACT_FILL_BEST];
	double sum = 0;
	uint32_t i, k;

	(void)state;
	for (i = 0; i < N; i++)
		logits[i] = (float)(i * 7919 % N) * 0.01f - 100.0f; /* all different, largest -90.01 */
	for (i = 0; i < N; i++)
		sum += exp((double)logits[i]);
	stage_fill_best(logits, N, out);
	for (k = 0; k < ACT_FILL_BEST; k++) {
		uint32_t id = (uint32_t)out[2 * k];

		assert_int_equal(id * 7919 % N, N - 1 - k);
		assert_true(fabs((double)out[2 * k + 1] - exp((double)logits[id]) / sum) < 1e-9);
	}
}

/* Ties go to the lower id, in whatever order they come. */
static void test_fill_ties(void **state)
{
	float logits[20], out[2 * ACT_FILL_BEST];
	uint32_t i, k;

	(void)state;
	for (i = 0; i < 20; i++)
		logits[i] = i == 13 || i == 4 ? 2.0f : 1.0f;
	stage_fill_best(logits, 20, out);
	assert_true(out[0] == 4 && out[2] == 13);
	for (k = 2; k < ACT_FILL_BEST; k++)
		assert_true(out[2 * k] == (float)(k < 6 ? k - 2 : k - 1));
}

static void test_fill_odd_logits(void **state)
{
	const float few[3] = {1.0f, NAN, 3.0f}, none[2] = {NAN, NAN};
	float out[2 * ACT_FILL_BEST];
	uint32_t k;

	(void)state;
	stage_fill_best(few, 3, out);
	assert_true(out[0] == 2 && out[2] == 0 && fabsf(out[1] + out[3] - 1) < 1e-6f);
	for (k = 2; k < ACT_FILL_BEST; k++)
		assert_true(out[2 * k] == -1 && out[2 * k + 1] == 0);
	stage_fill_best(none, 2, out);
	for (k = 0; k < ACT_FILL_BEST; k++)
		assert_true(out[2 * k] == -1 && out[2 * k + 1] == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_pooling),         cmocka_unit_test(test_mean_is_exact),
	    cmocka_unit_test(test_fill_best),       cmocka_unit_test(test_fill_ties),
	    cmocka_unit_test(test_fill_odd_logits),
	};

	return cmocka_run_group_tests_name("stage-values", tests, NULL, NULL);
}
