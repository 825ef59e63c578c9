/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_NIC_XDP_GUARD_H
#define PENSTOCK_NIC_XDP_GUARD_H
/*
 * What the XDP program (xdp_guard.bpf.c, built for the kernel's BPF machine) and
 * the code that loads it agree on: the maps' names, keys and values. Included by
 * both, so it holds nothing but layouts. Addresses and ports are in network byte
 * order, as they stand in the packet.
 */
#include <linux/types.h>

#define NIC_GUARD_PROG      "penstock_guard" /* at most 15 characters: the kernel cuts there */
#define NIC_GUARD_MAX_PEERS 64
#define NIC_GUARD_MAX_PORTS 16

/* Map `endpoints`: the addresses on which a process listens, and which process. */
struct nic_guard_endpoint {
	__be32 ip;
	__be16 udp_port;
	__be16 pad;
};

/* start_time (field 22 of /proc/PID/stat) tells a reused pid apart. */
struct nic_guard_owner {
	__u32 pid;
	__u32 pad;
	__u64 start_time;
};

/* Indices of the per-CPU map `counters`. */
enum nic_guard_counter {
	NIC_GUARD_REDIRECTED, /* a peer's packet, given to the application */
	NIC_GUARD_DROPPED,    /* a stranger knocked on our port, or a peer with IP options */
	NIC_GUARD_PASSED,     /* everything else: the kernel's */
	NIC_GUARD_NO_SOCKET,  /* a peer's packet on a queue without a socket: dropped */
	NIC_GUARD_N_COUNTERS
};

#endif
