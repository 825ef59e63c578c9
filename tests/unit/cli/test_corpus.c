/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/corpus.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define BOS 1

static struct gguf *model, *t5;
static char path[] = "/tmp/penstock-corpus-XXXXXX";

static struct gguf *open_file(const char *name)
{
	char file[512];
	struct ps_err err = {{0}};
	struct gguf *g = NULL;
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	snprintf(file, sizeof(file), "%s/models/%s", root != NULL ? root : ".", name);
	if (gguf_open(file, &g, &err) != 0)
		fprintf(stderr, "%s\n", err.msg);
	return g;
}

static int open_models(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	model = open_file("demo-llama-f16.gguf");
	t5 = open_file("demo-t5-f16.gguf");
	return fd < 0 || model == NULL || t5 == NULL ? -1 : close(fd);
}

static int close_models(void **state)
{
	(void)state;
	gguf_close(model);
	gguf_close(t5);
	return unlink(path);
}

static void write_file(const char *bytes, size_t len)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void read_text(struct corpus *c, const char *text, bool bare, size_t limit)
{
	struct ps_err err = {{0}};

	write_file(text, strlen(text));
	if (corpus_read_text(c, model, path, bare, limit, &err) != 0)
		fail_msg("%s", err.msg);
}

/* Each document has what the tokenizer puts around a text; a single line end is part of a document. */
static void test_documents(void **state)
{
	struct corpus one, two, both;

	(void)state;
	read_text(&one, "And it came to pass", false, 1000);
	read_text(&two, "in the\nland", false, 1000);
	read_text(&both, "\nAnd it came to pass\r\n\n\n\nin the\nland\n", false, 1000);
	assert_true(one.n > 3 && one.ids[0] == BOS && two.ids[0] == BOS);
	assert_int_equal(both.n, one.n + two.n);
	assert_memory_equal(both.ids, one.ids, one.n * sizeof(int32_t));
	assert_memory_equal(both.ids + one.n, two.ids, two.n * sizeof(int32_t));
	assert_true(both.n_prefix == 1 && both.prefix[0] == BOS && both.n_suffix == 0);
	corpus_free(&two);
	/* Bare: the same without it. */
	read_text(&two, "And it came to pass", true, 1000);
	assert_int_equal(two.n + 1, one.n);
	assert_memory_equal(two.ids, one.ids + 1, two.n * sizeof(int32_t));
	assert_int_equal(two.n_prefix, 1);
	corpus_free(&one);
	corpus_free(&two);
	corpus_free(&both);
}

/* T5 has tokens for left-out spans, and an end behind a text; llama has neither. */
static void test_sentinels(void **state)
{
	static const int32_t want[CORPUS_SENTINELS] = {3, 4, 5, 6, 7};
	struct ps_err err = {{0}};
	struct corpus c;

	(void)state;
	read_text(&c, "And it came to pass", true, 1000);
	assert_false(c.has_sentinels);
	corpus_free(&c);
	assert_int_equal(corpus_read_text(&c, t5, path, true, 1000, &err), 0);
	assert_true(c.has_sentinels && c.n_prefix == 0 && c.n_suffix == 1 && c.suffix[0] == 1);
	assert_memory_equal(c.sentinels, want, sizeof(want));
	corpus_free(&c);
}

static void test_limit(void **state)
{
	struct corpus all, some;

	(void)state;
	read_text(&all, "And it came to pass\n\nin the land", false, 1000);
	read_text(&some, "And it came to pass\n\nin the land", false, all.n - 2);
	assert_int_equal(some.n, all.n - 2);
	assert_memory_equal(some.ids, all.ids, some.n * sizeof(int32_t));
	corpus_free(&all);
	corpus_free(&some);
}

static void test_ids(void **state)
{
	static const int32_t want[] = {1, 0, 1535, 7};
	struct ps_err err = {{0}};
	struct corpus c;

	(void)state;
	write_file("[1, 0,1535\n7]\n", 14);
	assert_int_equal(corpus_read_ids(&c, path, 1536, 100, &err), 0);
	assert_int_equal(c.n, 4);
	assert_memory_equal(c.ids, want, sizeof(want));
	corpus_free(&c);
	assert_int_equal(corpus_read_ids(&c, path, 1536, 2, &err), 0);
	assert_int_equal(c.n, 2);
	corpus_free(&c);
}

static void test_refuses(void **state)
{
	static const char *const ids[] = {"1 2 1536", "-1", "3 x", "99999999999999999999", "", " ,\n"};
	struct ps_err err;
	struct corpus c;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		write_file(ids[i], strlen(ids[i]));
		err.msg[0] = '\0';
		assert_int_equal(corpus_read_ids(&c, path, 1536, 100, &err), -EINVAL);
		assert_non_null(strstr(err.msg, path));
	}
	write_file("\n\n\n", 3);
	assert_int_equal(corpus_read_text(&c, model, path, false, 100, &err), -EINVAL);
	write_file("a\0b", 3);
	assert_int_equal(corpus_read_text(&c, model, path, false, 100, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "byte 1"));
	assert_true(corpus_read_text(&c, model, "/nonexistent/text", false, 100, &err) < 0);
	assert_non_null(strstr(err.msg, "/nonexistent/text"));
	assert_true(corpus_read_ids(&c, "/nonexistent/ids", 10, 100, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_documents), cmocka_unit_test(test_sentinels), cmocka_unit_test(test_limit),
	    cmocka_unit_test(test_ids),       cmocka_unit_test(test_refuses),
	};

	return cmocka_run_group_tests_name("cli-corpus", tests, open_models, close_models);
}
