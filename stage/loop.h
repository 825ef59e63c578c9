/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_STAGE_LOOP_H
#define PENSTOCK_STAGE_LOOP_H
/*
 * A stage's compute thread: takes batch messages that came from upstream, runs
 * them on the stage's core, and queues the results downstream. When a
 * neighbour is gone it tells the rest of the pipeline, both ways, so that the
 * gateway learns of it wherever it happened. Not for packets (the endpoint's
 * I/O thread) and not for starting a process.
 */
#include <stdatomic.h>
#include <stdint.h>

#include "base/err.h"
#include "dataplane/endpoint.h"
#include "dataplane/slots.h"
#include "stage/core.h"

struct stage_loop_cfg {
	const char *name;
	struct dp_endpoint *ep;
	uint32_t link_up, link_down; /* numbers of the links from upstream and to downstream */
	struct stage_core *core;
	struct dp_slots *slots; /* for messages to send, at least stage_core_max_bytes each */
	const _Atomic int *stop;
	void (*ready)(void *ctx); /* called once, when both links are up */
	void *ready_ctx;
};

/* Written by the loop, read by anyone for display. */
struct stage_loop_stats {
	_Atomic uint64_t batches, rows, errors, compute_ns, cut_values, in_place, copied;
	_Atomic int ready;
};

/* Until *stop. 0, or -ECONNREFUSED with a text when a neighbour refused our HELLO before the
 * stage was ever ready. */
int ps_warn_unused stage_loop_run(const struct stage_loop_cfg *cfg, struct stage_loop_stats *stats,
				  struct ps_err *err);

#endif
