/* SPDX-License-Identifier: BSD-3-Clause */
/* The core with the models that have more than one pass or no next token: the T5 and BERT that ship. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "stage/core.h"
#include "stage/values.h"

#define N_CTX      64u
#define MAX_TOKENS 48u
#define N_SLOTS    4u
#define MAX_CORES  4u
#define MAX_PARTS  3u
#define MASK       4 /* the mask token of the demo BERT */

static struct gguf *t5, *bert;

struct chain {
	struct stage_core *cores[MAX_CORES];
	uint32_t n, n_layers_enc;
	uint8_t *buf[2];
	size_t cap;
};

/* A sequence of a batch. */
struct part {
	uint16_t slot, flags;
	uint32_t pos, n;
	const int32_t *tokens; /* [n] */
};

static const int32_t text_a[] = {46, 36, 3, 90, 59, 265, 35, 152, 85, 375, 101, 59, 36, 4, 38, 125, 1};
static const int32_t text_b[] = {36, 90, 3, 152, 1};
static const int32_t masked[] = {2, 104, 102, MASK, 211, 146, 476, 3};
static const int32_t plain[] = {2, 104, 211, 146, 3};
static const int32_t twice[] = {2, MASK, 102, MASK, 3};
#define LEN(a) ((uint32_t)(sizeof(a) / sizeof((a)[0])))

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
	t5 = open_file("demo-t5-f16.gguf");
	bert = open_file("demo-bert-f16.gguf");
	return t5 != NULL && bert != NULL ? 0 : -1;
}

static int close_models(void **state)
{
	(void)state;
	gguf_close(t5);
	gguf_close(bert);
	return 0;
}

/* Stage i sends wire[i], all float32 if that is NULL. Both models have 4 blocks. */
static void open_chain(struct chain *c, const struct gguf *g, uint32_t n, const enum act_dtype *wire)
{
	uint32_t cuts[MAX_CORES + 1], i;
	struct ps_err err = {{0}};

	memset(c, 0, sizeof(*c));
	c->n = n;
	assert_int_equal(model_split_even(g, n, cuts, &err), 0);
	for (i = 0; i < n; i++) {
		const struct stage_core_cfg cfg = {
		    .gguf = g,
		    .stage = i,
		    .block_first = cuts[i],
		    .block_last = cuts[i + 1],
		    .device = "cpu",
		    .n_threads = 1,
		    .n_slots = N_SLOTS,
		    .n_ctx = N_CTX,
		    .max_tokens = MAX_TOKENS,
		    .act_dtype = wire != NULL ? wire[i] : ACT_F32,
		};

		if (stage_core_open(&cfg, &c->cores[i], &err) != 0)
			fail_msg("%s", err.msg);
	}
	c->n_layers_enc = stage_core_hparams(c->cores[0])->n_layers_enc;
	c->cap = (stage_core_max_bytes(c->cores[0]) + 63) & ~(size_t)63;
	for (i = 0; i < 2; i++)
		assert_non_null(c->buf[i] = aligned_alloc(64, c->cap));
}

static void close_chain(struct chain *c)
{
	uint32_t i;

	for (i = 0; i < c->n; i++)
		stage_core_close(c->cores[i]);
	free(c->buf[0]);
	free(c->buf[1]);
}

/* A batch as the gateway would send it, in buf[0]. */
static size_t write_batch(struct chain *c, enum act_pass pass, const struct part *parts, uint32_t n)
{
	struct act a = {
	    .kind = ACT_TOKENS,
	    .pass = pass,
	    .dtype = ACT_F32,
	    .batch_id = 5,
	    .n_seqs = n,
	    .block_next = pass == ACT_PASS_MAIN ? c->n_layers_enc : 0,
	};
	uint32_t i, row = 0;

	for (i = 0; i < n; i++)
		a.n_rows += parts[i].n;
	assert_int_equal(act_begin(&a, c->buf[0], c->cap), 0);
	for (i = 0; i < n; i++) {
		const struct act_seq seq = {.seq_id = 40u + i,
					    .slot = parts[i].slot,
					    .flags = parts[i].flags,
					    .pos = parts[i].pos,
					    .n_tokens = parts[i].n,
					    .top_p = 1.0f,
					    .repeat_penalty = 1.0f};

		act_seq_put(&a, i, &seq);
		memcpy(a.tokens + (size_t)4 * row, parts[i].tokens, (size_t)4 * parts[i].n);
		row += parts[i].n;
	}
	return a.len;
}

static struct act run_len(struct chain *c, size_t len)
{
	struct ps_err err;
	struct act a;
	uint8_t *hop_tx = NULL;
	uint32_t i;

	for (i = 0; i < c->n; i++)
		stage_core_run(c->cores[i], c->buf[i & 1], len, 1, c->buf[(i + 1) & 1], &len, &hop_tx);
	if (act_parse(c->buf[c->n & 1], len, &a, &err) != 0)
		fail_msg("the last stage's message: %s", err.msg);
	return a;
}

/* The answer must be of that kind, name the batch's pass and have a line of each stage. */
static struct act run(struct chain *c, enum act_pass pass, const struct part *parts, uint32_t n,
		      enum act_kind want)
{
	struct act a = run_len(c, write_batch(c, pass, parts, n));

	if (a.kind == ACT_ERROR)
		fail_msg("%.*s", (int)a.width, (const char *)a.payload);
	assert_int_equal(a.kind, want);
	assert_int_equal(a.pass, pass);
	assert_int_equal(a.n_seqs, n);
	assert_int_equal(a.n_hops, c->n);
	return a;
}

static int32_t token_of(const struct act *a, uint32_t i)
{
	struct act_seq seq;

	act_seq_get(a, i, &seq);
	assert_int_equal(seq.n_tokens, 0);
	return seq.token;
}

static void encode(struct chain *c, uint16_t slot, const int32_t *tokens, uint32_t n)
{
	const struct part p = {.slot = slot, .n = n, .tokens = tokens};
	struct act a = run(c, ACT_PASS_ENCODE, &p, 1, ACT_SAMPLED);

	assert_int_equal(token_of(&a, 0), -1);
}

static void decode(struct chain *c, uint16_t slot, uint32_t pos, uint32_t n, int32_t *tokens /* [n + 1] */)
{
	uint32_t i;

	for (i = 0; i < n; i++) {
		const struct part p = {
		    .slot = slot, .flags = ACT_SEQ_SAMPLE, .pos = pos + i, .n = 1, .tokens = &tokens[i]};
		struct act a = run(c, ACT_PASS_MAIN, &p, 1, ACT_SAMPLED);

		tokens[i + 1] = token_of(&a, 0);
		assert_true(tokens[i + 1] >= 0);
	}
}

/* What the model's makers' implementation gives for text_a. */
static const int32_t want_a[] = {0, 3, 36, 4, 36, 5, 1, 6, 1, 7, 1, 8, 1};

static void test_t5_in_any_cut(void **state)
{
	struct chain c;
	int32_t got[LEN(want_a)];
	uint32_t n;

	(void)state;
	for (n = 1; n <= MAX_CORES; n++) {
		open_chain(&c, t5, n, NULL);
		encode(&c, 2, text_a, LEN(text_a));
		got[0] = 0;
		decode(&c, 2, 0, LEN(want_a) - 1, got);
		assert_memory_equal(got, want_a, sizeof(want_a));
		close_chain(&c);
	}
}

/* Two sequences that are encoded and decoded in shared batches give what each gives alone. */
static void test_t5_sequences_share_batches(void **state)
{
	struct part parts[2] = {{.slot = 0, .n = LEN(text_b), .tokens = text_b},
				{.slot = 3, .n = LEN(text_a), .tokens = text_a}};
	int32_t alone[10] = {0}, got[2][10] = {{0}};
	struct chain c;
	uint32_t i, k;

	(void)state;
	open_chain(&c, t5, 3, NULL);
	encode(&c, 1, text_b, LEN(text_b));
	decode(&c, 1, 0, 9, alone);
	run(&c, ACT_PASS_ENCODE, parts, 2, ACT_SAMPLED);
	for (i = 0; i < 9; i++) {
		struct act a;

		for (k = 0; k < 2; k++)
			parts[k] = (struct part){.slot = (uint16_t)(3 * k),
						 .flags = ACT_SEQ_SAMPLE,
						 .pos = i,
						 .n = 1,
						 .tokens = &got[k][i]};
		a = run(&c, ACT_PASS_MAIN, parts, 2, ACT_SAMPLED);
		for (k = 0; k < 2; k++)
			got[k][i + 1] = token_of(&a, k);
	}
	assert_memory_equal(got[0], alone, sizeof(alone));
	assert_memory_equal(got[1], want_a, sizeof(got[1]));
	close_chain(&c);
}

/* A second encode pass leaves the decoder's cache alone; a main batch at 0 starts it afresh. */
static void test_t5_encode_and_the_decoder(void **state)
{
	int32_t got[LEN(want_a)] = {0};
	struct chain c;

	(void)state;
	open_chain(&c, t5, 2, NULL);
	encode(&c, 0, text_a, LEN(text_a));
	decode(&c, 0, 0, 5, got);
	encode(&c, 0, text_a, LEN(text_a));
	decode(&c, 0, 5, LEN(want_a) - 1 - 5, got + 5);
	assert_memory_equal(got, want_a, sizeof(want_a));
	encode(&c, 0, text_b, LEN(text_b));
	encode(&c, 0, text_a, LEN(text_a));
	memset(got, 0, sizeof(got));
	decode(&c, 0, 0, LEN(want_a) - 1, got);
	assert_memory_equal(got, want_a, sizeof(want_a));
	close_chain(&c);
}

/* The encoder's output is rounded once: decoder stages pass it on byte for byte, in the type that it came in,
 * whatever they themselves send. */
static void test_t5_encoder_output_travels_unchanged(void **state)
{
	static const enum act_dtype wire[] = {ACT_F32, ACT_Q8, ACT_F32, ACT_BF16};
	const struct part p = {.slot = 1, .n = LEN(text_a), .tokens = text_a};
	uint8_t *hop_tx, *after_encoder;
	struct ps_err err;
	struct act first, second;
	struct chain c;
	size_t len;

	(void)state;
	open_chain(&c, t5, 4, wire); /* blocks 0 and 1 are the encoder */
	assert_int_equal(c.n_layers_enc, 2);
	after_encoder = aligned_alloc(64, c.cap);
	assert_non_null(after_encoder);
	len = write_batch(&c, ACT_PASS_ENCODE, &p, 1);
	stage_core_run(c.cores[0], c.buf[0], len, 1, c.buf[1], &len, &hop_tx);
	stage_core_run(c.cores[1], c.buf[1], len, 1, after_encoder, &len, &hop_tx);
	assert_int_equal(act_parse(after_encoder, len, &first, &err), 0);
	stage_core_run(c.cores[2], after_encoder, len, 1, c.buf[1], &len, &hop_tx);
	assert_int_equal(act_parse(c.buf[1], len, &second, &err), 0);
	assert_true(first.kind == ACT_HIDDEN && first.dtype == ACT_Q8 && first.block_next == 2);
	assert_true(second.kind == ACT_HIDDEN && second.dtype == ACT_Q8 && second.block_next == 3);
	assert_memory_equal(first.payload, second.payload, first.n_rows * act_row_bytes(ACT_Q8, first.width));
	assert_memory_equal(first.tokens, second.tokens, first.n_rows * 4);
	free(after_encoder);
	close_chain(&c);
}

/* A stage of encoder blocks only hands a main batch on as it is, but for its line. */
static void test_t5_encoder_stage_passes_main_on(void **state)
{
	static const int32_t start[] = {0, 3};
	const struct part p = {.slot = 1, .flags = ACT_SEQ_SAMPLE, .n = 2, .tokens = start};
	uint8_t *hop_tx = NULL;
	struct ps_err err;
	struct act in, out;
	struct act_seq a, b;
	struct chain c;
	size_t len;

	(void)state;
	open_chain(&c, t5, 4, NULL);
	len = write_batch(&c, ACT_PASS_MAIN, &p, 1);
	assert_int_equal(act_parse(c.buf[0], len, &in, &err), 0);
	stage_core_run(c.cores[0], c.buf[0], len, 1, c.buf[1], &len, &hop_tx);
	assert_int_equal(act_parse(c.buf[1], len, &out, &err), 0);
	assert_true(out.kind == ACT_TOKENS && out.n_rows == 2 && out.n_hops == 1 && out.width == 0 &&
		    out.block_next == 2 && out.batch_id == in.batch_id && hop_tx == act_hop_tx_ns(&out, 0));
	act_seq_get(&in, 0, &a);
	act_seq_get(&out, 0, &b);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_memory_equal(in.tokens, out.tokens, 8);
	close_chain(&c);
}

static int32_t position_of(const struct act *a, uint32_t row)
{
	return (int32_t)ps_load32(a->tokens + (size_t)row * 4);
}

/* Rows and pooled rows of a batch's sequences, of either model, in any cut: the same bits as one alone. */
static void check_embeddings(const struct gguf *g, enum act_pass pass, const int32_t *tokens,
			     uint32_t n_tokens, const int32_t *others, uint32_t n_others)
{
	const struct part alone = {
	    .slot = 1, .flags = ACT_SEQ_EMBED | ACT_SEQ_ROWS, .n = n_tokens, .tokens = tokens};
	const struct part parts[MAX_PARTS] = {
	    {.slot = 2, .flags = ACT_SEQ_EMBED, .n = n_tokens, .tokens = tokens},
	    {.slot = 0, .n = n_others, .tokens = others},
	    {.slot = 3, .flags = ACT_SEQ_EMBED | ACT_SEQ_ROWS, .n = n_tokens, .tokens = tokens}};
	float rows[MAX_TOKENS * 128], pooled[128]; /* [n_tokens, n_embd] */
	struct chain c;
	struct act a;
	struct act_seq seq;
	uint32_t n, i;

	for (n = 1; n <= MAX_CORES; n++) {
		open_chain(&c, g, n, NULL);
		a = run(&c, pass, &alone, 1, ACT_VALUES);
		assert_true(a.n_rows == n_tokens && a.width == 128);
		if (n == 1)
			memcpy(rows, a.payload, n_tokens * 128 * sizeof(float));
		assert_memory_equal(rows, a.payload, n_tokens * 128 * sizeof(float));
		for (i = 0; i < n_tokens; i++)
			assert_int_equal(position_of(&a, i), i);
		a = run(&c, pass, parts, MAX_PARTS, ACT_VALUES);
		assert_int_equal(a.n_rows, 1 + n_tokens);
		for (i = 0; i < MAX_PARTS; i++) {
			act_seq_get(&a, i, &seq);
			assert_int_equal(seq.n_tokens, i == 0 ? 1 : i == 1 ? 0 : n_tokens);
			assert_true(seq.seq_id == 40 + i && seq.token == -1);
		}
		stage_pool(MODEL_POOL_MEAN, rows, n_tokens, 128, pooled); /* neither model asks for another */
		assert_memory_equal(a.payload, pooled, sizeof(pooled));
		assert_memory_equal(a.payload + sizeof(pooled), rows, n_tokens * 128 * sizeof(float));
		assert_true(position_of(&a, 0) == 0 && position_of(&a, 1) == 0 && position_of(&a, 2) == 1);
		close_chain(&c);
	}
}

static void test_embeddings(void **state)
{
	(void)state;
	check_embeddings(bert, ACT_PASS_MAIN, masked, LEN(masked), plain, LEN(plain));
	check_embeddings(t5, ACT_PASS_ENCODE, text_a, LEN(text_a), text_b, LEN(text_b));
}

/* Nothing asked for: no rows, and no token. */
static void test_bert_nothing_asked(void **state)
{
	const struct part p = {.slot = 1, .n = LEN(plain), .tokens = plain};
	struct chain c;
	struct act a;

	(void)state;
	open_chain(&c, bert, 2, NULL);
	a = run(&c, ACT_PASS_MAIN, &p, 1, ACT_VALUES);
	assert_true(a.n_rows == 0 && a.width == 128 && token_of(&a, 0) == -1);
	close_chain(&c);
}

/* A row a masked place, with the position that it is about; sequences without one have none. */
static void test_bert_fill(void **state)
{
	const struct part parts[MAX_PARTS] = {
	    {.slot = 0, .flags = ACT_SEQ_FILL, .n = LEN(masked), .tokens = masked},
	    {.slot = 1, .flags = ACT_SEQ_FILL, .n = LEN(plain), .tokens = plain},
	    {.slot = 2, .flags = ACT_SEQ_FILL, .n = LEN(twice), .tokens = twice}};
	static const uint32_t rows_of[MAX_PARTS] = {1, 0, 2};
	struct act_seq seq;
	struct chain c;
	struct act a;
	float best[2 * ACT_FILL_BEST], sum;
	uint32_t n, i, k;

	(void)state;
	for (n = 1; n <= MAX_CORES; n++) {
		open_chain(&c, bert, n, NULL);
		a = run(&c, ACT_PASS_FILL, parts, MAX_PARTS, ACT_VALUES);
		assert_true(a.n_rows == 3 && a.width == 2 * ACT_FILL_BEST);
		for (i = 0; i < MAX_PARTS; i++) {
			act_seq_get(&a, i, &seq);
			assert_int_equal(seq.n_tokens, rows_of[i]);
		}
		assert_true(position_of(&a, 0) == 3 && position_of(&a, 1) == 1 && position_of(&a, 2) == 3);
		for (i = 0; i < 3; i++) {
			memcpy(best, a.payload + i * sizeof(best), sizeof(best));
			for (k = 0, sum = 0; k < ACT_FILL_BEST; sum += best[2 * k + 1], k++)
				assert_true(k == 0 || best[2 * k + 1] <= best[2 * k - 1]);
			assert_true(best[1] > 0 && sum <= 1);
		}
		/* "lord", as the model's makers' implementation gives it. */
		memcpy(best, a.payload, sizeof(best));
		assert_true(best[0] == 154 && best[1] > 0.6639f && best[1] < 0.6641f && best[2] == 228);
		close_chain(&c);
	}
}

static void expect_error(struct chain *c, size_t len, const char *part)
{
	struct act a = run_len(c, len);

	if (a.kind != ACT_ERROR || memmem(a.payload, a.width, part, strlen(part)) == NULL)
		fail_msg("expected an error about \"%s\", found kind %u: %.*s", part, a.kind, (int)a.width,
			 a.kind == ACT_ERROR ? (const char *)a.payload : "");
}

static void test_refuses(void **state)
{
	static const struct {
		const char *part;
		bool bert;
		enum act_pass pass;
		uint16_t flags;
		uint32_t pos;
	} cases[] = {
	    {"no encoder before a decoder", true, ACT_PASS_ENCODE, 0, 0},
	    {"ask for embeddings", true, ACT_PASS_MAIN, ACT_SEQ_SAMPLE, 0},
	    {"has to come whole", true, ACT_PASS_MAIN, ACT_SEQ_EMBED, 2},
	    {"has to come whole", true, ACT_PASS_FILL, ACT_SEQ_FILL, 2},
	    {"tokens in a fill pass", true, ACT_PASS_FILL, ACT_SEQ_EMBED, 0},
	    {"send a fill pass", true, ACT_PASS_MAIN, ACT_SEQ_FILL, 0},
	    {"no embeddings", true, ACT_PASS_MAIN, ACT_SEQ_ROWS, 0},
	    {"ask the main pass", false, ACT_PASS_ENCODE, ACT_SEQ_SAMPLE, 0},
	    {"has to come whole", false, ACT_PASS_ENCODE, 0, 2},
	    {"masked-language-model head", false, ACT_PASS_FILL, 0, 0},
	    {"in an encode pass", false, ACT_PASS_MAIN, ACT_SEQ_EMBED, 0},
	    {"nothing was encoded for slot 1", false, ACT_PASS_MAIN, ACT_SEQ_SAMPLE, 0},
	    {"positions 60 to 65", true, ACT_PASS_MAIN, 0, 60},
	};
	struct chain c[2];
	size_t i, len;

	(void)state;
	open_chain(&c[0], t5, 2, NULL);
	open_chain(&c[1], bert, 2, NULL);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct part p = {
		    .slot = 1, .flags = cases[i].flags, .pos = cases[i].pos, .n = 5, .tokens = plain};

		len = write_batch(&c[cases[i].bert], cases[i].pass, &p, 1);
		expect_error(&c[cases[i].bert], len, cases[i].part);
	}
	/* A main batch for block 0, where the encoder is. */
	encode(&c[0], 1, text_a, LEN(text_a));
	len = write_batch(&c[0], ACT_PASS_MAIN, &(struct part){.slot = 1, .n = 5, .tokens = plain}, 1);
	ps_store32(c[0].buf[0] + 28, 0);
	expect_error(&c[0], len, "batch is for block 0");
	close_chain(&c[0]);
	close_chain(&c[1]);
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Batches of each pass with bytes changed at random, through all stages from any one on: an answer or an
 * error, never a crash. */
static void check_hostile(const struct gguf *g, enum act_pass pass, uint16_t flags)
{
	const struct part p = {.slot = 1, .flags = flags, .n = LEN(masked), .tokens = masked};
	uint8_t *good[3], *hop_tx;
	size_t lens[3], len;
	uint64_t seed = 31337 + pass;
	uint32_t i, n, round, errors = 0;
	struct chain c;
	struct ps_err err;
	struct act a;

	open_chain(&c, g, 3, NULL);
	if (c.n_layers_enc > 0)
		encode(&c, 1, text_a, LEN(text_a));
	len = write_batch(&c, pass, &p, 1);
	for (i = 0; i < 3; i++) {
		lens[i] = len;
		good[i] = malloc(len);
		assert_non_null(good[i]);
		memcpy(good[i], c.buf[i & 1], len);
		stage_core_run(c.cores[i], c.buf[i & 1], len, 1, c.buf[(i + 1) & 1], &len, &hop_tx);
	}
	for (round = 0; round < 1500; round++) {
		i = round % 3;
		len = lens[i];
		memcpy(c.buf[0], good[i], len);
		for (n = 1 + (uint32_t)(next_random(&seed) % 3); n > 0; n--) {
			uint64_t r = next_random(&seed);
			size_t at = (size_t)(r >> 8) % ((r & 7) != 0 ? 176 : len);

			c.buf[0][at] = (r & 8) != 0 ? (uint8_t)(c.buf[0][at] ^ (1u << ((r >> 4) & 7)))
						    : (uint8_t)(r >> 40);
		}
		stage_core_run(c.cores[i], c.buf[0], len, 1, c.buf[1], &len, &hop_tx);
		if (act_parse(c.buf[1], len, &a, &err) != 0)
			fail_msg("round %u: the answer is torn: %s", round, err.msg);
		errors += a.kind == ACT_ERROR;
	}
	assert_true(errors > 300 && errors < 1480);
	for (i = 0; i < 3; i++)
		free(good[i]);
	close_chain(&c);
}

static void test_hostile_batches(void **state)
{
	(void)state;
	check_hostile(bert, ACT_PASS_MAIN, ACT_SEQ_EMBED);
	check_hostile(bert, ACT_PASS_FILL, ACT_SEQ_FILL);
	check_hostile(t5, ACT_PASS_ENCODE, ACT_SEQ_EMBED | ACT_SEQ_ROWS);
	check_hostile(t5, ACT_PASS_MAIN, ACT_SEQ_SAMPLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_t5_in_any_cut),
	    cmocka_unit_test(test_t5_sequences_share_batches),
	    cmocka_unit_test(test_t5_encode_and_the_decoder),
	    cmocka_unit_test(test_t5_encoder_output_travels_unchanged),
	    cmocka_unit_test(test_t5_encoder_stage_passes_main_on),
	    cmocka_unit_test(test_embeddings),
	    cmocka_unit_test(test_bert_nothing_asked),
	    cmocka_unit_test(test_bert_fill),
	    cmocka_unit_test(test_refuses),
	    cmocka_unit_test(test_hostile_batches),
	};

	return cmocka_run_group_tests_name("stage-passes", tests, open_models, close_models);
}
