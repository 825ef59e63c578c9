/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/graph.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static bool block_after(const char *name, const char *format, uint32_t n, uint32_t *out)
{
	unsigned int layer;
	int len = 0;

	if (sscanf(name, format, &layer, &len) != 1 || len == 0 || layer >= n)
		return false;
	*out = layer;
	return true;
}

bool model_tensor_block(const struct model_hparams *hp, const char *name, uint32_t *layer_out)
{
	uint32_t n_enc = hp->n_layers_enc, n_dec = hp->n_layers - n_enc;

	if (n_enc == 0)
		return block_after(name, "blk.%9u.%n", hp->n_layers, layer_out) ||
		       block_after(name, "enc.blk.%9u.%n", hp->n_layers, layer_out);
	if (block_after(name, "enc.blk.%9u.%n", n_enc, layer_out))
		return true;
	if (!block_after(name, "dec.blk.%9u.%n", n_dec, layer_out))
		return false;
	*layer_out += n_enc;
	return true;
}

static bool begins(const char *name, const char *with)
{
	return strncmp(name, with, strlen(with)) == 0;
}

/* A table of which each token reads one row. */
static bool is_table(const char *name)
{
	return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "position_embd.weight") == 0 ||
	       strcmp(name, "token_types.weight") == 0;
}

/* Whether the embedding table is an output matrix too. */
static bool is_tied(const struct gguf *g, const struct model_hparams *hp)
{
	if (hp->task == MODEL_TASK_GENERATE)
		return gguf_tensor(g, "output.weight") == NULL;
	return hp->has_fill && gguf_tensor(g, "mlm_output.weight") == NULL;
}

/* Adds what is outside the blocks to the block that reads it; false where all do. */
static bool add_outside(const struct gguf *g, const struct model_hparams *hp, const struct gguf_tensor *t,
			uint64_t *bytes)
{
	uint32_t last = hp->n_layers - 1;

	if (is_table(t->name)) {
		bytes[0] += t->n_bytes / t->ne[1];
		if (hp->n_layers_enc != 0) /* the decoder embeds too */
			bytes[hp->n_layers_enc] += t->n_bytes / t->ne[1];
		if (begins(t->name, "token_embd.") && is_tied(g, hp))
			bytes[last] += t->n_bytes;
	} else if (begins(t->name, "token_embd_norm.")) {
		bytes[0] += t->n_bytes;
	} else if (begins(t->name, "enc.output_norm.") && hp->n_layers_enc != 0) {
		bytes[hp->n_layers_enc - 1] += t->n_bytes;
	} else if (begins(t->name, "output") || begins(t->name, "dec.output") ||
		   begins(t->name, "enc.output") || begins(t->name, "mlm_")) {
		bytes[last] += t->n_bytes;
	} else {
		return false;
	}
	return true;
}

/* Bytes that a pass of one token through each block reads, with the ends that lie there; returns
 * what every range reads besides. bytes_out[n_layers] */
static uint64_t block_bytes(const struct gguf *g, const struct model_hparams *hp, uint64_t *bytes_out)
{
	uint64_t everywhere = 0;

	memset(bytes_out, 0, hp->n_layers * sizeof(*bytes_out));
	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		uint32_t layer;

		if (model_tensor_block(hp, t->name, &layer))
			bytes_out[layer] += t->n_bytes;
		else if (!add_outside(g, hp, t, bytes_out))
			everywhere += t->n_bytes;
	}
	return everywhere;
}

uint64_t model_range_bytes(const struct gguf *g, uint32_t first, uint32_t last)
{
	struct model_hparams hp;
	uint64_t sum, *bytes;

	if (model_read_hparams(g, &hp, NULL) < 0 || first >= last || last > hp.n_layers)
		return 0;
	bytes = calloc(hp.n_layers, sizeof(*bytes));
	if (bytes == NULL)
		return 0;
	sum = block_bytes(g, &hp, bytes);
	for (uint32_t i = first; i < last; i++)
		sum += bytes[i];
	free(bytes);
	return sum;
}

/* Prefix sums of the blocks' bytes. What all ranges read makes none longer than another.
 * sums_out[n_layers + 1] */
static void block_sums(const struct gguf *g, const struct model_hparams *hp, uint64_t *sums_out)
{
	sums_out[0] = 0;
	(void)block_bytes(g, hp, sums_out + 1);
	for (uint32_t i = 0; i < hp->n_layers; i++)
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
		block_sums(g, &hp, sums);
		even_cuts(sums, hp.n_layers, n_stages, best, from, cuts_out);
	}
	free(sums);
	free(best);
	free(from);
	return rc;
}
