/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/sim/net.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ull); /* splitmix64 */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	return n == 0 ? 0 : rng_next(r) % n;
}

bool rng_chance(struct rng *r, double p)
{
	return (double)(rng_next(r) >> 11) < p * 9007199254740992.0; /* 2^53 */
}

void net_init(struct net *n, uint64_t seed)
{
	/* Once a process: 37 MB a seed would take most of a run's time where malloc fills what it gives. */
	static uint8_t *bytes;

	if (bytes == NULL)
		bytes = malloc((size_t)NET_CAPACITY * NET_MAX_PKT);
	CHECK(bytes != NULL);
	memset(n, 0, sizeof(*n));
	n->rng.s = seed;
	n->bytes = bytes;
	for (uint32_t i = 0; i < NET_CAPACITY; i++)
		n->free_slots[n->n_free++] = NET_CAPACITY - 1 - i;
}

static bool before(const struct net_pkt *a, const struct net_pkt *b)
{
	return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void heap_push(struct net *n, struct net_pkt p)
{
	uint32_t i = n->n++;

	while (i > 0 && before(&p, &n->heap[(i - 1) / 2])) {
		n->heap[i] = n->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	n->heap[i] = p;
}

static struct net_pkt heap_pop(struct net *n)
{
	struct net_pkt top = n->heap[0], last = n->heap[--n->n];
	uint32_t i = 0;

	for (;;) {
		uint32_t c = 2 * i + 1;

		if (c >= n->n)
			break;
		if (c + 1 < n->n && before(&n->heap[c + 1], &n->heap[c]))
			c++;
		if (!before(&n->heap[c], &last))
			break;
		n->heap[i] = n->heap[c];
		i = c;
	}
	n->heap[i] = last;
	return top;
}

static void damage(struct net *n, uint8_t *bytes, uint32_t *len)
{
	uint64_t flips = 1 + rng_below(&n->rng, 3);

	n->corrupted++;
	if (rng_chance(&n->rng, 0.1)) { /* torn */
		*len = (uint32_t)rng_below(&n->rng, *len + 1);
		return;
	}
	while (flips-- > 0) {
		/* Half of them in the header, which is a small target otherwise. */
		uint64_t bits =
		    8ull * (rng_chance(&n->rng, 0.5) && *len > DP_HDR_BYTES ? DP_HDR_BYTES : *len);
		uint64_t bit = rng_below(&n->rng, bits);

		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

static void enqueue(struct net *n, uint8_t to, const struct dp_tx_pkt *pkt, uint64_t now_ns)
{
	const struct net_faults *f = &n->faults;
	struct net_pkt p = {.to = to, .order = n->order++, .len = DP_HDR_BYTES + pkt->payload_len};
	uint8_t *bytes;

	CHECK(p.len <= NET_MAX_PKT);
	if (n->n_free == 0) {
		n->lost++;
		return;
	}
	p.slot = n->free_slots[--n->n_free];
	bytes = n->bytes + (size_t)p.slot * NET_MAX_PKT;
	memcpy(bytes, pkt->hdr, DP_HDR_BYTES);
	if (pkt->payload_len > 0)
		memcpy(bytes + DP_HDR_BYTES, pkt->payload, pkt->payload_len);
	p.due_ns = now_ns + f->delay_ns + rng_below(&n->rng, f->jitter_ns + 1);
	if (rng_chance(&n->rng, f->reorder)) {
		p.due_ns += rng_below(&n->rng, f->reorder_ns + 1);
		n->reordered++;
	} else {
		/* Jitter alone keeps the order, as a queue does. */
		if (p.due_ns < n->last_due_ns[to])
			p.due_ns = n->last_due_ns[to];
		n->last_due_ns[to] = p.due_ns;
	}
	if (rng_chance(&n->rng, f->corrupt))
		damage(n, bytes, &p.len);
	heap_push(n, p);
}

void net_send(struct net *n, uint8_t to, const struct dp_tx_pkt *pkt, uint64_t now_ns)
{
	if (n->cut[to] || rng_chance(&n->rng, n->faults.loss)) {
		n->lost++;
		return;
	}
	enqueue(n, to, pkt, now_ns);
	if (rng_chance(&n->rng, n->faults.dup)) {
		n->duplicated++;
		enqueue(n, to, pkt, now_ns);
	}
}

uint64_t net_next_ns(const struct net *n)
{
	return n->n > 0 ? n->heap[0].due_ns : UINT64_MAX;
}

bool net_take(struct net *n, uint64_t now_ns, uint8_t *to_out, const uint8_t **data_out, uint32_t *len_out)
{
	struct net_pkt p;

	if (n->n == 0 || n->heap[0].due_ns > now_ns)
		return false;
	p = heap_pop(n);
	n->free_slots[n->n_free++] = p.slot;
	*to_out = p.to;
	*data_out = n->bytes + (size_t)p.slot * NET_MAX_PKT;
	*len_out = p.len;
	return true;
}
