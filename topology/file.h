/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_FILE_H
#define PENSTOCK_TOPOLOGY_FILE_H
/*
 * A topology file as it was written: every key with its place in the file, and
 * nothing derived yet (derive.c does that). Private to topology/.
 */
#include "topology/topology.h"
#include "topology/yread.h"

struct topo_file_node {
	struct topo_node v;
	struct yr_mark at, name_at, netns_at;
};

struct topo_file_proc {
	struct topo_proc v;
	char node[TOPO_NAME_BYTES]; /* "" : not given */
	bool has_blocks;
	struct yr_mark at, name_at, node_at, blocks_at;
};

struct topo_file_end {
	char proc[TOPO_NAME_BYTES];
	char iface[16];          /* IFNAMSIZ with its terminator */
	uint32_t ip, prefix_len; /* prefix_len 0: not given */
	uint8_t mac[6];
	struct yr_mark proc_at, iface_at, ip_at;
};

struct topo_file_link {
	struct topo_file_end end[2];
	int driver;             /* -1: not given */
	uint32_t mtu, udp_port; /* 0: not given */
	struct yr_mark at, driver_at, mtu_at;
};

struct topo_file {
	uint32_t version;
	char name[TOPO_NAME_BYTES];
	struct topo_model model;
	bool has_model;
	struct topo_wire wire; /* mtu 0: not given */
	int wire_driver;
	struct yr_mark wire_driver_at, wire_mtu_at;
	struct topo_file_node nodes[TOPO_MAX_NODES];
	uint32_t n_nodes;
	struct topo_file_proc stages[TOPO_MAX_STAGES];
	uint32_t n_stages;
	struct topo_file_proc gateway;
	struct topo_file_link links[TOPO_MAX_LINKS];
	uint32_t n_links;
};

/* Reads the root mapping of `r` into `f` (zeroed by the caller). */
int ps_warn_unused topo_file_read(struct yr *r, struct topo_file *f);

/* Applies the overrides and fills `t` (zeroed by the caller, with its path set). */
int ps_warn_unused topo_derive(struct yr *r, struct topo_file *f, const struct topo_overrides *ov,
			       struct topology *t);

/* Limits and defaults of a driver. */
uint32_t topo_driver_mtu_default(enum topo_driver d);
uint32_t topo_driver_mtu_max(enum topo_driver d);
#define TOPO_MTU_MIN 576u /* what every IPv4 host must take (RFC 791) */

extern const struct yr_choice topo_driver_choices[];

#endif
