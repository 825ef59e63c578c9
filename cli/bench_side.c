/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/bench.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pause.h"
#include "cli/cli.h"
#include "dataplane/counters.h"
#include "nic/nic.h"

#define UDP_PORT    7600u
#define LINK_UP_NS  15000000000ull
#define STALL_NS    10000000000ull /* without a message for so long, the bench has failed */
#define TX_BUFS     DP_LINK_MAX_INFLIGHT
#define RX_SLOTS    8u
#define CLOSE_NS    2000000000ull /* what one side waits for the other to close */
#define CHECK_EVERY 1024u         /* idle turns between looks at clock and events */

/* bench_shared.done */
enum done { DONE_NOT, DONE_MEASURED, DONE_QUIET, DONE_CLOSED };

/* What a side holds while it runs. */
struct side {
	struct bench_side *b;
	struct dp_port *port;
	struct dp_bell *bell, *peer_bell;
	struct dp_endpoint *ep;
	uint8_t *tx_mem;
	uint8_t *tx_free[TX_BUFS]; /* a stack: the buffer freed last is in cache */
	uint32_t n_free;
	uint32_t tx_left; /* messages given to the endpoint and not back yet */
	uint32_t idle_turns, turns;
	uint64_t progress_ns; /* when a message last arrived or left */
	char bell_path[2][96];
	char socket_path[96];
};

static volatile sig_atomic_t stopped;

static void on_term(int sig)
{
	(void)sig;
	stopped = 1;
}

/* The bytes of a message: its number, folded into one byte, all over. Cheap to make and to check, so
 * that what is measured is the link; the bare ping-pong programs do the same. */
static uint8_t pattern(uint64_t number)
{
	return (uint8_t)((number * 0x9e3779b97f4a7c15ull) >> 56);
}

void bench_fill(uint8_t *data, uint32_t len, uint64_t number)
{
	memset(data, pattern(number), len);
}

/* One byte of every cache line, and the last: the receiver has touched the whole message. */
bool bench_is_filled(const uint8_t *data, uint32_t len, uint64_t number)
{
	const uint8_t want = pattern(number);
	uint8_t differ = len > 0 ? data[len - 1] ^ want : 0;
	uint32_t k;

	for (k = 0; k < len; k += 64)
		differ |= data[k] ^ want;
	return differ == 0;
}

static void pin(int core)
{
	cpu_set_t set;

	if (core < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)core, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static struct nic_port_cfg nic_port(struct side *s)
{
	const uint32_t me = s->b->side, other = 1 - me;
	struct nic_port_cfg port = {
	    .driver = s->b->o->driver == BENCH_MEMIF ? NIC_DRIVER_MEMIF : NIC_DRIVER_AF_XDP,
	    .iface = bench_veth_iface(me),
	    .socket_path = s->socket_path,
	    .memif_server = me == BENCH_PING,
	    .ip = bench_veth_ip(me),
	    .udp_port = UDP_PORT,
	    .mtu = s->b->o->mtu,
	    .n_peers = 1,
	    .peers[0] = {.ip = bench_veth_ip(other), .udp_port = UDP_PORT},
	};

	if (s->b->o->driver == BENCH_MEMIF)
		port.peers[0].bell_path = s->bell_path[other];
	else
		bench_veth_mac(other, port.peers[0].mac);
	return port;
}

static int open_nic(struct side *s, struct ps_err *err)
{
	const struct nic_port_cfg port = nic_port(s);
	char name[48];
	const struct nic_cfg cfg = {
	    .name = name,
	    .hugepages_mb = s->b->o->hugepages_mb,
	    .ports = &port,
	    .n_ports = 1,
	};
	int rc;

	snprintf(name, sizeof(name), "bench%d-%u", (int)s->b->run_id, s->b->side);
	rc = nic_start(&cfg, &s->port, err);
	if (rc != 0)
		return rc;
	/* EAL has an opinion on where its threads run; the bench was asked for these cores. */
	pin(s->b->o->cores[s->b->side]);
	return 0;
}

/* Once the link is up: only then does a memif port know its final mode. */
static void describe(struct side *s)
{
	const bool nic = s->b->o->driver != BENCH_LOOPBACK;

	snprintf(s->b->shared->mode[s->b->side], sizeof(s->b->shared->mode[0]), "%.250s%s%.200s",
		 s->port->ops->describe(s->port), nic ? " " : "", nic ? nic_describe() : "");
}

/* The peer's bell appears when the peer has got so far. */
static int open_peer_bell(struct side *s, struct ps_err *err)
{
	const uint64_t end_ns = ps_now_ns() + LINK_UP_NS;
	int rc;

	do {
		rc = dp_bell_open(s->bell_path[1 - s->b->side], &s->peer_bell, err);
		if (rc == -ENOENT)
			sched_yield();
	} while (rc == -ENOENT && ps_now_ns() < end_ns);
	return rc;
}

static int open_port(struct side *s, struct ps_err *err)
{
	uint32_t i;
	int rc;

	for (i = 0; i < 2; i++)
		snprintf(s->bell_path[i], sizeof(s->bell_path[i]), "%s/bell%u", s->b->dir, i);
	snprintf(s->socket_path, sizeof(s->socket_path), "%s/memif.sock", s->b->dir);
	rc = dp_bell_create_shared(s->bell_path[s->b->side], &s->bell, err);
	if (rc != 0 || s->b->lb == NULL)
		return rc != 0 ? rc : open_nic(s, err);
	rc = open_peer_bell(s, err);
	if (rc != 0)
		return rc;
	s->port = dp_loopback_port(s->b->lb, s->b->side);
	dp_loopback_set_peer_bell(s->b->lb, s->b->side, s->peer_bell);
	return 0;
}

static int open_endpoint(struct side *s, struct ps_err *err)
{
	const struct bench_link_opts *o = s->b->o;
	const size_t stride = ((size_t)o->size + 63) & ~(size_t)63;
	const struct dp_endpoint_link link = {
	    .port = s->port,
	    .cfg =
		{
		    .link_id = 1,
		    .side = (uint8_t)s->b->side,
		    .mtu = o->mtu,
		    .max_msg_bytes = (uint32_t)stride,
		    .rx_slots = RX_SLOTS,
		    .payload_crc = o->checksum,
		    .allow_in_place = true,
		    .dead_silence_ns = STALL_NS,
		    .self_name = s->b->side == BENCH_PING ? "ping" : "echo",
		    .peer_name = s->b->side == BENCH_PING ? "echo" : "ping",
		},
	};
	struct dp_endpoint_cfg cfg = {
	    .links = &link,
	    .n_links = 1,
	    .idle = o->idle,
	    .io_bell = s->bell,
	    .app_bell = s->bell,
	};
	uint32_t i;

	if (getrandom(&cfg.incarnation, sizeof(cfg.incarnation), 0) != (ssize_t)sizeof(cfg.incarnation) ||
	    getrandom(&cfg.seed, sizeof(cfg.seed), 0) != (ssize_t)sizeof(cfg.seed))
		return ps_err_set(err, -EIO, "no random numbers from the kernel: %s", strerror(errno));
	s->tx_mem = aligned_alloc(64, stride * TX_BUFS);
	if (s->tx_mem == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for %u messages of %u bytes", TX_BUFS,
				  o->size);
	memset(s->tx_mem, 0, stride * TX_BUFS);
	for (i = 0; i < TX_BUFS; i++)
		s->tx_free[s->n_free++] = s->tx_mem + i * stride;
	return dp_endpoint_create(&cfg, &s->ep, err);
}

/* Events that end the bench, and time that went by without a message. */
static int check_health(struct side *s, uint64_t now_ns, uint64_t limit_ns, struct ps_err *err)
{
	struct dp_link_event ev;
	uint32_t link;

	if (stopped != 0)
		return ps_err_set(err, -EINTR, "stopped");
	while (dp_endpoint_event(s->ep, &link, &ev)) {
		if (ev.kind != DP_LINK_EV_UP)
			return ps_err_set(err, -EIO, "the link failed: %s", ev.text);
	}
	if (now_ns - s->progress_ns > limit_ns)
		return ps_err_set(err, -ETIMEDOUT, "no message for %llu s (link state %d)",
				  (unsigned long long)(limit_ns / 1000000000ull),
				  dp_endpoint_link_state(s->ep, 0));
	return 0;
}

/* One turn of the loop, idle as dp_endpoint_run would be. 0, or why the bench cannot go on. */
static int turn(struct side *s, uint64_t limit_ns, struct ps_err *err)
{
	if (dp_endpoint_step(s->ep, ps_now_ns())) {
		s->idle_turns = 0;
	} else if (s->b->o->idle == DP_IDLE_SPIN) {
		ps_pause();
	} else if (++s->idle_turns < DP_IDLE_YIELDS) {
		sched_yield();
	} else {
		dp_endpoint_sleep(s->ep);
		s->idle_turns = 0;
		s->turns |= CHECK_EVERY - 1; /* the next turn looks at the clock */
	}
	if (++s->turns % CHECK_EVERY == 0)
		return check_health(s, ps_now_ns(), limit_ns, err);
	return 0;
}

static void collect_done(struct side *s)
{
	struct dp_tx_msg msg;
	uint32_t link;

	while (dp_endpoint_done(s->ep, &link, &msg)) {
		s->tx_free[s->n_free++] = (uint8_t *)(uintptr_t)msg.data;
		s->tx_left--;
	}
}

static int send_number(struct side *s, uint64_t number, struct ps_err *err)
{
	struct dp_tx_msg msg = {.len = s->b->o->size};
	int rc;

	for (;;) {
		collect_done(s);
		if (s->n_free > 0)
			break;
		rc = turn(s, STALL_NS, err);
		if (rc != 0)
			return rc;
	}
	msg.data = s->tx_free[--s->n_free];
	bench_fill(s->tx_free[s->n_free], msg.len, number);
	/* TX_BUFS messages at most are out, and the queue is longer. */
	CHECK(dp_endpoint_send(s->ep, 0, &msg));
	s->tx_left++;
	return 0;
}

static int recv_number(struct side *s, uint64_t number, struct ps_err *err)
{
	struct dp_msg msg;
	uint32_t link;
	bool good;
	int rc;

	while (!dp_endpoint_recv(s->ep, &link, &msg)) {
		rc = turn(s, STALL_NS, err);
		if (rc != 0)
			return rc;
	}
	good = msg.len == s->b->o->size && bench_is_filled(msg.data, msg.len, number);
	dp_endpoint_release(s->ep, 0, &msg);
	if (!good)
		return ps_err_set(err, -EBADMSG, "message %llu arrived with other bytes than were sent",
				  (unsigned long long)number);
	return 0;
}

/* Until all that was sent is acknowledged. */
static int drain(struct side *s, struct ps_err *err)
{
	int rc = 0;

	collect_done(s);
	while (s->tx_left > 0 && rc == 0) {
		rc = turn(s, STALL_NS, err);
		collect_done(s);
	}
	return rc;
}

static int wait_up(struct side *s, struct ps_err *err)
{
	int rc = 0;

	s->progress_ns = ps_now_ns();
	while (rc == 0 && dp_endpoint_link_state(s->ep, 0) != DP_LINK_ESTABLISHED)
		rc = turn(s, LINK_UP_NS, err);
	if (rc == -ETIMEDOUT)
		ps_err_set(err, rc, "the other side did not answer for %llu s",
			   (unsigned long long)(LINK_UP_NS / 1000000000ull));
	s->progress_ns = ps_now_ns();
	return rc;
}

/* Numbers of messages: round trip i is 2i out and 2i + 1 back; one-way messages follow. */
static int ping(struct side *s, struct ps_err *err)
{
	const struct bench_link_opts *o = s->b->o;
	const uint64_t rounds = (uint64_t)o->warmup + o->count;
	uint64_t i, t0, t1;
	int rc = 0;

	for (i = 0; i < rounds && rc == 0; i++) {
		t0 = ps_now_ns();
		rc = send_number(s, 2 * i, err);
		if (rc == 0)
			rc = recv_number(s, 2 * i + 1, err);
		t1 = ps_now_ns();
		s->progress_ns = t1;
		if (i >= o->warmup)
			s->b->shared->rtt_ns[i - o->warmup] = t1 - t0;
	}
	if (rc == 0)
		rc = drain(s, err);
	t0 = ps_now_ns();
	for (i = 0; o->one_way && i < o->count && rc == 0; i++) {
		rc = send_number(s, 2 * rounds + i, err);
		s->progress_ns = (i & 63) == 0 ? ps_now_ns() : s->progress_ns;
	}
	if (rc == 0)
		rc = drain(s, err);
	s->b->shared->one_way_ns = ps_now_ns() - t0;
	return rc;
}

static int echo(struct side *s, struct ps_err *err)
{
	const struct bench_link_opts *o = s->b->o;
	const uint64_t rounds = (uint64_t)o->warmup + o->count;
	uint64_t i;
	int rc = 0;

	for (i = 0; i < rounds && rc == 0; i++) {
		rc = recv_number(s, 2 * i, err);
		if (rc == 0)
			rc = send_number(s, 2 * i + 1, err);
		s->progress_ns = (i & 63) == 0 ? ps_now_ns() : s->progress_ns;
	}
	for (i = 0; o->one_way && i < o->count && rc == 0; i++) {
		rc = recv_number(s, 2 * rounds + i, err);
		s->progress_ns = (i & 63) == 0 ? ps_now_ns() : s->progress_ns;
	}
	s->progress_ns = ps_now_ns();
	/* The last acknowledgements are ours to send, and to send again if they are lost. */
	while (rc == 0 && atomic_load_explicit(&s->b->shared->done, memory_order_relaxed) == DONE_NOT)
		rc = turn(s, STALL_NS, err);
	return rc;
}

static int enter_namespace(struct bench_side *b, struct ps_err *err)
{
	char byte = 1;
	int rc = bench_veth_enter(err);

	if (rc != 0)
		return rc;
	if (write(b->ready_fd, &byte, 1) != 1 || read(b->go_fd, &byte, 1) != 1)
		return ps_err_set(err, -EPIPE, "the bench's parent is gone");
	return bench_veth_up(b->side, b->o->mtu, err);
}

/*
 * The sides close one after the other, neither polling: two memif ports that
 * close at once meet in DPDK's interrupt threads, which crashed there.
 */
static void take_turns(struct bench_side *b)
{
	const uint32_t mine = b->side == BENCH_PING ? DONE_MEASURED : DONE_QUIET;
	const uint64_t end_ns = ps_now_ns() + CLOSE_NS;

	atomic_store_explicit(&b->shared->done, mine, memory_order_relaxed);
	while (atomic_load_explicit(&b->shared->done, memory_order_relaxed) <= mine && ps_now_ns() < end_ns)
		usleep(200);
}

int bench_side_run(struct bench_side *b)
{
	struct ps_err *err = (struct ps_err *)(void *)b->shared->error[b->side];
	struct side s = {.b = b};
	int rc = 0;

	_Static_assert(sizeof(struct ps_err) == sizeof(b->shared->error[0]), "an error text of a side");
	/* Asked to end, a side takes its port down in order, so that EAL's files go. */
	signal(SIGTERM, on_term);
	pin(b->o->cores[b->side]);
	if (b->o->driver == BENCH_AF_XDP)
		rc = enter_namespace(b, err);
	if (rc == 0)
		rc = open_port(&s, err);
	if (rc == 0)
		rc = open_endpoint(&s, err);
	if (rc == 0)
		rc = wait_up(&s, err);
	if (rc == 0)
		describe(&s);
	if (rc == 0)
		rc = b->side == BENCH_PING ? ping(&s, err) : echo(&s, err);
	if (rc == 0 && b->side == BENCH_PING) {
		b->shared->rx_in_place = dp_endpoint_link_counters(s.ep, 0)[DP_COUNTER_rx_in_place];
		b->shared->rx_copied_bytes = dp_endpoint_link_counters(s.ep, 0)[DP_COUNTER_rx_copied_bytes];
		b->shared->retransmits = dp_endpoint_link_counters(s.ep, 0)[DP_COUNTER_retransmits];
		b->shared->mtu = s.port->mtu;
	}
	dp_endpoint_destroy(s.ep);
	if (rc == 0)
		take_turns(b);
	if (s.port != NULL && b->o->driver != BENCH_LOOPBACK)
		nic_stop();
	if (b->side == BENCH_PING)
		atomic_store_explicit(&b->shared->done, DONE_CLOSED, memory_order_relaxed);
	dp_bell_destroy(s.bell);
	dp_bell_destroy(s.peer_bell);
	free(s.tx_mem);
	return rc == 0 ? CLI_OK : CLI_FAILED;
}
