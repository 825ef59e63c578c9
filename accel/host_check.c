/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checks of a graph and of the open arguments, and the weight bytes of a
 * graph. model_graph_build makes only graphs that pass; this is what keeps a
 * mistake there, or an operation added later, from becoming a wild read here.
 */
#include <errno.h>
#include <inttypes.h>

#include "accel/host.h"
#include "accel/weights.h"

#define MAX_HEAD_DIM 1024u
#define MAX_EXPERTS  1024u
#define MAX_OPS      (1u << 20)

struct check {
	const struct model_graph *g;
	const struct model_op *op;
	uint32_t index;
	uint32_t attn_layers; /* blocks whose attention came by; they must come in order */
	bool selected;        /* SELECT_ROWS came by */
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

static int check_embed(const struct check *c)
{
	const struct model_op *op = c->op;

	if (c->index != 0 || !c->g->has_embed)
		return fail(c, "an embedding that is not the first operation of a range that embeds");
	if (op->w == NULL || !matrix_ok(op->w, op->width, op->w->ne[1], 1))
		return fail(c, "embedding table of a wrong shape or type");
	if (op->w2 != NULL && !matrix_ok(op->w2, op->width, op->w2->ne[1], 1))
		return fail(c, "position table of a wrong shape or type");
	return 0;
}

static int check_norm(const struct check *c)
{
	const struct model_op *op = c->op;
	uint32_t run = op->head_dim != 0 ? op->head_dim : op->width;

	if (buf_width(c, op->src0) != op->width || op->dst == op->src0)
		return fail(c, "norm of a buffer of another width, or in place");
	if (run == 0 || op->width % run != 0)
		return fail(c, "norm over a length that does not divide its buffer");
	if (!vector_ok(op->w, run, false) || !vector_ok(op->b, run, true))
		return fail(c, "norm weights of a wrong length or type");
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
	return op->dst == op->src0 ? fail(c, "a product in place") : 0;
}

static int check_rope(const struct check *c)
{
	const struct model_op *op = c->op;
	const struct model_rope_params *rope = &c->g->hp.rope;

	if ((uint64_t)op->n_heads * op->head_dim != op->width || op->width == 0)
		return fail(c, "heads that do not fill the buffer");
	if (rope->kind != MODEL_ROPE_NORM && rope->kind != MODEL_ROPE_NEOX)
		return fail(c, "rotary embedding of an unknown kind");
	if (rope->n_rot == 0 || rope->n_rot % 2 != 0 || rope->n_rot > op->head_dim)
		return fail(c, "rotary dimensions odd or beyond the head");
	return 0;
}

static int check_attn(struct check *c)
{
	const struct model_op *op = c->op;
	uint64_t kv = op->n_heads_kv;

	if (kv == 0 || op->n_heads % kv != 0 || op->n_heads == 0)
		return fail(c, "query heads that are no multiple of the KV heads");
	if (op->head_dim == 0 || op->head_dim > MAX_HEAD_DIM || op->head_dim_v == 0 ||
	    op->head_dim_v > MAX_HEAD_DIM)
		return fail(c, "head dimension out of range");
	if (buf_width(c, op->src0) != (uint64_t)op->n_heads * op->head_dim ||
	    buf_width(c, op->src1) != kv * op->head_dim || buf_width(c, op->src2) != kv * op->head_dim_v ||
	    op->width != (uint64_t)op->n_heads * op->head_dim_v)
		return fail(c, "heads that do not fill the buffers");
	if (op->dst == op->src0 || op->dst == op->src1 || op->dst == op->src2)
		return fail(c, "attention in place");
	if (op->layer != c->g->block_first + c->attn_layers || op->layer >= c->g->block_last)
		return fail(c, "attention of a block out of order or outside the range");
	c->attn_layers++;
	return 0;
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
	for (uint32_t i = c->index + 1; i < c->g->n_ops; i++)
		if (c->g->ops[i].kind != MODEL_OP_NORM && c->g->ops[i].kind != MODEL_OP_MATMUL)
			return fail(c, "more than a norm and products after the selection of rows");
	return 0;
}

static int check_op(struct check *c)
{
	if (c->op->dst >= c->g->n_bufs || c->g->buf_width[c->op->dst] != c->op->width || c->op->width == 0)
		return fail(c, "a result that does not fit its buffer");
	if (c->g->has_head && (c->op->dst == c->g->out_buf) != (c->index == c->g->n_ops - 1))
		return fail(c, "the logits must be written by the last operation, and by no other");
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
		break; /* not yet */
	}
	return ps_err_set(c->err, -ENOTSUP,
			  "graph: operation %" PRIu32 " is of kind %d, which this back end lacks", c->index,
			  (int)c->op->kind);
}

int accel_host_check_graph(const struct model_graph *g, struct ps_err *err)
{
	struct check c = {.g = g, .err = err};

	if (g->n_ops == 0 || g->n_ops > MAX_OPS || g->n_bufs == 0 || g->n_bufs > MODEL_MAX_BUFS ||
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
	if (c.attn_layers != g->block_last - g->block_first)
		return ps_err_set(err, -EINVAL, "graph: %" PRIu32 " attentions for %" PRIu32 " blocks",
				  c.attn_layers, g->block_last - g->block_first);
	return 0;
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
			bytes += tensor_bytes(op->w, 1) + tensor_bytes(op->w2, 1);
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
			bytes += tensor_bytes(op->w, 1) + tensor_bytes(op->b, 1);
			break;
		}
	}
	return bytes;
}
