/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_LINK_PAIR_H
#define PENSTOCK_TESTS_LINK_PAIR_H
/*
 * Two links joined by two queues of packets that a test moves, drops or changes
 * by hand, on a clock that the test turns. Counts the port buffers that are out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "dataplane/counters.h"
#include "dataplane/crc32c.h"
#include "dataplane/link.h"
#include "dataplane/wire.h"

#define US         1000ull
#define MS         1000000ull
#define PAIR_QUEUE 1024u

struct pair_pkt {
	uint8_t *data;
	uint32_t len;
};

struct pair {
	uint64_t now_ns;
	struct dp_link_cfg cfg[2];
	struct dp_link *l[2];
	struct pair_pkt queue[2][PAIR_QUEUE]; /* on the way to this side */
	uint32_t n[2];
	uint32_t bufs_out, bufs_freed;
};

static inline void pair_buf_free(void *ctx, void *buf)
{
	struct pair *p = ctx;

	assert_true(p->bufs_out > 0);
	p->bufs_out--;
	p->bufs_freed++;
	free(buf);
}

static inline void pair_defaults(struct pair *p)
{
	memset(p, 0, sizeof(*p));
	p->now_ns = 1000 * MS;
	for (int i = 0; i < 2; i++)
		p->cfg[i] = (struct dp_link_cfg){
		    .link_id = 3,
		    .peer = (uint16_t)(5 + i),
		    .side = (uint8_t)i,
		    .mtu = 1500,
		    .max_msg_bytes = 100000,
		    .rx_slots = 8,
		    .ack_msgs = 1, /* no waiting, where it is not what the test is about */
		    .payload_crc = true,
		    .topology_hash = 0x1111,
		    .model_hash = 0x2222,
		    .block_first = (uint32_t)(4 * i),
		    .block_last = (uint32_t)(4 * i + 3),
		    .self_name = i == 0 ? "west" : "east",
		    .peer_name = i == 0 ? "east" : "west",
		    .buf_free = pair_buf_free,
		    .buf_free_ctx = p,
		};
}

static inline void pair_start(struct pair *p, int side, uint64_t incarnation)
{
	struct ps_err err;

	assert_int_equal(
	    dp_link_create(&p->cfg[side], incarnation, incarnation * 77 + 1, p->now_ns, &p->l[side], &err),
	    0);
}

static inline void pair_drop(struct pair *p, int side)
{
	for (uint32_t i = 0; i < p->n[side]; i++)
		free(p->queue[side][i].data);
	p->n[side] = 0;
}

static inline void pair_fini(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		pair_drop(p, i);
		dp_link_destroy(p->l[i]);
	}
	assert_int_equal(p->bufs_out, 0);
}

/* Takes all that `side` has to send now into the other's queue; returns how many packets. */
static inline uint32_t pair_pump(struct pair *p, int side)
{
	struct dp_tx_pkt pkts[8];
	uint32_t total = 0, k;

	do {
		k = dp_link_tx(p->l[side], pkts, 8, p->now_ns);
		for (uint32_t i = 0; i < k; i++) {
			struct pair_pkt *q = &p->queue[1 - side][p->n[1 - side]++];

			assert_true(p->n[1 - side] < PAIR_QUEUE);
			assert_int_equal(pkts[i].peer, p->cfg[side].peer);
			q->len = DP_HDR_BYTES + pkts[i].payload_len;
			q->data = malloc(q->len);
			assert_non_null(q->data);
			memcpy(q->data, pkts[i].hdr, DP_HDR_BYTES);
			if (pkts[i].payload_len > 0)
				memcpy(q->data + DP_HDR_BYTES, pkts[i].payload, pkts[i].payload_len);
		}
		total += k;
	} while (k == 8);
	return total;
}

/* Hands `len` bytes to a side in a buffer of exactly that size. */
static inline void pair_inject(struct pair *p, int side, const void *data, uint32_t len)
{
	uint8_t *copy = malloc(len > 0 ? len : 1);
	struct dp_rx_pkt pkt = {.data = copy, .len = len, .buf = copy};

	assert_non_null(copy);
	memcpy(copy, data, len);
	p->bufs_out++;
	dp_link_rx(p->l[side], &pkt, p->now_ns);
}

/* Delivers packet `i` of the queue and takes it out. */
static inline void pair_deliver_one(struct pair *p, int side, uint32_t i)
{
	struct pair_pkt q = p->queue[side][i];
	struct dp_rx_pkt pkt = {.data = q.data, .len = q.len, .buf = q.data};

	assert_true(i < p->n[side]);
	memmove(&p->queue[side][i], &p->queue[side][i + 1], (--p->n[side] - i) * sizeof(q));
	p->bufs_out++;
	dp_link_rx(p->l[side], &pkt, p->now_ns);
}

static inline void pair_deliver(struct pair *p, int side)
{
	while (p->n[side] > 0)
		pair_deliver_one(p, side, 0);
}

/* Packets to and fro until both are silent, while the clock stands. */
static inline void pair_settle(struct pair *p)
{
	for (int turn = 0; turn < 1000; turn++) {
		uint32_t k = 0;

		for (int i = 0; i < 2; i++)
			if (p->l[i] != NULL)
				k += pair_pump(p, i);
		if (k == 0)
			return;
		for (int i = 0; i < 2; i++) {
			if (p->l[i] != NULL)
				pair_deliver(p, i);
			else
				pair_drop(p, i);
		}
	}
	fail_msg("the links never fall silent");
}

/* Runs both with an ideal wire until `until_ns`, waking each when it asks for it. */
static inline void pair_run(struct pair *p, uint64_t until_ns)
{
	while (p->now_ns < until_ns) {
		uint64_t next = until_ns;

		pair_settle(p);
		for (int i = 0; i < 2; i++) {
			uint64_t t = p->l[i] != NULL ? dp_link_deadline_ns(p->l[i], p->now_ns) : UINT64_MAX;

			assert_true(t > p->now_ns);
			next = t < next ? t : next;
		}
		p->now_ns = next;
	}
	pair_settle(p);
}

static inline void pair_up(struct pair *p)
{
	pair_start(p, 0, 0xaaaa);
	pair_start(p, 1, 0xbbbb);
	pair_run(p, p->now_ns + 5 * MS);
	for (int i = 0; i < 2; i++) {
		struct dp_link_event ev;

		assert_int_equal(dp_link_state(p->l[i]), DP_LINK_ESTABLISHED);
		assert_true(dp_link_event(p->l[i], &ev));
		assert_int_equal(ev.kind, DP_LINK_EV_UP);
		assert_false(dp_link_event(p->l[i], &ev));
	}
}

static inline struct dp_hdr pair_peek(const struct pair *p, int side, uint32_t i)
{
	struct dp_hdr h;

	assert_true(i < p->n[side]);
	assert_int_equal(dp_hdr_load(p->queue[side][i].data, p->queue[side][i].len, &h), DP_HDR_OK);
	return h;
}

/* The first event, which must be of this kind. */
static inline struct dp_link_event pair_event(struct pair *p, int side, enum dp_link_event_kind kind)
{
	struct dp_link_event ev;

	assert_true(dp_link_event(p->l[side], &ev));
	assert_int_equal(ev.kind, kind);
	return ev;
}

static inline uint64_t pair_count(const struct pair *p, int side, enum dp_counter c)
{
	return dp_link_counters(p->l[side])[c];
}

static inline void pair_send(struct pair *p, int side, const void *data, uint32_t len)
{
	struct dp_tx_msg t = {.data = data, .len = len, .cookie = p};

	assert_int_equal(dp_link_send(p->l[side], &t, p->now_ns), 0);
}

/* Receives one message, compares, releases. */
static inline void pair_expect(struct pair *p, int side, const void *data, uint32_t len)
{
	struct dp_msg m;

	assert_true(dp_link_recv(p->l[side], &m));
	assert_int_equal(m.len, len);
	assert_memory_equal(m.data, data, len);
	dp_link_release(p->l[side], &m);
}

#endif
