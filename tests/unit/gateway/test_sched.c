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

#include "gateway/sched.h"

#define N_VOCAB   1000u
#define MAX_UNDER 8u

struct client {
	int32_t tokens[512];
	uint32_t n, stop_at; /* stop_at: the sink says "end" for the token with this index */
	bool done;
	enum gw_reason reason;
	char error[256];
	uint32_t n_timed;
	uint64_t ttft_ns, token_p50_ns, parts_sum_ns, token_sum_ns;
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

static const struct gw_sink sink = {.token = on_token, .done = on_done};

struct message {
	uint8_t *data;
	size_t len;
};

struct rig {
	struct gw_sched *s;
	struct message under[MAX_UNDER];
	uint32_t n_under, rows_max, seqs_max;
	uint64_t now_ns;
};

static void rig_init(struct rig *r, uint32_t slots, uint32_t batch_tokens, uint32_t stages)
{
	const struct gw_sched_cfg cfg = {
	    .n_slots = slots,
	    .max_waiting = 4,
	    .n_ctx = 64,
	    .max_batch_tokens = batch_tokens,
	    .max_batches = MAX_UNDER,
	    .n_stages = stages,
	    .n_vocab = N_VOCAB,
	};

	memset(r, 0, sizeof(*r));
	r->now_ns = 1000000;
	assert_int_equal(gw_sched_create(&cfg, &r->s, NULL), 0);
}

static void rig_fini(struct rig *r)
{
	uint32_t i;

	for (i = 0; i < r->n_under; i++)
		free(r->under[i].data);
	gw_sched_destroy(r->s);
}

static int submit(struct rig *r, struct client *c, uint32_t n_prompt, uint32_t max_tokens, uint32_t *id,
		  struct ps_err *err)
{
	int32_t prompt[128];
	struct gw_request req = {
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

/* Takes every batch the scheduler has to give. */
static void pump(struct rig *r)
{
	uint8_t *hop_tx;

	while (r->n_under < MAX_UNDER) {
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

static int32_t expected_token(uint32_t seq_id, uint32_t pos)
{
	return (int32_t)((seq_id * 131 + pos * 7) % N_VOCAB);
}

/* Answers the i-th batch under way, as a pipeline of one stage would. */
static int answer(struct rig *r, uint32_t i, const char *error)
{
	struct message m = r->under[i];
	struct act in, out = {.kind = ACT_SAMPLED, .dtype = ACT_F32};
	struct act_hop hop;
	uint8_t buf[65536];
	uint32_t q;
	int rc;

	assert_int_equal(act_parse(m.data, m.len, &in, NULL), 0);
	assert_int_equal(in.kind, ACT_TOKENS);
	r->rows_max = in.n_rows > r->rows_max ? in.n_rows : r->rows_max;
	r->seqs_max = in.n_seqs > r->seqs_max ? in.n_seqs : r->seqs_max;
	out.batch_id = in.batch_id;
	out.n_seqs = in.n_seqs;
	out.n_hops = 2;
	if (error != NULL) {
		out.kind = ACT_ERROR;
		out.dtype = ACT_BYTES;
		out.n_rows = 1;
		out.width = (uint32_t)strlen(error);
	}
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
	for (q = 0; q < in.n_seqs; q++) {
		struct act_seq seq;

		act_seq_get(&in, q, &seq);
		assert_in_range(seq.n_tokens, 1, 64);
		seq.token = (seq.flags & ACT_SEQ_SAMPLE) != 0
				? expected_token(seq.seq_id, seq.pos + seq.n_tokens)
				: -1;
		seq.pos += seq.n_tokens;
		seq.n_tokens = 0;
		act_seq_put(&out, q, &seq);
	}
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
	};

	return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
