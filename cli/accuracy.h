/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_ACCURACY_H
#define PENSTOCK_CLI_ACCURACY_H
/*
 * What `bench accuracy` consists of: options and results (bench_accuracy.c), and
 * the run of one combination of element types (accuracy_run.c).
 */
#include <stdbool.h>
#include <stdint.h>

#include "cli/corpus.h"
#include "cli/pipeline.h"

#define ACC_N_KV          3u
#define ACC_PROMPT_TOKENS 32u  /* of a greedy continuation */
#define ACC_MAX_WINDOW    512u /* positions, where neither --ctx nor the model says fewer */
#define ACC_MASK_EVERY    7u   /* BERT: every 7th token is masked, about as many as in training */
/* T5: of every 16 tokens 3 are left out, as many as in training; a piece has no more spans than sentinels. */
#define ACC_SPAN_EVERY  16u
#define ACC_SPAN_TOKENS 3u
#define ACC_SPAN_PIECE  64u

struct acc_opts {
	const char *model, *text, *ids, *device;
	uint32_t limit, stages, ctx, prompts, greedy, threads; /* stages, ctx 0: by the model */
	bool wire[ACT_N_DTYPES], kv[ACC_N_KV], json;
	bool wire_given;
};

/* One combination of types. Choices are tokens: of greedy continuations, or of masked places. */
struct acc_row {
	enum act_dtype wire;
	enum accel_kv_dtype kv;
	double nll; /* sum over `scored` tokens, nats */
	uint64_t scored, cut_values;
	/* Sums of squares: embeddings less the float32 run's, and of those about their mean. */
	double diff2, base2;
	int32_t *choices; /* [n_choices] */
	float *hidden;    /* [corpus.n, n_embd]; the float32 run of a model that embeds */
};

struct acc {
	const struct acc_opts *o;
	const struct gguf *g;
	struct model_hparams hp;
	struct corpus corpus;
	struct accel_caps caps;
	uint32_t stages, window, prompt, greedy, n_prompts;
	int32_t mask;
	struct acc_row rows[ACT_N_DTYPES + ACC_N_KV];
	uint32_t n_rows, n_choices;
	/* Of the batch at hand. */
	struct acc_row *row;
	int32_t
	    *targets; /* [window, at least ACC_SPAN_PIECE] the token that row i should give, -1: not scored */
	uint32_t at, n_targets;
	uint32_t choice; /* next of row->choices, for masked places */
};

/* Runs the model once with the row's types and fills in the row; rows[0], in float32, comes first. */
int ps_warn_unused accuracy_run(struct acc *a, struct acc_row *row, struct ps_err *err);

/* BERT: tokens of the corpus in a window; masked ones of the whole corpus. */
uint32_t accuracy_piece_tokens(const struct acc *a);
uint32_t accuracy_count_masked(const struct acc *a);

#endif
