/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/wire.h"

#include "base/bytes.h"
#include "base/check.h"
#include "dataplane/crc32c.h"

#define CRC_AT offsetof(struct dp_hdr, hdr_crc32c)

void dp_hdr_store(uint8_t out[DP_HDR_BYTES], const struct dp_hdr *h)
{
	ps_store16(out, h->magic);
	out[2] = h->version;
	out[3] = h->type;
	ps_store16(out + 4, h->flags);
	ps_store16(out + 6, h->payload_len);
	ps_store32(out + 8, h->epoch);
	ps_store16(out + 12, h->link);
	ps_store16(out + 14, h->seq_base_delta);
	ps_store64(out + 16, h->pkt_seq);
	ps_store32(out + 24, h->msg_id);
	ps_store32(out + 28, h->msg_offset);
	ps_store32(out + 32, h->msg_len);
	ps_store32(out + 36, h->tx_time_ns);
	ps_store32(out + 40, h->payload_crc32c);
	ps_store32(out + CRC_AT, dp_crc32c(0, out, CRC_AT));
}

enum dp_hdr_result dp_hdr_load(const uint8_t *data, size_t len, struct dp_hdr *h_out)
{
	if (ps_unlikely(len < DP_HDR_BYTES))
		return DP_HDR_SHORT;
	if (ps_unlikely(ps_load16(data) != DP_WIRE_MAGIC))
		return DP_HDR_MAGIC;
	if (ps_unlikely(ps_load32(data + CRC_AT) != dp_crc32c(0, data, CRC_AT)))
		return DP_HDR_CRC;
	*h_out = (struct dp_hdr){
	    .magic = DP_WIRE_MAGIC,
	    .version = data[2],
	    .type = data[3],
	    .flags = ps_load16(data + 4),
	    .payload_len = ps_load16(data + 6),
	    .epoch = ps_load32(data + 8),
	    .link = ps_load16(data + 12),
	    .seq_base_delta = ps_load16(data + 14),
	    .pkt_seq = ps_load64(data + 16),
	    .msg_id = ps_load32(data + 24),
	    .msg_offset = ps_load32(data + 28),
	    .msg_len = ps_load32(data + 32),
	    .tx_time_ns = ps_load32(data + 36),
	    .payload_crc32c = ps_load32(data + 40),
	    .hdr_crc32c = ps_load32(data + CRC_AT),
	};
	return DP_HDR_OK;
}

void dp_hello_store(uint8_t out[DP_HELLO_BYTES], const struct dp_hello *h)
{
	ps_store64(out, h->incarnation);
	ps_store32(out + 8, h->association);
	ps_store32(out + 12, h->features);
	ps_store64(out + 16, h->nonce);
	ps_store64(out + 24, h->echo_incarnation);
	ps_store32(out + 32, h->echo_association);
	ps_store32(out + 36, h->echo_tx_time_ns);
	ps_store64(out + 40, h->echo_nonce);
	ps_store64(out + 48, h->topology_hash);
	ps_store64(out + 56, h->model_hash);
	ps_store32(out + 64, h->block_first);
	ps_store32(out + 68, h->block_last);
	ps_store32(out + 72, h->mtu);
	ps_store32(out + 76, h->max_msg_bytes);
	ps_store32(out + 80, h->rx_slots);
	ps_store32(out + 84, h->window_bytes);
	ps_store32(out + 88, h->flags);
	ps_store32(out + 92, h->refusal);
}

void dp_hello_load(const uint8_t in[DP_HELLO_BYTES], struct dp_hello *h_out)
{
	*h_out = (struct dp_hello){
	    .incarnation = ps_load64(in),
	    .association = ps_load32(in + 8),
	    .features = ps_load32(in + 12),
	    .nonce = ps_load64(in + 16),
	    .echo_incarnation = ps_load64(in + 24),
	    .echo_association = ps_load32(in + 32),
	    .echo_tx_time_ns = ps_load32(in + 36),
	    .echo_nonce = ps_load64(in + 40),
	    .topology_hash = ps_load64(in + 48),
	    .model_hash = ps_load64(in + 56),
	    .block_first = ps_load32(in + 64),
	    .block_last = ps_load32(in + 68),
	    .mtu = ps_load32(in + 72),
	    .max_msg_bytes = ps_load32(in + 76),
	    .rx_slots = ps_load32(in + 80),
	    .window_bytes = ps_load32(in + 84),
	    .flags = ps_load32(in + 88),
	    .refusal = ps_load32(in + 92),
	};
}

void dp_ack_store(uint8_t out[DP_ACK_BYTES], const struct dp_ack *a)
{
	ps_store64(out, a->cum);
	for (size_t i = 0; i < 4; i++)
		ps_store64(out + 8 + 8 * i, a->bitmap[i]);
	ps_store64(out + 40, a->byte_credit);
	ps_store32(out + 48, a->msg_credit);
	ps_store32(out + 52, a->echo_tx_time_ns);
	ps_store32(out + 56, a->ack_delay_ns);
	ps_store32(out + 60, a->dup_chunks);
}

void dp_ack_load(const uint8_t in[DP_ACK_BYTES], struct dp_ack *a_out)
{
	a_out->cum = ps_load64(in);
	for (size_t i = 0; i < 4; i++)
		a_out->bitmap[i] = ps_load64(in + 8 + 8 * i);
	a_out->byte_credit = ps_load64(in + 40);
	a_out->msg_credit = ps_load32(in + 48);
	a_out->echo_tx_time_ns = ps_load32(in + 52);
	a_out->ack_delay_ns = ps_load32(in + 56);
	a_out->dup_chunks = ps_load32(in + 60);
}
