/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Special tokens: those that are found in a text before anything else is done
 * with it, what they take with them, and those that end a generation. A file
 * says little of this, so some of it goes by the names that published models use.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_priv.h"

/* End a generation in published models; a file's keys name only some. */
static const char *const eog_names[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    /* Of code models, between files. */
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    /* DeepSeek's, with U+FF5C and U+2581. */
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
};

static bool str_is(struct tok_str s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.s, text, s.len) == 0;
}

static bool is_eog_name(struct tok_str s)
{
	for (size_t k = 0; k < sizeof(eog_names) / sizeof(eog_names[0]); k++)
		if (str_is(s, eog_names[k]))
			return true;
	return false;
}

void tok_special_mark(struct tokenizer *t)
{
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if ((t->type[i] == TOK_NORMAL || t->type[i] == TOK_USER) && is_eog_name(t->text[i]))
			t->type[i] = TOK_CONTROL;
}

/*
 * The longest special token at the beginning of s, or -1. The table is sorted, so the tokens
 * that agree with the first d bytes of s are a range; each byte narrows it, and a token that
 * ends after d bytes stands first in it.
 */
int32_t tok_special_match(const struct tokenizer *t, const char *s, size_t len, bool parse_special,
			  uint32_t *len_out)
{
	uint32_t lo = t->special_from[(uint8_t)s[0]], hi = t->special_from[(uint8_t)s[0] + 1];
	int32_t found = -1;

	for (uint32_t d = 1; lo < hi; d++) {
		uint32_t from, to;

		for (; lo < hi && t->special[lo].len == d; lo++) {
			if (!parse_special && t->type[t->special_id[lo]] != TOK_USER)
				continue;
			found = (int32_t)t->special_id[lo];
			*len_out = d;
		}
		if (d >= len)
			break;
		for (from = lo, to = hi; from < to;) {
			uint32_t mid = from + (to - from) / 2;

			if ((uint8_t)t->special[mid].s[d] < (uint8_t)s[d])
				from = mid + 1;
			else
				to = mid;
		}
		lo = from;
		for (to = hi; from < to;) {
			uint32_t mid = from + (to - from) / 2;

			if ((uint8_t)t->special[mid].s[d] <= (uint8_t)s[d])
				from = mid + 1;
			else
				to = mid;
		}
		hi = from;
	}
	return found;
}

static int compare_special(const void *a, const void *b, void *arg)
{
	const struct tokenizer *t = arg;
	uint32_t ia = *(const uint32_t *)a, ib = *(const uint32_t *)b;
	struct tok_str sa = t->type[ia] == TOK_USER ? t->piece[ia] : t->text[ia];
	struct tok_str sb = t->type[ib] == TOK_USER ? t->piece[ib] : t->text[ib];
	int c = memcmp(sa.s, sb.s, sa.len < sb.len ? sa.len : sb.len);

	if (c != 0)
		return c;
	if (sa.len != sb.len)
		return sa.len < sb.len ? -1 : 1;
	return ia < ib ? -1 : ia > ib;
}

static bool is_special(const struct tokenizer *t, uint32_t i)
{
	uint8_t type = t->type[i];

	return (type == TOK_CONTROL || type == TOK_UNKNOWN || type == TOK_USER) && t->text[i].len > 0;
}

static int load_table(struct tokenizer *t, struct ps_err *err)
{
	uint32_t n = 0, first = 0;

	for (uint32_t i = 0; i < t->n_vocab; i++)
		n += is_special(t, i);
	t->special = calloc(n + 1, sizeof(*t->special));
	t->special_id = calloc(n + 1, sizeof(*t->special_id));
	if (t->special == NULL || t->special_id == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for %u special tokens", n);
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (is_special(t, i))
			t->special_id[t->n_special++] = i;
	qsort_r(t->special_id, n, sizeof(*t->special_id), compare_special, t);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = t->special_id[i];

		t->special[i] = t->type[id] == TOK_USER ? t->piece[id] : t->text[id];
	}
	for (unsigned b = 0; b < 256; b++) {
		t->special_from[b] = first;
		while (first < n && (uint8_t)t->special[first].s[0] == b)
			first++;
	}
	t->special_from[256] = n;
	return 0;
}

static bool has_word(const struct gguf *g, const char *key, const char *word)
{
	size_t n = strlen(word);
	struct gguf_str s;

	if (!gguf_get_str(g, key, &s))
		return false;
	for (size_t i = 0; i + n <= s.len; i++)
		if (strncasecmp(s.s + i, word, n) == 0)
			return true;
	return false;
}

static void set_strip(struct tokenizer *t, const char *name, uint8_t strip)
{
	for (uint32_t i = 0; i < t->n_special; i++)
		if (str_is(t->special[i], name))
			t->strip[t->special_id[i]] = strip;
}

/* GGUF has no place for what a special token strips; which models have such tokens is known from their
 * published tokenizers. */
static void load_strips(struct tokenizer *t, const struct gguf *g)
{
	static const char *const mask_pres[] = {"jina-v2-de", "jina-v2-es", "jina-v2-code"};
	static const char *const phi3_keep[] = {"<unk>", "<s>", "<|endoftext|>"};
	bool mask = has_word(g, "general.architecture", "nomic-bert-moe") ||
		    has_word(g, "general.architecture", "jina-bert-v3");

	for (size_t i = 0; i < sizeof(mask_pres) / sizeof(mask_pres[0]); i++)
		mask = mask || has_word(g, "tokenizer.ggml.pre", mask_pres[i]);
	if (mask)
		set_strip(t, "<mask>", TOK_STRIP_LEFT);
	else if (has_word(g, "general.name", "modern-bert"))
		set_strip(t, "[MASK]", TOK_STRIP_LEFT);
	else if (has_word(g, "general.name", "phi-3") || has_word(g, "general.name", "phi3")) {
		for (uint32_t i = 0; i < t->n_special; i++)
			t->strip[t->special_id[i]] = TOK_STRIP_RIGHT;
		for (size_t i = 0; i < sizeof(phi3_keep) / sizeof(phi3_keep[0]); i++)
			set_strip(t, phi3_keep[i], 0);
	}
}

/* Of the tokens of harmony's format "<|end|>" ends a message, not the generation. */
static void load_eog(struct tokenizer *t)
{
	bool more = false, stop = false;

	for (uint32_t i = 0; i < t->n_special; i++) {
		struct tok_str s = t->special[i];

		if (is_eog_name(s))
			t->eog[t->special_id[i]] = true;
		more = more || str_is(s, "<|call|>") || str_is(s, "<|calls|>");
		stop = stop || str_is(s, "<|return|>") || str_is(s, "<|flush|>");
	}
	for (uint32_t i = 0; i < t->n_special && more && stop; i++)
		if (str_is(t->special[i], "<|end|>") && (int32_t)t->special_id[i] != t->eos)
			t->eog[t->special_id[i]] = false;
}

int tok_special_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	int rc = load_table(t, err);

	if (rc == 0) {
		load_strips(t, g);
		load_eog(t);
	}
	return rc;
}
