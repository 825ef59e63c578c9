/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Byte-level BPE (Radford et al., GPT-2, 2019): the text is cut into words by
 * the pre-tokenizer, each word begins as its bytes, and listed pairs merge, the
 * earliest in the list first. Here symbols are kept as the bytes they mean, not
 * in the printable spelling of the file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_priv.h"

#define KEY_MERGES "tokenizer.ggml.merges"
#define KEY_PRE    "tokenizer.ggml.pre"

/* The symbol of these bytes, a new one if there is none. The arena has room for every merge. */
static int intern(struct tokenizer *t, const char *s, size_t len, uint32_t *sym_out)
{
	uint32_t id = tok_map_get(&t->by_text, t->text, s, len);
	struct tok_str *text;
	int rc = 0;

	if (id == TOK_NONE) {
		CHECK(t->arena_used + len <= t->arena_cap);
		text = tok_grow(t->text, &t->cap_syms, (size_t)t->n_syms + 1, sizeof(*text));
		if (text == NULL)
			return -ENOMEM;
		t->text = text;
		memcpy(t->arena + t->arena_used, s, len);
		id = t->n_syms++;
		t->text[id] = (struct tok_str){.s = t->arena + t->arena_used, .len = (uint32_t)len};
		t->arena_used += len;
		rc = tok_map_put(&t->by_text, t->text, id);
	}
	*sym_out = id;
	return rc;
}

static int bad_merge(struct ps_err *err, size_t i, struct gguf_str m, const char *what)
{
	return ps_err_set(err, -EBADMSG, "%s[%zu] \"%.*s\": %s", KEY_MERGES, i,
			  (int)(m.len < 40 ? m.len : 40), m.s, what);
}

/* "left right" in the printable spelling. A space is never part of a spelled byte. */
static int load_merge(struct tokenizer *t, const struct unicode_byte_alphabet *a, struct gguf_str m, size_t i,
		      struct ps_err *err)
{
	const char *space = m.len > 0 ? memchr(m.s, ' ', m.len) : NULL;
	char both[2 * TOK_RAW_MAX];
	struct tok_pair pair = {.rank = (uint32_t)i};
	ptrdiff_t left, right;
	size_t len;
	int rc;

	if (space == NULL || space == m.s || space + 1 == m.s + m.len)
		return bad_merge(err, i, m, "expected two parts with a space between them");
	if (m.len > 2 * TOK_RAW_MAX)
		return bad_merge(err, i, m, "too long");
	len = (size_t)(space - m.s);
	left = unicode_byte_alphabet_decode(a, m.s, len, both);
	if (left < 0)
		return 0; /* Outside the byte alphabet: no text has such symbols, so it never applies. */
	right = unicode_byte_alphabet_decode(a, space + 1, m.len - len - 1, both + left);
	if (right < 0)
		return 0;
	rc = intern(t, both, (size_t)left, &pair.left);
	if (rc == 0)
		rc = intern(t, both + left, (size_t)right, &pair.right);
	if (rc == 0)
		rc = intern(t, both, (size_t)(left + right), &pair.merged);
	if (rc == 0)
		rc = tok_pairs_put(&t->pairs, pair);
	if (rc == -ENOMEM)
		return ps_err_set(err, rc, "no memory for the merges");
	return rc == 0 ? 0 : bad_merge(err, i, m, "the merge table cannot hold it");
}

static int load_pre(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	struct gguf_str name = {.s = "default", .len = 7};

	/* Files from before the key existed were made for the "default" rules. */
	if (gguf_has(g, KEY_PRE) && !gguf_get_str(g, KEY_PRE, &name))
		return ps_err_set(err, -EBADMSG, "%s: expected a string", KEY_PRE);
	return tok_pre_create(name.s, name.len, &t->pre, err);
}

int tok_bpe_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	size_t n = gguf_arr_len(g, KEY_MERGES);
	struct unicode_byte_alphabet a;
	struct gguf_str m;
	int rc;

	if (gguf_has(g, KEY_MERGES) && gguf_arr_type(g, KEY_MERGES) != GGUF_STRING)
		return ps_err_set(err, -EBADMSG, "%s: expected an array of strings", KEY_MERGES);
	if (!gguf_has(g, KEY_MERGES))
		return ps_err_set(err, -EBADMSG, "%s is missing: a byte-level vocabulary needs its merges",
				  KEY_MERGES);
	rc = load_pre(t, g, err);
	if (rc != 0)
		return rc;
	rc = tok_pairs_init(&t->pairs, n);
	if (rc != 0)
		return ps_err_set(err, rc, "no memory for %zu merges", n);
	unicode_byte_alphabet_init(&a);
	for (unsigned b = 0; b < 256; b++) {
		char c = (char)b;

		rc = intern(t, &c, 1, &t->byte_sym[b]);
		if (rc != 0)
			return ps_err_set(err, rc == -ENOMEM ? rc : -EBADMSG,
					  "the vocabulary's table cannot hold its bytes");
		t->byte_id[b] = t->byte_sym[b] < t->n_vocab ? (int32_t)t->byte_sym[b] : -1;
	}
	for (size_t i = 0; i < n; i++) {
		if (!gguf_arr_str(g, KEY_MERGES, i, &m))
			return ps_err_set(err, -EBADMSG, "%s[%zu] cannot be read", KEY_MERGES, i);
		rc = load_merge(t, &a, m, i, err);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int encode_word(const struct tokenizer *t, struct tok_work *w, const char *s, uint32_t len)
{
	uint32_t id;
	int rc = 0;

	if (len == 1)
		return tok_put_bytes(t, w, s, 1);
	if (tok_pre_whole_words(t->pre)) {
		id = tok_map_get(&t->by_text, t->text, s, len);
		if (id < t->n_vocab)
			return tok_put_id(w, (int32_t)id);
	}
	w->n_sym = 0;
	for (uint32_t i = 0; i < len && rc == 0; i++)
		rc = tok_put_sym(w, t->byte_sym[(uint8_t)s[i]], i, 1);
	if (rc == 0)
		rc = tok_merge(t, w, s);
	for (uint32_t i = 0; i != TOK_NONE && rc == 0; i = w->sym[i].next) {
		const struct tok_sym *y = &w->sym[i];

		rc = y->id < t->n_vocab ? tok_put_id(w, (int32_t)y->id)
					: tok_put_bytes(t, w, s + y->start, y->len);
	}
	return rc;
}

static int encode_valid(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t len)
{
	const uint32_t *ends;
	uint32_t from = 0;
	size_t n;
	int rc = tok_pre_split(t->pre, w->pre, text, len, &ends, &n);

	for (size_t i = 0; i < n && rc == 0; i++) {
		rc = encode_word(t, w, text + from, ends[i] - from);
		from = ends[i];
	}
	return rc;
}

/* The expressions are defined on characters only. So each byte that is part of none is a word of
 * its own, and the text before and after it is cut as if it stood alone. */
int tok_bpe_encode(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t len)
{
	uint32_t from = 0, i = 0;
	int rc = 0;

	while (i < len && rc == 0) {
		size_t n = unicode_utf8_len(text + i, len - i);

		if (n > 0) {
			i += (uint32_t)n;
			continue;
		}
		if (i > from)
			rc = encode_valid(t, w, text + from, i - from);
		if (rc == 0)
			rc = tok_put_bytes(t, w, text + i, 1);
		from = ++i;
	}
	if (rc == 0 && i > from)
		rc = encode_valid(t, w, text + from, i - from);
	return rc;
}
