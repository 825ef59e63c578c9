/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filters, in order: repetition penalty (Keskar et al., CTRL, 2019: positive logits of
 * recent tokens are divided by it, others multiplied), top-k, top-p (Holtzman et
 * al., 2020: the fewest best tokens whose probabilities reach p), min-p (those at least
 * min_p times as probable as the best); then softmax at the temperature over what is left.
 * Top-p and min-p see probabilities at temperature 1, so the temperature never changes which
 * tokens are left, only how evenly they are drawn.
 *
 * Top-k is one pass over the logits that keeps the best k so far in a heap. The other filters take
 * candidates off a heap from the best down, as far as they reach: O(n_vocab + kept * log n_vocab). Sums are
 * in double and in that order, so they do not depend on anything but the logits.
 */
#include "model/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

struct cand {
	float logit;
	int32_t id;
};

struct sampler_scratch {
	uint32_t n_vocab;
	struct cand *cand; /* [n_vocab] a heap; what has been taken off lies behind it, best last */
	double *weight;    /* [n_vocab] of the candidates that are drawn from */
	uint8_t *seen;     /* [n_vocab] all 0 between calls */
};

void sampler_params_default(struct sampler_params *p)
{
	*p = (struct sampler_params){.top_p = 1.0f, .repeat_penalty = 1.0f, .repeat_last_n = 64};
}

const char *sampler_params_check(const struct sampler_params *p)
{
	/* Written so that NaN fails each. */
	if (!(p->temperature >= 0.0f && p->temperature <= 100.0f))
		return "temperature: expected 0 (greedy) to 100";
	if (p->top_k < 0)
		return "top_k: expected 0 (off) or more";
	if (!(p->top_p >= 0.0f && p->top_p <= 1.0f))
		return "top_p: expected 0 to 1 (off)";
	if (!(p->min_p >= 0.0f && p->min_p <= 1.0f))
		return "min_p: expected 0 (off) to 1";
	if (!(p->repeat_penalty > 0.0f && p->repeat_penalty <= 100.0f))
		return "repeat_penalty: expected above 0 (1: off) to 100";
	if (p->repeat_last_n < 0)
		return "repeat_last_n: expected 0 (off) or more";
	return NULL;
}

struct sampler_scratch *sampler_scratch_create(uint32_t n_vocab)
{
	struct sampler_scratch *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->n_vocab = n_vocab;
	s->cand = calloc(n_vocab, sizeof(*s->cand));
	s->weight = calloc(n_vocab, sizeof(*s->weight));
	s->seen = calloc(n_vocab, sizeof(*s->seen));
	if (s->cand == NULL || s->weight == NULL || s->seen == NULL) {
		sampler_scratch_free(s);
		return NULL;
	}
	return s;
}

void sampler_scratch_free(struct sampler_scratch *s)
{
	if (s == NULL)
		return;
	free(s->cand);
	free(s->weight);
	free(s->seen);
	free(s);
}

/* Each token once, however often it came. */
static void penalize(const struct sampler_params *p, struct sampler_scratch *s, float *logits,
		     uint32_t n_vocab, const int32_t *history, size_t n)
{
	size_t first = n > (size_t)p->repeat_last_n ? n - (size_t)p->repeat_last_n : 0;

	if (p->repeat_penalty == 1.0f)
		return;
	for (size_t i = first; i < n; i++) {
		int32_t id = history[i];

		if (id < 0 || (uint32_t)id >= n_vocab || s->seen[id])
			continue;
		s->seen[id] = 1;
		logits[id] =
		    logits[id] > 0.0f ? logits[id] / p->repeat_penalty : logits[id] * p->repeat_penalty;
	}
	for (size_t i = first; i < n; i++)
		if (history[i] >= 0 && (uint32_t)history[i] < n_vocab)
			s->seen[history[i]] = 0;
}

/* NaN and minus infinity compare false here. */
static int32_t argmax(const float *logits, uint32_t n)
{
	float best = -INFINITY;
	int32_t id = -1;

	for (uint32_t i = 0; i < n; i++) {
		if (logits[i] > best) {
			best = logits[i];
			id = (int32_t)i;
		}
	}
	return id;
}

/* Equal logits: the lower id is the better one. */
static bool better(struct cand a, struct cand b)
{
	return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Moves cand[i] down to its place in a heap with the best, or the worst, on top. */
static inline void sift(struct cand *h, size_t n, size_t i, bool worst_on_top)
{
	struct cand c = h[i];

	for (;;) {
		size_t k = 2 * i + 1;

		if (k >= n)
			break;
		if (k + 1 < n && better(h[k + 1], h[k]) != worst_on_top)
			k++;
		if (better(h[k], c) == worst_on_top)
			break;
		h[i] = h[k];
		i = k;
	}
	h[i] = c;
}

static void heapify(struct cand *h, size_t n, bool worst_on_top)
{
	for (size_t i = n / 2; i-- > 0;)
		sift(h, n, i, worst_on_top);
}

/* The candidates among the logits, at most k of them: the best. */
static size_t gather(struct cand *c, const float *logits, uint32_t n_vocab, size_t k)
{
	size_t n = 0;

	for (uint32_t i = 0; i < n_vocab; i++) {
		/* Ids rise, so an equal logit is never better than what is there. */
		if (n == k ? !(logits[i] > c[0].logit) : !(logits[i] > -INFINITY))
			continue;
		if (n < k) {
			c[n++] = (struct cand){.logit = logits[i], .id = (int32_t)i};
			if (n == k && k < n_vocab)
				heapify(c, n, true);
		} else {
			c[0] = (struct cand){.logit = logits[i], .id = (int32_t)i};
			sift(c, n, 0, true);
		}
	}
	return n;
}

/* exp((logit - best) / temperature), and 1 for the best even where that is inf - inf. */
static double weight_of(float logit, float best, double temperature)
{
	if (logit == best)
		return 1.0;
	return exp(((double)logit - (double)best) / temperature);
}

/* A uniform number in [0, 1) from seed and position: the finaliser of splitmix64 (Steele, Lea
 * and Flood, 2014) over the seed, then over that and the position. */
static double uniform(uint64_t seed, uint64_t position)
{
	uint64_t x = seed;

	for (int round = 0; round < 2; round++) {
		x += 0x9e3779b97f4a7c15ull;
		x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
		x = (x ^ x >> 27) * 0x94d049bb133111ebull;
		x ^= x >> 31;
		if (round == 0)
			x += position * 0x9e3779b97f4a7c15ull;
	}
	return (double)(x >> 11) * 0x1p-53;
}

/* Takes off the best candidate; it then lies at cand[n - 1]. */
static void take_best(struct sampler_scratch *s, size_t n)
{
	struct cand top = s->cand[0];

	s->cand[0] = s->cand[n - 1];
	s->cand[n - 1] = top;
	if (n > 1)
		sift(s->cand, n - 1, 0, false);
}

/* The sum of the numerators of the probabilities at temperature 1, of which top-p is a share. */
static double mass_of(const struct cand *c, size_t n, float best)
{
	double sum = 0.0;

	for (size_t i = 0; i < n; i++)
		sum += weight_of(c[i].logit, best, 1.0);
	return sum;
}

/* Takes candidates off the heap of n as far as top-p and min-p reach. Returns how many; they lie at
 * the end of s->cand, the best last. */
static size_t filter(const struct sampler_params *p, struct sampler_scratch *s, size_t n)
{
	float best = s->cand[0].logit;
	double enough = p->top_p < 1.0f ? (double)p->top_p * mass_of(s->cand, n, best) : INFINITY;
	double reached = 0.0;
	size_t kept = 0;

	while (kept < n && (kept == 0 || reached < enough)) {
		double weight = weight_of(s->cand[0].logit, best, 1.0);

		if (weight < (double)p->min_p)
			break;
		take_best(s, n - kept);
		reached += weight;
		kept++;
	}
	return kept;
}

/* Draws from cand[first .. first + n) in steps of `step` (1 or -1). */
static int32_t draw(const struct sampler_params *p, struct sampler_scratch *s, const struct cand *c, size_t n,
		    ptrdiff_t step, float best, uint64_t position)
{
	double sum = 0.0, u;
	int32_t last = c->id;

	for (size_t i = 0; i < n; i++) {
		s->weight[i] = weight_of(c[(ptrdiff_t)i * step].logit, best, (double)p->temperature);
		sum += s->weight[i];
	}
	u = uniform(p->seed, position) * sum;
	for (size_t i = 0; i < n; i++) {
		if (s->weight[i] == 0.0)
			continue;
		last = c[(ptrdiff_t)i * step].id;
		u -= s->weight[i];
		if (u < 0.0)
			break;
	}
	/* Rounding may leave u at 0: then the last one that can be drawn at all is it. */
	return last;
}

int32_t sampler_sample(const struct sampler_params *p, struct sampler_scratch *s, float *logits,
		       uint32_t n_vocab, const int32_t *history, size_t n_history, uint64_t position)
{
	size_t n, kept;
	int32_t top;

	CHECK(n_vocab <= s->n_vocab);
	penalize(p, s, logits, n_vocab, history, n_history);
	top = argmax(logits, n_vocab);
	if (top < 0 || p->temperature == 0.0f || p->top_k == 1)
		return top;
	n = gather(s->cand, logits, n_vocab, p->top_k > 0 ? (size_t)p->top_k : n_vocab);
	if (p->top_k == 0 && p->top_p >= 1.0f && p->min_p <= 0.0f)
		return draw(p, s, s->cand, n, 1, logits[top], position);
	heapify(s->cand, n, false);
	kept = filter(p, s, n);
	return draw(p, s, &s->cand[n - 1], kept, -1, logits[top], position);
}
