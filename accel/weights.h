/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_WEIGHTS_H
#define PENSTOCK_ACCEL_WEIGHTS_H
/*
 * Rows of weight matrices as the file stores them: their size and their
 * expansion to float32, element by element. For the reference back end, for
 * embedding tables, and as what fast kernels are compared with; not fast.
 */
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

#define ACCEL_Q8_BLOCK       32u /* elements of a Q8_0 block */
#define ACCEL_Q8_BLOCK_BYTES 34u /* a float16 scale and 32 signed bytes */

/* The values of IQ4_NL, times the block's scale. */
extern const int8_t accel_iq4_nl[16];

float accel_f16_to_f32(uint16_t h);
float accel_bf16_to_f32(uint16_t h);

/* Bytes of a row of n elements, 0 for an element type the host back ends do not compute with or
 * an n that is no whole number of blocks. */
size_t accel_row_bytes(enum gguf_dtype dtype, uint64_t n);

/* Row `row` of a matrix; experts of a stacked matrix follow each other: row = expert * ne[1] + r. */
const void *accel_row(const struct gguf_tensor *t, uint64_t row);

/* Expands n elements from the start of a row, whole blocks of them. Any alignment of src. */
void accel_row_expand(enum gguf_dtype dtype, const void *src, size_t n, float *dst_out /* [n] */);

#endif
