/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/ref/ref.h"

#include <math.h>
#include <string.h>

#include "accel/weights.h"
#include "base/check.h"

static float *buf_row(const struct accel *a, uint8_t buf, uint32_t row)
{
	return a->bufs[buf] + (size_t)row * a->graph->buf_width[buf];
}

static void op_embed(struct accel *a, const struct model_op *op, const struct accel_batch *b, uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++) {
		float *dst = buf_row(a, op->dst, r); /* [width] */

		accel_row_expand(op->w->dtype, accel_row(op->w, (uint64_t)b->tokens[r]), op->width, dst);
		for (uint32_t i = 0; i < op->width; i++)
			dst[i] *= op->scale;
		if (op->w2 == NULL)
			continue;
		accel_row_expand(op->w2->dtype, accel_row(op->w2, a->slots.rows[r].pos), op->width, a->row);
		for (uint32_t i = 0; i < op->width; i++)
			dst[i] += a->row[i];
	}
}

static void norm_run(const struct model_op *op, const float *x /* [n] */, const float *w /* [n] */,
		     const float *bias /* [n] */, uint32_t n, float *dst /* [n] */)
{
	double mean = 0, var = 0;
	double inv;

	if (op->norm == MODEL_NORM_LAYER) {
		for (uint32_t i = 0; i < n; i++)
			mean += (double)x[i];
		mean /= n;
	}
	for (uint32_t i = 0; i < n; i++)
		var += ((double)x[i] - mean) * ((double)x[i] - mean);
	inv = 1 / sqrt(var / n + (double)op->eps);
	for (uint32_t i = 0; i < n; i++) {
		double y = ((double)x[i] - mean) * inv * (double)w[i];

		dst[i] = (float)(bias != NULL ? y + (double)bias[i] : y);
	}
}

static void op_norm(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	uint32_t n = op->head_dim != 0 ? op->head_dim : op->width;

	for (uint32_t r = 0; r < n_rows; r++)
		for (uint32_t i = 0; i < op->width; i += n)
			norm_run(op, buf_row(a, op->src0, r) + i, op->w->data,
				 op->b != NULL ? op->b->data : NULL, n, buf_row(a, op->dst, r) + i);
}

static float dot(const float *w /* [n] */, const float *x /* [n] */, uint64_t n)
{
	double sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum += (double)w[i] * (double)x[i];
	return (float)sum;
}

static void op_matmul(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	const float *bias = op->b != NULL ? op->b->data : NULL;

	for (uint32_t o = 0; o < op->rows; o++) {
		accel_row_expand(op->w->dtype, accel_row(op->w, op->row0 + o), op->w->ne[0], a->row);
		for (uint32_t r = 0; r < n_rows; r++) {
			float y = dot(a->row, buf_row(a, op->src0, r), op->w->ne[0]);

			if (bias != NULL)
				y += bias[op->row0 + o];
			buf_row(a, op->dst, r)[o] = y * op->scale;
		}
	}
}

static void op_rope(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	const struct model_rope_params *rope = &a->graph->hp.rope;
	uint32_t half = rope->n_rot / 2;

	for (uint32_t r = 0; r < n_rows; r++) {
		for (uint32_t h = 0; h < op->n_heads; h++) {
			float *x = buf_row(a, op->dst, r) + (size_t)h * op->head_dim; /* [head_dim] */

			for (uint32_t i = 0; i < half; i++) {
				double angle = (double)a->slots.rows[r].pos * a->freqs[i];
				double c = cos(angle) * (double)rope->mscale;
				double s = sin(angle) * (double)rope->mscale;
				float *p = rope->kind == MODEL_ROPE_NORM ? &x[2 * i] : &x[i];
				float *q = rope->kind == MODEL_ROPE_NORM ? &x[2 * i + 1] : &x[i + half];
				double p0 = (double)*p, q0 = (double)*q;

				*p = (float)(p0 * c - q0 * s);
				*q = (float)(p0 * s + q0 * c);
			}
		}
	}
}

static void append_kv(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	const struct accel_kv_layer *l = accel_kv_layer_of(&a->kv, op->layer);

	for (uint32_t r = 0; r < n_rows; r++) {
		const struct accel_row *row = &a->slots.rows[r];

		for (uint32_t h = 0; h < l->n_heads_kv; h++) {
			memcpy(accel_kv_k(&a->kv, l, row->slot, h) + (size_t)row->pos * l->k_pad,
			       buf_row(a, op->src1, r) + (size_t)h * l->k_dim, l->k_dim * sizeof(float));
			memcpy(accel_kv_v(&a->kv, l, row->slot, h) + (size_t)row->pos * l->v_pad,
			       buf_row(a, op->src2, r) + (size_t)h * l->v_dim, l->v_dim * sizeof(float));
		}
	}
}

/* One query head over n positions: k [n, k_dim], v [n, v_dim], dst [v_dim]. */
static void attend(struct accel *a, const struct model_op *op, const float *q, const float *k, const float *v,
		   uint32_t n, float *dst)
{
	double max = -INFINITY, sum = 0;

	for (uint32_t p = 0; p < n; p++) {
		a->scores[p] =
		    (double)dot(q, k + (size_t)p * op->head_dim, op->head_dim) * (double)op->attn_scale;
		max = fmax(max, a->scores[p]);
	}
	for (uint32_t p = 0; p < n; p++) {
		a->scores[p] = exp(a->scores[p] - max);
		sum += a->scores[p];
	}
	for (uint32_t i = 0; i < op->head_dim_v; i++) {
		double y = 0;

		for (uint32_t p = 0; p < n; p++)
			y += a->scores[p] * (double)v[(size_t)p * op->head_dim_v + i];
		dst[i] = (float)(y / sum);
	}
}

static void op_attn(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	const struct accel_kv_layer *l = accel_kv_layer_of(&a->kv, op->layer);
	uint32_t group = op->n_heads / op->n_heads_kv;

	append_kv(a, op, n_rows);
	for (uint32_t r = 0; r < n_rows; r++) {
		const struct accel_row *row = &a->slots.rows[r];
		uint32_t n = op->causal ? row->pos + 1 : row->seq_end;

		for (uint32_t h = 0; h < op->n_heads; h++)
			attend(a, op, buf_row(a, op->src0, r) + (size_t)h * op->head_dim,
			       accel_kv_k(&a->kv, l, row->slot, h / group),
			       accel_kv_v(&a->kv, l, row->slot, h / group), n,
			       buf_row(a, op->dst, r) + (size_t)h * op->head_dim_v);
	}
}

static float activate(enum model_act act, float xf)
{
	double x = (double)xf;

	switch (act) {
	case MODEL_ACT_SILU:
		return (float)(x / (1 + exp(-x)));
	case MODEL_ACT_GELU_TANH:
		return (float)(0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))));
	case MODEL_ACT_GELU_ERF:
		return (float)(0.5 * x * (1 + erf(x / sqrt(2))));
	case MODEL_ACT_RELU:
		return xf > 0 ? xf : 0;
	}
	CHECK(!"an activation that accel_host_check_graph lets through");
}

static void op_elementwise(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++) {
		float *dst = buf_row(a, op->dst, r);
		const float *x = buf_row(a, op->src0, r);

		for (uint32_t i = 0; i < op->width; i++) {
			if (op->kind == MODEL_OP_ADD)
				dst[i] = x[i] + buf_row(a, op->src1, r)[i];
			else if (op->kind == MODEL_OP_GLU)
				dst[i] = activate(op->act, x[i]) * buf_row(a, op->src1, r)[i];
			else
				dst[i] = activate(op->act, x[i]);
		}
	}
}

/* Softmax of the router's outputs for one row. */
static void route(struct accel *a, const struct model_op *op, const float *x)
{
	double max = -INFINITY, sum = 0;

	for (uint32_t e = 0; e < op->n_experts; e++) {
		accel_row_expand(op->w->dtype, accel_row(op->w, e), op->w->ne[0], a->row);
		a->probs[e] = (double)dot(a->row, x, op->w->ne[0]);
		max = fmax(max, a->probs[e]);
	}
	for (uint32_t e = 0; e < op->n_experts; e++) {
		a->probs[e] = exp(a->probs[e] - max);
		sum += a->probs[e];
	}
	for (uint32_t e = 0; e < op->n_experts; e++)
		a->probs[e] /= sum;
}

/* Keeps the n_experts_used largest of probs, sets the others to 0, and renormalises if asked to. */
static void keep_best(struct accel *a, const struct model_op *op)
{
	double sum = 0;

	for (uint32_t e = 0; e < op->n_experts; e++)
		a->probs[e] = -a->probs[e]; /* negative: not taken yet (a probability is never below 0) */
	for (uint32_t n = 0; n < op->n_experts_used; n++) {
		uint32_t best = op->n_experts;

		for (uint32_t e = 0; e < op->n_experts; e++)
			if (a->probs[e] < 0 && (best == op->n_experts || a->probs[e] < a->probs[best]))
				best = e;
		if (best == op->n_experts)
			break; /* the rest are exactly 0 */
		a->probs[best] = -a->probs[best];
		sum += a->probs[best];
	}
	for (uint32_t e = 0; e < op->n_experts; e++) {
		if (!(a->probs[e] > 0))
			a->probs[e] = 0;
		else if (op->moe_norm_weights)
			a->probs[e] /= sum;
	}
}

/* dst += p * down . (act(gate . x) * (up . x)) of expert e. */
static void add_expert(struct accel *a, const struct model_op *op, uint32_t e, const float *x, float *dst)
{
	uint64_t ff = op->w_up->ne[1], in = op->w_up->ne[0];

	for (uint64_t o = 0; o < ff; o++) {
		accel_row_expand(op->w_gate->dtype, accel_row(op->w_gate, e * ff + o), in, a->row);
		a->hidden[0][o] = activate(op->act, dot(a->row, x, in));
		accel_row_expand(op->w_up->dtype, accel_row(op->w_up, e * ff + o), in, a->row);
		a->hidden[1][o] = a->hidden[0][o] * dot(a->row, x, in);
	}
	for (uint64_t o = 0; o < op->width; o++) {
		accel_row_expand(op->w_down->dtype, accel_row(op->w_down, (uint64_t)e * op->width + o), ff,
				 a->row);
		dst[o] += (float)a->probs[e] * dot(a->row, a->hidden[1], ff);
	}
}

static void op_moe(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++) {
		const float *x = buf_row(a, op->src0, r);
		float *dst = buf_row(a, op->dst, r);

		route(a, op, x);
		keep_best(a, op);
		memset(dst, 0, op->width * sizeof(float));
		for (uint32_t e = 0; e < op->n_experts; e++)
			if (a->probs[e] > 0)
				add_expert(a, op, e, x, dst);
	}
}

static void op_select_rows(struct accel *a, const struct model_op *op, const struct accel_batch *b,
			   uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++)
		memcpy(buf_row(a, op->dst, r), buf_row(a, op->src0, b->out_rows[r]),
		       op->width * sizeof(float));
}

void ref_run_op(struct accel *a, const struct model_op *op, const struct accel_batch *b, uint32_t n_rows)
{
	switch (op->kind) {
	case MODEL_OP_EMBED:
		op_embed(a, op, b, n_rows);
		break;
	case MODEL_OP_NORM:
		op_norm(a, op, n_rows);
		break;
	case MODEL_OP_MATMUL:
		op_matmul(a, op, n_rows);
		break;
	case MODEL_OP_ROPE:
		op_rope(a, op, n_rows);
		break;
	case MODEL_OP_ATTN:
		op_attn(a, op, n_rows);
		break;
	case MODEL_OP_ACT:
	case MODEL_OP_GLU:
	case MODEL_OP_ADD:
		op_elementwise(a, op, n_rows);
		break;
	case MODEL_OP_MOE:
		op_moe(a, op, n_rows);
		break;
	case MODEL_OP_SELECT_ROWS:
		op_select_rows(a, op, b, n_rows);
		break;
	case MODEL_OP_CROSS_KV:
		CHECK(!"an operation that accel_host_check_graph lets through");
	}
}
