/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_CPU_KERN_K_X86_H
#define PENSTOCK_ACCEL_CPU_KERN_K_X86_H
/*
 * The formats of the K types in vectors of 256 bits: what both ways of
 * kern_k_x86.c read blocks with. Every function that takes a type is expanded
 * with a constant for it. accel/kquant.c is the plain reading of the same formats.
 */
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "model/gguf.h"

#define INLINE static inline __attribute__((always_inline))

INLINE size_t k_bytes(enum gguf_dtype t)
{
	return t == GGUF_DT_Q2_K   ? 84
	       : t == GGUF_DT_Q3_K ? 110
	       : t == GGUF_DT_Q4_K ? 144
	       : t == GGUF_DT_Q5_K ? 176
				   : 210;
}

/* d * scale * q - dmin * min, instead of d * scale * (q - offset). */
INLINE bool k_has_min(enum gguf_dtype t)
{
	return t == GGUF_DT_Q2_K || t == GGUF_DT_Q4_K || t == GGUF_DT_Q5_K;
}

/* Runs of 32 elements have a scale, instead of 16. */
INLINE bool k_wide_runs(enum gguf_dtype t)
{
	return t == GGUF_DT_Q4_K || t == GGUF_DT_Q5_K;
}

/* The offset of types without minima is 1 << this. */
INLINE int k_offset_shift(enum gguf_dtype t)
{
	return t == GGUF_DT_Q3_K ? 2 : 5;
}

/* Where d is; dmin follows it. */
INLINE size_t k_d_at(enum gguf_dtype t)
{
	return t == GGUF_DT_Q2_K ? 80 : t == GGUF_DT_Q3_K ? 108 : t == GGUF_DT_Q6_K ? 208 : 0;
}

INLINE __m256i k_load(const uint8_t *p)
{
	return _mm256_loadu_si256((const __m256i_u *)p);
}

/* Bits [from, from + n) of each byte, moved to bit `to`. */
INLINE __m256i k_bits(__m256i v, int from, int n, int to)
{
	v = from > to ? _mm256_srli_epi16(v, from - to) : from < to ? _mm256_slli_epi16(v, to - from) : v;
	return _mm256_and_si256(v, _mm256_set1_epi8((char)(((1 << n) - 1) << to)));
}

/* The elements 32 v to 32 v + 31, unsigned. */
INLINE __m256i k_codes(enum gguf_dtype t, const uint8_t *src, int v)
{
	switch (t) {
	case GGUF_DT_Q2_K:
		return k_bits(k_load(src + 16 + v / 4 * 32), v % 4 * 2, 2, 0);
	case GGUF_DT_Q3_K:
		return _mm256_or_si256(k_bits(k_load(src + 32 + v / 4 * 32), v % 4 * 2, 2, 0),
				       k_bits(k_load(src), v, 1, 2));
	case GGUF_DT_Q4_K:
		return k_bits(k_load(src + 16 + v / 2 * 32), v % 2 * 4, 4, 0);
	case GGUF_DT_Q5_K:
		return _mm256_or_si256(k_bits(k_load(src + 48 + v / 2 * 32), v % 2 * 4, 4, 0),
				       k_bits(k_load(src + 16), v, 1, 4));
	default:
		return _mm256_or_si256(k_bits(k_load(src + v / 4 * 64 + v % 2 * 32), v % 4 / 2 * 4, 4, 0),
				       k_bits(k_load(src + 128 + v / 4 * 32), v % 4 * 2, 2, 4));
	}
}

/* Scales or minima of the 16 runs as 16-bit integers: those of the even runs in the lower half, of the odd
 * ones in the upper. */
struct k_scales {
	__m256i scale, min;
};

INLINE __m128i k_even_odd(__m128i bytes)
{
	return _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

INLINE struct k_scales k_scales_q2(const uint8_t *src)
{
	__m128i v = k_even_odd(_mm_loadu_si128((const __m128i_u *)src));
	__m128i low = _mm_set1_epi8(15);

	return (struct k_scales){_mm256_cvtepu8_epi16(_mm_and_si128(v, low)),
				 _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(v, 4), low))};
}

INLINE struct k_scales k_scales_q3(const uint8_t *src)
{
	uint64_t low, lo, hi;
	uint32_t high;
	__m128i v;

	memcpy(&low, src + 96, 8);
	memcpy(&high, src + 104, 4);
	lo = (uint64_t)(high >> 2 & 0x03030303) << 32 | (high & 0x03030303);
	hi = (uint64_t)(high >> 6 & 0x03030303) << 32 | (high >> 4 & 0x03030303);
	lo = (low & 0x0f0f0f0f0f0f0f0f) | lo << 4;
	hi = (low >> 4 & 0x0f0f0f0f0f0f0f0f) | hi << 4;
	v = k_even_odd(_mm_set_epi64x((long long)hi, (long long)lo));
	return (struct k_scales){_mm256_cvtepi8_epi16(_mm_sub_epi8(v, _mm_set1_epi8(32))),
				 _mm256_setzero_si256()};
}

/* Of Q4_K and Q5_K: runs of 32, the same in both halves. */
INLINE struct k_scales k_scales_q4(const uint8_t *src)
{
	uint32_t a, b, c;
	uint64_t scale, min;

	memcpy(&a, src + 4, 4);
	memcpy(&b, src + 8, 4);
	memcpy(&c, src + 12, 4);
	scale = (uint64_t)((c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)) << 32 | (a & 0x3f3f3f3f);
	min = (uint64_t)((c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)) << 32 | (b & 0x3f3f3f3f);
	return (struct k_scales){
	    _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)scale))),
	    _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)min)))};
}

INLINE struct k_scales k_scales_of(enum gguf_dtype t, const uint8_t *src)
{
	if (t == GGUF_DT_Q2_K)
		return k_scales_q2(src);
	if (t == GGUF_DT_Q3_K)
		return k_scales_q3(src);
	if (k_wide_runs(t))
		return k_scales_q4(src);
	return (struct k_scales){
	    _mm256_cvtepi8_epi16(k_even_odd(_mm_loadu_si128((const __m128i_u *)(src + 192)))),
	    _mm256_setzero_si256()};
}

/* The scale of each pair of bytes of k_codes(v). */
INLINE __m256i k_scale_of_codes(__m256i scales, int v)
{
	return _mm256_shuffle_epi8(scales, _mm256_set1_epi16((short)(0x0100 + 0x0202 * v)));
}

/* float16 values of R rows, the others 0. */
INLINE __m128 k_halfs(const uint8_t *p, size_t row_bytes, const int R)
{
	uint64_t h[4] = {0};

#pragma GCC unroll 4
	for (int i = 0; i < R; i++) {
		uint16_t v;

		memcpy(&v, p + (size_t)i * row_bytes, sizeof(v));
		h[i] = v;
	}
	return _mm_cvtph_ps(_mm_cvtsi64_si128((long long)(h[0] | h[1] << 16 | h[2] << 32 | h[3] << 48)));
}

/* The sums of the 8 lanes of each. */
INLINE __m128i k_reduce4(__m256i a, __m256i b, __m256i c, __m256i d)
{
	__m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
	__m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
	__m256i s = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));

	return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

#endif
