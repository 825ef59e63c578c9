/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/loopback.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"

#define LB_LINE         64u
#define LB_IP_UDP_BYTES 28u /* IPv4 and UDP headers, which the mtu counts */
#define LB_DESCRIBE_CAP 160u

enum lb_frame_state { LB_FREE, LB_SENT, LB_HELD };

/* In front of each frame's bytes. Written by whoever owns the frame, handed over with the rings. */
struct lb_frame {
	uint32_t len;
	uint32_t state;
	uint8_t pad[LB_LINE - 8];
	uint8_t data[];
};

/* A ring of frame numbers in shared memory; it holds n_frames, so it is never full. */
struct lb_ring {
	_Alignas(LB_LINE) _Atomic uint32_t head; /* consumer's */
	_Alignas(LB_LINE) _Atomic uint32_t tail; /* producer's */
	_Alignas(LB_LINE) uint32_t slots[];
};

/* One direction as one process sees it. */
struct lb_dir {
	struct lb_ring *sent; /* sender to receiver */
	struct lb_ring *back; /* receiver to sender */
	uint8_t *frames;
};

struct lb_port {
	struct dp_port base;
	struct dp_loopback *lb;
	struct lb_dir tx, rx;
	uint32_t *stack; /* numbers of free frames of tx */
	uint32_t n_stack;
	struct dp_bell *peer_bell;
	uint64_t random, n_sent, n_lost;
	struct dp_port_counters counters;
	char text[LB_DESCRIBE_CAP];
};

struct dp_loopback {
	struct dp_loopback_cfg cfg;
	struct lb_port ports[2];
	size_t frame_stride;
	size_t map_bytes;
	uint8_t *map;
};

static uint64_t next_random(uint64_t *state)
{
	/* splitmix64 (Steele, Lea, Flood 2014). */
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static struct lb_frame *frame_at(const struct lb_port *p, const struct lb_dir *d, uint32_t i)
{
	return (struct lb_frame *)(void *)(d->frames + (size_t)i * p->lb->frame_stride);
}

static void ring_push(struct lb_ring *r, uint32_t mask, uint32_t value)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	r->slots[tail & mask] = value;
	/* Pairs with the acquire in ring_pop: the frame's bytes and number are visible before the tail. */
	atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
}

static bool ring_pop(struct lb_ring *r, uint32_t mask, uint32_t *value_out)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	/* Pairs with the release in ring_push. */
	if (head == atomic_load_explicit(&r->tail, memory_order_acquire))
		return false;
	*value_out = r->slots[head & mask];
	/* A ring holds all frames, so its producer never looks at the head: no order is needed. */
	atomic_store_explicit(&r->head, head + 1, memory_order_relaxed);
	return true;
}

static void collect_free(struct lb_port *p)
{
	uint32_t i;

	while (ring_pop(p->tx.back, p->lb->cfg.n_frames - 1, &i))
		p->stack[p->n_stack++] = i;
}

static bool lose(struct lb_port *p)
{
	const struct dp_loopback_cfg *cfg = &p->lb->cfg;
	bool lost = false;

	p->n_sent++;
	if (cfg->lose_every != 0 && p->n_sent % cfg->lose_every == 0)
		lost = true;
	if (cfg->lose_ppm != 0 && next_random(&p->random) % 1000000u < cfg->lose_ppm)
		lost = true;
	p->n_lost += lost;
	return lost;
}

static void send_frame(struct lb_port *p, const struct dp_tx_pkt *pkt)
{
	uint32_t i = p->stack[--p->n_stack];
	struct lb_frame *f = frame_at(p, &p->tx, i);

	CHECK(f->state == LB_FREE);
	f->state = LB_SENT;
	f->len = DP_HDR_BYTES + pkt->payload_len;
	memcpy(f->data, pkt->hdr, DP_HDR_BYTES);
	if (pkt->payload_len > 0)
		memcpy(f->data + DP_HDR_BYTES, pkt->payload, pkt->payload_len);
	p->counters.copied_bytes += pkt->payload_len;
	ring_push(p->tx.sent, p->lb->cfg.n_frames - 1, i);
}

static uint32_t lb_tx_burst(struct dp_port *port, const struct dp_tx_pkt *pkts, uint32_t n)
{
	struct lb_port *p = (struct lb_port *)port;
	uint32_t i;

	for (i = 0; i < n; i++) {
		const uint64_t bytes = (uint64_t)DP_HDR_BYTES + pkts[i].payload_len;

		CHECK(pkts[i].peer == 0 && bytes + LB_IP_UDP_BYTES <= port->mtu);
		if (p->n_stack == 0)
			collect_free(p);
		if (p->n_stack == 0) {
			p->counters.tx_ring_full++;
			break;
		}
		if (!lose(p))
			send_frame(p, &pkts[i]);
		p->counters.tx_packets++;
		p->counters.tx_bytes += bytes;
	}
	return i;
}

static uint32_t lb_rx_burst(struct dp_port *port, struct dp_rx_pkt *pkts, uint32_t n)
{
	struct lb_port *p = (struct lb_port *)port;
	uint32_t i, number;

	for (i = 0; i < n && ring_pop(p->rx.sent, p->lb->cfg.n_frames - 1, &number); i++) {
		struct lb_frame *f = frame_at(p, &p->rx, number);

		CHECK(f->state == LB_SENT);
		f->state = LB_HELD;
		pkts[i] = (struct dp_rx_pkt){.data = f->data, .len = f->len, .peer = 0, .buf = f};
		p->counters.rx_packets++;
		p->counters.rx_bytes += f->len;
	}
	return i;
}

static void lb_buf_free(struct dp_port *port, void *buf)
{
	struct lb_port *p = (struct lb_port *)port;
	struct lb_frame *f = buf;
	size_t offset = (size_t)((uint8_t *)buf - p->rx.frames);

	/* A frame of another port, or given back twice. */
	CHECK(offset % p->lb->frame_stride == 0 && offset / p->lb->frame_stride < p->lb->cfg.n_frames);
	CHECK(f->state == LB_HELD);
	f->state = LB_FREE;
	ring_push(p->rx.back, p->lb->cfg.n_frames - 1, (uint32_t)(offset / p->lb->frame_stride));
}

static int lb_wait_fd(struct dp_port *port)
{
	(void)port;
	return -1;
}

static void lb_ring_peer(struct dp_port *port, uint16_t peer)
{
	struct lb_port *p = (struct lb_port *)port;

	CHECK(peer == 0);
	if (p->peer_bell != NULL)
		dp_bell_ring(p->peer_bell);
}

static bool lb_link_up(struct dp_port *port)
{
	(void)port;
	return true;
}

static void lb_counters(struct dp_port *port, struct dp_port_counters *out)
{
	*out = ((struct lb_port *)port)->counters;
}

static const char *lb_describe(struct dp_port *port)
{
	return ((struct lb_port *)port)->text;
}

static void lb_close(struct dp_port *port)
{
	((struct lb_port *)port)->peer_bell = NULL;
}

static const struct dp_port_ops lb_ops = {
    .rx_burst = lb_rx_burst,
    .tx_burst = lb_tx_burst,
    .buf_free = lb_buf_free,
    .wait_fd = lb_wait_fd,
    .ring_peer = lb_ring_peer,
    .link_up = lb_link_up,
    .counters = lb_counters,
    .describe = lb_describe,
    .close = lb_close,
};

static int check_cfg(const struct dp_loopback_cfg *cfg, struct ps_err *err)
{
	if (cfg->mtu < DP_LOOPBACK_MTU_MIN || cfg->mtu > DP_LOOPBACK_MTU_MAX)
		return ps_err_set(err, -EINVAL, "loopback: mtu %u, expected %u to %u", cfg->mtu,
				  DP_LOOPBACK_MTU_MIN, DP_LOOPBACK_MTU_MAX);
	if (cfg->n_frames < 2 || cfg->n_frames > DP_LOOPBACK_FRAMES_MAX ||
	    (cfg->n_frames & (cfg->n_frames - 1)) != 0)
		return ps_err_set(err, -EINVAL, "loopback: %u frames, expected a power of two from 2 to %u",
				  cfg->n_frames, DP_LOOPBACK_FRAMES_MAX);
	if (cfg->lose_ppm > 1000000u)
		return ps_err_set(err, -EINVAL, "loopback: loses %u packets of a million", cfg->lose_ppm);
	return 0;
}

static int init_port(struct dp_loopback *lb, uint32_t side, const struct lb_dir dirs[2])
{
	struct lb_port *p = &lb->ports[side];
	uint32_t i;

	p->base.ops = &lb_ops;
	p->base.mtu = lb->cfg.mtu;
	p->base.rx_ring = lb->cfg.n_frames;
	p->lb = lb;
	p->tx = dirs[side];
	p->rx = dirs[1 - side];
	p->random = lb->cfg.seed + side;
	p->stack = calloc(lb->cfg.n_frames, sizeof(*p->stack));
	if (p->stack == NULL)
		return -ENOMEM;
	for (i = 0; i < lb->cfg.n_frames; i++)
		p->stack[i] = lb->cfg.n_frames - 1 - i;
	p->n_stack = lb->cfg.n_frames;
	snprintf(p->text, sizeof(p->text), "loopback shared-memory,copy mtu=%u frames=%u%s", lb->cfg.mtu,
		 lb->cfg.n_frames,
		 lb->cfg.lose_every != 0 || lb->cfg.lose_ppm != 0 ? " loss=deliberate" : "");
	return 0;
}

int dp_loopback_create(const struct dp_loopback_cfg *cfg, struct dp_loopback **lb_out, struct ps_err *err)
{
	struct dp_loopback *lb;
	struct lb_dir dirs[2];
	size_t ring_bytes, dir_bytes;
	uint32_t i;
	int rc = check_cfg(cfg, err);

	if (rc != 0)
		return rc;
	lb = calloc(1, sizeof(*lb));
	if (lb == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for a loopback");
	lb->cfg = *cfg;
	lb->frame_stride = (sizeof(struct lb_frame) + cfg->mtu + LB_LINE - 1) & ~(size_t)(LB_LINE - 1);
	ring_bytes = (sizeof(struct lb_ring) + cfg->n_frames * sizeof(uint32_t) + LB_LINE - 1) &
		     ~(size_t)(LB_LINE - 1);
	dir_bytes = 2 * ring_bytes + cfg->n_frames * lb->frame_stride;
	lb->map_bytes = 2 * dir_bytes;
	lb->map = mmap(NULL, lb->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (lb->map == MAP_FAILED) {
		rc = ps_err_set(err, -ENOMEM, "loopback: cannot map %zu bytes: %s", lb->map_bytes,
				strerror(errno));
		free(lb);
		return rc;
	}
	for (i = 0; i < 2; i++) {
		uint8_t *at = lb->map + i * dir_bytes;

		dirs[i].sent = (struct lb_ring *)(void *)at;
		dirs[i].back = (struct lb_ring *)(void *)(at + ring_bytes);
		dirs[i].frames = at + 2 * ring_bytes;
	}
	for (i = 0; i < 2 && rc == 0; i++)
		rc = init_port(lb, i, dirs);
	if (rc != 0) {
		dp_loopback_destroy(lb);
		return ps_err_set(err, rc, "out of memory for a loopback");
	}
	*lb_out = lb;
	return 0;
}

struct dp_port *dp_loopback_port(struct dp_loopback *lb, uint32_t side)
{
	CHECK(side < 2);
	return &lb->ports[side].base;
}

void dp_loopback_set_peer_bell(struct dp_loopback *lb, uint32_t side, struct dp_bell *bell)
{
	CHECK(side < 2);
	lb->ports[side].peer_bell = bell;
}

uint64_t dp_loopback_lost(const struct dp_loopback *lb, uint32_t side)
{
	CHECK(side < 2);
	return lb->ports[side].n_lost;
}

uint32_t dp_loopback_free_frames(struct dp_loopback *lb, uint32_t side)
{
	CHECK(side < 2);
	collect_free(&lb->ports[side]);
	return lb->ports[side].n_stack;
}

void dp_loopback_destroy(struct dp_loopback *lb)
{
	if (lb == NULL)
		return;
	free(lb->ports[0].stack);
	free(lb->ports[1].stack);
	munmap(lb->map, lb->map_bytes);
	free(lb);
}
