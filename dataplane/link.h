/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_LINK_H
#define PENSTOCK_DATAPLANE_LINK_H
/*
 * One association between two processes: a reliable, ordered channel of whole
 * messages in each direction, over a port that may lose, reorder, duplicate or
 * corrupt packets. Sans-I/O: packets, the time and the random source come in as
 * arguments, packets go out of dp_link_tx; the same object runs on DPDK, in the
 * simulator and under a fuzzer. PROTOCOL.md describes fields and states.
 * Not for demultiplexing (the endpoint gives each link its own packets) and not
 * for waiting (dp_link_deadline_ns says when it wants to be called again).
 *
 * One thread calls all functions of a link. All memory is allocated by
 * dp_link_create.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "dataplane/port.h"

#define DP_LINK_MAX_INFLIGHT  16u        /* messages unacknowledged in one direction, at most */
#define DP_LINK_MAX_MSG_BYTES (1u << 30) /* bound of one message */

/* Packets that one direction of a link has on the wire at most: data, and acknowledgements or probes. */
#define DP_LINK_MAX_PACKETS 256u

struct dp_link;

enum dp_link_state {
	DP_LINK_HELLO, /* sending HELLO, not yet agreed */
	DP_LINK_ESTABLISHED,
	DP_LINK_REFUSED, /* the peer's HELLO does not fit ours: terminal until the peer changes */
	DP_LINK_DEAD,    /* silence or RTOs beyond the bound: keeps sending HELLO, may come back */
};

enum dp_link_event_kind {
	DP_LINK_EV_UP,             /* a new epoch is established */
	DP_LINK_EV_PEER_DEAD,      /* silence or unanswered retransmissions */
	DP_LINK_EV_PEER_RESTARTED, /* the peer came back with a new incarnation: epoch over */
	DP_LINK_EV_REFUSED,        /* HELLO mismatch; text names both values */
};

struct dp_link_event {
	enum dp_link_event_kind kind;
	uint32_t epoch;
	char text[240];
};

struct dp_link_cfg {
	uint16_t link_id;       /* same on both sides */
	uint16_t peer;          /* index on the port, copied into every dp_tx_pkt */
	uint8_t side;           /* 0 or 1, different on the two ends */
	uint32_t mtu;           /* largest IP packet; both sides agree on the smaller at HELLO */
	uint32_t max_msg_bytes; /* largest message received (slot size) and sent */
	uint32_t rx_slots;      /* messages the receiver can hold (credit), <= DP_LINK_MAX_INFLIGHT */
	uint32_t ack_msgs; /* whole messages that cause an ACK at once; fewer wait 10 us. 0: the default, 4 */
	uint32_t window_bytes; /* bytes in flight at most; 0: the default */
	bool payload_crc;      /* CRC-32C over payloads (headers always carry one) */
	bool allow_in_place;   /* one-frame messages may keep the port's buffer (no copy) */
	uint64_t topology_hash;
	uint64_t model_hash;
	uint32_t block_first, block_last;  /* what this process runs, for the HELLO and its errors */
	uint64_t dead_silence_ns;          /* 0: the default, 100 ms */
	const char *self_name, *peer_name; /* for event texts; borrowed for the link's life */
	/* Pinned memory for rx_slots slots of rx_slot_stride bytes (>= max_msg_bytes, multiple
	 * of 64), borrowed; NULL: the link allocates its own. */
	uint8_t *rx_slot_mem;
	size_t rx_slot_stride;
	/* Gives a port buffer back; called for every packet that dp_link_rx was given. */
	void (*buf_free)(void *ctx, void *buf);
	void *buf_free_ctx;
};

/* A whole received message. Owned by the caller until dp_link_release. 64-byte aligned in a
 * slot; in place its alignment is that of the port's buffer (at least 8). */
struct dp_msg {
	const uint8_t *data;
	uint32_t len;
	uint32_t msg_id;
	uint32_t epoch;
	uint64_t rx_first_ns; /* now_ns of the call that took its first packet */
	uint64_t rx_done_ns;  /* ... and its last */
	uint32_t slot;        /* private to the link */
	void *buf;            /* port buffer if in place, else NULL; private to the link */
};

/* A message to send. `data` must stay unchanged until it comes back from dp_link_tx_done. */
struct dp_tx_msg {
	const uint8_t *data;
	uint32_t len;
	void *cookie; /* the caller's */
	/* Where in `data` the endpoint stamps the time of sending (u64, ns), or NULL. The link
	 * itself does not look at it. */
	uint8_t *stamp_ns;
	bool failed; /* set when handed back unacknowledged, because the epoch ended */
};

/* `incarnation`: random, drawn once a process start. `seed`: for jitter and nonces.
 * Errors: -EINVAL (configuration; text says which), -ENOMEM. */
int ps_warn_unused dp_link_create(const struct dp_link_cfg *cfg, uint64_t incarnation, uint64_t seed,
				  uint64_t now_ns, struct dp_link **link_out, struct ps_err *err);
void dp_link_destroy(struct dp_link *l);

/* Takes one packet of this link. Its buffer is the link's from here on: it is given back
 * through buf_free, at once or, for an in-place message, at dp_link_release. */
void dp_link_rx(struct dp_link *l, const struct dp_rx_pkt *pkt, uint64_t now_ns);

/* Fills up to `n` packets that are due at now_ns; returns how many. A packet that the port
 * then does not take may be dropped by the caller: it counts as lost and is repaired. */
uint32_t dp_link_tx(struct dp_link *l, struct dp_tx_pkt *pkts, uint32_t n, uint64_t now_ns);

/* When dp_link_tx wants to be called next though nothing else happens: 0 now, UINT64_MAX never. */
uint64_t dp_link_deadline_ns(const struct dp_link *l, uint64_t now_ns);

/* Queues a message. -EAGAIN: DP_LINK_MAX_INFLIGHT queued already; -EMSGSIZE; -ENOTCONN: not established. */
int ps_warn_unused dp_link_send(struct dp_link *l, const struct dp_tx_msg *msg, uint64_t now_ns);
/* Messages that are acknowledged (or failed): their memory is the caller's again. */
bool dp_link_tx_done(struct dp_link *l, struct dp_tx_msg *msg_out);

/* The next message in id order, exactly once an epoch. */
bool dp_link_recv(struct dp_link *l, struct dp_msg *msg_out);
/* Frees its slot or buffer and extends the peer's credit. */
void dp_link_release(struct dp_link *l, const struct dp_msg *msg);

bool dp_link_event(struct dp_link *l, struct dp_link_event *ev_out);
enum dp_link_state dp_link_state(const struct dp_link *l);
uint64_t dp_link_srtt_ns(const struct dp_link *l);

/* Counters of this link by dp_counter id (counters.h), DP_COUNTER_COUNT values. */
const uint64_t *dp_link_counters(const struct dp_link *l);

#endif
