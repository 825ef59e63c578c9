/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/ref/ref.h"

#include <math.h>
#include <string.h>

#include "accel/weights.h"
#include "base/check.h"

/* dst += row `row` of a table. */
static void add_row(struct accel *a, const struct gguf_tensor *table, uint64_t row, float *dst)
{
	accel_row_expand(table->dtype, accel_row(table, row), table->ne[0], a->row);
	for (uint64_t i = 0; i < table->ne[0]; i++)
		dst[i] += a->row[i];
}

static void op_embed(struct accel *a, const struct model_op *op, const struct accel_batch *b, uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++) {
		float *dst = ref_row(a, op->dst, r); /* [width] */

		accel_row_expand(op->w->dtype, accel_row(op->w, (uint64_t)b->tokens[r]), op->width, dst);
		for (uint32_t i = 0; i < op->width; i++)
			dst[i] *= op->scale;
		if (op->w2 != NULL)
			add_row(a, op->w2, a->slots.rows[r].pos, dst);
		if (op->w_type != NULL)
			add_row(a, op->w_type, 0, dst);
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
	size_t stride = op->w->ne[1] > 1 ? n : 0; /* a row of weights for each head, or one for all */

	for (uint32_t r = 0; r < n_rows; r++)
		for (uint32_t i = 0; i < op->width; i += n)
			norm_run(op, ref_row(a, op->src0, r) + i, (const float *)op->w->data + i / n * stride,
				 op->b != NULL ? op->b->data : NULL, n, ref_row(a, op->dst, r) + i);
}

/* After the product and its bias: scale, clamp, cap. */
static float finish(const struct model_op *op, float y)
{
	y *= op->scale;
	if (op->clamp != 0)
		y = y > op->clamp ? op->clamp : y < -op->clamp ? -op->clamp : y;
	if (op->softcap != 0)
		y = (float)((double)op->softcap * tanh((double)y / (double)op->softcap));
	return y;
}

static void op_matmul(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	const float *bias = op->b != NULL ? op->b->data : NULL;

	for (uint32_t o = 0; o < op->rows; o++) {
		accel_row_expand(op->w->dtype, accel_row(op->w, op->row0 + o), op->w->ne[0], a->row);
		for (uint32_t r = 0; r < n_rows; r++) {
			float y = ref_dot(a->row, ref_row(a, op->src0, r), op->w->ne[0]);

			if (bias != NULL)
				y += bias[op->row0 + o];
			ref_row(a, op->dst, r)[o] = finish(op, y);
		}
	}
}

static void op_rope(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	const struct model_rope_params *rope = op->rope_swa ? &a->graph->hp.rope_swa : &a->graph->hp.rope;
	const double *freqs = a->freqs[op->rope_swa]; /* [half] */
	uint32_t half = rope->n_rot / 2;

	for (uint32_t r = 0; r < n_rows; r++) {
		for (uint32_t h = 0; h < op->n_heads; h++) {
			float *x = ref_row(a, op->dst, r) + (size_t)h * op->head_dim; /* [head_dim] */

			for (uint32_t i = 0; i < half; i++) {
				double angle = (double)a->slots.rows[r].pos * freqs[i];
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
		float *dst = ref_row(a, op->dst, r);
		const float *x = ref_row(a, op->src0, r);

		for (uint32_t i = 0; i < op->width; i++) {
			if (op->kind == MODEL_OP_ADD)
				dst[i] = x[i] + ref_row(a, op->src1, r)[i];
			else if (op->kind == MODEL_OP_GLU)
				dst[i] = activate(op->act, x[i]) * ref_row(a, op->src1, r)[i];
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
		a->probs[e] = (double)ref_dot(a->row, x, op->w->ne[0]);
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
		a->hidden[0][o] = activate(op->act, ref_dot(a->row, x, in));
		accel_row_expand(op->w_up->dtype, accel_row(op->w_up, e * ff + o), in, a->row);
		a->hidden[1][o] = a->hidden[0][o] * ref_dot(a->row, x, in);
	}
	for (uint64_t o = 0; o < op->width; o++) {
		accel_row_expand(op->w_down->dtype, accel_row(op->w_down, (uint64_t)e * op->width + o), ff,
				 a->row);
		dst[o] += (float)a->probs[e] * ref_dot(a->row, a->hidden[1], ff);
	}
}

static void op_moe(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++) {
		const float *x = ref_row(a, op->src0, r);
		float *dst = ref_row(a, op->dst, r);

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
		memcpy(ref_row(a, op->dst, r), ref_row(a, op->src0, b->out_rows[r]),
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
		ref_attention(a, op, n_rows);
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
		ref_cross_kv(a, op, n_rows);
		break;
	}
}
