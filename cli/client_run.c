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
#include "model/unicode.h"

#define CLIENT_POLL_MS 50
#define CLIENT_GRACE   10 /* polls to wait for the gateway's own words after a process died */

/* What one prompt has got so far. With several prompts the text is held back until those
 * before it are through, so that stdout reads in order. */
struct answer {
	char *text;
	size_t len, cap, printed;
	json_t *ids;
	json_t *rows; /* of an embed or fill request: their events */
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

/* Where there is no text: of a model without a vocabulary the ids are the answer. */
static void print_ids(const struct answer *a)
{
	json_t *id;
	size_t i;

	json_array_foreach(a->ids, i, id)
	    printf("%s%lld", i > 0 ? "," : "", (long long)json_integer_value(id));
}

static void show(struct client *c)
{
	if (c->o->json || c->o->task != GW_TASK_GENERATE)
		return;
	while (c->showing < c->o->n_prompts) {
		struct answer *a = &c->answers[c->showing];

		fwrite(a->text + a->printed, 1, a->len - a->printed, stdout);
		a->printed = a->len;
		if (a->done == NULL)
			break;
		if (a->len == 0)
			print_ids(a);
		putchar('\n');
		c->showing++;
	}
	fflush(stdout);
}

static void add_prompt(const struct client *c, uint32_t i, json_t *o)
{
	json_t *ids;
	size_t k;

	if (c->o->chat != NULL) {
		json_object_set_new(o, "chat", json_string(c->o->chat));
		json_object_set_new(o, "messages",
				    json_pack("[{s:s, s:s}]", "role", "user", "content", c->o->prompts[i]));
		return;
	}
	if (c->o->prompt_ids == NULL) {
		json_object_set_new(o, "prompt", json_string(c->o->prompts[i]));
		return;
	}
	ids = json_array();
	for (k = 0; k < c->o->n_prompt_ids; k++)
		json_array_append_new(ids, json_integer(c->o->prompt_ids[k]));
	json_object_set_new(o, "tokens", ids);
}

static json_t *generate_request(const struct client_opts *co)
{
	const struct sampler_params *s = &co->sampling;

	return json_pack("{s:s, s:I, s:f, s:i, s:f, s:f, s:f, s:i, s:I}", "op", "generate", "max_tokens",
			 (json_int_t)co->max_tokens, "temperature", (double)s->temperature, "top_k",
			 (int)s->top_k, "top_p", (double)s->top_p, "min_p", (double)s->min_p,
			 "repeat_penalty", (double)s->repeat_penalty, "repeat_last_n", (int)s->repeat_last_n,
			 "seed", (json_int_t)s->seed);
}

static void send_requests(struct client *c)
{
	uint32_t i;

	for (i = 0; i < c->o->n_prompts; i++) {
		json_t *o = c->o->task == GW_TASK_GENERATE
				? generate_request(c->o)
				: json_pack("{s:s}", "op", c->o->task == GW_TASK_EMBED ? "embed" : "fill");

		if (c->o->per_token)
			json_object_set_new(o, "per_token", json_true());
		json_object_set_new(o, "id", json_integer(i));
		add_prompt(c, i, o);
		gw_conn_send(&c->conn, o);
	}
}

/* Bytes that are no UTF-8: well-formed characters as they are, U+FFFD for what never became one. */
static int append_bytes(struct answer *a, json_t *bytes)
{
	static const char replacement[] = "\xef\xbf\xbd";
	const size_t n = json_array_size(bytes);
	char *raw = malloc(n + 1);
	size_t i, len;
	int rc = raw == NULL ? -ENOMEM : 0;

	for (i = 0; rc == 0 && i < n; i++)
		raw[i] = (char)json_integer_value(json_array_get(bytes, i));
	for (i = 0; rc == 0 && i < n; i += len) {
		len = unicode_utf8_len(raw + i, n - i);
		if (len > 0) {
			rc = append(a, raw + i, len);
			continue;
		}
		rc = append(a, replacement, sizeof(replacement) - 1);
		/* What could have begun a character stands for one, not for one a byte. */
		for (len = 1; i + len < n && unicode_utf8_is_partial(raw + i, len + 1); len++)
			;
	}
	free(raw);
	return rc;
}

static int take_text(struct answer *a, json_t *o)
{
	json_t *text = json_object_get(o, "text");

	if (a->ids == NULL)
		a->ids = json_array();
	if (json_object_get(o, "token") != NULL)
		json_array_append(a->ids, json_object_get(o, "token"));
	if (json_is_string(text))
		return append(a, json_string_value(text), json_string_length(text));
	return append_bytes(a, json_object_get(o, "bytes"));
}

static void take_row(struct answer *a, json_t *o)
{
	if (a->rows == NULL)
		a->rows = json_array();
	json_array_append(a->rows, o);
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
	} else if (strcmp(name, "embedding") == 0 || strcmp(name, "fill") == 0) {
		take_row(&c->answers[id], o);
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

/* The rows of an embed or fill request into its result. */
static void add_rows(const struct client_opts *co, const struct answer *a, json_t *result)
{
	json_t *row, *list = json_array();
	size_t i;

	json_object_del(result, "tokens");
	json_array_foreach(a->rows, i, row)
	{
		if (co->task == GW_TASK_FILL) {
			json_object_del(row, "event");
			json_object_del(row, "id");
			json_array_append(list, row);
		} else {
			json_array_append(list, json_object_get(row, "values"));
		}
	}
	if (co->task == GW_TASK_FILL) {
		json_object_set(result, "masks", list);
	} else if (co->per_token) {
		json_object_set(result, "embeddings", list);
	} else {
		row = json_array_get(a->rows, 0);
		json_object_set(result, "pooling", json_object_get(row, "pooling"));
		json_object_set(result, "embedding", json_array_get(list, 0));
	}
	json_decref(list);
}

static json_t *collect_results(struct client *c)
{
	json_t *results = json_array();
	uint32_t i;

	for (i = 0; i < c->o->n_prompts; i++) {
		struct answer *a = &c->answers[i];
		json_t *o = json_copy(a->done), *text;

		json_object_del(o, "event");
		if (c->o->prompt_ids == NULL)
			json_object_set_new(o, "prompt", json_string(c->o->prompts[i]));
		if (c->o->task == GW_TASK_GENERATE) {
			text = json_stringn(a->len > 0 ? a->text : "", a->len);
			json_object_set_new(o, "text", text != NULL ? text : json_null());
			json_object_set_new(o, "token_ids",
					    a->ids != NULL ? json_incref(a->ids) : json_array());
		} else {
			add_rows(c->o, a, o);
		}
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
		json_decref(c.answers[i].rows);
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

static void print_token_times(json_t *t, json_t *token)
{
	fprintf(stderr, "  time per token        %10.3f ms median, %.3f ms p99\n",
		(double)json_integer_value(json_object_get(token, "p50")) / 1e6,
		(double)json_integer_value(json_object_get(token, "p99")) / 1e6);
	fprintf(stderr, "  tokens per second     %10.1f\n",
		json_real_value(json_object_get(t, "tokens_per_s")));
}

/* `what`: whose time the parts of all processes make up, a token or the one batch. */
static void print_hops(json_t *t, const char *what)
{
	json_t *share = json_object_get(t, "network_share"), *hop;
	size_t i;

	if (json_is_real(share))
		fprintf(stderr, "  network's share       %10.1f %% of a %s's time (wire and host)\n",
			100.0 * json_real_value(share), what);
	else
		fprintf(stderr,
			"  network's share       unknown: the processes' clocks cannot be compared\n");
	fprintf(stderr,
		"\n  us a %-5s   |       compute     |       queue       |        wire       |        host\n"
		"  process      |   median      p99 |   median      p99 |   median      p99 |   median      "
		"p99\n",
		what);
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

static void print_one(json_t *r)
{
	json_t *t = json_object_get(r, "timing"), *token = json_object_get(t, "token_ns");
	const double ttft_ms = (double)json_integer_value(json_object_get(t, "ttft_ns")) / 1e6;
	const long long n_prompt = json_integer_value(json_object_get(r, "prompt_tokens"));
	bool generated = json_is_integer(json_object_get(r, "tokens"));

	if (generated) {
		fprintf(stderr, "\n%lld tokens after a prompt of %lld (%s)\n",
			(long long)json_integer_value(json_object_get(r, "tokens")), n_prompt,
			json_string_value(json_object_get(r, "reason")));
		fprintf(stderr, "  time to first token   %10.3f ms\n", ttft_ms);
	} else {
		fprintf(stderr, "\na prompt of %lld tokens, in one batch\n", n_prompt);
		fprintf(stderr, "  time to the answer    %10.3f ms\n", ttft_ms);
	}
	if (!json_is_object(token) || json_array_size(json_object_get(t, "hops")) == 0)
		return;
	if (generated)
		print_token_times(t, token);
	print_hops(t, generated ? "token" : "batch");
}

static void print_candidate(json_t *best)
{
	const char *text = json_string_value(json_object_get(best, "text"));

	printf("    %6.2f %%  ", 100.0 * json_number_value(json_object_get(best, "probability")));
	if (text != NULL && text[0] != '\0')
		printf("%s\n", text[0] == ' ' && text[1] != '\0' ? text + 1 : text);
	else
		printf("token %lld\n", (long long)json_integer_value(json_object_get(best, "token")));
}

void client_print_masks(json_t *results)
{
	json_t *r, *mask, *best;
	size_t i, k, m;

	json_array_foreach(results, i, r)
	{
		const char *prompt = json_string_value(json_object_get(r, "prompt"));

		printf("%s%s\n", i > 0 ? "\n" : "", prompt != NULL ? prompt : "the prompt given as ids");
		json_array_foreach(json_object_get(r, "masks"), m, mask)
		{
			printf("  mask %zu, at token %lld\n", m + 1,
			       (long long)json_integer_value(json_object_get(mask, "position")));
			json_array_foreach(json_object_get(mask, "candidates"), k, best)
			    print_candidate(best);
		}
	}
}

void client_print_table(json_t *results)
{
	bool generated = json_is_integer(json_object_get(json_array_get(results, 0), "tokens"));
	json_t *r;
	size_t i;

	json_array_foreach(results, i, r) print_one(r);
	fprintf(
	    stderr,
	    "\n  wire: handed to the link, to message whole in this process; queue: until compute starts;\n"
	    "  host: compute done, to handed to the next link. The parts of all rows make up a %s's time.\n",
	    generated ? "token" : "batch");
}
