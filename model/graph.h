/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_GRAPH_H
#define PENSTOCK_MODEL_GRAPH_H
/*
 * What a back end executes: a short list of operations for a contiguous range
 * of blocks, built once from a GGUF file through one table of architecture
 * traits. An operation reads and writes numbered f32 buffers of [n_tokens,
 * width] and borrows weights from the mapped file. Shapes depend on the number
 * of tokens of a batch only, so one graph serves prefill and decode.
 * Not here: memory, threads, kernels (accel/), or anything about packets.
 *
 * Conventions. Matrices are stored as in the file: ne[0] = inputs (contiguous),
 * ne[1] = outputs, so y[o] = sum_i w[o][i] * x[i]. Buffer 0 is always the
 * residual stream: the input activations of a range that does not embed, and
 * the output of one that has no head.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

#define MODEL_MAX_BUFS  16u
#define MODEL_BUF_X     0u   /* the residual stream */
#define MODEL_BUF_NONE  255u

enum model_op_kind {
	/* dst = w[token] (+ w2[position]), rows of the embedding tables, times `scale` */
	MODEL_OP_EMBED,
	/* dst = norm(src0) * w (+ b); rms or layer norm over `width` (per head if head_dim != 0) */
	MODEL_OP_NORM,
	/* dst = w . src0 (+ b), then times `scale` if not 1; rows [row0, row0+rows) of w when the
	 * file fuses several matrices */
	MODEL_OP_MATMUL,
	/* in place on dst: rotary embedding of n_heads heads of head_dim, by position */
	MODEL_OP_ROPE,
	/* dst = attention(q=src0, k=src1, v=src2); first appends k and v to the KV cache of `layer` */
	MODEL_OP_ATTN,
	/* dst = act(src0) */
	MODEL_OP_ACT,
	/* dst = act(src0) * src1 */
	MODEL_OP_GLU,
	/* dst = src0 + src1 */
	MODEL_OP_ADD,
	/* dst = mixture of experts of src0: router w, experts w_gate/w_up/w_down */
	MODEL_OP_MOE,
	/* From here on only the rows whose outputs are asked for: all later buffers hold those
	 * rows, dst = the selected rows of src0. At most one, right before the final norm. */
	MODEL_OP_SELECT_ROWS,
};

enum model_norm { MODEL_NORM_RMS, MODEL_NORM_LAYER };
enum model_act { MODEL_ACT_SILU, MODEL_ACT_GELU_TANH, MODEL_ACT_GELU_ERF, MODEL_ACT_RELU };
/* Which elements rotate together: (2i, 2i+1) or (i, i + n_rot/2). */
enum model_rope { MODEL_ROPE_NONE, MODEL_ROPE_NORM, MODEL_ROPE_NEOX };

struct model_rope_params {
	enum model_rope kind;
	uint32_t n_rot;
	float freq_base;
	float freq_scale;              /* 1/factor of linear and YaRN scaling, 1 for none */
	const struct gguf_tensor *factors; /* [n_rot/2] F32: angles are divided by them; may be NULL */
	/* YaRN (Peng et al., 2023); ext_factor 0: off. */
	float ext_factor, attn_factor, beta_fast, beta_slow;
	uint32_t n_ctx_orig;
};

struct model_op {
	enum model_op_kind kind;
	uint8_t dst, src0, src1, src2;
	uint32_t layer;                /* block number in the whole model */
	uint32_t width;                /* of dst */
	const struct gguf_tensor *w, *b, *w2;
	uint32_t row0, rows;           /* MATMUL: outputs taken from w and b */
	float scale;
	/* NORM */
	enum model_norm norm;
	float eps;
	/* ACT, GLU, MOE */
	enum model_act act;
	/* ROPE, ATTN, per-head NORM */
	uint32_t n_heads, n_heads_kv, head_dim, head_dim_v;
	/* ATTN */
	float attn_scale;              /* scores are q.k * attn_scale */
	bool causal;
	/* MOE */
	uint32_t n_experts, n_experts_used;
	const struct gguf_tensor *w_gate, *w_up, *w_down; /* [ne0=in, ne1=out, ne2=expert] */
	bool moe_norm_weights;         /* softmax over all, take the best, renormalise to sum 1 */
};

struct model_hparams {
	char arch[32];
	char name[96];                 /* general.name, may be empty */
	uint32_t n_layers, n_embd, n_heads, n_heads_kv, head_dim, n_ff, n_vocab;
	uint32_t n_ctx_train;
	uint32_t n_experts, n_experts_used;
	float norm_eps;
	struct model_rope_params rope;
};

struct model_graph {
	const struct gguf *gguf;       /* borrowed */
	struct model_hparams hp;
	uint32_t block_first, block_last; /* [first, last): last - first blocks */
	bool has_embed, has_head;      /* the first range embeds tokens, the last makes logits */
	struct model_op *ops;
	uint32_t n_ops;
	uint32_t n_bufs;
	uint32_t buf_width[MODEL_MAX_BUFS];
	uint8_t out_buf;               /* logits [n_outputs, n_vocab] if has_head, else MODEL_BUF_X */
	uint32_t out_width;
};

/* Reads the architecture's hyperparameters. Errors: -ENOTSUP for an architecture we have no
 * traits for (the text lists those we have), -EBADMSG for missing or impossible values. */
int ps_warn_unused model_read_hparams(const struct gguf *g, struct model_hparams *hp_out, struct ps_err *err);

/* Builds the graph of blocks [first, last). Embeds if first == 0, has the head if last ==
 * n_layers. Every weight it names is checked for shape and dtype (-EBADMSG, -ENOTSUP: named).
 * The GGUF must outlive the graph. */
int ps_warn_unused model_graph_build(const struct gguf *g, uint32_t first, uint32_t last,
				     struct model_graph **graph_out, struct ps_err *err);
void model_graph_free(struct model_graph *graph);

/* Cuts n_layers blocks into n_stages contiguous ranges whose weight bytes (embedding and head
 * included) are as even as can be; cuts_out[n_stages + 1], cuts_out[0] = 0. -EINVAL if more stages than blocks. */
int ps_warn_unused model_split_even(const struct gguf *g, uint32_t n_stages, uint32_t *cuts_out, struct ps_err *err);

/* Bytes of weights that blocks [first, last) use (plus embedding/head where they belong). */
uint64_t model_range_bytes(const struct gguf *g, uint32_t first, uint32_t last);

#endif
