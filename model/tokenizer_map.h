/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_TOKENIZER_MAP_H
#define PENSTOCK_MODEL_TOKENIZER_MAP_H
/*
 * The two hash tables of a vocabulary: text -> symbol and (left, right) ->
 * merge. Open addressing, at most half full; the first grows, the second has
 * a known number of entries. A vocabulary comes from a file that may be hostile, so an insertion that
 * would have to probe further than TOK_PROBES_MAX is refused: loading and
 * looking up stay linear whatever the file holds.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

#define TOK_NONE UINT32_MAX
/* Random keys at half load need about 20 probes at worst for a million entries. */
#define TOK_PROBES_MAX 512u

struct tok_str {
	const char *s; /* borrowed */
	uint32_t len;
};

struct tok_map_slot {
	uint32_t hash, id; /* id TOK_NONE: free */
};

/* Keys are not stored: `strs[id]` is the key of id, the same array in every call. */
struct tok_map {
	struct tok_map_slot *slot;
	uint32_t mask, n_used;
};

/* All functions return 0 or -errno: -ENOMEM, or -E2BIG when the probes are used up. */
int ps_warn_unused tok_map_init(struct tok_map *m, size_t n_expected);
void tok_map_fini(struct tok_map *m);
/* A later symbol of the same text replaces the earlier one. */
int ps_warn_unused tok_map_put(struct tok_map *m, const struct tok_str *strs, uint32_t id);
/* TOK_NONE where there is none. */
uint32_t tok_map_get(const struct tok_map *m, const struct tok_str *strs, const char *s, size_t len);

struct tok_pair {
	uint32_t left, right;  /* left TOK_NONE: free */
	uint32_t rank, merged; /* lower ranks merge first */
};

struct tok_pairs {
	struct tok_pair *slot;
	uint32_t mask;
};

int ps_warn_unused tok_pairs_init(struct tok_pairs *p, size_t n_max);
void tok_pairs_fini(struct tok_pairs *p);
/* The first merge of a pair stays. */
int ps_warn_unused tok_pairs_put(struct tok_pairs *p, struct tok_pair pair);
/* NULL where there is none. */
const struct tok_pair *tok_pairs_get(const struct tok_pairs *p, uint32_t left, uint32_t right);

#endif
