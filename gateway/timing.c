/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/timing.h"

#include <stdlib.h>
#include <string.h>

bool gw_timing_init(struct gw_timing *t, uint32_t n_stages, uint32_t max_tokens, uint64_t submit_ns)
{
	memset(t, 0, sizeof(*t));
	t->n_procs = n_stages + 1;
	t->cap = max_tokens;
	t->submit_ns = submit_ns;
	t->token_ns = calloc((size_t)max_tokens + 1, sizeof(*t->token_ns));
	t->parts = calloc((size_t)t->n_procs * GW_N_PARTS * max_tokens + 1, sizeof(*t->parts));
	if (t->token_ns != NULL && t->parts != NULL)
		return true;
	gw_timing_fini(t);
	return false;
}

void gw_timing_fini(struct gw_timing *t)
{
	free(t->token_ns);
	free(t->parts);
	t->token_ns = NULL;
	t->parts = NULL;
}

static uint64_t *part_row(const struct gw_timing *t, uint32_t proc, enum gw_part part)
{
	return t->parts + ((size_t)proc * GW_N_PARTS + part) * t->cap;
}

static uint64_t diff(uint64_t from, uint64_t to)
{
	return to >= from ? to - from : 0;
}

static void add_parts(struct gw_timing *t, uint32_t proc, const struct act_hop *hop, uint64_t wire)
{
	uint32_t i = t->n_tokens;

	part_row(t, proc, GW_WIRE)[i] = wire;
	part_row(t, proc, GW_QUEUE)[i] = diff(hop->rx_ns, hop->start_ns);
	part_row(t, proc, GW_COMPUTE)[i] = diff(hop->start_ns, hop->end_ns);
	part_row(t, proc, GW_HOST)[i] = diff(hop->end_ns, hop->tx_ns);
}

/* Hop 0 is the gateway sending, hop i + 1 stage i; the answer's arrival closes the ring. */
static void add_decode(struct gw_timing *t, const struct act *a, uint64_t rx_ns)
{
	struct act_hop gw, prev, hop;
	uint32_t i;

	act_hop_get(a, 0, &gw);
	prev = gw;
	for (i = 1; i < a->n_hops; i++) {
		act_hop_get(a, i, &hop);
		add_parts(t, i - 1, &hop,
			  hop.clock_id == prev.clock_id ? diff(prev.tx_ns, hop.rx_ns) : GW_UNKNOWN);
		prev = hop;
	}
	add_parts(t, t->n_procs - 1, &gw,
		  prev.clock_id == gw.clock_id ? diff(prev.tx_ns, rx_ns) : GW_UNKNOWN);
	t->token_ns[t->n_tokens] = diff(gw.rx_ns, rx_ns);
	t->n_tokens++;
}

void gw_timing_add(struct gw_timing *t, const struct act *a, uint64_t rx_ns)
{
	if (t->n_generated == 0)
		t->ttft_ns = diff(t->submit_ns, rx_ns);
	else if (t->n_tokens < t->cap && a->n_hops == t->n_procs)
		add_decode(t, a, rx_ns);
	t->n_generated++;
	t->last_ns = rx_ns;
}

void gw_timing_add_values(struct gw_timing *t, const struct act *a, uint64_t rx_ns)
{
	t->ttft_ns = diff(t->submit_ns, rx_ns);
	t->last_ns = rx_ns;
	if (t->n_tokens < t->cap && a->n_hops == t->n_procs)
		add_decode(t, a, rx_ns);
}

static int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void stat_of(const uint64_t *values, uint32_t n, struct gw_timing_stat *out)
{
	uint64_t *sorted;
	uint32_t i;

	memset(out, 0, sizeof(*out));
	if (n == 0 || (sorted = malloc(n * sizeof(*sorted))) == NULL)
		return;
	memcpy(sorted, values, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), cmp_u64);
	out->known = sorted[n - 1] != GW_UNKNOWN;
	out->p50_ns = sorted[(n + 1) / 2 - 1];
	out->p99_ns = sorted[(uint32_t)(((uint64_t)n * 99 + 99) / 100) - 1];
	for (i = 0; out->known && i < n; i++)
		out->sum_ns += sorted[i];
	free(sorted);
}

void gw_timing_part(const struct gw_timing *t, uint32_t proc, enum gw_part part, struct gw_timing_stat *out)
{
	stat_of(part_row(t, proc, part), t->n_tokens, out);
}

void gw_timing_token(const struct gw_timing *t, struct gw_timing_stat *out)
{
	stat_of(t->token_ns, t->n_tokens, out);
}

double gw_timing_network_share(const struct gw_timing *t)
{
	struct gw_timing_stat total, part;
	uint64_t network = 0;
	uint32_t i;

	gw_timing_token(t, &total);
	for (i = 0; i < t->n_procs; i++) {
		gw_timing_part(t, i, GW_WIRE, &part);
		if (!part.known)
			return -1.0;
		network += part.sum_ns;
		gw_timing_part(t, i, GW_HOST, &part);
		network += part.sum_ns;
	}
	return total.sum_ns == 0 ? -1.0 : (double)network / (double)total.sum_ns;
}
