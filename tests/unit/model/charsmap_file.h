/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_UNIT_MODEL_CHARSMAP_FILE_H
#define PENSTOCK_TESTS_UNIT_MODEL_CHARSMAP_FILE_H
/*
 * Makes a "precompiled_charsmap" of a few replacements, for tests of what reads
 * it. Any failure here fails the test.
 */
#include <stddef.h>
#include <stdint.h>

struct charsmap_pair {
	const char *from, *to;
};

/* Returns the bytes, malloc'd. */
uint8_t *charsmap_file(const struct charsmap_pair *pairs, size_t n, size_t *bytes_out);

#endif
