/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_STAGE_CORE_H
#define PENSTOCK_STAGE_CORE_H
/*
 * The compute side of a stage: takes one batch message, runs the stage's blocks
 * on its back end, and writes the message for the next process: hidden
 * activations or, on the last stage, sampled tokens or values (embeddings,
 * fill-mask results). It holds the KV cache's bookkeeping and the token history of
 * each slot. Sans-I/O: the same code runs in a stage process, in `eval` and in
 * tests. Not for links or threads. The passes are described in
 * dataplane/PROTOCOL.md.
 *
 * One thread calls all functions.
 */
#include <stdint.h>

#include "accel/accel.h"
#include "base/err.h"
#include "dataplane/act.h"
#include "model/graph.h"

struct stage_core;

struct stage_core_cfg {
	const struct gguf *gguf; /* borrowed until stage_core_close */
	uint32_t stage;          /* number in the pipeline, for the hop table */
	uint32_t block_first, block_last;
	const char *device;
	uint32_t n_threads;
	const int *cores; /* as accel_open_args */
	uint32_t n_slots, n_ctx, max_tokens;
	enum accel_kv_dtype kv;
	/* Of the activations that it sends; it takes any. */
	enum act_dtype act_dtype;
	/* Last stage only: logits of every row, not just of those that sample or are masked (eval). Called
	 * with logits [n_rows, n_vocab] of the batch's rows in order, in passes that have logits. */
	void (*logits)(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab);
	void *logits_ctx;
	struct accel_trace trace; /* as accel_open_args */
};

int ps_warn_unused stage_core_open(const struct stage_core_cfg *cfg, struct stage_core **core_out,
				   struct ps_err *err);
void stage_core_close(struct stage_core *c);

/* Largest message it takes or makes. */
size_t stage_core_max_bytes(const struct stage_core *c);

/*
 * Runs one batch. `rx_ns`: when it was received, for the hop table. Writes the
 * next message into out (at least stage_core_max_bytes) and its length. The
 * out message's last hop is this stage's; its tx_ns is left 0 for the I/O thread
 * (*hop_tx_out points to it). A batch that cannot be run (torn, wrong blocks, a
 * slot or position out of range, a failure of the back end) becomes an ACT_ERROR
 * message with a text that names stage and reason: the pipeline goes on. Such a
 * message from an earlier stage is passed on.
 */
void stage_core_run(struct stage_core *c, const uint8_t *msg, size_t len, uint64_t rx_ns, uint8_t *out,
		    size_t *len_out, uint8_t **hop_tx_out);

struct stage_core_stats {
	uint64_t batches, rows, errors;
	uint64_t compute_ns;
	uint64_t cut_values; /* activations too large for act_dtype, see dataplane/act_dtype.h */
};
void stage_core_stats(const struct stage_core *c, struct stage_core_stats *out);
void stage_core_caps(const struct stage_core *c, struct accel_caps *out);
const struct model_hparams *stage_core_hparams(const struct stage_core *c);

#endif
