/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage/core.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

#define N_CTX      48u
#define MAX_TOKENS 24u
#define N_SLOTS    4u
#define MAX_CORES  3u

/* A model cut into cores; messages go from one to the next through two buffers. */
struct chain {
	struct stage_core *cores[MAX_CORES];
	uint32_t n;
	uint8_t *buf[2];
	size_t cap;
	float *logits; /* of all rows run so far, if collected */
	size_t n_logits;
};

static struct gguf *model;

static int open_model(void **state)
{
	char path[512];
	struct ps_err err = {{0}};
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	(void)state;
	snprintf(path, sizeof(path), "%s/models/demo-llama-f16.gguf", root != NULL ? root : ".");
	if (gguf_open(path, &model, &err) != 0) {
		fprintf(stderr, "%s\n", err.msg);
		return -1;
	}
	return 0;
}

static int close_model(void **state)
{
	(void)state;
	gguf_close(model);
	return 0;
}

static void collect(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab)
{
	struct chain *c = ctx;
	size_t n = (size_t)n_rows * n_vocab;

	c->logits = realloc(c->logits, (c->n_logits + n) * sizeof(float));
	assert_non_null(c->logits);
	memcpy(c->logits + c->n_logits, logits, n * sizeof(float));
	c->n_logits += n;
}

static void open_chain_of(struct chain *c, uint32_t n, const char *device, bool want_logits,
			  enum act_dtype act_dtype)
{
	uint32_t cuts[MAX_CORES + 1], i;
	struct ps_err err = {{0}};

	memset(c, 0, sizeof(*c));
	c->n = n;
	assert_int_equal(model_split_even(model, n, cuts, &err), 0);
	for (i = 0; i < n; i++) {
		const struct stage_core_cfg cfg = {
		    .gguf = model,
		    .stage = i,
		    .block_first = cuts[i],
		    .block_last = cuts[i + 1],
		    .device = device,
		    .n_threads = 1,
		    .n_slots = N_SLOTS,
		    .n_ctx = N_CTX,
		    .max_tokens = MAX_TOKENS,
		    .act_dtype = act_dtype,
		    .logits = want_logits && i + 1 == n ? collect : NULL,
		    .logits_ctx = c,
		};

		if (stage_core_open(&cfg, &c->cores[i], &err) != 0)
			fail_msg("%s", err.msg);
	}
	c->cap = (stage_core_max_bytes(c->cores[0]) + 63) & ~(size_t)63;
	for (i = 0; i < 2; i++)
		assert_non_null(c->buf[i] = aligned_alloc(64, c->cap));
}

static void open_chain(struct chain *c, uint32_t n, const char *device, bool want_logits)
{
	open_chain_of(c, n, device, want_logits, ACT_F32);
}

static void close_chain(struct chain *c)
{
	uint32_t i;

	for (i = 0; i < c->n; i++)
		stage_core_close(c->cores[i]);
	free(c->buf[0]);
	free(c->buf[1]);
	free(c->logits);
}

/* Runs the message in buf[0] through all cores; the result is parsed, and lies in the buffer it names. */
static struct act run_chain(struct chain *c, size_t len)
{
	struct ps_err err = {{0}};
	struct act a;
	uint8_t *hop_tx = NULL;
	uint32_t i;

	for (i = 0; i < c->n; i++)
		stage_core_run(c->cores[i], c->buf[i & 1], len, 1, c->buf[(i + 1) & 1], &len, &hop_tx);
	if (act_parse(c->buf[c->n & 1], len, &a, &err) != 0)
		fail_msg("the last stage's message: %s", err.msg);
	return a;
}

struct part {
	uint16_t slot;
	uint32_t pos, n;
	const int32_t *tokens;
};

static struct act_seq sampled_seq(const struct part *p)
{
	return (struct act_seq){
	    .seq_id = 40u + p->slot,
	    .slot = p->slot,
	    .flags = ACT_SEQ_SAMPLE,
	    .pos = p->pos,
	    .n_tokens = p->n,
	    .temperature = 0.8f,
	    .top_p = 0.95f,
	    .top_k = 20,
	    .repeat_penalty = 1.1f,
	    .repeat_last_n = 16,
	    .seed = 1234u + p->slot,
	    .token = -1,
	};
}

/* A batch of these parts, as the gateway would send it, in buf. */
static size_t write_batch(uint8_t *buf, size_t cap, const struct part *parts, uint32_t n)
{
	struct act a = {.kind = ACT_TOKENS, .dtype = ACT_F32, .batch_id = 5, .n_seqs = n};
	uint32_t i, row = 0;

	for (i = 0; i < n; i++)
		a.n_rows += parts[i].n;
	assert_int_equal(act_begin(&a, buf, cap), 0);
	for (i = 0; i < n; i++) {
		const struct act_seq seq = sampled_seq(&parts[i]);

		act_seq_put(&a, i, &seq);
		memcpy(a.tokens + (size_t)4 * row, parts[i].tokens, (size_t)4 * parts[i].n);
		row += parts[i].n;
	}
	return a.len;
}

static int32_t token_of(const struct act *a, uint32_t i)
{
	struct act_seq seq;

	assert_int_equal(a->kind, ACT_SAMPLED);
	act_seq_get(a, i, &seq);
	assert_true(seq.token >= 0 && seq.n_tokens == 0);
	return seq.token;
}

static const int32_t prompt_a[] = {1, 17, 300, 42, 999, 7, 1500, 23, 64, 128};
static const int32_t prompt_b[] = {1, 5, 77, 1200, 350, 11};

/* A prompt, then n tokens one at a time; the tokens chosen go to out[n + 1]. */
static void generate(struct chain *c, uint16_t slot, const int32_t *prompt, uint32_t len, uint32_t n,
		     int32_t *out)
{
	struct part p = {.slot = slot, .pos = 0, .n = len, .tokens = prompt};
	uint32_t i;

	for (i = 0; i <= n; i++) {
		struct act a = run_chain(c, write_batch(c->buf[0], c->cap, &p, 1));

		out[i] = token_of(&a, 0);
		p = (struct part){.slot = slot, .pos = len + i, .n = 1, .tokens = &out[i]};
	}
}

static void same_in_any_cut(const char *device)
{
	struct chain one, more;
	int32_t want[13], got[13];
	uint32_t n;

	open_chain(&one, 1, device, true);
	generate(&one, 0, prompt_a, 10, 12, want);
	assert_int_equal(one.n_logits, (size_t)(10 + 12) * stage_core_hparams(one.cores[0])->n_vocab);
	for (n = 2; n <= MAX_CORES; n++) {
		open_chain(&more, n, device, true);
		generate(&more, 0, prompt_a, 10, 12, got);
		assert_memory_equal(got, want, sizeof(want));
		assert_int_equal(more.n_logits, one.n_logits);
		assert_memory_equal(more.logits, one.logits, one.n_logits * sizeof(float));
		close_chain(&more);
	}
	close_chain(&one);
}

static void test_any_cut_is_bit_identical(void **state)
{
	(void)state;
	same_in_any_cut("cpu");
	same_in_any_cut("cpu-ref");
}

/* Mean square of the difference over that of the wanted values. */
static double error_of(const float *got, const float *want, size_t n)
{
	double diff = 0, all = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		diff += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
		all += (double)want[i] * (double)want[i];
	}
	return diff / all;
}

/* Each element type on the wire: its error is there, and within what its bits promise; a single stage has
 * none. */
static void test_element_types_on_the_wire(void **state)
{
	static const double least[ACT_N_DTYPES] = {-1, 1e-10, 1e-8, 1e-8};
	static const double most[ACT_N_DTYPES] = {0, 1e-6, 1e-4, 1e-3};
	const struct part p = {.slot = 0, .pos = 0, .n = 10, .tokens = prompt_a};
	struct chain want, got;
	struct stage_core_stats st;
	uint32_t t, n;

	(void)state;
	open_chain(&want, 1, "cpu", true);
	run_chain(&want, write_batch(want.buf[0], want.cap, &p, 1));
	for (t = 0; t < ACT_N_DTYPES; t++) {
		for (n = 1; n <= MAX_CORES; n++) {
			double e;

			open_chain_of(&got, n, "cpu", true, (enum act_dtype)t);
			run_chain(&got, write_batch(got.buf[0], got.cap, &p, 1));
			assert_int_equal(got.n_logits, want.n_logits);
			e = error_of(got.logits, want.logits, want.n_logits);
			if (n == 1 ? e != 0 : e <= least[t] || e > most[t])
				fail_msg("%s, %u stages: error %g", act_dtype_name((enum act_dtype)t), n, e);
			stage_core_stats(got.cores[0], &st);
			assert_int_equal(st.cut_values, 0);
			close_chain(&got);
		}
	}
	close_chain(&want);
}

/* A stage takes any element type, whatever it sends itself. */
static void test_mixed_element_types(void **state)
{
	const struct part p = {.slot = 0, .pos = 0, .n = 10, .tokens = prompt_a};
	struct chain q8, f32;
	uint8_t *hop_tx;
	struct ps_err err;
	struct act a;
	size_t len;

	(void)state;
	open_chain_of(&q8, 2, "cpu", false, ACT_Q8);
	open_chain(&f32, 2, "cpu", false);
	len = write_batch(q8.buf[0], q8.cap, &p, 1);
	stage_core_run(q8.cores[0], q8.buf[0], len, 1, f32.buf[0], &len, &hop_tx);
	assert_int_equal(act_parse(f32.buf[0], len, &a, &err), 0);
	assert_true(a.kind == ACT_HIDDEN && a.dtype == ACT_Q8 && a.width == 128);
	assert_int_equal(len - (size_t)(a.payload - f32.buf[0]), 10 * 128 / 32 * 34);
	stage_core_run(f32.cores[1], f32.buf[0], len, 1, f32.buf[1], &len, &hop_tx);
	assert_int_equal(act_parse(f32.buf[1], len, &a, &err), 0);
	token_of(&a, 0);
	close_chain(&q8);
	close_chain(&f32);
}

/* Activations beyond float16 go out as its largest value, and are counted; the residual stream keeps what it
 * is given, so a large input makes them. */
static void test_too_large_for_the_wire(void **state)
{
	const struct part p = {.slot = 0, .pos = 0, .n = 2, .tokens = prompt_a};
	float row[128], out[2 * 128]; /* [128], [2, 128] */
	struct stage_core_stats st;
	struct ps_err err;
	struct chain c;
	struct act a;
	uint8_t *hop_tx;
	uint32_t i;
	size_t len;

	(void)state;
	open_chain_of(&c, 3, "cpu", false, ACT_F16);
	len = write_batch(c.buf[0], c.cap, &p, 1);
	stage_core_run(c.cores[0], c.buf[0], len, 1, c.buf[1], &len, &hop_tx);
	assert_int_equal(act_parse(c.buf[1], len, &a, &err), 0);
	a.dtype = ACT_F32;
	assert_int_equal(act_begin(&a, c.buf[0], c.cap), 0);
	act_seq_put(&a, 0, &(struct act_seq){.n_tokens = 2});
	memcpy(a.tokens, prompt_a, 8);
	for (i = 0; i < 128; i++)
		row[i] = i < 100 ? 1.0f : 1e6f;
	act_encode(ACT_F32, row, 1, 128, a.payload);
	act_encode(ACT_F32, row, 1, 128, a.payload + sizeof(row));
	stage_core_run(c.cores[1], c.buf[0], a.len, 1, c.buf[1], &len, &hop_tx);
	assert_int_equal(act_parse(c.buf[1], len, &a, &err), 0);
	assert_true(a.kind == ACT_HIDDEN && a.dtype == ACT_F16);
	act_decode(a.dtype, a.payload, 2, 128, out);
	for (i = 0; i < 2 * 128; i++)
		assert_true(i % 128 < 100 ? out[i] < 60000 : out[i] == 65504);
	stage_core_stats(c.cores[1], &st);
	assert_int_equal(st.cut_values, 2 * 28);
	close_chain(&c);
}

/* Two sequences that share batches give what each gives alone, to the bit. */
static void test_interleaved_sequences(void **state)
{
	struct chain alone, both;
	int32_t want_a[9], want_b[9], got[2][9];
	struct part parts[2] = {
	    {.slot = 3, .pos = 0, .n = 10, .tokens = prompt_a},
	    {.slot = 1, .pos = 0, .n = 6, .tokens = prompt_b},
	};
	uint32_t i, k;

	(void)state;
	open_chain(&alone, 2, "cpu", false);
	generate(&alone, 3, prompt_a, 10, 8, want_a);
	generate(&alone, 1, prompt_b, 6, 8, want_b);
	close_chain(&alone);
	open_chain(&both, 2, "cpu", false);
	for (i = 0; i < 9; i++) {
		struct act a = run_chain(&both, write_batch(both.buf[0], both.cap, parts, 2));

		for (k = 0; k < 2; k++) {
			got[k][i] = token_of(&a, k);
			parts[k] = (struct part){.slot = parts[k].slot,
						 .pos = parts[k].pos + parts[k].n,
						 .n = 1,
						 .tokens = &got[k][i]};
		}
	}
	assert_memory_equal(got[0], want_a, sizeof(want_a));
	assert_memory_equal(got[1], want_b, sizeof(want_b));
	close_chain(&both);
}

/* A prompt in pieces, and a slot taken over by another sequence, change nothing. */
static void test_pieces_and_reuse(void **state)
{
	struct chain c;
	struct part piece = {.slot = 2, .pos = 0, .n = 4, .tokens = prompt_a};
	int32_t want[4], got[4];
	struct act a;

	(void)state;
	open_chain(&c, 3, "cpu", false);
	generate(&c, 2, prompt_a, 10, 3, want);
	generate(&c, 2, prompt_b, 6, 3, got); /* takes the slot over */
	a = run_chain(&c, write_batch(c.buf[0], c.cap, &piece, 1));
	token_of(&a, 0);
	piece = (struct part){.slot = 2, .pos = 4, .n = 6, .tokens = prompt_a + 4};
	a = run_chain(&c, write_batch(c.buf[0], c.cap, &piece, 1));
	got[0] = token_of(&a, 0);
	assert_int_equal(got[0], want[0]);
	generate(&c, 2, prompt_a, 10, 3, got);
	assert_memory_equal(got, want, sizeof(want));
	close_chain(&c);
}

/* Each stage adds its line to the hop table, in order. */
static void test_hops(void **state)
{
	struct part p = {.slot = 0, .pos = 0, .n = 10, .tokens = prompt_a};
	struct stage_core_stats stats;
	struct chain c;
	struct act_hop hop;
	struct act a;
	uint32_t i;

	(void)state;
	open_chain(&c, 3, "cpu", false);
	a = run_chain(&c, write_batch(c.buf[0], c.cap, &p, 1));
	assert_int_equal(a.n_hops, 3);
	assert_int_equal(a.batch_id, 5);
	assert_int_equal(a.block_next, stage_core_hparams(c.cores[0])->n_layers);
	for (i = 0; i < 3; i++) {
		act_hop_get(&a, i, &hop);
		assert_true(hop.proc == i && hop.clock_id == act_clock_id() && hop.rx_ns == 1);
		assert_true(hop.start_ns > 0 && hop.end_ns >= hop.start_ns && hop.tx_ns == 0);
		stage_core_stats(c.cores[i], &stats);
		assert_true(stats.batches == 1 && stats.rows == 10 && stats.errors == 0 &&
			    stats.compute_ns > 0);
	}
	close_chain(&c);
}

/* What a bad batch comes to: an error that names the stage, whose text has `part` in it. */
static void expect_error(struct chain *c, size_t len, const char *part)
{
	struct act a = run_chain(c, len);
	char text[1200];

	assert_int_equal(a.kind, ACT_ERROR);
	assert_int_equal(a.dtype, ACT_BYTES);
	assert_true(a.width > 0 && a.width < sizeof(text));
	memcpy(text, a.payload, a.width);
	text[a.width] = '\0';
	if (strncmp(text, "stage 0: ", 9) != 0 || strstr(text, part) == NULL)
		fail_msg("expected an error of stage 0 about \"%s\", found \"%s\"", part, text);
}

static void test_refuses_bad_batches(void **state)
{
	static const int32_t big_token[] = {1, 1536}, negative[] = {1, -1};
	static const int32_t zeros[MAX_TOKENS + 1];
	const struct {
		const char *part;
		struct part parts[2];
		uint32_t n;
	} cases[] = {
	    {"slot 4", {{.slot = N_SLOTS, .n = 2, .tokens = prompt_a}}, 1},
	    {"starts at position 1", {{.slot = 0, .pos = 1, .n = 2, .tokens = prompt_a}}, 1},
	    {"positions 4294967295", {{.slot = 0, .pos = UINT32_MAX, .n = 2, .tokens = prompt_a}}, 1},
	    {"rows", {{.slot = 0, .n = MAX_TOKENS + 1, .tokens = zeros}}, 1},
	    {"token 1536", {{.slot = 0, .n = 2, .tokens = big_token}}, 1},
	    {"token -1", {{.slot = 0, .n = 2, .tokens = negative}}, 1},
	    {"twice", {{.slot = 1, .n = 2, .tokens = prompt_a}, {.slot = 1, .n = 2, .tokens = prompt_b}}, 2},
	    {"positions",
	     {{.slot = 1, .n = 2, .tokens = prompt_a}, {.slot = 2, .n = 0, .tokens = prompt_b}},
	     2},
	};
	struct stage_core_stats stats;
	struct chain c;
	uint8_t *big;
	size_t i, len;
	int32_t out[4];

	(void)state;
	open_chain(&c, 2, "cpu", false);
	big = aligned_alloc(64, 1u << 20); /* a batch may be larger than this stage's messages */
	assert_non_null(big);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		len = write_batch(big, 1u << 20, cases[i].parts, cases[i].n);
		assert_true(len <= c.cap);
		memcpy(c.buf[0], big, len);
		expect_error(&c, len, cases[i].part);
	}
	stage_core_stats(c.cores[0], &stats);
	assert_true(stats.errors == i && stats.batches == 0);
	free(big);
	/* And the stage works as if nothing had been. */
	generate(&c, 0, prompt_a, 10, 3, out);
	close_chain(&c);
}

/* What a model of one pass that gives next tokens cannot give. */
static void test_refuses_other_passes(void **state)
{
	static const struct {
		const char *part;
		enum act_pass pass;
		uint16_t flags;
	} cases[] = {
	    {"an encode pass", ACT_PASS_ENCODE, 0},
	    {"masked-language-model head", ACT_PASS_FILL, ACT_SEQ_FILL},
	    {"embeddings are asked for", ACT_PASS_MAIN, ACT_SEQ_EMBED},
	    {"embeddings are asked for", ACT_PASS_MAIN, ACT_SEQ_ROWS},
	    {"send a fill pass", ACT_PASS_MAIN, ACT_SEQ_FILL},
	    {"embeddings are asked for", ACT_PASS_MAIN, ACT_SEQ_SAMPLE | ACT_SEQ_EMBED},
	};
	const struct part p = {.slot = 0, .pos = 0, .n = 10, .tokens = prompt_a};
	struct chain c;
	size_t i, len;

	(void)state;
	open_chain(&c, 2, "cpu", false);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		len = write_batch(c.buf[0], c.cap, &p, 1);
		c.buf[0][7] = (uint8_t)cases[i].pass;
		ps_store16(c.buf[0] + 64 + 6, cases[i].flags);
		expect_error(&c, len, cases[i].part);
	}
	close_chain(&c);
}

/* Messages for another stage, and bytes that are no message. */
static void test_refuses_other_messages(void **state)
{
	struct part p = {.slot = 0, .pos = 0, .n = 3, .tokens = prompt_a};
	struct chain c;
	uint8_t *hop_tx;
	size_t len, out_len;

	(void)state;
	open_chain(&c, 2, "cpu", false);
	len = write_batch(c.buf[0], c.cap, &p, 1);
	expect_error(&c, 0, "shorter");
	write_batch(c.buf[0], c.cap, &p, 1);
	expect_error(&c, len - 1, "bytes");
	write_batch(c.buf[0], c.cap, &p, 1);
	ps_store32(c.buf[0] + 28, 2); /* block_next */
	expect_error(&c, len, "block 2");
	/* The second stage's input at the first stage. */
	write_batch(c.buf[0], c.cap, &p, 1);
	stage_core_run(c.cores[0], c.buf[0], len, 1, c.buf[1], &out_len, &hop_tx);
	memcpy(c.buf[0], c.buf[1], out_len);
	expect_error(&c, out_len, "kind 2");
	close_chain(&c);
}

/* An error of an earlier stage goes on unchanged. */
static void test_passes_errors_on(void **state)
{
	struct part p = {.slot = 9, .pos = 0, .n = 3, .tokens = prompt_a};
	uint8_t *hop_tx = (uint8_t *)1;
	struct chain c;
	size_t len, out_len = 0, again = 0;

	(void)state;
	open_chain(&c, 2, "cpu", false);
	len = write_batch(c.buf[0], c.cap, &p, 1);
	stage_core_run(c.cores[0], c.buf[0], len, 1, c.buf[1], &out_len, &hop_tx);
	stage_core_run(c.cores[1], c.buf[1], out_len, 2, c.buf[0], &again, &hop_tx);
	assert_int_equal(again, out_len);
	assert_memory_equal(c.buf[0], c.buf[1], out_len);
	close_chain(&c);
}

/* The smallest messages there are, with as much of the batch's table in them as fits, still hold an error. */
static void test_error_fits_small_messages(void **state)
{
	const struct stage_core_cfg cfg = {
	    .gguf = model,
	    .block_first = 0,
	    .block_last = 1,
	    .device = "cpu",
	    .n_threads = 1,
	    .n_slots = 1,
	    .n_ctx = 1,
	    .max_tokens = 1,
	};
	struct act a = {.kind = ACT_TOKENS, .n_rows = 1, .n_seqs = ACT_MAX_SEQS, .n_hops = ACT_MAX_HOPS};
	struct stage_core *core;
	struct ps_err err = {{0}};
	struct act_seq seq = {.n_tokens = 1, .slot = 60000};
	uint8_t *in, *out, *hop_tx;
	size_t len = 0, cap;
	uint32_t i;

	(void)state;
	assert_int_equal(stage_core_open(&cfg, &core, &err), 0);
	cap = stage_core_max_bytes(core);
	in = calloc(1, cap);
	out = calloc(1, cap);
	assert_int_equal(act_begin(&a, in, cap), 0);
	for (i = 0; i < ACT_MAX_SEQS; i++, seq.n_tokens = 0)
		act_seq_put(&a, i, &seq);
	stage_core_run(core, in, a.len, 1, out, &len, &hop_tx);
	assert_int_equal(act_parse(out, len, &a, &err), 0);
	assert_int_equal(a.kind, ACT_ERROR);
	stage_core_close(core);
	free(in);
	free(out);
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Batches with bytes changed at random, into either stage: an answer or an error, never a crash. */
static void test_hostile_batches(void **state)
{
	struct part p = {.slot = 0, .pos = 0, .n = 3, .tokens = prompt_a};
	uint32_t round, errors = 0, n;
	uint64_t seed = 424242;
	struct chain c;
	uint8_t *good[2], *hop_tx;
	size_t lens[2];

	(void)state;
	open_chain(&c, 2, "cpu", false);
	lens[0] = write_batch(c.buf[0], c.cap, &p, 1);
	good[0] = malloc(lens[0]);
	memcpy(good[0], c.buf[0], lens[0]);
	stage_core_run(c.cores[0], c.buf[0], lens[0], 1, c.buf[1], &lens[1], &hop_tx);
	good[1] = malloc(lens[1]);
	memcpy(good[1], c.buf[1], lens[1]);
	for (round = 0; round < 3000; round++) {
		uint32_t which = round & 1;
		size_t len = lens[which], out_len = 0;
		struct ps_err err;
		struct act a;

		memcpy(c.buf[0], good[which], len);
		for (n = 1 + (uint32_t)(next_random(&seed) % 3); n > 0; n--) {
			uint64_t r = next_random(&seed);
			size_t at = (size_t)(r >> 8) % ((r & 7) != 0 ? 192 : len);

			c.buf[0][at] = (r & 8) != 0 ? (uint8_t)(c.buf[0][at] ^ (1u << ((r >> 4) & 7)))
						    : (uint8_t)(r >> 40);
		}
		if (next_random(&seed) % 8 == 0)
			len = (size_t)(next_random(&seed) % len);
		stage_core_run(c.cores[which], c.buf[0], len, 1, c.buf[1], &out_len, &hop_tx);
		if (act_parse(c.buf[1], out_len, &a, &err) != 0)
			fail_msg("round %u: the answer is torn: %s", round, err.msg);
		errors += a.kind == ACT_ERROR;
	}
	assert_true(errors > 500 && errors < 2900);
	free(good[0]);
	free(good[1]);
	close_chain(&c);
}

static void test_refuses_bad_configurations(void **state)
{
	const struct stage_core_cfg good = {
	    .gguf = model,
	    .block_first = 0,
	    .block_last = 2,
	    .device = "cpu",
	    .n_threads = 1,
	    .n_slots = 1,
	    .n_ctx = 8,
	    .max_tokens = 4,
	};
	struct stage_core_cfg cfg;
	struct stage_core *core = NULL;
	struct ps_err err = {{0}};
	uint32_t i;

	(void)state;
	for (i = 0; i < 8; i++) {
		cfg = good;
		cfg.act_dtype = i == 7 ? ACT_N_DTYPES : cfg.act_dtype;
		cfg.device = i == 0 ? "no-such" : cfg.device;
		cfg.block_last = i == 1 ? 99 : cfg.block_last;
		cfg.block_first = i == 2 ? 2 : cfg.block_first;
		cfg.n_slots = i == 3 ? 0 : cfg.n_slots;
		cfg.n_ctx = i == 4 ? 0 : cfg.n_ctx;
		cfg.max_tokens = i == 5 ? 0 : i == 6 ? UINT32_MAX : cfg.max_tokens;
		err.msg[0] = '\0';
		assert_true(stage_core_open(&cfg, &core, &err) < 0);
		assert_true(err.msg[0] != '\0');
		assert_null(core);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_any_cut_is_bit_identical),
	    cmocka_unit_test(test_element_types_on_the_wire),
	    cmocka_unit_test(test_mixed_element_types),
	    cmocka_unit_test(test_too_large_for_the_wire),
	    cmocka_unit_test(test_interleaved_sequences),
	    cmocka_unit_test(test_pieces_and_reuse),
	    cmocka_unit_test(test_hops),
	    cmocka_unit_test(test_refuses_bad_batches),
	    cmocka_unit_test(test_refuses_other_passes),
	    cmocka_unit_test(test_refuses_other_messages),
	    cmocka_unit_test(test_passes_errors_on),
	    cmocka_unit_test(test_error_fits_small_messages),
	    cmocka_unit_test(test_hostile_batches),
	    cmocka_unit_test(test_refuses_bad_configurations),
	};

	return cmocka_run_group_tests_name("stage-core", tests, open_model, close_model);
}
