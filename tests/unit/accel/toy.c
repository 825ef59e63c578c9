/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/accel/toy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "accel/weights.h"
#include "base/bytes.h"
#include "base/check.h"

#define MAX_TENSORS 256u
#define MAX_OPS     256u

const struct toy_spec toy_specs[] = {
    {"llama-f32-odd", GGUF_DT_F32, 3, 45, 5, 5, 9, 70, 41, 8, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_SILU,
     true, false, false, 0, 0},
    {"llama-f16-gqa", GGUF_DT_F16, 3, 60, 6, 2, 10, 100, 57, 10, MODEL_ROPE_NEOX, MODEL_NORM_RMS,
     MODEL_ACT_SILU, true, false, true, 0, 0},
    {"llama-q8-mqa", GGUF_DT_Q8_0, 3, 64, 4, 1, 16, 96, 50, 12, MODEL_ROPE_NEOX, MODEL_NORM_RMS,
     MODEL_ACT_GELU_TANH, true, true, false, 0, 0},
    {"llama-bf16-wide", GGUF_DT_BF16, 2, 80, 2, 1, 72, 1100, 67, 40, MODEL_ROPE_NORM, MODEL_NORM_RMS,
     MODEL_ACT_SILU, true, false, false, 0, 0},
    {"gpt2-f16", GGUF_DT_F16, 3, 48, 4, 4, 12, 108, 77, 0, MODEL_ROPE_NONE, MODEL_NORM_LAYER,
     MODEL_ACT_GELU_TANH, false, true, false, 0, 0},
    {"gpt2-bf16-erf", GGUF_DT_BF16, 3, 35, 5, 5, 7, 81, 39, 0, MODEL_ROPE_NONE, MODEL_NORM_LAYER,
     MODEL_ACT_GELU_ERF, false, true, false, 0, 0},
    {"moe-f32", GGUF_DT_F32, 3, 32, 4, 2, 8, 44, 45, 8, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_SILU, true,
     false, false, 5, 2},
    {"moe-q8", GGUF_DT_Q8_0, 3, 32, 4, 2, 8, 64, 45, 8, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_RELU, true,
     false, false, 4, 3},
    {"llama-q4_1", GGUF_DT_Q4_1, 2, 64, 4, 2, 16, 96, 45, 16, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_SILU,
     true, false, false, 0, 0},
    {"llama-q4_k", GGUF_DT_Q4_K, 2, 256, 4, 1, 64, 256, 45, 64, MODEL_ROPE_NEOX, MODEL_NORM_RMS,
     MODEL_ACT_SILU, true, false, false, 0, 0},
};
const uint32_t toy_n_specs = sizeof(toy_specs) / sizeof(toy_specs[0]);

uint64_t toy_next(struct toy_rng *r)
{
	uint64_t z = (r->state += 0x9e3779b97f4a7c15u); /* splitmix64 (Steele et al., 2014) */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint32_t toy_below(struct toy_rng *r, uint32_t n)
{
	return (uint32_t)(toy_next(r) >> 33) % n;
}

float toy_uniform(struct toy_rng *r)
{
	return (float)(toy_next(r) >> 40) * 0x1p-23f - 1.0f;
}

/* A float16 with a random sign and mantissa and one of 4 exponents up to 2^-1. */
static uint16_t random_f16(struct toy_rng *r)
{
	return (uint16_t)(toy_below(r, 2) << 15 | (11 + toy_below(r, 4)) << 10 | toy_below(r, 1024));
}

/* Where a block has its float16 scale and minimum (0: none), and their exponents, such that weights are at
 * most about 1. */
static const struct toy_scale {
	enum gguf_dtype dtype;
	uint32_t scale_at, scale_exp, min_at, min_exp;
} toy_scales[] = {
    {GGUF_DT_Q8_0, 0, 8, 0, 0},    {GGUF_DT_Q4_0, 0, 11, 0, 0},  {GGUF_DT_Q4_1, 0, 10, 2, 13},
    {GGUF_DT_Q5_0, 0, 10, 0, 0},   {GGUF_DT_Q5_1, 0, 9, 2, 13},  {GGUF_DT_IQ4_NL, 0, 8, 0, 0},
    {GGUF_DT_Q2_K, 80, 8, 82, 10}, {GGUF_DT_Q3_K, 108, 8, 0, 0}, {GGUF_DT_Q4_K, 0, 5, 2, 8},
    {GGUF_DT_Q5_K, 0, 4, 2, 8},    {GGUF_DT_Q6_K, 208, 3, 0, 0},
};

/* Random bytes but for the scales. */
static void fill_blocks(struct toy_rng *r, enum gguf_dtype dtype, uint64_t n, uint8_t *p)
{
	const struct toy_scale *s = toy_scales;
	uint32_t elems = 1, bytes = 0;

	while (s->dtype != dtype)
		CHECK(++s < toy_scales + sizeof(toy_scales) / sizeof(toy_scales[0]));
	CHECK(gguf_dtype_block(dtype, &elems, &bytes) && n % elems == 0);
	for (uint64_t b = 0; b < n / elems; b++, p += bytes) {
		for (uint32_t i = 0; i < bytes; i++)
			p[i] = (uint8_t)toy_below(r, 256);
		ps_store16(p + s->scale_at, (uint16_t)(s->scale_exp << 10 | toy_below(r, 1024)));
		if (s->min_at != 0)
			ps_store16(p + s->min_at,
				   (uint16_t)(toy_below(r, 2) << 15 | s->min_exp << 10 | toy_below(r, 1024)));
	}
}

void toy_fill(struct toy_rng *r, enum gguf_dtype dtype, uint64_t n, void *row_out)
{
	uint8_t *p = row_out;

	if (dtype != GGUF_DT_F32 && dtype != GGUF_DT_F16 && dtype != GGUF_DT_BF16) {
		fill_blocks(r, dtype, n, p);
		return;
	}
	for (uint64_t i = 0; i < n; i++) {
		float f = toy_uniform(r);
		uint32_t bits;

		memcpy(&bits, &f, sizeof(bits));
		if (dtype == GGUF_DT_F32)
			memcpy(p + 4 * i, &f, sizeof(f));
		else if (dtype == GGUF_DT_F16)
			ps_store16(p + 2 * i, random_f16(r));
		else
			ps_store16(p + 2 * i, (uint16_t)(bits >> 16));
	}
}

struct block_weights {
	struct gguf_tensor *norm1, *norm1_b, *norm2, *norm2_b, *q_norm;
	struct gguf_tensor *q, *k, *v, *qkv_b, *o, *o_b, *up, *up_b, *gate, *down, *down_b, *router;
};

struct toy {
	struct toy_spec spec;
	struct toy_rng rng;
	struct gguf_tensor tensors[MAX_TENSORS];
	uint32_t n_tensors;
	struct gguf_tensor *embed, *positions, *norm, *norm_b, *head;
	struct block_weights blocks[8];
};

static struct gguf_tensor *tensor(struct toy *t, enum gguf_dtype dtype, uint32_t in, uint32_t out,
				  uint32_t depth)
{
	struct gguf_tensor *w = &t->tensors[t->n_tensors++];
	size_t row = accel_row_bytes(dtype, in), rows = (size_t)out * depth;
	uint8_t *data = malloc(rows * row);

	CHECK(t->n_tensors <= MAX_TENSORS && data != NULL && row != 0);
	for (size_t i = 0; i < rows; i++)
		toy_fill(&t->rng, dtype, in, data + i * row);
	*w = (struct gguf_tensor){
	    .dtype = dtype, .n_dims = 3, .ne = {in, out, depth, 1}, .data = data, .n_bytes = rows * row};
	return w;
}

static struct gguf_tensor *vector(struct toy *t, uint32_t n)
{
	return tensor(t, GGUF_DT_F32, n, 1, 1);
}

static void new_block(struct toy *t, struct block_weights *b)
{
	const struct toy_spec *s = &t->spec;
	bool bias = s->norm == MODEL_NORM_LAYER;
	uint32_t q = s->heads * s->head_dim, kv = s->heads_kv * s->head_dim,
		 depth = s->experts ? s->experts : 1;

	b->norm1 = vector(t, s->embd);
	b->norm2 = vector(t, s->embd);
	b->q_norm = vector(t, s->head_dim);
	b->q = tensor(t, s->dtype, s->embd, s->fused ? q + 2 * kv : q, 1);
	b->k = s->fused ? b->q : tensor(t, s->dtype, s->embd, kv, 1);
	b->v = s->fused ? b->q : tensor(t, s->dtype, s->embd, kv, 1);
	b->o = tensor(t, s->dtype, q, s->embd, 1);
	b->up = tensor(t, s->dtype, s->embd, s->ff, depth);
	b->gate = tensor(t, s->dtype, s->embd, s->ff, depth);
	b->down = tensor(t, s->dtype, s->ff, s->embd, depth);
	if (s->experts)
		b->router = tensor(t, GGUF_DT_F32, s->embd, s->experts, 1);
	if (s->fused)
		b->qkv_b = vector(t, q + 2 * kv);
	if (bias) {
		b->norm1_b = vector(t, s->embd);
		b->norm2_b = vector(t, s->embd);
		b->o_b = vector(t, s->embd);
		b->up_b = vector(t, s->ff);
		b->down_b = vector(t, s->embd);
	}
}

struct toy *toy_new(const struct toy_spec *spec, uint64_t seed)
{
	struct toy *t = calloc(1, sizeof(*t));

	CHECK(t != NULL && spec->layers <= 8);
	t->spec = *spec;
	t->rng.state = seed;
	t->embed = tensor(t, spec->dtype, spec->embd, spec->vocab, 1);
	if (spec->rope == MODEL_ROPE_NONE)
		t->positions = tensor(t, GGUF_DT_F32, spec->embd, TOY_CTX, 1);
	for (uint32_t i = 0; i < spec->layers; i++)
		new_block(t, &t->blocks[i]);
	t->norm = vector(t, spec->embd);
	t->norm_b = spec->norm == MODEL_NORM_LAYER ? vector(t, spec->embd) : NULL;
	t->head = tensor(t, spec->dtype, spec->embd, spec->vocab, 1);
	return t;
}

void toy_free(struct toy *t)
{
	for (uint32_t i = 0; i < t->n_tensors; i++)
		free((void *)(uintptr_t)t->tensors[i].data);
	free(t);
}

/* Buffers. */
enum { X, NORMED, Q, K, V, ATTN, PROJ, UP, GATE, SELECTED, Q2, LOGITS, N_BUFS };

static struct model_op *op(struct model_graph *g, enum model_op_kind kind, uint8_t dst)
{
	struct model_op *o = &g->ops[g->n_ops++];

	CHECK(g->n_ops <= MAX_OPS);
	*o = (struct model_op){.kind = kind,
			       .dst = dst,
			       .src0 = MODEL_BUF_NONE,
			       .src1 = MODEL_BUF_NONE,
			       .src2 = MODEL_BUF_NONE,
			       .width = g->buf_width[dst],
			       .scale = 1};
	return o;
}

static struct model_op *matmul(struct model_graph *g, uint8_t dst, uint8_t src, const struct gguf_tensor *w,
			       const struct gguf_tensor *b, uint32_t row0)
{
	struct model_op *o = op(g, MODEL_OP_MATMUL, dst);

	o->src0 = src;
	o->w = w;
	o->b = b;
	o->row0 = row0;
	o->rows = o->width;
	return o;
}

static void norm(struct model_graph *g, const struct toy *t, uint8_t dst, uint8_t src,
		 const struct gguf_tensor *w, const struct gguf_tensor *b)
{
	struct model_op *o = op(g, MODEL_OP_NORM, dst);

	o->src0 = src;
	o->w = w;
	o->b = b;
	o->norm = t->spec.norm;
	o->eps = 1e-5f;
}

static void rope(struct model_graph *g, const struct toy *t, uint8_t dst, uint32_t heads)
{
	struct model_op *o = op(g, MODEL_OP_ROPE, dst);

	o->n_heads = heads;
	o->head_dim = t->spec.head_dim;
}

static void attention(struct model_graph *g, const struct toy *t, const struct block_weights *b,
		      uint32_t layer)
{
	const struct toy_spec *s = &t->spec;
	uint8_t q = Q;
	struct model_op *o;

	matmul(g, Q, NORMED, b->q, b->qkv_b, 0);
	matmul(g, K, NORMED, b->k, b->qkv_b, s->fused ? g->buf_width[Q] : 0);
	matmul(g, V, NORMED, b->v, b->qkv_b, s->fused ? g->buf_width[Q] + g->buf_width[K] : 0);
	if (s->head_norm) {
		norm(g, t, Q2, Q, b->q_norm, NULL);
		g->ops[g->n_ops - 1].head_dim = s->head_dim;
		g->ops[g->n_ops - 1].n_heads = s->heads;
		q = Q2;
	}
	if (s->rope != MODEL_ROPE_NONE) {
		rope(g, t, q, s->heads);
		rope(g, t, K, s->heads_kv);
	}
	o = op(g, MODEL_OP_ATTN, ATTN);
	*o = (struct model_op){.kind = o->kind,
			       .dst = ATTN,
			       .src0 = q,
			       .src1 = K,
			       .src2 = V,
			       .layer = layer,
			       .width = o->width,
			       .scale = 1,
			       .n_heads = s->heads,
			       .n_heads_kv = s->heads_kv,
			       .head_dim = s->head_dim,
			       .head_dim_v = s->head_dim,
			       .causal = true,
			       .attn_scale = 1.0f / sqrtf((float)s->head_dim)};
	matmul(g, PROJ, ATTN, b->o, b->o_b, 0)->scale = 0.25f;
	o = op(g, MODEL_OP_ADD, X);
	o->src0 = X;
	o->src1 = PROJ;
}

static void feed_forward(struct model_graph *g, const struct toy *t, const struct block_weights *b)
{
	const struct toy_spec *s = &t->spec;
	struct model_op *o;

	if (s->experts) {
		o = op(g, MODEL_OP_MOE, PROJ);
		o->src0 = NORMED;
		o->w = b->router;
		o->w_gate = b->gate;
		o->w_up = b->up;
		o->w_down = b->down;
		o->n_experts = s->experts;
		o->n_experts_used = s->experts_used;
		o->moe_norm_weights = s->experts_used == 2;
		o->act = s->act;
	} else {
		matmul(g, UP, NORMED, b->up, b->up_b, 0);
		if (s->gated)
			matmul(g, GATE, NORMED, b->gate, NULL, 0);
		o = op(g, s->gated ? MODEL_OP_GLU : MODEL_OP_ACT, s->gated ? GATE : UP);
		o->src0 = o->dst;
		o->src1 = s->gated ? UP : MODEL_BUF_NONE;
		o->act = s->act;
		matmul(g, PROJ, o->dst, b->down, b->down_b, 0);
	}
	o = op(g, MODEL_OP_ADD, X);
	o->src0 = X;
	o->src1 = PROJ;
}

static void set_widths(struct model_graph *g, const struct toy_spec *s)
{
	uint32_t q = s->heads * s->head_dim, kv = s->heads_kv * s->head_dim;
	const uint32_t widths[N_BUFS] = {
	    [X] = s->embd,  [NORMED] = s->embd,   [Q] = q,          [K] = kv,
	    [V] = kv,       [ATTN] = q,           [PROJ] = s->embd, [UP] = s->ff,
	    [GATE] = s->ff, [SELECTED] = s->embd, [Q2] = q,         [LOGITS] = s->vocab};

	g->n_bufs = N_BUFS;
	memcpy(g->buf_width, widths, sizeof(widths));
}

static void head(struct model_graph *g, const struct toy *t)
{
	op(g, MODEL_OP_SELECT_ROWS, SELECTED)->src0 = X;
	norm(g, t, NORMED, SELECTED, t->norm, t->norm_b);
	matmul(g, LOGITS, NORMED, t->head, NULL, 0);
}

struct model_graph *toy_graph(struct toy *t, uint32_t first, uint32_t last)
{
	const struct toy_spec *s = &t->spec;
	struct model_graph *g = calloc(1, sizeof(*g));

	CHECK(g != NULL);
	g->ops = calloc(MAX_OPS, sizeof(*g->ops));
	CHECK(g->ops != NULL);
	g->block_first = first;
	g->block_last = last;
	g->has_embed = first == 0;
	g->has_head = last == s->layers;
	g->hp = (struct model_hparams){.n_layers = s->layers, .n_embd = s->embd, .n_vocab = s->vocab};
	g->hp.rope = (struct model_rope_params){
	    .kind = s->rope, .n_rot = s->n_rot, .mscale = 1, .freq_base = 10000, .freq_scale = 1};
	set_widths(g, s);
	if (g->has_embed) {
		struct model_op *o = op(g, MODEL_OP_EMBED, X);

		o->w = t->embed;
		o->w2 = t->positions;
		o->scale = 1.5f;
	}
	for (uint32_t i = first; i < last; i++) {
		norm(g, t, NORMED, X, t->blocks[i].norm1, t->blocks[i].norm1_b);
		attention(g, t, &t->blocks[i], i);
		norm(g, t, NORMED, X, t->blocks[i].norm2, t->blocks[i].norm2_b);
		feed_forward(g, t, &t->blocks[i]);
	}
	if (g->has_head)
		head(g, t);
	g->out_buf = g->has_head ? LOGITS : X;
	g->out_width = g->buf_width[g->out_buf];
	return g;
}

void toy_graph_free(struct model_graph *g)
{
	free(g->ops);
	free(g);
}
