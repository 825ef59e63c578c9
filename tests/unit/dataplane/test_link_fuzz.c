/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes that no peer of ours would send: random ones, damaged ones, and packets
 * with right CRCs and wrong fields. Whatever comes, each buffer is given back
 * once, nothing outside the packet is read (the sanitizer sees to it, as each
 * buffer has exactly the packet's size), and every drop has its counter.
 */
#include <stdio.h>

#include "tests/unit/dataplane/link_pair.h"

static struct pair pr;
static uint8_t data[60000];
static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	uint64_t z = (rng_state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (uint32_t)((z ^ (z >> 31)) % n);
}

static uint64_t drops(int side)
{
	uint64_t sum = 0;

	for (int c = DP_COUNTER_drop_short; c <= DP_COUNTER_drop_credit; c++)
		sum += pair_count(&pr, side, (enum dp_counter)c);
	return sum;
}

/* Takes and releases what arrived, so that a forger can't fill all slots for good. */
static void drain(int side)
{
	struct dp_msg m;
	struct dp_tx_msg t;
	struct dp_link_event ev;

	while (dp_link_recv(pr.l[side], &m)) {
		assert_in_range(m.len, 1, pr.cfg[side].max_msg_bytes);
		for (uint32_t i = 0; i < m.len; i += 64)
			(void)*(const volatile uint8_t *)&m.data[i];
		dp_link_release(pr.l[side], &m);
	}
	while (dp_link_tx_done(pr.l[side], &t))
		;
	while (dp_link_event(pr.l[side], &ev))
		assert_non_null(memchr(ev.text, 0, sizeof(ev.text)));
}

static void random_bytes(void **state)
{
	static uint8_t junk[2000];

	(void)state;
	rng_state = 1;
	pair_defaults(&pr);
	pair_up(&pr);
	for (int i = 0; i < 30000; i++) {
		uint32_t len = rnd(3) == 0 ? rnd(80) : rnd(sizeof(junk));
		uint64_t before = drops(0);

		for (uint32_t k = 0; k < len; k++)
			junk[k] = (uint8_t)rnd(256);
		if (len > 4 && rnd(2) == 0)
			memcpy(junk, "\x50\x53\x01", 3);
		pair_inject(&pr, 0, junk, len);
		assert_int_equal(drops(0), before + 1);
	}
	assert_int_equal(dp_link_state(pr.l[0]), DP_LINK_ESTABLISHED);
	pair_fini(&pr);
}

/* A value near a bound more often than not. */
static uint64_t odd_value(uint64_t was)
{
	static const uint64_t bounds[] = {
	    0,     1,     63,    64,    255,      256,        448,        1407,       1408,      1409,
	    59999, 60000, 60001, 65535, 1u << 30, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX};

	switch (rnd(4)) {
	case 0:
		return was + rnd(5) - 2;
	case 1:
		return was ^ 1ull << rnd(64);
	case 2:
		return bounds[rnd(sizeof(bounds) / sizeof(bounds[0]))];
	default:
		return (uint64_t)rnd(UINT32_MAX) << 32 | rnd(UINT32_MAX);
	}
}

/* Changes fields and puts the CRCs right again: what a hostile or faulty peer could send. */
static void forge(uint8_t *pkt, uint32_t *len)
{
	struct dp_hdr h;

	if (dp_hdr_load(pkt, *len, &h) != DP_HDR_OK)
		return;
	for (uint32_t n = 1 + rnd(2); n > 0; n--)
		switch (rnd(13)) {
		case 0:
			h.type = (uint8_t)rnd(9);
			break;
		case 1:
			h.flags = (uint16_t)odd_value(h.flags);
			break;
		case 2:
			h.payload_len = (uint16_t)odd_value(h.payload_len);
			break;
		case 3:
			h.epoch = (uint32_t)odd_value(h.epoch);
			break;
		case 4:
			h.link = (uint16_t)odd_value(h.link);
			break;
		case 5:
			h.seq_base_delta = (uint16_t)odd_value(h.seq_base_delta);
			break;
		case 6:
			h.pkt_seq = odd_value(h.pkt_seq);
			break;
		case 7:
			h.msg_id = (uint32_t)odd_value(h.msg_id);
			break;
		case 8:
			h.msg_offset = (uint32_t)odd_value(h.msg_offset);
			break;
		case 9:
			h.msg_len = (uint32_t)odd_value(h.msg_len);
			break;
		case 10:
			h.tx_time_ns = (uint32_t)odd_value(h.tx_time_ns);
			break;
		case 11:
			if (*len > DP_HDR_BYTES)
				pkt[DP_HDR_BYTES + rnd(*len - DP_HDR_BYTES)] ^= (uint8_t)(1 + rnd(255));
			break;
		default:
			*len = rnd(2) == 0 ? DP_HDR_BYTES + rnd(*len - DP_HDR_BYTES + 1) : *len;
			h.payload_len = (uint16_t)(*len - DP_HDR_BYTES);
			break;
		}
	if ((h.flags & DP_F_PAYLOAD_CRC) != 0 && rnd(20) != 0)
		h.payload_crc32c = dp_crc32c(0, pkt + DP_HDR_BYTES, *len - DP_HDR_BYTES);
	dp_hdr_store(pkt, &h);
}

static void fuzz_packet(int side, const struct pair_pkt *q, uint32_t mode)
{
	static uint8_t pkt[20000];
	uint32_t len = q->len;

	memcpy(pkt, q->data, len);
	if (mode == 0) {
		for (uint32_t n = 1 + rnd(4); n > 0; n--)
			pkt[rnd(len)] ^= (uint8_t)(1u << rnd(8));
	} else if (mode == 1) {
		len = rnd(len + 1);
	} else {
		forge(pkt, &len);
	}
	pair_inject(&pr, side, pkt, len);
}

static void traffic(uint64_t seed, uint32_t turns, bool forged)
{
	rng_state = seed;
	pair_defaults(&pr);
	for (int i = 0; i < 2; i++) {
		pr.cfg[i].max_msg_bytes = 60000;
		pr.cfg[i].allow_in_place = rnd(2) == 0;
		pr.cfg[i].payload_crc = !forged || rnd(2) == 0;
		pr.cfg[i].rx_slots = 1 + rnd(16);
		pair_start(&pr, i, 100 + seed * 2 + (uint64_t)i);
	}
	for (uint32_t turn = 0; turn < turns; turn++) {
		for (int side = 0; side < 2; side++) {
			struct dp_tx_msg t = {.data = data,
					      .len = 1 + (rnd(4) == 0 ? rnd(60000) : rnd(1400))};

			if (rnd(3) == 0 && dp_link_send(pr.l[side], &t, pr.now_ns) == 0)
				assert_true(dp_link_state(pr.l[side]) == DP_LINK_ESTABLISHED);
			pair_pump(&pr, side);
			for (uint32_t k = 0; k < pr.n[1 - side]; k++)
				if (rnd(3) == 0)
					fuzz_packet(1 - side, &pr.queue[1 - side][k],
						    forged ? 2 + rnd(2) : rnd(2));
			pair_deliver(&pr, 1 - side);
			drain(1 - side);
			assert_true(pr.bufs_out <= pr.cfg[0].rx_slots + pr.cfg[1].rx_slots);
		}
		pr.now_ns += rnd(30) == 0 ? rnd(5 * MS) : rnd(20 * US);
	}
	pair_fini(&pr);
}

/* Damage is always noticed: the streams stay sound beside it. */
static void damaged_packets(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		traffic(seed, 500, false);
		assert_int_equal(pr.bufs_out, 0);
	}
}

/* A lying peer may break his own streams, but not us. */
static void forged_packets(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 80; seed++)
		traffic(seed, 300, true);
}

/* One packet for each reason to drop, and its counter. */
static void every_reason_counts(void **state)
{
	uint8_t good[DP_HDR_BYTES + 1408], pkt[sizeof(good)];
	struct dp_hdr h0, h;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	pair_send(&pr, 0, data, 5000);
	pair_pump(&pr, 0);
	memcpy(good, pr.queue[1][0].data, sizeof(good));
	dp_hdr_load(good, sizeof(good), &h0);
#define DROPS(counter, length, ...)                                                                          \
	do {                                                                                                 \
		uint64_t was = pair_count(&pr, 1, DP_COUNTER_##counter), all = drops(1);                     \
		memcpy(pkt, good, sizeof(pkt));                                                              \
		h = h0;                                                                                      \
		__VA_ARGS__;                                                                                 \
		dp_hdr_store(pkt, &h);                                                                       \
		pair_inject(&pr, 1, pkt, length);                                                            \
		assert_int_equal(pair_count(&pr, 1, DP_COUNTER_##counter), was + 1);                         \
		assert_int_equal(drops(1), all + 1);                                                         \
	} while (0)
	DROPS(drop_short, 47, (void)0);
	DROPS(drop_magic, sizeof(pkt), h.magic = 0x5351);
	DROPS(drop_version, sizeof(pkt), h.version = 9);
	DROPS(drop_type, sizeof(pkt), h.type = 8);
	DROPS(drop_link, sizeof(pkt), h.link = 4);
	DROPS(drop_reflected, sizeof(pkt), h.flags |= DP_F_SIDE1);
	DROPS(drop_length, sizeof(pkt) - 1, (void)0);
	DROPS(drop_length, sizeof(pkt), h.type = DP_PKT_PROBE);
	DROPS(drop_payload_crc, sizeof(pkt), h.payload_crc32c++);
	DROPS(drop_payload_crc, sizeof(pkt), h.flags &= (uint16_t)~DP_F_PAYLOAD_CRC);
	DROPS(drop_epoch, sizeof(pkt), h.epoch++);
	DROPS(drop_seq, sizeof(pkt), h.seq_base_delta = 256, h.pkt_seq = 1000);
	DROPS(drop_seq, sizeof(pkt), h.seq_base_delta = 9, h.pkt_seq = 8);
	DROPS(drop_chunk, sizeof(pkt), h.msg_offset = 64);
	DROPS(drop_chunk, sizeof(pkt), h.msg_offset = 5000);
	DROPS(drop_chunk, sizeof(pkt), h.msg_offset = 4 * 1408); /* on the grid, but behind the end */
	DROPS(drop_chunk, sizeof(pkt), h.msg_len = 0);
	DROPS(drop_chunk, sizeof(pkt), h.msg_len = 100001);
	DROPS(drop_chunk, sizeof(pkt), h.flags |= DP_F_LAST);
	DROPS(drop_credit, sizeof(pkt), h.msg_id = 8);
	pair_inject(&pr, 1, good, sizeof(good));
	DROPS(drop_msg_len, sizeof(pkt), h.pkt_seq++, h.msg_len = 6000, h.msg_offset = 1408);
	good[20] ^= 1;
	pair_inject(&pr, 1, good, sizeof(good));
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_drop_hdr_crc), 1);
	pair_deliver(&pr, 1);
	pair_expect(&pr, 1, data, 5000);
	pair_fini(&pr);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_reason_counts),
	    cmocka_unit_test(random_bytes),
	    cmocka_unit_test(damaged_packets),
	    cmocka_unit_test(forged_packets),
	};

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
