/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two links and a bad network on a virtual clock. README.md says what is
 * checked and which seeds have which faults; a failure prints its seed.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "dataplane/counters.h"
#include "dataplane/crc32c.h"
#include "dataplane/link.h"
#include "dataplane/wire.h"
#include "tests/sim/net.h"

#define MS        1000000ull
#define INBOX     512u
#define LIVE_MAX  64u
#define N_CLASSES 12u
#define POISON    0xdb
#define MEND_NS                                                                                              \
	(200 * MS) /* fast receivers: all is through so soon after the faults (4,000 seeds: within 60 ms) */
#define SPIN_LIMIT 20000u /* turns without the clock moving */

struct tx_buf {
	uint8_t *data;
	uint32_t len, epoch;
	bool used;
};

struct held {
	struct dp_msg msg;
	uint64_t until_ns;
	bool used;
};

struct side {
	struct dp_link *l;
	struct dp_link_cfg cfg;
	struct rng rng;
	uint8_t id;
	uint32_t lives;
	uint64_t wake_ns, asleep_until_ns, down_until_ns, next_send_ns, hold_ns, nap_ns;
	uint32_t epoch;                       /* of the last UP event */
	uint32_t sent, acked_epoch, received; /* messages in this epoch */
	uint32_t goal, acked;                 /* messages to get through, over all epochs */
	uint64_t last_seq, new_bytes, byte_credit;
	uint32_t msg_credit;
	bool any_seq, may_fail;
	struct tx_buf tx[DP_LINK_MAX_INFLIGHT];
	struct held held[DP_LINK_MAX_INFLIGHT];
	void *live[LIVE_MAX];
	uint32_t n_live;
	struct {
		void *buf;
		uint32_t len;
	} inbox[INBOX];
	uint32_t inbox_head, inbox_tail;
};

struct sim {
	uint64_t seed, now_ns, faults_end_ns, next_fault_ns;
	uint32_t class;
	struct rng rng;
	struct net net;
	struct side side[2];
	bool restarts, cuts, in_order;
	uint64_t spins;
};

static bool trace;
static struct sim *current;

static void ps_printf(1, 2) fail(const char *fmt, ...)
{
	va_list ap;

	printf("FAILED: seed %" PRIu64 " (class %u) at %" PRIu64 " ns: ", current->seed, current->class,
	       current->now_ns);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\nreplay with: sim --seed %" PRIu64 " --trace\n", current->seed);
	fflush(stdout);
	abort();
}

#define EXPECT(cond, ...)                                                                                    \
	do {                                                                                                 \
		if (!(cond))                                                                                 \
			fail(__VA_ARGS__);                                                                   \
	} while (0)

static void ps_printf(1, 2) tell(const char *fmt, ...)
{
	va_list ap;

	if (!trace)
		return;
	printf("%12.3f us  ", (double)current->now_ns / 1e3);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* Contents: a function of epoch, sender and id alone, so that the receiver can know what to expect. */
static struct rng content_rng(uint32_t epoch, uint8_t side, uint32_t id)
{
	struct rng r = {((uint64_t)epoch << 32 | id) * 2 + side};

	rng_next(&r);
	return r;
}

static uint32_t content_len(struct rng *r, uint32_t max)
{
	uint64_t kind = rng_below(r, 10);

	if (kind < 5)
		return 1 + (uint32_t)rng_below(r, max < 2000 ? max : 2000);
	if (kind < 8)
		return 1 + (uint32_t)rng_below(r, max < 20000 ? max : 20000);
	return 1 + (uint32_t)rng_below(r, max);
}

static void content_fill(struct rng r, uint8_t *data, uint32_t len)
{
	uint32_t i = 0;

	for (; i + 8 <= len; i += 8) {
		uint64_t v = rng_next(&r);

		memcpy(data + i, &v, 8);
	}
	for (; i < len; i++)
		data[i] = (uint8_t)rng_next(&r);
}

static bool content_same(struct rng r, const uint8_t *data, uint32_t len)
{
	uint32_t i = 0;

	for (; i + 8 <= len; i += 8) {
		uint64_t v = rng_next(&r), w;

		memcpy(&w, data + i, 8);
		if (v != w)
			return false;
	}
	for (; i < len; i++)
		if (data[i] != (uint8_t)rng_next(&r))
			return false;
	return true;
}

static void buf_free(void *ctx, void *buf)
{
	struct side *s = ctx;

	for (uint32_t i = 0; i < s->n_live; i++)
		if (s->live[i] == buf) {
			s->live[i] = s->live[--s->n_live];
			free(buf);
			return;
		}
	fail("side %u: a buffer was given back that the link does not hold", s->id);
}

static void side_create(struct sim *m, struct side *s)
{
	struct ps_err err;
	int rc;

	s->lives++;
	s->epoch = 0;
	s->sent = s->received = s->acked_epoch = 0;
	rc = dp_link_create(&s->cfg, rng_next(&s->rng), rng_next(&s->rng), m->now_ns, &s->l, &err);
	EXPECT(rc == 0, "create: %s", err.msg);
	s->wake_ns = m->now_ns;
	tell("side %u: starts, life %u", s->id, s->lives);
}

static void side_destroy(struct side *s)
{
	for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT; i++) {
		if (s->held[i].used)
			dp_link_release(s->l, &s->held[i].msg);
		s->held[i].used = false;
		if (s->tx[i].used)
			free(s->tx[i].data);
		s->tx[i].used = false;
	}
	dp_link_destroy(s->l);
	s->l = NULL;
	EXPECT(s->n_live == 0, "side %u: %u port buffers leaked", s->id, s->n_live);
	while (s->inbox_head != s->inbox_tail)
		free(s->inbox[s->inbox_head++ % INBOX].buf);
}

/* Reads an intact ACK as the link will, to know the credit that it has. */
static void sniff_rx(struct side *s, const uint8_t *data, uint32_t len)
{
	struct dp_hdr h;
	struct dp_ack a;

	if (dp_hdr_load(data, len, &h) != DP_HDR_OK || h.type != DP_PKT_ACK || h.epoch != s->epoch ||
	    len != DP_HDR_BYTES + DP_ACK_BYTES ||
	    dp_crc32c(0, data + DP_HDR_BYTES, DP_ACK_BYTES) != h.payload_crc32c)
		return;
	dp_ack_load(data + DP_HDR_BYTES, &a);
	if ((int32_t)(a.msg_credit - s->msg_credit) > 0)
		s->msg_credit = a.msg_credit;
	if (a.byte_credit > s->byte_credit)
		s->byte_credit = a.byte_credit;
}

static void sniff_data(struct sim *m, struct side *s, const struct dp_hdr *h, const struct dp_tx_pkt *p)
{
	uint32_t mtu = m->side[0].cfg.mtu < m->side[1].cfg.mtu ? m->side[0].cfg.mtu : m->side[1].cfg.mtu;
	bool owned = false;

	EXPECT(DP_IP_UDP_BYTES + DP_HDR_BYTES + p->payload_len <= mtu, "a packet exceeds the MTU");
	EXPECT((int32_t)(h->msg_id - s->msg_credit) < 0,
	       "side %u: message %" PRIu32 " exceeds credit %" PRIu32, s->id, h->msg_id, s->msg_credit);
	if ((h->flags & DP_F_RETRANSMIT) == 0)
		s->new_bytes += p->payload_len;
	EXPECT(s->new_bytes <= s->byte_credit, "side %u: %" PRIu64 " bytes exceed credit %" PRIu64, s->id,
	       s->new_bytes, s->byte_credit);
	for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT; i++)
		if (s->tx[i].used && p->payload >= s->tx[i].data &&
		    p->payload + p->payload_len <= s->tx[i].data + s->tx[i].len)
			owned = true;
	EXPECT(owned, "side %u: sends from memory that is not its own", s->id);
}

static void sniff_tx(struct sim *m, struct side *s, const struct dp_tx_pkt *p)
{
	struct dp_hdr h;

	EXPECT(dp_hdr_load(p->hdr, DP_HDR_BYTES, &h) == DP_HDR_OK, "side %u: sends a bad header", s->id);
	EXPECT(h.payload_len == p->payload_len, "side %u: payload_len disagrees", s->id);
	tell("side %u: sends type %u epoch %08" PRIx32 " seq %" PRIu64 " msg %" PRIu32 " at %" PRIu32
	     " of %" PRIu32 " flags %x",
	     s->id, h.type, h.epoch, h.pkt_seq, h.msg_id, h.msg_offset, h.msg_len, h.flags);
	if (h.type != DP_PKT_DATA && h.type != DP_PKT_PROBE && h.type != DP_PKT_KEEPALIVE)
		return;
	EXPECT(h.epoch == s->epoch, "side %u: sends in epoch %08" PRIx32 ", is in %08" PRIx32, s->id, h.epoch,
	       s->epoch);
	EXPECT(!s->any_seq || h.pkt_seq > s->last_seq, "side %u: packet number %" PRIu64 " used again", s->id,
	       h.pkt_seq);
	s->any_seq = true;
	s->last_seq = h.pkt_seq;
	if (h.type == DP_PKT_DATA)
		sniff_data(m, s, &h, p);
}

static void app_events(struct side *s)
{
	struct dp_link_event ev;

	while (dp_link_event(s->l, &ev)) {
		tell("side %u: event: %s", s->id, ev.text);
		if (ev.kind == DP_LINK_EV_REFUSED)
			fail("side %u: refused: %s", s->id, ev.text);
		if (ev.kind != DP_LINK_EV_UP) {
			s->may_fail = true;
			continue;
		}
		EXPECT(ev.epoch != s->epoch, "side %u: the epoch began again", s->id);
		s->epoch = ev.epoch;
		s->sent = s->received = s->acked_epoch = 0;
		s->any_seq = false;
		s->new_bytes = s->byte_credit = 0;
		s->msg_credit = 0;
	}
}

static void app_done(struct side *s)
{
	struct dp_tx_msg t;

	while (dp_link_tx_done(s->l, &t)) {
		struct tx_buf *b = t.cookie;

		EXPECT(b >= s->tx && b < s->tx + DP_LINK_MAX_INFLIGHT && b->used && b->data == t.data &&
			   b->len == t.len,
		       "side %u: a message came back that was not out", s->id);
		EXPECT(!t.failed || s->may_fail, "side %u: a message failed for no reason", s->id);
		if (!t.failed) {
			s->acked++;
			s->acked_epoch += b->epoch == s->epoch;
		}
		/* Whoever still reads it sends a wrong content or trips the sanitizer. */
		memset(b->data, POISON, b->len);
		free(b->data);
		b->used = false;
	}
}

static void app_recv(struct sim *m, struct side *s)
{
	struct side *peer = &m->side[1 - s->id];
	struct dp_msg msg;

	while (dp_link_recv(s->l, &msg)) {
		struct rng r = content_rng(msg.epoch, peer->id, msg.msg_id);
		struct held *h = NULL;

		EXPECT(msg.epoch == s->epoch, "side %u: a message of another epoch", s->id);
		EXPECT(msg.msg_id == s->received, "side %u: message %" PRIu32 " came, %" PRIu32 " was due",
		       s->id, msg.msg_id, s->received);
		EXPECT(msg.len == content_len(&r, s->cfg.max_msg_bytes),
		       "side %u: message %" PRIu32 " has a wrong length", s->id, msg.msg_id);
		EXPECT(content_same(r, msg.data, msg.len), "side %u: message %" PRIu32 " has a wrong content",
		       s->id, msg.msg_id);
		EXPECT(msg.rx_first_ns <= msg.rx_done_ns && msg.rx_done_ns <= m->now_ns,
		       "side %u: wrong times", s->id);
		s->received++;
		for (uint32_t i = 0; i < s->cfg.rx_slots && h == NULL; i++)
			if (!s->held[i].used)
				h = &s->held[i];
		EXPECT(h != NULL, "side %u: more messages than slots", s->id);
		*h = (struct held){msg, m->now_ns + rng_below(&s->rng, s->hold_ns + 1), true};
		tell("side %u: received %" PRIu32 ", %" PRIu32 " bytes%s", s->id, msg.msg_id, msg.len,
		     msg.buf != NULL ? " in place" : "");
	}
}

static uint64_t app_release(struct sim *m, struct side *s)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT; i++) {
		struct held *h = &s->held[i];
		struct side *peer = &m->side[1 - s->id];
		struct rng r = content_rng(h->msg.epoch, peer->id, h->msg.msg_id);

		if (!h->used)
			continue;
		if (h->until_ns > m->now_ns) {
			next = h->until_ns < next ? h->until_ns : next;
			continue;
		}
		/* Nobody may have written to it meanwhile, whatever became of its epoch. */
		content_len(&r, s->cfg.max_msg_bytes);
		EXPECT(content_same(r, h->msg.data, h->msg.len), "side %u: held message %" PRIu32 " changed",
		       s->id, h->msg.msg_id);
		dp_link_release(s->l, &h->msg);
		h->used = false;
	}
	return next;
}

static void app_send(struct sim *m, struct side *s)
{
	while (m->now_ns >= s->next_send_ns &&
	       (s->acked + (s->sent - s->acked_epoch) < s->goal || s->epoch == 0)) {
		struct rng r = content_rng(s->epoch, s->id, s->sent);
		struct tx_buf *b = NULL;
		struct dp_tx_msg t;
		int rc;

		for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT && b == NULL; i++)
			if (!s->tx[i].used)
				b = &s->tx[i];
		if (b == NULL || dp_link_state(s->l) != DP_LINK_ESTABLISHED)
			return;
		b->len = content_len(&r, s->cfg.max_msg_bytes);
		b->data = malloc(b->len);
		CHECK(b->data != NULL);
		content_fill(r, b->data, b->len);
		t = (struct dp_tx_msg){.data = b->data, .len = b->len, .cookie = b};
		rc = dp_link_send(s->l, &t, m->now_ns);
		EXPECT(rc == 0, "side %u: send: %d with a free place", s->id, rc);
		b->used = true;
		b->epoch = s->epoch;
		s->sent++;
		if (rng_chance(&s->rng, 0.2))
			s->next_send_ns = m->now_ns + rng_below(&s->rng, 300000);
	}
}

static void side_rx(struct sim *m, struct side *s)
{
	for (uint32_t burst = 0; burst < 32 && s->inbox_head != s->inbox_tail; burst++) {
		uint32_t at = s->inbox_head++ % INBOX;
		struct dp_rx_pkt p = {
		    .data = s->inbox[at].buf, .len = s->inbox[at].len, .buf = s->inbox[at].buf};

		CHECK(s->n_live < LIVE_MAX);
		s->live[s->n_live++] = p.buf;
		app_events(s); /* so that what was sniffed is of the epoch that the link is in */
		sniff_rx(s, p.data, p.len);
		dp_link_rx(s->l, &p, m->now_ns);
		app_events(s);
		EXPECT(s->n_live <= s->cfg.rx_slots, "side %u: holds %u port buffers with %u slots", s->id,
		       s->n_live, s->cfg.rx_slots);
	}
}

static void side_tx(struct sim *m, struct side *s)
{
	struct dp_tx_pkt pkts[16];
	uint32_t n = 1 + (uint32_t)rng_below(&s->rng, 16), k;

	do {
		k = dp_link_tx(s->l, pkts, n, m->now_ns);
		EXPECT(k <= n, "dp_link_tx overran its array");
		for (uint32_t i = 0; i < k; i++) {
			sniff_tx(m, s, &pkts[i]);
			net_send(&m->net, (uint8_t)(1 - s->id), &pkts[i], m->now_ns);
		}
		app_events(s);
	} while (k == n);
	EXPECT(dp_link_deadline_ns(s->l, m->now_ns) > m->now_ns, "side %u: wants to send, but does not",
	       s->id);
}

static void side_poll(struct sim *m, struct side *s)
{
	uint64_t next;

	side_rx(m, s);
	app_events(s);
	app_done(s);
	app_recv(m, s);
	next = app_release(m, s);
	app_send(m, s);
	side_tx(m, s);
	s->wake_ns = dp_link_deadline_ns(s->l, m->now_ns);
	if (next < s->wake_ns)
		s->wake_ns = next;
	if (s->next_send_ns > m->now_ns && s->next_send_ns < s->wake_ns)
		s->wake_ns = s->next_send_ns;
	if (s->inbox_head != s->inbox_tail)
		s->wake_ns = m->now_ns;
	if (s->nap_ns > 0 && m->now_ns < m->faults_end_ns && rng_chance(&s->rng, 0.01))
		s->asleep_until_ns = m->now_ns + rng_below(&s->rng, s->nap_ns);
}

static void deliver(struct sim *m)
{
	const uint8_t *data;
	uint32_t len;
	uint8_t to;

	while (net_take(&m->net, m->now_ns, &to, &data, &len)) {
		struct side *s = &m->side[to];
		void *buf;

		if (s->l == NULL || s->inbox_tail - s->inbox_head == INBOX)
			continue;
		buf = malloc(len > 0 ? len : 1);
		CHECK(buf != NULL);
		memcpy(buf, data, len);
		s->inbox[s->inbox_tail % INBOX].buf = buf;
		s->inbox[s->inbox_tail++ % INBOX].len = len;
		s->wake_ns = m->now_ns;
	}
}

/* Restarts and cuts, at random moments until the faults end. */
static void fault_step(struct sim *m)
{
	struct side *s = &m->side[rng_below(&m->rng, 2)];

	m->next_fault_ns = m->now_ns + (rng_chance(&m->rng, 0.4) ? rng_below(&m->rng, MS / 10)
								 : rng_below(&m->rng, 15 * MS));
	if (m->cuts && rng_chance(&m->rng, 0.5)) {
		m->net.cut[s->id] = !m->net.cut[s->id];
		if (rng_chance(&m->rng, 0.5))
			m->net.cut[1 - s->id] = m->net.cut[s->id];
		tell("network: cut %d %d", m->net.cut[0], m->net.cut[1]);
		m->next_fault_ns += rng_below(&m->rng, 150 * MS);
	} else if (m->restarts && s->l != NULL) {
		side_destroy(s);
		s->down_until_ns = m->now_ns + (rng_chance(&m->rng, 0.5) ? 0 : rng_below(&m->rng, 3 * MS));
		tell("side %u: killed", s->id);
	}
}

static void faults_stop(struct sim *m)
{
	m->net.faults.loss = m->net.faults.dup = m->net.faults.corrupt = m->net.faults.reorder = 0;
	m->net.cut[0] = m->net.cut[1] = false;
	m->next_fault_ns = UINT64_MAX;
	tell("faults end");
}

static bool finished(const struct sim *m)
{
	for (int i = 0; i < 2; i++) {
		const struct side *s = &m->side[i];

		if (s->l == NULL || s->acked < s->goal)
			return false;
		for (uint32_t k = 0; k < DP_LINK_MAX_INFLIGHT; k++)
			if (s->tx[k].used || s->held[k].used)
				return false;
	}
	/* A restart at the very end: both must agree again, though nobody sends any more. */
	return m->now_ns >= m->faults_end_ns && m->side[0].epoch == m->side[1].epoch;
}

static uint64_t next_time(const struct sim *m)
{
	uint64_t t = net_next_ns(&m->net);

	for (int i = 0; i < 2; i++) {
		const struct side *s = &m->side[i];
		uint64_t w = s->l == NULL ? s->down_until_ns : s->wake_ns;

		if (s->l != NULL && w < s->asleep_until_ns)
			w = s->asleep_until_ns;
		t = w < t ? w : t;
	}
	return m->next_fault_ns < t ? m->next_fault_ns : t;
}

static void step(struct sim *m)
{
	uint64_t t = next_time(m);

	if (m->now_ns < m->faults_end_ns && t > m->faults_end_ns)
		t = m->faults_end_ns;
	EXPECT(t != UINT64_MAX, "nothing will ever happen again");
	m->spins = t > m->now_ns ? 0 : m->spins + 1;
	EXPECT(m->spins < SPIN_LIMIT, "the clock stands still");
	if (t > m->now_ns)
		m->now_ns = t;
	if (m->now_ns >= m->faults_end_ns && m->net.faults.delay_ns != 0 && m->next_fault_ns != UINT64_MAX)
		faults_stop(m);
	if (m->now_ns >= m->next_fault_ns)
		fault_step(m);
	deliver(m);
	for (int i = 0; i < 2; i++) {
		struct side *s = &m->side[i];

		if (s->l == NULL && m->now_ns >= s->down_until_ns)
			side_create(m, s);
		if (s->l != NULL && m->now_ns >= s->wake_ns && m->now_ns >= s->asleep_until_ns)
			side_poll(m, s);
	}
}

static void setup_net(struct sim *m)
{
	struct net_faults *f = &m->net.faults;
	struct rng *r = &m->rng;
	uint32_t c = m->class;
	bool all = c == 5 || c == 8;

	f->delay_ns = 500 + rng_below(r, 20000);
	f->jitter_ns = rng_below(r, 10000);
	if (c == 1 || all)
		f->loss = 0.2 * (double)rng_below(r, 101) / 100;
	if (c == 2 || all) {
		f->reorder = 0.3 * (double)rng_below(r, 101) / 100;
		f->reorder_ns = rng_below(r, 500000);
	}
	if (c == 3 || all)
		f->dup = 0.3 * (double)rng_below(r, 101) / 100;
	if (c == 4 || all)
		f->corrupt = 0.2 * (double)rng_below(r, 101) / 100;
	if (c == 6 || c == 7 || c == 9 || c == 10 || c == 11)
		f->loss = 0.05 * (double)rng_below(r, 101) / 100;
	m->restarts = c == 7 || c == 8;
	m->in_order = f->reorder <= 0 && f->dup <= 0;
	m->cuts = c == 10;
}

static void setup_side(struct sim *m, uint8_t i, uint32_t max_msg)
{
	static const uint32_t mtus[] = {9000, 3498, 1500, 576};
	struct side *s = &m->side[i];
	uint32_t c = m->class;

	s->id = i;
	s->rng.s = rng_next(&m->rng);
	s->goal = 10 + (uint32_t)rng_below(&m->rng, max_msg > 100000 ? 20 : 60);
	s->hold_ns = rng_below(&m->rng, c == 6 ? 20 * MS : m->restarts || m->cuts ? 3 * MS : 30000);
	s->nap_ns = c == 11 ? 30 * MS : 0;
	s->cfg = (struct dp_link_cfg){
	    .link_id = 7,
	    .side = i,
	    .mtu = mtus[rng_below(&m->rng, c == 11 || max_msg > 100000 ? 3 : 4)],
	    .max_msg_bytes = max_msg,
	    .rx_slots = c == 9 ? 1 + (uint32_t)rng_below(&m->rng, 2)
			       : 1 + (uint32_t)rng_below(&m->rng, DP_LINK_MAX_INFLIGHT),
	    .ack_msgs = (uint32_t)rng_below(&m->rng, 5),
	    .window_bytes =
		c == 9 ? 8896 + (uint32_t)rng_below(&m->rng, 4000) : (uint32_t)rng_below(&m->rng, 2) * 65536,
	    .payload_crc = c == 4 || c == 5 || c == 8 || rng_chance(&m->rng, 0.5),
	    .allow_in_place = rng_chance(&m->rng, 0.5),
	    .topology_hash = 1,
	    .model_hash = 2,
	    .dead_silence_ns = c == 10 ? 0 : 400 * MS,
	    .self_name = i == 0 ? "west" : "east",
	    .peer_name = i == 0 ? "east" : "west",
	    .buf_free = buf_free,
	    .buf_free_ctx = s,
	};
	s->down_until_ns =
	    rng_below(&m->rng, 3) * rng_below(&m->rng, 5 * MS); /* either side may start first */
}

/* A path that keeps the order and does not duplicate: nothing may be sent again in vain. */
static void check_thrift(const struct sim *m)
{
	bool clean = m->class == 0;

	for (int i = 0; i < 2; i++) {
		const uint64_t *count = dp_link_counters(m->side[i].l);

		if (m->in_order)
			EXPECT(count[DP_COUNTER_rx_dup_chunks] == 0,
			       "side %d: got %" PRIu64 " chunks in vain", i, count[DP_COUNTER_rx_dup_chunks]);
		if (clean)
			EXPECT(count[DP_COUNTER_losses] == 0, "side %d: thinks %" PRIu64 " packets lost", i,
			       count[DP_COUNTER_losses]);
	}
}

static void totals_add(uint64_t totals[DP_COUNTER_COUNT], const struct sim *m)
{
	for (int i = 0; i < 2; i++)
		for (int c = 0; c < DP_COUNTER_COUNT; c++)
			totals[c] += dp_link_counters(m->side[i].l)[c];
}

static void run(uint64_t seed, uint64_t totals[DP_COUNTER_COUNT])
{
	static const uint32_t maxes[] = {64, 3000, 8256, 60000, 60000, 300000};
	static struct sim sim;
	struct sim *m = &sim;
	uint32_t max_msg;

	memset(m, 0, sizeof(*m));
	current = m;
	m->seed = seed;
	m->class = (uint32_t)(seed % N_CLASSES);
	m->rng.s = seed * 0x2545f4914f6cdd1dull + 1;
	net_init(&m->net, rng_next(&m->rng));
	setup_net(m);
	max_msg = maxes[rng_below(&m->rng, 6)];
	setup_side(m, 0, max_msg);
	setup_side(m, 1, max_msg);
	m->faults_end_ns =
	    m->restarts || m->cuts ? 5 * MS + rng_below(&m->rng, m->cuts ? 600 * MS : 40 * MS) : 3000 * MS;
	m->next_fault_ns = m->restarts || m->cuts ? rng_below(&m->rng, 2 * MS) : UINT64_MAX - 1;
	if (!m->restarts && !m->cuts)
		m->faults_end_ns = 10 * MS + rng_below(&m->rng, 100 * MS);
	while (!finished(m)) {
		step(m);
		EXPECT(m->now_ns < m->faults_end_ns + (m->class <= 5 ? MEND_NS : 20000 * MS),
		       "no progress: acked %u of %u and %u of %u", m->side[0].acked, m->side[0].goal,
		       m->side[1].acked, m->side[1].goal);
	}
	for (int i = 0; i < 2; i++)
		EXPECT(m->side[i].acked_epoch == m->side[1 - i].received,
		       "side %d: %u acknowledged, %u received", i, m->side[i].acked_epoch,
		       m->side[1 - i].received);
	check_thrift(m);
	totals_add(totals, m);
	side_destroy(&m->side[0]);
	side_destroy(&m->side[1]);
}

int main(int argc, char **argv)
{
	uint64_t totals[DP_COUNTER_COUNT] = {0};
	uint64_t first = 1, n = 1200;
	clock_t start = clock();

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--trace") == 0)
			trace = true;
		else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
			first = strtoull(argv[++i], NULL, 0), n = 1;
		else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
			n = strtoull(argv[++i], NULL, 0);
		else {
			fprintf(stderr, "usage: sim [--seed N [--trace]] [--seeds COUNT]\n");
			return 2;
		}
	}
	for (uint64_t seed = first; seed < first + n; seed++)
		run(seed, totals);
	printf("%" PRIu64 " seeds from %" PRIu64 ": all invariants held, %.1f s\n", n, first,
	       (double)(clock() - start) / CLOCKS_PER_SEC);
	for (int c = 0; c < DP_COUNTER_COUNT; c++)
		if (strcmp(dp_counter_infos[c].kind, "counter") == 0)
			printf("  %-22s %" PRIu64 "\n", dp_counter_infos[c].name, totals[c]);
	return 0;
}
