/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checks of a graph and of the open arguments, and the weight bytes of a
 * graph. model_graph_build makes only graphs that pass; this is what keeps a
 * mistake there, or an operation added later, from becoming a wild read here.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "accel/host.h"
#include "accel/weights.h"

#define MAX_HEAD_DIM 1024u
#define MAX_HEADS    4096u
#define MAX_BUCKETS  65536u
#define MAX_EXPERTS  1024u
#define MAX_OPS      (1u << 20)

struct check {
	const struct model_graph *g;
	const struct model_op *op;
	uint32_t index;
	enum model_pass pass;
	uint32_t attn_next; /* blocks whose attention may still come; they must come in order */
	bool whole;         /* an attention without causality came by */
	bool causal;        /* one with it */
	bool selected;      /* SELECT_ROWS came by */
	struct ps_err *err;
};

static int fail(const struct check *c, const char *what)
{
	return ps_err_set(c->err, -EINVAL, "graph: operation %" PRIu32 " (kind %d, block %" PRIu32 "): %s",
			  c->index, (int)c->op->kind, c->op->layer, what);
}

/* Width of buffer `buf`, 0 if it is none. */
static uint32_t buf_width(const struct check *c, uint8_t buf)
{
	return buf < c->g->n_bufs ? c->g->buf_width[buf] : 0;
}

static bool matrix_ok(const struct gguf_tensor *t, uint64_t in, uint64_t out, uint64_t depth)
{
	return t != NULL && t->data != NULL && accel_row_bytes(t->dtype, t->ne[0]) != 0 && t->ne[0] == in &&
	       t->ne[1] == out && t->ne[2] == depth && t->ne[3] == 1;
}

/* A vector of float32, or none at all where that is allowed. */
static bool vector_ok(const struct gguf_tensor *t, uint64_t n, bool optional)
{
	if (t == NULL)
		return optional;
	return t->data != NULL && t->dtype == GGUF_DT_F32 && t->ne[0] >= n;
}

/* A number from 0 on that is not infinite. */
static bool bound_ok(float x)
{
	return x >= 0 && isfinite(x);
}

static int check_embed(const struct check *c)
{
	const struct model_op *op = c->op;

	if (c->index != 0 || !c->g->has_embed)
		return fail(c, "an embedding that is not the first operation of a range that embeds");
	if (op->w == NULL || !matrix_ok(op->w, op->width, op->w->ne[1], 1))
		return fail(c, "embedding table of a wrong shape or type");
	if (op->w2 != NULL && !matrix_ok(op->w2, op->width, op->w2->ne[1], 1))
		return fail(c, "position table of a wrong shape or type");
	if (op->w_type != NULL &&
	    (op->w_type->ne[1] == 0 || !matrix_ok(op->w_type, op->width, op->w_type->ne[1], 1)))
		return fail(c, "token type table of a wrong shape or type");
	if (!isfinite(op->scale))
		return fail(c, "a scale that is no number");
	return 0;
}

static int check_norm(const struct check *c)
{
	const struct model_op *op = c->op;
	uint32_t run = op->head_dim != 0 ? op->head_dim : op->width;

	if (buf_width(c, op->src0) != op->width)
		return fail(c, "norm of a buffer of another width");
	if (run == 0 || op->width % run != 0)
		return fail(c, "norm over a length that does not divide its buffer");
	if (!vector_ok(op->w, run, false) || !vector_ok(op->b, run, true))
		return fail(c, "norm weights of a wrong length or type");
	if (op->w->ne[1] == 1)
		return 0;
	if (op->head_dim == 0 || op->w->ne[0] != run || op->w->ne[1] != op->n_heads || op->b != NULL ||
	    (uint64_t)op->n_heads * run != op->width)
		return fail(c, "norm weights a head that are not a row a head, or have a bias");
	return 0;
}

static int check_matmul(const struct check *c)
{
	const struct model_op *op = c->op;
	uint64_t in = buf_width(c, op->src0);

	if (op->w == NULL || !matrix_ok(op->w, in, op->w->ne[1], 1))
		return fail(c, "matrix of a wrong shape or type");
	if (op->rows != op->width || (uint64_t)op->row0 + op->rows > op->w->ne[1])
		return fail(c, "rows outside the matrix");
	if (!vector_ok(op->b, (uint64_t)op->row0 + op->rows, true))
		return fail(c, "bias of a wrong length or type");
	if (!isfinite(op->scale) || !bound_ok(op->clamp) || !bound_ok(op->softcap))
		return fail(c, "a scale, clamp or cap that is no number or negative");
	return op->dst == op->src0 ? fail(c, "a product in place") : 0;
}

static int check_rope(const struct check *c)
{
	const struct model_op *op = c->op;
	const struct model_rope_params *rope = op->rope_swa ? &c->g->hp.rope_swa : &c->g->hp.rope;

	if ((uint64_t)op->n_heads * op->head_dim != op->width || op->width == 0)
		return fail(c, "heads that do not fill the buffer");
	if (rope->kind != MODEL_ROPE_NORM && rope->kind != MODEL_ROPE_NEOX)
		return fail(c, "rotary embedding of an unknown kind");
	if (rope->n_rot == 0 || rope->n_rot % 2 != 0 || rope->n_rot > op->head_dim)
		return fail(c, "rotary dimensions odd or beyond the head");
	return 0;
}

/* Heads of attention and of the caches. */
static int check_heads(const struct check *c)
{
	const struct model_op *op = c->op;

	if (op->head_dim == 0 || op->head_dim > MAX_HEAD_DIM || op->head_dim_v == 0 ||
	    op->head_dim_v > MAX_HEAD_DIM || op->n_heads_kv == 0 || op->n_heads_kv > MAX_HEADS)
		return fail(c, "head dimension or number of KV heads out of range");
	if (op->layer < c->g->block_first || op->layer >= c->g->block_last)
		return fail(c, "keys and values of a block outside the range");
	return 0;
}

/* Whether src1 and src2 are the keys and values of the operation's heads. */
static bool kv_bufs_ok(const struct check *c)
{
	const struct model_op *op = c->op;

	return buf_width(c, op->src1) == (uint64_t)op->n_heads_kv * op->head_dim &&
	       buf_width(c, op->src2) == (uint64_t)op->n_heads_kv * op->head_dim_v;
}

static const struct model_op *find_cross_kv(const struct model_graph *encode, uint32_t layer)
{
	for (uint32_t i = 0; encode != NULL && i < encode->n_ops; i++)
		if (encode->ops[i].kind == MODEL_OP_CROSS_KV && encode->ops[i].layer == layer)
			return &encode->ops[i];
	return NULL;
}

static int check_cross_attn(const struct check *c)
{
	const struct model_op *op = c->op, *kv = find_cross_kv(c->g->encode, op->layer);

	if (c->pass != MODEL_PASS_MAIN || kv == NULL || kv->n_heads_kv != op->n_heads_kv ||
	    kv->head_dim != op->head_dim || kv->head_dim_v != op->head_dim_v)
		return fail(c, "cross-attention without an encode pass that writes its keys and values");
	if (op->causal || op->window != 0 || op->max_alibi_bias != 0 || op->rel_bias != NULL)
		return fail(c, "cross-attention with causality, a window or a bias");
	return 0;
}

static int check_self_attn(struct check *c)
{
	const struct model_op *op = c->op;

	if (!kv_bufs_ok(c))
		return fail(c, "heads that do not fill the buffers");
	if (op->dst == op->src1 || op->dst == op->src2)
		return fail(c, "attention in place");
	if (op->layer < c->attn_next)
		return fail(c, "attention of a block out of order");
	c->attn_next = op->layer + 1;
	c->causal |= op->causal;
	c->whole |= !op->causal;
	if (c->causal == c->whole || (c->causal && c->pass != MODEL_PASS_MAIN))
		return fail(c, "attention with causality beside one without, or outside the main pass");
	if (!op->causal && op->window != 0)
		return fail(c, "a window without causality");
	return 0;
}

/* model_rel_bucket counts half the buckets one by one and the others up to the largest distance. */
static bool rel_bias_ok(const struct model_op *op)
{
	const struct gguf_tensor *t = op->rel_bias;

	return t->data != NULL && t->dtype == GGUF_DT_F32 && t->ne[0] == op->n_heads && t->ne[1] >= 4 &&
	       t->ne[1] <= MAX_BUCKETS && t->ne[2] == 1 && t->ne[3] == 1 &&
	       op->rel_max_distance > t->ne[1] / 2 && op->rel_max_distance <= INT32_MAX;
}

static int check_attn(struct check *c)
{
	const struct model_op *op = c->op;
	int rc = check_heads(c);

	if (rc != 0)
		return rc;
	if (op->n_heads % op->n_heads_kv != 0 || op->n_heads == 0 || op->n_heads > MAX_HEADS)
		return fail(c, "query heads that are no multiple of the KV heads");
	if (buf_width(c, op->src0) != (uint64_t)op->n_heads * op->head_dim ||
	    op->width != (uint64_t)op->n_heads * op->head_dim_v)
		return fail(c, "heads that do not fill the buffers");
	if (op->dst == op->src0)
		return fail(c, "attention in place");
	if (!isfinite(op->attn_scale) || !bound_ok(op->softcap) || !bound_ok(op->max_alibi_bias))
		return fail(c, "a scale, cap or bias that is no number or negative");
	if (op->rel_bias != NULL && (op->max_alibi_bias != 0 || !rel_bias_ok(op)))
		return fail(c, "relative bias of a wrong shape or type, or beside ALiBi");
	return op->cross ? check_cross_attn(c) : check_self_attn(c);
}

static int check_cross_kv(const struct check *c)
{
	int rc = check_heads(c);

	if (rc != 0)
		return rc;
	if (c->pass != MODEL_PASS_ENCODE)
		return fail(c, "keys and values for cross-attention outside the encode pass");
	if (find_cross_kv(c->g, c->op->layer) != c->op)
		return fail(c, "a block's cross-attention written twice");
	return kv_bufs_ok(c) ? 0 : fail(c, "heads that do not fill the buffers");
}

static int check_elementwise(const struct check *c)
{
	const struct model_op *op = c->op;
	bool two = op->kind != MODEL_OP_ACT;

	if (buf_width(c, op->src0) != op->width || (two && buf_width(c, op->src1) != op->width))
		return fail(c, "sources of another width");
	if (two && op->dst == op->src1 && op->dst != op->src0)
		return fail(c, "the result over the second source");
	if (op->kind != MODEL_OP_ADD && (unsigned)op->act > MODEL_ACT_RELU)
		return fail(c, "unknown activation");
	return 0;
}

static int check_moe(const struct check *c)
{
	const struct model_op *op = c->op;
	uint64_t in = buf_width(c, op->src0);

	if (op->n_experts == 0 || op->n_experts > MAX_EXPERTS || op->n_experts_used == 0 ||
	    op->n_experts_used > op->n_experts)
		return fail(c, "number of experts out of range");
	if (op->w_up == NULL || op->w_up->ne[1] == 0 || op->w_up->ne[1] > UINT32_MAX / 64)
		return fail(c, "no expert matrices");
	if (!matrix_ok(op->w, in, op->n_experts, 1) ||
	    !matrix_ok(op->w_gate, in, op->w_up->ne[1], op->n_experts) ||
	    !matrix_ok(op->w_up, in, op->w_up->ne[1], op->n_experts) ||
	    !matrix_ok(op->w_down, op->w_up->ne[1], op->width, op->n_experts))
		return fail(c, "expert matrices of a wrong shape or type");
	if ((unsigned)op->act > MODEL_ACT_RELU)
		return fail(c, "unknown activation");
	return op->dst == op->src0 ? fail(c, "a mixture of experts in place") : 0;
}

static int check_select(struct check *c)
{
	if (c->selected)
		return fail(c, "a second selection of rows");
	c->selected = true;
	if (!c->g->has_head || buf_width(c, c->op->src0) != c->op->width || c->op->dst == c->op->src0)
		return fail(c, "a selection of rows without a head, in place, or of another width");
	for (uint32_t i = c->index + 1; i < c->g->n_ops; i++) {
		enum model_op_kind kind = c->g->ops[i].kind;

		if (kind != MODEL_OP_NORM && kind != MODEL_OP_MATMUL && kind != MODEL_OP_ACT)
			return fail(c,
				    "more than norms, products and activations after the selection of rows");
	}
	return 0;
}

static int check_op(struct check *c)
{
	if (c->op->kind == MODEL_OP_CROSS_KV)
		return check_cross_kv(c);
	if (c->op->dst >= c->g->n_bufs || c->g->buf_width[c->op->dst] != c->op->width || c->op->width == 0)
		return fail(c, "a result that does not fit its buffer");
	if (c->g->has_head && c->index == c->g->n_ops - 1 && c->op->dst != c->g->out_buf)
		return fail(c, "the last operation does not write the outputs");
	switch (c->op->kind) {
	case MODEL_OP_EMBED:
		return check_embed(c);
	case MODEL_OP_NORM:
		return check_norm(c);
	case MODEL_OP_MATMUL:
		return check_matmul(c);
	case MODEL_OP_ROPE:
		return check_rope(c);
	case MODEL_OP_ATTN:
		return check_attn(c);
	case MODEL_OP_ACT:
	case MODEL_OP_GLU:
	case MODEL_OP_ADD:
		return check_elementwise(c);
	case MODEL_OP_MOE:
		return check_moe(c);
	case MODEL_OP_SELECT_ROWS:
		return check_select(c);
	case MODEL_OP_CROSS_KV:
		break; /* above */
	}
	return ps_err_set(c->err, -ENOTSUP,
			  "graph: operation %" PRIu32 " is of kind %d, which this back end lacks", c->index,
			  (int)c->op->kind);
}

static int check_pass(const struct model_graph *g, enum model_pass pass, struct ps_err *err)
{
	struct check c = {.g = g, .pass = pass, .attn_next = g->block_first, .err = err};

	if (g->n_ops > MAX_OPS || (g->n_ops == 0 && (g->has_embed || g->has_head)) ||
	    (g->n_ops > 0 && g->ops == NULL) || g->n_bufs == 0 || g->n_bufs > MODEL_MAX_BUFS ||
	    g->block_last <= g->block_first || g->buf_width[MODEL_BUF_X] == 0 || g->out_buf >= g->n_bufs ||
	    g->buf_width[g->out_buf] != g->out_width || (!g->has_head && g->out_buf != MODEL_BUF_X))
		return ps_err_set(err, -EINVAL, "graph: no operations, buffers or blocks, or no output");
	if (g->has_embed && g->ops[0].kind != MODEL_OP_EMBED)
		return ps_err_set(err, -EINVAL, "graph: a range that embeds must begin with the embedding");
	for (c.index = 0; c.index < g->n_ops; c.index++) {
		int rc;

		c.op = &g->ops[c.index];
		rc = check_op(&c);
		if (rc != 0)
			return rc;
	}
	if (g->has_head && !c.selected)
		return ps_err_set(err, -EINVAL, "graph: a head without a selection of rows");
	return 0;
}

/* The same buffers and blocks as the main pass, and no passes of its own. */
static int check_other_pass(const struct model_graph *g, const struct model_graph *p, enum model_pass pass,
			    struct ps_err *err)
{
	if (p == NULL)
		return 0;
	if (p->n_bufs != g->n_bufs || memcmp(p->buf_width, g->buf_width, sizeof(g->buf_width)) != 0 ||
	    p->block_first != g->block_first || p->block_last != g->block_last || p->encode != NULL ||
	    p->fill != NULL || (pass == MODEL_PASS_ENCODE && p->has_head))
		return ps_err_set(err, -EINVAL,
				  "graph: pass %d has other buffers or blocks than the main one, or a head "
				  "where it must have none",
				  (int)pass);
	return check_pass(p, pass, err);
}

int accel_host_check_graph(const struct model_graph *g, struct ps_err *err)
{
	int rc = check_pass(g, MODEL_PASS_MAIN, err);

	if (rc == 0)
		rc = check_other_pass(g, g->encode, MODEL_PASS_ENCODE, err);
	if (rc == 0)
		rc = check_other_pass(g, g->fill, MODEL_PASS_FILL, err);
	return rc;
}

int accel_host_check_args(const struct accel_open_args *args, const struct model_graph *g, struct ps_err *err)
{
	if (args->n_slots == 0 || args->n_ctx == 0 || args->max_tokens == 0 || args->n_ctx > INT32_MAX ||
	    args->n_slots > (1u << 20) || args->max_tokens > (1u << 20))
		return ps_err_set(
		    err, -EINVAL,
		    "slots, context and batch must be between 1 and 1048576 (context: 2147483647), not "
		    "%" PRIu32 ", %" PRIu32 ", %" PRIu32,
		    args->n_slots, args->n_ctx, args->max_tokens);
	if (args->n_threads > 1024)
		return ps_err_set(err, -EINVAL, "at most 1024 threads, not %" PRIu32, args->n_threads);
	if ((unsigned)args->kv > ACCEL_KV_Q8_0)
		return ps_err_set(err, -EINVAL, "KV cache of an unknown element type (%d)", (int)args->kv);
	return accel_host_check_graph(g, err);
}

static uint64_t tensor_bytes(const struct gguf_tensor *t, uint64_t rows)
{
	return t == NULL ? 0 : rows * accel_row_bytes(t->dtype, t->ne[0]);
}

uint64_t accel_host_weight_bytes(const struct model_graph *g)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];

		switch (op->kind) {
		case MODEL_OP_EMBED:
			bytes +=
			    tensor_bytes(op->w, 1) + tensor_bytes(op->w2, 1) + tensor_bytes(op->w_type, 1);
			break;
		case MODEL_OP_MATMUL:
			bytes += tensor_bytes(op->w, op->rows) + (op->b != NULL ? op->rows * 4ull : 0);
			break;
		case MODEL_OP_MOE:
			bytes += tensor_bytes(op->w, op->n_experts);
			bytes += op->n_experts_used * (tensor_bytes(op->w_gate, op->w_gate->ne[1]) +
						       tensor_bytes(op->w_up, op->w_up->ne[1]) +
						       tensor_bytes(op->w_down, op->width));
			break;
		default:
			bytes +=
			    tensor_bytes(op->w, op->w != NULL ? op->w->ne[1] : 0) + tensor_bytes(op->b, 1);
			break;
		}
	}
	return bytes;
}
