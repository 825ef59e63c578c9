/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage/core.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "model/sampler.h"

struct slot_state {
	uint32_t len;     /* positions in the KV cache */
	uint64_t batch;   /* number of the batch that named it last */
	int32_t *history; /* [n_ctx] tokens by position; last stage only */
};

struct stage_core {
	struct stage_core_cfg cfg;
	struct model_graph *graph;
	const struct accel_ops *ops;
	struct accel *accel;
	struct slot_state *slots;
	struct accel_seq *seqs;   /* [ACT_MAX_SEQS] of the batch at hand */
	struct act_seq *act_seqs; /* [ACT_MAX_SEQS] */
	uint32_t *out_rows;       /* [max_tokens] */
	float *logits;            /* [logit_rows, n_vocab] */
	uint32_t logit_rows;
	int32_t *tokens; /* [max_tokens] */
	struct sampler_scratch *scratch;
	uint32_t clock_id;
	uint64_t batch; /* counts the batches looked at */
	struct stage_core_stats stats;
};

/* Logits for sampling need a row a sequence; with cfg.logits set, a row a token. */
static int alloc_core(struct stage_core *c)
{
	uint32_t i, n_vocab = c->graph->hp.n_vocab;

	c->slots = calloc(c->cfg.n_slots, sizeof(*c->slots));
	c->seqs = calloc(ACT_MAX_SEQS, sizeof(*c->seqs));
	c->act_seqs = calloc(ACT_MAX_SEQS, sizeof(*c->act_seqs));
	c->out_rows = calloc(c->cfg.max_tokens, sizeof(*c->out_rows));
	c->tokens = calloc(c->cfg.max_tokens, sizeof(*c->tokens));
	if (c->slots == NULL || c->seqs == NULL || c->act_seqs == NULL || c->out_rows == NULL ||
	    c->tokens == NULL)
		return -ENOMEM;
	if (!c->graph->has_head)
		return 0;
	c->logit_rows = c->cfg.logits != NULL ? c->cfg.max_tokens : ACT_MAX_SEQS;
	if (c->logit_rows > c->cfg.max_tokens)
		c->logit_rows = c->cfg.max_tokens;
	c->logits = malloc((size_t)c->logit_rows * n_vocab * sizeof(float));
	c->scratch = sampler_scratch_create(n_vocab);
	if (c->logits == NULL || c->scratch == NULL)
		return -ENOMEM;
	for (i = 0; i < c->cfg.n_slots; i++) {
		c->slots[i].history = calloc(c->cfg.n_ctx, sizeof(int32_t));
		if (c->slots[i].history == NULL)
			return -ENOMEM;
	}
	return 0;
}

int stage_core_open(const struct stage_core_cfg *cfg, struct stage_core **core_out, struct ps_err *err)
{
	struct stage_core *c = calloc(1, sizeof(*c));
	struct accel_open_args args = {
	    .device = cfg->device,
	    .n_threads = cfg->n_threads,
	    .cores = cfg->cores,
	    .n_slots = cfg->n_slots,
	    .n_ctx = cfg->n_ctx,
	    .max_tokens = cfg->max_tokens,
	};
	int rc;

	if (c == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for a stage");
	c->cfg = *cfg;
	c->clock_id = act_clock_id();
	rc = model_graph_build(cfg->gguf, cfg->block_first, cfg->block_last, &c->graph, err);
	if (rc != 0)
		goto out_close;
	if (c->graph->hp.n_ctx_max != 0 && cfg->n_ctx > c->graph->hp.n_ctx_max) {
		rc = ps_err_set(
		    err, -EINVAL,
		    "%s: a context of %u positions was asked for; the model's position table has %u: "
		    "use a context of at most %u",
		    gguf_path(cfg->gguf), cfg->n_ctx, c->graph->hp.n_ctx_max, c->graph->hp.n_ctx_max);
		goto out_close;
	}
	if (cfg->n_slots == 0 || cfg->n_slots > UINT16_MAX + 1u || cfg->n_ctx == 0 || cfg->max_tokens == 0 ||
	    stage_core_max_bytes(c) == 0) {
		rc = ps_err_set(err, -EINVAL, "%u slots of %u positions, %u rows a batch: out of range",
				cfg->n_slots, cfg->n_ctx, cfg->max_tokens);
		goto out_close;
	}
	c->ops = accel_find(cfg->device, err);
	rc = c->ops == NULL ? -ENOTSUP : c->ops->open(&args, c->graph, &c->accel, err);
	if (rc != 0)
		goto out_close;
	model_graph_populate(c->graph);
	rc = alloc_core(c);
	if (rc != 0) {
		ps_err_set(err, rc, "out of memory for %u slots of %u positions", cfg->n_slots, cfg->n_ctx);
		goto out_close;
	}
	*core_out = c;
	return 0;

out_close:
	stage_core_close(c);
	return rc;
}

void stage_core_close(struct stage_core *c)
{
	uint32_t i;

	if (c == NULL)
		return;
	if (c->accel != NULL)
		c->ops->close(c->accel);
	model_graph_free(c->graph);
	for (i = 0; c->slots != NULL && i < c->cfg.n_slots; i++)
		free(c->slots[i].history);
	sampler_scratch_free(c->scratch);
	free(c->slots);
	free(c->seqs);
	free(c->act_seqs);
	free(c->out_rows);
	free(c->tokens);
	free(c->logits);
	free(c);
}

size_t stage_core_max_bytes(const struct stage_core *c)
{
	return act_max_bytes(c->cfg.max_tokens, ACT_MAX_SEQS, c->graph->hp.n_embd);
}

static int check_seq(const struct stage_core *c, const struct act_seq *s, uint32_t i, struct ps_err *err)
{
	if (s->slot >= c->cfg.n_slots)
		return ps_err_set(err, -EINVAL, "sequence %u: slot %u, this stage has %u", i, s->slot,
				  c->cfg.n_slots);
	if (s->n_tokens == 0 || (uint64_t)s->pos + s->n_tokens > c->cfg.n_ctx)
		return ps_err_set(err, -EINVAL, "sequence %u: positions %u to %llu, the context holds %u", i,
				  s->pos, (unsigned long long)s->pos + s->n_tokens, c->cfg.n_ctx);
	if (s->pos > c->slots[s->slot].len)
		return ps_err_set(err, -EINVAL, "sequence %u: starts at position %u, its cache ends at %u", i,
				  s->pos, c->slots[s->slot].len);
	/* Two runs of rows of one slot in a batch would be computed in no defined order. */
	if (c->slots[s->slot].batch == c->batch)
		return ps_err_set(err, -EINVAL, "sequence %u: slot %u is there twice", i, s->slot);
	c->slots[s->slot].batch = c->batch;
	return 0;
}

static int check_sampling(const struct act_seq *s, uint32_t i, struct sampler_params *p_out,
			  struct ps_err *err)
{
	const char *bad;

	*p_out = (struct sampler_params){
	    .temperature = s->temperature,
	    .top_k = s->top_k,
	    .top_p = s->top_p,
	    .min_p = s->min_p,
	    .repeat_penalty = s->repeat_penalty,
	    .repeat_last_n = s->repeat_last_n,
	    .seed = s->seed,
	};
	bad = sampler_params_check(p_out);
	return bad == NULL ? 0 : ps_err_set(err, -EINVAL, "sequence %u: %s", i, bad);
}

/* Fills seqs, act_seqs, tokens; after it the batch is safe to run. */
static int check_batch(struct stage_core *c, const struct act *a, struct ps_err *err)
{
	const struct model_hparams *hp = &c->graph->hp;
	enum act_kind want = c->graph->has_embed ? ACT_TOKENS : ACT_HIDDEN;
	uint32_t i, want_width = c->graph->has_embed ? 0 : hp->n_embd;
	struct sampler_params params;
	int rc;

	if (a->kind != want || a->width != want_width || a->dtype != ACT_F32)
		return ps_err_set(err, -EINVAL,
				  "batch of kind %u, width %u: this stage takes kind %u, width %u", a->kind,
				  a->width, want, want_width);
	if (a->block_next != c->cfg.block_first)
		return ps_err_set(err, -EINVAL, "batch is for block %u, this stage runs %u to %u",
				  a->block_next, c->cfg.block_first, c->cfg.block_last - 1);
	if (a->n_rows == 0 || a->n_rows > c->cfg.max_tokens || a->n_seqs == 0 || a->n_hops >= ACT_MAX_HOPS)
		return ps_err_set(err, -EINVAL, "batch of %u rows, %u sequences, %u hops: at most %u rows",
				  a->n_rows, a->n_seqs, a->n_hops, c->cfg.max_tokens);
	c->batch++;
	for (i = 0; i < a->n_seqs; i++) {
		struct act_seq *s = &c->act_seqs[i];

		act_seq_get(a, i, s);
		rc = check_seq(c, s, i, err);
		if (rc == 0 && (s->flags & ACT_SEQ_SAMPLE) != 0)
			rc = check_sampling(s, i, &params, err);
		if (rc != 0)
			return rc;
		c->seqs[i] = (struct accel_seq){.slot = s->slot, .pos = s->pos, .n_tokens = s->n_tokens};
	}
	memcpy(c->tokens, a->tokens, (size_t)a->n_rows * sizeof(*c->tokens));
	for (i = 0; i < a->n_rows; i++) {
		if (c->tokens[i] < 0 || (uint32_t)c->tokens[i] >= hp->n_vocab)
			return ps_err_set(err, -EINVAL, "row %u: token %d, the vocabulary has %u", i,
					  c->tokens[i], hp->n_vocab);
	}
	return 0;
}

static uint32_t choose_out_rows(struct stage_core *c, const struct act *a)
{
	uint32_t i, row = 0, n = 0;

	if (c->cfg.logits != NULL) {
		for (i = 0; i < a->n_rows; i++)
			c->out_rows[i] = i;
		return a->n_rows;
	}
	for (i = 0; i < a->n_seqs; i++) {
		row += c->act_seqs[i].n_tokens;
		if ((c->act_seqs[i].flags & ACT_SEQ_SAMPLE) != 0)
			c->out_rows[n++] = row - 1;
	}
	return n;
}

static int run_accel(struct stage_core *c, const struct act *a, float *out, uint32_t n_out,
		     struct ps_err *err)
{
	struct accel_batch b = {
	    .n_tokens = a->n_rows,
	    .n_seqs = a->n_seqs,
	    .seqs = c->seqs,
	    .tokens = c->tokens,
	    .x_in = c->graph->has_embed ? NULL : (const float *)(const void *)a->payload,
	    .out_rows = c->out_rows,
	    .n_out = n_out,
	    .out = out,
	};
	int rc = c->ops->submit(c->accel, &b);

	while (rc == 0) {
		rc = c->ops->poll(c->accel);
		if (rc == 0)
			sched_yield();
	}
	if (rc < 0)
		return ps_err_set(err, rc, "the %s back end failed: %s", c->ops->name, strerror(-rc));
	return 0;
}

/* The cache and the history now hold the batch's rows. */
static void advance_slots(struct stage_core *c, const struct act *a)
{
	uint32_t i, row = 0;

	for (i = 0; i < a->n_seqs; i++) {
		const struct act_seq *s = &c->act_seqs[i];
		struct slot_state *slot = &c->slots[s->slot];

		slot->len = s->pos + s->n_tokens;
		if (slot->history != NULL)
			memcpy(slot->history + s->pos, c->tokens + row,
			       (size_t)s->n_tokens * sizeof(int32_t));
		row += s->n_tokens;
	}
}

/* Turns the sequence table into results: position and id of the token chosen. */
static void sample_batch(struct stage_core *c, const struct act *a)
{
	const uint32_t n_vocab = c->graph->hp.n_vocab;
	uint32_t i, row = 0, out = 0;
	struct sampler_params params;

	for (i = 0; i < a->n_seqs; i++) {
		struct act_seq *s = &c->act_seqs[i];
		struct slot_state *slot = &c->slots[s->slot];

		row += s->n_tokens;
		s->token = -1;
		if ((s->flags & ACT_SEQ_SAMPLE) != 0) {
			uint32_t logits_row = c->cfg.logits != NULL ? row - 1 : out++;

			check_sampling(s, i, &params, NULL);
			s->token =
			    sampler_sample(&params, c->scratch, c->logits + (size_t)logits_row * n_vocab,
					   n_vocab, slot->history, slot->len, slot->len);
		}
		s->pos = slot->len;
		s->n_tokens = 0;
	}
}

static void finish_message(struct stage_core *c, struct act *o, const struct act *in, struct act_hop *hop,
			   uint8_t **hop_tx_out)
{
	uint32_t i;

	if (in->n_hops > 0)
		memcpy(o->hops, in->hops, (size_t)in->n_hops * ACT_HOP_BYTES);
	hop->proc = c->cfg.stage;
	hop->clock_id = c->clock_id;
	hop->end_ns = ps_now_ns();
	act_hop_put(o, o->n_hops - 1, hop);
	for (i = 0; i < o->n_seqs; i++)
		act_seq_put(o, i, &c->act_seqs[i]);
	*hop_tx_out = act_hop_tx_ns(o, o->n_hops - 1);
	c->stats.compute_ns += hop->end_ns - hop->start_ns;
}

static int run_middle(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		      size_t *len_out, uint8_t **hop_tx_out, struct ps_err *err)
{
	struct act o = {
	    .kind = ACT_HIDDEN,
	    .dtype = ACT_F32,
	    .batch_id = in->batch_id,
	    .n_rows = in->n_rows,
	    .n_seqs = in->n_seqs,
	    .n_hops = in->n_hops + 1,
	    .width = c->graph->hp.n_embd,
	    .block_next = c->cfg.block_last,
	};
	int rc = act_begin(&o, out, stage_core_max_bytes(c));

	if (rc == 0)
		rc = run_accel(c, in, (float *)(void *)o.payload, 0, err);
	if (rc != 0)
		return rc;
	advance_slots(c, in);
	memcpy(o.tokens, c->tokens, (size_t)in->n_rows * sizeof(int32_t));
	finish_message(c, &o, in, hop, hop_tx_out);
	*len_out = o.len;
	return 0;
}

static int run_last(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		    size_t *len_out, uint8_t **hop_tx_out, struct ps_err *err)
{
	struct act o = {
	    .kind = ACT_SAMPLED,
	    .dtype = ACT_F32,
	    .batch_id = in->batch_id,
	    .n_seqs = in->n_seqs,
	    .n_hops = in->n_hops + 1,
	    .block_next = c->cfg.block_last,
	};
	uint32_t n_out = choose_out_rows(c, in);
	int rc = act_begin(&o, out, stage_core_max_bytes(c));

	if (rc == 0 && n_out > c->logit_rows)
		rc =
		    ps_err_set(err, -EINVAL, "%u rows of logits asked for, at most %u", n_out, c->logit_rows);
	if (rc == 0)
		rc = run_accel(c, in, c->logits, n_out, err);
	if (rc != 0)
		return rc;
	advance_slots(c, in);
	if (c->cfg.logits != NULL)
		c->cfg.logits(c->cfg.logits_ctx, c->logits, n_out, c->graph->hp.n_vocab);
	sample_batch(c, in);
	finish_message(c, &o, in, hop, hop_tx_out);
	*len_out = o.len;
	return 0;
}

/* An error message carries the sequence table of the batch (if it could be read) and a text. */
static void write_error(struct stage_core *c, const struct act *in, struct act_hop *hop, const char *text,
			uint8_t *out, size_t *len_out, uint8_t **hop_tx_out)
{
	char line[1100];
	struct act o = {
	    .kind = ACT_ERROR,
	    .dtype = ACT_BYTES,
	    .batch_id = in->batch_id,
	    .n_rows = 1,
	    .n_seqs = in->n_seqs,
	    .n_hops = in->n_hops < ACT_MAX_HOPS ? in->n_hops + 1 : 1,
	};
	uint32_t i, n = (uint32_t)snprintf(line, sizeof(line), "stage %u: %s", c->cfg.stage, text);
	size_t room;

	/* A small model's messages may have less room than the text wants. */
	room = stage_core_max_bytes(c) - act_bytes(&o);
	o.width = n < sizeof(line) ? n : (uint32_t)sizeof(line) - 1;
	if (o.width > room)
		o.width = (uint32_t)room;
	CHECK(act_begin(&o, out, stage_core_max_bytes(c)) == 0);
	for (i = 0; i < in->n_seqs; i++)
		act_seq_get(in, i, &c->act_seqs[i]);
	memset(o.tokens, 0, sizeof(int32_t));
	memcpy(o.payload, line, o.width);
	hop->start_ns = hop->start_ns == 0 ? ps_now_ns() : hop->start_ns;
	if (o.n_hops == 1) {
		struct act none = *in;

		none.n_hops = 0;
		finish_message(c, &o, &none, hop, hop_tx_out);
	} else {
		finish_message(c, &o, in, hop, hop_tx_out);
	}
	*len_out = o.len;
	c->stats.errors++;
}

void stage_core_run(struct stage_core *c, const uint8_t *msg, size_t len, uint64_t rx_ns, uint8_t *out,
		    size_t *len_out, uint8_t **hop_tx_out)
{
	struct act_hop hop = {.rx_ns = rx_ns, .start_ns = ps_now_ns()};
	struct ps_err err = {{0}};
	struct act in = {0};
	int rc = act_parse(msg, len, &in, &err);

	if (rc == 0 && in.kind == ACT_ERROR && len <= stage_core_max_bytes(c)) {
		memcpy(out, msg, len);
		*len_out = len;
		*hop_tx_out = NULL;
		return;
	}
	if (rc == 0)
		rc = check_batch(c, &in, &err);
	if (rc == 0)
		rc = c->graph->has_head ? run_last(c, &in, &hop, out, len_out, hop_tx_out, &err)
					: run_middle(c, &in, &hop, out, len_out, hop_tx_out, &err);
	if (rc != 0) {
		write_error(c, &in, &hop, err.msg, out, len_out, hop_tx_out);
		return;
	}
	c->stats.batches++;
	c->stats.rows += in.n_rows;
}

void stage_core_stats(const struct stage_core *c, struct stage_core_stats *out)
{
	*out = c->stats;
}

void stage_core_caps(const struct stage_core *c, struct accel_caps *out)
{
	c->ops->caps(c->accel, out);
}

const struct model_hparams *stage_core_hparams(const struct stage_core *c)
{
	return &c->graph->hp;
}
