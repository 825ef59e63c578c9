/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/cpu/cpu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t max_u32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* Counts what it allocates; NULL once anything failed. */
static void *scratch(struct accel *a, uint64_t n, uint64_t size)
{
	void *mem = accel_host_alloc(n, size);

	if (mem != NULL)
		a->scratch_bytes += n * size;
	return mem;
}

static int buf_init(struct accel *a, struct cpu_buf *b, uint32_t width)
{
	b->ld = cpu_ld(width);
	b->p = scratch(a, a->slots.max_tokens, b->ld * sizeof(float));
	return b->p != NULL ? 0 : -ENOMEM;
}

static void buf_fini(struct accel *a, struct cpu_buf *b)
{
	accel_host_free(b->p, a->slots.max_tokens, b->ld * sizeof(float));
	*b = (struct cpu_buf){0};
}

static void measure_moe(struct cpu_moe *moe, const struct model_op *op)
{
	moe->n_experts = max_u32(moe->n_experts, op->n_experts);
	moe->n_in = max_u32(moe->n_in, (uint32_t)op->w->ne[0]);
	moe->n_ff = max_u32(moe->n_ff, (uint32_t)op->w_up->ne[1]);
	moe->n_out = max_u32(moe->n_out, op->width);
}

/* The longest of every kind of scratch vector. */
static void measure(struct accel *a)
{
	const struct model_graph *g = a->graph;
	uint32_t longest = 1;

	for (uint32_t i = 0; i < g->n_bufs; i++)
		if (i != g->out_buf || !g->has_head)
			longest = max_u32(longest, g->buf_width[i]);
	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];

		if (op->kind == MODEL_OP_MOE) {
			measure_moe(&a->moe, op);
			longest = max_u32(longest, a->moe.n_ff);
		}
		if (op->kind == MODEL_OP_ATTN)
			a->head_pad =
			    max_u32(a->head_pad, (uint32_t)cpu_pad(max_u32(op->head_dim, op->head_dim_v)));
		a->has_rope |= op->kind == MODEL_OP_ROPE;
	}
	a->ldp = cpu_ld(longest);
	a->n_scores = (uint32_t)cpu_pad(a->slots.n_ctx);
}

static int init_bufs(struct accel *a)
{
	const struct model_graph *g = a->graph;

	for (uint32_t i = 0; i < g->n_bufs; i++) {
		if (g->has_head && i == g->out_buf)
			continue; /* logits go straight to the caller's memory */
		if (buf_init(a, &a->bufs[i], g->buf_width[i]) != 0)
			return -ENOMEM;
	}
	if (g->has_embed && g->ops[0].w2 != NULL)
		return buf_init(a, &a->embed2, g->ops[0].width);
	return 0;
}

static int init_moe(struct accel *a)
{
	struct cpu_moe *moe = &a->moe;

	if (moe->n_experts == 0)
		return 0;
	moe->rows = scratch(a, a->slots.max_tokens, sizeof(*moe->rows));
	if (moe->rows == NULL || buf_init(a, &moe->logits, moe->n_experts) != 0 ||
	    buf_init(a, &moe->in, moe->n_in) != 0 || buf_init(a, &moe->gate, moe->n_ff) != 0 ||
	    buf_init(a, &moe->up, moe->n_ff) != 0 || buf_init(a, &moe->out, moe->n_out) != 0)
		return -ENOMEM;
	return 0;
}

static int init_q8(struct accel *a)
{
	struct cpu_q8 *q8 = &a->q8;

	q8->ldq = a->ldp + 64 - a->ldp % 64;
	q8->lds = cpu_pad(a->ldp / 32 + 1);
	q8->q = scratch(a, a->slots.max_tokens, q8->ldq);
	q8->scale = scratch(a, a->slots.max_tokens, q8->lds * sizeof(float));
	q8->bias = scratch(a, a->slots.max_tokens, q8->lds * sizeof(int32_t));
	return q8->q != NULL && q8->scale != NULL && q8->bias != NULL ? 0 : -ENOMEM;
}

static int init_threads(struct accel *a)
{
	uint32_t n = pool_n_threads(a->pool);

	a->threads = calloc(n, sizeof(*a->threads));
	if (a->threads == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		struct cpu_thread *t = &a->threads[i];

		t->panel = scratch(a, KERN_PANEL, a->ldp * sizeof(float));
		t->sums = scratch(a, KERN_PANEL * KERN_COLS, a->kern->lanes * sizeof(float));
		t->scores = scratch(a, a->n_scores, sizeof(float));
		t->head = scratch(a, 2, a->head_pad * sizeof(float));
		if (t->panel == NULL || t->sums == NULL || t->scores == NULL || t->head == NULL)
			return -ENOMEM;
	}
	return 0;
}

static int init_rope(struct accel *a)
{
	uint32_t n_rot = a->graph->hp.rope.n_rot;

	if (!a->has_rope)
		return 0;
	a->freqs = scratch(a, n_rot / 2, sizeof(double));
	a->rope = scratch(a, a->slots.max_tokens, n_rot * sizeof(float));
	if (a->freqs == NULL || a->rope == NULL)
		return -ENOMEM;
	model_rope_freqs(&a->graph->hp.rope, a->slots.n_ctx, a->freqs);
	return 0;
}

static void fini_threads(struct accel *a)
{
	if (a->threads == NULL)
		return;
	for (uint32_t i = 0; i < pool_n_threads(a->pool); i++) {
		struct cpu_thread *t = &a->threads[i];

		accel_host_free(t->panel, KERN_PANEL, a->ldp * sizeof(float));
		accel_host_free(t->sums, KERN_PANEL * KERN_COLS, a->kern->lanes * sizeof(float));
		accel_host_free(t->scores, a->n_scores, sizeof(float));
		accel_host_free(t->head, 2, a->head_pad * sizeof(float));
	}
	free(a->threads);
}

static void cpu_close(struct accel *a)
{
	uint32_t rows = a->slots.max_tokens, n_rot = a->graph->hp.rope.n_rot;

	fini_threads(a);
	for (uint32_t i = 0; i < MODEL_MAX_BUFS; i++)
		buf_fini(a, &a->bufs[i]);
	buf_fini(a, &a->embed2);
	buf_fini(a, &a->moe.logits);
	buf_fini(a, &a->moe.in);
	buf_fini(a, &a->moe.gate);
	buf_fini(a, &a->moe.up);
	buf_fini(a, &a->moe.out);
	accel_host_free(a->moe.rows, rows, sizeof(*a->moe.rows));
	accel_host_free(a->q8.q, rows, a->q8.ldq);
	accel_host_free(a->q8.scale, rows, a->q8.lds * sizeof(float));
	accel_host_free(a->q8.bias, rows, a->q8.lds * sizeof(int32_t));
	accel_host_free(a->freqs, n_rot / 2, sizeof(double));
	accel_host_free(a->rope, rows, n_rot * sizeof(float));
	accel_kv_fini(&a->kv);
	accel_slots_fini(&a->slots);
	if (a->pool != NULL)
		pool_close(a->pool);
	free(a);
}

static int init_memory(struct accel *a, const struct accel_open_args *args, struct ps_err *err)
{
	if (accel_slots_init(&a->slots, args) == 0) {
		measure(a);
		if (accel_kv_init(&a->kv, a->graph, args, KERN_PAD) == 0 && init_bufs(a) == 0 &&
		    init_moe(a) == 0 && init_q8(a) == 0 && init_threads(a) == 0 && init_rope(a) == 0)
			return 0;
	}
	return ps_err_set(err, -ENOMEM,
			  "cpu: no memory for %" PRIu32 " slots of %" PRIu32 " positions and batches of "
			  "%" PRIu32 " tokens",
			  args->n_slots, args->n_ctx, args->max_tokens);
}

static int cpu_open(const struct accel_open_args *args, const struct model_graph *graph,
		    struct accel **accel_out, struct ps_err *err)
{
	struct accel *a;
	int rc = accel_host_check_args(args, graph, err);

	if (rc != 0)
		return rc;
	a = calloc(1, sizeof(*a));
	if (a == NULL)
		return ps_err_set(err, -ENOMEM, "cpu: no memory");
	a->graph = graph;
	rc = kern_find(getenv("PENSTOCK_ISA"), &a->kern, err);
	if (rc == 0)
		rc = pool_open(args->n_threads, args->cores, &a->pool, err);
	if (rc == 0)
		rc = init_memory(a, args, err);
	if (rc != 0) {
		cpu_close(a);
		return rc;
	}
	*accel_out = a;
	return 0;
}

static void cpu_caps(const struct accel *a, struct accel_caps *out)
{
	*out = (struct accel_caps){.device = "cpu",
				   .n_threads = pool_n_threads(a->pool),
				   .weight_bytes = accel_host_weight_bytes(a->graph),
				   .kv_bytes = a->kv.bytes,
				   .scratch_bytes = a->scratch_bytes};
	snprintf(out->isa, sizeof(out->isa), "%s", a->kern->isa);
}

static void run(struct accel *a, const struct accel_batch *b)
{
	const struct model_graph *g = a->graph;
	uint32_t n_rows = b->n_tokens, n_embd = g->buf_width[MODEL_BUF_X];

	for (uint32_t r = 0; !g->has_embed && r < n_rows; r++)
		memcpy(cpu_row(&a->bufs[MODEL_BUF_X], r), b->x_in + (size_t)r * n_embd,
		       n_embd * sizeof(float));
	if (a->has_rope)
		cpu_rope_table(a, n_rows);
	for (uint32_t i = 0; i < g->n_ops; i++) {
		if (g->ops[i].kind == MODEL_OP_SELECT_ROWS)
			n_rows = b->n_out;
		cpu_run_op(a, &g->ops[i], b, n_rows);
	}
	for (uint32_t r = 0; !g->has_head && r < n_rows; r++)
		memcpy(b->out + (size_t)r * n_embd, cpu_row(&a->bufs[MODEL_BUF_X], r),
		       n_embd * sizeof(float));
}

static int cpu_submit(struct accel *a, const struct accel_batch *b)
{
	const struct model_graph *g = a->graph;
	int rc = accel_slots_begin(&a->slots, g, b);

	if (rc != 0)
		return rc;
	if (g->has_head)
		a->bufs[g->out_buf] = (struct cpu_buf){.p = b->out, .ld = g->out_width};
	pool_begin(a->pool);
	run(a, b);
	pool_end(a->pool);
	if (g->has_head)
		a->bufs[g->out_buf] = (struct cpu_buf){0};
	a->done++;
	return 0;
}

static int cpu_poll(struct accel *a)
{
	if (a->done == 0)
		return 0;
	a->done--;
	return 1;
}

static void cpu_kv_trim(struct accel *a, uint32_t slot, uint32_t pos)
{
	accel_slots_trim(&a->slots, slot, pos);
}

static void cpu_kv_copy(struct accel *a, uint32_t from, uint32_t to, uint32_t n)
{
	accel_kv_copy(&a->kv, from, to, accel_slots_copy(&a->slots, from, to, n));
}

const struct accel_ops accel_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .caps = cpu_caps,
    .submit = cpu_submit,
    .poll = cpu_poll,
    .kv_trim = cpu_kv_trim,
    .kv_copy = cpu_kv_copy,
};
