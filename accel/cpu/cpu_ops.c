/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <string.h>

#include "accel/cpu/cpu.h"
#include "accel/weights.h"

/* Floats of row work below which it stays on one thread: some microseconds. */
#define MIN_CHUNK_FLOATS (16u << 10)
#define CHUNKS_A_THREAD  4u

struct rows_job {
	struct accel *a;
	cpu_rows_fn *fn;
	const void *arg;
	uint32_t n_rows, rows_a_chunk;
};

static void rows_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
	const struct rows_job *job = ctx;
	uint32_t row = chunk * job->rows_a_chunk;
	uint32_t left = job->n_rows - row;

	(void)thread;
	job->fn(job->a, job->arg, row, row + (left < job->rows_a_chunk ? left : job->rows_a_chunk));
}

void cpu_run_rows(struct accel *a, cpu_rows_fn *fn, const void *arg, uint32_t n_rows, uint32_t width)
{
	struct rows_job job = {.a = a, .fn = fn, .arg = arg, .n_rows = n_rows, .rows_a_chunk = n_rows};
	uint64_t chunks = (uint64_t)n_rows * width / MIN_CHUNK_FLOATS;
	uint64_t most = (uint64_t)pool_n_threads(a->pool) * CHUNKS_A_THREAD;

	if (n_rows == 0)
		return;
	if (pool_n_threads(a->pool) > 1 && chunks > 1) {
		chunks = chunks > most ? most : chunks;
		job.rows_a_chunk = (n_rows + (uint32_t)chunks - 1) / (uint32_t)chunks;
	}
	pool_run(a->pool, rows_chunk, &job, (n_rows + job.rows_a_chunk - 1) / job.rows_a_chunk);
}

struct op_arg {
	const struct model_op *op;
	const struct accel_batch *b;
};

/* dst = row `row` of a table, [ne0]. */
static void table_row(struct accel *a, const struct gguf_tensor *t, uint64_t row, float *dst)
{
	const uint8_t *w = accel_row(t, row);

	if (t->dtype == GGUF_DT_F16)
		a->kern->expand_f16(w, (uint32_t)t->ne[0], dst);
	else
		accel_row_expand(t->dtype, w, t->ne[0], dst);
}

static void add_table_row(struct accel *a, const struct gguf_tensor *t, uint64_t row, float *scratch,
			  float *dst)
{
	table_row(a, t, row, scratch);
	a->kern->add(dst, scratch, (uint32_t)t->ne[0], dst);
}

static void embed_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct op_arg *o = arg;
	const struct model_op *op = o->op;

	for (uint32_t r = row; r < end; r++) {
		float *dst = cpu_row(&a->bufs[op->dst], r); /* [width] */

		table_row(a, op->w, (uint64_t)o->b->tokens[r], dst);
		for (uint32_t i = 0; i < op->width; i++)
			dst[i] *= op->scale;
		if (op->w2 != NULL)
			add_table_row(a, op->w2, a->slots.rows[r].pos, cpu_row(&a->embed2, r), dst);
		if (op->w_type != NULL)
			add_table_row(a, op->w_type, 0, cpu_row(&a->embed2, r), dst);
	}
}

static void norm_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct model_op *op = ((const struct op_arg *)arg)->op;
	uint32_t n = op->head_dim != 0 ? op->head_dim : op->width;
	size_t stride = op->w->ne[1] > 1 ? n : 0; /* a row of weights for each head, or one for all */
	const float *bias = op->b != NULL ? op->b->data : NULL;

	for (uint32_t r = row; r < end; r++)
		for (uint32_t i = 0; i < op->width; i += n)
			a->kern->norm(op->norm, cpu_row(&a->bufs[op->src0], r) + i,
				      (const float *)op->w->data + i / n * stride, bias, n, op->eps,
				      cpu_row(&a->bufs[op->dst], r) + i);
}

static void elementwise_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct model_op *op = ((const struct op_arg *)arg)->op;

	for (uint32_t r = row; r < end; r++) {
		const float *x = cpu_row(&a->bufs[op->src0], r);
		const float *y = op->kind == MODEL_OP_ACT ? NULL : cpu_row(&a->bufs[op->src1], r);
		float *dst = cpu_row(&a->bufs[op->dst], r);

		if (op->kind == MODEL_OP_ADD)
			a->kern->add(x, y, op->width, dst);
		else
			a->kern->act(op->act, x, y, op->width, dst);
	}
}

static void rope_table_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct cpu_rope *rope = arg;
	uint32_t half = rope->params->n_rot / 2;
	double mscale = (double)rope->params->mscale;

	for (uint32_t r = row; r < end; r++) {
		float *c = rope->table + (size_t)r * 2 * half; /* [2, half] */

		for (uint32_t i = 0; i < half; i++) {
			double sin_angle, cos_angle;

			sincos((double)a->slots.rows[r].pos * rope->freqs[i], &sin_angle, &cos_angle);
			c[i] = (float)(cos_angle * mscale);
			c[half + i] = (float)(sin_angle * mscale);
		}
	}
}

void cpu_rope_tables(struct accel *a, uint32_t n_rows)
{
	for (int i = 0; i < 2; i++)
		if (a->rope[i].table != NULL)
			cpu_run_rows(a, rope_table_rows, &a->rope[i], n_rows, a->rope[i].params->n_rot * 16);
}

/* x [head_dim] of one head; c [half], s [half]. Neighbouring pairs, or the two halves. */
static void rotate_norm(float *restrict x, const float *restrict c, const float *restrict s, uint32_t half)
{
	for (uint32_t i = 0; i < half; i++) {
		float p = x[2 * i], q = x[2 * i + 1];

		x[2 * i] = p * c[i] - q * s[i];
		x[2 * i + 1] = p * s[i] + q * c[i];
	}
}

static void rotate_neox(float *restrict x, float *restrict y, const float *restrict c,
			const float *restrict s, uint32_t half)
{
	for (uint32_t i = 0; i < half; i++) {
		float p = x[i], q = y[i];

		x[i] = p * c[i] - q * s[i];
		y[i] = p * s[i] + q * c[i];
	}
}

static void rope_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct model_op *op = ((const struct op_arg *)arg)->op;
	const struct cpu_rope *rope = &a->rope[op->rope_swa];
	uint32_t half = rope->params->n_rot / 2;

	for (uint32_t r = row; r < end; r++) {
		const float *c = rope->table + (size_t)r * 2 * half;

		for (uint32_t h = 0; h < op->n_heads; h++) {
			float *x = cpu_row(&a->bufs[op->dst], r) + (size_t)h * op->head_dim;

			if (rope->params->kind == MODEL_ROPE_NORM)
				rotate_norm(x, c, c + half, half);
			else
				rotate_neox(x, x + half, c, c + half, half);
		}
	}
}

static void select_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct op_arg *o = arg;

	for (uint32_t r = row; r < end; r++)
		memcpy(cpu_row(&a->bufs[o->op->dst], r), cpu_row(&a->bufs[o->op->src0], o->b->out_rows[r]),
		       o->op->width * sizeof(float));
}

void cpu_finish(const struct accel *a, const struct cpu_mat *mat, uint32_t r0, uint32_t rows, float *y,
		size_t ldy, uint32_t cols)
{
	if (mat->bias == NULL && mat->scale == 1.0f && mat->clamp == 0 && mat->softcap == 0)
		return;
	for (uint32_t c = 0; c < cols; c++, y += ldy) {
		if (mat->bias != NULL)
			a->kern->add(y, mat->bias + r0, rows, y);
		for (uint32_t r = 0; mat->scale != 1.0f && r < rows; r++)
			y[r] *= mat->scale;
		for (uint32_t r = 0; mat->clamp != 0 && r < rows; r++)
			y[r] = y[r] > mat->clamp ? mat->clamp : y[r] < -mat->clamp ? -mat->clamp : y[r];
		if (mat->softcap != 0)
			a->kern->softcap(y, mat->softcap, rows, y);
	}
}

static struct cpu_product product_of(const struct accel *a, const struct model_op *op)
{
	return (struct cpu_product){
	    .mat = {.w = accel_row(op->w, op->row0),
		    .dtype = op->w->dtype,
		    .rows = op->rows,
		    .k = (uint32_t)op->w->ne[0],
		    .bias = op->b != NULL ? (const float *)op->b->data + op->row0 : NULL,
		    .scale = op->scale,
		    .clamp = op->clamp,
		    .softcap = op->softcap},
	    .y = a->bufs[op->dst].p,
	    .ldy = a->bufs[op->dst].ld,
	};
}

/* Whether `op` can share a round with the products ops[0, n): the same input, read by all of them, and
 * results of its own. */
static bool shares_input(const struct model_op *ops, uint32_t n, const struct model_op *op)
{
	if (op->kind != MODEL_OP_MATMUL || op->src0 != ops->src0 || op->w->dtype != ops->w->dtype)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (ops[i].dst == op->dst)
			return false;
	return true;
}

static uint32_t op_matmuls(struct accel *a, const struct model_op *ops, uint32_t n, uint32_t n_rows)
{
	const struct cpu_buf *x = &a->bufs[ops->src0];
	struct cpu_product products[CPU_PRODUCTS];
	uint32_t i = 0;

	do {
		products[i] = product_of(a, &ops[i]);
		i++;
	} while (i < n && i < CPU_PRODUCTS && shares_input(ops, i, &ops[i]));
	cpu_multiply_all(a, products, i, x->p, x->ld, n_rows);
	return i;
}

uint32_t cpu_run_ops(struct accel *a, const struct model_op *op, uint32_t n, const struct accel_batch *b,
		     uint32_t n_rows)
{
	struct op_arg arg = {.op = op, .b = b};

	switch (op->kind) {
	case MODEL_OP_EMBED:
		cpu_run_rows(a, embed_rows, &arg, n_rows, op->width * 8);
		break;
	case MODEL_OP_NORM:
		cpu_run_rows(a, norm_rows, &arg, n_rows, op->width);
		break;
	case MODEL_OP_MATMUL:
		return op_matmuls(a, op, n, n_rows);
	case MODEL_OP_ROPE:
		cpu_run_rows(a, rope_rows, &arg, n_rows, op->width);
		break;
	case MODEL_OP_ATTN:
		cpu_attention(a, op, n_rows);
		break;
	case MODEL_OP_ACT:
	case MODEL_OP_GLU:
		cpu_run_rows(a, elementwise_rows, &arg, n_rows, op->width * 4);
		break;
	case MODEL_OP_ADD:
		cpu_run_rows(a, elementwise_rows, &arg, n_rows, op->width);
		break;
	case MODEL_OP_MOE:
		cpu_moe(a, op, n_rows);
		break;
	case MODEL_OP_SELECT_ROWS:
		cpu_run_rows(a, select_rows, &arg, n_rows, op->width);
		break;
	case MODEL_OP_CROSS_KV:
		cpu_put_kv(a, op, n_rows);
		break;
	}
	return 1;
}
