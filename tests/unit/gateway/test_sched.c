/* SPDX-License-Identifier: BSD-3-Clause */
/* The scheduler against a pipeline that answers every batch with a token that is a function of
 * sequence and position, in an order and at a pace that the test chooses. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "gateway/sched.h"

#define N_VOCAB   1000u
#define MAX_UNDER 8u
#define N_EMBD    3u
#define MASK      7

struct client {
	int32_t tokens[512];
	uint32_t n, stop_at; /* stop_at: the sink says "end" for the token with this index */
	bool done;
	enum gw_reason reason;
	char error[256];
	uint32_t n_timed;
	uint64_t ttft_ns, token_p50_ns, parts_sum_ns, token_sum_ns;
	uint32_t n_rows, width;
	int32_t positions[64];
	float rows[64][2 * ACT_FILL_BEST];
};

static bool on_token(void *user, int32_t id)
{
	struct client *c = user;

	assert_false(c->done);
	if (c->n == c->stop_at)
		return false;
	c->tokens[c->n++] = id;
	return true;
}

static void on_values(void *user, const struct gw_values *v)
{
	struct client *c = user;
	uint32_t i;

	assert_false(c->done);
	assert_int_equal(c->n_rows, 0);
	assert_in_range(v->n_rows, 1, 64);
	c->n_rows = v->n_rows;
	c->width = v->width;
	memcpy(c->positions, v->positions, v->n_rows * sizeof(int32_t));
	for (i = 0; i < v->n_rows; i++)
		memcpy(c->rows[i], v->rows + (size_t)i * v->width, v->width * sizeof(float));
}

static void on_done(void *user, enum gw_reason reason, const char *error, const struct gw_timing *t)
{
	struct client *c = user;
	struct gw_timing_stat stat;
	uint32_t i, part;

	assert_false(c->done);
	c->done = true;
	c->reason = reason;
	if (error != NULL)
		snprintf(c->error, sizeof(c->error), "%s", error);
	c->n_timed = t->n_tokens;
	c->ttft_ns = t->ttft_ns;
	gw_timing_token(t, &stat);
	c->token_p50_ns = stat.p50_ns;
	c->token_sum_ns = stat.sum_ns;
	for (i = 0; i < t->n_procs; i++) {
		for (part = 0; part < GW_N_PARTS; part++) {
			gw_timing_part(t, i, (enum gw_part)part, &stat);
			c->parts_sum_ns += stat.sum_ns;
		}
	}
}

static const struct gw_sink sink = {.token = on_token, .values = on_values, .done = on_done};

struct message {
	uint8_t *data;
	size_t len;
};

struct rig {
	struct gw_sched *s;
	const struct model_hparams *hp;
	struct message under[MAX_UNDER];
	uint32_t n_under, rows_max, seqs_max;
	uint32_t n_encoded[64]; /* rows of the encode pass by sequence id: none before it has come */
	uint64_t now_ns;
	bool mute;              /* answers without the values that were asked for */
	uint32_t narrow, extra; /* answers with rows of fewer elements, with more rows */
};

static const struct model_hparams llama = {
    .arch = "llama", .n_vocab = N_VOCAB, .n_embd = N_EMBD, .n_layers = 4};
static const struct model_hparams t5 = {.arch = "t5",
					.n_vocab = N_VOCAB,
					.n_embd = N_EMBD,
					.n_layers = 5,
					.n_layers_enc = 2,
					.decoder_start = 11};
static const struct model_hparams bert = {.arch = "bert",
					  .n_vocab = N_VOCAB,
					  .n_embd = N_EMBD,
					  .n_layers = 4,
					  .task = MODEL_TASK_EMBED,
					  .has_fill = true,
					  .decoder_start = -1};

static void rig_open(struct rig *r, const struct model_hparams *hp, uint32_t slots, uint32_t batch_tokens,
		     uint32_t stages)
{
	const struct gw_sched_cfg cfg = {
	    .n_slots = slots,
	    .max_waiting = 4,
	    .n_ctx = 64,
	    .max_batch_tokens = batch_tokens,
	    .max_batches = MAX_UNDER,
	    .n_stages = stages,
	    .hp = hp,
	    .mask_token = MASK,
	};

	memset(r, 0, sizeof(*r));
	r->now_ns = 1000000;
	r->hp = hp;
	assert_int_equal(gw_sched_create(&cfg, &r->s, NULL), 0);
}

static void rig_init(struct rig *r, uint32_t slots, uint32_t batch_tokens, uint32_t stages)
{
	rig_open(r, &llama, slots, batch_tokens, stages);
}

static void rig_fini(struct rig *r)
{
	uint32_t i;

	for (i = 0; i < r->n_under; i++)
		free(r->under[i].data);
	gw_sched_destroy(r->s);
}

static int submit_task(struct rig *r, struct client *c, enum gw_task task, uint32_t n_prompt,
		       uint32_t max_tokens, uint32_t *id, struct ps_err *err)
{
	int32_t prompt[128];
	struct gw_request req = {
	    .task = task,
	    .per_token = max_tokens > 0,
	    .tokens = prompt,
	    .n_tokens = n_prompt,
	    .max_tokens = max_tokens,
	    .sink = &sink,
	    .user = c,
	};
	uint32_t i, unused;

	sampler_params_default(&req.sampling);
	memset(c, 0, sizeof(*c));
	c->stop_at = UINT32_MAX;
	for (i = 0; i < n_prompt; i++)
		prompt[i] = (int32_t)i;
	return gw_sched_submit(r->s, &req, r->now_ns, id != NULL ? id : &unused, err);
}

static int submit(struct rig *r, struct client *c, uint32_t n_prompt, uint32_t max_tokens, uint32_t *id,
		  struct ps_err *err)
{
	return submit_task(r, c, GW_TASK_GENERATE, n_prompt, max_tokens, id, err);
}

/* Takes the batches that the scheduler has to give, up to `max` under way. */
static void pump_up_to(struct rig *r, uint32_t max)
{
	uint8_t *hop_tx;

	while (r->n_under < max) {
		struct message *m = &r->under[r->n_under];
		size_t cap = gw_sched_max_bytes(r->s);

		m->data = malloc(cap);
		if (!gw_sched_next(r->s, r->now_ns, m->data, cap, &m->len, &hop_tx)) {
			free(m->data);
			return;
		}
		memcpy(hop_tx, &(uint64_t){r->now_ns + 5}, 8);
		r->n_under++;
	}
}

static void pump(struct rig *r)
{
	pump_up_to(r, MAX_UNDER);
}

static int32_t expected_token(uint32_t seq_id, uint32_t pos)
{
	return (int32_t)((seq_id * 131 + pos * 7) % N_VOCAB);
}

/* Rows of results that a sequence of the batch gets. */
static uint32_t n_results(const struct rig *r, const struct act *in, const struct act_seq *seq, uint32_t row)
{
	uint32_t i, n = r->extra;

	if ((seq->flags & ACT_SEQ_ROWS) != 0)
		return seq->n_tokens + r->extra;
	if ((seq->flags & ACT_SEQ_FILL) == 0)
		return (seq->flags & ACT_SEQ_EMBED) != 0 ? 1 + r->extra : 0;
	for (i = 0; i < seq->n_tokens; i++)
		n += ps_load32(in->tokens + (size_t)4 * (row + i)) == MASK;
	return n;
}

static float expected_value(uint32_t seq_id, uint32_t row, uint32_t col)
{
	return (float)(seq_id * 1000 + row * 20 + col);
}

/* What stages insist on: the pass, its first block, whole sequences where it has to be so, and, before a
 * decoder's first row, an encoder's pass of the same sequence. */
static void check_seq(struct rig *r, const struct act *in, const struct act_seq *seq, const int32_t *first)
{
	const bool main = in->pass == ACT_PASS_MAIN && (seq->flags & ACT_SEQ_EMBED) == 0;

	assert_in_range(seq->n_tokens, 1, 64);
	assert_in_range(seq->seq_id, 1, 63);
	if (r->hp->n_layers_enc > 0)
		assert_int_equal(in->block_next, main ? r->hp->n_layers_enc : 0);
	else
		assert_int_equal(in->block_next, 0);
	if (!main) {
		assert_int_equal(seq->pos, 0);
		assert_int_equal(*first, 0); /* the prompts' first token */
	}
	if (in->pass == ACT_PASS_ENCODE) {
		assert_int_equal(r->n_encoded[seq->seq_id], 0);
		r->n_encoded[seq->seq_id] = seq->n_tokens;
	}
	if (r->hp->n_layers_enc > 0 && main) {
		assert_true(r->n_encoded[seq->seq_id] > 0);
		if (seq->pos == 0)
			assert_int_equal(*first, r->hp->decoder_start);
	}
}

/* Fills the answer's sequences and values. */
static void answer_seqs(struct rig *r, const struct act *in, struct act *out)
{
	uint32_t q, k, col, row = 0, at = 0;

	for (q = 0; q < in->n_seqs; q++) {
		struct act_seq seq;
		uint32_t n;

		act_seq_get(in, q, &seq);
		check_seq(r, in, &seq, (const int32_t *)(const void *)(in->tokens + (size_t)4 * row));
		n = n_results(r, in, &seq, row);
		for (k = 0; k < n && out->kind == ACT_VALUES; k++, at++) {
			ps_store32(out->tokens + (size_t)4 * at, k + 100);
			for (col = 0; col < out->width; col++) {
				float x = expected_value(seq.seq_id, k, col);

				memcpy(out->payload + ((size_t)at * out->width + col) * 4, &x, 4);
			}
		}
		row += seq.n_tokens;
		seq.token = (seq.flags & ACT_SEQ_SAMPLE) != 0
				? expected_token(seq.seq_id, seq.pos + seq.n_tokens)
				: -1;
		seq.pos += seq.n_tokens;
		seq.n_tokens = out->kind == ACT_VALUES ? n : 0;
		act_seq_put(out, q, &seq);
	}
}

static void shape_answer(const struct rig *r, const struct act *in, const char *error, struct act *out)
{
	uint32_t q, row = 0;

	out->pass = in->pass;
	out->batch_id = in->batch_id;
	out->n_seqs = in->n_seqs;
	out->n_hops = 2;
	for (q = 0; q < in->n_seqs && !r->mute; q++) {
		struct act_seq seq;

		act_seq_get(in, q, &seq);
		out->n_rows += n_results(r, in, &seq, row);
		row += seq.n_tokens;
	}
	if (out->n_rows > 0) {
		out->kind = ACT_VALUES;
		out->width = in->pass == ACT_PASS_FILL ? 2 * ACT_FILL_BEST : N_EMBD;
		out->width -= r->narrow;
	}
	if (error != NULL) {
		out->kind = ACT_ERROR;
		out->dtype = ACT_BYTES;
		out->n_rows = 1;
		out->width = (uint32_t)strlen(error);
	}
}

/* Answers the i-th batch under way, as a pipeline of one stage would. */
static int answer(struct rig *r, uint32_t i, const char *error)
{
	static uint8_t buf[65536] __attribute__((aligned(64)));
	struct message m = r->under[i];
	struct act in, out = {.kind = ACT_SAMPLED, .dtype = ACT_F32};
	struct act_hop hop;
	int rc;

	assert_int_equal(act_parse(m.data, m.len, &in, NULL), 0);
	assert_int_equal(in.kind, ACT_TOKENS);
	r->rows_max = in.n_rows > r->rows_max ? in.n_rows : r->rows_max;
	r->seqs_max = in.n_seqs > r->seqs_max ? in.n_seqs : r->seqs_max;
	shape_answer(r, &in, error, &out);
	assert_int_equal(act_begin(&out, buf, sizeof(buf)), 0);
	if (error != NULL)
		memcpy(out.payload, error, out.width);
	act_hop_get(&in, 0, &hop);
	act_hop_put(&out, 0, &hop);
	/* 20 ns of wire, 30 queue, 40 compute, 50 host; then 60 of wire back. */
	hop = (struct act_hop){.clock_id = hop.clock_id, .rx_ns = hop.tx_ns + 20};
	hop.start_ns = hop.rx_ns + 30;
	hop.end_ns = hop.start_ns + 40;
	hop.tx_ns = hop.end_ns + 50;
	act_hop_put(&out, 1, &hop);
	answer_seqs(r, &in, &out);
	r->now_ns = hop.tx_ns + 60;
	rc = gw_sched_result(r->s, buf, out.len, r->now_ns, r->now_ns + 3, NULL);
	r->now_ns += 10;
	free(m.data);
	memmove(&r->under[i], &r->under[i + 1], (r->n_under - i - 1) * sizeof(m));
	r->n_under--;
	return rc;
}

static void run_dry(struct rig *r, uint32_t newest_first)
{
	uint32_t guard = 0;

	for (pump(r); r->n_under > 0; pump(r)) {
		assert_int_equal(answer(r, newest_first ? r->n_under - 1 : 0, NULL), 0);
		assert_true(++guard < 10000);
	}
}

static void check_tokens(const struct client *c, uint32_t id, uint32_t n_prompt, uint32_t n)
{
	uint32_t i;

	assert_true(c->done);
	assert_int_equal(c->n, n);
	for (i = 0; i < n; i++)
		assert_int_equal(c->tokens[i], expected_token(id, n_prompt + i));
}

static void test_one_sequence(void **state)
{
	struct client c;
	struct rig r;
	uint32_t id;

	(void)state;
	rig_init(&r, 2, 16, 1);
	assert_int_equal(submit(&r, &c, 5, 10, &id, NULL), 0);
	run_dry(&r, 0);
	check_tokens(&c, id, 5, 10);
	assert_int_equal(c.reason, GW_REASON_LENGTH);
	assert_int_equal(c.n_timed, 9); /* the first is the TTFT's */
	/* What the parts of all processes add up to is the tokens' time, to the nanosecond. */
	assert_true(c.token_sum_ns > 0);
	assert_int_equal(c.parts_sum_ns, c.token_sum_ns);
	rig_fini(&r);
}

static void test_prompt_in_chunks(void **state)
{
	struct client c;
	struct rig r;
	uint32_t id;

	(void)state;
	rig_init(&r, 1, 7, 1);
	assert_int_equal(submit(&r, &c, 30, 3, &id, NULL), 0);
	run_dry(&r, 0);
	check_tokens(&c, id, 30, 3);
	assert_int_equal(r.rows_max, 7);
	rig_fini(&r);
}

static void test_stop_and_context(void **state)
{
	struct client stop, full, none;
	struct rig r;

	(void)state;
	rig_init(&r, 4, 64, 1);
	assert_int_equal(submit(&r, &stop, 3, 20, NULL, NULL), 0);
	stop.stop_at = 4;
	assert_int_equal(submit(&r, &full, 60, 1000, NULL, NULL), 0);
	assert_int_equal(submit(&r, &none, 3, 0, NULL, NULL), 0);
	run_dry(&r, 1);
	assert_true(stop.done && stop.reason == GW_REASON_STOP && stop.n == 4);
	assert_true(full.done && full.reason == GW_REASON_LENGTH && full.n == 4); /* 64 positions in all */
	assert_true(none.done && none.reason == GW_REASON_LENGTH && none.n == 0);
	rig_fini(&r);
}

/* More requests than slots, answers in both orders: everyone gets their own tokens, and with three
 * stages several batches are under way. */
static void test_many(void **state)
{
	struct client c[6];
	struct rig r;
	uint32_t id[6], i, order, most = 0;

	(void)state;
	for (order = 0; order < 2; order++) {
		rig_init(&r, 3, 16, 3);
		for (i = 0; i < 6; i++)
			assert_int_equal(submit(&r, &c[i], 3 + i, 8 + i, &id[i], NULL), 0);
		pump(&r);
		most = r.n_under;
		run_dry(&r, order);
		for (i = 0; i < 6; i++)
			check_tokens(&c[i], id[i], 3 + i, 8 + i);
		assert_int_equal(most, 3);
		rig_fini(&r);
	}
}

static void test_refusals(void **state)
{
	struct client c[8];
	struct ps_err err;
	struct rig r;
	uint32_t i;

	(void)state;
	rig_init(&r, 1, 16, 1);
	assert_int_equal(submit(&r, &c[0], 0, 1, NULL, &err), -EINVAL);
	assert_int_equal(submit(&r, &c[0], 64, 1, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "64"));
	for (i = 0; i < 5; i++)
		assert_int_equal(submit(&r, &c[i], 2, 1, NULL, &err), 0);
	assert_int_equal(submit(&r, &c[5], 2, 1, NULL, &err), -EAGAIN);
	run_dry(&r, 0);
	rig_fini(&r);
}

static void test_cancel_under_way(void **state)
{
	struct client a, b;
	struct rig r;
	uint32_t ida, idb;

	(void)state;
	rig_init(&r, 1, 16, 1);
	assert_int_equal(submit(&r, &a, 4, 50, &ida, NULL), 0);
	assert_int_equal(submit(&r, &b, 4, 5, &idb, NULL), 0);
	pump(&r);
	gw_sched_cancel(r.s, ida, r.now_ns);
	assert_true(a.done && a.reason == GW_REASON_CANCELLED);
	/* Its slot is not given to b before the batch is back: the cache still belongs to a. */
	pump(&r);
	assert_int_equal(r.n_under, 1);
	run_dry(&r, 0);
	assert_int_equal(a.n, 0);
	check_tokens(&b, idb, 4, 5);
	rig_fini(&r);
}

static void test_batch_error_ends_its_sequences(void **state)
{
	struct client a, b;
	struct rig r;
	uint32_t idb;

	(void)state;
	rig_init(&r, 2, 16, 2);
	assert_int_equal(submit(&r, &a, 4, 5, NULL, NULL), 0);
	assert_int_equal(submit(&r, &b, 4, 5, &idb, NULL), 0);
	pump(&r);
	assert_int_equal(r.n_under, 2);
	assert_int_equal(answer(&r, 0, "stage 1: out of cheese"), 0);
	assert_true(a.done && a.reason == GW_REASON_ERROR);
	assert_string_equal(a.error, "stage 1: out of cheese");
	run_dry(&r, 0);
	check_tokens(&b, idb, 4, 5);
	rig_fini(&r);
}

static void test_broken_pipeline(void **state)
{
	struct client a, b, c;
	struct ps_err err;
	struct rig r;
	uint32_t idc;

	(void)state;
	rig_init(&r, 1, 16, 1);
	assert_int_equal(submit(&r, &a, 4, 5, NULL, NULL), 0);
	assert_int_equal(submit(&r, &b, 4, 5, NULL, NULL), 0);
	pump(&r);
	gw_sched_break(r.s, "s1 is dead");
	assert_true(a.done && a.reason == GW_REASON_ERROR && b.done && b.reason == GW_REASON_ERROR);
	assert_string_equal(b.error, "s1 is dead");
	assert_int_equal(submit(&r, &c, 4, 5, &idc, &err), -EPIPE);
	assert_string_equal(err.msg, "s1 is dead");
	/* An answer of before is nobody's any more. */
	assert_int_equal(answer(&r, 0, NULL), 0);
	assert_int_equal(a.n, 0);
	gw_sched_mend(r.s);
	assert_int_equal(submit(&r, &c, 4, 5, &idc, &err), 0);
	run_dry(&r, 0);
	check_tokens(&c, idc, 4, 5);
	rig_fini(&r);
}

static void test_garbage_answers(void **state)
{
	struct client a;
	struct rig r;
	uint8_t junk[512];
	struct message m;
	uint32_t i, id;

	(void)state;
	rig_init(&r, 1, 16, 1);
	assert_int_equal(submit(&r, &a, 4, 5, &id, NULL), 0);
	pump(&r);
	m = r.under[0];
	for (i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)(i * 37);
	assert_int_equal(gw_sched_result(r.s, junk, sizeof(junk), 1, 1, NULL), -EBADMSG);
	assert_int_equal(gw_sched_result(r.s, m.data, m.len - 1, 1, 1, NULL), -EBADMSG);
	assert_int_equal(gw_sched_result(r.s, m.data, m.len, 1, 1, NULL),
			 -EBADMSG); /* a batch of our own kind */
	run_dry(&r, 0);
	check_tokens(&a, id, 4, 5);
	rig_fini(&r);
}

/* An encoder-decoder model: more sequences than slots, prompts of which not all fit one batch, answers in
 * both orders. check_seq sees that each is encoded once, whole, before its decoder begins. */
static void test_encoder_decoder(void **state)
{
	static const uint32_t n_prompt[6] = {5, 16, 3, 9, 12, 2};
	struct client c[6];
	struct rig r;
	uint32_t id[6], i, order;

	(void)state;
	for (order = 0; order < 2; order++) {
		rig_open(&r, &t5, 3, 16, 1);
		for (i = 0; i < 6; i++)
			assert_int_equal(submit(&r, &c[i], n_prompt[i], 5 + i, &id[i], NULL), 0);
		run_dry(&r, order);
		for (i = 0; i < 6; i++) {
			check_tokens(&c[i], id[i], 1, 5 + i); /* after the decoder's first token */
			assert_int_equal(r.n_encoded[id[i]], n_prompt[i]);
			assert_int_equal(c[i].reason, GW_REASON_LENGTH);
			assert_int_equal(c[i].n_timed, 4 + i);
			assert_int_equal(c[i].parts_sum_ns, c[i].token_sum_ns);
		}
		assert_int_equal(r.rows_max, 16);
		rig_fini(&r);
	}
}

/* The decoder has the context for itself: its first token and 63 more. */
static void test_decoder_context(void **state)
{
	struct client c;
	struct rig r;
	uint32_t id;

	(void)state;
	rig_open(&r, &t5, 1, 64, 1);
	assert_int_equal(submit(&r, &c, 60, 1000, &id, NULL), 0);
	run_dry(&r, 0);
	check_tokens(&c, id, 1, 63);
	assert_int_equal(c.reason, GW_REASON_LENGTH);
	rig_fini(&r);
}

static void check_values(const struct client *c, uint32_t id, uint32_t n_rows, uint32_t width)
{
	uint32_t i, k;

	assert_true(c->done);
	assert_int_equal(c->reason, GW_REASON_STOP);
	assert_int_equal(c->n, 0);
	assert_int_equal(c->n_rows, n_rows);
	assert_int_equal(c->width, width);
	assert_int_equal(c->n_timed, 1);
	assert_int_equal(c->parts_sum_ns, c->token_sum_ns);
	for (i = 0; i < n_rows; i++) {
		assert_int_equal(c->positions[i], 100 + i);
		for (k = 0; k < width; k++)
			assert_true(c->rows[i][k] == expected_value(id, i, k));
	}
}

/* Pooled and per-token embeddings and masks of one encoder at once: everyone gets their own rows. The prompts
 * count up from 0, so those longer than 7 have one mask. */
static void test_values(void **state)
{
	struct client c[6];
	struct rig r;
	uint32_t id[6], i;

	(void)state;
	rig_open(&r, &bert, 4, 32, 1);
	for (i = 0; i < 6; i++)
		assert_int_equal(
		    submit_task(&r, &c[i], i < 4 ? GW_TASK_EMBED : GW_TASK_FILL, 8 + i, i & 1, &id[i], NULL),
		    0);
	run_dry(&r, 1);
	for (i = 0; i < 6; i++)
		check_values(&c[i], id[i], i < 4 && (i & 1) != 0 ? 8 + i : 1,
			     i < 4 ? N_EMBD : 2 * ACT_FILL_BEST);
	rig_fini(&r);
	/* An encoder-decoder model gives its encoder's states, beside generating. */
	rig_open(&r, &t5, 4, 32, 1);
	assert_int_equal(submit_task(&r, &c[0], GW_TASK_EMBED, 9, 1, &id[0], NULL), 0);
	assert_int_equal(submit(&r, &c[1], 9, 4, &id[1], NULL), 0);
	assert_int_equal(submit_task(&r, &c[2], GW_TASK_EMBED, 9, 0, &id[2], NULL), 0);
	run_dry(&r, 0);
	check_values(&c[0], id[0], 9, N_EMBD);
	check_tokens(&c[1], id[1], 1, 4);
	check_values(&c[2], id[2], 1, N_EMBD);
	rig_fini(&r);
}

/* A long prompt beside a stream of short ones is not passed over for ever. */
static void test_whole_prompt_has_its_turn(void **state)
{
	struct client big, small[3];
	struct rig r;
	uint32_t i, done = 0, guard;

	(void)state;
	rig_open(&r, &bert, 4, 16, 1);
	for (i = 0; i < 3; i++) {
		assert_int_equal(submit_task(&r, &small[i], GW_TASK_EMBED, 3, 0, NULL, NULL), 0);
		if (i == 0)
			assert_int_equal(submit_task(&r, &big, GW_TASK_EMBED, 16, 0, NULL, NULL), 0);
	}
	for (guard = 0; !big.done; guard++) {
		assert_true(guard < 4);
		pump_up_to(&r, 1);
		assert_int_equal(answer(&r, 0, NULL), 0);
		for (i = 0; i < 3; i++) {
			if (!small[i].done)
				continue;
			done++;
			assert_int_equal(submit_task(&r, &small[i], GW_TASK_EMBED, 3, 0, NULL, NULL), 0);
		}
	}
	assert_true(done > 0);
	run_dry(&r, 0);
	rig_fini(&r);
}

static void refused(struct rig *r, enum gw_task task, uint32_t n_prompt, int rc, const char *why,
		    const char *mends)
{
	struct ps_err err = {{0}};
	struct client c;

	assert_int_equal(submit_task(r, &c, task, n_prompt, 1, NULL, &err), rc);
	if (strstr(err.msg, why) == NULL || strstr(err.msg, mends) == NULL)
		fail_msg("\"%s\" has no \"%s\" and \"%s\"", err.msg, why, mends);
}

static void test_what_models_cannot(void **state)
{
	struct model_hparams odd = t5;
	struct rig r;

	(void)state;
	rig_open(&r, &llama, 1, 16, 1);
	refused(&r, GW_TASK_EMBED, 3, -ENOTSUP, "llama", "generate");
	refused(&r, GW_TASK_FILL, 9, -ENOTSUP, "masked-language-model head", "generate");
	refused(&r, GW_TASK_GENERATE, 64, -EINVAL, "64 tokens, the context holds 64", "model.context");
	rig_fini(&r);
	rig_open(&r, &bert, 1, 16, 1);
	refused(&r, GW_TASK_GENERATE, 3, -ENOTSUP, "bert", "--embed");
	refused(&r, GW_TASK_EMBED, 17, -EINVAL, "17 tokens", "model.max_batch_tokens");
	refused(&r, GW_TASK_EMBED, 65, -EINVAL, "the context holds 64", "model.context");
	refused(&r, GW_TASK_FILL, 7, -EINVAL, "no mask token", "7");
	rig_fini(&r);
	rig_open(&r, &t5, 1, 16, 1);
	refused(&r, GW_TASK_GENERATE, 17, -EINVAL, "which holds 16", "model.max_batch_tokens");
	refused(&r, GW_TASK_GENERATE, 65, -EINVAL, "65 tokens, the context holds 64", "--ctx");
	rig_fini(&r);
	odd.decoder_start = -1;
	rig_open(&r, &odd, 1, 16, 1);
	refused(&r, GW_TASK_GENERATE, 3, -ENOTSUP, "begins with", "t5.decoder_start_token_id");
	rig_fini(&r);
}

static void answered_wrong(struct rig *r, enum gw_task task, bool per_token)
{
	struct client a;

	assert_int_equal(submit_task(r, &a, task, 9, per_token, NULL, NULL), 0);
	pump(r);
	assert_int_equal(answer(r, 0, NULL), 0);
	assert_true(a.done && a.reason == GW_REASON_ERROR && a.n_rows == 0);
	assert_non_null(strstr(a.error, "other values"));
}

/* A pipeline that answers without the values, with too narrow or with too many of them: the request ends
 * with an error, nothing waits for ever, and nothing is read beyond the message. */
static void test_wrong_values(void **state)
{
	static const struct {
		bool mute;
		uint32_t narrow, extra;
	} faults[] = {{.mute = true}, {.narrow = 1}, {.extra = 1}};
	struct client b;
	struct rig r;
	uint32_t i;

	(void)state;
	rig_open(&r, &bert, 2, 32, 1);
	for (i = 0; i < 3; i++) {
		r.mute = faults[i].mute;
		r.narrow = faults[i].narrow;
		r.extra = faults[i].extra;
		answered_wrong(&r, GW_TASK_EMBED, false);
		answered_wrong(&r, GW_TASK_EMBED, true);
		if (r.extra == 0) /* how many masks there are is not counted again */
			answered_wrong(&r, GW_TASK_FILL, false);
	}
	r.extra = 0;
	assert_int_equal(submit_task(&r, &b, GW_TASK_EMBED, 3, 0, NULL, NULL), 0);
	run_dry(&r, 0);
	assert_true(b.done && b.reason == GW_REASON_STOP && b.n_rows == 1);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_one_sequence),
	    cmocka_unit_test(test_prompt_in_chunks),
	    cmocka_unit_test(test_stop_and_context),
	    cmocka_unit_test(test_many),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_cancel_under_way),
	    cmocka_unit_test(test_batch_error_ends_its_sequences),
	    cmocka_unit_test(test_broken_pipeline),
	    cmocka_unit_test(test_garbage_answers),
	    cmocka_unit_test(test_encoder_decoder),
	    cmocka_unit_test(test_decoder_context),
	    cmocka_unit_test(test_values),
	    cmocka_unit_test(test_whole_prompt_has_its_turn),
	    cmocka_unit_test(test_what_models_cannot),
	    cmocka_unit_test(test_wrong_values),
	};

	return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
