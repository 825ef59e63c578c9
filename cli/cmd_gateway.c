/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/control.h"
#include "cli/proc.h"
#include "gateway/server.h"

#define GATEWAY_MAX_WAITING 256u

static const char usage[] =
    "usage: penstock gateway [EAL arguments] -- --topology FILE [--run-dir DIR] [--ready-fd N]\n\n"
    "The process clients talk to: tokenizes, schedules sequences into batches, streams text out. It\n"
    "serves RUNDIR/NAME.sock, one JSON object a line (docs/gateway.md), until SIGTERM.\n\n"
    "  --topology FILE  the deployment's topology file\n"
    "  --run-dir DIR    where the deployment's sockets and doorbells are (default: by topology name)\n"
    "  --ready-fd N     write READY to this descriptor when the pipeline is whole\n";

/* -1: the file names none. */
static int32_t mask_token(const struct proc *p)
{
	uint32_t id = 0;

	return gguf_get_u32(p->gguf, "tokenizer.ggml.mask_token_id", &id) && id < p->hp.n_vocab ? (int32_t)id
												: -1;
}

static int serve(struct proc *p, const struct tokenizer *tok, const char *no_tok, struct ps_err *err)
{
	const char *names[TOPO_MAX_STAGES];
	char path[TOPO_PATH_BYTES + 64];
	struct gw_server_cfg cfg = {
	    .socket_path = path,
	    .ask = {.tokenizer = tok, .no_tokenizer_why = no_tok, .gguf = p->gguf},
	    .ep = p->ep,
	    .link_first = proc_link_down(p),
	    .link_last = proc_link_up(p),
	    .sched =
		{
		    .n_slots = p->topo->model.max_sequences,
		    .max_waiting = GATEWAY_MAX_WAITING,
		    .n_ctx = p->n_ctx,
		    .max_batch_tokens = p->topo->model.max_batch_tokens,
		    .max_batches = p->topo->wire.slots,
		    .n_stages = p->topo->n_stages,
		    .hp = &p->hp,
		    .mask_token = mask_token(p),
		},
	    .stage_names = names,
	    .status = proc_status,
	    .status_ctx = p,
	    .ready = proc_ready,
	    .ready_ctx = p,
	};
	struct gw_server *srv = NULL;
	uint32_t i;
	int rc;

	for (i = 0; i < p->topo->n_stages; i++)
		names[i] = p->topo->procs[i].name;
	control_path(p->args.run_dir, p->self->name, path, sizeof(path));
	rc = gw_server_create(&cfg, &srv, err);
	if (rc == 0)
		rc = gw_server_run(srv, &proc_stop, err);
	/* The I/O thread reads the server's buffers until it has stopped. */
	proc_stop_io(p);
	gw_server_destroy(srv);
	return rc;
}

/* A model without a vocabulary, or with one of a kind that we do not have, still takes token ids: why
 * it takes no text is said at start and to each who sends one. A broken vocabulary is an error. */
static int load_tokenizer(const struct proc *p, struct tokenizer **tok_out, char *why, size_t why_cap,
			  struct ps_err *err)
{
	struct ps_err no_tok = {{0}};
	int rc = tokenizer_load(p->gguf, tok_out, &no_tok);

	if (rc != -ENOENT && rc != -ENOTSUP)
		return rc == 0 ? 0 : ps_err_set(err, rc, "%s", no_tok.msg);
	snprintf(why, why_cap, "%s: give token ids instead (run --prompt-ids)", no_tok.msg);
	fprintf(stderr, "topic=tokenizer level=warn process=%s text=\"%s\"\n", p->self->name, why);
	return 0;
}

int cmd_gateway(int argc, char **argv)
{
	static struct proc p;
	struct proc_args args = {.cmd = "gateway"};
	struct tokenizer *tok = NULL;
	char no_text[1100] = "";
	struct ps_err err = {{0}};
	int rc = proc_parse_args(argc, argv, usage, &args);

	if (rc >= 0)
		return rc;
	rc = proc_load(&p, &args, &err);
	if (rc == 0)
		rc = load_tokenizer(&p, &tok, no_text, sizeof(no_text), &err);
	if (rc == 0)
		rc = proc_start(&p, &err);
	if (rc == 0)
		rc = serve(&p, tok, no_text, &err);
	proc_close(&p);
	tokenizer_free(tok);
	if (rc != 0)
		cli_fail("gateway", "%s", err.msg);
	fflush(NULL);
	/* DPDK 22.11's interrupt thread can crash in a normal exit: all is closed, so leave at once. */
	_exit(rc == 0 ? CLI_OK : CLI_FAILED);
}
