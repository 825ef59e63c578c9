/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_KQUANT_H
#define PENSTOCK_ACCEL_KQUANT_H
/*
 * Blocks of the K types (Q2_K to Q6_K) taken apart into integers, in plain C:
 * the one reading of these formats that everything else is compared with. Not
 * fast; kernels that must be read the packed bytes themselves.
 */
#include <stdint.h>

#include "model/gguf.h"

#define ACCEL_K_BLOCK 256u /* elements of a block of any K type */
#define ACCEL_K_RUN                                                                                          \
	16u /* elements that share a scale and a minimum; 32 in Q4_K and Q5_K: pairs are equal               \
	     */
#define ACCEL_K_RUNS (ACCEL_K_BLOCK / ACCEL_K_RUN)

/* Element i is (d * scale[i / 16]) * q[i] - dmin * min[i / 16], in float32 and in this order. */
struct accel_k_block {
	float d, dmin;              /* of float16; dmin is 0 where the type has no minima */
	int8_t scale[ACCEL_K_RUNS]; /* 0..15, -32..31, 0..63, 0..63, -128..127 for Q2_K to Q6_K */
	uint8_t min[ACCEL_K_RUNS];  /* 0..15, 0, 0..63, 0..63, 0 */
	int8_t q[ACCEL_K_BLOCK];    /* 0..3, -4..3, 0..15, 0..31, -32..31 */
};

/* src: one block of a K type, any alignment. */
void accel_k_unpack(enum gguf_dtype dtype, const uint8_t *src, struct accel_k_block *out);

#endif
