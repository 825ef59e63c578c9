/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/graph.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "model/build.h"

static_assert(N_BUFS <= MODEL_MAX_BUFS, "buffer numbers fit the graph");

/* ---- the whole model ------------------------------------------------------------------------ */

static bool has_pass(const struct model_hparams *hp, enum model_pass pass)
{
	switch (pass) {
	case MODEL_PASS_MAIN:
		return true;
	case MODEL_PASS_ENCODE:
		return hp->n_layers_enc != 0;
	case MODEL_PASS_FILL:
		return hp->has_fill;
	case MODEL_N_PASSES:
		break;
	}
	return false;
}

/* All passes over all blocks. */
static int build_whole(struct model_build *b)
{
	for (uint32_t i = 0; i < MODEL_N_PASSES && b->rc == 0; i++) {
		if (!has_pass(&b->hp, (enum model_pass)i))
			continue;
		b->at = &b->passes[i];
		b->at->starts = calloc((size_t)b->hp.n_layers + 1, sizeof(*b->at->starts));
		if (b->at->starts == NULL)
			model_build_fail(b, -ENOMEM, "no memory for a graph");
		else
			model_build_pass(b, (enum model_pass)i);
	}
	if (b->rc == 0)
		model_check_all_used(b);
	return b->rc;
}

static void free_whole(struct model_build *b)
{
	for (uint32_t i = 0; i < MODEL_N_PASSES; i++) {
		free(b->passes[i].ops);
		free(b->passes[i].starts);
	}
	free(b->used);
}

/* ---- a range of it -------------------------------------------------------------------------- */

/* The operations of blocks [first, last) with the ends that lie there. */
static int cut_ops(const struct model_build *b, const struct model_ops *pass, struct model_graph *gr)
{
	uint32_t from = pass->starts[gr->block_first];
	uint32_t to = gr->block_last == b->hp.n_layers ? pass->n : pass->starts[gr->block_last];

	gr->n_ops = to - from;
	if (gr->n_ops == 0)
		return 0;
	gr->ops = calloc(gr->n_ops, sizeof(*gr->ops));
	if (gr->ops == NULL)
		return ps_err_set(b->err, -ENOMEM, "%.400s: no memory for a graph", gguf_path(b->g));
	memcpy(gr->ops, pass->ops + from, gr->n_ops * sizeof(*gr->ops));
	gr->has_embed = gr->ops[0].kind == MODEL_OP_EMBED;
	return 0;
}

static void set_output(const struct model_build *b, enum model_pass pass, struct model_graph *gr)
{
	const struct model_hparams *hp = &b->hp;
	bool hidden = pass == MODEL_PASS_MAIN && hp->task == MODEL_TASK_EMBED;

	gr->has_head = gr->block_last == hp->n_layers && pass != MODEL_PASS_ENCODE;
	gr->out_buf = BUF_X;
	gr->out_width = hp->n_embd;
	if (gr->has_head) {
		gr->out_buf = hidden ? BUF_HIDDEN : BUF_LOGITS;
		gr->out_width = hidden ? hp->n_embd : hp->n_vocab;
	}
}

/* A graph of one pass; buf_width grows by the buffers it uses. */
static int cut_pass(const struct model_build *b, enum model_pass pass, uint32_t first, uint32_t last,
		    uint32_t *buf_width, struct model_graph **graph_out)
{
	struct model_graph *gr = calloc(1, sizeof(*gr));
	int rc;

	*graph_out = gr;
	if (gr == NULL)
		return ps_err_set(b->err, -ENOMEM, "%.400s: no memory for a graph", gguf_path(b->g));
	gr->gguf = b->g;
	gr->hp = b->hp;
	gr->block_first = first;
	gr->block_last = last;
	gr->n_bufs = N_BUFS;
	set_output(b, pass, gr);
	rc = cut_ops(b, &b->passes[pass], gr);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < gr->n_ops; i++) {
		const struct model_op *op = &gr->ops[i];

		if (op->dst == MODEL_BUF_NONE)
			continue;
		CHECK(buf_width[op->dst] == 0 || buf_width[op->dst] == op->width);
		buf_width[op->dst] = op->width;
	}
	return 0;
}

/* The graphs of all passes of a range, which have the buffers of all of them. */
static int cut_range(const struct model_build *b, uint32_t first, uint32_t last,
		     struct model_graph **graph_out)
{
	struct model_graph *passes[MODEL_N_PASSES] = {NULL};
	uint32_t buf_width[MODEL_MAX_BUFS] = {[BUF_X] = b->hp.n_embd};
	int rc = 0;

	for (uint32_t i = 0; i < MODEL_N_PASSES && rc == 0; i++) {
		if (has_pass(&b->hp, (enum model_pass)i))
			rc = cut_pass(b, (enum model_pass)i, first, last, buf_width, &passes[i]);
	}
	for (uint32_t i = 0; i < MODEL_N_PASSES; i++) {
		if (passes[i] != NULL)
			memcpy(passes[i]->buf_width, buf_width, sizeof(buf_width));
	}
	*graph_out = passes[MODEL_PASS_MAIN];
	if (*graph_out != NULL) {
		(*graph_out)->encode = passes[MODEL_PASS_ENCODE];
		(*graph_out)->fill = passes[MODEL_PASS_FILL];
	}
	return rc;
}

int model_graph_build(const struct gguf *g, uint32_t first, uint32_t last, struct model_graph **graph_out,
		      struct ps_err *err)
{
	struct model_build b = {.g = g, .err = err};
	int rc;

	CHECK(g != NULL && graph_out != NULL);
	*graph_out = NULL;
	rc = model_read_details(g, &b.hp, &b.d, err);
	if (rc < 0)
		return rc;
	if (first >= last || last > b.hp.n_layers)
		return ps_err_set(err, -EINVAL, "%.400s: blocks %u..%u are not a range of its %u blocks",
				  gguf_path(g), first, last, b.hp.n_layers);
	b.used = calloc(gguf_n_tensors(g) + 1, sizeof(*b.used));
	if (b.used == NULL)
		return ps_err_set(err, -ENOMEM, "%.400s: no memory for a graph", gguf_path(g));
	rc = build_whole(&b);
	if (rc == 0)
		rc = cut_range(&b, first, last, graph_out);
	free_whole(&b);
	if (rc < 0) {
		model_graph_free(*graph_out);
		*graph_out = NULL;
	}
	return rc;
}

void model_graph_free(struct model_graph *graph)
{
	if (graph == NULL)
		return;
	model_graph_free(graph->encode);
	model_graph_free(graph->fill);
	free(graph->ops);
	free(graph);
}

const char *model_op_name(enum model_op_kind kind)
{
	static const char *const names[] = {
	    [MODEL_OP_EMBED] = "embed",       [MODEL_OP_NORM] = "norm",
	    [MODEL_OP_MATMUL] = "matmul",     [MODEL_OP_ROPE] = "rope",
	    [MODEL_OP_ATTN] = "attn",         [MODEL_OP_ACT] = "act",
	    [MODEL_OP_GLU] = "glu",           [MODEL_OP_ADD] = "add",
	    [MODEL_OP_MOE] = "moe",           [MODEL_OP_SELECT_ROWS] = "select_rows",
	    [MODEL_OP_CROSS_KV] = "cross_kv",
	};

	CHECK((size_t)kind < sizeof(names) / sizeof(names[0]));
	return names[kind];
}

static void populate_tensor(const struct gguf_tensor *t)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start, end;

	if (t == NULL)
		return;
	start = (uintptr_t)t->data & ~(page - 1);
	end = (uintptr_t)t->data + t->n_bytes;
	if (madvise((void *)start, end - start, MADV_POPULATE_READ) != 0)
		(void)madvise((void *)start, end - start, MADV_WILLNEED);
}

static void populate_pass(const struct model_graph *graph)
{
	for (uint32_t i = 0; i < graph->n_ops; i++) {
		const struct model_op *op = &graph->ops[i];

		if (op->kind == MODEL_OP_EMBED)
			continue;
		populate_tensor(op->w);
		populate_tensor(op->b);
		populate_tensor(op->w_gate);
		populate_tensor(op->w_up);
		populate_tensor(op->w_down);
	}
}

void model_graph_populate(const struct model_graph *graph)
{
	for (uint32_t i = 0; i < MODEL_N_PASSES; i++) {
		const struct model_graph *pass = model_graph_pass(graph, (enum model_pass)i);

		if (pass != NULL)
			populate_pass(pass);
	}
}
