/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * WordPiece and unigram over small vocabularies made here: each rule by itself,
 * what special tokens take with them, and what a file may not say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "tests/unit/model/charsmap_file.h"
#include "tests/unit/model/vocab_file.h"

#define KEY(name) "tokenizer.ggml." name
#define N(array)  (sizeof(array) / sizeof((array)[0]))
#define SP        "\xe2\x96\x81"

struct vocab {
	struct vocab_file f;
	struct gguf *g;
	struct tokenizer *t;
};

static void load(struct vocab *v)
{
	struct ps_err err = {.msg = ""};

	if (vocab_file_open(&v->f, &v->g, &err) != 0 || tokenizer_load(v->g, &v->t, &err) != 0)
		fail_msg("%s", err.msg);
}

static void unload(struct vocab *v)
{
	tokenizer_free(v->t);
	gguf_close(v->g);
	vocab_file_fini(&v->f);
}

static void refuse(struct vocab *v, int code, const char *what)
{
	struct ps_err err = {.msg = ""};

	assert_int_equal(vocab_file_open(&v->f, &v->g, &err), 0);
	assert_int_equal(tokenizer_load(v->g, &v->t, &err), code);
	if (strstr(err.msg, what) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", err.msg, what);
	gguf_close(v->g);
	vocab_file_fini(&v->f);
}

#define ASSERT_IDS(t, text, special, ...)                                                                    \
	do {                                                                                                 \
		const int32_t want_[] = {__VA_ARGS__};                                                       \
		assert_ids(t, text, strlen(text), special, want_, N(want_));                                 \
	} while (0)

static void assert_ids(const struct tokenizer *t, const char *text, size_t len, bool special,
		       const int32_t *want, size_t n_want)
{
	int32_t *ids;
	size_t n;

	assert_int_equal(tokenizer_encode(t, text, len, special, special, &ids, &n), 0);
	for (size_t i = 0; i < n && i < n_want; i++)
		if (ids[i] != want[i])
			fail_msg("\"%s\": id %zu is %d, expected %d", text, i, ids[i], want[i]);
	assert_int_equal(n, n_want);
	free(ids);
}

static void assert_none(const struct tokenizer *t, const char *text)
{
	assert_ids(t, text, strlen(text), false, NULL, 0);
}

static void assert_text(const struct tokenizer *t, const int32_t *ids, size_t n, const char *want)
{
	struct tokenizer_stream s;
	char *text, buf[TOKENIZER_STREAM_BYTES], whole[256] = "";
	size_t len;

	assert_int_equal(tokenizer_decode(t, ids, n, &text, &len), 0);
	assert_string_equal(text, want);
	free(text);
	tokenizer_stream_init(&s);
	for (size_t i = 0; i < n; i++) {
		len = tokenizer_stream_push(t, &s, ids[i], buf, sizeof(buf));
		strncat(whole, buf, len);
	}
	assert_string_equal(whole, want);
}

static const char *const wpm_tokens[] = {
    "[PAD]",        "[UNK]",   "[CLS]", "[SEP]",
    "[MASK]",       SP "play", "ing",   "s",
    SP "un",        "play",    "able",  SP ",",
    SP "a",         "b",       "a",     SP "\xe4\xb8\xad",
    SP "i\xcc\x87", SP "$",    SP "A",  SP "\xe1\x84\x92",
    "\xe1\x85\xa1",
};
static const int32_t wpm_types[] = {3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
enum {
	PAD,
	UNK,
	CLS,
	SEP,
	MASK,
	PLAY,
	ING,
	S,
	UN,
	PLAY2,
	ABLE,
	COMMA,
	A,
	B2,
	A2,
	ZHONG,
	I_DOT,
	DOLLAR,
	BIG_A,
	HIEUH,
	JAMO_A
};

static void wpm_file(struct vocab *v)
{
	vocab_file_init(&v->f);
	vocab_file_str(&v->f, KEY("model"), "bert");
	vocab_file_strs(&v->f, KEY("tokens"), wpm_tokens, N(wpm_tokens));
	vocab_file_i32s(&v->f, KEY("token_type"), wpm_types, N(wpm_types));
	vocab_file_u32(&v->f, KEY("cls_token_id"), CLS);
	vocab_file_u32(&v->f, KEY("seperator_token_id"), SEP);
	vocab_file_u32(&v->f, KEY("unknown_token_id"), UNK);
	vocab_file_u32(&v->f, KEY("mask_token_id"), MASK);
}

static void wordpiece_words(void **state)
{
	static const char zero[] = "pl\0ay";
	const int32_t play = PLAY;
	struct vocab v;

	(void)state;
	wpm_file(&v);
	load(&v);
	ASSERT_IDS(v.t, "playing plays", false, PLAY, ING, PLAY, S);
	ASSERT_IDS(v.t, "unplayable", false, UN, PLAY2, ABLE);
	/* A word that cannot be spelled to its end is unknown as a whole. */
	ASSERT_IDS(v.t, "playx play xplay", false, UNK, PLAY, UNK);
	ASSERT_IDS(v.t, "ab", false, A, B2);
	ASSERT_IDS(v.t, "b", false, UNK);
	/* Blanks, punctuation and ideographs end words. */
	ASSERT_IDS(v.t,
		   " \t\r\na,a$ab\xe4\xb8\xad"
		   "a\xc2\xa0"
		   "a\xe3\x80\x80",
		   false, A, COMMA, A, DOLLAR, A, B2, ZHONG, A, A);
	/* Case, accents, and what says nothing. */
	ASSERT_IDS(v.t,
		   "PL\xc3\x81Y a\xcc\x81\xcc\xa3 pl\xe2\x80\x8b"
		   "ay pl\xc2\xad"
		   "ay pl\xff"
		   "ay",
		   false, PLAY, A, PLAY, PLAY, PLAY);
	assert_ids(v.t, zero, 5, false, &play, 1);
	/* NFD to the end: a syllable is its letters. */
	ASSERT_IDS(v.t, "\xed\x95\x98", false, HIEUH, JAMO_A);
	assert_none(v.t, "");
	assert_none(v.t, " \n\x01\xcc\x81");
	unload(&v);
}

static void wordpiece_ends_and_specials(void **state)
{
	const int32_t ids[] = {CLS, PLAY, ING, COMMA, PLAY, S, UNK, MASK, SEP};
	struct vocab v;

	(void)state;
	wpm_file(&v);
	load(&v);
	ASSERT_IDS(v.t, "a", true, CLS, A, SEP);
	ASSERT_IDS(v.t, "", true, CLS, SEP);
	ASSERT_IDS(v.t, "a [MASK]b,", true, CLS, A, MASK, UNK, COMMA, SEP);
	ASSERT_IDS(v.t, "[MASK]", false, UNK, UNK, UNK);
	assert_int_equal(tokenizer_bos(v.t), CLS);
	assert_int_equal(tokenizer_eos(v.t), SEP);
	assert_int_equal(tokenizer_mask(v.t), MASK);
	assert_text(v.t, ids, N(ids), "playing , plays");
	unload(&v);
}

/* One character too many makes a word unknown, and no length makes it slow. */
static void wordpiece_long_words(void **state)
{
	enum { LONG = 1 << 20 };
	char *text = malloc(LONG);
	int32_t want[100], unk = UNK;
	struct vocab v;
	clock_t start;

	(void)state;
	assert_non_null(text);
	memset(text, 'a', LONG);
	wpm_file(&v);
	load(&v);
	for (int i = 0; i < 100; i++)
		want[i] = i == 0 ? A : A2;
	assert_ids(v.t, text, 100, false, want, 100);
	assert_ids(v.t, text, 101, false, &unk, 1);
	start = clock();
	assert_ids(v.t, text, LONG, false, &unk, 1);
	assert_true(clock() - start < 2 * CLOCKS_PER_SEC);
	unload(&v);
	free(text);
}

static void wordpiece_options(void **state)
{
	struct vocab v;

	(void)state;
	wpm_file(&v);
	vocab_file_bool(&v.f, KEY("normalizer.lowercase"), false);
	load(&v);
	ASSERT_IDS(v.t, "A a \xc3\x81", false, BIG_A, A, UNK);
	unload(&v);
	wpm_file(&v);
	vocab_file_bool(&v.f, KEY("normalizer.strip_accents"), false);
	load(&v);
	ASSERT_IDS(v.t, "A \xc4\xb0 \xc3\x81", false, A, I_DOT, UNK);
	unload(&v);
	wpm_file(&v);
	vocab_file_bool(&v.f, KEY("add_bos_token"), false);
	vocab_file_bool(&v.f, KEY("add_eos_token"), false);
	load(&v);
	ASSERT_IDS(v.t, "a", true, A);
	unload(&v);
	wpm_file(&v);
	vocab_file_u32(&v.f, KEY("normalizer.lowercase"), 1);
	refuse(&v, -EBADMSG, "lowercase: expected a bool");
}

static void wordpiece_refused(void **state)
{
	static const char *const hashed[] = {"[UNK]", "a", "##b"};
	static const int32_t bytes[] = {2, 1, 6};
	struct vocab v;

	(void)state;
	vocab_file_init(&v.f);
	vocab_file_str(&v.f, KEY("model"), "bert");
	vocab_file_strs(&v.f, KEY("tokens"), hashed, N(hashed));
	refuse(&v, -ENOTSUP, "convert the model anew");
	vocab_file_init(&v.f);
	vocab_file_str(&v.f, KEY("model"), "bert");
	vocab_file_strs(&v.f, KEY("tokens"), wpm_tokens, 3);
	vocab_file_i32s(&v.f, KEY("token_type"), bytes, 3);
	refuse(&v, -EBADMSG, "a WordPiece vocabulary has no byte tokens");
}

static const char *const ugm_tokens[] = {
    "<pad>", "</s>", "<unk>", SP,   "a",      "b",      "ab", SP "a",
    SP "ab", "abb",  "<x>",   "fi", "<0xC3>", "<0xA4>", "c",
};
static const float ugm_scores[] = {0, 0, 0, -2, -3, -3, -4, -3, -6, -20, -50, -3, 0, 0, -10};
static const int32_t ugm_types[] = {3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 4, 1, 6, 6, 5};
enum { U_PAD, U_EOS, U_UNK, U_SP, U_A, U_B, U_AB, U_SP_A, U_SP_AB, U_ABB, U_X, U_FI, U_C3, U_A4, U_C };

static void ugm_file(struct vocab *v, const float *scores, const int32_t *types)
{
	vocab_file_init(&v->f);
	vocab_file_str(&v->f, KEY("model"), "t5");
	vocab_file_strs(&v->f, KEY("tokens"), ugm_tokens, N(ugm_tokens));
	vocab_file_f32s(&v->f, KEY("scores"), scores, N(ugm_tokens));
	vocab_file_i32s(&v->f, KEY("token_type"), types, N(ugm_tokens));
}

static void unigram_spelling(void **state)
{
	const int32_t ids[] = {U_SP_AB, U_B, U_X, U_SP_A, U_C3, U_A4, U_UNK, U_EOS};
	struct vocab v;

	(void)state;
	ugm_file(&v, ugm_scores, ugm_types);
	vocab_file_bool(&v.f, KEY("remove_extra_whitespaces"), true);
	vocab_file_bool(&v.f, KEY("add_space_prefix"), true);
	load(&v);
	/* " ab": as one it costs 6, as "▁a" "b" also 6: of equals the longer token stands. */
	ASSERT_IDS(v.t, "ab", false, U_SP_AB);
	ASSERT_IDS(v.t, "abb", false, U_SP_AB, U_B);
	ASSERT_IDS(v.t, "  a \t b\n", false, U_SP_A, U_SP, U_UNK, U_SP, U_B, U_UNK);
	/* A user-defined token stands apart, and what follows is a text of its own. */
	ASSERT_IDS(v.t, "a<x>a", true, U_SP_A, U_X, U_SP_A, U_EOS);
	ASSERT_IDS(v.t, "</s>", true, U_EOS, U_EOS);
	ASSERT_IDS(v.t, "", true, U_EOS);
	assert_none(v.t, "   ");
	/* Unknown characters are one token; where there are byte tokens for one, it is those. */
	ASSERT_IDS(v.t, "xyza", false, U_SP, U_UNK, U_A);
	ASSERT_IDS(v.t,
		   "\xc3\xa4"
		   "x",
		   false, U_SP, U_C3, U_A4, U_UNK);
	ASSERT_IDS(v.t, "\xff", false, U_SP, U_UNK);
	/* An unused token is still one. */
	ASSERT_IDS(v.t, "c", false, U_SP, U_C);
	assert_text(v.t, ids, N(ids), "abb<x> a\xc3\xa4");
	unload(&v);
}

static void unigram_keeps_spaces_where_asked(void **state)
{
	struct vocab v;

	(void)state;
	ugm_file(&v, ugm_scores, ugm_types);
	load(&v);
	ASSERT_IDS(v.t, "a  a", false, U_A, U_SP, U_SP_A);
	unload(&v);
	ugm_file(&v, ugm_scores, ugm_types);
	vocab_file_bool(&v.f, KEY("add_space_prefix"), true);
	load(&v);
	ASSERT_IDS(v.t, "a  a", false, U_SP_A, U_SP, U_SP_A);
	unload(&v);
}

static void unigram_charsmap(void **state)
{
	static const struct charsmap_pair pairs[] = {
	    {"Z", ""}, {"\xef\xac\x81", "fi"}, {"A", "a"}, {"\n", " "}};
	struct vocab v;
	size_t bytes;
	uint8_t *blob = charsmap_file(pairs, N(pairs), &bytes);

	(void)state;
	ugm_file(&v, ugm_scores, ugm_types);
	vocab_file_bool(&v.f, KEY("remove_extra_whitespaces"), true);
	vocab_file_u8s(&v.f, KEY("precompiled_charsmap"), blob, bytes);
	load(&v);
	ASSERT_IDS(v.t, "\xef\xac\x81\nAZb", false, U_SP, U_FI, U_SP_AB);
	unload(&v);
	ugm_file(&v, ugm_scores, ugm_types);
	vocab_file_u8s(&v.f, KEY("precompiled_charsmap"), blob, bytes - 1);
	refuse(&v, -EBADMSG, "precompiled_charsmap: the last text does not end");
	ugm_file(&v, ugm_scores, ugm_types);
	vocab_file_str(&v.f, KEY("precompiled_charsmap"), "abc");
	refuse(&v, -EBADMSG, "expected an array of bytes");
	free(blob);
}

static void unigram_refused(void **state)
{
	float scores[N(ugm_scores)];
	struct vocab v;

	(void)state;
	memcpy(scores, ugm_scores, sizeof(scores));
	scores[4] = -INFINITY;
	ugm_file(&v, scores, ugm_types);
	refuse(&v, -EBADMSG, "scores[4] is infinite");
	scores[4] = NAN;
	ugm_file(&v, scores, ugm_types);
	refuse(&v, -EBADMSG, "scores[4] is not a number");
}

/* A text of one word is as long as one gets. */
static void unigram_is_linear(void **state)
{
	enum { LONG = 1 << 20 };
	char *text = malloc(LONG);
	struct vocab v;
	int32_t *ids;
	clock_t start;
	size_t n;

	(void)state;
	assert_non_null(text);
	memset(text, 'a', LONG);
	ugm_file(&v, ugm_scores, ugm_types);
	load(&v);
	start = clock();
	assert_int_equal(tokenizer_encode(v.t, text, LONG, false, false, &ids, &n), 0);
	assert_true(clock() - start < 2 * CLOCKS_PER_SEC);
	assert_int_equal(n, LONG);
	free(ids);
	unload(&v);
	free(text);
}

/* Which blanks a special token takes with it follows from the model's name. */
static void special_tokens_strip(void **state)
{
	static const char *const tokens[] = {"a", "b", " ", "<mask>", "<|end|>", "<s>"};
	/* A token that ends a generation is a control token, although this file says that it is text. */
	static const int32_t types[] = {1, 1, 1, 3, 1, 3};
	static const char *const merges[] = {"a b"};
	struct vocab v;

	(void)state;
	for (int phi = 0; phi < 2; phi++) {
		vocab_file_init(&v.f);
		vocab_file_str(&v.f, KEY("model"), "gpt2");
		vocab_file_str(&v.f, KEY("pre"), phi ? "gpt-2" : "jina-v2-code");
		if (phi)
			vocab_file_str(&v.f, "general.name", "My Phi-3 mini");
		vocab_file_strs(&v.f, KEY("tokens"), tokens, N(tokens));
		vocab_file_i32s(&v.f, KEY("token_type"), types, N(types));
		vocab_file_strs(&v.f, KEY("merges"), merges, N(merges));
		vocab_file_u32(&v.f, KEY("unknown_token_id"), 2);
		load(&v);
		if (phi)
			ASSERT_IDS(v.t, "a <|end|> \n b<s> a", true, 0, 2, 4, 1, 5, 2, 0);
		else
			ASSERT_IDS(v.t, "a \n <mask> b", true, 0, 3, 2, 1);
		assert_true(tokenizer_is_eog(v.t, 4));
		unload(&v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(wordpiece_words),
	    cmocka_unit_test(wordpiece_ends_and_specials),
	    cmocka_unit_test(wordpiece_long_words),
	    cmocka_unit_test(wordpiece_options),
	    cmocka_unit_test(wordpiece_refused),
	    cmocka_unit_test(unigram_spelling),
	    cmocka_unit_test(unigram_keeps_spaces_where_asked),
	    cmocka_unit_test(unigram_charsmap),
	    cmocka_unit_test(unigram_refused),
	    cmocka_unit_test(unigram_is_linear),
	    cmocka_unit_test(special_tokens_strip),
	};

	return cmocka_run_group_tests_name("tokenizer_pieces", tests, NULL, NULL);
}
