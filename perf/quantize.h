/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_PERF_QUANTIZE_H
#define PENSTOCK_PERF_QUANTIZE_H
/*
 * Rounding of weights to the block types of a model file: to the nearest of
 * evenly spaced levels between the extremes of a block, with no search for
 * better ones. Good enough for random weights, not for a trained model.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

uint16_t quantize_to_f16(float f);   /* to nearest even; magnitudes below 65520 */
float quantize_from_f16(uint16_t h); /* of finite values */

/* x [n], n a multiple of the type's block, magnitudes below 60000. Returns the bytes written to out, 0 for a
 * type that has no blocks. */
size_t quantize_blocks(enum gguf_dtype dtype, const float *x, size_t n, uint8_t *out);

#endif
