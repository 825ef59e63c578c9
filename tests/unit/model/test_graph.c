/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Graphs: what is built for each architecture and variant, that every graph is
 * a sound data flow with weights of the right shape, and that a model with a
 * tensor missing, odd or unknown is refused by that tensor's name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <math.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/graph.h"
#include "tests/unit/model/family.h"
#include "tests/unit/model/gguf_writer.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A token reads all of a file but the rest of its tables, and a tied table once more, as the head. */
static void check_range_bytes(const struct gguf *g)
{
	const struct gguf_tensor *embed = gguf_tensor(g, "token_embd.weight");
	const struct gguf_tensor *positions = gguf_tensor(g, "position_embd.weight");
	struct model_hparams hp;
	uint64_t want = 0;

	assert_int_equal(model_read_hparams(g, &hp, NULL), 0);
	for (size_t i = 0; i < gguf_n_tensors(g); i++)
		want += gguf_tensor_at(g, i)->n_bytes;
	want += embed->n_bytes / embed->ne[1];
	if (gguf_tensor(g, "output.weight") != NULL)
		want -= embed->n_bytes;
	if (positions != NULL)
		want -= positions->n_bytes - positions->n_bytes / positions->ne[1];
	assert_true(model_range_bytes(g, 0, hp.n_layers) == want);
}

/* ---- what is built -------------------------------------------------------------------------- */

static void assert_kinds(const struct model_graph *gr, const enum model_op_kind *want, size_t n)
{
	assert_int_equal(gr->n_ops, n);
	for (size_t i = 0; i < n; i++)
		assert_string_equal(model_op_name(gr->ops[i].kind), model_op_name(want[i]));
}

static void test_llama_ops(void **state)
{
	static const enum model_op_kind want[] = {
	    MODEL_OP_EMBED, MODEL_OP_NORM,        MODEL_OP_MATMUL, MODEL_OP_MATMUL, MODEL_OP_MATMUL,
	    MODEL_OP_ROPE,  MODEL_OP_ROPE,        MODEL_OP_ATTN,   MODEL_OP_MATMUL, MODEL_OP_ADD,
	    MODEL_OP_NORM,  MODEL_OP_MATMUL,      MODEL_OP_MATMUL, MODEL_OP_GLU,    MODEL_OP_MATMUL,
	    MODEL_OP_ADD,   MODEL_OP_SELECT_ROWS, MODEL_OP_NORM,   MODEL_OP_MATMUL,
	};
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F16};
	struct model_graph *gr;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	g = gw_open_good(&w);
	gr = fam_build(g, 0, 1);
	assert_kinds(gr, want, COUNT(want));
	assert_int_equal(gr->ops[1].norm, MODEL_NORM_RMS);
	assert_int_equal(gr->ops[13].act, MODEL_ACT_SILU);
	assert_string_equal(gr->ops[11].w->name, "blk.0.ffn_up.weight");
	assert_int_equal(gr->ops[13].src0, gr->ops[12].dst); /* act(gate) * up */
	assert_string_equal(gr->ops[12].w->name, "blk.0.ffn_gate.weight");
	assert_string_equal(gr->ops[18].w->name, "token_embd.weight"); /* tied */
	assert_null(gr->ops[2].b);
	assert_int_equal(gr->ops[5].n_heads, 4);
	assert_int_equal(gr->ops[6].n_heads, 2);
	assert_int_equal(gr->hp.rope.kind, MODEL_ROPE_NORM);
	assert_int_equal(gr->hp.rope.n_rot, 8);
	assert_true(gr->hp.rope.mscale == 1.0f && gr->hp.rope.freq_base == 10000.0f);
	assert_int_equal(gr->hp.n_ctx_max, 0);
	assert_string_equal(gr->hp.name, "tiny");
	model_graph_free(gr);
	gguf_close(g);
	gw_free(&w);
}

static void test_gpt2_ops(void **state)
{
	static const enum model_op_kind want[] = {
	    MODEL_OP_EMBED,  MODEL_OP_NORM,        MODEL_OP_MATMUL, MODEL_OP_MATMUL,
	    MODEL_OP_MATMUL, MODEL_OP_ATTN,        MODEL_OP_MATMUL, MODEL_OP_ADD,
	    MODEL_OP_NORM,   MODEL_OP_MATMUL,      MODEL_OP_ACT,    MODEL_OP_MATMUL,
	    MODEL_OP_ADD,    MODEL_OP_SELECT_ROWS, MODEL_OP_NORM,   MODEL_OP_MATMUL,
	};
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32, .untied = true};
	struct model_graph *gr;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_gpt2(&w, &m);
	g = gw_open_good(&w);
	gr = fam_build(g, 0, 1);
	assert_kinds(gr, want, COUNT(want));
	assert_string_equal(gr->ops[0].w2->name, "position_embd.weight");
	assert_int_equal(gr->hp.n_ctx_max, 24);
	assert_int_equal(gr->ops[1].norm, MODEL_NORM_LAYER);
	assert_non_null(gr->ops[1].b);
	assert_int_equal(gr->ops[10].act, MODEL_ACT_GELU_TANH);
	for (uint32_t i = 0; i < 3; i++) { /* Q, K, V one after another in one matrix */
		assert_string_equal(gr->ops[2 + i].w->name, "blk.0.attn_qkv.weight");
		assert_string_equal(gr->ops[2 + i].b->name, "blk.0.attn_qkv.bias");
		assert_int_equal(gr->ops[2 + i].row0, 32 * i);
		assert_int_equal(gr->ops[2 + i].rows, 32);
	}
	assert_string_equal(gr->ops[15].w->name, "output.weight");
	assert_int_equal(gr->hp.rope.kind, MODEL_ROPE_NONE);
	model_graph_free(gr);
	gguf_close(g);
	gw_free(&w);
}

static void test_variants(void **state)
{
	static const struct gw_model models[] = {
	    {.n_layers = 3, .dtype = GGUF_DT_F32},
	    {.n_layers = 2, .dtype = GGUF_DT_F16, .untied = true},
	    {.n_layers = 2, .dtype = GGUF_DT_BF16, .fused = true, .biases = true},
	    {.n_layers = 4, .dtype = GGUF_DT_Q8_0, .biases = true, .untied = true},
	    {.n_layers = 3, .dtype = GGUF_DT_Q8_0, .moe = true},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(models); i++) {
		struct gguf *g;
		struct gw w;

		gw_llama(&w, &models[i]);
		g = gw_open_good(&w);
		check_range_bytes(g);
		fam_check_ranges(g);
		gguf_close(g);
		gw_free(&w);
		gw_gpt2(&w, &models[i]);
		g = gw_open_good(&w);
		check_range_bytes(g);
		fam_check_ranges(g);
		gguf_close(g);
		gw_free(&w);
	}
}

static void test_llama_fused_gqa(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32, .fused = true, .biases = true};
	const uint32_t row0[] = {0, 32, 48}, rows[] = {32, 16, 16};
	struct model_graph *gr;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	g = gw_open_good(&w);
	gr = fam_build(g, 0, 1);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(gr->ops[2 + i].row0, row0[i]);
		assert_int_equal(gr->ops[2 + i].rows, rows[i]);
		assert_int_equal(gr->ops[2 + i].b->ne[0], 64);
	}
	model_graph_free(gr);
	gguf_close(g);
	gw_free(&w);
}

static void test_moe(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F16, .moe = true};
	struct model_graph *gr;
	const struct model_op *op;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	g = gw_open_good(&w);
	gr = fam_build(g, 0, 1);
	op = &gr->ops[11];
	assert_int_equal(op->kind, MODEL_OP_MOE);
	assert_int_equal(op->n_experts, 3);
	assert_int_equal(op->n_experts_used, 2);
	assert_true(op->moe_norm_weights);
	assert_int_equal(op->act, MODEL_ACT_SILU);
	assert_string_equal(op->w->name, "blk.0.ffn_gate_inp.weight");
	assert_int_equal(op->w_gate->ne[2], 3);
	assert_int_equal(op->w_down->ne[0], 64);
	model_graph_free(gr);
	gguf_close(g);
	gw_free(&w);
}

/* The reference cases that ship with the project: all of them have a graph. */
static void test_cases(void **state)
{
	static const char *const names[] = {
	    "llama-mha",    "llama-gqa-tied", "llama-mqa-hd", "llama-bias",   "llama-fusedqkv",
	    "llama-linear", "llama-yarn",     "llama-moe",    "gpt2",         "llama-ropefreqs",
	    "gpt2-odd",     "q-llama-F16",    "q-llama-BF16", "q-llama-Q8_0", "q-gpt2-F16",
	    "q-gpt2-BF16",  "q-gpt2-Q8_0",
	};
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	(void)state;
	assert_non_null(root);
	for (size_t i = 0; i < COUNT(names); i++) {
		struct model_hparams hp;
		struct gguf *g = NULL;
		struct ps_err err = {{0}};
		char path[512];

		snprintf(path, sizeof(path), "%s/tests/conformance/cases/%s/model.gguf", root, names[i]);
		if (gguf_open(path, &g, &err) != 0 || model_read_hparams(g, &hp, &err) != 0)
			fail_msg("%s", err.msg);
		fam_check_ranges(g);
		if (strcmp(names[i], "llama-mqa-hd") == 0)
			assert_int_equal(hp.head_dim, 16); /* n_embd / n_heads is 8 */
		gguf_close(g);
	}
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void assert_refused(struct gw *w, int want, const char *text)
{
	struct model_graph *gr = (struct model_graph *)1;
	struct ps_err err = {{0}};
	struct gguf *g = gw_open_good(w);
	int rc = model_graph_build(g, 0, 2, &gr, &err);

	if (rc != want || strstr(err.msg, text) == NULL)
		fail_msg("expected %d and '%s', got %d: '%s'", want, text, rc, err.msg);
	assert_null(gr);
	gguf_close(g);
	gw_free(w);
}

/* Each tensor of a model in turn: missing, of another shape, of a type that cannot be computed. */
static void spoil_each(void (*make)(struct gw *, const struct gw_model *), struct gw_model m)
{
	char names[128][64];
	struct gguf *g;
	struct gw w;
	size_t n;

	make(&w, &m);
	g = gw_open_good(&w);
	n = gguf_n_tensors(g);
	assert_true(n <= COUNT(names));
	for (size_t i = 0; i < n; i++)
		snprintf(names[i], sizeof(names[i]), "%.63s", gguf_tensor_at(g, i)->name);
	gguf_close(g);
	gw_free(&w);
	for (size_t i = 0; i < n; i++) {
		struct gw_model bad = m;

		bad.reshape = names[i];
		make(&w, &bad);
		/* More positions than the file says are no error: the table is what counts. */
		if (strcmp(names[i], "position_embd.weight") == 0)
			gw_free(&w);
		else
			assert_refused(&w, -EBADMSG, names[i]);
		bad.reshape = NULL;
		bad.retype = names[i];
		make(&w, &bad);
		assert_refused(&w, -ENOTSUP, names[i]);
		/* A head that is not there is a tied one; a bias may be missing in llama. */
		if (strcmp(names[i], "output.weight") == 0 ||
		    (make == gw_llama && strstr(names[i], ".bias") != NULL))
			continue;
		bad.retype = NULL;
		bad.skip = names[i];
		make(&w, &bad);
		assert_refused(&w, -EBADMSG, names[i]);
	}
}

static void test_spoiled_llama(void **state)
{
	(void)state;
	spoil_each(gw_llama, (struct gw_model){.n_layers = 2, .dtype = GGUF_DT_F16, .untied = true});
	spoil_each(gw_llama, (struct gw_model){.n_layers = 2, .dtype = GGUF_DT_F32, .biases = true});
}

static void test_spoiled_moe(void **state)
{
	(void)state;
	spoil_each(gw_llama, (struct gw_model){.n_layers = 2, .dtype = GGUF_DT_F16, .moe = true});
}

static void test_spoiled_gpt2(void **state)
{
	(void)state;
	spoil_each(gw_gpt2, (struct gw_model){.n_layers = 2, .dtype = GGUF_DT_F16, .untied = true});
}

static void test_unknown_tensors(void **state)
{
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32};
	const uint64_t ne[1] = {8};
	struct gw w;

	(void)state;
	/* Each would be left out of the computation. */
	gw_llama(&w, &m);
	gw_tensor(&w, "blk.1.attn_q_norm.weight", 1, ne, GGUF_DT_F32);
	assert_refused(&w, -ENOTSUP, "blk.1.attn_q_norm.weight");
	gw_llama(&w, &m);
	gw_tensor(&w, "blk.2.attn_norm.weight", 1, ne, GGUF_DT_F32);
	assert_refused(&w, -ENOTSUP, "blk.2.attn_norm.weight");
	gw_llama(&w, &m);
	gw_tensor(&w, "extra", 1, ne, GGUF_DT_F32);
	assert_refused(&w, -ENOTSUP, "extra");
}

static void test_bad_ranges(void **state)
{
	static const uint32_t ranges[][2] = {{0, 0}, {2, 1},          {0, 4},
					     {3, 4}, {UINT32_MAX, 0}, {3, UINT32_MAX}};
	const struct gw_model m = {.n_layers = 3, .dtype = GGUF_DT_F32};
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	g = gw_open_good(&w);
	for (size_t i = 0; i < COUNT(ranges); i++) {
		struct model_graph *gr;

		assert_int_equal(model_graph_build(g, ranges[i][0], ranges[i][1], &gr, NULL), -EINVAL);
		assert_null(gr);
		assert_true(model_range_bytes(g, ranges[i][0], ranges[i][1]) == 0);
	}
	gguf_close(g);
	gw_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_llama_ops),     cmocka_unit_test(test_gpt2_ops),
	    cmocka_unit_test(test_variants),      cmocka_unit_test(test_llama_fused_gqa),
	    cmocka_unit_test(test_moe),           cmocka_unit_test(test_cases),
	    cmocka_unit_test(test_spoiled_llama), cmocka_unit_test(test_spoiled_moe),
	    cmocka_unit_test(test_spoiled_gpt2),  cmocka_unit_test(test_unknown_tensors),
	    cmocka_unit_test(test_bad_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
