/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_UNICODE_H
#define PENSTOCK_MODEL_UNICODE_H
/*
 * The little of Unicode that the tokenizers need by themselves: where a UTF-8
 * character ends, and the printable alphabet in which byte-level BPE spells
 * bytes. Character classes are PCRE2's business. No state.
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

/* Writes a code point below U+0800 as UTF-8, returns 1 or 2. */
size_t unicode_utf8_put(uint32_t cp, char *out);

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
