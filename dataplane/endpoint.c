/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/endpoint.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/pause.h"
#include "dataplane/ring.h"
#include "dataplane/wire.h"

#define EP_BURST        32u
#define EP_TX_RETRIES   64u /* immediate retries of a burst the driver did not take whole */
#define EP_RING_SIZE    64u /* >= DP_LINK_MAX_INFLIGHT * 2, a power of two */
#define EP_EVENTS       32u
#define EP_MAX_SLEEP_NS 20000000ull /* bounds a sleep whatever the deadlines say */

static_assert(EP_RING_SIZE >= 2 * DP_LINK_MAX_INFLIGHT, "a ring holds all messages of a link");

struct ep_rx_item {
	uint32_t link;
	struct dp_msg msg;
};

struct ep_done_item {
	uint32_t link;
	struct dp_tx_msg msg;
};

struct ep_event_item {
	uint32_t link;
	struct dp_link_event ev;
};

struct ep_link {
	struct dp_link *link;
	struct dp_port *port;
	uint32_t port_index;
	uint16_t link_id, peer;
	struct dp_ring tx;      /* application to I/O: struct dp_tx_msg */
	struct dp_ring release; /* application to I/O: struct dp_msg */
	uint64_t due_ns;        /* until then the link wants nothing, unless it is touched */
	bool touched;           /* packets came since it was last served */
	bool undelivered;       /* it may have messages or events for the application */
	_Atomic int state;
	_Atomic uint64_t srtt_ns;
};

struct dp_endpoint {
	struct dp_endpoint_cfg cfg;
	struct ep_link links[DP_ENDPOINT_MAX_LINKS];
	uint32_t n_links;
	struct dp_port *ports[DP_ENDPOINT_MAX_LINKS];
	uint32_t n_ports;
	struct pollfd fds[DP_ENDPOINT_MAX_LINKS];
	uint32_t n_fds;
	struct dp_ring rx;   /* I/O to application: struct ep_rx_item */
	struct dp_ring done; /* struct ep_done_item */
	struct dp_ring events;
	_Atomic bool stop;
	struct dp_rx_pkt rx_pkts[EP_BURST];
	struct dp_tx_pkt tx_pkts[EP_BURST];
	_Atomic uint64_t loops, busy_loops, rx_unknown_link, tx_dropped;
};

static void count(_Atomic uint64_t *counter, uint64_t by)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
			      memory_order_relaxed);
}

static void free_port_buf(void *ctx, void *buf)
{
	dp_port_buf_free(ctx, buf);
}

static uint32_t port_index(struct dp_endpoint *ep, struct dp_port *port)
{
	uint32_t i;

	for (i = 0; i < ep->n_ports; i++) {
		if (ep->ports[i] == port)
			return i;
	}
	ep->ports[ep->n_ports] = port;
	return ep->n_ports++;
}

/* All windows of a port together fit half its receive ring, so that a burst of everybody's meets a
 * ring that is being drained and not one that overflows. */
static int check_ring(const struct dp_endpoint *ep, uint32_t port, struct ps_err *err)
{
	uint32_t i, links = 0, ring = ep->ports[port]->rx_ring;

	for (i = 0; i < ep->n_links; i++)
		links += ep->links[i].port_index == port;
	if (links * DP_LINK_MAX_PACKETS <= ring / 2)
		return 0;
	return ps_err_set(
	    err, -EINVAL,
	    "%u links on one port: their windows of %u packets each need a receive ring of %u, this one has "
	    "%u: give some of them a port of their own",
	    links, DP_LINK_MAX_PACKETS, links * DP_LINK_MAX_PACKETS * 2, ring);
}

static int create_link(struct dp_endpoint *ep, uint32_t i, struct ps_err *err)
{
	struct ep_link *el = &ep->links[i];
	struct dp_link_cfg cfg = ep->cfg.links[i].cfg;

	el->port = ep->cfg.links[i].port;
	el->port_index = port_index(ep, el->port);
	el->link_id = cfg.link_id;
	el->peer = cfg.peer;
	cfg.buf_free = free_port_buf;
	cfg.buf_free_ctx = el->port;
	if (!dp_ring_init(&el->tx, EP_RING_SIZE, sizeof(struct dp_tx_msg)) ||
	    !dp_ring_init(&el->release, EP_RING_SIZE, sizeof(struct dp_msg)))
		return ps_err_set(err, -ENOMEM, "out of memory for a link's rings");
	return dp_link_create(&cfg, ep->cfg.incarnation, ep->cfg.seed + i, ps_now_ns(), &el->link, err);
}

int dp_endpoint_create(const struct dp_endpoint_cfg *cfg, struct dp_endpoint **ep_out, struct ps_err *err)
{
	struct dp_endpoint *ep;
	uint32_t i;
	int rc = 0;

	if (cfg->n_links == 0 || cfg->n_links > DP_ENDPOINT_MAX_LINKS)
		return ps_err_set(err, -EINVAL, "an endpoint has 1 to %u links, not %u",
				  DP_ENDPOINT_MAX_LINKS, cfg->n_links);
	ep = aligned_alloc(DP_CACHE_LINE, (sizeof(*ep) + DP_CACHE_LINE - 1) / DP_CACHE_LINE * DP_CACHE_LINE);
	if (ep == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for an endpoint");
	memset(ep, 0, sizeof(*ep));
	ep->cfg = *cfg;
	ep->n_links = cfg->n_links;
	if (!dp_ring_init(&ep->rx, EP_RING_SIZE * DP_ENDPOINT_MAX_LINKS, sizeof(struct ep_rx_item)) ||
	    !dp_ring_init(&ep->done, EP_RING_SIZE * DP_ENDPOINT_MAX_LINKS, sizeof(struct ep_done_item)) ||
	    !dp_ring_init(&ep->events, EP_EVENTS, sizeof(struct ep_event_item)))
		rc = ps_err_set(err, -ENOMEM, "out of memory for an endpoint's rings");
	for (i = 0; i < ep->n_links && rc == 0; i++)
		rc = create_link(ep, i, err);
	for (i = 0; i < ep->n_ports && rc == 0; i++)
		rc = check_ring(ep, i, err);
	for (i = 0; i < ep->n_ports && rc == 0; i++) {
		int fd = ep->ports[i]->ops->wait_fd(ep->ports[i]);

		if (fd >= 0)
			ep->fds[ep->n_fds++] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
	ep->cfg.links = NULL; /* the caller's array may go */
	if (rc != 0) {
		dp_endpoint_destroy(ep);
		return rc;
	}
	*ep_out = ep;
	return 0;
}

void dp_endpoint_destroy(struct dp_endpoint *ep)
{
	uint32_t i;

	if (ep == NULL)
		return;
	for (i = 0; i < ep->n_links; i++) {
		dp_link_destroy(ep->links[i].link);
		dp_ring_fini(&ep->links[i].tx);
		dp_ring_fini(&ep->links[i].release);
	}
	dp_ring_fini(&ep->rx);
	dp_ring_fini(&ep->done);
	dp_ring_fini(&ep->events);
	free(ep);
}

static struct ep_link *find_link(struct dp_endpoint *ep, uint32_t port, const struct dp_rx_pkt *pkt)
{
	uint16_t id;
	uint32_t i;

	if (pkt->len < DP_HDR_BYTES)
		return NULL;
	id = ps_load16(pkt->data + offsetof(struct dp_hdr, link));
	for (i = 0; i < ep->n_links; i++) {
		struct ep_link *el = &ep->links[i];

		if (el->port_index == port && el->link_id == id && el->peer == pkt->peer)
			return el;
	}
	return NULL;
}

static uint32_t drain_ports(struct dp_endpoint *ep, uint64_t now_ns)
{
	uint32_t p, i, n, total = 0;

	for (p = 0; p < ep->n_ports; p++) {
		n = dp_port_rx(ep->ports[p], ep->rx_pkts, EP_BURST);
		for (i = 0; i < n; i++) {
			struct ep_link *el = find_link(ep, p, &ep->rx_pkts[i]);

			if (ps_likely(el != NULL)) {
				dp_link_rx(el->link, &ep->rx_pkts[i], now_ns);
				el->touched = true;
				el->undelivered = true;
			} else {
				count(&ep->rx_unknown_link, 1);
				dp_port_buf_free(ep->ports[p], ep->rx_pkts[i].buf);
			}
		}
		total += n;
	}
	return total;
}

/* Messages and events of one link to the application; what its rings cannot take stays in the link. */
static uint32_t deliver(struct dp_endpoint *ep, uint32_t i)
{
	struct ep_link *el = &ep->links[i];
	struct ep_rx_item rx = {.link = i};
	struct ep_done_item done = {.link = i};
	struct ep_event_item ev = {.link = i};
	uint32_t n = 0;

	while (dp_ring_can_push(&ep->events) && dp_link_event(el->link, &ev.ev)) {
		dp_ring_push(&ep->events, &ev);
		n++;
	}
	while (dp_ring_can_push(&ep->rx) && dp_link_recv(el->link, &rx.msg)) {
		dp_ring_push(&ep->rx, &rx);
		n++;
	}
	while (dp_ring_can_push(&ep->done) && dp_link_tx_done(el->link, &done.msg)) {
		dp_ring_push(&ep->done, &done);
		n++;
	}
	el->undelivered =
	    !dp_ring_can_push(&ep->events) || !dp_ring_can_push(&ep->rx) || !dp_ring_can_push(&ep->done);
	return n;
}

/* In spin mode neither thread ever sleeps, and a ring would be a fence for nothing. */
static void wake(const struct dp_endpoint *ep, struct dp_bell *bell)
{
	if (ep->cfg.idle != DP_IDLE_SPIN)
		dp_bell_ring(bell);
}

static uint32_t take_from_app(struct dp_endpoint *ep, uint32_t i, uint64_t now_ns)
{
	struct ep_link *el = &ep->links[i];
	struct ep_done_item failed = {.link = i};
	struct dp_tx_msg *tx;
	struct dp_msg msg;
	uint32_t n = 0;
	int rc;

	while (dp_ring_pop(&el->release, &msg)) {
		dp_link_release(el->link, &msg);
		n++;
	}
	while ((tx = dp_ring_peek(&el->tx)) != NULL) {
		if (tx->stamp_ns != NULL)
			ps_store64(tx->stamp_ns, now_ns);
		rc = dp_link_send(el->link, tx, now_ns);
		if (rc == -EAGAIN)
			break;
		if (rc != 0) {
			if (!dp_ring_can_push(&ep->done))
				break;
			failed.msg = *tx;
			failed.msg.failed = true;
			dp_ring_push(&ep->done, &failed);
			wake(ep, ep->cfg.app_bell);
		}
		dp_ring_drop(&el->tx);
		n++;
	}
	return n;
}

static uint32_t transmit(struct dp_endpoint *ep, struct ep_link *el, uint64_t now_ns)
{
	uint32_t n, sent, tries, total = 0;

	do {
		n = dp_link_tx(el->link, ep->tx_pkts, EP_BURST, now_ns);
		if (n == 0)
			break;
		sent = 0;
		for (tries = 0; sent < n && tries < EP_TX_RETRIES; tries++)
			sent += dp_port_tx(el->port, ep->tx_pkts + sent, n - sent);
		if (ps_unlikely(sent < n))
			count(&ep->tx_dropped, n - sent);
		total += n;
	} while (n == EP_BURST);
	if (total > 0)
		el->port->ops->ring_peer(el->port, el->peer);
	return total;
}

/* Lets a link send, if it has anything to say; a link at rest costs a step a few loads. */
static uint32_t serve(struct dp_endpoint *ep, uint32_t i, uint64_t now_ns)
{
	struct ep_link *el = &ep->links[i];
	uint32_t work = take_from_app(ep, i, now_ns);
	int state;

	if (work == 0 && !el->touched && now_ns < el->due_ns)
		return 0;
	el->touched = false;
	work += transmit(ep, el, now_ns);
	el->due_ns = dp_link_deadline_ns(el->link, now_ns);
	/* A timer may have declared the peer dead: that is work, so that nobody sleeps on its event. */
	el->undelivered = true;
	state = (int)dp_link_state(el->link);
	if (ps_unlikely(state != atomic_load_explicit(&el->state, memory_order_relaxed)))
		work++;
	atomic_store_explicit(&el->state, state, memory_order_relaxed);
	atomic_store_explicit(&el->srtt_ns, dp_link_srtt_ns(el->link), memory_order_relaxed);
	return work;
}

/*
 * Sends before it receives: what the application answered to the last step's
 * messages then leaves in one burst with their acknowledgements, and does not
 * wait for a look at the port first.
 */
bool dp_endpoint_step(struct dp_endpoint *ep, uint64_t now_ns)
{
	uint32_t i, work = 0, delivered = 0;

	for (i = 0; i < ep->n_links; i++)
		work += serve(ep, i, now_ns);
	/* Ringing a peer that sleeps may have cost us the core for as long as it liked: what arrived
	 * meanwhile must not be stamped with the time of before. */
	if (work > 0)
		now_ns = ps_now_ns();
	work += drain_ports(ep, now_ns);
	for (i = 0; i < ep->n_links; i++) {
		if (ep->links[i].undelivered)
			delivered += deliver(ep, i);
	}
	if (delivered > 0)
		wake(ep, ep->cfg.app_bell);
	count(&ep->loops, 1);
	if (work + delivered == 0)
		return false;
	count(&ep->busy_loops, 1);
	return true;
}

static uint64_t next_deadline(struct dp_endpoint *ep, uint64_t now_ns)
{
	uint64_t best = now_ns + EP_MAX_SLEEP_NS;
	uint32_t i;

	for (i = 0; i < ep->n_links; i++) {
		uint64_t d = ep->links[i].due_ns;

		if (d < best)
			best = d;
	}
	return best;
}

void dp_endpoint_sleep(struct dp_endpoint *ep)
{
	uint64_t now_ns, deadline;

	dp_bell_arm(ep->cfg.io_bell, ep->n_fds > 0);
	now_ns = ps_now_ns();
	if (dp_endpoint_step(ep, now_ns) || atomic_load_explicit(&ep->stop, memory_order_relaxed)) {
		dp_bell_disarm(ep->cfg.io_bell);
		return;
	}
	deadline = next_deadline(ep, now_ns);
	if (deadline <= now_ns) {
		dp_bell_disarm(ep->cfg.io_bell);
		return;
	}
	dp_bell_wait(ep->cfg.io_bell, ep->fds, ep->n_fds, deadline - now_ns);
}

/* Offers the core to others; true: they took it for long. */
static bool yield_is_long(void)
{
	uint64_t before_ns = ps_now_ns();

	sched_yield();
	return ps_now_ns() - before_ns > DP_IDLE_CROWDED_NS;
}

/*
 * Asks for short time slices: since Linux 6.12 a thread that wants little at a time is let in sooner
 * when it wakes, which is what a poll loop beside compute threads needs. Needs no privilege; older
 * kernels ignore it.
 */
static void ask_short_slices(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime_ns, deadline_ns, period_ns;
	} attr = {.size = sizeof(attr), .policy = SCHED_OTHER, .runtime_ns = DP_IO_SLICE_NS};

	(void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

void dp_endpoint_run(struct dp_endpoint *ep)
{
	uint32_t idle = 0;

	/* The kernel's default slack of 50 us would dominate our timers. */
	prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
	ask_short_slices();
	while (!atomic_load_explicit(&ep->stop, memory_order_relaxed)) {
		if (dp_endpoint_step(ep, ps_now_ns())) {
			idle = 0;
		} else if (ep->cfg.idle == DP_IDLE_SPIN) {
			ps_pause();
		} else if (++idle < DP_IDLE_YIELDS) {
			if (yield_is_long())
				idle = DP_IDLE_YIELDS;
		} else {
			dp_endpoint_sleep(ep);
			idle = 0;
		}
	}
}

void dp_endpoint_stop(struct dp_endpoint *ep)
{
	atomic_store_explicit(&ep->stop, true, memory_order_relaxed);
	dp_bell_ring(ep->cfg.io_bell);
}

bool dp_endpoint_send(struct dp_endpoint *ep, uint32_t link, const struct dp_tx_msg *msg)
{
	CHECK(link < ep->n_links);
	if (!dp_ring_push(&ep->links[link].tx, msg))
		return false;
	wake(ep, ep->cfg.io_bell);
	return true;
}

bool dp_endpoint_done(struct dp_endpoint *ep, uint32_t *link_out, struct dp_tx_msg *msg_out)
{
	const struct ep_done_item *item = dp_ring_peek(&ep->done);

	if (item == NULL)
		return false;
	*link_out = item->link;
	*msg_out = item->msg;
	dp_ring_drop(&ep->done);
	return true;
}

bool dp_endpoint_recv(struct dp_endpoint *ep, uint32_t *link_out, struct dp_msg *msg_out)
{
	const struct ep_rx_item *item = dp_ring_peek(&ep->rx);

	if (item == NULL)
		return false;
	*link_out = item->link;
	*msg_out = item->msg;
	dp_ring_drop(&ep->rx);
	return true;
}

void dp_endpoint_release(struct dp_endpoint *ep, uint32_t link, const struct dp_msg *msg)
{
	CHECK(link < ep->n_links);
	/* At most rx_slots messages (plus those of one earlier epoch) are out: it fits. */
	while (!dp_ring_push(&ep->links[link].release, msg)) {
		wake(ep, ep->cfg.io_bell);
		sched_yield();
	}
	wake(ep, ep->cfg.io_bell);
}

bool dp_endpoint_event(struct dp_endpoint *ep, uint32_t *link_out, struct dp_link_event *ev_out)
{
	const struct ep_event_item *item = dp_ring_peek(&ep->events);

	if (item == NULL)
		return false;
	*link_out = item->link;
	*ev_out = item->ev;
	dp_ring_drop(&ep->events);
	return true;
}

static bool app_has_work(const struct dp_endpoint *ep)
{
	return !dp_ring_empty(&ep->rx) || !dp_ring_empty(&ep->done) || !dp_ring_empty(&ep->events);
}

void dp_endpoint_wait(struct dp_endpoint *ep, uint64_t timeout_ns)
{
	dp_endpoint_wait_fds(ep, NULL, 0, timeout_ns);
}

void dp_endpoint_wait_fds(struct dp_endpoint *ep, struct pollfd *fds, uint32_t n_fds, uint64_t timeout_ns)
{
	uint64_t end_ns = ps_now_ns() + timeout_ns;
	uint32_t i;

	for (i = 0; ep->cfg.idle == DP_IDLE_SPIN || i < DP_IDLE_YIELDS; i++) {
		if (app_has_work(ep))
			return;
		if (ep->cfg.idle == DP_IDLE_SPIN) {
			if ((i & 1023u) == 0 &&
			    (ps_now_ns() >= end_ns || (n_fds > 0 && poll(fds, n_fds, 0) > 0)))
				return;
			ps_pause();
		} else if (yield_is_long()) {
			break;
		}
	}
	dp_bell_arm(ep->cfg.app_bell, n_fds > 0);
	if (app_has_work(ep))
		dp_bell_disarm(ep->cfg.app_bell);
	else
		dp_bell_wait(ep->cfg.app_bell, fds, n_fds, timeout_ns);
}

void dp_endpoint_stats(const struct dp_endpoint *ep, struct dp_endpoint_stats *out)
{
	out->loops = atomic_load_explicit(&ep->loops, memory_order_relaxed);
	out->busy_loops = atomic_load_explicit(&ep->busy_loops, memory_order_relaxed);
	out->sleeps = dp_bell_sleeps(ep->cfg.io_bell);
	out->rx_unknown_link = atomic_load_explicit(&ep->rx_unknown_link, memory_order_relaxed);
	out->tx_dropped = atomic_load_explicit(&ep->tx_dropped, memory_order_relaxed);
}

enum dp_link_state dp_endpoint_link_state(const struct dp_endpoint *ep, uint32_t link)
{
	return (enum dp_link_state)atomic_load_explicit(&ep->links[link].state, memory_order_relaxed);
}

uint64_t dp_endpoint_link_srtt_ns(const struct dp_endpoint *ep, uint32_t link)
{
	return atomic_load_explicit(&ep->links[link].srtt_ns, memory_order_relaxed);
}

const uint64_t *dp_endpoint_link_counters(const struct dp_endpoint *ep, uint32_t link)
{
	return dp_link_counters(ep->links[link].link);
}
