/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/loopback.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BURST 8u

static struct dp_loopback *make(struct dp_loopback_cfg cfg)
{
	struct dp_loopback *lb = NULL;
	struct ps_err err = {{0}};

	if (dp_loopback_create(&cfg, &lb, &err) != 0)
		fail_msg("%s", err.msg);
	return lb;
}

/* A packet whose bytes follow from its number. */
static struct dp_tx_pkt packet(uint32_t number, uint8_t *payload, uint32_t len)
{
	struct dp_tx_pkt pkt = {.payload = payload, .payload_len = len};

	memset(pkt.hdr, (int)(number & 255), sizeof(pkt.hdr));
	memcpy(pkt.hdr, &number, sizeof(number));
	memset(payload, (int)((number * 7) & 255), len);
	return pkt;
}

/* The packet's number, or -1 where its bytes do not belong to it. */
static int64_t number_of(const struct dp_rx_pkt *pkt)
{
	uint32_t number, i;

	memcpy(&number, pkt->data, sizeof(number));
	for (i = sizeof(number); i < pkt->len; i++) {
		uint32_t want = i < DP_HDR_BYTES ? number : number * 7;

		if (pkt->data[i] != (uint8_t)want)
			return -1;
	}
	return number;
}

static void test_refuses_bad_sizes(void **state)
{
	static const struct dp_loopback_cfg bad[] = {
	    {.mtu = 127, .n_frames = 8},         {.mtu = 65536, .n_frames = 8},
	    {.mtu = 1500, .n_frames = 0},        {.mtu = 1500, .n_frames = 12},
	    {.mtu = 1500, .n_frames = 1u << 20}, {.mtu = 1500, .n_frames = 8, .lose_ppm = 1000001},
	};
	struct dp_loopback *lb;
	struct ps_err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(dp_loopback_create(&bad[i], &lb, &err), -EINVAL);
}

static void test_carries_both_ways(void **state)
{
	struct dp_loopback *lb = make((struct dp_loopback_cfg){.mtu = 9000, .n_frames = 4});
	struct dp_port_counters c;
	struct dp_rx_pkt rx[BURST];
	struct dp_tx_pkt tx;
	uint8_t payload[9000 - 28 - DP_HDR_BYTES];
	uint32_t side;

	(void)state;
	for (side = 0; side < 2; side++) {
		struct dp_port *a = dp_loopback_port(lb, side), *b = dp_loopback_port(lb, 1 - side);

		assert_int_equal(dp_port_rx(b, rx, BURST), 0);
		tx = packet(side + 40, payload, sizeof(payload));
		assert_int_equal(dp_port_tx(a, &tx, 1), 1);
		tx = packet(side + 50, payload, 0);
		assert_int_equal(dp_port_tx(a, &tx, 1), 1);
		assert_int_equal(dp_port_rx(b, rx, BURST), 2);
		assert_int_equal(number_of(&rx[0]), side + 40);
		assert_int_equal(number_of(&rx[1]), side + 50);
		assert_int_equal(rx[0].len, 9000 - 28);
		assert_int_equal(rx[1].len, DP_HDR_BYTES);
		assert_int_equal((uintptr_t)rx[0].data % 8, 0);
		dp_port_buf_free(b, rx[0].buf);
		dp_port_buf_free(b, rx[1].buf);
		assert_int_equal(dp_loopback_free_frames(lb, side), 4);
		a->ops->counters(a, &c);
		assert_int_equal(c.tx_packets, 2);
		assert_int_equal(c.copied_bytes, sizeof(payload));
	}
	dp_loopback_destroy(lb);
}

/* Frames are bounded, may come back in any order, and a full direction takes what it can. */
static void test_full_and_out_of_order(void **state)
{
	struct dp_loopback *lb = make((struct dp_loopback_cfg){.mtu = 256, .n_frames = 4});
	struct dp_port *a = dp_loopback_port(lb, 0), *b = dp_loopback_port(lb, 1);
	struct dp_tx_pkt tx[6];
	struct dp_rx_pkt rx[BURST];
	struct dp_port_counters c;
	uint8_t payload[6][100];
	uint32_t i;

	(void)state;
	for (i = 0; i < 6; i++)
		tx[i] = packet(i, payload[i], 100);
	assert_int_equal(dp_port_tx(a, tx, 6), 4);
	assert_int_equal(dp_port_tx(a, tx + 4, 2), 0);
	assert_int_equal(dp_port_rx(b, rx, BURST), 4);
	assert_int_equal(dp_port_tx(a, tx + 4, 2), 0); /* held, not free */
	dp_port_buf_free(b, rx[2].buf);
	assert_int_equal(dp_port_tx(a, tx + 4, 2), 1);
	assert_int_equal(number_of(&rx[0]), 0);
	assert_int_equal(number_of(&rx[1]), 1);
	assert_int_equal(number_of(&rx[3]), 3); /* untouched by the reuse of number 2's frame */
	assert_int_equal(dp_port_rx(b, rx + 4, 1), 1);
	assert_int_equal(number_of(&rx[4]), 4);
	a->ops->counters(a, &c);
	assert_int_equal(c.tx_ring_full, 4);
	dp_loopback_destroy(lb);
}

static uint64_t lost_pattern(struct dp_loopback_cfg cfg, uint32_t n)
{
	struct dp_loopback *lb = make(cfg);
	struct dp_port *a = dp_loopback_port(lb, 0), *b = dp_loopback_port(lb, 1);
	struct dp_rx_pkt rx;
	struct dp_tx_pkt tx;
	uint8_t payload[8];
	uint64_t got = 0, lost;
	uint32_t i;

	assert_true(n <= 64);
	for (i = 0; i < n; i++) {
		tx = packet(i, payload, sizeof(payload));
		assert_int_equal(dp_port_tx(a, &tx, 1), 1);
		if (dp_port_rx(b, &rx, 1) == 1) {
			got |= 1ull << number_of(&rx);
			dp_port_buf_free(b, rx.buf);
		}
	}
	lost = dp_loopback_lost(lb, 0);
	assert_int_equal(lost + (uint64_t)__builtin_popcountll(got), n);
	dp_loopback_destroy(lb);
	return got;
}

static void test_loses_repeatably(void **state)
{
	struct dp_loopback_cfg every = {.mtu = 256, .n_frames = 4, .lose_every = 4};
	struct dp_loopback_cfg third = {.mtu = 256, .n_frames = 4, .lose_ppm = 333333, .seed = 7};
	uint64_t got = lost_pattern(third, 64);
	int n = __builtin_popcountll(got);

	(void)state;
	assert_true(lost_pattern(every, 8) == 0x77);
	assert_true(got == lost_pattern(third, 64));
	assert_true(n > 32 && n < 56); /* 42.7 expected */
	third.seed = 8;
	assert_true(got != lost_pattern(third, 64));
}

#define STRESS 100000u

static void pump_out(struct dp_port *p, uint32_t n)
{
	uint8_t payload[64];
	struct dp_tx_pkt tx;
	uint32_t i;

	for (i = 0; i < n; i++) {
		tx = packet(i, payload, i % 64);
		while (dp_port_tx(p, &tx, 1) == 0)
			sched_yield();
	}
}

/* Receives n packets in order; gives every other one back late. */
static bool pump_in(struct dp_port *p, uint32_t n)
{
	struct dp_rx_pkt rx[BURST];
	void *late = NULL;
	uint32_t next = 0, got, i;

	while (next < n) {
		got = dp_port_rx(p, rx, BURST);
		if (got == 0)
			sched_yield();
		for (i = 0; i < got; i++, next++) {
			if (number_of(&rx[i]) != next || rx[i].len != DP_HDR_BYTES + next % 64)
				return false;
			if (late != NULL)
				dp_port_buf_free(p, late);
			late = rx[i].buf;
		}
	}
	dp_port_buf_free(p, late);
	return true;
}

static void *sender(void *arg)
{
	pump_out(arg, STRESS);
	return NULL;
}

static void test_two_threads(void **state)
{
	struct dp_loopback *lb = make((struct dp_loopback_cfg){.mtu = 256, .n_frames = 16});
	pthread_t t;

	(void)state;
	assert_int_equal(pthread_create(&t, NULL, sender, dp_loopback_port(lb, 0)), 0);
	assert_true(pump_in(dp_loopback_port(lb, 1), STRESS));
	pthread_join(t, NULL);
	assert_int_equal(dp_loopback_free_frames(lb, 0), 16);
	dp_loopback_destroy(lb);
}

static void test_two_processes(void **state)
{
	struct dp_loopback *lb = make((struct dp_loopback_cfg){.mtu = 256, .n_frames = 16});
	pid_t pid = fork();
	int status = -1;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		pump_out(dp_loopback_port(lb, 1), STRESS);
		_exit(pump_in(dp_loopback_port(lb, 1), STRESS) ? 0 : 1);
	}
	assert_true(pump_in(dp_loopback_port(lb, 0), STRESS));
	pump_out(dp_loopback_port(lb, 0), STRESS);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	dp_loopback_destroy(lb);
}

static void test_rings_the_peers_bell(void **state)
{
	struct dp_loopback *lb = make((struct dp_loopback_cfg){.mtu = 256, .n_frames = 4});
	struct dp_port *a = dp_loopback_port(lb, 0);
	struct dp_bell *bell = dp_bell_create();

	(void)state;
	assert_non_null(bell);
	a->ops->ring_peer(a, 0); /* no bell yet: nothing happens */
	dp_loopback_set_peer_bell(lb, 0, bell);
	dp_bell_arm(bell, false);
	a->ops->ring_peer(a, 0);
	dp_bell_wait(bell, NULL, 0, 60000000000ull); /* returns at once: it was rung */
	assert_true(strstr(a->ops->describe(a), "loopback") != NULL);
	assert_true(a->ops->link_up(a));
	assert_int_equal(a->ops->wait_fd(a), -1);
	dp_port_close(a);
	dp_bell_destroy(bell);
	dp_loopback_destroy(lb);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refuses_bad_sizes),     cmocka_unit_test(test_carries_both_ways),
	    cmocka_unit_test(test_full_and_out_of_order), cmocka_unit_test(test_loses_repeatably),
	    cmocka_unit_test(test_two_threads),           cmocka_unit_test(test_two_processes),
	    cmocka_unit_test(test_rings_the_peers_bell),
	};

	return cmocka_run_group_tests_name("loopback", tests, NULL, NULL);
}
