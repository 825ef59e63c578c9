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
	uint32_t seq_end; /* position after the last row of its sequence in this batch */
};

struct accel_slots {
	uint32_t n_slots, n_ctx, max_tokens;
	uint32_t *len;          /* [n_slots] positions that the cache holds */
	uint32_t *next;         /* [n_slots] the same after the batch being checked */
	struct accel_row *rows; /* [max_tokens] of the batch in flight */
};

int ps_warn_unused accel_slots_init(struct accel_slots *s, const struct accel_open_args *args);
void accel_slots_fini(struct accel_slots *s);

/*
 * Checks a batch against the graph and the slots; on 0 the lengths are those after the batch and
 * `rows` describes it. -EINVAL, with nothing changed: a slot, position, token, row or count out of
 * range, a position that leaves a hole after what the cache holds, or missing memory.
 */
int ps_warn_unused accel_slots_begin(struct accel_slots *s, const struct model_graph *g,
				     const struct accel_batch *b);
void accel_slots_trim(struct accel_slots *s, uint32_t slot, uint32_t pos);
/* How many positions a copy takes over (the caller copies them), 0 for none. */
uint32_t accel_slots_copy(struct accel_slots *s, uint32_t from, uint32_t to, uint32_t n);

/*
 * Keys and values of one block: [n_slots, n_heads_kv, n_ctx_pad, dim_pad]. The positions of a head
 * lie together, since attention reads them so; heads are padded with zeros to a multiple of `pad`
 * floats and positions to a multiple of 4, so that kernels need no tails.
 */
struct accel_kv_layer {
	float *k, *v;
	uint32_t n_heads_kv, k_dim, v_dim; /* as in the graph */
	uint32_t k_pad, v_pad;             /* padded */
};

struct accel_kv {
	struct accel_kv_layer *layers; /* [n_layers], block block_first first */
	uint32_t n_layers, block_first;
	uint32_t n_slots, n_ctx_pad;
	uint64_t bytes;
};

int ps_warn_unused accel_kv_init(struct accel_kv *kv, const struct model_graph *g,
				 const struct accel_open_args *args, uint32_t pad);
void accel_kv_fini(struct accel_kv *kv);
void accel_kv_copy(struct accel_kv *kv, uint32_t from, uint32_t to, uint32_t n);

static inline struct accel_kv_layer *accel_kv_layer_of(const struct accel_kv *kv, uint32_t layer)
{
	return &kv->layers[layer - kv->block_first];
}

/* Start of a head's keys or values of one slot. */
static inline float *accel_kv_k(const struct accel_kv *kv, const struct accel_kv_layer *l, uint32_t slot,
				uint32_t head)
{
	return l->k + ((size_t)slot * l->n_heads_kv + head) * kv->n_ctx_pad * l->k_pad;
}

static inline float *accel_kv_v(const struct accel_kv *kv, const struct accel_kv_layer *l, uint32_t slot,
				uint32_t head)
{
	return l->v + ((size_t)slot * l->n_heads_kv + head) * kv->n_ctx_pad * l->v_pad;
}

#endif
