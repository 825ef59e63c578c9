/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_UNICODE_H
#define PENSTOCK_MODEL_UNICODE_H
/*
 * The little of Unicode that the tokenizers need by themselves: where a UTF-8
 * character ends, the printable alphabet in which byte-level BPE spells bytes,
 * and the classes and mappings of WordPiece (from utf8proc). The classes of the regular
 * expressions are PCRE2's business. No state.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length (1 to 4) of the well-formed UTF-8 sequence at s, or 0 if there is none: an ill-formed
 * or cut sequence, or n == 0. Well-formed is table 3-7 of the Unicode standard, so surrogates,
 * overlong forms and what lies above U+10FFFF are not. */
size_t unicode_utf8_len(const char *s, size_t n);

/* Whether the n bytes at s are the beginning of a well-formed sequence that more bytes would
 * complete. False for n == 0 and for a sequence that is already whole. */
bool unicode_utf8_is_partial(const char *s, size_t n);

/* Bytes at the end of s that are the beginning of a character still to be completed (0 to 3). */
size_t unicode_utf8_partial_tail(const char *s, size_t n);

/* Writes a code point up to U+10FFFF as UTF-8, returns 1 to 4. */
size_t unicode_utf8_put(uint32_t cp, char *out);

/* The code point of a well-formed sequence of len bytes, as unicode_utf8_len measured it. */
uint32_t unicode_utf8_get(const char *s, size_t len);

/* White_Space of the Unicode standard. */
bool unicode_is_space(uint32_t cp);
/* General categories Cc, Cf and Co. */
bool unicode_is_control(uint32_t cp);
/* General categories P*, and the symbols of ASCII, which BERT counts among them. */
bool unicode_is_punctuation(uint32_t cp);
/* General category Mn. */
bool unicode_is_nonspacing_mark(uint32_t cp);
/* The ideographs that BERT sets apart, as its published normaliser lists them. */
bool unicode_is_cjk(uint32_t cp);

/* Full lower case of one code point, without context; returns 1 or 2. */
#define UNICODE_LOWER_MAX 2u
size_t unicode_lower(uint32_t cp, uint32_t out[UNICODE_LOWER_MAX]);
/* Canonical decomposition of one code point, to the end; returns how many it has, at least 1.
 * NFD of a text is this and then an order among neighbouring marks. */
#define UNICODE_DECOMPOSED_MAX 8u
size_t unicode_decompose(uint32_t cp, uint32_t out[UNICODE_DECOMPOSED_MAX]);

/*
 * The alphabet of byte-level BPE (Radford et al., GPT-2, 2019): each byte is spelled as one
 * printable character. Printable Latin-1 stands for itself, the 68 other bytes are numbered
 * upwards from U+0100.
 */
#define UNICODE_BYTE_ALPHABET_END 0x144u
struct unicode_byte_alphabet {
	uint16_t cp_of[256];                        /* byte -> code point */
	int16_t byte_of[UNICODE_BYTE_ALPHABET_END]; /* code point -> byte, -1: none */
};
void unicode_byte_alphabet_init(struct unicode_byte_alphabet *a);

/* Turns text spelled in the alphabet back into bytes. `out` has room for n. Returns their number,
 * or -1 if the text holds a character outside the alphabet. */
ptrdiff_t unicode_byte_alphabet_decode(const struct unicode_byte_alphabet *a, const char *s, size_t n,
				       char *out);

#endif
