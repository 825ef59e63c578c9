/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Back ends on small models in memory: the fast one against the reference, the
 * same bits however a prompt, the batches, the threads and the block ranges
 * are cut, KV slots, and wrong input.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "accel/accel.h"
#include "tests/unit/accel/rig.h"
#include "tests/unit/accel/toy.h"

#define N_TOKENS 40u
#define N_SLOTS  3u

static struct accel_open_args default_args(const char *device, uint32_t n_threads)
{
	return (struct accel_open_args){.device = device,
					.n_threads = n_threads,
					.n_slots = N_SLOTS,
					.n_ctx = N_TOKENS + 3,
					.max_tokens = N_TOKENS};
}

static void rig_init(struct rig *r, const struct toy_spec *spec, const char *device, uint32_t n_threads,
		     uint32_t n_stages)
{
	struct accel_open_args args = default_args(device, n_threads);

	rig_open(r, spec, &args, n_stages);
}

/* Runs a batch through all stages; logits of every row. */
static void rig_run(struct rig *r, const struct accel_seq *seqs, uint32_t n_seqs, const int32_t *tokens,
		    uint32_t n, float *logits)
{
	struct accel_batch b = {.n_tokens = n, .n_seqs = n_seqs, .seqs = seqs, .tokens = tokens};

	assert_int_equal(rig_batch(r, &b, logits), 0);
}

static void make_tokens(const struct toy_spec *spec, uint64_t seed, int32_t *tokens)
{
	struct toy_rng rng = {seed};

	for (uint32_t i = 0; i < N_TOKENS; i++)
		tokens[i] = (int32_t)toy_below(&rng, spec->vocab);
}

static float *new_logits(const struct toy_spec *spec)
{
	float *p = calloc((size_t)N_TOKENS * spec->vocab, sizeof(float));

	assert_non_null(p);
	return p;
}

/* Logits of all tokens of one sequence, fed `chunk` at a time into a slot. */
static void feed(struct rig *r, uint32_t slot, const int32_t *tokens, uint32_t from, uint32_t to,
		 uint32_t chunk, float *logits)
{
	for (uint32_t pos = from; pos < to; pos += chunk) {
		uint32_t n = to - pos < chunk ? to - pos : chunk;
		struct accel_seq seq = {.slot = slot, .pos = pos, .n_tokens = n};

		rig_run(r, &seq, 1, tokens + pos, n, logits + (size_t)pos * r->spec->vocab);
	}
}

static float *logits_of(const struct toy_spec *spec, const char *device, uint32_t threads, uint32_t stages,
			uint32_t chunk)
{
	struct rig r;
	int32_t tokens[N_TOKENS];
	float *logits = new_logits(spec);

	rig_init(&r, spec, device, threads, stages);
	make_tokens(spec, 7, tokens);
	feed(&r, 1, tokens, 0, N_TOKENS, chunk, logits);
	rig_close(&r);
	return logits;
}

static size_t logits_bytes(const struct toy_spec *spec)
{
	return (size_t)N_TOKENS * spec->vocab * sizeof(float);
}

static void test_cpu_equals_reference(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < toy_n_specs; i++) {
		const struct toy_spec *spec = &toy_specs[i];
		float *want = logits_of(spec, "cpu-ref", 1, 1, N_TOKENS);
		float *got = logits_of(spec, "cpu", 1, 1, N_TOKENS);
		double error = rig_nmse(got, want, (size_t)N_TOKENS * spec->vocab);
		bool is_float =
		    spec->dtype == GGUF_DT_F32 || spec->dtype == GGUF_DT_F16 || spec->dtype == GGUF_DT_BF16;
		/* Activations rounded to 8 bits cost about 1e-4 a product. */
		double limit = is_float ? 1e-9 : 1e-2;

		if (!(error <= limit))
			fail_msg("%s: nmse %g", spec->name, error);
		free(want);
		free(got);
	}
}

static void check_invariant(const struct toy_spec *spec, const char *device)
{
	static const struct {
		uint32_t threads, stages, chunk;
	} cuts[] = {{1, 1, 1},        {1, 1, 7}, {2, 1, N_TOKENS}, {3, 1, 7},
		    {1, 2, N_TOKENS}, {2, 2, 1}, {1, 3, 13}};
	float *want = logits_of(spec, device, 1, 1, N_TOKENS);

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		float *got;

		if (cuts[i].stages > spec->layers)
			continue;
		got = logits_of(spec, device, cuts[i].threads, cuts[i].stages, cuts[i].chunk);
		if (memcmp(got, want, logits_bytes(spec)) != 0)
			fail_msg("%s on %s differs: %u threads, %u stages, chunks of %u", spec->name, device,
				 cuts[i].threads, cuts[i].stages, cuts[i].chunk);
		free(got);
	}
	free(want);
}

static void test_invariance(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < toy_n_specs; i++)
		check_invariant(&toy_specs[i], "cpu");
	check_invariant(&toy_specs[0], "cpu-ref");
	check_invariant(&toy_specs[6], "cpu-ref");
}

/* Sequences in one batch, at different positions and lengths, give what each gives alone. */
static void check_interleaved(const struct toy_spec *spec, const char *device)
{
	static const struct accel_seq steps[][3] = {
	    {{0, 0, 5}, {1, 0, 1}, {2, 0, 9}},
	    {{2, 9, 1}, {0, 5, 1}, {1, 1, 12}},
	    {{1, 13, 1}, {0, 6, 8}, {2, 10, 3}},
	};
	int32_t tokens[3][N_TOKENS], batch[N_TOKENS];
	float *alone = new_logits(spec), *together = new_logits(spec);
	size_t row = spec->vocab * sizeof(float);
	struct rig r, lone;

	rig_init(&r, spec, device, 2, 1);
	rig_init(&lone, spec, device, 1, 1);
	for (uint32_t s = 0; s < 3; s++)
		make_tokens(spec, 20 + s, tokens[s]);
	for (size_t i = 0; i < 3; i++) {
		uint32_t n = 0;

		for (uint32_t s = 0; s < 3; s++) {
			memcpy(batch + n, tokens[steps[i][s].slot] + steps[i][s].pos,
			       steps[i][s].n_tokens * sizeof(int32_t));
			n += steps[i][s].n_tokens;
		}
		rig_run(&r, steps[i], 3, batch, n, together);
		for (uint32_t s = 0, at = 0; s < 3; at += steps[i][s].n_tokens, s++) {
			const struct accel_seq *q = &steps[i][s];

			feed(&lone, q->slot, tokens[q->slot], q->pos, q->pos + q->n_tokens, 1, alone);
			assert_memory_equal(alone + (size_t)q->pos * spec->vocab,
					    together + (size_t)at * spec->vocab, q->n_tokens * row);
		}
	}
	rig_close(&r);
	rig_close(&lone);
	free(alone);
	free(together);
}

static void test_interleaved(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < toy_n_specs; i++)
		check_interleaved(&toy_specs[i], "cpu");
	check_interleaved(&toy_specs[1], "cpu-ref");
}

/* Only rows asked for come out, at the front, in order; none may be asked for. */
static void check_selected_rows(const char *device)
{
	const struct toy_spec *spec = &toy_specs[1];
	const uint32_t rows[] = {0, 3, 39};
	int32_t tokens[N_TOKENS];
	float *all = new_logits(spec), *some = new_logits(spec);
	struct accel_seq seq = {.slot = 0, .pos = 0, .n_tokens = N_TOKENS};
	struct accel_batch b = {.n_tokens = N_TOKENS,
				.n_seqs = 1,
				.seqs = &seq,
				.tokens = tokens,
				.out_rows = rows,
				.n_out = 3,
				.out = some};
	struct rig r;

	rig_init(&r, spec, device, 1, 1);
	make_tokens(spec, 7, tokens);
	feed(&r, 0, tokens, 0, N_TOKENS, N_TOKENS, all);
	assert_int_equal(r.ops->submit(r.stages[0], &b), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_memory_equal(some + i * spec->vocab, all + rows[i] * spec->vocab,
				    spec->vocab * sizeof(float));
	assert_true(some[3 * spec->vocab] == 0);
	b.n_out = 0;
	b.out = NULL;
	b.out_rows = NULL;
	assert_int_equal(r.ops->submit(r.stages[0], &b), 0);
	assert_int_equal(r.ops->poll(r.stages[0]), 1);
	assert_int_equal(r.ops->poll(r.stages[0]), 1);
	rig_close(&r);
	free(all);
	free(some);
}

static void test_selected_rows(void **state)
{
	(void)state;
	check_selected_rows("cpu");
	check_selected_rows("cpu-ref");
}

#define TRACE_FLOATS 200000u

/* All results of a batch, one operation after the other. */
struct traced {
	uint32_t n;
	size_t used;
	float *values; /* [TRACE_FLOATS] */
};

static void collect(void *ctx, const struct model_op *op, const float *rows, size_t ld, uint32_t n_rows)
{
	struct traced *t = ctx;

	t->n++;
	for (uint32_t r = 0; r < n_rows; r++) {
		assert_true(t->used + op->width <= TRACE_FLOATS);
		memcpy(t->values + t->used, rows + r * ld, op->width * sizeof(float));
		t->used += op->width;
	}
}

static void trace_run(const struct toy_spec *spec, const char *device, struct traced *t)
{
	struct accel_open_args args = default_args(device, 1);
	float *logits = new_logits(spec);
	int32_t tokens[N_TOKENS];
	struct rig r;

	*t = (struct traced){.values = calloc(TRACE_FLOATS, sizeof(float))};
	args.trace = (struct accel_trace){.fn = collect, .ctx = t};
	rig_open(&r, spec, &args, 1);
	make_tokens(spec, 5, tokens);
	feed(&r, 0, tokens, 0, 7, 7, logits);
	assert_int_equal(t->n, r.graphs[0]->n_ops);
	/* The last result is the logits. */
	assert_memory_equal(t->values + t->used - (size_t)spec->vocab * 7, logits,
			    spec->vocab * 7 * sizeof(float));
	rig_close(&r);
	free(logits);
}

/* Who looks sees each operation's result, on every back end the same within rounding. */
static void test_trace(void **state)
{
	struct traced ref, fast;

	(void)state;
	trace_run(&toy_specs[0], "cpu-ref", &ref);
	trace_run(&toy_specs[0], "cpu", &fast);
	assert_int_equal(ref.used, fast.used);
	for (size_t i = 0; i < ref.used; i++)
		assert_true(fabsf(ref.values[i] - fast.values[i]) <= 1e-3f * (1 + fabsf(ref.values[i])));
	free(ref.values);
	free(fast.values);
}

static int submit_seq(struct rig *r, uint32_t slot, uint32_t pos, uint32_t n, const int32_t *tokens,
		      float *logits)
{
	struct accel_seq seq = {.slot = slot, .pos = pos, .n_tokens = n};
	struct accel_batch b = {.n_tokens = n, .n_seqs = 1, .seqs = &seq, .tokens = tokens, .out = logits};
	int rc = r->ops->submit(r->stages[0], &b);

	if (rc == 0)
		assert_int_equal(r->ops->poll(r->stages[0]), 1);
	else
		assert_int_equal(r->ops->poll(r->stages[0]), 0);
	return rc;
}

/* After a trim the sequence goes on from there as if the rest had never been. */
static void check_trim_and_copy(const struct toy_spec *spec, const char *device)
{
	int32_t tokens[N_TOKENS], other[N_TOKENS];
	float *want = new_logits(spec), *got = new_logits(spec);
	size_t row = spec->vocab * sizeof(float);
	struct rig r;

	rig_init(&r, spec, device, 1, 1);
	make_tokens(spec, 31, tokens);
	make_tokens(spec, 32, other);
	feed(&r, 0, tokens, 0, 30, 30, want);

	memcpy(other, tokens, 11 * sizeof(int32_t));
	feed(&r, 1, other, 0, 25, 25, got); /* another end after 11 common tokens */
	r.ops->kv_trim(r.stages[0], 1, 11);
	assert_int_equal(submit_seq(&r, 1, 12, 1, tokens + 12, got), -EINVAL); /* a hole */
	feed(&r, 1, tokens, 11, 30, 4, got);
	assert_memory_equal(got + 11 * spec->vocab, want + 11 * spec->vocab, 19 * row);

	feed(&r, 2, other, 0, 20, 20, got);
	r.ops->kv_copy(r.stages[0], 0, 2, 17); /* over what slot 2 had */
	assert_int_equal(submit_seq(&r, 2, 18, 1, tokens + 18, got), -EINVAL);
	feed(&r, 2, tokens, 17, 30, 5, got);
	assert_memory_equal(got + 17 * spec->vocab, want + 17 * spec->vocab, 13 * row);
	r.ops->kv_copy(r.stages[0], 2, 1, 1000); /* no more than there is */
	assert_int_equal(submit_seq(&r, 1, 31, 1, tokens + 31, got), -EINVAL);
	assert_int_equal(submit_seq(&r, 1, 30, 1, tokens + 30, got), 0);
	r.ops->kv_trim(r.stages[0], 77, 0); /* no such slots: nothing happens */
	r.ops->kv_copy(r.stages[0], 0, 77, 1);
	r.ops->kv_copy(r.stages[0], 77, 0, 1);
	assert_int_equal(submit_seq(&r, 0, 30, 1, tokens + 30, got), 0);
	rig_close(&r);
	free(want);
	free(got);
}

static void test_trim_and_copy(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < toy_n_specs; i++)
		check_trim_and_copy(&toy_specs[i], "cpu");
	check_trim_and_copy(&toy_specs[0], "cpu-ref");
}

static void check_wrong_batches(const char *device)
{
	const struct toy_spec *spec = &toy_specs[4]; /* learned positions */
	int32_t tokens[N_TOKENS];
	const uint32_t twice[] = {1, 1}, beyond[] = {3};
	float *logits = new_logits(spec);
	struct accel_seq seqs[2] = {{.slot = 0, .pos = 0, .n_tokens = 2},
				    {.slot = 0, .pos = 2, .n_tokens = 1}};
	const struct accel_batch good = {
	    .n_tokens = 3, .n_seqs = 2, .seqs = seqs, .tokens = tokens, .out = logits};
	struct accel_batch b;
	struct rig r;

	rig_init(&r, spec, device, 1, 1);
	make_tokens(spec, 1, tokens);
#define EXPECT_INVALID(change)                                                                               \
	do {                                                                                                 \
		b = good;                                                                                    \
		change;                                                                                      \
		assert_int_equal(r.ops->submit(r.stages[0], &b), -EINVAL);                                   \
		assert_int_equal(r.ops->poll(r.stages[0]), 0);                                               \
	} while (0)
	EXPECT_INVALID(b.n_tokens = 0);
	EXPECT_INVALID(b.n_tokens = 2);
	EXPECT_INVALID(b.n_tokens = 4);
	EXPECT_INVALID(b.n_tokens = UINT32_MAX);
	EXPECT_INVALID(b.n_seqs = 0);
	EXPECT_INVALID(b.n_seqs = UINT32_MAX);
	EXPECT_INVALID(b.seqs = NULL);
	EXPECT_INVALID(b.tokens = NULL);
	EXPECT_INVALID((b.out_rows = twice, b.n_out = 2));
	EXPECT_INVALID((b.out_rows = beyond, b.n_out = 1));
	EXPECT_INVALID((b.out_rows = NULL, b.n_out = 1));
	EXPECT_INVALID((b.out_rows = beyond, b.n_out = UINT32_MAX));
	EXPECT_INVALID(tokens[2] = -1);
	EXPECT_INVALID(tokens[2] = (int32_t)spec->vocab);
	tokens[2] = 0;
	EXPECT_INVALID(seqs[1].pos = 1); /* over rows of the same batch */
	EXPECT_INVALID(seqs[1].pos = 3);
	seqs[1].pos = 2;
	EXPECT_INVALID(seqs[1].slot = N_SLOTS);
	EXPECT_INVALID(seqs[1].slot = UINT32_MAX);
	seqs[1].slot = 0;
	EXPECT_INVALID(seqs[0].n_tokens = UINT32_MAX);
	EXPECT_INVALID((seqs[0].n_tokens = 3, seqs[1].n_tokens = 0));
#undef EXPECT_INVALID
	assert_int_equal(submit_seq(&r, 0, 1, 1, tokens, logits), -EINVAL); /* nothing above was kept */
	assert_int_equal(submit_seq(&r, 0, UINT32_MAX, 2, tokens, logits), -EINVAL);
	feed(&r, 0, tokens, 0, N_TOKENS, N_TOKENS, logits);
	assert_int_equal(submit_seq(&r, 0, N_TOKENS, 3, tokens, logits), 0);
	assert_int_equal(submit_seq(&r, 0, N_TOKENS + 3, 1, tokens, logits), -EINVAL); /* n_ctx */
	rig_close(&r);
	free(logits);
}

static void test_wrong_batches(void **state)
{
	(void)state;
	check_wrong_batches("cpu");
	check_wrong_batches("cpu-ref");
}

/* Not-a-number in one sequence stays in it, padding and scratch included. */
static void test_nan_stays_in_its_row(void **state)
{
	const struct toy_spec *spec = &toy_specs[0];
	struct toy *toy = toy_new(spec, 99);
	struct model_graph *g = toy_graph(toy, 1, 2);
	struct accel_open_args args = default_args("cpu", 1);
	struct accel_seq seqs[2] = {{.slot = 0, .n_tokens = 2}, {.slot = 1, .n_tokens = 2}};
	struct accel_seq again = {.slot = 2, .n_tokens = 4};
	float x[4 * 64], out[4 * 64], clean[4 * 64];
	struct accel_batch b = {.n_tokens = 4, .n_seqs = 2, .seqs = seqs, .x_in = x, .out = out};
	struct toy_rng rng = {5};
	struct accel *a;

	(void)state;
	assert_int_equal(accel_cpu.open(&args, g, &a, NULL), 0);
	toy_fill(&rng, GGUF_DT_F32, 4 * spec->embd, x);
	assert_int_equal(accel_cpu.submit(a, &b), 0);
	memcpy(clean, out, sizeof(clean));
	x[3] = NAN;
	x[spec->embd] = INFINITY;
	assert_int_equal(accel_cpu.submit(a, &b), 0);
	assert_true(isnan(out[0]));
	assert_memory_equal(out + 2 * spec->embd, clean + 2 * spec->embd, 2 * spec->embd * sizeof(float));
	/* And nothing of it is left for the next batch in the same rows. */
	toy_fill(&rng, GGUF_DT_F32, 4 * spec->embd, x);
	b.seqs = &again;
	b.n_seqs = 1;
	assert_int_equal(accel_cpu.submit(a, &b), 0);
	for (uint32_t i = 0; i < 4 * spec->embd; i++)
		assert_true(isfinite(out[i]));
	accel_cpu.close(a);
	toy_graph_free(g);
	toy_free(toy);
}

static int try_open(const char *device, const struct accel_open_args *args, const struct model_graph *g,
		    struct ps_err *err)
{
	struct accel *a = NULL;
	int rc = accel_find(device, NULL)->open(args, g, &a, err);

	if (rc == 0)
		accel_find(device, NULL)->close(a);
	return rc;
}

/* What model_graph_build never makes must not be run either. */
static void test_wrong_graphs(void **state)
{
	struct toy *toy = toy_new(&toy_specs[0], 99);
	struct model_graph *g = toy_graph(toy, 0, 3);
	struct accel_open_args args = default_args("cpu", 1);
	struct gguf_tensor w = *g->ops[2].w;
	struct model_op *mul = &g->ops[2], saved = *mul;
	struct ps_err err;

	(void)state;
	assert_int_equal(mul->kind, MODEL_OP_MATMUL);
	mul->w = &w;
	assert_int_equal(try_open("cpu", &args, g, &err), 0);
#define EXPECT_ERROR(rc, change)                                                                             \
	do {                                                                                                 \
		change;                                                                                      \
		err.msg[0] = '\0';                                                                           \
		assert_int_equal(try_open("cpu", &args, g, &err), rc);                                       \
		assert_non_null(strstr(err.msg, "operation 2"));                                             \
		assert_int_equal(try_open("cpu-ref", &args, g, &err), rc);                                   \
		*mul = saved;                                                                                \
		mul->w = &w;                                                                                 \
		w = *saved.w;                                                                                \
	} while (0)
	EXPECT_ERROR(-EINVAL, w.dtype = GGUF_DT_Q4_K);
	EXPECT_ERROR(-EINVAL, w.ne[0]++);
	EXPECT_ERROR(-EINVAL, w.ne[2]++);
	EXPECT_ERROR(-EINVAL, w.data = NULL);
	EXPECT_ERROR(-EINVAL, mul->w = NULL);
	EXPECT_ERROR(-EINVAL, mul->row0 = 1);
	EXPECT_ERROR(-EINVAL, mul->row0 = UINT32_MAX);
	EXPECT_ERROR(-EINVAL, mul->src0 = mul->dst);
	EXPECT_ERROR(-EINVAL, mul->src0 = 200);
	EXPECT_ERROR(-EINVAL, mul->dst = 200);
	EXPECT_ERROR(-EINVAL, mul->dst = g->out_buf);
	EXPECT_ERROR(-ENOTSUP, mul->kind = (enum model_op_kind)99);
#undef EXPECT_ERROR
	toy_graph_free(g);
	toy_free(toy);
}

static void test_wrong_args(void **state)
{
	static const int no_core[] = {-1, 100000};
	struct toy *toy = toy_new(&toy_specs[0], 99);
	struct model_graph *g = toy_graph(toy, 0, 3);
	struct accel_open_args args = default_args("cpu", 2);
	struct ps_err err;

	(void)state;
	args.cores = no_core;
	assert_int_equal(try_open("cpu", &args, g, &err), -EINVAL);
	args = default_args("cpu", 1);
	args.n_slots = 0;
	assert_int_equal(try_open("cpu", &args, g, &err), -EINVAL);
	assert_int_equal(try_open("cpu-ref", &args, g, &err), -EINVAL);
	args = default_args("cpu", 1);
	args.n_ctx = INT32_MAX; /* 2^31 positions of 2^20 slots: more than any address space */
	args.n_slots = 1u << 20;
	assert_int_equal(try_open("cpu", &args, g, &err), -ENOMEM);
	assert_int_equal(try_open("cpu-ref", &args, g, &err), -ENOMEM);
	assert_null(accel_find("cuda:7", &err));
	assert_non_null(strstr(err.msg, "cpu, cpu-ref"));
	toy_graph_free(g);
	toy_free(toy);
}

static void test_caps(void **state)
{
	struct toy *toy = toy_new(&toy_specs[1], 99);
	struct model_graph *g = toy_graph(toy, 0, 3);
	struct accel_open_args args = default_args("cpu", 2);
	struct accel_caps caps;
	struct accel *a;
	const char *want = getenv("PENSTOCK_ISA");

	(void)state;
	assert_int_equal(accel_cpu.open(&args, g, &a, NULL), 0);
	accel_cpu.caps(a, &caps);
	assert_string_equal(caps.device, "cpu");
	assert_int_equal(caps.n_threads, 2);
	assert_int_equal(strncmp(caps.isa, want, strlen(want)), 0);
	/* 2 KV heads, keys of 10 floats and values of 10 padded to 16, 3 blocks, 3 slots, a tile of 64
	 * positions */
	assert_int_equal(caps.kv_bytes, 2 * (10 + 16) * 4 * 3 * 3 * 64);
	/* Matrices of 60 inputs and of 100 (down) in float16, norms and one row of the table. */
	assert_int_equal(caps.weight_bytes,
			 3 * (2 * (60 * (60 + 20 + 20 + 60) + 3 * 60 * 100) + 4 * (2 * 60 + 10)) + 4 * 60 +
			     2 * 60 * 57 + 2 * 60);
	assert_int_equal(caps.repacked_bytes, 0);
	assert_true(caps.scratch_bytes > 0);
	accel_cpu.close(a);
	toy_graph_free(g);
	toy_free(toy);
}

/* A wrong PENSTOCK_ISA is an error, never another instruction set. */
static void test_isa_override(void **state)
{
	struct toy *toy = toy_new(&toy_specs[0], 99);
	struct model_graph *g = toy_graph(toy, 0, 3);
	struct accel_open_args args = default_args("cpu", 1);
	char isa[32];
	struct ps_err err;

	(void)state;
	snprintf(isa, sizeof(isa), "%s", getenv("PENSTOCK_ISA"));
	setenv("PENSTOCK_ISA", "sse9", 1);
	assert_int_equal(try_open("cpu", &args, g, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "sse9"));
	setenv("PENSTOCK_ISA", isa, 1);
	toy_graph_free(g);
	toy_free(toy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_cpu_equals_reference), cmocka_unit_test(test_invariance),
	    cmocka_unit_test(test_interleaved),          cmocka_unit_test(test_selected_rows),
	    cmocka_unit_test(test_trim_and_copy),        cmocka_unit_test(test_wrong_batches),
	    cmocka_unit_test(test_nan_stays_in_its_row), cmocka_unit_test(test_wrong_graphs),
	    cmocka_unit_test(test_wrong_args),           cmocka_unit_test(test_caps),
	    cmocka_unit_test(test_isa_override),         cmocka_unit_test(test_trace),
	};
	static const char *const names[] = {"portable", "avx2", "avx512"};
	int failed = 0;

	for (size_t i = 0; i < 3; i++) {
		struct toy *toy = toy_new(&toy_specs[0], 99);
		struct model_graph *g = toy_graph(toy, 0, 3);
		struct accel_open_args args = default_args("cpu", 1);
		int rc;

		setenv("PENSTOCK_ISA", names[i], 1);
		rc = try_open("cpu", &args, g, NULL);
		toy_graph_free(g);
		toy_free(toy);
		if (rc == -ENOTSUP)
			print_message("skipped: %s not on this CPU\n", names[i]);
		else
			failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return failed;
}
