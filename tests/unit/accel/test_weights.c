/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The formats of weights, by blocks worked out by hand: each element's bits,
 * scale and minimum are where the format has them, and nowhere else.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "accel/kquant.h"
#include "accel/weights.h"
#include "model/graph.h"

#define COUNT(a)  (sizeof(a) / sizeof((a)[0]))
#define MAX_BYTES 256u

struct want {
	uint32_t i;
	float x;
};

/* A byte of a block that is not 0. */
struct set {
	uint32_t at;
	uint8_t value;
};

static void expand(enum gguf_dtype dtype, const struct set *sets, size_t n_sets, float *x)
{
	uint32_t elems, bytes;
	uint8_t block[MAX_BYTES + 1] = {0};

	assert_true(gguf_dtype_block(dtype, &elems, &bytes) && bytes <= MAX_BYTES);
	for (size_t i = 0; i < n_sets; i++)
		block[1 + sets[i].at] = sets[i].value;
	accel_row_expand(dtype, block + 1, elems, x); /* an odd address */
}

static void check(enum gguf_dtype dtype, const struct set *sets, size_t n_sets, const struct want *want,
		  size_t n_want, float others)
{
	uint32_t elems, bytes;
	float x[ACCEL_K_BLOCK];

	expand(dtype, sets, n_sets, x);
	assert_true(gguf_dtype_block(dtype, &elems, &bytes));
	for (uint32_t i = 0; i < elems; i++) {
		float w = others;

		for (size_t k = 0; k < n_want; k++)
			w = want[k].i == i ? want[k].x : w;
		if (x[i] != w)
			fail_msg("%s: element %u is %g, want %g", gguf_dtype_name(dtype), i, (double)x[i],
				 (double)w);
	}
}

#define CHECK_BLOCK(dtype, sets, wants, others)                                                              \
	check((dtype), (sets), COUNT(sets), (wants), COUNT(wants), (others))

/* d = 1 is 0x3c00, little-endian: its high byte 0x3c. 2 is 0x4000, 0.5 is 0x3800. */

static void test_q8_0(void **state)
{
	static const struct set sets[] = {{1, 0x40}, {2, 3}, {2 + 31, 0x80}};
	static const struct want want[] = {{0, 6}, {31, -256}};

	(void)state;
	CHECK_BLOCK(GGUF_DT_Q8_0, sets, want, 0);
}

static void test_4_bits(void **state)
{
	static const struct set q4_0[] = {{1, 0x40}, {2, 0x9f}, {2 + 15, 0xe1}};
	static const struct want q4_0_want[] = {{0, 14}, {16, 2}, {15, -14}, {31, 12}};
	/* m = -0.5 */
	static const struct set q4_1[] = {{1, 0x40}, {3, 0xb8}, {4 + 3, 0x9f}};
	static const struct want q4_1_want[] = {{3, 29.5f}, {19, 17.5f}};
	static const struct set iq4_nl[] = {{1, 0x38}, {2 + 1, 0x9f}, {2 + 14, 0x28}};
	static const struct want iq4_nl_want[] = {{1, 56.5f}, {17, 6.5f}, {14, 0.5f}, {30, -41.5f}};

	(void)state;
	CHECK_BLOCK(GGUF_DT_Q4_0, q4_0, q4_0_want, -16);
	CHECK_BLOCK(GGUF_DT_Q4_1, q4_1, q4_1_want, -0.5f);
	CHECK_BLOCK(GGUF_DT_IQ4_NL, iq4_nl, iq4_nl_want, -63.5f);
}

static void test_5_bits(void **state)
{
	/* Fifth bits of the elements 0, 9, 16 and 31. */
	static const struct set q5_0[] = {{1, 0x3c}, {2, 1},    {3, 2},       {4, 1},
					  {5, 0x80}, {6, 0x9f}, {6 + 9, 0xe1}};
	static const struct want q5_0_want[] = {{0, 15}, {16, 9}, {9, 1}, {25, -2}, {31, 0}};
	static const struct set q5_1[] = {{1, 0x3c}, {3, 0x40}, {4 + 3, 0x40}, {8 + 14, 0x5a}};
	static const struct want q5_1_want[] = {{14, 12}, {30, 23}};

	(void)state;
	CHECK_BLOCK(GGUF_DT_Q5_0, q5_0, q5_0_want, -16);
	CHECK_BLOCK(GGUF_DT_Q5_1, q5_1, q5_1_want, 2);
}

static void test_q2_k(void **state)
{
	/* d = 1, dmin = 0.5. Run 3 (48..63): scale 5, minimum 2. Run 12 (192..207): scale 15, minimum 15. */
	static const struct set sets[] = {{81, 0x3c},         {83, 0x38},      {3, 0x25},
					  {12, 0xff},         {16 + 17, 0x0c}, /* 49: bits 2, 3 */
					  {16 + 32 + 1, 0xe0} /* 193: 2, 225: 3 */};
	struct want want[32];
	size_t n = 0;

	(void)state;
	for (uint32_t i = 48; i < 64; i++)
		want[n++] = (struct want){i, i == 49 ? 15 - 1 : -1};
	for (uint32_t i = 192; i < 208; i++)
		want[n++] = (struct want){i, i == 193 ? 30 - 7.5f : -7.5f};
	CHECK_BLOCK(GGUF_DT_Q2_K, sets, want, 0); /* run 14, that of 225, has the scale 0 */
}

static void test_q3_k(void **state)
{
	/* Scales less 32. Run 0: 0x2f = 47. Run 5: low 1 in byte 5, high 1 in byte 9, bits 2 and 3: 17.
	 * Run 14: low 9 in the high half of byte 6, high 3 in byte 10, bits 6 and 7: 57. */
	static const struct set sets[] = {
	    {109, 0x3c},         {96 + 0, 0x0f}, {96 + 8, 0x02},  {96 + 5, 0x01},
	    {96 + 9, 0x04},      {96 + 6, 0x90}, {96 + 10, 0xc0}, {7, 0x01}, /* element 7 has its third bit */
	    {32 + 7, 0x03},                                                  /* 7: 3 */
	    {32 + 16 + 3, 0x20},                                             /* 83: 2 - 4 */
	    {32 + 32 + 0, 0x40},                                             /* 224: 1 - 4 */
	};
	struct want want[48];
	size_t n = 0;

	(void)state;
	for (uint32_t i = 0; i < 16; i++)
		want[n++] = (struct want){i, i == 7 ? 15 * 3 : 15 * -4};
	for (uint32_t i = 80; i < 96; i++)
		want[n++] = (struct want){i, i == 83 ? -15 * -2 : -15 * -4};
	for (uint32_t i = 224; i < 240; i++)
		want[n++] = (struct want){i, i == 224 ? 25 * -3 : 25 * -4};
	CHECK_BLOCK(GGUF_DT_Q3_K, sets, want, -32 * -4);
}

/* Runs of 32. Run 1: scale 33, minimum 5. Run 6: scale 3 + 16 * 2, minimum 12 + 16 * 1. */
static const struct set scales_4_5[] = {{1, 0x3c},         {3, 0x38},        {4 + 1, 33},     {4 + 5, 5},
					{4 + 8 + 2, 0xc3}, {4 + 2, 2u << 6}, {4 + 6, 1u << 6}};

static void test_q4_k(void **state)
{
	struct set sets[COUNT(scales_4_5) + 2];
	struct want want[64];
	size_t n = 0;

	(void)state;
	memcpy(sets, scales_4_5, sizeof(scales_4_5));
	sets[COUNT(scales_4_5)] = (struct set){16 + 4, 0x70};           /* 36: 7 */
	sets[COUNT(scales_4_5) + 1] = (struct set){16 + 96 + 31, 0x0f}; /* 223: 15 */
	for (uint32_t i = 32; i < 64; i++)
		want[n++] = (struct want){i, i == 36 ? 33 * 7 - 2.5f : -2.5f};
	for (uint32_t i = 192; i < 224; i++)
		want[n++] = (struct want){i, i == 223 ? 35 * 15 - 14 : -14};
	CHECK_BLOCK(GGUF_DT_Q4_K, sets, want, 0);
}

static void test_q5_k(void **state)
{
	struct set sets[COUNT(scales_4_5) + 4];
	struct want want[64];
	size_t n = 0;

	(void)state;
	memcpy(sets, scales_4_5, sizeof(scales_4_5));
	sets[COUNT(scales_4_5)] = (struct set){48 + 4, 0x70};           /* 36: 7 */
	sets[COUNT(scales_4_5) + 1] = (struct set){16 + 4, 0x02};       /* and 16 */
	sets[COUNT(scales_4_5) + 2] = (struct set){48 + 96 + 31, 0x0f}; /* 223: 15 */
	sets[COUNT(scales_4_5) + 3] = (struct set){16 + 30, 0x40};      /* 222: 16 */
	for (uint32_t i = 32; i < 64; i++)
		want[n++] = (struct want){i, i == 36 ? 33 * 23 - 2.5f : -2.5f};
	for (uint32_t i = 192; i < 224; i++)
		want[n++] = (struct want){i, i == 223 ? 35 * 15 - 14 : i == 222 ? 35 * 16 - 14 : -14};
	CHECK_BLOCK(GGUF_DT_Q5_K, sets, want, 0);
}

static void test_q6_k(void **state)
{
	/* Run 2 (32..47): scale -3. Run 13 (208..223): scale 127. */
	static const struct set sets[] = {
	    {209, 0x3c},     {192 + 2, 0xfd},       {192 + 13, 127},
	    {32 + 1, 0x0b},  {128 + 1, 0x0c},       /* 33: 11 + 16 * 3 */
	    {64 + 16, 0x70}, {128 + 32 + 16, 0x20}, /* 208: 7 + 16 * 2 */
	};
	struct want want[32];
	size_t n = 0;

	(void)state;
	for (uint32_t i = 32; i < 48; i++)
		want[n++] = (struct want){i, i == 33 ? -3 * (59 - 32) : -3 * -32};
	for (uint32_t i = 208; i < 224; i++)
		want[n++] = (struct want){i, i == 208 ? 127 * (39 - 32) : 127 * -32};
	CHECK_BLOCK(GGUF_DT_Q6_K, sets, want, 0);
}

static const enum gguf_dtype quantized[] = {
    GGUF_DT_Q8_0, GGUF_DT_Q4_0, GGUF_DT_Q4_1, GGUF_DT_Q5_0, GGUF_DT_Q5_1, GGUF_DT_IQ4_NL,
    GGUF_DT_Q2_K, GGUF_DT_Q3_K, GGUF_DT_Q4_K, GGUF_DT_Q5_K, GGUF_DT_Q6_K,
};

/* Bytes of the first header (scales, minima) or of the last; the rest is elements. */
static void element_bytes(enum gguf_dtype dtype, uint32_t *first, uint32_t *end)
{
	static const struct {
		enum gguf_dtype dtype;
		uint32_t first, end;
	} ranges[] = {
	    {GGUF_DT_Q8_0, 2, 34},   {GGUF_DT_Q4_0, 2, 18},   {GGUF_DT_Q4_1, 4, 20},  {GGUF_DT_Q5_0, 2, 22},
	    {GGUF_DT_Q5_1, 4, 24},   {GGUF_DT_IQ4_NL, 2, 18}, {GGUF_DT_Q2_K, 16, 80}, {GGUF_DT_Q3_K, 0, 96},
	    {GGUF_DT_Q4_K, 16, 144}, {GGUF_DT_Q5_K, 16, 176}, {GGUF_DT_Q6_K, 0, 192},
	};

	for (size_t i = 0; i < COUNT(ranges); i++) {
		if (ranges[i].dtype == dtype) {
			*first = ranges[i].first;
			*end = ranges[i].end;
			return;
		}
	}
	fail_msg("%s has no range", gguf_dtype_name(dtype));
}

/* Every bit of the elements' bytes changes one element, each element has the same number of bits. */
static void test_each_bit_has_one_element(void **state)
{
	(void)state;
	for (size_t t = 0; t < COUNT(quantized); t++) {
		uint32_t elems, bytes, first = 0, end = 0, bits[ACCEL_K_BLOCK] = {0};
		uint8_t block[MAX_BYTES];
		float x[ACCEL_K_BLOCK], y[ACCEL_K_BLOCK];

		assert_true(gguf_dtype_block(quantized[t], &elems, &bytes));
		element_bytes(quantized[t], &first, &end);
		/* Bits of 0x15 and 0x3c make scales that are not 0 and halves that are finite. */
		for (uint32_t i = 0; i < bytes; i++)
			block[i] = i >= first && i < end ? 0 : i % 2 ? 0x3c : 0x15;
		accel_row_expand(quantized[t], block, elems, x);
		for (uint32_t bit = first * 8; bit < end * 8; bit++) {
			uint32_t changed = 0;

			block[bit / 8] ^= (uint8_t)(1u << bit % 8);
			accel_row_expand(quantized[t], block, elems, y);
			block[bit / 8] ^= (uint8_t)(1u << bit % 8);
			for (uint32_t i = 0; i < elems; i++) {
				changed += x[i] != y[i];
				bits[i] += x[i] != y[i];
			}
			if (changed != 1)
				fail_msg("%s: bit %u of byte %u changes %u elements",
					 gguf_dtype_name(quantized[t]), bit % 8, bit / 8, changed);
		}
		for (uint32_t i = 0; i < elems; i++)
			assert_int_equal(bits[i], (end - first) * 8 / elems);
	}
}

static void test_row_bytes(void **state)
{
	(void)state;
	assert_int_equal(accel_row_bytes(GGUF_DT_F32, 3), 12);
	assert_int_equal(accel_row_bytes(GGUF_DT_BF16, 3), 6);
	assert_int_equal(accel_row_bytes(GGUF_DT_Q4_0, 64), 36);
	assert_int_equal(accel_row_bytes(GGUF_DT_Q4_0, 48), 0);
	assert_int_equal(accel_row_bytes(GGUF_DT_Q3_K, 512), 220);
	assert_int_equal(accel_row_bytes(GGUF_DT_Q3_K, 128), 0);
	assert_int_equal(accel_row_bytes(GGUF_DT_Q8_K, 256), 0); /* a size we know, no type we compute with */
	assert_int_equal(accel_row_bytes(GGUF_DT_I32, 4), 0);
	assert_int_equal(accel_row_bytes((enum gguf_dtype)999, 4), 0);
}

/* A row is its blocks one after another; scales that are no numbers stay in their block. */
static void test_rows_and_hostile_scales(void **state)
{
	(void)state;
	for (size_t t = 0; t < COUNT(quantized); t++) {
		uint32_t elems, bytes;
		uint8_t row[2 * MAX_BYTES];
		float x[2 * ACCEL_K_BLOCK], y[ACCEL_K_BLOCK];

		assert_true(gguf_dtype_block(quantized[t], &elems, &bytes));
		memset(row, 0xff, bytes); /* NaN scales */
		for (uint32_t i = 0; i < bytes; i++)
			row[bytes + i] = (uint8_t)(i * 37 % 0x3c);
		accel_row_expand(quantized[t], row, 2 * elems, x);
		accel_row_expand(quantized[t], row + bytes, elems, y);
		assert_memory_equal(x + elems, y, elems * sizeof(float));
		for (uint32_t i = 0; i < elems; i++)
			assert_true(isnan(x[i]) && isfinite(y[i]));
	}
}

static void test_list(void **state)
{
	char list[128], small[8];

	(void)state;
	model_dtype_list(list, sizeof(list));
	assert_string_equal(list,
			    "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, "
			    "IQ4_NL");
	model_dtype_list(small, sizeof(small));
	assert_string_equal(small, "F32, F1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_q8_0),
	    cmocka_unit_test(test_4_bits),
	    cmocka_unit_test(test_5_bits),
	    cmocka_unit_test(test_q2_k),
	    cmocka_unit_test(test_q3_k),
	    cmocka_unit_test(test_q4_k),
	    cmocka_unit_test(test_q5_k),
	    cmocka_unit_test(test_q6_k),
	    cmocka_unit_test(test_each_bit_has_one_element),
	    cmocka_unit_test(test_row_bytes),
	    cmocka_unit_test(test_rows_and_hostile_scales),
	    cmocka_unit_test(test_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
