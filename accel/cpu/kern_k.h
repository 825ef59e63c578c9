/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_CPU_KERN_K_H
#define PENSTOCK_ACCEL_CPU_KERN_K_H
/*
 * Products of the K types (Q2_K to Q6_K) and activations rounded to 8 bits.
 * A block of these types holds 256 weights whose scales are integers under
 * one float16, so activations are rounded under one scale for 256 too, and the
 * sum of a block is an integer, exact whatever its order:
 *
 *   isum = sum over runs of scale[run] * sum(q * x.q)       msum = sum of min[run] * sum(x.q)
 *
 * Only the blocks of a row and a column have an order, ascending:
 *
 *   y = fma((float)isum, d * x.scale, y), then y = fma(-(float)msum, dmin * x.scale, y)
 *
 * (portable: without fused rounding). So the same bits come out of both ways to do it:
 * straight from the file's format for few columns, 4 rows at a time; and for
 * more by way of panels, where a vector holds 4 elements of each of its rows, so that
 * one product serves all rows and each loaded vector of weights all columns.
 */
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

struct kern_mul;

#define KERN_K_BLOCK 256u

/* 256 activations: x = scale * q, |q| <= 127. Not finite: scale is NaN and q zero. */
struct kern_k_act {
	int8_t q[KERN_K_BLOCK];
	int32_t offset[16];  /* -32 * sum(q) of each run of 16 */
	int16_t sum[2][8];   /* sum(q) of the even runs of 16, then of the odd ones */
	int16_t sum_pair[8]; /* of each run of 32 */
	float scale;
	int32_t spare[3]; /* to whole cache lines */
};
_Static_assert(sizeof(struct kern_k_act) == 384, "six cache lines");

/*
 * x: block b of column c is x[b * m->ldx + c]; m->x is unused. m->k is a multiple of KERN_K_BLOCK. scratch:
 * kern_k_scratch_bytes(m->k), at a multiple of 64.
 */
typedef void kern_k_mul_fn(const struct kern_mul *m, const struct kern_k_act *x, void *scratch);

struct kern_k {
	/* x [k] to dst[0], dst[stride], dst[2 stride], ... */
	void (*quantize)(const float *x, uint32_t k, struct kern_k_act *dst, size_t stride);
	kern_k_mul_fn *mul_q2_k, *mul_q3_k, *mul_q4_k, *mul_q5_k, *mul_q6_k;
};

/* NULL for any other type. */
static inline kern_k_mul_fn *kern_k_find(const struct kern_k *k, enum gguf_dtype dtype)
{
	return dtype == GGUF_DT_Q2_K   ? k->mul_q2_k
	       : dtype == GGUF_DT_Q3_K ? k->mul_q3_k
	       : dtype == GGUF_DT_Q4_K ? k->mul_q4_k
	       : dtype == GGUF_DT_Q5_K ? k->mul_q5_k
	       : dtype == GGUF_DT_Q6_K ? k->mul_q6_k
				       : NULL;
}

/* Panels that are worked on together: as many as fit half an L2 cache of 1 MiB, but one at least. */
#define KERN_K_GROUP_BYTES (512u << 10)
#define KERN_K_PANEL_ROWS  16u
#define KERN_K_PANEL_BYTES 5760u /* for each 256 of k: values, 16 scales, 16 mins, d and dmin of 16 rows */
#define KERN_K_PANELS_MAX  8u

static inline uint32_t kern_k_panels(uint32_t k)
{
	uint32_t n = KERN_K_GROUP_BYTES / (k / KERN_K_BLOCK * KERN_K_PANEL_BYTES);

	return n < 1 ? 1 : n > KERN_K_PANELS_MAX ? KERN_K_PANELS_MAX : n;
}

static inline size_t kern_k_scratch_bytes(uint32_t k)
{
	return (size_t)kern_k_panels(k) * (k / KERN_K_BLOCK) * KERN_K_PANEL_BYTES;
}

extern const struct kern_k kern_k_portable;
#if defined(__x86_64__)
extern const struct kern_k kern_k_avx2;
extern const struct kern_k kern_k_avx512;
extern const struct kern_k kern_k_avx512_vnni;
#endif

#endif
