/* SPDX-License-Identifier: BSD-3-Clause */
/* Quantized weights with AVX-512 VNNI: 64 products an instruction. */
#include "accel/cpu/kern.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* vpdpbusd multiplies unsigned by signed bytes, so panels keep u; all offsets become 128, whose
 * product with the activations is kern_q8's bias. */
#define PANEL_ADD(t) (q_has_min(t) ? 0 : 128 - (128 >> q_offset_shift(t)))

#include "accel/cpu/kern_quant_x86.inc"

/*
 * The 16 bytes that stand `at` behind the start of a block, of block i in lanes 0 and 1, of block i + 4 in
 * lanes 2 and 3. Loads are what these kernels wait for, so blocks 0..2 come from one, and block 3 from
 * another that ends with it; blocks are whole words.
 */
INLINE __m512i q_pair_bytes(const uint8_t *g, const int block_bytes, const int at, int i)
{
	const int end = 2 * block_bytes + at + 16;
	const int start = i == 3 ? 4 * block_bytes - 64 : end > 64 ? end - 64 : 0;
	const __m512i lanes = _mm512_set_epi16(39, 38, 37, 36, 35, 34, 33, 32, 39, 38, 37, 36, 35, 34, 33, 32,
					       7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0);
	const __m512i words =
	    _mm512_add_epi16(lanes, _mm512_set1_epi16((short)((i * block_bytes + at - start) / 2)));

	return _mm512_permutex2var_epi16(_mm512_loadu_si512(g + start), words,
					 _mm512_loadu_si512(g + start + 4 * block_bytes));
}

/* The high nibbles (second half of a block) stay where they are, 16 times too much, since a shift of the
 * sums is cheaper than one of all values. */
INLINE bool q_high_in_place(enum gguf_dtype t)
{
	return t == GGUF_DT_Q4_0 || t == GGUF_DT_Q4_1;
}

INLINE __m512i q_pair_nibbles(const uint8_t *g, const int block_bytes, const int at, int i)
{
	const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);

	return _mm512_and_si512(_mm512_srlv_epi32(q_pair_bytes(g, block_bytes, at, i), shift),
				_mm512_set1_epi8(15));
}

/* With the fifth bits in the 4 bytes before the nibbles. */
INLINE __m512i q_pair_q5(const uint8_t *g, const int block_bytes, const int at, int i)
{
	__m512i v = q_pair_nibbles(g, block_bytes, at, i);
	uint32_t low, high;

	memcpy(&low, g + i * block_bytes + at - 4, 4);
	memcpy(&high, g + (i + 4) * block_bytes + at - 4, 4);
	return _mm512_mask_add_epi8(v, (__mmask64)high << 32 | low, v, _mm512_set1_epi8(16));
}

/* Blocks i and i + 4, as kern_q8 in rows has them. */
INLINE __m512i q_pair(enum gguf_dtype t, const uint8_t *g, int i)
{
	const __m512i nibbles =
	    _mm512_setr_epi64(0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, (long long)0xf0f0f0f0f0f0f0f0,
			      (long long)0xf0f0f0f0f0f0f0f0, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f,
			      (long long)0xf0f0f0f0f0f0f0f0, (long long)0xf0f0f0f0f0f0f0f0);

	switch (t) {
	case GGUF_DT_Q4_0:
		return _mm512_and_si512(q_pair_bytes(g, 18, 2, i), nibbles);
	case GGUF_DT_Q4_1:
		return _mm512_and_si512(q_pair_bytes(g, 20, 4, i), nibbles);
	case GGUF_DT_Q5_0:
		return q_pair_q5(g, 22, 6, i);
	case GGUF_DT_Q5_1:
		return q_pair_q5(g, 24, 8, i);
	case GGUF_DT_IQ4_NL:
		return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(q_iq4_nl_table()),
					   q_pair_nibbles(g, 18, 2, i));
	default:
		return _mm512_inserti64x4(_mm512_castsi256_si512(q_values(t, g, i)), q_values(t, g, i + 4),
					  1);
	}
}

/* 8 float16 values bytes apart, of blocks of 18 or 20 bytes: word 4 i of two vectors, the second of which
 * starts with block 4. */
INLINE __m256 q_halfs_permuted(const uint8_t *g, const int block_bytes, const int first)
{
	const int w = block_bytes / 2, f = first / 2, s = 32 + f;
	const __m128i words =
	    _mm_setr_epi16((short)f, (short)(f + w), (short)(f + 2 * w), (short)(f + 3 * w), (short)s,
			   (short)(s + w), (short)(s + 2 * w), (short)(s + 3 * w));
	__m512i v = _mm512_permutex2var_epi16(_mm512_loadu_si512(g), _mm512_castsi128_si512(words),
					      _mm512_loadu_si512(g + 4 * block_bytes));

	return _mm256_cvtph_ps(_mm512_castsi512_si128(v));
}

INLINE __m256 q_row_scales(enum gguf_dtype t, const uint8_t *g, int half)
{
	if (t == GGUF_DT_Q4_0 || t == GGUF_DT_IQ4_NL)
		return q_halfs_permuted(g, 18, 0);
	return t == GGUF_DT_Q4_1 ? q_halfs_permuted(g, 20, 0) : q_scales(t, g, half);
}

INLINE __m256 q_row_mins(enum gguf_dtype t, const uint8_t *g, int half)
{
	return t == GGUF_DT_Q4_1 ? q_halfs_permuted(g, 20, 2) : q_mins(t, g, half);
}

/*
 * Sums of 8 blocks from their products' 4 sums of 16 elements, in 4 vectors [block i, first half; second
 * half; block i + 4, first half; second half]: a transposition whose 128-bit lanes end as the first
 * halves of blocks 0..3, their second halves, the same of 4..7.
 */
INLINE void q_sums(const __m512i dot[4], __m256i half_out[2])
{
	__m512i a =
	    _mm512_add_epi32(_mm512_unpacklo_epi32(dot[0], dot[1]), _mm512_unpackhi_epi32(dot[0], dot[1]));
	__m512i b =
	    _mm512_add_epi32(_mm512_unpacklo_epi32(dot[2], dot[3]), _mm512_unpackhi_epi32(dot[2], dot[3]));
	__m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));

	s = _mm512_shuffle_i64x2(s, s, _MM_SHUFFLE(3, 1, 2, 0));
	half_out[0] = _mm512_castsi512_si256(s);
	half_out[1] = _mm512_extracti64x4_epi64(s, 1);
}

/* The sums of whole blocks, offsets taken off. */
INLINE __m256i q_block_sums(enum gguf_dtype t, const __m256i half[2], const struct kern_q8 *x)
{
	const int high = q_high_in_place(t) ? 4 : 0;
	__m256i s = half[1];

	if (!q_has_min(t))
		s = _mm256_add_epi32(s, _mm256_srai_epi32(_mm256_load_si256((const __m256i *)x->bias),
							  q_offset_shift(t) - high));
	return _mm256_add_epi32(half[0], _mm256_srai_epi32(s, high));
}

/* The same of one half of the blocks. */
INLINE __m256i q_half_sums(enum gguf_dtype t, __m256i s, const int32_t *bias)
{
	return q_has_min(t) ? s
			    : _mm256_add_epi32(s, _mm256_srai_epi32(_mm256_load_si256((const __m256i *)bias),
								    q_offset_shift(t)));
}

/* acc + isum * w_scale * x_scale (+ w_min * x_sum). */
INLINE __m256 q_add(enum gguf_dtype t, __m256 acc, __m256i isum, __m256 scale, const float *x_scale,
		    __m256 min, const float *x_sum)
{
	acc = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(isum), scale), _mm256_load_ps(x_scale), acc);
	return q_has_min(t) ? _mm256_fmadd_ps(min, _mm256_load_ps(x_sum), acc) : acc;
}

/* One group of a row times C columns, x_stride apart. */
INLINE void q_step(enum gguf_dtype t, const uint8_t *g, const struct kern_q8 *x, size_t x_stride, __m256 *acc,
		   const int C)
{
	const __m512i u[4] = {q_pair(t, g, 0), q_pair(t, g, 1), q_pair(t, g, 2), q_pair(t, g, 3)};
	const int H = q_has_halves(t) ? 2 : 1;
	__m256 scale[2], min[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};

#pragma GCC unroll 2
	for (int h = 0; h < H; h++) {
		scale[h] = q_row_scales(t, g, h);
		if (q_has_min(t))
			min[h] = q_row_mins(t, g, h);
	}
#pragma GCC unroll 4
	for (int j = 0; j < C; j++, x += x_stride) {
		__m512i dot[4];
		__m256i s[2];

#pragma GCC unroll 4
		for (int p = 0; p < 4; p++)
			dot[p] =
			    _mm512_dpbusd_epi32(_mm512_setzero_si512(), u[p], _mm512_load_si512(x->q[2 * p]));
		q_sums(dot, s);
		if (H == 1) {
			acc[j] = q_add(t, acc[j], q_block_sums(t, s, x), scale[0], x->scale, min[0], x->sum);
			continue;
		}
#pragma GCC unroll 2
		for (int h = 0; h < 2; h++)
			acc[j] = q_add(t, acc[j], q_half_sums(t, s[h], x->half_bias[h]), scale[h], x->scale,
				       min[h], x->half_sum[h]);
	}
}

/* The hardware's prefetch stops at the end of a page, which is felt where a page holds many weights: with
 * this 4-bit types went from 14.5 to 17.6 GB/s (a plain read: 20.5) on a Zen 4; of others none gained. */
#define PREFETCH_BYTES 6144

INLINE void q_prefetch(const uint8_t *w, size_t bytes)
{
	uintptr_t at = (uintptr_t)w + PREFETCH_BYTES;

#pragma GCC unroll 8
	for (size_t i = 0; i < bytes && bytes <= 160; i += 64)
		__builtin_prefetch((const void *)(at + i), 0, 2);
}

INLINE void q_tile(enum gguf_dtype t, const struct kern_mul *m, const struct kern_q8 *x, uint32_t r,
		   uint32_t c, const int C)
{
	const size_t bytes = q_group_bytes(t);
	const uint32_t whole = m->k / KERN_QUANT_GROUP, groups = kern_quant_groups(m->k);
	const uint8_t *w = m->w + r * m->row_bytes;
	const struct kern_q8 *xc = x + (size_t)c * groups;
	__m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};

	for (uint32_t g = 0; g < whole; g++) {
		q_prefetch(w + g * bytes, bytes);
		q_step(t, w + g * bytes, xc + g, groups, acc, C);
	}
	if (whole < groups) {
		uint8_t tail[Q_MAX_GROUP_BYTES] = {0};

		memcpy(tail, w + whole * bytes, m->row_bytes - whole * bytes);
		q_step(t, tail, xc + whole, groups, acc, C);
	}
#pragma GCC unroll 4
	for (int j = 0; j < C; j++)
		m->y[(c + (uint32_t)j) * m->ldy + r] = q_reduce(acc[j]);
}

INLINE void q_mul(enum gguf_dtype t, const struct kern_mul *m, const struct kern_q8 *x)
{
	for (uint32_t r = 0; r < m->rows; r++) {
		uint32_t c = 0;

		for (; c + 4 <= m->cols; c += 4)
			q_tile(t, m, x, r, c, 4);
		for (; c + 2 <= m->cols; c += 2)
			q_tile(t, m, x, r, c, 2);
		if (c < m->cols)
			q_tile(t, m, x, r, c, 1);
	}
}

/* A block of 16 rows (of the half h, if there are) times 8 columns: 8 vectors of exact sums. */
INLINE void q_panel_dot(enum gguf_dtype t, const uint8_t *p, const struct kern_q8 *x, int h, __m512i *dot)
{
	const int first = h == 1 ? 4 : 0, n = q_has_halves(t) ? 4 : 8;
	const int32_t *bias = q_has_halves(t) ? x->half_bias[h] : x->bias;

#pragma GCC unroll 8
	for (int c = 0; c < 8; c++)
		dot[c] = q_has_min(t) ? _mm512_setzero_si512() : _mm512_set1_epi32(bias[c]);
#pragma GCC unroll 8
	for (int i = first; i < first + n; i++) {
		__m512i w = _mm512_load_si512(p + 64 * i);

#pragma GCC unroll 8
		for (int c = 0; c < 8; c++) {
			int32_t q4;

			memcpy(&q4, x->q[c] + 4 * i, sizeof(q4));
			dot[c] = _mm512_dpbusd_epi32(dot[c], w, _mm512_set1_epi32(q4));
		}
	}
}

INLINE void q_panel_block(enum gguf_dtype t, const uint8_t *p, const struct kern_q8 *x, __m512 *acc)
{
	const int H = q_has_halves(t) ? 2 : 1;

#pragma GCC unroll 2
	for (int h = 0; h < H; h++) {
		__m512 scale = _mm512_load_ps(p + 512 + 64 * h);
		const float *sum = H == 2 ? x->half_sum[h] : x->sum;
		__m512i dot[8];

		q_panel_dot(t, p, x, h, dot);
#pragma GCC unroll 8
		for (int c = 0; c < 8; c++)
			acc[c] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[c]), scale),
						 _mm512_set1_ps(x->scale[c]), acc[c]);
		if (q_has_min(t)) {
			__m512 min = _mm512_load_ps(p + 512 + 64 * (H + h));

#pragma GCC unroll 8
			for (int c = 0; c < 8; c++)
				acc[c] = _mm512_fmadd_ps(min, _mm512_set1_ps(sum[c]), acc[c]);
		}
	}
}

/* 16 rows times 8 columns, of which `cols` are there. */
INLINE void q_panel_tile(enum gguf_dtype t, const struct kern_mul *m, const uint8_t *panel,
			 const struct kern_q8 *x, uint32_t c0, uint32_t cols)
{
	const size_t bytes = q_panel_block_bytes(t);
	const uint32_t groups = kern_quant_groups(m->k);
	const __mmask16 rows = (__mmask16)((1u << m->rows) - 1);
	__m512 level[Q_LEVELS][8];
	uint32_t n_levels = 0;

	for (uint32_t j = 0; j < 8; j++) {
		__m512 acc[8];

#pragma GCC unroll 8
		for (int c = 0; c < 8; c++)
			acc[c] = _mm512_setzero_ps();
		for (uint32_t g = 0; g < groups; g++, panel += bytes, x++)
			q_panel_block(t, panel, x, acc);
#pragma GCC unroll 8
		for (int c = 0; c < 8; c++)
			level[n_levels][c] = acc[c];
		n_levels++;
		for (uint32_t n = j + 1; n % 2 == 0; n /= 2, n_levels--)
			for (int c = 0; c < 8; c++)
				level[n_levels - 2][c] =
				    _mm512_add_ps(level[n_levels - 2][c], level[n_levels - 1][c]);
	}
	for (uint32_t c = 0; c < cols; c++)
		_mm512_mask_storeu_ps(m->y + (c0 + c) * m->ldy, rows, level[0][c]);
}

INLINE void q_mul_panel(enum gguf_dtype t, const struct kern_mul *m, const uint8_t *panel,
			const struct kern_q8 *x)
{
	for (uint32_t c = 0; c < m->cols; c += 8, x += (size_t)8 * kern_quant_groups(m->k))
		q_panel_tile(t, m, panel, x, c, m->cols - c < 8 ? m->cols - c : 8);
}

QUANT_TABLE(kern_quants_vnni);
