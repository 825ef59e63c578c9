/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernels of kern_k.h for x86. Compiled three times: for AVX2 and FMA, for
 * AVX-512 (F, BW, DQ, VL; KERN_K_AVX512), and for that with VNNI
 * (KERN_K_VNNI). Rows straight from the file are read in vectors of 256 bits by all of
 * them: there memory is what is waited for. Panels are as wide as the
 * instruction set has vectors.
 */
#include "accel/cpu/kern_k.h"

#include <float.h>
#include <math.h>

#include "accel/cpu/kern.h"
#include "accel/cpu/kern_k_x86.h"

#define FEW_TILE 4 /* columns that share what a row's block was decoded to */

/* ---- activations ---------------------------------------------------------------------------- */

/* The largest magnitude; NaN if any is not finite. */
static float k_largest(const float *x)
{
	const __m256 sign = _mm256_set1_ps(-0.0f);
	__m256 max = _mm256_setzero_ps(), rest = _mm256_setzero_ps();
	__m128 m, r;

	for (uint32_t i = 0; i < KERN_K_BLOCK; i += 8) {
		__m256 v = _mm256_loadu_ps(x + i);

		max = _mm256_max_ps(max, _mm256_andnot_ps(sign, v));
		rest = _mm256_add_ps(rest, _mm256_sub_ps(v, v)); /* 0, or NaN */
	}
	m = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
	m = _mm_max_ps(m, _mm_movehl_ps(m, m));
	m = _mm_max_ss(m, _mm_movehdup_ps(m));
	r = _mm_add_ps(_mm256_castps256_ps128(rest), _mm256_extractf128_ps(rest, 1));
	r = _mm_add_ps(r, _mm_movehl_ps(r, r));
	return _mm_cvtss_f32(_mm_add_ss(m, _mm_add_ss(r, _mm_movehdup_ps(r))));
}

/* The runs 2 v and 2 v + 1. */
INLINE void k_round_32(const float *x, __m256 inv, int v, struct kern_k_act *dst)
{
	__m256i i[4], q, s;
	int32_t lo, hi;

#pragma GCC unroll 4
	for (int j = 0; j < 4; j++)
		i[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * j), inv));
	q = _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3]));
	q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
	_mm256_storeu_si256((__m256i_u *)(dst->q + 32 * v), q);
	s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
	s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
	s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
	lo = _mm256_extract_epi32(s, 0);
	hi = _mm256_extract_epi32(s, 4);
	dst->offset[2 * v] = -32 * lo;
	dst->offset[2 * v + 1] = -32 * hi;
	dst->sum[0][v] = (int16_t)lo;
	dst->sum[1][v] = (int16_t)hi;
	dst->sum_pair[v] = (int16_t)(lo + hi);
}

static void quantize_k(const float *x, uint32_t k, struct kern_k_act *dst, size_t stride)
{
	for (uint32_t b = 0; b < k / KERN_K_BLOCK; b++, x += KERN_K_BLOCK, dst += stride) {
		float largest = k_largest(x);
		/* Below, 127 / largest may overflow. */
		float inv = largest > 1e-30f ? 127.0f / largest : 0;

		if (!(largest <= FLT_MAX)) {
			memset(dst, 0, sizeof(*dst));
			dst->scale = NAN;
			continue;
		}
		dst->scale = largest / 127.0f;
		for (int v = 0; v < 8; v++)
			k_round_32(x + 32 * v, _mm256_set1_ps(inv), v, dst);
	}
}

/* ---- few columns: rows as they are in the file ---------------------------------------------------- */

INLINE __m256i k_dot_pairs(__m256i acc, __m256i a, __m256i b)
{
#ifdef KERN_K_VNNI
	return _mm256_dpwssd_epi32(acc, a, b);
#else
	return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
#endif
}

/* isum and msum of one row's block and C columns, each as 8 lanes to be added. Sums of 2 products fit 16
 * bits: 2 * 63 * 127. */
INLINE void k_block(enum gguf_dtype t, const uint8_t *src, const struct kern_k_act *x, const int C,
		    __m256i *isum, __m256i *msum)
{
	struct k_scales s = k_scales_of(t, src);

#pragma GCC unroll 4
	for (int j = 0; j < C; j++) {
		__m256i sums = _mm256_loadu_si256((const __m256i_u *)x[j].sum);

		isum[j] = _mm256_setzero_si256();
		if (k_has_min(t))
			msum[j] = _mm256_madd_epi16(s.min, sums);
		else /* -offset times the sum, of which the codes have the offset too much */
			isum[j] = _mm256_sub_epi32(
			    isum[j], _mm256_slli_epi32(_mm256_madd_epi16(s.scale, sums), k_offset_shift(t)));
	}
#pragma GCC unroll 8
	for (int v = 0; v < 8; v++) {
		__m256i codes = k_codes(t, src, v), scale = k_scale_of_codes(s.scale, v);

#pragma GCC unroll 4
		for (int j = 0; j < C; j++) {
			__m256i q = _mm256_loadu_si256((const __m256i_u *)(x[j].q + 32 * v));

			isum[j] = k_dot_pairs(isum[j], _mm256_maddubs_epi16(codes, q), scale);
		}
	}
}

/* The hardware sees four short streams, and loses each at its end: the 4 rows after these are asked for in
 * the order of their addresses. */
INLINE void k_prefetch(const uint8_t *w, size_t row_bytes, size_t offset, const size_t bytes)
{
	uintptr_t at = (uintptr_t)w + 4 * (row_bytes + offset);

#pragma GCC unroll 16
	for (size_t i = 0; i < 4 * bytes; i += 64)
		__builtin_prefetch((const void *)(at + i), 0, 2);
}

INLINE void k_few_tile(enum gguf_dtype t, const struct kern_mul *m, const struct kern_k_act *x, uint32_t r,
		       uint32_t c, const int R, const int C)
{
	const uint8_t *rows = m->w + r * m->row_bytes;
	__m128 acc[FEW_TILE];

#pragma GCC unroll 4
	for (int j = 0; j < C; j++)
		acc[j] = _mm_setzero_ps();
	for (uint32_t b = 0; b < m->k / KERN_K_BLOCK; b++) {
		const struct kern_k_act *xb = x + b * m->ldx + c;
		const uint8_t *w = rows + b * k_bytes(t);
		__m256i isum[4][FEW_TILE], msum[4][FEW_TILE];
		__m128 d = k_halfs(w + k_d_at(t), m->row_bytes, R);
		__m128 dmin = k_has_min(t) ? k_halfs(w + k_d_at(t) + 2, m->row_bytes, R) : d;

		if (R == 4 && c == 0)
			k_prefetch(rows, m->row_bytes, b * k_bytes(t), k_bytes(t));
#pragma GCC unroll 4
		for (int i = 0; i < R; i++)
			k_block(t, w + (size_t)i * m->row_bytes, xb, C, isum[i], msum[i]);
#pragma GCC unroll 4
		for (int j = 0; j < C; j++) {
			__m128 xs = _mm_set1_ps(xb[j].scale);
			__m128i s = k_reduce4(isum[0][j], isum[R > 1 ? 1 : 0][j], isum[R > 2 ? 2 : 0][j],
					      isum[R > 3 ? 3 : 0][j]);

			acc[j] = _mm_fmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(d, xs), acc[j]);
			if (!k_has_min(t))
				continue;
			s = k_reduce4(msum[0][j], msum[R > 1 ? 1 : 0][j], msum[R > 2 ? 2 : 0][j],
				      msum[R > 3 ? 3 : 0][j]);
			acc[j] = _mm_fnmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(dmin, xs), acc[j]);
		}
	}
#pragma GCC unroll 4
	for (int j = 0; j < C; j++) {
		float *y = m->y + (c + (uint32_t)j) * m->ldy + r;

		if (R == 4)
			_mm_storeu_ps(y, acc[j]);
		else
			_mm_store_ss(y, acc[j]);
	}
}

INLINE void k_few_rows(enum gguf_dtype t, const struct kern_mul *m, const struct kern_k_act *x, uint32_t r,
		       const int R)
{
	uint32_t c = 0;

	for (; c + FEW_TILE <= m->cols; c += FEW_TILE)
		k_few_tile(t, m, x, r, c, R, FEW_TILE);
	if (m->cols - c == 3)
		k_few_tile(t, m, x, r, c, R, 3);
	else if (m->cols - c == 2)
		k_few_tile(t, m, x, r, c, R, 2);
	else if (m->cols - c == 1)
		k_few_tile(t, m, x, r, c, R, 1);
}

INLINE void k_few(enum gguf_dtype t, const struct kern_mul *m, const struct kern_k_act *x)
{
	uint32_t r = 0;

	for (; r + 4 <= m->rows; r += 4)
		k_few_rows(t, m, x, r, 4);
	for (; r < m->rows; r++)
		k_few_rows(t, m, x, r, 1);
}

#include "accel/cpu/kern_k_panel.inc"

#define K_KERNEL(T, name)                                                                                    \
	static void mul_##name(const struct kern_mul *m, const struct kern_k_act *x, void *scratch)          \
	{                                                                                                    \
		if (m->cols <= FEW_COLS)                                                                     \
			k_few(T, m, x);                                                                      \
		else                                                                                         \
			k_panels(T, m, x, scratch);                                                          \
	}

K_KERNEL(GGUF_DT_Q2_K, q2_k)
K_KERNEL(GGUF_DT_Q3_K, q3_k)
K_KERNEL(GGUF_DT_Q4_K, q4_k)
K_KERNEL(GGUF_DT_Q5_K, q5_k)
K_KERNEL(GGUF_DT_Q6_K, q6_k)

#if defined(KERN_K_VNNI)
#define TABLE kern_k_avx512_vnni
#elif defined(KERN_K_AVX512)
#define TABLE kern_k_avx512
#else
#define TABLE kern_k_avx2
#endif

const struct kern_k TABLE = {
    .quantize = quantize_k,
    .mul_q2_k = mul_q2_k,
    .mul_q3_k = mul_q3_k,
    .mul_q4_k = mul_q4_k,
    .mul_q5_k = mul_q5_k,
    .mul_q6_k = mul_q6_k,
};
