/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/graph.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* Where a tensor's bytes are needed. */
enum place { PLACE_BLOCK, PLACE_EMBED, PLACE_HEAD, PLACE_EVERYWHERE };

static enum place place_of(const struct gguf_tensor *t, uint32_t *layer_out)
{
	unsigned int layer;
	int n = 0;

	if (sscanf(t->name, "blk.%9u.%n", &layer, &n) == 1 && n > 0) {
		*layer_out = layer;
		return PLACE_BLOCK;
	}
	if (strcmp(t->name, "token_embd.weight") == 0 || strcmp(t->name, "position_embd.weight") == 0)
		return PLACE_EMBED;
	if (strncmp(t->name, "output", 6) == 0)
		return PLACE_HEAD;
	return PLACE_EVERYWHERE;
}

/* Bytes of the embedding table if it is the head too, else 0. */
static uint64_t tied_bytes(const struct gguf *g)
{
	const struct gguf_tensor *t = gguf_tensor(g, "token_embd.weight");

	return t != NULL && gguf_tensor(g, "output.weight") == NULL ? t->n_bytes : 0;
}

uint64_t model_range_bytes(const struct gguf *g, uint32_t first, uint32_t last)
{
	struct model_hparams hp;
	uint64_t sum = 0;

	if (model_read_hparams(g, &hp, NULL) < 0 || first >= last || last > hp.n_layers)
		return 0;
	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		uint32_t layer = 0;
		enum place place = place_of(t, &layer);

		if (place == PLACE_EVERYWHERE || (place == PLACE_EMBED && first == 0) ||
		    (place == PLACE_HEAD && last == hp.n_layers) ||
		    (place == PLACE_BLOCK && layer >= first && layer < last))
			sum += t->n_bytes;
	}
	/* One copy serves both ends where both are in the range. */
	if (last == hp.n_layers && first != 0)
		sum += tied_bytes(g);
	return sum;
}

/* Prefix sums of the bytes of each block, ends included in the first and the last: what a cut
 * into at least two ranges costs. sums_out[n_layers + 1]. */
static void block_sums(const struct gguf *g, uint32_t n_layers, uint64_t *sums_out)
{
	memset(sums_out, 0, (n_layers + 1) * sizeof(*sums_out));
	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		uint32_t layer = 0;
		enum place place = place_of(t, &layer);

		if (place == PLACE_EMBED)
			sums_out[1] += t->n_bytes;
		else if (place == PLACE_HEAD)
			sums_out[n_layers] += t->n_bytes;
		else if (place == PLACE_BLOCK && layer < n_layers)
			sums_out[layer + 1] += t->n_bytes;
	}
	sums_out[n_layers] += tied_bytes(g);
	for (uint32_t i = 0; i < n_layers; i++)
		sums_out[i + 1] += sums_out[i];
}

/* Ranges of at most `cap` bytes that filling one after another needs. */
static uint32_t ranges_needed(const uint64_t *sums, uint32_t n_layers, uint64_t cap)
{
	uint32_t n = 0, from = 0;

	while (from < n_layers) {
		uint32_t to = from + 1;

		while (to < n_layers && sums[to + 1] - sums[from] <= cap)
			to++;
		from = to;
		n++;
	}
	return n;
}

/* The least largest range: a pipeline is as fast as its slowest stage. */
static uint64_t least_cap(const uint64_t *sums, uint32_t n_layers, uint32_t n_stages)
{
	uint64_t lo = 0, hi = sums[n_layers];

	for (uint32_t i = 0; i < n_layers; i++) {
		uint64_t one = sums[i + 1] - sums[i];

		lo = one > lo ? one : lo;
	}
	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (ranges_needed(sums, n_layers, mid) <= n_stages)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/*
 * Among the cuts whose largest range is least, the one with the least sum of squares, that is the
 * most even rest. best[s][i] is that sum for blocks [0, i) in s ranges; from[s][i] is where the last
 * of them begins. Ties go to the earlier cut.
 */
static void even_cuts(const uint64_t *sums, uint32_t n_layers, uint32_t n_stages, double *best,
		      uint32_t *from, uint32_t *cuts_out)
{
	uint64_t cap = least_cap(sums, n_layers, n_stages);
	size_t row = (size_t)n_layers + 1;

	for (size_t i = 0; i < row * (n_stages + 1); i++)
		best[i] = -1; /* cannot be reached */
	best[0] = 0;
	for (uint32_t s = 1; s <= n_stages; s++) {
		for (uint32_t i = s; i <= n_layers - (n_stages - s); i++) {
			for (uint32_t j = i; j-- > s - 1 && sums[i] - sums[j] <= cap;) {
				double bytes = (double)(sums[i] - sums[j]), prev = best[(s - 1) * row + j];

				if (prev < 0)
					continue;
				if (best[s * row + i] < 0 || prev + bytes * bytes <= best[s * row + i]) {
					best[s * row + i] = prev + bytes * bytes;
					from[s * row + i] = j;
				}
			}
		}
	}
	cuts_out[n_stages] = n_layers;
	for (uint32_t s = n_stages; s > 0; s--)
		cuts_out[s - 1] = from[s * row + cuts_out[s]];
	CHECK(cuts_out[0] == 0);
}

int model_split_even(const struct gguf *g, uint32_t n_stages, uint32_t *cuts_out, struct ps_err *err)
{
	struct model_hparams hp;
	uint64_t *sums;
	uint32_t *from;
	double *best;
	size_t cells;
	int rc;

	rc = model_read_hparams(g, &hp, err);
	if (rc < 0)
		return rc;
	if (n_stages < 1 || n_stages > hp.n_layers)
		return ps_err_set(err, -EINVAL, "%.400s: %u blocks cannot be cut into %u stages",
				  gguf_path(g), hp.n_layers, n_stages);
	cells = ((size_t)hp.n_layers + 1) * ((size_t)n_stages + 1);
	sums = calloc((size_t)hp.n_layers + 1, sizeof(*sums));
	best = calloc(cells, sizeof(*best));
	from = calloc(cells, sizeof(*from));
	if (sums == NULL || best == NULL || from == NULL) {
		rc = ps_err_set(err, -ENOMEM, "%.400s: no memory to cut it", gguf_path(g));
	} else {
		block_sums(g, hp.n_layers, sums);
		even_cuts(sums, hp.n_layers, n_stages, best, from, cuts_out);
	}
	free(sums);
	free(best);
	free(from);
	return rc;
}
