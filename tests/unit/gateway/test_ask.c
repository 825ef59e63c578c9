/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests as clients write them: what they become, and what is said of those that are wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/ask.h"
#include "model/chat.h"

static struct gguf *model;
static struct tokenizer *tokenizer;
static struct gw_ask_cfg cfg;

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
	cfg = (struct gw_ask_cfg){.tokenizer = tokenizer, .no_tokenizer_why = "no words", .gguf = model};
	return 0;
}

static int close_model(void **state)
{
	(void)state;
	tokenizer_free(tokenizer);
	gguf_close(model);
	return 0;
}

static int read_text(const struct gw_ask_cfg *with, enum gw_task task, const char *text,
		     struct gw_request *req, int32_t **ids, struct ps_err *err)
{
	json_t *o = json_loads(text, 0, NULL);
	int rc;

	assert_non_null(o);
	rc = gw_ask_read(with, o, task, req, ids, err);
	json_decref(o);
	return rc;
}

static void test_tasks(void **state)
{
	enum gw_task t;

	(void)state;
	assert_true(gw_ask_task("generate", &t) && t == GW_TASK_GENERATE);
	assert_true(gw_ask_task("embed", &t) && t == GW_TASK_EMBED);
	assert_true(gw_ask_task("fill", &t) && t == GW_TASK_FILL);
	assert_false(gw_ask_task("status", &t));
}

static void test_numbers(void **state)
{
	struct gw_request req;
	struct ps_err err;
	int32_t *ids;

	(void)state;
	assert_int_equal(read_text(&cfg, GW_TASK_GENERATE, "{\"tokens\": [3, 1, 2]}", &req, &ids, &err), 0);
	assert_true(req.n_tokens == 3 && req.tokens == ids && ids[0] == 3 && ids[2] == 2);
	assert_true(req.max_tokens == 64 && req.sampling.temperature == 0.0f && req.sampling.top_p == 1.0f);
	assert_true(req.task == GW_TASK_GENERATE && !req.per_token);
	free(ids);
	assert_int_equal(read_text(&cfg, GW_TASK_GENERATE,
				   "{\"tokens\": [3], \"max_tokens\": 5, \"temperature\": 0.5, \"top_k\": 7, "
				   "\"seed\": 9, \"repeat_last_n\": 11, \"min_p\": 0.25}",
				   &req, &ids, &err),
			 0);
	assert_true(req.max_tokens == 5 && req.sampling.temperature == 0.5f && req.sampling.top_k == 7);
	assert_true(req.sampling.seed == 9 && req.sampling.repeat_last_n == 11 &&
		    req.sampling.min_p == 0.25f);
	free(ids);
	assert_int_equal(
	    read_text(&cfg, GW_TASK_EMBED, "{\"tokens\": [3], \"per_token\": true}", &req, &ids, &err), 0);
	assert_true(req.task == GW_TASK_EMBED && req.per_token);
	free(ids);
}

static void check_prompt(const char *text, const char *like)
{
	struct gw_request req;
	struct ps_err err;
	int32_t *ids, *want;
	size_t n_want;

	if (read_text(&cfg, GW_TASK_GENERATE, text, &req, &ids, &err) != 0)
		fail_msg("%s: %s", text, err.msg);
	assert_int_equal(tokenizer_encode(tokenizer, like, strlen(like), true, true, &want, &n_want), 0);
	assert_int_equal(req.n_tokens, n_want);
	assert_memory_equal(ids, want, n_want * sizeof(*want));
	free(ids);
	free(want);
}

/* A conversation is the text that its template makes of it. */
static void test_prompts(void **state)
{
	static const struct chat_message turns[] = {
	    {"system", "Be brief."}, {"user", "Who?"}, {"assistant", "He."}, {"user", "Why?"}};
	char *text = NULL;

	(void)state;
	check_prompt("{\"prompt\": \"Then the king\"}", "Then the king");
	assert_int_equal(chat_format(CHAT_CHATML, turns, 4, true, &text, NULL), 0);
	check_prompt(
	    "{\"chat\": \"chatml\", \"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, "
	    "{\"role\": \"user\", \"content\": \"Who?\"}, {\"role\": \"assistant\", \"content\": \"He.\"}, "
	    "{\"role\": \"user\", \"content\": \"Why?\"}]}",
	    text);
	free(text);
	assert_int_equal(chat_format(CHAT_LLAMA2, &turns[1], 1, true, &text, NULL), 0);
	check_prompt("{\"chat\": \"llama2\", \"messages\": [{\"role\": \"user\", \"content\": \"Who?\"}]}",
		     text);
	free(text);
}

static void test_errors(void **state)
{
	static const struct {
		const char *text, *part;
		int rc;
	} cases[] = {
	    {"{}", "expected \"prompt\"", -EINVAL},
	    {"{\"prompt\": \"a\", \"tokens\": [1]}", "one of them", -EINVAL},
	    {"{\"prompt\": \"a\", \"messages\": []}", "one of them", -EINVAL},
	    {"{\"tokens\": [1.5]}", "array of token ids", -EINVAL},
	    {"{\"tokens\": [1], \"top_k\": -1}", "from 0 to", -EINVAL},
	    {"{\"tokens\": [1], \"seed\": \"x\"}", "a number was expected", -EINVAL},
	    {"{\"tokens\": [1], \"per_token\": true}", "belongs to \"embed\"", -EINVAL},
	    {"{\"messages\": []}", "1 to 256", -EINVAL},
	    {"{\"messages\": [{\"role\": \"user\"}], \"chat\": \"chatml\"}", "message 0", -EINVAL},
	    {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"chat\": 1}", "\"auto\"", -EINVAL},
	    {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"chat\": \"nosuch\"}", "chatml",
	     -EINVAL},
	    {"{\"messages\": [{\"role\": \"bishop\", \"content\": \"a\"}], \"chat\": \"chatml\"}", "bishop",
	     -EINVAL},
	    /* The demo model has no template: the names that can be asked for are said. */
	    {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "zephyr", -ENOENT},
	};
	struct gw_ask_cfg no_words = cfg;
	struct gw_request req;
	int32_t *ids;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ps_err err = {{0}};
		int rc = read_text(&cfg, GW_TASK_GENERATE, cases[i].text, &req, &ids, &err);

		if (rc != cases[i].rc || strstr(err.msg, cases[i].part) == NULL)
			fail_msg("%s: %d, \"%s\"", cases[i].text, rc, err.msg);
		free(ids);
	}
	no_words.tokenizer = NULL;
	for (i = 0; i < 2; i++) {
		struct ps_err err = {{0}};

		assert_int_equal(read_text(&no_words, GW_TASK_FILL,
					   i == 0
					       ? "{\"prompt\": \"a\"}"
					       : "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
					   &req, &ids, &err),
				 -ENOTSUP);
		assert_string_equal(err.msg, "no words");
		assert_null(ids);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tasks),
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_prompts),
	    cmocka_unit_test(test_errors),
	};

	return cmocka_run_group_tests_name("ask", tests, open_model, close_model);
}
