/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_LOOPBACK_H
#define PENSTOCK_DATAPLANE_LOOPBACK_H
/*
 * Two ports joined back to back by shared memory: between two threads of one
 * process, or between two processes where one forks the other after
 * dp_loopback_create. Needs neither DPDK nor root, so it carries the endpoint's
 * tests and is the floor that `bench link` compares drivers with. It can lose
 * packets on purpose, repeatably. Not for production: it reaches no other host
 * and no process that was started separately.
 *
 * Each direction has a fixed number of frames. The sender keeps a stack of free
 * ones, so that an idle link uses the same few and they stay in cache; the
 * receiver may give them back in any order.
 */
#include <stdint.h>

#include "base/err.h"
#include "dataplane/bell.h"
#include "dataplane/port.h"

#define DP_LOOPBACK_MTU_MIN    128u
#define DP_LOOPBACK_MTU_MAX    65535u
#define DP_LOOPBACK_FRAMES_MAX 65536u

struct dp_loopback;

struct dp_loopback_cfg {
	uint32_t mtu;        /* largest IP packet; 28 bytes of it stand for the headers that are not there */
	uint32_t n_frames;   /* in flight in one direction at most; a power of two */
	uint32_t lose_every; /* every so many packets sent, one is lost; 0: none */
	uint32_t lose_ppm;   /* besides, each packet is lost with this probability, in millionths */
	uint64_t seed;       /* of the losses: the same seed loses the same packets of each side */
};

/* Maps the memory of both directions. -EINVAL: a value out of range; -ENOMEM. */
int ps_warn_unused dp_loopback_create(const struct dp_loopback_cfg *cfg, struct dp_loopback **lb_out,
				      struct ps_err *err);
/* The port of side 0 or 1; its one peer has index 0. After a fork each process uses one side.
 * Closing a port frees nothing: the pair lives until dp_loopback_destroy. */
struct dp_port *dp_loopback_port(struct dp_loopback *lb, uint32_t side);
/* What ring_peer of this side rings: the bell on which the other side's I/O thread sleeps; borrowed,
 * NULL: nothing. Before the port is used. */
void dp_loopback_set_peer_bell(struct dp_loopback *lb, uint32_t side, struct dp_bell *bell);
/* Packets that this side lost on purpose. */
uint64_t dp_loopback_lost(const struct dp_loopback *lb, uint32_t side);
/* Frames of the direction from this side that are neither sent nor held by the receiver: n_frames
 * when all is quiet. For the sending thread. */
uint32_t dp_loopback_free_frames(struct dp_loopback *lb, uint32_t side);
/* Unmaps this process's view; each process of a fork does it once. */
void dp_loopback_destroy(struct dp_loopback *lb);

#endif
