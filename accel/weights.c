/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/weights.h"

#include <string.h>

#include "accel/kquant.h"
#include "base/bytes.h"
#include "base/check.h"
#include "model/graph.h"

static float float_of_bits(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

float accel_f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
	uint32_t exp = (h >> 10) & 0x1fu;
	uint32_t man = h & 0x3ffu;

	if (exp == 0) /* zero and subnormals: man * 2^-24 is exact in float32 */
		return float_of_bits(sign | 0x3f800000u) * (float)man * 0x1p-24f;
	if (exp == 0x1f)
		return float_of_bits(sign | 0x7f800000u | man << 13);
	return float_of_bits(sign | (exp + 112u) << 23 | man << 13);
}

float accel_bf16_to_f32(uint16_t h)
{
	return float_of_bits((uint32_t)h << 16);
}

size_t accel_row_bytes(enum gguf_dtype dtype, uint64_t n)
{
	uint32_t elems, bytes;

	if (!model_dtype_supported(dtype) || !gguf_dtype_block(dtype, &elems, &bytes) || n % elems != 0)
		return 0;
	return (size_t)(n / elems) * bytes;
}

const void *accel_row(const struct gguf_tensor *t, uint64_t row)
{
	return (const uint8_t *)t->data + row * accel_row_bytes(t->dtype, t->ne[0]);
}

static void expand_f32(const uint8_t *src, size_t n, float *dst)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = float_of_bits(ps_load32(src + 4 * i));
}

static float load_f16(const uint8_t *p)
{
	return accel_f16_to_f32(ps_load16(p));
}

/* 34 bytes: d and 32 signed bytes. */
static void expand_q8_0(const uint8_t *p, float *dst)
{
	float d = load_f16(p);

	for (uint32_t i = 0; i < 32; i++)
		dst[i] = d * (float)(int8_t)p[2 + i];
}

/* Element i of the 16 bytes behind every block of 4 or 5 bits: byte i holds the elements i and i + 16. */
static int nibble(const uint8_t *p, uint32_t i)
{
	return p[i % 16] >> (i / 16 * 4) & 15;
}

/* 18 bytes: d and q; d * (q - 8). */
static void expand_q4_0(const uint8_t *p, float *dst)
{
	float d = load_f16(p);

	for (uint32_t i = 0; i < 32; i++)
		dst[i] = d * (float)(nibble(p + 2, i) - 8);
}

/* 20 bytes: d, m and q; d * q + m. */
static void expand_q4_1(const uint8_t *p, float *dst)
{
	float d = load_f16(p), m = load_f16(p + 2);

	for (uint32_t i = 0; i < 32; i++)
		dst[i] = d * (float)nibble(p + 4, i) + m;
}

/* 22 bytes: d, a word of the fifth bits and q; d * (q - 16). */
static void expand_q5_0(const uint8_t *p, float *dst)
{
	float d = load_f16(p);
	uint32_t fifth = ps_load32(p + 2);

	for (uint32_t i = 0; i < 32; i++)
		dst[i] = d * (float)((nibble(p + 6, i) | (int)(fifth >> i & 1) << 4) - 16);
}

/* 24 bytes: d, m, a word of the fifth bits and q; d * q + m. */
static void expand_q5_1(const uint8_t *p, float *dst)
{
	float d = load_f16(p), m = load_f16(p + 2);
	uint32_t fifth = ps_load32(p + 4);

	for (uint32_t i = 0; i < 32; i++)
		dst[i] = d * (float)(nibble(p + 8, i) | (int)(fifth >> i & 1) << 4) + m;
}

const int8_t accel_iq4_nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* 18 bytes: d and q; d times the value that q selects. */
static void expand_iq4_nl(const uint8_t *p, float *dst)
{
	float d = load_f16(p);

	for (uint32_t i = 0; i < 32; i++)
		dst[i] = d * (float)accel_iq4_nl[nibble(p + 2, i)];
}

static void expand_k(enum gguf_dtype dtype, const uint8_t *p, float *dst)
{
	struct accel_k_block b;

	accel_k_unpack(dtype, p, &b);
	for (uint32_t r = 0; r < ACCEL_K_RUNS; r++) {
		float scale = b.d * (float)b.scale[r], min = b.dmin * (float)b.min[r];

		for (uint32_t i = r * ACCEL_K_RUN; i < (r + 1) * ACCEL_K_RUN; i++)
			dst[i] = scale * (float)b.q[i] - min;
	}
}

static void expand_block(enum gguf_dtype dtype, const uint8_t *p, float *dst)
{
	switch ((int)dtype) {
	case GGUF_DT_Q8_0:
		expand_q8_0(p, dst);
		break;
	case GGUF_DT_Q4_0:
		expand_q4_0(p, dst);
		break;
	case GGUF_DT_Q4_1:
		expand_q4_1(p, dst);
		break;
	case GGUF_DT_Q5_0:
		expand_q5_0(p, dst);
		break;
	case GGUF_DT_Q5_1:
		expand_q5_1(p, dst);
		break;
	case GGUF_DT_IQ4_NL:
		expand_iq4_nl(p, dst);
		break;
	default:
		expand_k(dtype, p, dst);
	}
}

void accel_row_expand(enum gguf_dtype dtype, const void *src, size_t n, float *dst_out)
{
	const uint8_t *p = src;
	uint32_t elems = 0, bytes = 0;

	switch ((int)dtype) {
	case GGUF_DT_F32:
		expand_f32(p, n, dst_out);
		return;
	case GGUF_DT_F16:
		for (size_t i = 0; i < n; i++)
			dst_out[i] = load_f16(p + 2 * i);
		return;
	case GGUF_DT_BF16:
		for (size_t i = 0; i < n; i++)
			dst_out[i] = accel_bf16_to_f32(ps_load16(p + 2 * i));
		return;
	default:
		CHECK(gguf_dtype_block(dtype, &elems, &bytes) && n % elems == 0);
		for (size_t b = 0; b < n / elems; b++)
			expand_block(dtype, p + b * bytes, dst_out + b * elems);
	}
}
