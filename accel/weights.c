/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/weights.h"

#include <string.h>

#include "base/bytes.h"
#include "base/check.h"

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
	switch ((int)dtype) {
	case GGUF_DT_F32:
		return (size_t)n * 4;
	case GGUF_DT_F16:
	case GGUF_DT_BF16:
		return (size_t)n * 2;
	case GGUF_DT_Q8_0:
		return n % ACCEL_Q8_BLOCK ? 0 : (size_t)(n / ACCEL_Q8_BLOCK) * ACCEL_Q8_BLOCK_BYTES;
	default:
		return 0;
	}
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

static void expand_q8_0(const uint8_t *src, size_t n, float *dst)
{
	for (size_t i = 0; i < n; i++) {
		const uint8_t *block = src + i / ACCEL_Q8_BLOCK * ACCEL_Q8_BLOCK_BYTES;
		float scale = accel_f16_to_f32(ps_load16(block));

		dst[i] = scale * (float)(int8_t)block[2 + i % ACCEL_Q8_BLOCK];
	}
}

void accel_row_expand(enum gguf_dtype dtype, const void *src, size_t n, float *dst_out)
{
	const uint8_t *p = src;

	switch ((int)dtype) {
	case GGUF_DT_F32:
		expand_f32(p, n, dst_out);
		break;
	case GGUF_DT_F16:
		for (size_t i = 0; i < n; i++)
			dst_out[i] = accel_f16_to_f32(ps_load16(p + 2 * i));
		break;
	case GGUF_DT_BF16:
		for (size_t i = 0; i < n; i++)
			dst_out[i] = accel_bf16_to_f32(ps_load16(p + 2 * i));
		break;
	case GGUF_DT_Q8_0:
		expand_q8_0(p, n, dst_out);
		break;
	default:
		CHECK(!"an element type that accel_host_check_graph lets through");
	}
}
