/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_GATEWAY_ASK_H
#define PENSTOCK_GATEWAY_ASK_H
/*
 * A client's request, from its JSON object to what the scheduler takes: numbers
 * within their bounds, and the prompt as token ids, be it ids, a text, or a
 * conversation in the model's chat template. Not for clients or for answers
 * (server.h); what the model can do is the scheduler's to say.
 */
#include <jansson.h>

#include "base/err.h"
#include "gateway/sched.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

struct gw_ask_cfg {
	const struct tokenizer *tokenizer; /* NULL: the model has no vocabulary, clients send token ids */
	const char *no_tokenizer_why;
	const struct gguf *gguf; /* for its chat template */
};

/* The task that an "op" names; false: none of ours. */
bool gw_ask_task(const char *op, enum gw_task *task_out);

/* Fills req_out but for sink and user. Its tokens are malloc'd, the caller frees them with free(*ids_out),
 * after an error too (NULL then, or what there was). -EINVAL, -ENOTSUP, -ENOMEM with a text for the client.
 */
int ps_warn_unused gw_ask_read(const struct gw_ask_cfg *cfg, json_t *o, enum gw_task task,
			       struct gw_request *req_out, int32_t **ids_out, struct ps_err *err);

#endif
