/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_NIC_INTERNAL_H
#define PENSTOCK_NIC_INTERNAL_H
/*
 * What the files of nic/ share: the port's structure and the calls between
 * start-up (nic.c), EAL (eal.c), pools (pool.c), the packet path (port.c) and the
 * two drivers (memif.c, af_xdp.c). Not for anyone outside nic/.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "nic/frame.h"
#include "nic/nic.h"
#include "nic/xdp_guard.h"

#define NIC_BURST    64u
#define NIC_PATH_MAX 108u /* sockaddr_un's */
/* 4 KB page - mempool header - mbuf - headroom - XDP's own headroom - Ethernet header; it is also
 * the most that veth carries with a native XDP program. */
#define NIC_AF_XDP_MTU_MAX 3506u
#define NIC_MEMIF_MTU_MAX  (65535u - NIC_ETH_BYTES)
#define NIC_MTU_MIN        576u

struct nic_peer {
	uint64_t key; /* ip << 16 | udp_port */
	uint32_t ip;
	struct nic_frame_template tmpl;
	bool resolved;   /* the template holds the peer's MAC */
	bool static_mac; /* by configuration: never asked for again */
	char bell_path[NIC_PATH_MAX + 8];
	struct dp_bell *bell; /* NULL: not opened yet */
	uint64_t bell_retry_tsc;
};

struct nic_port {
	struct dp_port base;
	uint16_t eth; /* DPDK's port id */
	bool guarded; /* memif: bursts enter under the intr guard */
	bool link_up;
	bool configured;
	bool started; /* memif: written under the intr guard */
	enum nic_driver driver;
	uint32_t ip;
	uint16_t udp_port;
	uint32_t n_peers;
	struct nic_peer peers[NIC_MAX_PEERS];
	struct rte_mempool *pool;
	struct dp_port_counters n;

	/* Housekeeping when a poll found nothing: bounded by time, not by polls. */
	uint64_t housekeep_tsc;
	uint64_t housekeep_every_tsc;
	void (*housekeep)(struct nic_port *p, uint64_t now_tsc);

	/* memif */
	bool memif_server;
	bool zero_copy;
	char socket_path[NIC_PATH_MAX];
	uint64_t reconnect_tsc;
	atomic_bool reconnecting; /* an alarm is queued or running */
	atomic_uint reconnects;

	/* af_xdp */
	char iface[16];
	int ifindex;
	int xsk_fd;
	int netlink_fd;
	int prog_fd, counters_fd; /* of the attached XDP program */
	uint32_t prog_id;

	char dev_name[22];
	char text[320]; /* describe() */
};

/* eal.c */
int ps_warn_unused nic_eal_start(const struct nic_cfg *cfg, uint64_t need_bytes, struct ps_err *err);
void nic_eal_stop(void);
/* After a start: the log goes to stderr again. */
void nic_eal_log_loud(void);
void nic_eal_log_quiet(void);
bool nic_eal_hugepages(void);
bool nic_eal_capture(void);
const char *nic_eal_describe(void);
/* The last lines that DPDK logged, for an error text; emptied by nic_eal_log_clear. */
const char *nic_eal_log_tail(void);
void nic_eal_log_clear(void);

/* pool.c: mbufs of which each holds one frame of the port, in one piece of memory. `mem` NULL:
 * from EAL's; otherwise *mem is moved past what was taken. */
struct nic_pool_shape {
	uint32_t n_mbufs;
	uint32_t data_room; /* with headroom */
	uint32_t shift;     /* bytes by which buffers start later, for the payload's alignment */
	uint64_t bytes;     /* of memory for the objects */
};
struct nic_pool_shape nic_pool_shape(const struct nic_port_cfg *cfg);
int ps_warn_unused nic_pool_create(struct nic_port *p, const struct nic_pool_shape *shape, uint8_t **mem,
				   uint64_t *mem_left, struct ps_err *err);
void nic_pool_destroy(struct nic_port *p);
/* Marks, for nic_pool_reclaim, that the application holds a buffer. */
void nic_pool_mark_init(void);
void nic_pool_mark_held(struct rte_mbuf *m, bool held);
/* Gives back every mbuf that neither the pool nor the application has: those that the memif
 * driver forgets when its peer goes away. I/O thread, port disconnected. Returns how many. */
uint32_t nic_pool_reclaim(struct rte_mempool *pool);

/* port.c */
extern const struct dp_port_ops nic_port_ops;
/* The MAC of a memif port, which is nobody's: 02:00:<ip>. */
void nic_port_memif_mac(uint32_t ip, uint8_t mac_out[6]);
/* Fills the peer's template; it can be sent to from now on. */
void nic_port_set_mac(struct nic_port *p, struct nic_peer *peer, const uint8_t mac[6]);
void nic_port_close_bells(struct nic_port *p);
/* The calling thread's own mempool cache, once a thread. */
void nic_thread_register(void);

/* The drivers: make the ethdev of a port whose pool exists and start it; undo. */
int ps_warn_unused nic_memif_open(struct nic_port *p, const struct nic_port_cfg *cfg, uint32_t wait_ms,
				  struct ps_err *err);
int ps_warn_unused nic_af_xdp_open(struct nic_port *p, const struct nic_port_cfg *cfg, struct ps_err *err);
void nic_memif_close(struct nic_port *p);
void nic_af_xdp_close(struct nic_port *p);
/* Configures one queue each way and starts the port. */
int ps_warn_unused nic_ethdev_start(struct nic_port *p, uint16_t n_desc, struct ps_err *err);
void nic_ethdev_close(struct nic_port *p);

/* Checks that need no EAL. */
int ps_warn_unused nic_memif_check(const struct nic_port_cfg *cfg, struct ps_err *err);
int ps_warn_unused nic_af_xdp_check(const struct nic_port_cfg *cfg, struct ps_err *err);

#endif
