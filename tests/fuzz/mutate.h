/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_MUTATE_H
#define PENSTOCK_TESTS_MUTATE_H
/*
 * Damages GGUF files, seeded. It knows the format as far as needed to aim: counts,
 * lengths, types, values of keys, shapes, element types and offsets are hit far
 * more often than chance would.
 */
#include <stddef.h>
#include <stdint.h>

/* SplitMix64 (Steele, Lea and Flood, 2014). */
uint64_t mutate_random(uint64_t *state);

/* Changes data[0..len) in place and perhaps its length; returns the new one, at most cap. */
size_t mutate_gguf(uint8_t *data, size_t len, size_t cap, uint64_t *state);

/* Bytes that the file needs for all of its tensors, 0 if its header cannot be read or asks for more
 * than `most`. */
size_t mutate_gguf_whole(const uint8_t *data, size_t len, size_t most);

#endif
