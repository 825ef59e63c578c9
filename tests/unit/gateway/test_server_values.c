/* SPDX-License-Identifier: BSD-3-Clause */
/* The server's answers that are numbers: embeddings and masked places. */
#include <stdio.h>
#include <string.h>

#include "tests/unit/gateway/server_rig.h"

static double number_at(const json_t *list, size_t i)
{
	assert_true(json_is_real(json_array_get(list, i)));
	return json_real_value(json_array_get(list, i));
}

/* The next event is a row of values that are `value(row, .)`, to the bit. */
static void expect_row(struct gw_conn *c, uint32_t row, uint32_t width)
{
	json_t *o = next_event(c), *values = json_object_get(o, "values");
	uint32_t i;

	assert_string_equal(name_of(o), "embedding");
	assert_int_equal(json_array_size(values), width);
	for (i = 0; i < width; i++) {
		float x = (float)number_at(values, i), want = value(row, i);

		assert_memory_equal(&x, &want, sizeof(x));
	}
	if (json_object_get(o, "pooling") != NULL)
		assert_string_equal(json_string_value(json_object_get(o, "pooling")), "cls");
	else
		assert_int_equal(number(o, "position"), row);
	json_decref(o);
}

static void expect_values_done(struct gw_conn *c, int64_t n_prompt)
{
	json_t *o = next_event(c);

	assert_string_equal(name_of(o), "done");
	assert_int_equal(number(o, "prompt_tokens"), n_prompt);
	assert_int_equal(number(o, "tokens"), 0);
	assert_true(number(json_object_get(o, "timing"), "ttft_ns") > 0);
	json_decref(o);
}

static void test_embeddings(void **state)
{
	struct gw_conn c;
	struct rig r;

	(void)state;
	be_bert(5);
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	join(&r, &c);
	ask(&c, "{\"op\": \"embed\", \"tokens\": [5, 6, 7]}");
	expect_row(&c, 0, 5);
	expect_values_done(&c, 3);
	ask(&c, "{\"op\": \"embed\", \"tokens\": [5, 6, 7], \"per_token\": true}");
	expect_row(&c, 0, 5);
	expect_row(&c, 1, 5);
	expect_row(&c, 2, 5);
	expect_values_done(&c, 3);
	ask(&c, "{\"op\": \"generate\", \"tokens\": [5, 6, 7]}");
	expect_error(&c, "ask for \"embed\" or \"fill\"");
	ask(&c, "{\"op\": \"embed\", \"tokens\": [5], \"per_token\": 1}");
	expect_error(&c, "true or false");
	gw_conn_close(&c);
	close_rig(&r);
	be_llama();
}

/* An answer larger than a client's output may be (4 MiB) waits for the client, who reads it row by row; one
 * who leaves in between is forgotten. */
static void test_large_embeddings(void **state)
{
	char line[1024] = "{\"op\": \"embed\", \"per_token\": true, \"tokens\": [1";
	struct gw_conn stays, gone;
	struct rig r;
	uint32_t i;

	(void)state;
	for (i = 1; i < MAX_ROWS; i++)
		strcat(line, ", 1");
	strcat(line, "]}");
	be_bert(WIDE);
	open_rig(&r, NULL, EP_SIDE_LONG_NS, 2);
	join(&r, &stays);
	join(&r, &gone);
	ask(&gone, line);
	ask(&stays, line);
	expect_row(&gone, 0, WIDE);
	expect_row(&stays, 0, WIDE);
	gw_conn_close(&gone);
	for (i = 1; i < MAX_ROWS; i++)
		expect_row(&stays, i, WIDE);
	expect_values_done(&stays, MAX_ROWS);
	gw_conn_close(&stays);
	close_rig(&r);
	be_llama();
}

static void test_fill(void **state)
{
	json_t *o, *list, *first;
	struct gw_conn c;
	struct rig r;
	uint32_t i;

	(void)state;
	be_bert(5);
	open_rig(&r, tokenizer, EP_SIDE_LONG_NS, 2);
	join(&r, &c);
	ask(&c, "{\"op\": \"fill\", \"tokens\": [5, 9, 7, 9]}");
	for (i = 0; i < 2; i++) {
		o = next_event(&c);
		assert_string_equal(name_of(o), "fill");
		assert_int_equal(number(o, "position"), i); /* as the pipeline numbered them */
		list = json_object_get(o, "candidates");
		assert_int_equal(json_array_size(list), ACT_FILL_BEST);
		first = json_array_get(list, 0);
		assert_int_equal(number(first, "token"), 20);
		assert_true(json_is_string(json_object_get(first, "text")));
		assert_true(json_real_value(json_object_get(first, "probability")) == 0.25);
		json_decref(o);
	}
	expect_values_done(&c, 4);
	ask(&c, "{\"op\": \"fill\", \"tokens\": [5, 7]}");
	expect_error(&c, "no mask token");
	gw_conn_close(&c);
	close_rig(&r);
	be_llama();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_embeddings),
	    cmocka_unit_test(test_large_embeddings),
	    cmocka_unit_test(test_fill),
	};

	return cmocka_run_group_tests_name("server-values", tests, open_model, close_model);
}
