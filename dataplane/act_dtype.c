/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The loops are plain C that the compiler vectorises; they are compiled twice,
 * for any machine and for AVX2, and hold no operation whose result depends on it
 * (no contraction, no reassociation of floats). Only rows to float16 use the
 * machine's own conversion where there is one (39 instead of 2.5 GB/s of float32).
 */
#include "dataplane/act_dtype.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/check.h"

#define INLINE static inline __attribute__((always_inline))

/* Bits of float32. */
#define F32_INF      0x7f800000u
#define F16_MAX_BITS 0x477fe000u /* 65504 */
#define F16_MIN_BITS 0x38800000u /* 2^-14, the smallest normal float16 */
#define BF16_MAX     0x7f7f0000u /* the largest bfloat16 */
#define F16_MAX      65504.0f
#define F16_NAN      0x7e00u
/* 1.5 * 2^23: in a sum with it a float's fraction is rounded away, to nearest even. */
#define ROUND_MAGIC 12582912.0f
#define ROUND_BITS  0x4b400000

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "messages are little-endian");

INLINE uint32_t bits_of(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

INLINE float float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

/* Both forms of the result are computed and one is taken, so that a loop over it has no branches. */
INLINE uint16_t f16_of(float x, uint32_t *cut)
{
	uint32_t bits = bits_of(x), a = bits & 0x7fffffffu;
	uint32_t over = a > F16_MAX_BITS && a < F32_INF;
	uint32_t normal, small, special, h;

	*cut += over;
	a = over ? F16_MAX_BITS : a;
	normal = (a + 0xfffu + (a >> 13 & 1u) - (112u << 23)) >> 13;
	/* The last place of 0.5 in float32 is that of the subnormals of float16, 2^-24. */
	small = bits_of(float_of(a) + 0.5f) - 0x3f000000u;
	special = a > F32_INF ? F16_NAN | (a >> 13 & 0x3ffu) : 0x7c00u;
	h = a < F16_MIN_BITS ? small : normal;
	h = a >= F32_INF ? special : h;
	return (uint16_t)(h | (bits >> 16 & 0x8000u));
}

INLINE float float_of_f16(uint16_t h)
{
	uint32_t a = (uint32_t)(h & 0x7fffu) << 13;
	uint32_t special = (h & 0x7c00u) == 0x7c00u;
	/* The exponent's bias is made right by a product, which is exact for subnormals too. */
	uint32_t scaled = bits_of(float_of(a) * 0x1p112f);
	/* A NaN comes out quiet, as the hardware's conversion gives it. */
	uint32_t quiet = (h & 0x3ffu) != 0 ? 0x400000u : 0u;

	return float_of((special ? a | F32_INF | quiet : scaled) | (uint32_t)(h & 0x8000u) << 16);
}

INLINE uint16_t bf16_of(float x, uint32_t *cut)
{
	uint32_t bits = bits_of(x), a = bits & 0x7fffffffu;
	uint32_t over = a > BF16_MAX && a < F32_INF;
	uint32_t rounded;

	*cut += over;
	a = over ? BF16_MAX : a;
	rounded = a > F32_INF ? a | 0x400000u : a == F32_INF ? a : a + 0x7fffu + (a >> 16 & 1u);
	return (uint16_t)(rounded >> 16 | (bits >> 16 & 0x8000u));
}

INLINE uint64_t encode_f16(const float *src, size_t n, uint8_t *dst)
{
	uint64_t total = 0;
	size_t at, i;

	/* In pieces, so that the loop's counter is as wide as its elements. */
	for (at = 0; at < n; at += 4096) {
		size_t piece = n - at < 4096 ? n - at : 4096;
		uint32_t cut = 0;

		for (i = 0; i < piece; i++) {
			uint16_t h = f16_of(src[at + i], &cut);

			memcpy(dst + 2 * (at + i), &h, sizeof(h));
		}
		total += cut;
	}
	return total;
}

INLINE uint64_t encode_bf16(const float *src, size_t n, uint8_t *dst)
{
	uint64_t total = 0;
	size_t at, i;

	for (at = 0; at < n; at += 4096) {
		size_t piece = n - at < 4096 ? n - at : 4096;
		uint32_t cut = 0;

		for (i = 0; i < piece; i++) {
			uint16_t h = bf16_of(src[at + i], &cut);

			memcpy(dst + 2 * (at + i), &h, sizeof(h));
		}
		total += cut;
	}
	return total;
}

/* The scale of a block whose largest magnitude has the bits `a`. Rounded to float16 it may be too small to
 * reach that value in 127 steps and a half: then it is the next one. */
INLINE uint16_t q8_scale(uint32_t a)
{
	uint32_t cut = 0;
	uint16_t h = f16_of(float_of(a) / 127.0f, &cut);

	return float_of_f16(h) * 127.5f < float_of(a) && float_of_f16(h) < F16_MAX ? (uint16_t)(h + 1) : h;
}

/* x[32] to 34 bytes. */
INLINE uint64_t encode_q8_block(const float *x, uint8_t *dst)
{
	uint32_t largest = 0, i, cut = 0;
	uint16_t h;
	float d, inv;

	for (i = 0; i < ACT_Q8_BLOCK; i++) {
		uint32_t a = bits_of(x[i]) & 0x7fffffffu;

		largest = a > largest ? a : largest;
	}
	if (largest >= F32_INF) {
		h = F16_NAN;
		memcpy(dst, &h, sizeof(h));
		memset(dst + 2, 0, ACT_Q8_BLOCK);
		return 0;
	}
	h = q8_scale(largest);
	d = float_of_f16(h);
	inv = d > 0.0f ? 1.0f / d : 0.0f;
	memcpy(dst, &h, sizeof(h));
	for (i = 0; i < ACT_Q8_BLOCK; i++) {
		float y = x[i] * inv;

		y = y > 127.0f ? 127.0f : y;
		y = y < -127.0f ? -127.0f : y;
		dst[2 + i] = (uint8_t)(bits_of(y + ROUND_MAGIC) - ROUND_BITS);
	}
	for (i = 0; i < ACT_Q8_BLOCK && float_of(largest) > 127.5f * F16_MAX; i++)
		cut += (bits_of(x[i]) & 0x7fffffffu) > bits_of(127.5f * F16_MAX);
	return cut;
}

INLINE uint64_t encode_q8(const float *src, uint32_t n_rows, uint32_t width, uint8_t *dst)
{
	uint64_t cut = 0;
	uint32_t r, i;

	for (r = 0; r < n_rows; r++) {
		for (i = 0; i + ACT_Q8_BLOCK <= width; i += ACT_Q8_BLOCK, dst += ACT_Q8_BLOCK_BYTES)
			cut += encode_q8_block(src + i, dst);
		if (i < width) {
			float last[ACT_Q8_BLOCK] = {0};

			memcpy(last, src + i, (width - i) * sizeof(float));
			cut += encode_q8_block(last, dst);
			dst += ACT_Q8_BLOCK_BYTES;
		}
		src += width;
	}
	return cut;
}

INLINE void decode_f16(const uint8_t *src, size_t n, float *dst)
{
	size_t i;

	for (i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, src + 2 * i, sizeof(h));
		dst[i] = float_of_f16(h);
	}
}

INLINE void decode_bf16(const uint8_t *src, size_t n, float *dst)
{
	size_t i;

	for (i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, src + 2 * i, sizeof(h));
		dst[i] = float_of((uint32_t)h << 16);
	}
}

INLINE void decode_q8(const uint8_t *src, uint32_t n_rows, uint32_t width, float *dst)
{
	uint32_t r, i, k;

	for (r = 0; r < n_rows; r++, dst += width) {
		for (i = 0; i < width; i += ACT_Q8_BLOCK, src += ACT_Q8_BLOCK_BYTES) {
			uint32_t n = width - i < ACT_Q8_BLOCK ? width - i : ACT_Q8_BLOCK;
			uint16_t h;
			float d;

			memcpy(&h, src, sizeof(h));
			d = float_of_f16(h);
			for (k = 0; k < n; k++)
				dst[i + k] = d * (float)(int8_t)src[2 + k];
		}
	}
}

INLINE uint64_t encode_any(enum act_dtype dtype, const float *src, uint32_t n_rows, uint32_t width,
			   uint8_t *dst)
{
	size_t n = (size_t)n_rows * width;

	switch (dtype) {
	case ACT_F16:
		return encode_f16(src, n, dst);
	case ACT_BF16:
		return encode_bf16(src, n, dst);
	case ACT_Q8:
		return encode_q8(src, n_rows, width, dst);
	default:
		CHECK(dtype == ACT_F32);
		memcpy(dst, src, n * sizeof(float));
		return 0;
	}
}

INLINE void decode_any(enum act_dtype dtype, const uint8_t *src, uint32_t n_rows, uint32_t width, float *dst)
{
	size_t n = (size_t)n_rows * width;

	switch (dtype) {
	case ACT_F16:
		decode_f16(src, n, dst);
		return;
	case ACT_BF16:
		decode_bf16(src, n, dst);
		return;
	case ACT_Q8:
		decode_q8(src, n_rows, width, dst);
		return;
	default:
		CHECK(dtype == ACT_F32);
		memcpy(dst, src, n * sizeof(float));
	}
}

uint64_t act_encode_portable(enum act_dtype dtype, const float *src, uint32_t n_rows, uint32_t width,
			     uint8_t *dst)
{
	return encode_any(dtype, src, n_rows, width, dst);
}

void act_decode_portable(enum act_dtype dtype, const uint8_t *src, uint32_t n_rows, uint32_t width,
			 float *dst)
{
	decode_any(dtype, src, n_rows, width, dst);
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,f16c,popcnt")))

/* The conversion in hardware makes infinities of what is too large, so that is cut before. */
WIDE static uint64_t encode_f16_wide(const float *src, size_t n, uint8_t *dst)
{
	const __m256 sign = _mm256_set1_ps(-0.0f), max = _mm256_set1_ps(F16_MAX);
	const __m256 inf = _mm256_set1_ps(__builtin_inff());
	uint64_t total = 0;
	size_t i;

	for (i = 0; i + 8 <= n; i += 8) {
		__m256 x = _mm256_loadu_ps(src + i), a = _mm256_andnot_ps(sign, x);
		/* False for NaN. */
		__m256 over =
		    _mm256_and_ps(_mm256_cmp_ps(a, max, _CMP_GT_OQ), _mm256_cmp_ps(a, inf, _CMP_LT_OQ));

		total += (uint64_t)_mm_popcnt_u32((uint32_t)_mm256_movemask_ps(over));
		x = _mm256_blendv_ps(x, _mm256_or_ps(max, _mm256_and_ps(sign, x)), over);
		_mm_storeu_si128((__m128i *)(void *)(dst + 2 * i),
				 _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
	}
	return total + encode_f16(src + i, n - i, dst + 2 * i);
}

WIDE static uint64_t encode_wide(enum act_dtype dtype, const float *src, uint32_t n_rows, uint32_t width,
				 uint8_t *dst)
{
	if (dtype == ACT_F16)
		return encode_f16_wide(src, (size_t)n_rows * width, dst);
	return encode_any(dtype, src, n_rows, width, dst);
}

WIDE static void decode_wide(enum act_dtype dtype, const uint8_t *src, uint32_t n_rows, uint32_t width,
			     float *dst)
{
	decode_any(dtype, src, n_rows, width, dst);
}

static bool has_wide(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") &&
	       __builtin_cpu_supports("popcnt");
}
#endif

uint64_t act_encode(enum act_dtype dtype, const float *src, uint32_t n_rows, uint32_t width, uint8_t *dst)
{
#if defined(__x86_64__)
	if (has_wide())
		return encode_wide(dtype, src, n_rows, width, dst);
#endif
	return act_encode_portable(dtype, src, n_rows, width, dst);
}

void act_decode(enum act_dtype dtype, const uint8_t *src, uint32_t n_rows, uint32_t width, float *dst)
{
#if defined(__x86_64__)
	if (has_wide()) {
		decode_wide(dtype, src, n_rows, width, dst);
		return;
	}
#endif
	act_decode_portable(dtype, src, n_rows, width, dst);
}

static const char *const names[ACT_N_DTYPES] = {
    [ACT_F32] = "f32", [ACT_F16] = "f16", [ACT_BF16] = "bf16", [ACT_Q8] = "q8"};

const char *act_dtype_name(enum act_dtype dtype)
{
	return dtype < ACT_N_DTYPES ? names[dtype] : NULL;
}

int act_dtype_find(const char *name)
{
	int i;

	for (i = 0; i < (int)ACT_N_DTYPES; i++) {
		if (strcmp(name, names[i]) == 0)
			return i;
	}
	return -1;
}

size_t act_row_bytes(enum act_dtype dtype, uint32_t width)
{
	switch (dtype) {
	case ACT_F32:
		return 4 * (size_t)width;
	case ACT_F16:
	case ACT_BF16:
		return 2 * (size_t)width;
	case ACT_Q8:
		return ((size_t)width + ACT_Q8_BLOCK - 1) / ACT_Q8_BLOCK * ACT_Q8_BLOCK_BYTES;
	case ACT_BYTES:
		return width;
	default:
		return 0;
	}
}
