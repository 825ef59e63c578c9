/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_PERF_WEIGHTS_H
#define PENSTOCK_PERF_WEIGHTS_H
/*
 * Seeded random weights in the element types of a model file. Not for inference
 * (accel/ has the kernels) and not for cryptography.
 */
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

/* Steele, Lea and Flood's SplitMix64, 2014: value `i` of stream `seed`, in any order. */
uint64_t random_at(uint64_t seed, uint64_t i);

/* Elements [first, first + n) of a tensor: centre + uniform in +-half. first is even, and x has
 * room for n rounded up to even, because elements are made in pairs. */
void make_weights(uint64_t seed, uint64_t first, size_t n, float centre, float half, float *x);

/* x [n] in any type of model_dtype_supported (n a multiple of its block; magnitudes below 60000). Returns the
 * bytes written to out, at most 4 n. */
size_t encode_weights(enum gguf_dtype dtype, const float *x, size_t n, uint8_t *out);

#endif
