/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Small vocabularies made here: each rule by itself, and what a hostile file may
 * hold, which must be refused with the name of the key that is wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/tokenizer_pre.h"
#include "tests/unit/model/vocab_file.h"

#define KEY(name) "tokenizer.ggml." name
#define N(array)  (sizeof(array) / sizeof((array)[0]))
#define SP        "\xe2\x96\x81"

struct vocab {
	struct vocab_file f;
	struct gguf *g;
	struct tokenizer *t;
};

/* A SentencePiece vocabulary without byte tokens: unk, bos, eos, then letters and unions. The unions
 * "ab" and "bc" have one score, "abc" a lower one. */
static const char *const spm_tokens[] = {
    "<unk>", "<s>", "</s>", SP,    "a",    "b",     "c",          "ab",
    "bc",    "abc", SP "a", "<x>", "<xy>", "<xy>z", "<|eot_id|>",
};
static const float spm_scores[] = {0, 0, 0, -1, -2, -2, -2, -3, -3, -4, -2.5f, 0, 0, 0, 0};
static const int32_t spm_types[] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 3, 3};
enum { UNK, BOS, EOS, SPACE, A, B, C, AB, BC, ABC, SPACE_A, X, XY, XYZ, EOT, N_SPM };

static void spm_file(struct vocab_file *f)
{
	vocab_file_init(f);
	vocab_file_str(f, KEY("model"), "llama");
	vocab_file_strs(f, KEY("tokens"), spm_tokens, N_SPM);
	vocab_file_f32s(f, KEY("scores"), spm_scores, N_SPM);
	vocab_file_i32s(f, KEY("token_type"), spm_types, N_SPM);
}

/* A byte-level vocabulary of few bytes. "abc" can only come from "ab" "c"; "bc" is no token, and
 * "bcd" is made by way of it. */
static const char *const bpe_tokens[] = {"a",   "b",   "c",       "d",     "\u0120", "ab",
					 "abc", "bcd", "\u0120a", "<end>", "<u>"};
static const char *const bpe_merges[] = {"b c", "bc d", "a b", "ab c", "\u0120 a"};
static const int32_t bpe_types[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4};
enum { A8, B8, C8, D8, SPACE8, AB8, ABC8, BCD8, SPACE_A8, END8, U8, N_BPE };

static void bpe_file(struct vocab_file *f)
{
	vocab_file_init(f);
	vocab_file_str(f, KEY("model"), "gpt2");
	vocab_file_str(f, KEY("pre"), "gpt-2");
	vocab_file_strs(f, KEY("tokens"), bpe_tokens, N_BPE);
	vocab_file_strs(f, KEY("merges"), bpe_merges, N(bpe_merges));
	vocab_file_i32s(f, KEY("token_type"), bpe_types, N_BPE);
}

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

/* Loading must fail with this code and name `what` in its text. */
static void refuse(struct vocab_file *f, int code, const char *what)
{
	struct tokenizer *t = NULL;
	struct ps_err err = {.msg = ""};
	struct gguf *g;

	assert_int_equal(vocab_file_open(f, &g, &err), 0);
	assert_int_equal(tokenizer_load(g, &t, &err), code);
	if (strstr(err.msg, what) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", err.msg, what);
	assert_null(t);
	/* Without a place for the text it fails the same way. */
	assert_int_equal(tokenizer_load(g, &t, NULL), code);
	gguf_close(g);
	vocab_file_fini(f);
}

#define ASSERT_IDS(t, text, special, ...)                                                                    \
	do {                                                                                                 \
		const int32_t want_[] = {__VA_ARGS__};                                                       \
		assert_ids(t, text, special, want_, N(want_));                                               \
	} while (0)

static void assert_ids(const struct tokenizer *t, const char *text, bool special, const int32_t *want,
		       size_t n_want)
{
	int32_t *ids;
	size_t n;

	assert_int_equal(tokenizer_encode(t, text, strlen(text), special, special, &ids, &n), 0);
	for (size_t i = 0; i < n && i < n_want; i++)
		if (ids[i] != want[i])
			fail_msg("\"%s\": id %zu is %d, expected %d", text, i, ids[i], want[i]);
	assert_int_equal(n, n_want);
	free(ids);
}

static void assert_text(const struct tokenizer *t, const int32_t *ids, size_t n, const char *want)
{
	char *text;
	size_t len;

	assert_int_equal(tokenizer_decode(t, ids, n, &text, &len), 0);
	assert_string_equal(text, want);
	free(text);
}

static void test_spm_merges(void **state)
{
	struct vocab v;

	(void)state;
	spm_file(&v.f);
	load(&v);
	/* Best score first, the leftmost of equals; then on from there. */
	ASSERT_IDS(v.t, "abc", false, SPACE_A, BC);
	ASSERT_IDS(v.t,
		   "b"
		   "abc",
		   false, SPACE, B, ABC);
	ASSERT_IDS(v.t, "cabcab", false, SPACE, C, ABC, AB);
	ASSERT_IDS(v.t, " a", false, SPACE, SPACE_A);
	/* No byte tokens: one unknown a character. Default BOS and no EOS. */
	ASSERT_IDS(v.t, "a\u00e4\xff", false, SPACE_A, UNK, UNK);
	ASSERT_IDS(v.t, "", true, BOS);
	ASSERT_IDS(v.t, "a", true, BOS, SPACE_A);
	assert_true(tokenizer_is_eog(v.t, EOS));
	assert_true(tokenizer_is_eog(v.t, EOT));
	assert_false(tokenizer_is_eog(v.t, A));
	unload(&v);
}

static void test_spm_special(void **state)
{
	const int32_t ids[] = {BOS, SPACE_A, X, SPACE_A};
	struct vocab v;

	(void)state;
	spm_file(&v.f);
	load(&v);
	/* User-defined tokens are always found, the longest first, and get no space after them. */
	ASSERT_IDS(v.t, "<x>a", false, X, A);
	ASSERT_IDS(v.t, "a<xy>b", false, SPACE_A, XY, B);
	/* "<xy>z" is a control token, found only when they are asked for. */
	ASSERT_IDS(v.t, "<xy>zb", false, XY, UNK, B);
	ASSERT_IDS(v.t, "<xy>za", true, BOS, XYZ, SPACE_A);
	ASSERT_IDS(v.t, "</s>", true, BOS, EOS);
	ASSERT_IDS(v.t, "<x", false, SPACE, UNK, UNK);
	assert_text(v.t, ids, N(ids), "a<x> a");
	assert_text(v.t, &ids[2], 2, "<x> a");
	unload(&v);
}

static void test_spm_keys(void **state)
{
	struct vocab v;

	(void)state;
	spm_file(&v.f);
	vocab_file_bool(&v.f, KEY("add_bos_token"), false);
	vocab_file_bool(&v.f, KEY("add_eos_token"), true);
	vocab_file_bool(&v.f, KEY("add_space_prefix"), false);
	vocab_file_u32(&v.f, KEY("eos_token_id"), AB);
	vocab_file_u32(&v.f, KEY("eot_token_id"), C);
	vocab_file_u32(&v.f, KEY("unknown_token_id"), UINT32_MAX);
	load(&v);
	ASSERT_IDS(v.t, "ba", true, B, A, AB);
	assert_true(tokenizer_is_eog(v.t, AB));
	assert_true(tokenizer_is_eog(v.t, C));
	/* Neither byte nor unknown tokens. */
	assert_int_equal(tokenizer_encode(v.t, "\u00e4", 2, false, false, &(int32_t *){NULL}, &(size_t){0}),
			 -EILSEQ);
	unload(&v);
}

/* Files without types: byte tokens show by their spelling and named tokens are control tokens. */
static void test_spm_without_types(void **state)
{
	const int32_t ids[] = {1, 4, 5, 2};
	const char *tokens[260] = {"<unk>", "<s>", "</s>", SP};
	char bytes[256][8];
	float scores[260] = {0};
	struct vocab v;

	(void)state;
	for (unsigned i = 0; i < 256; i++) {
		snprintf(bytes[i], sizeof(bytes[i]), "<0x%02X>", i);
		tokens[4 + i] = bytes[i];
	}
	vocab_file_init(&v.f);
	vocab_file_str(&v.f, KEY("model"), "llama");
	vocab_file_strs(&v.f, KEY("tokens"), tokens, 260);
	vocab_file_f32s(&v.f, KEY("scores"), scores, 260);
	load(&v);
	ASSERT_IDS(v.t, "A" SP "\xff", false, 3, 4 + 'A', 4 + 0xe2, 4 + 0x96, 4 + 0x81, 4 + 0xff);
	ASSERT_IDS(v.t, "</s>", false, 3, 4 + '<', 4 + '/', 4 + 's', 4 + '>');
	assert_text(v.t, &ids[2], 1, "\x01");
	assert_text(v.t, ids, 1, "");
	unload(&v);
}

/* Scores of both signs, and a token that goes on after a space, so that words do merge. */
static void test_spm_scores(void **state)
{
	static const char *const tokens[] = {"<unk>", "<s>", "</s>",     SP,     "a", "b",
					     "ab",    "bc",  "a" SP "b", SP "b", "c", "ca"};
	static const float scores[] = {0, 0, 0, 0, 0, 0, 0.25f, 0.5f, 3, 2, 0, -0.5f};
	struct vocab v;

	(void)state;
	vocab_file_init(&v.f);
	vocab_file_str(&v.f, KEY("model"), "llama");
	vocab_file_strs(&v.f, KEY("tokens"), tokens, N(tokens));
	vocab_file_f32s(&v.f, KEY("scores"), scores, N(scores));
	load(&v);
	ASSERT_IDS(v.t, "abc", false, 3, 4, 7);
	ASSERT_IDS(v.t, "cab", false, 3, 10, 6);
	ASSERT_IDS(v.t, "ca", false, 3, 11);
	ASSERT_IDS(v.t, "a b", false, 3, 8);
	ASSERT_IDS(v.t, "a  b", false, 3, 4, 3, 9);
	unload(&v);
}

static void test_bpe_merges(void **state)
{
	struct vocab v;
	int32_t *ids;
	size_t n;

	(void)state;
	bpe_file(&v.f);
	load(&v);
	/* "b c" is the first merge, so "abc" never becomes the token "abc"; "bc" is no token and falls
	 * back into bytes. */
	ASSERT_IDS(v.t, "abc", false, A8, B8, C8);
	ASSERT_IDS(v.t, "abcd", false, A8, BCD8);
	ASSERT_IDS(v.t, "ab a", false, AB8, SPACE_A8);
	ASSERT_IDS(v.t, "<u>ab", false, U8, AB8);
	ASSERT_IDS(v.t, "a<end>b", true, A8, END8, B8);
	/* No BOS, no EOS, no unknown token, and no token for 'x', which is dropped. */
	assert_int_equal(tokenizer_bos(v.t), -1);
	assert_int_equal(tokenizer_eos(v.t), -1);
	ASSERT_IDS(v.t, "axb", true, A8, B8);
	ASSERT_IDS(v.t, "a\xff", true, A8);
	/* Byte 0 is the first symbol beyond the vocabulary. */
	assert_int_equal(tokenizer_encode(v.t, "", 1, true, true, &ids, &n), 0);
	assert_int_equal(n, 0);
	free(ids);
	unload(&v);
}

static void test_bpe_keys(void **state)
{
	struct vocab v;

	(void)state;
	vocab_file_init(&v.f);
	vocab_file_str(&v.f, KEY("model"), "gpt2");
	/* Of llama 3: a word that is a token is taken whole, and there is a BOS by default. */
	vocab_file_str(&v.f, KEY("pre"), "llama-bpe");
	vocab_file_strs(&v.f, KEY("tokens"), bpe_tokens, N_BPE);
	vocab_file_strs(&v.f, KEY("merges"), bpe_merges, N(bpe_merges));
	vocab_file_u32(&v.f, KEY("bos_token_id"), END8);
	vocab_file_u32(&v.f, KEY("unknown_token_id"), D8);
	load(&v);
	ASSERT_IDS(v.t, "abc", true, END8, ABC8);
	ASSERT_IDS(v.t, "abcx", false, A8, B8, C8, D8);
	unload(&v);
}

struct cut {
	const char *pre, *words; /* with a '|' between them */
};

static void check_cut(const struct cut *c)
{
	char text[128], got[256];
	struct tok_pre *pre;
	struct tok_pre_work *w = tok_pre_work_create();
	const uint32_t *ends;
	uint32_t len = 0, from = 0;
	size_t n, at = 0;

	for (const char *s = c->words; *s != '\0'; s++)
		if (*s != '|')
			text[len++] = *s;
	assert_non_null(w);
	assert_int_equal(tok_pre_create(c->pre, strlen(c->pre), &pre, NULL), 0);
	assert_int_equal(tok_pre_split(pre, w, text, len, &ends, &n), 0);
	for (size_t i = 0; i < n; i++) {
		assert_true(ends[i] > from && ends[i] <= len);
		memcpy(got + at, text + from, ends[i] - from);
		at += ends[i] - from;
		got[at++] = i + 1 < n ? '|' : '\0';
		from = ends[i];
	}
	assert_int_equal(from, len);
	if (strcmp(got, c->words) != 0)
		fail_msg("%s: \"%s\", expected \"%s\"", c->pre, got, c->words);
	tok_pre_free(pre);
	tok_pre_work_free(w);
}

static void test_pre_tokenizers(void **state)
{
	static const struct cut cuts[] = {
	    {"gpt-2", "I|'ll| | say|:| 12345|\n\n|\t|x"},
	    {"gpt-2", "a|\u3000|b|\u2003| c| \u180e|d|\u00a0"}, /* U+180E is no space */
	    {"llama-bpe", "I|'LL| | say|:| |123|45|\n\n| x|!?\n|  "},
	    {"qwen2", "I|'LL| | say|:| |1|2|3|4|5|\n\n| x"},
	    {"starcoder", "I|'ll| | say|:| |1|2|3|4|5|\n"},
	    {"falcon", "I|'|ll| say|:| |123|45"},
	    {"default", "I|'|ll| say|:| |123|45"},
	    {"bloom", "say|,| x|.| \u00e4\u65e5"},
	    {"gpt-4o", "Hello|World's| x|/\n| |123|4"},
	    {"tekken", "Hello|World|'s| |1|2"},
	    {"deepseek-v3", "a|123|4|\u65e5\u672c| b|!x"},
	};

	(void)state;
	for (size_t i = 0; i < N(cuts); i++)
		check_cut(&cuts[i]);
}

/* Linear in time for every expression and every text that could make one go back and forth. A
 * quadratic one would take minutes, so the bound holds with sanitizers on a busy machine. */
static void test_pre_tokenizers_stay_linear(void **state)
{
	static const char *const names[] = {"default",   "gpt-2", "llama-bpe", "qwen2",  "falcon",
					    "starcoder", "bloom", "gpt-4o",    "tekken", "deepseek-v3"};
	static const char *const units[] = {"a",      "A",  " ",  "\n", " \n",    "\n ",
					    "1",      ".",  "'",  "Aa", "\u65e5", "a\u0301",
					    "\u0301", "'s", " a", " 1", ". ",     "/\n"};
	enum { BYTES = 1 << 17 };
	char *text = malloc(BYTES);
	const uint32_t *ends;
	size_t n;

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < N(names); i++) {
		struct tok_pre_work *w = tok_pre_work_create();
		clock_t start = clock();
		struct tok_pre *pre;

		assert_non_null(w);
		assert_int_equal(tok_pre_create(names[i], strlen(names[i]), &pre, NULL), 0);
		for (size_t u = 0; u < N(units); u++) {
			size_t k = strlen(units[u]);
			uint32_t len = 0;

			for (; len + k <= BYTES; len += (uint32_t)k)
				memcpy(text + len, units[u], k);
			assert_int_equal(tok_pre_split(pre, w, text, len, &ends, &n), 0);
			assert_true(n > 0);
			assert_int_equal(ends[n - 1], len);
		}
		assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 20.0);
		tok_pre_free(pre);
		tok_pre_work_free(w);
	}
	free(text);
}

static void test_refused_models(void **state)
{
	struct vocab_file f;

	(void)state;
	vocab_file_init(&f);
	refuse(&f, -ENOENT, "no vocabulary");
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "no_vocab");
	refuse(&f, -ENOENT, "no vocabulary");
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "none");
	refuse(&f, -ENOENT, "no vocabulary");
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "rwkv");
	refuse(&f, -ENOTSUP, "llama, gpt2, bert, t5");
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "llama");
	refuse(&f, -EBADMSG, KEY("tokens"));
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "llama");
	vocab_file_i32s(&f, KEY("tokens"), spm_types, N_SPM);
	refuse(&f, -EBADMSG, KEY("tokens"));
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "gpt2");
	vocab_file_str(&f, KEY("pre"), "unheard-of");
	vocab_file_strs(&f, KEY("tokens"), bpe_tokens, N_BPE);
	vocab_file_strs(&f, KEY("merges"), bpe_merges, N(bpe_merges));
	refuse(&f, -ENOTSUP, "\"unheard-of\" is not known; expected one of default, gpt-2");
}

static void spm_head(struct vocab_file *f, const char *const *tokens)
{
	vocab_file_init(f);
	vocab_file_str(f, KEY("model"), "llama");
	vocab_file_strs(f, KEY("tokens"), tokens, N_SPM);
}

static void test_refused_spm(void **state)
{
	const char *tokens[N_SPM];
	int32_t types[N_SPM];
	float scores[N_SPM];
	struct vocab_file f;
	char *giant = malloc(1 << 20);

	(void)state;
	assert_non_null(giant);
	memset(giant, 'a', (1 << 20) - 1);
	giant[(1 << 20) - 1] = '\0';
	spm_head(&f, spm_tokens);
	refuse(&f, -EBADMSG, KEY("scores"));
	spm_head(&f, spm_tokens);
	vocab_file_i32s(&f, KEY("scores"), spm_types, N_SPM);
	refuse(&f, -EBADMSG, KEY("scores"));
	spm_head(&f, spm_tokens);
	vocab_file_f32s(&f, KEY("scores"), spm_scores, N_SPM - 1);
	refuse(&f, -EBADMSG, "expected 15 scores, one a token, found 14");
	spm_head(&f, spm_tokens);
	memcpy(scores, spm_scores, sizeof(scores));
	scores[7] = NAN;
	vocab_file_f32s(&f, KEY("scores"), scores, N_SPM);
	refuse(&f, -EBADMSG, KEY("scores") "[7]");
	spm_head(&f, spm_tokens);
	vocab_file_f32s(&f, KEY("scores"), spm_scores, N_SPM);
	vocab_file_i32s(&f, KEY("token_type"), spm_types, N_SPM - 2);
	refuse(&f, -EBADMSG, "expected 15 types, one a token, found 13");
	memcpy(types, spm_types, sizeof(types));
	types[4] = 7;
	spm_head(&f, spm_tokens);
	vocab_file_f32s(&f, KEY("scores"), spm_scores, N_SPM);
	vocab_file_i32s(&f, KEY("token_type"), types, N_SPM);
	refuse(&f, -EBADMSG, KEY("token_type") "[4]: expected 0 to 6, found 7");
	types[4] = 6;
	spm_head(&f, spm_tokens);
	vocab_file_f32s(&f, KEY("scores"), spm_scores, N_SPM);
	vocab_file_i32s(&f, KEY("token_type"), types, N_SPM);
	refuse(&f, -EBADMSG, "expected <0xXX>");
	memcpy(tokens, spm_tokens, sizeof(tokens));
	tokens[9] = giant;
	spm_head(&f, tokens);
	vocab_file_f32s(&f, KEY("scores"), spm_scores, N_SPM);
	refuse(&f, -EBADMSG, KEY("tokens") "[9]: a token of 1048575 bytes");
	giant[505] = '\0';
	spm_head(&f, tokens);
	vocab_file_f32s(&f, KEY("scores"), spm_scores, N_SPM);
	refuse(&f, -EBADMSG, "at most 504");
	free(giant);
}

static void test_refused_keys(void **state)
{
	struct vocab_file f;

	(void)state;
	spm_file(&f);
	vocab_file_u32(&f, KEY("bos_token_id"), N_SPM);
	refuse(&f, -EBADMSG, KEY("bos_token_id") ": expected a token id below 15, found 15");
	spm_file(&f);
	vocab_file_str(&f, KEY("eos_token_id"), "2");
	refuse(&f, -EBADMSG, KEY("eos_token_id"));
	spm_file(&f);
	vocab_file_u32(&f, KEY("bos_token_id"), UINT32_MAX);
	vocab_file_bool(&f, KEY("add_bos_token"), true);
	refuse(&f, -EBADMSG, "add_bos_token");
	spm_file(&f);
	vocab_file_str(&f, KEY("add_space_prefix"), "yes");
	refuse(&f, -EBADMSG, KEY("add_space_prefix"));
	spm_file(&f);
	vocab_file_bool(&f, KEY("remove_extra_whitespaces"), true);
	refuse(&f, -ENOTSUP, "remove_extra_whitespaces");
}

static void bpe_with_merge(struct vocab_file *f, const char *merge)
{
	const char *merges[] = {"a b", merge};

	vocab_file_init(f);
	vocab_file_str(f, KEY("model"), "gpt2");
	vocab_file_str(f, KEY("pre"), "gpt-2");
	vocab_file_strs(f, KEY("tokens"), bpe_tokens, N_BPE);
	vocab_file_strs(f, KEY("merges"), merges, 2);
}

static void test_refused_merges(void **state)
{
	static const char *const bad[] = {"", " ", "ab", "ab ", " ab"};
	char *giant = malloc(1 << 20);
	struct vocab_file f;

	(void)state;
	assert_non_null(giant);
	for (size_t i = 0; i < N(bad); i++) {
		bpe_with_merge(&f, bad[i]);
		refuse(&f, -EBADMSG, KEY("merges") "[1]");
	}
	memset(giant, 'a', (1 << 20) - 1);
	giant[1000] = ' ';
	giant[(1 << 20) - 1] = '\0';
	bpe_with_merge(&f, giant);
	refuse(&f, -EBADMSG, "too long");
	free(giant);
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "gpt2");
	vocab_file_strs(&f, KEY("tokens"), bpe_tokens, N_BPE);
	refuse(&f, -EBADMSG, KEY("merges") " is missing");
	vocab_file_init(&f);
	vocab_file_str(&f, KEY("model"), "gpt2");
	vocab_file_strs(&f, KEY("tokens"), bpe_tokens, N_BPE);
	vocab_file_f32s(&f, KEY("merges"), spm_scores, 4);
	refuse(&f, -EBADMSG, KEY("merges"));
}

/* Any byte of the file set to anything: an error or a tokenizer that works, never a crash. */
static void poke(struct vocab_file *f, size_t at, uint8_t value)
{
	uint8_t was = f->buf[at];
	struct ps_err err;
	struct tokenizer *t;
	struct gguf *g;
	int32_t *ids;
	char *text;
	size_t n, len;

	f->buf[at] = value;
	if (vocab_file_open(f, &g, &err) == 0) {
		if (tokenizer_load(g, &t, &err) == 0) {
			if (tokenizer_encode(t, "abcd <xy>za<end> \xff", 18, true, true, &ids, &n) == 0) {
				assert_int_equal(tokenizer_decode(t, ids, n, &text, &len), 0);
				free(text);
				free(ids);
			}
			tokenizer_free(t);
		}
		gguf_close(g);
	}
	f->buf[at] = was;
}

static void test_flipped_bytes(void **state)
{
	static const uint8_t values[] = {0x00, 0xff, 0x20, 0x01};
	struct vocab_file f;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		kind == 0 ? spm_file(&f) : bpe_file(&f);
		/* The number of keys is set when the file is opened. */
		for (size_t at = 24; at < f.len; at++)
			for (size_t i = 0; i < N(values); i++)
				poke(&f, at, values[i]);
		vocab_file_fini(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_spm_merges),
	    cmocka_unit_test(test_spm_special),
	    cmocka_unit_test(test_spm_keys),
	    cmocka_unit_test(test_spm_without_types),
	    cmocka_unit_test(test_spm_scores),
	    cmocka_unit_test(test_bpe_merges),
	    cmocka_unit_test(test_bpe_keys),
	    cmocka_unit_test(test_pre_tokenizers),
	    cmocka_unit_test(test_pre_tokenizers_stay_linear),
	    cmocka_unit_test(test_refused_models),
	    cmocka_unit_test(test_refused_spm),
	    cmocka_unit_test(test_refused_keys),
	    cmocka_unit_test(test_refused_merges),
	    cmocka_unit_test(test_flipped_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
