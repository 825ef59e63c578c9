/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_CONTROL_H
#define PENSTOCK_CLI_CONTROL_H
/*
 * The control socket of a process, RUNDIR/NAME.sock: one JSON object a line,
 * {"op": "status"}. The gateway's own server answers the same question on its
 * socket; this is for stages, and the client side for both.
 */
#include <jansson.h>

#include "base/err.h"
#include "cli/proc.h"

/* Serves until proc_stop. `fill` adds to the answer of each status question. */
int ps_warn_unused control_serve(struct proc *p, void (*fill)(void *ctx, json_t *object), void *ctx,
				 struct ps_err *err);

/* Asks a process; the answer is the caller's to decref. NULL: it does not answer within timeout_ms. */
json_t *control_ask(const char *run_dir, const char *name, const char *op, int timeout_ms);

/* The name of the gateway among the processes of a run directory; -ENOENT if none answers. */
int ps_warn_unused control_find_gateway(const char *run_dir, char *name_out, size_t cap, struct ps_err *err);

/* RUNDIR/NAME.sock */
void control_path(const char *run_dir, const char *name, char *out, size_t cap);

#endif
