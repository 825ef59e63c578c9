/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Quantized weights with AVX2. vpmaddubsw adds pairs of unsigned times signed
 * bytes in 16 bits, where 2 * 255 * 127 has no room: weights of up to 6 bits
 * go in as they are, those of 8 as |w| with their sign moved to the
 * activation, 2 * 128 * 127 = 32512 at most.
 */
#include "accel/cpu/kern.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Values of 8 bits become w itself; others stay u. */
#define PANEL_ADD(t) (q_max(t) == 255 ? 128 : 0)

#include "accel/cpu/kern_quant_x86.inc"

INLINE bool q_is_signed(enum gguf_dtype t)
{
	return q_max(t) == 255;
}

/* Sums of pairs of products; abs_w is |w| where values are signed. */
INLINE __m256i q_pairs(enum gguf_dtype t, __m256i w, __m256i abs_w, __m256i x)
{
	return q_is_signed(t) ? _mm256_maddubs_epi16(abs_w, _mm256_sign_epi8(x, w))
			      : _mm256_maddubs_epi16(w, x);
}

/* Sums of 8 blocks of which `dot` has 4 sums of the first half and 4 of the second. */
INLINE void q_sums(const __m256i dot[8], __m256i half_out[2])
{
	__m256i a[4], b[2];

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		a[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(dot[2 * i], dot[2 * i + 1]),
					_mm256_unpackhi_epi32(dot[2 * i], dot[2 * i + 1]));
#pragma GCC unroll 2
	for (int i = 0; i < 2; i++)
		b[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
					_mm256_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
	half_out[0] = _mm256_permute2x128_si256(b[0], b[1], 0x20);
	half_out[1] = _mm256_permute2x128_si256(b[0], b[1], 0x31);
}

INLINE __m256 q_add(enum gguf_dtype t, __m256 acc, __m256i isum, const int32_t *bias, __m256 scale,
		    const float *x_scale, __m256 min, const float *x_sum)
{
	if (!q_has_min(t) && !q_is_signed(t))
		isum = _mm256_add_epi32(
		    isum, _mm256_srai_epi32(_mm256_load_si256((const __m256i *)bias), q_offset_shift(t)));
	acc = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(isum), scale), _mm256_load_ps(x_scale), acc);
	return q_has_min(t) ? _mm256_fmadd_ps(min, _mm256_load_ps(x_sum), acc) : acc;
}

/* One group of a row times one column. */
INLINE __m256 q_step(enum gguf_dtype t, const uint8_t *g, const struct kern_q8 *x, __m256 acc)
{
	const int H = q_has_halves(t) ? 2 : 1;
	__m256i dot[8], s[2];

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++) {
		__m256i w = q_panel_values(t, g, i);

		dot[i] =
		    _mm256_madd_epi16(q_pairs(t, w, _mm256_abs_epi8(w),
					      _mm256_load_si256((const __m256i *)x->q[i % 4 * 2 + i / 4])),
				      _mm256_set1_epi16(1));
	}
	q_sums(dot, s);
	if (H == 1)
		return q_add(t, acc, _mm256_add_epi32(s[0], s[1]), x->bias, q_scales(t, g, 0), x->scale,
			     q_has_min(t) ? q_mins(t, g, 0) : _mm256_setzero_ps(), x->sum);
#pragma GCC unroll 2
	for (int h = 0; h < 2; h++)
		acc = q_add(t, acc, s[h], x->half_bias[h], q_scales(t, g, h), x->scale,
			    q_has_min(t) ? q_mins(t, g, h) : _mm256_setzero_ps(), x->half_sum[h]);
	return acc;
}

INLINE void q_mul(enum gguf_dtype t, const struct kern_mul *m, const struct kern_q8 *x)
{
	const size_t bytes = q_group_bytes(t);
	const uint32_t whole = m->k / KERN_QUANT_GROUP, groups = kern_quant_groups(m->k);

	for (uint32_t r = 0; r < m->rows; r++) {
		const uint8_t *w = m->w + r * m->row_bytes;
		uint8_t tail[Q_MAX_GROUP_BYTES] = {0};

		if (whole < groups)
			memcpy(tail, w + whole * bytes, m->row_bytes - whole * bytes);
		for (uint32_t c = 0; c < m->cols; c++) {
			const struct kern_q8 *xc = x + (size_t)c * groups;
			__m256 acc = _mm256_setzero_ps();

			for (uint32_t g = 0; g < whole; g++)
				acc = q_step(t, w + g * bytes, xc + g, acc);
			if (whole < groups)
				acc = q_step(t, tail, xc + whole, acc);
			m->y[c * m->ldy + r] = q_reduce(acc);
		}
	}
}

INLINE __m256i q_x4(const struct kern_q8 *x, int c, int i)
{
	int32_t q4;

	memcpy(&q4, x->q[c] + 4 * i, sizeof(q4));
	return _mm256_set1_epi32(q4);
}

/* A block of 8 rows (of the half h, if there are) times 4 columns from c0: 4 vectors of exact sums. */
INLINE void q_panel_dot(enum gguf_dtype t, const uint8_t *p, const struct kern_q8 *x, int c0, int h,
			__m256i *dot)
{
	const int first = h == 1 ? 4 : 0, n = q_has_halves(t) ? 4 : 8;
	/* How many pair sums 16 bits hold. */
	const int together = q_is_signed(t) ? 1 : q_max(t) > 31 ? 2 : 4;
	const int32_t *bias = q_has_halves(t) ? x->half_bias[h] : x->bias;

#pragma GCC unroll 4
	for (int c = 0; c < 4; c++)
		dot[c] = q_has_min(t) || q_is_signed(t)
			     ? _mm256_setzero_si256()
			     : _mm256_srai_epi32(_mm256_set1_epi32(bias[c0 + c]), q_offset_shift(t));
#pragma GCC unroll 8
	for (int i = first; i < first + n; i += together) {
		__m256i pairs[4];

#pragma GCC unroll 4
		for (int j = 0; j < together; j++) {
			__m256i w = _mm256_load_si256((const __m256i *)(p + 64 * (i + j)));
			__m256i abs_w = _mm256_abs_epi8(w);

#pragma GCC unroll 4
			for (int c = 0; c < 4; c++) {
				__m256i v = q_pairs(t, w, abs_w, q_x4(x, c0 + c, i + j));

				pairs[c] = j == 0 ? v : _mm256_add_epi16(pairs[c], v);
			}
		}
#pragma GCC unroll 4
		for (int c = 0; c < 4; c++)
			dot[c] = _mm256_add_epi32(dot[c], _mm256_madd_epi16(pairs[c], _mm256_set1_epi16(1)));
	}
}

INLINE void q_panel_block(enum gguf_dtype t, const uint8_t *p, const struct kern_q8 *x, int c0, __m256 *acc)
{
	const int H = q_has_halves(t) ? 2 : 1;

#pragma GCC unroll 2
	for (int h = 0; h < H; h++) {
		__m256 scale = _mm256_load_ps((const float *)(const void *)(p + 512 + 64 * h));
		const float *sum = H == 2 ? x->half_sum[h] : x->sum;
		__m256i dot[4];

		q_panel_dot(t, p, x, c0, h, dot);
#pragma GCC unroll 4
		for (int c = 0; c < 4; c++)
			acc[c] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot[c]), scale),
						 _mm256_set1_ps(x->scale[c0 + c]), acc[c]);
		if (q_has_min(t)) {
			__m256 min = _mm256_load_ps((const float *)(const void *)(p + 512 + 64 * (H + h)));

#pragma GCC unroll 4
			for (int c = 0; c < 4; c++)
				acc[c] = _mm256_fmadd_ps(min, _mm256_set1_ps(sum[c0 + c]), acc[c]);
		}
	}
}

/* 8 rows from row r times 4 columns from column c0 of x's 8; results to out [4][8]. */
INLINE void q_panel_tile(enum gguf_dtype t, uint32_t groups, const uint8_t *panel, const struct kern_q8 *x,
			 uint32_t r, int c0, float (*out)[8])
{
	const size_t bytes = q_panel_block_bytes(t);
	__m256 level[Q_LEVELS][4];
	uint32_t n_levels = 0;

	panel += 4 * r;
	for (uint32_t j = 0; j < 8; j++) {
		__m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
				 _mm256_setzero_ps()};

		for (uint32_t g = 0; g < groups; g++, panel += bytes, x++)
			q_panel_block(t, panel, x, c0, acc);
#pragma GCC unroll 4
		for (int c = 0; c < 4; c++)
			level[n_levels][c] = acc[c];
		n_levels++;
		for (uint32_t n = j + 1; n % 2 == 0; n /= 2, n_levels--)
			for (int c = 0; c < 4; c++)
				level[n_levels - 2][c] =
				    _mm256_add_ps(level[n_levels - 2][c], level[n_levels - 1][c]);
	}
	for (int c = 0; c < 4; c++)
		_mm256_storeu_ps(out[c], level[0][c]);
}

INLINE void q_mul_panel(enum gguf_dtype t, const struct kern_mul *m, const uint8_t *panel,
			const struct kern_q8 *x)
{
	uint32_t groups = kern_quant_groups(m->k);

	for (uint32_t c = 0; c < m->cols; c += 4) {
		for (uint32_t r = 0; r < m->rows; r += 8) {
			uint32_t rows = m->rows - r < 8 ? m->rows - r : 8;
			float out[4][8];

			q_panel_tile(t, groups, panel, x + (size_t)(c / 8) * 8 * groups, r, (int)(c % 8),
				     out);
			for (uint32_t j = 0; j < 4 && c + j < m->cols; j++)
				memcpy(m->y + (c + j) * m->ldy + r, out[j], rows * sizeof(float));
		}
	}
}

QUANT_TABLE(kern_quants_avx2);
