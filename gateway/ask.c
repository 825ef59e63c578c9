/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat.h"

#define ASK_MAX_MESSAGES 256u

bool gw_ask_task(const char *op, enum gw_task *task_out)
{
	static const char *const names[] = {
	    [GW_TASK_GENERATE] = "generate", [GW_TASK_EMBED] = "embed", [GW_TASK_FILL] = "fill"};
	uint32_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(op, names[i]) == 0) {
			*task_out = (enum gw_task)i;
			return true;
		}
	}
	return false;
}

/* A missing key keeps its default. */
static int read_numbers(json_t *o, struct gw_request *req, struct ps_err *err)
{
	double temperature = 0, top_p = 1, min_p = 0, penalty = 1;
	json_int_t max_tokens = 64, top_k = 0, last_n = 64, seed = 0;

	if (json_unpack(o, "{s?I, s?F, s?I, s?F, s?F, s?F, s?I, s?I}", "max_tokens", &max_tokens,
			"temperature", &temperature, "top_k", &top_k, "top_p", &top_p, "min_p", &min_p,
			"repeat_penalty", &penalty, "repeat_last_n", &last_n, "seed", &seed) != 0)
		return ps_err_set(err, -EINVAL,
				  "a number was expected for max_tokens, temperature, top_k, top_p, min_p, "
				  "repeat_penalty, repeat_last_n and seed");
	if (max_tokens < 0 || max_tokens > INT32_MAX || top_k < 0 || top_k > INT32_MAX || last_n < 0 ||
	    last_n > INT32_MAX)
		return ps_err_set(err, -EINVAL,
				  "max_tokens, top_k and repeat_last_n must be from 0 to 2147483647");
	sampler_params_default(&req->sampling);
	req->max_tokens = (uint32_t)max_tokens;
	req->sampling.temperature = (float)temperature;
	req->sampling.top_k = (int32_t)top_k;
	req->sampling.top_p = (float)top_p;
	req->sampling.min_p = (float)min_p;
	req->sampling.repeat_penalty = (float)penalty;
	req->sampling.repeat_last_n = (int32_t)last_n;
	req->sampling.seed = (uint64_t)seed;
	return 0;
}

static int read_flags(json_t *o, enum gw_task task, struct gw_request *req, struct ps_err *err)
{
	json_t *per_token = json_object_get(o, "per_token");

	if (per_token == NULL)
		return 0;
	if (task != GW_TASK_EMBED || !json_is_boolean(per_token))
		return ps_err_set(err, -EINVAL,
				  "\"per_token\" must be true or false, and belongs to \"embed\"");
	req->per_token = json_is_true(per_token);
	return 0;
}

static int read_ids(json_t *tokens, int32_t **ids_out, size_t *n_out, struct ps_err *err)
{
	json_t *v;
	size_t i;

	*n_out = json_array_size(tokens);
	*ids_out = malloc((*n_out + 1) * sizeof(**ids_out));
	if (*ids_out == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory");
	json_array_foreach(tokens, i, v)
	{
		if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
			return ps_err_set(err, -EINVAL, "\"tokens\" must be an array of token ids");
		(*ids_out)[i] = (int32_t)json_integer_value(v);
	}
	return 0;
}

static int encode(const struct gw_ask_cfg *cfg, const char *text, size_t len, int32_t **ids_out,
		  size_t *n_out, struct ps_err *err)
{
	int rc = tokenizer_encode(cfg->tokenizer, text, len, true, true, ids_out, n_out);

	if (rc == -EILSEQ)
		return ps_err_set(err, rc,
				  "the prompt has a character for which the model's vocabulary has no token");
	return rc == 0 ? 0 : ps_err_set(err, rc, "out of memory for the prompt's tokens");
}

/* [{"role": ..., "content": ...}, ...]: the texts are borrowed from the array. */
static int read_messages(json_t *messages, struct chat_message *m, size_t *n_out, struct ps_err *err)
{
	json_t *v;
	size_t i;

	*n_out = json_array_size(messages);
	if (*n_out == 0 || *n_out > ASK_MAX_MESSAGES)
		return ps_err_set(err, -EINVAL, "\"messages\" must be an array of 1 to %u messages",
				  ASK_MAX_MESSAGES);
	json_array_foreach(messages, i, v)
	{
		m[i].role = json_string_value(json_object_get(v, "role"));
		m[i].text = json_string_value(json_object_get(v, "content"));
		if (m[i].role == NULL || m[i].text == NULL)
			return ps_err_set(err, -EINVAL,
					  "message %zu: expected \"role\" and \"content\", both texts", i);
	}
	return 0;
}

static int read_chat(const struct gw_ask_cfg *cfg, json_t *o, int32_t **ids_out, size_t *n_out,
		     struct ps_err *err)
{
	struct chat_message m[ASK_MAX_MESSAGES];
	json_t *name = json_object_get(o, "chat");
	char *text = NULL;
	enum chat_kind kind;
	size_t n = 0;
	int rc = read_messages(json_object_get(o, "messages"), m, &n, err);

	if (rc == 0 && name != NULL && !json_is_string(name))
		rc = ps_err_set(err, -EINVAL, "\"chat\" must be the name of a chat template, or \"auto\"");
	if (rc == 0)
		rc = chat_choose(cfg->gguf, name != NULL ? json_string_value(name) : "auto", &kind, err);
	if (rc == 0)
		rc = chat_format(kind, m, n, true, &text, err);
	if (rc == 0)
		rc = encode(cfg, text, strlen(text), ids_out, n_out, err);
	free(text);
	return rc;
}

/* The prompt in one of its three forms. */
static int read_prompt(const struct gw_ask_cfg *cfg, json_t *o, int32_t **ids_out, size_t *n_out,
		       struct ps_err *err)
{
	json_t *tokens = json_object_get(o, "tokens"), *prompt = json_object_get(o, "prompt");
	bool chat = json_is_array(json_object_get(o, "messages"));

	if (json_is_array(tokens) + json_is_string(prompt) + chat != 1)
		return ps_err_set(
		    err, -EINVAL,
		    "expected \"prompt\" (a text), \"tokens\" (an array of ids) or \"messages\" "
		    "(an array of {\"role\", \"content\"}), one of them");
	if (json_is_array(tokens))
		return read_ids(tokens, ids_out, n_out, err);
	if (cfg->tokenizer == NULL)
		return ps_err_set(err, -ENOTSUP, "%s", cfg->no_tokenizer_why);
	if (chat)
		return read_chat(cfg, o, ids_out, n_out, err);
	return encode(cfg, json_string_value(prompt), json_string_length(prompt), ids_out, n_out, err);
}

int gw_ask_read(const struct gw_ask_cfg *cfg, json_t *o, enum gw_task task, struct gw_request *req_out,
		int32_t **ids_out, struct ps_err *err)
{
	size_t n = 0;
	int rc;

	*req_out = (struct gw_request){.task = task};
	*ids_out = NULL;
	rc = read_numbers(o, req_out, err);
	if (rc == 0)
		rc = read_flags(o, task, req_out, err);
	if (rc == 0)
		rc = read_prompt(cfg, o, ids_out, &n, err);
	if (rc == 0 && n > UINT32_MAX)
		rc = ps_err_set(err, -EINVAL, "the prompt has %zu tokens: too many", n);
	req_out->tokens = *ids_out;
	req_out->n_tokens = (uint32_t)n;
	return rc;
}
