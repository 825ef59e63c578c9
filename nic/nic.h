/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_NIC_NIC_H
#define PENSTOCK_NIC_NIC_H
/*
 * Ports on DPDK: starts EAL, creates the ports of one process and hands them out
 * as dp_port objects that carry Penstock packets as UDP/IPv4 over Ethernet.
 * Drivers: memif (between two processes of a host) and af_xdp (any kernel
 * interface, with our own XDP program). Not for the link protocol, and no DPDK
 * type shows here.
 *
 * nic_start and nic_stop: the main thread; the ports: the I/O thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "dataplane/bell.h"
#include "dataplane/port.h"

#define NIC_MAX_PORTS 8u
#define NIC_MAX_PEERS 8u

enum nic_driver { NIC_DRIVER_MEMIF, NIC_DRIVER_AF_XDP };

struct nic_peer_cfg {
	uint32_t ip; /* host byte order */
	uint16_t udp_port;
	uint8_t mac[6];        /* all zero: memif derives it from the ip, af_xdp asks the kernel */
	const char *bell_path; /* memif: the peer's doorbell (bell.h), or NULL */
};

struct nic_port_cfg {
	enum nic_driver driver;
	const char *iface;       /* af_xdp */
	const char *socket_path; /* memif; the server creates it, the client waits for it */
	bool memif_server;
	uint32_t ip;
	uint16_t udp_port;
	uint32_t mtu; /* largest IP packet asked for; refused with the limit if the driver can't */
	struct nic_peer_cfg peers[NIC_MAX_PEERS];
	uint32_t n_peers;
};

struct nic_cfg {
	const char *name;        /* process name, for logs and, if there is no other, the EAL prefix */
	const char *file_prefix; /* EAL's --file-prefix; NULL: penstock-NAME-PID */
	uint32_t hugepages_mb;   /* 0: --no-huge */
	bool capture;            /* allow dpdk-dumpcap to attach (hugepage files exist meanwhile) */
	int eal_argc;            /* the user's EAL arguments, passed through; they win */
	char **eal_argv;
	const struct nic_port_cfg *ports;
	uint32_t n_ports;
	/* Optional: pool memory that an accelerator owns; NULL for EAL's own. Must hold
	 * nic_pool_bytes(). Drivers that cannot take it make nic_start fail with -ENOTSUP. */
	void *pool_mem;
	uint64_t pool_mem_bytes;
	uint32_t wait_ms; /* how long a memif client waits for its server's socket; 0: 10 s */
};

/* Starts EAL (once a process) and all ports. On failure everything is undone; errors: -EINVAL
 * (the configuration or an EAL argument), -ENOMEM (hugepages: text names the command), -ENOTSUP,
 * -EPERM, -ETIMEDOUT. */
int ps_warn_unused nic_start(const struct nic_cfg *cfg, struct dp_port **ports_out, struct ps_err *err);
/* Closes ports, detaches the XDP program, removes what was created. The process must leave by
 * _exit() afterwards: DPDK 22.11's interrupt thread can crash in a normal exit. */
void nic_stop(void);

/* The memory a port's pool takes, for pool_mem. */
uint64_t nic_pool_bytes(const struct nic_port_cfg *port);

/* One line: EAL memory mode in use ("hugepages=64MB" or "no-huge"), for status and the start line. */
const char *nic_describe(void);

/* What the XDP program of an af_xdp port has decided so far, over all CPUs. */
struct nic_guard_counts {
	uint64_t redirected; /* peers' packets, given to the application */
	uint64_t dropped;    /* strangers who knocked on our port */
	uint64_t passed;     /* everything else: the kernel's */
	uint64_t no_socket;  /* peers' packets on a queue without a socket: dropped */
};
/* -ENOTSUP for a memif port. Any thread. */
int ps_warn_unused nic_port_guard_counts(struct dp_port *port, struct nic_guard_counts *out);

/* Removes what killed processes whose EAL prefix begins with `prefix` (which itself begins with
 * "penstock-") left behind: runtime directories and hugepage files. Those of living processes
 * stay. Returns how many files and directories were removed, or -EINVAL. nic_start does it for
 * its own name. Hugepage files are left only by processes that ran with `capture`. */
int nic_cleanup_stale(const char *prefix);

#endif
