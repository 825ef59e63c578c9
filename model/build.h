/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_BUILD_H
#define PENSTOCK_MODEL_BUILD_H
/*
 * The parts of the graph builder: weights by name (build_weights.c), the operations
 * of blocks, embedding and heads (build_blocks.c), and passes cut into ranges
 * (graph.c). Each pass is built for the whole model and then cut, so that every
 * stage finds what is wrong anywhere in the file and ranges cannot differ from the
 * whole. The first error stays and later steps do nothing. Private to model/.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/arch.h"

/* The buffers of every graph. BUF_NORM holds a sublayer's normed input, BUF_OUT its output. */
enum {
	BUF_X = MODEL_BUF_X,
	BUF_NORM,   /* [n_embd] */
	BUF_Q,      /* [n_heads * head_dim] */
	BUF_K,      /* [n_heads_kv * head_dim] */
	BUF_V,      /* [n_heads_kv * head_dim_v] */
	BUF_ATTN,   /* [n_heads * head_dim_v] */
	BUF_GATE,   /* [n_ff] */
	BUF_UP,     /* [n_ff] */
	BUF_OUT,    /* [n_embd] */
	BUF_HIDDEN, /* [n_embd], outputs of MODEL_TASK_EMBED */
	BUF_LOGITS, /* [n_vocab] */
	N_BUFS,
};

#define MODEL_GLOBAL UINT32_MAX /* a tensor that belongs to no block */

/* Operations of a pass over the whole model. Those of block i, with what comes before them, are
 * [starts[i], starts[i + 1]); the head is behind those of the last block. */
struct model_ops {
	struct model_op *ops;
	uint32_t n, cap;
	uint32_t *starts; /* [n_layers + 1] */
};

struct model_build {
	const struct gguf *g;
	struct model_hparams hp;
	struct model_details d;
	struct ps_err *err;
	bool *used; /* [n_tensors] by some operation of some pass */
	struct model_ops passes[MODEL_N_PASSES];
	struct model_ops *at; /* the pass being built */
	int rc;
};

void ps_printf(3, 4) model_build_fail(struct model_build *b, int rc, const char *fmt, ...);

/* ---- weights: all by the name `<block><stem>.weight` or `.bias`; layer may be MODEL_GLOBAL ------- */

bool model_has_weight(const struct model_build *b, uint32_t layer, const char *stem);
/* Errors and NULL where it is missing, of another shape, or of a type that is not computed. */
const struct gguf_tensor *model_stack_of(struct model_build *b, uint32_t layer, const char *stem, uint64_t in,
					 uint64_t out, uint64_t n); /* [in, out, n] */
const struct gguf_tensor *model_matrix(struct model_build *b, uint32_t layer, const char *stem, uint64_t in,
				       uint64_t out);
/* A matrix of as many rows as the file has. */
const struct gguf_tensor *model_table(struct model_build *b, const char *stem, uint64_t in);
const struct gguf_tensor *model_f32(struct model_build *b, uint32_t layer, const char *stem, uint64_t ne0,
				    uint64_t ne1);
/* NULL also where the file has none and it is not a must. */
const struct gguf_tensor *model_bias(struct model_build *b, uint32_t layer, const char *stem, uint64_t n,
				     bool must);
/* Any shape; NULL where there is none. For looking at its shape only. */
const struct gguf_tensor *model_peek(const struct model_build *b, uint32_t layer, const char *stem);
/* An error for a tensor that no operation uses: ignoring it would compute another model. */
void model_check_all_used(struct model_build *b);

/* ---- operations ---------------------------------------------------------------------------------- */

/* Appends the operations of a pass to b->at. */
void model_build_pass(struct model_build *b, enum model_pass pass);

#endif
