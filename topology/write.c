/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/topology.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *idle_name(enum topo_idle idle)
{
	return idle == TOPO_IDLE_SPIN ? "spin" : "adaptive";
}

static const char *tristate_name(enum topo_tristate v)
{
	return v == TOPO_AUTO ? "auto" : v == TOPO_ON ? "on" : "off";
}

static void write_quoted(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s != '\0'; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
	fputc('"', f);
}

static void write_proc(FILE *f, const struct topology *t, const struct topo_proc *p)
{
	fprintf(f, "name: \"%s\", node: \"%s\", idle: %s", p->name, t->nodes[p->node].name,
		idle_name(p->idle));
	if (p->io_core >= 0)
		fprintf(f, ", io_core: %d", p->io_core);
	if (p->is_gateway)
		return;
	fprintf(f, ", device: \"%s\", threads: %u", p->device, p->n_threads);
	if (p->block_last > p->block_first)
		fprintf(f, ", blocks: \"%u-%u\"", p->block_first, p->block_last - 1);
	else
		fprintf(f, ", blocks: auto");
	if (p->n_cores > 0) {
		fprintf(f, ", cores: [");
		for (uint32_t i = 0; i < p->n_cores; i++)
			fprintf(f, "%s%d", i ? ", " : "", p->cores[i]);
		fprintf(f, "]");
	}
}

static void write_end(FILE *f, const char *side, const struct topo_link_end *e)
{
	static const uint8_t none[6];

	fprintf(f, ", %s_address: %u.%u.%u.%u/%u", side, e->ip >> 24, e->ip >> 16 & 255, e->ip >> 8 & 255,
		e->ip & 255, e->prefix_len);
	if (e->iface[0] != '\0')
		fprintf(f, ", %s_iface: \"%s\"", side, e->iface);
	if (memcmp(e->mac, none, 6) != 0)
		fprintf(f, ", %s_mac: \"%02x:%02x:%02x:%02x:%02x:%02x\"", side, e->mac[0], e->mac[1],
			e->mac[2], e->mac[3], e->mac[4], e->mac[5]);
}

static void write_link(FILE *f, const struct topology *t, const struct topo_link *l)
{
	fprintf(f, "  - {from: \"%s\", to: \"%s\", driver: %s, mtu: %u, udp_port: %u",
		t->procs[l->end[0].proc].name, t->procs[l->end[1].proc].name, topo_driver_name(l->driver),
		l->mtu, l->end[0].udp_port);
	write_end(f, "from", &l->end[0]);
	write_end(f, "to", &l->end[1]);
	fprintf(f, "}\n");
}

static void write_all(FILE *f, const struct topology *t)
{
	const struct topo_wire *w = &t->wire;

	fprintf(f, "# Written by penstock: every default and derived value filled in.\n");
	fprintf(f, "version: 1\nname: \"%s\"\nmodel:\n  path: ", t->name);
	write_quoted(f, t->model.path);
	fprintf(f, "\n  context: %u\n  max_sequences: %u\n  max_batch_tokens: %u\n  kv: %s\n",
		t->model.context, t->model.max_sequences, t->model.max_batch_tokens,
		topo_kv_name(t->model.kv));
	fprintf(f, "wire: {driver: %s, mtu: %u, window_bytes: %u, slots: %u, checksum: %s, ",
		topo_driver_name(w->driver), w->mtu, w->window_bytes, w->slots, tristate_name(w->checksum));
	fprintf(f, "dead_after_ms: %u, udp_port: %u, capture: %s, activations: %s}\nnodes:\n",
		w->dead_after_ms, w->udp_port, w->capture ? "true" : "false", topo_act_name(w->activations));
	for (uint32_t i = 0; i < t->n_nodes; i++) {
		const struct topo_node *n = &t->nodes[i];

		fprintf(f, "  - {name: \"%s\", host: \"%s\", hugepages_mb: %u", n->name, n->host,
			n->hugepages_mb);
		if (n->netns[0] != '\0')
			fprintf(f, ", netns: \"%s\"", n->netns);
		fprintf(f, "}\n");
	}
	fprintf(f, "stages:\n");
	for (uint32_t i = 0; i < t->n_stages; i++) {
		fprintf(f, "  - {");
		write_proc(f, t, &t->procs[i]);
		fprintf(f, "}\n");
	}
	fprintf(f, "gateway: {");
	write_proc(f, t, &t->procs[topo_gateway(t)]);
	fprintf(f, "}\nlinks:\n");
	for (uint32_t i = 0; i < t->n_links; i++)
		write_link(f, t, &t->links[i]);
}

int topo_write(const struct topology *t, const char *path, struct ps_err *err)
{
	char tmp[TOPO_PATH_BYTES + 16];
	bool failed;
	FILE *f;
	int fd, rc;

	if (snprintf(tmp, sizeof(tmp), "%s.new", path) >= (int)sizeof(tmp))
		return ps_err_set(err, -ENAMETOOLONG, "%s: path too long", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	f = fd < 0 ? NULL : fdopen(fd, "w");
	if (f == NULL) {
		rc = ps_err_set(err, -errno, "%s: %s", tmp, strerror(errno));
		if (fd >= 0)
			close(fd);
		return rc;
	}
	write_all(f, t);
	failed = ferror(f) != 0;
	if (fclose(f) != 0 || failed || rename(tmp, path) != 0) {
		rc = ps_err_set(err, -(errno ? errno : EIO), "%s: %s", path, strerror(errno));
		unlink(tmp);
		return rc;
	}
	return 0;
}
