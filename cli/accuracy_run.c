/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "cli/accuracy.h"

/* Negative logarithm of the target's probability. */
static double nll_of(const float *logits, uint32_t n_vocab, int32_t target)
{
	double largest = -INFINITY, sum = 0;
	uint32_t i;

	for (i = 0; i < n_vocab; i++)
		largest = (double)logits[i] > largest ? (double)logits[i] : largest;
	for (i = 0; i < n_vocab; i++)
		sum += exp((double)logits[i] - largest);
	return log(sum) + largest - (double)logits[target];
}

static int32_t arg_max(const float *logits, uint32_t n_vocab)
{
	uint32_t i, best = 0;

	for (i = 1; i < n_vocab; i++)
		best = logits[i] > logits[best] ? i : best;
	return (int32_t)best;
}

/* Gets the logits of every row, in order. */
static void score(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab)
{
	struct acc *a = ctx;
	uint32_t i;

	for (i = 0; i < n_rows && a->at < a->n_targets; i++, logits += n_vocab) {
		int32_t target = a->targets[a->at++];

		if (target < 0)
			continue;
		a->row->nll += nll_of(logits, n_vocab, target);
		a->row->scored++;
		if (a->hp.task == MODEL_TASK_EMBED)
			a->row->choices[a->choice++] = arg_max(logits, n_vocab);
	}
}

/* Windows that overlap by half; a token is scored in the first one that reaches it, but those at its start.
 */
static int run_windows(struct acc *a, struct pipeline *p, struct ps_err *err)
{
	size_t n = a->corpus.n, start, done = 1;
	uint32_t i, len;
	int32_t next;
	int rc = 0;

	for (start = 0; done < n && rc == 0; start += a->window / 2) {
		len = n - start < a->window ? (uint32_t)(n - start) : a->window;
		for (i = 0; i < len; i++) {
			size_t target = start + i + 1;

			a->targets[i] = target >= done && target < n ? a->corpus.ids[target] : -1;
		}
		done = start + len + 1;
		a->at = 0;
		a->n_targets = len;
		rc = pipeline_feed(p, a->corpus.ids + start, len, 0, &next, err);
	}
	return rc;
}

/* Puts what the tokenizer puts around a text around a piece. */
static uint32_t wrap(const struct corpus *c, const int32_t *piece, uint32_t n, int32_t *ids /* [n + 8] */)
{
	memcpy(ids, c->prefix, c->n_prefix * sizeof(*ids));
	memcpy(ids + c->n_prefix, piece, n * sizeof(*ids));
	memcpy(ids + c->n_prefix + n, c->suffix, c->n_suffix * sizeof(*ids));
	return n + (uint32_t)(c->n_prefix + c->n_suffix);
}

/* A piece with spans left out: a sentinel stands for each in the encoder's input, and the decoder is to say
 * sentinel and span in turns. Fills targets with the spans' tokens. */
struct spans {
	int32_t enc[ACC_SPAN_PIECE + 8], dec[ACC_SPAN_PIECE + 8];
	uint32_t n_enc, n_dec;
};

static void add_dec(struct acc *a, struct spans *s, int32_t id, int32_t target)
{
	a->targets[s->n_dec] = target;
	s->dec[s->n_dec++] = id;
}

static void make_spans(struct acc *a, size_t start, uint32_t n, struct spans *s)
{
	const struct corpus *c = &a->corpus;
	int32_t ids[ACC_SPAN_PIECE];
	uint32_t n_ids = 0, i, span = 0;

	CHECK(n <= ACC_SPAN_PIECE);
	s->n_dec = 0;
	add_dec(a, s, a->hp.decoder_start, -1);
	for (i = 0; i < n; i++) {
		uint32_t in_span = i % ACC_SPAN_EVERY - ACC_SPAN_EVERY / 2; /* huge before the span */
		const int32_t *t = c->ids + start + i;

		if (in_span >= ACC_SPAN_TOKENS) {
			ids[n_ids++] = *t;
			continue;
		}
		if (in_span == 0) {
			ids[n_ids++] = c->sentinels[span];
			add_dec(a, s, c->sentinels[span++], *t);
		}
		add_dec(a, s, *t, in_span + 1 < ACC_SPAN_TOKENS && i + 1 < n ? t[1] : -1);
	}
	s->n_enc = wrap(c, ids, n_ids, s->enc);
}

static int run_spans(struct acc *a, struct pipeline *p, struct ps_err *err)
{
	struct spans s;
	size_t start;
	int32_t next;
	int rc = 0;

	for (start = 0; start + ACC_SPAN_PIECE <= a->corpus.n && rc == 0; start += ACC_SPAN_PIECE) {
		make_spans(a, start, ACC_SPAN_PIECE, &s);
		a->at = 0;
		a->n_targets = s.n_dec;
		rc = pipeline_encode(p, s.enc, s.n_enc, err);
		if (rc == 0)
			rc = pipeline_feed(p, s.dec, s.n_dec, 0, &next, err);
	}
	return rc;
}

/* The prompt of an encoder: with spans left out, where the vocabulary has tokens for that. */
static int encode_prompt(struct acc *a, struct pipeline *p, size_t place, struct ps_err *err)
{
	struct spans s;

	if (a->corpus.has_sentinels)
		make_spans(a, place, a->prompt, &s);
	else
		s.n_enc = wrap(&a->corpus, a->corpus.ids + place, a->prompt, s.enc);
	return pipeline_encode(p, s.enc, s.n_enc, err);
}

/* The prompt at a place of the corpus; its continuation goes to choices[greedy]. */
static int run_prompt(struct acc *a, struct pipeline *p, size_t place, int32_t *choices, struct ps_err *err)
{
	bool seq2seq = a->hp.n_layers_enc > 0;
	uint32_t pos = seq2seq ? 1 : a->prompt, i;
	int rc;

	if (seq2seq) {
		rc = encode_prompt(a, p, place, err);
		if (rc == 0)
			rc = pipeline_feed(p, &a->hp.decoder_start, 1, 0, &choices[0], err);
	} else {
		rc = pipeline_feed(p, a->corpus.ids + place, a->prompt, 0, &choices[0], err);
	}
	for (i = 0; i + 1 < a->greedy && rc == 0; i++)
		rc = pipeline_feed(p, &choices[i], 1, pos + i, &choices[i + 1], err);
	return rc;
}

static int run_prompts(struct acc *a, struct pipeline *p, struct ps_err *err)
{
	uint32_t i;
	int rc = 0;

	a->n_targets = 0; /* nothing of it is scored */
	for (i = 0; i < a->n_prompts && rc == 0; i++) {
		size_t at = (a->corpus.n - a->prompt) * i / a->n_prompts;

		rc = run_prompt(a, p, at, a->row->choices + (size_t)i * a->greedy, err);
	}
	return rc;
}

/* Hidden states of a piece: kept in the first run, compared with those in the others. */
static void compare_hidden(struct acc *a, const struct pipeline_values *v, float *base /* [n_rows, width] */)
{
	size_t n = (size_t)v->n_rows * v->width, i;
	double mean = 0;

	if (a->row == &a->rows[0])
		memcpy(base, v->rows, n * sizeof(float));
	for (i = 0; i < n; i++)
		mean += (double)base[i] / (double)n;
	for (i = 0; i < n; i++) {
		double d = (double)v->rows[i] - (double)base[i], b = (double)base[i] - mean;

		a->row->diff2 += d * d;
		a->row->base2 += b * b;
	}
}

/* Every ACC_MASK_EVERY-th token of the piece is masked; the head is asked for them. */
static int run_masked(struct acc *a, struct pipeline *p, int32_t *ids, uint32_t len, struct ps_err *err)
{
	uint32_t first = (uint32_t)a->corpus.n_prefix, last = len - (uint32_t)a->corpus.n_suffix, i;
	struct pipeline_values v;

	for (i = 0; i < len; i++) {
		bool masked = i >= first && i < last && (i - first) % ACC_MASK_EVERY == ACC_MASK_EVERY / 2;

		a->targets[i] = masked ? ids[i] : -1;
		ids[i] = masked ? a->mask : ids[i];
	}
	a->at = 0;
	a->n_targets = len;
	return pipeline_fill(p, ids, len, false, &v, err);
}

uint32_t accuracy_piece_tokens(const struct acc *a)
{
	return a->window - (uint32_t)(a->corpus.n_prefix + a->corpus.n_suffix);
}

static int run_encoder(struct acc *a, struct pipeline *p, struct ps_err *err)
{
	int32_t ids[ACC_MAX_WINDOW + 8];
	size_t start, kept = 0;
	uint32_t n, len;
	int rc = 0;

	a->choice = 0;
	for (start = 0; start < a->corpus.n && rc == 0; start += n) {
		struct pipeline_values v;

		n = a->corpus.n - start < accuracy_piece_tokens(a) ? (uint32_t)(a->corpus.n - start)
								   : accuracy_piece_tokens(a);
		len = wrap(&a->corpus, a->corpus.ids + start, n, ids);
		rc = pipeline_embed(p, ids, len, false, &v, err);
		if (rc != 0)
			break;
		compare_hidden(a, &v, a->rows[0].hidden + kept);
		kept += (size_t)v.n_rows * v.width;
		if (a->mask >= 0)
			rc = run_masked(a, p, ids, len, err);
	}
	return rc;
}

int accuracy_run(struct acc *a, struct acc_row *row, struct ps_err *err)
{
	const struct pipeline_cfg cfg = {
	    .gguf = a->g,
	    .n_stages = a->stages,
	    .device = a->o->device,
	    .n_threads = a->o->threads,
	    .n_ctx = a->window,
	    .max_tokens = a->window,
	    .kv = row->kv,
	    .act_dtype = row->wire,
	    .logits = score,
	    .logits_ctx = a,
	};
	struct pipeline *p = NULL;
	int rc = pipeline_open(&cfg, &p, err);

	a->row = row;
	if (rc == 0 && a->hp.task == MODEL_TASK_EMBED) {
		rc = run_encoder(a, p, err);
	} else if (rc == 0) {
		if (a->hp.n_layers_enc == 0)
			rc = run_windows(a, p, err);
		else if (a->corpus.has_sentinels)
			rc = run_spans(a, p, err);
		if (rc == 0)
			rc = run_prompts(a, p, err);
	}
	if (rc == 0 && row->scored > 0 && !isfinite(row->nll))
		rc = ps_err_set(err, -EDOM, "%s: a logit is infinite or NaN", a->o->model);
	if (rc == 0) {
		row->cut_values = pipeline_cut_values(p);
		pipeline_caps(p, &a->caps);
	}
	pipeline_close(p);
	return rc;
}

/* Masked places of the whole text, as run_encoder cuts it. */
uint32_t accuracy_count_masked(const struct acc *a)
{
	size_t start;
	uint32_t n, count = 0;

	for (start = 0; start < a->corpus.n; start += n) {
		n = a->corpus.n - start < accuracy_piece_tokens(a) ? (uint32_t)(a->corpus.n - start)
								   : accuracy_piece_tokens(a);
		count += (n + ACC_MASK_EVERY - 1 - ACC_MASK_EVERY / 2) / ACC_MASK_EVERY;
	}
	return count;
}
