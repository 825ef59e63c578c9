/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_UNIT_ACCEL_TOY_H
#define PENSTOCK_TESTS_UNIT_ACCEL_TOY_H
/*
 * Small models in memory with seeded random weights, and their graphs, so that
 * back ends are tested without a file: any shape, element type and block range.
 */
#include <stdint.h>

#include "accel/accel.h"
#include "model/graph.h"

/* Deterministic on every machine. */
struct toy_rng {
	uint64_t state;
};

uint64_t toy_next(struct toy_rng *r);
uint32_t toy_below(struct toy_rng *r, uint32_t n);
float toy_uniform(struct toy_rng *r); /* in [-1, 1) */

/* Fills a row of n random weights of the type, |w| at most about 1. */
void toy_fill(struct toy_rng *r, enum gguf_dtype dtype, uint64_t n, void *row_out);

struct toy_spec {
	const char *name;
	enum gguf_dtype dtype; /* of matrices */
	uint32_t layers, embd, heads, heads_kv, head_dim, ff, vocab, n_rot;
	enum model_rope rope; /* NONE: learned positions */
	enum model_norm norm;
	enum model_act act;
	bool gated;     /* GLU, else one matrix and ACT */
	bool fused;     /* one matrix and one bias for q, k and v */
	bool head_norm; /* norm of each head of q before the rotation */
	uint32_t experts, experts_used;
	/* What some families have; 0 is without. */
	float attn_cap, final_cap, clamp, max_alibi_bias;
	uint32_t window; /* of blocks 0, 2, ..., which then have hp.rope_swa */
	bool rel_bias, no_positions, token_type, head_rows; /* head_rows: norm weights a head */
	bool encoder;        /* no causality; the main pass ends in hidden states, `fill` has a head */
	uint32_t enc_layers; /* so many of the blocks are an encoder, and the others read it */
};

#define TOY_CTX 64u /* learned positions */

struct toy;

struct toy *toy_new(const struct toy_spec *spec, uint64_t seed);
void toy_free(struct toy *t);
/* Freed with toy_graph_free before the model. */
struct model_graph *toy_graph(struct toy *t, uint32_t first, uint32_t last);
void toy_graph_free(struct model_graph *g);
/* The relative bias of a decoder's attention. */
const struct gguf_tensor *toy_rel(const struct toy *t);

/* The shapes that the tests go through. */
extern const struct toy_spec toy_specs[];
extern const uint32_t toy_n_specs;
/* Those of the families, with sequences of up to TOY_LONG positions. */
#define TOY_LONG 150u
extern const struct toy_spec toy_families[];
extern const uint32_t toy_n_families;

#endif
