/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/server.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "gateway/client.h"

#define SRV_MAX_CLIENTS  64u
#define SRV_MAX_REQUESTS 320u       /* of all clients together */
#define SRV_POLL_NS      1000000ull /* how often clients are looked at while tokens flow */
#define SRV_IDLE_WAIT_NS 100000000ull

static_assert(SRV_MAX_CLIENTS + 1 <= DP_BELL_MAX_FDS, "one wait takes all clients");

struct request {
	struct gw_server *srv; /* NULL: free */
	struct gw_conn *conn;
	json_t *id; /* echoed in every event; may be NULL */
	uint32_t seq;
	struct tokenizer_stream stream;
	uint32_t n_prompt;
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

static bool on_token(void *user, int32_t id)
{
	struct request *r = user;
	const struct tokenizer *t = r->srv->cfg.tokenizer;
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
	o = json_pack("{s:I, s:I, s:o, s:f, s:o, s:o}", "ttft_ns", (json_int_t)t->ttft_ns, "total_ns",
		      (json_int_t)(t->n_generated > 0 ? t->last_ns - t->submit_ns : 0), "token_ns",
		      stat_json(&token), "tokens_per_s",
		      token.sum_ns > 0 ? (double)t->n_tokens * 1e9 / (double)token.sum_ns : 0.0,
		      "network_share", share < 0 ? json_null() : json_real(share), "hops", hops);
	return o;
}

static void free_request(struct request *r)
{
	json_decref(r->id);
	memset(r, 0, sizeof(*r));
}

static void on_done(void *user, enum gw_reason reason, const char *error, const struct gw_timing *timing)
{
	static const char *const names[] = {"stop", "length", "cancelled", "error"};
	struct request *r = user;
	char text[16];
	size_t len = tokenizer_stream_flush(&r->stream, text, sizeof(text));
	json_t *o;

	if (r->conn != NULL && reason == GW_REASON_ERROR) {
		send_error(r->conn, r->id, error);
	} else if (r->conn != NULL) {
		if (len > 0)
			send_text(r, -1, text, len);
		o = event(r, "done");
		json_object_set_new(o, "reason", json_string(names[reason]));
		json_object_set_new(o, "prompt_tokens", json_integer(r->n_prompt));
		json_object_set_new(o, "tokens", json_integer(timing->n_generated));
		json_object_set_new(o, "timing", timing_json(r->srv, timing));
		gw_conn_send(r->conn, o);
	}
	free_request(r);
}

static const struct gw_sink request_sink = {.token = on_token, .done = on_done};

/* The request's numbers; NULL, or what is wrong. A missing key keeps its default. */
static const char *read_numbers(json_t *o, struct gw_request *req)
{
	double temperature = 0, top_p = 1, min_p = 0, penalty = 1;
	json_int_t max_tokens = 64, top_k = 0, last_n = 64, seed = 0;

	if (json_unpack(o, "{s?I, s?F, s?I, s?F, s?F, s?F, s?I, s?I}", "max_tokens", &max_tokens,
			"temperature", &temperature, "top_k", &top_k, "top_p", &top_p, "min_p", &min_p,
			"repeat_penalty", &penalty, "repeat_last_n", &last_n, "seed", &seed) != 0)
		return "a number was expected for max_tokens, temperature, top_k, top_p, min_p, "
		       "repeat_penalty, "
		       "repeat_last_n and seed";
	if (max_tokens < 0 || max_tokens > INT32_MAX || top_k < 0 || top_k > INT32_MAX || last_n < 0 ||
	    last_n > INT32_MAX)
		return "max_tokens, top_k and repeat_last_n must be from 0 to 2147483647";
	sampler_params_default(&req->sampling);
	req->max_tokens = (uint32_t)max_tokens;
	req->sampling.temperature = (float)temperature;
	req->sampling.top_k = (int32_t)top_k;
	req->sampling.top_p = (float)top_p;
	req->sampling.min_p = (float)min_p;
	req->sampling.repeat_penalty = (float)penalty;
	req->sampling.repeat_last_n = (int32_t)last_n;
	req->sampling.seed = (uint64_t)seed;
	return NULL;
}

/* Token ids from "tokens" or from "prompt"; malloc'd. NULL return: fine, else what is wrong. */
static const char *read_prompt(struct gw_server *srv, json_t *o, int32_t **ids_out, size_t *n_out)
{
	json_t *tokens = json_object_get(o, "tokens"), *prompt = json_object_get(o, "prompt"), *v;
	size_t i;
	int rc;

	if (json_is_array(tokens)) {
		*n_out = json_array_size(tokens);
		*ids_out = malloc((*n_out + 1) * sizeof(**ids_out));
		if (*ids_out == NULL)
			return "out of memory";
		json_array_foreach(tokens, i, v)
		{
			if (!json_is_integer(v) || json_integer_value(v) < 0 ||
			    json_integer_value(v) > INT32_MAX)
				return "\"tokens\" must be an array of token ids";
			(*ids_out)[i] = (int32_t)json_integer_value(v);
		}
		return NULL;
	}
	if (!json_is_string(prompt))
		return "expected \"prompt\" (a text) or \"tokens\" (an array of ids)";
	if (srv->cfg.tokenizer == NULL)
		return srv->cfg.no_tokenizer_why;
	rc = tokenizer_encode(srv->cfg.tokenizer, json_string_value(prompt), json_string_length(prompt), true,
			      true, ids_out, n_out);
	if (rc == -EILSEQ)
		return "the prompt has a character for which the model's vocabulary has no token";
	return rc == 0 ? NULL : "out of memory for the prompt's tokens";
}

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

static void op_generate(struct gw_server *srv, struct gw_conn *conn, json_t *o)
{
	struct gw_request req = {.sink = &request_sink};
	json_t *id = json_object_get(o, "id");
	struct ps_err err = {{0}};
	int32_t *ids = NULL;
	struct request *r;
	size_t n = 0;
	const char *bad = read_numbers(o, &req);

	if (bad == NULL)
		bad = read_prompt(srv, o, &ids, &n);
	if (bad == NULL && n > UINT32_MAX)
		bad = "the prompt is too long";
	r = bad == NULL ? new_request(srv, conn, id) : NULL;
	if (bad == NULL && r == NULL)
		bad = "too many requests: try again later";
	if (bad != NULL) {
		send_error(conn, id, bad);
		free(ids);
		return;
	}
	req.tokens = ids;
	req.n_tokens = (uint32_t)n;
	req.user = r;
	r->n_prompt = (uint32_t)n;
	if (gw_sched_submit(srv->sched, &req, ps_now_ns(), &r->seq, &err) != 0) {
		send_error(conn, id, err.msg);
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

	if (o == NULL) {
		snprintf(text, sizeof(text), "not JSON: column %d: %s", jerr.column, jerr.text);
		send_error(conn, NULL, text);
	} else if (op == NULL)
		send_error(conn, NULL, "expected a JSON object with \"op\": \"generate\" or \"status\"");
	else if (strcmp(op, "generate") == 0)
		op_generate(srv, conn, o);
	else if (strcmp(op, "status") == 0)
		op_status(srv, conn);
	else
		send_error(conn, json_object_get(o, "id"), "unknown op: expected \"generate\" or \"status\"");
	json_decref(o);
}

static void drop_conn(struct gw_server *srv, struct gw_conn *conn)
{
	uint32_t i;

	for (i = 0; i < SRV_MAX_REQUESTS; i++) {
		struct request *r = &srv->requests[i];

		if (r->srv != NULL && r->conn == conn) {
			r->conn = NULL;
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
