/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_LAUNCH_H
#define PENSTOCK_TOPOLOGY_LAUNCH_H
/*
 * Starts a deployment on this machine and takes it down again: run directory,
 * network namespaces, veth pairs, hugepages, processes. Whatever is taken is
 * written down first (state.h), so that it is given back even when the launcher
 * was killed. Not for other hosts, and it knows nothing of what the processes do.
 *
 * A process is started as
 *   penstock stage|gateway [EAL args] -- --run-dir DIR --topology DIR/topology.yaml
 *                                        --name NAME --ready-fd N
 * and writes "READY\n" to descriptor N when it can serve. Its output goes to
 * NAME.log in the run directory (or in log_dir). One thread calls all functions,
 * and lives as long as a deployment that is not detached: the processes get
 * SIGTERM when it ends.
 */
#include "topology/state.h"
#include "topology/topology.h"

struct launch;

/* From SIGTERM to SIGKILL when a deployment is taken down; tests have no such time. */
extern uint32_t launch_term_wait_ms;

struct launch_opts {
	const char *run_base;      /* NULL: launch_run_base() */
	const char *penstock_exe;  /* NULL: this program */
	const char *log_dir;       /* NULL: the run directory, and logs go with it */
	bool detach;               /* outlive this process; the run directory is named after the topology */
	uint32_t ready_timeout_ms; /* for all processes together; 0: 60 s */
	char *const *eal_argv;     /* passed to every process; may be NULL */
	int eal_argc;
	/* What is done without and why ("no hugepages: ..."), a line each; NULL: stderr. */
	void (*say)(void *ctx, const char *line);
	void *say_ctx;
};

struct launch_exit {
	char name[TOPO_NAME_BYTES]; /* of the process that ended */
	int status;                 /* as of waitpid */
	char text[800];             /* "s1 was killed by signal 9; its last lines: ..." */
};

/* Where run directories lie: $PENSTOCK_RUN_DIR, /run/penstock for root, $XDG_RUNTIME_DIR/penstock,
 * /tmp/penstock-UID. Not made here. */
void launch_run_base(char *buf, size_t cap);

/* Starts everything and waits until all processes are ready. Cleans up after dead launchers
 * first. On failure, and when SIGINT, SIGTERM or SIGHUP arrives meanwhile (-EINTR, and the signal
 * is delivered on return), everything is undone. Errors: -EPERM (namespaces need root), -EEXIST
 * (this deployment is up), -ETIMEDOUT, -ECHILD (a process ended: its last lines are in the text),
 * -ENOMEM, -ENOTSUP (other hosts), -EINVAL. */
int ps_warn_unused launch_up(const struct topology *t, const struct launch_opts *o,
			     struct launch **launch_out, struct ps_err *err);

/* Waits up to timeout_ms for a process to end: 1 and `exit_out` if one did, 0 if none. */
int launch_poll(struct launch *l, uint32_t timeout_ms, struct launch_exit *exit_out);

const char *launch_run_dir(const struct launch *l);
/* The topology that runs: names of namespaces filled in, hugepages as they were to be had. */
const struct topology *launch_topology(const struct launch *l);

/* Takes everything down and frees `l`. The first failure's text; the rest is undone all the same. */
int launch_down(struct launch *l, struct ps_err *err);
/* Frees `l` and leaves a detached deployment running. */
void launch_release(struct launch *l);

/* Takes down what a run directory's state names, whoever started it. -ENOENT: no deployment there. */
int ps_warn_unused launch_down_dir(const char *run_dir, struct ps_err *err);
/* In these, a run_base of NULL means launch_run_base(). */
/* Takes down every deployment whose launcher died without detaching it. Returns how many. */
uint32_t launch_clean_stale(const char *run_base);
/* The run directory of a deployment by its name, or by its run directory's name. -ENOENT with
 * those that are up. */
int ps_warn_unused launch_find(const char *run_base, const char *name, char *dir_out, size_t cap,
			       struct ps_err *err);

/* The EAL file prefix of a process; what EAL leaves behind under it is removed by launch_down. */
void launch_eal_prefix(const char *run_dir, const char *proc, char *buf, size_t cap);

#endif
