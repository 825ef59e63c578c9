/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_WIRE_H
#define PENSTOCK_DATAPLANE_WIRE_H
/*
 * The bytes of a packet: header, HELLO and ACK payloads (PROTOCOL.md describes
 * each field). Loads and stores only; what a packet means is the link's
 * business. The structs here have the wire's layout, but hold values in the
 * host's byte order.
 */
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/port.h"

#define DP_WIRE_MAGIC   0x5350u /* "PS" */
#define DP_WIRE_VERSION 1u

#define DP_IP_UDP_BYTES 28u /* IPv4 without options, UDP */
#define DP_SEAL_BYTES   16u /* kept free for the authentication tag that sealing will add */
#define DP_CHUNK_ALIGN  64u
#define DP_MTU_MIN      576u /* every IPv4 host takes this much (RFC 791) */
#define DP_MTU_MAX      65535u
#define DP_CHUNK_MIN    448u /* dp_chunk_bytes(DP_MTU_MIN) */

enum dp_pkt_type {
	DP_PKT_HELLO = 1,
	DP_PKT_HELLO_ACK = 2,
	DP_PKT_DATA = 3,
	DP_PKT_ACK = 4,
	DP_PKT_PROBE = 5,
	DP_PKT_RESET = 6,
	DP_PKT_KEEPALIVE = 7,
};

enum dp_pkt_flag {
	DP_F_LAST = 1 << 0,        /* DATA: the last chunk of its message */
	DP_F_SIDE1 = 1 << 1,       /* sent by side 1 */
	DP_F_PAYLOAD_CRC = 1 << 2, /* payload_crc32c is set */
	DP_F_RETRANSMIT = 1 << 3,  /* DATA: this chunk was sent before */
	DP_F_ECHO = 1 << 4,        /* ACK: echo_tx_time_ns and ack_delay_ns are set */
};

struct dp_hdr {
	uint16_t magic;
	uint8_t version;
	uint8_t type;
	uint16_t flags;
	uint16_t payload_len;
	uint32_t epoch;
	uint16_t link;
	uint16_t seq_base_delta; /* pkt_seq - the lowest pkt_seq still in flight */
	uint64_t pkt_seq;
	uint32_t msg_id;
	uint32_t msg_offset;
	uint32_t msg_len;
	uint32_t tx_time_ns; /* low 32 bits of the sender's clock */
	uint32_t payload_crc32c;
	uint32_t hdr_crc32c; /* over the 44 bytes before it */
};
static_assert(sizeof(struct dp_hdr) == DP_HDR_BYTES, "header size");
static_assert(offsetof(struct dp_hdr, version) == 2 && offsetof(struct dp_hdr, type) == 3 &&
		  offsetof(struct dp_hdr, flags) == 4 && offsetof(struct dp_hdr, payload_len) == 6 &&
		  offsetof(struct dp_hdr, epoch) == 8 && offsetof(struct dp_hdr, link) == 12 &&
		  offsetof(struct dp_hdr, seq_base_delta) == 14 && offsetof(struct dp_hdr, pkt_seq) == 16 &&
		  offsetof(struct dp_hdr, msg_id) == 24 && offsetof(struct dp_hdr, msg_offset) == 28 &&
		  offsetof(struct dp_hdr, msg_len) == 32 && offsetof(struct dp_hdr, tx_time_ns) == 36 &&
		  offsetof(struct dp_hdr, payload_crc32c) == 40 && offsetof(struct dp_hdr, hdr_crc32c) == 44,
	      "header layout");

#define DP_HELLO_BYTES 96u

enum dp_hello_flag {
	DP_HELLO_NEED_ACK = 1 << 0,    /* the sender has not verified the receiver yet */
	DP_HELLO_PAYLOAD_CRC = 1 << 1, /* the sender wants payload CRCs */
	DP_HELLO_SIDE1 = 1 << 2,
};

enum dp_refusal {
	DP_REFUSE_NONE = 0,
	DP_REFUSE_VERSION = 1,
	DP_REFUSE_SIDE = 2,
	DP_REFUSE_TOPOLOGY = 3,
	DP_REFUSE_MODEL = 4,
	DP_REFUSE_MAX_MSG = 5,
	DP_REFUSE_FEATURES = 6,
	DP_REFUSE_COUNT
};

struct dp_hello {
	uint64_t incarnation;
	uint32_t association; /* counts the epochs that this process gave up */
	uint32_t features;    /* bits that the receiver must know; 0 in this version */
	uint64_t nonce;
	uint64_t echo_incarnation; /* HELLO_ACK: of the HELLO answered */
	uint32_t echo_association;
	uint32_t echo_tx_time_ns;
	uint64_t echo_nonce;
	uint64_t topology_hash;
	uint64_t model_hash;
	uint32_t block_first, block_last;
	uint32_t mtu;
	uint32_t max_msg_bytes;
	uint32_t rx_slots;
	uint32_t window_bytes;
	uint32_t flags;
	uint32_t refusal; /* enum dp_refusal: why the sender refuses the receiver */
};
static_assert(sizeof(struct dp_hello) == DP_HELLO_BYTES, "HELLO size");
static_assert(offsetof(struct dp_hello, nonce) == 16 && offsetof(struct dp_hello, echo_nonce) == 40 &&
		  offsetof(struct dp_hello, block_first) == 64 && offsetof(struct dp_hello, refusal) == 92,
	      "HELLO layout");

#define DP_ACK_BYTES  64u
#define DP_ACK_WINDOW 256u /* packet numbers that one ACK's bitmap covers */

struct dp_ack {
	uint64_t cum;         /* every pkt_seq below it is received or given up by its sender */
	uint64_t bitmap[4];   /* bit i: cum + i is received */
	uint64_t byte_credit; /* first-sent payload bytes allowed in this epoch */
	uint32_t msg_credit;  /* message ids below it may be sent */
	uint32_t echo_tx_time_ns;
	uint32_t ack_delay_ns;
	uint32_t dup_chunks; /* chunks received in vain so far in this epoch */
};
static_assert(sizeof(struct dp_ack) == DP_ACK_BYTES, "ACK size");
static_assert(offsetof(struct dp_ack, byte_credit) == 40 && offsetof(struct dp_ack, msg_credit) == 48 &&
		  offsetof(struct dp_ack, dup_chunks) == 60,
	      "ACK layout");

/* Payload bytes of a full chunk at this MTU: a multiple of 64. mtu >= DP_MTU_MIN. */
static inline uint32_t dp_chunk_bytes(uint32_t mtu)
{
	return (mtu - DP_IP_UDP_BYTES - DP_HDR_BYTES - DP_SEAL_BYTES) & ~(DP_CHUNK_ALIGN - 1);
}

enum dp_hdr_result { DP_HDR_OK, DP_HDR_SHORT, DP_HDR_MAGIC, DP_HDR_CRC };

/* Stores all fields and computes hdr_crc32c. */
void dp_hdr_store(uint8_t out[DP_HDR_BYTES], const struct dp_hdr *h);
/* Loads the header of `len` bytes; fields are set only where the CRC is right. */
enum dp_hdr_result dp_hdr_load(const uint8_t *data, size_t len, struct dp_hdr *h_out);

void dp_hello_store(uint8_t out[DP_HELLO_BYTES], const struct dp_hello *h);
void dp_hello_load(const uint8_t in[DP_HELLO_BYTES], struct dp_hello *h_out);
void dp_ack_store(uint8_t out[DP_ACK_BYTES], const struct dp_ack *a);
void dp_ack_load(const uint8_t in[DP_ACK_BYTES], struct dp_ack *a_out);

#endif
