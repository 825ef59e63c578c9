/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf/weights.h"

#include <string.h>

#include "base/bytes.h"
#include "perf/quantize.h"

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

static uint16_t to_bf16(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

size_t encode_weights(enum gguf_dtype dtype, const float *x, size_t n, uint8_t *out)
{
	uint32_t bits;

	switch (dtype) {
	case GGUF_DT_F16:
		for (size_t i = 0; i < n; i++)
			ps_store16(out + 2 * i, quantize_to_f16(x[i]));
		return n * 2;
	case GGUF_DT_BF16:
		for (size_t i = 0; i < n; i++)
			ps_store16(out + 2 * i, to_bf16(x[i]));
		return n * 2;
	case GGUF_DT_F32:
		for (size_t i = 0; i < n; i++) {
			memcpy(&bits, &x[i], sizeof(bits));
			ps_store32(out + 4 * i, bits);
		}
		return n * 4;
	default:
		return quantize_blocks(dtype, x, n, out);
	}
}
