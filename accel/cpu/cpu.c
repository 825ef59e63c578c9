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

/* Whether out_buf is written by the last operation and used by no other: then no one needs its padding
 * and it can be the caller's memory. */
static bool writes_directly(const struct model_graph *g)
{
	if (!g->has_head)
		return false;
	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];

		if (op->src0 == g->out_buf || op->src1 == g->out_buf || op->src2 == g->out_buf ||
		    (op->dst == g->out_buf && i + 1 < g->n_ops))
			return false;
	}
	return true;
}

static void measure_pass(struct accel *a, const struct model_graph *g, uint32_t *longest)
{
	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];

		if (op->kind == MODEL_OP_MATMUL)
			*longest = max_u32(*longest, (uint32_t)op->w->ne[0]);
		if (op->kind == MODEL_OP_MOE) {
			measure_moe(&a->moe, op);
			*longest = max_u32(*longest, max_u32(a->moe.n_in, a->moe.n_ff));
		}
		if (op->kind == MODEL_OP_ATTN)
			a->head_pad =
			    max_u32(a->head_pad, (uint32_t)cpu_pad(max_u32(op->head_dim, op->head_dim_v)));
		if (op->kind == MODEL_OP_ROPE)
			a->rope[op->rope_swa].params =
			    op->rope_swa ? &a->graph->hp.rope_swa : &a->graph->hp.rope;
	}
}

/* The longest of every kind of scratch vector. */
static void measure(struct accel *a)
{
	uint32_t longest = 1;
	size_t quant_floats;

	for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++) {
		const struct model_graph *g = model_graph_pass(a->graph, (enum model_pass)pass);

		if (g == NULL)
			continue;
		measure_pass(a, g, &longest);
		a->direct[pass] = writes_directly(g);
	}
	a->head_pad = (a->head_pad + ACCEL_KV_BLOCK - 1) / ACCEL_KV_BLOCK * ACCEL_KV_BLOCK;
	a->ldp = cpu_ld(longest);
	a->panel_floats = KERN_PANEL * a->ldp;
	quant_floats = (size_t)kern_quant_groups(longest) * KERN_QUANT_PANEL_BYTES * KERN_PANEL /
		       KERN_QUANT_ROWS / sizeof(float);
	if (a->panel_floats < quant_floats)
		a->panel_floats = quant_floats;
}

static bool pass_uses(const struct model_graph *g, bool direct, uint32_t buf)
{
	if (g == NULL || (direct && buf == g->out_buf))
		return false;
	if (buf == MODEL_BUF_X)
		return true;
	for (uint32_t i = 0; i < g->n_ops; i++)
		if (g->ops[i].dst == buf || g->ops[i].src0 == buf || g->ops[i].src1 == buf ||
		    g->ops[i].src2 == buf)
			return true;
	return false;
}

static int init_bufs(struct accel *a)
{
	const struct model_graph *g = a->graph;

	for (uint32_t i = 0; i < g->n_bufs; i++) {
		bool used = false;

		for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++)
			used |= pass_uses(model_graph_pass(g, (enum model_pass)pass), a->direct[pass], i);
		if (used && buf_init(a, &a->bufs[i], g->buf_width[i]) != 0)
			return -ENOMEM;
	}
	return buf_init(a, &a->embed2, g->buf_width[MODEL_BUF_X]);
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
	uint64_t cols = (a->slots.max_tokens + KERN_QUANT_COLS - 1) / KERN_QUANT_COLS * KERN_QUANT_COLS;

	a->q8.n = cols * kern_quant_groups((uint32_t)a->ldp);
	a->q8.x = scratch(a, a->q8.n, sizeof(*a->q8.x));
	return a->q8.x != NULL ? 0 : -ENOMEM;
}

/* Floats of the scratch of attention, which is one piece. */
static uint64_t attention_floats(const struct accel *a)
{
	uint64_t head = a->head_pad;

	return 2 * KERN_QUERIES * head + 4 * ACCEL_KV_TILE + 2 * head * ACCEL_KV_TILE +
	       head / ACCEL_KV_BLOCK * ACCEL_KV_TILE;
}

static int init_attention(struct accel *a, struct cpu_thread *t)
{
	uint64_t head = a->head_pad;

	t->queries = scratch(a, KERN_QUERIES, sizeof(*t->queries));
	t->q = scratch(a, attention_floats(a), sizeof(float));
	if (t->queries == NULL || t->q == NULL)
		return -ENOMEM;
	t->acc = t->q + KERN_QUERIES * head;
	t->scores = t->acc + KERN_QUERIES * head;
	t->k_expanded = t->scores + 4 * ACCEL_KV_TILE;
	t->v_expanded = t->k_expanded + head * ACCEL_KV_TILE;
	t->scales = t->v_expanded + head * ACCEL_KV_TILE;
	return 0;
}

static int init_threads(struct accel *a)
{
	uint32_t n = pool_n_threads(a->pool);

	a->threads = calloc(n, sizeof(*a->threads));
	if (a->threads == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		struct cpu_thread *t = &a->threads[i];

		t->panel = scratch(a, a->panel_floats, sizeof(float));
		t->sums = scratch(a, KERN_PANEL * KERN_COLS, a->kern->lanes * sizeof(float));
		if (t->panel == NULL || t->sums == NULL || init_attention(a, t) != 0)
			return -ENOMEM;
	}
	return 0;
}

static int init_rope(struct accel *a)
{
	for (int i = 0; i < 2; i++) {
		struct cpu_rope *rope = &a->rope[i];

		if (rope->params == NULL)
			continue;
		rope->freqs = scratch(a, rope->params->n_rot / 2, sizeof(double));
		rope->table = scratch(a, a->slots.max_tokens, rope->params->n_rot * sizeof(float));
		if (rope->freqs == NULL || rope->table == NULL)
			return -ENOMEM;
		model_rope_freqs(rope->params, a->slots.n_ctx, rope->freqs);
	}
	return 0;
}

static void fini_rope(struct accel *a)
{
	for (int i = 0; i < 2; i++) {
		struct cpu_rope *rope = &a->rope[i];

		if (rope->params == NULL)
			continue;
		accel_host_free(rope->freqs, rope->params->n_rot / 2, sizeof(double));
		accel_host_free(rope->table, a->slots.max_tokens, rope->params->n_rot * sizeof(float));
	}
}

static void fini_threads(struct accel *a)
{
	if (a->threads == NULL)
		return;
	for (uint32_t i = 0; i < pool_n_threads(a->pool); i++) {
		struct cpu_thread *t = &a->threads[i];

		accel_host_free(t->panel, a->panel_floats, sizeof(float));
		accel_host_free(t->sums, KERN_PANEL * KERN_COLS, a->kern->lanes * sizeof(float));
		accel_host_free(t->queries, KERN_QUERIES, sizeof(*t->queries));
		accel_host_free(t->q, attention_floats(a), sizeof(float));
	}
	free(a->threads);
}

static void cpu_close(struct accel *a)
{
	uint32_t rows = a->slots.max_tokens;

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
	accel_host_free(a->q8.x, a->q8.n, sizeof(*a->q8.x));
	fini_rope(a);
	cpu_attention_fini(a);
	cpu_k_fini(a);
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
		if (accel_kv_init(&a->kv, a->graph, args) == 0 && init_bufs(a) == 0 && init_moe(a) == 0 &&
		    init_q8(a) == 0 && init_threads(a) == 0 && cpu_k_init(a) == 0 && init_rope(a) == 0 &&
		    cpu_attention_init(a) == 0)
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
	a->trace = args->trace;
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

static void run(struct accel *a, const struct model_graph *g, const struct accel_batch *b)
{
	uint32_t n_rows = b->n_tokens, n_embd = g->buf_width[MODEL_BUF_X];

	a->q8.src = a->k.src = NULL;
	for (uint32_t r = 0; !g->has_embed && r < n_rows; r++)
		memcpy(cpu_row(&a->bufs[MODEL_BUF_X], r), b->x_in + (size_t)r * n_embd,
		       n_embd * sizeof(float));
	if (g->n_ops > 0)
		cpu_rope_tables(a, n_rows);
	for (uint32_t i = 0; i < g->n_ops;) {
		uint32_t end;

		if (g->ops[i].kind == MODEL_OP_SELECT_ROWS)
			n_rows = b->n_out;
		end = i + cpu_run_ops(a, &g->ops[i], g->n_ops - i, b, n_rows);
		for (; i < end; i++) {
			if (g->ops[i].dst == MODEL_BUF_NONE)
				continue;
			cpu_q8_forget(a, a->bufs[g->ops[i].dst].p);
			if (a->trace.fn != NULL)
				a->trace.fn(a->trace.ctx, &g->ops[i], a->bufs[g->ops[i].dst].p,
					    a->bufs[g->ops[i].dst].ld, n_rows);
		}
	}
	for (uint32_t r = 0; !a->direct[b->pass] && b->out != NULL && r < n_rows; r++)
		memcpy(b->out + (size_t)r * g->out_width, cpu_row(&a->bufs[g->out_buf], r),
		       g->out_width * sizeof(float));
}

static int cpu_submit(struct accel *a, const struct accel_batch *b)
{
	const struct model_graph *g;
	int rc = accel_slots_begin(&a->slots, a->graph, b, &g);
	struct cpu_buf saved;

	if (rc != 0)
		return rc;
	saved = a->bufs[g->out_buf];
	if (a->direct[b->pass])
		a->bufs[g->out_buf] = (struct cpu_buf){.p = b->out, .ld = g->out_width};
	pool_begin(a->pool);
	run(a, g, b);
	pool_end(a->pool);
	a->bufs[g->out_buf] = saved;
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
