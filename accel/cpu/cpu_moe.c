/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mixture of experts: rows are gathered by expert, so that a batch reads each
 * expert's weights once. A row adds its experts in the order of their numbers,
 * whatever the rest of the batch uses.
 */
#include <math.h>
#include <string.h>

#include "accel/cpu/cpu.h"
#include "accel/weights.h"

/* Turns router outputs p [n] into the weights of the experts, 0 for those not used. */
static void choose_experts(const struct model_op *op, float *p)
{
	float max = p[0], all = 0, kept = 0;
	uint32_t n_kept = 0;

	for (uint32_t e = 1; e < op->n_experts; e++)
		max = fmaxf(max, p[e]);
	for (uint32_t e = 0; e < op->n_experts; e++) {
		p[e] = expf(p[e] - max);
		all += p[e];
	}
	/* The largest by selection; negative marks the chosen ones until the end. */
	for (; n_kept < op->n_experts_used; n_kept++) {
		uint32_t best = 0;

		for (uint32_t e = 1; e < op->n_experts; e++)
			if (p[e] > p[best])
				best = e;
		if (!(p[best] > 0))
			break; /* the rest is exactly 0, or not a number */
		kept += p[best];
		p[best] = -p[best];
	}
	for (uint32_t e = 0; e < op->n_experts; e++)
		p[e] = p[e] < 0 ? -p[e] / (op->moe_norm_weights ? kept : all) : 0;
}

static struct cpu_mat expert_matrix(const struct gguf_tensor *t, uint32_t expert)
{
	return (struct cpu_mat){.w = accel_row(t, (uint64_t)expert * t->ne[1]),
				.dtype = t->dtype,
				.rows = (uint32_t)t->ne[1],
				.k = (uint32_t)t->ne[0],
				.scale = 1.0f};
}

/* Rows that use the expert, into moe.in; returns how many. */
static uint32_t gather(struct accel *a, const struct model_op *op, uint32_t expert, uint32_t n_rows)
{
	struct cpu_moe *moe = &a->moe;
	uint32_t n = 0;

	cpu_q8_forget(a, moe->in.p);
	for (uint32_t r = 0; r < n_rows; r++) {
		if (!(cpu_row(&moe->logits, r)[expert] > 0))
			continue;
		memcpy(cpu_row(&moe->in, n), cpu_row(&a->bufs[op->src0], r),
		       a->bufs[op->src0].ld * sizeof(float));
		moe->rows[n++] = r;
	}
	return n;
}

static void act_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct model_op *op = arg;
	struct cpu_moe *moe = &a->moe;

	for (uint32_t i = row; i < end; i++)
		a->kern->act(op->act, cpu_row(&moe->gate, i), cpu_row(&moe->up, i), (uint32_t)op->w_up->ne[1],
			     cpu_row(&moe->gate, i));
}

static void add_expert(struct accel *a, const struct model_op *op, uint32_t expert, uint32_t n)
{
	struct cpu_moe *moe = &a->moe;
	struct cpu_product in[2] = {
	    {.mat = expert_matrix(op->w_gate, expert), .y = moe->gate.p, .ldy = moe->gate.ld},
	    {.mat = expert_matrix(op->w_up, expert), .y = moe->up.p, .ldy = moe->up.ld},
	};
	struct cpu_mat down = expert_matrix(op->w_down, expert);

	if (in[0].mat.dtype == in[1].mat.dtype) {
		cpu_multiply_all(a, in, 2, moe->in.p, moe->in.ld, n);
	} else {
		cpu_multiply_all(a, &in[0], 1, moe->in.p, moe->in.ld, n);
		cpu_multiply_all(a, &in[1], 1, moe->in.p, moe->in.ld, n);
	}
	cpu_run_rows(a, act_rows, op, n, in[0].mat.rows * 4);
	cpu_q8_forget(a, moe->gate.p);
	cpu_multiply(a, &down, moe->gate.p, moe->gate.ld, n, moe->out.p, moe->out.ld);
	for (uint32_t i = 0; i < n; i++) {
		float p = cpu_row(&moe->logits, moe->rows[i])[expert];
		float *dst = cpu_row(&a->bufs[op->dst], moe->rows[i]); /* [width] */
		const float *y = cpu_row(&moe->out, i);

		for (uint32_t j = 0; j < op->width; j++)
			dst[j] += p * y[j];
	}
}

void cpu_moe(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	struct cpu_buf *x = &a->bufs[op->src0];
	struct cpu_mat router = {.w = op->w->data,
				 .dtype = op->w->dtype,
				 .rows = op->n_experts,
				 .k = (uint32_t)op->w->ne[0],
				 .scale = 1.0f};

	cpu_multiply(a, &router, x->p, x->ld, n_rows, a->moe.logits.p, a->moe.logits.ld);
	for (uint32_t r = 0; r < n_rows; r++) {
		choose_experts(op, cpu_row(&a->moe.logits, r));
		memset(cpu_row(&a->bufs[op->dst], r), 0, op->width * sizeof(float));
	}
	for (uint32_t e = 0; e < op->n_experts; e++) {
		uint32_t n = gather(a, op, e, n_rows);

		if (n > 0)
			add_expert(a, op, e, n);
	}
}
