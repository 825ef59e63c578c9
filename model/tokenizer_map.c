/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/tokenizer_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* 2^64 divided by the golden ratio: the multiplier of Fibonacci hashing (Knuth, vol. 3, 6.4). */
#define GOLDEN 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t x)
{
	x *= GOLDEN;
	x ^= x >> 32;
	x *= GOLDEN;
	return x ^ x >> 29;
}

static uint32_t hash_text(const char *s, size_t len)
{
	uint64_t h = len, v;

	for (; len >= 8; s += 8, len -= 8) {
		memcpy(&v, s, 8);
		h = mix(h ^ v);
	}
	v = 0;
	memcpy(&v, s, len);
	return (uint32_t)mix(h ^ v);
}

/* The smallest power of two with at most half of the slots in use, 0 if there is none. */
static uint32_t slots_for(size_t n_max)
{
	uint32_t n = 16;

	while (n / 2 < n_max) {
		if (n > UINT32_MAX / 2)
			return 0;
		n *= 2;
	}
	return n;
}

int tok_map_init(struct tok_map *m, size_t n_expected)
{
	uint32_t n = slots_for(n_expected);

	if (n == 0)
		return -E2BIG;
	m->slot = malloc(n * sizeof(*m->slot));
	if (m->slot == NULL)
		return -ENOMEM;
	memset(m->slot, 0xff, n * sizeof(*m->slot));
	m->mask = n - 1;
	m->n_used = 0;
	return 0;
}

void tok_map_fini(struct tok_map *m)
{
	free(m->slot);
	m->slot = NULL;
}

/* The slot of the text, or the free slot where it would go, or NULL when the probes are used up. */
static struct tok_map_slot *map_find(const struct tok_map *m, const struct tok_str *strs, const char *s,
				     size_t len, uint32_t hash)
{
	for (uint32_t i = 0; i < TOK_PROBES_MAX; i++) {
		struct tok_map_slot *e = &m->slot[(hash + i) & m->mask];

		if (e->id == TOK_NONE)
			return e;
		if (e->hash == hash && strs[e->id].len == len && memcmp(strs[e->id].s, s, len) == 0)
			return e;
	}
	return NULL;
}

static struct tok_map_slot *map_free_slot(const struct tok_map *m, uint32_t hash)
{
	for (uint32_t i = 0; i < TOK_PROBES_MAX; i++) {
		struct tok_map_slot *e = &m->slot[(hash + i) & m->mask];

		if (e->id == TOK_NONE)
			return e;
	}
	return NULL;
}

static int map_double(struct tok_map *m)
{
	struct tok_map old = *m;
	int rc = tok_map_init(m, (size_t)old.mask + 1);

	if (rc != 0) {
		*m = old;
		return rc;
	}
	for (uint32_t i = 0; i <= old.mask; i++) {
		struct tok_map_slot *e;

		if (old.slot[i].id == TOK_NONE)
			continue;
		e = map_free_slot(m, old.slot[i].hash);
		if (e == NULL) {
			tok_map_fini(m);
			*m = old;
			return -E2BIG;
		}
		*e = old.slot[i];
	}
	m->n_used = old.n_used;
	tok_map_fini(&old);
	return 0;
}

int tok_map_put(struct tok_map *m, const struct tok_str *strs, uint32_t id)
{
	uint32_t hash = hash_text(strs[id].s, strs[id].len);
	struct tok_map_slot *e = map_find(m, strs, strs[id].s, strs[id].len, hash);

	int rc;

	if (e == NULL)
		return -E2BIG;
	if (e->id == TOK_NONE && m->n_used >= (m->mask + 1) / 2) {
		rc = map_double(m);
		if (rc != 0)
			return rc;
		e = map_free_slot(m, hash);
		if (e == NULL)
			return -E2BIG;
	}
	m->n_used += e->id == TOK_NONE;
	*e = (struct tok_map_slot){.hash = hash, .id = id};
	return 0;
}

uint32_t tok_map_get(const struct tok_map *m, const struct tok_str *strs, const char *s, size_t len)
{
	const struct tok_map_slot *e = map_find(m, strs, s, len, hash_text(s, len));

	return e != NULL ? e->id : TOK_NONE;
}

int tok_pairs_init(struct tok_pairs *p, size_t n_max)
{
	uint32_t n = slots_for(n_max);

	if (n == 0)
		return -E2BIG;
	p->slot = malloc(n * sizeof(*p->slot));
	if (p->slot == NULL)
		return -ENOMEM;
	memset(p->slot, 0xff, n * sizeof(*p->slot));
	p->mask = n - 1;
	return 0;
}

void tok_pairs_fini(struct tok_pairs *p)
{
	free(p->slot);
	p->slot = NULL;
}

static struct tok_pair *pairs_find(const struct tok_pairs *p, uint32_t left, uint32_t right)
{
	uint32_t hash = (uint32_t)mix((uint64_t)left << 32 | right);

	for (uint32_t i = 0; i < TOK_PROBES_MAX; i++) {
		struct tok_pair *e = &p->slot[(hash + i) & p->mask];

		if (e->left == TOK_NONE || (e->left == left && e->right == right))
			return e;
	}
	return NULL;
}

int tok_pairs_put(struct tok_pairs *p, struct tok_pair pair)
{
	struct tok_pair *e = pairs_find(p, pair.left, pair.right);

	if (e == NULL)
		return -E2BIG;
	if (e->left == TOK_NONE)
		*e = pair;
	return 0;
}

const struct tok_pair *tok_pairs_get(const struct tok_pairs *p, uint32_t left, uint32_t right)
{
	const struct tok_pair *e = pairs_find(p, left, right);

	return e != NULL && e->left != TOK_NONE ? e : NULL;
}
