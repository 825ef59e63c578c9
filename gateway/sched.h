/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_GATEWAY_SCHED_H
#define PENSTOCK_GATEWAY_SCHED_H
/*
 * The gateway's scheduler: turns requests into sequences, sequences into batch
 * messages for the first stage, and the last stage's answers into tokens.
 * Sequences join and leave at token boundaries; those that are ready are grouped
 * so that several batches are under way and every stage has work. Sans-I/O:
 * messages and times go in and out as arguments. Not for text, clients or links.
 *
 * Three kinds of requests. Generate: rows of the prompt, then a row a token; an
 * encoder-decoder model's prompt goes through its encoder first, in one batch of
 * the encode pass, and the decoder begins with the model's own first token. Embed
 * and fill: one batch, answered by rows of numbers. What an encoder reads goes
 * whole in one batch, for no row of it can be computed without the others.
 *
 * One thread calls all functions.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "gateway/timing.h"
#include "model/graph.h"
#include "model/sampler.h"

struct gw_sched;

struct gw_sched_cfg {
	uint32_t n_slots;     /* sequences at a time; more wait */
	uint32_t max_waiting; /* requests that may wait for a slot */
	uint32_t n_ctx;
	uint32_t max_batch_tokens;
	uint32_t max_batches; /* under way at a time (the link's slots) */
	uint32_t n_stages;
	const struct model_hparams *hp; /* copied */
	int32_t mask_token;             /* that fill looks for; -1: the file names none */
};

enum gw_task {
	GW_TASK_GENERATE,
	GW_TASK_EMBED, /* hidden states: one row as the model pools, or with per_token a row a token */
	GW_TASK_FILL,  /* a row of ACT_FILL_BEST pairs (token, probability) for each mask token */
};

enum gw_reason {
	GW_REASON_STOP,   /* the model ended the text, or the values are all there */
	GW_REASON_LENGTH, /* max_tokens or the context reached */
	GW_REASON_CANCELLED,
	GW_REASON_ERROR,
};

/* Rows that answer an embed or fill request; they borrow the message. */
struct gw_values {
	uint32_t n_rows, width;
	const int32_t *positions; /* [n_rows] each row's, in the sequence; 0 where it is pooled */
	const float *rows;        /* [n_rows, width] */
};

/* What a request gets called with; `user` is its own. After `done` nothing more comes. */
struct gw_sink {
	/* False: the token ends the sequence (and is not part of the text). */
	bool (*token)(void *user, int32_t id);
	void (*values)(void *user, const struct gw_values *v); /* once, before done */
	void (*done)(void *user, enum gw_reason reason, const char *error, const struct gw_timing *timing);
};

struct gw_request {
	enum gw_task task;
	bool per_token;        /* GW_TASK_EMBED */
	const int32_t *tokens; /* copied */
	uint32_t n_tokens;
	uint32_t max_tokens; /* to generate */
	struct sampler_params sampling;
	const struct gw_sink *sink;
	void *user;
};

int ps_warn_unused gw_sched_create(const struct gw_sched_cfg *cfg, struct gw_sched **sched_out,
				   struct ps_err *err);
void gw_sched_destroy(struct gw_sched *s);

/* Errors: -ENOTSUP (text: what the model cannot do, and what it can), -EINVAL (text: an empty prompt, one
 * longer than the context or than the batch it has to fit, no mask token, a token out of range, a
 * sampling value), -EAGAIN (too many waiting), -ENOMEM. *id_out names the sequence. */
int ps_warn_unused gw_sched_submit(struct gw_sched *s, const struct gw_request *req, uint64_t now_ns,
				   uint32_t *id_out, struct ps_err *err);
/* Ends a sequence; its sink's done is called with GW_REASON_CANCELLED. Unknown ids are ignored. */
void gw_sched_cancel(struct gw_sched *s, uint32_t id, uint64_t now_ns);

/* Writes the next batch message, if there is one to send now; *hop_tx_out points to its hop's
 * tx_ns. False: nothing ready, or max_batches under way. */
bool gw_sched_next(struct gw_sched *s, uint64_t now_ns, uint8_t *buf, size_t cap, size_t *len_out,
		   uint8_t **hop_tx_out);

/* Takes a message of the pipeline (ACT_SAMPLED, ACT_VALUES or ACT_ERROR; 4-byte aligned) that arrived
 * at rx_ns and is looked at now. -EBADMSG: not one of ours. */
int ps_warn_unused gw_sched_result(struct gw_sched *s, const uint8_t *msg, size_t len, uint64_t rx_ns,
				   uint64_t now_ns, struct ps_err *err);

/* The pipeline is broken: every sequence ends with this text, and so does every later one until
 * gw_sched_mend. */
void gw_sched_break(struct gw_sched *s, const char *text);
void gw_sched_mend(struct gw_sched *s);
const char *gw_sched_broken(const struct gw_sched *s); /* NULL: it is whole */

struct gw_sched_stats {
	uint64_t requests, tokens, batches, errors;
	uint32_t active, waiting, batches_under_way;
};
void gw_sched_stats(const struct gw_sched *s, struct gw_sched_stats *out);

/* Largest message gw_sched_next writes. */
size_t gw_sched_max_bytes(const struct gw_sched *s);

#endif
