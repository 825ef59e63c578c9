/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf/quantize.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"

#define BLOCK   32u  /* of Q4_0 to Q8_0 and IQ4_NL */
#define K_BLOCK 256u /* of the K types */
#define K_RUN   16u
#define K_RUNS  (K_BLOCK / K_RUN)

uint16_t quantize_to_f16(float f)
{
	uint32_t bits, sign, mag;

	memcpy(&bits, &f, sizeof(bits));
	sign = (bits >> 16) & 0x8000u;
	mag = bits & 0x7fffffffu;
	if (mag < 0x38800000u) /* below 2^-14: a subnormal of steps 2^-24 */
		return (uint16_t)(sign | (uint32_t)lrintf(fabsf(f) * 0x1p24f));
	return (uint16_t)(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
}

float quantize_from_f16(uint16_t h)
{
	uint32_t bits = (((uint32_t)h & 0x7fffu) << 13) + 0x38000000u;
	float f;

	memcpy(&f, &bits, sizeof(f));
	if ((h & 0x7c00u) == 0)
		f = (float)(h & 0x3ffu) * 0x1p-24f;
	return h & 0x8000u ? -f : f;
}

/* Stores a scale and gives back what a reader will see. */
static float put_f16(uint8_t *out, float f)
{
	uint16_t h = quantize_to_f16(f);

	ps_store16(out, h);
	return quantize_from_f16(h);
}

static float inverse(float f)
{
	return f != 0 ? 1 / f : 0;
}

static float min_f(float a, float b)
{
	return a < b ? a : b;
}

static float max_f(float a, float b)
{
	return a > b ? a : b;
}

static float largest_magnitude(const float *x, size_t n)
{
	float amax = 0;

	for (size_t i = 0; i < n; i++)
		amax = max_f(amax, fabsf(x[i]));
	return amax;
}

/* q[i] = round((x[i] + offset) * inv) in 0..top. */
static void round_to(const float *x, size_t n, float offset, float inv, float top, uint8_t *q)
{
	for (size_t i = 0; i < n; i++)
		q[i] = (uint8_t)(int)(max_f(0, min_f((x[i] + offset) * inv, top)) + 0.5f);
}

static void to_q8_0(const float *x, uint8_t *out)
{
	float inv = inverse(put_f16(out, largest_magnitude(x, BLOCK) / 127));

	/* The scale was rounded to F16: the largest may come out at 127.03 or so; where the scale is a
	 * subnormal, at more. */
	for (uint32_t i = 0; i < BLOCK; i++)
		out[2 + i] = (uint8_t)(int8_t)lrintf(max_f(-127, min_f(x[i] * inv, 127)));
}

/* Codes of 4 or 5 bits of a block of 32: q[i] and q[i + 16] share byte i; fifth bits as a word before. */
static void put_codes(const uint8_t *q, uint8_t *fifth, uint8_t *nibbles)
{
	uint32_t bits = 0;

	for (uint32_t i = 0; i < BLOCK / 2; i++)
		nibbles[i] = (uint8_t)((q[i] & 15) | q[i + 16] << 4);
	for (uint32_t i = 0; i < BLOCK; i++)
		bits |= (uint32_t)(q[i] >> 4) << i;
	if (fifth != NULL)
		ps_store32(fifth, bits);
}

/* d * (q - zero), q in 0..2 zero - 1. */
static void to_symmetric(const float *x, float zero, uint8_t *q, uint8_t *out)
{
	float d = put_f16(out, largest_magnitude(x, BLOCK) / (zero - 0.5f));

	round_to(x, BLOCK, zero * d, inverse(d), 2 * zero - 1, q);
}

/* d * q + m, q in 0..top; d and m in front. */
static void to_range(const float *x, float top, uint8_t *q, uint8_t *out)
{
	float lo = x[0], hi = x[0], d;

	for (uint32_t i = 1; i < BLOCK; i++) {
		lo = min_f(lo, x[i]);
		hi = max_f(hi, x[i]);
	}
	d = put_f16(out, (hi - lo) / top);
	lo = put_f16(out + 2, lo);
	round_to(x, BLOCK, -lo, inverse(d), top, q);
}

static void to_q4_0(const float *x, uint8_t *out)
{
	uint8_t q[BLOCK];

	to_symmetric(x, 8, q, out);
	put_codes(q, NULL, out + 2);
}

static void to_q4_1(const float *x, uint8_t *out)
{
	uint8_t q[BLOCK];

	to_range(x, 15, q, out);
	put_codes(q, NULL, out + 4);
}

static void to_q5_0(const float *x, uint8_t *out)
{
	uint8_t q[BLOCK];

	to_symmetric(x, 16, q, out);
	put_codes(q, out + 2, out + 6);
}

static void to_q5_1(const float *x, uint8_t *out)
{
	uint8_t q[BLOCK];

	to_range(x, 31, q, out);
	put_codes(q, out + 4, out + 8);
}

static void to_iq4_nl(const float *x, uint8_t *out)
{
	/* Half way between two neighbours of -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69,
	 * 89, 113: the number of those below a value is its code. */
	static const float bounds[15] = {-115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16, -4.5f,
					 7,       19,     31.5f, 45.5f, 61,  79,     101};
	float inv = inverse(put_f16(out, largest_magnitude(x, BLOCK) / 120));
	uint8_t q[BLOCK] = {0};

	for (uint32_t b = 0; b < 15; b++) {
		for (uint32_t i = 0; i < BLOCK; i++)
			q[i] = (uint8_t)(q[i] + (x[i] * inv > bounds[b]));
	}
	put_codes(q, NULL, out + 2);
}

/* ---- K types: 256 elements, a scale and a minimum of few bits for each run of 16 or 32 ------------ */

struct k_codes {
	uint8_t q[K_BLOCK], scale[K_RUNS], min[K_RUNS];
};

/* d * (scale - zero) * (q - q_zero), with scale - zero in 1..top and q in 0..2 q_zero - 1. */
static void k_symmetric(const float *x, uint32_t zero, float top, float q_zero, struct k_codes *k,
			uint8_t *out)
{
	float amax[K_RUNS], most = 0, d, inv;

	for (uint32_t r = 0; r < K_RUNS; r++) {
		amax[r] = largest_magnitude(x + r * K_RUN, K_RUN) / (q_zero - 0.5f);
		most = max_f(most, amax[r]);
	}
	d = put_f16(out, most / top);
	inv = inverse(d);
	for (uint32_t r = 0; r < K_RUNS; r++) {
		float s = (float)(int)(max_f(1, min_f(amax[r] * inv, top)) + 0.5f);

		k->scale[r] = (uint8_t)(s + (float)zero);
		round_to(x + r * K_RUN, K_RUN, q_zero * (s * d), inverse(s * d), 2 * q_zero - 1,
			 k->q + r * K_RUN);
	}
}

/* d * scale * q - dmin * min, with scale and min in 0..top and q in 0..q_top; d and dmin go to out. */
static void k_range(const float *x, uint32_t run, float top, float q_top, struct k_codes *k, uint8_t *out)
{
	float scale[K_RUNS], min[K_RUNS], most = 0, most_min = 0, d, dmin;

	for (uint32_t r = 0; r < K_BLOCK / run; r++) {
		float lo = 0, hi = 0;

		for (uint32_t i = r * run; i < (r + 1) * run; i++) {
			lo = min_f(lo, x[i]);
			hi = max_f(hi, x[i]);
		}
		scale[r] = (hi - lo) / q_top;
		min[r] = -lo;
		most = max_f(most, scale[r]);
		most_min = max_f(most_min, min[r]);
	}
	d = put_f16(out, most / top);
	dmin = put_f16(out + 2, most_min / top);
	round_to(scale, K_BLOCK / run, 0, inverse(d), top, k->scale);
	round_to(min, K_BLOCK / run, 0, inverse(dmin), top, k->min);
	for (uint32_t r = 0; r < K_BLOCK / run; r++)
		round_to(x + r * run, run, dmin * (float)k->min[r], inverse(d * (float)k->scale[r]), q_top,
			 k->q + r * run);
}

/* Bits [shift, shift + 2) of each code, 4 codes of a half's 4 runs of 32 to a byte: 64 bytes. */
static void put_pairs(const uint8_t *q, uint32_t shift, uint8_t *out)
{
	for (uint32_t half = 0; half < 2; half++, q += 128, out += 32) {
		for (uint32_t i = 0; i < 32; i++)
			out[i] = (uint8_t)((q[i] >> shift & 3) | (q[i + 32] >> shift & 3) << 2 |
					   (q[i + 64] >> shift & 3) << 4 | (q[i + 96] >> shift & 3) << 6);
	}
}

/* Bit `bit` of each code: byte i % 32 holds that of code i as its bit i / 32. */
static void put_bits(const uint8_t *q, uint32_t bit, uint8_t *out)
{
	memset(out, 0, 32);
	for (uint32_t j = 0; j < 8; j++) {
		for (uint32_t i = 0; i < 32; i++)
			out[i] = (uint8_t)(out[i] | (q[32 * j + i] >> bit & 1) << j);
	}
}

/* Low 4 bits: in each group of 2 n codes, code i and i + n share a byte. */
static void put_nibbles(const uint8_t *q, uint32_t n, uint8_t *out)
{
	for (uint32_t g = 0; g < K_BLOCK; g += 2 * n, q += 2 * n, out += n) {
		for (uint32_t i = 0; i < n; i++)
			out[i] = (uint8_t)((q[i] & 15) | (q[i + n] & 15) << 4);
	}
}

static void to_q2_k(const float *x, uint8_t *out)
{
	struct k_codes k;

	k_range(x, 16, 15, 3, &k, out + 80);
	for (uint32_t r = 0; r < K_RUNS; r++)
		out[r] = (uint8_t)(k.scale[r] | k.min[r] << 4);
	put_pairs(k.q, 0, out + 16);
}

static void to_q3_k(const float *x, uint8_t *out)
{
	struct k_codes k;

	k_symmetric(x, 32, 31, 4, &k, out + 108);
	put_bits(k.q, 2, out);
	put_pairs(k.q, 0, out + 32);
	memset(out + 96, 0, 12);
	for (uint32_t r = 0; r < K_RUNS; r++) {
		uint8_t *low = out + 96 + r % 8, *high = out + 104 + r % 4;

		*low = (uint8_t)(*low | (k.scale[r] & 15) << (r / 8 * 4));
		*high = (uint8_t)(*high | (k.scale[r] >> 4) << (r / 4 * 2));
	}
}

/* 8 scales and 8 minima of 6 bits in 12 bytes. */
static void put_scales(const struct k_codes *k, uint8_t *out)
{
	for (uint32_t j = 0; j < 4; j++) {
		uint8_t scale = k->scale[j + 4], min = k->min[j + 4];

		out[j] = (uint8_t)(k->scale[j] | scale >> 4 << 6);
		out[j + 4] = (uint8_t)(k->min[j] | min >> 4 << 6);
		out[j + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
	}
}

static void to_q4_k(const float *x, uint8_t *out)
{
	struct k_codes k;

	k_range(x, 32, 63, 15, &k, out);
	put_scales(&k, out + 4);
	put_nibbles(k.q, 32, out + 16);
}

static void to_q5_k(const float *x, uint8_t *out)
{
	struct k_codes k;

	k_range(x, 32, 63, 31, &k, out);
	put_scales(&k, out + 4);
	put_bits(k.q, 4, out + 16);
	put_nibbles(k.q, 32, out + 48);
}

static void to_q6_k(const float *x, uint8_t *out)
{
	struct k_codes k;

	k_symmetric(x, 0, 127, 32, &k, out + 208);
	put_nibbles(k.q, 64, out);
	put_pairs(k.q, 4, out + 128);
	memcpy(out + 192, k.scale, K_RUNS);
}

static const struct {
	enum gguf_dtype dtype;
	void (*encode)(const float *x, uint8_t *out);
} encoders[] = {
    {GGUF_DT_Q8_0, to_q8_0}, {GGUF_DT_Q4_0, to_q4_0}, {GGUF_DT_Q4_1, to_q4_1},     {GGUF_DT_Q5_0, to_q5_0},
    {GGUF_DT_Q5_1, to_q5_1}, {GGUF_DT_Q2_K, to_q2_k}, {GGUF_DT_Q3_K, to_q3_k},     {GGUF_DT_Q4_K, to_q4_k},
    {GGUF_DT_Q5_K, to_q5_k}, {GGUF_DT_Q6_K, to_q6_k}, {GGUF_DT_IQ4_NL, to_iq4_nl},
};

size_t quantize_blocks(enum gguf_dtype dtype, const float *x, size_t n, uint8_t *out)
{
	uint32_t elems = 1, bytes = 0;

	for (size_t t = 0; t < sizeof(encoders) / sizeof(encoders[0]); t++) {
		if (encoders[t].dtype != dtype)
			continue;
		CHECK(gguf_dtype_block(dtype, &elems, &bytes) && n % elems == 0);
		for (size_t b = 0; b < n / elems; b++)
			encoders[t].encode(x + b * elems, out + b * bytes);
		return n / elems * bytes;
	}
	return 0;
}
