/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The sending half: which chunk goes next, what an ACK proves, and the timers.
 * A timer never retransmits data. It sends a PROBE (48 bytes); only the
 * acknowledgement of something sent later proves a loss (RFC 8985), and then all
 * losses at once. So a peer that merely is not scheduled costs a few probes.
 */
#include <errno.h>
#include <inttypes.h>

#include "dataplane/link_internal.h"

static struct tx_rec *rec_of(struct dp_link *l, uint64_t seq)
{
	return &l->rec[seq % SEQ_WINDOW];
}

static void rtt_derive(struct dp_link *l)
{
	uint64_t srtt = l->srtt_ns != 0 ? l->srtt_ns : RTT_INITIAL_NS;
	uint64_t var = l->srtt_ns != 0 ? l->rttvar_ns : RTT_INITIAL_NS / 2;
	uint64_t spread = srtt + 4 * var; /* RFC 6298 */

	l->rto_ns = min_u64(RTO_MAX_NS, max_u64(RTO_MIN_NS, spread + ACK_DELAY_NS));
	l->tail_ns = min_u64(RTO_MAX_NS, max_u64(2 * srtt, spread) + ACK_DELAY_NS);
	l->count[DP_COUNTER_srtt_ns] = l->srtt_ns;
	l->count[DP_COUNTER_rttvar_ns] = l->rttvar_ns;
	l->count[DP_COUNTER_rto_ns] = l->rto_ns;
}

/* RFC 6298 with alpha 1/8 and beta 1/4. */
void sender_rtt(struct dp_link *l, uint64_t rtt_ns)
{
	uint64_t diff;

	if (rtt_ns > RTT_SAMPLE_MAX_NS)
		return;
	rtt_ns = max_u64(rtt_ns, 1); /* 0 is kept for "no sample yet" */
	l->rack_rtt_ns = rtt_ns;
	if (l->srtt_ns == 0) {
		l->srtt_ns = rtt_ns;
		l->rttvar_ns = rtt_ns / 2;
	} else {
		diff = rtt_ns > l->srtt_ns ? rtt_ns - l->srtt_ns : l->srtt_ns - rtt_ns;
		l->rttvar_ns = (3 * l->rttvar_ns + diff) / 4;
		l->srtt_ns = (7 * l->srtt_ns + rtt_ns) / 8;
		if (l->srtt_ns == 0)
			l->srtt_ns = 1;
	}
	rtt_derive(l);
}

void sender_reset(struct dp_link *l, uint64_t now_ns)
{
	memset(l->rec, 0, sizeof(l->rec));
	l->epoch_serial = l->tx_next = l->tx_tail;
	l->seq_base = l->seq_next = l->seq_acked_end = 0;
	l->n_flying = l->n_lost = l->lost_head = 0;
	l->flying_bytes = l->sent_new_bytes = l->byte_credit = 0;
	l->msg_credit = l->dups_seen = 0;
	l->srtt_ns = l->rttvar_ns = 0;
	l->rack_rtt_ns = RTT_INITIAL_NS;
	rtt_derive(l);
	l->last_eliciting_ns = l->ack_progress_ns = l->last_keepalive_ns = now_ns;
	l->reorder_due_ns = UINT64_MAX;
	l->blocked_ns = 0;
	l->timeouts = l->credit_tries = 0;
	l->reorder_pkts = REORDER_PKTS;
	l->reorder_mult = 1;
	l->probe_due = 0;
}

void sender_fail_all(struct dp_link *l)
{
	for (uint32_t s = l->tx_head; s != l->tx_tail; s++) {
		struct tx_entry *e = tx_entry(l, s);

		if (e->done)
			continue;
		e->done = true;
		e->msg.failed = true;
		l->count[DP_COUNTER_msgs_failed]++;
	}
	/* Nothing of the old epoch is sent or read from here on. */
	l->tx_next = l->tx_tail;
	l->n_lost = 0;
	l->n_flying = 0;
}

int dp_link_send(struct dp_link *l, const struct dp_tx_msg *msg, uint64_t now_ns)
{
	struct tx_entry *e = tx_entry(l, l->tx_tail);

	(void)now_ns;
	if (ps_unlikely(l->state != DP_LINK_ESTABLISHED))
		return -ENOTCONN;
	if (ps_unlikely(msg->len == 0 || msg->len > l->cfg.max_msg_bytes))
		return -EMSGSIZE;
	if (l->tx_tail - l->tx_head >= DP_LINK_MAX_INFLIGHT)
		return -EAGAIN;
	e->msg = *msg;
	e->msg.failed = false;
	e->n_chunks = (msg->len + l->chunk - 1) / l->chunk;
	e->next_chunk = 0;
	e->n_acked = 0;
	e->done = false;
	memset(e->acked, 0, ((size_t)e->n_chunks + 63) / 64 * sizeof(*e->acked));
	l->tx_tail++;
	l->count[DP_COUNTER_msgs_sent]++;
	return 0;
}

bool dp_link_tx_done(struct dp_link *l, struct dp_tx_msg *msg_out)
{
	struct tx_entry *e = tx_entry(l, l->tx_head);

	if (l->tx_head == l->tx_tail || !e->done)
		return false;
	*msg_out = e->msg;
	l->tx_head++;
	return true;
}

/* The chunk's message, if the chunk is still to be acknowledged. */
static struct tx_entry *chunk_open(struct dp_link *l, uint32_t serial, uint32_t chunk)
{
	struct tx_entry *e = tx_entry(l, serial);

	/* Handed back already, and the entry perhaps another message's by now. */
	if (id_before(serial, l->tx_head) || e->done || bit_get(e->acked, chunk))
		return NULL;
	return e;
}

static void chunk_acked(struct dp_link *l, const struct tx_rec *r)
{
	struct tx_entry *e = chunk_open(l, r->entry, r->chunk);

	if (e == NULL)
		return;
	bit_set(e->acked, r->chunk);
	if (++e->n_acked == e->n_chunks) {
		e->done = true;
		l->count[DP_COUNTER_msgs_acked]++;
	}
}

static void rec_lost(struct dp_link *l, struct tx_rec *r)
{
	r->state = REC_LOST;
	l->n_flying--;
	l->flying_bytes -= r->len;
	l->count[DP_COUNTER_losses]++;
	if (r->len == 0 || chunk_open(l, r->entry, r->chunk) == NULL)
		return;
	/* A chunk is in flight once or in this list once, so the list is no longer than the window. */
	CHECK(l->n_lost < SEQ_WINDOW);
	l->lost[(l->lost_head + l->n_lost++) % SEQ_WINDOW] = (struct lost_chunk){r->entry, r->chunk};
}

static void base_advance(struct dp_link *l)
{
	while (l->seq_base < l->seq_next && rec_of(l, l->seq_base)->state != REC_FLYING)
		l->seq_base++;
}

/* True: newly acknowledged. */
static bool rec_acked(struct dp_link *l, uint64_t seq)
{
	struct tx_rec *r = rec_of(l, seq);
	uint8_t was = r->state;

	if (was == REC_ACKED)
		return false;
	r->state = REC_ACKED;
	if (seq >= l->seq_acked_end)
		l->seq_acked_end = seq + 1;
	if (was == REC_FLYING) {
		l->n_flying--;
		l->flying_bytes -= r->len;
	}
	if (r->len != 0)
		chunk_acked(l, r);
	return true;
}

/* Whether the peer acknowledges only what was sent; else nothing of the ACK is believed. */
static bool ack_valid(const struct dp_link *l, const struct dp_ack *a)
{
	if (a->cum > l->seq_next)
		return false;
	for (uint32_t w = 0; w < 4; w++) {
		uint64_t first = a->cum + 64ull * w;

		if (a->bitmap[w] == 0)
			continue;
		if (first + 63 - (uint64_t)__builtin_clzll(a->bitmap[w]) >= l->seq_next)
			return false;
	}
	return true;
}

static bool ack_apply(struct dp_link *l, const struct dp_ack *a)
{
	bool newly = false;

	for (uint64_t seq = l->seq_base; seq < a->cum; seq++)
		newly |= rec_acked(l, seq);
	for (uint32_t w = 0; w < 4; w++)
		for (uint64_t bits = a->bitmap[w]; bits != 0; bits &= bits - 1) {
			uint32_t low = (uint32_t)__builtin_ctzll(bits);
			uint64_t seq = a->cum + 64 * w + low;

			if (seq >= l->seq_base)
				newly |= rec_acked(l, seq);
		}
	return newly;
}

/* What is lost, given what was acknowledged; what may become so with time sets reorder_due_ns. */
static void losses_find(struct dp_link *l, uint64_t now_ns)
{
	uint64_t slack = max_u64(REORDER_MIN_NS, l->reorder_mult * (l->srtt_ns / 4));

	l->reorder_due_ns = UINT64_MAX;
	for (uint64_t seq = l->seq_base; seq < l->seq_acked_end; seq++) {
		struct tx_rec *r = rec_of(l, seq);
		uint64_t due = r->tx_ns + max_u64(l->rack_rtt_ns, l->srtt_ns) + slack;

		if (r->state != REC_FLYING)
			continue;
		if (l->seq_acked_end - 1 - seq >= l->reorder_pkts || now_ns >= due)
			rec_lost(l, r);
		else
			l->reorder_due_ns = min_u64(l->reorder_due_ns, due);
	}
	base_advance(l);
}

/* The peer had chunks already that we sent again: wait longer for stragglers (RFC 8985, 6.2). */
static void spurious_note(struct dp_link *l, uint32_t dup_chunks)
{
	uint32_t more = dup_chunks - l->dups_seen;

	if (more == 0 || more > INT32_MAX)
		return;
	l->dups_seen = dup_chunks;
	l->count[DP_COUNTER_retransmits_spurious] += more;
	if (l->reorder_pkts < REORDER_PKTS_MAX)
		l->reorder_pkts *= 2;
	if (l->reorder_mult < REORDER_MULT_MAX)
		l->reorder_mult++;
}

static void credit_take(struct dp_link *l, const struct dp_ack *a)
{
	bool more = id_before(l->msg_credit, a->msg_credit) || a->byte_credit > l->byte_credit;

	if (!more)
		return;
	if (id_before(l->msg_credit, a->msg_credit))
		l->msg_credit = a->msg_credit;
	if (a->byte_credit > l->byte_credit)
		l->byte_credit = a->byte_credit;
	l->credit_tries = 0;
	l->blocked_ns = 0;
}

void sender_rx_ack(struct dp_link *l, const struct dp_hdr *h, const uint8_t *payload, uint64_t now_ns)
{
	struct dp_ack a;

	dp_ack_load(payload, &a);
	if (ps_unlikely(!ack_valid(l, &a))) {
		l->count[DP_COUNTER_drop_ack]++;
		return;
	}
	l->count[DP_COUNTER_rx_acks]++;
	credit_take(l, &a);
	spurious_note(l, a.dup_chunks);
	if (!ack_apply(l, &a))
		return;
	l->timeouts = 0;
	l->ack_progress_ns = now_ns;
	if ((h->flags & DP_F_ECHO) != 0) {
		uint32_t rtt = (uint32_t)now_ns - a.echo_tx_time_ns;

		sender_rtt(l, rtt > a.ack_delay_ns ? rtt - a.ack_delay_ns : 0);
	}
	base_advance(l);
	if (ps_unlikely(l->seq_base < l->seq_acked_end))
		losses_find(l, now_ns);
	else
		l->reorder_due_ns = UINT64_MAX;
}

static void seq_use(struct dp_link *l, struct dp_hdr *h, uint32_t entry, uint32_t chunk, uint32_t len,
		    uint64_t now_ns)
{
	/*
	 * Probes beyond the window's reserve: the oldest number is given up (and its chunk sent again), so
	 * that the next one can be told from it in the ACK's bitmap.
	 */
	while (ps_unlikely(l->seq_next - l->seq_base >= SEQ_WINDOW)) {
		rec_lost(l, rec_of(l, l->seq_base));
		base_advance(l);
	}
	*rec_of(l, l->seq_next) = (struct tx_rec){
	    .tx_ns = now_ns,
	    .entry = entry,
	    .chunk = chunk,
	    .len = (uint16_t)len,
	    .state = REC_FLYING,
	};
	h->epoch = l->epoch;
	h->pkt_seq = l->seq_next++;
	h->seq_base_delta = (uint16_t)(h->pkt_seq - l->seq_base);
	l->n_flying++;
	l->flying_bytes += len;
	l->last_eliciting_ns = now_ns;
	l->blocked_ns = 0;
}

static void chunk_tx(struct dp_link *l, struct dp_tx_pkt *pkt, uint32_t serial, uint32_t chunk,
		     uint16_t flags, uint64_t now_ns)
{
	struct tx_entry *e = tx_entry(l, serial);
	uint32_t offset = chunk * l->chunk;
	uint32_t rest = e->msg.len - offset;
	uint32_t len = rest < l->chunk ? rest : l->chunk;
	struct dp_hdr h = {
	    .type = DP_PKT_DATA,
	    .flags = (uint16_t)(flags | l->crc_flag | (rest <= l->chunk ? DP_F_LAST : 0)),
	    .msg_id = serial - l->epoch_serial,
	    .msg_offset = offset,
	    .msg_len = e->msg.len,
	};

	DCHECK(!e->done);
	seq_use(l, &h, serial, chunk, len, now_ns);
	link_packet(l, pkt, &h, e->msg.data + offset, len, now_ns);
	l->count[DP_COUNTER_tx_data]++;
}

static bool seq_room(const struct dp_link *l)
{
	return l->seq_next - l->seq_base < DATA_SEQ_WINDOW && l->n_flying + l->n_lost < DATA_SEQ_WINDOW;
}

/* Something new to send, and credit for it. */
static bool new_allowed(const struct dp_link *l)
{
	const struct tx_entry *e = &l->tx[l->tx_next & (DP_LINK_MAX_INFLIGHT - 1)];
	uint32_t rest, len;

	if (l->tx_next == l->tx_tail || !id_before(l->tx_next - l->epoch_serial, l->msg_credit))
		return false;
	rest = e->msg.len - e->next_chunk * l->chunk;
	len = rest < l->chunk ? rest : l->chunk;
	return l->sent_new_bytes + len <= l->byte_credit && l->flying_bytes + len <= l->cfg.window_bytes;
}

/* Messages wait, and no packet is in flight whose ACK would bring credit. */
static bool out_of_credit(const struct dp_link *l)
{
	return l->tx_next != l->tx_tail && l->n_flying == 0 && l->n_lost == 0 && !new_allowed(l);
}

static void new_tx(struct dp_link *l, struct dp_tx_pkt *pkt, uint64_t now_ns)
{
	struct tx_entry *e = tx_entry(l, l->tx_next);

	chunk_tx(l, pkt, l->tx_next, e->next_chunk, 0, now_ns);
	l->sent_new_bytes += pkt->payload_len;
	if (++e->next_chunk == e->n_chunks)
		l->tx_next++;
}

static void short_tx(struct dp_link *l, struct dp_tx_pkt *pkt, uint8_t type, uint64_t now_ns)
{
	struct dp_hdr h = {.type = type};

	seq_use(l, &h, 0, 0, 0, now_ns);
	link_packet(l, pkt, &h, NULL, 0, now_ns);
}

/* The oldest lost chunk that is still wanted. */
static bool lost_next(struct dp_link *l, struct lost_chunk *out)
{
	while (l->n_lost > 0) {
		*out = l->lost[l->lost_head];
		if (chunk_open(l, out->entry, out->chunk) != NULL)
			return true;
		l->lost_head = (l->lost_head + 1) % SEQ_WINDOW;
		l->n_lost--;
	}
	return false;
}

uint32_t sender_tx(struct dp_link *l, struct dp_tx_pkt *pkts, uint32_t n, uint64_t now_ns)
{
	struct lost_chunk c;
	uint32_t k = 0;

	if (ps_unlikely(l->n_lost > 0))
		while (k < n && l->seq_next - l->seq_base < DATA_SEQ_WINDOW && lost_next(l, &c)) {
			l->lost_head = (l->lost_head + 1) % SEQ_WINDOW;
			l->n_lost--;
			chunk_tx(l, &pkts[k++], c.entry, c.chunk, DP_F_RETRANSMIT, now_ns);
			l->count[DP_COUNTER_retransmits]++;
		}
	while (k < n && l->n_lost == 0 && seq_room(l) && new_allowed(l))
		new_tx(l, &pkts[k++], now_ns);
	if (ps_unlikely(l->probe_due != 0) && k < n) {
		short_tx(l, &pkts[k++], l->probe_due, now_ns);
		l->probe_due = 0;
	}
	if (ps_unlikely(l->blocked_ns == 0 && out_of_credit(l)))
		l->blocked_ns = now_ns;
	return k;
}

/* When the probe for unanswered packets, or for more credit, is due. */
static uint64_t timeout_due_ns(const struct dp_link *l)
{
	uint32_t doublings;

	if (l->n_flying > 0) {
		if (l->timeouts == 0)
			return l->last_eliciting_ns + l->tail_ns;
		doublings = l->timeouts - 1 < 16 ? l->timeouts - 1 : 16;
		return l->last_eliciting_ns + min_u64(l->rto_ns << doublings, RTO_MAX_NS);
	}
	if (l->blocked_ns == 0)
		return UINT64_MAX;
	doublings = l->credit_tries < 16 ? l->credit_tries : 16;
	return l->blocked_ns + min_u64(CREDIT_PROBE_NS << doublings, RTO_MAX_NS);
}

static uint64_t keepalive_due_ns(const struct dp_link *l)
{
	if (l->n_flying > 0)
		return UINT64_MAX; /* the timeout probes already */
	return max_u64(l->heard_ns, l->last_keepalive_ns) + l->cfg.dead_silence_ns / 4;
}

static void timeout(struct dp_link *l, uint64_t now_ns)
{
	bool silent = now_ns - l->heard_ns >= l->cfg.dead_silence_ns / 2;
	bool one_way = now_ns - l->ack_progress_ns >= 4 * l->cfg.dead_silence_ns;

	l->probe_due = DP_PKT_PROBE;
	if (l->n_flying == 0) {
		l->credit_tries++;
		l->count[DP_COUNTER_credit_probes]++;
		return;
	}
	l->count[l->timeouts == 0 ? DP_COUNTER_tail_probes : DP_COUNTER_rtos]++;
	/* Timeouts alone could be a peer that was not scheduled; silence as well is a dead one. */
	if (l->timeouts++ >= RTOS_DEAD && (silent || one_way))
		handshake_peer_dead(
		    l, now_ns, silent ? "retransmission timeouts and silence" : "it acknowledges nothing");
}

void sender_timers(struct dp_link *l, uint64_t now_ns)
{
	if (ps_unlikely(l->state != DP_LINK_ESTABLISHED))
		return;
	if (ps_unlikely(now_ns >= l->heard_ns + l->cfg.dead_silence_ns)) {
		handshake_peer_dead(l, now_ns, "silence");
		return;
	}
	if (ps_unlikely(now_ns >= l->reorder_due_ns))
		losses_find(l, now_ns);
	if (ps_unlikely(l->probe_due != 0))
		return;
	if (ps_unlikely(now_ns >= timeout_due_ns(l))) {
		timeout(l, now_ns);
	} else if (ps_unlikely(now_ns >= keepalive_due_ns(l))) {
		l->probe_due = DP_PKT_KEEPALIVE;
		l->last_keepalive_ns = now_ns;
		l->count[DP_COUNTER_tx_keepalives]++;
	}
}

uint64_t sender_deadline_ns(const struct dp_link *l)
{
	uint64_t t;

	if (l->probe_due != 0)
		return 0;
	if (l->n_lost > 0) {
		if (l->seq_next - l->seq_base < DATA_SEQ_WINDOW)
			return 0;
	} else if (seq_room(l) && new_allowed(l)) {
		return 0;
	}
	t = min_u64(l->reorder_due_ns, timeout_due_ns(l));
	return min_u64(t, min_u64(keepalive_due_ns(l), l->heard_ns + l->cfg.dead_silence_ns));
}
