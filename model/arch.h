/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_ARCH_H
#define PENSTOCK_MODEL_ARCH_H
/*
 * The table of architecture traits: all that tells one family of models from
 * another, as data. hparams.c and the graph builder read it and never compare
 * names, so a family that combines known traits is a row here. What a file itself
 * shows is not a trait but detected from the tensors and keys that are there:
 * fused or separate Q/K/V, optional biases, norms of Q and K and their extent, a
 * tied head, a second attention norm, a mixture of experts.
 *
 * Private to model/: others see struct model_hparams and struct model_graph.
 */
#include <stdbool.h>
#include <stddef.h>

#include "model/graph.h"

/* The blocks of a model, and what their tensors' names begin with. */
enum model_stack {
	MODEL_STACK_PLAIN,   /* one stack, "blk.N." */
	MODEL_STACK_ENC,     /* one stack, an encoder, "enc.blk.N." */
	MODEL_STACK_ENC_DEC, /* "enc.blk.N.", then "dec.blk.N." with cross-attention */
};

/* Which norms a block has, of MODEL_NORM_* bits: of the input of attention and feed-forward, of
 * their output before it is added to the residual stream, of the sum after it was. */
#define MODEL_NORMS_IN  1u
#define MODEL_NORMS_OUT 2u
#define MODEL_NORMS_SUM 4u

enum model_parallel {
	MODEL_PARALLEL_NEVER,       /* feed-forward reads what attention has been added to */
	MODEL_PARALLEL_ALWAYS,      /* both read the same input: x + attn(norm x) + ffn(norm x) */
	MODEL_PARALLEL_KEY,         /* as use_parallel_residual says; feed-forward has a norm of its own */
	MODEL_PARALLEL_NO_FFN_NORM, /* in blocks without a norm for the feed-forward */
};

enum model_biases {
	MODEL_BIASES_MAY,   /* any may be there */
	MODEL_BIASES_NORMS, /* the norms must have them, matrices may */
	MODEL_BIASES_ALL,   /* norms and matrices must (the output matrix may) */
};

/* Whether a family has some tensor. What it has not is refused like any unknown tensor. */
enum model_has { MODEL_HAS_NONE, MODEL_HAS_MAYBE, MODEL_HAS };

enum model_ffn {
	MODEL_FFN_PLAIN,       /* down . act(up . x) */
	MODEL_FFN_GATED,       /* down . (act(gate . x) * (up . x)) */
	MODEL_FFN_FUSED,       /* the same; the up matrix holds the rows of gate, then those of up */
	MODEL_FFN_GATE_OR_RELU /* gated where the gate is in the file, otherwise plain with ReLU */
};

/* The rotary embedding of blocks that slide. */
enum model_swa_rope {
	MODEL_SWA_ROPE_SAME,  /* as the others, but for the key rope.freq_base_swa */
	MODEL_SWA_ROPE_PLAIN, /* the same base without scaling and factors */
	MODEL_SWA_ROPE_10000, /* base rope.freq_base_swa, 10000 without it; no scaling, no factors */
};

/* Suffixes of tensor names without ".weight" and ".bias"; NULL: the family has no such tensor. */
struct model_names {
	const char *attn_norm, *attn_q, *attn_k, *attn_v, *attn_qkv, *attn_out;
	const char *attn_q_norm, *attn_k_norm;
	const char *attn_norm_2; /* where it is there, of attention alone (MODEL_PARALLEL_ALWAYS) */
	const char *attn_norm_out, *ffn_norm_out; /* MODEL_NORMS_OUT */
	const char *attn_norm_sum, *ffn_norm_sum; /* MODEL_NORMS_SUM */
	const char *ffn_norm, *ffn_up, *ffn_gate, *ffn_down;
	const char *cross_norm, *cross_q, *cross_k, *cross_v, *cross_out; /* MODEL_STACK_ENC_DEC */
	const char *rel_bias;   /* [n_heads, buckets]; blocks without it use that of their stack's first */
	const char *final_norm; /* before the head, or last of an encoder; a whole name */
	const char *enc_norm;   /* after the encoder's last block, MODEL_STACK_ENC_DEC; a whole name */
};

struct model_arch {
	const char *name; /* general.architecture, and the prefix of the keys */
	const struct model_names *names;
	enum model_stack stack;
	enum model_task task;
	bool bidirectional;   /* without the key attention.causal; else causal */
	enum model_norm norm; /* of all norms of the model */
	const char *eps_key;  /* without the prefix */
	unsigned norms;       /* MODEL_NORMS_* */
	enum model_parallel parallel;
	enum model_biases biases;
	bool head_bias; /* the output matrix must have a bias; without it, it may */
	/* Embedding. */
	enum model_has positions; /* a table added to the embedding; its length is a hard limit */
	enum model_has types;     /* token types, of which all tokens are the first */
	bool embed_norm;          /* token_embd_norm */
	bool embed_scaled;        /* times sqrt(n_embd) */
	/* Attention. */
	enum model_rope rope;
	bool alibi; /* key attention.max_alibi_bias, without it max_alibi_bias */
	float max_alibi_bias;
	enum model_has qk_norm; /* norms of Q and K before the rotary embedding: of each head or of all */
	bool unscaled;          /* scores are q.k, not q.k / sqrt(head_dim) */
	uint32_t wide_scale;    /* models of this many blocks: q.k / sqrt(n_embd / n_heads); 0: none */
	/* Sliding windows: of window_period blocks all but the last slide; 0: the key is ignored. */
	uint32_t window_period, window; /* defaults of the keys; window 0: none without the key */
	enum model_swa_rope swa_rope;
	bool attn_cap, final_cap; /* keys attn_logit_softcapping and final_logit_softcapping count */
	float attn_cap_default, final_cap_default;
	/* Feed-forward. */
	enum model_ffn ffn;
	enum model_act act;
	bool moe; /* a mixture of experts where expert_count says so; chosen weights are made to sum 1 */
};

/* What the keys say beyond struct model_hparams, for the builder. */
struct model_details {
	const struct model_arch *arch;
	bool parallel;                  /* MODEL_PARALLEL_KEY */
	uint32_t window, window_period; /* 0: no block slides */
	const uint8_t *window_blocks; /* [n_layers] whether a block slides, in place of the period, or NULL */
	float embed_scale, attn_scale;
	float attn_cap, final_cap, clamp; /* 0: none */
	float max_alibi_bias;             /* 0: none */
	uint32_t n_rel_buckets;           /* where arch->names has rel_bias */
};

/* Distance from which on T5's relative buckets are all the last one; no file says it. */
#define MODEL_REL_MAX_DISTANCE 128u

/* model_read_hparams, with the details. */
int ps_warn_unused model_read_details(const struct gguf *g, struct model_hparams *hp_out,
				      struct model_details *details_out, struct ps_err *err);

/* Whether attention of a block is limited to the window. */
bool model_block_slides(const struct model_details *d, uint32_t layer);

struct model_keys;

/* Rotary embedding of all blocks and of those that slide; for families that have it. */
void model_read_rope(struct model_keys *keys, const struct model_arch *arch, struct model_hparams *hp);

/* NULL where there is none. */
const struct model_arch *model_arch_find(const char *name, size_t len);

/* The names we have, separated by ", ", for error texts. */
void model_arch_list(char *buf, size_t cap);

#endif
