/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

/* Floats of keys and values below which attention stays on one thread, see cpu_multiply.c. */
#define MIN_CHUNK_FLOATS (12u << 10)
#define CHUNKS_A_THREAD  16u

/*
 * The work is cut into items: some neighbouring rows of one sequence, and one
 * head of keys and values with some of the query heads that read it, together
 * at most KERN_QUERIES queries. Heads run slowest.
 */
struct attn_job {
	struct accel *a;
	const struct model_op *op;
	struct accel_kv_cache cache;
	const float *rel; /* [n_heads, 2 * span]: biases by distance, or NULL */
	uint32_t group;   /* query heads of a head of keys and values */
	uint32_t heads;   /* of them in an item */
	uint32_t splits;  /* items that a group is cut into */
	uint32_t n_blocks;
	uint64_t n_items, items_a_chunk;
};

static void put_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct attn_job *job = arg;
	const struct accel_kv_cache *c = &job->cache;
	const struct kern_kv shape = {
	    .dtype = c->dtype, .k_dim = c->k_dim, .v_dim = c->v_dim, .v_pad = c->v_pad};

	for (uint32_t r = row; r < end; r++) {
		const struct accel_row *at = &a->slots.rows[r];
		const float *k = cpu_row(&a->bufs[job->op->src1], r),
			    *v = cpu_row(&a->bufs[job->op->src2], r);
		uint32_t slot = accel_kv_slot(job->op, at), pos = accel_kv_first(job->op, at) + at->pos;

		for (uint32_t h = 0; h < c->n_heads; h++)
			a->kern->kv_put(&shape, accel_kv_k(c, slot, h, pos), accel_kv_v(c, slot, h, pos),
					pos % ACCEL_KV_TILE, k + (size_t)h * c->k_dim,
					v + (size_t)h * c->v_dim);
	}
}

/* The positions that a row sees, and what its biases need. */
static void set_view(const struct attn_job *job, const struct accel_row *at, uint32_t head,
		     struct kern_query *q)
{
	const struct model_op *op = job->op;
	const struct accel *a = job->a;

	q->pos = at->pos;
	q->end = op->cross ? a->slots.enc_len[at->slot] : op->causal ? at->pos + 1 : at->seq_end;
	q->first = op->window != 0 && at->pos >= op->window ? at->pos - op->window + 1 : 0;
	q->slope = op->max_alibi_bias != 0 ? a->slopes[op->layer - a->graph->block_first][head] : 0;
	q->rel = job->rel == NULL ? NULL : job->rel + (size_t)head * 2 * a->rel_span + a->rel_span - at->pos;
}

/* Rows [row, row + n) by query heads [head, head + heads): neighbours see about the same. */
static uint32_t set_queries(const struct attn_job *job, const struct cpu_block *b, uint32_t head,
			    uint32_t heads, const struct cpu_thread *t)
{
	const struct accel *a = job->a;
	const struct model_op *op = job->op;
	uint32_t n = 0;

	for (uint32_t r = b->row; r < b->row + b->n_rows; r++) {
		for (uint32_t h = head; h < head + heads; h++, n++) {
			struct kern_query *q = &t->queries[n];
			const float *src = cpu_row(&a->bufs[op->src0], r) + (size_t)h * op->head_dim;
			float *dst = t->q + (size_t)n * op->head_dim;

			for (uint32_t i = 0; i < op->head_dim; i++)
				dst[i] = src[i] * op->attn_scale;
			q->q = dst;
			q->acc = t->acc + (size_t)n * job->cache.v_pad;
			set_view(job, &a->slots.rows[r], h, q);
		}
	}
	return n;
}

static void get_results(const struct attn_job *job, const struct cpu_block *b, uint32_t head, uint32_t heads,
			const struct cpu_thread *t)
{
	const struct model_op *op = job->op;
	uint32_t n = 0;

	for (uint32_t r = b->row; r < b->row + b->n_rows; r++)
		for (uint32_t h = head; h < head + heads; h++, n++)
			memcpy(cpu_row(&job->a->bufs[op->dst], r) + (size_t)h * op->head_dim_v,
			       t->queries[n].acc, op->head_dim_v * sizeof(float));
}

static void attend(const struct attn_job *job, uint64_t item, const struct cpu_thread *t)
{
	const struct accel_kv_cache *c = &job->cache;
	const struct cpu_block *b = &job->a->blocks[item % job->n_blocks];
	uint32_t part = (uint32_t)(item / job->n_blocks), kv_head = part / job->splits;
	uint32_t first = part % job->splits * job->heads;
	uint32_t heads = job->group - first < job->heads ? job->group - first : job->heads;
	uint32_t head = kv_head * job->group + first;
	const struct accel_row *at = &job->a->slots.rows[b->row];
	uint32_t slot = accel_kv_slot(job->op, at), pos = accel_kv_first(job->op, at);
	struct kern_attn k = {
	    .dtype = c->dtype,
	    .k = accel_kv_k(c, slot, kv_head, pos),
	    .v = accel_kv_v(c, slot, kv_head, pos),
	    .k_tile = c->k_tile,
	    .v_tile = c->v_tile,
	    .k_dim = c->k_dim,
	    .v_pad = c->v_pad,
	    .softcap = job->op->softcap,
	    .queries = t->queries,
	    .scores = t->scores,
	    .k_expanded = t->k_expanded,
	    .v_expanded = t->v_expanded,
	    .scales = t->scales,
	};

	k.n = set_queries(job, b, head, heads, t);
	job->a->kern->attn(&k);
	get_results(job, b, head, heads, t);
}

static void attn_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
	const struct attn_job *job = ctx;
	uint64_t first = chunk * job->items_a_chunk;
	uint64_t end = job->n_items - first < job->items_a_chunk ? job->n_items : first + job->items_a_chunk;

	for (uint64_t i = first; i < end; i++)
		attend(job, i, &job->a->threads[thread]);
}

/* Cuts the batch into blocks of at most `most` rows that follow each other in a sequence. */
static uint32_t cut_blocks(struct accel *a, uint32_t n_rows, uint32_t most)
{
	uint32_t n = 0;

	for (uint32_t r = 0; r < n_rows; r++) {
		const struct accel_row *at = &a->slots.rows[r];

		if (n > 0 && a->blocks[n - 1].n_rows < most && at[-1].slot == at->slot &&
		    at[-1].pos + 1 == at->pos)
			a->blocks[n - 1].n_rows++;
		else
			a->blocks[n++] = (struct cpu_block){.row = r, .n_rows = 1};
	}
	return n;
}

static uint64_t items_a_chunk(const struct attn_job *job, uint64_t floats)
{
	uint32_t threads = pool_n_threads(job->a->pool);
	uint64_t chunks = floats / MIN_CHUNK_FLOATS;

	if (threads == 1 || chunks <= 1)
		return job->n_items;
	if (chunks > (uint64_t)threads * CHUNKS_A_THREAD)
		chunks = (uint64_t)threads * CHUNKS_A_THREAD;
	return (job->n_items + chunks - 1) / chunks;
}

/* Floats of keys and values that the queries go through. */
static uint64_t count_floats(const struct attn_job *job, uint32_t n_rows)
{
	uint64_t positions = 0;

	for (uint32_t r = 0; r < n_rows; r++) {
		struct kern_query q;

		set_view(job, &job->a->slots.rows[r], 0, &q);
		positions += q.end - q.first;
	}
	return positions * job->op->n_heads * (job->cache.k_dim + job->cache.v_pad);
}

/* As many query heads share an item as fit, unless threads would have nothing to do then. */
static void cut_items(struct attn_job *job, uint32_t n_rows)
{
	uint64_t floats = count_floats(job, n_rows);
	uint32_t threads = pool_n_threads(job->a->pool);

	job->heads = job->group < KERN_QUERIES ? job->group : KERN_QUERIES;
	job->n_blocks = cut_blocks(job->a, n_rows, KERN_QUERIES / job->heads);
	while (floats / MIN_CHUNK_FLOATS > 1 && job->heads > 1 &&
	       (uint64_t)job->n_blocks * job->cache.n_heads * ((job->group + job->heads - 1) / job->heads) <
		   threads)
		job->heads = (job->heads + 1) / 2;
	job->splits = (job->group + job->heads - 1) / job->heads;
	job->n_items = (uint64_t)job->n_blocks * job->cache.n_heads * job->splits;
	job->items_a_chunk = items_a_chunk(job, floats);
}

static const float *find_rel(const struct accel *a, const struct model_op *op)
{
	for (uint32_t i = 0; op->rel_bias != NULL && i < a->n_rels; i++)
		if (a->rels[i].op->rel_bias == op->rel_bias && a->rels[i].op->causal == op->causal &&
		    a->rels[i].op->rel_max_distance == op->rel_max_distance)
			return a->rels[i].table;
	return NULL;
}

void cpu_attention(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	struct attn_job job = {
	    .a = a,
	    .op = op,
	    .cache = accel_kv_of(&a->kv, op),
	    .rel = find_rel(a, op),
	    .group = op->n_heads / op->n_heads_kv,
	};

	if (!op->cross)
		cpu_put_kv(a, op, n_rows);
	cut_items(&job, n_rows);
	pool_run(a->pool, attn_chunk, &job,
		 (uint32_t)((job.n_items + job.items_a_chunk - 1) / job.items_a_chunk));
}

void cpu_put_kv(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	struct attn_job job = {.a = a, .op = op, .cache = accel_kv_of(&a->kv, op)};

	cpu_run_rows(a, put_rows, &job, n_rows, op->n_heads_kv * (op->head_dim + op->head_dim_v));
}

/* ---- what open prepares ---------------------------------------------------------------------- */

static int rel_init(struct accel *a, const struct model_op *op)
{
	const float *w = op->rel_bias->data; /* [n_buckets, n_heads] */
	uint32_t n_buckets = (uint32_t)op->rel_bias->ne[1];
	struct cpu_rel *rel = &a->rels[a->n_rels];

	rel->op = op;
	rel->table = accel_host_alloc(op->n_heads, 2 * a->rel_span * sizeof(float));
	if (rel->table == NULL)
		return -1;
	a->n_rels++;
	a->scratch_bytes += op->n_heads * 2 * a->rel_span * sizeof(float);
	for (uint64_t i = 0; i < 2 * a->rel_span; i++) {
		uint32_t bucket = model_rel_bucket((int64_t)i - (int64_t)a->rel_span, n_buckets,
						   op->rel_max_distance, !op->causal);

		for (uint32_t h = 0; bucket < n_buckets && h < op->n_heads; h++)
			rel->table[h * 2 * a->rel_span + i] = w[(size_t)bucket * op->n_heads + h];
	}
	return 0;
}

static int slopes_init(struct accel *a, const struct model_op *op)
{
	float *slopes = calloc(op->n_heads, sizeof(*slopes));

	if (slopes == NULL)
		return -1;
	for (uint32_t h = 0; h < op->n_heads; h++)
		slopes[h] = (float)model_alibi_slope(h, op->n_heads, (double)op->max_alibi_bias);
	free(a->slopes[op->layer - a->graph->block_first]);
	a->slopes[op->layer - a->graph->block_first] = slopes;
	return 0;
}

static int pass_init(struct accel *a, const struct model_graph *g)
{
	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];

		if (op->kind != MODEL_OP_ATTN)
			continue;
		if (op->rel_bias != NULL && find_rel(a, op) == NULL && rel_init(a, op) != 0)
			return -1;
		if (op->max_alibi_bias != 0 && slopes_init(a, op) != 0)
			return -1;
	}
	return 0;
}

int cpu_attention_init(struct accel *a)
{
	uint32_t n_attn = 0;

	for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++) {
		const struct model_graph *g = model_graph_pass(a->graph, (enum model_pass)pass);

		for (uint32_t i = 0; g != NULL && i < g->n_ops; i++)
			n_attn += g->ops[i].kind == MODEL_OP_ATTN;
	}
	/* A kernel reads whole tiles of biases on both sides. */
	a->rel_span = (uint64_t)a->slots.n_ctx + ACCEL_KV_TILE;
	a->rels = calloc(n_attn + 1, sizeof(*a->rels));
	a->slopes = calloc(a->graph->block_last - a->graph->block_first, sizeof(*a->slopes));
	a->blocks = calloc(a->slots.max_tokens, sizeof(*a->blocks));
	if (a->rels == NULL || a->slopes == NULL || a->blocks == NULL)
		return -1;
	for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++) {
		const struct model_graph *g = model_graph_pass(a->graph, (enum model_pass)pass);

		if (g != NULL && pass_init(a, g) != 0)
			return -1;
	}
	return 0;
}

void cpu_attention_fini(struct accel *a)
{
	for (uint32_t i = 0; i < a->n_rels; i++)
		accel_host_free(a->rels[i].table, a->rels[i].op->n_heads, 2 * a->rel_span * sizeof(float));
	for (uint32_t i = 0; a->slopes != NULL && i < a->graph->block_last - a->graph->block_first; i++)
		free(a->slopes[i]);
	free(a->rels);
	free(a->slopes);
	free(a->blocks);
}
