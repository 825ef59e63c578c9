/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/client_run.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/control.h"
#include "gateway/client.h"

#define CLIENT_POLL_MS 50
#define CLIENT_GRACE   10 /* polls to wait for the gateway's own words after a process died */

/* What one prompt has got so far. With several prompts the text is held back until those
 * before it are through, so that stdout reads in order. */
struct answer {
	char *text;
	size_t len, cap, printed;
	json_t *ids;
	json_t *done;
};

struct client {
	const struct client_opts *o;
	struct gw_conn conn;
	struct answer *answers; /* [n_prompts] */
	uint32_t showing, n_done;
};

static int append(struct answer *a, const char *text, size_t len)
{
	if (a->len + len + 1 > a->cap) {
		size_t cap = (a->len + len + 1) * 2;
		char *bigger = realloc(a->text, cap);

		if (bigger == NULL)
			return -ENOMEM;
		a->text = bigger;
		a->cap = cap;
	}
	memcpy(a->text + a->len, text, len);
	a->len += len;
	a->text[a->len] = '\0';
	return 0;
}

static void show(struct client *c)
{
	if (c->o->json)
		return;
	while (c->showing < c->o->n_prompts) {
		struct answer *a = &c->answers[c->showing];

		fwrite(a->text + a->printed, 1, a->len - a->printed, stdout);
		a->printed = a->len;
		if (a->done == NULL)
			break;
		putchar('\n');
		c->showing++;
	}
	fflush(stdout);
}

static void send_requests(struct client *c)
{
	const struct sampler_params *s = &c->o->sampling;
	uint32_t i;
	size_t k;

	for (i = 0; i < c->o->n_prompts; i++) {
		json_t *o =
		    json_pack("{s:s, s:i, s:I, s:f, s:i, s:f, s:f, s:f, s:i, s:I}", "op", "generate", "id",
			      (int)i, "max_tokens", (json_int_t)c->o->max_tokens, "temperature",
			      (double)s->temperature, "top_k", (int)s->top_k, "top_p", (double)s->top_p,
			      "min_p", (double)s->min_p, "repeat_penalty", (double)s->repeat_penalty,
			      "repeat_last_n", (int)s->repeat_last_n, "seed", (json_int_t)s->seed);

		if (c->o->prompt_ids == NULL) {
			json_object_set_new(o, "prompt", json_string(c->o->prompts[i]));
		} else {
			json_t *ids = json_array();

			for (k = 0; k < c->o->n_prompt_ids; k++)
				json_array_append_new(ids, json_integer(c->o->prompt_ids[k]));
			json_object_set_new(o, "tokens", ids);
		}
		gw_conn_send(&c->conn, o);
	}
}

static int take_text(struct answer *a, json_t *o)
{
	json_t *text = json_object_get(o, "text"), *bytes = json_object_get(o, "bytes"), *v;
	size_t i;

	if (a->ids == NULL)
		a->ids = json_array();
	if (json_object_get(o, "token") != NULL)
		json_array_append(a->ids, json_object_get(o, "token"));
	if (json_is_string(text))
		return append(a, json_string_value(text), json_string_length(text));
	json_array_foreach(bytes, i, v)
	{
		char byte = (char)json_integer_value(v);

		if (append(a, &byte, 1) != 0)
			return -ENOMEM;
	}
	return 0;
}

static int take_event(struct client *c, const char *line, struct ps_err *err)
{
	json_t *o = json_loads(line, 0, NULL);
	const char *name = json_string_value(json_object_get(o, "event"));
	json_int_t id = json_integer_value(json_object_get(o, "id"));
	int rc = 0;

	if (name == NULL || id < 0 || id >= c->o->n_prompts) {
		rc = ps_err_set(err, -EIO, "the gateway sent what is no event: %.100s", line);
	} else if (strcmp(name, "error") == 0) {
		const char *text = json_string_value(json_object_get(o, "text"));

		rc = ps_err_set(err, -EIO, "%s", text != NULL ? text : "unknown error");
	} else if (strcmp(name, "token") == 0) {
		rc = take_text(&c->answers[id], o);
	} else if (strcmp(name, "done") == 0 && c->answers[id].done == NULL) {
		c->answers[id].done = json_incref(o);
		c->n_done++;
	}
	json_decref(o);
	return rc;
}

static int take_events(struct client *c, struct ps_err *err)
{
	bool open = gw_conn_read(&c->conn);
	char *line;
	int rc = 0;

	while (rc == 0 && (line = gw_conn_line(&c->conn)) != NULL)
		rc = take_event(c, line, err);
	show(c);
	if (rc == 0 && c->n_done < c->o->n_prompts && (!open || c->conn.broken))
		rc = ps_err_set(err, -EPIPE, "the gateway closed the connection");
	return rc;
}

static int wait_answers(struct client *c, struct ps_err *err)
{
	struct ps_err died = {{0}};
	uint32_t grace = 0;
	int rc = 0;

	while (rc == 0 && c->n_done < c->o->n_prompts) {
		struct pollfd pfd = {.fd = c->conn.fd, .events = POLLIN};

		if (c->o->stop != NULL && atomic_load(c->o->stop) != 0)
			return ps_err_set(err, -EINTR, "interrupted");
		if (poll(&pfd, 1, CLIENT_POLL_MS) > 0)
			rc = take_events(c, err);
		/* A process that died is named by its exit status; the gateway's text says what the
		 * pipeline saw of it. Both are wanted, so the gateway gets a moment. */
		if (rc == 0 && grace == 0 && c->o->broken != NULL && c->o->broken(c->o->broken_ctx, &died))
			grace = 1;
		else if (rc == 0 && grace > 0 && ++grace > CLIENT_GRACE)
			return ps_err_set(err, -EIO, "%s", died.msg);
	}
	if (rc != 0 && grace == 0 && c->o->broken != NULL)
		c->o->broken(c->o->broken_ctx, &died);
	if (rc != 0 && died.msg[0] != '\0') {
		struct ps_err both = *err;

		snprintf(err->msg, sizeof(err->msg), "%.480s; %.500s", both.msg, died.msg);
	}
	return rc;
}

static json_t *collect_results(struct client *c)
{
	json_t *results = json_array();
	uint32_t i;

	for (i = 0; i < c->o->n_prompts; i++) {
		struct answer *a = &c->answers[i];
		json_t *o = json_copy(a->done), *text = json_stringn(a->len > 0 ? a->text : "", a->len);

		json_object_del(o, "event");
		if (c->o->prompt_ids == NULL)
			json_object_set_new(o, "prompt", json_string(c->o->prompts[i]));
		json_object_set_new(o, "text", text != NULL ? text : json_null());
		json_object_set_new(o, "token_ids", a->ids != NULL ? json_incref(a->ids) : json_array());
		json_array_append_new(results, o);
	}
	return results;
}

int client_run(const struct client_opts *o, json_t **results_out, struct ps_err *err)
{
	struct client c = {.o = o};
	char path[TOPO_PATH_BYTES + 64];
	uint32_t i;
	int fd, rc;

	control_path(o->run_dir, o->gateway, path, sizeof(path));
	fd = gw_connect(path);
	if (fd < 0)
		return ps_err_set(err, fd, "%s: cannot reach the gateway: %s", path, strerror(-fd));
	gw_conn_open(&c.conn, fd);
	c.answers = calloc(o->n_prompts, sizeof(*c.answers));
	if (c.answers == NULL) {
		gw_conn_close(&c.conn);
		return ps_err_set(err, -ENOMEM, "out of memory");
	}
	send_requests(&c);
	rc = wait_answers(&c, err);
	if (rc == 0)
		*results_out = collect_results(&c);
	else if (c.answers[0].len > 0 && !o->json)
		putchar('\n');
	fflush(stdout);
	for (i = 0; i < o->n_prompts; i++) {
		free(c.answers[i].text);
		json_decref(c.answers[i].done);
		json_decref(c.answers[i].ids);
	}
	free(c.answers);
	gw_conn_close(&c.conn);
	return rc;
}

static void print_part(json_t *hop, const char *key)
{
	json_t *stat = json_object_get(hop, key);

	if (!json_is_object(stat)) {
		fprintf(stderr, "  %8s %8s", "?", "?");
		return;
	}
	fprintf(stderr, "  %8.1f %8.1f", (double)json_integer_value(json_object_get(stat, "p50")) / 1e3,
		(double)json_integer_value(json_object_get(stat, "p99")) / 1e3);
}

static void print_one(json_t *r)
{
	json_t *t = json_object_get(r, "timing"), *token = json_object_get(t, "token_ns");
	json_t *share = json_object_get(t, "network_share"), *hop;
	size_t i;

	fprintf(stderr, "\n%lld tokens after a prompt of %lld (%s)\n",
		(long long)json_integer_value(json_object_get(r, "tokens")),
		(long long)json_integer_value(json_object_get(r, "prompt_tokens")),
		json_string_value(json_object_get(r, "reason")));
	fprintf(stderr, "  time to first token   %10.3f ms\n",
		(double)json_integer_value(json_object_get(t, "ttft_ns")) / 1e6);
	if (!json_is_object(token) || json_array_size(json_object_get(t, "hops")) == 0)
		return;
	fprintf(stderr, "  time per token        %10.3f ms median, %.3f ms p99\n",
		(double)json_integer_value(json_object_get(token, "p50")) / 1e6,
		(double)json_integer_value(json_object_get(token, "p99")) / 1e6);
	fprintf(stderr, "  tokens per second     %10.1f\n",
		json_real_value(json_object_get(t, "tokens_per_s")));
	if (json_is_real(share))
		fprintf(stderr, "  network's share       %10.1f %% of a token's time (wire and host)\n",
			100.0 * json_real_value(share));
	else
		fprintf(stderr,
			"  network's share       unknown: the processes' clocks cannot be compared\n");
	fprintf(stderr,
		"\n  us a token   |       compute     |       queue       |        wire       |        host\n"
		"  process      |   median      p99 |   median      p99 |   median      p99 |   median      "
		"p99\n");
	json_array_foreach(json_object_get(t, "hops"), i, hop)
	{
		fprintf(stderr, "  %-12s", json_string_value(json_object_get(hop, "process")));
		print_part(hop, "compute_ns");
		print_part(hop, "queue_ns");
		print_part(hop, "wire_ns");
		print_part(hop, "host_ns");
		fputc('\n', stderr);
	}
}

void client_print_table(json_t *results)
{
	json_t *r;
	size_t i;

	json_array_foreach(results, i, r) print_one(r);
	fprintf(
	    stderr,
	    "\n  wire: handed to the link, to message whole in this process; queue: until compute starts;\n"
	    "  host: compute done, to handed to the next link. The parts of all rows make up a token's "
	    "time.\n");
}
