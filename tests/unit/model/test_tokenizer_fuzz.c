/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random vocabularies of every kind and random bytes: nothing crashes, hangs or
 * gives an id out of range, and streaming gives what decoding gives, in whole
 * characters. Run under the sanitizers it also finds what reads too far. The seed is fixed;
 * PENSTOCK_FUZZ_SEED sets another, and a failure says which it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/chat.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/unicode.h"
#include "tests/unit/model/charsmap_file.h"
#include "tests/unit/model/vocab_file.h"

#define KEY(name) "tokenizer.ggml." name
#define ROUNDS    400u
#define TOKENS    60u
#define LONGEST   16u
#define TEXT      200u

static uint64_t seed;

static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((seed >> 33) * (uint64_t)below >> 31);
}

/* Bytes that meet each other in odd ways: parts of characters, spaces of all sorts, brackets. */
static char any_byte(void)
{
	static const char some[] =
	    "abAB 1\t\n'<>[]|_x0C3\xe2\x96\x81\xc4\xa0\xc3\xa4\xf0\x9f\x98\x80\xcc\x81\xff";

	return rnd(8) == 0 ? (char)rnd(256) : some[rnd(sizeof(some) - 1)];
}

static void fill(char *s, uint32_t n, bool terminated)
{
	for (uint32_t i = 0; i < n; i++)
		do
			s[i] = any_byte();
		while (terminated && s[i] == '\0');
	if (terminated)
		s[n] = '\0';
}

static const char *pick(const char *const *of, size_t n)
{
	return of[rnd((uint32_t)n)];
}
#define PICK(list) pick(list, sizeof(list) / sizeof((list)[0]))

static void some_flags(struct vocab_file *f)
{
	static const char *const flags[] = {KEY("add_bos_token"),        KEY("add_eos_token"),
					    KEY("add_space_prefix"),     KEY("remove_extra_whitespaces"),
					    KEY("normalizer.lowercase"), KEY("normalizer.strip_accents")};
	static const char *const ids[] = {KEY("bos_token_id"), KEY("eos_token_id"), KEY("unknown_token_id"),
					  KEY("cls_token_id"), KEY("mask_token_id")};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (rnd(3) == 0)
			vocab_file_bool(f, flags[i], rnd(2) != 0);
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		if (rnd(2) == 0)
			vocab_file_u32(f, ids[i], rnd(TOKENS));
}

static void some_charsmap(struct vocab_file *f)
{
	static const struct charsmap_pair pairs[] = {
	    {"A", "a"}, {"\xe2\x96\x81", " "}, {"\t", "\xff"}, {"ab", "<"}};
	size_t bytes;
	uint8_t *blob = charsmap_file(pairs, sizeof(pairs) / sizeof(pairs[0]), &bytes);

	for (uint32_t n = rnd(3); n > 0; n--)
		blob[4 + rnd((uint32_t)bytes - 5)] = (uint8_t)rnd(256);
	vocab_file_u8s(f, KEY("precompiled_charsmap"), blob, bytes);
	free(blob);
}

static void some_vocabulary(struct vocab_file *f)
{
	static const char *const models[] = {"llama", "gpt2", "bert", "t5"};
	static const char *const pres[] = {"default", "gpt-2", "llama-bpe", "qwen2",
					   "falcon",  "bloom", "tekken"};
	static const char *const named[] = {"</s>",   "[CLS]",        "<|end|>", "<0x41>",
					    "<0xE2>", "\xe2\x96\x81", ""};
	static char text[TOKENS][LONGEST + 1], merge[TOKENS][2 * LONGEST + 2];
	const char *tokens[TOKENS], *merges[TOKENS];
	float scores[TOKENS];
	int32_t types[TOKENS];

	for (uint32_t i = 0; i < TOKENS; i++) {
		fill(text[i], rnd(rnd(4) == 0 ? LONGEST : 4), true);
		tokens[i] = rnd(8) == 0 ? PICK(named) : text[i];
		scores[i] = (float)rnd(20) - 15;
		types[i] = rnd(4) == 0 ? (int32_t)rnd(6) : 1;
		if (strlen(tokens[i]) == 6 && tokens[i][0] == '<' && rnd(2) == 0)
			types[i] = 6;
		fill(merge[i], 1 + rnd(3), true);
		strcat(merge[i], " ");
		fill(merge[i] + strlen(merge[i]), 1 + rnd(3), true);
		merges[i] = merge[i];
	}
	vocab_file_init(f);
	vocab_file_str(f, KEY("model"), PICK(models));
	vocab_file_str(f, KEY("pre"), PICK(pres));
	vocab_file_strs(f, KEY("tokens"), tokens, TOKENS);
	vocab_file_f32s(f, KEY("scores"), scores, TOKENS);
	if (rnd(8) != 0)
		vocab_file_i32s(f, KEY("token_type"), types, TOKENS);
	vocab_file_strs(f, KEY("merges"), merges, TOKENS);
	vocab_file_str(f, "tokenizer.chat_template", text[0]);
	some_flags(f);
	if (rnd(2) == 0)
		some_charsmap(f);
}

/* No character lies across `at`. */
static void assert_whole(const char *text, size_t len, size_t at)
{
	for (size_t k = 1; k <= 3 && k <= at; k++)
		assert_true(unicode_utf8_len(text + at - k, len - at + k) <= k);
}

static void check_stream(const struct tokenizer *t, const int32_t *ids, size_t n, const char *text,
			 size_t len)
{
	char buf[TOKENIZER_STREAM_BYTES];
	struct tokenizer_stream s;
	size_t at = 0, got;

	tokenizer_stream_init(&s);
	for (size_t i = 0; i < n; i++) {
		got = tokenizer_stream_push(t, &s, ids[i], buf, sizeof(buf));
		assert_true(got <= len - at && memcmp(text + at, buf, got) == 0);
		at += got;
		assert_whole(text, len, at);
	}
	got = tokenizer_stream_flush(&s, buf, sizeof(buf));
	assert_true(got == len - at && memcmp(text + at, buf, got) == 0);
}

static void check_text(const struct tokenizer *t)
{
	char text[TEXT], *back;
	uint32_t len = rnd(TEXT);
	int32_t *ids;
	size_t n, back_len;
	int rc;

	fill(text, len, false);
	rc = tokenizer_encode(t, text, len, rnd(2) != 0, rnd(2) != 0, &ids, &n);
	assert_true(rc == 0 || rc == -EILSEQ || rc == -EBADMSG);
	if (rc != 0)
		return;
	for (size_t i = 0; i < n; i++)
		assert_in_range(ids[i], 0, tokenizer_n_vocab(t) - 1);
	assert_int_equal(tokenizer_decode(t, ids, n, &back, &back_len), 0);
	check_stream(t, ids, n, back, back_len);
	free(back);
	free(ids);
	/* Ids that no text gives. */
	ids = malloc(sizeof(*ids) * 40);
	assert_non_null(ids);
	for (n = 0; n < 40; n++)
		ids[n] = (int32_t)rnd(tokenizer_n_vocab(t));
	assert_int_equal(tokenizer_decode(t, ids, n, &back, &back_len), 0);
	check_stream(t, ids, n, back, back_len);
	free(back);
	free(ids);
}

static void random_vocabularies_and_bytes(void **state)
{
	const char *asked = getenv("PENSTOCK_FUZZ_SEED");
	uint32_t loaded = 0;
	uint64_t first;

	(void)state;
	seed = asked != NULL ? strtoull(asked, NULL, 0) : 20240607;
	first = seed;
	print_message("seed %llu\n", (unsigned long long)first);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		struct tokenizer *t = NULL;
		enum chat_kind kind;
		struct vocab_file f;
		struct ps_err err;
		struct gguf *g;

		some_vocabulary(&f);
		assert_int_equal(vocab_file_open(&f, &g, &err), 0);
		(void)!chat_detect(g, &kind, &err);
		if (tokenizer_load(g, &t, &err) == 0) {
			loaded++;
			for (int i = 0; i < 10; i++)
				check_text(t);
		}
		tokenizer_free(t);
		gguf_close(g);
		vocab_file_fini(&f);
	}
	/* Most must get past loading, or nothing was tried. */
	assert_true(loaded > ROUNDS / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(random_vocabularies_and_bytes),
	};

	return cmocka_run_group_tests_name("tokenizer_fuzz", tests, NULL, NULL);
}
