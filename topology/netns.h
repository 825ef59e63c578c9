/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_NETNS_H
#define PENSTOCK_TOPOLOGY_NETNS_H
/*
 * Network namespaces and veth pairs of a local deployment, made with `ip`
 * (iproute2), which is run without a shell. All need root.
 */
#include "topology/topology.h"

/* Runs a program to its end; its last words are in the error when it fails. `input` may be NULL. */
int ps_warn_unused run_program(const char *const argv[], const char *input, struct ps_err *err);

bool netns_exists(const char *name);
/* Makes a namespace with its loopback up. -EEXIST where there is one already. */
int ps_warn_unused netns_add(const char *name, struct ps_err *err);
/* 0 where there is none. Interfaces and veth pairs in it go with it. */
int ps_warn_unused netns_del(const char *name, struct ps_err *err);

/* Makes the veth pair of a link between two namespaces, with MTU, MAC and IP addresses and
 * permanent neighbour entries, so that no packet ever waits for ARP. */
int ps_warn_unused netns_veth_add(const struct topology *t, const struct topo_link *l, struct ps_err *err);

/* Moves the calling process into a namespace, with a /sys that shows its interfaces. For a
 * child before exec. */
int ps_warn_unused netns_enter(const char *name, struct ps_err *err);

#endif
