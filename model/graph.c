/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/graph.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "model/arch.h"

/* Upper bounds of operations emitted for one block, and around the blocks. */
#define OPS_PER_BLOCK 20u
#define OPS_AROUND    6u

/* The buffers of every graph. BUF_NORM holds a sublayer's normed input, BUF_OUT its output. */
enum {
	BUF_X = MODEL_BUF_X,
	BUF_NORM,   /* [n_embd] */
	BUF_Q,      /* [n_heads * head_dim] */
	BUF_K,      /* [n_heads_kv * head_dim] */
	BUF_V,      /* [n_heads_kv * head_dim_v] */
	BUF_ATTN,   /* [n_heads * head_dim_v] */
	BUF_GATE,   /* [n_ff] */
	BUF_UP,     /* [n_ff] */
	BUF_OUT,    /* [n_embd] */
	BUF_LOGITS, /* [n_vocab] */
	N_BUFS,
};
static_assert(N_BUFS <= MODEL_MAX_BUFS, "buffer numbers fit the graph");

#define GLOBAL UINT32_MAX /* a tensor that belongs to no block */

/* The first error stays; after it every step does nothing, so steps are written one after another
 * and the result is looked at once. */
struct build {
	const struct gguf *g;
	const struct model_arch *arch;
	struct model_graph *graph;
	const struct model_hparams *hp;
	struct ps_err *err;
	uint32_t max_ops;
	bool *used; /* [n_tensors] */
	int rc;
};

static void ps_printf(3, 4) fail(struct build *b, int rc, const char *fmt, ...)
{
	char what[512];
	va_list ap;

	if (b->rc < 0)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	b->rc = ps_err_set(b->err, rc, "%.400s: %s", gguf_path(b->g), what);
}

/* ---- weights -------------------------------------------------------------------------------- */

static void weight_name(uint32_t layer, const char *suffix, char *buf, size_t cap)
{
	if (layer == GLOBAL)
		snprintf(buf, cap, "%s", suffix);
	else
		snprintf(buf, cap, "blk.%u.%s", layer, suffix);
}

static bool has_weight(const struct build *b, uint32_t layer, const char *suffix)
{
	char name[128];

	weight_name(layer, suffix, name, sizeof(name));
	return gguf_tensor(b->g, name) != NULL;
}

static void check_shape(struct build *b, const struct gguf_tensor *t, const uint64_t want[3])
{
	if (t->ne[0] != want[0] || t->ne[1] != want[1] || t->ne[2] != want[2] || t->ne[3] != 1)
		fail(b, -EBADMSG, "tensor '%s' is [%llu, %llu, %llu, %llu], expected [%llu, %llu, %llu]",
		     t->name, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
		     (unsigned long long)t->ne[2], (unsigned long long)t->ne[3], (unsigned long long)want[0],
		     (unsigned long long)want[1], (unsigned long long)want[2]);
}

static const struct gguf_tensor *find_weight(struct build *b, uint32_t layer, const char *suffix,
					     const uint64_t want[3])
{
	const struct gguf_tensor *t;
	char name[128];

	if (b->rc < 0)
		return NULL;
	weight_name(layer, suffix, name, sizeof(name));
	t = gguf_tensor(b->g, name);
	if (t == NULL) {
		fail(b, -EBADMSG, "tensor '%s' is missing", name);
		return NULL;
	}
	b->used[t - gguf_tensor_at(b->g, 0)] = true;
	check_shape(b, t, want);
	return t;
}

static const struct gguf_tensor *stack(struct build *b, uint32_t layer, const char *suffix, uint64_t in,
				       uint64_t out, uint64_t n)
{
	const uint64_t want[3] = {in, out, n};
	const struct gguf_tensor *t = find_weight(b, layer, suffix, want);
	char supported[128];

	if (t != NULL && !model_dtype_supported(t->dtype)) {
		model_dtype_list(supported, sizeof(supported));
		fail(b, -ENOTSUP, "tensor '%s' is %s; supported are %s", t->name, gguf_dtype_name(t->dtype),
		     supported);
	}
	return t;
}

static const struct gguf_tensor *matrix(struct build *b, uint32_t layer, const char *suffix, uint64_t in,
					uint64_t out)
{
	return stack(b, layer, suffix, in, out, 1);
}

static const struct gguf_tensor *vector(struct build *b, uint32_t layer, const char *suffix, uint64_t n)
{
	const uint64_t want[3] = {n, 1, 1};
	const struct gguf_tensor *t = find_weight(b, layer, suffix, want);

	if (t != NULL && t->dtype != GGUF_DT_F32)
		fail(b, -ENOTSUP, "tensor '%s' is %s; norms and biases are supported as F32", t->name,
		     gguf_dtype_name(t->dtype));
	return t;
}

/* `<stem>.bias`, or NULL where the file has none and the architecture can do without. */
static const struct gguf_tensor *bias(struct build *b, uint32_t layer, const char *stem, uint64_t n)
{
	char suffix[64];

	snprintf(suffix, sizeof(suffix), "%s.bias", stem);
	if (!b->arch->all_biases && !has_weight(b, layer, suffix))
		return NULL;
	return vector(b, layer, suffix, n);
}

/* ---- operations ----------------------------------------------------------------------------- */

static struct model_op *emit(struct build *b, enum model_op_kind kind, uint32_t layer, uint32_t dst,
			     uint32_t src0, uint32_t width)
{
	struct model_graph *gr = b->graph;
	struct model_op *op;

	CHECK(gr->n_ops < b->max_ops && dst < N_BUFS);
	op = &gr->ops[gr->n_ops++];
	*op = (struct model_op){
	    .kind = kind,
	    .dst = (uint8_t)dst,
	    .src0 = (uint8_t)src0,
	    .src1 = MODEL_BUF_NONE,
	    .src2 = MODEL_BUF_NONE,
	    .layer = layer == GLOBAL ? 0 : layer,
	    .width = width,
	    .scale = 1.0f,
	};
	CHECK(gr->buf_width[dst] == 0 || gr->buf_width[dst] == width);
	gr->buf_width[dst] = width;
	return op;
}

static void emit_norm(struct build *b, uint32_t layer, const char *stem, uint32_t dst, uint32_t src)
{
	struct model_op *op = emit(b, MODEL_OP_NORM, layer, dst, src, b->hp->n_embd);
	char suffix[64];

	snprintf(suffix, sizeof(suffix), "%s.weight", stem);
	op->norm = b->arch->norm;
	op->eps = b->hp->norm_eps;
	op->w = vector(b, layer, suffix, b->hp->n_embd);
	op->b = bias(b, layer, stem, b->hp->n_embd);
}

/* A matrix of its own, with a bias if the file has one. */
static void emit_matmul(struct build *b, uint32_t layer, const char *stem, uint32_t dst, uint32_t src,
			uint32_t in, uint32_t out)
{
	struct model_op *op = emit(b, MODEL_OP_MATMUL, layer, dst, src, out);
	char suffix[64];

	snprintf(suffix, sizeof(suffix), "%s.weight", stem);
	op->rows = out;
	op->w = matrix(b, layer, suffix, in, out);
	op->b = bias(b, layer, stem, out);
}

static void emit_fused_qkv(struct build *b, uint32_t layer, const uint32_t widths[3])
{
	uint32_t total = widths[0] + widths[1] + widths[2], row = 0;
	const struct gguf_tensor *w = matrix(b, layer, "attn_qkv.weight", b->hp->n_embd, total);
	const struct gguf_tensor *w_bias = bias(b, layer, "attn_qkv", total);

	for (uint32_t i = 0; i < 3; i++) {
		struct model_op *op = emit(b, MODEL_OP_MATMUL, layer, BUF_Q + i, BUF_NORM, widths[i]);

		op->w = w;
		op->b = w_bias;
		op->row0 = row;
		op->rows = widths[i];
		row += widths[i];
	}
}

static void emit_qkv(struct build *b, uint32_t layer)
{
	const struct model_hparams *hp = b->hp;
	const uint32_t widths[3] = {hp->n_heads * hp->head_dim, hp->n_heads_kv * hp->head_dim,
				    hp->n_heads_kv * hp->head_dim_v};

	if (has_weight(b, layer, "attn_qkv.weight")) {
		emit_fused_qkv(b, layer, widths);
		return;
	}
	if (!has_weight(b, layer, "attn_q.weight"))
		fail(b, -EBADMSG,
		     "tensors 'blk.%u.attn_q.weight' and 'blk.%u.attn_qkv.weight' are both missing", layer,
		     layer);
	emit_matmul(b, layer, "attn_q", BUF_Q, BUF_NORM, hp->n_embd, widths[0]);
	emit_matmul(b, layer, "attn_k", BUF_K, BUF_NORM, hp->n_embd, widths[1]);
	emit_matmul(b, layer, "attn_v", BUF_V, BUF_NORM, hp->n_embd, widths[2]);
}

static void emit_rope(struct build *b, uint32_t layer, uint32_t buf, uint32_t n_heads)
{
	struct model_op *op = emit(b, MODEL_OP_ROPE, layer, buf, buf, n_heads * b->hp->head_dim);

	op->n_heads = n_heads;
	op->head_dim = b->hp->head_dim;
}

static void emit_attention(struct build *b, uint32_t layer)
{
	const struct model_hparams *hp = b->hp;
	uint32_t width = hp->n_heads * hp->head_dim_v;
	struct model_op *op;

	emit_norm(b, layer, "attn_norm", BUF_NORM, BUF_X);
	emit_qkv(b, layer);
	if (b->arch->pos == MODEL_POS_ROPE) {
		emit_rope(b, layer, BUF_Q, hp->n_heads);
		emit_rope(b, layer, BUF_K, hp->n_heads_kv);
	}
	op = emit(b, MODEL_OP_ATTN, layer, BUF_ATTN, BUF_Q, width);
	op->src1 = BUF_K;
	op->src2 = BUF_V;
	op->n_heads = hp->n_heads;
	op->n_heads_kv = hp->n_heads_kv;
	op->head_dim = hp->head_dim;
	op->head_dim_v = hp->head_dim_v;
	op->attn_scale = 1.0f / sqrtf((float)hp->head_dim);
	op->causal = true;
	emit_matmul(b, layer, "attn_output", BUF_OUT, BUF_ATTN, width, hp->n_embd);
}

static void emit_add(struct build *b, uint32_t layer)
{
	emit(b, MODEL_OP_ADD, layer, BUF_X, BUF_X, b->hp->n_embd)->src1 = BUF_OUT;
}

static void emit_moe(struct build *b, uint32_t layer)
{
	const struct model_hparams *hp = b->hp;
	struct model_op *op = emit(b, MODEL_OP_MOE, layer, BUF_OUT, BUF_NORM, hp->n_embd);
	uint64_t n = hp->n_experts;

	op->act = b->arch->act;
	op->n_experts = hp->n_experts;
	op->n_experts_used = hp->n_experts_used;
	op->moe_norm_weights = b->arch->moe_norm_weights;
	op->w = matrix(b, layer, "ffn_gate_inp.weight", hp->n_embd, n);
	op->w_gate = stack(b, layer, "ffn_gate_exps.weight", hp->n_embd, hp->n_ff, n);
	op->w_up = stack(b, layer, "ffn_up_exps.weight", hp->n_embd, hp->n_ff, n);
	op->w_down = stack(b, layer, "ffn_down_exps.weight", hp->n_ff, hp->n_embd, n);
}

static void emit_dense_ffn(struct build *b, uint32_t layer)
{
	const struct model_hparams *hp = b->hp;
	struct model_op *op;
	uint32_t hidden = BUF_UP;

	emit_matmul(b, layer, "ffn_up", BUF_UP, BUF_NORM, hp->n_embd, hp->n_ff);
	if (b->arch->ffn_gated) {
		hidden = BUF_GATE;
		emit_matmul(b, layer, "ffn_gate", BUF_GATE, BUF_NORM, hp->n_embd, hp->n_ff);
		op = emit(b, MODEL_OP_GLU, layer, BUF_GATE, BUF_GATE, hp->n_ff);
		op->src1 = BUF_UP;
	} else {
		op = emit(b, MODEL_OP_ACT, layer, BUF_UP, BUF_UP, hp->n_ff);
	}
	op->act = b->arch->act;
	emit_matmul(b, layer, "ffn_down", BUF_OUT, hidden, hp->n_ff, hp->n_embd);
}

static void emit_block(struct build *b, uint32_t layer)
{
	emit_attention(b, layer);
	emit_add(b, layer);
	emit_norm(b, layer, "ffn_norm", BUF_NORM, BUF_X);
	if (b->hp->n_experts > 0)
		emit_moe(b, layer);
	else
		emit_dense_ffn(b, layer);
	emit_add(b, layer);
}

static void emit_embed(struct build *b)
{
	const struct model_hparams *hp = b->hp;
	struct model_op *op = emit(b, MODEL_OP_EMBED, GLOBAL, BUF_X, MODEL_BUF_NONE, hp->n_embd);

	op->w = matrix(b, GLOBAL, "token_embd.weight", hp->n_embd, hp->n_vocab);
	if (b->arch->pos == MODEL_POS_LEARNED)
		op->w2 = matrix(b, GLOBAL, "position_embd.weight", hp->n_embd, hp->n_ctx_max);
}

/* The rows nobody asked for are dropped before the norm, so that a prompt costs one row of the
 * head, the widest matrix of a small model. */
static void emit_head(struct build *b)
{
	const struct model_hparams *hp = b->hp;
	bool tied = !has_weight(b, GLOBAL, "output.weight");
	struct model_op *op;

	emit(b, MODEL_OP_SELECT_ROWS, GLOBAL, BUF_NORM, BUF_X, hp->n_embd);
	emit_norm(b, GLOBAL, "output_norm", BUF_OUT, BUF_NORM);
	op = emit(b, MODEL_OP_MATMUL, GLOBAL, BUF_LOGITS, BUF_OUT, hp->n_vocab);
	op->rows = hp->n_vocab;
	op->w = matrix(b, GLOBAL, tied ? "token_embd.weight" : "output.weight", hp->n_embd, hp->n_vocab);
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* Whether a tensor that this range did not use belongs to another range of the model. */
static bool belongs_elsewhere(const struct build *b, const char *name)
{
	static const char *const globals[] = {
	    "token_embd.weight", "position_embd.weight", "output_norm.weight",
	    "output_norm.bias",  "output.weight",        "rope_freqs.weight",
	};
	unsigned int layer;
	int n = 0;

	if (sscanf(name, "blk.%9u.%n", &layer, &n) == 1 && n > 0)
		return layer < b->hp->n_layers &&
		       (layer < b->graph->block_first || layer >= b->graph->block_last);
	for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]); i++) {
		if (strcmp(name, globals[i]) == 0)
			return true;
	}
	return false;
}

/* A weight that the graph would ignore means a model that we would compute wrongly. */
static void check_all_used(struct build *b)
{
	for (size_t i = 0; i < gguf_n_tensors(b->g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(b->g, i);

		if (!b->used[i] && !belongs_elsewhere(b, t->name))
			fail(b, -ENOTSUP,
			     "tensor '%s' is not part of architecture %s as it is "
			     "supported here",
			     t->name, b->hp->arch);
	}
}

static int build_ops(struct build *b)
{
	struct model_graph *gr = b->graph;

	gr->buf_width[BUF_X] = b->hp->n_embd;
	gr->n_bufs = N_BUFS;
	gr->out_buf = gr->has_head ? BUF_LOGITS : BUF_X;
	gr->out_width = gr->has_head ? b->hp->n_vocab : b->hp->n_embd;
	if (gr->has_embed)
		emit_embed(b);
	for (uint32_t layer = gr->block_first; layer < gr->block_last && b->rc == 0; layer++)
		emit_block(b, layer);
	if (gr->has_head)
		emit_head(b);
	check_all_used(b);
	return b->rc;
}

static int check_range(const struct gguf *g, const struct model_graph *gr, struct ps_err *err)
{
	if (gr->block_first < gr->block_last && gr->block_last <= gr->hp.n_layers)
		return 0;
	return ps_err_set(err, -EINVAL, "%.400s: blocks %u..%u are not a range of its %u blocks",
			  gguf_path(g), gr->block_first, gr->block_last, gr->hp.n_layers);
}

int model_graph_build(const struct gguf *g, uint32_t first, uint32_t last, struct model_graph **graph_out,
		      struct ps_err *err)
{
	struct build b = {.g = g, .err = err};
	struct model_graph *gr;
	int rc;

	CHECK(g != NULL && graph_out != NULL);
	*graph_out = NULL;
	gr = calloc(1, sizeof(*gr));
	if (gr == NULL)
		return ps_err_set(err, -ENOMEM, "%.400s: no memory for a graph", gguf_path(g));
	gr->gguf = g;
	gr->block_first = first;
	gr->block_last = last;
	rc = model_read_hparams(g, &gr->hp, err);
	if (rc == 0)
		rc = check_range(g, gr, err);
	if (rc < 0)
		goto out_graph;
	gr->has_embed = first == 0;
	gr->has_head = last == gr->hp.n_layers;
	b.graph = gr;
	b.hp = &gr->hp;
	b.arch = model_arch_find(gr->hp.arch, strlen(gr->hp.arch));
	b.max_ops = (last - first) * OPS_PER_BLOCK + OPS_AROUND;
	b.used = calloc(gguf_n_tensors(g) + 1, sizeof(*b.used));
	gr->ops = calloc(b.max_ops, sizeof(*gr->ops));
	if (b.used == NULL || gr->ops == NULL)
		rc = ps_err_set(err, -ENOMEM, "%.400s: no memory for a graph", gguf_path(g));
	else
		rc = build_ops(&b);
	free(b.used);
out_graph:
	if (rc < 0)
		model_graph_free(gr);
	else
		*graph_out = gr;
	return rc;
}

void model_graph_free(struct model_graph *graph)
{
	if (graph == NULL)
		return;
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

void model_graph_populate(const struct model_graph *graph)
{
	uint32_t i;

	for (i = 0; i < graph->n_ops; i++) {
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
