/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_STAGE_VALUES_H
#define PENSTOCK_STAGE_VALUES_H
/*
 * What the last stage makes of hidden states and of a masked-language-model
 * head's logits for a values message: one embedding a sequence, and the likeliest
 * tokens of a masked place. Sums are in double, so that the result is as exact as
 * its inputs. No state.
 */
#include <stdint.h>

#include "dataplane/act.h"
#include "model/graph.h"

/* One embedding of a sequence's hidden states, n >= 1. A model that names no pooling gets the mean. */
void stage_pool(enum model_pooling pooling, const float *x /* [n, width] */, uint32_t n, uint32_t width,
		float *out /* [width] */);

/* Softmax over the vocabulary; the ACT_FILL_BEST likeliest, best first, ties to the lower id. A logit that is
 * NaN counts as minus infinity. Where the vocabulary has fewer tokens (or fewer logits are numbers) the rest
 * is id -1 with probability 0. */
void stage_fill_best(const float *logits /* [n_vocab] */, uint32_t n_vocab,
		     float *out /* [ACT_FILL_BEST, 2]: id, probability */);

#endif
