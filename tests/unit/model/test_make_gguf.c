/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The generator of random-weight models: its number formats against the
 * compiler's, and the program itself: what it writes is read by the reader, has
 * a graph, and is the same for the same seed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "accel/weights.h"
#include "base/bytes.h"
#include "model/gguf.h"
#include "model/graph.h"
#include "perf/weights.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char dir[] = "/tmp/penstock-make-gguf-XXXXXX";

/* ---- number formats ------------------------------------------------------------------------- */

static float float_of(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

static uint16_t encode_one(enum gguf_dtype dtype, float x)
{
	uint8_t out[4];

	assert_int_equal(encode_weights(dtype, &x, 1, out), 2);
	return ps_load16(out);
}

static void test_f16(void **state)
{
	(void)state;
	/* Every 977th float of magnitude up to 60000, both signs, subnormals included. */
	for (uint32_t bits = 0; bits < 0x476a6000u; bits += 977) {
		for (uint32_t sign = 0; sign < 2; sign++) {
			float x = float_of(bits | sign << 31);
			_Float16 h = (_Float16)x;
			uint16_t want;

			memcpy(&want, &h, sizeof(want));
			if (encode_one(GGUF_DT_F16, x) != want)
				fail_msg("%a: %04x, expected %04x", (double)x, encode_one(GGUF_DT_F16, x),
					 want);
		}
	}
}

static void test_bf16(void **state)
{
	(void)state;
	assert_int_equal(encode_one(GGUF_DT_BF16, 1.0f), 0x3f80);
	assert_int_equal(encode_one(GGUF_DT_BF16, -2.5f), 0xc020);
	assert_int_equal(encode_one(GGUF_DT_BF16, float_of(0x3f808000u)), 0x3f80); /* half way: to even */
	assert_int_equal(encode_one(GGUF_DT_BF16, float_of(0x3f818000u)), 0x3f82);
	assert_int_equal(encode_one(GGUF_DT_BF16, float_of(0x3f808001u)), 0x3f81);
	assert_int_equal(encode_one(GGUF_DT_BF16, float_of(0x3f80ffffu)), 0x3f81);
}

/* What each type may be off by, of the largest magnitude among 256 uniform weights: half a step of the
 * codes, and where scales have few bits themselves, half a step of those. */
static const struct {
	const char *name, *dtype_name;
	enum gguf_dtype dtype;
	float off;
} block_types[] = {
    {"q8_0", "Q8_0", GGUF_DT_Q8_0, 0.004f},     {"q4_0", "Q4_0", GGUF_DT_Q4_0, 0.068f},
    {"q4_1", "Q4_1", GGUF_DT_Q4_1, 0.067f},     {"q5_0", "Q5_0", GGUF_DT_Q5_0, 0.033f},
    {"q5_1", "Q5_1", GGUF_DT_Q5_1, 0.033f},     {"q2_k", "Q2_K", GGUF_DT_Q2_K, 0.34f},
    {"q3_k", "Q3_K", GGUF_DT_Q3_K, 0.16f},      {"q4_k", "Q4_K", GGUF_DT_Q4_K, 0.067f},
    {"q5_k", "Q5_K", GGUF_DT_Q5_K, 0.033f},     {"q6_k", "Q6_K", GGUF_DT_Q6_K, 0.02f},
    {"iq4_nl", "IQ4_NL", GGUF_DT_IQ4_NL, 0.1f},
};

static void check_blocks(enum gguf_dtype dtype, float half, float off)
{
	enum { N = 64 * 256 };
	float *x = malloc(N * sizeof(*x)), *y = malloc(N * sizeof(*y));
	uint8_t *out = malloc(N * sizeof(*x));
	double squares = 0;

	assert_true(x != NULL && y != NULL && out != NULL);
	make_weights(3, 0, N, 0, half, x);
	memset(x, 0, 256 * sizeof(*x)); /* a block of zeros, and one weight alone among zeros */
	memset(x + 256, 0, 256 * sizeof(*x));
	x[256 + 77] = -half;
	assert_int_equal(encode_weights(dtype, x, N, out), accel_row_bytes(dtype, N));
	accel_row_expand(dtype, out, N, y);
	for (int i = 0; i < N; i++) {
		squares += (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
		if (!(fabsf(x[i] - y[i]) <= off * half))
			fail_msg("%s: weight %d of %g became %g", gguf_dtype_name(dtype), i, (double)x[i],
				 (double)y[i]);
	}
	/* The mean error of evenly spread weights is that of a uniform one: 1 / sqrt(3) of half a step. */
	assert_true(sqrt(squares / N) <= (double)(off * half) / 1.7);
	free(x);
	free(y);
	free(out);
}

static void test_block_types(void **state)
{
	(void)state;
	for (size_t t = 0; t < COUNT(block_types); t++) {
		check_blocks(block_types[t].dtype, 1.0f, block_types[t].off);
		/* Small weights, whose scales are float16 subnormals of few bits. */
		check_blocks(block_types[t].dtype, 0.02f, block_types[t].off * 1.1f);
		check_blocks(block_types[t].dtype, 3000.0f, block_types[t].off);
	}
}

static void test_weights(void **state)
{
	enum { N = 100000 };
	float *x = malloc(N * sizeof(*x)), part[64];
	double sum = 0, squares = 0;

	(void)state;
	assert_non_null(x);
	make_weights(7, 0, N, 1.0f, 0.5f, x);
	for (int i = 0; i < N; i++) {
		double d = (double)x[i] - 1;

		assert_true(fabs(d) <= 0.5);
		sum += d;
		squares += d * d;
	}
	assert_true(fabs(sum / N) < 0.005);
	assert_true(fabs(sqrt(squares / N) - 0.5 / sqrt(3)) < 0.005);
	/* The same elements however a tensor is cut. */
	make_weights(7, 4242, 64, 1.0f, 0.5f, part);
	assert_memory_equal(part, x + 4242, sizeof(part));
	make_weights(8, 4242, 64, 1.0f, 0.5f, part);
	assert_memory_not_equal(part, x + 4242, sizeof(part));
	free(x);
}

/* ---- the program ---------------------------------------------------------------------------- */

static int run(const char *args)
{
	const char *program = getenv("MAKE_GGUF");
	char command[4096];
	int status;

	assert_non_null(program);
	snprintf(command, sizeof(command), "cd %s && %s %s >out.txt 2>&1", dir, program, args);
	status = system(command);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static struct gguf *open_made(const char *name)
{
	char path[128];
	struct gguf *g = NULL;
	struct ps_err err = {{0}};

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (gguf_open(path, &g, &err) != 0)
		fail_msg("%s", err.msg);
	return g;
}

static void check_made(const char *name, const char *arch, const char *dtype)
{
	struct gguf *g = open_made(name);
	struct model_graph *gr = NULL;
	struct ps_err err = {{0}};

	if (model_graph_build(g, 0, 3, &gr, &err) != 0)
		fail_msg("%s", err.msg);
	assert_string_equal(gr->hp.arch, arch);
	assert_int_equal(gr->hp.n_layers, 3);
	assert_int_equal(gr->hp.n_embd, 64);
	assert_int_equal(gr->hp.n_heads, 4);
	assert_int_equal(gr->hp.n_heads_kv, 2);
	assert_int_equal(gr->hp.n_ff, 96);
	assert_int_equal(gr->hp.n_vocab, 100);
	assert_int_equal(gr->hp.n_ctx_train, 48);
	assert_string_equal(gguf_dtype_name(gguf_tensor(g, "token_embd.weight")->dtype), dtype);
	assert_true(gguf_has(g, "general.file_type"));
	model_graph_free(gr);
	gguf_close(g);
}

static void test_shapes(void **state)
{
	static const char *const archs[] = {"llama", "gpt2"};
	static const char *const dtypes[][2] = {{"f32", "F32"},   {"f16", "F16"},   {"bf16", "BF16"},
						{"q8_0", "Q8_0"}, {"q4_0", "Q4_0"}, {"q5_1", "Q5_1"}};

	(void)state;
	for (size_t a = 0; a < COUNT(archs); a++) {
		for (size_t d = 0; d < COUNT(dtypes); d++) {
			char args[256];

			snprintf(args, sizeof(args),
				 "--arch %s --dtype %s --layers 3 --embd 64 --heads 4 --heads-kv 2 --ff 96 "
				 "--vocab 100 "
				 "--ctx 48 m.gguf",
				 archs[a], dtypes[d][0]);
			assert_int_equal(run(args), 0);
			check_made("m.gguf", archs[a], dtypes[d][1]);
		}
	}
}

/* The file holds what encoding the tensor in one go gives: cutting it into pieces cuts no block. */
static void test_written_types(void **state)
{
	(void)state;
	for (size_t t = 0; t < COUNT(block_types); t++) {
		const struct gguf_tensor *w;
		char args[128];
		struct gguf *g;
		double squares = 0;
		float *x;

		snprintf(args, sizeof(args),
			 "--dtype %s --layers 1 --embd 256 --heads 4 --ff 512 --vocab 300 t.gguf",
			 block_types[t].name);
		assert_int_equal(run(args), 0);
		g = open_made("t.gguf");
		w = gguf_tensor(g, "token_embd.weight");
		assert_string_equal(gguf_dtype_name(w->dtype), block_types[t].dtype_name);
		x = malloc(256 * 300 * sizeof(*x));
		assert_non_null(x);
		accel_row_expand(w->dtype, w->data, 256 * 300, x);
		for (int i = 0; i < 256 * 300; i++)
			squares += (double)x[i] * (double)x[i];
		/* 2 / sqrt(256) is the standard deviation that the generator gives an embedding. */
		assert_true(fabs(sqrt(squares / (256 * 300)) - 0.125) < 0.02);
		free(x);
		gguf_close(g);
	}
}

static void test_seed(void **state)
{
	uint64_t hash[3];

	(void)state;
	assert_int_equal(run("--seed 5 a.gguf"), 0);
	assert_int_equal(run("--seed 5 b.gguf"), 0);
	assert_int_equal(run("--seed 6 c.gguf"), 0);
	for (int i = 0; i < 3; i++) {
		struct gguf *g = open_made(i == 0 ? "a.gguf" : i == 1 ? "b.gguf" : "c.gguf");

		hash[i] = gguf_hash(g);
		gguf_close(g);
	}
	assert_true(hash[0] == hash[1]);
	assert_true(hash[0] != hash[2]);
}

static void test_vocab_from(void **state)
{
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");
	size_t n_copied = 0;
	struct gguf *from, *made;
	struct ps_err err = {{0}};
	char text[1024];

	(void)state;
	assert_non_null(root);
	snprintf(text, sizeof(text), "--vocab-from %s/models/demo-llama-f16.gguf v.gguf", root);
	assert_int_equal(run(text), 0);
	made = open_made("v.gguf");
	snprintf(text, sizeof(text), "%s/models/demo-llama-f16.gguf", root);
	if (gguf_open(text, &from, &err) != 0)
		fail_msg("%s", err.msg);
	for (size_t i = 0; i < gguf_n_kv(made); i++) {
		char got[1 << 15], want[1 << 15];
		size_t k = 0;

		if (strncmp(gguf_kv_name(made, i), "tokenizer.", 10) != 0)
			continue;
		while (k < gguf_n_kv(from) && strcmp(gguf_kv_name(from, k), gguf_kv_name(made, i)) != 0)
			k++;
		assert_true(k < gguf_n_kv(from));
		gguf_kv_format(made, i, 100000, got, sizeof(got));
		gguf_kv_format(from, k, 100000, want, sizeof(want));
		assert_string_equal(got, want);
		n_copied++;
	}
	assert_int_equal(n_copied, 11);
	gguf_close(from);
	gguf_close(made);
}

static void test_wrong_options(void **state)
{
	static const struct {
		const char *args;
		int status;
	} cases[] = {
	    {"", 2},
	    {"--embd 0 x.gguf", 2},
	    {"--embd 10x x.gguf", 2},
	    {"--dtype q8_k x.gguf", 2},
	    {"--preset none x.gguf", 2},
	    {"--unknown x.gguf", 2},
	    {"x.gguf y.gguf", 2},
	    {"--arch bert x.gguf", 1},
	    {"--heads 7 x.gguf", 1},
	    {"--heads 4 --heads-kv 3 x.gguf", 1},
	    {"--dtype q8_0 --embd 40 x.gguf", 1},
	    {"--dtype q4_k --ff 640 x.gguf", 1},
	    {"--embd 12 --heads 4 x.gguf", 1},
	    {"--vocab-from /nonexistent x.gguf", 1},
	    {"nowhere/x.gguf", 1},
	};
	char path[128];

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		if (run(cases[i].args) != cases[i].status)
			fail_msg("'%s' did not end with %d", cases[i].args, cases[i].status);
	}
	assert_int_equal(run("--help"), 0);
	/* Nothing is left of what failed. */
	snprintf(path, sizeof(path), "%s/x.gguf", dir);
	assert_int_not_equal(access(path, F_OK), 0);
	snprintf(path, sizeof(path), "%s/x.gguf.tmp", dir);
	assert_int_not_equal(access(path, F_OK), 0);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_f16),           cmocka_unit_test(test_bf16),
	    cmocka_unit_test(test_block_types),   cmocka_unit_test(test_weights),
	    cmocka_unit_test(test_shapes),        cmocka_unit_test(test_seed),
	    cmocka_unit_test(test_written_types), cmocka_unit_test(test_vocab_from),
	    cmocka_unit_test(test_wrong_options),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
