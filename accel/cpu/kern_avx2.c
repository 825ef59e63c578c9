/* SPDX-License-Identifier: BSD-3-Clause */
/* Kernels for AVX2, FMA and F16C: every x86 server and desktop since 2013. */
#include "accel/cpu/kern.h"

#include "base/bytes.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define LANES     8
#define TILE_COLS 3 /* 12 sums, 3 or 4 weights and one activation: all 16 registers */

typedef __m256 vf;

static inline vf vf_load(const void *p)
{
	return _mm256_loadu_ps(p);
}

static inline void vf_store(float *p, vf v)
{
	_mm256_storeu_ps(p, v);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
	return _mm256_fmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b)
{
	return _mm256_max_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
	return _mm256_min_ps(a, b);
}

static inline vf vf_round(vf x)
{
	return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vf vf_pow2(vf n)
{
	return _mm256_castsi256_ps(
	    _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}

static inline vf vf_load_f16(const void *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)p));
}

static inline vf vf_load_bf16(const void *p)
{
	__m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u *)p));

	return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

static inline float vf_hmax(vf v)
{
	__m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	m = _mm_max_ps(m, _mm_movehl_ps(m, m));
	return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline void vf_store_f16(uint16_t *p, vf v)
{
	_mm_storeu_si128((__m128i_u *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static inline vf vf_load_s8(const void *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u *)p)));
}

/* Lanes of each: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). */
static inline void vf_reduce4(vf a, vf b, vf c, vf d, float *out)
{
	__m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));

	_mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "accel/cpu/kern_mul.inc"
#include "accel/cpu/kern_rows.inc"
#include "accel/cpu/kern_attn.inc"

const struct kern kern_avx2 = {
    .name = "avx2",
    .isa = "avx2+fma+f16c",
    .lanes = LANES,
    .mul_f32 = mul_f32,
    .mul_f16 = mul_f16,
    .mul_bf16 = mul_bf16,
    .expand_f32 = expand_f32,
    .expand_f16 = expand_f16,
    .expand_bf16 = expand_bf16,
    .mul_panel = mul_panel,
    .quants = &kern_quants_avx2,
    .k = &kern_k_avx2,
    .norm = norm,
    .add = add,
    .act = act,
    .softcap = softcap,
    .attn = attn,
    .kv_put = kv_put,
};
