/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The receiving half: numbers packets seen, places chunks, hands out messages
 * in order, and says in ACKs what arrived and what may be sent.
 */
#include "dataplane/link_internal.h"

#define IN_PLACE_ALIGN 8u

/* The first id that the peer may not send. At most rx_slots ids below it are not released. */
static uint32_t msg_credit(const struct dp_link *l)
{
	return l->released + l->cfg.rx_slots - l->held_old;
}

static void slot_free(struct dp_link *l, uint32_t slot)
{
	l->slot_state[slot] = SLOT_FREE;
	l->free_slots[l->n_free_slots++] = (uint8_t)slot;
}

void receiver_reset(struct dp_link *l)
{
	for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT; i++) {
		struct rx_entry *e = &l->rx[i];

		if (!e->started)
			continue;
		if (e->buf != NULL)
			l->cfg.buf_free(l->cfg.buf_free_ctx, e->buf);
		if (e->complete)
			l->count[DP_COUNTER_msgs_dropped]++;
		e->started = false;
		slot_free(l, e->slot);
	}
	l->held_old = 0;
	for (uint32_t i = 0; i < l->cfg.rx_slots; i++) {
		if (l->slot_state[i] == SLOT_HELD)
			l->slot_state[i] = SLOT_HELD_OLD;
		if (l->slot_state[i] == SLOT_HELD_OLD)
			l->held_old++;
	}
	l->rx_next = l->released = l->msg_credit_told = 0;
	l->rx_cum = l->rx_end = 0;
	memset(l->rx_bitmap, 0, sizeof(l->rx_bitmap));
	l->placed_bytes = 0;
	l->dup_chunks = l->rx_unacked = l->rx_unacked_msgs = 0;
	l->ack_now = l->echo_set = false;
	l->ack_due_ns = UINT64_MAX;
}

static void bitmap_advance(uint64_t b[4], uint64_t n)
{
	if (n >= SEQ_WINDOW) {
		memset(b, 0, 4 * sizeof(*b));
		return;
	}
	for (; n >= 64; n -= 64) {
		b[0] = b[1];
		b[1] = b[2];
		b[2] = b[3];
		b[3] = 0;
	}
	if (n == 0)
		return;
	for (int i = 0; i < 3; i++)
		b[i] = b[i] >> n | b[i + 1] << (64 - n);
	b[3] >>= n;
}

/* All below `base` is received or given up; what follows without a gap is received too. */
static void cum_advance(struct dp_link *l, uint64_t base)
{
	if (base > l->rx_cum) {
		bitmap_advance(l->rx_bitmap, base - l->rx_cum);
		l->rx_cum = base;
	}
	while ((l->rx_bitmap[0] & 1) != 0) {
		uint64_t run = ~l->rx_bitmap[0] == 0 ? 64 : (uint64_t)__builtin_ctzll(~l->rx_bitmap[0]);

		bitmap_advance(l->rx_bitmap, run);
		l->rx_cum += run;
	}
}

/* Notes the packet's number; an ACK is due at once where it leaves or fills a gap. */
static void seq_note(struct dp_link *l, const struct dp_hdr *h)
{
	uint64_t seq = h->pkt_seq;

	cum_advance(l, seq - h->seq_base_delta);
	if (ps_unlikely(seq != l->rx_end))
		l->ack_now = true;
	if (seq >= l->rx_end)
		l->rx_end = seq + 1;
	if (ps_likely(seq == l->rx_cum && (l->rx_bitmap[0] >> 1 & 1) == 0)) {
		bitmap_advance(l->rx_bitmap, 1);
		l->rx_cum++;
		return;
	}
	if (seq < l->rx_cum)
		return;
	bit_set(l->rx_bitmap, (uint32_t)(seq - l->rx_cum));
	cum_advance(l, l->rx_cum);
}

static bool seq_seen(const struct dp_link *l, uint64_t seq)
{
	return seq >= l->rx_cum && seq - l->rx_cum < SEQ_WINDOW &&
	       bit_get(l->rx_bitmap, (uint32_t)(seq - l->rx_cum));
}

static void ack_schedule(struct dp_link *l, const struct dp_hdr *h, uint64_t now_ns)
{
	/*
	 * The first packet since the last ACK tells the round trip (RFC 7323, 4.1): where we were not
	 * scheduled for a while, it waited longest, and the sender's timeouts should learn that. A
	 * straggler or a duplicate tells nothing.
	 */
	if (!l->echo_set && h->pkt_seq + 1 == l->rx_end) {
		l->echo_set = true;
		l->echo_tx_time_ns = h->tx_time_ns;
		l->echo_rx_ns = now_ns;
	}
	if (l->rx_unacked++ == 0)
		l->ack_due_ns = now_ns + ACK_DELAY_NS;
	l->rx_unacked_msgs += (h->flags & DP_F_LAST) != 0;
	if (h->type != DP_PKT_DATA || l->rx_unacked_msgs >= l->cfg.ack_msgs || l->rx_unacked >= ACK_EVERY)
		l->ack_now = true;
}

/* The one place where received payload is copied. */
static void payload_copy(struct dp_link *l, uint8_t *to, const uint8_t *payload, uint32_t len)
{
	memcpy(to, payload, len);
	l->count[DP_COUNTER_rx_copied_bytes] += len;
}

/* What a chunk must be, whatever else the peer says. */
static bool chunk_valid(const struct dp_link *l, const struct dp_hdr *h)
{
	uint32_t rest;

	if (h->msg_len == 0 || h->msg_len > l->cfg.max_msg_bytes || h->msg_offset >= h->msg_len)
		return false;
	rest = h->msg_len - h->msg_offset;
	if (h->payload_len != (rest < l->chunk ? rest : l->chunk))
		return false;
	if (((h->flags & DP_F_LAST) != 0) != (rest <= l->chunk))
		return false;
	return h->msg_offset % l->chunk == 0;
}

static void entry_start(struct dp_link *l, struct rx_entry *e, const struct dp_hdr *h, uint64_t now_ns)
{
	uint32_t n_chunks = (h->msg_len + l->chunk - 1) / l->chunk;

	/* The credit allows no more messages than slots, and who exceeds it was dropped before. */
	CHECK(l->n_free_slots > 0);
	e->started = true;
	e->complete = false;
	e->len = h->msg_len;
	e->got = 0;
	e->buf = NULL;
	e->first_ns = now_ns;
	e->slot = l->free_slots[--l->n_free_slots];
	l->slot_state[e->slot] = SLOT_FILLING;
	memset(e->have, 0, ((size_t)n_chunks + 63) / 64 * sizeof(*e->have));
}

/* Takes a valid chunk of message `e` that is not there yet. True: the buffer was kept. */
static bool chunk_place(struct dp_link *l, struct rx_entry *e, const struct dp_hdr *h,
			const struct dp_rx_pkt *pkt, uint64_t now_ns)
{
	const uint8_t *payload = pkt->data + DP_HDR_BYTES;
	bool keep =
	    l->cfg.allow_in_place && h->payload_len == h->msg_len && (uintptr_t)payload % IN_PLACE_ALIGN == 0;

	if (keep) {
		e->buf = pkt->buf;
		e->data = payload;
		l->count[DP_COUNTER_rx_in_place]++;
	} else {
		uint8_t *slot = l->cfg.rx_slot_mem + (size_t)e->slot * l->cfg.rx_slot_stride;

		payload_copy(l, slot + h->msg_offset, payload, h->payload_len);
		e->data = slot;
	}
	bit_set(e->have, h->msg_offset / l->chunk);
	e->got += h->payload_len;
	l->placed_bytes += h->payload_len;
	if (e->got == e->len) {
		e->complete = true;
		e->done_ns = now_ns;
		l->slot_state[e->slot] = SLOT_READY;
	}
	return keep;
}

static bool data_rx(struct dp_link *l, const struct dp_hdr *h, const struct dp_rx_pkt *pkt, uint64_t now_ns)
{
	struct rx_entry *e = rx_entry(l, h->msg_id);
	bool again;

	if (ps_unlikely(!chunk_valid(l, h))) {
		l->count[DP_COUNTER_drop_chunk]++;
		return false;
	}
	if (ps_unlikely(!id_before(h->msg_id, msg_credit(l)))) {
		l->count[DP_COUNTER_drop_credit]++;
		return false;
	}
	again = id_before(h->msg_id, l->rx_next);
	if (!again && e->started) {
		if (ps_unlikely(e->len != h->msg_len)) {
			l->count[DP_COUNTER_drop_msg_len]++;
			return false;
		}
		again = bit_get(e->have, h->msg_offset / l->chunk);
	}
	l->count[DP_COUNTER_rx_data]++;
	seq_note(l, h);
	ack_schedule(l, h, now_ns);
	if (ps_unlikely(again)) {
		if ((h->flags & DP_F_RETRANSMIT) != 0) {
			l->count[DP_COUNTER_rx_dup_chunks]++;
			l->dup_chunks++;
		} else {
			l->count[DP_COUNTER_rx_dup_packets]++;
		}
		l->ack_now = true;
		return false;
	}
	if (!e->started)
		entry_start(l, e, h, now_ns);
	return chunk_place(l, e, h, pkt, now_ns);
}

bool receiver_rx(struct dp_link *l, const struct dp_hdr *h, const struct dp_rx_pkt *pkt, uint64_t now_ns)
{
	if (ps_unlikely(h->seq_base_delta >= SEQ_WINDOW || h->seq_base_delta > h->pkt_seq ||
			h->pkt_seq == UINT64_MAX)) {
		l->count[DP_COUNTER_drop_seq]++;
		return false;
	}
	if (ps_unlikely(seq_seen(l, h->pkt_seq))) {
		/* The network's duplicate, not the sender's: tells nothing new, but the ACK may have been
		 * lost. */
		l->count[DP_COUNTER_rx_dup_packets]++;
		l->ack_now = true;
		return false;
	}
	if (h->type == DP_PKT_DATA)
		return data_rx(l, h, pkt, now_ns);
	seq_note(l, h);
	ack_schedule(l, h, now_ns);
	return false;
}

bool receiver_ack_due(const struct dp_link *l, uint64_t now_ns)
{
	return l->ack_now || now_ns >= l->ack_due_ns;
}

uint64_t receiver_deadline_ns(const struct dp_link *l)
{
	return l->ack_now ? 0 : l->ack_due_ns;
}

void receiver_ack_tx(struct dp_link *l, struct dp_tx_pkt *pkt, uint64_t now_ns)
{
	struct dp_hdr hdr = {.type = DP_PKT_ACK, .epoch = l->epoch, .flags = DP_F_PAYLOAD_CRC};
	struct dp_ack a = {
	    .cum = l->rx_cum,
	    .byte_credit = l->placed_bytes + l->cfg.window_bytes,
	    .msg_credit = msg_credit(l),
	    .dup_chunks = l->dup_chunks,
	};

	memcpy(a.bitmap, l->rx_bitmap, sizeof(a.bitmap));
	if (l->echo_set) {
		hdr.flags |= DP_F_ECHO;
		a.echo_tx_time_ns = l->echo_tx_time_ns;
		a.ack_delay_ns = (uint32_t)min_u64(now_ns - l->echo_rx_ns, UINT32_MAX);
	}
	dp_ack_store(l->ack_bytes, &a);
	link_packet(l, pkt, &hdr, l->ack_bytes, DP_ACK_BYTES, now_ns);
	l->msg_credit_told = a.msg_credit;
	l->rx_unacked = 0;
	l->rx_unacked_msgs = 0;
	l->ack_due_ns = UINT64_MAX;
	l->ack_now = l->echo_set = false;
	l->count[DP_COUNTER_tx_acks]++;
}

bool dp_link_recv(struct dp_link *l, struct dp_msg *msg_out)
{
	struct rx_entry *e = rx_entry(l, l->rx_next);

	if (!e->started || !e->complete)
		return false;
	*msg_out = (struct dp_msg){
	    .data = e->data,
	    .len = e->len,
	    .msg_id = l->rx_next++,
	    .epoch = l->epoch,
	    .rx_first_ns = e->first_ns,
	    .rx_done_ns = e->done_ns,
	    .slot = e->slot,
	    .buf = e->buf,
	};
	e->started = false;
	l->slot_state[e->slot] = SLOT_HELD;
	l->count[DP_COUNTER_msgs_received]++;
	return true;
}

void dp_link_release(struct dp_link *l, const struct dp_msg *msg)
{
	CHECK(msg->slot < l->cfg.rx_slots);
	CHECK(l->slot_state[msg->slot] == SLOT_HELD || l->slot_state[msg->slot] == SLOT_HELD_OLD);
	if (msg->buf != NULL)
		l->cfg.buf_free(l->cfg.buf_free_ctx, msg->buf);
	if (l->slot_state[msg->slot] == SLOT_HELD_OLD)
		l->held_old--;
	else
		l->released++;
	slot_free(l, msg->slot);
	/*
	 * An ACK for the credit's own sake only where the peer may run short of it: he has half of the
	 * slots or fewer left. Otherwise it rides in the next ACK of data.
	 */
	if (l->state == DP_LINK_ESTABLISHED && l->msg_credit_told - l->rx_next <= l->cfg.rx_slots / 2)
		l->ack_now = true;
}
