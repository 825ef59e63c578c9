/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SentencePiece BPE (Kudo and Richardson, 2018): spaces become U+2581, the text
 * begins as its characters, and the two neighbours whose union is the token of
 * the highest score merge, the leftmost first among equals. What is then
 * no token is spelled in byte tokens.
 *
 * A literal U+2581 in the text would read as a space afterwards; it is spelled in
 * byte tokens, where there are some, so that decoding gives the text back.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/tokenizer_priv.h"

#define KEY_SCORES "tokenizer.ggml.scores"

/* Ascending for falling scores. Adding 0 makes -0 and 0 the same. */
static uint32_t order_of(float score)
{
	uint32_t bits;

	score += 0.0f;
	memcpy(&bits, &score, sizeof(bits));
	return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

int tok_spm_byte_of(struct tok_str s)
{
	static const char digits[] = "0123456789ABCDEF";
	const char *hi, *lo;

	if (s.len != 6 || memcmp(s.s, "<0x", 3) != 0 || s.s[5] != '>' || s.s[3] == '\0' || s.s[4] == '\0')
		return -1;
	hi = strchr(digits, s.s[3]);
	lo = strchr(digits, s.s[4]);
	return hi != NULL && lo != NULL ? (int)((hi - digits) << 4 | (lo - digits)) : -1;
}

/* Files that do not mark their byte tokens show them by their spelling. */
static void mark_bytes(struct tokenizer *t)
{
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (t->type[i] == TOK_BYTE)
			return;
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (t->type[i] == TOK_NORMAL && tok_spm_byte_of(t->text[i]) >= 0)
			t->type[i] = TOK_BYTE;
}

int tok_spm_load_bytes(struct tokenizer *t, struct ps_err *err)
{
	mark_bytes(t);
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		int b;

		if (t->type[i] != TOK_BYTE)
			continue;
		b = tok_spm_byte_of(t->text[i]);
		if (b < 0)
			return ps_err_set(
			    err, -EBADMSG,
			    "tokenizer.ggml.tokens[%u] \"%.*s\": expected <0xXX> for a byte token", i,
			    (int)t->text[i].len, t->text[i].s);
		t->byte_id[b] = (int32_t)i;
	}
	return 0;
}

/* Whether a space follows another character inside the text. If no token has such a place,
 * words never merge with each other and are taken one by one. */
bool tok_spm_goes_on_after_space(struct tok_str s)
{
	bool other = false;

	for (uint32_t i = 0; i < s.len;) {
		bool space = s.len - i >= TOK_SPACE_LEN && memcmp(s.s + i, TOK_SPACE, TOK_SPACE_LEN) == 0;

		if (space && other)
			return true;
		other = !space;
		i += space ? TOK_SPACE_LEN : 1;
	}
	return false;
}

static int load_texts(struct tokenizer *t, struct ps_err *err)
{
	int rc;

	t->words_apart = true;
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		if ((t->type[i] != TOK_NORMAL && t->type[i] != TOK_UNUSED) || t->text[i].len == 0)
			continue;
		rc = tok_map_put(&t->by_text, t->text, i);
		if (rc != 0)
			return ps_err_set(err, rc == -ENOMEM ? rc : -EBADMSG,
					  "tokenizer.ggml.tokens[%u]: the vocabulary's table cannot hold it",
					  i);
		if (t->text[i].len > t->text_max)
			t->text_max = t->text[i].len;
		if (tok_spm_goes_on_after_space(t->text[i]))
			t->words_apart = false;
	}
	return 0;
}

int tok_spm_load_scores(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	const uint8_t *scores = gguf_arr_data(g, KEY_SCORES);

	if (scores == NULL || gguf_arr_type(g, KEY_SCORES) != GGUF_F32)
		return ps_err_set(err, -EBADMSG, "%s: expected %u float32 scores, found none", KEY_SCORES,
				  t->n_vocab);
	if (gguf_arr_len(g, KEY_SCORES) != t->n_vocab)
		return ps_err_set(err, -EBADMSG, "%s: expected %u scores, one a token, found %zu", KEY_SCORES,
				  t->n_vocab, gguf_arr_len(g, KEY_SCORES));
	t->score = calloc(t->n_vocab, sizeof(*t->score));
	if (t->score == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for %u scores", t->n_vocab);
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		uint32_t bits = ps_load32(scores + 4 * (size_t)i);

		memcpy(&t->score[i], &bits, sizeof(t->score[i]));
		if (isnan(t->score[i]))
			return ps_err_set(err, -EBADMSG, "%s[%u] is not a number", KEY_SCORES, i);
	}
	return 0;
}

int tok_spm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	bool strip = false;
	int rc = tok_spm_load_scores(t, g, err);

	if (rc != 0)
		return rc;
	if (gguf_get_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &strip) && strip)
		return ps_err_set(err, -ENOTSUP,
				  "tokenizer.ggml.remove_extra_whitespaces: only false is supported");
	t->order = calloc(t->n_vocab, sizeof(*t->order));
	if (t->order == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for %u scores", t->n_vocab);
	for (uint32_t i = 0; i < t->n_vocab; i++)
		t->order[i] = order_of(t->score[i]);
	free(t->score);
	t->score = NULL;
	rc = tok_spm_load_bytes(t, err);
	return rc == 0 ? load_texts(t, err) : rc;
}

/* Merges what is in the segment and puts out its tokens. */
static int flush(const struct tokenizer *t, struct tok_work *w)
{
	int rc;

	if (w->n_sym == 0)
		return 0;
	rc = tok_merge(t, w, w->buf);
	for (uint32_t i = 0; i != TOK_NONE && rc == 0; i = w->sym[i].next) {
		const struct tok_sym *y = &w->sym[i];
		const char *s = w->buf + y->start;

		if (y->id != TOK_NONE)
			rc = tok_put_id(w, (int32_t)y->id);
		else if (y->len == TOK_SPACE_LEN && memcmp(s, TOK_SPACE, TOK_SPACE_LEN) == 0)
			rc = tok_put_bytes(t, w, " ", 1);
		else
			rc = tok_put_bytes(t, w, s, y->len);
	}
	w->n_sym = 0;
	w->n_buf = 0;
	return rc;
}

static int put_char(const struct tokenizer *t, struct tok_work *w, const char *s, size_t n)
{
	char *buf = tok_grow(w->buf, &w->cap_buf, w->n_buf + n, 1);
	uint32_t start = (uint32_t)w->n_buf;

	if (buf == NULL)
		return -ENOMEM;
	w->buf = buf;
	memcpy(buf + start, s, n);
	w->n_buf += n;
	return tok_put_sym(w, tok_map_get(&t->by_text, t->text, s, n), start, (uint32_t)n);
}

int tok_spm_encode(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t len, bool prefix)
{
	bool has_bytes = t->byte_id[(uint8_t)TOK_SPACE[0]] >= 0, after_space = prefix;
	int rc = 0;

	w->n_sym = 0;
	w->n_buf = 0;
	if (prefix)
		rc = put_char(t, w, TOK_SPACE, TOK_SPACE_LEN);
	for (uint32_t i = 0; i < len && rc == 0;) {
		size_t n = unicode_utf8_len(text + i, len - i);
		bool space = text[i] == ' ';

		if (n == 0)
			n = 1; /* A byte of no character stands alone and comes out as a byte token. */
		if (n == TOK_SPACE_LEN && has_bytes && memcmp(text + i, TOK_SPACE, TOK_SPACE_LEN) == 0) {
			rc = flush(t, w);
			if (rc == 0)
				rc = tok_put_bytes(t, w, TOK_SPACE, TOK_SPACE_LEN);
		} else {
			if (space && !after_space && t->words_apart)
				rc = flush(t, w);
			if (rc == 0)
				rc = space ? put_char(t, w, TOK_SPACE, TOK_SPACE_LEN)
					   : put_char(t, w, text + i, n);
		}
		after_space = space;
		i += (uint32_t)n;
	}
	return rc == 0 ? flush(t, w) : rc;
}
