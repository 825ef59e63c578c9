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
     true, false, false, 0, .experts_used = 0},
    {"llama-f16-gqa", GGUF_DT_F16, 3, 60, 6, 2, 10, 100, 57, 10, MODEL_ROPE_NEOX, MODEL_NORM_RMS,
     MODEL_ACT_SILU, true, false, true, 0, .experts_used = 0},
    {"llama-q8-mqa", GGUF_DT_Q8_0, 3, 64, 4, 1, 16, 96, 50, 12, MODEL_ROPE_NEOX, MODEL_NORM_RMS,
     MODEL_ACT_GELU_TANH, true, true, false, 0, .experts_used = 0},
    {"llama-bf16-wide", GGUF_DT_BF16, 2, 80, 2, 1, 72, 1100, 67, 40, MODEL_ROPE_NORM, MODEL_NORM_RMS,
     MODEL_ACT_SILU, true, false, false, 0, .experts_used = 0},
    {"gpt2-f16", GGUF_DT_F16, 3, 48, 4, 4, 12, 108, 77, 0, MODEL_ROPE_NONE, MODEL_NORM_LAYER,
     MODEL_ACT_GELU_TANH, false, true, false, 0, .experts_used = 0},
    {"gpt2-bf16-erf", GGUF_DT_BF16, 3, 35, 5, 5, 7, 81, 39, 0, MODEL_ROPE_NONE, MODEL_NORM_LAYER,
     MODEL_ACT_GELU_ERF, false, true, false, 0, .experts_used = 0},
    {"moe-f32", GGUF_DT_F32, 3, 32, 4, 2, 8, 44, 45, 8, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_SILU, true,
     false, false, 5, .experts_used = 2},
    {"moe-q8", GGUF_DT_Q8_0, 3, 32, 4, 2, 8, 64, 45, 8, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_RELU, true,
     false, false, 4, .experts_used = 3},
    {"llama-q4_1", GGUF_DT_Q4_1, 2, 64, 4, 2, 16, 96, 45, 16, MODEL_ROPE_NORM, MODEL_NORM_RMS, MODEL_ACT_SILU,
     true, false, false, 0, .experts_used = 0},
    {"llama-q4_k", GGUF_DT_Q4_K, 2, 256, 4, 1, 64, 256, 45, 64, MODEL_ROPE_NEOX, MODEL_NORM_RMS,
     MODEL_ACT_SILU, true, false, false, 0, .experts_used = 0},
};
const uint32_t toy_n_specs = sizeof(toy_specs) / sizeof(toy_specs[0]);

#define SHAPE(name, layers, embd, heads, heads_kv, head_dim, ff, vocab)                                      \
	name, GGUF_DT_F32, layers, embd, heads, heads_kv, head_dim, ff, vocab
#define RMS   .norm = MODEL_NORM_RMS, .act = MODEL_ACT_GELU_TANH, .gated = true
#define LAYER .norm = MODEL_NORM_LAYER, .act = MODEL_ACT_GELU_ERF

const struct toy_spec toy_families[] = {
    {SHAPE("caps-windows", 4, 40, 4, 2, 20, 60, 45), .n_rot = 20, .rope = MODEL_ROPE_NEOX, RMS, .attn_cap = 5,
     .final_cap = 3, .window = 9, .head_norm = true},
    {SHAPE("long-window", 2, 40, 3, 1, 16, 60, 45), .n_rot = 16, .rope = MODEL_ROPE_NORM, RMS, .window = 77,
     .head_norm = true, .head_rows = true},
    {SHAPE("alibi-clamp", 3, 45, 6, 6, 5, 60, 45), LAYER, .no_positions = true, .clamp = 0.7f,
     .max_alibi_bias = 8, .fused = true},
    {SHAPE("alibi-mqa", 2, 45, 70, 1, 9, 60, 45), LAYER, .no_positions = true, .max_alibi_bias = 4},
    {SHAPE("wide-heads", 2, 40, 3, 1, 256, 60, 45), .n_rot = 80, .rope = MODEL_ROPE_NEOX, RMS},
    {SHAPE("heads-of-80", 2, 40, 4, 4, 80, 60, 45), .n_rot = 20, .rope = MODEL_ROPE_NEOX, LAYER},
    {SHAPE("encoder", 3, 36, 3, 3, 12, 70, 45), LAYER, .no_positions = true, .encoder = true,
     .token_type = true},
    {SHAPE("encoder-bias", 2, 36, 4, 2, 9, 70, 45), RMS, .no_positions = true, .encoder = true,
     .rel_bias = true},
    {SHAPE("encoder-decoder", 5, 36, 6, 6, 8, 70, 45), RMS, .no_positions = true, .enc_layers = 3,
     .rel_bias = true},
};
const uint32_t toy_n_families = sizeof(toy_families) / sizeof(toy_families[0]);

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
	struct gguf_tensor *norm3, *cross_q, *cross_k, *cross_v, *cross_o;
};

struct toy {
	struct toy_spec spec;
	struct toy_rng rng;
	struct gguf_tensor tensors[MAX_TENSORS];
	uint32_t n_tensors;
	struct gguf_tensor *embed, *positions, *types, *norm, *norm_b, *head, *enc_norm, *rel[2];
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
	b->q_norm = tensor(t, GGUF_DT_F32, s->head_dim, s->head_rows ? s->heads : 1, 1);
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
	if (s->enc_layers != 0) {
		b->norm3 = vector(t, s->embd);
		b->cross_q = tensor(t, s->dtype, s->embd, q, 1);
		b->cross_k = tensor(t, s->dtype, s->embd, kv, 1);
		b->cross_v = tensor(t, s->dtype, s->embd, kv, 1);
		b->cross_o = tensor(t, s->dtype, q, s->embd, 1);
	}
}

struct toy *toy_new(const struct toy_spec *spec, uint64_t seed)
{
	struct toy *t = calloc(1, sizeof(*t));

	CHECK(t != NULL && spec->layers <= 8);
	t->spec = *spec;
	t->rng.state = seed;
	t->embed = tensor(t, spec->dtype, spec->embd, spec->vocab, 1);
	if (spec->rope == MODEL_ROPE_NONE && !spec->no_positions)
		t->positions = tensor(t, GGUF_DT_F32, spec->embd, TOY_CTX, 1);
	for (uint32_t i = 0; i < spec->layers; i++)
		new_block(t, &t->blocks[i]);
	t->norm = vector(t, spec->embd);
	t->norm_b = spec->norm == MODEL_NORM_LAYER ? vector(t, spec->embd) : NULL;
	t->head = tensor(t, spec->dtype, spec->embd, spec->vocab, 1);
	t->enc_norm = vector(t, spec->embd);
	t->types = tensor(t, spec->dtype, spec->embd, 2, 1);
	for (int i = 0; i < 2; i++)
		t->rel[i] = tensor(t, GGUF_DT_F32, spec->heads, 16, 1);
	return t;
}

void toy_free(struct toy *t)
{
	for (uint32_t i = 0; i < t->n_tensors; i++)
		free((void *)(uintptr_t)t->tensors[i].data);
	free(t);
}

/* Buffers. */
enum { X, NORMED, Q, K, V, ATTN, PROJ, UP, GATE, SELECTED, Q2, LOGITS, HIDDEN, N_BUFS };

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

static void rope(struct model_graph *g, const struct toy *t, uint8_t dst, uint32_t heads, bool swa)
{
	struct model_op *o = op(g, MODEL_OP_ROPE, dst);

	o->rope_swa = swa;
	o->n_heads = heads;
	o->head_dim = t->spec.head_dim;
}

static void add(struct model_graph *g)
{
	struct model_op *o = op(g, MODEL_OP_ADD, X);

	o->src0 = X;
	o->src1 = PROJ;
}

static struct model_op *attn_op(struct model_graph *g, const struct toy *t, enum model_op_kind kind,
				uint8_t q, uint32_t layer)
{
	const struct toy_spec *s = &t->spec;
	struct model_op *o = op(g, kind, kind == MODEL_OP_ATTN ? ATTN : X);

	o->src0 = q;
	o->layer = layer;
	o->n_heads = s->heads;
	o->n_heads_kv = s->heads_kv;
	o->head_dim = s->head_dim;
	o->head_dim_v = s->head_dim;
	o->attn_scale = 1.0f / sqrtf((float)s->head_dim);
	return o;
}

static void attention(struct model_graph *g, const struct toy *t, const struct block_weights *b,
		      uint32_t layer, bool causal)
{
	const struct toy_spec *s = &t->spec;
	bool swa = s->window != 0 && layer % 2 == 0;
	uint8_t q = Q;
	struct model_op *o;

	matmul(g, Q, NORMED, b->q, b->qkv_b, 0)->clamp = s->clamp;
	matmul(g, K, NORMED, b->k, b->qkv_b, s->fused ? g->buf_width[Q] : 0)->clamp = s->clamp;
	matmul(g, V, NORMED, b->v, b->qkv_b, s->fused ? g->buf_width[Q] + g->buf_width[K] : 0)->clamp =
	    s->clamp;
	if (s->head_norm) {
		q = s->window != 0 ? Q : Q2; /* in place, or not */
		norm(g, t, q, Q, b->q_norm, NULL);
		g->ops[g->n_ops - 1].head_dim = s->head_dim;
		g->ops[g->n_ops - 1].n_heads = s->heads;
	}
	if (s->rope != MODEL_ROPE_NONE) {
		rope(g, t, q, s->heads, swa);
		rope(g, t, K, s->heads_kv, swa);
	}
	o = attn_op(g, t, MODEL_OP_ATTN, q, layer);
	o->src1 = K;
	o->src2 = V;
	o->causal = causal;
	o->window = swa ? s->window : 0;
	o->softcap = s->attn_cap;
	o->max_alibi_bias = s->max_alibi_bias;
	o->rel_bias = s->rel_bias ? t->rel[causal] : NULL;
	o->rel_max_distance = 40;
	matmul(g, PROJ, ATTN, b->o, b->o_b, 0)->scale = 0.25f;
	add(g);
}

static void cross_attention(struct model_graph *g, const struct toy *t, const struct block_weights *b,
			    uint32_t layer)
{
	norm(g, t, NORMED, X, b->norm3, NULL);
	matmul(g, Q, NORMED, b->cross_q, NULL, 0);
	attn_op(g, t, MODEL_OP_ATTN, Q, layer)->cross = true;
	matmul(g, PROJ, ATTN, b->cross_o, NULL, 0)->scale = 0.25f;
	add(g);
}

static void cross_kv(struct model_graph *g, const struct toy *t, const struct block_weights *b,
		     uint32_t layer)
{
	struct model_op *o;

	matmul(g, K, X, b->cross_k, NULL, 0);
	matmul(g, V, X, b->cross_v, NULL, 0);
	o = attn_op(g, t, MODEL_OP_CROSS_KV, MODEL_BUF_NONE, layer);
	o->dst = MODEL_BUF_NONE;
	o->width = 0;
	o->src1 = K;
	o->src2 = V;
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
	add(g);
}

static void set_widths(struct model_graph *g, const struct toy_spec *s)
{
	uint32_t q = s->heads * s->head_dim, kv = s->heads_kv * s->head_dim;
	const uint32_t widths[N_BUFS] = {
	    [X] = s->embd, [NORMED] = s->embd,  [Q] = q,           [K] = kv,       [V] = kv,
	    [ATTN] = q,    [PROJ] = s->embd,    [UP] = s->ff,      [GATE] = s->ff, [SELECTED] = s->embd,
	    [Q2] = q,      [LOGITS] = s->vocab, [HIDDEN] = s->embd};

	g->n_bufs = N_BUFS;
	memcpy(g->buf_width, widths, sizeof(widths));
}

static void head(struct model_graph *g, const struct toy *t)
{
	op(g, MODEL_OP_SELECT_ROWS, SELECTED)->src0 = X;
	norm(g, t, NORMED, SELECTED, t->norm, t->norm_b);
	matmul(g, LOGITS, NORMED, t->head, NULL, 0)->softcap = t->spec.final_cap;
	g->out_buf = LOGITS;
}

/* Hidden states: a norm in place on the selected rows. */
static void hidden_head(struct model_graph *g, const struct toy *t)
{
	op(g, MODEL_OP_SELECT_ROWS, HIDDEN)->src0 = X;
	norm(g, t, HIDDEN, HIDDEN, t->norm, t->norm_b);
	g->out_buf = HIDDEN;
}

/* A masked-language-model head: a product with an activation and a norm before the table. */
static void fill_head(struct model_graph *g, const struct toy *t)
{
	struct model_op *o;

	op(g, MODEL_OP_SELECT_ROWS, SELECTED)->src0 = X;
	matmul(g, UP, SELECTED, t->blocks[0].up, t->blocks[0].up_b, 0);
	o = op(g, MODEL_OP_ACT, UP);
	o->src0 = UP;
	o->act = t->spec.act;
	matmul(g, PROJ, UP, t->blocks[0].down, NULL, 0);
	norm(g, t, NORMED, PROJ, t->norm, t->norm_b);
	matmul(g, LOGITS, NORMED, t->head, NULL, 0);
	g->out_buf = LOGITS;
}

static struct model_graph *new_graph(const struct toy_spec *s, uint32_t first, uint32_t last)
{
	struct model_graph *g = calloc(1, sizeof(*g));

	CHECK(g != NULL);
	g->ops = calloc(MAX_OPS, sizeof(*g->ops));
	CHECK(g->ops != NULL);
	g->block_first = first;
	g->block_last = last;
	g->hp = (struct model_hparams){.n_layers = s->layers,
				       .n_layers_enc = s->enc_layers,
				       .n_embd = s->embd,
				       .n_vocab = s->vocab,
				       .causal = !s->encoder};
	g->hp.rope = (struct model_rope_params){
	    .kind = s->rope, .n_rot = s->n_rot, .mscale = 1, .freq_base = 10000, .freq_scale = 1};
	if (s->window != 0) {
		g->hp.rope_swa = g->hp.rope;
		g->hp.rope_swa.freq_base = 500;
		g->hp.rope_swa.n_rot = s->n_rot - 4;
	}
	set_widths(g, s);
	return g;
}

static void embed(struct model_graph *g, const struct toy *t)
{
	struct model_op *o;

	if (!g->has_embed)
		return;
	o = op(g, MODEL_OP_EMBED, X);
	o->w = t->embed;
	o->w2 = t->positions;
	o->w_type = t->spec.token_type ? t->types : NULL;
	o->scale = 1.5f;
}

static void blocks(struct model_graph *g, const struct toy *t, bool causal, bool cross, uint32_t first,
		   uint32_t last)
{
	for (uint32_t i = first > g->block_first ? first : g->block_first; i < last && i < g->block_last;
	     i++) {
		norm(g, t, NORMED, X, t->blocks[i].norm1, t->blocks[i].norm1_b);
		attention(g, t, &t->blocks[i], i, causal);
		if (cross)
			cross_attention(g, t, &t->blocks[i], i);
		norm(g, t, NORMED, X, t->blocks[i].norm2, t->blocks[i].norm2_b);
		feed_forward(g, t, &t->blocks[i]);
	}
}

static struct model_graph *encode_graph(const struct toy *t, uint32_t first, uint32_t last)
{
	const struct toy_spec *s = &t->spec;
	struct model_graph *g = new_graph(s, first, last);

	g->has_embed = first == 0;
	embed(g, t);
	blocks(g, t, false, false, 0, s->enc_layers);
	if (first < s->enc_layers && last >= s->enc_layers)
		norm(g, t, X, X, t->enc_norm, NULL);
	for (uint32_t i = first > s->enc_layers ? first : s->enc_layers; i < last; i++)
		cross_kv(g, t, &t->blocks[i], i);
	g->out_width = g->buf_width[g->out_buf];
	return g;
}

static struct model_graph *fill_graph(const struct toy *t, uint32_t first, uint32_t last)
{
	struct model_graph *g = new_graph(&t->spec, first, last);

	g->has_embed = first == 0;
	g->has_head = last == t->spec.layers;
	embed(g, t);
	blocks(g, t, false, false, 0, t->spec.layers);
	if (g->has_head)
		fill_head(g, t);
	g->out_width = g->buf_width[g->out_buf];
	return g;
}

struct model_graph *toy_graph(struct toy *t, uint32_t first, uint32_t last)
{
	const struct toy_spec *s = &t->spec;
	struct model_graph *g = new_graph(s, first, last);

	g->has_embed = first <= s->enc_layers && last > s->enc_layers;
	g->has_head = last == s->layers;
	embed(g, t);
	blocks(g, t, !s->encoder, s->enc_layers != 0, s->enc_layers, s->layers);
	if (g->has_head && s->encoder)
		hidden_head(g, t);
	else if (g->has_head)
		head(g, t);
	g->out_width = g->buf_width[g->out_buf];
	if (s->enc_layers != 0)
		g->encode = encode_graph(t, first, last);
	if (s->encoder)
		g->fill = fill_graph(t, first, last);
	return g;
}

const struct gguf_tensor *toy_rel(const struct toy *t)
{
	return t->rel[1];
}

void toy_graph_free(struct model_graph *g)
{
	if (g == NULL)
		return;
	toy_graph_free(g->encode);
	toy_graph_free(g->fill);
	free(g->ops);
	free(g);
}
