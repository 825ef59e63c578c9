/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_priv.h"

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
	return t->n_vocab;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->eos;
}

int32_t tokenizer_mask(const struct tokenizer *t)
{
	return t->mask;
}

static bool is_id(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->n_vocab;
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id)
{
	return is_id(t, id) && t->eog[id];
}

static int encode_plain(const struct tokenizer *t, struct tok_work *w, const char *text, size_t len,
			bool prefix)
{
	if (len == 0)
		return 0;
	switch (t->kind) {
	case TOK_SPM:
		return tok_spm_encode(t, w, text, (uint32_t)len, prefix && t->add_space_prefix);
	case TOK_BPE:
		return tok_bpe_encode(t, w, text, (uint32_t)len);
	case TOK_WPM:
		return tok_wpm_encode(t, w, text, (uint32_t)len);
	case TOK_UGM:
		return tok_ugm_encode(t, w, text, (uint32_t)len);
	}
	CHECK(false);
}

/* The C locale's blanks, which are what tokens strip. */
static bool is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Special tokens cut the text, the leftmost first and of those the longest. SentencePiece's space
 * goes in front of the text and in front of what follows a control token, but not behind a
 * user-defined token, which is part of the text. */
static int encode_text(const struct tokenizer *t, struct tok_work *w, const char *text, size_t len,
		       bool parse_special)
{
	size_t from = 0, i = 0, to;
	bool prefix = true;
	int rc = 0;

	while (i < len && rc == 0) {
		uint32_t n = 0;
		int32_t id = tok_special_match(t, text + i, len - i, parse_special, &n);

		if (id < 0) {
			i++;
			continue;
		}
		for (to = i; t->strip[id] & TOK_STRIP_LEFT && to > from && is_blank(text[to - 1]);)
			to--;
		rc = encode_plain(t, w, text + from, to - from, prefix);
		if (rc == 0)
			rc = tok_put_id(w, id);
		prefix = t->type[id] != TOK_USER;
		i += n;
		while (t->strip[id] & TOK_STRIP_RIGHT && i < len && is_blank(text[i]))
			i++;
		from = i;
	}
	return rc == 0 ? encode_plain(t, w, text + from, len - from, prefix) : rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool add_special,
		     bool parse_special, int32_t **ids_out, size_t *n_out)
{
	struct tok_work w = {0};
	int rc = 0;

	if (len > TOK_TEXT_MAX)
		return -E2BIG;
	if (t->kind == TOK_BPE) {
		w.pre = tok_pre_work_create();
		if (w.pre == NULL)
			return -ENOMEM;
	}
	/* So that there is an array to hand out even for no ids. */
	w.ids = tok_grow(NULL, &w.cap_ids, 1, sizeof(*w.ids));
	if (w.ids == NULL)
		rc = -ENOMEM;
	if (rc == 0 && add_special && t->add_bos)
		rc = tok_put_id(&w, t->bos);
	if (rc == 0)
		rc = encode_text(t, &w, text, len, parse_special);
	if (rc == 0 && add_special && t->add_eos)
		rc = tok_put_id(&w, t->eos);
	tok_pre_work_free(w.pre);
	free(w.sym);
	free(w.heap);
	free(w.buf);
	free(w.best);
	if (rc != 0) {
		free(w.ids);
		return rc;
	}
	*ids_out = w.ids;
	*n_out = w.n_ids;
	return 0;
}

/* The bytes of a token at its place in the text. The space in front of the first one is the one that
 * encoding put there, or that WordPiece has in front of every word; user-defined tokens have none. */
static struct tok_str piece_at(const struct tokenizer *t, bool *started, int32_t id)
{
	struct tok_str p = t->piece[id];

	if (*started || p.len == 0)
		return p;
	*started = true;
	if (t->drops_first_space && t->type[id] != TOK_USER && p.s[0] == ' ') {
		p.s++;
		p.len--;
	}
	return p;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, char **text_out,
		     size_t *len_out)
{
	bool started = false;
	size_t bytes = 1, at = 0;
	char *text;

	for (size_t i = 0; i < n; i++) {
		if (!is_id(t, ids[i]))
			return -EINVAL;
		bytes += t->piece[ids[i]].len;
	}
	text = malloc(bytes);
	if (text == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct tok_str p = piece_at(t, &started, ids[i]);

		if (p.len > 0)
			memcpy(text + at, p.s, p.len);
		at += p.len;
	}
	text[at] = '\0';
	*text_out = text;
	*len_out = at;
	return 0;
}

void tokenizer_stream_init(struct tokenizer_stream *s)
{
	memset(s, 0, sizeof(*s));
}

size_t tokenizer_stream_push(const struct tokenizer *t, struct tokenizer_stream *s, int32_t id, char *buf,
			     size_t cap)
{
	struct tok_str p;
	size_t n, keep;

	if (!is_id(t, id))
		return 0;
	p = piece_at(t, &s->started, id);
	n = s->n_pending + p.len;
	CHECK(n <= cap);
	memcpy(buf, s->pending, s->n_pending);
	if (p.len > 0)
		memcpy(buf + s->n_pending, p.s, p.len);
	keep = unicode_utf8_partial_tail(buf, n);
	memcpy(s->pending, buf + n - keep, keep);
	s->n_pending = (uint32_t)keep;
	return n - keep;
}

size_t tokenizer_stream_flush(struct tokenizer_stream *s, char *buf, size_t cap)
{
	size_t n = s->n_pending;

	CHECK(n <= cap);
	memcpy(buf, s->pending, n);
	s->n_pending = 0;
	return n;
}
