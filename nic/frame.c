/* SPDX-License-Identifier: BSD-3-Clause */
#include "nic/frame.h"

#include <string.h>

#include "base/check.h"

#define ETH_TYPE_IPV4   0x0800u
#define IP_PROTO_UDP    17u
#define IP_DONT_FRAG    0x4000u
#define IP_FRAG_MASK    0x3fffu /* more-fragments and the offset */
#define IP_TTL          64u
#define UDP_PAYLOAD_MAX 65507u

/* Network byte order, any alignment. */
static uint16_t load_be16(const uint8_t *p)
{
	return (uint16_t)((uint16_t)(p[0] << 8) | p[1]);
}

static uint32_t load_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_be16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void store_be32(uint8_t *p, uint32_t v)
{
	store_be16(p, v >> 16);
	store_be16(p + 2, v & 0xffffu);
}

/* The one's-complement sum of the 20 header bytes, not yet folded (RFC 1071). */
static uint32_t ip_header_sum(const uint8_t *ip)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < NIC_IP_BYTES; i += 2)
		sum += load_be16(ip + i);
	return sum;
}

static uint16_t sum_fold(uint32_t sum)
{
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	return (uint16_t)sum;
}

void nic_frame_template_init(struct nic_frame_template *t, const struct nic_frame_addr *addr)
{
	uint8_t *ip = t->hdr + NIC_ETH_BYTES;
	uint8_t *udp = ip + NIC_IP_BYTES;

	memset(t, 0, sizeof(*t));
	memcpy(t->hdr, addr->dst_mac, 6);
	memcpy(t->hdr + 6, addr->src_mac, 6);
	store_be16(t->hdr + 12, ETH_TYPE_IPV4);
	ip[0] = 0x45;
	store_be16(ip + 6, IP_DONT_FRAG);
	ip[8] = IP_TTL;
	ip[9] = IP_PROTO_UDP;
	store_be32(ip + 12, addr->src_ip);
	store_be32(ip + 16, addr->dst_ip);
	store_be16(udp, addr->src_port);
	store_be16(udp + 2, addr->dst_port);
	t->ip_sum = ip_header_sum(ip);
}

void nic_frame_build(uint8_t *dst, const struct nic_frame_template *t, uint32_t payload_len)
{
	uint32_t udp_len = NIC_UDP_BYTES + payload_len;
	uint32_t ip_len = NIC_IP_BYTES + udp_len;
	uint8_t *ip = dst + NIC_ETH_BYTES;

	DCHECK(payload_len <= UDP_PAYLOAD_MAX);
	memcpy(dst, t->hdr, NIC_FRAME_BYTES);
	store_be16(ip + 2, ip_len);
	store_be16(ip + 10, (uint16_t)~sum_fold(t->ip_sum + ip_len));
	store_be16(ip + NIC_IP_BYTES + 4, udp_len);
}

enum nic_frame_verdict nic_frame_parse(const uint8_t *frame, uint32_t len, uint32_t my_ip, uint16_t my_port,
				       struct nic_frame *out)
{
	const uint8_t *ip = frame + NIC_ETH_BYTES;
	const uint8_t *udp = ip + NIC_IP_BYTES;
	uint32_t ip_len, udp_len;

	if (len < NIC_ETH_BYTES)
		return NIC_FRAME_MALFORMED;
	if (load_be16(frame + 12) != ETH_TYPE_IPV4)
		return NIC_FRAME_NOT_OURS;
	if (len < NIC_ETH_BYTES + NIC_IP_BYTES || ip[0] != 0x45)
		return NIC_FRAME_MALFORMED;
	ip_len = load_be16(ip + 2);
	if (ip_len < NIC_IP_BYTES || ip_len > len - NIC_ETH_BYTES || sum_fold(ip_header_sum(ip)) != 0xffffu)
		return NIC_FRAME_MALFORMED;
	if (ip[9] != IP_PROTO_UDP || load_be32(ip + 16) != my_ip)
		return NIC_FRAME_NOT_OURS;
	if ((load_be16(ip + 6) & IP_FRAG_MASK) != 0 || ip_len < NIC_IP_BYTES + NIC_UDP_BYTES)
		return NIC_FRAME_MALFORMED;
	if (load_be16(udp + 2) != my_port)
		return NIC_FRAME_NOT_OURS;
	udp_len = load_be16(udp + 4);
	if (udp_len < NIC_UDP_BYTES || udp_len != ip_len - NIC_IP_BYTES)
		return NIC_FRAME_MALFORMED;
	out->src_ip = load_be32(ip + 12);
	out->src_port = load_be16(udp);
	out->payload_offset = NIC_FRAME_BYTES;
	out->payload_len = udp_len - NIC_UDP_BYTES;
	return NIC_FRAME_OK;
}
