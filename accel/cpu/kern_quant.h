/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_CPU_KERN_QUANT_H
#define PENSTOCK_ACCEL_CPU_KERN_QUANT_H
/*
 * Products of block-quantized weights and activations rounded to 8 bits, the
 * same way for every element type: w = scale * (u - offset), or scale * u + min,
 * u an unsigned integer of 8 bits at most, scale and min of a block of 32 (or of
 * 16: "halves"). Elements are worked on in groups of 256, eight blocks; a
 * row's last group is filled up with zeros. Not here: float weights (kern.h).
 *
 * The order of the sums. The integer sum of a block is exact. Block b of a row
 * adds to partial sum b % 8, blocks in ascending order, each as
 *   acc = fma((float)isum * w_scale, x_scale, acc), and where there is a min
 *   acc = fma(w_min, x_sum, acc)
 * (of halves: all that of the first, then of the second), and the result is
 * ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). Both ways below keep to it, so a row and a
 * column give the same bits in batches of any size.
 *
 * Few columns: `mul` reads the rows in the file's order and format, one stream
 * of memory, with a lane of a vector for each of the 8 partial sums.
 * Many: `pack` turns KERN_QUANT_ROWS rows into a panel, in which a vector holds 4
 * elements of each row and blocks of the same partial sum lie together;
 * `mul_panel` multiplies 8 columns at a time with it.
 *
 * Adding a type. kern_quant_x86.inc has a handful of functions with a case for
 * each type: how many bytes a group is, its offset (or that it has a min, or
 * halves), its largest u, and from a pointer to a group the 32 values of block
 * i, the 8 scales and the 8 mins. Both ways and both instruction sets follow from
 * them; add a line to QUANT_TYPES there, and a row to kern_quant_portable.c.
 */
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

struct kern_mul;

#define KERN_QUANT_BLOCK 32u  /* elements under one scale of x */
#define KERN_QUANT_GROUP 256u /* elements of 8 blocks */
#define KERN_QUANT_ROWS  16u  /* of a panel */
#define KERN_QUANT_COLS  8u   /* of x that mul_panel takes at a time */

/*
 * 256 activations: x = scale * q, |q| <= 127. In rows, for `mul`: the 8 blocks of a group of one
 * column, q in the order of blocks 0 4 1 5 2 6 3 7, all else in ascending order; a column has
 * kern_quant_groups(k) of them. In columns, for `mul_panel`: one block of 8 columns, and block b
 * of k stands at (b % 8) * kern_quant_groups(k) + b / 8.
 */
struct kern_q8 {
	int8_t q[8][32];
	float scale[8];
	int32_t bias[8];  /* -128 * sum(q) */
	float sum[8];     /* scale * sum(q) */
	int32_t spare[8]; /* to whole cache lines */
	int32_t half_bias[2][8];
	float half_sum[2][8];
};
_Static_assert(sizeof(struct kern_q8) == 512, "eight cache lines");

/* What the kernels of one element type are. */
struct kern_quant {
	enum gguf_dtype dtype;
	/* m->cols is few (KERN_FEW_COLS at most, more is only slow); m->x is unused. */
	void (*mul)(const struct kern_mul *m, const struct kern_q8 *x);
	/* m->rows <= KERN_QUANT_ROWS, m->cols any; m->w unused in mul_panel. pack is NULL where
	 * `mul` is as good for many columns; then so is mul_panel. */
	void (*pack)(const struct kern_mul *m, uint8_t *panel);
	void (*mul_panel)(const struct kern_mul *m, const uint8_t *panel, const struct kern_q8 *x);
};

/* One instruction set's. */
struct kern_quants {
	const struct kern_quant *types;
	size_t n_types;
	/* x [k], k a multiple of 32. Values beyond k are zero. */
	void (*quantize)(const float *x, uint32_t k, struct kern_q8 *dst);
	/* cols <= KERN_QUANT_COLS columns [cols, ldx]; what the other columns become does not matter. */
	void (*quantize_cols)(const float *x, size_t ldx, uint32_t cols, uint32_t k, struct kern_q8 *dst);
};

static inline uint32_t kern_quant_groups(uint32_t k)
{
	return (k + KERN_QUANT_GROUP - 1) / KERN_QUANT_GROUP;
}

/* NULL if the type has none: then rows are expanded to float32. */
static inline const struct kern_quant *kern_quant_find(const struct kern_quants *q, enum gguf_dtype dtype)
{
	for (size_t i = 0; i < q->n_types; i++)
		if (q->types[i].dtype == dtype)
			return &q->types[i];
	return NULL;
}

/* The most that any type's panel takes for a group of k: values, two scales and two mins of 8 blocks. */
#define KERN_QUANT_PANEL_BYTES (8u * (512u + 4u * 64u))

extern const struct kern_quants kern_quants_portable;
#if defined(__x86_64__)
extern const struct kern_quants kern_quants_avx2;
extern const struct kern_quants kern_quants_vnni;
#endif

#endif
