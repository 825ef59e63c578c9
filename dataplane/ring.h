/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_RING_H
#define PENSTOCK_DATAPLANE_RING_H
/*
 * A bounded single-producer single-consumer ring of small values between the I/O
 * thread and a compute thread. It has rte_ring's SPSC semantics, but carries
 * values (no pool of nodes beside it) and needs no EAL, so that the endpoint
 * runs in the simulator, in tests and in one process with no DPDK behind it.
 * Waiting is the bell's job (bell.h).
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define DP_CACHE_LINE 64

struct dp_ring {
	uint32_t mask;
	uint32_t item_bytes;
	uint8_t *items;
	_Alignas(DP_CACHE_LINE) _Atomic uint32_t head; /* consumer's */
	uint32_t tail_seen;
	_Alignas(DP_CACHE_LINE) _Atomic uint32_t tail; /* producer's */
	uint32_t head_seen;
};

/* `size`: a power of two. False: out of memory. */
static inline bool dp_ring_init(struct dp_ring *r, uint32_t size, uint32_t item_bytes)
{
	CHECK(size >= 2 && (size & (size - 1)) == 0);
	r->mask = size - 1;
	r->item_bytes = item_bytes;
	r->items = calloc(size, item_bytes);
	atomic_init(&r->head, 0);
	atomic_init(&r->tail, 0);
	r->tail_seen = 0;
	r->head_seen = 0;
	return r->items != NULL;
}

static inline void dp_ring_fini(struct dp_ring *r)
{
	free(r->items);
	r->items = NULL;
}

/* Producer only. Is there room for one more? */
static inline bool dp_ring_can_push(struct dp_ring *r)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	if (tail - r->head_seen <= r->mask)
		return true;
	/* Pairs with the release in dp_ring_drop: the slot has been read. */
	r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
	return tail - r->head_seen <= r->mask;
}

/* Producer only. False: full. */
static inline bool dp_ring_push(struct dp_ring *r, const void *item)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	if (!dp_ring_can_push(r))
		return false;
	memcpy(r->items + (size_t)(tail & r->mask) * r->item_bytes, item, r->item_bytes);
	/* Pairs with the acquire in dp_ring_peek: the item is visible before the tail. */
	atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
	return true;
}

/* Consumer only. The oldest item, valid until dp_ring_drop; NULL: empty. */
static inline void *dp_ring_peek(struct dp_ring *r)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	if (head == r->tail_seen) {
		r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
		if (head == r->tail_seen)
			return NULL;
	}
	return r->items + (size_t)(head & r->mask) * r->item_bytes;
}

/* Consumer only; after a dp_ring_peek that was not NULL. */
static inline void dp_ring_drop(struct dp_ring *r)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	atomic_store_explicit(&r->head, head + 1, memory_order_release);
}

/* Consumer only. False: empty. */
static inline bool dp_ring_pop(struct dp_ring *r, void *item_out)
{
	void *item = dp_ring_peek(r);

	if (item == NULL)
		return false;
	memcpy(item_out, item, r->item_bytes);
	dp_ring_drop(r);
	return true;
}

/* Either side; a snapshot. */
static inline bool dp_ring_empty(const struct dp_ring *r)
{
	return atomic_load_explicit(&r->head, memory_order_acquire) ==
	       atomic_load_explicit(&r->tail, memory_order_acquire);
}

#endif
