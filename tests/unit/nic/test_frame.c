/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames: built as RFC 791 and 768 say, taken apart with every field checked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nic/frame.h"

#define MY_IP   0x0a000002u
#define MY_PORT 7000u

static const struct nic_frame_addr addr = {
    .src_mac = {2, 0, 10, 0, 0, 1},
    .dst_mac = {2, 0, 10, 0, 0, 2},
    .src_ip = 0x0a000001,
    .dst_ip = MY_IP,
    .src_port = 7001,
    .dst_port = MY_PORT,
};

static uint32_t build(uint8_t *frame, uint32_t payload_len)
{
	struct nic_frame_template t;

	nic_frame_template_init(&t, &addr);
	nic_frame_build(frame, &t, payload_len);
	for (uint32_t i = 0; i < payload_len; i++)
		frame[NIC_FRAME_BYTES + i] = (uint8_t)(i * 3);
	return NIC_FRAME_BYTES + payload_len;
}

static enum nic_frame_verdict parse(const uint8_t *frame, uint32_t len, struct nic_frame *f)
{
	/* A block of exactly `len` bytes, so that a sanitizer sees any read past it. */
	uint8_t *copy = malloc(len != 0 ? len : 1);
	enum nic_frame_verdict v;

	assert_non_null(copy);
	memcpy(copy, frame, len);
	v = nic_frame_parse(copy, len, MY_IP, MY_PORT, f);
	free(copy);
	return v;
}

/* RFC 1071, written another way than the code under test. */
static uint16_t reference_checksum(const uint8_t *p, uint32_t n)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += i % 2 == 0 ? (uint64_t)p[i] * 256u : p[i];
	return (uint16_t)(0xffffu - sum % 0xffffu);
}

static void fix_checksum(uint8_t *frame)
{
	uint8_t *ip = frame + NIC_ETH_BYTES;
	uint16_t c;

	ip[10] = ip[11] = 0;
	c = reference_checksum(ip, NIC_IP_BYTES);
	ip[10] = (uint8_t)(c >> 8);
	ip[11] = (uint8_t)c;
}

static void test_known_bytes(void **state)
{
	/* Written out by hand from the RFCs; checksum by reference_checksum. */
	static const uint8_t want[NIC_FRAME_BYTES] = {
	    2,    0,    10, 0,  0, 2, 2,    0, 10, 0,  0,    1,    0x08, 0x00,              /* Ethernet */
	    0x45, 0,    0,  32, 0, 0, 0x40, 0, 64, 17,                                      /* IPv4 */
	    0x26, 0xcb, 10, 0,  0, 1, 10,   0, 0,  2,  0x1b, 0x59, 0x1b, 0x58, 0, 12, 0, 0, /* UDP */
	};
	uint8_t frame[NIC_FRAME_BYTES + 4];

	(void)state;
	build(frame, 4);
	assert_memory_equal(frame, want, sizeof(want));
}

static void test_round_trip(void **state)
{
	static const uint32_t sizes[] = {0, 1, 47, 48, 1408, 8944, 8972, 65507};
	uint8_t *frame = malloc(NIC_FRAME_BYTES + 65507);
	struct nic_frame f;

	(void)state;
	assert_non_null(frame);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint32_t len = build(frame, sizes[i]);

		assert_int_equal(reference_checksum(frame + NIC_ETH_BYTES, NIC_IP_BYTES),
				 0xffff); /* one's complement zero */
		assert_int_equal(parse(frame, len, &f), NIC_FRAME_OK);
		assert_int_equal(f.payload_len, sizes[i]);
		assert_int_equal(f.payload_offset, NIC_FRAME_BYTES);
		assert_int_equal(f.src_ip, addr.src_ip);
		assert_int_equal(f.src_port, addr.src_port);
	}
	free(frame);
}

static void test_padding_is_cut(void **state)
{
	uint8_t frame[64] = {0};
	struct nic_frame f;

	(void)state;
	build(frame, 4);
	assert_int_equal(parse(frame, 60, &f), NIC_FRAME_OK);
	assert_int_equal(f.payload_len, 4);
}

static void test_every_truncation(void **state)
{
	uint8_t frame[NIC_FRAME_BYTES + 100];
	uint32_t len = build(frame, 100);
	struct nic_frame f;

	(void)state;
	for (uint32_t n = 0; n < len; n++)
		assert_int_equal(parse(frame, n, &f), NIC_FRAME_MALFORMED);
}

/* One wrong field at a time, with a right checksum where the field is in the IP header. */
static void test_wrong_fields(void **state)
{
	static const struct {
		uint32_t at;
		uint8_t value;
		bool fix;
		enum nic_frame_verdict want;
	} cases[] = {
	    {12, 0x81, false, NIC_FRAME_NOT_OURS}, /* a VLAN tag */
	    {14, 0x65, true, NIC_FRAME_MALFORMED}, /* version 6 */
	    {14, 0x46, true, NIC_FRAME_MALFORMED}, /* options */
	    {14, 0x44, true, NIC_FRAME_MALFORMED}, /* header too short */
	    {14, 0x40, true, NIC_FRAME_MALFORMED},
	    {16, 0xff, true, NIC_FRAME_MALFORMED},  /* total length past the frame */
	    {17, 19, true, NIC_FRAME_MALFORMED},    /* total length under the header's */
	    {20, 0x20, true, NIC_FRAME_MALFORMED},  /* more fragments */
	    {21, 0x01, true, NIC_FRAME_MALFORMED},  /* a fragment's offset */
	    {23, 6, true, NIC_FRAME_NOT_OURS},      /* TCP */
	    {24, 0x00, false, NIC_FRAME_MALFORMED}, /* the checksum itself */
	    {30, 11, true, NIC_FRAME_NOT_OURS},     /* another host's address */
	    {36, 0xff, false, NIC_FRAME_NOT_OURS},  /* another port */
	    {39, 7, false, NIC_FRAME_MALFORMED},    /* UDP length under its header's */
	    {38, 0x10, false, NIC_FRAME_MALFORMED}, /* UDP length past the packet */
	    {39, 107, false, NIC_FRAME_MALFORMED},  /* UDP length short of the packet */
	};
	uint8_t frame[NIC_FRAME_BYTES + 100];
	struct nic_frame f;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t len = build(frame, 100);

		frame[cases[i].at] = cases[i].value;
		if (cases[i].fix)
			fix_checksum(frame);
		if (parse(frame, len, &f) != cases[i].want)
			fail_msg("case %zu: byte %u = %u", i, cases[i].at, cases[i].value);
	}
}

/* No bit of the IP header can flip unseen; what flips in the UDP ports is another's packet. */
static void test_every_bit_of_the_ip_header(void **state)
{
	uint8_t frame[NIC_FRAME_BYTES + 10];
	uint32_t len = build(frame, 10);
	struct nic_frame f;

	(void)state;
	for (uint32_t bit = 0; bit < NIC_IP_BYTES * 8; bit++) {
		frame[NIC_ETH_BYTES + bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(parse(frame, len, &f), NIC_FRAME_MALFORMED);
		frame[NIC_ETH_BYTES + bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(parse(frame, len, &f), NIC_FRAME_OK);
}

/* Random bytes behind a plausible start: nothing but a verdict, and payloads inside the frame. */
static void test_noise(void **state)
{
	uint32_t seed = 1, n_ok = 0;
	uint8_t frame[200];
	struct nic_frame f;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint32_t len = build(frame, 100);

		for (int k = 0; k < 3; k++) {
			seed = seed * 1664525u + 1013904223u;
			frame[12 + (seed >> 8) % 32] = (uint8_t)(seed >> 24);
		}
		if (i % 2 == 0)
			fix_checksum(frame);
		len -= (seed >> 4) % 64;
		if (nic_frame_parse(frame, len, MY_IP, MY_PORT, &f) == NIC_FRAME_OK) {
			n_ok++;
			assert_true(f.payload_offset + f.payload_len <= len);
		}
	}
	assert_true(n_ok > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_known_bytes),    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_padding_is_cut), cmocka_unit_test(test_every_truncation),
	    cmocka_unit_test(test_wrong_fields),   cmocka_unit_test(test_every_bit_of_the_ip_header),
	    cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
