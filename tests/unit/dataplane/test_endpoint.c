/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/endpoint.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "dataplane/loopback.h"

#define MAX_MSG     (1u << 20)
#define PATIENCE_NS 30000000000ull /* a test that waits longer has failed */
#define QUEUE       64u            /* messages that an endpoint takes per link before it is stepped */

/* Two endpoints joined by a loopback. */
struct pair {
	struct dp_loopback *lb;
	struct dp_bell *io_bell[2], *app_bell[2];
	struct dp_endpoint *ep[2];
	pthread_t thread[2];
	bool running[2];
	uint64_t start_ns;
};

struct pair_cfg {
	uint32_t mtu, lose_ppm;
	enum dp_idle idle;
	uint64_t dead_silence_ns;
	uint16_t link_id[2];
};

static const struct pair_cfg quiet = {.mtu = 9000, .dead_silence_ns = 10000000000ull, .link_id = {3, 3}};

static void open_endpoint(struct pair *p, const struct pair_cfg *c, uint32_t side, uint64_t incarnation)
{
	const struct dp_endpoint_link link = {
	    .port = dp_loopback_port(p->lb, side),
	    .cfg =
		{
		    .link_id = c->link_id[side],
		    .side = (uint8_t)side,
		    .mtu = c->mtu,
		    .max_msg_bytes = MAX_MSG,
		    .rx_slots = 4,
		    .payload_crc = true,
		    .allow_in_place = true,
		    .topology_hash = 1,
		    .model_hash = 2,
		    .dead_silence_ns = c->dead_silence_ns,
		    .self_name = side == 0 ? "zero" : "one",
		    .peer_name = side == 0 ? "one" : "zero",
		},
	};
	const struct dp_endpoint_cfg cfg = {
	    .links = &link,
	    .n_links = 1,
	    .idle = c->idle,
	    .io_bell = p->io_bell[side],
	    .app_bell = p->app_bell[side],
	    .incarnation = incarnation,
	    .seed = 11 + side,
	};
	struct ps_err err = {{0}};

	if (dp_endpoint_create(&cfg, &p->ep[side], &err) != 0)
		fail_msg("%s", err.msg);
}

static void open_pair(struct pair *p, const struct pair_cfg *c)
{
	const struct dp_loopback_cfg lb = {
	    .mtu = c->mtu, .n_frames = 512, .lose_ppm = c->lose_ppm, .seed = 5};
	struct ps_err err = {{0}};
	uint32_t i;

	memset(p, 0, sizeof(*p));
	p->start_ns = ps_now_ns();
	if (dp_loopback_create(&lb, &p->lb, &err) != 0)
		fail_msg("%s", err.msg);
	for (i = 0; i < 2; i++) {
		p->io_bell[i] = dp_bell_create();
		p->app_bell[i] = dp_bell_create();
		assert_non_null(p->io_bell[i]);
		assert_non_null(p->app_bell[i]);
	}
	for (i = 0; i < 2; i++) {
		dp_loopback_set_peer_bell(p->lb, i, p->io_bell[1 - i]);
		open_endpoint(p, c, i, 1000 + i);
	}
}

static void *io_thread(void *arg)
{
	dp_endpoint_run(arg);
	return NULL;
}

static void start(struct pair *p, uint32_t side)
{
	assert_int_equal(pthread_create(&p->thread[side], NULL, io_thread, p->ep[side]), 0);
	p->running[side] = true;
}

static void stop(struct pair *p, uint32_t side)
{
	if (!p->running[side])
		return;
	dp_endpoint_stop(p->ep[side]);
	pthread_join(p->thread[side], NULL);
	p->running[side] = false;
}

static void close_pair(struct pair *p)
{
	uint32_t i;

	for (i = 0; i < 2; i++)
		stop(p, i);
	for (i = 0; i < 2; i++) {
		dp_endpoint_destroy(p->ep[i]);
		dp_bell_destroy(p->io_bell[i]);
		dp_bell_destroy(p->app_bell[i]);
	}
	dp_loopback_destroy(p->lb);
}

/* True while the test may go on waiting; steps the endpoints that have no thread. */
static void wait_more(struct pair *p, const char *what)
{
	bool stepped = false;
	uint32_t i;

	if (ps_now_ns() - p->start_ns > PATIENCE_NS)
		fail_msg("gave up waiting: %s", what);
	for (i = 0; i < 2; i++) {
		if (!p->running[i] && p->ep[i] != NULL) {
			dp_endpoint_step(p->ep[i], ps_now_ns());
			stepped = true;
		}
	}
	if (!stepped)
		dp_endpoint_wait(p->ep[0], 1000000);
}

/* Waits for an event of this kind and says its epoch; other events on the way are forgotten. */
static uint32_t await_event(struct pair *p, uint32_t side, enum dp_link_event_kind kind, const char *what)
{
	struct dp_link_event ev;
	uint32_t link;

	for (;;) {
		while (dp_endpoint_event(p->ep[side], &link, &ev)) {
			assert_int_equal(link, 0);
			if (ev.kind == kind)
				return ev.epoch;
		}
		wait_more(p, what);
	}
}

static void await_up(struct pair *p)
{
	await_event(p, 0, DP_LINK_EV_UP, "side 0 up");
	await_event(p, 1, DP_LINK_EV_UP, "side 1 up");
}

/* A message's bytes depend on its sender, its number and the place in it: a chunk at a wrong place shows. */
static void fill(uint8_t *data, uint32_t len, uint32_t side, uint32_t number)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		data[i] = (uint8_t)(((i >> 3) * 2654435761u + side * 97u + number * 31u) >> ((i & 3) * 8));
}

static bool is_filled(const uint8_t *data, uint32_t len, uint32_t side, uint32_t number)
{
	uint32_t i;

	for (i = 0; i < len; i++) {
		if (data[i] !=
		    (uint8_t)(((i >> 3) * 2654435761u + side * 97u + number * 31u) >> ((i & 3) * 8)))
			return false;
	}
	return true;
}

static uint32_t size_of(uint32_t side, uint32_t number)
{
	static const uint32_t sizes[] = {1,    63,   64,    65,    1000,   8191,   8192,
					 8896, 8897, 30000, 65536, 300000, MAX_MSG};

	return sizes[(number + 5 * side) % (sizeof(sizes) / sizeof(sizes[0]))];
}

/* One side's part in a two-way exchange. */
struct talk {
	uint32_t side, n, sent, done, received;
	uint8_t *data[4]; /* of the messages in flight, by number */
};

static void talk_send(struct pair *p, struct talk *t)
{
	while (t->sent < t->n && t->sent - t->done < 4) {
		uint8_t *data = t->data[t->sent % 4];
		const struct dp_tx_msg msg = {
		    .data = data,
		    .len = size_of(t->side, t->sent),
		    .cookie = (void *)(uintptr_t)(t->sent + 1),
		};

		fill(data, msg.len, t->side, t->sent);
		assert_true(dp_endpoint_send(p->ep[t->side], 0, &msg));
		t->sent++;
	}
}

static void talk_receive(struct pair *p, struct talk *t)
{
	struct dp_tx_msg tx;
	struct dp_msg msg;
	uint32_t link;

	while (dp_endpoint_done(p->ep[t->side], &link, &tx)) {
		assert_false(tx.failed);
		assert_int_equal((uintptr_t)tx.cookie, t->done + 1);
		t->done++;
	}
	while (dp_endpoint_recv(p->ep[t->side], &link, &msg)) {
		assert_int_equal(msg.len, size_of(1 - t->side, t->received));
		assert_true(is_filled(msg.data, msg.len, 1 - t->side, t->received));
		dp_endpoint_release(p->ep[t->side], 0, &msg);
		t->received++;
	}
}

/* n messages each way, at most four of each side in flight; all must arrive in order and intact. */
static void exchange(struct pair *p, uint32_t n)
{
	struct talk t[2] = {{.side = 0, .n = n}, {.side = 1, .n = n}};
	uint32_t i, k;

	for (i = 0; i < 8; i++)
		assert_non_null(t[i / 4].data[i % 4] = malloc(MAX_MSG));
	for (;;) {
		for (i = 0; i < 2; i++) {
			talk_send(p, &t[i]);
			talk_receive(p, &t[i]);
		}
		if (t[0].done == n && t[1].done == n && t[0].received == n && t[1].received == n)
			break;
		wait_more(p, "messages both ways");
	}
	for (i = 0; i < 2; i++) {
		for (k = 0; k < 4; k++)
			free(t[i].data[k]);
	}
}

static void exchange_over(const struct pair_cfg *c, uint32_t n, bool threads)
{
	struct dp_endpoint_stats stats;
	struct pair p;
	uint32_t i;

	open_pair(&p, c);
	for (i = 0; threads && i < 2; i++)
		start(&p, i);
	await_up(&p);
	exchange(&p, n);
	assert_int_equal(dp_endpoint_link_state(p.ep[0], 0), DP_LINK_ESTABLISHED);
	dp_endpoint_stats(p.ep[0], &stats);
	assert_true(stats.busy_loops > 0 && stats.loops >= stats.busy_loops);
	if (c->lose_ppm != 0)
		assert_true(dp_loopback_lost(p.lb, 0) > 0 && dp_loopback_lost(p.lb, 1) > 0);
	close_pair(&p);
}

static void test_one_thread(void **state)
{
	(void)state;
	exchange_over(&quiet, 26, false);
}

static void test_two_threads(void **state)
{
	(void)state;
	exchange_over(&quiet, 26, true);
}

static void test_two_threads_spinning(void **state)
{
	struct pair_cfg c = quiet;

	(void)state;
	c.idle = DP_IDLE_SPIN;
	exchange_over(&c, 13, true);
}

static void test_loss(void **state)
{
	struct pair_cfg c = quiet;

	(void)state;
	c.lose_ppm = 50000;
	exchange_over(&c, 26, true);
	c.mtu = 1500;
	exchange_over(&c, 13, true);
}

/* A link whose peer is not there takes no message: each comes back failed, with its cookie. */
static void test_not_connected(void **state)
{
	const struct dp_tx_msg msg = {.data = (const uint8_t *)"x", .len = 1, .cookie = &state};
	struct dp_tx_msg back;
	struct pair p;
	uint32_t link = 9;

	(void)state;
	open_pair(&p, &quiet);
	dp_endpoint_destroy(p.ep[1]);
	p.ep[1] = NULL;
	assert_true(dp_endpoint_send(p.ep[0], 0, &msg));
	while (!dp_endpoint_done(p.ep[0], &link, &back))
		wait_more(&p, "the message back");
	assert_true(back.failed && back.cookie == msg.cookie && link == 0);
	assert_int_equal(dp_endpoint_link_state(p.ep[0], 0), DP_LINK_HELLO);
	close_pair(&p);
}

/* The queue into the I/O thread is bounded; what it took comes back once, in order. */
static void test_queue_full(void **state)
{
	struct dp_tx_msg msg = {.data = (const uint8_t *)"x", .len = 1}, back;
	struct pair p;
	uint32_t link, n = 0, n_back = 0;

	(void)state;
	open_pair(&p, &quiet);
	await_up(&p);
	while (msg.cookie = (void *)(uintptr_t)(n + 1), dp_endpoint_send(p.ep[0], 0, &msg))
		n++;
	assert_int_equal(n, QUEUE);
	while (n_back < n) {
		struct dp_msg rx;

		while (dp_endpoint_recv(p.ep[1], &link, &rx))
			dp_endpoint_release(p.ep[1], 0, &rx);
		while (dp_endpoint_done(p.ep[0], &link, &back)) {
			assert_false(back.failed);
			assert_int_equal((uintptr_t)back.cookie, ++n_back);
		}
		wait_more(&p, "the queue to drain");
	}
	close_pair(&p);
}

/* A receiver that keeps its messages holds the sender up, and loses nothing. */
static void test_slow_receiver(void **state)
{
	static const uint8_t data[64];
	const struct dp_tx_msg msg = {.data = data, .len = sizeof(data)};
	struct dp_msg held[32];
	struct pair p;
	uint32_t link, n = 0, i;
	uint64_t until_ns;

	(void)state;
	open_pair(&p, &quiet);
	await_up(&p);
	for (i = 0; i < 12; i++)
		assert_true(dp_endpoint_send(p.ep[0], 0, &msg));
	until_ns = ps_now_ns() + 20000000;
	while (n < 4 || ps_now_ns() < until_ns) {
		while (dp_endpoint_recv(p.ep[1], &link, &held[n]))
			n++;
		wait_more(&p, "the first messages");
	}
	assert_int_equal(n, 4); /* rx_slots */
	for (i = 0; i < 12; i++) {
		while (i >= n) {
			if (dp_endpoint_recv(p.ep[1], &link, &held[n]))
				n++;
			wait_more(&p, "the others");
		}
		assert_int_equal(held[i].msg_id - held[0].msg_id, i);
		dp_endpoint_release(p.ep[1], 0, &held[i]);
	}
	close_pair(&p);
}

/* The peer's process is gone: the event comes, what was in flight comes back failed. */
static void test_peer_dies(void **state)
{
	struct pair_cfg c = quiet;
	struct dp_tx_msg msg = {.data = (const uint8_t *)"last words", .len = 10}, back;
	struct pair p;
	uint32_t link;

	(void)state;
	c.dead_silence_ns = 60000000;
	open_pair(&p, &c);
	start(&p, 0);
	start(&p, 1);
	await_up(&p);
	stop(&p, 1);
	dp_endpoint_destroy(p.ep[1]);
	p.ep[1] = NULL;
	p.start_ns = ps_now_ns();
	assert_true(dp_endpoint_send(p.ep[0], 0, &msg));
	await_event(&p, 0, DP_LINK_EV_PEER_DEAD, "the peer's death");
	while (!dp_endpoint_done(p.ep[0], &link, &back))
		wait_more(&p, "the message back");
	assert_true(back.failed);
	/* Seconds, on a machine with other work; a lost wake-up would leave it to luck. */
	assert_true(ps_now_ns() - p.start_ns < 5000000000ull);
	close_pair(&p);
}

static void restart(struct pair *p, const struct pair_cfg *c, uint64_t incarnation)
{
	stop(p, 1);
	dp_endpoint_destroy(p->ep[1]);
	open_endpoint(p, c, 1, incarnation);
	start(p, 1);
}

/* A restarted peer is a new epoch, noticed at once, not by its silence; messages flow again. */
static void test_peer_restarts(void **state)
{
	struct pair p;
	uint32_t first, second;

	(void)state;
	open_pair(&p, &quiet);
	start(&p, 0);
	start(&p, 1);
	first = await_event(&p, 0, DP_LINK_EV_UP, "the first epoch");
	await_event(&p, 1, DP_LINK_EV_UP, "the first epoch");
	exchange(&p, 3);
	restart(&p, &quiet, 2001);
	await_event(&p, 0, DP_LINK_EV_PEER_RESTARTED, "the restart");
	second = await_event(&p, 0, DP_LINK_EV_UP, "the second epoch");
	await_event(&p, 1, DP_LINK_EV_UP, "the second epoch");
	assert_true(first != second);
	exchange(&p, 3);
	close_pair(&p);
}

/* Packets for a link that this process does not have are counted, and their buffers come back. */
static void test_unknown_link(void **state)
{
	struct pair_cfg c = quiet;
	struct dp_endpoint_stats stats = {0};
	struct pair p;

	(void)state;
	c.link_id[1] = 4;
	open_pair(&p, &c);
	while (stats.rx_unknown_link == 0) {
		wait_more(&p, "a HELLO of the other link");
		dp_endpoint_stats(p.ep[0], &stats);
	}
	assert_int_equal(dp_endpoint_link_state(p.ep[0], 0), DP_LINK_HELLO);
	close_pair(&p);
}

/* The I/O thread writes the time into the message before its first byte is sent. */
static void test_stamps(void **state)
{
	uint8_t data[16] = {0};
	const struct dp_tx_msg msg = {.data = data, .len = sizeof(data), .stamp_ns = data + 8};
	struct dp_msg rx;
	struct pair p;
	uint32_t link;

	(void)state;
	open_pair(&p, &quiet);
	await_up(&p);
	assert_true(dp_endpoint_send(p.ep[0], 0, &msg));
	while (!dp_endpoint_recv(p.ep[1], &link, &rx))
		wait_more(&p, "the message");
	assert_true(ps_load64(rx.data + 8) >= p.start_ns && ps_load64(rx.data + 8) <= ps_now_ns());
	dp_endpoint_release(p.ep[1], 0, &rx);
	close_pair(&p);
}

/* After the last message every frame is free again: nobody kept a port's buffer. */
static void test_returns_all_buffers(void **state)
{
	struct dp_rx_pkt pkt;
	struct pair p;
	uint32_t i;

	(void)state;
	open_pair(&p, &quiet);
	await_up(&p);
	exchange(&p, 13);
	for (i = 0; i < 2; i++) {
		dp_endpoint_destroy(p.ep[i]);
		p.ep[i] = NULL;
	}
	for (i = 0; i < 2; i++) {
		while (dp_port_rx(dp_loopback_port(p.lb, 1 - i), &pkt, 1) == 1)
			dp_port_buf_free(dp_loopback_port(p.lb, 1 - i), pkt.buf);
		assert_int_equal(dp_loopback_free_frames(p.lb, i), 512);
	}
	close_pair(&p);
}

/* Endpoints with nothing to do sleep, and are awake for the next message. */
static void test_sleeps_when_idle(void **state)
{
	struct dp_endpoint_stats a, b;
	struct pair p;

	(void)state;
	open_pair(&p, &quiet);
	start(&p, 0);
	start(&p, 1);
	await_up(&p);
	do {
		wait_more(&p, "sleep");
		dp_endpoint_stats(p.ep[0], &a);
		dp_endpoint_stats(p.ep[1], &b);
	} while (a.sleeps < 3 || b.sleeps < 3);
	exchange(&p, 5);
	close_pair(&p);
}

static void test_refuses_bad_configurations(void **state)
{
	struct dp_endpoint_cfg cfg = {0};
	struct dp_endpoint *ep;
	struct ps_err err;

	(void)state;
	assert_true(dp_endpoint_create(&cfg, &ep, &err) < 0);
	cfg.n_links = DP_ENDPOINT_MAX_LINKS + 1;
	assert_true(dp_endpoint_create(&cfg, &ep, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refuses_bad_configurations),
	    cmocka_unit_test(test_one_thread),
	    cmocka_unit_test(test_two_threads),
	    cmocka_unit_test(test_two_threads_spinning),
	    cmocka_unit_test(test_loss),
	    cmocka_unit_test(test_not_connected),
	    cmocka_unit_test(test_queue_full),
	    cmocka_unit_test(test_slow_receiver),
	    cmocka_unit_test(test_peer_dies),
	    cmocka_unit_test(test_peer_restarts),
	    cmocka_unit_test(test_unknown_link),
	    cmocka_unit_test(test_stamps),
	    cmocka_unit_test(test_returns_all_buffers),
	    cmocka_unit_test(test_sleeps_when_idle),
	};

	return cmocka_run_group_tests_name("endpoint", tests, NULL, NULL);
}
