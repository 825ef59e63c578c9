/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/proc.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/deploy.h"
#include "dataplane/act.h"
#include "dataplane/counters.h"
#include "nic/nic.h"
#include "topology/launch.h"

_Atomic int proc_stop;

int proc_parse_args(int argc, char **argv, const char *usage, struct proc_args *a)
{
	static const struct option longs[] = {
	    {"topology", required_argument, NULL, 't'}, {"name", required_argument, NULL, 'n'},
	    {"run-dir", required_argument, NULL, 'r'},  {"ready-fd", required_argument, NULL, 'f'},
	    {"help", no_argument, NULL, 'h'},           {0},
	};
	uint32_t fd;
	int c, i, split = 0;

	for (i = 1; i < argc && split == 0; i++)
		split = strcmp(argv[i], "--") == 0 ? i : 0;
	a->ready_fd = -1;
	a->eal_argc = split > 0 ? split - 1 : 0;
	a->eal_argv = argv + 1;
	/* Own arguments start behind "--", in whose place getopt finds the program's name. */
	optind = 1;
	argv[split] = argv[0];
	argc -= split;
	argv += split;
	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 't')
			a->topology = optarg;
		else if (c == 'n')
			a->name = optarg;
		else if (c == 'r')
			snprintf(a->run_dir, sizeof(a->run_dir), "%s", optarg);
		else if (c == 'f') {
			if (!cli_u32(a->cmd, "--ready-fd", optarg, 0, 1u << 20, &fd))
				return CLI_USAGE;
			a->ready_fd = (int)fd;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else {
			if (split == 0)
				fprintf(stderr, "EAL arguments go before \"--\", own ones behind it\n");
			return cli_see_help(a->cmd);
		}
	}
	if (optind != argc)
		return cli_usage(a->cmd, "unexpected \"%s\"; EAL arguments go before \"--\"", argv[optind]);
	if (a->topology == NULL)
		return cli_usage(a->cmd, "--topology is missing");
	return -1;
}

static int make_run_dir(const char *dir, struct ps_err *err)
{
	char path[TOPO_PATH_BYTES];
	char *slash;

	snprintf(path, sizeof(path), "%s", dir);
	slash = strrchr(path, '/');
	if (slash != NULL && slash != path) {
		*slash = '\0';
		(void)!mkdir(path, 0700);
	}
	if (mkdir(dir, 0700) != 0 && errno != EEXIST)
		return ps_err_set(err, -errno, "%s: cannot make the run directory: %s", dir, strerror(errno));
	return 0;
}

static int resolve_model(struct proc *p, struct ps_err *err)
{
	int rc = deploy_resolve(p->topo, &p->gguf, &p->hp, err);

	if (rc == 0)
		rc = deploy_context(p->topo, &p->hp, &p->n_ctx, err);
	if (rc == 0)
		p->max_msg_bytes =
		    (uint32_t)act_max_bytes(p->topo->model.max_batch_tokens, ACT_MAX_SEQS, p->hp.n_embd);
	return rc;
}

int proc_load(struct proc *p, const struct proc_args *args, struct ps_err *err)
{
	const struct topo_overrides none = {.driver = -1};
	char base[TOPO_PATH_BYTES];
	int rc;

	memset(p, 0, sizeof(*p));
	p->args = *args;
	rc = topo_load(args->topology, &none, &p->topo, err);
	if (rc != 0)
		return rc;
	if (args->name == NULL)
		p->args.name = p->topo->procs[topo_gateway(p->topo)].name;
	p->self = topo_find_proc(p->topo, p->args.name, err);
	if (p->self == NULL)
		return -ENOENT;
	p->self_index = (uint32_t)(p->self - p->topo->procs);
	if (p->self->is_gateway != (strcmp(args->cmd, "gateway") == 0))
		return ps_err_set(err, -EINVAL, "%s: \"%s\" is %s: start it with penstock %s", args->topology,
				  p->self->name, p->self->is_gateway ? "the gateway" : "a stage",
				  p->self->is_gateway ? "gateway" : "stage");
	p->by_hand = p->args.run_dir[0] == '\0';
	if (p->by_hand) {
		launch_run_base(base, sizeof(base));
		snprintf(p->args.run_dir, sizeof(p->args.run_dir), "%.400s/%s", base, p->topo->name);
	}
	rc = make_run_dir(p->args.run_dir, err);
	return rc != 0 ? rc : resolve_model(p, err);
}

static void on_signal(int sig)
{
	(void)sig;
	atomic_store_explicit(&proc_stop, 1, memory_order_relaxed);
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* Paths that the port configurations borrow until nic_start returns. */
struct port_paths {
	char socket[NIC_MAX_PORTS][TOPO_PATH_BYTES + 64];
	char bell[NIC_MAX_PORTS][NIC_MAX_PEERS][TOPO_PATH_BYTES + 64];
};

struct port_plan {
	struct nic_port_cfg ports[NIC_MAX_PORTS];
	uint32_t n_ports;
	uint32_t link_port[DP_ENDPOINT_MAX_LINKS];
	uint16_t link_peer[DP_ENDPOINT_MAX_LINKS];
	struct port_paths paths;
};

/* AF_XDP: the port that already uses this interface, if any. */
static struct nic_port_cfg *find_port(struct port_plan *plan, const struct topo_link_end *end)
{
	uint32_t i;

	for (i = 0; i < plan->n_ports; i++) {
		struct nic_port_cfg *port = &plan->ports[i];

		if (port->driver == NIC_DRIVER_AF_XDP && strcmp(port->iface, end->iface) == 0 &&
		    port->ip == end->ip && port->udp_port == end->udp_port && port->n_peers < NIC_MAX_PEERS)
			return port;
	}
	return NULL;
}

static int plan_link(struct proc *p, struct port_plan *plan, const struct topo_link *tl, uint32_t side,
		     struct ps_err *err)
{
	const struct topo_link_end *self = &tl->end[side], *other = &tl->end[!side];
	struct nic_port_cfg *port = tl->driver == TOPO_DRIVER_AF_XDP ? find_port(plan, self) : NULL;
	struct nic_peer_cfg *peer;
	uint32_t at;

	if (p->n_links == DP_ENDPOINT_MAX_LINKS || (port == NULL && plan->n_ports == NIC_MAX_PORTS))
		return ps_err_set(err, -EINVAL, "%s: %s has more links than the %u a process can hold",
				  p->topo->path, p->self->name, DP_ENDPOINT_MAX_LINKS);
	if (port == NULL) {
		at = plan->n_ports++;
		port = &plan->ports[at];
		snprintf(plan->paths.socket[at], sizeof(plan->paths.socket[at]), "%s/link%u.memif",
			 p->args.run_dir, tl->id);
		*port = (struct nic_port_cfg){
		    .driver = tl->driver == TOPO_DRIVER_AF_XDP ? NIC_DRIVER_AF_XDP : NIC_DRIVER_MEMIF,
		    .iface = self->iface,
		    .socket_path = plan->paths.socket[at],
		    .memif_server = side == 0,
		    .ip = self->ip,
		    .udp_port = self->udp_port,
		    .mtu = tl->mtu,
		};
	}
	at = (uint32_t)(port - plan->ports);
	snprintf(plan->paths.bell[at][port->n_peers], sizeof(plan->paths.bell[at][0]), "%s/%s.bell",
		 p->args.run_dir, p->topo->procs[other->proc].name);
	peer = &port->peers[port->n_peers];
	*peer = (struct nic_peer_cfg){
	    .ip = other->ip,
	    .udp_port = other->udp_port,
	    .bell_path = tl->driver == TOPO_DRIVER_MEMIF ? plan->paths.bell[at][port->n_peers] : NULL,
	};
	memcpy(peer->mac, other->mac, sizeof(peer->mac));
	plan->link_port[p->n_links] = at;
	plan->link_peer[p->n_links] = (uint16_t)port->n_peers++;
	p->link_ids[p->n_links] = tl->id;
	p->link_peers[p->n_links] = other->proc;
	p->n_links++;
	return 0;
}

/* Our links, memif servers first: nobody then waits for a socket that waits for us. */
static int plan_ports(struct proc *p, struct port_plan *plan, struct ps_err *err)
{
	uint32_t i, side;
	int rc = 0;

	for (side = 0; side < 2; side++) {
		for (i = 0; i < p->topo->n_links && rc == 0; i++) {
			if (p->topo->links[i].end[side].proc == p->self_index)
				rc = plan_link(p, plan, &p->topo->links[i], side, err);
		}
	}
	return rc;
}

static void fill_link_cfg(struct proc *p, const struct port_plan *plan, uint32_t i,
			  struct dp_endpoint_link *l)
{
	const struct topo_link *tl = &p->topo->links[p->link_ids[i] - 1];
	const struct topo_wire *w = &p->topo->wire;
	const size_t stride = dp_slots_stride(p->rx_slots);

	l->port = p->ports[plan->link_port[i]];
	l->cfg = (struct dp_link_cfg){
	    .link_id = tl->id,
	    .peer = plan->link_peer[i],
	    .side = tl->end[0].proc == p->self_index ? 0 : 1,
	    .mtu = tl->mtu,
	    .max_msg_bytes = p->max_msg_bytes,
	    .rx_slots = w->slots,
	    .window_bytes = w->window_bytes,
	    .payload_crc =
		w->checksum == TOPO_ON || (w->checksum == TOPO_AUTO && tl->driver != TOPO_DRIVER_MEMIF),
	    .allow_in_place = true,
	    .topology_hash = topo_hash(p->topo),
	    .model_hash = gguf_hash(p->gguf),
	    .block_first = p->self->block_first,
	    .block_last = p->self->block_last,
	    .dead_silence_ns = (uint64_t)w->dead_after_ms * 1000000ull,
	    .self_name = p->self->name,
	    .peer_name = p->topo->procs[p->link_peers[i]].name,
	    .rx_slot_mem = dp_slots_base(p->rx_slots) + stride * w->slots * i,
	    .rx_slot_stride = stride,
	};
}

static int start_ports(struct proc *p, struct port_plan *plan, struct ps_err *err)
{
	const struct topo_node *node = &p->topo->nodes[p->self->node];
	char prefix[96];
	const struct nic_cfg cfg = {
	    .name = p->self->name,
	    .file_prefix = prefix,
	    .hugepages_mb = node->hugepages_mb,
	    .capture = p->topo->wire.capture,
	    .eal_argc = p->args.eal_argc,
	    .eal_argv = p->args.eal_argv,
	    .ports = plan->ports,
	    .n_ports = plan->n_ports,
	    .wait_ms = 20000,
	};
	int rc;

	/* The launcher knows it, too, and clears away what a killed process leaves under it. */
	launch_eal_prefix(p->args.run_dir, p->self->name, prefix, sizeof(prefix));
	rc = nic_start(&cfg, p->ports, err);
	p->n_ports = rc == 0 ? plan->n_ports : 0;
	return rc;
}

static int start_endpoint(struct proc *p, const struct port_plan *plan, struct ps_err *err)
{
	struct dp_endpoint_link links[DP_ENDPOINT_MAX_LINKS];
	struct dp_endpoint_cfg cfg = {
	    .links = links,
	    .n_links = p->n_links,
	    .idle = p->self->idle == TOPO_IDLE_SPIN ? DP_IDLE_SPIN : DP_IDLE_ADAPTIVE,
	    .io_bell = p->io_bell,
	    .app_bell = p->app_bell,
	};
	uint32_t i;

	if (getrandom(&cfg.incarnation, sizeof(cfg.incarnation), 0) != sizeof(cfg.incarnation) ||
	    getrandom(&cfg.seed, sizeof(cfg.seed), 0) != sizeof(cfg.seed))
		return ps_err_set(err, -errno, "no random numbers from the kernel: %s", strerror(errno));
	for (i = 0; i < p->n_links; i++)
		fill_link_cfg(p, plan, i, &links[i]);
	return dp_endpoint_create(&cfg, &p->ep, err);
}

static void *io_main(void *arg)
{
	struct proc *p = arg;
	cpu_set_t set;

	pthread_setname_np(pthread_self(), "penstock-io");
	if (p->self->io_core >= 0) {
		CPU_ZERO(&set);
		CPU_SET((size_t)p->self->io_core, &set);
		if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
			fprintf(stderr,
				"topic=cpu level=warn text=\"cannot pin the I/O thread to core %d\"\n",
				p->self->io_core);
	}
	dp_endpoint_run(p->ep);
	return NULL;
}

static void say_start(const struct proc *p)
{
	uint32_t i;

	fprintf(stderr,
		"topic=start process=%s pid=%d memory=\"%s\" slots=%s idle=%s blocks=%u-%u context=%u "
		"kv=%s wire=%s\n",
		p->self->name, (int)getpid(), nic_describe(),
		dp_slots_memory_name(dp_slots_memory(p->rx_slots)),
		p->self->idle == TOPO_IDLE_SPIN ? "spin" : "adaptive", p->self->block_first,
		p->self->block_last > 0 ? p->self->block_last - 1 : 0, p->n_ctx,
		topo_kv_name(p->topo->model.kv), topo_act_name(p->topo->wire.activations));
	for (i = 0; i < p->n_ports; i++)
		fprintf(stderr, "topic=port process=%s port=%u %s\n", p->self->name, i,
			p->ports[i]->ops->describe(p->ports[i]));
}

int proc_start(struct proc *p, struct ps_err *err)
{
	struct port_plan *plan = calloc(1, sizeof(*plan));
	char path[TOPO_PATH_BYTES + 64];
	pthread_t *thread = calloc(1, sizeof(*thread));
	int rc;

	catch_signals();
	snprintf(path, sizeof(path), "%s/%s.bell", p->args.run_dir, p->self->name);
	rc = dp_bell_create_shared(path, &p->io_bell, err);
	if (rc != 0)
		goto out_free;
	p->app_bell = dp_bell_create();
	rc = p->app_bell == NULL || plan == NULL || thread == NULL ? ps_err_set(err, -ENOMEM, "out of memory")
								   : plan_ports(p, plan, err);
	/* Locked memory: hugepages are counted out to EAL, one process's slots would take another's. */
	if (rc == 0)
		rc = dp_slots_create(p->n_links * p->topo->wire.slots, p->max_msg_bytes, false, &p->rx_slots,
				     err);
	if (rc == 0)
		rc = start_ports(p, plan, err);
	if (rc == 0)
		rc = start_endpoint(p, plan, err);
	if (rc != 0)
		goto out_free;
	say_start(p);
	rc = pthread_create(thread, NULL, io_main, p);
	if (rc != 0) {
		rc = ps_err_set(err, -rc, "cannot start the I/O thread: %s", strerror(rc));
		goto out_free;
	}
	p->io_thread = thread;
	thread = NULL;
out_free:
	free(thread);
	free(plan);
	return rc;
}

static uint32_t link_by_id(const struct proc *p, uint32_t topo_index)
{
	uint32_t i;

	for (i = 0; i < p->n_links; i++) {
		if (p->link_ids[i] == p->topo->links[topo_index].id)
			return i;
	}
	CHECK(false); /* every process has its two pipeline links */
	return 0;
}

uint32_t proc_link_up(const struct proc *p)
{
	return link_by_id(p, p->self->is_gateway ? p->topo->n_stages : p->self_index);
}

uint32_t proc_link_down(const struct proc *p)
{
	return link_by_id(p, p->self->is_gateway ? 0 : p->self_index + 1);
}

void proc_stop_io(struct proc *p)
{
	if (p->io_thread == NULL)
		return;
	dp_endpoint_stop(p->ep);
	pthread_join(*(pthread_t *)p->io_thread, NULL);
	free(p->io_thread);
	p->io_thread = NULL;
}

void proc_close(struct proc *p)
{
	proc_stop_io(p);
	dp_endpoint_destroy(p->ep);
	if (p->n_ports > 0)
		nic_stop();
	dp_slots_destroy(p->rx_slots);
	dp_bell_destroy(p->io_bell);
	dp_bell_destroy(p->app_bell);
	if (p->by_hand)
		(void)!rmdir(p->args.run_dir); /* fails while others are there */
	gguf_close(p->gguf);
	topo_free(p->topo);
}

void proc_ready(void *ctx)
{
	struct proc *p = ctx;

	fprintf(stderr, "topic=ready process=%s\n", p->self->name);
	if (p->args.ready_fd < 0)
		return;
	if (write(p->args.ready_fd, "READY\n", 6) != 6)
		fprintf(stderr, "topic=ready level=warn process=%s text=\"the launcher is gone\"\n",
			p->self->name);
	close(p->args.ready_fd);
	p->args.ready_fd = -1;
}

static json_t *link_json(const struct proc *p, uint32_t i)
{
	static const char *const states[] = {"hello", "established", "refused", "dead"};
	const uint64_t *values = dp_endpoint_link_counters(p->ep, i);
	json_t *o, *counters = json_object();
	uint32_t c;

	for (c = 0; c < DP_COUNTER_COUNT; c++) {
		if (values[c] != 0)
			json_object_set_new(counters, dp_counter_infos[c].name,
					    json_integer((json_int_t)values[c]));
	}
	o = json_pack("{s:i, s:s, s:s, s:I, s:o}", "id", (int)p->link_ids[i], "peer",
		      p->topo->procs[p->link_peers[i]].name, "state",
		      states[dp_endpoint_link_state(p->ep, i)], "srtt_ns",
		      (json_int_t)dp_endpoint_link_srtt_ns(p->ep, i), "counters", counters);
	return o;
}

void proc_status(void *ctx, json_t *object)
{
	const struct proc *p = ctx;
	struct dp_endpoint_stats st;
	json_t *links = json_array(), *ports = json_array();
	uint32_t i;

	for (i = 0; i < p->n_links; i++)
		json_array_append_new(links, link_json(p, i));
	for (i = 0; i < p->n_ports; i++)
		json_array_append_new(ports, json_string(p->ports[i]->ops->describe(p->ports[i])));
	dp_endpoint_stats(p->ep, &st);
	json_object_set_new(object, "name", json_string(p->self->name));
	json_object_set_new(object, "pid", json_integer(getpid()));
	json_object_set_new(object, "version", json_string(PENSTOCK_VERSION));
	json_object_set_new(object, "model", json_string(gguf_path(p->gguf)));
	json_object_set_new(object, "memory", json_string(nic_describe()));
	json_object_set_new(object, "slots", json_string(dp_slots_memory_name(dp_slots_memory(p->rx_slots))));
	json_object_set_new(object, "context", json_integer(p->n_ctx));
	json_object_set_new(object, "kv", json_string(topo_kv_name(p->topo->model.kv)));
	json_object_set_new(object, "wire", json_string(topo_act_name(p->topo->wire.activations)));
	json_object_set_new(object, "idle",
			    json_string(p->self->idle == TOPO_IDLE_SPIN ? "spin" : "adaptive"));
	json_object_set_new(
	    object, "io",
	    json_pack("{s:I, s:I, s:I, s:I, s:I}", "loops", (json_int_t)st.loops, "busy_loops",
		      (json_int_t)st.busy_loops, "sleeps", (json_int_t)st.sleeps, "rx_unknown_link",
		      (json_int_t)st.rx_unknown_link, "tx_dropped", (json_int_t)st.tx_dropped));
	json_object_set_new(object, "ports", ports);
	json_object_set_new(object, "links", links);
}
