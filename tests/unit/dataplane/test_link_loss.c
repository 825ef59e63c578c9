/* SPDX-License-Identifier: BSD-3-Clause */
/* What is concluded from an ACK and from its absence, and when: on a clock that the test turns. */
#include <stdio.h>

#include "tests/unit/dataplane/link_pair.h"

#define RTT (20 * US)

static struct pair pr;
static uint8_t data[100000];

/* One exchange with a round trip of RTT; after several, SRTT is RTT and RTTVAR small. */
static void exchange(void)
{
	struct dp_tx_msg t;

	pair_send(&pr, 0, data, 100);
	pair_pump(&pr, 0);
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 1);
	pair_expect(&pr, 1, data, 100);
	pair_pump(&pr, 1);
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 0);
	assert_true(dp_link_tx_done(pr.l[0], &t));
}

static void up_with_rtt(void)
{
	pair_defaults(&pr);
	pair_up(&pr);
	for (int i = 0; i < 100; i++)
		exchange();
	assert_in_range(dp_link_srtt_ns(pr.l[0]), RTT - RTT / 50, RTT + RTT / 50);
	assert_true(pair_count(&pr, 0, DP_COUNTER_rttvar_ns) < RTT / 20);
}

/* Turns the clock to when side 0 wants it, and returns what it then sends (0: nothing). */
static uint8_t next_sent(uint64_t *at_out)
{
	uint8_t type = 0;

	pr.now_ns = dp_link_deadline_ns(pr.l[0], pr.now_ns);
	*at_out = pr.now_ns;
	pair_drop(&pr, 1);
	if (pair_pump(&pr, 0) > 0)
		type = pair_peek(&pr, 1, 0).type;
	return type;
}

static void tail_probe_then_doubling_timeouts(void **state)
{
	uint64_t sent, at, before, gap = 0;

	(void)state;
	up_with_rtt();
	pair_send(&pr, 0, data, 100);
	sent = pr.now_ns;
	pair_pump(&pr, 0);
	assert_int_equal(next_sent(&at), DP_PKT_PROBE); /* 2 x SRTT + ack delay */
	assert_in_range(at - sent, 2 * RTT + 10 * US - US, 2 * RTT + 10 * US + US);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_tail_probes), 1);
	before = at;
	for (uint64_t want = 200 * US, i = 0; i < 7; i++, want *= 2) { /* RTO: the minimum, doubling */
		assert_int_equal(next_sent(&at), DP_PKT_PROBE);
		gap = at - before;
		assert_in_range(gap, want, want + US);
		before = at;
	}
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_rtos), 7);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_tx_data), 101); /* timers send no data */
	pair_fini(&pr);
}

static void timeouts_never_exceed_50_ms(void **state)
{
	uint64_t at, before = 0;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[0].dead_silence_ns = 100000 * MS;
	pair_up(&pr);
	pair_send(&pr, 0, data, 100);
	pair_pump(&pr, 0);
	for (int i = 0; i < 300; i++) { /* more probes than the window has numbers */
		assert_int_not_equal(next_sent(&at), 0);
		assert_true(before == 0 || at - before <= 50 * MS);
		before = at;
	}
	assert_int_equal(dp_link_state(pr.l[0]), DP_LINK_ESTABLISHED);
	pair_drop(&pr, 1);
	pair_run(&pr, pr.now_ns + 200 * MS);
	pair_expect(&pr, 1, data, 100);
	pair_fini(&pr);
}

static void lost_tail_costs_one_probe(void **state)
{
	uint64_t sent, at;

	(void)state;
	up_with_rtt();
	pair_send(&pr, 0, data, 100);
	sent = pr.now_ns;
	pair_pump(&pr, 0);
	pair_drop(&pr, 1);
	assert_int_equal(next_sent(&at), DP_PKT_PROBE);
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 1);
	pair_pump(&pr, 1);
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 0);
	assert_int_equal(pair_pump(&pr, 0), 1);
	assert_true((pair_peek(&pr, 1, 0).flags & DP_F_RETRANSMIT) != 0);
	pair_deliver(&pr, 1);
	pair_expect(&pr, 1, data, 100);
	assert_true(pr.now_ns - sent <= 3 * RTT + 12 * US);
	pair_fini(&pr);
}

/* Two later packets prove nothing yet (they may have overtaken), three do; else time does. */
static void reordering_is_tolerated(void **state)
{
	struct pair_pkt late;

	(void)state;
	up_with_rtt();
	pair_send(&pr, 0, data, 3 * 1408);
	pair_pump(&pr, 0);
	late = pr.queue[1][0];
	pr.now_ns += RTT / 2;
	pair_deliver_one(&pr, 1, 1);
	pair_deliver_one(&pr, 1, 1);
	pr.n[1] = 0;
	pair_pump(&pr, 1);
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 0);
	assert_int_equal(pair_pump(&pr, 0), 0);
	assert_in_range(dp_link_deadline_ns(pr.l[0], pr.now_ns), pr.now_ns,
			pr.now_ns + RTT / 2); /* SRTT/4 of grace */
	pr.queue[1][0] = late;
	pr.n[1] = 1;
	pair_deliver(&pr, 1);
	pair_pump(&pr, 1);
	pair_deliver(&pr, 0);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_losses), 0);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 0);
	pair_expect(&pr, 1, data, 3 * 1408);

	pair_send(&pr, 0, data, 3 * 1408);
	pair_pump(&pr, 0);
	free(pr.queue[1][0].data);
	pr.queue[1][0] = pr.queue[1][1];
	pr.queue[1][1] = pr.queue[1][2];
	pr.n[1] = 2;
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 1);
	pair_pump(&pr, 1);
	pr.now_ns += RTT / 2;
	pair_deliver(&pr, 0);
	assert_int_equal(pair_pump(&pr, 0), 0);
	pr.now_ns += RTT / 2; /* it did not come: lost by time */
	assert_int_equal(pair_pump(&pr, 0), 1);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 1);
	pair_deliver(&pr, 1);
	pair_expect(&pr, 1, data, 3 * 1408);
	pair_fini(&pr);
}

/* A retransmission that was not needed is reported by the peer, and makes the sender more patient. */
static void spurious_retransmissions_teach(void **state)
{
	struct pair_pkt late;

	(void)state;
	up_with_rtt();
	for (int round = 0; round < 2; round++) {
		pair_send(&pr, 0, data, 5 * 1408);
		pair_pump(&pr, 0);
		late = pr.queue[1][0];
		for (int i = 0; i < 4; i++)
			pair_deliver_one(&pr, 1, 1);
		pr.n[1] = 0;
		pair_pump(&pr, 1);
		pair_deliver(&pr, 0);
		pair_pump(&pr, 0); /* the first time: 4 later ones, so it is sent again */
		assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 1);
		memmove(&pr.queue[1][1], &pr.queue[1][0], pr.n[1] * sizeof(late));
		pr.queue[1][0] = late; /* but it comes, and first */
		pr.n[1]++;
		pair_deliver(&pr, 1);
		pair_expect(&pr, 1, data, 5 * 1408);
		pair_pump(&pr, 1);
		pair_deliver(&pr, 0);
		assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits_spurious), 1);
	}
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_rx_dup_chunks), 1);
	pair_fini(&pr);
}

static void duplicates_are_not_retransmissions(void **state)
{
	(void)state;
	up_with_rtt();
	pair_send(&pr, 0, data, 3000);
	pair_pump(&pr, 0);
	for (int i = 0; i < 3; i++)
		pair_inject(&pr, 1, pr.queue[1][0].data, pr.queue[1][0].len);
	pair_deliver(&pr, 1);
	pair_settle(&pr);
	pair_expect(&pr, 1, data, 3000);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_rx_dup_packets), 3);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_rx_dup_chunks), 0);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits_spurious), 0);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 101);
	pair_fini(&pr);
}

/* Every ACK lost but the last: it says all. */
static void lost_acks_do_no_harm(void **state)
{
	struct dp_tx_msg t;

	(void)state;
	up_with_rtt();
	for (int i = 0; i < 8; i++) {
		pair_send(&pr, 0, data + i, 5000);
		pair_pump(&pr, 0);
		pair_deliver(&pr, 1);
		pair_expect(&pr, 1, data + i, 5000);
		if (i < 7)
			pair_drop(&pr, 0);
		pair_pump(&pr, 1);
		if (i < 7)
			pair_drop(&pr, 0);
	}
	pair_deliver(&pr, 0);
	for (int i = 0; i < 8; i++)
		assert_true(dp_link_tx_done(pr.l[0], &t) && !t.failed);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 0);
	pair_fini(&pr);
}

static void forged_acks_are_dropped(void **state)
{
	struct dp_hdr h;
	struct dp_ack a;
	uint8_t pkt[DP_HDR_BYTES + DP_ACK_BYTES];

	(void)state;
	up_with_rtt();
	pair_send(&pr, 0, data, 100);
	pair_pump(&pr, 0);
	pair_deliver(&pr, 1);
	pair_pump(&pr, 1);
	h = pair_peek(&pr, 0, 0);
	assert_int_equal(h.type, DP_PKT_ACK);
	dp_ack_load(pr.queue[0][0].data + DP_HDR_BYTES, &a);
	for (int kind = 0; kind < 3; kind++) {
		struct dp_ack bad = a;

		if (kind == 0)
			bad.cum++;
		else
			bad.bitmap[kind == 1 ? 0 : 3] = 1ull << (kind == 1 ? 0 : 63);
		dp_ack_store(pkt + DP_HDR_BYTES, &bad);
		h.payload_crc32c = dp_crc32c(0, pkt + DP_HDR_BYTES, DP_ACK_BYTES);
		dp_hdr_store(pkt, &h);
		pair_inject(&pr, 0, pkt, sizeof(pkt));
	}
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_drop_ack), 3);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 100);
	pair_deliver(&pr, 0);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_acked), 101);
	pair_fini(&pr);
}

/* A peer that is scheduled every 5 ms only: no data is sent twice, and the RTO learns. */
static void a_slow_peer_is_not_flooded(void **state)
{
	(void)state;
	up_with_rtt();
	for (int turn = 0; turn < 50; turn++) {
		uint64_t end = pr.now_ns + 5 * MS;
		struct dp_tx_msg t;

		pair_send(&pr, 0, data, 20000);
		while (pr.now_ns < end) {
			uint64_t next;

			pair_pump(&pr, 0);
			next = dp_link_deadline_ns(pr.l[0], pr.now_ns);
			pr.now_ns = next < end ? next : end;
		}
		pair_deliver(&pr, 1);
		pair_expect(&pr, 1, data, 20000);
		pair_pump(&pr, 1);
		pair_deliver(&pr, 0);
		assert_true(dp_link_tx_done(pr.l[0], &t));
	}
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 0);
	assert_true(pair_count(&pr, 0, DP_COUNTER_rtos) < 100);
	assert_true(pair_count(&pr, 0, DP_COUNTER_rto_ns) > 4 * MS);
	pair_fini(&pr);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tail_probe_then_doubling_timeouts),
	    cmocka_unit_test(timeouts_never_exceed_50_ms),
	    cmocka_unit_test(lost_tail_costs_one_probe),
	    cmocka_unit_test(reordering_is_tolerated),
	    cmocka_unit_test(spurious_retransmissions_teach),
	    cmocka_unit_test(duplicates_are_not_retransmissions),
	    cmocka_unit_test(lost_acks_do_no_harm),
	    cmocka_unit_test(forged_acks_are_dropped),
	    cmocka_unit_test(a_slow_peer_is_not_flooded),
	};

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
