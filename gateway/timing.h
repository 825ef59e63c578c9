/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_GATEWAY_TIMING_H
#define PENSTOCK_GATEWAY_TIMING_H
/*
 * Where the time of a request's tokens went. Each decode token's time, from the
 * arrival of the previous token at the gateway to its own, is split into four
 * parts a process: wire (handed to the link by the one before, to message whole
 * here), queue (until compute starts), compute, host (until handed to the
 * link). The parts of all processes add up to the token's time.
 */
#include <stdbool.h>
#include <stdint.h>

#include "dataplane/act.h"

enum gw_part { GW_WIRE, GW_QUEUE, GW_COMPUTE, GW_HOST, GW_N_PARTS };

/* A part that cannot be told: the two clocks are not the same. */
#define GW_UNKNOWN UINT64_MAX

struct gw_timing {
	uint32_t n_procs;  /* stages and, last, the gateway */
	uint32_t cap;      /* tokens there is room for */
	uint32_t n_tokens; /* decode tokens recorded (the first token is ttft_ns) */
	uint32_t n_generated;
	uint64_t submit_ns, ttft_ns, last_ns;
	uint64_t *token_ns; /* [cap] */
	uint64_t *parts;    /* [n_procs][GW_N_PARTS][cap] */
};

/* False: out of memory. */
bool gw_timing_init(struct gw_timing *t, uint32_t n_stages, uint32_t max_tokens, uint64_t submit_ns);
void gw_timing_fini(struct gw_timing *t);
/* A token has come: `a` is the answer with its hops, rx_ns its arrival. */
void gw_timing_add(struct gw_timing *t, const struct act *a, uint64_t rx_ns);

/* The answer to a request that has no tokens has come: its one batch counts as a token's time. */
void gw_timing_add_values(struct gw_timing *t, const struct act *a, uint64_t rx_ns);

struct gw_timing_stat {
	bool known;
	uint64_t p50_ns, p99_ns, sum_ns;
};
/* Median, p99 and sum of one part of one process over the decode tokens. */
void gw_timing_part(const struct gw_timing *t, uint32_t proc, enum gw_part part, struct gw_timing_stat *out);
void gw_timing_token(const struct gw_timing *t, struct gw_timing_stat *out);
/* Share of the decode tokens' time that was neither compute nor waiting for it: wire and host.
 * Negative: unknown (several clocks, or no decode token). */
double gw_timing_network_share(const struct gw_timing *t);

#endif
