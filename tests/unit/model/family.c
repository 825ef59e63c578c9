/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/model/family.h"

/* ---- writing ---------------------------------------------------------------------------------- */

static void put_key(struct gw *w, const struct family *f, const struct fam_key *k, const char *skip)
{
	char key[96];

	snprintf(key, sizeof(key), "%s.%s", f->arch, k->suffix);
	if (skip != NULL && strcmp(skip, key) == 0)
		return;
	if (k->kind == 'u')
		gw_kv_u32(w, key, (uint32_t)k->v);
	else if (k->kind == 'f')
		gw_kv_f32(w, key, (float)k->v);
	else
		gw_kv_bool(w, key, k->v != 0);
}

static void put_tensor(struct gw *w, const char *name, const uint32_t *ne, const char *skip)
{
	uint64_t dims[3] = {ne[0], ne[1], ne[2]};
	uint32_t n = ne[2] != 0 ? 3 : ne[1] != 0 ? 2 : 1;

	if (skip == NULL || strcmp(skip, name) != 0)
		gw_tensor(w, name, n, dims, GGUF_DT_F32);
}

static void put_blocks(struct gw *w, const struct family *f, const struct fam_tensor *t, const char *skip)
{
	const char *star = strchr(t->name, '*');
	const char *prefix = t->name[0] == 'E' ? "enc.blk" : t->name[0] == 'D' ? "dec.blk" : "blk";
	uint32_t n = t->name[0] == 'D' ? f->n_dec : f->n_layers;
	char name[96];

	for (uint32_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s.%u.%s", prefix, i, star + 1);
		put_tensor(w, name, t->ne, skip);
	}
}

void fam_write(struct gw *w, const struct family *f, const char *skip)
{
	const struct fam_key common[] = {
	    {"block_count", 'u', f->n_layers},
	    {"embedding_length", 'u', FAM_D},
	    {"feed_forward_length", 'u', FAM_FF},
	    {"attention.head_count", 'u', FAM_HEADS},
	    {"context_length", 'u', FAM_CTX},
	    {"attention.layer_norm_rms_epsilon", 'f', (double)FAM_EPS_RMS},
	    {"attention.layer_norm_epsilon", 'f', (double)FAM_EPS_LAYER},
	};

	gw_init(w);
	gw_kv_str(w, "general.architecture", f->arch);
	for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
		put_key(w, f, &common[i], skip);
	for (size_t i = 0; i < FAM_MAX_KEYS && f->keys[i].suffix != NULL; i++)
		put_key(w, f, &f->keys[i], skip);
	for (size_t i = 0; i < FAM_MAX_TENSORS && f->tensors[i].name != NULL; i++) {
		if (strchr(f->tensors[i].name, '*') != NULL)
			put_blocks(w, f, &f->tensors[i], skip);
		else
			put_tensor(w, f->tensors[i].name, f->tensors[i].ne, skip);
	}
}

struct gguf *fam_open(const struct family *f)
{
	struct gguf *g;
	struct gw w;

	fam_write(&w, f, NULL);
	g = gw_open_good(&w);
	gw_free(&w);
	return g;
}

struct model_graph *fam_build(const struct gguf *g, uint32_t first, uint32_t last)
{
	struct model_graph *gr = NULL;
	struct ps_err err = {{0}};
	int rc = model_graph_build(g, first, last, &gr, &err);

	if (rc != 0)
		fail_msg("rc %d: %s", rc, err.msg);
	return gr;
}

/* ---- soundness of any graph ------------------------------------------------------------------- */

static bool may_alias(const struct model_op *op, uint8_t src)
{
	if (op->kind == MODEL_OP_ROPE)
		return true;
	return src == op->src0 && (op->kind == MODEL_OP_ADD || op->kind == MODEL_OP_ACT ||
				   op->kind == MODEL_OP_GLU || op->kind == MODEL_OP_NORM);
}

static void check_matmul(const struct model_graph *gr, const struct model_op *op)
{
	assert_non_null(op->w);
	assert_int_equal(op->rows, op->width);
	assert_int_equal(op->w->ne[0], gr->buf_width[op->src0]);
	assert_true(op->row0 + op->rows <= op->w->ne[1]);
	if (op->b != NULL)
		assert_int_equal(op->b->ne[0], op->w->ne[1]);
	assert_true(op->scale == 1.0f);
}

static void check_attn(const struct model_graph *gr, const struct model_op *op)
{
	assert_int_equal(gr->buf_width[op->src0], op->n_heads * op->head_dim);
	if (op->cross) {
		assert_int_equal(op->src1, MODEL_BUF_NONE);
		assert_int_equal(op->src2, MODEL_BUF_NONE);
	} else {
		assert_int_equal(gr->buf_width[op->src1], op->n_heads_kv * op->head_dim);
		assert_int_equal(gr->buf_width[op->src2], op->n_heads_kv * op->head_dim_v);
	}
	assert_int_equal(op->width, op->n_heads * op->head_dim_v);
	assert_int_equal(op->n_heads % op->n_heads_kv, 0);
	assert_true(op->causal || op->window == 0);
	assert_true(op->layer >= gr->block_first && op->layer < gr->block_last);
}

static void check_norm(const struct model_op *op)
{
	if (op->head_dim != 0)
		assert_int_equal(op->head_dim * op->n_heads, op->width);
	assert_int_equal(op->w->ne[0], op->head_dim != 0 ? op->head_dim : op->width);
	assert_true(op->w->ne[1] == 1 || op->w->ne[1] == op->n_heads);
	assert_true(op->eps > 0);
}

static void check_op(const struct model_graph *gr, const struct model_op *op, const bool *written)
{
	const uint8_t srcs[] = {op->src0, op->src1, op->src2};

	if (op->kind == MODEL_OP_CROSS_KV) {
		assert_int_equal(op->dst, MODEL_BUF_NONE);
	} else {
		assert_true(op->dst < gr->n_bufs);
		assert_int_equal(gr->buf_width[op->dst], op->width);
	}
	for (size_t i = 0; i < sizeof(srcs); i++) {
		if (srcs[i] == MODEL_BUF_NONE)
			continue;
		assert_true(srcs[i] < gr->n_bufs && written[srcs[i]]);
		assert_true(srcs[i] != op->dst || may_alias(op, srcs[i]));
	}
	if (op->kind == MODEL_OP_MATMUL)
		check_matmul(gr, op);
	if (op->kind == MODEL_OP_ATTN)
		check_attn(gr, op);
	if (op->kind == MODEL_OP_NORM)
		check_norm(op);
}

static void check_pass(const struct model_graph *gr, bool is_encode)
{
	bool written[MODEL_MAX_BUFS] = {false};
	uint32_t n_select = 0;

	assert_true(gr->n_bufs <= MODEL_MAX_BUFS);
	written[MODEL_BUF_X] = !gr->has_embed;
	for (uint32_t i = 0; i < gr->n_ops; i++) {
		const struct model_op *op = &gr->ops[i];

		check_op(gr, op, written);
		if (op->kind == MODEL_OP_SELECT_ROWS) {
			memset(written, 0, sizeof(written));
			n_select++;
		}
		/* The output is written once, at the end. */
		if (gr->has_head)
			assert_int_equal(op->dst == gr->out_buf, i == gr->n_ops - 1);
		if (op->dst != MODEL_BUF_NONE)
			written[op->dst] = true;
	}
	assert_int_equal(n_select, gr->has_head ? 1 : 0);
	assert_int_equal(gr->has_head, gr->block_last == gr->hp.n_layers && !is_encode);
	assert_true(written[gr->out_buf]);
	assert_int_equal(gr->buf_width[gr->out_buf], gr->out_width);
	if (!gr->has_head)
		assert_int_equal(gr->out_buf, MODEL_BUF_X);
}

void fam_check_graph(const struct model_graph *gr)
{
	const uint32_t first = gr->hp.n_layers_enc;

	check_pass(gr, false);
	assert_int_equal(gr->has_embed, gr->block_first <= first && first < gr->block_last);
	assert_int_equal(gr->encode != NULL, gr->hp.n_layers_enc != 0);
	assert_int_equal(gr->fill != NULL, gr->hp.has_fill);
	for (uint32_t i = MODEL_PASS_ENCODE; i < MODEL_N_PASSES; i++) {
		const struct model_graph *pass = model_graph_pass(gr, (enum model_pass)i);

		if (pass == NULL)
			continue;
		check_pass(pass, i == MODEL_PASS_ENCODE);
		assert_int_equal(pass->has_embed, gr->block_first == 0);
		assert_memory_equal(pass->buf_width, gr->buf_width, sizeof(gr->buf_width));
		assert_null(pass->encode);
		assert_null(pass->fill);
	}
}

static void check_cut(const struct gguf *g, const struct model_graph *whole, uint32_t cut)
{
	struct model_graph *a = fam_build(g, 0, cut), *b = fam_build(g, cut, whole->hp.n_layers);

	fam_check_graph(a);
	fam_check_graph(b);
	for (uint32_t i = 0; i < MODEL_N_PASSES; i++) {
		const struct model_graph *pa = model_graph_pass(a, (enum model_pass)i);
		const struct model_graph *pb = model_graph_pass(b, (enum model_pass)i);
		const struct model_graph *pw = model_graph_pass(whole, (enum model_pass)i);

		if (pw == NULL)
			continue;
		assert_int_equal(pa->n_ops + pb->n_ops, pw->n_ops);
		if (pa->n_ops > 0)
			assert_memory_equal(pa->ops, pw->ops, pa->n_ops * sizeof(*pa->ops));
		if (pb->n_ops > 0)
			assert_memory_equal(pb->ops, pw->ops + pa->n_ops, pb->n_ops * sizeof(*pb->ops));
	}
	model_graph_free(a);
	model_graph_free(b);
}

void fam_check_ranges(const struct gguf *g)
{
	struct model_hparams hp;
	struct model_graph *whole;

	assert_int_equal(model_read_hparams(g, &hp, NULL), 0);
	whole = fam_build(g, 0, hp.n_layers);
	fam_check_graph(whole);
	for (uint32_t cut = 1; cut < hp.n_layers; cut++)
		check_cut(g, whole, cut);
	model_graph_free(whole);
}

/* ---- looking at one --------------------------------------------------------------------------- */

void fam_ops_text(const struct model_graph *gr, char *buf, size_t cap)
{
	size_t at = 0;

	buf[0] = '\0';
	for (uint32_t i = 0; i < gr->n_ops && at < cap; i++)
		at += (size_t)snprintf(buf + at, cap - at, "%s%s", i > 0 ? " " : "",
				       model_op_name(gr->ops[i].kind));
	assert_true(at < cap);
}

const struct model_op *fam_op(const struct model_graph *gr, enum model_op_kind kind, uint32_t n)
{
	for (uint32_t i = 0; i < gr->n_ops; i++) {
		if (gr->ops[i].kind == kind && n-- == 0)
			return &gr->ops[i];
	}
	fail_msg("the graph has too few operations '%s'", model_op_name(kind));
	return NULL;
}

void fam_assert_refused(struct gw *w, int want, const char *text)
{
	struct model_graph *gr = NULL;
	struct model_hparams hp;
	struct ps_err err = {{0}};
	struct gguf *g = gw_open_good(w);
	int rc = model_read_hparams(g, &hp, &err);

	if (rc == 0)
		rc = model_graph_build(g, 0, hp.n_layers, &gr, &err);
	if (rc != want || strstr(err.msg, text) == NULL)
		fail_msg("expected %d and '%s', got %d: '%s'", want, text, rc, err.msg);
	assert_null(gr);
	gguf_close(g);
	gw_free(w);
}
