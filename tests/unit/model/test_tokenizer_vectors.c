/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vocabularies of other models against the ids that their own tokenizers
 * give. The data is third-party and not part of the project: it is looked for under
 * PENSTOCK_DATA_DIR, by default beside the source tree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/tokenizer.h"

#define SEPARATOR "\n__ggml_vocab_test__\n"
#define N_TEXTS   46

static char dir[512];

static char *read_file(const char *path, size_t *len_out)
{
	FILE *f = fopen(path, "rb");
	char *buf;

	assert_non_null(f);
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
	*len_out = (size_t)ftell(f);
	rewind(f);
	buf = malloc(*len_out + 1);
	assert_non_null(buf);
	assert_int_equal(fread(buf, 1, *len_out, f), *len_out);
	buf[*len_out] = '\0';
	fclose(f);
	return buf;
}

static struct tokenizer *load(const char *path, struct gguf **g_out)
{
	struct tokenizer *t = NULL;
	struct ps_err err = {.msg = ""};

	if (gguf_open(path, g_out, &err) != 0 || tokenizer_load(*g_out, &t, &err) != 0)
		fail_msg("%s: %s", path, err.msg);
	return t;
}

/* Compares with a line of decimal ids; moves *line behind its end. */
static bool same_ids(const int32_t *ids, size_t n, char **line)
{
	char *at = *line, *end = at + strcspn(at, "\n");
	size_t i = 0;
	bool same = true;

	for (;;) {
		char *next;
		long want;

		while (at < end && *at == ' ')
			at++;
		if (at == end)
			break;
		want = strtol(at, &next, 10);
		assert_ptr_not_equal(next, at);
		at = next;
		same = same && i < n && ids[i] == want;
		i++;
	}
	*line = *end != '\0' ? end + 1 : end;
	return same && i == n;
}

static void check_round_trip(const struct tokenizer *t, const char *text, size_t len, const int32_t *ids,
			     size_t n)
{
	char *back;
	size_t n_back;

	assert_int_equal(tokenizer_decode(t, ids, n, &back, &n_back), 0);
	assert_int_equal(n_back, len);
	assert_memory_equal(back, text, len);
	free(back);
}

/* WordPiece loses case and blanks, but what decoding gives has the same ids, unless some were unknown. */
static void check_again(const struct tokenizer *t, const int32_t *ids, size_t n)
{
	const int32_t unknown = 100;
	int32_t *again;
	size_t n_again, len;
	char *text;

	for (size_t i = 0; i < n; i++)
		if (ids[i] == unknown)
			return;
	assert_int_equal(tokenizer_decode(t, ids, n, &text, &len), 0);
	assert_int_equal(tokenizer_encode(t, text, len, false, false, &again, &n_again), 0);
	assert_int_equal(n_again, n);
	if (n > 0)
		assert_memory_equal(again, ids, n * sizeof(*ids));
	free(again);
	free(text);
}

static void check_vocabulary(const char *name)
{
	char path[640];
	struct gguf *g;
	struct tokenizer *t;
	char *texts, *ids_text, *at, *line;
	size_t len, wrong = 0;

	snprintf(path, sizeof(path), "%s/tokenizers/llama.cpp-vocab/ggml-vocab-%s.gguf", dir, name);
	t = load(path, &g);
	snprintf(path, sizeof(path), "%s/tokenizers/llama.cpp-vocab/ggml-vocab-%s.gguf.inp", dir, name);
	texts = at = read_file(path, &len);
	snprintf(path, sizeof(path), "%s/tokenizers/llama.cpp-vocab/ggml-vocab-%s.gguf.out", dir, name);
	ids_text = line = read_file(path, &len);
	for (int i = 0; i < N_TEXTS; i++) {
		char *end = strstr(at, SEPARATOR);
		int32_t *ids;
		size_t n;

		assert_non_null(end);
		assert_int_equal(tokenizer_encode(t, at, (size_t)(end - at), false, false, &ids, &n), 0);
		if (!same_ids(ids, n, &line)) {
			print_error("%s: text %d \"%.*s\" has other ids\n", name, i, (int)(end - at), at);
			for (size_t k = 0; k < n; k++)
				print_error(" %d", ids[k]);
			print_error("\n");
			wrong++;
		}
		if (strcmp(name, "bert-bge") == 0)
			check_again(t, ids, n);
		else
			check_round_trip(t, at, (size_t)(end - at), ids, n);
		free(ids);
		at = end + strlen(SEPARATOR);
	}
	assert_int_equal(wrong, 0);
	assert_int_equal(*line, '\0');
	free(texts);
	free(ids_text);
	tokenizer_free(t);
	gguf_close(g);
}

static void test_vocabulary(void **state)
{
	check_vocabulary(*state);
}

int main(void)
{
	static char *names[] = {"gpt-2", "llama-spm", "llama-bpe", "qwen2", "falcon", "bert-bge"};
	struct CMUnitTest tests[sizeof(names) / sizeof(names[0])];
	const char *root = getenv("PENSTOCK_SOURCE_ROOT"), *data = getenv("PENSTOCK_DATA_DIR");
	char path[640];

	if (data != NULL)
		snprintf(dir, sizeof(dir), "%s", data);
	else
		snprintf(dir, sizeof(dir), "%s/../shared", root != NULL ? root : ".");
	snprintf(path, sizeof(path), "%s/tokenizers/llama.cpp-vocab", dir);
	if (access(path, R_OK) != 0) {
		printf("skipped: data not here (%s)\n", path);
		return 77;
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		tests[i] = (struct CMUnitTest){
		    .name = names[i], .test_func = test_vocabulary, .initial_state = names[i]};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
