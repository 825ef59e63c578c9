/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/act_dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static float float_of(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* What a half's bits mean, from the definition: sign, 5 bits of exponent with bias 15, 10 of fraction. */
static double half_value(uint16_t h)
{
	int e = h >> 10 & 31;
	double m = h & 1023, v;

	if (e == 31)
		v = m != 0 ? (double)NAN : (double)INFINITY;
	else
		v = e == 0 ? ldexp(m, -24) : ldexp(m + 1024, e - 25);
	return (h & 0x8000) != 0 ? -v : v;
}

static float decode_one(enum act_dtype t, uint16_t bits)
{
	uint8_t b[2];
	float f;

	ps_store16(b, bits);
	act_decode(t, b, 1, 1, &f);
	return f;
}

static uint16_t encode_one(enum act_dtype t, float f)
{
	uint8_t b[2];

	act_encode(t, &f, 1, 1, b);
	return ps_load16(b);
}

static void test_names_and_sizes(void **state)
{
	static const struct {
		enum act_dtype t;
		const char *name;
		size_t of_1, of_32, of_33;
	} want[] = {{ACT_F32, "f32", 4, 128, 132},
		    {ACT_F16, "f16", 2, 64, 66},
		    {ACT_BF16, "bf16", 2, 64, 66},
		    {ACT_Q8, "q8", 34, 34, 68}};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		assert_string_equal(act_dtype_name(want[i].t), want[i].name);
		assert_int_equal(act_dtype_find(want[i].name), (int)want[i].t);
		assert_int_equal(act_row_bytes(want[i].t, 0), 0);
		assert_int_equal(act_row_bytes(want[i].t, 1), want[i].of_1);
		assert_int_equal(act_row_bytes(want[i].t, 32), want[i].of_32);
		assert_int_equal(act_row_bytes(want[i].t, 33), want[i].of_33);
	}
	assert_int_equal(act_dtype_find("F16"), -1);
	assert_int_equal(act_dtype_find(""), -1);
	assert_null(act_dtype_name(ACT_BYTES));
	assert_int_equal(act_row_bytes((enum act_dtype)4, 32), 0);
	/* No overflow on the way: the widest row a message may have, and beyond. */
	assert_true(act_row_bytes(ACT_F32, UINT32_MAX) == 4ull * UINT32_MAX);
}

/* Every float16 means what its definition says, and comes back as itself. */
static void test_every_half(void **state)
{
	uint32_t h;

	(void)state;
	for (h = 0; h < 65536; h++) {
		float f = decode_one(ACT_F16, (uint16_t)h);

		if (isnan(half_value((uint16_t)h))) {
			assert_true(isnan(f) && isnan(half_value(encode_one(ACT_F16, f))));
			continue;
		}
		if ((double)f != half_value((uint16_t)h) || encode_one(ACT_F16, f) != h)
			fail_msg("half %04x became %a and %04x", h, (double)f, encode_one(ACT_F16, f));
	}
}

/* Between two neighbours of the type, lo and the next, which is one bit pattern on: below the middle lo,
 * above it the next, in the middle the even one. */
static void check_between(enum act_dtype t, uint16_t lo)
{
	double a = (double)decode_one(t, lo), b = (double)decode_one(t, (uint16_t)(lo + 1));
	float middle = (float)((a + b) / 2);

	assert_true((double)middle == (a + b) / 2);
	assert_int_equal(encode_one(t, middle), (lo & 1) != 0 ? lo + 1 : lo);
	assert_int_equal(encode_one(t, nextafterf(middle, 0)), lo);
	assert_int_equal(encode_one(t, nextafterf(middle, INFINITY)), lo + 1);
	assert_int_equal(encode_one(t, -middle), 0x8000 | ((lo & 1) != 0 ? lo + 1 : lo));
}

static void test_rounds_to_nearest_even(void **state)
{
	uint32_t lo;

	(void)state;
	for (lo = 0; lo < 0x7bff; lo++)
		check_between(ACT_F16, (uint16_t)lo);
	for (lo = 1; lo < 0x7f7f; lo++)
		check_between(ACT_BF16, (uint16_t)lo);
}

/* Too large is cut and counted; infinities and NaNs are the model's own and stay. */
static void test_too_large(void **state)
{
	static const float big[] = {65504.0f, 65505.0f, -1e6f, 3.4e38f, -3.4e38f, INFINITY, -INFINITY, NAN};
	enum { N = sizeof(big) / sizeof(big[0]) };
	uint8_t out[2 * N];
	float back[N];

	(void)state;
	assert_int_equal(act_encode(ACT_F16, big, 1, N, out), 4);
	act_decode(ACT_F16, out, 1, N, back);
	assert_true(back[0] == 65504.0f && back[1] == 65504.0f && back[2] == -65504.0f &&
		    back[3] == 65504.0f && back[4] == -65504.0f);
	assert_true(back[5] == INFINITY && back[6] == -INFINITY && isnan(back[7]));
	assert_int_equal(act_encode(ACT_BF16, big, 1, N, out), 2);
	act_decode(ACT_BF16, out, 1, N, back);
	assert_true(back[3] == float_of(0x7f7f0000) && back[4] == -float_of(0x7f7f0000));
	assert_true(back[5] == INFINITY && back[6] == -INFINITY && isnan(back[7]));
}

/* A NaN whose payload is in the low bits only must not become an infinity. */
static void test_low_nan(void **state)
{
	(void)state;
	assert_true(isnan(decode_one(ACT_BF16, encode_one(ACT_BF16, float_of(0x7f800001)))));
	assert_true(isnan(decode_one(ACT_F16, encode_one(ACT_F16, float_of(0xff800001)))));
}

static void q8_round_trip(const float *x, uint32_t n_rows, uint32_t width)
{
	size_t bytes = n_rows * act_row_bytes(ACT_Q8, width);
	float *back = malloc(sizeof(float) * n_rows * width);
	uint8_t *m = malloc(bytes);
	uint32_t r, i, k;

	assert_true(back != NULL && m != NULL);
	assert_int_equal(act_encode(ACT_Q8, x, n_rows, width, m), 0);
	act_decode(ACT_Q8, m, n_rows, width, back);
	for (r = 0; r < n_rows; r++) {
		for (i = 0; i < width; i += ACT_Q8_BLOCK) {
			const uint8_t *b =
			    m + r * act_row_bytes(ACT_Q8, width) + i / ACT_Q8_BLOCK * ACT_Q8_BLOCK_BYTES;
			double d = half_value(ps_load16(b)), largest = 0;

			for (k = i; k < i + ACT_Q8_BLOCK && k < width; k++) {
				double v = (double)x[(size_t)r * width + k];
				double got = (double)back[(size_t)r * width + k];

				largest = fmax(largest, fabs(v));
				assert_true(got == d * (int8_t)b[2 + k - i]);
				/* Half a step, and a rounding of the product. */
				if (fabs(got - v) > d * 0.5001)
					fail_msg("width %u: %g became %g, a step is %g", width, v, got, d);
			}
			/* The step is no wider than it has to be, but for the scale's rounding. */
			assert_true(d <= largest / 127 * 1.001 + 0x1p-24);
			for (; k < i + ACT_Q8_BLOCK; k++)
				assert_int_equal(b[2 + k - i], 0);
		}
	}
	free(back);
	free(m);
}

static void test_q8(void **state)
{
	static const float scales[] = {1.0f, 1e-7f, 3e-6f, 1e5f, 8e6f, 0.0f};
	float x[3 * 130];
	uint64_t seed = 5;
	uint32_t s, w, i;

	(void)state;
	for (s = 0; s < sizeof(scales) / sizeof(scales[0]); s++) {
		for (i = 0; i < 3 * 130; i++)
			x[i] = scales[s] * ((float)(next_random(&seed) >> 40) * 0x1p-23f - 1.0f);
		for (w = 1; w <= 130; w++)
			q8_round_trip(x, 3, w);
	}
}

static void test_q8_extremes(void **state)
{
	float x[64] = {[3] = 9e6f, [4] = -1e7f, [5] = 1.0f, [40] = 2.0f}, back[64];
	uint8_t m[68];
	int i;

	(void)state;
	assert_int_equal(act_encode(ACT_Q8, x, 1, 64, m), 2);
	act_decode(ACT_Q8, m, 1, 64, back);
	assert_true(back[3] == 127 * 65504.0f && back[4] == -127 * 65504.0f && fabsf(back[40] - 2) < 0.01f);
	x[3] = x[4] = 0;
	x[7] = INFINITY;
	assert_int_equal(act_encode(ACT_Q8, x, 1, 64, m), 0);
	act_decode(ACT_Q8, m, 1, 64, back);
	for (i = 0; i < 64; i++)
		assert_true(i < 32 ? isnan(back[i]) : !isnan(back[i]));
}

/* The wide form and the plain one give the same bytes for any bits at all, at any alignment. */
static void test_wide_equals_portable(void **state)
{
	enum { W = 77, ROWS = 3 };
	float x[ROWS * W], a[ROWS * W], b[ROWS * W];
	uint8_t m[2][ROWS * W * 4 + 64];
	uint64_t seed = 99;
	int round, t, i;

	(void)state;
	for (round = 0; round < 400; round++) {
		for (t = 0; t < (int)ACT_N_DTYPES; t++) {
			enum act_dtype dt = (enum act_dtype)t;
			size_t bytes = ROWS * act_row_bytes(dt, W);

			for (i = 0; i < ROWS * W; i++) {
				uint64_t r = next_random(&seed);

				/* Any bits in half of the rounds, usual magnitudes in the others. */
				x[i] = (round & 1) != 0 ? float_of((uint32_t)(r >> 20))
							: (float)(int32_t)(r >> 32) * 0x1p-28f;
			}
			memset(m, 0xaa, sizeof(m));
			assert_int_equal(act_encode(dt, x, ROWS, W, m[0] + (round & 7)),
					 act_encode_portable(dt, x, ROWS, W, m[1] + (round & 7)));
			assert_memory_equal(m[0], m[1], sizeof(m[0]));
			assert_int_equal(m[0][(size_t)(round & 7) + bytes], 0xaa);
			/* Hostile bytes decode to the same as well. */
			for (i = 0; (round & 2) != 0 && i < (int)bytes; i++)
				m[0][i + (round & 7)] = (uint8_t)next_random(&seed);
			act_decode(dt, m[0] + (round & 7), ROWS, W, a);
			act_decode_portable(dt, m[0] + (round & 7), ROWS, W, b);
			for (i = 0; i < ROWS * W; i++)
				assert_true((isnan(a[i]) && isnan(b[i])) || memcmp(&a[i], &b[i], 4) == 0);
		}
	}
}

static void bench(void)
{
	enum { W = 2048, ROWS = 64 };
	static float x[ROWS * W];
	static uint8_t m[ROWS * W * 4];
	uint64_t seed = 1, t, best;
	int dt, what, rep;

	for (int i = 0; i < ROWS * W; i++)
		x[i] = (float)(int32_t)(next_random(&seed) >> 32) * 0x1p-28f;
	for (dt = 0; dt < (int)ACT_N_DTYPES; dt++) {
		for (what = 0; what < 4; what++) {
			best = UINT64_MAX;
			for (rep = 0; rep < 200; rep++) {
				t = ps_now_ns();
				if (what == 0)
					act_encode((enum act_dtype)dt, x, ROWS, W, m);
				else if (what == 1)
					act_decode((enum act_dtype)dt, m, ROWS, W, x);
				else if (what == 2)
					act_encode_portable((enum act_dtype)dt, x, ROWS, W, m);
				else
					act_decode_portable((enum act_dtype)dt, m, ROWS, W, x);
				t = ps_now_ns() - t;
				best = t < best ? t : best;
			}
			printf("%-4s %s%s: %6.2f GB/s of float32 (best of 200)\n",
			       act_dtype_name((enum act_dtype)dt), (what & 1) != 0 ? "decode" : "encode",
			       what > 1 ? " portable" : "", (double)sizeof(x) / (double)best);
		}
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names_and_sizes),
	    cmocka_unit_test(test_every_half),
	    cmocka_unit_test(test_rounds_to_nearest_even),
	    cmocka_unit_test(test_too_large),
	    cmocka_unit_test(test_low_nan),
	    cmocka_unit_test(test_q8),
	    cmocka_unit_test(test_q8_extremes),
	    cmocka_unit_test(test_wide_equals_portable),
	};

	if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
		bench();
		return 0;
	}
	return cmocka_run_group_tests_name("act_dtype", tests, NULL, NULL);
}
