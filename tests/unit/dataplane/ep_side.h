/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_EP_SIDE_H
#define PENSTOCK_TESTS_EP_SIDE_H
/* An endpoint over loopback ports for tests of what stands behind one: its bells, its links, and an
 * I/O thread where the test wants one. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/endpoint.h"
#include "dataplane/loopback.h"

#define EP_SIDE_LONG_NS 20000000000ull /* a test that waits longer has failed */

struct ep_side_link {
	struct dp_loopback *lb;
	uint32_t side;
	uint16_t id;
	uint64_t model_hash, dead_ns;
	const char *peer_name;
};

struct ep_side {
	struct dp_bell *io, *app;
	struct dp_endpoint *ep;
	pthread_t thread;
	bool running;
};

static inline struct dp_loopback *ep_side_loopback(void)
{
	const struct dp_loopback_cfg cfg = {.mtu = 9000, .n_frames = 512};
	struct dp_loopback *lb = NULL;
	struct ps_err err = {{0}};

	if (dp_loopback_create(&cfg, &lb, &err) != 0)
		fail_msg("%s", err.msg);
	return lb;
}

static inline void ep_side_open(struct ep_side *s, const char *name, uint32_t max_msg,
				const struct ep_side_link *links, uint32_t n)
{
	struct dp_endpoint_link ep_links[2] = {0};
	struct dp_endpoint_cfg cfg = {.links = ep_links, .n_links = n, .seed = 5};
	static uint64_t incarnation = 100;
	struct ps_err err = {{0}};
	uint32_t i;

	memset(s, 0, sizeof(*s));
	assert_non_null(s->io = dp_bell_create());
	assert_non_null(s->app = dp_bell_create());
	cfg.io_bell = s->io;
	cfg.app_bell = s->app;
	cfg.incarnation = ++incarnation;
	for (i = 0; i < n; i++) {
		ep_links[i].port = dp_loopback_port(links[i].lb, links[i].side);
		ep_links[i].cfg = (struct dp_link_cfg){
		    .link_id = links[i].id,
		    .side = (uint8_t)links[i].side,
		    .mtu = 9000,
		    .max_msg_bytes = max_msg,
		    .rx_slots = 4,
		    .payload_crc = true,
		    .topology_hash = 1,
		    .model_hash = links[i].model_hash,
		    .dead_silence_ns = links[i].dead_ns,
		    .self_name = name,
		    .peer_name = links[i].peer_name,
		};
		/* The other side's transmissions wake our I/O thread. */
		dp_loopback_set_peer_bell(links[i].lb, 1 - links[i].side, s->io);
	}
	if (dp_endpoint_create(&cfg, &s->ep, &err) != 0)
		fail_msg("%s", err.msg);
}

static inline void *ep_side_io(void *arg)
{
	dp_endpoint_run(arg);
	return NULL;
}

static inline void ep_side_start(struct ep_side *s)
{
	assert_int_equal(pthread_create(&s->thread, NULL, ep_side_io, s->ep), 0);
	s->running = true;
}

/* Ends the I/O thread and the endpoint: for its peers, its process is gone. The bells stay, for a
 * peer may still ring them. */
static inline void ep_side_kill(struct ep_side *s)
{
	if (s->running) {
		dp_endpoint_stop(s->ep);
		pthread_join(s->thread, NULL);
		s->running = false;
	}
	dp_endpoint_destroy(s->ep);
	s->ep = NULL;
}

static inline void ep_side_free_bells(struct ep_side *s)
{
	dp_bell_destroy(s->io);
	dp_bell_destroy(s->app);
}

#endif
