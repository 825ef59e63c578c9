/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Kernels for AVX-512 (F, BW, DQ, VL). Compiled twice: with VNNI
 * (KERN_AVX512_VNNI) 8-bit products are one instruction for four, without they
 * are those of AVX2.
 */
#include "accel/cpu/kern.h"

#include "base/bytes.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define LANES     16
#define TILE_COLS 6 /* 24 sums of the 32 registers */

typedef __m512 vf;

static inline vf vf_load(const void *p)
{
	return _mm512_loadu_ps(p);
}

static inline void vf_store(float *p, vf v)
{
	_mm512_storeu_ps(p, v);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}

static inline vf vf_max(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}

static inline vf vf_min(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}

static inline vf vf_round(vf x)
{
	return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vf vf_pow2(vf n)
{
	return _mm512_castsi512_ps(
	    _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}

static inline vf vf_load_f16(const void *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)p));
}

static inline vf vf_load_bf16(const void *p)
{
	__m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p));

	return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

static inline float vf_hmax(vf v)
{
	return _mm512_reduce_max_ps(v);
}

static inline void vf_store_f16(uint16_t *p, vf v)
{
	_mm256_storeu_si256((__m256i_u *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static inline vf vf_load_s8(const void *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i_u *)p)));
}

static inline __m256 fold(vf v)
{
	return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

/* Lanes l and l + 8 first, then as with 8 lanes: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). */
static inline void vf_reduce4(vf a, vf b, vf c, vf d, float *out)
{
	__m256 s = _mm256_hadd_ps(_mm256_hadd_ps(fold(a), fold(b)), _mm256_hadd_ps(fold(c), fold(d)));

	_mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "accel/cpu/kern_mul.inc"
#include "accel/cpu/kern_rows.inc"
#include "accel/cpu/kern_attn.inc"

#ifdef KERN_AVX512_VNNI
#define TABLE   kern_avx512_vnni
#define ISA     "avx512f+bw+dq+vl+vnni"
#define QUANTS  kern_quants_vnni
#define K_TYPES kern_k_avx512_vnni
#else
#define TABLE   kern_avx512
#define ISA     "avx512f+bw+dq+vl"
#define QUANTS  kern_quants_avx2
#define K_TYPES kern_k_avx512
#endif

const struct kern TABLE = {
    .name = "avx512",
    .isa = ISA,
    .lanes = LANES,
    .mul_f32 = mul_f32,
    .mul_f16 = mul_f16,
    .mul_bf16 = mul_bf16,
    .expand_f32 = expand_f32,
    .expand_f16 = expand_f16,
    .expand_bf16 = expand_bf16,
    .mul_panel = mul_panel,
    .quants = &QUANTS,
    .k = &K_TYPES,
    .norm = norm,
    .add = add,
    .act = act,
    .softcap = softcap,
    .attn = attn,
    .kv_put = kv_put,
};
