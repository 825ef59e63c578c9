/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf/weights.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"

#define Q8_BYTES 34u

uint64_t random_at(uint64_t seed, uint64_t i)
{
	uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void make_weights(uint64_t seed, uint64_t first, size_t n, float centre, float half, float *x)
{
	const float unit = half * 0x1p-31f;

	for (size_t i = 0; i < n; i += 2) {
		uint64_t r = random_at(seed, (first + i) / 2);

		x[i] = centre + unit * (float)(int32_t)(uint32_t)r;
		x[i + 1] = centre + unit * (float)(int32_t)(uint32_t)(r >> 32);
	}
}

/* To nearest even. Weights are far below F16's largest value. */
static uint16_t to_f16(float f)
{
	uint32_t bits, sign, mag;

	memcpy(&bits, &f, sizeof(bits));
	sign = (bits >> 16) & 0x8000u;
	mag = bits & 0x7fffffffu;
	if (mag < 0x38800000u) /* below 2^-14: a subnormal of steps 2^-24 */
		return (uint16_t)(sign | (uint32_t)lrintf(fabsf(f) * 0x1p24f));
	return (uint16_t)(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
}

static uint16_t to_bf16(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static float from_f16_normal(uint16_t h)
{
	uint32_t bits = (((uint32_t)h & 0x7fffu) << 13) + 0x38000000u;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* Blocks of an F16 scale and 32 bytes, the scale being the largest magnitude / 127. */
static size_t to_q8_0(const float *x, size_t n, uint8_t *out)
{
	for (size_t b = 0; b < n / Q8_ELEMS; b++, x += Q8_ELEMS, out += Q8_BYTES) {
		float amax = 0, scale;
		uint16_t h;

		for (size_t i = 0; i < Q8_ELEMS; i++)
			amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
		h = to_f16(fmaxf(amax / 127.0f, 0x1p-14f));
		scale = 1.0f / from_f16_normal(h);
		ps_store16(out, h);
		for (size_t i = 0; i < Q8_ELEMS; i++) {
			long q = lrintf(x[i] * scale);

			/* The scale was rounded to F16: the largest may come out at 127.03 or so, never 128.
			 */
			out[2 + i] = (uint8_t)(int8_t)q;
		}
	}
	return n / Q8_ELEMS * Q8_BYTES;
}

size_t encode_weights(enum gguf_dtype dtype, const float *x, size_t n, uint8_t *out)
{
	uint32_t bits;

	switch (dtype) {
	case GGUF_DT_F16:
		for (size_t i = 0; i < n; i++)
			ps_store16(out + 2 * i, to_f16(x[i]));
		return n * 2;
	case GGUF_DT_BF16:
		for (size_t i = 0; i < n; i++)
			ps_store16(out + 2 * i, to_bf16(x[i]));
		return n * 2;
	case GGUF_DT_Q8_0:
		return to_q8_0(x, n, out);
	default:
		for (size_t i = 0; i < n; i++) {
			memcpy(&bits, &x[i], sizeof(bits));
			ps_store32(out + 4 * i, bits);
		}
		return n * 4;
	}
}
