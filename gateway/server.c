/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/server.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "gateway/client.h"

#define SRV_MAX_CLIENTS  64u
#define SRV_MAX_REQUESTS 320u       /* of all clients together */
#define SRV_POLL_NS      1000000ull /* how often clients are looked at while tokens flow */
#define SRV_OPS          "\"generate\", \"embed\", \"fill\" or \"status\""
#define SRV_IDLE_WAIT_NS 100000000ull
/* Rows of values wait here, not in a client's output, which has a bound: so much of it is kept full. */
#define SRV_ROWS_AHEAD (256u << 10)

static_assert(SRV_MAX_CLIENTS + 1 <= DP_BELL_MAX_FDS, "one wait takes all clients");

struct request {
	struct gw_server *srv; /* NULL: free */
	struct gw_conn *conn;
	json_t *id; /* echoed in every event; may be NULL */
	uint32_t seq;
	struct tokenizer_stream stream;
	uint32_t n_prompt;
	enum gw_task task;
	bool per_token;
	/* The answer of an embed or fill request, sent a row an event as the client takes it. */
	float *rows;        /* [n_rows, width], NULL: none */
	int32_t *positions; /* [n_rows] */
	uint32_t n_rows, width, next_row;
	json_t *done; /* the event that comes after them; its sequence is over */
};

struct tx_buf {
	uint8_t *mem;
	bool used;
};

struct gw_server {
	struct gw_server_cfg cfg;
	struct gw_sched *sched;
	int listen_fd;
	struct gw_conn conns[SRV_MAX_CLIENTS];
	struct request requests[SRV_MAX_REQUESTS];
	struct tx_buf *tx; /* [max_batches] */
	size_t tx_bytes;
	bool link_up[2]; /* first, last */
	bool was_ready;
	struct ps_err refused;
	uint64_t last_poll_ns;
};

static json_t *event(const struct request *r, const char *name)
{
	json_t *o = json_pack("{s:s}", "event", name);

	if (r != NULL && r->id != NULL)
		json_object_set(o, "id", r->id);
	return o;
}

static void send_error(struct gw_conn *conn, json_t *id, const char *text)
{
	json_t *o = json_pack("{s:s, s:s}", "event", "error", "text", text);

	if (o == NULL) /* not UTF-8 */
		o = json_pack("{s:s, s:s}", "event", "error", "text", "error (its text is not UTF-8)");
	if (id != NULL)
		json_object_set(o, "id", id);
	gw_conn_send(conn, o);
}

static void send_text(struct request *r, int32_t token, const char *text, size_t len)
{
	json_t *o = event(r, "token"), *s;

	if (token >= 0)
		json_object_set_new(o, "token", json_integer(token));
	/* Bytes that are no UTF-8 (a byte-fallback token on its own) go as an array. */
	s = json_stringn(text, len);
	if (s != NULL) {
		json_object_set_new(o, "text", s);
	} else {
		json_t *bytes = json_array();
		size_t i;

		for (i = 0; i < len; i++)
			json_array_append_new(bytes, json_integer((uint8_t)text[i]));
		json_object_set_new(o, "bytes", bytes);
	}
	gw_conn_send(r->conn, o);
}

static void free_request(struct request *r)
{
	json_decref(r->id);
	json_decref(r->done);
	free(r->rows);
	free(r->positions);
	memset(r, 0, sizeof(*r));
}

/* One float32 as the shortest number that reads back as the same one, or nearly: 12 digits are enough. */
static json_t *number(float x)
{
	return json_real((double)x);
}

/* The text of one token by itself. */
static json_t *token_text(const struct gw_server *srv, int32_t id)
{
	char *text = NULL;
	size_t len = 0;
	json_t *s = NULL;

	if (srv->cfg.ask.tokenizer != NULL &&
	    tokenizer_decode(srv->cfg.ask.tokenizer, &id, 1, &text, &len) == 0)
		s = json_stringn(text, len);
	free(text);
	return s != NULL ? s : json_string("");
}

static json_t *candidates(const struct gw_server *srv, const float *row)
{
	json_t *list = json_array();
	uint32_t i;

	for (i = 0; i < ACT_FILL_BEST; i++) {
		const float id = row[2 * i];

		/* -1: a vocabulary of fewer tokens. */
		if (id < 0 || id >= (float)srv->cfg.sched.hp->n_vocab)
			break;
		json_array_append_new(list, json_pack("{s:i, s:o, s:o}", "token", (int)id, "text",
						      token_text(srv, (int32_t)id), "probability",
						      number(row[2 * i + 1])));
	}
	return list;
}

static const char *pooling_name(const struct gw_server *srv)
{
	static const char *const names[] = {[MODEL_POOL_NONE] = "mean",
					    [MODEL_POOL_MEAN] = "mean",
					    [MODEL_POOL_CLS] = "cls",
					    [MODEL_POOL_LAST] = "last"};

	return names[srv->cfg.sched.hp->pooling];
}

static void send_row(struct request *r)
{
	const float *row = r->rows + (size_t)r->next_row * r->width;
	json_t *o = event(r, r->task == GW_TASK_FILL ? "fill" : "embedding"), *values;
	uint32_t i;

	if (r->task == GW_TASK_FILL || r->per_token)
		json_object_set_new(o, "position", json_integer(r->positions[r->next_row]));
	else
		json_object_set_new(o, "pooling", json_string(pooling_name(r->srv)));
	r->next_row++;
	if (r->task == GW_TASK_FILL) {
		json_object_set_new(o, "candidates", candidates(r->srv, row));
	} else {
		values = json_array();
		for (i = 0; i < r->width; i++)
			json_array_append_new(values, number(row[i]));
		json_object_set_new(o, "values", values);
	}
	gw_conn_send(r->conn, o);
}

/* As many rows as the client's output should hold now; after the last one the request is over. */
static void send_rows(struct request *r)
{
	while (r->next_row < r->n_rows && !r->conn->broken && r->conn->out_len < SRV_ROWS_AHEAD)
		send_row(r);
	if (r->next_row < r->n_rows)
		return;
	gw_conn_send(r->conn, json_incref(r->done));
	free_request(r);
}

static bool all_finite(const float *x, size_t n)
{
	size_t i;

	for (i = 0; i < n && isfinite(x[i]); i++)
		;
	return i == n;
}

static void on_values(void *user, const struct gw_values *v)
{
	const size_t n = (size_t)v->n_rows * v->width;
	struct request *r = user;

	r->n_rows = v->n_rows;
	r->width = v->width;
	r->rows = all_finite(v->rows, n) ? malloc(n * sizeof(float)) : NULL;
	r->positions = malloc(v->n_rows * sizeof(*r->positions));
	if (r->rows == NULL || r->positions == NULL)
		return; /* on_done says so */
	memcpy(r->rows, v->rows, n * sizeof(float));
	memcpy(r->positions, v->positions, v->n_rows * sizeof(*r->positions));
}

static bool on_token(void *user, int32_t id)
{
	struct request *r = user;
	const struct tokenizer *t = r->srv->cfg.ask.tokenizer;
	char text[TOKENIZER_STREAM_BYTES];
	size_t len = 0;

	if (t != NULL && tokenizer_is_eog(t, id))
		return false;
	if (t != NULL)
		len = tokenizer_stream_push(t, &r->stream, id, text, sizeof(text));
	if (r->conn != NULL)
		send_text(r, id, text, len);
	return true;
}

static const char *proc_name(const struct gw_server *srv, uint32_t proc)
{
	return proc < srv->cfg.sched.n_stages ? srv->cfg.stage_names[proc] : "gateway";
}

static json_t *stat_json(const struct gw_timing_stat *s)
{
	if (!s->known)
		return json_null();
	return json_pack("{s:I, s:I}", "p50", (json_int_t)s->p50_ns, "p99", (json_int_t)s->p99_ns);
}

static json_t *timing_json(const struct gw_server *srv, const struct gw_timing *t)
{
	static const char *const names[GW_N_PARTS] = {"wire_ns", "queue_ns", "compute_ns", "host_ns"};
	double share = gw_timing_network_share(t);
	struct gw_timing_stat token, stat;
	json_t *o, *hops = json_array();
	uint32_t i, part;

	gw_timing_token(t, &token);
	for (i = 0; i < t->n_procs; i++) {
		json_t *hop = json_pack("{s:s}", "process", proc_name(srv, i));

		for (part = 0; part < GW_N_PARTS; part++) {
			gw_timing_part(t, i, (enum gw_part)part, &stat);
			json_object_set_new(hop, names[part], stat_json(&stat));
		}
		json_array_append_new(hops, hop);
	}
	o = json_pack(
	    "{s:I, s:I, s:o, s:f, s:o, s:o}", "ttft_ns", (json_int_t)t->ttft_ns, "total_ns",
	    (json_int_t)(t->last_ns > 0 ? t->last_ns - t->submit_ns : 0), "token_ns", stat_json(&token),
	    "tokens_per_s",
	    t->n_generated > 0 && token.sum_ns > 0 ? (double)t->n_tokens * 1e9 / (double)token.sum_ns : 0.0,
	    "network_share", share < 0 ? json_null() : json_real(share), "hops", hops);
	return o;
}

static void finish(struct request *r, enum gw_reason reason, const struct gw_timing *timing)
{
	static const char *const names[] = {"stop", "length", "cancelled", "error"};
	json_t *o = event(r, "done");

	json_object_set_new(o, "reason", json_string(names[reason]));
	json_object_set_new(o, "prompt_tokens", json_integer(r->n_prompt));
	json_object_set_new(o, "tokens", json_integer(timing->n_generated));
	json_object_set_new(o, "timing", timing_json(r->srv, timing));
	r->done = o;
	send_rows(r);
}

static void on_done(void *user, enum gw_reason reason, const char *error, const struct gw_timing *timing)
{
	struct request *r = user;
	char text[16];
	size_t len = tokenizer_stream_flush(&r->stream, text, sizeof(text));

	if (reason == GW_REASON_STOP && r->n_rows > 0 && (r->rows == NULL || r->positions == NULL)) {
		reason = GW_REASON_ERROR;
		error = "the model's values are not all numbers, or there is no memory for them";
	}
	if (r->conn != NULL && reason != GW_REASON_ERROR) {
		if (len > 0)
			send_text(r, -1, text, len);
		finish(r, reason, timing);
		return;
	}
	if (r->conn != NULL)
		send_error(r->conn, r->id, error);
	free_request(r);
}

static const struct gw_sink request_sink = {.token = on_token, .values = on_values, .done = on_done};

static struct request *new_request(struct gw_server *srv, struct gw_conn *conn, json_t *id)
{
	uint32_t i;

	for (i = 0; i < SRV_MAX_REQUESTS; i++) {
		struct request *r = &srv->requests[i];

		if (r->srv == NULL) {
			r->srv = srv;
			r->conn = conn;
			r->id = json_incref(id);
			tokenizer_stream_init(&r->stream);
			return r;
		}
	}
	return NULL;
}

static void op_request(struct gw_server *srv, struct gw_conn *conn, json_t *o, enum gw_task task)
{
	json_t *id = json_object_get(o, "id");
	struct gw_request req;
	struct ps_err err = {{0}};
	struct request *r = NULL;
	int32_t *ids = NULL;
	int rc = gw_ask_read(&srv->cfg.ask, o, task, &req, &ids, &err);

	if (rc == 0 && (r = new_request(srv, conn, id)) == NULL)
		rc = ps_err_set(&err, -EAGAIN, "too many requests: try again later");
	if (rc == 0) {
		req.sink = &request_sink;
		req.user = r;
		r->task = task;
		r->per_token = req.per_token;
		r->n_prompt = req.n_tokens;
		rc = gw_sched_submit(srv->sched, &req, ps_now_ns(), &r->seq, &err);
	}
	if (rc != 0) {
		send_error(conn, id, err.msg);
		if (r != NULL)
			free_request(r);
	}
	free(ids);
}

static void op_status(struct gw_server *srv, struct gw_conn *conn)
{
	struct gw_sched_stats st;
	const char *broken = gw_sched_broken(srv->sched);
	json_t *o;

	gw_sched_stats(srv->sched, &st);
	o = json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:i, s:i}", "event", "status", "role", "gateway",
		      "ready", broken == NULL && srv->was_ready, "requests", (json_int_t)st.requests,
		      "tokens", (json_int_t)st.tokens, "batches", (json_int_t)st.batches, "errors",
		      (json_int_t)st.errors, "active", (int)st.active, "waiting", (int)st.waiting);
	if (broken != NULL)
		json_object_set_new(o, "broken", json_string(broken));
	if (srv->cfg.status != NULL)
		srv->cfg.status(srv->cfg.status_ctx, o);
	gw_conn_send(conn, o);
}

static void serve_line(struct gw_server *srv, struct gw_conn *conn, const char *line)
{
	json_error_t jerr;
	json_t *o = json_loads(line, 0, &jerr);
	const char *op = json_string_value(json_object_get(o, "op"));
	char text[JSON_ERROR_TEXT_LENGTH + 64];
	enum gw_task task;

	if (o == NULL) {
		snprintf(text, sizeof(text), "not JSON: column %d: %s", jerr.column, jerr.text);
		send_error(conn, NULL, text);
	} else if (op == NULL)
		send_error(conn, NULL, "expected a JSON object with \"op\": " SRV_OPS);
	else if (gw_ask_task(op, &task))
		op_request(srv, conn, o, task);
	else if (strcmp(op, "status") == 0)
		op_status(srv, conn);
	else
		send_error(conn, json_object_get(o, "id"), "unknown op: expected " SRV_OPS);
	json_decref(o);
}

static void drop_conn(struct gw_server *srv, struct gw_conn *conn)
{
	uint32_t i;

	for (i = 0; i < SRV_MAX_REQUESTS; i++) {
		struct request *r = &srv->requests[i];

		if (r->srv != NULL && r->conn == conn) {
			r->conn = NULL;
			if (r->done != NULL)
				free_request(r);
			else
				gw_sched_cancel(srv->sched, r->seq, ps_now_ns());
		}
	}
	gw_conn_close(conn);
}

static void accept_clients(struct gw_server *srv)
{
	struct gw_conn refused;
	uint32_t i;
	int fd;

	while ((fd = accept4(srv->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		for (i = 0; i < SRV_MAX_CLIENTS && srv->conns[i].fd >= 0; i++)
			;
		if (i < SRV_MAX_CLIENTS) {
			gw_conn_open(&srv->conns[i], fd);
			continue;
		}
		gw_conn_open(&refused, fd);
		send_error(&refused, NULL, "too many clients are connected: try again later");
		gw_conn_close(&refused);
	}
}

static void serve_clients(struct gw_server *srv, uint64_t now_ns)
{
	uint32_t i;
	char *line;

	srv->last_poll_ns = now_ns;
	accept_clients(srv);
	for (i = 0; i < SRV_MAX_CLIENTS; i++) {
		struct gw_conn *c = &srv->conns[i];
		bool open;

		if (c->fd < 0)
			continue;
		open = gw_conn_read(c);
		while (!c->broken && (line = gw_conn_line(c)) != NULL)
			serve_line(srv, c, line);
		gw_conn_flush(c);
		if (!open || c->broken)
			drop_conn(srv, c);
	}
	for (i = 0; i < SRV_MAX_REQUESTS; i++) {
		if (srv->requests[i].done != NULL)
			send_rows(&srv->requests[i]);
	}
}

static void take_events(struct gw_server *srv)
{
	struct dp_link_event ev;
	uint32_t link;

	while (dp_endpoint_event(srv->cfg.ep, &link, &ev)) {
		uint32_t which = link == srv->cfg.link_first ? 0 : 1;

		if (ev.kind == DP_LINK_EV_UP) {
			srv->link_up[which] = true;
			if (srv->cfg.link_first == srv->cfg.link_last)
				srv->link_up[1] = true;
			continue;
		}
		srv->link_up[which] = false;
		if (ev.kind == DP_LINK_EV_REFUSED)
			ps_err_set(&srv->refused, -ECONNREFUSED, "%s", ev.text);
		if (srv->was_ready)
			gw_sched_break(srv->sched, ev.text);
	}
	if (srv->link_up[0] && srv->link_up[1] && !srv->was_ready) {
		srv->was_ready = true;
		if (srv->cfg.ready != NULL)
			srv->cfg.ready(srv->cfg.ready_ctx);
	}
}

static bool take_messages(struct gw_server *srv)
{
	struct dp_tx_msg done;
	struct ps_err err;
	struct dp_msg msg;
	bool any = false;
	uint32_t link;

	while (dp_endpoint_done(srv->cfg.ep, &link, &done)) {
		((struct tx_buf *)done.cookie)->used = false;
		if (done.failed) {
			/* The link's event came before it, and says who died and why. */
			take_events(srv);
			gw_sched_break(srv->sched,
				       "the link to the first stage ended while a batch was under way");
		}
		any = true;
	}
	while (dp_endpoint_recv(srv->cfg.ep, &link, &msg)) {
		if (gw_sched_result(srv->sched, msg.data, msg.len, msg.rx_done_ns, ps_now_ns(), &err) != 0)
			gw_sched_break(srv->sched, err.msg);
		dp_endpoint_release(srv->cfg.ep, link, &msg);
		any = true;
	}
	return any;
}

static struct tx_buf *free_tx(struct gw_server *srv)
{
	uint32_t i;

	for (i = 0; i < srv->cfg.sched.max_batches; i++) {
		if (!srv->tx[i].used)
			return &srv->tx[i];
	}
	return NULL;
}

static void send_batches(struct gw_server *srv)
{
	uint8_t *hop_tx;
	struct tx_buf *b;
	size_t len;

	while (srv->was_ready && (b = free_tx(srv)) != NULL &&
	       gw_sched_next(srv->sched, ps_now_ns(), b->mem, srv->tx_bytes, &len, &hop_tx)) {
		const struct dp_tx_msg msg = {
		    .data = b->mem,
		    .len = (uint32_t)len,
		    .cookie = b,
		    .stamp_ns = hop_tx,
		};

		b->used = true;
		/* There are no more buffers than the link's queue holds. */
		CHECK(dp_endpoint_send(srv->cfg.ep, srv->cfg.link_first, &msg));
	}
}

static void wait_for_work(struct gw_server *srv)
{
	struct pollfd fds[SRV_MAX_CLIENTS + 1];
	uint32_t i, n = 0;

	fds[n++] = (struct pollfd){.fd = srv->listen_fd, .events = POLLIN};
	for (i = 0; i < SRV_MAX_CLIENTS; i++) {
		const struct gw_conn *c = &srv->conns[i];

		if (c->fd >= 0)
			fds[n++] = (struct pollfd){
			    .fd = c->fd, .events = (short)(POLLIN | (c->out_len > 0 ? POLLOUT : 0))};
	}
	dp_endpoint_wait_fds(srv->cfg.ep, fds, n, SRV_IDLE_WAIT_NS);
}

int gw_server_run(struct gw_server *srv, const _Atomic int *stop, struct ps_err *err)
{
	while (atomic_load_explicit(stop, memory_order_relaxed) == 0) {
		bool busy = take_messages(srv);
		uint64_t now_ns;

		take_events(srv);
		if (srv->refused.msg[0] != '\0' && !srv->was_ready)
			return ps_err_set(err, -ECONNREFUSED, "%s", srv->refused.msg);
		send_batches(srv);
		now_ns = ps_now_ns();
		if (!busy || now_ns - srv->last_poll_ns > SRV_POLL_NS) {
			serve_clients(srv, now_ns);
			send_batches(srv);
		}
		if (!busy)
			wait_for_work(srv);
	}
	return 0;
}

int gw_server_create(const struct gw_server_cfg *cfg, struct gw_server **srv_out, struct ps_err *err)
{
	struct gw_server *srv = calloc(1, sizeof(*srv));
	uint32_t i;
	int rc;

	if (srv == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for the gateway");
	srv->cfg = *cfg;
	srv->listen_fd = -1;
	for (i = 0; i < SRV_MAX_CLIENTS; i++)
		srv->conns[i].fd = -1;
	rc = gw_sched_create(&cfg->sched, &srv->sched, err);
	if (rc != 0)
		goto out_destroy;
	srv->tx_bytes = (gw_sched_max_bytes(srv->sched) + 63) & ~(size_t)63;
	srv->tx = calloc(cfg->sched.max_batches, sizeof(*srv->tx));
	for (i = 0; srv->tx != NULL && i < cfg->sched.max_batches; i++) {
		srv->tx[i].mem = aligned_alloc(64, srv->tx_bytes);
		if (srv->tx[i].mem == NULL)
			break;
	}
	if (srv->tx == NULL || i < cfg->sched.max_batches) {
		rc = ps_err_set(err, -ENOMEM, "out of memory for %u batch messages", cfg->sched.max_batches);
		goto out_destroy;
	}
	srv->listen_fd = gw_listen(cfg->socket_path);
	if (srv->listen_fd < 0) {
		rc = ps_err_set(err, srv->listen_fd, "%s: cannot listen: %s", cfg->socket_path,
				strerror(-srv->listen_fd));
		goto out_destroy;
	}
	*srv_out = srv;
	return 0;

out_destroy:
	gw_server_destroy(srv);
	return rc;
}

void gw_server_destroy(struct gw_server *srv)
{
	uint32_t i;

	if (srv == NULL)
		return;
	if (srv->sched != NULL)
		gw_sched_break(srv->sched, "the gateway stops");
	for (i = 0; i < SRV_MAX_REQUESTS; i++) {
		if (srv->requests[i].srv != NULL)
			free_request(&srv->requests[i]);
	}
	for (i = 0; i < SRV_MAX_CLIENTS; i++) {
		if (srv->conns[i].fd >= 0)
			gw_conn_close(&srv->conns[i]);
	}
	gw_sched_destroy(srv->sched);
	for (i = 0; srv->tx != NULL && i < srv->cfg.sched.max_batches; i++)
		free(srv->tx[i].mem);
	free(srv->tx);
	if (srv->listen_fd >= 0) {
		close(srv->listen_fd);
		unlink(srv->cfg.socket_path);
	}
	free(srv);
}
