/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/ref/ref.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void ref_close(struct accel *a)
{
	const struct model_graph *g = a->graph;

	for (uint32_t i = 0; i < g->n_bufs; i++)
		accel_host_free(a->bufs[i], a->slots.max_tokens, g->buf_width[i] * sizeof(float));
	accel_host_free(a->row, a->row_width, sizeof(float));
	accel_host_free(a->scores, a->slots.n_ctx, sizeof(double));
	accel_host_free(a->freqs[0], g->hp.rope.n_rot / 2, sizeof(double));
	accel_host_free(a->freqs[1], g->hp.rope_swa.n_rot / 2, sizeof(double));
	accel_host_free(a->head, a->head_dim, sizeof(float));
	accel_host_free(a->sums, a->head_dim, sizeof(double));
	accel_host_free(a->hidden[0], a->hidden_width, sizeof(float));
	accel_host_free(a->hidden[1], a->hidden_width, sizeof(float));
	accel_host_free(a->probs, a->n_probs, sizeof(double));
	accel_kv_fini(&a->kv);
	accel_slots_fini(&a->slots);
	free(a);
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

static void measure_pass(struct accel *a, const struct model_graph *g)
{
	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];

		if (op->kind == MODEL_OP_ATTN || op->kind == MODEL_OP_CROSS_KV)
			a->head_dim = max_u32(a->head_dim, max_u32(op->head_dim, op->head_dim_v));
		if (op->kind != MODEL_OP_MOE)
			continue;
		a->hidden_width = max_u32(a->hidden_width, (uint32_t)op->w_up->ne[1]);
		a->n_probs = max_u32(a->n_probs, op->n_experts);
	}
}

/* Lengths of the scratch vectors: the widest of every operation. */
static void measure(struct accel *a, const struct model_graph *g)
{
	a->row_width = 1;
	for (uint32_t i = 0; i < g->n_bufs; i++)
		a->row_width = max_u32(a->row_width, g->buf_width[i]);
	for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++)
		if (model_graph_pass(g, (enum model_pass)pass) != NULL)
			measure_pass(a, model_graph_pass(g, (enum model_pass)pass));
	a->row_width = max_u32(a->row_width, a->hidden_width);
}

static int allocate(struct accel *a, const struct accel_open_args *args)
{
	const struct model_graph *g = a->graph;

	if (accel_slots_init(&a->slots, args) != 0 || accel_kv_init(&a->kv, g, args) != 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->n_bufs; i++) {
		a->bufs[i] = accel_host_alloc(args->max_tokens, g->buf_width[i] * sizeof(float));
		if (a->bufs[i] == NULL)
			return -ENOMEM;
	}
	a->row = accel_host_alloc(a->row_width, sizeof(float));
	a->scores = accel_host_alloc(args->n_ctx, sizeof(double));
	a->freqs[0] = accel_host_alloc(g->hp.rope.n_rot / 2, sizeof(double));
	a->freqs[1] = accel_host_alloc(g->hp.rope_swa.n_rot / 2, sizeof(double));
	a->head = accel_host_alloc(a->head_dim, sizeof(float));
	a->sums = accel_host_alloc(a->head_dim, sizeof(double));
	a->hidden[0] = accel_host_alloc(a->hidden_width, sizeof(float));
	a->hidden[1] = accel_host_alloc(a->hidden_width, sizeof(float));
	a->probs = accel_host_alloc(a->n_probs, sizeof(double));
	if (a->row == NULL || a->scores == NULL || a->freqs[0] == NULL || a->freqs[1] == NULL ||
	    a->head == NULL || a->sums == NULL || a->hidden[0] == NULL || a->hidden[1] == NULL ||
	    a->probs == NULL)
		return -ENOMEM;
	return 0;
}

static int ref_open(const struct accel_open_args *args, const struct model_graph *graph,
		    struct accel **accel_out, struct ps_err *err)
{
	struct accel *a;
	int rc = accel_host_check_args(args, graph, err);

	if (rc != 0)
		return rc;
	a = calloc(1, sizeof(*a));
	if (a == NULL)
		return ps_err_set(err, -ENOMEM, "cpu-ref: no memory");
	a->graph = graph;
	a->trace = args->trace;
	measure(a, graph);
	if (allocate(a, args) != 0) {
		ref_close(a);
		return ps_err_set(err, -ENOMEM, "cpu-ref: no memory for %u slots of %u positions",
				  args->n_slots, args->n_ctx);
	}
	if (graph->hp.rope.kind != MODEL_ROPE_NONE)
		model_rope_freqs(&graph->hp.rope, args->n_ctx, a->freqs[0]);
	if (graph->hp.rope_swa.kind != MODEL_ROPE_NONE)
		model_rope_freqs(&graph->hp.rope_swa, args->n_ctx, a->freqs[1]);
	*accel_out = a;
	return 0;
}

static void ref_caps(const struct accel *a, struct accel_caps *out)
{
	const struct model_hparams *hp = &a->graph->hp;
	uint64_t scratch = ((uint64_t)a->row_width + a->head_dim + 2ull * a->hidden_width) * sizeof(float) +
			   ((uint64_t)a->slots.n_ctx + a->n_probs + a->head_dim + hp->rope.n_rot / 2 +
			    hp->rope_swa.n_rot / 2) *
			       sizeof(double);

	for (uint32_t i = 0; i < a->graph->n_bufs; i++)
		scratch += (uint64_t)a->slots.max_tokens * a->graph->buf_width[i] * sizeof(float);
	*out = (struct accel_caps){.device = "cpu-ref",
				   .isa = "plain loops",
				   .n_threads = 1,
				   .weight_bytes = accel_host_weight_bytes(a->graph),
				   .kv_bytes = a->kv.bytes,
				   .scratch_bytes = scratch};
}

static int ref_submit(struct accel *a, const struct accel_batch *b)
{
	const struct model_graph *g;
	uint32_t n_rows = b->n_tokens;
	int rc = accel_slots_begin(&a->slots, a->graph, b, &g);

	if (rc != 0)
		return rc;
	if (!g->has_embed)
		memcpy(a->bufs[MODEL_BUF_X], b->x_in,
		       (size_t)n_rows * g->buf_width[MODEL_BUF_X] * sizeof(float));
	for (uint32_t i = 0; i < g->n_ops; i++) {
		if (g->ops[i].kind == MODEL_OP_SELECT_ROWS)
			n_rows = b->n_out;
		ref_run_op(a, &g->ops[i], b, n_rows);
		if (a->trace.fn != NULL && g->ops[i].dst != MODEL_BUF_NONE)
			a->trace.fn(a->trace.ctx, &g->ops[i], a->bufs[g->ops[i].dst], g->ops[i].width,
				    n_rows);
	}
	if (n_rows > 0 && b->out != NULL)
		memcpy(b->out, a->bufs[g->out_buf], (size_t)n_rows * g->out_width * sizeof(float));
	a->done++;
	return 0;
}

static int ref_poll(struct accel *a)
{
	if (a->done == 0)
		return 0;
	a->done--;
	return 1;
}

static void ref_kv_trim(struct accel *a, uint32_t slot, uint32_t pos)
{
	accel_slots_trim(&a->slots, slot, pos);
}

static void ref_kv_copy(struct accel *a, uint32_t from, uint32_t to, uint32_t n)
{
	accel_kv_copy(&a->kv, from, to, accel_slots_copy(&a->slots, from, to, n));
}

const struct accel_ops accel_cpu_ref = {
    .name = "cpu-ref",
    .open = ref_open,
    .close = ref_close,
    .caps = ref_caps,
    .submit = ref_submit,
    .poll = ref_poll,
    .kv_trim = ref_kv_trim,
    .kv_copy = ref_kv_copy,
};
