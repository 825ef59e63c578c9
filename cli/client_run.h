/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_CLIENT_RUN_H
#define PENSTOCK_CLI_CLIENT_RUN_H
/*
 * The client side of `run`: sends prompts to a gateway, prints text as it comes
 * (or collects embeddings, or what fits masked places) and the latency table at
 * the end. Not for starting processes.
 */
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "gateway/sched.h"
#include "model/sampler.h"

struct client_opts {
	const char *run_dir, *gateway; /* its socket is RUNDIR/GATEWAY.sock */
	const char *const *prompts;
	uint32_t n_prompts;
	/* Instead of the one prompt's text: its token ids, nothing added. NULL: none. */
	const int32_t *prompt_ids;
	size_t n_prompt_ids;
	enum gw_task task;
	bool per_token;   /* GW_TASK_EMBED */
	const char *chat; /* each prompt is a user's message in this template (or "auto"); NULL: as it is */
	uint32_t max_tokens;
	struct sampler_params sampling;
	bool json;
	/* Asked now and then and when the gateway is silent: has a process died? Then it fills the
	 * text and returns true. */
	bool (*broken)(void *ctx, struct ps_err *err);
	void *broken_ctx;
	const _Atomic int *stop;
};

/* 0; -EINTR when *stop was set; -EIO with the pipeline's own text; -EPIPE when the gateway is
 * gone. On success *results_out: one "done" event a prompt, with its "text" and "token_ids", or "embedding",
 * "embeddings" (a row a token), "masks". Text that is no UTF-8 in the model's tokens is U+FFFD in it. */
int ps_warn_unused client_run(const struct client_opts *o, json_t **results_out, struct ps_err *err);

/* What fits each masked place, on stdout. */
void client_print_masks(json_t *results);

/* The table on stderr, one for each result. */
void client_print_table(json_t *results);

#endif
