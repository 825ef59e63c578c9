/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/deploy.h"
#include "topology/launch.h"

static const char up_usage[] =
    "usage: penstock up [options] TOPOLOGY [-- EAL args]\n\n"
    "Brings a deployment up and leaves it running: see penstock status, run --attach, down.\n\n"
    "  --check              only validate the file (and the model's blocks, if the model is there),\n"
    "                       print what would run, and start nothing\n"
    "  --model FILE         a GGUF file instead of the topology's\n"
    "  --driver D           memif or af_xdp for the links, instead of the topology's\n"
    "  --stages N           N stages instead of the topology's\n"
    "  --ctx N              positions a sequence can have, instead of the topology's model.context\n"
    "  --batch N            rows of one message, instead of model.max_batch_tokens: what an encoder reads\n"
    "                       (BERT, T5's prompt) goes whole in one\n"
    "  --kv TYPE            elements of the KV cache: f32, f16 or q8_0, instead of model.kv\n"
    "  --wire TYPE          activations between stages: f32, f16, bf16 or q8, instead of wire.activations\n"
    "  --no-hugepages       run without hugepages even where they could be had (slower)\n"
    "  --capture            let dpdk-dumpcap attach to the ports\n"
    "  --timeout SECONDS    how long all processes may take to be ready (60)\n\n"
    "What follows -- goes to EAL in every process.\n";

static const char down_usage[] =
    "usage: penstock down NAME | TOPOLOGY\n\n"
    "Takes a deployment down: ends its processes, removes its network namespaces, sockets and\n"
    "run directory, and gives back the hugepages that it added. NAME is as in penstock status.\n\n"
    "  --stale              takes down what killed launchers have left behind, instead\n";

struct up_opts {
	const char *topology;
	struct topo_overrides ov;
	uint32_t timeout_s;
	bool check, capture;
	char **eal_argv;
	int eal_argc;
};

enum {
	OPT_CHECK = 256,
	OPT_MODEL,
	OPT_DRIVER,
	OPT_STAGES,
	OPT_CTX,
	OPT_BATCH,
	OPT_KV,
	OPT_WIRE,
	OPT_NO_HUGE,
	OPT_CAPTURE,
	OPT_TIMEOUT,
	OPT_STALE,
};

static const struct option up_longs[] = {
    {"check", no_argument, NULL, OPT_CHECK},
    {"model", required_argument, NULL, OPT_MODEL},
    {"driver", required_argument, NULL, OPT_DRIVER},
    {"stages", required_argument, NULL, OPT_STAGES},
    {"ctx", required_argument, NULL, OPT_CTX},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"kv", required_argument, NULL, OPT_KV},
    {"wire", required_argument, NULL, OPT_WIRE},
    {"no-hugepages", no_argument, NULL, OPT_NO_HUGE},
    {"capture", no_argument, NULL, OPT_CAPTURE},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool set_driver(const char *text, struct topo_overrides *ov)
{
	ov->driver = strcmp(text, "memif") == 0    ? (int)TOPO_DRIVER_MEMIF
		     : strcmp(text, "af_xdp") == 0 ? (int)TOPO_DRIVER_AF_XDP
						   : -1;
	if (ov->driver < 0)
		cli_usage("up", "--driver: found \"%s\", expected memif or af_xdp", text);
	return ov->driver >= 0;
}

static bool up_option(int c, struct up_opts *o)
{
	switch (c) {
	case OPT_CHECK:
		o->check = true;
		return true;
	case OPT_MODEL:
		o->ov.model = optarg;
		return true;
	case OPT_DRIVER:
		return set_driver(optarg, &o->ov);
	case OPT_STAGES:
		return cli_u32("up", "--stages", optarg, 1, TOPO_MAX_STAGES, &o->ov.n_stages);
	case OPT_CTX:
		return deploy_ctx_option("up", optarg, &o->ov);
	case OPT_BATCH:
		return deploy_batch_option("up", optarg, &o->ov);
	case OPT_KV:
		return deploy_kv_option("up", optarg, &o->ov);
	case OPT_WIRE:
		return deploy_wire_option("up", optarg, &o->ov);
	case OPT_NO_HUGE:
		o->ov.no_hugepages = true;
		return true;
	case OPT_CAPTURE:
		o->capture = true;
		return true;
	case OPT_TIMEOUT:
		return cli_u32("up", "--timeout", optarg, 1, 86400, &o->timeout_s);
	default:
		cli_see_help("up");
		return false;
	}
}

/* -1: go on; else the exit code. */
static int parse_up(int argc, char **argv, struct up_opts *o)
{
	int c, own = argc;

	for (int i = 1; i < argc && own == argc; i++)
		if (strcmp(argv[i], "--") == 0)
			own = i;
	o->eal_argv = own < argc ? argv + own + 1 : NULL;
	o->eal_argc = own < argc ? argc - own - 1 : 0;
	while ((c = getopt_long(own, argv, "h", up_longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(up_usage, stdout);
			return CLI_OK;
		}
		if (!up_option(c, o))
			return CLI_USAGE;
	}
	if (own - optind != 1)
		return cli_usage("up", "found %d topology files, expected one", own - optind);
	o->topology = argv[optind];
	return -1;
}

/* ---- the table ---- */

static void print_cores(const struct topo_proc *p)
{
	if (p->n_cores == 0)
		printf("  %-7s", "any");
	for (uint32_t i = 0; i < p->n_cores; i++)
		printf("%s%d", i == 0 ? "  " : ",", p->cores[i]);
	if (p->io_core >= 0)
		printf("  io core %d", p->io_core);
}

static void print_proc(const struct topology *t, const struct topo_proc *p)
{
	char blocks[24] = "auto", threads[16] = "auto";

	if (p->block_last > p->block_first)
		snprintf(blocks, sizeof(blocks), "%u-%u", p->block_first, p->block_last - 1);
	if (p->n_threads > 0)
		snprintf(threads, sizeof(threads), "%u", p->n_threads);
	printf("  %-12s %-12s %-9s %-8s %-7s %-8s", p->name, t->nodes[p->node].name,
	       p->is_gateway ? "-" : blocks, p->is_gateway ? "-" : p->device, p->is_gateway ? "-" : threads,
	       p->idle == TOPO_IDLE_SPIN ? "spin" : "adaptive");
	print_cores(p);
	putchar('\n');
}

static void print_link(const struct topology *t, const struct topo_link *l)
{
	char addr[2][64];

	for (int i = 0; i < 2; i++) {
		const struct topo_link_end *e = &l->end[i];

		snprintf(addr[i], sizeof(addr[i]), "%u.%u.%u.%u/%u%s%s", e->ip >> 24, e->ip >> 16 & 255,
			 e->ip >> 8 & 255, e->ip & 255, e->prefix_len, e->iface[0] ? " on " : "", e->iface);
	}
	printf("  %-12s %-12s %-7s %5u  %s -> %s%s\n", t->procs[l->end[0].proc].name,
	       t->procs[l->end[1].proc].name, topo_driver_name(l->driver), l->mtu, addr[0], addr[1],
	       l->veth ? " (veth)" : "");
}

static void print_topology(const struct topology *t, uint32_t n_layers)
{
	printf("%s: %u stage%s and a gateway on %u node%s\n", t->name, t->n_stages,
	       t->n_stages == 1 ? "" : "s", t->n_nodes, t->n_nodes == 1 ? "" : "s");
	if (n_layers > 0)
		printf("model: %s (%u blocks)\n", t->model.path, n_layers);
	else
		printf("model: %s (not there: blocks are not checked against it)\n", t->model.path);
	printf("KV cache: %s, activations on the wire: %s\n", topo_kv_name(t->model.kv),
	       topo_act_name(t->wire.activations));
	for (uint32_t i = 0; i < t->n_nodes; i++)
		printf("node %s: host %s%s%s, %u MB of hugepages a process\n", t->nodes[i].name,
		       t->nodes[i].host, t->nodes[i].netns[0] ? ", network namespace " : "",
		       t->nodes[i].netns, t->nodes[i].hugepages_mb);
	printf("\n  %-12s %-12s %-9s %-8s %-7s %-8s  %s\n", "process", "node", "blocks", "device", "threads",
	       "idle", "cores");
	for (uint32_t i = 0; i < t->n_procs; i++)
		print_proc(t, &t->procs[i]);
	printf("\n  %-12s %-12s %-7s %5s  %s\n", "from", "to", "driver", "mtu", "addresses");
	for (uint32_t i = 0; i < t->n_links; i++)
		print_link(t, &t->links[i]);
}

/* ---- the commands ---- */

static int check(const struct up_opts *o)
{
	struct model_hparams hp = {0};
	struct topology *t = NULL;
	struct gguf *g = NULL;
	struct ps_err err = {{0}};
	uint32_t n_ctx;
	int rc = topo_load(o->topology, &o->ov, &t, &err);

	if (rc == 0 && access(t->model.path, F_OK) == 0) {
		rc = deploy_resolve(t, &g, &hp, &err);
		if (rc == 0)
			rc = deploy_context(t, &hp, &n_ctx, &err);
		gguf_close(g);
	}
	if (rc == 0)
		print_topology(t, hp.n_layers);
	topo_free(t);
	return rc == 0 ? CLI_OK : cli_fail("up", "%s", err.msg);
}

static int bring_up(const struct up_opts *o)
{
	const struct launch_opts lo = {
	    .detach = true,
	    .ready_timeout_ms = o->timeout_s * 1000,
	    .eal_argv = o->eal_argv,
	    .eal_argc = o->eal_argc,
	};
	struct topology *t = NULL;
	struct launch *l = NULL;
	struct ps_err err = {{0}};
	int rc = deploy_load(o->topology, &o->ov, o->capture, &t, &err);

	if (rc == 0)
		rc = launch_up(t, &lo, &l, &err);
	if (rc == 0) {
		printf("%s is up: %u stages and a gateway, in %s\n", t->name, t->n_stages, launch_run_dir(l));
		printf("use it: penstock run --attach %s    take it down: penstock down %s\n", t->name,
		       t->name);
		launch_release(l);
	}
	topo_free(t);
	return rc == 0 ? CLI_OK : cli_fail("up", "%s", err.msg);
}

int cmd_up(int argc, char **argv)
{
	struct up_opts o = {.ov = {.driver = -1}, .timeout_s = 60};
	int rc = parse_up(argc, argv, &o);

	if (rc >= 0)
		return rc;
	return o.check ? check(&o) : bring_up(&o);
}

/* A name, or the topology file of the deployment. */
static int find_deployment(const char *what, char *dir, size_t cap, struct ps_err *err)
{
	const struct topo_overrides any_model = {.driver = -1, .model = "/"};
	struct topology *t = NULL;
	struct stat st;
	int rc;

	if (stat(what, &st) != 0 || !S_ISREG(st.st_mode))
		return launch_find(NULL, what, dir, cap, err);
	rc = topo_load(what, &any_model, &t, err);
	if (rc == 0)
		rc = launch_find(NULL, t->name, dir, cap, err);
	topo_free(t);
	return rc;
}

int cmd_down(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"stale", no_argument, NULL, OPT_STALE}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	struct ps_err err = {{0}};
	char dir[TOPO_PATH_BYTES];
	bool stale = false;
	int c, rc;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(down_usage, stdout);
			return CLI_OK;
		}
		if (c != OPT_STALE)
			return cli_see_help("down");
		stale = true;
	}
	if (argc - optind != (stale ? 0 : 1))
		return cli_usage("down", "found %d names, expected %s", argc - optind,
				 stale ? "none" : "one");
	if (stale) {
		printf("%u taken down\n", launch_clean_stale(NULL));
		return CLI_OK;
	}
	rc = find_deployment(argv[optind], dir, sizeof(dir), &err);
	if (rc == 0)
		rc = launch_down_dir(dir, &err);
	return rc == 0 ? CLI_OK : cli_fail("down", "%s", err.msg);
}
