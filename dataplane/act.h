/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_ACT_H
#define PENSTOCK_DATAPLANE_ACT_H
/*
 * What a message between processes holds: one batch. A 64-byte descriptor, then
 * a table of sequences, a table of hops (who handled it when), the token ids of
 * its rows, and the activations, each section 64-byte aligned in the message.
 * Token ids travel with the activations (4 bytes a row beside 4 * n_embd), so
 * that the last stage knows the history that its sampler needs.
 *
 * Hidden activations are of any type of act_dtype.h, results (ACT_VALUES) are float32. Layout,
 * little-endian, described in PROTOCOL.md. act_parse checks every field
 * against the message's length: what it returns can be used without further
 * checks of bounds.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "dataplane/act_dtype.h"

#define ACT_MAGIC      0x54434150u /* "PACT" */
#define ACT_VERSION    2u
#define ACT_DESC_BYTES 64u
#define ACT_SEQ_BYTES  64u
#define ACT_HOP_BYTES  48u
#define ACT_MAX_SEQS   256u
#define ACT_MAX_HOPS   65u /* the gateway and 64 stages */
#define ACT_ALIGN      64u

enum act_kind {
	ACT_TOKENS = 1,  /* gateway to the first stage: token ids, no activations */
	ACT_HIDDEN = 2,  /* stage to stage */
	ACT_SAMPLED = 3, /* last stage to gateway: a token a sequence that asked for one */
	ACT_ERROR = 4,   /* a stage could not run the batch: payload is a text */
	ACT_VALUES = 5,  /* last stage to gateway: rows of float32, see ACT_SEQ_EMBED and ACT_SEQ_FILL */
};

/* Which list of a model's operations a batch runs through; the numbers are those of enum model_pass. */
enum act_pass {
	ACT_PASS_MAIN = 0,
	ACT_PASS_ENCODE = 1, /* an encoder-decoder model's encoder; answered by ACT_SAMPLED without tokens */
	ACT_PASS_FILL = 2,   /* with the masked-language-model head */
};

/* act_seq.flags */
#define ACT_SEQ_SAMPLE 1u /* a token is wanted after its last row */
/* The sequence's hidden states are wanted: pooled to one row as the model says (a model without pooling:
 * the mean), or with ACT_SEQ_ROWS too, a row a token. */
#define ACT_SEQ_EMBED 2u
#define ACT_SEQ_ROWS  4u
/* ACT_PASS_FILL: for each row whose token is the model's mask token, one result row of ACT_FILL_BEST pairs of
 * float32: token id and its probability, best first (ids are exact below 2^24). */
#define ACT_SEQ_FILL  8u
#define ACT_FILL_BEST 8u
#define ACT_SEQ_FLAGS (ACT_SEQ_SAMPLE | ACT_SEQ_EMBED | ACT_SEQ_ROWS | ACT_SEQ_FILL) /* no others */

/* A run of consecutive rows of one sequence. */
struct act_seq {
	uint32_t seq_id;
	uint16_t slot; /* KV slot on every stage, given out by the gateway */
	uint16_t flags;
	uint32_t pos;      /* position of its first row; 0 starts the slot afresh */
	uint32_t n_tokens; /* its rows; in ACT_VALUES its rows of results, in ACT_SAMPLED 0 */
	float temperature, top_p, min_p, repeat_penalty;
	int32_t top_k, repeat_last_n;
	uint64_t seed;
	int32_t token; /* ACT_SAMPLED: the id, -1 where none was asked for */
	uint32_t reserved0;
	uint64_t reserved1;
};

/* One process's handling of the batch; times are CLOCK_MONOTONIC of the clock named. */
struct act_hop {
	uint32_t proc;     /* stage number; the gateway is 0xffffffff */
	uint32_t clock_id; /* same value: same clock, times can be subtracted */
	uint64_t rx_ns;    /* message whole at the I/O thread (gateway: when it was queued) */
	uint64_t start_ns; /* compute started */
	uint64_t end_ns;   /* compute ended */
	uint64_t tx_ns;    /* handed to the link */
	uint64_t reserved;
};

#define ACT_PROC_GATEWAY 0xffffffffu

/* A parsed or begun message; pointers borrow the message. */
struct act {
	enum act_kind kind;
	enum act_pass pass;
	enum act_dtype dtype;
	uint32_t batch_id;
	uint32_t n_rows; /* sum of the sequences' n_tokens */
	uint32_t n_seqs;
	uint32_t n_hops;
	uint32_t width;      /* elements a row of the payload; 0: no payload */
	uint32_t block_next; /* first block that has not run yet */
	uint8_t *seqs;       /* use act_seq_get/put */
	uint8_t *hops;
	/* [n_rows] int32, 4-byte aligned if the message is. In ACT_VALUES the position in its sequence that
	 * the row is about (0 for a pooled row). */
	uint8_t *tokens;
	uint8_t *payload; /* [n_rows, width] of dtype: n_rows * act_row_bytes(dtype, width) bytes */
	size_t len;       /* of the whole message */
};

/* Bytes of a message of this shape; 0 if a count is out of range. */
size_t act_bytes(const struct act *shape);

/* Writes the descriptor and points `a`'s sections into buf; contents are the caller's to fill.
 * a's kind ... block_next are inputs. -EMSGSIZE: buf too small. */
int ps_warn_unused act_begin(struct act *a, uint8_t *buf, size_t cap);

/* -EBADMSG with a text naming the field. The view is const in spirit: a receiver does not write. */
int ps_warn_unused act_parse(const uint8_t *data, size_t len, struct act *a_out, struct ps_err *err);

void act_seq_get(const struct act *a, uint32_t i, struct act_seq *out);
void act_seq_put(struct act *a, uint32_t i, const struct act_seq *seq);
void act_hop_get(const struct act *a, uint32_t i, struct act_hop *out);
void act_hop_put(struct act *a, uint32_t i, const struct act_hop *hop);
/* Where hop i's tx_ns stands, for stamping right before a message is sent. */
uint8_t *act_hop_tx_ns(const struct act *a, uint32_t i);

/* Largest message of a deployment, for slot sizes: activations of any element type, and the results that
 * a batch of max_rows can have (ACT_VALUES). n_embd 0: messages without a payload. */
size_t act_max_bytes(uint32_t max_rows, uint32_t max_seqs, uint32_t n_embd);

/* The id of this host's monotonic clock (from its boot id). */
uint32_t act_clock_id(void);

#endif
