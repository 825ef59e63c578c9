/* SPDX-License-Identifier: BSD-3-Clause */
/* A stage's loop in a thread between two neighbours, which the test steps itself. */
#include "stage/loop.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "tests/unit/dataplane/ep_side.h"

#define N_SLOTS 3u /* messages that the stage may have unacknowledged */
#define STAGE   6u /* its number in the pipeline */

enum { UP, DOWN };

struct rig {
	struct dp_loopback *lb[2];
	struct ep_side side[2], stage; /* the neighbours, and the stage */
	struct stage_core *core;
	struct dp_slots *slots;
	struct stage_loop_stats stats;
	_Atomic int stop;
	uint32_t n_ready;
	pthread_t loop;
	bool looping;
	int rc;
	struct ps_err err;
	uint8_t *buf;
	uint32_t max_bytes;
	uint64_t start_ns;
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

static void on_ready(void *ctx)
{
	((struct rig *)ctx)->n_ready++;
}

static void *loop_thread(void *arg)
{
	struct rig *r = arg;
	const struct stage_loop_cfg cfg = {
	    .name = "middle",
	    .ep = r->stage.ep,
	    .link_up = UP,
	    .link_down = DOWN,
	    .core = r->core,
	    .slots = r->slots,
	    .stop = &r->stop,
	    .ready = on_ready,
	    .ready_ctx = r,
	};

	r->rc = stage_loop_run(&cfg, &r->stats, &r->err);
	return NULL;
}

static void open_core(struct rig *r)
{
	struct stage_core_cfg cfg = {
	    .gguf = model,
	    .stage = STAGE,
	    .device = "cpu",
	    .n_threads = 1,
	    .n_slots = 4,
	    .n_ctx = 48,
	    .max_tokens = 8,
	};
	struct model_hparams hp;

	assert_int_equal(model_read_hparams(model, &hp, &r->err), 0);
	cfg.block_last = hp.n_layers;
	if (stage_core_open(&cfg, &r->core, &r->err) != 0)
		fail_msg("%s", r->err.msg);
	r->max_bytes = (uint32_t)stage_core_max_bytes(r->core);
	assert_int_equal(dp_slots_create(N_SLOTS, r->max_bytes, false, &r->slots, &r->err), 0);
	assert_non_null(r->buf = aligned_alloc(64, (r->max_bytes + 63) & ~(size_t)63));
}

/* dead_ns: after how much silence the stage takes either neighbour for dead; down_hash: the model
 * that the downstream neighbour thinks it runs. */
static void open_rig(struct rig *r, const uint64_t *dead_ns, uint64_t down_hash)
{
	const uint64_t hash[2] = {2, down_hash};
	static const char *const names[2] = {"above", "below"};
	struct ep_side_link mine[2];
	uint32_t i;

	memset(r, 0, sizeof(*r));
	r->start_ns = ps_now_ns();
	open_core(r);
	for (i = 0; i < 2; i++) {
		struct ep_side_link other;

		r->lb[i] = ep_side_loopback();
		mine[i] = (struct ep_side_link){r->lb[i], i == UP ? 1 : 0, (uint16_t)(1 + i),
						2,        dead_ns[i],      names[i]};
		other = (struct ep_side_link){r->lb[i], i == UP ? 0 : 1, (uint16_t)(1 + i),
					      hash[i],  EP_SIDE_LONG_NS, "middle"};
		ep_side_open(&r->side[i], names[i], r->max_bytes, &other, 1);
	}
	ep_side_open(&r->stage, "middle", r->max_bytes, mine, 2);
	ep_side_start(&r->stage);
	assert_int_equal(pthread_create(&r->loop, NULL, loop_thread, r), 0);
	r->looping = true;
}

/* Steps the neighbours; fails when the test has waited too long. */
static void step(struct rig *r, const char *what)
{
	uint32_t i;
	bool busy = false;

	if (ps_now_ns() - r->start_ns > EP_SIDE_LONG_NS)
		fail_msg("gave up waiting: %s", what);
	for (i = 0; i < 2; i++) {
		if (r->side[i].ep != NULL)
			busy = dp_endpoint_step(r->side[i].ep, ps_now_ns()) || busy;
	}
	if (!busy)
		sched_yield();
}

static void end_loop(struct rig *r, int want_rc)
{
	atomic_store(&r->stop, 1);
	pthread_join(r->loop, NULL);
	r->looping = false;
	assert_int_equal(r->rc, want_rc);
}

static void close_rig(struct rig *r)
{
	uint32_t i;

	if (r->looping)
		end_loop(r, 0);
	ep_side_kill(&r->stage);
	for (i = 0; i < 2; i++)
		ep_side_kill(&r->side[i]);
	ep_side_free_bells(&r->stage);
	for (i = 0; i < 2; i++) {
		ep_side_free_bells(&r->side[i]);
		dp_loopback_destroy(r->lb[i]);
	}
	stage_core_close(r->core);
	dp_slots_destroy(r->slots);
	free(r->buf);
}

static void await_ready(struct rig *r)
{
	while (atomic_load(&r->stats.ready) == 0)
		step(r, "the stage ready");
	while (dp_endpoint_link_state(r->side[UP].ep, 0) != DP_LINK_ESTABLISHED ||
	       dp_endpoint_link_state(r->side[DOWN].ep, 0) != DP_LINK_ESTABLISHED)
		step(r, "the neighbours' links");
}

static void send_bytes(struct rig *r, uint32_t from, const uint8_t *data, size_t len)
{
	const struct dp_tx_msg msg = {.data = data, .len = (uint32_t)len};
	struct dp_tx_msg done;
	uint32_t link;

	assert_true(dp_endpoint_send(r->side[from].ep, 0, &msg));
	while (!dp_endpoint_done(r->side[from].ep, &link, &done))
		step(r, "an acknowledgement");
	assert_false(done.failed);
}

/* The next message at a neighbour; the caller releases it. */
static struct dp_msg receive(struct rig *r, uint32_t at, struct act *a)
{
	struct dp_msg msg;
	uint32_t link;

	while (!dp_endpoint_recv(r->side[at].ep, &link, &msg))
		step(r, "a message");
	if (act_parse(msg.data, msg.len, a, &r->err) != 0)
		fail_msg("%s", r->err.msg);
	return msg;
}

static void expect_error(struct rig *r, uint32_t at, const char *part)
{
	struct dp_msg msg;
	char text[1200];
	struct act a;

	msg = receive(r, at, &a);
	assert_int_equal(a.kind, ACT_ERROR);
	assert_true(a.width > 0 && a.width < sizeof(text));
	memcpy(text, a.payload, a.width);
	text[a.width] = '\0';
	if (strstr(text, part) == NULL)
		fail_msg("expected \"%s\" in \"%s\"", part, text);
	dp_endpoint_release(r->side[at].ep, 0, &msg);
}

/* A batch as the gateway sends it: the next row of sequence 1. */
static size_t write_batch(struct rig *r, uint32_t pos)
{
	const struct act_seq seq = {
	    .seq_id = 1, .flags = ACT_SEQ_SAMPLE, .pos = pos, .n_tokens = 1, .top_p = 1, .repeat_penalty = 1};
	const struct act_hop hop = {.proc = ACT_PROC_GATEWAY, .clock_id = 9, .rx_ns = 1, .tx_ns = 77};
	struct act a = {.kind = ACT_TOKENS,
			.dtype = ACT_F32,
			.batch_id = 50 + pos,
			.n_rows = 1,
			.n_seqs = 1,
			.n_hops = 1};

	assert_int_equal(act_begin(&a, r->buf, r->max_bytes), 0);
	act_seq_put(&a, 0, &seq);
	act_hop_put(&a, 0, &hop);
	ps_store32(a.tokens, 5 + pos);
	return a.len;
}

static size_t write_message(struct rig *r, enum act_kind kind, const char *text)
{
	struct act a = {.kind = kind,
			.dtype = kind == ACT_ERROR ? ACT_BYTES : ACT_F32,
			.n_rows = kind == ACT_ERROR,
			.width = (uint32_t)strlen(text)};

	assert_int_equal(act_begin(&a, r->buf, r->max_bytes), 0);
	if (kind == ACT_ERROR)
		memset(a.tokens, 0, 4);
	memcpy(a.payload, text, a.width);
	return a.len;
}

static const uint64_t patient[2] = {EP_SIDE_LONG_NS, EP_SIDE_LONG_NS};

static void expect_sampled(struct rig *r, uint32_t pos)
{
	struct act_hop hop;
	struct act_seq seq;
	struct dp_msg msg;
	struct act a;

	msg = receive(r, DOWN, &a);
	assert_int_equal(a.kind, ACT_SAMPLED);
	assert_int_equal(a.batch_id, 50 + pos);
	act_seq_get(&a, 0, &seq);
	assert_true(seq.token >= 0);
	assert_int_equal(a.n_hops, 2);
	act_hop_get(&a, 0, &hop);
	assert_true(hop.proc == ACT_PROC_GATEWAY && hop.clock_id == 9 && hop.tx_ns == 77);
	act_hop_get(&a, 1, &hop);
	assert_true(hop.proc == STAGE && hop.clock_id == act_clock_id());
	assert_true(hop.rx_ns >= r->start_ns && hop.start_ns >= hop.rx_ns && hop.end_ns >= hop.start_ns &&
		    hop.tx_ns >= hop.end_ns && hop.tx_ns <= ps_now_ns());
	dp_endpoint_release(r->side[DOWN].ep, 0, &msg);
}

/* More batches than there are slots go through, in order, each with the stage's hop. */
static void test_batches_go_through(void **state)
{
	struct rig r;
	uint32_t i;

	(void)state;
	open_rig(&r, patient, 2);
	await_ready(&r);
	for (i = 0; i < 3 * N_SLOTS; i++) {
		send_bytes(&r, UP, r.buf, write_batch(&r, i));
		expect_sampled(&r, i);
	}
	end_loop(&r, 0);
	assert_int_equal(r.n_ready, 1);
	assert_int_equal(atomic_load(&r.stats.batches), 3 * N_SLOTS);
	assert_int_equal(atomic_load(&r.stats.rows), 3 * N_SLOTS);
	assert_int_equal(atomic_load(&r.stats.in_place) + atomic_load(&r.stats.copied), 3 * N_SLOTS);
	close_rig(&r);
}

/* A neighbour that takes nothing for a while holds the stage up at its last slot; nothing is lost. */
static void test_slow_neighbour(void **state)
{
	struct dp_msg held[3 * N_SLOTS];
	struct rig r;
	uint32_t i, link, n = 0;

	(void)state;
	open_rig(&r, patient, 2);
	await_ready(&r);
	for (i = 0; i < 3 * N_SLOTS; i++) {
		send_bytes(&r, UP, r.buf, write_batch(&r, i));
		/* The neighbour keeps what came: its credit and then the stage's slots run out. */
		while (n < 4 && dp_endpoint_recv(r.side[DOWN].ep, &link, &held[n]))
			n++;
		if (i >= 4 + N_SLOTS)
			break;
	}
	while (n < 4) {
		if (dp_endpoint_recv(r.side[DOWN].ep, &link, &held[n]))
			n++;
		step(&r, "the first messages");
	}
	for (i = 0; i < 4; i++)
		dp_endpoint_release(r.side[DOWN].ep, 0, &held[i]);
	for (i = 4; i < 5 + N_SLOTS; i++)
		expect_sampled(&r, i);
	close_rig(&r);
}

static void test_torn_batch_becomes_an_error(void **state)
{
	struct rig r;
	size_t len;

	(void)state;
	open_rig(&r, patient, 2);
	await_ready(&r);
	len = write_batch(&r, 0);
	send_bytes(&r, UP, r.buf, len - 1);
	expect_error(&r, DOWN, "stage 6: ");
	memset(r.buf, 0xee, 100);
	send_bytes(&r, UP, r.buf, 100);
	expect_error(&r, DOWN, "stage 6: ");
	/* And the next good one is run. */
	send_bytes(&r, UP, r.buf, write_batch(&r, 0));
	expect_sampled(&r, 0);
	end_loop(&r, 0);
	assert_int_equal(atomic_load(&r.stats.errors), 2);
	close_rig(&r);
}

/* Errors go up as they are; nothing else does. */
static void test_errors_travel_upstream(void **state)
{
	struct dp_msg msg;
	struct act a;
	struct rig r;
	size_t len;

	(void)state;
	open_rig(&r, patient, 2);
	await_ready(&r);
	send_bytes(&r, DOWN, r.buf, write_message(&r, ACT_SAMPLED, ""));
	memset(r.buf, 0xee, 100);
	send_bytes(&r, DOWN, r.buf, 100);
	len = write_message(&r, ACT_ERROR, "stage 7 is on fire");
	send_bytes(&r, DOWN, r.buf, len);
	msg = receive(&r, UP, &a);
	assert_int_equal(msg.len, len);
	assert_memory_equal(msg.data, r.buf, len);
	dp_endpoint_release(r.side[UP].ep, 0, &msg);
	close_rig(&r);
}

/* Who is left is told which neighbour died, whichever it was. */
static void test_death_is_announced(void **state)
{
	static const char *const names[2] = {"above", "below"};
	uint64_t dead_ns[2];
	struct rig r;
	uint32_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		dead_ns[i] = 60000000;
		dead_ns[1 - i] = EP_SIDE_LONG_NS;
		open_rig(&r, dead_ns, 2);
		await_ready(&r);
		ep_side_kill(&r.side[i]);
		expect_error(&r, 1 - i, names[i]);
		close_rig(&r);
	}
}

/* A neighbour with another model refuses the stage before it was ready: the loop ends and says why. */
static void test_refused(void **state)
{
	struct rig r;

	(void)state;
	open_rig(&r, patient, 3);
	while (dp_endpoint_link_state(r.stage.ep, DOWN) != DP_LINK_REFUSED)
		step(&r, "the refusal");
	/* Without the flag: the refusal alone ends it. */
	pthread_join(r.loop, NULL);
	r.looping = false;
	assert_int_equal(r.rc, -ECONNREFUSED);
	assert_non_null(strstr(r.err.msg, "model"));
	assert_int_equal(r.n_ready, 0);
	close_rig(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_batches_go_through),          cmocka_unit_test(test_slow_neighbour),
	    cmocka_unit_test(test_torn_batch_becomes_an_error), cmocka_unit_test(test_errors_travel_upstream),
	    cmocka_unit_test(test_death_is_announced),          cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests_name("stage-loop", tests, open_model, close_model);
}
