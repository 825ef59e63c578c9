/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage/core.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "model/sampler.h"
#include "stage/core_priv.h"
#include "stage/values.h"

static int alloc_history(struct stage_core *c)
{
	uint32_t i;

	c->scratch = sampler_scratch_create(c->graph->hp.n_vocab);
	if (c->scratch == NULL)
		return -ENOMEM;
	for (i = 0; i < c->cfg.n_slots; i++) {
		c->slots[i].history = calloc(c->cfg.n_ctx, sizeof(int32_t));
		if (c->slots[i].history == NULL)
			return -ENOMEM;
	}
	return 0;
}

/* Logits are of a row a sequence (or of a masked place); with cfg.logits set, of a row a token. */
static int alloc_logits(struct stage_core *c)
{
	c->logit_rows = c->cfg.logits != NULL ? c->cfg.max_tokens : ACT_MAX_SEQS;
	if (c->logit_rows > c->cfg.max_tokens)
		c->logit_rows = c->cfg.max_tokens;
	c->logits = malloc((size_t)c->logit_rows * c->graph->hp.n_vocab * sizeof(float));
	return c->logits != NULL ? 0 : -ENOMEM;
}

static int alloc_core(struct stage_core *c)
{
	const struct model_hparams *hp = &c->graph->hp;
	size_t rows = c->cfg.max_tokens;
	bool generates = stage_is_last(c) && hp->task == MODEL_TASK_GENERATE;
	int rc = 0;

	c->slots = calloc(c->cfg.n_slots, sizeof(*c->slots));
	c->seqs = calloc(ACT_MAX_SEQS, sizeof(*c->seqs));
	c->act_seqs = calloc(ACT_MAX_SEQS, sizeof(*c->act_seqs));
	c->n_results = calloc(ACT_MAX_SEQS, sizeof(*c->n_results));
	c->out_rows = calloc(rows, sizeof(*c->out_rows));
	c->tokens = calloc(rows, sizeof(*c->tokens));
	c->x_in = malloc(rows * hp->n_embd * sizeof(float));
	c->x_out = malloc(rows * hp->n_embd * sizeof(float));
	if (c->slots == NULL || c->seqs == NULL || c->act_seqs == NULL || c->n_results == NULL ||
	    c->out_rows == NULL || c->tokens == NULL || c->x_in == NULL || c->x_out == NULL)
		return -ENOMEM;
	if (generates)
		rc = alloc_history(c);
	if (rc == 0 && (generates || (stage_is_last(c) && hp->has_fill)))
		rc = alloc_logits(c);
	return rc;
}

static int32_t find_mask_token(const struct gguf *g, uint32_t n_vocab)
{
	uint32_t id;

	return gguf_get_u32(g, "tokenizer.ggml.mask_token_id", &id) && id < n_vocab ? (int32_t)id : -1;
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
	    .kv = cfg->kv,
	    .trace = cfg->trace,
	};
	int rc;

	if (c == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for a stage");
	c->cfg = *cfg;
	c->clock_id = act_clock_id();
	rc = model_graph_build(cfg->gguf, cfg->block_first, cfg->block_last, &c->graph, err);
	if (rc != 0)
		goto out_close;
	c->mask_token = find_mask_token(cfg->gguf, c->graph->hp.n_vocab);
	if (c->graph->hp.n_ctx_max != 0 && cfg->n_ctx > c->graph->hp.n_ctx_max) {
		rc = ps_err_set(
		    err, -EINVAL,
		    "%s: a context of %u positions was asked for; the model's position table has %u: "
		    "use a context of at most %u",
		    gguf_path(cfg->gguf), cfg->n_ctx, c->graph->hp.n_ctx_max, c->graph->hp.n_ctx_max);
		goto out_close;
	}
	if (cfg->n_slots == 0 || cfg->n_slots > UINT16_MAX + 1u || cfg->n_ctx == 0 || cfg->max_tokens == 0 ||
	    stage_core_max_bytes(c) == 0 || cfg->act_dtype >= ACT_N_DTYPES) {
		rc = ps_err_set(err, -EINVAL,
				"%u slots of %u positions, %u rows a batch, wire type %u: out of range",
				cfg->n_slots, cfg->n_ctx, cfg->max_tokens, (unsigned)cfg->act_dtype);
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
	free(c->n_results);
	free(c->out_rows);
	free(c->tokens);
	free(c->x_in);
	free(c->x_out);
	free(c->logits);
	free(c);
}

size_t stage_core_max_bytes(const struct stage_core *c)
{
	return act_max_bytes(c->cfg.max_tokens, ACT_MAX_SEQS, c->graph->hp.n_embd);
}

/* Positions of the rows whose logits are wanted: all for cfg.logits, else those that sample or are masked. */
static uint32_t choose_out_rows(struct stage_core *c, const struct act *a)
{
	uint32_t i, k, row = 0, n = 0;

	for (i = 0; i < a->n_seqs; i++) {
		const struct act_seq *s = &c->act_seqs[i];

		for (k = 0; k < s->n_tokens; k++, row++) {
			bool sampled = (s->flags & ACT_SEQ_SAMPLE) != 0 && k + 1 == s->n_tokens;
			bool masked = (s->flags & ACT_SEQ_FILL) != 0 && c->tokens[row] == c->mask_token;

			if (sampled || masked || c->cfg.logits != NULL)
				c->out_rows[n++] = row;
		}
	}
	return n;
}

/* The activations that a batch came with, as float32: in the message itself if they are that. */
static const float *batch_input(struct stage_core *c, const struct act *a)
{
	if (stage_graph(c, a->pass)->has_embed)
		return NULL;
	if (a->dtype == ACT_F32)
		return (const float *)(const void *)a->payload;
	act_decode(a->dtype, a->payload, a->n_rows, a->width, c->x_in);
	return c->x_in;
}

static int run_accel(struct stage_core *c, const struct act *a, const float *x_in, float *out, uint32_t n_out,
		     struct ps_err *err)
{
	struct accel_batch b = {
	    .pass = (enum model_pass)a->pass,
	    .n_tokens = a->n_rows,
	    .n_seqs = a->n_seqs,
	    .seqs = c->seqs,
	    .tokens = c->tokens,
	    .x_in = x_in,
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

/* The cache and the history now hold the batch's rows; an encode pass leaves the decoder's alone. */
static void advance_slots(struct stage_core *c, const struct act *a)
{
	uint32_t i, row = 0;

	for (i = 0; i < a->n_seqs; i++) {
		const struct act_seq *s = &c->act_seqs[i];
		struct slot_state *slot = &c->slots[s->slot];

		if (a->pass == ACT_PASS_ENCODE) {
			slot->enc_len = s->n_tokens;
			continue;
		}
		slot->len = s->pos + s->n_tokens;
		if (slot->history != NULL)
			memcpy(slot->history + s->pos, c->tokens + row,
			       (size_t)s->n_tokens * sizeof(int32_t));
		row += s->n_tokens;
	}
}

/* Turns the sequence table into results: position and id of the token chosen, -1 where none was asked for. */
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

			CHECK(stage_core_sampling(s, i, &params, NULL) == 0);
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

/* The shape of what answers a batch; the counts of rows and the payload are the caller's. */
static struct act answer(const struct stage_core *c, const struct act *in, enum act_kind kind)
{
	return (struct act){
	    .kind = kind,
	    .pass = in->pass,
	    .dtype = ACT_F32,
	    .batch_id = in->batch_id,
	    .n_seqs = in->n_seqs,
	    .n_hops = in->n_hops + 1,
	    .block_next = c->cfg.block_last,
	};
}

/* A batch that this stage has nothing to do for, but for its line in the hop table. */
static int pass_on(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		   size_t *len_out, uint8_t **hop_tx_out)
{
	struct act o = answer(c, in, in->kind);
	int rc;

	o.n_rows = in->n_rows;
	o.block_next = in->block_next;
	rc = act_begin(&o, out, stage_core_max_bytes(c));
	if (rc != 0)
		return rc;
	memcpy(o.tokens, c->tokens, (size_t)in->n_rows * sizeof(int32_t));
	finish_message(c, &o, in, hop, hop_tx_out);
	*len_out = o.len;
	return 0;
}

/* Activations for the next stage. What comes as the encoder's output goes on byte for byte, so that a lossy
 * element type rounds it once, however many stages there are. */
static int run_middle(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		      size_t *len_out, uint8_t **hop_tx_out, struct ps_err *err)
{
	bool forward = stage_forwards(c, in->pass);
	struct act o = answer(c, in, ACT_HIDDEN);
	bool in_place;
	int rc;

	o.dtype = forward ? in->dtype : c->cfg.act_dtype;
	o.n_rows = in->n_rows;
	o.width = c->graph->hp.n_embd;
	in_place = !forward && o.dtype == ACT_F32;
	rc = act_begin(&o, out, stage_core_max_bytes(c));
	if (rc == 0)
		rc = run_accel(c, in, batch_input(c, in), in_place ? (float *)(void *)o.payload : c->x_out, 0,
			       err);
	if (rc != 0)
		return rc;
	advance_slots(c, in);
	if (forward)
		memcpy(o.payload, in->payload, (size_t)in->n_rows * act_row_bytes(in->dtype, in->width));
	else if (!in_place)
		c->stats.cut_values += act_encode(o.dtype, c->x_out, o.n_rows, o.width, o.payload);
	memcpy(o.tokens, c->tokens, (size_t)in->n_rows * sizeof(int32_t));
	finish_message(c, &o, in, hop, hop_tx_out);
	*len_out = o.len;
	return 0;
}

/* How many result rows each sequence will have; their sum. */
static uint32_t count_results(struct stage_core *c, const struct act *in)
{
	uint32_t i, k, row = 0, sum = 0;

	for (i = 0; i < in->n_seqs; i++) {
		const struct act_seq *s = &c->act_seqs[i];
		uint32_t n = 0;

		if ((s->flags & ACT_SEQ_EMBED) != 0)
			n = (s->flags & ACT_SEQ_ROWS) != 0 ? s->n_tokens : 1;
		for (k = 0; (s->flags & ACT_SEQ_FILL) != 0 && k < s->n_tokens; k++)
			n += c->tokens[row + k] == c->mask_token;
		c->n_results[i] = n;
		row += s->n_tokens;
		sum += n;
	}
	return sum;
}

/* x [in->n_rows, n_embd] to the rows asked for. */
static void put_embeddings(struct stage_core *c, const struct act *in, const float *x, struct act *o)
{
	uint32_t i, k, width = o->width;
	uint8_t *token = o->tokens;
	float *to = (float *)(void *)o->payload; /* [o->n_rows, n_embd] */

	for (i = 0; i < in->n_seqs; i++) {
		const struct act_seq *s = &c->act_seqs[i];

		if ((s->flags & ACT_SEQ_ROWS) != 0)
			memcpy(to, x, (size_t)s->n_tokens * width * sizeof(float));
		else if ((s->flags & ACT_SEQ_EMBED) != 0)
			stage_pool(c->graph->hp.pooling, x, s->n_tokens, width, to);
		for (k = 0; k < c->n_results[i]; k++, token += 4)
			ps_store32(token, k);
		to += (size_t)c->n_results[i] * width;
		x += (size_t)s->n_tokens * width;
	}
}

/* The logits of the batch's out_rows to the likeliest tokens of its masked places. */
static void put_fills(struct stage_core *c, const struct act *in, struct act *o)
{
	float *to = (float *)(void *)o->payload; /* [o->n_rows, 2 * ACT_FILL_BEST] */
	uint32_t i, k, row = 0, out = 0, n = 0;

	for (i = 0; i < in->n_seqs; i++) {
		const struct act_seq *s = &c->act_seqs[i];

		for (k = 0; k < s->n_tokens; k++, row++) {
			uint32_t at = c->cfg.logits != NULL ? row : out;

			if ((s->flags & ACT_SEQ_FILL) == 0 || c->tokens[row] != c->mask_token)
				continue;
			stage_fill_best(c->logits + (size_t)at * c->graph->hp.n_vocab, c->graph->hp.n_vocab,
					to + (size_t)n * o->width);
			ps_store32(o->tokens + (size_t)n * 4, k);
			out++;
			n++;
		}
	}
}

/* Results that are rows of numbers: embeddings, or fill-mask results. */
static int run_values(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		      size_t *len_out, uint8_t **hop_tx_out, struct ps_err *err)
{
	bool fill = in->pass == ACT_PASS_FILL;
	const float *x_in = batch_input(c, in);
	struct act o = answer(c, in, ACT_VALUES);
	uint32_t i, n_out = in->n_rows;
	int rc;

	o.n_rows = count_results(c, in);
	o.width = fill ? 2 * ACT_FILL_BEST : c->graph->hp.n_embd;
	if (fill)
		n_out = choose_out_rows(c, in);
	for (i = 0; !fill && i < n_out; i++)
		c->out_rows[i] = i;
	if (fill && n_out > c->logit_rows)
		return ps_err_set(err, -EINVAL, "%u masked places in a batch, at most %u", n_out,
				  c->logit_rows);
	rc = act_begin(&o, out, stage_core_max_bytes(c));
	if (rc == 0)
		rc = run_accel(c, in, x_in, fill ? c->logits : c->x_out, n_out, err);
	if (rc != 0)
		return rc;
	advance_slots(c, in);
	if (fill && c->cfg.logits != NULL)
		c->cfg.logits(c->cfg.logits_ctx, c->logits, n_out, c->graph->hp.n_vocab);
	if (fill)
		put_fills(c, in, &o);
	else
		put_embeddings(c, in, stage_forwards(c, in->pass) ? x_in : c->x_out, &o);
	for (i = 0; i < in->n_seqs; i++) {
		c->act_seqs[i].n_tokens = c->n_results[i];
		c->act_seqs[i].token = -1;
	}
	finish_message(c, &o, in, hop, hop_tx_out);
	*len_out = o.len;
	return 0;
}

/* Tokens, or the end of an encode pass of which nothing is wanted. */
static int run_sampled(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		       size_t *len_out, uint8_t **hop_tx_out, struct ps_err *err)
{
	bool encode = in->pass == ACT_PASS_ENCODE;
	struct act o = answer(c, in, ACT_SAMPLED);
	uint32_t n_out = encode ? 0 : choose_out_rows(c, in);
	int rc = act_begin(&o, out, stage_core_max_bytes(c));

	if (rc == 0 && n_out > c->logit_rows)
		rc =
		    ps_err_set(err, -EINVAL, "%u rows of logits asked for, at most %u", n_out, c->logit_rows);
	if (rc == 0)
		rc = run_accel(c, in, batch_input(c, in), encode ? c->x_out : c->logits, n_out, err);
	if (rc != 0)
		return rc;
	advance_slots(c, in);
	if (!encode && c->cfg.logits != NULL)
		c->cfg.logits(c->cfg.logits_ctx, c->logits, n_out, c->graph->hp.n_vocab);
	sample_batch(c, in);
	finish_message(c, &o, in, hop, hop_tx_out);
	*len_out = o.len;
	return 0;
}

static bool wants_values(const struct stage_core *c, const struct act *in)
{
	uint32_t i;

	if (in->pass != ACT_PASS_ENCODE)
		return c->graph->hp.task == MODEL_TASK_EMBED;
	for (i = 0; i < in->n_seqs; i++) {
		if ((c->act_seqs[i].flags & ACT_SEQ_EMBED) != 0)
			return true;
	}
	return false;
}

static int run_batch(struct stage_core *c, const struct act *in, struct act_hop *hop, uint8_t *out,
		     size_t *len_out, uint8_t **hop_tx_out, struct ps_err *err)
{
	if (stage_passes_on(c, in->pass))
		return pass_on(c, in, hop, out, len_out, hop_tx_out);
	if (!stage_is_last(c))
		return run_middle(c, in, hop, out, len_out, hop_tx_out, err);
	if (wants_values(c, in))
		return run_values(c, in, hop, out, len_out, hop_tx_out, err);
	return run_sampled(c, in, hop, out, len_out, hop_tx_out, err);
}

/* An error message carries the sequence table of the batch (if it could be read) and a text. */
static void write_error(struct stage_core *c, const struct act *in, struct act_hop *hop, const char *text,
			uint8_t *out, size_t *len_out, uint8_t **hop_tx_out)
{
	char line[1100];
	struct act o = {
	    .kind = ACT_ERROR,
	    .pass = in->pass,
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
		rc = stage_core_check(c, &in, &err);
	if (rc == 0)
		rc = run_batch(c, &in, &hop, out, len_out, hop_tx_out, &err);
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
