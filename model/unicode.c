/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/unicode.h"

#include <string.h>

#include <utf8proc.h>

#include "base/check.h"

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
	static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
	size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;

	for (size_t i = n; i-- > 1; cp >>= 6)
		out[i] = (char)(0x80 | (cp & 0x3f));
	out[0] = (char)(lead[n == 1 ? 0 : n] | cp);
	return n;
}

uint32_t unicode_utf8_get(const char *s, size_t len)
{
	static const uint8_t mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	uint32_t cp;

	CHECK(len >= 1 && len <= 4);
	cp = (uint8_t)s[0] & mask[len];
	for (size_t i = 1; i < len; i++)
		cp = cp << 6 | ((uint8_t)s[i] & 0x3f);
	return cp;
}

bool unicode_is_space(uint32_t cp)
{
	switch (cp) {
	case 0x20:
	case 0x85:
	case 0xa0:
	case 0x1680:
	case 0x2028:
	case 0x2029:
	case 0x202f:
	case 0x205f:
	case 0x3000:
		return true;
	default:
		return (cp >= 0x09 && cp <= 0x0d) || (cp >= 0x2000 && cp <= 0x200a);
	}
}

static utf8proc_category_t category(uint32_t cp)
{
	return utf8proc_category((utf8proc_int32_t)cp);
}

bool unicode_is_control(uint32_t cp)
{
	utf8proc_category_t c = category(cp);

	return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CO;
}

bool unicode_is_punctuation(uint32_t cp)
{
	utf8proc_category_t c = category(cp);

	if (cp < 0x80)
		return (cp >= 0x21 && cp <= 0x2f) || (cp >= 0x3a && cp <= 0x40) ||
		       (cp >= 0x5b && cp <= 0x60) || (cp >= 0x7b && cp <= 0x7e);
	return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool unicode_is_nonspacing_mark(uint32_t cp)
{
	return category(cp) == UTF8PROC_CATEGORY_MN;
}

bool unicode_is_cjk(uint32_t cp)
{
	/* The list of the Hugging Face normaliser with which vocabularies are used, where one block begins
	 * at U+2B920 and not, as in the first BERT, at U+2B820. */
	static const struct {
		uint32_t first, last;
	} block[] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df}, {0x2a700, 0x2b73f},
		     {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};

	for (size_t i = 0; i < sizeof(block) / sizeof(block[0]); i++)
		if (cp >= block[i].first && cp <= block[i].last)
			return true;
	return false;
}

size_t unicode_lower(uint32_t cp, uint32_t out[UNICODE_LOWER_MAX])
{
	/* The one code point of SpecialCasing.txt whose lower case is two without any condition. */
	if (cp == 0x130) {
		out[0] = 'i';
		out[1] = 0x307;
		return 2;
	}
	out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
	return 1;
}

size_t unicode_decompose(uint32_t cp, uint32_t out[UNICODE_DECOMPOSED_MAX])
{
	utf8proc_int32_t buf[UNICODE_DECOMPOSED_MAX];
	int last = 0;
	utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, buf, UNICODE_DECOMPOSED_MAX,
						     UTF8PROC_DECOMPOSE, &last);

	/* No canonical decomposition has more than four code points. */
	CHECK(n <= (utf8proc_ssize_t)UNICODE_DECOMPOSED_MAX);
	if (n < 1) {
		out[0] = cp;
		return 1;
	}
	for (utf8proc_ssize_t i = 0; i < n; i++)
		out[i] = (uint32_t)buf[i];
	return (size_t)n;
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
