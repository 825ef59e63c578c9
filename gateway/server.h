/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_GATEWAY_SERVER_H
#define PENSTOCK_GATEWAY_SERVER_H
/*
 * The gateway's front: clients on a unix socket, one JSON object a line both
 * ways (docs/gateway.md), text in and out through the model's tokenizer, and the
 * loop that joins clients, scheduler and the endpoint to the pipeline. Not for
 * HTTP and not for starting anything.
 *
 * All of it runs on one thread, the endpoint's application thread.
 */
#include <stdatomic.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "dataplane/endpoint.h"
#include "gateway/ask.h"
#include "gateway/sched.h"

struct gw_server;

struct gw_server_cfg {
	const char *socket_path;
	struct gw_ask_cfg ask; /* the model's vocabulary and file */
	struct dp_endpoint *ep;
	uint32_t link_first; /* to the first stage */
	uint32_t link_last;  /* from the last stage; may be the same */
	struct gw_sched_cfg sched;
	const char *const *stage_names; /* [n_stages] */
	/* Adds what the process knows about itself to a status answer. */
	void (*status)(void *ctx, json_t *object);
	void *status_ctx;
	/* Called once when every link is up. */
	void (*ready)(void *ctx);
	void *ready_ctx;
};

int ps_warn_unused gw_server_create(const struct gw_server_cfg *cfg, struct gw_server **srv_out,
				    struct ps_err *err);
void gw_server_destroy(struct gw_server *srv);

/* Serves until *stop; returns 0, or -ECONNREFUSED with a text if a stage refused our HELLO before
 * the pipeline was ever ready. */
int ps_warn_unused gw_server_run(struct gw_server *srv, const _Atomic int *stop, struct ps_err *err);

#endif
