/* SPDX-License-Identifier: BSD-3-Clause */
/* The client of `run` against a gateway that says what the test wrote down: what it asks for, and what it
 * makes of the events. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/client_run.h"
#include "cli/proc.h"
#include "gateway/client.h"

/* Of proc.c, which control.c waits for in parts that are not used here. */
_Atomic int proc_stop;

#define MAX_ASKED 4u

struct gateway {
	char dir[64], path[96];
	int fd;
	uint32_t n_requests; /* read before the events are sent */
	const char *events;  /* lines */
	json_t *asked[MAX_ASKED];
	pthread_t thread;
};

static void *serve(void *arg)
{
	struct gateway *g = arg;
	struct pollfd pfd = {.fd = g->fd, .events = POLLIN};
	struct gw_conn c;
	uint32_t n = 0;
	char *line;

	CHECK(poll(&pfd, 1, 10000) == 1);
	gw_conn_open(&c, accept(g->fd, NULL, NULL));
	while (n < g->n_requests) {
		pfd.fd = c.fd;
		CHECK(poll(&pfd, 1, 10000) == 1 && gw_conn_read(&c));
		while ((line = gw_conn_line(&c)) != NULL)
			g->asked[n++] = json_loads(line, 0, NULL);
	}
	CHECK(write(c.fd, g->events, strlen(g->events)) == (ssize_t)strlen(g->events));
	gw_conn_close(&c);
	return NULL;
}

static bool as_text; /* run's output is what a person reads, not JSON */

static int run(struct gateway *g, const struct client_opts *like, const char *events, json_t **results,
	       struct ps_err *err)
{
	struct client_opts o = *like;
	int rc;

	memset(g, 0, sizeof(*g));
	snprintf(g->dir, sizeof(g->dir), "/tmp/penstock-client-XXXXXX");
	assert_non_null(mkdtemp(g->dir));
	snprintf(g->path, sizeof(g->path), "%s/gw.sock", g->dir);
	g->fd = gw_listen(g->path);
	assert_true(g->fd >= 0);
	g->n_requests = like->n_prompts;
	g->events = events;
	assert_int_equal(pthread_create(&g->thread, NULL, serve, g), 0);
	o.run_dir = g->dir;
	o.gateway = "gw";
	o.json = !as_text;
	rc = client_run(&o, results, err);
	pthread_join(g->thread, NULL);
	close(g->fd);
	unlink(g->path);
	assert_int_equal(rmdir(g->dir), 0);
	return rc;
}

static void forget(struct gateway *g, json_t *results)
{
	uint32_t i;

	for (i = 0; i < MAX_ASKED; i++)
		json_decref(g->asked[i]);
	json_decref(results);
}

static void expect_text(const json_t *o, const char *key, const char *want)
{
	const char *got = json_string_value(json_object_get(o, key));

	if (got == NULL || strcmp(got, want) != 0)
		fail_msg("%s: \"%s\", expected \"%s\"", key, got != NULL ? got : "nothing", want);
}

#define DONE(id)                                                                                             \
	"{\"event\": \"done\", \"id\": " #id                                                                 \
	", \"reason\": \"length\", \"prompt_tokens\": 3, \"tokens\": 2}\n"

/* Two prompts whose events interleave; one ends in half a character, which is not printed as such. */
static void test_text(void **state)
{
	static const char events[] =
	    "{\"event\": \"token\", \"id\": 1, \"token\": 7, \"text\": \"b\"}\n"
	    "{\"event\": \"token\", \"id\": 0, \"token\": 5, \"text\": \"a \\u00e9\"}\n"
	    "{\"event\": \"token\", \"id\": 0, \"bytes\": [255, 65, 195, 169, 240, 159, 152]}\n" DONE(0)
		DONE(1);
	const char *prompts[] = {"one", "two"};
	const struct client_opts o = {.prompts = prompts, .n_prompts = 2, .max_tokens = 9};
	struct ps_err err = {{0}};
	json_t *results = NULL;
	struct gateway g;

	(void)state;
	if (run(&g, &o, events, &results, &err) != 0)
		fail_msg("%s", err.msg);
	expect_text(g.asked[0], "op", "generate");
	expect_text(g.asked[1], "prompt", "two");
	assert_int_equal(json_integer_value(json_object_get(g.asked[1], "max_tokens")), 9);
	expect_text(json_array_get(results, 0), "text",
		    "a \xc3\xa9\xef\xbf\xbd"
		    "A\xc3\xa9\xef\xbf\xbd");
	expect_text(json_array_get(results, 1), "text", "b");
	assert_int_equal(json_array_size(json_object_get(json_array_get(results, 0), "token_ids")), 1);
	forget(&g, results);
}

static void test_chat(void **state)
{
	const char *prompts[] = {"one"};
	const struct client_opts o = {.prompts = prompts, .n_prompts = 1, .chat = "gemma"};
	struct ps_err err = {{0}};
	json_t *results = NULL, *m;
	struct gateway g;

	(void)state;
	assert_int_equal(run(&g, &o, DONE(0), &results, &err), 0);
	expect_text(g.asked[0], "chat", "gemma");
	m = json_array_get(json_object_get(g.asked[0], "messages"), 0);
	expect_text(m, "role", "user");
	expect_text(m, "content", "one");
	assert_null(json_object_get(g.asked[0], "prompt"));
	forget(&g, results);
}

static void test_embeddings(void **state)
{
	static const char pooled[] =
	    "{\"event\": \"embedding\", \"id\": 0, \"pooling\": \"cls\", \"values\": [0.5, -2.0]}\n" DONE(0);
	static const char rows[] =
	    "{\"event\": \"embedding\", \"id\": 0, \"position\": 0, \"values\": [0.5, -2.0]}\n"
	    "{\"event\": \"embedding\", \"id\": 0, \"position\": 1, \"values\": [1.5, 3.0]}\n" DONE(0);
	const char *prompts[] = {"one"};
	struct client_opts o = {.prompts = prompts, .n_prompts = 1, .task = GW_TASK_EMBED};
	struct ps_err err = {{0}};
	json_t *results = NULL, *r, *list;
	struct gateway g;

	(void)state;
	assert_int_equal(run(&g, &o, pooled, &results, &err), 0);
	expect_text(g.asked[0], "op", "embed");
	assert_null(json_object_get(g.asked[0], "per_token"));
	r = json_array_get(results, 0);
	expect_text(r, "pooling", "cls");
	assert_true(json_real_value(json_array_get(json_object_get(r, "embedding"), 1)) == -2.0);
	assert_null(json_object_get(r, "text"));
	forget(&g, results);
	o.per_token = true;
	assert_int_equal(run(&g, &o, rows, &results, &err), 0);
	assert_true(json_is_true(json_object_get(g.asked[0], "per_token")));
	list = json_object_get(json_array_get(results, 0), "embeddings");
	assert_int_equal(json_array_size(list), 2);
	assert_true(json_real_value(json_array_get(json_array_get(list, 1), 1)) == 3.0);
	forget(&g, results);
}

static void test_masks(void **state)
{
	static const char events[] = "{\"event\": \"fill\", \"id\": 0, \"position\": 4, \"candidates\": "
				     "[{\"token\": 9, \"text\": \"lord\", \"probability\": 0.5}]}\n" DONE(0);
	const char *prompts[] = {"a [MASK]"};
	const struct client_opts o = {.prompts = prompts, .n_prompts = 1, .task = GW_TASK_FILL};
	struct ps_err err = {{0}};
	json_t *results = NULL, *mask;
	struct gateway g;

	(void)state;
	assert_int_equal(run(&g, &o, events, &results, &err), 0);
	expect_text(g.asked[0], "op", "fill");
	mask = json_array_get(json_object_get(json_array_get(results, 0), "masks"), 0);
	assert_int_equal(json_integer_value(json_object_get(mask, "position")), 4);
	expect_text(json_array_get(json_object_get(mask, "candidates"), 0), "text", "lord");
	forget(&g, results);
}

/* A model without a vocabulary has no text, and its answer is not to be two empty lines. */
static void test_ids_without_text(void **state)
{
	static const char events[] =
	    "{\"event\": \"token\", \"id\": 0, \"token\": 7, \"text\": \"\"}\n"
	    "{\"event\": \"token\", \"id\": 0, \"token\": 40, \"text\": \"\"}\n" DONE(0);
	const int32_t ids[] = {1, 2, 3};
	const struct client_opts o = {.prompt_ids = ids, .n_prompt_ids = 3, .n_prompts = 1};
	char printed[64] = "";
	struct ps_err err = {{0}};
	json_t *results = NULL;
	struct gateway g;
	int saved = dup(STDOUT_FILENO);
	FILE *f = tmpfile();

	(void)state;
	assert_true(saved >= 0 && f != NULL && fflush(stdout) == 0);
	assert_true(dup2(fileno(f), STDOUT_FILENO) >= 0);
	as_text = true;
	assert_int_equal(run(&g, &o, events, &results, &err), 0);
	as_text = false;
	assert_true(fflush(stdout) == 0 && dup2(saved, STDOUT_FILENO) >= 0);
	rewind(f);
	assert_non_null(fgets(printed, sizeof(printed), f));
	assert_string_equal(printed, "7,40\n");
	fclose(f);
	close(saved);
	forget(&g, results);
}

static void test_errors(void **state)
{
	const char *prompts[] = {"one"};
	const struct client_opts o = {.prompts = prompts, .n_prompts = 1};
	struct ps_err err = {{0}};
	json_t *results = NULL;
	struct gateway g;

	(void)state;
	assert_int_equal(
	    run(&g, &o, "{\"event\": \"error\", \"id\": 0, \"text\": \"no room\"}\n", &results, &err), -EIO);
	assert_string_equal(err.msg, "no room");
	forget(&g, NULL);
	assert_int_equal(run(&g, &o, "{\"event\": \"token\", \"id\": 7}\n", &results, &err), -EIO);
	assert_non_null(strstr(err.msg, "no event"));
	forget(&g, NULL);
	assert_int_equal(run(&g, &o, "", &results, &err), -EPIPE);
	assert_null(results);
	forget(&g, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_text),       cmocka_unit_test(test_chat),
	    cmocka_unit_test(test_embeddings), cmocka_unit_test(test_masks),
	    cmocka_unit_test(test_errors),     cmocka_unit_test(test_ids_without_text),
	};

	return cmocka_run_group_tests_name("cli-client-run", tests, NULL, NULL);
}
