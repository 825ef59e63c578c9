/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_SAMPLER_H
#define PENSTOCK_MODEL_SAMPLER_H
/*
 * Picks the next token from logits: repetition penalty, top-k, top-p, min-p,
 * then temperature, in that order as documented in sampler.c. Randomness is a function of (seed, position)
 * alone, so a sequence gives the same text whatever batch, stage count or driver it runs in. Stateless.
 */
#include <stddef.h>
#include <stdint.h>

struct sampler_params {
	float temperature;     /* 0: greedy, ties to the lower id */
	int32_t top_k;         /* 0: off */
	float top_p;           /* 1: off */
	float min_p;           /* 0: off */
	float repeat_penalty;  /* 1: off; applied to tokens of the last repeat_last_n */
	int32_t repeat_last_n; /* 0: off */
	uint64_t seed;
};

void sampler_params_default(struct sampler_params *p); /* greedy */

/* One line naming the first value out of range, or NULL if all are usable. */
const char *sampler_params_check(const struct sampler_params *p);

struct sampler_scratch; /* for vocabularies up to the given size */
struct sampler_scratch *sampler_scratch_create(uint32_t n_vocab);
void sampler_scratch_free(struct sampler_scratch *s);

/* logits [n_vocab]; penalties overwrite some. history: the sequence's tokens so far, newest last.
 * position: of the token being chosen. NaN and minus infinity never win; -1 if there is nothing else. */
int32_t sampler_sample(const struct sampler_params *p, struct sampler_scratch *s, float *logits,
		       uint32_t n_vocab, const int32_t *history, size_t n_history, uint64_t position);

#endif
