/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The operations of a model, pass by pass: one walk over the traits for all
 * families. Every emit_* returns having appended its operations to b->at, or with
 * b->rc set.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "model/build.h"

/* No block, with the embedding before or the head behind it, has more operations. */
#define OPS_PER_BLOCK 32u

static const struct model_names *names(const struct model_build *b)
{
	return b->d.arch->names;
}

/* Room for a block, so that operations do not move while it is being built. */
static bool reserve(struct model_build *b)
{
	struct model_ops *at = b->at;
	uint32_t cap = at->cap;
	struct model_op *ops;

	if (b->rc == 0 && at->cap - at->n < OPS_PER_BLOCK) {
		cap = 2 * cap + OPS_PER_BLOCK;
		ops = realloc(at->ops, cap * sizeof(*ops));
		if (ops == NULL) {
			model_build_fail(b, -ENOMEM, "no memory for a graph");
		} else {
			at->ops = ops;
			at->cap = cap;
		}
	}
	return b->rc == 0;
}

static struct model_op *emit(struct model_build *b, enum model_op_kind kind, uint32_t layer, uint32_t dst,
			     uint32_t src0, uint32_t width)
{
	struct model_op *op;

	CHECK(b->at->n < b->at->cap);
	op = &b->at->ops[b->at->n++];
	*op = (struct model_op){
	    .kind = kind,
	    .dst = (uint8_t)dst,
	    .src0 = (uint8_t)src0,
	    .src1 = MODEL_BUF_NONE,
	    .src2 = MODEL_BUF_NONE,
	    .layer = layer == MODEL_GLOBAL ? 0 : layer,
	    .width = width,
	    .scale = 1.0f,
	};
	return op;
}

static void emit_norm(struct model_build *b, uint32_t layer, const char *stem, uint32_t dst, uint32_t src)
{
	struct model_op *op = emit(b, MODEL_OP_NORM, layer, dst, src, b->hp.n_embd);

	op->norm = b->d.arch->norm;
	op->eps = b->hp.norm_eps;
	op->w = model_f32(b, layer, stem, b->hp.n_embd, 1);
	op->b = model_bias(b, layer, stem, b->hp.n_embd, b->d.arch->biases != MODEL_BIASES_MAY);
}

/* Rows [row0, row0 + rows) of a matrix of `total` rows, with their biases. */
static struct model_op *emit_rows(struct model_build *b, uint32_t layer, const char *stem, uint32_t dst,
				  uint32_t src, uint32_t in, uint32_t total, uint32_t row0, uint32_t rows)
{
	struct model_op *op = emit(b, MODEL_OP_MATMUL, layer, dst, src, rows);

	op->row0 = row0;
	op->rows = rows;
	op->w = model_matrix(b, layer, stem, in, total);
	op->b = model_bias(b, layer, stem, total, b->d.arch->biases == MODEL_BIASES_ALL);
	return op;
}

static struct model_op *emit_matmul(struct model_build *b, uint32_t layer, const char *stem, uint32_t dst,
				    uint32_t src, uint32_t in, uint32_t out)
{
	return emit_rows(b, layer, stem, dst, src, in, out, 0, out);
}

/* ---- attention ------------------------------------------------------------------------------- */

static void emit_qkv(struct model_build *b, uint32_t layer, uint32_t src)
{
	const struct model_hparams *hp = &b->hp;
	const char *const stems[3] = {names(b)->attn_q, names(b)->attn_k, names(b)->attn_v};
	const uint32_t rows[3] = {hp->n_heads * hp->head_dim, hp->n_heads_kv * hp->head_dim,
				  hp->n_heads_kv * hp->head_dim_v};
	const uint32_t total = rows[0] + rows[1] + rows[2];
	bool fused = model_has_weight(b, layer, names(b)->attn_qkv);

	if (!fused && names(b)->attn_qkv != NULL && !model_has_weight(b, layer, stems[0]))
		model_build_fail(b, -EBADMSG,
				 "tensors 'blk.%u.attn_q.weight' and 'blk.%u.attn_qkv.weight' are both "
				 "missing",
				 layer, layer);
	for (uint32_t i = 0, row = 0; i < 3; row += rows[i++]) {
		struct model_op *op =
		    fused ? emit_rows(b, layer, names(b)->attn_qkv, BUF_Q + i, src, hp->n_embd, total, row,
				      rows[i])
			  : emit_matmul(b, layer, stems[i], BUF_Q + i, src, hp->n_embd, rows[i]);

		op->clamp = b->d.clamp;
	}
}

/* Norm of Q or K before the rotary embedding. Its weight's shape says over what: each head, with one
 * weight for all or one a head, or all heads together. */
static void emit_head_norm(struct model_build *b, uint32_t layer, const char *stem, uint32_t buf,
			   uint32_t n_heads)
{
	const uint32_t dim = b->hp.head_dim;
	const struct gguf_tensor *t = model_peek(b, layer, stem);
	struct model_op *op;
	uint64_t ne0 = dim, ne1 = 1;

	if (b->d.arch->qk_norm == MODEL_HAS_NONE || (t == NULL && b->d.arch->qk_norm == MODEL_HAS_MAYBE))
		return;
	op = emit(b, MODEL_OP_NORM, layer, buf, buf, n_heads * dim);
	if (t != NULL && t->ne[0] == dim && t->ne[1] == n_heads)
		ne1 = n_heads;
	else if (t != NULL && t->ne[0] != dim)
		ne0 = (uint64_t)n_heads * dim;
	if (ne0 == dim) {
		op->n_heads = n_heads;
		op->head_dim = dim;
	}
	op->norm = b->d.arch->norm;
	op->eps = b->hp.norm_eps;
	op->w = model_f32(b, layer, stem, ne0, ne1);
	if (ne1 == 1)
		op->b = model_bias(b, layer, stem, ne0, false);
}

static void emit_rope(struct model_build *b, uint32_t layer, uint32_t buf, uint32_t n_heads)
{
	struct model_op *op;

	if (b->d.arch->rope == MODEL_ROPE_NONE)
		return;
	op = emit(b, MODEL_OP_ROPE, layer, buf, buf, n_heads * b->hp.head_dim);
	op->n_heads = n_heads;
	op->head_dim = b->hp.head_dim;
	op->rope_swa = model_block_slides(&b->d, layer);
}

static struct model_op *emit_attn(struct model_build *b, uint32_t layer)
{
	const struct model_hparams *hp = &b->hp;
	struct model_op *op = emit(b, MODEL_OP_ATTN, layer, BUF_ATTN, BUF_Q, hp->n_heads * hp->head_dim_v);

	op->n_heads = hp->n_heads;
	op->n_heads_kv = hp->n_heads_kv;
	op->head_dim = hp->head_dim;
	op->head_dim_v = hp->head_dim_v;
	op->attn_scale = b->d.attn_scale;
	return op;
}

/* A block without biases of its own uses those of its stack's first block, which may lie in
 * another range: the table is tiny. */
static const struct gguf_tensor *rel_bias(struct model_build *b, uint32_t layer)
{
	uint32_t first = layer < b->hp.n_layers_enc ? 0 : b->hp.n_layers_enc;

	if (names(b)->rel_bias == NULL)
		return NULL;
	return model_f32(b, model_has_weight(b, layer, names(b)->rel_bias) ? layer : first,
			 names(b)->rel_bias, b->hp.n_heads, b->d.n_rel_buckets);
}

/* BUF_OUT = attention of src. */
static void emit_attention(struct model_build *b, uint32_t layer, uint32_t src)
{
	const struct model_hparams *hp = &b->hp;
	struct model_op *op;

	emit_qkv(b, layer, src);
	emit_head_norm(b, layer, names(b)->attn_q_norm, BUF_Q, hp->n_heads);
	emit_head_norm(b, layer, names(b)->attn_k_norm, BUF_K, hp->n_heads_kv);
	emit_rope(b, layer, BUF_Q, hp->n_heads);
	emit_rope(b, layer, BUF_K, hp->n_heads_kv);
	op = emit_attn(b, layer);
	op->src1 = BUF_K;
	op->src2 = BUF_V;
	op->causal = hp->causal && layer >= hp->n_layers_enc;
	op->window = op->causal && model_block_slides(&b->d, layer) ? b->d.window : 0;
	op->softcap = b->d.attn_cap;
	op->max_alibi_bias = b->d.max_alibi_bias;
	op->rel_bias = rel_bias(b, layer);
	op->rel_max_distance = op->rel_bias != NULL ? MODEL_REL_MAX_DISTANCE : 0;
	emit_matmul(b, layer, names(b)->attn_out, BUF_OUT, BUF_ATTN, op->width, hp->n_embd);
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

static void emit_moe(struct model_build *b, uint32_t layer, uint32_t src)
{
	const struct model_hparams *hp = &b->hp;
	struct model_op *op = emit(b, MODEL_OP_MOE, layer, BUF_OUT, src, hp->n_embd);
	uint64_t n = hp->n_experts;

	op->act = b->d.arch->act;
	op->n_experts = hp->n_experts;
	op->n_experts_used = hp->n_experts_used;
	op->moe_norm_weights = true;
	op->w = model_matrix(b, layer, "ffn_gate_inp", hp->n_embd, n);
	op->w_gate = model_stack_of(b, layer, "ffn_gate_exps", hp->n_embd, hp->n_ff, n);
	op->w_up = model_stack_of(b, layer, "ffn_up_exps", hp->n_embd, hp->n_ff, n);
	op->w_down = model_stack_of(b, layer, "ffn_down_exps", hp->n_ff, hp->n_embd, n);
}

static void emit_gate_and_up(struct model_build *b, uint32_t layer, uint32_t src)
{
	const uint32_t in = b->hp.n_embd, ff = b->hp.n_ff;
	const struct model_names *n = names(b);
	struct model_op *op;

	if (b->d.arch->ffn == MODEL_FFN_FUSED) {
		emit_rows(b, layer, n->ffn_up, BUF_GATE, src, in, 2 * ff, 0, ff);
		emit_rows(b, layer, n->ffn_up, BUF_UP, src, in, 2 * ff, ff, ff);
	} else {
		emit_matmul(b, layer, n->ffn_up, BUF_UP, src, in, ff);
		emit_matmul(b, layer, n->ffn_gate, BUF_GATE, src, in, ff);
	}
	op = emit(b, MODEL_OP_GLU, layer, BUF_GATE, BUF_GATE, ff);
	op->src1 = BUF_UP;
	op->act = b->d.arch->act;
}

/* BUF_OUT = feed-forward of src. */
static void emit_ffn(struct model_build *b, uint32_t layer, uint32_t src)
{
	const struct model_hparams *hp = &b->hp;
	const struct model_arch *arch = b->d.arch;
	bool relu = arch->ffn == MODEL_FFN_GATE_OR_RELU && !model_has_weight(b, layer, names(b)->ffn_gate);
	bool plain = relu || arch->ffn == MODEL_FFN_PLAIN;

	if (hp->n_experts > 0) {
		emit_moe(b, layer, src);
		return;
	}
	if (plain) {
		emit_matmul(b, layer, names(b)->ffn_up, BUF_UP, src, hp->n_embd, hp->n_ff);
		emit(b, MODEL_OP_ACT, layer, BUF_UP, BUF_UP, hp->n_ff)->act =
		    relu ? MODEL_ACT_RELU : arch->act;
	} else {
		emit_gate_and_up(b, layer, src);
	}
	emit_matmul(b, layer, names(b)->ffn_down, BUF_OUT, plain ? BUF_UP : BUF_GATE, hp->n_ff, hp->n_embd);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* The input of a sublayer: normed, where the family does that. */
static uint32_t emit_input(struct model_build *b, uint32_t layer, const char *norm)
{
	if ((b->d.arch->norms & MODEL_NORMS_IN) == 0)
		return BUF_X;
	emit_norm(b, layer, norm, BUF_NORM, BUF_X);
	return BUF_NORM;
}

/* Adds a sublayer's output to the residual stream. */
static void emit_sum(struct model_build *b, uint32_t layer, const char *norm_out, const char *norm_sum)
{
	if ((b->d.arch->norms & MODEL_NORMS_OUT) != 0)
		emit_norm(b, layer, norm_out, BUF_OUT, BUF_OUT);
	emit(b, MODEL_OP_ADD, layer, BUF_X, BUF_X, b->hp.n_embd)->src1 = BUF_OUT;
	if ((b->d.arch->norms & MODEL_NORMS_SUM) != 0)
		emit_norm(b, layer, norm_sum, BUF_X, BUF_X);
}

/* Attention to what the encode pass wrote. */
static void emit_cross(struct model_build *b, uint32_t layer)
{
	const struct model_hparams *hp = &b->hp;
	struct model_op *op;
	uint32_t src;

	if (hp->n_layers_enc == 0 || layer < hp->n_layers_enc)
		return;
	src = emit_input(b, layer, names(b)->cross_norm);
	emit_matmul(b, layer, names(b)->cross_q, BUF_Q, src, hp->n_embd, hp->n_heads * hp->head_dim);
	op = emit_attn(b, layer);
	op->cross = true;
	emit_matmul(b, layer, names(b)->cross_out, BUF_OUT, BUF_ATTN, op->width, hp->n_embd);
	emit(b, MODEL_OP_ADD, layer, BUF_X, BUF_X, hp->n_embd)->src1 = BUF_OUT;
}

static bool is_parallel(const struct model_build *b, uint32_t layer)
{
	switch (b->d.arch->parallel) {
	case MODEL_PARALLEL_NEVER:
		return false;
	case MODEL_PARALLEL_ALWAYS:
		return true;
	case MODEL_PARALLEL_KEY:
		return b->d.parallel;
	case MODEL_PARALLEL_NO_FFN_NORM:
		return !model_has_weight(b, layer, names(b)->ffn_norm);
	}
	CHECK(!"a kind of parallel blocks that the table does not have");
	return false;
}

/* Input of a feed-forward that runs beside attention: from a norm of its own, or as attention's. The
 * sum is not yet in the residual stream. */
static uint32_t emit_parallel_input(struct model_build *b, uint32_t layer, uint32_t attn_src)
{
	if (b->d.arch->parallel == MODEL_PARALLEL_KEY)
		return emit_input(b, layer, names(b)->ffn_norm);
	if (b->d.arch->parallel == MODEL_PARALLEL_ALWAYS && model_has_weight(b, layer, names(b)->attn_norm_2))
		return emit_input(b, layer, names(b)->attn_norm);
	return attn_src;
}

static void emit_block(struct model_build *b, uint32_t layer)
{
	const struct model_names *n = names(b);
	bool parallel = is_parallel(b, layer);
	bool second =
	    b->d.arch->parallel == MODEL_PARALLEL_ALWAYS && model_has_weight(b, layer, n->attn_norm_2);
	uint32_t src = emit_input(b, layer, second ? n->attn_norm_2 : n->attn_norm);

	emit_attention(b, layer, src);
	if (parallel)
		src = emit_parallel_input(b, layer, src);
	emit_sum(b, layer, n->attn_norm_out, n->attn_norm_sum);
	emit_cross(b, layer);
	if (!parallel)
		src = emit_input(b, layer, n->ffn_norm);
	emit_ffn(b, layer, src);
	emit_sum(b, layer, n->ffn_norm_out, n->ffn_norm_sum);
}

/* What a decoder block keeps of the encoder's output, which stays in the residual stream. */
static void emit_cross_kv(struct model_build *b, uint32_t layer)
{
	const struct model_hparams *hp = &b->hp;
	struct model_op *op;

	emit_matmul(b, layer, names(b)->cross_k, BUF_K, BUF_X, hp->n_embd, hp->n_heads_kv * hp->head_dim);
	emit_matmul(b, layer, names(b)->cross_v, BUF_V, BUF_X, hp->n_embd, hp->n_heads_kv * hp->head_dim_v);
	op = emit(b, MODEL_OP_CROSS_KV, layer, MODEL_BUF_NONE, MODEL_BUF_NONE, 0);
	op->src1 = BUF_K;
	op->src2 = BUF_V;
	op->n_heads_kv = hp->n_heads_kv;
	op->head_dim = hp->head_dim;
	op->head_dim_v = hp->head_dim_v;
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void emit_embed(struct model_build *b)
{
	const struct model_hparams *hp = &b->hp;
	const struct model_arch *arch = b->d.arch;
	struct model_op *op = emit(b, MODEL_OP_EMBED, MODEL_GLOBAL, BUF_X, MODEL_BUF_NONE, hp->n_embd);

	op->scale = b->d.embed_scale;
	op->w = model_matrix(b, MODEL_GLOBAL, "token_embd", hp->n_embd, hp->n_vocab);
	if (hp->n_ctx_max != 0)
		op->w2 = model_matrix(b, MODEL_GLOBAL, "position_embd", hp->n_embd, hp->n_ctx_max);
	if (arch->types == MODEL_HAS ||
	    (arch->types == MODEL_HAS_MAYBE && model_has_weight(b, MODEL_GLOBAL, "token_types")))
		op->w_type = model_table(b, "token_types", hp->n_embd);
	if (arch->embed_norm)
		emit_norm(b, MODEL_GLOBAL, "token_embd_norm", BUF_X, BUF_X);
}

/* The output matrix, which is the embedding table where the file has none. */
static struct model_op *emit_logits(struct model_build *b, const char *stem, uint32_t src, bool bias_must)
{
	const struct model_hparams *hp = &b->hp;
	struct model_op *op = emit(b, MODEL_OP_MATMUL, MODEL_GLOBAL, BUF_LOGITS, src, hp->n_vocab);

	op->rows = hp->n_vocab;
	op->w = model_matrix(b, MODEL_GLOBAL, model_has_weight(b, MODEL_GLOBAL, stem) ? stem : "token_embd",
			     hp->n_embd, hp->n_vocab);
	op->b = model_bias(b, MODEL_GLOBAL, stem, hp->n_vocab, bias_must);
	return op;
}

/* The rows nobody asked for are dropped before the norm, so that a prompt costs one row of the
 * head, the widest matrix of a small model. */
static void emit_head(struct model_build *b)
{
	const struct model_hparams *hp = &b->hp;
	const char *norm = names(b)->final_norm;

	if (hp->task == MODEL_TASK_GENERATE) {
		CHECK(norm != NULL);
		emit(b, MODEL_OP_SELECT_ROWS, MODEL_GLOBAL, BUF_NORM, BUF_X, hp->n_embd);
		emit_norm(b, MODEL_GLOBAL, norm, BUF_OUT, BUF_NORM);
		emit_logits(b, "output", BUF_OUT, b->d.arch->head_bias)->softcap = b->d.final_cap;
	} else {
		emit(b, MODEL_OP_SELECT_ROWS, MODEL_GLOBAL, norm != NULL ? BUF_NORM : BUF_HIDDEN, BUF_X,
		     hp->n_embd);
		if (norm != NULL)
			emit_norm(b, MODEL_GLOBAL, norm, BUF_HIDDEN, BUF_NORM);
	}
}

/* BERT's masked-language-model head (Devlin et al., 2018). The names are ours: no converter of
 * today keeps it. */
static void emit_fill_head(struct model_build *b)
{
	const struct model_hparams *hp = &b->hp;

	emit(b, MODEL_OP_SELECT_ROWS, MODEL_GLOBAL, BUF_NORM, BUF_X, hp->n_embd);
	emit_matmul(b, MODEL_GLOBAL, "mlm_dense", BUF_OUT, BUF_NORM, hp->n_embd, hp->n_embd);
	emit(b, MODEL_OP_ACT, MODEL_GLOBAL, BUF_OUT, BUF_OUT, hp->n_embd)->act = b->d.arch->act;
	emit_norm(b, MODEL_GLOBAL, "mlm_norm", BUF_NORM, BUF_OUT);
	emit_logits(b, "mlm_output", BUF_NORM, true);
}

static void emit_encode_block(struct model_build *b, uint32_t layer)
{
	if (layer >= b->hp.n_layers_enc) {
		emit_cross_kv(b, layer);
		return;
	}
	emit_block(b, layer);
	if (layer == b->hp.n_layers_enc - 1)
		emit_norm(b, MODEL_GLOBAL, names(b)->enc_norm, BUF_X, BUF_X);
}

void model_build_pass(struct model_build *b, enum model_pass pass)
{
	const uint32_t n_layers = b->hp.n_layers;
	/* Of T5's main pass this is the decoder's first block. */
	const uint32_t first = pass == MODEL_PASS_ENCODE ? 0 : b->hp.n_layers_enc;

	for (uint32_t layer = 0; layer < n_layers && reserve(b); layer++) {
		b->at->starts[layer] = b->at->n;
		if (layer == first)
			emit_embed(b);
		if (pass == MODEL_PASS_ENCODE)
			emit_encode_block(b, layer);
		else if (layer >= first)
			emit_block(b, layer);
	}
	if (!reserve(b))
		return;
	b->at->starts[n_layers] = b->at->n;
	if (pass == MODEL_PASS_MAIN)
		emit_head(b);
	else if (pass == MODEL_PASS_FILL)
		emit_fill_head(b);
}
