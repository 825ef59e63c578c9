/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages on a sound wire: order, credit, buffers, what an ACK says and when. --bench: cost of a round trip.
 */
#include <errno.h>
#include <stdio.h>

#include "base/clock.h"
#include "tests/unit/dataplane/link_pair.h"

static struct pair pr;
static uint8_t data[100000];

static void sizes_and_order(void **state)
{
	static const uint32_t sizes[] = {1, 63, 1407, 1408, 1409, 2816, 30000, 100000};

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	for (int side = 0; side < 2; side++)
		for (uint32_t i = 0; i < 8; i++)
			pair_send(&pr, side, data + i, i < 7 ? sizes[i] : 99000);
	pair_run(&pr, pr.now_ns + 5 * MS);
	for (int side = 0; side < 2; side++)
		for (uint32_t i = 0; i < 8; i++)
			pair_expect(&pr, side, data + i, i < 7 ? sizes[i] : 99000);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 0);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_losses), 0);
	pair_fini(&pr);
}

static void chunks_in_any_order(void **state)
{
	(void)state;
	pair_defaults(&pr);
	pr.cfg[0].payload_crc = pr.cfg[1].payload_crc = false;
	pair_up(&pr);
	pair_send(&pr, 0, data, 14080);
	pair_send(&pr, 0, data + 5, 3000);
	pair_pump(&pr, 0);
	assert_int_equal(pr.n[1], 13);
	while (pr.n[1] > 0)
		pair_deliver_one(&pr, 1, pr.n[1] - 1); /* backwards */
	pair_expect(&pr, 1, data, 14080);
	pair_expect(&pr, 1, data + 5, 3000);
	pair_settle(&pr);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 2);
	pair_fini(&pr);
}

static void send_errors(void **state)
{
	struct dp_tx_msg t = {.data = data, .len = 10};

	(void)state;
	pair_defaults(&pr);
	pair_start(&pr, 0, 10);
	assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), -ENOTCONN);
	dp_link_destroy(pr.l[0]);
	pair_up(&pr);
	t.len = 0;
	assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), -EMSGSIZE);
	t.len = 100001;
	assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), -EMSGSIZE);
	t.len = 10;
	for (uint32_t i = 0; i < DP_LINK_MAX_INFLIGHT; i++)
		assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), 0);
	assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), -EAGAIN);
	pair_settle(&pr);
	assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), -EAGAIN); /* until they are taken back */
	assert_true(dp_link_tx_done(pr.l[0], &t));
	assert_false(t.failed);
	assert_int_equal(dp_link_send(pr.l[0], &t, pr.now_ns), 0);
	pair_fini(&pr);
}

/* A message's ACK waits for three more, or for 10 us: in a ping-pong the reply is what matters. */
static void single_messages_wait_for_their_ack(void **state)
{
	uint64_t acks;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[0].ack_msgs = pr.cfg[1].ack_msgs = 0;
	pair_up(&pr);
	pair_run(&pr, pr.now_ns + 1 * MS);
	acks = pair_count(&pr, 1, DP_COUNTER_tx_acks);
	for (int i = 0; i < 3; i++) {
		pair_send(&pr, 0, data, 100);
		pair_settle(&pr);
		assert_int_equal(pair_count(&pr, 1, DP_COUNTER_tx_acks), acks);
	}
	pair_send(&pr, 0, data, 100);
	pair_settle(&pr);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_tx_acks), acks + 1);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 4);
	pair_send(&pr, 0, data, 100);
	pair_settle(&pr);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_tx_acks), acks + 1);
	pair_run(&pr, pr.now_ns + 11000);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_tx_acks), acks + 2);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 5);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_tail_probes), 0);
	pair_fini(&pr);
}

static void slots_are_credit(void **state)
{
	struct dp_msg m[8];

	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].rx_slots = 3;
	pair_up(&pr);
	for (int i = 0; i < 8; i++)
		pair_send(&pr, 0, data + i, 2000);
	pair_run(&pr, pr.now_ns + 300 * MS); /* a slow receiver is not a dead one */
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 3);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_peer_deaths), 0);
	assert_true(pair_count(&pr, 0, DP_COUNTER_credit_probes) >= 5);
	assert_true(pair_count(&pr, 0, DP_COUNTER_credit_probes) <= 15); /* with back-off */
	for (int i = 0; i < 3; i++)
		assert_true(dp_link_recv(pr.l[1], &m[i]));
	assert_false(dp_link_recv(pr.l[1], &m[3]));
	dp_link_release(pr.l[1], &m[2]); /* in another order than received */
	pair_settle(&pr);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 4);
	assert_memory_equal(m[0].data, data, 2000);
	assert_memory_equal(m[1].data, data + 1, 2000);
	assert_true(dp_link_recv(pr.l[1], &m[3]));
	assert_memory_equal(m[3].data, data + 3, 2000);
	dp_link_release(pr.l[1], &m[0]);
	dp_link_release(pr.l[1], &m[3]);
	dp_link_release(pr.l[1], &m[1]);
	pair_settle(&pr);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 7);
	for (int i = 4; i < 8; i++) {
		pair_expect(&pr, 1, data + i, 2000);
		pair_settle(&pr);
	}
	pair_fini(&pr);
}

static void window_is_credit(void **state)
{
	uint32_t n_data = 0;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].window_bytes = 10 * 1408;
	pair_up(&pr);
	pair_send(&pr, 0, data, 100000);
	pair_pump(&pr, 0);
	assert_int_equal(pr.n[1], 10);
	for (int i = 0; i < 3; i++)
		pair_deliver_one(&pr, 1, 0);
	pr.now_ns += 11 * US;
	pair_pump(&pr, 1);
	pair_deliver(&pr, 0);
	pair_pump(&pr, 0);
	for (uint32_t i = 0; i < pr.n[1]; i++)
		n_data += pair_peek(&pr, 1, i).type == DP_PKT_DATA;
	assert_int_equal(n_data, 10); /* 7 on the way, 3 more allowed */
	pair_run(&pr, pr.now_ns + 2 * MS);
	pair_expect(&pr, 1, data, 100000);
	pair_fini(&pr);
}

static void beyond_credit_is_dropped(void **state)
{
	struct dp_hdr h;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].rx_slots = 2;
	pair_up(&pr);
	pair_send(&pr, 0, data, 100);
	pair_pump(&pr, 0);
	h = pair_peek(&pr, 1, 0);
	h.msg_id = 2; /* credit is 2: ids 0 and 1 */
	dp_hdr_store(pr.queue[1][0].data, &h);
	pair_deliver(&pr, 1);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_drop_credit), 1);
	pair_run(&pr, pr.now_ns + 10 * MS); /* and was not acknowledged: comes again, as it should be */
	pair_expect(&pr, 1, data, 100);
	pair_fini(&pr);
}

static void in_place_buffers(void **state)
{
	struct dp_msg m;
	uint32_t freed;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].allow_in_place = true;
	pr.cfg[1].rx_slots = 2;
	pair_up(&pr);
	assert_int_equal(pr.bufs_out, 0);
	pair_send(&pr, 0, data, 1408);
	pair_send(&pr, 0, data, 1409); /* two chunks: copied */
	pair_send(&pr, 0, data, 100);
	pair_settle(&pr);
	assert_int_equal(pr.bufs_out, 1); /* two slots, one of them in place */
	assert_true(dp_link_recv(pr.l[1], &m));
	assert_non_null(m.buf);
	assert_int_equal((uintptr_t)m.data % 8, 0);
	assert_memory_equal(m.data, data, 1408);
	freed = pr.bufs_freed;
	dp_link_release(pr.l[1], &m);
	assert_int_equal(pr.bufs_freed, freed + 1);
	assert_true(dp_link_recv(pr.l[1], &m));
	assert_null(m.buf);
	assert_int_equal((uintptr_t)m.data % 64, 0);
	dp_link_release(pr.l[1], &m);
	pair_settle(&pr);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_rx_in_place), 2);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_rx_copied_bytes), 1409);
	/* The third is never collected: destroying the link gives its buffer back. */
	assert_int_equal(pr.bufs_out, 1);
	pair_fini(&pr);
}

static void misaligned_is_copied(void **state)
{
	uint8_t *copy = malloc(2000);
	struct dp_rx_pkt pkt;
	struct dp_msg m;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].allow_in_place = true;
	pair_up(&pr);
	pair_send(&pr, 0, data, 500);
	pair_pump(&pr, 0);
	pkt = (struct dp_rx_pkt){.data = copy + 1, .len = pr.queue[1][0].len, .buf = copy};
	memcpy(copy + 1, pr.queue[1][0].data, pkt.len);
	pair_drop(&pr, 1);
	pr.bufs_out++;
	dp_link_rx(pr.l[1], &pkt, pr.now_ns);
	assert_true(dp_link_recv(pr.l[1], &m));
	assert_null(m.buf);
	assert_memory_equal(m.data, data, 500);
	dp_link_release(pr.l[1], &m);
	pair_fini(&pr);
}

static void slots_of_the_caller(void **state)
{
	static _Alignas(64) uint8_t slots[2][2048];
	struct dp_msg m;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[0].max_msg_bytes = pr.cfg[1].max_msg_bytes = 2000;
	pr.cfg[1].rx_slots = 2;
	pr.cfg[1].rx_slot_mem = slots[0];
	pr.cfg[1].rx_slot_stride = sizeof(slots[0]);
	pair_up(&pr);
	for (int i = 0; i < 6; i++) {
		pair_send(&pr, 0, data + i, 2000);
		pair_settle(&pr);
		assert_true(dp_link_recv(pr.l[1], &m));
		assert_true(m.data == slots[0] || m.data == slots[1]);
		assert_memory_equal(m.data, data + i, 2000);
		dp_link_release(pr.l[1], &m);
	}
	pair_fini(&pr);
}

/* ACKs at the 16th packet, at a message's end, at a gap, else after 10 us; never before data of the same
 * call. */
static void when_acks_go(void **state)
{
	struct dp_hdr h;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	pair_send(&pr, 0, data, 40 * 1408);
	pair_pump(&pr, 0);
	assert_int_equal(pr.n[1], 40);
	for (int i = 0; i < 15; i++) {
		pair_deliver_one(&pr, 1, 0);
		assert_int_equal(pair_pump(&pr, 1), 0);
	}
	pair_deliver_one(&pr, 1, 0);
	assert_int_equal(pair_pump(&pr, 1), 1);
	assert_int_equal(pair_peek(&pr, 0, 0).type, DP_PKT_ACK);
	pair_deliver_one(&pr, 1, 0);
	assert_int_equal(pair_pump(&pr, 1), 0);
	assert_int_equal(dp_link_deadline_ns(pr.l[1], pr.now_ns), pr.now_ns + 10 * US);
	pr.now_ns += 10 * US;
	assert_int_equal(pair_pump(&pr, 1), 1);
	pair_deliver_one(&pr, 1, 1); /* leaves a gap */
	assert_int_equal(pair_pump(&pr, 1), 1);
	pair_deliver_one(&pr, 1, 0); /* fills it */
	assert_int_equal(pair_pump(&pr, 1), 1);
	pair_deliver(&pr, 1);
	pair_drop(&pr, 0);
	pair_send(&pr, 1, data, 100); /* a reply goes out before the ACK of what it answers */
	assert_int_equal(pair_pump(&pr, 1), 2);
	h = pair_peek(&pr, 0, 0);
	assert_int_equal(h.type, DP_PKT_DATA);
	h = pair_peek(&pr, 0, 1);
	assert_int_equal(h.type, DP_PKT_ACK);
	pair_fini(&pr);
}

static void ack_contents(void **state)
{
	struct dp_hdr h;
	struct dp_ack a;
	uint64_t base;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	pair_send(&pr, 0, data, 10 * 1408);
	pair_pump(&pr, 0);
	base = pair_peek(&pr, 1, 0).pkt_seq;
	free(pr.queue[1][2].data); /* the third and the fifth are lost */
	memmove(&pr.queue[1][2], &pr.queue[1][3], 7 * sizeof(struct pair_pkt));
	free(pr.queue[1][3].data);
	memmove(&pr.queue[1][3], &pr.queue[1][4], 5 * sizeof(struct pair_pkt));
	pr.n[1] = 8;
	pair_deliver(&pr, 1);
	pr.now_ns += 3 * US;
	pair_pump(&pr, 1);
	h = pair_peek(&pr, 0, 0);
	dp_ack_load(pr.queue[0][0].data + DP_HDR_BYTES, &a);
	assert_int_equal(h.payload_crc32c, dp_crc32c(0, pr.queue[0][0].data + DP_HDR_BYTES, DP_ACK_BYTES));
	assert_int_equal(a.cum, base + 2);
	assert_int_equal(a.bitmap[0], 0xfau); /* cum + 1, + 3 .. + 7 */
	assert_int_equal(a.bitmap[1] | a.bitmap[2] | a.bitmap[3], 0);
	assert_int_equal(a.msg_credit, 8);
	assert_int_equal(a.byte_credit, 8 * 1408 + 512 * 1024);
	assert_true((h.flags & DP_F_ECHO) != 0);
	assert_int_equal(a.echo_tx_time_ns, (uint32_t)(pr.now_ns - 3 * US));
	assert_int_equal(a.ack_delay_ns, 3 * US);
	pair_deliver(&pr, 0);
	assert_int_equal(pair_pump(&pr, 0), 2); /* both gaps at once, and nothing else */
	assert_int_equal(pair_peek(&pr, 1, 0).msg_offset, 2 * 1408);
	assert_int_equal(pair_peek(&pr, 1, 1).msg_offset, 4 * 1408);
	assert_true((pair_peek(&pr, 1, 0).flags & DP_F_RETRANSMIT) != 0);
	assert_int_equal(pair_peek(&pr, 1, 0).pkt_seq, base + 10);
	pair_deliver(&pr, 1);
	pair_expect(&pr, 1, data, 14080);
	pair_fini(&pr);
}

static void events_are_bounded(void **state)
{
	struct dp_link_event ev;
	uint32_t n = 0;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	for (uint64_t i = 0; i < 10; i++) {
		dp_link_destroy(pr.l[1]);
		pair_start(&pr, 1, 0x100 + i);
		pair_run(&pr, pr.now_ns + 5 * MS);
	}
	while (dp_link_event(pr.l[0], &ev))
		n++;
	assert_int_equal(n, 8);
	assert_int_equal(ev.kind, DP_LINK_EV_UP); /* the newest are kept */
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_events_lost), 12);
	pair_fini(&pr);
}

/* Ids and serials wrap at 2^32; 70,000 messages at least pass 16-bit bounds and the tables' edges many times.
 */
static void many_messages(void **state)
{
	struct dp_tx_msg t;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	for (uint32_t i = 0; i < 70000; i++) {
		uint32_t len = 1 + i % 100;

		pair_send(&pr, 0, data + i % 1000, len);
		pair_pump(&pr, 0);
		pair_deliver(&pr, 1);
		pair_expect(&pr, 1, data + i % 1000, len);
		pair_pump(&pr, 1);
		pair_deliver(&pr, 0);
		assert_true(dp_link_tx_done(pr.l[0], &t));
		pr.now_ns += 1 * US;
	}
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 0);
	pair_fini(&pr);
}

struct bench {
	struct dp_link *l[2];
	struct dp_rx_pkt q[2][64];
	uint8_t bytes[2][64][9088];
	uint32_t n[2];
};

static struct bench bench_state;
static bool bench_moves_bytes;

static void bench_free(void *ctx, void *buf)
{
	(void)ctx;
	(void)buf;
}

static void bench_move(struct bench *b, int from, uint64_t now)
{
	struct dp_tx_pkt pkts[16];
	uint32_t k = dp_link_tx(b->l[from], pkts, 16, now);

	for (uint32_t i = 0; i < k; i++) {
		uint8_t *to = b->bytes[from][i];
		struct dp_rx_pkt pkt = {.data = to, .len = DP_HDR_BYTES + pkts[i].payload_len, .buf = to};

		memcpy(to, pkts[i].hdr, DP_HDR_BYTES);
		if (bench_moves_bytes || pkts[i].payload_len < 1000)
			memcpy(to + DP_HDR_BYTES, pkts[i].payload, pkts[i].payload_len);
		dp_link_rx(b->l[1 - from], &pkt, now);
	}
}

static uint64_t bench_round(struct bench *b, uint32_t size, uint32_t rounds)
{
	uint64_t start = ps_now_ns(), now = start;

	for (uint32_t i = 0; i < rounds; i++)
		for (int side = 0; side < 2; side++) {
			struct dp_tx_msg t = {.data = data, .len = size};
			struct dp_msg m;

			now = ps_now_ns(); /* as a poll loop does, once an iteration */
			CHECK(dp_link_send(b->l[side], &t, now) == 0);
			bench_move(b, side, now);
			CHECK(dp_link_recv(b->l[1 - side], &m));
			dp_link_release(b->l[1 - side], &m);
			bench_move(b, 1 - side, now);
			CHECK(dp_link_tx_done(b->l[side], &t));
			CHECK(dp_link_deadline_ns(b->l[side], now) > now);
		}
	return ps_now_ns() - start;
}

static void bench(uint32_t size, bool crc, bool moves)
{
	struct bench *b = &bench_state;
	uint64_t best = UINT64_MAX, now = ps_now_ns();
	struct ps_err err;

	memset(b, 0, sizeof(*b));
	bench_moves_bytes = moves;
	for (int i = 0; i < 2; i++) {
		struct dp_link_cfg c = {
		    .side = (uint8_t)i,
		    .mtu = 9000,
		    .max_msg_bytes = 65536,
		    .rx_slots = 8,
		    .payload_crc = crc,
		    .allow_in_place = true,
		    .buf_free = bench_free,
		    .dead_silence_ns = 1ull << 40,
		};

		CHECK(dp_link_create(&c, (uint64_t)i + 1, 1, now, &b->l[i], &err) == 0);
	}
	for (int i = 0; i < 10; i++)
		bench_move(b, i % 2, now);
	CHECK(dp_link_state(b->l[0]) == DP_LINK_ESTABLISHED);
	for (int rep = 0; rep < 20; rep++) {
		uint64_t t = bench_round(b, size, 20000);

		best = t < best ? t : best;
	}
	printf("link, %5u B, payload crc %-3s, bytes %-9s: %6.1f ns a message one way (send, DATA, deliver, "
	       "ACK, done; best of 20)\n",
	       size, crc ? "on" : "off", moves ? "copied" : "not moved", (double)best / 40000);
	dp_link_destroy(b->l[0]);
	dp_link_destroy(b->l[1]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes_and_order),
	    cmocka_unit_test(chunks_in_any_order),
	    cmocka_unit_test(send_errors),
	    cmocka_unit_test(single_messages_wait_for_their_ack),
	    cmocka_unit_test(slots_are_credit),
	    cmocka_unit_test(window_is_credit),
	    cmocka_unit_test(beyond_credit_is_dropped),
	    cmocka_unit_test(in_place_buffers),
	    cmocka_unit_test(misaligned_is_copied),
	    cmocka_unit_test(slots_of_the_caller),
	    cmocka_unit_test(when_acks_go),
	    cmocka_unit_test(ack_contents),
	    cmocka_unit_test(events_are_bounded),
	    cmocka_unit_test(many_messages),
	};

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
		bench(64, false, true);
		bench(8192, false, false);
		bench(8192, false, true);
		bench(8192, true, true);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
