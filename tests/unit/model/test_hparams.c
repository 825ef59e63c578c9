/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hyperparameters: the rotary scalings against figures worked out by hand, and
 * that a file with a value missing, impossible or unknown is refused by the
 * name of its key.
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

/* ---- rotary frequencies --------------------------------------------------------------------- */

static void rope_of(struct gw *w, struct gguf **g_out, struct model_rope_params *rope_out)
{
	struct model_hparams hp;
	struct ps_err err = {{0}};

	*g_out = gw_open_good(w);
	if (model_read_hparams(*g_out, &hp, &err) != 0)
		fail_msg("%s", err.msg);
	*rope_out = hp.rope;
}

static void test_rope_linear(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	struct model_rope_params p;
	double freqs[4];
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "linear");
	gw_kv_f32(&w, "llama.rope.scaling.factor", 4.0f);
	gw_kv_f32(&w, "llama.rope.freq_base", 10000.0f);
	rope_of(&w, &g, &p);
	model_rope_freqs(&p, 1, freqs);
	for (int i = 0; i < 4; i++) /* 8 rotated: a factor of ten a pair */
		assert_true(fabs(freqs[i] - pow(10, -i) / 4) < 1e-9);
	assert_true(p.mscale == 1.0f);
	gguf_close(g);
	gw_free(&w);
}

static void test_rope_none(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	struct model_rope_params p;
	double freqs[2];
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "none");
	gw_kv_f32(&w, "llama.rope.scaling.factor", 4.0f);
	gw_kv_u32(&w, "llama.rope.dimension_count", 4);
	rope_of(&w, &g, &p);
	model_rope_freqs(&p, 1, freqs);
	assert_true(freqs[0] == 1.0 && fabs(freqs[1] - 0.01) < 1e-9);
	gguf_close(g);
	gw_free(&w);
}

static void test_rope_factors(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	const float factors[4] = {1, 2, 4, 0.5f};
	const uint64_t ne[1] = {4};
	struct model_rope_params p;
	double freqs[4];
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_tensor(&w, "rope_freqs.weight", 1, ne, GGUF_DT_F32);
	memcpy(w.data.p + w.data.len - sizeof(factors), factors, sizeof(factors));
	rope_of(&w, &g, &p);
	model_rope_freqs(&p, 1, freqs);
	for (int i = 0; i < 4; i++)
		assert_true(fabs(freqs[i] - pow(10, -i) / (double)factors[i]) < 1e-9);
	gguf_close(g);
	gw_free(&w);
}

/* Figures worked out by hand: 8 rotated, base 10000, 4096 positions stretched 8 times.
 * d(32) = 8 ln(4096 / 201.06) / (2 ln 10000) = 1.309, d(1) = 8 ln(651.9) / 18.42 = 2.814:
 * low 1, high 3, so pairs 0 and 1 keep their frequency, pair 2 is half way, pair 3 stretched. */
static void test_rope_yarn(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	struct model_rope_params p;
	double freqs[4];
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "yarn");
	gw_kv_f32(&w, "llama.rope.scaling.factor", 8.0f);
	gw_kv_u32(&w, "llama.rope.scaling.original_context_length", 4096);
	gw_kv_f32(&w, "llama.rope.scaling.attn_factor", 2.0f);
	rope_of(&w, &g, &p);
	model_rope_freqs(&p, 1, freqs);
	assert_true(fabs(freqs[0] - 1) < 1e-9);
	assert_true(fabs(freqs[1] - 0.1) < 1e-9);
	assert_true(fabs(freqs[2] - 0.01 * (0.5 + 0.5 / 8)) < 1e-9);
	assert_true(fabs(freqs[3] - 0.001 / 8) < 1e-9);
	assert_true(fabs((double)p.mscale - 2 * (1 + 0.1 * log(8))) < 1e-6);
	gguf_close(g);
	gw_free(&w);
}

static void test_rope_yarn_log_multiplier(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	struct model_rope_params p;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "yarn");
	gw_kv_f32(&w, "llama.rope.scaling.factor", 8.0f);
	gw_kv_f32(&w, "llama.rope.scaling.yarn_log_multiplier", 0.5f);
	rope_of(&w, &g, &p);
	assert_true(fabs((double)p.mscale - (1 + 0.1 * log(8)) / (1 + 0.05 * log(8))) < 1e-6);
	gguf_close(g);
	gw_free(&w);
}

/* ---- other positions --------------------------------------------------------------------------- */

/* The slopes that Press et al. (2022) give for 8 heads, and for 12 those of their code: the 8 and every
 * second of 16. */
static void test_alibi_slopes(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 8; h++) {
		assert_true(model_alibi_slope(h, 8, 8) == exp2(-1.0 - h));
		assert_true(model_alibi_slope(h, 12, 8) == exp2(-1.0 - h));
	}
	for (uint32_t h = 8; h < 12; h++)
		assert_true(fabs(model_alibi_slope(h, 12, 8) - exp2(-0.5 - (h - 8))) < 1e-12);
	assert_true(fabs(model_alibi_slope(0, 16, 8) - sqrt(0.5)) < 1e-12);
	assert_true(model_alibi_slope(1, 2, 4) == exp2(-4));
}

/* T5's 32 buckets to distance 128 (Raffel et al., 2020), where they begin: worked out from
 * n + log(d/n) / log(128/n) * n, n = 8 in both directions, 16 in one. */
static void test_relative_buckets(void **state)
{
	static const struct {
		int64_t distance;
		uint32_t both, one;
	} cases[] = {
	    {0, 0, 0},      {-1, 1, 1},     {-7, 7, 7},        {-8, 8, 8},    {-11, 8, 11},  {-12, 9, 12},
	    {-15, 9, 15},   {-16, 10, 16},  {-22, 10, 18},     {-23, 11, 18}, {-32, 12, 21}, {-64, 14, 26},
	    {-127, 15, 31}, {-128, 15, 31}, {-100000, 15, 31}, {1, 17, 0},    {7, 23, 0},    {8, 24, 0},
	    {16, 26, 0},    {127, 31, 0},   {100000, 31, 0},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		assert_int_equal(model_rel_bucket(cases[i].distance, 32, 128, true), cases[i].both);
		assert_int_equal(model_rel_bucket(cases[i].distance, 32, 128, false), cases[i].one);
	}
}

/* LongRoPE: the context that was asked for chooses the factors. */
static void test_rope_longrope(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	const float shorter[4] = {1, 1, 2, 2}, longer[4] = {4, 8, 16, 32};
	const uint64_t ne[1] = {4};
	struct model_rope_params p;
	double freqs[4];
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "longrope");
	gw_kv_u32(&w, "llama.rope.scaling.original_context_length", 64);
	gw_kv_f32(&w, "llama.rope.scaling.attn_factor", 1.25f);
	gw_tensor(&w, "rope_factors_short.weight", 1, ne, GGUF_DT_F32);
	memcpy(w.data.p + w.data.len - sizeof(shorter), shorter, sizeof(shorter));
	gw_tensor(&w, "rope_factors_long.weight", 1, ne, GGUF_DT_F32);
	memcpy(w.data.p + w.data.len - sizeof(longer), longer, sizeof(longer));
	rope_of(&w, &g, &p);
	assert_true(p.mscale == 1.25f && p.ext_factor == 0);
	model_rope_freqs(&p, 64, freqs);
	for (int i = 0; i < 4; i++)
		assert_true(fabs(freqs[i] - pow(10, -i) / (double)shorter[i]) < 1e-9);
	model_rope_freqs(&p, 65, freqs);
	for (int i = 0; i < 4; i++)
		assert_true(fabs(freqs[i] - pow(10, -i) / (double)longer[i]) < 1e-9);
	gguf_close(g);
	gw_free(&w);
}

/* ---- what is refused --------------------------------------------------------------------------- */

static void assert_refused(struct gw *w, int want, const char *text)
{
	struct model_hparams hp;
	struct ps_err err = {{0}};
	struct gguf *g = gw_open_good(w);
	int rc = model_read_hparams(g, &hp, &err);

	if (rc != want || strstr(err.msg, text) == NULL)
		fail_msg("expected %d and '%s', got %d: '%s'", want, text, rc, err.msg);
	gguf_close(g);
	gw_free(w);
}

static void test_missing_keys(void **state)
{
	static const char *const keys[] = {
	    "general.architecture",
	    "llama.block_count",
	    "llama.embedding_length",
	    "llama.feed_forward_length",
	    "llama.context_length",
	    "llama.attention.head_count",
	    "llama.attention.layer_norm_rms_epsilon",
	    "llama.expert_used_count",
	};

	(void)state;
	for (size_t i = 0; i < COUNT(keys); i++) {
		const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32, .moe = true, .skip = keys[i]};
		struct gw w;

		gw_llama(&w, &m);
		assert_refused(&w, -EBADMSG, keys[i]);
	}
}

/* One key in place of the right one. */
static void with_key(struct gw *w, const char *key, uint32_t v)
{
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32, .moe = true, .skip = key};

	gw_llama(w, &m);
	gw_kv_u32(w, key, v);
}

static void test_impossible_values(void **state)
{
	static const struct {
		const char *key;
		uint32_t v;
		const char *text;
	} cases[] = {
	    {"llama.block_count", 0, "llama.block_count"},
	    {"llama.block_count", UINT32_MAX, "llama.block_count"},
	    {"llama.embedding_length", 0, "llama.embedding_length"},
	    {"llama.embedding_length", 33, "heads"},
	    {"llama.feed_forward_length", UINT32_MAX, "llama.feed_forward_length"},
	    {"llama.context_length", 0, "llama.context_length"},
	    {"llama.attention.head_count", 0, "llama.attention.head_count"},
	    {"llama.attention.head_count", 5, "share"},
	    {"llama.attention.head_count_kv", 3, "share"},
	    {"llama.attention.head_count_kv", 0, "llama.attention.head_count_kv"},
	    {"llama.attention.key_length", UINT32_MAX, "llama.attention.key_length"},
	    {"llama.rope.dimension_count", 7, "rotated"},
	    {"llama.rope.dimension_count", 10, "rotated"},
	    {"llama.vocab_size", 41, "llama.vocab_size"},
	    {"llama.expert_used_count", 4, "llama.expert_used_count"},
	    {"llama.expert_used_count", 0, "llama.expert_used_count"},
	    {"llama.expert_count", UINT32_MAX, "llama.expert_count"},
	    {"llama.rope.freq_base", 10000, "llama.rope.freq_base"}, /* an integer */
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct gw w;

		with_key(&w, cases[i].key, cases[i].v);
		assert_refused(&w, -EBADMSG, cases[i].text);
	}
}

static void with_f32(struct gw *w, const char *key, float v)
{
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32, .skip = key};

	gw_llama(w, &m);
	gw_kv_f32(w, key, v);
}

static void test_impossible_floats(void **state)
{
	static const char eps[] = "llama.attention.layer_norm_rms_epsilon";
	struct gw w;

	(void)state;
	with_f32(&w, eps, NAN);
	assert_refused(&w, -EBADMSG, eps);
	with_f32(&w, eps, 0);
	assert_refused(&w, -EBADMSG, eps);
	with_f32(&w, "llama.rope.freq_base", 1.0f);
	assert_refused(&w, -EBADMSG, "freq_base");
	with_f32(&w, "llama.rope.freq_base", INFINITY);
	assert_refused(&w, -EBADMSG, "freq_base");
	with_f32(&w, "llama.rope.scaling.factor", 1e-30f);
	assert_refused(&w, -EBADMSG, "rope.scaling.factor");
	with_f32(&w, "llama.rope.scaling.factor", -2);
	assert_refused(&w, -EBADMSG, "rope.scaling.factor");
}

static void test_unknown_kinds(void **state)
{
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32};
	const struct gw_model no_arch = {.n_layers = 2, .dtype = GGUF_DT_F32, .skip = "general.architecture"};
	struct gw w;

	(void)state;
	gw_llama(&w, &no_arch);
	gw_kv_str(&w, "general.architecture",
		  "mam\x1b"
		  "ba");
	assert_refused(&w, -ENOTSUP, "'mam?ba' is not supported; supported: llama, gpt2");
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "ntk");
	assert_refused(&w, -ENOTSUP, "llama.rope.scaling.type");
	gw_llama(&w, &m);
	gw_kv_str(&w, "llama.rope.scaling.type", "longrope");
	assert_refused(&w, -EBADMSG, "rope_factors_short.weight");
}

static void test_per_block_heads(void **state)
{
	static const char key[] = "llama.attention.head_count_kv";
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32, .skip = key};
	const uint32_t same[2] = {2, 2}, differ[2] = {2, 4};
	struct model_hparams hp;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_array(&w, key, GGUF_I32, 2, same, sizeof(same));
	g = gw_open_good(&w);
	assert_int_equal(model_read_hparams(g, &hp, NULL), 0);
	assert_int_equal(hp.n_heads_kv, 2);
	gguf_close(g);
	gw_free(&w);
	gw_llama(&w, &m);
	gw_kv_array(&w, key, GGUF_I32, 2, differ, sizeof(differ));
	assert_refused(&w, -EBADMSG, key);
}

static void test_vocab_too_long(void **state)
{
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32};
	const char *tokens[41];
	struct gw w;

	(void)state;
	for (size_t i = 0; i < COUNT(tokens); i++)
		tokens[i] = "t";
	gw_llama(&w, &m);
	gw_kv_strs(&w, "tokenizer.ggml.tokens", tokens, COUNT(tokens));
	assert_refused(&w, -EBADMSG, "tokenizer.ggml.tokens");
}

/* Keys that only some families read: each with a value that would end in nonsense. */
static void test_impossible_details(void **state)
{
	static const struct {
		const char *arch, *suffix;
		float v;
	} cases[] = {
	    {"gemma2", "attn_logit_softcapping", NAN},
	    {"gemma2", "final_logit_softcapping", -1},
	    {"gemma3", "final_logit_softcapping", INFINITY},
	    {"gemma2", "attention.scale", -0.5f},
	    {"gemma2", "attention.scale", NAN},
	    {"bloom", "attention.max_alibi_bias", INFINITY},
	    {"mpt", "attention.max_alibi_bias", -8},
	    {"mpt", "attention.clamp_kqv", NAN},
	    {"mpt", "attention.clamp_kqv", -1},
	    {"gemma3", "rope.freq_base_swa", 0},
	    {"gemma3", "rope.freq_base_swa", NAN},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		const struct family f = {.arch = cases[i].arch,
					 .n_layers = 2,
					 .keys = {{cases[i].suffix, 'f', (double)cases[i].v}},
					 .tensors = {FAM_EMBED}};
		struct gw w;

		fam_write(&w, &f, NULL);
		assert_refused(&w, -EBADMSG, cases[i].suffix);
	}
}

static void test_impossible_windows(void **state)
{
	static const struct {
		const char *suffix;
		uint32_t v;
	} cases[] = {{"attention.sliding_window", UINT32_MAX},
		     {"attention.sliding_window_pattern", 0},
		     {"attention.sliding_window_pattern", UINT32_MAX}};
	static const uint8_t slides[3] = {1, 0, 1};
	struct family f = {.arch = "gemma2", .n_layers = 2, .tensors = {FAM_EMBED}};
	struct gw w;

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		f.keys[0] = (struct fam_key){cases[i].suffix, 'u', cases[i].v};
		fam_write(&w, &f, NULL);
		assert_refused(&w, -EBADMSG, cases[i].suffix);
	}
	f.keys[0] = (struct fam_key){0};
	fam_write(&w, &f, NULL);
	gw_kv_array(&w, "gemma2.attention.sliding_window_pattern", GGUF_BOOL, 3, slides, sizeof(slides));
	assert_refused(&w, -EBADMSG, "gemma2.attention.sliding_window_pattern");
}

static void test_refused_experts(void **state)
{
	const struct family f = {.arch = "qwen2",
				 .n_layers = 2,
				 .keys = {{"expert_count", 'u', 8}, {"expert_used_count", 'u', 2}},
				 .tensors = {FAM_EMBED}};
	struct gw w;

	(void)state;
	fam_write(&w, &f, NULL);
	assert_refused(&w, -ENOTSUP, "qwen2.expert_count");
}

/* Embedding models made of generating ones; computed as their family is, they would give other numbers. */
static void test_refused_without_causality(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	struct model_rope_params p;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_kv_bool(&w, "llama.attention.causal", false);
	assert_refused(&w, -ENOTSUP, "llama.attention.causal");
	gw_llama(&w, &m);
	gw_kv_bool(&w, "llama.attention.causal", true);
	rope_of(&w, &g, &p);
	gguf_close(g);
	gw_free(&w);
}

static void test_bad_factors(void **state)
{
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_F32};
	const uint64_t right[1] = {4}, wrong[1] = {5};
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	gw_tensor(&w, "rope_factors_long.weight", 1, right, GGUF_DT_F32);
	memset(w.data.p + w.data.len - 16, 0x40, 16);
	assert_refused(&w, -EBADMSG, "rope_factors_short.weight");
	gw_llama(&w, &m);
	gw_tensor(&w, "rope_freqs.weight", 1, wrong, GGUF_DT_F32);
	assert_refused(&w, -EBADMSG, "rope_freqs.weight");
	gw_llama(&w, &m);
	gw_tensor(&w, "rope_freqs.weight", 1, right, GGUF_DT_F32);
	memset(w.data.p + w.data.len - 16, 0, 16);
	assert_refused(&w, -EBADMSG, "rope_freqs.weight");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rope_linear),
	    cmocka_unit_test(test_rope_none),
	    cmocka_unit_test(test_rope_factors),
	    cmocka_unit_test(test_rope_yarn),
	    cmocka_unit_test(test_rope_yarn_log_multiplier),
	    cmocka_unit_test(test_alibi_slopes),
	    cmocka_unit_test(test_relative_buckets),
	    cmocka_unit_test(test_rope_longrope),
	    cmocka_unit_test(test_missing_keys),
	    cmocka_unit_test(test_impossible_details),
	    cmocka_unit_test(test_impossible_windows),
	    cmocka_unit_test(test_refused_experts),
	    cmocka_unit_test(test_refused_without_causality),
	    cmocka_unit_test(test_bad_factors),
	    cmocka_unit_test(test_impossible_values),
	    cmocka_unit_test(test_impossible_floats),
	    cmocka_unit_test(test_unknown_kinds),
	    cmocka_unit_test(test_per_block_heads),
	    cmocka_unit_test(test_vocab_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
