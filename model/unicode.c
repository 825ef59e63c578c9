/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/unicode.h"

#include <string.h>

/* What may follow a lead byte: the sequence's length and the range of its second byte, which is
 * narrower than 80..BF after E0, ED, F0 and F4 (table 3-7). Length 0: not a lead byte. */
struct lead {
	uint8_t len, lo, hi;
};

static struct lead lead_of(uint8_t c)
{
	if (c < 0x80)
		return (struct lead){1, 0, 0};
	if (c < 0xc2 || c > 0xf4)
		return (struct lead){0, 0, 0};
	if (c < 0xe0)
		return (struct lead){2, 0x80, 0xbf};
	if (c < 0xf0)
		return (struct lead){3, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf};
	return (struct lead){4, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf};
}

/* How many of the sequence's bytes are there and right, up to its length. */
static size_t good_bytes(const char *s, size_t n, struct lead l)
{
	size_t i;

	for (i = 1; i < l.len && i < n; i++) {
		uint8_t c = (uint8_t)s[i];
		uint8_t lo = i == 1 ? l.lo : 0x80, hi = i == 1 ? l.hi : 0xbf;

		if (c < lo || c > hi)
			return 0;
	}
	return i;
}

size_t unicode_utf8_len(const char *s, size_t n)
{
	struct lead l;

	if (n == 0)
		return 0;
	l = lead_of((uint8_t)s[0]);
	return l.len != 0 && good_bytes(s, n, l) == l.len ? l.len : 0;
}

bool unicode_utf8_is_partial(const char *s, size_t n)
{
	struct lead l;

	if (n == 0)
		return false;
	l = lead_of((uint8_t)s[0]);
	return n < l.len && good_bytes(s, n, l) == n;
}

size_t unicode_utf8_partial_tail(const char *s, size_t n)
{
	size_t most = n < 3 ? n : 3;

	for (size_t k = most; k > 0; k--)
		if (unicode_utf8_is_partial(s + n - k, k))
			return k;
	return 0;
}

size_t unicode_utf8_put(uint32_t cp, char *out)
{
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	out[0] = (char)(0xc0 | (cp >> 6));
	out[1] = (char)(0x80 | (cp & 0x3f));
	return 2;
}

void unicode_byte_alphabet_init(struct unicode_byte_alphabet *a)
{
	uint16_t next = 0x100;

	memset(a->byte_of, 0xff, sizeof(a->byte_of));
	for (unsigned b = 0; b < 256; b++) {
		bool shown = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);

		a->cp_of[b] = shown ? (uint16_t)b : next++;
		a->byte_of[a->cp_of[b]] = (int16_t)b;
	}
}

ptrdiff_t unicode_byte_alphabet_decode(const struct unicode_byte_alphabet *a, const char *s, size_t n,
				       char *out)
{
	size_t n_out = 0;

	for (size_t i = 0; i < n;) {
		size_t len = unicode_utf8_len(s + i, n - i);
		uint32_t cp = (uint8_t)s[i];

		/* The alphabet ends at U+0143, so its characters have one or two bytes. */
		if (len == 0 || len > 2)
			return -1;
		if (len == 2)
			cp = (cp & 0x1f) << 6 | ((uint8_t)s[i + 1] & 0x3f);
		if (cp >= UNICODE_BYTE_ALPHABET_END || a->byte_of[cp] < 0)
			return -1;
		out[n_out++] = (char)a->byte_of[cp];
		i += len;
	}
	return (ptrdiff_t)n_out;
}
