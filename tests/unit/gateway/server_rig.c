/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/gateway/server_rig.h"

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"

struct gguf *model;
struct model_hparams hparams;
struct tokenizer *tokenizer;

void be_llama(void)
{
	hparams = (struct model_hparams){.arch = "llama", .n_vocab = N_VOCAB, .n_embd = 4, .n_layers = 4};
}

void be_bert(uint32_t n_embd)
{
	be_llama();
	strcpy(hparams.arch, "bert");
	hparams.task = MODEL_TASK_EMBED;
	hparams.pooling = MODEL_POOL_CLS;
	hparams.has_fill = true;
	hparams.n_embd = n_embd;
}

int open_model(void **state)
{
	char path[512];
	struct ps_err err = {{0}};
	const char *root = getenv("PENSTOCK_SOURCE_ROOT");

	(void)state;
	be_llama();
	snprintf(path, sizeof(path), "%s/models/demo-llama-f16.gguf", root != NULL ? root : ".");
	if (gguf_open(path, &model, &err) != 0 || tokenizer_load(model, &tokenizer, &err) != 0) {
		fprintf(stderr, "%s\n", err.msg);
		return -1;
	}
	return 0;
}

int close_model(void **state)
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

static uint32_t n_results(const struct act *in, const struct act_seq *seq, uint32_t row)
{
	uint32_t i, n = 0;

	if ((seq->flags & ACT_SEQ_EMBED) != 0)
		return (seq->flags & ACT_SEQ_ROWS) != 0 ? seq->n_tokens : 1;
	for (i = 0; i < seq->n_tokens && (seq->flags & ACT_SEQ_FILL) != 0; i++)
		n += ps_load32(in->tokens + (size_t)4 * (row + i)) == MASK;
	return n;
}

/* Values that a test can tell: not whole numbers, so that their digits matter. */
float value(uint32_t row, uint32_t col)
{
	return ((float)row + 1.0f) / ((float)col + 3.0f);
}

/* The candidates of a masked place: tokens 20, 21, ... of the row's position. */
static float fill_value(uint32_t col)
{
	return (col & 1) == 0 ? 20.0f + (float)col / 2 : 0.5f / (float)(col + 1);
}

static void put_values(struct act *out, uint32_t at, uint32_t n)
{
	uint32_t k, col;

	for (k = 0; k < n; k++) {
		ps_store32(out->tokens + (size_t)4 * (at + k), k);
		for (col = 0; col < out->width; col++) {
			float x = out->pass == ACT_PASS_FILL ? fill_value(col) : value(k, col);

			memcpy(out->payload + ((size_t)(at + k) * out->width + col) * 4, &x, 4);
		}
	}
}

static void shape_answer(struct act *out, const struct act *in, bool fail, uint32_t text_len)
{
	uint32_t i, row = 0;

	*out = (struct act){
	    .kind = fail ? ACT_ERROR : ACT_SAMPLED,
	    .pass = in->pass,
	    .dtype = fail ? ACT_BYTES : ACT_F32,
	    .batch_id = in->batch_id,
	    .n_seqs = in->n_seqs,
	    .n_hops = in->n_hops + 1,
	    .n_rows = fail,
	    .width = fail ? text_len : 0,
	};
	for (i = 0; i < in->n_seqs && !fail; i++) {
		struct act_seq seq;

		act_seq_get(in, i, &seq);
		out->n_rows += n_results(in, &seq, row);
		row += seq.n_tokens;
	}
	if (!fail && out->n_rows > 0) {
		out->kind = ACT_VALUES;
		out->width = in->pass == ACT_PASS_FILL ? 2 * ACT_FILL_BEST : hparams.n_embd;
	}
}

static void answer_seqs(const struct rig *r, const struct act *in, struct act *out)
{
	uint32_t i, row = 0, at = 0;

	for (i = 0; i < in->n_seqs; i++) {
		struct act_seq seq;
		uint32_t n;

		act_seq_get(in, i, &seq);
		n = out->kind == ACT_VALUES ? n_results(in, &seq, row) : 0;
		put_values(out, at, n);
		at += n;
		seq.token = (seq.flags & ACT_SEQ_SAMPLE) != 0 ? next_token(r, in, row, &seq) : -1;
		row += seq.n_tokens;
		seq.n_tokens = n;
		act_seq_put(out, i, &seq);
	}
}

/* The answer to a batch, in buf; its length. */
static size_t answer(struct rig *r, const struct dp_msg *msg, uint8_t *buf, size_t cap)
{
	static const char text[] = "stage 0: told to fail";
	bool fail = atomic_load(&r->fail);
	struct act in, out;
	struct act_hop hop;
	uint32_t i;

	CHECK(act_parse(msg->data, msg->len, &in, NULL) == 0 && in.kind == ACT_TOKENS);
	shape_answer(&out, &in, fail, sizeof(text) - 1);
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
	answer_seqs(r, &in, &out);
	if (fail) {
		memset(out.tokens, 0, 4);
		memcpy(out.payload, text, sizeof(text) - 1);
	}
	return out.len;
}

/* Answers from 4 buffers in turn: no more batches are under way. */
static void *pipe_thread(void *arg)
{
	static uint8_t bufs[4][MAX_MSG] __attribute__((aligned(64)));
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

void open_rig(struct rig *r, const struct tokenizer *tok, uint64_t dead_ns, uint64_t pipe_hash)
{
	static const char *const names[] = {"only"};
	struct gw_server_cfg cfg = {
	    .socket_path = r->path,
	    .ask = {.tokenizer = tok, .no_tokenizer_why = "this model has no vocabulary", .gguf = model},
	    .sched = {.n_slots = 4,
		      .max_waiting = 16,
		      .n_ctx = 256,
		      .max_batch_tokens = 64,
		      .max_batches = 4,
		      .n_stages = 1,
		      .hp = &hparams,
		      .mask_token = MASK},
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
	ep_side_open(&r->gw, "gateway", MAX_MSG, &link[0], 1);
	ep_side_open(&r->pipe, "only", MAX_MSG, &link[1], 1);
	ep_side_start(&r->gw);
	cfg.ep = r->gw.ep;
	if (gw_server_create(&cfg, &r->srv, &r->err) != 0)
		fail_msg("%s", r->err.msg);
	assert_int_equal(pthread_create(&r->serve_thread, NULL, serve_thread, r), 0);
	assert_int_equal(pthread_create(&r->pipe_thread, NULL, pipe_thread, r), 0);
	r->serving = true;
	r->piping = true;
}

void kill_pipeline(struct rig *r)
{
	atomic_store(&r->pipe_stop, 1);
	pthread_join(r->pipe_thread, NULL);
	r->piping = false;
	ep_side_kill(&r->pipe);
}

void close_rig(struct rig *r)
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

void join(const struct rig *r, struct gw_conn *c)
{
	int fd = gw_connect(r->path);

	assert_true(fd >= 0);
	gw_conn_open(c, fd);
}

void ask(struct gw_conn *c, const char *line)
{
	size_t len = strlen(line);

	assert_int_equal(write(c->fd, line, len), len);
	assert_int_equal(write(c->fd, "\n", 1), 1);
}

/* The next event; the caller's to decref. */
json_t *next_event(struct gw_conn *c)
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

const char *name_of(const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "event"));

	assert_non_null(name);
	return name;
}

void expect_error(struct gw_conn *c, const char *part)
{
	json_t *o = next_event(c);
	const char *text = json_string_value(json_object_get(o, "text"));

	assert_string_equal(name_of(o), "error");
	assert_non_null(text);
	if (strstr(text, part) == NULL)
		fail_msg("expected \"%s\" in \"%s\"", part, text);
	json_decref(o);
}

int64_t number(const json_t *o, const char *key)
{
	assert_true(json_is_integer(json_object_get(o, key)));
	return json_integer_value(json_object_get(o, key));
}

json_t *status_of(struct gw_conn *c)
{
	json_t *o;

	ask(c, "{\"op\": \"status\"}");
	o = next_event(c);
	assert_string_equal(name_of(o), "status");
	return o;
}
