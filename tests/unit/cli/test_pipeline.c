/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/pipeline.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_TOKENS 12u

static struct gguf *llama, *t5, *bert;
static const int32_t tokens[N_TOKENS] = {2, 104, 102, 4, 211, 146, 476, 3, 9, 4, 77, 5}; /* 4: BERT's mask */
static uint32_t rows_seen;

static struct gguf *open_file(const char *name)
{
	char path[512];
	struct ps_err err = {{0}};
	struct gguf *g = NULL;
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	snprintf(path, sizeof(path), "%s/models/%s", root != NULL ? root : ".", name);
	if (gguf_open(path, &g, &err) != 0)
		fprintf(stderr, "%s\n", err.msg);
	return g;
}

static int open_models(void **state)
{
	(void)state;
	llama = open_file("demo-llama-f16.gguf");
	t5 = open_file("demo-t5-f16.gguf");
	bert = open_file("demo-bert-f16.gguf");
	return llama != NULL && t5 != NULL && bert != NULL ? 0 : -1;
}

static int close_models(void **state)
{
	(void)state;
	gguf_close(llama);
	gguf_close(t5);
	gguf_close(bert);
	return 0;
}

static void count_rows(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab)
{
	(void)ctx;
	(void)logits;
	assert_true(n_vocab > 1000);
	rows_seen += n_rows;
}

static struct pipeline *open_pipeline(const struct gguf *g, uint32_t n_stages, enum accel_kv_dtype kv,
				      enum act_dtype wire)
{
	const struct pipeline_cfg cfg = {.gguf = g,
					 .n_stages = n_stages,
					 .device = "cpu",
					 .n_threads = 1,
					 .n_ctx = 32,
					 .max_tokens = N_TOKENS,
					 .kv = kv,
					 .act_dtype = wire,
					 .logits = count_rows};
	struct ps_err err = {{0}};
	struct pipeline *p = NULL;

	if (pipeline_open(&cfg, &p, &err) != 0)
		fail_msg("%s", err.msg);
	return p;
}

/* Any number of stages: the same tokens and embeddings. */
static void test_stages(void **state)
{
	int32_t next[2] = {-1, -1}, start = 0, first = -1;
	float pooled[128] = {0};
	uint32_t n;

	(void)state;
	for (n = 1; n <= 4; n++) {
		struct pipeline *p = open_pipeline(t5, n, ACCEL_KV_F32, ACT_F32);
		struct pipeline_values v = {0};
		struct ps_err err = {{0}};

		assert_int_equal(pipeline_encode(p, tokens, N_TOKENS, &err), 0);
		assert_int_equal(pipeline_feed(p, &start, 1, 0, &next[n > 1], &err), 0);
		assert_int_equal(pipeline_embed(p, tokens, N_TOKENS, true, &v, &err), 0);
		assert_true(v.n_rows == 1 && v.width == 128 && v.positions[0] == 0);
		if (n == 1) {
			first = next[0];
			memcpy(pooled, v.rows, sizeof(pooled));
		}
		assert_int_equal(next[n > 1], first);
		assert_memory_equal(v.rows, pooled, sizeof(pooled));
		assert_int_equal(pipeline_cut_values(p), 0);
		pipeline_close(p);
	}
	assert_true(first >= 0);
}

/* The bytes of the cache are those of all stages. */
static void test_caps_are_of_all_stages(void **state)
{
	struct accel_caps caps[2];
	uint32_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct pipeline *p = open_pipeline(llama, i == 0 ? 1 : 3, ACCEL_KV_F32, ACT_F32);

		pipeline_caps(p, &caps[i]);
		pipeline_close(p);
	}
	assert_true(caps[0].kv_bytes > 0 && caps[0].kv_bytes == caps[1].kv_bytes);
}

static void test_fill_and_embed(void **state)
{
	struct pipeline *p = open_pipeline(bert, 2, ACCEL_KV_F32, ACT_F32);
	struct pipeline_values v = {0};
	struct ps_err err = {{0}};

	(void)state;
	rows_seen = 0;
	assert_int_equal(pipeline_fill(p, tokens, N_TOKENS, true, &v, &err), 0);
	assert_true(v.n_rows == 2 && v.width == 2 * ACT_FILL_BEST && v.positions[0] == 3 &&
		    v.positions[1] == 9 && rows_seen == N_TOKENS);
	assert_int_equal(pipeline_fill(p, tokens, N_TOKENS, false, &v, &err), 0);
	assert_true(v.n_rows == 0 && rows_seen == 2 * N_TOKENS);
	assert_int_equal(pipeline_embed(p, tokens, N_TOKENS, false, &v, &err), 0);
	assert_true(v.n_rows == N_TOKENS && v.width == 128 && v.positions[N_TOKENS - 1] == N_TOKENS - 1);
	assert_int_equal(rows_seen, 2 * N_TOKENS); /* no logits of hidden states */
	/* A stage's refusal comes with its text. */
	assert_int_equal(pipeline_encode(p, tokens, N_TOKENS, &err), -EIO);
	assert_non_null(strstr(err.msg, "stage 0"));
	pipeline_close(p);
}

/* A prompt longer than a message is cut; one longer than the context is refused. */
static void test_long_prompts(void **state)
{
	struct pipeline *p = open_pipeline(llama, 2, ACCEL_KV_F32, ACT_F32);
	int32_t prompt[33], whole = -1, pieces = -1;
	struct ps_err err = {{0}};
	uint32_t i;

	(void)state;
	for (i = 0; i < 33; i++)
		prompt[i] = (int32_t)(i * 37 % 1500);
	rows_seen = 0;
	assert_int_equal(pipeline_feed(p, prompt, 32, 0, &whole, &err), 0);
	assert_int_equal(rows_seen, 32);
	for (i = 0; i < 32; i++)
		assert_int_equal(pipeline_feed(p, prompt + i, 1, i, &pieces, &err), 0);
	assert_true(whole >= 0 && whole == pieces);
	assert_int_equal(pipeline_feed(p, prompt, 33, 0, &whole, &err), -EIO);
	assert_non_null(strstr(err.msg, "context holds 32"));
	assert_int_equal(pipeline_embed(p, prompt, 4, true, &(struct pipeline_values){0}, &err), -EIO);
	pipeline_close(p);
}

/* What --kv and --wire ask for is what runs: fewer bytes, other results than in float32. */
static void test_types_are_used(void **state)
{
	uint64_t bytes[3];
	uint32_t kv, wire;
	struct pipeline_values v = {0};
	struct ps_err err = {{0}};
	float rows[N_TOKENS * 128]; /* [N_TOKENS, n_embd] of float32 */

	(void)state;
	for (kv = 0; kv < 3; kv++) {
		struct pipeline *p = open_pipeline(llama, 1, (enum accel_kv_dtype)kv, ACT_F32);
		struct accel_caps caps;

		pipeline_caps(p, &caps);
		bytes[kv] = caps.kv_bytes;
		pipeline_close(p);
	}
	assert_true(bytes[1] < bytes[0] && bytes[2] < bytes[1]);
	for (wire = 0; wire < ACT_N_DTYPES; wire++) {
		struct pipeline *p = open_pipeline(bert, 2, ACCEL_KV_F32, (enum act_dtype)wire);

		assert_int_equal(pipeline_embed(p, tokens, N_TOKENS, false, &v, &err), 0);
		if (wire == 0)
			memcpy(rows, v.rows, sizeof(rows));
		else
			assert_memory_not_equal(v.rows, rows, sizeof(rows));
		pipeline_close(p);
	}
}

static void test_option_names(void **state)
{
	enum accel_kv_dtype kv = ACCEL_KV_F32;
	enum act_dtype wire = ACT_F32;

	(void)state;
	assert_true(pipeline_kv_option("test", "q8_0", &kv) && kv == ACCEL_KV_Q8_0);
	assert_true(pipeline_wire_option("test", "bf16", &wire) && wire == ACT_BF16);
	assert_false(pipeline_kv_option("test", "q8", &kv));
	assert_false(pipeline_wire_option("test", "q8_0", &wire));
	assert_true(kv == ACCEL_KV_Q8_0 && wire == ACT_BF16);
	assert_string_equal(pipeline_kv_name(ACCEL_KV_F16), "f16");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stages),         cmocka_unit_test(test_caps_are_of_all_stages),
	    cmocka_unit_test(test_fill_and_embed), cmocka_unit_test(test_long_prompts),
	    cmocka_unit_test(test_types_are_used), cmocka_unit_test(test_option_names),
	};

	return cmocka_run_group_tests_name("cli-pipeline", tests, open_models, close_models);
}
