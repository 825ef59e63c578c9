/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage/values.h"

#include <math.h>
#include <string.h>

#include "base/check.h"

void stage_pool(enum model_pooling pooling, const float *x, uint32_t n, uint32_t width, float *out)
{
	uint32_t i, k;

	CHECK(n > 0);
	if (pooling == MODEL_POOL_CLS || pooling == MODEL_POOL_LAST) {
		size_t row = pooling == MODEL_POOL_CLS ? 0 : n - 1;

		memcpy(out, x + row * width, width * sizeof(float));
		return;
	}
	for (k = 0; k < width; k++) {
		double sum = 0;

		for (i = 0; i < n; i++)
			sum += (double)x[(size_t)i * width + k];
		out[k] = (float)(sum / n);
	}
}

void stage_fill_best(const float *logits, uint32_t n_vocab, float *out)
{
	uint32_t best[ACT_FILL_BEST], n = 0, i, k;
	double sum = 0, largest;

	/* Insertion into the list of the best so far: almost every logit ends at the first comparison. */
	for (i = 0; i < n_vocab; i++) {
		if (isnan(logits[i]) || (n == ACT_FILL_BEST && logits[i] <= logits[best[n - 1]]))
			continue;
		if (n < ACT_FILL_BEST)
			n++;
		for (k = n - 1; k > 0 && logits[i] > logits[best[k - 1]]; k--)
			best[k] = best[k - 1];
		best[k] = i;
	}
	largest = n > 0 ? (double)logits[best[0]] : 0;
	for (i = 0; i < n_vocab; i++) {
		if (!isnan(logits[i]))
			sum += exp((double)logits[i] - largest);
	}
	for (k = 0; k < ACT_FILL_BEST; k++) {
		out[2 * k] = k < n ? (float)best[k] : -1.0f;
		out[2 * k + 1] = k < n ? (float)(exp((double)logits[best[k]] - largest) / sum) : 0.0f;
	}
}
