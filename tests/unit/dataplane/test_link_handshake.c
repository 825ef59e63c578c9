/* SPDX-License-Identifier: BSD-3-Clause */
/* Who may talk to whom: start orders, refusals, restarts, old packets, RESET, death. */
#include <errno.h>
#include <stdio.h>

#include "tests/unit/dataplane/link_pair.h"

static struct pair pr;

static void configuration_errors(void **state)
{
	struct dp_link *l;
	struct ps_err err;

	(void)state;
#define REFUSES(field, value, text)                                                                          \
	do {                                                                                                 \
		pair_defaults(&pr);                                                                          \
		pr.cfg[0].field = value;                                                                     \
		assert_int_equal(dp_link_create(&pr.cfg[0], 1, 1, 0, &l, &err), -EINVAL);                    \
		assert_null(l);                                                                              \
		assert_non_null(strstr(err.msg, text));                                                      \
	} while (0)
	REFUSES(buf_free, NULL, "buf_free");
	REFUSES(side, 2, "side is 2");
	REFUSES(mtu, 575, "mtu is 575, expected 576 to 65535");
	REFUSES(mtu, 65536, "mtu is 65536");
	REFUSES(max_msg_bytes, 0, "max_msg_bytes is 0");
	REFUSES(max_msg_bytes, DP_LINK_MAX_MSG_BYTES + 1, "max_msg_bytes is 1073741825");
	REFUSES(rx_slots, 0, "rx_slots is 0, expected 1 to 16");
	REFUSES(rx_slots, 17, "rx_slots is 17");
	REFUSES(window_bytes, 1000, "window_bytes is 1000, expected at least one chunk of 1408");
	REFUSES(rx_slot_mem, (uint8_t *)64, "receive slots of 0 bytes");
}

static void assert_same_epoch(void)
{
	struct dp_link_event a = pair_event(&pr, 0, DP_LINK_EV_UP), b = pair_event(&pr, 1, DP_LINK_EV_UP);

	assert_int_equal(a.epoch, b.epoch);
	assert_int_not_equal(a.epoch, 0);
	pair_send(&pr, 0, "to east", 8);
	pair_send(&pr, 1, "to west", 8);
	pair_run(&pr, pr.now_ns + 2 * MS);
	pair_expect(&pr, 1, "to east", 8);
	pair_expect(&pr, 0, "to west", 8);
}

static void either_starts_first(void **state)
{
	(void)state;
	for (int first = 0; first < 2; first++) {
		pair_defaults(&pr);
		pair_start(&pr, first, 10);
		pair_run(&pr, pr.now_ns + 500 * MS);
		assert_int_equal(dp_link_state(pr.l[first]), DP_LINK_HELLO);
		pair_start(&pr, 1 - first, 20);
		pair_run(&pr, pr.now_ns + 1 * MS);
		assert_same_epoch();
		pair_fini(&pr);
	}
}

static void both_at_once_and_each_hello_lost(void **state)
{
	(void)state;
	/* Loses the k-th packet of the handshake, whichever it is; retransmission must mend it. */
	for (uint32_t lose = 0; lose < 8; lose++) {
		uint32_t seen = 0;

		pair_defaults(&pr);
		pair_start(&pr, 0, 10);
		pair_start(&pr, 1, 20);
		for (int turn = 0; turn < 200; turn++) {
			for (int i = 0; i < 2; i++) {
				pair_pump(&pr, i);
				for (uint32_t k = 0; k < pr.n[1 - i];)
					if (seen++ == lose) {
						free(pr.queue[1 - i][k].data);
						memmove(&pr.queue[1 - i][k], &pr.queue[1 - i][k + 1],
							(--pr.n[1 - i] - k) * sizeof(struct pair_pkt));
					} else {
						k++;
					}
				pair_deliver(&pr, 1 - i);
			}
			pr.now_ns += MS / 4;
		}
		assert_same_epoch();
		pair_fini(&pr);
	}
}

static void hello_backs_off(void **state)
{
	uint64_t last = 0, gaps[12], n = 0;

	(void)state;
	pair_defaults(&pr);
	pair_start(&pr, 0, 10);
	while (n < 12) {
		if (pair_pump(&pr, 0) == 1) {
			assert_int_equal(pair_peek(&pr, 1, 0).type, DP_PKT_HELLO);
			pair_drop(&pr, 1);
			if (last != 0)
				gaps[n++] = pr.now_ns - last;
			last = pr.now_ns;
		}
		pr.now_ns = dp_link_deadline_ns(pr.l[0], pr.now_ns);
	}
	for (uint64_t i = 0, want = 1 * MS; i < n; i++, want = 2 * want < 50 * MS ? 2 * want : 50 * MS) {
		assert_true(gaps[i] >= want);
		assert_true(gaps[i] <= want + want / 8);
	}
	pair_fini(&pr);
}

static void refuses(const char *what, const char *west_text, const char *east_text)
{
	struct dp_link_event ev;

	pair_start(&pr, 0, 10);
	pair_start(&pr, 1, 20);
	pair_run(&pr, pr.now_ns + 1000 * MS);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(dp_link_state(pr.l[i]), DP_LINK_REFUSED);
		ev = pair_event(&pr, i, DP_LINK_EV_REFUSED);
		assert_non_null(strstr(ev.text, what));
		assert_non_null(strstr(ev.text, west_text));
		assert_non_null(strstr(ev.text, east_text));
		assert_false(dp_link_event(pr.l[i], &ev)); /* said once, though tried again and again */
		assert_int_equal(pair_count(&pr, i, DP_COUNTER_refusals), 1);
		assert_int_equal(dp_link_send(pr.l[i],
					      &(struct dp_tx_msg){.data = (const uint8_t *)"x", .len = 1},
					      pr.now_ns),
				 -ENOTCONN);
	}
}

static void refusals_name_both_values(void **state)
{
	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].model_hash = 0x3333;
	refuses("model hash", "0x0000000000002222 at west", "0x0000000000003333 at east");
	/* Terminal until the peer changes: he comes again with the right model. */
	dp_link_destroy(pr.l[1]);
	pr.cfg[1].model_hash = 0x2222;
	pair_start(&pr, 1, 30);
	pair_run(&pr, pr.now_ns + 300 * MS);
	assert_same_epoch();
	pair_fini(&pr);

	pair_defaults(&pr);
	pr.cfg[0].topology_hash = 0x9;
	refuses("topology hash", "0x0000000000000009 at west", "0x0000000000001111 at east");
	pair_fini(&pr);

	pair_defaults(&pr);
	pr.cfg[0].max_msg_bytes = 64;
	refuses("max_msg_bytes", "64 at west", "100000 at east");
	pair_fini(&pr);

	pair_defaults(&pr);
	pr.cfg[0].side = 1;
	refuses("side (must differ)", "1 at west", "1 at east");
	pair_fini(&pr);
}

/* The same packet as a later version would send it: only its header's first and last fields are common. */
static void other_version(struct pair_pkt *q)
{
	uint32_t crc;

	q->data[2] = 2;
	crc = dp_crc32c(0, q->data, 44);
	memcpy(q->data + 44, &crc, 4);
}

static void refuses_another_version(void **state)
{
	struct dp_link_event ev;

	(void)state;
	pair_defaults(&pr);
	pair_start(&pr, 0, 10);
	pair_start(&pr, 1, 20);
	pair_pump(&pr, 0);
	pair_pump(&pr, 1);
	other_version(&pr.queue[1][0]);
	pair_deliver(&pr, 1);
	assert_int_equal(dp_link_state(pr.l[1]), DP_LINK_REFUSED);
	ev = pair_event(&pr, 1, DP_LINK_EV_REFUSED);
	assert_non_null(strstr(ev.text, "protocol version is 1 at east, 2 at west"));
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_drop_version), 1);
	/* It was not verified, so a sound handshake still goes through. */
	pair_run(&pr, pr.now_ns + 300 * MS);
	assert_same_epoch();
	pair_fini(&pr);
}

static void restart_ends_the_epoch(void **state)
{
	static uint8_t big[50000];
	struct dp_link_event old, ev;
	struct dp_tx_msg t;
	struct dp_msg held;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	pair_send(&pr, 1, "kept", 5);
	pair_settle(&pr);
	assert_true(dp_link_recv(pr.l[0], &held)); /* held over the change */
	pair_send(&pr, 1, "not collected", 14);
	pair_settle(&pr);
	pair_run(&pr, pr.now_ns + 1 * MS);
	for (int i = 0; i < 3; i++)
		pair_send(&pr, 0, big, sizeof(big));
	pair_pump(&pr, 0);
	pair_drop(&pr, 1);
	dp_link_destroy(pr.l[1]);
	pair_start(&pr, 1, 0xcccc);
	pair_run(&pr, pr.now_ns + 5 * MS);
	old = pair_event(&pr, 0, DP_LINK_EV_PEER_RESTARTED);
	assert_non_null(strstr(old.text, "000000000000cccc"));
	assert_non_null(strstr(old.text, "000000000000bbbb"));
	ev = pair_event(&pr, 0, DP_LINK_EV_UP);
	assert_int_not_equal(ev.epoch, old.epoch);
	for (int i = 0; i < 3; i++) {
		assert_true(dp_link_tx_done(pr.l[0], &t));
		assert_true(t.failed);
		assert_ptr_equal(t.data, big);
	}
	assert_false(dp_link_tx_done(pr.l[0], &t));
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_msgs_dropped), 1);
	/* The slot that is held over counts against the new epoch's credit until it is released. */
	assert_string_equal((const char *)held.data, "kept");
	for (uint32_t i = 0; i < 8; i++)
		pair_send(&pr, 1, "new", 4);
	pair_run(&pr, pr.now_ns + 5 * MS);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_msgs_acked), 7);
	assert_string_equal((const char *)held.data, "kept");
	dp_link_release(pr.l[0], &held);
	pair_run(&pr, pr.now_ns + 5 * MS);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_msgs_acked), 8);
	for (uint32_t i = 0; i < 8; i++)
		pair_expect(&pr, 0, "new", 4);
	pair_fini(&pr);
}

/* A HELLO and a HELLO_ACK of the peer's former life, kept by the network. */
static void old_hellos_change_nothing(void **state)
{
	uint8_t old[8][256];
	uint32_t len[8], n = 0;
	struct dp_link_event ev;

	(void)state;
	pair_defaults(&pr);
	pair_start(&pr, 0, 10);
	pair_start(&pr, 1, 20);
	for (int turn = 0; turn < 3; turn++) {
		pair_pump(&pr, 1);
		for (uint32_t i = 0; i < pr.n[0] && n < 8; i++)
			if (pair_peek(&pr, 0, i).type <= DP_PKT_HELLO_ACK) {
				len[n] = pr.queue[0][i].len;
				memcpy(old[n++], pr.queue[0][i].data, pr.queue[0][i].len);
			}
		pair_deliver(&pr, 0);
		pair_pump(&pr, 0);
		pair_deliver(&pr, 1);
	}
	assert_true(n >= 2);
	pair_settle(&pr);
	pair_event(&pr, 0, DP_LINK_EV_UP);
	dp_link_destroy(pr.l[1]);
	pair_start(&pr, 1, 30);
	pair_run(&pr, pr.now_ns + 5 * MS);
	pair_event(&pr, 0, DP_LINK_EV_PEER_RESTARTED);
	pair_event(&pr, 0, DP_LINK_EV_UP);
	for (uint32_t i = 0; i < n; i++) {
		pair_inject(&pr, 0, old[i], len[i]);
		pair_run(&pr, pr.now_ns + 20 * MS);
		assert_int_equal(dp_link_state(pr.l[0]), DP_LINK_ESTABLISHED);
		assert_false(dp_link_event(pr.l[0], &ev));
	}
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_epochs), 2);
	pair_fini(&pr);
}

static void resets_are_limited_and_harmless(void **state)
{
	struct dp_hdr h = {.magic = DP_WIRE_MAGIC,
			   .version = 1,
			   .type = DP_PKT_KEEPALIVE,
			   .link = 3,
			   .epoch = 0x12345678,
			   .flags = DP_F_SIDE1};
	uint8_t stray[DP_HDR_BYTES];
	struct dp_link_event ev;
	uint32_t resets = 0;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	dp_hdr_store(stray, &h);
	for (int i = 0; i < 100; i++) { /* over 5 ms: at most one a millisecond */
		pair_inject(&pr, 0, stray, sizeof(stray));
		pair_pump(&pr, 0);
		for (uint32_t k = 0; k < pr.n[1]; k++) {
			struct dp_hdr r = pair_peek(&pr, 1, k);

			resets += r.type == DP_PKT_RESET;
			assert_true(r.type != DP_PKT_RESET || r.epoch == 0x12345678);
		}
		pair_drop(&pr, 1);
		pr.now_ns += 50 * US;
	}
	assert_int_equal(resets, 5);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_drop_epoch), 100);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_tx_resets_limited), 95);

	/* A RESET of another epoch: nothing. Of ours: asks the peer who he is, and nothing else. */
	h.type = DP_PKT_RESET;
	dp_hdr_store(stray, &h);
	pair_inject(&pr, 0, stray, sizeof(stray));
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_rx_resets), 0);
	pair_send(&pr, 0, "x", 2);
	pair_pump(&pr, 0);
	h.epoch = pair_peek(&pr, 1, 0).epoch;
	dp_hdr_store(stray, &h);
	pair_inject(&pr, 0, stray, sizeof(stray));
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_rx_resets), 1);
	pair_pump(&pr, 0);
	assert_int_equal(pair_peek(&pr, 1, pr.n[1] - 1).type, DP_PKT_HELLO);
	pair_run(&pr, pr.now_ns + 5 * MS);
	assert_false(dp_link_event(pr.l[0], &ev));
	pair_expect(&pr, 1, "x", 2);
	pair_fini(&pr);
}

static void silence_is_death_and_the_peer_may_return(void **state)
{
	struct dp_tx_msg t;
	uint64_t start, hellos;

	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	pair_run(&pr, pr.now_ns + 1000 * MS); /* idle, but alive: keepalives */
	assert_true(pair_count(&pr, 0, DP_COUNTER_tx_keepalives) +
			pair_count(&pr, 1, DP_COUNTER_tx_keepalives) >=
		    20);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_peer_deaths), 0);
	pair_send(&pr, 0, "lost", 5);
	start = pr.now_ns;
	while (dp_link_state(pr.l[0]) == DP_LINK_ESTABLISHED) { /* the cable is out */
		pair_pump(&pr, 0);
		pair_drop(&pr, 1);
		assert_true(pr.now_ns <= start + 101 * MS);
		if (dp_link_state(pr.l[0]) == DP_LINK_ESTABLISHED)
			pr.now_ns = dp_link_deadline_ns(pr.l[0], pr.now_ns);
	}
	assert_true(pr.now_ns >= start + 50 * MS);
	assert_int_equal(dp_link_state(pr.l[0]), DP_LINK_DEAD);
	pair_event(&pr, 0, DP_LINK_EV_PEER_DEAD);
	assert_true(dp_link_tx_done(pr.l[0], &t) && t.failed);
	hellos = pair_count(&pr, 0, DP_COUNTER_tx_hellos);
	pr.l[1] = (dp_link_destroy(pr.l[1]), NULL);
	pair_run(&pr, pr.now_ns + 1000 * MS);
	hellos = pair_count(&pr, 0, DP_COUNTER_tx_hellos) - hellos;
	assert_true(hellos >= 8 && hellos <= 11); /* slowly */
	pair_start(&pr, 1, 40);
	pair_run(&pr, pr.now_ns + 5 * MS);
	assert_same_epoch();
	pair_fini(&pr);
}

/* One end gives up, the other has not noticed: both must come to the same new epoch. */
static void one_sided_death(void **state)
{
	struct dp_link_event ev;

	(void)state;
	pair_defaults(&pr);
	pr.cfg[1].dead_silence_ns = 10000 * MS;
	pair_up(&pr);
	for (int i = 0; i < 500; i++) {
		pair_pump(&pr, 0);
		pair_drop(&pr, 1);
		pr.now_ns += MS / 2;
	}
	assert_int_equal(dp_link_state(pr.l[0]), DP_LINK_DEAD);
	assert_int_equal(dp_link_state(pr.l[1]), DP_LINK_ESTABLISHED);
	pair_event(&pr, 0, DP_LINK_EV_PEER_DEAD);
	pair_run(&pr, pr.now_ns + 200 * MS);
	ev = pair_event(&pr, 1, DP_LINK_EV_PEER_RESTARTED);
	assert_non_null(strstr(ev.text, "had given the epoch up"));
	assert_same_epoch();
	pair_fini(&pr);
}

/* 20 ms without a processor, and 300 ms of our own absence: neither is a dead peer. */
static void a_pause_is_not_death(void **state)
{
	(void)state;
	pair_defaults(&pr);
	pair_up(&pr);
	pair_run(&pr, pr.now_ns + 10 * MS);
	pair_send(&pr, 0, "x", 2);
	for (uint64_t end = pr.now_ns + 20 * MS; pr.now_ns < end;
	     pr.now_ns = dp_link_deadline_ns(pr.l[0], pr.now_ns))
		pair_pump(&pr, 0);
	assert_int_equal(dp_link_state(pr.l[0]), DP_LINK_ESTABLISHED);
	assert_true(pair_count(&pr, 0, DP_COUNTER_rtos) >= 4);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_retransmits), 0);
	pair_run(&pr, pr.now_ns + 5 * MS);
	pair_expect(&pr, 1, "x", 2);
	pr.now_ns += 300 * MS; /* both were stopped */
	pair_run(&pr, pr.now_ns + 5 * MS);
	assert_int_equal(pair_count(&pr, 0, DP_COUNTER_peer_deaths), 0);
	assert_int_equal(pair_count(&pr, 1, DP_COUNTER_peer_deaths), 0);
	pair_fini(&pr);
}

static void smaller_mtu_and_either_crc(void **state)
{
	static uint8_t data[5000];

	(void)state;
	for (int i = 0; i < 2; i++) {
		pair_defaults(&pr);
		pr.cfg[i].mtu = 9000;
		pr.cfg[i].payload_crc = false;
		pair_up(&pr);
		pair_send(&pr, i, data, sizeof(data));
		pair_pump(&pr, i);
		assert_int_equal(pr.n[1 - i], 4);
		assert_int_equal(pair_peek(&pr, 1 - i, 0).payload_len, 1408);
		assert_true((pair_peek(&pr, 1 - i, 0).flags & DP_F_PAYLOAD_CRC) != 0);
		pair_fini(&pr);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(configuration_errors),
	    cmocka_unit_test(either_starts_first),
	    cmocka_unit_test(both_at_once_and_each_hello_lost),
	    cmocka_unit_test(hello_backs_off),
	    cmocka_unit_test(refusals_name_both_values),
	    cmocka_unit_test(refuses_another_version),
	    cmocka_unit_test(restart_ends_the_epoch),
	    cmocka_unit_test(old_hellos_change_nothing),
	    cmocka_unit_test(resets_are_limited_and_harmless),
	    cmocka_unit_test(silence_is_death_and_the_peer_may_return),
	    cmocka_unit_test(one_sided_death),
	    cmocka_unit_test(a_pause_is_not_death),
	    cmocka_unit_test(smaller_mtu_and_either_crc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
