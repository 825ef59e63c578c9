/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_LINK_INTERNAL_H
#define PENSTOCK_DATAPLANE_LINK_INTERNAL_H
/*
 * The link's state and the calls between its four sources: link.c (life,
 * queues, dispatch), link_handshake.c (HELLO, epochs, death), link_rx.c (DATA
 * in, ACK out) and link_tx.c (DATA out, ACK in, loss, timers). Nobody else
 * includes this. Constants here are described in PROTOCOL.md.
 */
#include "base/bytes.h"
#include "base/check.h"
#include "dataplane/counters.h"
#include "dataplane/link.h"
#include "dataplane/wire.h"

#define US 1000ull
#define MS 1000000ull

#define HELLO_FIRST_NS     (1 * MS)
#define HELLO_MAX_NS       (50 * MS)
#define HELLO_SLOW_NS      (100 * MS) /* dead or refused peer */
#define VERIFY_TRIES       8u         /* HELLOs to a peer that seems to have restarted */
#define RESET_INTERVAL_NS  (1 * MS)
#define ACK_EVERY          16u
#define ACK_DELAY_NS       (10 * US)
#define DEFAULT_WINDOW     (512u * 1024)
#define DEFAULT_SILENCE_NS (100 * MS)
#define RTT_INITIAL_NS     (1 * MS) /* until the first sample */
#define RTT_SAMPLE_MAX_NS  1000000000u
#define ACK_MSGS           4u /* messages whole since the last ACK; the default of ack_msgs */
#define RTO_MIN_NS         (200 * US)
#define RTO_MAX_NS         (50 * MS)
#define RTOS_DEAD          8u
#define CREDIT_PROBE_NS    (1 * MS) /* first probe when out of credit; doubles up to RTO_MAX_NS */
#define REORDER_PKTS       3u       /* RFC 8985: later packets acknowledged before one is lost */
#define REORDER_PKTS_MAX   128u
#define REORDER_MULT_MAX   8u
#define REORDER_MIN_NS     (2 * US)
#define STALL_NS           (1 * MS) /* being called later than asked for counts as our own stall */
#define SEQ_WINDOW         DP_ACK_WINDOW
#define DATA_SEQ_WINDOW    224u /* the rest of the window is kept for probes */
#define EVENTS             8u

static_assert(SEQ_WINDOW == DP_LINK_MAX_PACKETS, "what link.h promises the ports");
static_assert((DP_LINK_MAX_INFLIGHT & (DP_LINK_MAX_INFLIGHT - 1)) == 0, "tables are indexed by mask");

/* What became of one pkt_seq of ours. */
enum rec_state { REC_NONE, REC_FLYING, REC_LOST, REC_ACKED };

struct tx_rec {
	uint64_t tx_ns;
	uint32_t entry; /* serial number of the message; meaningless without data */
	uint32_t chunk;
	uint16_t len; /* 0: PROBE or KEEPALIVE */
	uint8_t state;
};

struct tx_entry {
	struct dp_tx_msg msg;
	uint32_t n_chunks, next_chunk, n_acked;
	bool done;       /* acknowledged or failed: waits for dp_link_tx_done */
	uint64_t *acked; /* bit per chunk */
};

struct lost_chunk {
	uint32_t entry, chunk;
};

enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_HELD, SLOT_HELD_OLD };

/* A message that is arriving, or waits for dp_link_recv. */
struct rx_entry {
	bool started, complete;
	uint32_t len, got, slot;
	void *buf; /* in place: the port's buffer, and data points into it */
	const uint8_t *data;
	uint64_t first_ns, done_ns;
	uint64_t *have; /* bit per chunk */
};

/* One end of an association: who, and which of his lives. */
struct peer_id {
	uint64_t incarnation;
	uint32_t association;
};

struct dp_link {
	struct dp_link_cfg cfg;
	enum dp_link_state state;
	uint32_t epoch, chunk;
	uint16_t side_flag, crc_flag; /* or'ed into every header */
	uint64_t count[DP_COUNTER_COUNT];
	uint64_t rng, heard_ns, wake_ns;

	/* Sending. Messages have serial numbers over all epochs; msg_id = serial - epoch_serial. */
	uint32_t tx_head, tx_tail, tx_next, epoch_serial; /* oldest queued, next free, next to send from */
	struct tx_entry tx[DP_LINK_MAX_INFLIGHT];
	struct tx_rec rec[SEQ_WINDOW];
	uint64_t seq_base, seq_next; /* lowest in flight, next */
	uint64_t seq_acked_end;      /* one past the highest acknowledged */
	uint32_t n_flying, n_lost, lost_head;
	struct lost_chunk lost[SEQ_WINDOW];
	uint64_t flying_bytes, sent_new_bytes, byte_credit;
	uint32_t msg_credit, dups_seen;

	/* Times of the sender. */
	uint64_t srtt_ns, rttvar_ns, rto_ns, tail_ns, rack_rtt_ns;
	uint64_t last_eliciting_ns, ack_progress_ns, reorder_due_ns, last_keepalive_ns;
	uint64_t blocked_ns; /* since when out of credit with nothing in flight; 0: not */
	uint32_t timeouts, credit_tries, reorder_pkts, reorder_mult;
	uint8_t probe_due; /* DP_PKT_PROBE or DP_PKT_KEEPALIVE to send now, or 0 */

	/* Receiving. */
	uint32_t rx_next; /* msg_id that dp_link_recv hands out next */
	uint32_t released, held_old, msg_credit_told;
	struct rx_entry rx[DP_LINK_MAX_INFLIGHT];
	uint8_t slot_state[DP_LINK_MAX_INFLIGHT];
	uint8_t free_slots[DP_LINK_MAX_INFLIGHT];
	uint32_t n_free_slots;
	uint64_t rx_cum, rx_end; /* as in the ACK; one past the highest received */
	uint64_t rx_bitmap[4];
	uint64_t placed_bytes;
	uint32_t dup_chunks, rx_unacked, rx_unacked_msgs;
	bool ack_now, echo_set;
	uint64_t ack_due_ns, echo_rx_ns;
	uint32_t echo_tx_time_ns;

	/* Handshake. */
	struct peer_id self, peer, refused;
	uint32_t refused_reason; /* of `refused`; 0: none */
	uint64_t nonce, hello_due_ns, hello_gap_ns, reset_next_ns;
	uint32_t verify_left; /* HELLOs still to send while established */
	bool answer_hello, send_reset;
	struct dp_hello answered; /* the HELLO that answer_hello answers */
	uint32_t answered_tx_time_ns, answered_refusal, reset_epoch;
	uint8_t hello_bytes[2][DP_HELLO_BYTES];
	uint8_t ack_bytes[DP_ACK_BYTES];

	struct dp_link_event events[EVENTS];
	uint32_t event_head, event_tail;
	uint8_t *own_slot_mem;
	uint64_t *bit_mem;
};

static inline struct tx_entry *tx_entry(struct dp_link *l, uint32_t serial)
{
	return &l->tx[serial & (DP_LINK_MAX_INFLIGHT - 1)];
}

static inline struct rx_entry *rx_entry(struct dp_link *l, uint32_t msg_id)
{
	return &l->rx[msg_id & (DP_LINK_MAX_INFLIGHT - 1)];
}

static inline bool bit_get(const uint64_t *bits, uint32_t i)
{
	return (bits[i / 64] >> (i % 64) & 1) != 0;
}

static inline void bit_set(uint64_t *bits, uint32_t i)
{
	bits[i / 64] |= 1ull << (i % 64);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Message ids and serials wrap; this is their order. */
static inline bool id_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

/* link.c */
uint64_t link_random(struct dp_link *l);
void ps_printf(3, 4) link_event_push(struct dp_link *l, enum dp_link_event_kind kind, const char *fmt, ...);
/* Fills a packet; type, flags and the fields that `h` brings are the caller's. */
void link_packet(struct dp_link *l, struct dp_tx_pkt *pkt, struct dp_hdr *h, const uint8_t *payload,
		 uint32_t len, uint64_t now_ns);

/* link_handshake.c */
void handshake_start(struct dp_link *l, uint64_t now_ns);
void handshake_rx(struct dp_link *l, const struct dp_hdr *h, const uint8_t *payload, uint64_t now_ns);
void handshake_rx_version(struct dp_link *l, uint8_t type, uint8_t version);
void handshake_rx_reset(struct dp_link *l, const struct dp_hdr *h, uint64_t now_ns);
void handshake_stray(struct dp_link *l, const struct dp_hdr *h);
uint32_t handshake_tx(struct dp_link *l, struct dp_tx_pkt *pkts, uint32_t n, uint64_t now_ns);
uint64_t handshake_deadline_ns(const struct dp_link *l);
void handshake_peer_dead(struct dp_link *l, uint64_t now_ns, const char *why);

/* link_rx.c */
void receiver_reset(struct dp_link *l); /* the epoch is over */
/* True: the packet's buffer was kept. */
bool receiver_rx(struct dp_link *l, const struct dp_hdr *h, const struct dp_rx_pkt *pkt, uint64_t now_ns);
bool receiver_ack_due(const struct dp_link *l, uint64_t now_ns);
uint64_t receiver_deadline_ns(const struct dp_link *l);
void receiver_ack_tx(struct dp_link *l, struct dp_tx_pkt *pkt, uint64_t now_ns);

/* link_tx.c */
void sender_reset(struct dp_link *l, uint64_t now_ns); /* a new epoch begins */
void sender_fail_all(struct dp_link *l);
void sender_rtt(struct dp_link *l, uint64_t rtt_ns);
void sender_rx_ack(struct dp_link *l, const struct dp_hdr *h, const uint8_t *payload, uint64_t now_ns);
void sender_timers(struct dp_link *l, uint64_t now_ns);
uint32_t sender_tx(struct dp_link *l, struct dp_tx_pkt *pkts, uint32_t n, uint64_t now_ns);
uint64_t sender_deadline_ns(const struct dp_link *l);

#endif
