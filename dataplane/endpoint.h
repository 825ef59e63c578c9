/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_ENDPOINT_H
#define PENSTOCK_DATAPLANE_ENDPOINT_H
/*
 * The poll loop of one process: drains its ports, gives each link its packets,
 * hands whole messages to the application thread over rings, takes messages to
 * send from it, and sleeps on its bell when there is nothing to do. A stage, the
 * gateway and the link bench are all one endpoint with something behind it. Not
 * for what is in a message (act.h).
 *
 * Two threads use an endpoint: the I/O thread calls dp_endpoint_run (or
 * dp_endpoint_step in a loop of its own), one application thread calls the
 * functions of the second part. They may be the same thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "dataplane/bell.h"
#include "dataplane/link.h"
#include "dataplane/port.h"

#define DP_ENDPOINT_MAX_LINKS 8u

/* Measured with four processes on two cores: yielding about 50 times before sleeping keeps a
 * chain's round trip within a few microseconds of the best, spinning longer costs the others
 * their time slices (perf/NOTES.md). */
#define DP_IDLE_YIELDS 50u

/* A yield that took longer than this gave the core to somebody who computes: the poller sleeps at
 * once, because each of its next turns would cost that thread two context switches. */
#define DP_IDLE_CROWDED_NS 4000ull

/* The time slice that the I/O thread asks for, the shortest that the kernel grants. */
#define DP_IO_SLICE_NS 100000ull

enum dp_idle {
	DP_IDLE_ADAPTIVE, /* yield a while, then sleep on the bell */
	DP_IDLE_SPIN,     /* a core of its own */
};

struct dp_endpoint_link {
	struct dp_port *port;   /* several links may share one */
	struct dp_link_cfg cfg; /* buf_free and its context are filled by the endpoint */
};

struct dp_endpoint_cfg {
	const struct dp_endpoint_link *links;
	uint32_t n_links;
	enum dp_idle idle;
	struct dp_bell *io_bell;  /* the I/O thread sleeps here; borrowed */
	struct dp_bell *app_bell; /* rung when something was delivered; borrowed, may be io_bell */
	uint64_t incarnation, seed;
};

struct dp_endpoint;

/* What became of the I/O thread's time, for `status`. */
struct dp_endpoint_stats {
	uint64_t loops, busy_loops, sleeps;
	uint64_t rx_unknown_link; /* packets of a peer for a link we do not have with it */
	uint64_t tx_dropped;      /* packets the driver did not take; repaired by the link */
};

int ps_warn_unused dp_endpoint_create(const struct dp_endpoint_cfg *cfg, struct dp_endpoint **ep_out,
				      struct ps_err *err);
void dp_endpoint_destroy(struct dp_endpoint *ep);

/* I/O thread: until dp_endpoint_stop. */
void dp_endpoint_run(struct dp_endpoint *ep);
/* I/O thread: one iteration; true if it did anything. */
bool dp_endpoint_step(struct dp_endpoint *ep, uint64_t now_ns);
/* I/O thread, where the loop is its own: steps once more and, if that did nothing, sleeps until
 * io_bell is rung, a port's descriptor is readable or a timer is due. Whoever is also the
 * application thread looks at the second part's functions after it. */
void dp_endpoint_sleep(struct dp_endpoint *ep);
/* Any thread. */
void dp_endpoint_stop(struct dp_endpoint *ep);

/* Application thread. Links are numbered as in the configuration. */

/* Queues a message; its data is the endpoint's until it comes back from dp_endpoint_done.
 * False: the link's queue is full. */
bool ps_warn_unused dp_endpoint_send(struct dp_endpoint *ep, uint32_t link, const struct dp_tx_msg *msg);
bool dp_endpoint_done(struct dp_endpoint *ep, uint32_t *link_out, struct dp_tx_msg *msg_out);
bool dp_endpoint_recv(struct dp_endpoint *ep, uint32_t *link_out, struct dp_msg *msg_out);
void dp_endpoint_release(struct dp_endpoint *ep, uint32_t link, const struct dp_msg *msg);
bool dp_endpoint_event(struct dp_endpoint *ep, uint32_t *link_out, struct dp_link_event *ev_out);
/* Waits until one of the three above may have something, or for timeout_ns; policy as configured. */
void dp_endpoint_wait(struct dp_endpoint *ep, uint64_t timeout_ns);
/* The same for an application that also serves descriptors: returns when one is ready, too (its
 * revents are not filled in: poll it). Only for an endpoint whose app_bell is its own. */
void dp_endpoint_wait_fds(struct dp_endpoint *ep, struct pollfd *fds, uint32_t n_fds, uint64_t timeout_ns);

/* Any thread; snapshots for display, not synchronised with each other. */
void dp_endpoint_stats(const struct dp_endpoint *ep, struct dp_endpoint_stats *out);
enum dp_link_state dp_endpoint_link_state(const struct dp_endpoint *ep, uint32_t link);
uint64_t dp_endpoint_link_srtt_ns(const struct dp_endpoint *ep, uint32_t link);
const uint64_t *dp_endpoint_link_counters(const struct dp_endpoint *ep, uint32_t link);

#endif
