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
 * the output of one that has no head. A buffer of width 0 is unused.
 *
 * Aliasing. ROPE works in place on dst. In ADD, ACT and GLU dst may be src0. In every
 * other operation dst differs from all sources. A back end may fuse operations.
 *
 * Weights. Matrices and embedding tables (w of EMBED, MATMUL and MOE, w2 of EMBED,
 * w_gate, w_up, w_down) are F32, F16, BF16 or Q8_0, each on its own; norm weights, all
 * biases and rope factors are F32. model_graph_build has checked every shape and dtype.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

#define MODEL_MAX_BUFS 16u
#define MODEL_BUF_X    0u /* the residual stream */
#define MODEL_BUF_NONE 255u

enum model_op_kind {
	/* dst = w[token] * scale (+ w2[position] if w2 is there): rows of the embedding tables.
	 * Positions stay below w2->ne[1], which is hp.n_ctx_max. */
	MODEL_OP_EMBED,
	/* dst = norm(src0) * w (+ b); over `width` elements, or over each run of head_dim elements
	 * if head_dim != 0 (then w and b hold head_dim elements, and width = n_heads * head_dim).
	 * RMS: x / sqrt(mean(x^2) + eps). LAYER: (x - mean) / sqrt(mean((x - mean)^2) + eps). */
	MODEL_OP_NORM,
	/* dst = w . src0 (+ b), times `scale`; outputs are rows [row0, row0+rows) of w, and b[row0..]
	 * with them, because the file may fuse several matrices (rows == width always) */
	MODEL_OP_MATMUL,
	/* In place on dst: rotary embedding of n_heads heads of head_dim, by position, with
	 * hp.rope: see model_rope_freqs. Elements of a head from n_rot on are left alone. */
	MODEL_OP_ROPE,
	/* First appends k = src1 [n_heads_kv * head_dim] and v = src2 [n_heads_kv * head_dim_v] to
	 * the KV cache of `layer`, then dst [n_heads * head_dim_v] = softmax(q.k * attn_scale) . v
	 * with q = src0 [n_heads * head_dim], over positions 0..own (causal). Query head h reads KV
	 * head h / (n_heads / n_heads_kv). */
	MODEL_OP_ATTN,
	/* dst = act(src0) */
	MODEL_OP_ACT,
	/* dst = act(src0) * src1 */
	MODEL_OP_GLU,
	/* dst = src0 + src1 */
	MODEL_OP_ADD,
	/* Mixture of experts. p = softmax(w . src0) over all n_experts; the n_experts_used largest are
	 * taken, ties to the lower number, and if moe_norm_weights divided by their sum;
	 * dst = sum_e p_e * w_down[e] . (act(w_gate[e] . src0) * (w_up[e] . src0)).
	 * The hidden width is w_up->ne[1]. */
	MODEL_OP_MOE,
	/* From here on only the rows whose outputs are asked for: all later buffers hold those
	 * rows, dst = the selected rows of src0. At most one, right before the final norm. */
	MODEL_OP_SELECT_ROWS,
};

enum model_norm { MODEL_NORM_RMS, MODEL_NORM_LAYER };
/* GELU_TANH: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). SILU: x / (1 + exp(-x)). */
enum model_act { MODEL_ACT_SILU, MODEL_ACT_GELU_TANH, MODEL_ACT_GELU_ERF, MODEL_ACT_RELU };
/* Which elements rotate together: (2i, 2i+1) or (i, i + n_rot/2). */
enum model_rope { MODEL_ROPE_NONE, MODEL_ROPE_NORM, MODEL_ROPE_NEOX };

/*
 * Back ends need kind, n_rot, mscale and model_rope_freqs only: with angle = position * freq[i],
 * c = cos(angle) * mscale, s = sin(angle) * mscale, the pair (a, b) becomes (a c - b s, a s + b c).
 */
struct model_rope_params {
	enum model_rope kind;
	uint32_t n_rot; /* even, at most head_dim */
	/* Multiplies cos and sin. It is final: YaRN's 1 + 0.1 ln(factor) and the file's attn_factor
	 * are already in it. 1 without YaRN. */
	float mscale;
	/* What model_rope_freqs computes from. */
	float freq_base;
	float freq_scale;                  /* 1/factor of linear and YaRN scaling, 1 for none */
	const struct gguf_tensor *factors; /* [n_rot/2] F32: angles are divided by them; may be NULL */
	float ext_factor;                  /* YaRN (Peng et al., 2023); 0: off */
	float beta_fast, beta_slow;
	uint32_t n_ctx_orig;
};

/*
 * Angle per position of each pair i, freqs_out[n_rot/2]. Every scaling we have is linear in the
 * position, so this is all there is to it:
 *   t = freq_base^(-2i/n_rot) / factors[i]
 *   without YaRN: freq = freq_scale * t
 *   YaRN:         freq = freq_scale * t * (1 - m) + t * m
 *     m       = ext_factor * (1 - clamp01((i - low) / max(high - low, 0.001)))
 *     low     = max(0, floor(d(beta_fast)))
 *     high    = min(n_rot - 1, ceil(d(beta_slow)))
 *     d(beta) = n_rot * ln(n_ctx_orig / (2 pi beta)) / (2 ln freq_base)
 */
void model_rope_freqs(const struct model_rope_params *p, double *freqs_out);

struct model_op {
	enum model_op_kind kind;
	uint8_t dst, src0, src1, src2;
	uint32_t layer; /* block number in the whole model */
	uint32_t width; /* of dst */
	const struct gguf_tensor *w, *b, *w2;
	uint32_t row0, rows; /* MATMUL: outputs taken from w and b */
	float scale;         /* EMBED, MATMUL; 1 if there is none */
	/* NORM */
	enum model_norm norm;
	float eps;
	/* ACT, GLU, MOE */
	enum model_act act;
	/* ROPE, ATTN, per-head NORM */
	uint32_t n_heads, n_heads_kv, head_dim, head_dim_v;
	/* ATTN */
	float attn_scale; /* scores are q.k * attn_scale */
	bool causal;
	/* MOE */
	uint32_t n_experts, n_experts_used;
	const struct gguf_tensor *w_gate, *w_up, *w_down; /* [ne0=in, ne1=out, ne2=expert] */
	bool moe_norm_weights;
};

struct model_hparams {
	char arch[32];
	char name[96]; /* general.name, may be empty */
	uint32_t n_layers, n_embd, n_heads, n_heads_kv, head_dim, n_ff, n_vocab;
	uint32_t head_dim_v; /* of V, mostly head_dim */
	uint32_t n_ctx_train;
	uint32_t n_ctx_max; /* hard limit: rows of a learned position table; 0: none */
	uint32_t n_experts, n_experts_used;
	float norm_eps;
	struct model_rope_params rope;
};

struct model_graph {
	const struct gguf *gguf; /* borrowed */
	struct model_hparams hp;
	uint32_t block_first, block_last; /* [first, last): last - first blocks */
	bool has_embed, has_head;         /* the first range embeds tokens, the last makes logits */
	struct model_op *ops;
	uint32_t n_ops;
	uint32_t n_bufs;
	uint32_t buf_width[MODEL_MAX_BUFS]; /* 0: unused */
	uint8_t out_buf;                    /* logits [n_outputs, n_vocab] if has_head, else MODEL_BUF_X */
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

/* Maps the pages of every matrix the graph reads whole, so that the first batch does not fault
 * them in one by one (embedding tables, of which a batch reads a few rows, stay as they are). Best
 * effort: where the kernel cannot (before Linux 5.14) it only starts reading ahead. */
void model_graph_populate(const struct model_graph *graph);

/* Lower-case name of an operation, for tables and logs. */
const char *model_op_name(enum model_op_kind kind);

/* Cuts n_layers blocks into n_stages contiguous ranges whose weight bytes (embedding and head
 * included) are as even as can be; cuts_out[n_stages + 1], cuts_out[0] = 0. -EINVAL if more stages than
 * blocks. */
int ps_warn_unused model_split_even(const struct gguf *g, uint32_t n_stages, uint32_t *cuts_out,
				    struct ps_err *err);

/* Bytes of weights that blocks [first, last) use (plus embedding/head where they belong). */
uint64_t model_range_bytes(const struct gguf *g, uint32_t first, uint32_t last);

#endif
