/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_SERVER_RIG_H
#define PENSTOCK_TESTS_SERVER_RIG_H
/* The gateway's server on a socket of its own, with clients as they connect, and behind it a pipeline
 * of one stage that answers every batch at once with tokens that the test chose. */
#include "gateway/server.h"

#include "gateway/client.h"
#include "tests/unit/dataplane/ep_side.h"

#define N_VOCAB    1536u
#define MAX_SCRIPT 64u
#define MASK       9
#define MAX_ROWS   64u
#define WIDE       8192u
#define MAX_MSG    (MAX_ROWS * WIDE * 4 + 65536u)

struct rig {
	char dir[64], path[96];
	struct dp_loopback *lb;
	struct ep_side gw, pipe;
	struct gw_server *srv;
	pthread_t serve_thread, pipe_thread;
	bool serving, piping;
	_Atomic int stop, pipe_stop;
	_Atomic bool hold; /* the pipeline takes batches and does not answer */
	_Atomic bool fail; /* it answers with an error */
	/* The token for a sequence's i-th generated one, where given; else the one before plus 1. */
	int32_t script[MAX_SCRIPT];
	uint32_t n_script, n_prompt;
	int rc;
	struct ps_err err;
};

/* The model whose vocabulary it is, and what the gateway takes it for. */
extern struct gguf *model;
extern struct tokenizer *tokenizer;
extern struct model_hparams hparams;

/* Group set-up and tear-down; hparams are those of llama then. */
int open_model(void **state);
int close_model(void **state);
void be_llama(void);
void be_bert(uint32_t n_embd);

/* What the pipeline answers embed requests with. */
float value(uint32_t row, uint32_t col);

void open_rig(struct rig *r, const struct tokenizer *tok, uint64_t dead_ns, uint64_t pipe_hash);
void kill_pipeline(struct rig *r);
void close_rig(struct rig *r);

/* A client, what it asks, and what it hears; the events are the caller's to decref. */
void join(const struct rig *r, struct gw_conn *c);
void ask(struct gw_conn *c, const char *line);
json_t *next_event(struct gw_conn *c);
const char *name_of(const json_t *o);
void expect_error(struct gw_conn *c, const char *part);
int64_t number(const json_t *o, const char *key);
json_t *status_of(struct gw_conn *c);

#endif
