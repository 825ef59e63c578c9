/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_STAGE_CORE_PRIV_H
#define PENSTOCK_STAGE_CORE_PRIV_H
/*
 * The state of a stage's compute side, and its check of a batch before anything
 * runs. Private to stage/core*.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "stage/core.h"

struct slot_state {
	uint32_t len;     /* positions in the KV cache */
	uint32_t enc_len; /* encoder-decoder models: rows of its encoder output; 0: none yet */
	uint64_t batch;   /* number of the batch that named it last */
	int32_t *history; /* [n_ctx] tokens by position; last stage of a model that generates only */
};

struct sampler_scratch;
struct sampler_params;

struct stage_core {
	struct stage_core_cfg cfg;
	struct model_graph *graph;
	const struct accel_ops *ops;
	struct accel *accel;
	struct slot_state *slots;
	struct accel_seq *seqs;   /* [ACT_MAX_SEQS] of the batch at hand */
	struct act_seq *act_seqs; /* [ACT_MAX_SEQS] */
	uint32_t *n_results;      /* [ACT_MAX_SEQS] rows of each in a values message */
	uint32_t *out_rows;       /* [max_tokens] */
	int32_t *tokens;          /* [max_tokens] */
	float *x_in;              /* [max_tokens, n_embd] decoded activations */
	float *x_out;  /* [max_tokens, n_embd] activations that do not go straight into a message */
	float *logits; /* [logit_rows, n_vocab]; last stage, where a pass has logits */
	uint32_t logit_rows;
	int32_t mask_token; /* of the file; -1: it names none */
	struct sampler_scratch *scratch;
	uint32_t clock_id;
	uint64_t batch; /* counts the batches looked at */
	struct stage_core_stats stats;
};

static inline bool stage_is_last(const struct stage_core *c)
{
	return c->cfg.block_last == c->graph->hp.n_layers;
}

/* Encoder blocks only, and a main pass: nothing to do here. */
static inline bool stage_passes_on(const struct stage_core *c, enum act_pass pass)
{
	return pass == ACT_PASS_MAIN && c->cfg.block_last <= c->graph->hp.n_layers_enc;
}

/* Decoder blocks only, and an encode pass: the payload is read here, and goes on as it is. */
static inline bool stage_forwards(const struct stage_core *c, enum act_pass pass)
{
	return pass == ACT_PASS_ENCODE && c->cfg.block_first >= c->graph->hp.n_layers_enc;
}

/* The list of operations of a batch's pass. */
static inline const struct model_graph *stage_graph(const struct stage_core *c, enum act_pass pass)
{
	return model_graph_pass(c->graph, (enum model_pass)pass);
}

/* Fills seqs, act_seqs and tokens; after it the batch is safe to run. -EINVAL and a text. */
int ps_warn_unused stage_core_check(struct stage_core *c, const struct act *a, struct ps_err *err);

/* The sampler's parameters of a sequence. -EINVAL and a text. */
int ps_warn_unused stage_core_sampling(const struct act_seq *s, uint32_t i, struct sampler_params *p_out,
				       struct ps_err *err);

#endif
