/* SPDX-License-Identifier: BSD-3-Clause */
/* The gateway's server on a socket of its own, with clients as they connect, and behind it a pipeline
 * of one stage that answers every batch at once with tokens that the test chose. */
#include "gateway/server.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "gateway/client.h"
#include "tests/unit/dataplane/ep_side.h"

#define N_VOCAB    1536u
#define MAX_SCRIPT 64u

struct rig {
	char dir[64], path[96];
	struct dp_loopback *lb;
	struct ep_side gw, pipe;
	struct gw_server *srv;
	pthread_t serve_thread, pipe_thread;
	bool serving, piping;
	_Atomic int stop, pipe_stop;
	_Atomic bool hold; /* the pipeline takes batches and does not answer */
	_Atomic bool fail; /* it answers with an error */
	/* The token for a sequence's i-th generated one, where given; else the one before plus 1. */
	int32_t script[MAX_SCRIPT];
	uint32_t n_script, n_prompt;
	int rc;
	struct ps_err err;
};

static struct gguf *model;
static struct tokenizer *tokenizer;

static int open_model(void **state)
{
	char path[512];
	struct ps_err err = {{0}};
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	(void)state;
	snprintf(path, sizeof(path), "%s/models/demo-llama-f16.gguf", root != NULL ? root : ".");
	if (gguf_open(path, &model, &err) != 0 || tokenizer_load(model, &tokenizer, &err) != 0) {
		fprintf(stderr, "%s\n", err.msg);
		return -1;
	}
	return 0;
}

static int close_model(void **state)
{
	(void)state;
	tokenizer_free(tokenizer);
	gguf_close(model);
	return 0;
}

static int32_t next_token(const struct rig *r, const struct act *in, uint32_t row, const struct act_seq *seq)
{
	uint32_t i = seq->pos + seq->n_tokens - r->n_prompt;

	if (r->n_script > 0)
		return r->script[i < r->n_script ? i : r->n_script - 1];
	return (int32_t)ps_load32(in->tokens + (size_t)4 * (row + seq->n_tokens - 1)) + 1;
}

/* The answer to a batch, in buf; its length. */
static size_t answer(struct rig *r, const struct dp_msg *msg, uint8_t *buf, size_t cap)
{
	static const char text[] = "stage 0: told to fail";
	bool fail = atomic_load(&r->fail);
	struct act in, out;
	struct act_hop hop;
	uint32_t i, row = 0;

	CHECK(act_parse(msg->data, msg->len, &in, NULL) == 0 && in.kind == ACT_TOKENS);
	out = (struct act){
	    .kind = fail ? ACT_ERROR : ACT_SAMPLED,
	    .dtype = fail ? ACT_BYTES : ACT_F32,
	    .batch_id = in.batch_id,
	    .n_seqs = in.n_seqs,
	    .n_hops = in.n_hops + 1,
	    .n_rows = fail,
	    .width = fail ? sizeof(text) - 1 : 0,
	};
	CHECK(act_begin(&out, buf, cap) == 0);
	for (i = 0; i < in.n_hops; i++) {
		act_hop_get(&in, i, &hop);
		act_hop_put(&out, i, &hop);
	}
	hop = (struct act_hop){.clock_id = act_clock_id(),
			       .rx_ns = msg->rx_done_ns,
			       .start_ns = ps_now_ns(),
			       .end_ns = ps_now_ns(),
			       .tx_ns = ps_now_ns()};
	act_hop_put(&out, i, &hop);
	for (i = 0; i < in.n_seqs; i++) {
		struct act_seq seq;

		act_seq_get(&in, i, &seq);
		seq.token = (seq.flags & ACT_SEQ_SAMPLE) != 0 ? next_token(r, &in, row, &seq) : -1;
		row += seq.n_tokens;
		seq.n_tokens = 0;
		act_seq_put(&out, i, &seq);
	}
	if (fail) {
		memset(out.tokens, 0, 4);
		memcpy(out.payload, text, sizeof(text) - 1);
	}
	return out.len;
}

/* Answers from 4 buffers in turn: no more batches are under way. */
static void *pipe_thread(void *arg)
{
	static uint8_t bufs[4][65536] __attribute__((aligned(64)));
	struct rig *r = arg;
	struct dp_tx_msg done;
	struct dp_msg msg;
	uint32_t link, n = 0;

	while (atomic_load(&r->pipe_stop) == 0) {
		if (!dp_endpoint_step(r->pipe.ep, ps_now_ns()))
			sched_yield();
		while (dp_endpoint_done(r->pipe.ep, &link, &done))
			;
		while (!atomic_load(&r->hold) && dp_endpoint_recv(r->pipe.ep, &link, &msg)) {
			struct dp_tx_msg tx = {.data = bufs[n % 4]};

			tx.len = (uint32_t)answer(r, &msg, bufs[n++ % 4], sizeof(bufs[0]));
			dp_endpoint_release(r->pipe.ep, 0, &msg);
			CHECK(dp_endpoint_send(r->pipe.ep, 0, &tx));
		}
	}
	return NULL;
}

static void *serve_thread(void *arg)
{
	struct rig *r = arg;

	r->rc = gw_server_run(r->srv, &r->stop, &r->err);
	return NULL;
}

static void add_role(void *ctx, json_t *o)
{
	json_object_set_new(o, "extra", json_string(ctx));
}

static void open_rig(struct rig *r, const struct tokenizer *tok, uint64_t dead_ns, uint64_t pipe_hash)
{
	static const char *const names[] = {"only"};
	struct gw_server_cfg cfg = {
	    .socket_path = r->path,
	    .tokenizer = tok,
	    .no_tokenizer_why = "this model has no vocabulary",
	    .sched = {.n_slots = 4,
		      .max_waiting = 16,
		      .n_ctx = 256,
		      .max_batch_tokens = 64,
		      .max_batches = 4,
		      .n_stages = 1,
		      .n_vocab = N_VOCAB},
	    .stage_names = names,
	    .status = add_role,
	    .status_ctx = "yes",
	};
	struct ep_side_link link[2];

	memset(r, 0, sizeof(*r));
	snprintf(r->dir, sizeof(r->dir), "/tmp/penstock-server-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/gw.sock", r->dir);
	r->lb = ep_side_loopback();
	link[0] = (struct ep_side_link){r->lb, 0, 1, 2, dead_ns, "only"};
	link[1] = (struct ep_side_link){r->lb, 1, 1, pipe_hash, EP_SIDE_LONG_NS, "gateway"};
	ep_side_open(&r->gw, "gateway", 65536, &link[0], 1);
	ep_side_open(&r->pipe, "only", 65536, &link[1], 1);
	ep_side_start(&r->gw);
	cfg.ep = r->gw.ep;
	if (gw_server_create(&cfg, &r->srv, &r->err) != 0)
		fail_msg("%s", r->err.msg);
	assert_int_equal(pthread_create(&r->serve_thread, NULL, serve_thread, r), 0);
	assert_int_equal(pthread_create(&r->pipe_thread, NULL, pipe_thread, r), 0);
	r->serving = true;
	r->piping = true;
}

static void kill_pipeline(struct rig *r)
{
	atomic_store(&r->pipe_stop, 1);
	pthread_join(r->pipe_thread, NULL);
	r->piping = false;
	ep_side_kill(&r->pipe);
}

static void close_rig(struct rig *r)
{
	atomic_store(&r->stop, 1);
	if (r->serving)
		pthread_join(r->serve_thread, NULL);
	if (r->piping)
		kill_pipeline(r);
	ep_side_kill(&r->gw);
	gw_server_destroy(r->srv);
	ep_side_free_bells(&r->gw);
	ep_side_free_bells(&r->pipe);
	dp_loopback_destroy(r->lb);
	assert_int_equal(access(r->path, F_OK), -1);
	assert_int_equal(rmdir(r->dir), 0);
}

static void join(const struct rig *r, struct gw_conn *c)
{
	int fd = gw_connect(r->path);

	assert_true(fd >= 0);
	gw_conn_open(c, fd);
}

static void ask(struct gw_conn *c, const char *line)
{
	size_t len = strlen(line);

	assert_int_equal(write(c->fd, line, len), len);
	assert_int_equal(write(c->fd, "\n", 1), 1);
}

/* The next event; the caller's to decref. */
static json_t *next_event(struct gw_conn *c)
{
	struct pollfd pfd = {.fd = c->fd, .events = POLLIN};
	json_t *o;
	char *line;

	while ((line = gw_conn_line(c)) == NULL) {
		if (poll(&pfd, 1, 20000) != 1)
			fail_msg("no event came");
		if (!gw_conn_read(c))
			fail_msg("the server closed the connection");
	}
	o = json_loads(line, 0, NULL);
	if (o == NULL)
		fail_msg("not JSON: %s", line);
	return o;
}

static const char *name_of(const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "event"));

	assert_non_null(name);
	return name;
}

static void expect_error(struct gw_conn *c, const char *part)
{
	json_t *o = next_event(c);
	const char *text = json_string_value(json_object_get(o, "text"));

	assert_string_equal(name_of(o), "error");
	assert_non_null(text);
	if (strstr(text, part) == NULL)
		fail_msg("expected \"%s\" in \"%s\"", part, text);
	json_decref(o);
}

static int64_t number(const json_t *o, const char *key)
{
	assert_true(json_is_integer(json_object_get(o, key)));
	return json_integer_value(json_object_get(o, key));
}

static void expect_tokens(struct gw_conn *c, int64_t id, int64_t first, uint32_t n)
{
	json_t *o;
	uint32_t i;

	for (i = 0; i < n; i++) {
		o = next_event(c);
		assert_string_equal(name_of(o), "token");
		assert_int_equal(number(o, "id"), id);
		assert_int_equal(number(o, "token"), first + i);
		json_decref(o);
	}
	o = next_event(c);
	assert_string_equal(name_of(o), "done");
	assert_int_equal(number(o, "id"), id);
	assert_int_equal(number(o, "tokens"), n);
	assert_string_equal(json_string_value(json_object_get(o, "reason")), "length");
	json_decref(o);
}

static json_t *status_of(struct gw_conn *c)
{
	json_t *o;

	ask(c, "{\"op\": \"status\"}");
	o = next_event(c);
	assert_string_equal(name_of(o), "status");
	return o;
}

static void await_ready(struct gw_conn *c)
{
	uint64_t start_ns = ps_now_ns();
	bool ready = false;

	while (!ready) {
		json_t *o = status_of(c);

		ready = json_is_true(json_object_get(o, "ready"));
		json_decref(o);
		assert_true(ps_now_ns() - start_ns < EP_SIDE_LONG_NS);
	}
}

static void test_tokens_without_tokenizer(void **state)
{
	json_t *o, *timing;
	struct gw_conn c;
	struct rig r;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	join(&r, &c);
	/* Asked before the pipeline is up: it waits, and is served. */
	ask(&c, "{\"op\": \"generate\", \"id\": 3, \"tokens\": [5, 9], \"max_tokens\": 4}");
	expect_tokens(&c, 3, 10, 4);
	ask(&c, "{\"op\": \"generate\", \"id\": 4, \"prompt\": \"text\"}");
	expect_error(&c, "no vocabulary");
	ask(&c, "{\"op\": \"generate\", \"tokens\": [7], \"max_tokens\": 2}");
	json_decref(next_event(&c));
	json_decref(next_event(&c));
	o = next_event(&c);
	assert_string_equal(name_of(o), "done");
	assert_null(json_object_get(o, "id"));
	assert_int_equal(number(o, "prompt_tokens"), 1);
	timing = json_object_get(o, "timing");
	assert_true(number(timing, "ttft_ns") > 0 && number(timing, "total_ns") >= number(timing, "ttft_ns"));
	assert_int_equal(json_array_size(json_object_get(timing, "hops")), 2);
	assert_true(json_is_real(json_object_get(timing, "network_share")));
	json_decref(o);
	gw_conn_close(&c);
	close_rig(&r);
	assert_int_equal(r.rc, 0);
}

static void set_script(struct rig *r, uint32_t n_prompt, const char *text)
{
	int32_t *ids = NULL;
	size_t n = 0;

	assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), false, false, &ids, &n), 0);
	assert_true(n > 0 && n < MAX_SCRIPT);
	memcpy(r->script, ids, n * sizeof(*ids));
	r->n_script = (uint32_t)n + 1;
	r->script[n] = tokenizer_eos(tokenizer);
	r->n_prompt = n_prompt;
	free(ids);
}

/* Text comes in whole characters though their tokens are single bytes, and ends where the model ends it. */
static void test_text(void **state)
{
	static const char want[] = "a \xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80 z";
	char text[256] = "";
	uint32_t n_empty = 0;
	struct gw_conn c;
	struct rig r;
	json_t *o;

	(void)state;
	open_rig(&r, tokenizer, EP_SIDE_LONG_NS, 2);
	set_script(&r, 1, want);
	assert_true(r.n_script > 12); /* there are characters of several tokens among them */
	join(&r, &c);
	ask(&c, "{\"op\": \"generate\", \"tokens\": [1], \"max_tokens\": 64}");
	for (;;) {
		o = next_event(&c);
		if (strcmp(name_of(o), "token") != 0)
			break;
		assert_null(json_object_get(o, "bytes"));
		n_empty += json_string_length(json_object_get(o, "text")) == 0;
		strcat(text, json_string_value(json_object_get(o, "text")));
		json_decref(o);
	}
	assert_string_equal(name_of(o), "done");
	assert_string_equal(json_string_value(json_object_get(o, "reason")), "stop");
	json_decref(o);
	assert_string_equal(text + (text[0] == ' '), want);
	assert_true(n_empty > 0);
	/* A text as the prompt: its tokens are counted, BOS included. */
	ask(&c, "{\"op\": \"generate\", \"prompt\": \"Then the king\", \"max_tokens\": 0}");
	o = next_event(&c);
	assert_string_equal(name_of(o), "done");
	assert_true(number(o, "prompt_tokens") > 1);
	assert_int_equal(number(o, "tokens"), 0);
	json_decref(o);
	gw_conn_close(&c);
	close_rig(&r);
}

/* More clients than slots, and several requests of one client, each get their own tokens. */
static void test_many_clients(void **state)
{
	struct gw_conn c[8];
	uint32_t i;
	char line[128];
	struct rig r;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	for (i = 0; i < 8; i++) {
		join(&r, &c[i]);
		snprintf(line, sizeof(line),
			 "{\"op\":\"generate\",\"id\":%u,\"tokens\":[%u],\"max_tokens\":12}", i, 100 * i);
		ask(&c[i], line);
	}
	for (i = 8; i-- > 0;)
		expect_tokens(&c[i], i, 100 * i + 1, 12);
	for (i = 0; i < 8; i++)
		gw_conn_close(&c[i]);
	close_rig(&r);
}

static void test_bad_requests(void **state)
{
	static const struct {
		const char *line, *part;
	} cases[] = {
	    {"{\"op\": \"generate\"", "not JSON"},
	    {"", "not JSON"},
	    {"\xff\xfe", "not JSON"},
	    {"[1]", "expected a JSON object"},
	    {"{\"op\": 5}", "expected a JSON object"},
	    {"{\"op\": \"dance\"}", "unknown op"},
	    {"{\"op\": \"generate\"}", "expected \"prompt\""},
	    {"{\"op\": \"generate\", \"prompt\": 5}", "expected \"prompt\""},
	    {"{\"op\": \"generate\", \"tokens\": []}", "empty"},
	    {"{\"op\": \"generate\", \"tokens\": [1, \"x\"]}", "array of token ids"},
	    {"{\"op\": \"generate\", \"tokens\": [-1]}", "array of token ids"},
	    {"{\"op\": \"generate\", \"tokens\": [4294967297]}", "array of token ids"},
	    {"{\"op\": \"generate\", \"tokens\": [1536]}", "the vocabulary has 1536"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"max_tokens\": \"many\"}", "a number was expected"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"max_tokens\": -1}", "from 0 to"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"top_k\": 2147483648}", "from 0 to"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"temperature\": -1}", "temperature"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"temperature\": 1e300}", "temperature"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"top_p\": 2}", "top_p"},
	    {"{\"op\": \"generate\", \"tokens\": [1], \"repeat_penalty\": 0}", "repeat_penalty"},
	};
	struct gw_conn c;
	struct rig r;
	size_t i;

	(void)state;
	open_rig(&r, tokenizer, EP_SIDE_LONG_NS, 2);
	join(&r, &c);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ask(&c, cases[i].line);
		expect_error(&c, cases[i].part);
	}
	/* None of it was a sequence, and the next good one is served. */
	ask(&c, "{\"op\": \"generate\", \"id\": 1, \"tokens\": [5], \"max_tokens\": 3}");
	expect_tokens(&c, 1, 6, 3);
	gw_conn_close(&c);
	close_rig(&r);
}

/* A client that goes away takes its requests along, waiting ones too. */
static void test_disconnect_cancels(void **state)
{
	uint64_t start_ns = ps_now_ns();
	struct gw_conn gone, stays;
	int64_t left = -1;
	struct rig r;
	uint32_t i;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	atomic_store(&r.hold, true);
	join(&r, &gone);
	join(&r, &stays);
	await_ready(&stays);
	for (i = 0; i < 6; i++)
		ask(&gone, "{\"op\": \"generate\", \"tokens\": [5], \"max_tokens\": 100}");
	while (left != 6) {
		json_t *o = status_of(&stays);

		left = number(o, "active") + number(o, "waiting");
		json_decref(o);
		assert_true(ps_now_ns() - start_ns < EP_SIDE_LONG_NS);
	}
	gw_conn_close(&gone);
	while (left != 0) {
		json_t *o = status_of(&stays);

		left = number(o, "active") + number(o, "waiting");
		json_decref(o);
		assert_true(ps_now_ns() - start_ns < EP_SIDE_LONG_NS);
	}
	atomic_store(&r.hold, false);
	ask(&stays, "{\"op\": \"generate\", \"id\": 2, \"tokens\": [50], \"max_tokens\": 3}");
	expect_tokens(&stays, 2, 51, 3);
	gw_conn_close(&stays);
	close_rig(&r);
}

static void test_status(void **state)
{
	struct gw_conn c;
	struct rig r;
	json_t *o;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	join(&r, &c);
	await_ready(&c);
	ask(&c, "{\"op\": \"generate\", \"id\": 1, \"tokens\": [5], \"max_tokens\": 3}");
	expect_tokens(&c, 1, 6, 3);
	o = status_of(&c);
	assert_string_equal(json_string_value(json_object_get(o, "role")), "gateway");
	assert_string_equal(json_string_value(json_object_get(o, "extra")), "yes");
	assert_true(number(o, "requests") == 1 && number(o, "tokens") == 3 && number(o, "batches") == 3);
	assert_true(number(o, "errors") == 0 && number(o, "active") == 0 && number(o, "waiting") == 0);
	assert_null(json_object_get(o, "broken"));
	json_decref(o);
	gw_conn_close(&c);
	close_rig(&r);
}

/* A batch that fails ends its requests, and only those. */
static void test_failed_batch(void **state)
{
	struct gw_conn c;
	struct rig r;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	atomic_store(&r.fail, true);
	join(&r, &c);
	ask(&c, "{\"op\": \"generate\", \"tokens\": [5], \"max_tokens\": 3}");
	expect_error(&c, "stage 0: told to fail");
	atomic_store(&r.fail, false);
	ask(&c, "{\"op\": \"generate\", \"id\": 1, \"tokens\": [5], \"max_tokens\": 3}");
	expect_tokens(&c, 1, 6, 3);
	gw_conn_close(&c);
	close_rig(&r);
}

/* The pipeline dies: every request ends with an error that names who died, later ones at once. */
static void test_pipeline_dies(void **state)
{
	struct gw_conn c;
	struct rig r;
	json_t *o;
	uint32_t i;

	(void)state;
	open_rig(&r, NULL, 60000000, 2);
	join(&r, &c);
	await_ready(&c);
	atomic_store(&r.hold, true);
	for (i = 0; i < 6; i++)
		ask(&c, "{\"op\": \"generate\", \"tokens\": [5], \"max_tokens\": 100}");
	kill_pipeline(&r);
	for (i = 0; i < 6; i++)
		expect_error(&c, "only is dead");
	ask(&c, "{\"op\": \"generate\", \"tokens\": [5], \"max_tokens\": 100}");
	expect_error(&c, "only is dead");
	o = status_of(&c);
	assert_true(json_is_false(json_object_get(o, "ready")));
	assert_non_null(strstr(json_string_value(json_object_get(o, "broken")), "only is dead"));
	json_decref(o);
	gw_conn_close(&c);
	close_rig(&r);
	assert_int_equal(r.rc, 0);
}

/* One client more than there is room for is told so; the others do not notice. */
static void test_too_many_clients(void **state)
{
	struct gw_conn c[65];
	struct rig r;
	uint32_t i;
	json_t *o;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	for (i = 0; i < 64; i++) {
		join(&r, &c[i]);
		json_decref(status_of(&c[i])); /* it was accepted */
	}
	join(&r, &c[64]);
	expect_error(&c[64], "too many clients");
	o = status_of(&c[0]);
	json_decref(o);
	for (i = 0; i < 65; i++)
		gw_conn_close(&c[i]);
	close_rig(&r);
}

/* A stage that runs another model: the server ends with a text that says so. */
static void test_refused(void **state)
{
	struct rig r;

	(void)state;
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 3);
	pthread_join(r.serve_thread, NULL);
	r.serving = false;
	assert_int_equal(r.rc, -ECONNREFUSED);
	assert_non_null(strstr(r.err.msg, "model"));
	close_rig(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tokens_without_tokenizer),
	    cmocka_unit_test(test_text),
	    cmocka_unit_test(test_many_clients),
	    cmocka_unit_test(test_bad_requests),
	    cmocka_unit_test(test_disconnect_cancels),
	    cmocka_unit_test(test_status),
	    cmocka_unit_test(test_failed_batch),
	    cmocka_unit_test(test_pipeline_dies),
	    cmocka_unit_test(test_too_many_clients),
	    cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests_name("server", tests, open_model, close_model);
}
