/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernels of the K types of every instruction set: against plain sums over
 * the expanded weights and the rounded activations, over odd shapes, and
 * against themselves: a row and a column give the same bits in any company.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "accel/cpu/kern.h"
#include "accel/cpu/kern_k.h"
#include "accel/weights.h"
#include "tests/unit/accel/toy.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Under test. */
static const struct kern_k *kern;
static const char *isa;

static const enum gguf_dtype types[] = {GGUF_DT_Q2_K, GGUF_DT_Q3_K, GGUF_DT_Q4_K, GGUF_DT_Q5_K, GGUF_DT_Q6_K};

static void *alloc64(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(p);
	return p;
}

/* Weights start at an odd address and end with their allocation, so that a sanitizer sees what reads beyond.
 */
struct product {
	enum gguf_dtype dtype;
	struct kern_mul m;
	uint8_t *weights;
	float *x; /* [cols, k] */
	struct kern_k_act *act;
	void *scratch;
	float *y; /* [cols, rows] */
};

static void product_init(struct product *p, struct toy_rng *rng, enum gguf_dtype dtype, uint32_t rows,
			 uint32_t cols, uint32_t k)
{
	size_t row_bytes = accel_row_bytes(dtype, k);

	p->dtype = dtype;
	p->weights = malloc(1 + rows * row_bytes);
	p->x = malloc((size_t)cols * k * sizeof(float));
	p->y = malloc((size_t)cols * rows * sizeof(float));
	assert_true(p->weights && p->x && p->y);
	p->act = alloc64((size_t)cols * (k / 256) * sizeof(*p->act));
	p->scratch = alloc64(kern_k_scratch_bytes(k));
	toy_fill(rng, GGUF_DT_F32, (uint64_t)cols * k, p->x);
	for (uint32_t r = 0; r < rows; r++)
		toy_fill(rng, dtype, k, p->weights + 1 + r * row_bytes);
	p->m = (struct kern_mul){.w = p->weights + 1,
				 .row_bytes = row_bytes,
				 .rows = rows,
				 .k = k,
				 .ldx = cols,
				 .cols = cols,
				 .y = p->y,
				 .ldy = rows};
}

static void product_fini(struct product *p)
{
	free(p->weights);
	free(p->x);
	free(p->act);
	free(p->scratch);
	free(p->y);
}

static void product_run(struct product *p)
{
	for (uint32_t c = 0; c < p->m.cols; c++)
		kern->quantize(p->x + (size_t)c * p->m.k, p->m.k, p->act + c, p->m.ldx);
	for (uint32_t i = 0; i < p->m.cols * p->m.rows; i++)
		p->y[i] = NAN;
	kern_k_find(kern, p->dtype)(&p->m, p->act, p->scratch);
}

static void check_column(const struct product *p, const float *w, uint32_t r, uint32_t c)
{
	double sum = 0, magnitude = 0;
	float y = p->y[(size_t)c * p->m.rows + r];

	for (uint32_t i = 0; i < p->m.k; i++) {
		const struct kern_k_act *a = &p->act[(size_t)(i / 256) * p->m.ldx + c];
		double wx = (double)w[i] * ((double)a->scale * a->q[i % 256]);

		sum += wx;
		magnitude += fabs(wx);
	}
	if (!(fabs((double)y - sum) <= 2e-6 * magnitude + 1e-30))
		fail_msg("%s %s: rows %u cols %u k %u, row %u column %u: %g, want %g", isa,
			 gguf_dtype_name(p->dtype), p->m.rows, p->m.cols, p->m.k, r, c, (double)y, sum);
}

static void check_sums(const struct product *p)
{
	float *w = malloc(p->m.k * sizeof(float));

	assert_non_null(w);
	for (uint32_t r = 0; r < p->m.rows; r++) {
		accel_row_expand(p->dtype, p->m.w + r * p->m.row_bytes, p->m.k, w);
		for (uint32_t c = 0; c < p->m.cols; c++)
			check_column(p, w, r, c);
	}
	free(w);
}

/* Each row with each column alone. */
static void check_alone(const struct product *p)
{
	for (uint32_t r = 0; r < p->m.rows; r++) {
		for (uint32_t c = 0; c < p->m.cols; c++) {
			struct kern_mul m = p->m;
			float y = NAN;

			m.w += r * m.row_bytes;
			m.rows = m.cols = 1;
			m.y = &y;
			kern_k_find(kern, p->dtype)(&m, p->act + c, p->scratch);
			if (memcmp(&y, &p->y[(size_t)c * p->m.rows + r], sizeof(y)) != 0)
				fail_msg("%s %s: rows %u cols %u k %u: row %u column %u differs alone", isa,
					 gguf_dtype_name(p->dtype), m.rows, p->m.cols, m.k, r, c);
		}
	}
}

static void test_products(void **state)
{
	struct toy_rng rng = {11};

	(void)state;
	for (size_t t = 0; t < COUNT(types); t++) {
		for (uint32_t rows = 1; rows <= 40; rows++) {
			struct product p;

			product_init(&p, &rng, types[t], rows, 1 + (rows * 7 + (uint32_t)t) % 20,
				     256 * (1 + rows % 3));
			product_run(&p);
			check_sums(&p);
			check_alone(&p);
			product_fini(&p);
		}
	}
}

/* Every number of columns, so that all tiles and what is left over of them come up. */
static void test_columns(void **state)
{
	struct toy_rng rng = {12};

	(void)state;
	for (size_t t = 0; t < COUNT(types); t++) {
		for (uint32_t cols = 1; cols <= 20; cols++) {
			struct product p;

			product_init(&p, &rng, types[t], 19, cols, 512);
			product_run(&p);
			check_sums(&p);
			check_alone(&p);
			product_fini(&p);
		}
	}
}

/* Rows beyond the panels that are worked on together. */
static void test_groups_of_panels(void **state)
{
	struct toy_rng rng = {13};
	uint32_t k = 256 * 20;
	struct product p;

	(void)state;
	product_init(&p, &rng, GGUF_DT_Q6_K, kern_k_panels(k) * KERN_K_PANEL_ROWS + 21, 9, k);
	product_run(&p);
	check_sums(&p);
	check_alone(&p);
	product_fini(&p);
}

/* All codes and scales at either end, and activations at theirs: no sum of 16 bits may overflow. */
static void test_extremes(void **state)
{
	static const uint8_t fills[] = {0x00, 0xff, 0x7f, 0x80, 0xf0, 0x0f};
	struct toy_rng rng = {14};

	(void)state;
	for (size_t t = 0; t < COUNT(types); t++) {
		for (size_t f = 0; f < COUNT(fills); f++) {
			struct product p;

			product_init(&p, &rng, types[t], 17, 9, 256);
			for (uint32_t r = 0; r < p.m.rows; r++) {
				uint8_t *w = p.weights + 1 + r * p.m.row_bytes, scales[256];

				memcpy(scales, w, p.m.row_bytes);
				memset(w, fills[f], p.m.row_bytes);
				/* The float16 scales as they were. */
				if (types[t] == GGUF_DT_Q4_K || types[t] == GGUF_DT_Q5_K)
					memcpy(w, scales, 4);
				else
					memcpy(w + p.m.row_bytes - 4, scales + p.m.row_bytes - 4, 4);
			}
			for (uint32_t i = 0; i < p.m.cols * p.m.k; i++)
				p.x[i] = (i / p.m.k + i * (i / p.m.k % 3)) & 1 ? -3.0f : 3.0f;
			product_run(&p);
			check_sums(&p);
			check_alone(&p);
			product_fini(&p);
		}
	}
}

/* Scales of the file that are no numbers reach their rows only; any bits at all are without harm. */
static void test_hostile_weights(void **state)
{
	static const uint16_t halves[] = {0x7c00, 0xfc00, 0x7e00, 0xffff, 0x0001, 0x8000};
	struct toy_rng rng = {15};

	(void)state;
	for (size_t t = 0; t < COUNT(types); t++) {
		for (uint32_t cols = 1; cols <= 17; cols += 8) {
			struct product p;
			float *want;

			product_init(&p, &rng, types[t], 18, cols, 512);
			product_run(&p);
			want = malloc((size_t)cols * 18 * sizeof(float));
			assert_non_null(want);
			memcpy(want, p.y, (size_t)cols * 18 * sizeof(float));
			for (uint32_t i = 0; i < p.m.row_bytes; i++)
				p.weights[1 + 5 * p.m.row_bytes + i] = (uint8_t)toy_below(&rng, 256);
			for (size_t h = 0; h < COUNT(halves); h++)
				memcpy(p.weights + 1 + 5 * p.m.row_bytes + 2 * h, &halves[h], 2);
			memset(p.weights + 1 + 9 * p.m.row_bytes, 0xff, p.m.row_bytes);
			product_run(&p);
			for (uint32_t c = 0; c < cols; c++) {
				for (uint32_t r = 0; r < 18; r++) {
					uint32_t i = c * 18 + r;

					if (r == 9)
						assert_true(isnan(p.y[i]));
					else if (r != 5)
						assert_memory_equal(&p.y[i], &want[i], sizeof(float));
				}
			}
			free(want);
			product_fini(&p);
		}
	}
}

/* An activation that is no number makes its column NaN and no other. */
static void test_hostile_activations(void **state)
{
	struct toy_rng rng = {16};

	(void)state;
	for (size_t t = 0; t < COUNT(types); t++) {
		for (uint32_t cols = 3; cols <= 19; cols += 8) {
			struct product p;

			product_init(&p, &rng, types[t], 18, cols, 512);
			p.x[512 + 300] = t % 2 ? NAN : -INFINITY;
			p.x[2 * 512 + 5] = 1e38f;
			p.x[2 * 512 + 6] = 3e-39f;
			product_run(&p);
			for (uint32_t i = 0; i < cols * 18; i++)
				assert_true(i / 18 == 1 ? isnan(p.y[i]) : isfinite(p.y[i]));
			product_fini(&p);
		}
	}
}

static void check_quantized(const float *x, const struct kern_k_act *a)
{
	int32_t pair = 0;

	for (int i = 0; i < 256; i++) {
		assert_true(a->q[i] >= -127);
		if (!(fabsf(a->scale * a->q[i] - x[i]) <= 0.501f * a->scale + 1e-30f))
			fail_msg("%s: %g became %g * %d", isa, (double)x[i], (double)a->scale, a->q[i]);
	}
	for (int run = 0; run < 16; run++) {
		int32_t sum = 0;

		for (int i = 0; i < 16; i++)
			sum += a->q[16 * run + i];
		assert_int_equal(a->sum[run % 2][run / 2], sum);
		assert_int_equal(a->offset[run], -32 * sum);
		pair += sum;
		if (run % 2 != 0) {
			assert_int_equal(a->sum_pair[run / 2], pair);
			pair = 0;
		}
	}
}

static void test_quantize(void **state)
{
	static const float factors[] = {1, 0, 1e-38f, 1e-36f, 1e20f, 3e38f};
	struct toy_rng rng = {17};
	struct kern_k_act *act = alloc64(3 * sizeof(*act));
	float x[512];

	(void)state;
	for (size_t f = 0; f < COUNT(factors); f++) {
		toy_fill(&rng, GGUF_DT_F32, 512, x);
		for (int i = 0; i < 512; i++)
			x[i] *= factors[f];
		memset(act, 0x5a, 3 * sizeof(*act));
		kern->quantize(x, 512, act, 2);
		check_quantized(x, &act[0]);
		check_quantized(x + 256, &act[2]);
		for (size_t i = 0; i < sizeof(*act); i++) /* between them is another column's */
			assert_int_equal(((const uint8_t *)&act[1])[i], 0x5a);
	}
	free(act);
}

static void test_find(void **state)
{
	(void)state;
	for (size_t t = 0; t < COUNT(types); t++)
		assert_non_null(kern_k_find(kern, types[t]));
	assert_null(kern_k_find(kern, GGUF_DT_Q8_0));
	assert_null(kern_k_find(kern, GGUF_DT_F32));
	assert_true(kern_k_panels(256) == KERN_K_PANELS_MAX && kern_k_panels(1u << 20) == 1);
}

static int run(const char *name, const struct kern_k *k, const struct CMUnitTest *tests, size_t n)
{
	isa = name;
	kern = k;
	return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_products),         cmocka_unit_test(test_columns),
	    cmocka_unit_test(test_groups_of_panels), cmocka_unit_test(test_extremes),
	    cmocka_unit_test(test_hostile_weights),  cmocka_unit_test(test_hostile_activations),
	    cmocka_unit_test(test_quantize),         cmocka_unit_test(test_find),
	};
	const struct kern *found;
	int failed = run("portable", &kern_k_portable, tests, COUNT(tests));

#if defined(__x86_64__)
	if (kern_find("avx2", &found, NULL) == 0)
		failed += run("avx2", &kern_k_avx2, tests, COUNT(tests));
	if (kern_find("avx512", &found, NULL) == 0) {
		failed += run("avx512", &kern_k_avx512, tests, COUNT(tests));
		if (found == &kern_avx512_vnni)
			failed += run("avx512+vnni", &kern_k_avx512_vnni, tests, COUNT(tests));
	}
#endif
	return failed;
}
