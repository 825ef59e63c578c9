/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/counters.h"
#include "dataplane/crc32c.h"

/* Every byte of a header as PROTOCOL.md has it, written down by hand. */
static void header_bytes(void **state)
{
	static const uint8_t want[44] = {
	    0x50, 0x53, 0x01, 0x03, 0x05, 0x00, 0x34, 0x12, /* magic, version, type, flags, payload_len */
	    0x78, 0x56, 0x34, 0x12, 0x07, 0x00, 0x09, 0x00, /* epoch, link, seq_base_delta */
	    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* pkt_seq */
	    0xa4, 0xa3, 0xa2, 0xa1, 0xb4, 0xb3, 0xb2, 0xb1, /* msg_id, msg_offset */
	    0xc4, 0xc3, 0xc2, 0xc1, 0xd4, 0xd3, 0xd2, 0xd1, /* msg_len, tx_time_ns */
	    0xe4, 0xe3, 0xe2, 0xe1,                         /* payload_crc32c */
	};
	struct dp_hdr h =
			  {
			      .magic = DP_WIRE_MAGIC,
			      .version = 1,
			      .type = DP_PKT_DATA,
			      .flags = DP_F_LAST | DP_F_PAYLOAD_CRC,
			      .payload_len = 0x1234,
			      .epoch = 0x12345678,
			      .link = 7,
			      .seq_base_delta = 9,
			      .pkt_seq = 0x1122334455667788,
			      .msg_id = 0xa1a2a3a4,
			      .msg_offset = 0xb1b2b3b4,
			      .msg_len = 0xc1c2c3c4,
			      .tx_time_ns = 0xd1d2d3d4,
			      .payload_crc32c = 0xe1e2e3e4,
			  },
		      back;
	uint8_t out[DP_HDR_BYTES];
	uint32_t crc = dp_crc32c_portable(0, want, 44);

	(void)state;
	dp_hdr_store(out, &h);
	assert_memory_equal(out, want, 44);
	assert_int_equal(out[44] | out[45] << 8 | out[46] << 16 | (uint32_t)out[47] << 24, crc);
	assert_int_equal(dp_hdr_load(out, DP_HDR_BYTES, &back), DP_HDR_OK);
	h.hdr_crc32c = crc;
	assert_memory_equal(&back, &h, sizeof(h));
}

static void header_damage(void **state)
{
	struct dp_hdr h = {.magic = DP_WIRE_MAGIC, .version = 1, .type = DP_PKT_ACK, .pkt_seq = 42}, back;
	uint8_t out[DP_HDR_BYTES];

	(void)state;
	dp_hdr_store(out, &h);
	for (size_t len = 0; len < DP_HDR_BYTES; len++)
		assert_int_equal(dp_hdr_load(out, len, &back), DP_HDR_SHORT);
	for (uint32_t bit = 0; bit < 8 * DP_HDR_BYTES; bit++) {
		out[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(dp_hdr_load(out, DP_HDR_BYTES, &back), bit < 16 ? DP_HDR_MAGIC : DP_HDR_CRC);
		out[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(dp_hdr_load(out, DP_HDR_BYTES, &back), DP_HDR_OK);
}

static void hello_round_trip(void **state)
{
	struct dp_hello h, back;
	uint8_t out[DP_HELLO_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(h); i++)
		((uint8_t *)&h)[i] = (uint8_t)(i + 1);
	dp_hello_store(out, &h);
	dp_hello_load(out, &back);
	assert_memory_equal(&back, &h, sizeof(h));
	assert_memory_equal(out, &h, sizeof(h)); /* little-endian host: the struct is the layout */
}

static void ack_round_trip(void **state)
{
	struct dp_ack a, back;
	uint8_t out[DP_ACK_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(a); i++)
		((uint8_t *)&a)[i] = (uint8_t)(i + 1);
	dp_ack_store(out, &a);
	dp_ack_load(out, &back);
	assert_memory_equal(&back, &a, sizeof(a));
	assert_memory_equal(out, &a, sizeof(a));
}

static void chunks(void **state)
{
	(void)state;
	assert_int_equal(dp_chunk_bytes(9000), 8896);
	assert_int_equal(dp_chunk_bytes(3498), 3392);
	assert_int_equal(dp_chunk_bytes(1500), 1408);
	assert_int_equal(dp_chunk_bytes(DP_MTU_MIN), DP_CHUNK_MIN);
	for (uint32_t mtu = DP_MTU_MIN; mtu <= DP_MTU_MAX; mtu++) {
		assert_int_equal(dp_chunk_bytes(mtu) % 64, 0);
		assert_true(dp_chunk_bytes(mtu) + DP_HDR_BYTES + DP_IP_UDP_BYTES + DP_SEAL_BYTES <= mtu);
		assert_true(dp_chunk_bytes(mtu) <= UINT16_MAX);
	}
}

static void counters_described(void **state)
{
	(void)state;
	for (int i = 0; i < DP_COUNTER_COUNT; i++) {
		const struct dp_counter_info *c = &dp_counter_infos[i];

		assert_true(strcmp(c->kind, "counter") == 0 || strcmp(c->kind, "gauge") == 0);
		assert_true(strlen(c->unit) > 0 && strlen(c->help) > 0);
		for (int k = 0; k < i; k++)
			assert_string_not_equal(c->name, dp_counter_infos[k].name);
	}
	assert_string_equal(dp_counter_infos[DP_COUNTER_drop_epoch].name, "drop_epoch");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(header_bytes),     cmocka_unit_test(header_damage),
	    cmocka_unit_test(hello_round_trip), cmocka_unit_test(ack_round_trip),
	    cmocka_unit_test(chunks),           cmocka_unit_test(counters_described),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
