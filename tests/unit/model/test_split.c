/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Cuts of a model into stages, against trying every cut.
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

#include <cmocka.h>

#include "model/gguf.h"
#include "model/graph.h"
#include "tests/unit/model/gguf_writer.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A model of n blocks of the given sizes, for the split alone. head 0: tied to the embedding. */
static struct gguf *sized_model(const uint32_t *floats, uint32_t n, uint32_t head)
{
	struct gw_model m = {.n_layers = 0, .dtype = GGUF_DT_F32, .skip = "llama.block_count"};
	uint64_t ne[2];
	struct gguf *g;
	struct gw w;
	char name[64];

	gw_llama(&w, &m);
	gw_kv_u32(&w, "llama.block_count", n);
	for (uint32_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "blk.%u.x", i);
		ne[0] = floats[i];
		gw_tensor(&w, name, 1, ne, GGUF_DT_F32);
	}
	ne[0] = head;
	ne[1] = 1;
	if (head > 0)
		gw_tensor(&w, "output.weight", 2, ne, GGUF_DT_F32);
	g = gw_open_good(&w);
	gw_free(&w);
	return g;
}

struct evenness {
	uint64_t max;
	double squares;
};

static struct evenness evenness_of(const struct gguf *g, const uint32_t *cuts, uint32_t n_stages)
{
	struct evenness e = {0};

	for (uint32_t s = 0; s < n_stages; s++) {
		uint64_t bytes = model_range_bytes(g, cuts[s], cuts[s + 1]);

		e.max = bytes > e.max ? bytes : e.max;
		e.squares += (double)bytes * (double)bytes;
	}
	return e;
}

/* The best of all cuts, by trying each. */
static void best_of(const struct gguf *g, uint32_t *cuts, uint32_t s, uint32_t n_stages, uint32_t n,
		    struct evenness *best)
{
	if (s == n_stages) {
		struct evenness e;

		cuts[s] = n;
		e = evenness_of(g, cuts, n_stages);
		if (e.max < best->max || (e.max == best->max && e.squares < best->squares))
			*best = e;
		return;
	}
	for (uint32_t at = cuts[s - 1] + 1; at <= n - (n_stages - s); at++) {
		cuts[s] = at;
		best_of(g, cuts, s + 1, n_stages, n, best);
	}
}

static void check_split(const struct gguf *g, uint32_t n, uint32_t n_stages)
{
	struct evenness best = {.max = UINT64_MAX}, got;
	uint32_t cuts[16], tried[16] = {0};

	assert_int_equal(model_split_even(g, n_stages, cuts, NULL), 0);
	assert_int_equal(cuts[0], 0);
	assert_int_equal(cuts[n_stages], n);
	for (uint32_t s = 0; s < n_stages; s++)
		assert_true(cuts[s] < cuts[s + 1]);
	got = evenness_of(g, cuts, n_stages);
	best_of(g, tried, 1, n_stages, n, &best);
	assert_true(got.max == best.max);
	assert_true(got.squares <= best.squares);
}

static void test_split_is_best(void **state)
{
	uint32_t rng = 12345, sizes[9];

	(void)state;
	for (uint32_t round = 0; round < 60; round++) {
		uint32_t n = 1 + round % COUNT(sizes);
		struct gguf *g;

		for (uint32_t i = 0; i < n; i++) {
			rng = rng * 1664525u + 1013904223u;
			sizes[i] = round % 3 == 0 ? 500 : 1 + (rng >> 16) % 4000;
		}
		g = sized_model(sizes, n, round % 2 == 0 ? 0 : 1 + (rng >> 8) % 4000);
		for (uint32_t n_stages = 1; n_stages <= n; n_stages++)
			check_split(g, n, n_stages);
		gguf_close(g);
	}
}

static void test_split_limits(void **state)
{
	const uint32_t sizes[3] = {10, 10, 10};
	struct gguf *g = sized_model(sizes, 3, 10);
	struct ps_err err = {{0}};
	uint32_t cuts[8];

	(void)state;
	assert_int_equal(model_split_even(g, 0, cuts, &err), -EINVAL);
	assert_int_equal(model_split_even(g, 4, cuts, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "3 blocks cannot be cut into 4 stages"));
	gguf_close(g);
}

/* The most blocks and stages that a file can ask for must not take long. */
static void test_split_large(void **state)
{
	struct gguf *g;
	uint32_t *sizes = calloc(1024, sizeof(*sizes)), *cuts = calloc(1025, sizeof(*cuts));

	(void)state;
	assert_non_null(sizes);
	assert_non_null(cuts);
	for (uint32_t i = 0; i < 1024; i++)
		sizes[i] = i % 2 == 0 ? 100 : 1;
	g = sized_model(sizes, 1024, 1);
	assert_int_equal(model_split_even(g, 512, cuts, NULL), 0);
	for (uint32_t s = 1; s < 512; s++)
		assert_true(cuts[s] < cuts[s + 1]);
	gguf_close(g);
	free(sizes);
	free(cuts);
}

static void test_range_bytes_tied(void **state)
{
	const struct gw_model m = {.n_layers = 2, .dtype = GGUF_DT_F32};
	const struct gguf_tensor *embed;
	uint64_t in_blocks = 0;
	struct gguf *g;
	struct gw w;

	(void)state;
	gw_llama(&w, &m);
	g = gw_open_good(&w);
	embed = gguf_tensor(g, "token_embd.weight");
	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		if (strncmp(gguf_tensor_at(g, i)->name, "blk.0.", 6) == 0)
			in_blocks += gguf_tensor_at(g, i)->n_bytes;
	}
	/* The first range reads a row of the table, the last one all of it. */
	assert_true(model_range_bytes(g, 0, 1) == in_blocks + embed->n_bytes / embed->ne[1]);
	assert_true(model_range_bytes(g, 1, 2) == in_blocks + embed->n_bytes + 32 * 4);
	gguf_close(g);
	gw_free(&w);
}

/* Blocks of two stacks count through: the encoder's, then the decoder's. */
static void test_tensor_block(void **state)
{
	const struct model_hparams plain = {.n_layers = 5}, t5 = {.n_layers = 5, .n_layers_enc = 3};
	uint32_t layer = 99;

	(void)state;
	assert_true(model_tensor_block(&plain, "blk.4.attn_q.weight", &layer) && layer == 4);
	assert_true(model_tensor_block(&plain, "enc.blk.0.attn_q.weight", &layer) && layer == 0);
	assert_false(model_tensor_block(&plain, "blk.5.attn_q.weight", &layer));
	assert_false(model_tensor_block(&plain, "output.weight", &layer));
	assert_true(model_tensor_block(&t5, "enc.blk.2.attn_q.weight", &layer) && layer == 2);
	assert_true(model_tensor_block(&t5, "dec.blk.1.attn_q.weight", &layer) && layer == 4);
	assert_false(model_tensor_block(&t5, "enc.blk.3.attn_q.weight", &layer));
	assert_false(model_tensor_block(&t5, "dec.blk.2.attn_q.weight", &layer));
	assert_false(model_tensor_block(&t5, "dec.output_norm.weight", &layer));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_split_is_best), cmocka_unit_test(test_split_limits),
	    cmocka_unit_test(test_split_large),   cmocka_unit_test(test_range_bytes_tied),
	    cmocka_unit_test(test_tensor_block),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
