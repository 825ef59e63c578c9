/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "dataplane/crc32c.h"
#include "dataplane/link_internal.h"

/* splitmix64 (Steele, Lea, Flood 2014): jitter and nonces want no more than that. */
uint64_t link_random(struct dp_link *l)
{
	uint64_t z = (l->rng += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static int cfg_check(const struct dp_link_cfg *c, uint32_t window_bytes, struct ps_err *err)
{
	if (c->buf_free == NULL)
		return ps_err_set(err, -EINVAL, "link %u: no buf_free function", c->link_id);
	if (c->side > 1)
		return ps_err_set(err, -EINVAL, "link %u: side is %u, expected 0 or 1", c->link_id, c->side);
	if (c->mtu < DP_MTU_MIN || c->mtu > DP_MTU_MAX)
		return ps_err_set(err, -EINVAL, "link %u: mtu is %" PRIu32 ", expected %u to %u", c->link_id,
				  c->mtu, DP_MTU_MIN, DP_MTU_MAX);
	if (c->max_msg_bytes == 0 || c->max_msg_bytes > DP_LINK_MAX_MSG_BYTES)
		return ps_err_set(err, -EINVAL, "link %u: max_msg_bytes is %" PRIu32 ", expected 1 to %u",
				  c->link_id, c->max_msg_bytes, DP_LINK_MAX_MSG_BYTES);
	if (c->rx_slots == 0 || c->rx_slots > DP_LINK_MAX_INFLIGHT)
		return ps_err_set(err, -EINVAL, "link %u: rx_slots is %" PRIu32 ", expected 1 to %u",
				  c->link_id, c->rx_slots, DP_LINK_MAX_INFLIGHT);
	if (window_bytes < dp_chunk_bytes(c->mtu))
		return ps_err_set(err, -EINVAL,
				  "link %u: window_bytes is %" PRIu32
				  ", expected at least one chunk of %" PRIu32,
				  c->link_id, window_bytes, dp_chunk_bytes(c->mtu));
	if (c->rx_slot_mem != NULL &&
	    (c->rx_slot_stride < c->max_msg_bytes || c->rx_slot_stride % DP_CHUNK_ALIGN != 0 ||
	     (uintptr_t)c->rx_slot_mem % DP_CHUNK_ALIGN != 0))
		return ps_err_set(
		    err, -EINVAL,
		    "link %u: receive slots of %zu bytes, expected a multiple of %u, at least %" PRIu32
		    " and aligned to %u",
		    c->link_id, c->rx_slot_stride, DP_CHUNK_ALIGN, c->max_msg_bytes, DP_CHUNK_ALIGN);
	return 0;
}

static int memory_alloc(struct dp_link *l)
{
	size_t words = ((size_t)l->cfg.max_msg_bytes / DP_CHUNK_MIN + 1 + 63) / 64;

	/* A bit per chunk for every message in both directions, at the smallest chunk the peer may ask for.
	 */
	l->bit_mem = calloc(2 * DP_LINK_MAX_INFLIGHT * words, sizeof(*l->bit_mem));
	if (l->bit_mem == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT; i++) {
		l->tx[i].acked = l->bit_mem + 2 * i * words;
		l->rx[i].have = l->tx[i].acked + words;
	}
	if (l->cfg.rx_slot_mem != NULL)
		return 0;
	l->cfg.rx_slot_stride =
	    ((size_t)l->cfg.max_msg_bytes + DP_CHUNK_ALIGN - 1) & ~(size_t)(DP_CHUNK_ALIGN - 1);
	l->own_slot_mem = aligned_alloc(DP_CHUNK_ALIGN, l->cfg.rx_slot_stride * l->cfg.rx_slots);
	l->cfg.rx_slot_mem = l->own_slot_mem;
	return l->own_slot_mem != NULL ? 0 : -ENOMEM;
}

int dp_link_create(const struct dp_link_cfg *cfg, uint64_t incarnation, uint64_t seed, uint64_t now_ns,
		   struct dp_link **link_out, struct ps_err *err)
{
	uint32_t window = cfg->window_bytes != 0 ? cfg->window_bytes : DEFAULT_WINDOW;
	struct dp_link *l;
	int rc;

	*link_out = NULL;
	rc = cfg_check(cfg, window, err);
	if (rc != 0)
		return rc;
	l = calloc(1, sizeof(*l));
	if (l == NULL)
		return ps_err_set(err, -ENOMEM, "link %u: out of memory", cfg->link_id);
	l->cfg = *cfg;
	l->cfg.window_bytes = window;
	if (l->cfg.ack_msgs == 0)
		l->cfg.ack_msgs = ACK_MSGS;
	if (cfg->dead_silence_ns == 0)
		l->cfg.dead_silence_ns = DEFAULT_SILENCE_NS;
	if (cfg->self_name == NULL)
		l->cfg.self_name = "this end";
	if (cfg->peer_name == NULL)
		l->cfg.peer_name = "the peer";
	if (memory_alloc(l) != 0) {
		dp_link_destroy(l);
		return ps_err_set(err, -ENOMEM,
				  "link %u: no memory for %" PRIu32 " receive slots of %" PRIu32 " bytes",
				  cfg->link_id, cfg->rx_slots, cfg->max_msg_bytes);
	}
	for (uint32_t i = 0; i < cfg->rx_slots; i++)
		l->free_slots[l->n_free_slots++] = (uint8_t)i;
	l->side_flag = cfg->side == 1 ? DP_F_SIDE1 : 0;
	l->rng = seed;
	l->self.incarnation = incarnation;
	l->wake_ns = now_ns;
	l->heard_ns = now_ns;
	handshake_start(l, now_ns);
	*link_out = l;
	return 0;
}

void dp_link_destroy(struct dp_link *l)
{
	if (l == NULL)
		return;
	receiver_reset(l);
	free(l->own_slot_mem);
	free(l->bit_mem);
	free(l);
}

void link_event_push(struct dp_link *l, enum dp_link_event_kind kind, const char *fmt, ...)
{
	struct dp_link_event *ev = &l->events[l->event_tail++ % EVENTS];
	va_list ap;

	if (l->event_tail - l->event_head > EVENTS) {
		l->event_head++;
		l->count[DP_COUNTER_events_lost]++;
	}
	ev->kind = kind;
	ev->epoch = l->epoch;
	va_start(ap, fmt);
	vsnprintf(ev->text, sizeof(ev->text), fmt, ap);
	va_end(ap);
}

bool dp_link_event(struct dp_link *l, struct dp_link_event *ev_out)
{
	if (l->event_head == l->event_tail)
		return false;
	*ev_out = l->events[l->event_head++ % EVENTS];
	return true;
}

void link_packet(struct dp_link *l, struct dp_tx_pkt *pkt, struct dp_hdr *h, const uint8_t *payload,
		 uint32_t len, uint64_t now_ns)
{
	h->magic = DP_WIRE_MAGIC;
	h->version = DP_WIRE_VERSION;
	h->flags |= l->side_flag;
	h->link = l->cfg.link_id;
	h->payload_len = (uint16_t)len;
	h->tx_time_ns = (uint32_t)now_ns;
	if ((h->flags & DP_F_PAYLOAD_CRC) != 0)
		h->payload_crc32c = dp_crc32c(0, payload, len);
	dp_hdr_store(pkt->hdr, h);
	pkt->payload = payload;
	pkt->payload_len = len;
	pkt->peer = l->cfg.peer;
	l->count[DP_COUNTER_tx_packets]++;
	l->count[DP_COUNTER_tx_bytes] += DP_HDR_BYTES + len;
}

/* The header as far as it does not depend on the link's state. False: counted and to be dropped. */
static bool rx_header(struct dp_link *l, const struct dp_rx_pkt *pkt, struct dp_hdr *h)
{
	static const enum dp_counter reason[] = {
	    [DP_HDR_SHORT] = DP_COUNTER_drop_short,
	    [DP_HDR_MAGIC] = DP_COUNTER_drop_magic,
	    [DP_HDR_CRC] = DP_COUNTER_drop_hdr_crc,
	};
	enum dp_hdr_result rc = dp_hdr_load(pkt->data, pkt->len, h);
	enum dp_counter drop;

	if (ps_unlikely(rc != DP_HDR_OK))
		drop = reason[rc];
	else if (ps_unlikely(h->link != l->cfg.link_id))
		drop = DP_COUNTER_drop_link;
	else if (ps_unlikely(h->version != DP_WIRE_VERSION)) {
		drop = DP_COUNTER_drop_version;
		handshake_rx_version(l, h->type, h->version);
	} else if (ps_unlikely(h->payload_len != pkt->len - DP_HDR_BYTES))
		drop = DP_COUNTER_drop_length;
	else if (ps_unlikely((h->flags & DP_F_SIDE1) == l->side_flag && h->type != DP_PKT_HELLO &&
			     h->type != DP_PKT_HELLO_ACK))
		drop = DP_COUNTER_drop_reflected;
	else
		return true;
	l->count[drop]++;
	return false;
}

/* HELLO and ACK payloads have a fixed length and always carry a CRC; the short types have none. */
static bool rx_payload(struct dp_link *l, const struct dp_hdr *h, const uint8_t *payload)
{
	uint32_t expected = 0;

	switch (h->type) {
	case DP_PKT_HELLO:
	case DP_PKT_HELLO_ACK:
		expected = DP_HELLO_BYTES;
		break;
	case DP_PKT_ACK:
		expected = DP_ACK_BYTES;
		break;
	case DP_PKT_DATA:
		expected = h->payload_len;
		break;
	case DP_PKT_PROBE:
	case DP_PKT_RESET:
	case DP_PKT_KEEPALIVE:
		break;
	default:
		l->count[DP_COUNTER_drop_type]++;
		return false;
	}
	if (h->payload_len != expected) {
		l->count[DP_COUNTER_drop_length]++;
		return false;
	}
	if ((h->flags & DP_F_PAYLOAD_CRC) != 0) {
		if (dp_crc32c(0, payload, h->payload_len) == h->payload_crc32c)
			return true;
	} else if (h->type == DP_PKT_DATA ? l->crc_flag == 0 : expected == 0) {
		return true;
	}
	l->count[DP_COUNTER_drop_payload_crc]++;
	return false;
}

/* True: the packet's buffer was kept. */
static bool rx_packet(struct dp_link *l, const struct dp_rx_pkt *pkt, uint64_t now_ns)
{
	const uint8_t *payload = pkt->data + DP_HDR_BYTES;
	struct dp_hdr h;

	if (!rx_header(l, pkt, &h))
		return false;
	if (ps_unlikely(h.type == DP_PKT_HELLO || h.type == DP_PKT_HELLO_ACK)) {
		if (rx_payload(l, &h, payload))
			handshake_rx(l, &h, payload, now_ns);
		return false;
	}
	if (ps_unlikely(l->state != DP_LINK_ESTABLISHED || h.epoch != l->epoch)) {
		l->count[DP_COUNTER_drop_epoch]++;
		handshake_stray(l, &h);
		return false;
	}
	if (!rx_payload(l, &h, payload))
		return false;
	if (h.type == DP_PKT_RESET) {
		handshake_rx_reset(l, &h, now_ns);
		return false;
	}
	l->heard_ns = now_ns;
	if (h.type == DP_PKT_ACK) {
		sender_rx_ack(l, &h, payload, now_ns);
		return false;
	}
	return receiver_rx(l, &h, pkt, now_ns);
}

void dp_link_rx(struct dp_link *l, const struct dp_rx_pkt *pkt, uint64_t now_ns)
{
	l->count[DP_COUNTER_rx_packets]++;
	l->count[DP_COUNTER_rx_bytes] += pkt->len;
	if (!rx_packet(l, pkt, now_ns))
		l->cfg.buf_free(l->cfg.buf_free_ctx, pkt->buf);
}

uint32_t dp_link_tx(struct dp_link *l, struct dp_tx_pkt *pkts, uint32_t n, uint64_t now_ns)
{
	uint32_t k;

	/* If we ourselves were not run for a while, the peer's silence meanwhile says nothing about him. */
	if (ps_unlikely(now_ns > l->wake_ns && now_ns - l->wake_ns > STALL_NS))
		l->heard_ns = min_u64(now_ns, l->heard_ns + (now_ns - l->wake_ns));
	sender_timers(l, now_ns);
	k = handshake_tx(l, pkts, n, now_ns);
	if (ps_likely(l->state == DP_LINK_ESTABLISHED) && k < n) {
		bool ack = receiver_ack_due(l, now_ns);

		/* Data goes first, because somebody waits for it, but never takes the ACK's place. */
		k += sender_tx(l, pkts + k, n - k - (ack ? 1 : 0), now_ns);
		if (ack)
			receiver_ack_tx(l, &pkts[k++], now_ns);
	}
	l->wake_ns = max_u64(now_ns, dp_link_deadline_ns(l, now_ns));
	return k;
}

uint64_t dp_link_deadline_ns(const struct dp_link *l, uint64_t now_ns)
{
	uint64_t t = handshake_deadline_ns(l);

	if (ps_likely(l->state == DP_LINK_ESTABLISHED)) {
		t = min_u64(t, sender_deadline_ns(l));
		t = min_u64(t, receiver_deadline_ns(l));
	}
	return t <= now_ns ? 0 : t;
}

enum dp_link_state dp_link_state(const struct dp_link *l)
{
	return l->state;
}

uint64_t dp_link_srtt_ns(const struct dp_link *l)
{
	return l->srtt_ns;
}

const uint64_t *dp_link_counters(const struct dp_link *l)
{
	return l->count;
}
