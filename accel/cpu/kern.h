/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_CPU_KERN_H
#define PENSTOCK_ACCEL_CPU_KERN_H
/*
 * The inner loops of the cpu back end, one table of them for each instruction
 * set, compiled from the same source (kern_mul.inc, kern_rows.inc, kern_attn.inc) with other vector types.
 * No memory of their own, no threads. Products of quantized weights: kern_quant.h, kern_k.h.
 *
 * The order of every sum is fixed and the same in all functions of a table:
 * a dot product over k keeps one vector of partial sums, lane l takes elements
 * l, l + lanes, l + 2 lanes, ..., and reduce4 adds the lanes in one tree. So a
 * result depends on its own row and column only: not on how many columns come
 * together, nor on which function computed it.
 *
 * Padding. Activations `x` have rows of ldx floats, ldx a multiple of
 * KERN_PAD, zero from their width to ldx, and start at a multiple of 64 bytes
 * where allocated by the back end. Weights have no padding and any alignment.
 */
#include <stddef.h>
#include <stdint.h>

#include "accel/cpu/kern_k.h"
#include "accel/cpu/kern_quant.h"
#include "accel/host.h"
#include "base/err.h"
#include "model/graph.h"

#define KERN_PAD      16u  /* floats: the widest vector */
#define KERN_PANEL    32u  /* weight rows expanded at a time for a batch */
#define KERN_COLS     12u  /* columns of x that stay in the L1 cache meanwhile */
#define KERN_DEPTH    512u /* and how much of k: 12 x 512 floats = 24 KB */
#define KERN_FEW_COLS 6u   /* batches up to this are multiplied straight from the file's format */

/* Weight rows of one element type times columns of x. */
struct kern_mul {
	const uint8_t *w; /* rows row_bytes apart */
	size_t row_bytes;
	uint32_t rows, k;
	const float *x; /* [cols, ldx] */
	size_t ldx;
	uint32_t cols;
	float *y; /* y[c * ldy + r], rows of it at [cols, ldy] */
	size_t ldy;
};

#define KERN_QUERIES 64u /* of a call of attn, at most: they share each tile of keys and values */

/* A query head of a row: what it sees, and its result so far. */
struct kern_query {
	const float *q;           /* [k_dim], times the scale of the scores */
	float *acc;               /* [v_pad] */
	uint32_t pos;             /* its own position */
	uint32_t first, end;      /* positions that it sees, at least one */
	float slope;              /* of ALiBi, 0: none */
	const float *rel;         /* rel[p]: bias of position p, for whole tiles; NULL: none */
	float max, sum[KERN_PAD]; /* scratch */
};

/* Queries over the keys and values of one head. */
struct kern_attn {
	enum accel_kv_dtype dtype;
	const uint8_t *k, *v; /* tiles of the sequence, from position 0 on */
	size_t k_tile, v_tile;
	uint32_t k_dim, v_pad;
	float softcap;              /* 0: none */
	struct kern_query *queries; /* [n]; the results stand in acc */
	uint32_t n;
	/* Scratch. */
	float *scores;                  /* [4, ACCEL_KV_TILE] */
	float *k_expanded, *v_expanded; /* [k_dim, ACCEL_KV_TILE], [ACCEL_KV_TILE, v_pad] */
	float *scales;                  /* [v_pad / ACCEL_KV_BLOCK, ACCEL_KV_TILE] */
};

/* Shape of a head in the cache, as in struct accel_kv_cache. */
struct kern_kv {
	enum accel_kv_dtype dtype;
	uint32_t k_dim, v_dim, v_pad;
};

struct kern {
	const char *name; /* "avx2": what PENSTOCK_ISA takes */
	const char *isa;  /* "avx2+fma+f16c" */
	uint32_t lanes;

	/* For few columns, straight from the file's format. */
	void (*mul_f32)(const struct kern_mul *m);
	void (*mul_f16)(const struct kern_mul *m);
	void (*mul_bf16)(const struct kern_mul *m);
	/* For many: rows expanded into `panel` [KERN_PANEL, ldp], zero padded to ldp; then the product,
	 * at most KERN_PANEL rows, w and row_bytes unused. sums: [KERN_PANEL * KERN_COLS * lanes]. */
	void (*expand_f32)(const uint8_t *w, uint32_t k, float *dst);
	void (*expand_f16)(const uint8_t *w, uint32_t k, float *dst);
	void (*expand_bf16)(const uint8_t *w, uint32_t k, float *dst);
	void (*mul_panel)(const struct kern_mul *m, const float *panel, size_t ldp, float *sums);
	const struct kern_quants *quants;
	const struct kern_k *k; /* the K types, see kern_k.h */

	/* n need not be a multiple of anything; bias may be NULL. */
	void (*norm)(enum model_norm kind, const float *x, const float *w, const float *bias, uint32_t n,
		     float eps, float *dst);
	void (*add)(const float *x, const float *y, uint32_t n, float *dst);
	/* dst = act(x) * y; y NULL: act(x). */
	void (*act)(enum model_act kind, const float *x, const float *y, uint32_t n, float *dst);
	/* dst = cap * tanh(x / cap). */
	void (*softcap)(const float *x, float cap, uint32_t n, float *dst);
	void (*attn)(const struct kern_attn *a);
	/* Rounds and stores one head's k [k_dim] and v [v_dim] at position p of its tiles. */
	void (*kv_put)(const struct kern_kv *c, uint8_t *k_tile, uint8_t *v_tile, uint32_t p, const float *k,
		       const float *v);
};

extern const struct kern kern_portable;
#if defined(__x86_64__)
extern const struct kern kern_avx2;
extern const struct kern kern_avx512;
extern const struct kern kern_avx512_vnni;
#endif

/*
 * The table for this processor: the widest it has, or that which `want` names ("portable", "avx2",
 * "avx512"; NULL: the widest). An unknown name is -EINVAL, one that this processor lacks -ENOTSUP.
 */
int ps_warn_unused kern_find(const char *want, const struct kern **kern_out, struct ps_err *err);

#endif
