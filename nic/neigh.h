/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_NIC_NEIGH_H
#define PENSTOCK_NIC_NEIGH_H
/*
 * Peers' MAC addresses, from the kernel's neighbour table: on AF_XDP ports ARP
 * stays the kernel's business. Peers have to be on the link itself; a route over
 * a gateway is not followed. Not for memif, whose MACs are made up.
 */
#include <stdint.h>

#include "base/err.h"

/* A non-blocking netlink socket in the current network namespace, or -errno. */
int ps_warn_unused nic_neigh_open(void);

/* Asks the kernel for the MAC of `ip` (host byte order) on an interface: 0, -ENOENT while it
 * is not known, or another -errno. One request and one answer, about 10 µs, never waits. */
int ps_warn_unused nic_neigh_lookup(int netlink_fd, int ifindex, uint32_t ip, uint8_t mac_out[6]);

/* Makes the kernel ask for it (ARP), by an empty datagram to the discard port. Never waits. */
void nic_neigh_provoke(const char *iface, uint32_t ip);

#endif
