/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * WordPiece as BERT has it (Devlin et al., 2018): the text is cleaned, by the
 * model's choice lower-cased and freed of accents, cut into words at blanks,
 * punctuation and ideographs, and each word is spelled with the longest token
 * that fits, from left to right; a word that cannot be spelled is unknown.
 * In GGUF a token that begins a word has U+2581 in front, and one that goes on
 * in a word has lost its "##".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_priv.h"

#define KEY(name) "tokenizer.ggml." name
/* Longer words are unknown as a whole: max_input_chars_per_word of the published tokenizers. */
#define WORD_CHARS_MAX 100u

struct word {
	uint32_t n_chars;
};

static int load_option(const struct gguf *g, const char *key, bool *out, struct ps_err *err)
{
	if (gguf_has(g, key) && !gguf_get_bool(g, key, out))
		return ps_err_set(err, -EBADMSG, "%s: expected a bool", key);
	return 0;
}

static bool begins(struct tok_str s, const char *with)
{
	return s.len > strlen(with) && memcmp(s.s, with, strlen(with)) == 0;
}

int tok_wpm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	uint32_t *ids = calloc((size_t)t->n_vocab, sizeof(*ids)), n = 0;
	bool marked = false, hashed = false;
	int rc;

	if (ids == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for %u tokens", t->n_vocab);
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		if (t->type[i] != TOK_NORMAL && t->type[i] != TOK_UNUSED)
			continue;
		ids[n++] = i;
		marked = marked || begins(t->text[i], TOK_SPACE);
		hashed = hashed || begins(t->text[i], "##");
	}
	rc = tok_trie_build(&t->trie, t->text, ids, n);
	free(ids);
	if (rc != 0)
		return ps_err_set(err, rc, "no memory for the tokens of a WordPiece vocabulary");
	if (hashed && !marked)
		return ps_err_set(
		    err, -ENOTSUP,
		    "%s: tokens that go on in a word are marked by \"##\"; expected U+2581 in front of "
		    "those that begin one: convert the model anew",
		    KEY("tokens"));
	t->lowercase = true;
	rc = load_option(g, KEY("normalizer.lowercase"), &t->lowercase, err);
	t->strip_accents = t->lowercase;
	return rc == 0 ? load_option(g, KEY("normalizer.strip_accents"), &t->strip_accents, err) : rc;
}

/* Spells the word in w->buf, which begins with U+2581. */
static int spell(const struct tokenizer *t, struct tok_work *w)
{
	size_t from = w->n_ids, at = 0;
	int rc = 0;

	while (at < w->n_buf && rc == 0) {
		uint32_t node = 0, id = TOK_NONE;
		size_t end = at;

		for (size_t i = at; i < w->n_buf; i++) {
			node = tok_trie_step(&t->trie, node, (uint8_t)w->buf[i]);
			if (node == TOK_NONE)
				break;
			if (t->trie.node[node].id != TOK_NONE) {
				id = t->trie.node[node].id;
				end = i + 1;
			}
		}
		if (id == TOK_NONE)
			return -ENOENT;
		rc = tok_put_id(w, (int32_t)id);
		at = end;
	}
	return rc == 0 && w->n_ids == from ? -ENOENT : rc;
}

static int end_word(const struct tokenizer *t, struct tok_work *w, struct word *word)
{
	size_t from = w->n_ids;
	int rc = 0;

	if (word->n_chars > 0)
		rc = word->n_chars > WORD_CHARS_MAX ? -ENOENT : spell(t, w);
	if (rc == -ENOENT) {
		w->n_ids = from;
		rc = t->unk >= 0 ? tok_put_id(w, t->unk) : -EILSEQ;
	}
	word->n_chars = 0;
	w->n_buf = 0;
	return rc;
}

static int put_char(struct tok_work *w, struct word *word, uint32_t cp)
{
	char *buf;

	if (++word->n_chars > WORD_CHARS_MAX)
		return 0; /* It is unknown already: only where it ends matters. */
	buf = tok_grow(w->buf, &w->cap_buf, w->n_buf + TOK_SPACE_LEN + 4, 1);
	if (buf == NULL)
		return -ENOMEM;
	w->buf = buf;
	if (word->n_chars == 1) {
		memcpy(buf, TOK_SPACE, TOK_SPACE_LEN);
		w->n_buf = TOK_SPACE_LEN;
	}
	w->n_buf += unicode_utf8_put(cp, buf + w->n_buf);
	return 0;
}

/* A character of the normalised text. */
static int take(const struct tokenizer *t, struct tok_work *w, struct word *word, uint32_t cp)
{
	int rc;

	if (unicode_is_space(cp))
		return end_word(t, w, word);
	if (!unicode_is_punctuation(cp))
		return put_char(w, word, cp);
	rc = end_word(t, w, word);
	if (rc == 0)
		rc = put_char(w, word, cp);
	return rc == 0 ? end_word(t, w, word) : rc;
}

/* A character of the text, by way of its decomposition and its lower case. */
static int take_raw(const struct tokenizer *t, struct tok_work *w, struct word *word, uint32_t cp)
{
	uint32_t parts[UNICODE_DECOMPOSED_MAX] = {cp}, lower[UNICODE_LOWER_MAX];
	size_t n = t->strip_accents ? unicode_decompose(cp, parts) : 1, n_lower;
	int rc = 0;

	/* NFD also orders neighbouring marks; those that it moves are the ones dropped here. */
	for (size_t i = 0; i < n && rc == 0; i++) {
		if (t->strip_accents && unicode_is_nonspacing_mark(parts[i]))
			continue;
		lower[0] = parts[i];
		n_lower = t->lowercase ? unicode_lower(parts[i], lower) : 1;
		for (size_t k = 0; k < n_lower && rc == 0; k++)
			rc = take(t, w, word, lower[k]);
	}
	return rc;
}

int tok_wpm_encode(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t len)
{
	struct word word = {0};
	int rc = 0;

	w->n_buf = 0;
	for (uint32_t i = 0; i < len && rc == 0;) {
		size_t n = unicode_utf8_len(text + i, len - i);
		uint32_t cp = n > 0 ? unicode_utf8_get(text + i, n) : 0xfffd;
		bool blank = cp == '\t' || cp == '\n' || cp == '\r';

		i += n > 0 ? (uint32_t)n : 1;
		/* The cleaning: what says nothing is not there, not even as a blank. */
		if (cp == 0 || cp == 0xfffd || (unicode_is_control(cp) && !blank))
			continue;
		if (!unicode_is_cjk(cp)) {
			rc = take_raw(t, w, &word, cp);
			continue;
		}
		rc = end_word(t, w, &word);
		if (rc == 0)
			rc = take_raw(t, w, &word, cp);
		if (rc == 0)
			rc = end_word(t, w, &word);
	}
	return rc == 0 ? end_word(t, w, &word) : rc;
}
