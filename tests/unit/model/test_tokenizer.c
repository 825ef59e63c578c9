/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tokenizers of the demo models: the ids of the reference cases, the text back from any bytes, and
 * streams that never show half a character.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/unicode.h"

struct demo {
	const char *name;
	struct gguf *g;
	struct tokenizer *t;
};

static struct demo demos[] = {{.name = "llama"}, {.name = "gpt2"}};

#define EACH_DEMO(d) for (struct demo *d = demos; d < demos + sizeof(demos) / sizeof(demos[0]); d++)

static const char *models_dir(void)
{
	static char dir[512];
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	snprintf(dir, sizeof(dir), "%s/models", root != NULL ? root : ".");
	return dir;
}

static int load_demos(void **state)
{
	(void)state;
	EACH_DEMO(d)
	{
		struct ps_err err = {.msg = ""};
		char path[640];

		snprintf(path, sizeof(path), "%s/demo-%s-f16.gguf", models_dir(), d->name);
		if (gguf_open(path, &d->g, &err) != 0 || tokenizer_load(d->g, &d->t, &err) != 0) {
			print_error("%s: %s\n", path, err.msg);
			return -1;
		}
	}
	return 0;
}

static int free_demos(void **state)
{
	(void)state;
	EACH_DEMO(d)
	{
		tokenizer_free(d->t);
		gguf_close(d->g);
	}
	return 0;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void assert_ids(const struct tokenizer *t, const char *text, bool add_special, bool parse_special,
		       const int32_t *want, size_t n_want)
{
	int32_t *ids;
	size_t n;

	assert_int_equal(tokenizer_encode(t, text, strlen(text), add_special, parse_special, &ids, &n), 0);
	assert_int_equal(n, n_want);
	if (n > 0)
		assert_memory_equal(ids, want, n * sizeof(*ids));
	free(ids);
}

static int32_t *ids_of_json(const json_t *array, size_t *n_out)
{
	size_t n = json_array_size(array);
	int32_t *ids = calloc(n + 1, sizeof(*ids));

	assert_non_null(ids);
	for (size_t i = 0; i < n; i++)
		ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
	*n_out = n;
	return ids;
}

static void check_case(const struct tokenizer *t, const json_t *c)
{
	const char *prompt = json_string_value(json_object_get(c, "prompt"));
	const char *text = json_string_value(json_object_get(c, "text"));
	int32_t *ids;
	size_t n, len;
	char *got;

	assert_non_null(prompt);
	assert_non_null(text);
	ids = ids_of_json(json_object_get(c, "prompt_ids"), &n);
	assert_true(n > 0);
	assert_ids(t, prompt, true, false, ids, n);
	free(ids);
	ids = ids_of_json(json_object_get(c, "greedy_ids"), &n);
	assert_int_equal(n, 64);
	assert_int_equal(tokenizer_decode(t, ids, n, &got, &len), 0);
	assert_string_equal(got, text);
	assert_int_equal(len, strlen(text));
	free(got);
	free(ids);
}

static void test_reference_cases(void **state)
{
	(void)state;
	EACH_DEMO(d)
	{
		char path[640];
		json_error_t error;
		json_t *all, *cases;

		snprintf(path, sizeof(path), "%s/demo-%s.expected.json", models_dir(), d->name);
		all = json_load_file(path, 0, &error);
		if (all == NULL)
			fail_msg("%s: %s", path, error.text);
		cases = json_object_get(all, "cases");
		assert_true(json_array_size(cases) >= 6);
		for (size_t i = 0; i < json_array_size(cases); i++)
			check_case(d->t, json_array_get(cases, i));
		json_decref(all);
	}
}

/* Whether a well-formed character of the text goes on at `at`. */
static bool is_inside_character(const char *text, size_t len, size_t at)
{
	for (size_t back = 1; back <= 3 && back <= at; back++)
		if (unicode_utf8_len(text + at - back, len - (at - back)) > back)
			return true;
	return false;
}

/* Decodes by stream; no piece may end inside a character, and together they are the text. */
static void check_stream(const struct tokenizer *t, const int32_t *ids, size_t n, const char *text,
			 size_t len)
{
	char *got = malloc(len + TOKENIZER_STREAM_BYTES);
	struct tokenizer_stream s;
	size_t at = 0;

	assert_non_null(got);
	tokenizer_stream_init(&s);
	for (size_t i = 0; i < n; i++) {
		size_t k = tokenizer_stream_push(t, &s, ids[i], got + at, TOKENIZER_STREAM_BYTES);

		at += k;
		assert_true(at <= len);
		assert_false(is_inside_character(text, len, at));
	}
	at += tokenizer_stream_flush(&s, got + at, TOKENIZER_STREAM_BYTES);
	assert_int_equal(at, len);
	assert_memory_equal(got, text, len);
	assert_int_equal(tokenizer_stream_flush(&s, got, TOKENIZER_STREAM_BYTES), 0);
	free(got);
}

static void check_round_trip(const struct tokenizer *t, const char *text, size_t len)
{
	int32_t *ids;
	char *back;
	size_t n, n_back;

	assert_int_equal(tokenizer_encode(t, text, len, false, false, &ids, &n), 0);
	for (size_t i = 0; i < n; i++)
		assert_false(tokenizer_is_eog(t, ids[i]));
	assert_int_equal(tokenizer_decode(t, ids, n, &back, &n_back), 0);
	assert_int_equal(n_back, len);
	assert_memory_equal(back, text, len);
	assert_int_equal(back[len], '\0');
	check_stream(t, ids, n, text, len);
	free(back);
	free(ids);
}

static void test_round_trip_texts(void **state)
{
	static const char *const texts[] = {
	    "",
	    " ",
	    "  ",
	    "   a",
	    "a ",
	    "\n",
	    " \n ",
	    "\r\n\t",
	    "In the beginning",
	    " In the beginning",
	    "<s>",
	    "</s><s> <unk>",
	    "<|endoftext|>",
	    "<0x41>",
	    "z\u0308\u00e4",
	    "\u65e5\u672c\u8a9e",
	    "\u2581",
	    "a\u2581b \u2581 c",
	    "\U0001f999\U0001f468\u200d\U0001f469\u200d\U0001f467!",
	    "\u180e \u2003x\xc2\x85y",
	    "I'LL 'tis we've 1234567 33.3",
	    "\xff",
	    "\xe2\x96",
	    "\xe2\x96 \x81",
	    "\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf",
	    "a\x80\x80.b\xf0\x9f\xa6",
	    "\u2581\xe2\x96\u2581",
	};
	char all[256];

	(void)state;
	for (int i = 0; i < 256; i++)
		all[i] = (char)i;
	EACH_DEMO(d)
	{
		for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
			check_round_trip(d->t, texts[i], strlen(texts[i]));
		check_round_trip(d->t, all, sizeof(all));
		check_round_trip(d->t, "a\0b", 3);
	}
}

/* Bytes drawn from a few classes, so that characters, torn characters and words all come. */
static void test_round_trip_random(void **state)
{
	static const char *const parts[] = {
	    " ",        "the",  "\n", "\xe2\x96\x81", "\xe2\x96", "\x81", "\xf0\x9f\xa6\x99",
	    "\xf0\x9f", "'s",   "12", "<s>",          "\xc3\xa4", "\xff", "\xe0\x80\x80",
	    "\t",       "Lord",
	};
	char text[400];

	(void)state;
	for (uint64_t seed = 0; seed < 800; seed++) {
		uint64_t random = seed;
		size_t len = 0, n = next_random(&random) % 40;

		for (size_t i = 0; i < n; i++) {
			uint64_t r = next_random(&random);
			const char *part = parts[r % 16];

			if (r >> 60 == 0) {
				text[len++] = (char)(r >> 8);
				continue;
			}
			memcpy(text + len, part, strlen(part));
			len += strlen(part);
		}
		EACH_DEMO(d)
		check_round_trip(d->t, text, len);
	}
}

static void test_special_tokens(void **state)
{
	const struct tokenizer *spm = demos[0].t, *bpe = demos[1].t;
	const int32_t bos_eos[] = {1, 2}, bos[] = {1}, end[] = {1535};
	int32_t *ids;
	size_t n;

	(void)state;
	assert_int_equal(tokenizer_bos(spm), 1);
	assert_int_equal(tokenizer_eos(spm), 2);
	assert_true(tokenizer_is_eog(spm, 2));
	assert_false(tokenizer_is_eog(spm, 1));
	assert_false(tokenizer_is_eog(spm, -1));
	assert_false(tokenizer_is_eog(spm, 1536));
	assert_int_equal(tokenizer_n_vocab(spm), 1536);
	assert_int_equal(tokenizer_eos(bpe), 1535);
	assert_ids(spm, "<s></s>", false, true, bos_eos, 2);
	assert_ids(spm, "", true, false, bos, 1);
	assert_ids(spm, "", false, false, NULL, 0);
	assert_ids(bpe, "", true, true, NULL, 0);
	assert_ids(bpe, "<|endoftext|>", false, true, end, 1);
	/* Without parse_special the same text is plain text. */
	assert_int_equal(tokenizer_encode(spm, "<s></s>", 7, false, false, &ids, &n), 0);
	for (size_t i = 0; i < n; i++)
		assert_true(ids[i] > 2);
	free(ids);
	assert_int_equal(tokenizer_encode(bpe, "<|endoftext|>", 13, false, false, &ids, &n), 0);
	assert_true(n > 1);
	for (size_t i = 0; i < n; i++)
		assert_true(ids[i] < 1535);
	free(ids);
}

static void test_decode_errors(void **state)
{
	const int32_t low[] = {5, -1}, high[] = {1536}, control[] = {1, 2, 0, 1};
	struct tokenizer_stream s;
	char buf[TOKENIZER_STREAM_BYTES], *text;
	size_t len;

	(void)state;
	EACH_DEMO(d)
	{
		assert_int_equal(tokenizer_decode(d->t, low, 2, &text, &len), -22);
		assert_int_equal(tokenizer_decode(d->t, high, 1, &text, &len), -22);
		tokenizer_stream_init(&s);
		assert_int_equal(tokenizer_stream_push(d->t, &s, -1, buf, sizeof(buf)), 0);
		assert_int_equal(tokenizer_stream_push(d->t, &s, 1536, buf, sizeof(buf)), 0);
		assert_int_equal(tokenizer_decode(d->t, NULL, 0, &text, &len), 0);
		assert_string_equal(text, "");
		free(text);
	}
	assert_int_equal(tokenizer_decode(demos[0].t, control, 4, &text, &len), 0);
	assert_int_equal(len, 0);
	free(text);
}

/* The four bytes of a character as byte tokens: nothing shows before the last. */
static void test_stream_bytes(void **state)
{
	const struct tokenizer *t = demos[0].t;
	const char *llama = "\xf0\x9f\xa6\x99";
	char buf[TOKENIZER_STREAM_BYTES];
	struct tokenizer_stream s;
	int32_t *ids;
	size_t n;

	(void)state;
	assert_int_equal(tokenizer_encode(t, llama, 4, false, false, &ids, &n), 0);
	assert_int_equal(n, 5); /* the space in front and four bytes */
	tokenizer_stream_init(&s);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(tokenizer_stream_push(t, &s, ids[i], buf, sizeof(buf)), 0);
	assert_int_equal(tokenizer_stream_push(t, &s, ids[4], buf, sizeof(buf)), 4);
	assert_memory_equal(buf, llama, 4);
	/* Cut off by an end: the three bytes come with the flush, once. */
	for (size_t i = 1; i < 4; i++)
		assert_int_equal(tokenizer_stream_push(t, &s, ids[i], buf, sizeof(buf)), 0);
	assert_int_equal(tokenizer_stream_flush(&s, buf, sizeof(buf)), 3);
	assert_memory_equal(buf, llama, 3);
	/* Cut off by another character: they come as they are, before it. */
	for (size_t i = 1; i < 3; i++)
		assert_int_equal(tokenizer_stream_push(t, &s, ids[i], buf, sizeof(buf)), 0);
	assert_int_equal(tokenizer_stream_push(t, &s, ids[1], buf, sizeof(buf)), 2);
	assert_memory_equal(buf, llama, 2);
	assert_int_equal(tokenizer_stream_flush(&s, buf, sizeof(buf)), 1);
	free(ids);
}

static double encode_seconds(const struct tokenizer *t, const char *text, size_t len)
{
	struct timespec a, b;
	int32_t *ids;
	char *back;
	size_t n, n_back;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	assert_int_equal(tokenizer_encode(t, text, len, true, true, &ids, &n), 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	assert_int_equal(tokenizer_decode(t, ids, n, &back, &n_back), 0);
	assert_int_equal(n_back, len);
	assert_memory_equal(back, text, len);
	free(back);
	free(ids);
	return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* Texts that make a quadratic step show: one word, words, one gap, one character, torn bytes. 1 MB takes
 * a fraction of a second each; a quadratic tokenizer would take minutes, so the bound is generous
 * enough for sanitizers on a busy machine. */
static void test_a_megabyte(void **state)
{
	static const char *const units[] = {
	    "a",
	    "the Lord said, ",
	    " ",
	    "\n",
	    "\xf0\x9f\xa6\x99",
	    "\xff",
	    "'",
	    "1",
	    " \n",
	    "<",
	    "\xe2\x96\x81",
	    "\xe6\x88\x91",
	};
	enum { BYTES = 1 << 20 };
	char *text = malloc(BYTES);

	(void)state;
	assert_non_null(text);
	EACH_DEMO(d)
	{
		for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
			size_t k = strlen(units[u]), len = 0;
			double s;

			for (; len + k <= (u < 2 ? BYTES : BYTES / 4); len += k)
				memcpy(text + len, units[u], k);
			s = encode_seconds(d->t, text, len);
			print_message("%s: %zu bytes of unit %zu: %.3f s\n", d->name, len, u, s);
			assert_true(s < 10.0);
		}
	}
	free(text);
}

static void test_too_long(void **state)
{
	int32_t *ids;
	size_t n;

	(void)state;
	/* Refused by its length alone: the text is not touched. */
	EACH_DEMO(d)
	assert_int_equal(tokenizer_encode(d->t, "", (64u << 20) + 1, false, false, &ids, &n), -7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_reference_cases),   cmocka_unit_test(test_round_trip_texts),
	    cmocka_unit_test(test_round_trip_random), cmocka_unit_test(test_special_tokens),
	    cmocka_unit_test(test_decode_errors),     cmocka_unit_test(test_stream_bytes),
	    cmocka_unit_test(test_a_megabyte),        cmocka_unit_test(test_too_long),
	};

	return cmocka_run_group_tests(tests, load_demos, free_demos);
}
