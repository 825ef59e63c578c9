/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/gateway/server_rig.h"

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
