/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who the peer is: HELLO and HELLO_ACK, refusals, epochs, RESET and death. A
 * HELLO alone changes nothing, because it may be an old one that the network
 * kept; only a HELLO_ACK that echoes our present nonce does.
 */
#include <inttypes.h>

#include "dataplane/link_internal.h"

#define KNOWN_FEATURES 0u

static bool same_peer(struct peer_id a, struct peer_id b)
{
	return a.incarnation == b.incarnation && a.association == b.association;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0xff51afd7ed558ccdull; /* MurmurHash3's 64-bit finalizer */
	return h ^ (h >> 33);
}

/* The same on both ends, and another one whenever either end begins anew. Never 0. */
static uint32_t epoch_of(const struct dp_link *l, struct peer_id peer)
{
	struct peer_id zero = l->cfg.side == 0 ? l->self : peer;
	struct peer_id one = l->cfg.side == 0 ? peer : l->self;
	uint64_t h =
	    mix(mix(mix(mix(0, zero.incarnation), zero.association), one.incarnation), one.association);
	uint32_t epoch = (uint32_t)(h ^ (h >> 32));

	return epoch != 0 ? epoch : 1;
}

static void hello_soon(struct dp_link *l, uint64_t now_ns)
{
	l->hello_due_ns = now_ns;
	l->hello_gap_ns = HELLO_FIRST_NS;
}

void handshake_start(struct dp_link *l, uint64_t now_ns)
{
	l->state = DP_LINK_HELLO;
	l->nonce = link_random(l);
	hello_soon(l, now_ns);
}

/* Asks an established peer who he is now. Until he has answered, nothing changes. */
static void verify_start(struct dp_link *l, uint64_t now_ns)
{
	if (l->state != DP_LINK_ESTABLISHED || l->verify_left != 0)
		return;
	l->verify_left = VERIFY_TRIES;
	l->nonce = link_random(l);
	hello_soon(l, now_ns);
}

static void epoch_end(struct dp_link *l)
{
	sender_fail_all(l);
	receiver_reset(l);
	l->verify_left = 0;
	l->epoch = 0;
	l->crc_flag = 0;
}

static void establish(struct dp_link *l, const struct dp_hello *h, struct peer_id peer, uint64_t now_ns)
{
	uint32_t mtu = h->mtu < l->cfg.mtu ? h->mtu : l->cfg.mtu;

	l->state = DP_LINK_ESTABLISHED;
	l->peer = peer;
	l->epoch = epoch_of(l, peer);
	l->chunk = dp_chunk_bytes(mtu);
	l->crc_flag = l->cfg.payload_crc || (h->flags & DP_HELLO_PAYLOAD_CRC) != 0 ? DP_F_PAYLOAD_CRC : 0;
	l->heard_ns = now_ns;
	l->verify_left = 0;
	l->refused_reason = DP_REFUSE_NONE;
	sender_reset(l, now_ns);
	l->ack_now = true; /* tells the peer his first credit */
	l->count[DP_COUNTER_epochs]++;
	link_event_push(l, DP_LINK_EV_UP,
			"link %u: %s and %s are connected: epoch %08" PRIx32 ", mtu %" PRIu32
			", chunk %" PRIu32 ", peer's blocks %" PRIu32 "-%" PRIu32 ", payload crc %s",
			l->cfg.link_id, l->cfg.self_name, l->cfg.peer_name, l->epoch, mtu, l->chunk,
			h->block_first, h->block_last, l->crc_flag != 0 ? "on" : "off");
}

void handshake_peer_dead(struct dp_link *l, uint64_t now_ns, const char *why)
{
	l->count[DP_COUNTER_peer_deaths]++;
	link_event_push(l, DP_LINK_EV_PEER_DEAD, "link %u: %s is dead for %s: %s", l->cfg.link_id,
			l->cfg.peer_name, l->cfg.self_name, why);
	epoch_end(l);
	/* The peer may live and be in the old epoch still: begin a new one also in his eyes. */
	l->self.association++;
	handshake_start(l, now_ns);
	l->state = DP_LINK_DEAD;
	l->hello_gap_ns = HELLO_SLOW_NS;
}

static enum dp_refusal mismatch(const struct dp_link *l, const struct dp_hello *h)
{
	if (((h->flags & DP_HELLO_SIDE1) != 0) == (l->cfg.side == 1))
		return DP_REFUSE_SIDE;
	if ((h->features & ~KNOWN_FEATURES) != 0)
		return DP_REFUSE_FEATURES;
	if (h->topology_hash != l->cfg.topology_hash)
		return DP_REFUSE_TOPOLOGY;
	if (h->model_hash != l->cfg.model_hash)
		return DP_REFUSE_MODEL;
	if (h->max_msg_bytes != l->cfg.max_msg_bytes)
		return DP_REFUSE_MAX_MSG;
	return DP_REFUSE_NONE;
}

static void value_text(char out[24], bool hash, uint64_t v)
{
	if (hash)
		snprintf(out, 24, "0x%016" PRIx64, v);
	else
		snprintf(out, 24, "%" PRIu64, v);
}

static void refused(struct dp_link *l, enum dp_refusal why, struct peer_id peer, uint64_t ours,
		    uint64_t theirs, const char *by)
{
	static const struct {
		const char *what;
		bool hash;
	} texts[DP_REFUSE_COUNT] = {
	    [DP_REFUSE_NONE] = {"nothing", false},
	    [DP_REFUSE_VERSION] = {"protocol version", false},
	    [DP_REFUSE_SIDE] = {"side (must differ)", false},
	    [DP_REFUSE_TOPOLOGY] = {"topology hash", true},
	    [DP_REFUSE_MODEL] = {"model hash", true},
	    [DP_REFUSE_MAX_MSG] = {"max_msg_bytes", false},
	    [DP_REFUSE_FEATURES] = {"feature bits", true},
	};
	char value[2][24];

	l->state = DP_LINK_REFUSED;
	l->hello_gap_ns = HELLO_SLOW_NS;
	if (l->refused_reason == (uint32_t)why && same_peer(l->refused, peer))
		return;
	l->refused = peer;
	l->refused_reason = why;
	l->count[DP_COUNTER_refusals]++;
	value_text(value[0], texts[why].hash, ours);
	value_text(value[1], texts[why].hash, theirs);
	link_event_push(l, DP_LINK_EV_REFUSED, "link %u: %s refused by %s: %s is %s at %s, %s at %s",
			l->cfg.link_id, by == l->cfg.self_name ? l->cfg.peer_name : l->cfg.self_name, by,
			texts[why].what, value[0], l->cfg.self_name, value[1], l->cfg.peer_name);
}

static void refuse_hello(struct dp_link *l, enum dp_refusal why, const struct dp_hello *h,
			 struct peer_id peer, const char *by)
{
	uint64_t ours[DP_REFUSE_COUNT] = {
	    [DP_REFUSE_VERSION] = DP_WIRE_VERSION,       [DP_REFUSE_SIDE] = l->cfg.side,
	    [DP_REFUSE_TOPOLOGY] = l->cfg.topology_hash, [DP_REFUSE_MODEL] = l->cfg.model_hash,
	    [DP_REFUSE_MAX_MSG] = l->cfg.max_msg_bytes,  [DP_REFUSE_FEATURES] = KNOWN_FEATURES,
	};
	uint64_t theirs[DP_REFUSE_COUNT] = {
	    [DP_REFUSE_VERSION] = DP_WIRE_VERSION,   [DP_REFUSE_SIDE] = (h->flags & DP_HELLO_SIDE1) != 0,
	    [DP_REFUSE_TOPOLOGY] = h->topology_hash, [DP_REFUSE_MODEL] = h->model_hash,
	    [DP_REFUSE_MAX_MSG] = h->max_msg_bytes,  [DP_REFUSE_FEATURES] = h->features,
	};

	refused(l, why, peer, ours[why], theirs[why], by);
}

static bool hello_sane(const struct dp_hello *h)
{
	return h->mtu >= DP_MTU_MIN && h->mtu <= DP_MTU_MAX && h->max_msg_bytes != 0 &&
	       h->max_msg_bytes <= DP_LINK_MAX_MSG_BYTES && h->rx_slots != 0 &&
	       h->rx_slots <= DP_LINK_MAX_INFLIGHT && h->refusal < DP_REFUSE_COUNT;
}

static void answer(struct dp_link *l, const struct dp_hdr *hdr, const struct dp_hello *h)
{
	l->answer_hello = true;
	l->answered = *h;
	l->answered_tx_time_ns = hdr->tx_time_ns;
	l->answered_refusal = mismatch(l, h);
}

/* The peer, now known to be alive and to be `peer`. */
static void verified(struct dp_link *l, const struct dp_hello *h, struct peer_id peer, uint64_t now_ns)
{
	enum dp_refusal why = mismatch(l, h);
	const char *by = why != DP_REFUSE_NONE ? l->cfg.self_name : l->cfg.peer_name;

	l->nonce = link_random(l);
	l->verify_left = 0;
	if (l->state == DP_LINK_ESTABLISHED && same_peer(peer, l->peer)) {
		l->heard_ns = now_ns;
		return;
	}
	if (l->state == DP_LINK_ESTABLISHED) {
		l->count[DP_COUNTER_peer_restarts]++;
		link_event_push(l, DP_LINK_EV_PEER_RESTARTED,
				"link %u: %s %s (incarnation %016" PRIx64 " was %016" PRIx64 ")",
				l->cfg.link_id, l->cfg.peer_name,
				peer.incarnation != l->peer.incarnation ? "restarted"
									: "had given the epoch up",
				peer.incarnation, l->peer.incarnation);
		epoch_end(l);
		handshake_start(l, now_ns);
	}
	if (why == DP_REFUSE_NONE)
		why = (enum dp_refusal)h->refusal;
	if (why != DP_REFUSE_NONE)
		refuse_hello(l, why, h, peer, by);
	else
		establish(l, h, peer, now_ns);
}

void handshake_rx(struct dp_link *l, const struct dp_hdr *hdr, const uint8_t *payload, uint64_t now_ns)
{
	struct dp_hello h;
	struct peer_id peer;

	dp_hello_load(payload, &h);
	peer = (struct peer_id){h.incarnation, h.association};
	if (h.incarnation == l->self.incarnation) {
		l->count[DP_COUNTER_drop_reflected]++;
		return;
	}
	if (!hello_sane(&h)) {
		l->count[DP_COUNTER_drop_hello]++;
		return;
	}
	if (hdr->type == DP_PKT_HELLO) {
		answer(l, hdr, &h);
		if (!same_peer(peer, l->peer))
			verify_start(l, now_ns);
		else if (l->state == DP_LINK_ESTABLISHED)
			l->heard_ns = now_ns;
		return;
	}
	if (h.echo_incarnation != l->self.incarnation || h.echo_association != l->self.association ||
	    h.echo_nonce != l->nonce) {
		l->count[DP_COUNTER_drop_stale_hello]++;
		return;
	}
	verified(l, &h, peer, now_ns);
	if (l->srtt_ns == 0 && l->state == DP_LINK_ESTABLISHED)
		sender_rtt(l, (uint32_t)now_ns - h.echo_tx_time_ns);
	if ((h.flags & DP_HELLO_NEED_ACK) != 0)
		answer(l, hdr, &h);
}

void handshake_rx_version(struct dp_link *l, uint8_t type, uint8_t version)
{
	/* Not verified, as another version's HELLO can't be read; so it must not end what works. */
	if ((type == DP_PKT_HELLO || type == DP_PKT_HELLO_ACK) && l->state != DP_LINK_ESTABLISHED)
		refused(l, DP_REFUSE_VERSION, (struct peer_id){version, 0}, DP_WIRE_VERSION, version,
			l->cfg.self_name);
}

void handshake_rx_reset(struct dp_link *l, const struct dp_hdr *h, uint64_t now_ns)
{
	(void)h; /* its epoch is ours, which the caller has checked */
	l->count[DP_COUNTER_rx_resets]++;
	verify_start(l, now_ns);
}

/* Packets of an epoch that is not ours: tells their sender, unless that could start a duel of RESETs. */
void handshake_stray(struct dp_link *l, const struct dp_hdr *h)
{
	if (h->type != DP_PKT_DATA && h->type != DP_PKT_PROBE && h->type != DP_PKT_KEEPALIVE)
		return;
	l->send_reset = true;
	l->reset_epoch = h->epoch;
}

/* This very peer is verified, and accepted or refused: asking him again would only make him ask back. */
static bool decided(const struct dp_link *l, struct peer_id peer)
{
	if (l->state == DP_LINK_ESTABLISHED)
		return same_peer(peer, l->peer);
	return l->state == DP_LINK_REFUSED && same_peer(peer, l->refused);
}

static void hello_tx(struct dp_link *l, struct dp_tx_pkt *pkt, const struct dp_hello *to, uint64_t now_ns)
{
	uint8_t *bytes = l->hello_bytes[to != NULL ? 1 : 0];
	struct dp_hdr hdr = {.type = to != NULL ? DP_PKT_HELLO_ACK : DP_PKT_HELLO, .flags = DP_F_PAYLOAD_CRC};
	struct dp_hello h = {
	    .incarnation = l->self.incarnation,
	    .association = l->self.association,
	    .features = KNOWN_FEATURES,
	    .nonce = l->nonce,
	    .topology_hash = l->cfg.topology_hash,
	    .model_hash = l->cfg.model_hash,
	    .block_first = l->cfg.block_first,
	    .block_last = l->cfg.block_last,
	    .mtu = l->cfg.mtu,
	    .max_msg_bytes = l->cfg.max_msg_bytes,
	    .rx_slots = l->cfg.rx_slots,
	    .window_bytes = l->cfg.window_bytes,
	    .flags =
		(l->cfg.side == 1 ? DP_HELLO_SIDE1 : 0u) | (l->cfg.payload_crc ? DP_HELLO_PAYLOAD_CRC : 0u),
	};

	if (to != NULL) {
		struct peer_id peer = {to->incarnation, to->association};

		h.echo_incarnation = to->incarnation;
		h.echo_association = to->association;
		h.echo_nonce = to->nonce;
		h.echo_tx_time_ns = l->answered_tx_time_ns;
		h.refusal = l->answered_refusal;
		if (!decided(l, peer))
			h.flags |= DP_HELLO_NEED_ACK;
	}
	dp_hello_store(bytes, &h);
	link_packet(l, pkt, &hdr, bytes, DP_HELLO_BYTES, now_ns);
	l->count[DP_COUNTER_tx_hellos]++;
}

static void hello_timer_next(struct dp_link *l, uint64_t now_ns)
{
	uint64_t gap = l->hello_gap_ns;

	/* Jitter of 1/8, so that two ends that started together do not stay in step. */
	l->hello_due_ns = now_ns + gap + link_random(l) % (gap / 8);
	if (gap < HELLO_MAX_NS)
		l->hello_gap_ns = min_u64(2 * gap, HELLO_MAX_NS);
	if (l->state == DP_LINK_ESTABLISHED)
		l->verify_left--;
}

uint32_t handshake_tx(struct dp_link *l, struct dp_tx_pkt *pkts, uint32_t n, uint64_t now_ns)
{
	bool asking = l->state != DP_LINK_ESTABLISHED || l->verify_left != 0;
	uint32_t k = 0;

	if (ps_likely(!asking && !l->answer_hello && !l->send_reset))
		return 0;
	if (l->answer_hello && k < n) {
		hello_tx(l, &pkts[k++], &l->answered, now_ns);
		l->answer_hello = false;
	}
	if (asking && now_ns >= l->hello_due_ns && k < n) {
		hello_tx(l, &pkts[k++], NULL, now_ns);
		hello_timer_next(l, now_ns);
	}
	if (l->send_reset && k < n) {
		l->send_reset = false;
		if (now_ns < l->reset_next_ns) {
			l->count[DP_COUNTER_tx_resets_limited]++;
		} else {
			struct dp_hdr hdr = {.type = DP_PKT_RESET, .epoch = l->reset_epoch};

			link_packet(l, &pkts[k++], &hdr, NULL, 0, now_ns);
			l->reset_next_ns = now_ns + RESET_INTERVAL_NS;
			l->count[DP_COUNTER_tx_resets]++;
		}
	}
	return k;
}

uint64_t handshake_deadline_ns(const struct dp_link *l)
{
	if (l->answer_hello || l->send_reset)
		return 0;
	return l->state != DP_LINK_ESTABLISHED || l->verify_left != 0 ? l->hello_due_ns : UINT64_MAX;
}
