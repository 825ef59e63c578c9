/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SentencePiece unigram (Kudo, 2018): the text is normalised and of all ways to
 * spell it with tokens the most probable one is taken, which the Viterbi algorithm
 * finds in one pass. The way to each place is kept with the token that ends there;
 * a later way replaces it only if it is better, so among equals the longest token wins.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_priv.h"

#define KEY(name) "tokenizer.ggml." name
/* How much less probable than the least probable token a character is that no token covers:
 * kUnkPenalty of SentencePiece. */
#define UNK_PENALTY 10.0

static int load_charsmap(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	static const char key[] = KEY("precompiled_charsmap");
	const void *blob = gguf_arr_data(g, key);
	struct ps_err why = {{0}};
	int rc;

	if (!gguf_has(g, key))
		return 0;
	if (blob == NULL || (gguf_arr_type(g, key) != GGUF_U8 && gguf_arr_type(g, key) != GGUF_I8))
		return ps_err_set(err, -EBADMSG, "%s: expected an array of bytes", key);
	if (gguf_arr_len(g, key) == 0)
		return 0;
	rc = tok_charsmap_init(&t->charsmap, blob, gguf_arr_len(g, key), &why);
	return rc == 0 ? 0 : ps_err_set(err, rc, "%s: %s", key, why.msg);
}

/* User-defined tokens cost nothing, so that they win over every other spelling. */
static int load_tokens(struct tokenizer *t, struct ps_err *err)
{
	uint32_t *ids = calloc((size_t)t->n_vocab, sizeof(*ids)), n = 0;
	float least = FLT_MAX;
	int rc;

	if (ids == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for %u tokens", t->n_vocab);
	t->words_apart = true;
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		if (!isfinite(t->score[i])) {
			free(ids);
			return ps_err_set(err, -EBADMSG, "%s[%u] is infinite", KEY("scores"), i);
		}
		if (t->type[i] == TOK_NORMAL && t->score[i] < least)
			least = t->score[i];
		if (t->type[i] == TOK_USER)
			t->score[i] = 0;
		if (t->type[i] != TOK_NORMAL && t->type[i] != TOK_UNUSED && t->type[i] != TOK_USER)
			continue;
		ids[n++] = i;
		if (tok_spm_goes_on_after_space(t->text[i]))
			t->words_apart = false;
	}
	t->unk_score = (least < FLT_MAX ? (double)least : 0) - UNK_PENALTY;
	rc = tok_trie_build(&t->trie, t->text, ids, n);
	free(ids);
	return rc == 0 ? 0 : ps_err_set(err, rc, "no memory for the tokens of a unigram vocabulary");
}

int tok_ugm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	int rc = tok_spm_load_scores(t, g, err);

	if (rc == 0)
		rc = tok_spm_load_bytes(t, err);
	if (rc == 0)
		rc = load_tokens(t, err);
	if (rc == 0)
		rc = load_charsmap(t, g, err);
	if (rc == 0 && gguf_has(g, KEY("remove_extra_whitespaces")) &&
	    !gguf_get_bool(g, KEY("remove_extra_whitespaces"), &t->merge_spaces))
		rc = ps_err_set(err, -EBADMSG, "%s: expected a bool", KEY("remove_extra_whitespaces"));
	return rc;
}

static int put(struct tok_work *w, const char *s, size_t n)
{
	char *buf;

	if (w->n_buf + n > TOK_TEXT_MAX)
		return -E2BIG;
	buf = tok_grow(w->buf, &w->cap_buf, w->n_buf + n, 1);
	if (buf == NULL)
		return -ENOMEM;
	w->buf = buf;
	memcpy(buf + w->n_buf, s, n);
	w->n_buf += n;
	return 0;
}

/* A character's length, or 1 for a byte of none, which only a torn charsmap can put there. */
static size_t char_len(const char *s, size_t n)
{
	size_t len = unicode_utf8_len(s, n);

	return len > 0 ? len : 1;
}

/* Follows the tokens that begin at `at` and improves the ways to where they end. */
static void extend(const struct tokenizer *t, struct tok_work *w, size_t at, size_t len)
{
	double here = w->best[at].score;
	bool whole = false;
	uint32_t node = 0;

	for (size_t i = at; i < w->n_buf; i++) {
		struct tok_best *b = &w->best[i + 1];
		uint32_t id;

		node = tok_trie_step(&t->trie, node, (uint8_t)w->buf[i]);
		if (node == TOK_NONE)
			break;
		id = t->trie.node[node].id;
		if (id == TOK_NONE)
			continue;
		whole = whole || i + 1 == at + len;
		if (here + (double)t->score[id] > b->score)
			*b = (struct tok_best){here + (double)t->score[id], (int32_t)id, (uint32_t)at};
	}
	if (!whole && here + t->unk_score > w->best[at + len].score)
		w->best[at + len] = (struct tok_best){here + t->unk_score, -1, (uint32_t)at};
}

/* A run of characters that no token covers is one unknown token, or its bytes where there are tokens for
 * all of them. */
static int put_unknown(const struct tokenizer *t, struct tok_work *w, size_t from, size_t to)
{
	bool bytes = true;

	for (size_t i = from; i < to; i++)
		bytes = bytes && t->byte_id[(uint8_t)w->buf[i]] >= 0;
	if (bytes)
		return tok_put_bytes(t, w, w->buf + from, to - from);
	if (w->after_unk)
		return 0;
	w->after_unk = true;
	return t->unk >= 0 ? tok_put_id(w, t->unk) : -EILSEQ;
}

/* Puts out the best way to the end of w->buf. It is found backwards, so the links are turned round first:
 * best[at].from becomes where the token that begins at `at` ends, and its id moves along. */
static int put_best(const struct tokenizer *t, struct tok_work *w)
{
	uint32_t at = (uint32_t)w->n_buf, next = 0;
	int32_t id, next_id = -1;
	int rc = 0;

	while (at > 0) {
		struct tok_best *b = &w->best[at];
		uint32_t from = b->from;

		id = b->id;
		b->from = next;
		b->id = next_id;
		next = at;
		next_id = id;
		at = from;
	}
	w->best[0].from = next;
	w->best[0].id = next_id;
	for (at = 0; at < w->n_buf && rc == 0; at = next) {
		next = w->best[at].from;
		id = w->best[at].id;
		if (id < 0) {
			rc = put_unknown(t, w, at, next);
			continue;
		}
		w->after_unk = false;
		rc = tok_put_id(w, id);
	}
	return rc;
}

/* Spells w->buf. */
static int flush(const struct tokenizer *t, struct tok_work *w)
{
	struct tok_best *best;
	size_t len;
	int rc;

	if (w->n_buf == 0)
		return 0;
	best = tok_grow(w->best, &w->cap_best, w->n_buf + 1, sizeof(*best));
	if (best == NULL)
		return -ENOMEM;
	w->best = best;
	for (size_t i = 0; i <= w->n_buf; i++)
		best[i] = (struct tok_best){.score = -DBL_MAX, .id = -1};
	best[0].score = 0;
	for (size_t at = 0; at < w->n_buf; at += len) {
		len = char_len(w->buf + at, w->n_buf - at);
		extend(t, w, at, len);
	}
	rc = put_best(t, w);
	w->n_buf = 0;
	return rc;
}

/* The blanks of the normalised text as it is read. */
struct spaces {
	bool prefixed; /* the one in front of the text is there */
	bool in_word;  /* the last character was no space */
};

/* SentencePiece's treatment of blanks: U+2581 in front of the text and for each blank, or with
 * merge_spaces in front of each word only. Where no token spans words each is spelled by itself. */
static int take(const struct tokenizer *t, struct tok_work *w, struct spaces *sp, const char *s, size_t n)
{
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		bool starts = s[i] != ' ' && !sp->in_word;

		if (s[i] == ' ' && sp->in_word && t->words_apart)
			rc = flush(t, w);
		sp->in_word = s[i] != ' ';
		if (rc == 0 && (starts ? (t->add_space_prefix && !sp->prefixed) || t->merge_spaces
				       : s[i] == ' ' && !t->merge_spaces)) {
			rc = put(w, TOK_SPACE, TOK_SPACE_LEN);
			sp->prefixed = sp->prefixed || starts;
		}
		if (rc == 0 && s[i] != ' ')
			rc = put(w, s + i, 1);
	}
	return rc;
}

int tok_ugm_encode(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t len)
{
	struct spaces sp = {0};
	int rc = 0;

	w->n_buf = 0;
	w->after_unk = false;
	for (uint32_t i = 0; i < len && rc == 0;) {
		const char *s = text + i, *mapped = NULL;
		int n = tok_charsmap_match(&t->charsmap, s, len - i, &mapped);

		if (n < 0)
			return n;
		if (n > 0) {
			rc = take(t, w, &sp, mapped, strlen(mapped));
		} else if ((n = (int)unicode_utf8_len(s, len - i)) > 0) {
			rc = take(t, w, &sp, s, (size_t)n);
		} else {
			n = 1;
			rc = take(t, w, &sp, "\xef\xbf\xbd", 3); /* U+FFFD */
		}
		i += (uint32_t)n;
	}
	return rc == 0 ? flush(t, w) : rc;
}
