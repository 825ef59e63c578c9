/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Kernels in C with the compiler's vector types: SSE2, NEON or plain scalar
 * code, whatever the target's baseline has. No fused multiply-add.
 */
#include "accel/cpu/kern.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "accel/weights.h"
#include "base/bytes.h"

#define LANES     4
#define TILE_COLS 3

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

static inline vf vf_load(const void *p)
{
	vf v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void vf_store(float *p, vf v)
{
	memcpy(p, &v, sizeof(v));
}

static inline vf vf_fma(vf a, vf b, vf c)
{
	return a * b + c;
}

static inline vf select_lanes(vi mask, vf a, vf b)
{
	return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

static inline vf vf_max(vf a, vf b)
{
	return select_lanes(a > b, a, b);
}

static inline vf vf_min(vf a, vf b)
{
	return select_lanes(a < b, a, b);
}

/* Adding 1.5 * 2^23 leaves no bits for a fraction. */
static inline vf vf_round(vf x)
{
	return (x + 12582912.0f) - 12582912.0f;
}

static inline vf vf_pow2(vf n)
{
	return (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

static inline vu load_u16(const void *p)
{
	const uint8_t *b = p;
	vu v;

	for (int i = 0; i < LANES; i++)
		v[i] = ps_load16(b + 2 * i);
	return v;
}

/* The bits shifted in place are the value times 2^-112, subnormals included; infinities and NaNs
 * come out as 65536 and more, and get the exponent of one. */
static inline vf vf_load_f16(const void *p)
{
	vu h = load_u16(p);
	vf v = (vf)((h & 0x7fff) << 13) * 0x1p112f;
	vi special = v >= 65536.0f;

	return (vf)((vu)v | ((vu)special & 0x7f800000u) | (h & 0x8000) << 16);
}

static inline vf vf_load_bf16(const void *p)
{
	return (vf)(load_u16(p) << 16);
}

static inline float vf_hmax(vf v)
{
	float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];

	return a > b ? a : b;
}

static inline void vf_store_f16(uint16_t *p, vf v)
{
	for (int i = 0; i < LANES; i++)
		p[i] = accel_f32_to_f16(v[i]);
}

static inline vf vf_load_s8(const void *p)
{
	const int8_t *b = p;
	vf v;

	for (int i = 0; i < LANES; i++)
		v[i] = (float)b[i];
	return v;
}

static inline float sum_lanes(vf v)
{
	return (v[0] + v[1]) + (v[2] + v[3]);
}

static inline void vf_reduce4(vf a, vf b, vf c, vf d, float *out)
{
	out[0] = sum_lanes(a);
	out[1] = sum_lanes(b);
	out[2] = sum_lanes(c);
	out[3] = sum_lanes(d);
}

#include "accel/cpu/kern_mul.inc"
#include "accel/cpu/kern_rows.inc"
#include "accel/cpu/kern_attn.inc"

const struct kern kern_portable = {
    .name = "portable",
    .isa = "portable",
    .lanes = LANES,
    .mul_f32 = mul_f32,
    .mul_f16 = mul_f16,
    .mul_bf16 = mul_bf16,
    .expand_f32 = expand_f32,
    .expand_f16 = expand_f16,
    .expand_bf16 = expand_bf16,
    .mul_panel = mul_panel,
    .quants = &kern_quants_portable,
    .k = &kern_k_portable,
    .norm = norm,
    .add = add,
    .act = act,
    .softcap = softcap,
    .attn = attn,
    .kv_put = kv_put,
};
