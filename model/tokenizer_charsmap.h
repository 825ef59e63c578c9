/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_TOKENIZER_CHARSMAP_H
#define PENSTOCK_MODEL_TOKENIZER_CHARSMAP_H
/*
 * SentencePiece's compiled normalisation ("precompiled_charsmap"): which strings
 * are replaced by which, as four bytes of length, that many bytes of a double array in the
 * layout of the Darts-clone library (32-bit little-endian units), and the
 * replacements, each ended by a zero byte. Borrowed from the file.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct tok_charsmap {
	const uint8_t *units; /* [n_units] of four bytes; any alignment */
	uint32_t n_units;     /* 0: there is no map and nothing is replaced */
	const char *texts;
	size_t texts_bytes; /* the last is zero */
};

/* -EBADMSG: the lengths contradict each other, or the last replacement does not end. */
int ps_warn_unused tok_charsmap_init(struct tok_charsmap *m, const void *blob, size_t bytes,
				     struct ps_err *err);

/* The longest beginning of s[n] that is replaced: returns its length, 0 if there is none, and what stands for
 * it (terminated). -EBADMSG: the array leads out of itself, or to more than 1024 bytes. */
int ps_warn_unused tok_charsmap_match(const struct tok_charsmap *m, const char *s, size_t n,
				      const char **text_out);

#endif
