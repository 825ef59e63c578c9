/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_PROC_H
#define PENSTOCK_CLI_PROC_H
/*
 * What a stage and the gateway have in common as processes: arguments, the
 * topology and the model, the doorbell, the ports, the endpoint and its I/O
 * thread, readiness, signals. It joins topology/, nic/ and dataplane/.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "dataplane/endpoint.h"
#include "dataplane/slots.h"
#include "model/graph.h"
#include "topology/topology.h"

struct proc_args {
	const char *cmd; /* "stage" or "gateway" */
	const char *topology;
	const char *name; /* NULL: the gateway's */
	char run_dir[TOPO_PATH_BYTES];
	int ready_fd; /* -1: none; "READY\n" is written there once */
	int eal_argc;
	char **eal_argv; /* what stood before "--" */
};

/* Parses `[EAL args] -- [own args]` or `[own args]`. -1: go on; else the exit code. */
int proc_parse_args(int argc, char **argv, const char *usage, struct proc_args *a);

struct proc {
	struct proc_args args;
	bool by_hand; /* no launcher has named a run directory: the last process removes it */
	struct topology *topo;
	const struct topo_proc *self;
	uint32_t self_index;
	struct gguf *gguf;
	struct model_hparams hp;
	uint32_t n_ctx;
	uint32_t max_msg_bytes;
	struct dp_bell *io_bell, *app_bell;
	struct dp_port *ports[DP_ENDPOINT_MAX_LINKS];
	uint32_t n_ports;
	struct dp_slots *rx_slots; /* of all links, one after the other */
	struct dp_endpoint *ep;
	uint32_t n_links;
	uint16_t link_ids[DP_ENDPOINT_MAX_LINKS];   /* by endpoint link number */
	uint32_t link_peers[DP_ENDPOINT_MAX_LINKS]; /* index of the peer among topo->procs */
	void *io_thread;
};

/* Set by SIGTERM and SIGINT once proc_open was called. */
extern _Atomic int proc_stop;

/* Loads topology and model and resolves block ranges and context. */
int ps_warn_unused proc_load(struct proc *p, const struct proc_args *args, struct ps_err *err);
/* Brings up ports and endpoint and starts the I/O thread. */
int ps_warn_unused proc_start(struct proc *p, struct ps_err *err);
/* The endpoint's number of the link from (upstream) or to (downstream) our neighbour. */
uint32_t proc_link_up(const struct proc *p);
uint32_t proc_link_down(const struct proc *p);
/* Ends the I/O thread: after it, buffers that were being sent may be freed. */
void proc_stop_io(struct proc *p);
void proc_close(struct proc *p);

/* Writes READY to the launcher, once. ctx: a struct proc. */
void proc_ready(void *ctx);

/* Adds ports, links, memory and idling to a status object. ctx: a struct proc. */
void proc_status(void *ctx, json_t *object);

#endif
