/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every kernel of every instruction set against plain loops in double, over
 * odd shapes, and against itself: a row and a column give the same bits alone,
 * among others, and by way of a panel.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "accel/cpu/kern.h"
#include "accel/weights.h"
#include "tests/unit/accel/toy.h"

static const struct kern *kern; /* under test */

static size_t padded(size_t n)
{
	return (n + KERN_PAD - 1) / KERN_PAD * KERN_PAD;
}

static void *alloc64(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(p);
	memset(p, 0, (bytes + 63) / 64 * 64);
	return p;
}

/* A product with its operands. Weights end at the last byte of their allocation and start at an odd
 * address if that is asked for, so that a sanitizer sees any read beyond a row and any assumed alignment. */
struct product {
	enum gguf_dtype dtype;
	struct kern_mul m;
	uint8_t *weights;
	float *x, *y;
	double *want, *magnitude; /* [cols, rows], and the sum of |w x| for the tolerance */
};

static void product_init(struct product *p, struct toy_rng *rng, enum gguf_dtype dtype, uint32_t rows,
			 uint32_t cols, uint32_t k, size_t offset)
{
	size_t row_bytes = accel_row_bytes(dtype, k), ldx = padded(k);
	float *w = malloc(k * sizeof(float));

	p->dtype = dtype;
	p->weights = malloc(offset + rows * row_bytes);
	p->x = alloc64(cols * ldx * sizeof(float));
	p->y = malloc(cols * rows * sizeof(float));
	p->want = calloc(cols * rows, sizeof(double));
	p->magnitude = calloc(cols * rows, sizeof(double));
	assert_true(w && p->weights && p->y && p->want && p->magnitude);
	for (uint32_t c = 0; c < cols; c++)
		toy_fill(rng, GGUF_DT_F32, k, p->x + c * ldx);
	for (uint32_t r = 0; r < rows; r++) {
		uint8_t *row = p->weights + offset + r * row_bytes;

		toy_fill(rng, dtype, k, row);
		accel_row_expand(dtype, row, k, w);
		for (uint32_t c = 0; c < cols; c++) {
			for (uint32_t i = 0; i < k; i++) {
				double wx = (double)w[i] * (double)p->x[c * ldx + i];

				p->want[c * rows + r] += wx;
				p->magnitude[c * rows + r] += fabs(wx);
			}
		}
	}
	p->m = (struct kern_mul){.w = p->weights + offset,
				 .row_bytes = row_bytes,
				 .rows = rows,
				 .k = k,
				 .x = p->x,
				 .ldx = ldx,
				 .cols = cols,
				 .y = p->y,
				 .ldy = rows};
	free(w);
}

static void product_fini(struct product *p)
{
	free(p->weights);
	free(p->x);
	free(p->y);
	free(p->want);
	free(p->magnitude);
}

static void check_product(const struct product *p, double tolerance)
{
	for (uint32_t i = 0; i < p->m.rows * p->m.cols; i++)
		if (!(fabs((double)p->y[i] - p->want[i]) <= tolerance * p->magnitude[i] + 1e-30))
			fail_msg("%s: rows %u cols %u k %u, result %u: %g, want %g", kern->isa, p->m.rows,
				 p->m.cols, p->m.k, i, (double)p->y[i], p->want[i]);
}

static void multiply(const struct product *p, const struct kern_mul *m)
{
	if (p->dtype == GGUF_DT_F32)
		kern->mul_f32(m);
	else if (p->dtype == GGUF_DT_F16)
		kern->mul_f16(m);
	else
		kern->mul_bf16(m);
}

/* Each row alone with each column alone. */
static void check_alone(const struct product *p)
{
	for (uint32_t r = 0; r < p->m.rows; r++) {
		for (uint32_t c = 0; c < p->m.cols; c++) {
			float y = NAN;
			struct kern_mul m = p->m;

			m.w += r * m.row_bytes;
			m.x += c * m.ldx;
			m.rows = m.cols = 1;
			m.y = &y;
			multiply(p, &m);
			assert_memory_equal(&y, &p->y[c * p->m.rows + r], sizeof(y));
		}
	}
}

/* The same by way of expanded panels. */
static void check_panel(const struct product *p)
{
	size_t ldp = padded(p->m.k);
	float *panel = alloc64(KERN_PANEL * ldp * sizeof(float));
	float *sums = alloc64(KERN_PANEL * KERN_COLS * kern->lanes * sizeof(float));
	float *y = malloc(p->m.rows * p->m.cols * sizeof(float));

	assert_non_null(y);
	for (uint32_t r = 0; r < p->m.rows; r += KERN_PANEL) {
		struct kern_mul m = p->m;

		m.rows = m.rows - r < KERN_PANEL ? m.rows - r : KERN_PANEL;
		m.y = y + r;
		for (uint32_t i = 0; i < m.rows; i++) {
			const uint8_t *w = m.w + (r + i) * m.row_bytes;

			if (p->dtype == GGUF_DT_F32)
				kern->expand_f32(w, m.k, panel + i * ldp);
			else if (p->dtype == GGUF_DT_F16)
				kern->expand_f16(w, m.k, panel + i * ldp);
			else
				kern->expand_bf16(w, m.k, panel + i * ldp);
		}
		kern->mul_panel(&m, panel, ldp, sums);
	}
	assert_memory_equal(y, p->y, p->m.rows * p->m.cols * sizeof(float));
	free(panel);
	free(sums);
	free(y);
}

static const uint32_t depths[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 45, 64, 100, 511, 512, 513, 1031};
#define N_DEPTHS (sizeof(depths) / sizeof(depths[0]))

static void test_float_products(void **state)
{
	static const enum gguf_dtype types[] = {GGUF_DT_F32, GGUF_DT_F16, GGUF_DT_BF16};
	struct toy_rng rng = {1};

	(void)state;
	for (size_t t = 0; t < 3; t++) {
		for (uint32_t d = 0; d < N_DEPTHS; d++) {
			for (uint32_t rows = 1; rows <= 17; rows += d % 3 + 1) {
				struct product p;

				product_init(&p, &rng, types[t], rows, 1 + (rows + d) % 11, depths[d],
					     types[t] == GGUF_DT_F32 ? 4 : 2);
				multiply(&p, &p.m);
				check_product(&p, 1e-6);
				check_alone(&p);
				check_panel(&p);
				product_fini(&p);
			}
		}
	}
}

/* More rows than a panel and more columns than a block of them, with what is left over. */
static void test_large_products(void **state)
{
	struct toy_rng rng = {2};
	struct product p;

	(void)state;
	product_init(&p, &rng, GGUF_DT_F16, KERN_PANEL + 5, KERN_COLS + 5, KERN_DEPTH + 35, 6);
	multiply(&p, &p.m);
	check_product(&p, 1e-6);
	check_panel(&p);
	product_fini(&p);
}

/* Every float16 and bfloat16 there is. */
static void test_expand(void **state)
{
	uint16_t *h = malloc(65536 * sizeof(*h));
	float *got = alloc64(65536 * sizeof(float));

	(void)state;
	assert_non_null(h);
	for (uint32_t i = 0; i < 65536; i++)
		h[i] = (uint16_t)i;
	kern->expand_f16((const uint8_t *)h, 65536, got);
	for (uint32_t i = 0; i < 65536; i++) {
		float want = accel_f16_to_f32((uint16_t)i);

		assert_true(isnan(want) ? isnan(got[i]) : memcmp(&want, &got[i], 4) == 0);
	}
	kern->expand_bf16((const uint8_t *)h, 65536, got);
	for (uint32_t i = 0; i < 65536; i++) {
		uint32_t bits;

		memcpy(&bits, &got[i], 4);
		assert_int_equal(bits, i << 16);
	}
	free(h);
	free(got);
}

static double plain_act(enum model_act kind, double x)
{
	switch (kind) {
	case MODEL_ACT_SILU:
		return x / (1 + exp(-x));
	case MODEL_ACT_GELU_TANH:
		return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	case MODEL_ACT_GELU_ERF:
		return 0.5 * x * (1 + erf(x / sqrt(2)));
	case MODEL_ACT_RELU:
		return x > 0 ? x : 0;
	}
	return NAN;
}

static void test_activations(void **state)
{
	static const enum model_act kinds[] = {MODEL_ACT_SILU, MODEL_ACT_GELU_TANH, MODEL_ACT_GELU_ERF,
					       MODEL_ACT_RELU};
	struct toy_rng rng = {6};
	float x[67], y[67], got[68];

	(void)state;
	for (uint32_t n = 1; n <= 67; n++) {
		for (int i = 0; i < 4; i++) {
			for (uint32_t j = 0; j < n; j++) {
				x[j] = toy_uniform(&rng) * (j % 5 == 0 ? 200.0f : 6.0f);
				y[j] = toy_uniform(&rng);
			}
			got[n] = 42;
			kern->act(kinds[i], x, n % 2 ? y : NULL, n, got);
			for (uint32_t j = 0; j < n; j++) {
				double want = plain_act(kinds[i], (double)x[j]) * (n % 2 ? (double)y[j] : 1);

				if (!(fabs((double)got[j] - want) <= 1e-6 * fabs(want) + 3e-7))
					fail_msg("%s: activation %d of %g: %g, want %g", kern->isa, i,
						 (double)x[j], (double)got[j], want);
			}
			assert_true(got[n] == 42);
		}
	}
}

static void check_norm(enum model_norm kind, const float *x, const float *w, const float *bias, uint32_t n)
{
	double mean = 0, var = 0;
	float got[68];

	for (uint32_t i = 0; i < n; i++)
		mean += kind == MODEL_NORM_LAYER ? (double)x[i] / n : 0;
	for (uint32_t i = 0; i < n; i++)
		var += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
	got[n] = 42;
	kern->norm(kind, x, w, bias, n, 0.01f, got);
	for (uint32_t i = 0; i < n; i++) {
		double want = ((double)x[i] - mean) / sqrt(var + (double)0.01f) * (double)w[i] +
			      (bias != NULL ? (double)bias[i] : 0);

		assert_true(fabs((double)got[i] - want) <= 3e-6);
	}
	assert_true(got[n] == 42);
}

static void test_norms_and_add(void **state)
{
	struct toy_rng rng = {7};
	float x[67], w[67], b[67], got[68];

	(void)state;
	for (uint32_t n = 1; n <= 67; n++) {
		toy_fill(&rng, GGUF_DT_F32, n, x);
		toy_fill(&rng, GGUF_DT_F32, n, w);
		toy_fill(&rng, GGUF_DT_F32, n, b);
		check_norm(MODEL_NORM_RMS, x, w, NULL, n);
		check_norm(MODEL_NORM_LAYER, x, w, b, n);
		got[n] = 42;
		kern->add(x, b, n, got);
		for (uint32_t i = 0; i < n; i++)
			assert_true(got[i] == x[i] + b[i]);
		assert_true(got[n] == 42);
	}
}

static void test_softcap(void **state)
{
	struct toy_rng rng = {9};
	float x[67], got[68];

	(void)state;
	for (uint32_t n = 1; n <= 67; n++) {
		float cap = n % 2 ? 30.0f : 2.5f;

		for (uint32_t j = 0; j < n; j++)
			x[j] = toy_uniform(&rng) * (j % 5 == 0 ? 300.0f : j % 5 == 1 ? 0.01f : 20.0f);
		got[n] = 42;
		kern->softcap(x, cap, n, got);
		for (uint32_t j = 0; j < n; j++) {
			double want = (double)cap * tanh((double)x[j] / (double)cap);

			if (!(fabs((double)got[j] - want) <= 4e-7 * fabs(want)))
				fail_msg("%s: %g capped at %g: %g, want %g", kern->isa, (double)x[j],
					 (double)cap, (double)got[j], want);
		}
		assert_true(got[n] == 42);
	}
}

static void test_find(void **state)
{
	const struct kern *best, *named;
	struct ps_err err;

	(void)state;
	assert_int_equal(kern_find(NULL, &best, &err), 0);
	assert_int_equal(kern_find(best->name, &named, &err), 0);
	assert_ptr_equal(best, named);
	assert_int_equal(kern_find("portable", &named, &err), 0);
	assert_ptr_equal(named, &kern_portable);
	assert_int_equal(kern_find("avx3", &named, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "portable, avx2 or avx512"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_float_products), cmocka_unit_test(test_large_products),
	    cmocka_unit_test(test_expand),         cmocka_unit_test(test_activations),
	    cmocka_unit_test(test_norms_and_add),  cmocka_unit_test(test_softcap),
	    cmocka_unit_test(test_find),
	};
	static const char *const names[] = {"portable", "avx2", "avx512"};
	int failed = 0;

	for (size_t i = 0; i < 3; i++) {
		if (kern_find(names[i], &kern, NULL) != 0) {
			print_message("skipped: %s not on this CPU\n", names[i]);
			continue;
		}
		failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return failed;
}
