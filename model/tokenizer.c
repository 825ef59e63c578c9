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

static bool is_id(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->n_vocab;
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id)
{
	return is_id(t, id) && t->eog[id];
}

/*
 * The longest special token at the beginning of s, or -1. The table is sorted, so the tokens
 * that agree with the first d bytes of s are a range; each byte narrows it, and a token that
 * ends after d bytes stands first in it.
 */
static int32_t match_special(const struct tokenizer *t, const char *s, size_t len, bool parse_special,
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

static int encode_plain(const struct tokenizer *t, struct tok_work *w, const char *text, size_t len,
			bool prefix)
{
	if (len == 0)
		return 0;
	if (t->kind == TOK_SPM)
		return tok_spm_encode(t, w, text, (uint32_t)len, prefix && t->add_space_prefix);
	return tok_bpe_encode(t, w, text, (uint32_t)len);
}

/* Special tokens cut the text, the leftmost first and of those the longest. SentencePiece's space
 * goes in front of the text and in front of what follows a control token, but not behind a
 * user-defined token, which is part of the text. */
static int encode_text(const struct tokenizer *t, struct tok_work *w, const char *text, size_t len,
		       bool parse_special)
{
	size_t from = 0, i = 0;
	bool prefix = true;
	int rc = 0;

	while (i < len && rc == 0) {
		uint32_t n = 0;
		int32_t id = match_special(t, text + i, len - i, parse_special, &n);

		if (id < 0) {
			i++;
			continue;
		}
		rc = encode_plain(t, w, text + from, i - from, prefix);
		if (rc == 0)
			rc = tok_put_id(w, id);
		prefix = t->type[id] != TOK_USER;
		i += n;
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
	if (rc != 0) {
		free(w.ids);
		return rc;
	}
	*ids_out = w.ids;
	*n_out = w.n_ids;
	return 0;
}

/* The bytes of a token at its place in the text. The first one of a SentencePiece text lost its
 * own space to the one that encoding put in front; user-defined tokens never get one. */
static struct tok_str piece_at(const struct tokenizer *t, bool *started, int32_t id)
{
	struct tok_str p = t->piece[id];

	if (*started || p.len == 0)
		return p;
	*started = true;
	if (t->add_space_prefix && t->type[id] != TOK_USER && p.s[0] == ' ') {
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
