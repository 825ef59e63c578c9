/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_PIPELINE_H
#define PENSTOCK_CLI_PIPELINE_H
/*
 * A model cut into N stages inside this process: each stage is a stage_core, and
 * what one hands to the next is a real batch message. For eval and the benches,
 * which need the pipeline's arithmetic without processes or a network. One
 * sequence, one thread.
 */
#include <stdbool.h>
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
	uint32_t max_tokens; /* rows of one message; longer inputs are cut where the model lets them */
	enum accel_kv_dtype kv;
	enum act_dtype act_dtype; /* between stages */
	void (*logits)(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab);
	void *logits_ctx;
	struct accel_trace trace; /* of all stages */
};

int ps_warn_unused pipeline_open(const struct pipeline_cfg *cfg, struct pipeline **p_out, struct ps_err *err);
void pipeline_close(struct pipeline *p);

/* Feeds tokens at positions pos.. of the one sequence (pos 0 starts afresh); of an encoder-decoder model, to
 * its decoder. *next_out: the greedy next token after the last one. Errors of a stage come as -EIO with
 * its text. */
int ps_warn_unused pipeline_feed(struct pipeline *p, const int32_t *tokens, uint32_t n, uint32_t pos,
				 int32_t *next_out, struct ps_err *err);

/* The encoder of an encoder-decoder model: n tokens, at most max_tokens, before the first pipeline_feed. */
int ps_warn_unused pipeline_encode(struct pipeline *p, const int32_t *tokens, uint32_t n, struct ps_err *err);

/* Rows of results; they lie in the pipeline until its next call. */
struct pipeline_values {
	const float *rows;        /* [n_rows, width] */
	const int32_t *positions; /* [n_rows] in the sequence; 0 of a pooled row */
	uint32_t n_rows, width;
};

/* Hidden states of a model that embeds, or of an encoder-decoder model's encoder: a row a token, or pooled to
 * one. At most max_tokens tokens. */
int ps_warn_unused pipeline_embed(struct pipeline *p, const int32_t *tokens, uint32_t n, bool pooled,
				  struct pipeline_values *out, struct ps_err *err);

/* The masked-language-model head over n tokens, at most max_tokens; cfg.logits gets all rows. With `best`
 * a row of results a masked place, see ACT_SEQ_FILL; else none. */
int ps_warn_unused pipeline_fill(struct pipeline *p, const int32_t *tokens, uint32_t n, bool best,
				 struct pipeline_values *out, struct ps_err *err);

/* Of the first stage, but bytes of all stages. */
void pipeline_caps(const struct pipeline *p, struct accel_caps *out);
const struct model_hparams *pipeline_hparams(const struct pipeline *p);
/* Activations so far that were too large for act_dtype. */
uint64_t pipeline_cut_values(const struct pipeline *p);

/* "f32", "f16" or "q8_0". */
const char *pipeline_kv_name(enum accel_kv_dtype kv);
/* The values of --kv and --wire of command `cmd`: false, with a message on stderr, for another. */
bool pipeline_kv_option(const char *cmd, const char *text, enum accel_kv_dtype *out);
bool pipeline_wire_option(const char *cmd, const char *text, enum act_dtype *out);

#endif
