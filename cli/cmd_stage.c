/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/control.h"
#include "cli/proc.h"
#include "stage/loop.h"

static const char usage[] =
    "usage: penstock stage [EAL arguments] -- --topology FILE --name NAME [--run-dir DIR] [--ready-fd N]\n\n"
    "The process of one stage: receives batches from its upstream neighbour, runs its blocks, sends\n"
    "the result downstream, until SIGTERM. Usually started by a launcher (run, up).\n\n"
    "  --topology FILE  the deployment's topology file\n"
    "  --name NAME      which of its stages this is\n"
    "  --run-dir DIR    where the deployment's sockets and doorbells are (default: by topology name)\n"
    "  --ready-fd N     write READY to this descriptor when both neighbours are connected\n";

struct stage_proc {
	struct proc p;
	struct stage_core *core;
	struct dp_slots *slots;
	struct accel_caps caps;
	struct stage_loop_stats stats;
	struct ps_err err;
	int rc;
};

static void stage_status(void *ctx, json_t *o)
{
	struct stage_proc *s = ctx;

	json_object_set_new(o, "role", json_string("stage"));
	json_object_set_new(o, "ready", json_boolean(atomic_load(&s->stats.ready)));
	json_object_set_new(o, "block_first", json_integer(s->p.self->block_first));
	json_object_set_new(o, "block_last", json_integer((json_int_t)s->p.self->block_last - 1));
	json_object_set_new(o, "device", json_string(s->caps.device));
	json_object_set_new(o, "isa", json_string(s->caps.isa));
	json_object_set_new(o, "threads", json_integer(s->caps.n_threads));
	json_object_set_new(o, "weight_bytes", json_integer((json_int_t)s->caps.weight_bytes));
	json_object_set_new(o, "kv_bytes", json_integer((json_int_t)s->caps.kv_bytes));
	json_object_set_new(o, "batches", json_integer((json_int_t)atomic_load(&s->stats.batches)));
	json_object_set_new(o, "rows", json_integer((json_int_t)atomic_load(&s->stats.rows)));
	json_object_set_new(o, "errors", json_integer((json_int_t)atomic_load(&s->stats.errors)));
	json_object_set_new(o, "compute_ns", json_integer((json_int_t)atomic_load(&s->stats.compute_ns)));
	/* Activations too large for wire.activations: f16 holds up to 65504. */
	json_object_set_new(o, "cut_values", json_integer((json_int_t)atomic_load(&s->stats.cut_values)));
	json_object_set_new(o, "messages_in_place",
			    json_integer((json_int_t)atomic_load(&s->stats.in_place)));
	json_object_set_new(o, "messages_placed", json_integer((json_int_t)atomic_load(&s->stats.copied)));
	proc_status(&s->p, o);
}

/* The topology's names for what back ends and messages know by their own. */
static const enum accel_kv_dtype kv_types[] = {
    [TOPO_KV_F32] = ACCEL_KV_F32, [TOPO_KV_F16] = ACCEL_KV_F16, [TOPO_KV_Q8_0] = ACCEL_KV_Q8_0};
static const enum act_dtype act_types[] = {
    [TOPO_ACT_F32] = ACT_F32, [TOPO_ACT_F16] = ACT_F16, [TOPO_ACT_BF16] = ACT_BF16, [TOPO_ACT_Q8] = ACT_Q8};

static int open_core(struct stage_proc *s, struct ps_err *err)
{
	const struct proc *p = &s->p;
	const struct stage_core_cfg cfg = {
	    .gguf = p->gguf,
	    .stage = p->self_index,
	    .block_first = p->self->block_first,
	    .block_last = p->self->block_last,
	    .device = p->self->device,
	    .n_threads = p->self->n_threads,
	    .cores = p->self->n_cores > 0 ? p->self->cores : NULL,
	    .n_slots = p->topo->model.max_sequences,
	    .n_ctx = p->n_ctx,
	    .max_tokens = p->topo->model.max_batch_tokens,
	    .kv = kv_types[p->topo->model.kv],
	    .act_dtype = act_types[p->topo->wire.activations],
	};
	int rc = stage_core_open(&cfg, &s->core, err);

	if (rc != 0)
		return rc;
	stage_core_caps(s->core, &s->caps);
	return dp_slots_create(p->topo->wire.slots, p->max_msg_bytes, false, &s->slots, err);
}

static void *compute_main(void *arg)
{
	struct stage_proc *s = arg;
	const struct stage_loop_cfg cfg = {
	    .name = s->p.self->name,
	    .ep = s->p.ep,
	    .link_up = proc_link_up(&s->p),
	    .link_down = proc_link_down(&s->p),
	    .core = s->core,
	    .slots = s->slots,
	    .stop = &proc_stop,
	    .ready = proc_ready,
	    .ready_ctx = &s->p,
	};

	pthread_setname_np(pthread_self(), "penstock-comp");
	s->rc = stage_loop_run(&cfg, &s->stats, &s->err);
	atomic_store_explicit(&proc_stop, 1, memory_order_relaxed);
	return NULL;
}

static int serve(struct stage_proc *s, struct ps_err *err)
{
	pthread_t compute;
	int rc;

	rc = pthread_create(&compute, NULL, compute_main, s);
	if (rc != 0)
		return ps_err_set(err, -rc, "cannot start the compute thread: %s", strerror(rc));
	rc = control_serve(&s->p, stage_status, s, err);
	atomic_store_explicit(&proc_stop, 1, memory_order_relaxed);
	pthread_join(compute, NULL);
	if (rc == 0 && s->rc != 0)
		rc = ps_err_set(err, s->rc, "%s", s->err.msg);
	return rc;
}

int cmd_stage(int argc, char **argv)
{
	static struct stage_proc s;
	struct proc_args args = {.cmd = "stage"};
	struct ps_err err = {{0}};
	int rc = proc_parse_args(argc, argv, usage, &args);

	if (rc >= 0)
		return rc;
	if (args.name == NULL)
		return cli_usage("stage", "--name is missing");
	rc = proc_load(&s.p, &args, &err);
	if (rc == 0)
		rc = open_core(&s, &err);
	if (rc == 0)
		rc = proc_start(&s.p, &err);
	if (rc == 0)
		rc = serve(&s, &err);
	proc_stop_io(&s.p);
	stage_core_close(s.core);
	proc_close(&s.p);
	dp_slots_destroy(s.slots);
	if (rc != 0)
		cli_fail("stage", "%s: %s", args.name, err.msg);
	fflush(NULL);
	/* DPDK 22.11's interrupt thread can crash in a normal exit: all is closed, so leave at once. */
	_exit(rc == 0 ? CLI_OK : CLI_FAILED);
}
