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
 * Passes. Most models have one list of operations, the graph itself: tokens in,
 * logits or final hidden states out. An encoder-decoder model (T5) has a second, `encode`: it
 * runs the encoder blocks of the range and, from the encoder's output, writes the
 * cross-attention caches of the decoder blocks of the range. An encoder with a masked-language-model head has
 * `fill`, the same blocks with that head behind them. A pass is a graph of its own that shares
 * hyperparameters, buffers and KV cache with the main one.
 *
 * Aliasing. ROPE works in place on dst. In ADD, ACT, GLU and NORM dst may be src0. In every
 * other operation dst differs from all sources. A back end may fuse operations.
 *
 * Weights. Matrices and embedding tables (w of EMBED, MATMUL and MOE, w2 and w_type of EMBED,
 * w_gate, w_up, w_down) are of any type of model_dtype_supported, each on its own; norm weights, all
 * biases, relative biases and rope factors are F32. model_graph_build has checked every shape and dtype.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

#define MODEL_MAX_BUFS 16u
#define MODEL_BUF_X    0u /* the residual stream */
#define MODEL_BUF_NONE 255u

enum model_op_kind {
	/* dst = w[token] * scale (+ w2[position] if w2 is there) (+ w_type[0] if w_type is there): rows of
	 * the embedding tables. Positions stay below w2->ne[1], which is hp.n_ctx_max. */
	MODEL_OP_EMBED,
	/* dst = norm(src0) * w (+ b); over `width` elements, or over each run of head_dim elements
	 * if head_dim != 0 (then w and b hold head_dim elements, and width = n_heads * head_dim; with
	 * w->ne[1] == n_heads > 1, head h takes row h of w, [n_heads, head_dim], and there is no b).
	 * RMS: x / sqrt(mean(x^2) + eps). LAYER: (x - mean) / sqrt(mean((x - mean)^2) + eps). */
	MODEL_OP_NORM,
	/* dst = w . src0 (+ b), times `scale`; outputs are rows [row0, row0+rows) of w, and b[row0..]
	 * with them, because the file may fuse several matrices (rows == width always). Then, where
	 * they are not 0: cut to [-clamp, clamp]; softcap * tanh(y / softcap). */
	MODEL_OP_MATMUL,
	/* In place on dst: rotary embedding of n_heads heads of head_dim, by position, with
	 * hp.rope, or hp.rope_swa if rope_swa is set: see model_rope_freqs. Elements of a head from
	 * n_rot on are left alone. */
	MODEL_OP_ROPE,
	/* First appends k = src1 [n_heads_kv * head_dim] and v = src2 [n_heads_kv * head_dim_v] to
	 * the KV cache of `layer`, then dst [n_heads * head_dim_v] = softmax(score) . v
	 * with q = src0 [n_heads * head_dim]. Query head h reads KV head h / (n_heads / n_heads_kv).
	 * A query at p sees positions 0..p if causal, all of its sequence otherwise; with window > 0 only
	 * those from p - window + 1 on (causal only).
	 * score = cap(q.k * attn_scale) + bias, cap(x) = softcap * tanh(x / softcap) where softcap != 0.
	 * bias of query position p and key position j, head h:
	 *   max_alibi_bias != 0:  (j - p) * model_alibi_slope(h, n_heads, max_alibi_bias)
	 *   rel_bias != NULL:     rel_bias[model_rel_bucket(j - p, ...)][h], [n_buckets, n_heads] F32
	 * With `cross` set nothing is appended (no src1, src2): keys and values are all that the encode
	 * pass wrote for the slot with CROSS_KV; no causality, window or bias. */
	MODEL_OP_ATTN,
	/* Writes k = src1 [n_heads_kv * head_dim] and v = src2 [n_heads_kv * head_dim_v] of the encoder's
	 * output to the cross-attention cache of `layer` (a decoder block); dst is not used (MODEL_BUF_NONE),
	 * nor is width (0). In the encode pass only. */
	MODEL_OP_CROSS_KV,
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
	 * rows, dst = the selected rows of src0. At most one; after it come only norms, products and
	 * activations. */
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
	/* LongRoPE: these instead of `factors` where the context that the back end was opened with
	 * is longer than n_ctx_orig. NULL: always `factors`. */
	const struct gguf_tensor *factors_long;
	float ext_factor; /* YaRN (Peng et al., 2023); 0: off */
	float beta_fast, beta_slow;
	uint32_t n_ctx_orig;
};

/*
 * Angle per position of each pair i, freqs_out[n_rot/2]. Every scaling we have is linear in the
 * position, so this is all there is to it:
 *   t = freq_base^(-2i/n_rot) / factors[i]      (or factors_long, see above; n_ctx: positions a slot holds)
 *   without YaRN: freq = freq_scale * t
 *   YaRN:         freq = freq_scale * t * (1 - m) + t * m
 *     m       = ext_factor * (1 - clamp01((i - low) / max(high - low, 0.001)))
 *     low     = max(0, floor(d(beta_fast)))
 *     high    = min(n_rot - 1, ceil(d(beta_slow)))
 *     d(beta) = n_rot * ln(n_ctx_orig / (2 pi beta)) / (2 ln freq_base)
 */
void model_rope_freqs(const struct model_rope_params *p, uint32_t n_ctx, double *freqs_out);

/* ALiBi (Press et al., 2022): with n the largest power of two <= n_heads, head h < n has
 * 2^(-max_bias (h+1) / n), and head h >= n has 2^(-max_bias/2 (2 (h - n) + 1) / n). */
double model_alibi_slope(uint32_t head, uint32_t n_heads, double max_bias);

/* Bucket of T5's relative position bias (Raffel et al., 2020) for key minus query position, in
 * [0, n_buckets). Bidirectional halves the buckets by sign; otherwise keys after the query are bucket 0. */
uint32_t model_rel_bucket(int64_t distance, uint32_t n_buckets, uint32_t max_distance, bool bidirectional);

/* Whether the back ends of the host compute with matrices of this element type. */
bool model_dtype_supported(enum gguf_dtype t);
/* Their names, "F32, F16, ...", terminated, for messages. */
void model_dtype_list(char *buf, size_t cap);

struct model_op {
	enum model_op_kind kind;
	uint8_t dst, src0, src1, src2;
	uint32_t layer; /* block number in the whole model */
	uint32_t width; /* of dst */
	const struct gguf_tensor *w, *b, *w2, *w_type;
	uint32_t row0, rows; /* MATMUL: outputs taken from w and b */
	float scale;         /* EMBED, MATMUL; 1 if there is none */
	float clamp;         /* MATMUL; 0: none */
	float softcap;       /* MATMUL, ATTN; 0: none */
	/* NORM */
	enum model_norm norm;
	float eps;
	/* ACT, GLU, MOE */
	enum model_act act;
	/* ROPE, ATTN, per-head NORM */
	uint32_t n_heads, n_heads_kv, head_dim, head_dim_v;
	/* ATTN */
	float attn_scale; /* scores are q.k * attn_scale */
	bool causal, cross;
	uint32_t window; /* 0: none */
	float max_alibi_bias;
	const struct gguf_tensor *rel_bias; /* [ne0 = n_heads, ne1 = n_buckets] */
	uint32_t rel_max_distance;
	/* ROPE */
	bool rope_swa;
	/* MOE */
	uint32_t n_experts, n_experts_used;
	const struct gguf_tensor *w_gate, *w_up, *w_down; /* [ne0=in, ne1=out, ne2=expert] */
	bool moe_norm_weights;
};

/* What the last block's output becomes. */
enum model_task {
	MODEL_TASK_GENERATE, /* logits, from which a next token is sampled */
	MODEL_TASK_EMBED,    /* final hidden states of each token (BERT, T5 encoder) */
};
/* How hidden states [n_tokens, n_embd] become one embedding [n_embd] (not normalised). */
enum model_pooling { MODEL_POOL_NONE, MODEL_POOL_MEAN, MODEL_POOL_CLS, MODEL_POOL_LAST };

struct model_hparams {
	char arch[32];
	char name[96]; /* general.name, may be empty */
	/* Blocks are numbered through the whole model: n_layers of them, of which the first n_layers_enc
	 * are an encoder whose output the others read (T5); 0 for all other models, BERT included. */
	uint32_t n_layers, n_layers_enc;
	uint32_t n_embd, n_heads, n_heads_kv, head_dim, n_ff, n_vocab;
	uint32_t head_dim_v; /* of V, mostly head_dim */
	uint32_t n_ctx_train;
	uint32_t n_ctx_max; /* hard limit: rows of a learned position table; 0: none */
	uint32_t n_experts, n_experts_used;
	float norm_eps;
	struct model_rope_params rope;
	struct model_rope_params
	    rope_swa; /* of blocks with a sliding window; the same as rope in most families */
	bool causal;  /* false: a sequence has to come whole, in one batch, from position 0 */
	enum model_task task;
	enum model_pooling pooling;
	bool has_fill;         /* a masked-language-model head is in the file */
	int32_t decoder_start; /* T5: first token of the decoder, -1 if the file does not say */
};

enum model_pass {
	MODEL_PASS_MAIN,
	MODEL_PASS_ENCODE, /* T5: the encoder, before the first main pass of a sequence */
	MODEL_PASS_FILL,   /* the main blocks and the masked-language-model head */
	MODEL_N_PASSES,
};

struct model_graph {
	const struct gguf *gguf; /* borrowed */
	struct model_hparams hp;
	uint32_t block_first, block_last; /* [first, last): last - first blocks */
	/* The main pass embeds where its first block is in the range (T5: the first decoder block), the
	 * encode pass where block 0 is. has_head: the pass ends here, with the rows asked for: logits
	 * [n_outputs, n_vocab], or hidden states [n_outputs, n_embd] for MODEL_TASK_EMBED. The encode
	 * pass never has a head: its output, for the next range, is the encoder's activations. */
	bool has_embed, has_head;
	struct model_op
	    *ops; /* none where the range has no block of the pass: the batch is passed on as it is */
	uint32_t n_ops;
	uint32_t n_bufs;
	uint32_t buf_width[MODEL_MAX_BUFS]; /* 0: unused; the same in all passes */
	uint8_t out_buf;                    /* if has_head where the outputs are, else MODEL_BUF_X */
	uint32_t out_width;
	struct model_graph *encode, *fill; /* NULL where the model has none; NULL in a pass itself */
};

/* The graph of a pass, NULL where there is none. */
static inline const struct model_graph *model_graph_pass(const struct model_graph *g, enum model_pass pass)
{
	return pass == MODEL_PASS_ENCODE ? g->encode : pass == MODEL_PASS_FILL ? g->fill : g;
}

/* Reads the architecture's hyperparameters. Errors: -ENOTSUP for an architecture we have no
 * traits for (the text lists those we have), -EBADMSG for missing or impossible values. */
int ps_warn_unused model_read_hparams(const struct gguf *g, struct model_hparams *hp_out, struct ps_err *err);

/* Builds the graph of blocks [first, last) and of its other passes. Every weight of the whole model is
 * checked for shape and dtype (-EBADMSG, -ENOTSUP: named), and a tensor that no operation of any
 * range uses is refused (-ENOTSUP). The GGUF must outlive the graph. */
int ps_warn_unused model_graph_build(const struct gguf *g, uint32_t first, uint32_t last,
				     struct model_graph **graph_out, struct ps_err *err);
void model_graph_free(struct model_graph *graph);

/* Maps the pages of every matrix the graph reads whole, so that the first batch does not fault
 * them in one by one (embedding tables, of which a batch reads a few rows, stay as they are). Best
 * effort: where the kernel cannot (before Linux 5.14) it only starts reading ahead. */
void model_graph_populate(const struct model_graph *graph);

/* Lower-case name of an operation, for tables and logs. */
const char *model_op_name(enum model_op_kind kind);

/* The block that a tensor's name puts it in, counted through the whole model; false for what is outside. */
bool model_tensor_block(const struct model_hparams *hp, const char *name, uint32_t *layer_out);

/* Cuts n_layers blocks into n_stages contiguous ranges whose bytes, as model_range_bytes has them, are as
 * even as can be; cuts_out[n_stages + 1], cuts_out[0] = 0. -EINVAL if more stages than blocks. */
int ps_warn_unused model_split_even(const struct gguf *g, uint32_t n_stages, uint32_t *cuts_out,
				    struct ps_err *err);

/* Bytes of weights that one token makes blocks [first, last) read, ends included where they lie there: all
 * of a matrix (of all experts), one row of an embedding table, but all of one that is the output
 * matrix too. 0 where there is no such range. */
uint64_t model_range_bytes(const struct gguf *g, uint32_t first, uint32_t last);

#endif
