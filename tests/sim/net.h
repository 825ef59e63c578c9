/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_SIM_NET_H
#define PENSTOCK_TESTS_SIM_NET_H
/*
 * A network of two ends on a virtual clock: keeps packets, and loses, delays,
 * reorders, duplicates and damages them as its seeded generator says. Not a
 * model of any real network's timing.
 */
#include <stdbool.h>
#include <stdint.h>

#include "dataplane/port.h"

#define NET_MAX_PKT  9216u
#define NET_CAPACITY 4096u /* packets on the way; a full network loses the next one, as a real queue does */

struct rng {
	uint64_t s;
};

uint64_t rng_next(struct rng *r);
/* 0 .. n-1 */
uint64_t rng_below(struct rng *r, uint64_t n);
/* True with probability p. */
bool rng_chance(struct rng *r, double p);

struct net_faults {
	double loss, dup, corrupt, reorder;
	uint64_t delay_ns, jitter_ns, reorder_ns; /* reordered packets are late by up to reorder_ns */
};

struct net_pkt {
	uint64_t due_ns, order;
	uint8_t to;
	uint32_t len;
	uint32_t slot;
};

struct net {
	struct rng rng;
	struct net_faults faults;
	bool cut[2]; /* nothing reaches this end */
	uint64_t order, last_due_ns[2];
	struct net_pkt heap[NET_CAPACITY];
	uint32_t n;
	uint32_t free_slots[NET_CAPACITY];
	uint32_t n_free;
	uint8_t *bytes; /* [NET_CAPACITY][NET_MAX_PKT] */
	uint64_t lost, duplicated, corrupted, reordered;
};

/* One at a time: all share one store of bytes. */
void net_init(struct net *n, uint64_t seed);
void net_send(struct net *n, uint8_t to, const struct dp_tx_pkt *pkt, uint64_t now_ns);
/* UINT64_MAX when empty. */
uint64_t net_next_ns(const struct net *n);
/* Takes the first packet due at now_ns; its bytes are valid until the next net_send. */
bool net_take(struct net *n, uint64_t now_ns, uint8_t *to_out, const uint8_t **data_out, uint32_t *len_out);

#endif
