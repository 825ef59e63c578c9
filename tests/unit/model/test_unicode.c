/* SPDX-License-Identifier: BSD-3-Clause */
/* Well-formedness over every byte sequence that can begin a character, and the byte alphabet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/unicode.h"

/* What the standard says of a sequence: its code point, taken apart bit by bit, is not too small
 * for the length, no surrogate and not above U+10FFFF. */
static bool is_character(const uint8_t *s, size_t n)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	static const uint8_t mark[] = {0, 0, 0xc0, 0xe0, 0xf0}, mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	uint32_t cp = s[0] & mask[n];

	if (n == 1)
		return s[0] < 0x80;
	if ((s[0] & (uint8_t)~mask[n]) != mark[n])
		return false;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return false;
		cp = cp << 6 | (s[i] & 0x3f);
	}
	return cp >= least[n] && cp <= 0x10ffff && !(cp >= 0xd800 && cp <= 0xdfff);
}

/* The fourth byte only ever has to be a continuation, so its edges stand for all of it. */
static void test_every_sequence(void **state)
{
	static const uint8_t fourth[] = {0x00, 0x7f, 0x80, 0x9d, 0xbf, 0xc0, 0xff};

	(void)state;
	for (uint32_t lead = 0; lead < 1u << 24; lead++) {
		uint8_t s[4] = {(uint8_t)(lead >> 16), (uint8_t)(lead >> 8), (uint8_t)lead, 0};

		/* One in three of the pairs of second and third byte is enough for most leads. */
		if (lead % 3 != 0 && s[0] != 0xe0 && s[0] != 0xed && s[0] < 0xf0)
			continue;
		for (size_t i = 0; i < sizeof(fourth); i++) {
			size_t want = 0;

			s[3] = fourth[i];
			for (size_t n = 1; n <= 4 && want == 0; n++)
				if (is_character(s, n))
					want = n;
			if (unicode_utf8_len((const char *)s, 4) != want)
				fail_msg("%02x %02x %02x %02x: expected %zu", s[0], s[1], s[2], s[3], want);
			if (s[0] < 0xf0)
				break;
		}
	}
}

static void test_cut_sequences(void **state)
{
	static const char *const characters[] = {"a", "\u00e4", "\u65e5", "\U0001f999", "\u0800", "\ud7ff"};

	(void)state;
	assert_int_equal(unicode_utf8_len("a", 0), 0);
	assert_false(unicode_utf8_is_partial("a", 0));
	for (size_t c = 0; c < sizeof(characters) / sizeof(characters[0]); c++) {
		const char *s = characters[c];
		size_t len = strlen(s);

		for (size_t n = 1; n < len; n++) {
			assert_int_equal(unicode_utf8_len(s, n), 0);
			assert_true(unicode_utf8_is_partial(s, n));
			assert_int_equal(unicode_utf8_partial_tail(s, n), n);
		}
		assert_int_equal(unicode_utf8_len(s, len), len);
		assert_false(unicode_utf8_is_partial(s, len));
		assert_int_equal(unicode_utf8_partial_tail(s, len), 0);
	}
	assert_int_equal(unicode_utf8_partial_tail("ab\xe6\x97", 4), 2);
	assert_int_equal(unicode_utf8_partial_tail("\xe6\x97\xe6", 3), 1);
	/* Never to be completed: a surrogate, an overlong form, a lone continuation. */
	assert_int_equal(unicode_utf8_partial_tail("\xed\xa0", 2), 0);
	assert_int_equal(unicode_utf8_partial_tail("\xf0\x80", 2), 0);
	assert_int_equal(unicode_utf8_partial_tail("\x80", 1), 0);
	assert_int_equal(unicode_utf8_partial_tail("\xff", 1), 0);
}

static void test_byte_alphabet(void **state)
{
	struct unicode_byte_alphabet a;
	bool seen[UNICODE_BYTE_ALPHABET_END] = {false};
	char out[16];

	(void)state;
	unicode_byte_alphabet_init(&a);
	for (int b = 0; b < 256; b++) {
		char spelled[2];
		size_t n = unicode_utf8_put(a.cp_of[b], spelled);

		assert_true(a.cp_of[b] > 0x20 && a.cp_of[b] < UNICODE_BYTE_ALPHABET_END);
		assert_false(seen[a.cp_of[b]]);
		seen[a.cp_of[b]] = true;
		assert_int_equal(unicode_byte_alphabet_decode(&a, spelled, n, out), 1);
		assert_int_equal((uint8_t)out[0], b);
	}
	/* As published vocabularies spell them. */
	assert_int_equal(a.cp_of['a'], 'a');
	assert_int_equal(a.cp_of[0x00], 0x100);
	assert_int_equal(a.cp_of['\n'], 0x10a);
	assert_int_equal(a.cp_of[' '], 0x120);
	assert_int_equal(a.cp_of[0x7f], 0x121);
	assert_int_equal(a.cp_of[0xad], 0x143);
	assert_int_equal(unicode_byte_alphabet_decode(&a, "a b", 3, out), -1);
	assert_int_equal(unicode_byte_alphabet_decode(&a, "\u0144", 2, out), -1);
	assert_int_equal(unicode_byte_alphabet_decode(&a, "\u2581", 3, out), -1);
	assert_int_equal(unicode_byte_alphabet_decode(&a, "a\xc4", 2, out), -1);
	assert_int_equal(unicode_byte_alphabet_decode(&a, "", 0, out), 0);
}

static void test_code_points(void **state)
{
	char buf[4];

	(void)state;
	for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
		size_t n;

		if (cp >= 0xd800 && cp <= 0xdfff)
			continue;
		n = unicode_utf8_put(cp, buf);
		assert_int_equal(unicode_utf8_len(buf, n), n);
		assert_int_equal(unicode_utf8_get(buf, n), cp);
	}
}

static void test_classes(void **state)
{
	static const uint32_t spaces[] = {' ', '\t', '\v', 0x85, 0xa0, 0x1680, 0x2003, 0x2028, 0x3000};
	static const uint32_t controls[] = {0, 0x1b, 0x7f, 0x85, 0xad, 0x200b, 0x200d, 0xe000, 0xfeff};
	static const uint32_t punctuation[] = {'$', '`', '~', '_', 0xa1, 0x2014, 0x3002, 0xff0c, 0x964};
	static const uint32_t marks[] = {0x300, 0x308, 0xe31, 0x94d, 0x20dd + 0xb};
	static const uint32_t cjk[] = {0x4e00, 0x9fff, 0x3400, 0x20000, 0x2b920, 0xf900, 0x2fa1f};
	static const uint32_t neither[] = {'a', '1', 0xe9, 0x93e, 0x3042, 0xac00, 0x20ac, 0x378, 0x2b820};

	(void)state;
	for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		assert_true(unicode_is_space(spaces[i]));
	for (size_t i = 0; i < sizeof(controls) / sizeof(controls[0]); i++)
		assert_true(unicode_is_control(controls[i]));
	for (size_t i = 0; i < sizeof(punctuation) / sizeof(punctuation[0]); i++)
		assert_true(unicode_is_punctuation(punctuation[i]));
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
		assert_true(unicode_is_nonspacing_mark(marks[i]));
	for (size_t i = 0; i < sizeof(cjk) / sizeof(cjk[0]); i++)
		assert_true(unicode_is_cjk(cjk[i]));
	for (size_t i = 0; i < sizeof(neither) / sizeof(neither[0]); i++)
		assert_false(unicode_is_space(neither[i]) || unicode_is_control(neither[i]) ||
			     unicode_is_punctuation(neither[i]) || unicode_is_nonspacing_mark(neither[i]) ||
			     unicode_is_cjk(neither[i]));
	assert_false(unicode_is_space(0x180e) || unicode_is_space(0x200b));
}

static void test_mappings(void **state)
{
	uint32_t out[UNICODE_DECOMPOSED_MAX];

	(void)state;
	assert_int_equal(unicode_lower('A', out), 1);
	assert_int_equal(out[0], 'a');
	assert_int_equal(unicode_lower(0x416, out), 1);
	assert_int_equal(out[0], 0x436);
	assert_int_equal(unicode_lower(0x130, out), 2);
	assert_int_equal(out[1], 0x307);
	assert_int_equal(unicode_decompose('x', out), 1);
	assert_int_equal(out[0], 'x');
	/* U+1E69 is s with two dots: decomposed to the end, and Hangul by its rule. */
	assert_int_equal(unicode_decompose(0x1e69, out), 3);
	assert_int_equal(out[0], 's');
	assert_int_equal(out[1], 0x323);
	assert_int_equal(out[2], 0x307);
	assert_int_equal(unicode_decompose(0xd55c, out), 3);
	assert_int_equal(out[0], 0x1112);
	assert_int_equal(out[2], 0x11ab);
	/* A compatibility character stays. */
	assert_int_equal(unicode_decompose(0xfb01, out), 1);
	for (uint32_t cp = 0; cp <= 0x10ffff; cp++)
		assert_in_range(unicode_decompose(cp, out), 1, UNICODE_DECOMPOSED_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_sequence), cmocka_unit_test(test_cut_sequences),
	    cmocka_unit_test(test_byte_alphabet),  cmocka_unit_test(test_code_points),
	    cmocka_unit_test(test_classes),        cmocka_unit_test(test_mappings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
