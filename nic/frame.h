/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_NIC_FRAME_H
#define PENSTOCK_NIC_FRAME_H
/*
 * Ethernet, IPv4 and UDP around a Penstock packet: built from a template that is
 * made once a peer, and taken apart with every field checked. Knows no DPDK, so
 * that tests, sanitizers and the fuzzer run it on plain bytes. Not for anything
 * that the kernel's stack handles (ARP, fragments, options).
 *
 * The UDP checksum is sent as 0 ("none", legal for IPv4, RFC 768) and ignored on
 * receive: every Penstock message carries a CRC32C of its own. The IP header's
 * checksum is computed and verified.
 */
#include <stdbool.h>
#include <stdint.h>

#define NIC_ETH_BYTES   14u
#define NIC_IP_BYTES    20u
#define NIC_UDP_BYTES   8u
#define NIC_FRAME_BYTES (NIC_ETH_BYTES + NIC_IP_BYTES + NIC_UDP_BYTES)

struct nic_frame_addr {
	uint8_t src_mac[6];
	uint8_t dst_mac[6];
	uint32_t src_ip; /* host byte order */
	uint32_t dst_ip;
	uint16_t src_port;
	uint16_t dst_port;
};

/* The 42 bytes that are the same in every frame to a peer, but for the two
 * lengths and the checksum; `ip_sum` is the sum of the rest of the IP header. */
struct nic_frame_template {
	uint8_t hdr[NIC_FRAME_BYTES];
	uint32_t ip_sum;
};

/* What nic_frame_parse found. */
struct nic_frame {
	uint32_t src_ip;
	uint16_t src_port;
	uint16_t payload_offset; /* from the start of the frame */
	uint32_t payload_len;
};

enum nic_frame_verdict {
	NIC_FRAME_OK,
	NIC_FRAME_NOT_OURS,  /* well formed, but no UDP/IPv4 to our address and port */
	NIC_FRAME_MALFORMED, /* torn, a fragment, with options, or a wrong checksum */
};

void nic_frame_template_init(struct nic_frame_template *t, const struct nic_frame_addr *addr);

/* Writes the 42 header bytes for a UDP payload of `payload_len` (at most 65,507) to `dst`. */
void nic_frame_build(uint8_t *dst, const struct nic_frame_template *t, uint32_t payload_len);

/* Takes a received frame of `len` bytes apart; never reads past it. Bytes after the IP packet
 * (Ethernet's padding) are left out of the payload. */
enum nic_frame_verdict nic_frame_parse(const uint8_t *frame, uint32_t len, uint32_t my_ip, uint16_t my_port,
				       struct nic_frame *out);

#endif
