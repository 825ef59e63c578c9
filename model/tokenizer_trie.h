/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_TOKENIZER_TRIE_H
#define PENSTOCK_MODEL_TOKENIZER_TRIE_H
/*
 * All tokens that begin at a place of the text, found in one walk: a trie over
 * bytes, one node a distinct prefix (12 bytes each, so at most 12 times what
 * the tokens take in the file). Immutable once built.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "model/tokenizer_map.h"

struct tok_trie_node {
	uint32_t child;      /* first of its children, which lie side by side, ascending by byte */
	uint32_t id;         /* of the token that ends here, TOK_NONE: none */
	uint16_t n_children; /* at most 256 */
	uint8_t byte;        /* that leads here */
};

struct tok_trie {
	struct tok_trie_node *node; /* [0] is the root */
	uint32_t n_nodes;
};

/* Of the tokens ids[n] with their texts strs[id]; ids is sorted in place. Of tokens with the same text the
 * last id stands; empty texts are left out. -ENOMEM; -E2BIG: more than 2^31 nodes. */
int ps_warn_unused tok_trie_build(struct tok_trie *t, const struct tok_str *strs, uint32_t *ids, uint32_t n);
void tok_trie_fini(struct tok_trie *t);

/* The node one byte further, or TOK_NONE. */
uint32_t tok_trie_step(const struct tok_trie *t, uint32_t node, uint8_t byte);

#endif
