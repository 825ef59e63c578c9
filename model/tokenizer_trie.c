/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/tokenizer_trie.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NODES_MAX (1u << 31)

/* The sorted tokens that begin with a node's prefix, which is `depth` bytes long. */
struct range {
	uint32_t lo, hi, depth;
};

static int compare(const void *a, const void *b, void *arg)
{
	const struct tok_str *strs = arg;
	uint32_t ia = *(const uint32_t *)a, ib = *(const uint32_t *)b;
	struct tok_str sa = strs[ia], sb = strs[ib];
	int c = memcmp(sa.s, sb.s, sa.len < sb.len ? sa.len : sb.len);

	if (c != 0)
		return c;
	if (sa.len != sb.len)
		return sa.len < sb.len ? -1 : 1;
	return ia < ib ? -1 : ia > ib;
}

/* Distinct prefixes of sorted tokens: of each what the one before it does not have. */
static uint64_t count_nodes(const struct tok_str *strs, const uint32_t *ids, uint32_t n)
{
	uint64_t nodes = 1;

	for (uint32_t i = 0; i < n; i++) {
		struct tok_str s = strs[ids[i]], before = {.s = "", .len = 0};
		uint32_t same = 0;

		if (i > 0)
			before = strs[ids[i - 1]];
		while (same < s.len && same < before.len && s.s[same] == before.s[same])
			same++;
		nodes += s.len - same;
	}
	return nodes;
}

/* Gives node `at` its token and appends its children. */
static void expand(struct tok_trie *t, struct range *ranges, const struct tok_str *strs, const uint32_t *ids,
		   uint32_t at)
{
	struct range r = ranges[at];
	uint32_t i = r.lo;

	for (; i < r.hi && strs[ids[i]].len == r.depth; i++)
		if (r.depth > 0)
			t->node[at].id = ids[i];
	t->node[at].child = t->n_nodes;
	while (i < r.hi) {
		uint8_t byte = (uint8_t)strs[ids[i]].s[r.depth];
		uint32_t from = i;

		while (i < r.hi && (uint8_t)strs[ids[i]].s[r.depth] == byte)
			i++;
		t->node[t->n_nodes] = (struct tok_trie_node){.id = TOK_NONE, .byte = byte};
		ranges[t->n_nodes] = (struct range){.lo = from, .hi = i, .depth = r.depth + 1};
		t->n_nodes++;
		t->node[at].n_children++;
	}
}

int tok_trie_build(struct tok_trie *t, const struct tok_str *strs, uint32_t *ids, uint32_t n)
{
	struct range *ranges;
	uint64_t nodes;

	if (n > 0)
		qsort_r(ids, n, sizeof(*ids), compare, (void *)(uintptr_t)strs);
	nodes = count_nodes(strs, ids, n);
	if (nodes > NODES_MAX)
		return -E2BIG;
	t->node = calloc(nodes, sizeof(*t->node));
	ranges = malloc(nodes * sizeof(*ranges));
	if (t->node == NULL || ranges == NULL) {
		free(ranges);
		tok_trie_fini(t);
		return -ENOMEM;
	}
	t->node[0].id = TOK_NONE;
	ranges[0] = (struct range){.lo = 0, .hi = n, .depth = 0};
	t->n_nodes = 1;
	for (uint32_t at = 0; at < t->n_nodes; at++)
		expand(t, ranges, strs, ids, at);
	CHECK(t->n_nodes == nodes);
	free(ranges);
	return 0;
}

void tok_trie_fini(struct tok_trie *t)
{
	free(t->node);
	t->node = NULL;
	t->n_nodes = 0;
}

uint32_t tok_trie_step(const struct tok_trie *t, uint32_t node, uint8_t byte)
{
	uint32_t lo = t->node[node].child, hi = lo + t->node[node].n_children;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (t->node[mid].byte == byte)
			return mid;
		if (t->node[mid].byte < byte)
			lo = mid + 1;
		else
			hi = mid;
	}
	return TOK_NONE;
}
