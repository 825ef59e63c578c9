/* SPDX-License-Identifier: BSD-3-Clause */
/* Quantized weights in plain C, for processors that have no kernels of their own. */
#include "accel/cpu/kern.h"

#include <math.h>
#include <string.h>

#include "accel/weights.h"
#include "base/bytes.h"

#define COLS 16u /* that share one reading of a group of weights */

/* A group of weights taken apart: w = scale * q + min, by halves of a block. */
struct group {
	int8_t q[8][32];
	float scale[8][2], min[8][2];
};

/* Reads one block of 32 to place i. */
typedef void read_block(const uint8_t *p, struct group *g, int i);

static void set_scale(struct group *g, int i, const uint8_t *scale, const uint8_t *min)
{
	g->scale[i][0] = g->scale[i][1] = accel_f16_to_f32(ps_load16(scale));
	g->min[i][0] = g->min[i][1] = min != NULL ? accel_f16_to_f32(ps_load16(min)) : 0;
}

static int nibble(const uint8_t *p, int i)
{
	return p[i % 16] >> (i / 16 * 4) & 15;
}

static int fifth_bit(const uint8_t *p, int i)
{
	return (p[i / 8] >> i % 8 & 1) << 4;
}

static void read_q8_0(const uint8_t *p, struct group *g, int i)
{
	set_scale(g, i, p, NULL);
	memcpy(g->q[i], p + 2, 32);
}

static void read_q4_0(const uint8_t *p, struct group *g, int i)
{
	set_scale(g, i, p, NULL);
	for (int j = 0; j < 32; j++)
		g->q[i][j] = (int8_t)(nibble(p + 2, j) - 8);
}

static void read_q4_1(const uint8_t *p, struct group *g, int i)
{
	set_scale(g, i, p, p + 2);
	for (int j = 0; j < 32; j++)
		g->q[i][j] = (int8_t)nibble(p + 4, j);
}

static void read_q5_0(const uint8_t *p, struct group *g, int i)
{
	set_scale(g, i, p, NULL);
	for (int j = 0; j < 32; j++)
		g->q[i][j] = (int8_t)((nibble(p + 6, j) | fifth_bit(p + 2, j)) - 16);
}

static void read_q5_1(const uint8_t *p, struct group *g, int i)
{
	set_scale(g, i, p, p + 2);
	for (int j = 0; j < 32; j++)
		g->q[i][j] = (int8_t)(nibble(p + 8, j) | fifth_bit(p + 4, j));
}

static void read_iq4_nl(const uint8_t *p, struct group *g, int i)
{
	set_scale(g, i, p, NULL);
	for (int j = 0; j < 32; j++)
		g->q[i][j] = accel_iq4_nl[nibble(p + 2, j)];
}

static void read_group(read_block *read, size_t block_bytes, uint32_t n_blocks, const uint8_t *w,
		       struct group *g)
{
	if (n_blocks < 8)
		memset(g, 0, sizeof(*g));
	for (uint32_t i = 0; i < n_blocks; i++)
		read(w + i * block_bytes, g, (int)i);
}

/* acc [8]: the partial sums of a row and a column. */
static void add_group(bool has_min, bool has_halves, const struct group *g, const struct kern_q8 *x,
		      float *acc)
{
	for (uint32_t i = 0; i < 8; i++) {
		const int8_t *q = x->q[i % 4 * 2 + i / 4];
		int32_t sum[2] = {0};

		for (uint32_t j = 0; j < 32; j++)
			sum[j / 16] += (int16_t)g->q[i][j] * (int16_t)q[j];
		if (!has_halves) {
			acc[i] += (float)(sum[0] + sum[1]) * g->scale[i][0] * x->scale[i];
			if (has_min)
				acc[i] += g->min[i][0] * x->sum[i];
			continue;
		}
		for (int h = 0; h < 2; h++) {
			acc[i] += (float)sum[h] * g->scale[i][h] * x->scale[i];
			if (has_min)
				acc[i] += g->min[i][h] * x->half_sum[h][i];
		}
	}
}

/* One row times up to COLS columns. */
static void mul_row(const struct kern_mul *m, read_block *read, size_t block_bytes, bool has_min,
		    bool has_halves, const struct kern_q8 *x, uint32_t r, uint32_t c0, uint32_t cols)
{
	const uint8_t *w = m->w + r * m->row_bytes;
	const uint32_t groups = kern_quant_groups(m->k);
	float acc[COLS][8] = {{0}};
	struct group g;

	for (uint32_t i = 0; i < groups; i++) {
		uint32_t left = m->k / KERN_QUANT_BLOCK - 8 * i;

		read_group(read, block_bytes, left < 8 ? left : 8, w + 8 * i * block_bytes, &g);
		for (uint32_t c = 0; c < cols; c++)
			add_group(has_min, has_halves, &g, x + (size_t)(c0 + c) * groups + i, acc[c]);
	}
	for (uint32_t c = 0; c < cols; c++) {
		const float *a = acc[c];

		m->y[(c0 + c) * m->ldy + r] =
		    ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
	}
}

static void mul_rows(const struct kern_mul *m, read_block *read, size_t block_bytes, bool has_min,
		     bool has_halves, const struct kern_q8 *x)
{
	for (uint32_t r = 0; r < m->rows; r++)
		for (uint32_t c = 0; c < m->cols; c += COLS)
			mul_row(m, read, block_bytes, has_min, has_halves, x, r, c,
				m->cols - c < COLS ? m->cols - c : COLS);
}

/* Name, bytes of a block of 32, whether it has a min, whether halves. */
#define QUANT_TYPES(X)                                                                                       \
	X(Q8_0, read_q8_0, 34, false, false)                                                                 \
	X(Q4_0, read_q4_0, 18, false, false)                                                                 \
	X(Q4_1, read_q4_1, 20, true, false)                                                                  \
	X(Q5_0, read_q5_0, 22, false, false)                                                                 \
	X(Q5_1, read_q5_1, 24, true, false)                                                                  \
	X(IQ4_NL, read_iq4_nl, 18, false, false)

#define QUANT_FUNCTION(T, read, bytes, has_min, has_halves)                                                  \
	static void mul_##T(const struct kern_mul *m, const struct kern_q8 *x)                               \
	{                                                                                                    \
		mul_rows(m, read, bytes, has_min, has_halves, x);                                            \
	}
#define QUANT_ENTRY(T, read, bytes, has_min, has_halves) {.dtype = GGUF_DT_##T, .mul = mul_##T},

QUANT_TYPES(QUANT_FUNCTION)

static const struct kern_quant types[] = {QUANT_TYPES(QUANT_ENTRY)};

/* Not a number and infinities give some q, never a conversion out of range. */
static int8_t round_to_q(float x)
{
	return (int8_t)(x >= 127 ? 127 : x <= -127 ? -127 : x > -127 ? (int)lrintf(x) : 0);
}

static void round_block(const float *x, struct kern_q8 *dst, uint32_t i)
{
	int8_t *q = dst->q[i % 4 * 2 + i / 4];
	float largest = 0, inv;
	int32_t sum[2] = {0};

	for (uint32_t j = 0; j < 32; j++)
		largest = fabsf(x[j]) > largest ? fabsf(x[j]) : largest;
	inv = largest > 1e-30f ? 127.0f / largest : 0; /* below, 127 / largest may overflow */
	for (uint32_t j = 0; j < 32; j++) {
		q[j] = round_to_q(x[j] * inv);
		sum[j / 16] += q[j];
	}
	dst->scale[i] = largest / 127.0f;
	dst->bias[i] = -128 * (sum[0] + sum[1]);
	dst->sum[i] = dst->scale[i] * (float)(sum[0] + sum[1]);
	for (int h = 0; h < 2; h++) {
		dst->half_bias[h][i] = -128 * sum[h];
		dst->half_sum[h][i] = dst->scale[i] * (float)sum[h];
	}
}

static void quantize(const float *x, uint32_t k, struct kern_q8 *dst)
{
	static const float zeros[KERN_QUANT_BLOCK];

	for (uint32_t b = 0; b < kern_quant_groups(k) * 8; b++)
		round_block(b < k / KERN_QUANT_BLOCK ? x + KERN_QUANT_BLOCK * b : zeros, dst + b / 8, b % 8);
}

const struct kern_quants kern_quants_portable = {
    .types = types, .n_types = sizeof(types) / sizeof(types[0]), .quantize = quantize};
