/* SPDX-License-Identifier: BSD-3-Clause */
/* The compiled normalisation: the longest match, and what a torn one must not lead to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "model/tokenizer_charsmap.h"
#include "tests/unit/model/charsmap_file.h"

static const struct charsmap_pair pairs[] = {
    {"A", "a"}, {"ABC", "xyz"}, {"\t", " "}, {"\xef\xac\x81", "fi"}, {"Z", ""}};

static void expect(const struct tok_charsmap *m, const char *s, int len, const char *text)
{
	const char *got = NULL;

	assert_int_equal(tok_charsmap_match(m, s, strlen(s), &got), len);
	if (len > 0)
		assert_string_equal(got, text);
}

static void the_longest_match(void **state)
{
	struct tok_charsmap m = {0};
	struct ps_err err;
	size_t bytes;
	uint8_t *blob = charsmap_file(pairs, sizeof(pairs) / sizeof(pairs[0]), &bytes);

	(void)state;
	expect(&m, "A", 0, NULL); /* Without a map nothing is replaced. */
	assert_int_equal(tok_charsmap_init(&m, blob, bytes, &err), 0);
	expect(&m, "A", 1, "a");
	expect(&m, "AB", 1, "a");
	expect(&m, "ABC", 3, "xyz");
	expect(&m, "ABCD", 3, "xyz");
	expect(&m, "\tA", 1, " ");
	expect(&m, "\xef\xac\x81", 3, "fi");
	expect(&m, "\xef\xac", 0, NULL);
	expect(&m, "Z", 1, "");
	expect(&m, "BA", 0, NULL);
	expect(&m, "", 0, NULL);
	assert_int_equal(tok_charsmap_match(&m, "\0A", 2, &(const char *){NULL}), 0);
	free(blob);
}

static void refused(const uint8_t *blob, size_t bytes, const char *why)
{
	struct tok_charsmap m = {0};
	struct ps_err err;

	assert_int_equal(tok_charsmap_init(&m, blob, bytes, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, why));
}

static void torn_ones_are_refused(void **state)
{
	size_t bytes;
	uint8_t *blob = charsmap_file(pairs, 2, &bytes);
	uint32_t units = ps_load32(blob);

	(void)state;
	refused(blob, 3, "length of 4 bytes");
	refused(blob, 4 + units, "found 16384 bytes of units");
	refused(blob, bytes - 1, "does not end");
	ps_store32(blob, units - 1);
	refused(blob, bytes, "units of 4 bytes");
	ps_store32(blob, UINT32_MAX - 3);
	refused(blob, bytes, "units of 4 bytes");
	ps_store32(blob, 0);
	refused(blob, bytes, "units of 4 bytes");
	free(blob);
}

/* Every unit changed to lead somewhere else, and a value behind the texts. */
static void an_array_that_leads_out_is_said(void **state)
{
	struct tok_charsmap m = {0};
	const char *text = NULL;
	struct ps_err err;
	size_t bytes;
	uint8_t *blob = charsmap_file(pairs, 1, &bytes);

	(void)state;
	ps_store32(blob + 4, UINT32_MAX & ~(1u << 9));
	assert_int_equal(tok_charsmap_init(&m, blob, bytes, &err), 0);
	assert_int_equal(tok_charsmap_match(&m, "A", 1, &text), -EBADMSG);
	free(blob);
	blob = charsmap_file(pairs, 1, &bytes);
	for (size_t at = 4; at < 4 + 4096 * 4; at += 4)
		if (ps_load32(blob + at) >> 31)
			ps_store32(blob + at, 1u << 31 | 1000);
	assert_int_equal(tok_charsmap_init(&m, blob, bytes, &err), 0);
	assert_int_equal(tok_charsmap_match(&m, "A", 1, &text), -EBADMSG);
	free(blob);
}

static void a_long_text_is_refused(void **state)
{
	static char longest[1026];
	const struct charsmap_pair pair = {"A", longest};
	struct tok_charsmap m = {0};
	const char *text = NULL;
	struct ps_err err;
	uint8_t *blob;
	size_t bytes;

	(void)state;
	memset(longest, 'x', 1024);
	blob = charsmap_file(&pair, 1, &bytes);
	assert_int_equal(tok_charsmap_init(&m, blob, bytes, &err), 0);
	assert_int_equal(tok_charsmap_match(&m, "A", 1, &text), 1);
	free(blob);
	longest[1024] = 'x';
	blob = charsmap_file(&pair, 1, &bytes);
	assert_int_equal(tok_charsmap_init(&m, blob, bytes, &err), 0);
	assert_int_equal(tok_charsmap_match(&m, "A", 1, &text), -EBADMSG);
	free(blob);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_longest_match),
	    cmocka_unit_test(torn_ones_are_refused),
	    cmocka_unit_test(an_array_that_leads_out_is_said),
	    cmocka_unit_test(a_long_text_is_refused),
	};

	return cmocka_run_group_tests_name("tokenizer_charsmap", tests, NULL, NULL);
}
