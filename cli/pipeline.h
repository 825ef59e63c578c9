/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_PIPELINE_H
#define PENSTOCK_CLI_PIPELINE_H
/*
 * A model cut into N stages inside this process: each stage is a stage_core, and
 * what one hands to the next is a real batch message. For eval and bench model,
 * which need the pipeline's arithmetic without processes or a network.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "stage/core.h"

#define PIPELINE_MAX_STAGES 64u

struct pipeline;

struct pipeline_cfg {
	const struct gguf *gguf;
	uint32_t n_stages;
	const char *device;
	uint32_t n_threads; /* each stage's; stages run one after the other */
	uint32_t n_ctx;
	uint32_t max_tokens; /* rows of one message; longer inputs are cut */
	void (*logits)(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab);
	void *logits_ctx;
};

int ps_warn_unused pipeline_open(const struct pipeline_cfg *cfg, struct pipeline **p_out, struct ps_err *err);
void pipeline_close(struct pipeline *p);

/* Feeds tokens at positions pos.. of the one sequence (pos 0 starts afresh). *next_out: the
 * greedy next token after the last one. Errors of a stage come as -EIO with its text. */
int ps_warn_unused pipeline_feed(struct pipeline *p, const int32_t *tokens, uint32_t n, uint32_t pos,
				 int32_t *next_out, struct ps_err *err);

void pipeline_caps(const struct pipeline *p, struct accel_caps *out); /* of the first stage */
const struct model_hparams *pipeline_hparams(const struct pipeline *p);

#endif
