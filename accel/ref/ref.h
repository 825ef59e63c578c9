/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_REF_REF_H
#define PENSTOCK_ACCEL_REF_REF_H
/*
 * State of the reference back end, shared by its files and no one else.
 * Everything is one plain loop per formula, float32 in memory, sums in double,
 * so that reading it is enough to believe it.
 */
#include "accel/accel.h"
#include "accel/host.h"

struct accel {
	const struct model_graph *graph;
	struct accel_slots slots;
	struct accel_kv kv;
	struct accel_trace trace;
	float *bufs[MODEL_MAX_BUFS]; /* [max_tokens, buf_width[i]] */
	float *row;                  /* [widest matrix row] one row of weights, expanded */
	double *scores;              /* [n_ctx] */
	double *freqs[2];            /* [n_rot / 2] of hp.rope and of hp.rope_swa */
	float *head;                 /* [longest head] keys or values of one position, expanded */
	double *sums;                /* [longest head] */
	float *hidden[2];            /* [widest expert], two of them */
	double *probs;               /* [most experts] */
	uint32_t row_width, hidden_width, n_probs, head_dim;
	int done; /* batches finished that poll has not told of */
};

/* Runs one operation on the rows of a batch that accel_slots_begin accepted. */
void ref_run_op(struct accel *a, const struct model_op *op, const struct accel_batch *b, uint32_t n_rows);
/* ATTN and CROSS_KV. */
void ref_attention(struct accel *a, const struct model_op *op, uint32_t n_rows);
void ref_cross_kv(struct accel *a, const struct model_op *op, uint32_t n_rows);

static inline float *ref_row(const struct accel *a, uint8_t buf, uint32_t row)
{
	return a->bufs[buf] + (size_t)row * a->graph->buf_width[buf];
}

static inline float ref_dot(const float *w /* [n] */, const float *x /* [n] */, uint64_t n)
{
	double sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum += (double)w[i] * (double)x[i];
	return (float)sum;
}

#endif
