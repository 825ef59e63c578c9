/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_HOST_H
#define PENSTOCK_ACCEL_HOST_H
/*
 * What the back ends that run on the host's cores share and what holds no
 * arithmetic: memory, checks of a graph and of a batch, the KV cache and the
 * lengths of its slots. Private to accel/. One thread, the owner of the back
 * end, calls all of it; nothing allocates after the init functions.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/accel.h"

/* Zeroed and aligned to 64 bytes, in huge pages where the kernel has them to give. NULL if there is
 * none or if n * size overflows. */
void *accel_host_alloc(uint64_t n, uint64_t size);
void accel_host_free(void *mem, uint64_t n, uint64_t size);

/* Whether every operation is one that the host back ends execute, with buffers, shapes and element
 * types in range: a graph by hand or of a later version gives an error, not a wrong read. */
int ps_warn_unused accel_host_check_graph(const struct model_graph *g, struct ps_err *err);
int ps_warn_unused accel_host_check_args(const struct accel_open_args *args, const struct model_graph *g,
					 struct ps_err *err);

/* Bytes of weights read to decode one token: all but the unused rows of tables and experts. */
uint64_t accel_host_weight_bytes(const struct model_graph *g);

/* A row of a batch in flight. */
struct accel_row {
	uint32_t slot, pos;
	uint32_t seq_end;  /* position after the last row of its sequence in this batch */
	uint32_t kv_first; /* where the cache of one batch (see accel_kv_of) holds its position 0 */
};

struct accel_slots {
	uint32_t n_slots, n_ctx, max_tokens;
	uint32_t *len;          /* [n_slots] positions that the cache holds */
	uint32_t *enc_len;      /* [n_slots] length of the encoded sequence, 0: none */
	uint32_t *next;         /* [n_slots] either after the batch being checked */
	struct accel_row *rows; /* [max_tokens] of the batch in flight */
};

int ps_warn_unused accel_slots_init(struct accel_slots *s, const struct accel_open_args *args);
void accel_slots_fini(struct accel_slots *s);

/*
 * Checks a batch against the graph and the slots; on 0 the lengths are those after the batch,
 * `rows` describes it and pass_out is the graph to run. -EINVAL, with nothing changed: a pass the
 * graph has not, a slot, position, token, row or count out of range, a position that leaves a hole
 * after what the cache holds, a sequence that should have come whole, a decoder without its encoded
 * sequence, or missing memory.
 */
int ps_warn_unused accel_slots_begin(struct accel_slots *s, const struct model_graph *g,
				     const struct accel_batch *b, const struct model_graph **pass_out);
void accel_slots_trim(struct accel_slots *s, uint32_t slot, uint32_t pos);
/* How many positions a copy takes over (the caller copies them), 0 for none. */
uint32_t accel_slots_copy(struct accel_slots *s, uint32_t from, uint32_t to, uint32_t n);

/* Whether a pass wants whole sequences: one of its attentions sees what comes after a row. */
bool accel_host_pass_whole(const struct model_graph *pass);

/*
 * Keys and values of one block, [n_slots, n_heads, n_tiles] tiles of ACCEL_KV_TILE positions. In a
 * tile of keys the positions run fastest, [k_dim, TILE], so that a kernel scores as many positions
 * at a time as its vectors hold, without padding of heads; in one of values the elements do,
 * [TILE, v_pad], since results are sums over positions. In Q8_0 each 32 elements of a head are
 * TILE float16 scales and then their bytes in that order, keys [32, TILE] and values [TILE, 32].
 */
#define ACCEL_KV_TILE  64u
#define ACCEL_KV_BLOCK 32u /* elements of a head that share a scale */
#define ACCEL_KV_PAD   16u /* v_pad is a multiple of it, of ACCEL_KV_BLOCK in Q8_0; zeros in between */

struct accel_kv_cache {
	enum accel_kv_dtype dtype;
	uint8_t *k, *v;
	uint32_t n_heads, k_dim, v_dim; /* as in the graph; n_heads 0: the block has no such cache */
	uint32_t v_pad;
	uint32_t n_slots, n_tiles;
	size_t k_tile, v_tile; /* bytes */
};

struct accel_kv_block {
	struct accel_kv_cache self, cross;
};

struct accel_kv {
	struct accel_kv_block *blocks; /* [n_blocks], block block_first first */
	uint32_t n_blocks, block_first;
	enum accel_kv_dtype dtype;
	/* Attention without causality needs keys and values of the batch in flight only, so one
	 * cache serves all such blocks: a slot, in which each sequence begins with a tile of its own. It
	 * keeps nothing, so that fewer bits would save little: it is always float32. */
	uint8_t *batch_k, *batch_v;
	uint32_t batch_tiles;
	uint64_t batch_k_bytes, batch_v_bytes;
	uint64_t bytes;
};

int ps_warn_unused accel_kv_init(struct accel_kv *kv, const struct model_graph *g,
				 const struct accel_open_args *args);
void accel_kv_fini(struct accel_kv *kv);
/* Keys and values of n positions, and those of the encoded sequence. */
void accel_kv_copy(struct accel_kv *kv, uint32_t from, uint32_t to, uint32_t n);
/* The cache that an ATTN or CROSS_KV operation reads or writes. */
struct accel_kv_cache accel_kv_of(const struct accel_kv *kv, const struct model_op *op);
/* Where a cache of that operation holds a row's sequence: slot, and index of its position 0. */
static inline uint32_t accel_kv_slot(const struct model_op *op, const struct accel_row *row)
{
	return op->kind == MODEL_OP_CROSS_KV || op->cross || op->causal ? row->slot : 0;
}

static inline uint32_t accel_kv_first(const struct model_op *op, const struct accel_row *row)
{
	return op->kind == MODEL_OP_CROSS_KV || op->cross || op->causal ? 0 : row->kv_first;
}

/* The tile with position pos of a head. */
static inline uint8_t *accel_kv_k(const struct accel_kv_cache *c, uint32_t slot, uint32_t head, uint32_t pos)
{
	return c->k + (((size_t)slot * c->n_heads + head) * c->n_tiles + pos / ACCEL_KV_TILE) * c->k_tile;
}

static inline uint8_t *accel_kv_v(const struct accel_kv_cache *c, uint32_t slot, uint32_t head, uint32_t pos)
{
	return c->v + (((size_t)slot * c->n_heads + head) * c->n_tiles + pos / ACCEL_KV_TILE) * c->v_tile;
}

/* Rounds to nearest, ties to even; what is too large becomes infinity. */
uint16_t accel_f32_to_f16(float f);

/* Element by element, for the reference: rounds and stores the k [n_heads, k_dim] and v [n_heads, v_dim]
 * of a position, and expands one head of it. */
void accel_kv_put(const struct accel_kv_cache *c, uint32_t slot, uint32_t pos, const float *k,
		  const float *v);
void accel_kv_get_k(const struct accel_kv_cache *c, uint32_t slot, uint32_t head, uint32_t pos,
		    float *dst /* [k_dim] */);
void accel_kv_get_v(const struct accel_kv_cache *c, uint32_t slot, uint32_t head, uint32_t pos,
		    float *dst /* [v_dim] */);

#endif
