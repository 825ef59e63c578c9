/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Models of more than one pass: T5's encoder and decoder over every range of
 * blocks, the masked-language-model head, what becomes of hidden states.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>

#include <cmocka.h>

#include "tests/unit/model/family.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define STACK(s)                                                                                             \
	FAM_N(s "*attn_norm"), FAM_M(s "*attn_q", FAM_D, FAM_D), FAM_M(s "*attn_k", FAM_D, FAM_D),           \
	    FAM_M(s "*attn_v", FAM_D, FAM_D), FAM_M(s "*attn_o", FAM_D, FAM_D), FAM_N(s "*ffn_norm"),        \
	    FAM_M(s "*ffn_up", FAM_D, FAM_FF), FAM_M(s "*ffn_down", FAM_FF, FAM_D)
#define CROSS                                                                                                \
	FAM_N("D*cross_attn_norm"), FAM_M("D*cross_attn_q", FAM_D, FAM_D),                                   \
	    FAM_M("D*cross_attn_k", FAM_D, FAM_D), FAM_M("D*cross_attn_v", FAM_D, FAM_D),                    \
	    FAM_M("D*cross_attn_o", FAM_D, FAM_D)

enum { N_ENC = 3, N_DEC = 2, N_ALL = N_ENC + N_DEC, BUCKETS = 8 };

static const struct family fam_t5 = {
    .arch = "t5",
    .n_layers = N_ENC,
    .n_dec = N_DEC,
    .keys = {{"decoder_block_count", 'u', N_DEC},
	     {"attention.relative_buckets_count", 'u', BUCKETS},
	     {"decoder_start_token_id", 'u', 3}},
    .tensors = {FAM_EMBED,
		STACK("E"),
		STACK("D"),
		CROSS,
		{"enc.blk.0.attn_rel_b.weight", {FAM_HEADS, BUCKETS}},
		{"dec.blk.0.attn_rel_b.weight", {FAM_HEADS, BUCKETS}},
		FAM_N("enc.output_norm"),
		FAM_N("dec.output_norm")},
};

static const struct family fam_bert = {
    .arch = "bert",
    .n_layers = 2,
    .keys = {{"pooling_type", 'u', 3}},
    .tensors = {FAM_EMBED,
		FAM_M("position_embd", FAM_D, FAM_CTX),
		FAM_M("token_types", FAM_D, 2),
		FAM_NB("token_embd_norm"),
		FAM_MB("*attn_qkv", FAM_D, 3 * FAM_D),
		FAM_MB("*attn_output", FAM_D, FAM_D),
		FAM_NB("*attn_output_norm"),
		FAM_MB("*ffn_up", FAM_D, FAM_FF),
		FAM_MB("*ffn_down", FAM_FF, FAM_D),
		FAM_NB("*layer_output_norm"),
		FAM_MB("mlm_dense", FAM_D, FAM_D),
		FAM_NB("mlm_norm"),
		{"mlm_output.bias", {FAM_VOCAB}}},
};

#define SELF    "norm matmul matmul matmul attn matmul add "
#define CROSSED "norm matmul attn matmul add "
#define RELU    "norm matmul act matmul add "
#define KEEP    "matmul matmul cross_kv "

static void assert_ops(const struct model_graph *gr, const char *want)
{
	char got[2048];

	fam_ops_text(gr, got, sizeof(got));
	assert_string_equal(got, want);
}

static void test_t5_passes(void **state)
{
	struct gguf *g = fam_open(&fam_t5);
	struct model_graph *gr = fam_build(g, 0, N_ALL);

	(void)state;
	assert_int_equal(gr->hp.n_layers, N_ALL);
	assert_int_equal(gr->hp.n_layers_enc, N_ENC);
	assert_int_equal(gr->hp.decoder_start, 3);
	assert_true(gr->hp.causal && gr->hp.task == MODEL_TASK_GENERATE);
	assert_ops(gr->encode, "embed " SELF RELU SELF RELU SELF RELU "norm matmul matmul cross_kv "
			       "matmul matmul cross_kv");
	assert_ops(gr, "embed " SELF CROSSED RELU SELF CROSSED RELU "select_rows norm matmul");
	assert_string_equal(fam_op(gr->encode, MODEL_OP_NORM, 6)->w->name, "enc.output_norm.weight");
	assert_string_equal(fam_op(gr, MODEL_OP_NORM, 6)->w->name, "dec.output_norm.weight");
	assert_string_equal(gr->ops[gr->n_ops - 1].w->name, "token_embd.weight");
	assert_int_equal(gr->encode->out_buf, MODEL_BUF_X);
	assert_int_equal(fam_op(gr, MODEL_OP_ACT, 0)->act, MODEL_ACT_RELU);
	fam_check_ranges(g);
	model_graph_free(gr);
	gguf_close(g);
}

static void check_t5_encoder_attn(const struct model_graph *encode)
{
	for (uint32_t i = 0; i < N_ENC; i++) {
		const struct model_op *op = fam_op(encode, MODEL_OP_ATTN, i);

		assert_false(op->causal || op->cross);
		assert_int_equal(op->layer, i);
		assert_true(op->attn_scale == 1);
		assert_string_equal(op->rel_bias->name, "enc.blk.0.attn_rel_b.weight");
		assert_int_equal(op->rel_max_distance, 128);
	}
}

static void test_t5_attention(void **state)
{
	struct gguf *g = fam_open(&fam_t5);
	struct model_graph *gr = fam_build(g, 0, N_ALL);

	(void)state;
	check_t5_encoder_attn(gr->encode);
	for (uint32_t i = 0; i < N_DEC; i++) {
		const struct model_op *self = fam_op(gr, MODEL_OP_ATTN, 2 * i);
		const struct model_op *cross = fam_op(gr, MODEL_OP_ATTN, 2 * i + 1);
		const struct model_op *kv = fam_op(gr->encode, MODEL_OP_CROSS_KV, i);

		assert_true(self->causal && !self->cross && self->attn_scale == 1);
		assert_string_equal(self->rel_bias->name, "dec.blk.0.attn_rel_b.weight");
		assert_true(!cross->causal && cross->cross && cross->attn_scale == 1);
		assert_null(cross->rel_bias);
		assert_int_equal(self->layer, N_ENC + i);
		assert_int_equal(cross->layer, N_ENC + i);
		assert_int_equal(kv->layer, N_ENC + i);
		assert_int_equal(kv->n_heads_kv, FAM_HEADS);
		assert_int_equal(kv->head_dim_v, FAM_HEAD);
	}
	model_graph_free(gr);
	gguf_close(g);
}

/* Every range: what embeds, what has a head, what has nothing to do. */
static void test_t5_ranges(void **state)
{
	struct gguf *g = fam_open(&fam_t5);

	(void)state;
	for (uint32_t first = 0; first < N_ALL; first++) {
		for (uint32_t last = first + 1; last <= N_ALL; last++) {
			struct model_graph *gr = fam_build(g, first, last);
			bool decodes = last > N_ENC;

			fam_check_graph(gr);
			assert_int_equal(gr->n_ops > 0, decodes);
			assert_int_equal(gr->has_embed, decodes && first <= N_ENC);
			assert_int_equal(gr->has_head, last == N_ALL);
			assert_true(gr->encode->n_ops > 0);
			assert_int_equal(gr->encode->has_embed, first == 0);
			assert_false(gr->encode->has_head);
			assert_null(gr->fill);
			if (!decodes) {
				assert_int_equal(gr->out_buf, MODEL_BUF_X);
				assert_int_equal(gr->out_width, FAM_D);
			}
			model_graph_free(gr);
		}
	}
	gguf_close(g);
}

/* A decoder as long as the encoder where the file does not say; a bias of its own where a block has
 * one (as umT5); a gate makes it GELU. */
static void test_t5_variants(void **state)
{
	struct family f = fam_t5;
	struct model_graph *gr;
	struct gguf *g;
	size_t n = 0;

	(void)state;
	f.n_dec = N_ENC;
	f.keys[0] = (struct fam_key){"decoder_start_token_id", 'u', 3};
	f.keys[2] = (struct fam_key){0};
	while (f.tensors[n].name != NULL)
		n++;
	f.tensors[n++] = (struct fam_tensor){"enc.blk.1.attn_rel_b.weight", {FAM_HEADS, BUCKETS}};
	f.tensors[n++] = (struct fam_tensor){"dec.blk.0.cross_attn_rel_b.weight", {FAM_HEADS, BUCKETS}};
	f.tensors[n++] = (struct fam_tensor)FAM_M("E*ffn_gate", FAM_D, FAM_FF);
	f.tensors[n++] = (struct fam_tensor)FAM_M("output", FAM_D, FAM_VOCAB);
	g = fam_open(&f);
	gr = fam_build(g, 0, 2 * N_ENC);
	assert_string_equal(fam_op(gr->encode, MODEL_OP_ATTN, 1)->rel_bias->name,
			    "enc.blk.1.attn_rel_b.weight");
	assert_string_equal(fam_op(gr->encode, MODEL_OP_ATTN, 2)->rel_bias->name,
			    "enc.blk.0.attn_rel_b.weight");
	assert_int_equal(fam_op(gr->encode, MODEL_OP_GLU, 0)->act, MODEL_ACT_GELU_TANH);
	assert_int_equal(fam_op(gr, MODEL_OP_ACT, 0)->act, MODEL_ACT_RELU);
	assert_string_equal(gr->ops[gr->n_ops - 1].w->name, "output.weight");
	model_graph_free(gr);
	gguf_close(g);
}

static void test_t5_refused(void **state)
{
	static const char *const missing[] = {
	    "t5.attention.relative_buckets_count",
	    "enc.blk.0.attn_rel_b.weight",
	    "dec.blk.0.attn_rel_b.weight",
	    "dec.blk.1.cross_attn_k.weight",
	    "enc.output_norm.weight",
	    "dec.output_norm.weight",
	    "dec.blk.1.cross_attn_norm.weight",
	    "enc.blk.2.attn_o.weight",
	};
	static const uint32_t buckets[] = {0, 2, 7, 256, UINT32_MAX};
	struct gw w;

	(void)state;
	for (size_t i = 0; i < COUNT(missing); i++) {
		fam_write(&w, &fam_t5, missing[i]);
		fam_assert_refused(&w, -EBADMSG, missing[i]);
	}
	for (size_t i = 0; i < COUNT(buckets); i++) {
		fam_write(&w, &fam_t5, "t5.attention.relative_buckets_count");
		gw_kv_u32(&w, "t5.attention.relative_buckets_count", buckets[i]);
		fam_assert_refused(&w, -EBADMSG, "t5.attention.relative_buckets_count");
	}
	fam_write(&w, &fam_t5, "t5.decoder_block_count");
	gw_kv_u32(&w, "t5.decoder_block_count", 1022);
	fam_assert_refused(&w, -EBADMSG, "t5.decoder_block_count");
	fam_write(&w, &fam_t5, "t5.decoder_start_token_id");
	gw_kv_u32(&w, "t5.decoder_start_token_id", FAM_VOCAB);
	fam_assert_refused(&w, -EBADMSG, "t5.decoder_start_token_id");
}

/* The cut weighs both stacks and gives each stage a block. */
static void test_t5_split(void **state)
{
	struct gguf *g = fam_open(&fam_t5);
	const uint64_t row = FAM_D * 4, embed = row * FAM_VOCAB, norm = FAM_D * 4;
	uint64_t whole = 0;
	uint32_t cuts[N_ALL + 1];

	(void)state;
	for (uint32_t n = 1; n <= N_ALL; n++) {
		assert_int_equal(model_split_even(g, n, cuts, NULL), 0);
		assert_int_equal(cuts[n], N_ALL);
		for (uint32_t i = 0; i < n; i++)
			assert_true(cuts[i] < cuts[i + 1]);
	}
	for (size_t i = 0; i < gguf_n_tensors(g); i++)
		whole += gguf_tensor_at(g, i)->n_bytes;
	/* A row for each stack, and all of the table as the head. */
	assert_true(model_range_bytes(g, 0, N_ALL) == whole + 2 * row);
	assert_true(model_range_bytes(g, 0, N_ENC) + model_range_bytes(g, N_ENC, N_ALL) == whole + 2 * row);
	assert_true(model_range_bytes(g, 2, 3) == model_range_bytes(g, 1, 2) + norm);
	assert_true(model_range_bytes(g, 4, 5) + FAM_HEADS * BUCKETS * 4 + row ==
		    model_range_bytes(g, 3, 4) + embed + norm);
	gguf_close(g);
}

static void test_bert(void **state)
{
	struct gguf *g = fam_open(&fam_bert);
	struct model_graph *gr = fam_build(g, 0, 2);

	(void)state;
	assert_int_equal(gr->hp.task, MODEL_TASK_EMBED);
	assert_int_equal(gr->hp.pooling, MODEL_POOL_LAST);
	assert_true(gr->hp.has_fill && !gr->hp.causal);
	assert_int_equal(gr->out_width, FAM_D);
	assert_int_equal(fam_op(gr, MODEL_OP_MATMUL, 0)->src0, MODEL_BUF_X);
	assert_string_equal(gr->ops[0].w_type->name, "token_types.weight");
	assert_int_equal(gr->hp.n_ctx_max, FAM_CTX);
	assert_false(fam_op(gr, MODEL_OP_ATTN, 0)->causal);
	assert_int_equal(gr->fill->out_width, FAM_VOCAB);
	assert_ops(gr->fill,
		   "embed norm matmul matmul matmul attn matmul add norm matmul act matmul add norm "
		   "matmul matmul matmul attn matmul add norm matmul act matmul add norm "
		   "select_rows matmul act norm matmul");
	assert_string_equal(gr->fill->ops[gr->fill->n_ops - 1].w->name, "token_embd.weight");
	assert_string_equal(gr->fill->ops[gr->fill->n_ops - 1].b->name, "mlm_output.bias");
	fam_check_ranges(g);
	model_graph_free(gr);
	gguf_close(g);
}

static void test_bert_refused(void **state)
{
	struct gw w;

	(void)state;
	/* A head that is not whole. */
	fam_write(&w, &fam_bert, "mlm_norm.weight");
	fam_assert_refused(&w, -EBADMSG, "mlm_norm.weight");
	fam_write(&w, &fam_bert, "mlm_output.bias");
	fam_assert_refused(&w, -EBADMSG, "mlm_output.bias");
	fam_write(&w, &fam_bert, "mlm_dense.weight");
	fam_assert_refused(&w, -ENOTSUP, "mlm_dense.bias");
	fam_write(&w, &fam_bert, "position_embd.weight");
	fam_assert_refused(&w, -EBADMSG, "position_embd.weight");
	/* Ranking needs a classifier. */
	fam_write(&w, &fam_bert, "bert.pooling_type");
	gw_kv_u32(&w, "bert.pooling_type", 4);
	fam_assert_refused(&w, -EBADMSG, "bert.pooling_type");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_t5_passes),  cmocka_unit_test(test_t5_attention),
	    cmocka_unit_test(test_t5_ranges),  cmocka_unit_test(test_t5_variants),
	    cmocka_unit_test(test_t5_refused), cmocka_unit_test(test_t5_split),
	    cmocka_unit_test(test_bert),       cmocka_unit_test(test_bert_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
