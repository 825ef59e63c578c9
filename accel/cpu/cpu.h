/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_CPU_CPU_H
#define PENSTOCK_ACCEL_CPU_CPU_H
/*
 * State of the fast back end, shared by its own files and no one else. All
 * operations of a graph run one after the other; each is split over the
 * threads of the pool by rows of weights, rows of the batch or heads. What one
 * chunk computes never depends on how the work was split.
 */
#include "accel/accel.h"
#include "accel/cpu/kern.h"
#include "accel/cpu/pool.h"
#include "accel/host.h"

/* [max_tokens, ld], ld the width rounded up to KERN_PAD, zeros in between. */
struct cpu_buf {
	float *p;
	size_t ld;
};

/* Scratch of one thread. */
struct cpu_thread {
	float
	    *panel; /* [panel_floats]: [KERN_PANEL, ldp] expanded rows of weights, or quantized ones packed */
	float *sums; /* [KERN_PANEL * KERN_COLS * lanes] */
	/* Attention, see struct kern_attn: */
	struct kern_query *queries;     /* [KERN_QUERIES] */
	float *q, *acc;                 /* [KERN_QUERIES, longest head, padded] */
	float *scores;                  /* [4, ACCEL_KV_TILE] */
	float *k_expanded, *v_expanded; /* [longest head, padded, ACCEL_KV_TILE] */
	float *scales;                  /* the same number of blocks, ACCEL_KV_TILE */
};

/* The input of a product rounded to 8 bits, for quantized weights. */
struct cpu_q8 {
	struct kern_q8 *x; /* [max_tokens rounded up to KERN_QUANT_COLS, groups], see there */
	uint64_t n;        /* how many that is */
	/* What stands there, so that products of the same input (Q, K and V) share it: see cpu_q8_forget. */
	const float *src; /* NULL: nothing */
	uint32_t cols, k;
};

/* The same for weights of the K types, which need another rounding. */
struct cpu_k {
	struct kern_k_act *acts; /* [blocks of the longest row, columns of the batch] */
	uint8_t *scratch;        /* [threads, scratch_bytes] panels */
	uint64_t n_acts;
	size_t scratch_bytes;
	const float *src;
	uint32_t cols, k;
};

struct cpu_moe {
	struct cpu_buf logits;   /* [max_tokens, n_experts] then the weight of each expert, 0 if unused */
	struct cpu_buf in;       /* [max_tokens, n_embd] rows of one expert, gathered */
	struct cpu_buf gate, up; /* [max_tokens, n_ff] */
	struct cpu_buf out;      /* [max_tokens, n_embd] */
	uint32_t *rows;          /* [max_tokens] which they are */
	uint32_t n_experts, n_in, n_ff, n_out; /* the most of any operation */
};

/* Rows of a batch that follow each other in a sequence. */
struct cpu_block {
	uint32_t row, n_rows;
};

/* The relative biases of an operation, and of all with the same tensor, by distance and not by bucket. */
struct cpu_rel {
	const struct model_op *op;
	float *table; /* [n_heads, 2 * rel_span], of distance d at rel_span + d */
};

/* Cosines and sines of the rows of a batch. */
struct cpu_rope {
	const struct model_rope_params *params;
	double *freqs; /* [n_rot / 2] */
	float *table;  /* [max_tokens, 2, n_rot / 2] cosines, then sines; NULL: not used */
};

struct accel {
	const struct model_graph *graph;
	const struct kern *kern;
	struct pool *pool;
	struct accel_slots slots;
	struct accel_kv kv;
	struct accel_trace trace;
	struct cpu_buf bufs[MODEL_MAX_BUFS]; /* that of the logits is the caller's while a batch runs */
	struct cpu_buf embed2;               /* [max_tokens, n_embd] position embeddings, if there are */
	struct cpu_thread *threads;          /* [pool threads] */
	struct cpu_q8 q8;
	struct cpu_k k;
	struct cpu_moe moe;
	struct cpu_rope rope[2];  /* hp.rope, hp.rope_swa */
	struct cpu_block *blocks; /* [max_tokens] scratch of attention */
	struct cpu_rel *rels;     /* [n_rels] */
	float **slopes;           /* [blocks of the range] of [n_heads], NULL where there is no ALiBi */
	uint32_t n_rels;
	uint64_t rel_span;
	size_t ldp; /* longest row of weights, padded */
	size_t panel_floats;
	uint32_t head_pad;           /* longest head of keys or values, padded */
	bool direct[MODEL_N_PASSES]; /* the outputs go straight to the caller's memory */
	uint64_t scratch_bytes;
	int done; /* batches finished that poll has not told of */
};

/* A matrix, or rows of one. y = (w . x + bias) * scale, then, where they are not 0, cut to [-clamp, clamp]
 * and softcap * tanh(y / softcap). */
struct cpu_mat {
	const uint8_t *w;
	enum gguf_dtype dtype;
	uint32_t rows, k;
	const float *bias; /* [rows] or NULL */
	float scale, clamp, softcap;
};

#define CPU_PRODUCTS 4u /* of one input, at a time */

/* A matrix and where its product goes, [n, ldy]. */
struct cpu_product {
	struct cpu_mat mat;
	float *y;
	size_t ldy;
};

/* Products of x [n, ldx], padded with zeros, with matrices of the same type and depth, in one round of the
 * threads: they wait for each other once and not for each matrix. */
void cpu_multiply_all(struct accel *a, const struct cpu_product *products, uint32_t n_products,
		      const float *x, size_t ldx, uint32_t n);
/* x [n, ldx] padded with zeros, y [n, ldy]. */
void cpu_multiply(struct accel *a, const struct cpu_mat *mat, const float *x, size_t ldx, uint32_t n,
		  float *y, size_t ldy);
/* To be said of every buffer that anything was written to since it was the input of a product. */
void cpu_q8_forget(struct accel *a, const float *x);
/* Memory for products with K types, if there are any; not 0: there is none left. */
int ps_warn_unused cpu_k_init(struct accel *a);
void cpu_k_fini(struct accel *a);
/* Rounds the input of a product, unless that is what stands there. */
void cpu_k_round(struct accel *a, const struct kern_mul *m);
/* Rows of a product whose input was rounded. */
void cpu_k_multiply(struct accel *a, kern_k_mul_fn *fn, const struct kern_mul *m, uint32_t thread);
void cpu_moe(struct accel *a, const struct model_op *op, uint32_t n_rows);
void cpu_attention(struct accel *a, const struct model_op *op, uint32_t n_rows);
/* Writes the rows' keys and values to the cache of an ATTN or CROSS_KV operation. */
void cpu_put_kv(struct accel *a, const struct model_op *op, uint32_t n_rows);
/* Tables of biases, and scratch; not 0: no memory. */
int ps_warn_unused cpu_attention_init(struct accel *a);
void cpu_attention_fini(struct accel *a);
/* Bias, scale, clamp and cap of rows [r0, r0 + rows) of a product: y [cols, ldy]. */
void cpu_finish(const struct accel *a, const struct cpu_mat *mat, uint32_t r0, uint32_t rows, float *y,
		size_t ldy, uint32_t cols);
/* Runs the next operation of the n that are left, or some at once; returns how many. */
uint32_t cpu_run_ops(struct accel *a, const struct model_op *ops, uint32_t n, const struct accel_batch *b,
		     uint32_t n_rows);
/* Cosines and sines of the rows of a batch, for the rotations that the model has. */
void cpu_rope_tables(struct accel *a, uint32_t n_rows);

/* Runs fn for ranges of rows; `width` floats are about what a row costs. */
typedef void cpu_rows_fn(struct accel *a, const void *arg, uint32_t row, uint32_t end);
void cpu_run_rows(struct accel *a, cpu_rows_fn *fn, const void *arg, uint32_t n_rows, uint32_t width);

static inline float *cpu_row(const struct cpu_buf *b, uint32_t row)
{
	return b->p + row * b->ld;
}

static inline size_t cpu_pad(size_t n)
{
	return (n + KERN_PAD - 1) / KERN_PAD * KERN_PAD;
}

/* Row length in memory of n floats: whole vectors, and an odd number of cache lines, since rows a
 * multiple of a page apart would all want the same few sets of the cache. */
static inline size_t cpu_ld(size_t n)
{
	return cpu_pad(n) | KERN_PAD;
}

#endif
