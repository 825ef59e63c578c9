/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the families of models add to a back end: caps, windows, biases,
 * encoders, encoder-decoders, heads of hidden states, and KV caches of each
 * element type. The fast back end against the reference; the same bits however
 * prompts, threads and block ranges are cut; and what must be refused.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "accel/accel.h"
#include "tests/unit/accel/rig.h"
#include "tests/unit/accel/toy.h"

#define N_SLOTS  3u
#define ENC_LONG 70u

static struct accel_open_args args_of(const char *device, uint32_t n_threads, enum accel_kv_dtype kv)
{
	return (struct accel_open_args){.device = device,
					.n_threads = n_threads,
					.n_slots = N_SLOTS,
					.n_ctx = TOY_LONG,
					.max_tokens = TOY_LONG,
					.kv = kv};
}

static void make_tokens(const struct toy_spec *spec, uint64_t seed, int32_t *tokens /* [TOY_LONG] */)
{
	struct toy_rng rng = {seed};

	for (uint32_t i = 0; i < TOY_LONG; i++)
		tokens[i] = (int32_t)toy_below(&rng, spec->vocab);
}

static int run(struct rig *r, enum model_pass pass, uint32_t slot, uint32_t pos, uint32_t n,
	       const int32_t *tokens, float *out)
{
	struct accel_seq seq = {.slot = slot, .pos = pos, .n_tokens = n};
	struct accel_batch b = {.pass = pass, .n_tokens = n, .n_seqs = 1, .seqs = &seq, .tokens = tokens};

	return rig_batch(r, &b, out);
}

static uint32_t out_width(const struct toy_spec *spec, enum model_pass pass)
{
	return spec->encoder && pass == MODEL_PASS_MAIN ? spec->embd : spec->vocab;
}

static float *new_outputs(const struct toy_spec *spec)
{
	float *p = calloc((size_t)TOY_LONG * (spec->vocab + spec->embd), sizeof(float));

	assert_non_null(p);
	return p;
}

/* How a run is cut. */
struct cut {
	enum accel_kv_dtype kv;
	uint32_t threads, stages, chunk;
};

/* Outputs of all rows of a sequence of TOY_LONG tokens; it is encoded before where the model has an encoder.
 */
static float *outputs_of(const struct toy_spec *spec, const char *device, enum model_pass pass,
			 const struct cut *cut)
{
	struct accel_open_args args = args_of(device, cut->threads, cut->kv);
	uint32_t chunk = spec->encoder ? TOY_LONG : cut->chunk;
	int32_t tokens[TOY_LONG];
	float *out = new_outputs(spec);
	struct rig r;

	rig_open(&r, spec, &args, cut->stages);
	make_tokens(spec, 7, tokens);
	if (spec->enc_layers != 0) {
		assert_int_equal(run(&r, MODEL_PASS_ENCODE, 1, 0, ENC_LONG, tokens, NULL), 0);
		make_tokens(spec, 8, tokens);
	}
	for (uint32_t pos = 0; pos < TOY_LONG; pos += chunk) {
		uint32_t n = TOY_LONG - pos < chunk ? TOY_LONG - pos : chunk;

		assert_int_equal(
		    run(&r, pass, 1, pos, n, tokens + pos, out + (size_t)pos * out_width(spec, pass)), 0);
	}
	rig_close(&r);
	return out;
}

static size_t n_outputs(const struct toy_spec *spec, enum model_pass pass)
{
	return (size_t)TOY_LONG * out_width(spec, pass);
}

/* The reference's outputs, computed once for all instruction sets. */
static const float *reference_of(uint32_t family, enum model_pass pass, enum accel_kv_dtype kv)
{
	static float *known[16][MODEL_N_PASSES][3];
	struct cut whole = {kv, 1, 1, TOY_LONG};
	float **p = &known[family][pass][kv];

	if (*p == NULL)
		*p = outputs_of(&toy_families[family], "cpu-ref", pass, &whole);
	return *p;
}

static void check_reference(uint32_t family, enum model_pass pass, enum accel_kv_dtype kv)
{
	/* Keys that differ in the last bit may round to the next number of the cache's type. */
	static const double limits[] = {1e-9, 1e-6, 1e-4};
	const struct toy_spec *spec = &toy_families[family];
	struct cut whole = {kv, 1, 1, TOY_LONG};
	const float *want = reference_of(family, pass, kv);
	float *got = outputs_of(spec, "cpu", pass, &whole);
	double error = rig_nmse(got, want, n_outputs(spec, pass));

	if (!(error <= limits[kv]))
		fail_msg("%s, pass %d, kv %d: nmse %g", spec->name, (int)pass, (int)kv, error);
	free(got);
}

static void test_cpu_equals_reference(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < toy_n_families; i++) {
		for (int kv = ACCEL_KV_F32; kv <= ACCEL_KV_Q8_0; kv++)
			check_reference(i, MODEL_PASS_MAIN, (enum accel_kv_dtype)kv);
		if (toy_families[i].encoder)
			check_reference(i, MODEL_PASS_FILL, ACCEL_KV_F32);
	}
}

/* A cache of fewer bits must show, but not by much: it is used, and used as what it is. */
static void test_kv_types_differ(void **state)
{
	static const double least[] = {0, 1e-10, 1e-7}, most[] = {0, 1e-5, 5e-3};
	size_t n = n_outputs(&toy_families[5], MODEL_PASS_MAIN);
	const float *want = reference_of(5, MODEL_PASS_MAIN, ACCEL_KV_F32);

	(void)state;
	for (int kv = ACCEL_KV_F16; kv <= ACCEL_KV_Q8_0; kv++) {
		const float *got = reference_of(5, MODEL_PASS_MAIN, (enum accel_kv_dtype)kv);
		double error = rig_nmse(got, want, n);

		if (!(error >= least[kv] && error <= most[kv]))
			fail_msg("kv %d: nmse %g", kv, error);
	}
}

/* What an encoder keeps for one batch only is not rounded. */
static void test_encoders_are_exact(void **state)
{
	static const char *const devices[] = {"cpu", "cpu-ref"};
	const struct toy_spec *spec = &toy_families[6];

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct cut exact = {ACCEL_KV_F32, 1, 1, TOY_LONG}, q8 = {ACCEL_KV_Q8_0, 1, 1, TOY_LONG};
		float *want = outputs_of(spec, devices[i], MODEL_PASS_MAIN, &exact);
		float *got = outputs_of(spec, devices[i], MODEL_PASS_MAIN, &q8);

		assert_memory_equal(got, want, n_outputs(spec, MODEL_PASS_MAIN) * sizeof(float));
		free(want);
		free(got);
	}
}

static void check_invariant(const struct toy_spec *spec, const char *device, enum model_pass pass,
			    enum accel_kv_dtype kv)
{
	static const struct cut cuts[] = {{0, 1, 1, 1}, {0, 2, 1, TOY_LONG}, {0, 3, 2, 41}, {0, 1, 5, 130}};
	struct cut whole = {kv, 1, 1, TOY_LONG};
	float *want = outputs_of(spec, device, pass, &whole);

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		struct cut cut = cuts[i];
		float *got;

		cut.kv = kv;
		cut.stages = cut.stages < spec->layers ? cut.stages : spec->layers;
		got = outputs_of(spec, device, pass, &cut);
		if (memcmp(got, want, n_outputs(spec, pass) * sizeof(float)) != 0)
			fail_msg("%s on %s, kv %d, differs: %u threads, %u stages, chunks of %u", spec->name,
				 device, (int)kv, cut.threads, cut.stages, cut.chunk);
		free(got);
	}
	free(want);
}

static void test_invariance(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < toy_n_families; i++) {
		check_invariant(&toy_families[i], "cpu", MODEL_PASS_MAIN, (enum accel_kv_dtype)(i % 3));
		if (toy_families[i].encoder)
			check_invariant(&toy_families[i], "cpu", MODEL_PASS_FILL, ACCEL_KV_F32);
	}
}

/* Sequences of several lengths in one batch give what each gives alone. */
static void check_whole_batch(const struct toy_spec *spec, const char *device, enum model_pass pass)
{
	static const struct accel_seq seqs[] = {{2, 0, 5}, {0, 0, 65}, {1, 0, 64}};
	struct accel_open_args args = args_of(device, 2, ACCEL_KV_F32);
	uint32_t width = out_width(spec, pass), at = 0;
	float *alone = new_outputs(spec), *together = new_outputs(spec);
	struct accel_batch b = {.pass = pass, .n_tokens = 5 + 65 + 64, .n_seqs = 3, .seqs = seqs};
	int32_t tokens[TOY_LONG];
	struct rig r;

	rig_open(&r, spec, &args, 1);
	make_tokens(spec, 5, tokens);
	b.tokens = tokens;
	assert_int_equal(rig_batch(&r, &b, together), 0);
	for (uint32_t i = 0; i < 3; at += seqs[i++].n_tokens) {
		assert_int_equal(run(&r, pass, 0, 0, seqs[i].n_tokens, tokens + at, alone), 0);
		assert_memory_equal(alone, together + (size_t)at * width,
				    (size_t)seqs[i].n_tokens * width * sizeof(float));
	}
	rig_close(&r);
	free(alone);
	free(together);
}

static void test_whole_batches(void **state)
{
	(void)state;
	for (uint32_t i = 6; i < 8; i++) {
		check_whole_batch(&toy_families[i], "cpu", MODEL_PASS_MAIN);
		check_whole_batch(&toy_families[i], "cpu", MODEL_PASS_FILL);
	}
	check_whole_batch(&toy_families[7], "cpu-ref", MODEL_PASS_MAIN);
}

/* Each slot decodes against its own encoded sequence, of its own length, also after a copy. */
static void check_cross(const char *device)
{
	static const struct accel_seq enc[] = {{2, 0, 9}, {0, 0, 66}}, dec[] = {{0, 0, 4}, {2, 0, 7}};
	const struct toy_spec *spec = &toy_families[8];
	struct accel_open_args args = args_of(device, 2, ACCEL_KV_F32);
	struct accel_batch e = {.pass = MODEL_PASS_ENCODE, .n_tokens = 75, .n_seqs = 2, .seqs = enc};
	struct accel_batch d = {.n_tokens = 11, .n_seqs = 2, .seqs = dec};
	float *alone = new_outputs(spec), *together = new_outputs(spec);
	size_t row = spec->vocab * sizeof(float);
	int32_t tokens[TOY_LONG];
	struct rig r;

	make_tokens(spec, 5, tokens);
	e.tokens = d.tokens = tokens;
	rig_open(&r, spec, &args, 1);
	assert_int_equal(rig_batch(&r, &e, NULL), 0);
	assert_int_equal(rig_batch(&r, &d, together), 0);
	assert_int_equal(run(&r, MODEL_PASS_ENCODE, 1, 0, 66, tokens + 9, NULL), 0);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 0, 4, tokens, alone), 0);
	assert_memory_equal(alone, together, 4 * row);
	assert_int_equal(run(&r, MODEL_PASS_ENCODE, 1, 0, 9, tokens, NULL), 0);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 0, 7, tokens + 4, alone), 0);
	assert_memory_equal(alone, together + 4 * spec->vocab, 7 * row);
	/* Slot 1 as slot 0: its decoder's first 3 positions, and its encoded sequence. */
	r.ops->kv_copy(r.stages[0], 0, 1, 3);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 3, 1, tokens + 3, alone), 0);
	assert_memory_equal(alone, together + 3 * spec->vocab, row);
	rig_close(&r);
	free(alone);
	free(together);
}

static void test_cross_attention(void **state)
{
	(void)state;
	check_cross("cpu");
	check_cross("cpu-ref");
}

/* A range without operations of a pass hands the activations on. */
static void test_empty_pass(void **state)
{
	static const char *const devices[] = {"cpu", "cpu-ref"};
	const struct toy_spec *spec = &toy_families[8];
	struct toy *toy = toy_new(spec, 99);
	struct model_graph *g = toy_graph(toy, 0, 2); /* encoder blocks only */
	float x[2 * 36], out[2 * 36] = {0};
	struct accel_seq seq = {.slot = 1, .n_tokens = 2};
	struct accel_batch b = {.n_tokens = 2, .n_seqs = 1, .seqs = &seq, .x_in = x, .out = out};
	struct accel_batch e = {.pass = MODEL_PASS_ENCODE, .n_tokens = 2, .n_seqs = 1, .seqs = &seq};
	int32_t tokens[2] = {3, 4};

	(void)state;
	assert_int_equal(g->n_ops, 0);
	for (int i = 0; i < 72; i++)
		x[i] = (float)i;
	e.tokens = tokens;
	e.out = out;
	for (int i = 0; i < 2; i++) {
		struct accel_open_args args = args_of(devices[i], 1, ACCEL_KV_F32);
		const struct accel_ops *ops = accel_find(devices[i], NULL);
		struct accel *a;

		assert_int_equal(ops->open(&args, g, &a, NULL), 0);
		assert_int_equal(ops->submit(a, &b), -EINVAL); /* nothing encoded */
		assert_int_equal(ops->submit(a, &e), 0);
		memset(out, 0, sizeof(out));
		assert_int_equal(ops->submit(a, &b), 0);
		assert_memory_equal(out, x, sizeof(x));
		b.x_in = NULL;
		assert_int_equal(ops->submit(a, &b), -EINVAL);
		b.x_in = x;
		ops->close(a);
	}
	toy_graph_free(g);
	toy_free(toy);
}

static void check_refusals(const char *device)
{
	const struct toy_spec *t5 = &toy_families[8], *bert = &toy_families[6], *gemma = &toy_families[0];
	struct accel_open_args args = args_of(device, 1, ACCEL_KV_F16);
	float *out = new_outputs(t5);
	struct accel_seq twice[] = {{1, 0, 2}, {1, 2, 2}}, again[] = {{1, 0, 2}, {1, 0, 2}};
	int32_t tokens[TOY_LONG];
	struct accel_batch b = {.n_tokens = 4, .n_seqs = 2, .seqs = twice, .tokens = tokens};
	struct rig r;

	make_tokens(bert, 1, tokens);
	rig_open(&r, bert, &args, 1);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 0, 4, tokens, out), 0);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 4, 1, tokens, out), -EINVAL); /* not whole */
	assert_int_equal(run(&r, MODEL_PASS_FILL, 1, 4, 1, tokens, out), -EINVAL);
	assert_int_equal(run(&r, MODEL_PASS_ENCODE, 1, 0, 4, tokens, out), -EINVAL); /* no such pass */
	assert_int_equal(run(&r, MODEL_N_PASSES, 1, 0, 4, tokens, out), -EINVAL);
	assert_int_equal(run(&r, (enum model_pass) - 1, 1, 0, 4, tokens, out), -EINVAL);
	assert_int_equal(rig_batch(&r, &b, out), -EINVAL);
	b.seqs = again;
	assert_int_equal(rig_batch(&r, &b, out), -EINVAL);
	rig_close(&r);

	rig_open(&r, t5, &args, 1);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 0, 4, tokens, out), -EINVAL); /* nothing encoded */
	assert_int_equal(run(&r, MODEL_PASS_ENCODE, 1, 1, 4, tokens, NULL), -EINVAL);
	assert_int_equal(run(&r, MODEL_PASS_ENCODE, N_SLOTS, 0, 4, tokens, NULL), -EINVAL);
	assert_int_equal(run(&r, MODEL_PASS_ENCODE, 1, 0, 4, tokens, NULL), 0);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 0, 0, 4, tokens, out), -EINVAL);
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 1, 4, tokens, out), -EINVAL); /* a hole */
	assert_int_equal(run(&r, MODEL_PASS_MAIN, 1, 0, 4, tokens, out), 0);
	rig_close(&r);

	rig_open(&r, gemma, &args, 1);
	assert_int_equal(run(&r, MODEL_PASS_FILL, 1, 0, 4, tokens, out), -EINVAL);
	rig_close(&r);
	free(out);
}

static void test_refusals(void **state)
{
	(void)state;
	check_refusals("cpu");
	check_refusals("cpu-ref");
}

/* The cache of an encoder is that of one batch, whatever the number of blocks and the context. */
static void test_encoder_cache_is_small(void **state)
{
	static const char *const devices[] = {"cpu", "cpu-ref"};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct accel_open_args args = args_of(devices[i], 1, ACCEL_KV_F32);
		struct accel_caps caps;
		struct rig r;

		args.n_ctx = 100000;
		rig_open(&r, &toy_families[6], &args, 1);
		r.ops->caps(r.stages[0], &caps);
		/* 150 rows and 3 sequences in tiles of 64: 6 of them; 3 heads, of 12 and 16 floats. */
		assert_int_equal(caps.kv_bytes, 6 * 64 * 3 * (12 + 16) * 4);
		rig_close(&r);
	}
}

static int try_open(const char *device, const struct model_graph *g, struct ps_err *err)
{
	struct accel_open_args args = args_of(device, 1, ACCEL_KV_F32);
	struct accel *a = NULL;
	int rc = accel_find(device, NULL)->open(&args, g, &a, err);

	if (rc == 0)
		accel_find(device, NULL)->close(a);
	return rc;
}

static struct model_op *find_op(struct model_graph *g, enum model_op_kind kind, bool cross)
{
	for (uint32_t i = 0; i < g->n_ops; i++)
		if (g->ops[i].kind == kind && g->ops[i].cross == cross)
			return &g->ops[i];
	fail_msg("no operation of kind %d", (int)kind);
	return NULL;
}

/* An operation with one field wrong is refused by both. */
#define EXPECT_INVALID(op, change)                                                                           \
	do {                                                                                                 \
		struct model_op saved = *(op);                                                               \
		struct ps_err err = {{0}};                                                                   \
                                                                                                             \
		change;                                                                                      \
		assert_int_equal(try_open("cpu", g, &err), -EINVAL);                                         \
		assert_non_null(strstr(err.msg, "graph:"));                                                  \
		assert_int_equal(try_open("cpu-ref", g, &err), -EINVAL);                                     \
		*(op) = saved;                                                                               \
	} while (0)

static void test_wrong_attention(void **state)
{
	struct toy *toy = toy_new(&toy_families[8], 99);
	struct model_graph *g = toy_graph(toy, 0, 5);
	struct model_op *o = find_op(g, MODEL_OP_ATTN, false), *cross = find_op(g, MODEL_OP_ATTN, true);
	struct model_op *enc = find_op(g->encode, MODEL_OP_ATTN, false);
	struct model_op *kv = find_op(g->encode, MODEL_OP_CROSS_KV, false);
	struct gguf_tensor rel = *o->rel_bias;

	(void)state;
	o->rel_bias = &rel;
	assert_int_equal(try_open("cpu", g, NULL), 0);
	EXPECT_INVALID(o, o->softcap = -1);
	EXPECT_INVALID(o, o->softcap = NAN);
	EXPECT_INVALID(o, o->attn_scale = INFINITY);
	EXPECT_INVALID(o, o->max_alibi_bias = 8); /* beside the relative bias */
	EXPECT_INVALID(o, o->rel_max_distance = 8);
	EXPECT_INVALID(o, o->rel_max_distance = UINT32_MAX);
	EXPECT_INVALID(o, o->layer = 4); /* twice, and out of order */
	EXPECT_INVALID(o, o->layer = 5);
	EXPECT_INVALID(o, o->n_heads_kv = 0);
	EXPECT_INVALID(o, o->n_heads_kv = 4);
	EXPECT_INVALID(o, o->head_dim = 0);
	EXPECT_INVALID(o, o->src1 = MODEL_BUF_NONE);
	EXPECT_INVALID(o, (o->causal = false, o->window = 0)); /* the others of the pass are causal */
	EXPECT_INVALID(enc, enc->causal = true);
	EXPECT_INVALID(enc, enc->window = 5);
	EXPECT_INVALID(cross, cross->causal = true);
	EXPECT_INVALID(cross, cross->window = 3);
	EXPECT_INVALID(cross, cross->rel_bias = &rel);
	EXPECT_INVALID(cross, cross->layer = 1); /* a block whose keys no one writes */
	EXPECT_INVALID(kv, kv->layer = 4);       /* written twice, and block 3 not */
	EXPECT_INVALID(kv, kv->head_dim = 4);
	EXPECT_INVALID(kv, kv->src2 = MODEL_BUF_NONE);
	rel.ne[0] = 5;
	EXPECT_INVALID(o, (void)0);
	rel = *toy_rel(toy);
	rel.ne[1] = 3;
	EXPECT_INVALID(o, (void)0);
	rel = *toy_rel(toy);
	rel.dtype = GGUF_DT_F16;
	EXPECT_INVALID(o, (void)0);
	toy_graph_free(g);
	toy_free(toy);
}

static void test_wrong_operations(void **state)
{
	struct toy *toy = toy_new(&toy_families[6], 99);
	struct model_graph *g = toy_graph(toy, 0, 3), *fill = g->fill;
	struct model_op *embed = find_op(g, MODEL_OP_EMBED, false), *mul = find_op(g, MODEL_OP_MATMUL, false);
	struct model_op *norm = find_op(g, MODEL_OP_NORM, false), *last = &g->ops[g->n_ops - 1];
	struct gguf_tensor types = *embed->w_type, w = *norm->w;

	(void)state;
	embed->w_type = &types;
	norm->w = &w;
	assert_int_equal(try_open("cpu", g, NULL), 0);
	types.ne[0]--;
	EXPECT_INVALID(embed, (void)0);
	types.ne[0]++;
	types.ne[1] = 0;
	EXPECT_INVALID(embed, (void)0);
	types.ne[1] = 2;
	EXPECT_INVALID(embed, embed->scale = NAN);
	EXPECT_INVALID(mul, mul->clamp = -1);
	EXPECT_INVALID(mul, mul->softcap = INFINITY);
	EXPECT_INVALID(mul, mul->scale = NAN);
	w.ne[1] = 3; /* rows for heads, of a norm over the whole width */
	EXPECT_INVALID(norm, (void)0);
	w.ne[1] = 1;
	EXPECT_INVALID(norm, norm->head_dim = 7);
	EXPECT_INVALID(last, last->dst = MODEL_BUF_X);
	g->fill->buf_width[3]++;
	EXPECT_INVALID(norm, (void)0);
	g->fill->buf_width[3]--;
	g->encode = fill; /* with a head */
	EXPECT_INVALID(norm, (void)0);
	g->encode = NULL;
	assert_int_equal(try_open("cpu", g, NULL), 0);
	toy_graph_free(g);
	toy_free(toy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_cpu_equals_reference),
	    cmocka_unit_test(test_kv_types_differ),
	    cmocka_unit_test(test_encoders_are_exact),
	    cmocka_unit_test(test_invariance),
	    cmocka_unit_test(test_whole_batches),
	    cmocka_unit_test(test_cross_attention),
	    cmocka_unit_test(test_empty_pass),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_encoder_cache_is_small),
	    cmocka_unit_test(test_wrong_attention),
	    cmocka_unit_test(test_wrong_operations),
	};
	static const char *const names[] = {"portable", "avx2", "avx512"};
	int failed = 0;

	for (size_t i = 0; i < 3; i++) {
		struct toy *toy = toy_new(&toy_specs[0], 99);
		struct model_graph *g = toy_graph(toy, 0, 3);
		int rc;

		setenv("PENSTOCK_ISA", names[i], 1);
		rc = try_open("cpu", g, NULL);
		toy_graph_free(g);
		toy_free(toy);
		if (rc == -ENOTSUP)
			print_message("skipped: %s not on this CPU\n", names[i]);
		else
			failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return failed;
}
