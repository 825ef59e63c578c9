/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_STATE_H
#define PENSTOCK_TOPOLOGY_STATE_H
/*
 * What a deployment has taken from this machine, kept in RUN_DIR/state.yaml from
 * before it is taken until after it is given back: a launcher that was killed
 * can be cleaned up after by anyone who reads it.
 */
#include <sys/types.h>

#include "topology/topology.h"

struct launch_state_proc {
	char name[TOPO_NAME_BYTES];
	uint32_t pid;
	uint64_t start_ticks; /* of /proc/PID/stat: guards against a reused pid */
};

struct launch_state_netns {
	char name[TOPO_NAME_BYTES];
};

struct launch_state {
	char name[TOPO_NAME_BYTES]; /* of the deployment */
	uint32_t launcher_pid;
	uint64_t launcher_start_ticks;
	bool detached;            /* outlives its launcher */
	bool ready;               /* all processes have said so */
	uint32_t hugepages_added; /* pages of 2 MB, to give back */
	struct launch_state_netns netns[TOPO_MAX_NODES];
	uint32_t n_netns;
	struct launch_state_proc procs[TOPO_MAX_PROCS];
	uint32_t n_procs;
};

/* -errno; -ENOENT where there is none. */
int ps_warn_unused launch_state_read(const char *run_dir, struct launch_state *s, struct ps_err *err);
int ps_warn_unused launch_state_write(const char *run_dir, const struct launch_state *s, struct ps_err *err);

/* When a process started, in clock ticks since boot; 0: there is none, or only its zombie. */
uint64_t launch_start_ticks(pid_t pid);

#endif
