/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/kquant.h"

#include <string.h>

#include "accel/weights.h"
#include "base/bytes.h"
#include "base/check.h"

/* Bits [shift, shift + 2) of a byte. */
static int8_t two_bits(uint8_t byte, uint32_t shift)
{
	return (int8_t)(byte >> shift & 3u);
}

/* Where the two low bits of element i lie among 64 bytes: halves of 128 elements take 32 bytes each,
 * and a byte holds the elements i, i + 32, i + 64 and i + 96 of its half. */
static uint32_t pair_byte(uint32_t i)
{
	return i / 128 * 32 + i % 32;
}

static uint32_t pair_shift(uint32_t i)
{
	return i % 128 / 32 * 2;
}

/* 84 bytes: 16 of scale (low 4 bits) and minimum, 64 of q, d, dmin. */
static void unpack_q2(const uint8_t *src, struct accel_k_block *out)
{
	const uint8_t *q = src + 16;

	for (uint32_t r = 0; r < ACCEL_K_RUNS; r++) {
		out->scale[r] = (int8_t)(src[r] & 15u);
		out->min[r] = src[r] >> 4;
	}
	for (uint32_t i = 0; i < ACCEL_K_BLOCK; i++)
		out->q[i] = two_bits(q[pair_byte(i)], pair_shift(i));
	out->d = accel_f16_to_f32(ps_load16(src + 80));
	out->dmin = accel_f16_to_f32(ps_load16(src + 82));
}

/* 110 bytes: 32 of third bits, 64 of low bits, 12 of scales, d. A third bit of 0 takes 4 off. Scales are of
 * 6 bits, less 32: 4 low bits as in 8 bytes of pairs (r, r + 8), then 2 high bits, 4 to a byte. */
static void unpack_q3(const uint8_t *src, struct accel_k_block *out)
{
	const uint8_t *q = src + 32, *scales = src + 96;

	for (uint32_t r = 0; r < ACCEL_K_RUNS; r++) {
		int low = scales[r % 8] >> (r / 8 * 4) & 15;
		int high = two_bits(scales[8 + r % 4], r / 4 * 2);

		out->scale[r] = (int8_t)((low | high << 4) - 32);
	}
	for (uint32_t i = 0; i < ACCEL_K_BLOCK; i++) {
		int third = src[i % 32] >> (i / 32) & 1;

		out->q[i] = (int8_t)(two_bits(q[pair_byte(i)], pair_shift(i)) - 4 * (1 - third));
	}
	out->d = accel_f16_to_f32(ps_load16(src + 108));
}

/* Scales and minima of Q4_K and Q5_K, 6 bits each: those of the runs of 32 number 0 to 3 in the low bits of
 * bytes 0 to 3 and 4 to 7; of 4 to 7 the low halves are in bytes 8 to 11, the high bits above the others. */
static void unpack_scales(const uint8_t *p, struct accel_k_block *out)
{
	for (uint32_t r = 0; r < ACCEL_K_RUNS; r++) {
		uint32_t j = r / 2, k = j % 4;

		if (j < 4) {
			out->scale[r] = (int8_t)(p[k] & 63);
			out->min[r] = p[k + 4] & 63;
		} else {
			out->scale[r] = (int8_t)((p[k + 8] & 15) | p[k] >> 6 << 4);
			out->min[r] = (uint8_t)(p[k + 8] >> 4 | p[k + 4] >> 6 << 4);
		}
	}
}

/* Four low bits of element i among 128 bytes: a byte holds the elements i and i + 32 of its 64. */
static int nibble(const uint8_t *p, uint32_t i)
{
	return p[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

/* 144 bytes: d, dmin, 12 of scales, 128 of q. */
static void unpack_q4(const uint8_t *src, struct accel_k_block *out)
{
	out->d = accel_f16_to_f32(ps_load16(src));
	out->dmin = accel_f16_to_f32(ps_load16(src + 2));
	unpack_scales(src + 4, out);
	for (uint32_t i = 0; i < ACCEL_K_BLOCK; i++)
		out->q[i] = (int8_t)nibble(src + 16, i);
}

/* 176 bytes: d, dmin, 12 of scales, 32 of fifth bits, 128 of low bits. */
static void unpack_q5(const uint8_t *src, struct accel_k_block *out)
{
	out->d = accel_f16_to_f32(ps_load16(src));
	out->dmin = accel_f16_to_f32(ps_load16(src + 2));
	unpack_scales(src + 4, out);
	for (uint32_t i = 0; i < ACCEL_K_BLOCK; i++)
		out->q[i] = (int8_t)(nibble(src + 48, i) | (src[16 + i % 32] >> (i / 32) & 1) << 4);
}

/* 210 bytes: 128 of low bits, 64 of high bits, 16 scales, d. Halves of 128 elements: the low bits of the
 * elements i and i + 64 share a byte, the high bits lie as in Q2_K. */
static void unpack_q6(const uint8_t *src, struct accel_k_block *out)
{
	memcpy(out->scale, src + 192, ACCEL_K_RUNS);
	for (uint32_t i = 0; i < ACCEL_K_BLOCK; i++) {
		int low = src[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
		int high = two_bits(src[128 + pair_byte(i)], pair_shift(i));

		out->q[i] = (int8_t)((low | high << 4) - 32);
	}
	out->d = accel_f16_to_f32(ps_load16(src + 208));
}

void accel_k_unpack(enum gguf_dtype dtype, const uint8_t *src, struct accel_k_block *out)
{
	out->dmin = 0;
	memset(out->min, 0, sizeof(out->min));
	switch ((int)dtype) {
	case GGUF_DT_Q2_K:
		unpack_q2(src, out);
		break;
	case GGUF_DT_Q3_K:
		unpack_q3(src, out);
		break;
	case GGUF_DT_Q4_K:
		unpack_q4(src, out);
		break;
	case GGUF_DT_Q5_K:
		unpack_q5(src, out);
		break;
	case GGUF_DT_Q6_K:
		unpack_q6(src, out);
		break;
	default:
		CHECK(!"a K type");
	}
}
