/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The merge engine. A text of n symbols makes at most n - 1 merges, and each
 * adds at most two candidates, so the heap sees less than 3 n entries and the
 * whole is O(n log n).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_priv.h"

void *tok_grow(void *array, size_t *cap, size_t need, size_t elem_bytes)
{
	size_t n = *cap ? *cap : 64;
	void *p;

	if (need <= *cap)
		return array;
	while (n < need)
		n *= 2;
	p = realloc(array, n * elem_bytes);
	if (p != NULL)
		*cap = n;
	return p;
}

int tok_put_id(struct tok_work *w, int32_t id)
{
	int32_t *ids = tok_grow(w->ids, &w->cap_ids, w->n_ids + 1, sizeof(*ids));

	if (ids == NULL)
		return -ENOMEM;
	w->ids = ids;
	ids[w->n_ids++] = id;
	return 0;
}

int tok_put_bytes(const struct tokenizer *t, struct tok_work *w, const char *s, size_t n)
{
	bool drops = t->kind == TOK_BPE && t->unk < 0;
	int rc = 0;

	for (size_t i = 0; i < n && !drops; i++)
		if (t->byte_id[(uint8_t)s[i]] < 0)
			return t->unk >= 0 ? tok_put_id(w, t->unk) : -EILSEQ;
	for (size_t i = 0; i < n && rc == 0; i++)
		if (t->byte_id[(uint8_t)s[i]] >= 0)
			rc = tok_put_id(w, t->byte_id[(uint8_t)s[i]]);
	return rc;
}

int tok_put_sym(struct tok_work *w, uint32_t id, uint32_t start, uint32_t len)
{
	struct tok_sym *sym = tok_grow(w->sym, &w->cap_sym, w->n_sym + 1, sizeof(*sym));
	uint32_t i = (uint32_t)w->n_sym;

	if (sym == NULL)
		return -ENOMEM;
	w->sym = sym;
	if (i > 0)
		sym[i - 1].next = i;
	sym[i] = (struct tok_sym){.id = id, .start = start, .len = len, .prev = i - 1, .next = TOK_NONE};
	w->n_sym++;
	return 0;
}

static int heap_push(struct tok_work *w, struct tok_cand c)
{
	struct tok_cand *h = tok_grow(w->heap, &w->cap_heap, w->n_heap + 1, sizeof(*h));
	size_t i = w->n_heap;

	if (h == NULL)
		return -ENOMEM;
	w->heap = h;
	w->n_heap++;
	while (i > 0 && h[(i - 1) / 2].key > c.key) {
		h[i] = h[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	h[i] = c;
	return 0;
}

static struct tok_cand heap_pop(struct tok_work *w)
{
	struct tok_cand *h = w->heap, top = h[0], last = h[--w->n_heap];
	size_t i = 0, n = w->n_heap;

	for (;;) {
		size_t k = 2 * i + 1;

		if (k >= n)
			break;
		if (k + 1 < n && h[k + 1].key < h[k].key)
			k++;
		if (h[k].key >= last.key)
			break;
		h[i] = h[k];
		i = k;
	}
	if (n > 0)
		h[i] = last;
	return top;
}

/* Adds the merge of symbol `left` with the one after it, if the vocabulary knows it. */
static int offer(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t left)
{
	const struct tok_sym *l, *r;
	const struct tok_pair *pair;
	uint32_t order, id;

	if (left == TOK_NONE || w->sym[left].next == TOK_NONE)
		return 0;
	l = &w->sym[left];
	r = &w->sym[l->next];
	if (t->kind == TOK_BPE) {
		pair = tok_pairs_get(&t->pairs, l->id, r->id);
		if (pair == NULL)
			return 0;
		order = pair->rank;
		id = pair->merged;
	} else {
		if (l->len + r->len > t->text_max)
			return 0;
		id = tok_map_get(&t->by_text, t->text, text + l->start, l->len + r->len);
		if (id == TOK_NONE)
			return 0;
		order = t->order[id];
	}
	return heap_push(
	    w, (struct tok_cand){.key = (uint64_t)order << 32 | left, .len = l->len + r->len, .id = id});
}

int tok_merge(const struct tokenizer *t, struct tok_work *w, const char *text)
{
	int rc = 0;

	w->n_heap = 0;
	for (uint32_t i = 0; i + 1 < w->n_sym && rc == 0; i++)
		rc = offer(t, w, text, i);
	while (w->n_heap > 0 && rc == 0) {
		struct tok_cand c = heap_pop(w);
		uint32_t left = (uint32_t)c.key;
		struct tok_sym *l = &w->sym[left], *r;

		/* Stale if either symbol is gone (its length is 0) or has grown since: a left symbol
		 * begins where it did, so the same length means the same text. */
		if (l->len == 0 || l->next == TOK_NONE)
			continue;
		r = &w->sym[l->next];
		if (l->len + r->len != c.len)
			continue;
		l->id = c.id;
		l->len = c.len;
		l->next = r->next;
		r->len = 0;
		if (l->next != TOK_NONE)
			w->sym[l->next].prev = left;
		rc = offer(t, w, text, l->prev);
		if (rc == 0)
			rc = offer(t, w, text, left);
	}
	return rc;
}
