/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_REF_REF_H
#define PENSTOCK_ACCEL_REF_REF_H
/*
 * State of the reference back end, shared by its two files and no one else.
 * Everything is one plain loop per formula, float32 in memory, sums in double,
 * so that reading it is enough to believe it.
 */
#include "accel/accel.h"
#include "accel/host.h"

struct accel {
	const struct model_graph *graph;
	struct accel_slots slots;
	struct accel_kv kv;
	float *bufs[MODEL_MAX_BUFS]; /* [max_tokens, buf_width[i]] */
	float *row;                  /* [widest matrix row] one row of weights, expanded */
	double *scores;              /* [n_ctx] */
	double *freqs;               /* [n_rot / 2] */
	float *hidden[2];            /* [widest expert], two of them */
	double *probs;               /* [most experts] */
	uint32_t row_width, hidden_width, n_probs;
	int done; /* batches finished that poll has not told of */
};

/* Runs one operation on the rows of a batch that accel_slots_begin accepted. */
void ref_run_op(struct accel *a, const struct model_op *op, const struct accel_batch *b, uint32_t n_rows);

#endif
