/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/cpu/cpu.h"

#include <string.h>

/* Floats of keys and values below which attention stays on one thread, see cpu_multiply.c. */
#define MIN_CHUNK_FLOATS (12u << 10)
#define CHUNKS_A_THREAD  8u

/* Items are pairs of head and row, row running first: neighbours read the same keys. */
struct attn_job {
	struct accel *a;
	const struct model_op *op;
	const struct accel_kv_layer *layer;
	uint32_t n_rows;
	uint64_t n_items;
	uint64_t items_a_chunk;
};

static void append_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct attn_job *job = arg;
	const struct accel_kv_layer *l = job->layer;

	for (uint32_t r = row; r < end; r++) {
		const struct accel_row *at = &a->slots.rows[r];
		const float *k = cpu_row(&a->bufs[job->op->src1], r),
			    *v = cpu_row(&a->bufs[job->op->src2], r);

		for (uint32_t h = 0; h < l->n_heads_kv; h++) {
			memcpy(accel_kv_k(&a->kv, l, at->slot, h) + (size_t)at->pos * l->k_pad,
			       k + (size_t)h * l->k_dim, l->k_dim * sizeof(float));
			memcpy(accel_kv_v(&a->kv, l, at->slot, h) + (size_t)at->pos * l->v_pad,
			       v + (size_t)h * l->v_dim, l->v_dim * sizeof(float));
		}
	}
}

static void attend(const struct attn_job *job, uint32_t row, uint32_t head, const struct cpu_thread *t)
{
	struct accel *a = job->a;
	const struct model_op *op = job->op;
	const struct accel_kv_layer *l = job->layer;
	const struct accel_row *at = &a->slots.rows[row];
	uint32_t kv_head = head / (op->n_heads / op->n_heads_kv);
	struct kern_attn k = {
	    .q = cpu_row(&a->bufs[op->src0], row) + (size_t)head * op->head_dim,
	    .k = accel_kv_k(&a->kv, l, at->slot, kv_head),
	    .v = accel_kv_v(&a->kv, l, at->slot, kv_head),
	    .n = op->causal ? at->pos + 1 : at->seq_end,
	    .k_pad = l->k_pad,
	    .v_pad = l->v_pad,
	    .scale = op->attn_scale,
	    .scores = t->scores,
	    .out = cpu_row(&a->bufs[op->dst], row) + (size_t)head * op->head_dim_v,
	};
	float *result = k.out;

	/* An odd head lies unpadded between its neighbours. */
	if (l->k_pad != l->k_dim) {
		memcpy(t->head, k.q, l->k_dim * sizeof(float));
		memset(t->head + l->k_dim, 0, (l->k_pad - l->k_dim) * sizeof(float));
		k.q = t->head;
	}
	if (l->v_pad != l->v_dim)
		k.out = t->head + a->head_pad;
	a->kern->attn(&k);
	if (k.out != result)
		memcpy(result, k.out, l->v_dim * sizeof(float));
}

static void attn_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
	const struct attn_job *job = ctx;
	uint64_t first = chunk * job->items_a_chunk;
	uint64_t end = job->n_items - first < job->items_a_chunk ? job->n_items : first + job->items_a_chunk;

	for (uint64_t i = first; i < end; i++)
		attend(job, (uint32_t)(i % job->n_rows), (uint32_t)(i / job->n_rows),
		       &job->a->threads[thread]);
}

static uint64_t items_a_chunk(const struct accel *a, const struct attn_job *job)
{
	uint32_t threads = pool_n_threads(a->pool);
	uint64_t floats = 0, chunks;

	for (uint32_t r = 0; r < job->n_rows; r++)
		floats += a->slots.rows[r].pos + 1;
	floats *= (uint64_t)job->op->n_heads * (job->layer->k_pad + job->layer->v_pad);
	chunks = floats / MIN_CHUNK_FLOATS;
	if (threads == 1 || chunks <= 1)
		return job->n_items;
	if (chunks > (uint64_t)threads * CHUNKS_A_THREAD)
		chunks = (uint64_t)threads * CHUNKS_A_THREAD;
	return (job->n_items + chunks - 1) / chunks;
}

void cpu_attention(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	struct attn_job job = {
	    .a = a,
	    .op = op,
	    .layer = accel_kv_layer_of(&a->kv, op->layer),
	    .n_rows = n_rows,
	    .n_items = (uint64_t)n_rows * op->n_heads,
	};

	cpu_run_rows(a, append_rows, &job, n_rows, op->n_heads_kv * (op->head_dim + op->head_dim_v));
	job.items_a_chunk = items_a_chunk(a, &job);
	pool_run(a->pool, attn_chunk, &job,
		 (uint32_t)((job.n_items + job.items_a_chunk - 1) / job.items_a_chunk));
}
