/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The named pre-tokenizers: every name that an error text offers compiles, words
 * cover the text, and what tells one expression from another (digits, contractions,
 * punctuation, blanks, ideographs) by the words that published tokenizers cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "model/tokenizer_pre.h"

/* The words with a bar between them. */
static void expect(const char *name, const char *text, const char *words)
{
	struct tok_pre_work *w = tok_pre_work_create();
	struct tok_pre *p = NULL;
	char got[512] = "";
	struct ps_err err = {.msg = ""};
	const uint32_t *ends;
	uint32_t from = 0;
	size_t n;

	assert_non_null(w);
	if (tok_pre_create(name, strlen(name), &p, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(tok_pre_split(p, w, text, (uint32_t)strlen(text), &ends, &n), 0);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			strcat(got, "|");
		strncat(got, text + from, ends[i] - from);
		from = ends[i];
	}
	if (strcmp(got, words) != 0)
		fail_msg("%s: \"%s\" is cut into \"%s\", expected \"%s\"", name, text, got, words);
	tok_pre_free(p);
	tok_pre_work_free(w);
}

static void words(void **state)
{
	(void)state;
	expect("gpt-2", "I'm  1234 x!?\n", "I|'m| | 1234| x|!?|\n");
	expect("llama-bpe", "I'M  1234 x!?\n\nz", "I|'M| | |123|4| x|!?\n\n|z");
	expect("qwen2", "(abc) 12", "(abc|)| |1|2");
	expect("default", "a1234!b", "a|123|4|!|b");
	expect("falcon", "a1234`b +c", "a|123|4|`|b| |+|c");
	expect("starcoder", "a 12 b", "a| |1|2| b");
	expect("refact", "12", "1|2");
	expect("command-r", "12", "1|2");
	expect("mpt", "12", "12");
	expect("olmo", "12", "12");
	expect("phi-2", "12", "12");
	expect("stablelm2", "12", "1|2");
	expect("bloom", "a, b.c (d", "a|,| b|.|c| (|d");
	expect("viking", "a12", "a|1|2");
	expect("deepseek-llm", "ab 12\ncd \xe4\xb8\xad\xe6\x96\x87",
	       "ab| |12|\n|cd| |\xe4\xb8\xad\xe6\x96\x87");
	expect("deepseek-coder", "ab 12!? cd", "ab| |1|2|!?| cd");
	expect("deepseek-v3", "ab1234\xe4\xb8\xad\xe6\x96\x87", "ab|123|4|\xe4\xb8\xad\xe6\x96\x87");
	expect("gpt-4o", "camelCase's XMLHttp", "camel|Case's| XMLHttp");
	expect("tekken", "camelCase12", "camel|Case|1|2");
	expect("qwen35",
	       "a\xcc\x81"
	       "b",
	       "a\xcc\x81"
	       "b");
	expect("bailingmoe", "a \n\n b", "a| \n\n| b");
	expect("seed-coder", "!\n12", "!|\n|1|2");
	expect("jais-2", "a       b", "a|    |  | b");
	expect("laguna", "a!\nb", "a|!|\n|b");
	expect("chameleon", "a    b<sentinel:1>", "a|    |b|<|sentinel|:|1|>");
	expect("youtu",
	       "ab\xea\xb0\x80"
	       "cd",
	       "ab|\xea\xb0\x80|cd");
	expect("minicpm5", "a1234", "a|123|4");
}

/* The list in the error text is whole, and each of its names is one. */
static void every_name(void **state)
{
	struct tok_pre_work *w = tok_pre_work_create();
	static const char text[] = "Hi, it's 12 \xc3\xa9\xcc\x81 \xe4\xb8\xad\xf0\x9f\x98\x80\r\n\t  end";
	struct ps_err err, other;
	struct tok_pre *p;
	unsigned names = 0;
	const uint32_t *ends;
	char *at;
	size_t n;

	(void)state;
	assert_non_null(w);
	assert_int_equal(tok_pre_create("x", 1, &p, &err), -ENOTSUP);
	at = strstr(err.msg, "one of ");
	assert_non_null(at);
	for (char *name = strtok(at + 7, ", "); name != NULL; name = strtok(NULL, ", "), names++) {
		uint32_t from = 0;

		if (tok_pre_create(name, strlen(name), &p, &other) != 0)
			fail_msg("%s", other.msg);
		assert_int_equal(tok_pre_split(p, w, text, sizeof(text) - 1, &ends, &n), 0);
		for (size_t i = 0; i < n; i++) {
			assert_true(ends[i] > from);
			from = ends[i];
		}
		assert_int_equal(from, sizeof(text) - 1);
		tok_pre_free(p);
	}
	assert_true(names > 60);
	tok_pre_work_free(w);
}

/* No expression takes more than linear time over a run of one character. */
static void long_runs(void **state)
{
	static const char *const names[] = {"default",        "gpt-2",       "llama-bpe", "qwen2",
					    "falcon",         "bloom",       "gpt-4o",    "deepseek-llm",
					    "deepseek-coder", "deepseek-v3", "jais-2",    "tekken"};
	enum { LONG = 1 << 18 };
	struct tok_pre_work *w = tok_pre_work_create();
	char *text = malloc(LONG);
	const uint32_t *ends;
	size_t n;

	(void)state;
	assert_non_null(w);
	assert_non_null(text);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		for (const char *c = "aA 1!\n'"; *c != '\0'; c++) {
			clock_t start = clock();
			struct tok_pre *p;

			memset(text, *c, LONG);
			assert_int_equal(tok_pre_create(names[i], strlen(names[i]), &p, NULL), 0);
			assert_int_equal(tok_pre_split(p, w, text, LONG, &ends, &n), 0);
			assert_int_equal(ends[n - 1], LONG);
			if (clock() - start > 2 * CLOCKS_PER_SEC)
				fail_msg("%s: a run of '%c' takes %.1f s", names[i], *c,
					 (double)(clock() - start) / CLOCKS_PER_SEC);
			tok_pre_free(p);
		}
	free(text);
	tok_pre_work_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(words),
	    cmocka_unit_test(every_name),
	    cmocka_unit_test(long_runs),
	};

	return cmocka_run_group_tests_name("tokenizer_pre", tests, NULL, NULL);
}
