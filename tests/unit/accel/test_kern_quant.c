/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Products of every quantized type with every instruction set against the
 * expanded weights in double, over odd shapes, and against themselves: a row and a
 * column give the same bits alone, among others, and by way of a panel.
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

static const char *isa; /* under test */
static const struct kern_quants *quants;

static void *alloc64(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(p);
	memset(p, 0, (bytes + 63) / 64 * 64);
	return p;
}

/* A product with its operands. Weights start at an odd address and end with their allocation, so that a
 * sanitizer sees any read beyond a row and any assumed alignment. */
struct product {
	const struct kern_quant *type;
	struct kern_mul m;
	uint8_t *weights;
	float *x, *y;
	struct kern_q8 *rows, *columns; /* of x; columns only where panels are */
};

static void product_init(struct product *p, struct toy_rng *rng, const struct kern_quant *type, uint32_t rows,
			 uint32_t cols, uint32_t k)
{
	size_t row_bytes = accel_row_bytes(type->dtype, k), ldx = (k + KERN_PAD - 1) / KERN_PAD * KERN_PAD;
	uint32_t groups = kern_quant_groups(k);

	*p = (struct product){.type = type};
	p->weights = malloc(1 + rows * row_bytes);
	p->x = alloc64(cols * ldx * sizeof(float));
	p->y = malloc(cols * rows * sizeof(float));
	p->rows = alloc64(cols * groups * sizeof(*p->rows));
	p->columns = alloc64((size_t)(cols + 7) / 8 * 8 * groups * sizeof(*p->columns));
	assert_true(p->weights && p->y);
	for (uint32_t r = 0; r < rows; r++)
		toy_fill(rng, type->dtype, k, p->weights + 1 + r * row_bytes);
	for (uint32_t c = 0; c < cols; c++)
		toy_fill(rng, GGUF_DT_F32, k, p->x + c * ldx);
	p->m = (struct kern_mul){.w = p->weights + 1,
				 .row_bytes = row_bytes,
				 .rows = rows,
				 .k = k,
				 .x = p->x,
				 .ldx = ldx,
				 .cols = cols,
				 .y = p->y,
				 .ldy = rows};
}

static void product_round(struct product *p)
{
	uint32_t groups = kern_quant_groups(p->m.k);

	for (uint32_t c = 0; c < p->m.cols; c++)
		quants->quantize(p->x + c * p->m.ldx, p->m.k, p->rows + (size_t)c * groups);
	for (uint32_t c = 0; p->type->pack != NULL && c < p->m.cols; c += 8)
		quants->quantize_cols(p->x + c * p->m.ldx, p->m.ldx, p->m.cols - c < 8 ? p->m.cols - c : 8,
				      p->m.k, p->columns + (size_t)c * groups);
}

static void product_fini(struct product *p)
{
	free(p->weights);
	free(p->x);
	free(p->y);
	free(p->rows);
	free(p->columns);
}

/* Element i of a column as rounded. */
static double rounded(const struct kern_q8 *column, uint32_t i)
{
	const struct kern_q8 *g = column + i / 256;
	uint32_t b = i % 256 / 32;

	return (double)g->scale[b] * g->q[b % 4 * 2 + b / 4][i % 32];
}

static void check_product(const struct product *p)
{
	const struct kern_mul *m = &p->m;
	float *w = malloc(m->k * sizeof(float));

	assert_non_null(w);
	for (uint32_t r = 0; r < m->rows; r++) {
		accel_row_expand(p->type->dtype, m->w + r * m->row_bytes, m->k, w);
		for (uint32_t c = 0; c < m->cols; c++) {
			double want = 0, magnitude = 0, got = (double)p->y[c * m->ldy + r];

			for (uint32_t i = 0; i < m->k; i++) {
				double wx =
				    (double)w[i] * rounded(p->rows + (size_t)c * kern_quant_groups(m->k), i);

				want += wx;
				magnitude += fabs(wx);
			}
			if (!(fabs(got - want) <= 2e-6 * magnitude + 1e-30))
				fail_msg("%s type %d: rows %u cols %u k %u, row %u column %u: %g, want %g",
					 isa, (int)p->type->dtype, m->rows, m->cols, m->k, r, c, got, want);
		}
	}
	free(w);
}

/* The same bits, or both not a number, whose bits say nothing. */
static void check_same(const struct product *p, float a, float b, const char *how)
{
	if (memcmp(&a, &b, sizeof(a)) != 0 && !(isnan(a) && isnan(b)))
		fail_msg("%s type %d: rows %u cols %u k %u: %a, %s %a", isa, (int)p->type->dtype, p->m.rows,
			 p->m.cols, p->m.k, (double)a, how, (double)b);
}

/* Each row alone with each column alone. */
static void check_alone(const struct product *p)
{
	for (uint32_t r = 0; r < p->m.rows; r++) {
		for (uint32_t c = 0; c < p->m.cols; c++) {
			float y = 12345;
			struct kern_mul m = p->m;

			m.w += r * m.row_bytes;
			m.rows = m.cols = 1;
			m.y = &y;
			p->type->mul(&m, p->rows + (size_t)c * kern_quant_groups(m.k));
			check_same(p, p->y[c * p->m.ldy + r], y, "alone");
		}
	}
}

/* The same by way of panels. */
static void check_panel(const struct product *p)
{
	uint8_t *panel = alloc64((size_t)kern_quant_groups(p->m.k) * KERN_QUANT_PANEL_BYTES);
	float *y = malloc(p->m.rows * p->m.cols * sizeof(float));

	assert_non_null(y);
	for (uint32_t r = 0; r < p->m.rows; r += KERN_QUANT_ROWS) {
		struct kern_mul m = p->m;

		m.w += r * m.row_bytes;
		m.rows = m.rows - r < KERN_QUANT_ROWS ? m.rows - r : KERN_QUANT_ROWS;
		m.y = y + r;
		p->type->pack(&m, panel);
		p->type->mul_panel(&m, panel, p->columns);
	}
	for (uint32_t i = 0; i < p->m.rows * p->m.cols; i++)
		check_same(p, p->y[i], y[i], "by panel");
	free(panel);
	free(y);
}

static void check_ways(struct product *p)
{
	product_round(p);
	p->type->mul(&p->m, p->rows);
	check_alone(p);
	if (p->type->pack != NULL)
		check_panel(p);
}

/* A depth of n blocks of the type. */
static uint32_t depth(const struct kern_quant *type, uint32_t n)
{
	uint32_t elems = 0, bytes;

	assert_true(gguf_dtype_block(type->dtype, &elems, &bytes));
	return n * elems;
}

static void test_products(void **state)
{
	struct toy_rng rng = {1};

	(void)state;
	for (size_t t = 0; t < quants->n_types; t++) {
		const struct kern_quant *type = &quants->types[t];

		for (uint32_t n = 1; n <= 19; n += n < 9 ? 1 : 5) {
			for (uint32_t rows = 1; rows <= 40; rows += 1 + rows / 3) {
				struct product p;

				product_init(&p, &rng, type, rows, 1 + (rows * 7 + n) % 20, depth(type, n));
				check_ways(&p);
				check_product(&p);
				product_fini(&p);
			}
		}
	}
}

static void test_every_number_of_columns(void **state)
{
	struct toy_rng rng = {2};

	(void)state;
	for (size_t t = 0; t < quants->n_types; t++) {
		for (uint32_t cols = 1; cols <= 20; cols++) {
			struct product p;

			product_init(&p, &rng, &quants->types[t], 17, cols,
				     depth(&quants->types[t], cols % 2 == 0 ? 8 : 9));
			check_ways(&p);
			check_product(&p);
			product_fini(&p);
		}
	}
}

/* Weights and activations whose integers are as large as can be, of every sign: no sum may saturate.
 * Setting all bits of the values to one or to zero makes them largest or smallest in every type. */
static void test_extremes(void **state)
{
	struct toy_rng rng = {3};

	(void)state;
	for (size_t t = 0; t < quants->n_types; t++) {
		const struct kern_quant *type = &quants->types[t];
		uint32_t elems = 0, bytes = 0, k = depth(type, 8);
		struct product p;

		assert_true(gguf_dtype_block(type->dtype, &elems, &bytes));
		product_init(&p, &rng, type, 24, 9, k);
		for (uint32_t r = 0; elems == 32 && r < p.m.rows; r++)
			for (uint32_t b = 0; b < k / elems; b++)
				memset(p.weights + 1 + r * p.m.row_bytes + b * bytes + bytes - 16,
				       r & 1 ? 0xff : 0, 16);
		if (type->dtype == GGUF_DT_Q8_0)
			for (uint32_t r = 0; r < p.m.rows; r++)
				for (uint32_t b = 0; b < k / 32; b++)
					memset(p.weights + 1 + r * p.m.row_bytes + b * 34 + 2,
					       r & 1 ? 0x80 : 0x7f, 32);
		for (uint32_t c = 0; c < p.m.cols; c++)
			for (uint32_t i = 0; i < k; i++)
				p.x[c * p.m.ldx + i] = (c + i * (c & 1)) & 1 ? -3.0f : 3.0f;
		check_ways(&p);
		check_product(&p);
		product_fini(&p);
	}
}

/* Blocks of random bytes: scales that are infinite, not a number, subnormal; and such activations. Any
 * result will do, as long as it is the same in all ways. */
static void test_hostile_blocks(void **state)
{
	static const float wild[] = {INFINITY, -INFINITY, NAN, 1e-40f, 3e38f, -0.0f};
	struct toy_rng rng = {4};

	(void)state;
	for (size_t t = 0; t < quants->n_types; t++) {
		for (int round = 0; round < 20; round++) {
			struct product p;

			product_init(&p, &rng, &quants->types[t], 19, 9, depth(&quants->types[t], 9));
			for (size_t i = 0; i < p.m.rows * p.m.row_bytes; i++)
				p.weights[1 + i] = (uint8_t)toy_next(&rng);
			for (int i = 0; round % 2 == 1 && i < 20; i++)
				p.x[toy_below(&rng, p.m.cols) * p.m.ldx + toy_below(&rng, p.m.k)] =
				    wild[toy_below(&rng, 6)];
			check_ways(&p);
			product_fini(&p);
		}
	}
}

/* What stands beside the values of a block, from the values. */
static void check_block_sums(const struct kern_q8 *g, uint32_t b, const int8_t *q)
{
	int32_t half[2] = {0};

	for (uint32_t i = 0; i < 32; i++)
		half[i / 16] += q[i];
	assert_int_equal(g->bias[b], -128 * (half[0] + half[1]));
	assert_true(g->sum[b] == g->scale[b] * (float)(half[0] + half[1]));
	for (int h = 0; h < 2; h++) {
		assert_int_equal(g->half_bias[h][b], -128 * half[h]);
		assert_true(g->half_sum[h][b] == g->scale[b] * (float)half[h]);
	}
}

static void fill_activations(struct toy_rng *rng, uint32_t k, float *x, int round)
{
	toy_fill(rng, GGUF_DT_F32, k, x);
	for (uint32_t i = 64; i < 96; i++)
		x[i] = round % 3 == 0 ? 0 : x[i] * (round % 3 == 1 ? 1e-38f : 1e20f);
}

static void test_quantize(void **state)
{
	enum { K = 288, GROUPS = 2 };
	struct toy_rng rng = {5};
	struct kern_q8 *row = alloc64(GROUPS * sizeof(*row)), *columns = alloc64(8 * GROUPS * sizeof(*row));
	float *x = alloc64(3 * K * sizeof(float));

	(void)state;
	for (int round = 0; round < 50; round++) {
		for (uint32_t c = 0; c < 3; c++)
			fill_activations(&rng, K, x + c * K, round);
		if (quants->quantize_cols != NULL)
			quants->quantize_cols(x, K, 3, K, columns);
		for (uint32_t c = 0; c < 3; c++) {
			quants->quantize(x + c * K, K, row);
			for (uint32_t b = 0; b < GROUPS * 8; b++) {
				const struct kern_q8 *g = row + b / 8;
				const struct kern_q8 *col = columns + b % 8 * GROUPS + b / 8;
				const int8_t *q = g->q[b % 4 * 2 + b % 8 / 4];

				for (uint32_t i = 0; i < 32; i++) {
					float step = g->scale[b % 8],
					      want = 32 * b < K ? x[c * K + 32 * b + i] : 0;

					if (!(fabsf(step * q[i] - want) <= 0.501f * step + 1e-37f))
						fail_msg("%s: %g became %g * %d", isa, (double)want,
							 (double)step, q[i]);
				}
				check_block_sums(g, b % 8, q);
				if (quants->quantize_cols == NULL)
					continue;
				assert_memory_equal(col->q[c], q, 32);
				assert_memory_equal(&col->scale[c], &g->scale[b % 8], 4);
				check_block_sums(col, c, q);
			}
		}
	}
	free(row);
	free(columns);
	free(x);
}

/* Whether this processor has the kernels. */
static int available(const char *name, const struct kern_quants *q)
{
	const struct kern *kern;

	return kern_find(name, &kern, NULL) == 0 && (strcmp(name, "avx512") != 0 || kern->quants == q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_products), cmocka_unit_test(test_every_number_of_columns),
	    cmocka_unit_test(test_extremes), cmocka_unit_test(test_hostile_blocks),
	    cmocka_unit_test(test_quantize),
	};
	const struct {
		const char *name;
		const struct kern_quants *quants;
	} sets[] = {
		{"portable", &kern_quants_portable},
#if defined(__x86_64__)
		{"avx2", &kern_quants_avx2},
		{"avx512", &kern_quants_vnni},
#endif
	};
	int failed = 0;

	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
		isa = sets[i].name;
		quants = sets[i].quants;
		if (!available(isa, quants)) {
			print_message("skipped: %s not on this CPU\n", isa);
			continue;
		}
		failed += cmocka_run_group_tests_name(isa, tests, NULL, NULL);
	}
	return failed;
}
