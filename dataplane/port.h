/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_PORT_H
#define PENSTOCK_DATAPLANE_PORT_H
/*
 * What the link protocol and the poll loop see of a network port: bursts of
 * Penstock packets (the UDP payload: header and data; Ethernet, IP and UDP are
 * the port's business) to and from numbered peers. nic/ implements it on DPDK,
 * dp_loopback_* in memory. Not for configuration: a port is opened and its
 * peers are set by whoever created it.
 *
 * One thread (the I/O thread) calls all functions of a port.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dp_port;

/* A received packet. `data` stays valid until buf_free(buf). */
struct dp_rx_pkt {
	const uint8_t *data; /* Penstock header, then payload */
	uint32_t len;
	uint16_t peer; /* index of the sender among the port's peers */
	void *buf;     /* the port's buffer, to be given back once */
};

#define DP_HDR_BYTES 48u

/* A packet to send: header and payload are gathered (one counted copy) by the port. */
struct dp_tx_pkt {
	uint8_t hdr[DP_HDR_BYTES];
	const uint8_t *payload; /* valid until tx_burst returns */
	uint32_t payload_len;
	uint16_t peer;
};

struct dp_port_counters {
	uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
	uint64_t rx_strangers;  /* well-formed UDP, but no peer of ours */
	uint64_t rx_malformed;  /* not Ethernet/IPv4/UDP to our port, or torn */
	uint64_t tx_no_buffer;  /* pool empty: packet not taken, the link retries */
	uint64_t tx_ring_full;  /* driver took fewer packets than offered */
	uint64_t copied_bytes;  /* payload bytes copied by the port on transmit */
	uint64_t tx_unresolved; /* dropped: the neighbour's MAC is not known yet */
};

struct dp_port_ops {
	/* Up to `n` packets; never blocks. */
	uint32_t (*rx_burst)(struct dp_port *p, struct dp_rx_pkt *pkts, uint32_t n);
	/* Takes packets in order and returns how many; the rest stay the caller's. Never blocks. */
	uint32_t (*tx_burst)(struct dp_port *p, const struct dp_tx_pkt *pkts, uint32_t n);
	/* Gives a received buffer back. */
	void (*buf_free)(struct dp_port *p, void *buf);
	/* A descriptor that polls readable when packets wait, or -1 (memif: the peer rings our bell). */
	int (*wait_fd)(struct dp_port *p);
	/* Wakes the peer's I/O thread if it sleeps on its bell; a no-op where the driver interrupts. */
	void (*ring_peer)(struct dp_port *p, uint16_t peer);
	/* Is the carrier up (memif: has the peer connected)? */
	bool (*link_up)(struct dp_port *p);
	void (*counters)(struct dp_port *p, struct dp_port_counters *out);
	/* One line of what is really in use, e.g. "af_xdp iface=v0 mode=native,copy mtu=3400 hugepages=yes".
	 */
	const char *(*describe)(struct dp_port *p);
	void (*close)(struct dp_port *p);
};

/* Implementations embed this first. */
struct dp_port {
	const struct dp_port_ops *ops;
	uint32_t mtu;     /* largest IP packet, bytes */
	uint32_t rx_ring; /* packets its receive ring holds */
};

static inline uint32_t dp_port_rx(struct dp_port *p, struct dp_rx_pkt *pkts, uint32_t n)
{
	return p->ops->rx_burst(p, pkts, n);
}

static inline uint32_t dp_port_tx(struct dp_port *p, const struct dp_tx_pkt *pkts, uint32_t n)
{
	return p->ops->tx_burst(p, pkts, n);
}

static inline void dp_port_buf_free(struct dp_port *p, void *buf)
{
	p->ops->buf_free(p, buf);
}

static inline void dp_port_close(struct dp_port *p)
{
	if (p != NULL)
		p->ops->close(p);
}

#endif
