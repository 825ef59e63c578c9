/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/file.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Derived addresses are 10.80.<link id>.1 and .2 in a /30 a link. */
#define DERIVED_NET    ((10u << 24) | (80u << 16))
#define DERIVED_PREFIX 30u

struct derive {
	struct yr *r;
	struct topo_file *f;
	struct topology *t;
	const struct topo_file_link *explicit_of[TOPO_MAX_LINKS];
};

uint32_t topo_driver_mtu_default(enum topo_driver d)
{
	/* 3420 carries 3,328 bytes of payload, the largest multiple of 64 below the limit. */
	return d == TOPO_DRIVER_AF_XDP ? 3420u : 9000u;
}

uint32_t topo_driver_mtu_max(enum topo_driver d)
{
	/* AF_XDP through DPDK 22.11 has no multi-buffer: a frame of MTU 3442 is the largest that
	 * fits its buffer with the room the driver needs. memif: one 16-bit buffer length. */
	return d == TOPO_DRIVER_AF_XDP ? 3442u : 65000u;
}

static bool is_local(const struct topo_node *n)
{
	return strcmp(n->host, "local") == 0;
}

/* ---- overrides ---- */

/* The node's stage at the same place of a pipeline of another length lends its settings. */
static int override_stages(struct yr *r, struct topo_file *f, uint32_t n)
{
	struct topo_file_proc *old;
	uint32_t n_old = f->n_stages;

	if (n > TOPO_MAX_STAGES)
		return ps_err_set(r->err, -EINVAL, "found %u stages asked for; expected 1 to %u", n,
				  TOPO_MAX_STAGES);
	if (f->n_links != 0 && n != n_old)
		return yr_fail(r, f->links[0].at,
			       "found explicit links of %u stages while %u stages are asked for; expected no "
			       "links in the file, or the same number of stages",
			       n_old, n);
	old = malloc(sizeof(f->stages));
	if (old == NULL)
		return ps_err_set(r->err, -ENOMEM, "out of memory");
	memcpy(old, f->stages, sizeof(f->stages));
	for (uint32_t i = 0; i < n; i++) {
		struct topo_file_proc *p = &f->stages[i];

		*p = old[(uint64_t)i * n_old / n];
		p->v.blocks_auto = true;
		p->v.block_first = p->v.block_last = 0;
		if (n == n_old)
			continue;
		memset(p->v.name, 0, sizeof(p->v.name));
		snprintf(p->v.name, sizeof(p->v.name), "s%u", i);
		p->v.n_cores = 0; /* pinning was made for another number of stages */
		memset(p->v.cores, 0, sizeof(p->v.cores));
		p->v.io_core = -1;
	}
	f->n_stages = n;
	free(old);
	return 0;
}

static int split_one_node(struct yr *r, struct topo_file *f)
{
	struct topo_file_node one = f->nodes[0];
	uint32_t n = f->n_stages + 1;

	if (n > TOPO_MAX_NODES)
		return ps_err_set(
		    r->err, -EINVAL,
		    "found %u stages in one node; expected at most %u to put each into a network "
		    "namespace of its own (--driver af_xdp)",
		    f->n_stages, TOPO_MAX_NODES - 1);
	for (uint32_t i = 0; i < n; i++) {
		struct topo_file_proc *p = i < f->n_stages ? &f->stages[i] : &f->gateway;

		f->nodes[i] = one;
		memcpy(f->nodes[i].v.name, p->v.name, TOPO_NAME_BYTES);
		memset(f->nodes[i].v.netns, 0, TOPO_NAME_BYTES);
		strcpy(f->nodes[i].v.netns, "auto");
		memcpy(p->node, p->v.name, TOPO_NAME_BYTES);
	}
	f->n_nodes = n;
	return 0;
}

/* A link's MTU, interfaces and addresses belong to the driver that the file had in mind. */
static int override_driver(struct yr *r, struct topo_file *f, int driver)
{
	bool changed = f->wire_driver != driver;

	if (driver != TOPO_DRIVER_MEMIF && driver != TOPO_DRIVER_AF_XDP)
		return ps_err_set(r->err, -EINVAL, "found driver %s asked for; expected memif or af_xdp",
				  topo_driver_name((enum topo_driver)driver));
	f->wire_driver = driver;
	if (changed) {
		f->wire.mtu = 0;
		f->n_links = 0;
	}
	if (driver == TOPO_DRIVER_AF_XDP)
		return f->n_nodes == 1 ? split_one_node(r, f) : 0;
	f->n_links = 0;
	for (uint32_t i = 0; i < f->n_nodes; i++)
		memset(f->nodes[i].v.netns, 0, TOPO_NAME_BYTES);
	return 0;
}

/* Of the model and of what goes over the wire; they leave the pipeline's shape alone. */
static int override_values(struct yr *r, struct topo_file *f, const struct topo_overrides *ov)
{
	if (ov->context != 0)
		f->model.context = ov->context;
	if (ov->max_batch_tokens != 0)
		f->model.max_batch_tokens = ov->max_batch_tokens;
	if (ov->kv != NULL && !topo_kv_by_name(ov->kv, &f->model.kv))
		return ps_err_set(r->err, -EINVAL,
				  "found KV cache type %s asked for; expected " TOPO_KV_NAMES, ov->kv);
	if (ov->activations != NULL && !topo_act_by_name(ov->activations, &f->wire.activations))
		return ps_err_set(r->err, -EINVAL,
				  "found activations of type %s asked for; expected " TOPO_ACT_NAMES,
				  ov->activations);
	return 0;
}

static int apply_overrides(struct yr *r, struct topo_file *f, const struct topo_overrides *ov)
{
	int rc = 0;

	if (ov == NULL)
		return 0;
	if (ov->n_stages != 0)
		rc = override_stages(r, f, ov->n_stages);
	if (rc == 0 && ov->driver >= 0)
		rc = override_driver(r, f, ov->driver);
	for (uint32_t i = 0; ov->no_hugepages && i < f->n_nodes; i++)
		f->nodes[i].v.hugepages_mb = 0;
	return rc != 0 ? rc : override_values(r, f, ov);
}

/* ---- name and model ---- */

static void derive_name(struct derive *d)
{
	const char *base = strrchr(d->t->path, '/');
	size_t o = 0;

	if (d->f->name[0] != '\0') {
		memcpy(d->t->name, d->f->name, TOPO_NAME_BYTES);
		return;
	}
	base = base != NULL ? base + 1 : d->t->path;
	for (; *base != '\0' && *base != '.' && o < TOPO_NAME_BYTES - 1; base++) {
		bool ok = isalnum((unsigned char)*base) || (o > 0 && strchr("_-", *base) != NULL);

		d->t->name[o++] = ok ? *base : 'x';
	}
	if (o == 0)
		strcpy(d->t->name, "topology");
}

static int set_path(struct yr *r, const char *folder, const char *path, char *out)
{
	char joined[2 * PATH_MAX], real[PATH_MAX];
	const char *use = joined;

	if (path[0] == '/')
		snprintf(joined, sizeof(joined), "%s", path);
	else
		snprintf(joined, sizeof(joined), "%s/%s", folder, path);
	if (realpath(joined, real) != NULL)
		use = real;
	if (strlen(use) >= TOPO_PATH_BYTES)
		return ps_err_set(r->err, -ENAMETOOLONG,
				  "%s: found a model path of %zu characters; expected at most %u", r->file,
				  strlen(use), TOPO_PATH_BYTES - 1);
	memset(out, 0, TOPO_PATH_BYTES);
	memcpy(out, use, strlen(use));
	return 0;
}

/* The file's path is relative to the file's folder, the command line's to the current one. */
static int derive_model(struct derive *d, const struct topo_overrides *ov)
{
	char folder[PATH_MAX];
	const char *path = d->f->model.path;
	char *slash;

	if (!d->f->has_model && (ov == NULL || ov->model == NULL))
		return yr_fail(d->r, yr_at(yr_root(d->r)),
			       "found no 'model' in a topology; expected model: FILE.gguf (or --model FILE)");
	d->t->model = d->f->model;
	if (ov != NULL && ov->model != NULL) {
		path = ov->model;
		if (path[0] != '/' && getcwd(folder, sizeof(folder)) == NULL)
			return ps_err_set(d->r->err, -errno, "current folder: %s", strerror(errno));
	} else {
		snprintf(folder, sizeof(folder), "%s", d->t->path);
		slash = strrchr(folder, '/');
		if (slash != NULL)
			slash[slash == folder] = '\0';
		else
			strcpy(folder, ".");
	}
	return set_path(d->r, folder, path, d->t->model.path);
}

/* ---- nodes and processes ---- */

static int derive_nodes(struct derive *d)
{
	struct topo_file *f = d->f;

	for (uint32_t i = 0; i < f->n_nodes; i++) {
		for (uint32_t j = 0; j < i; j++) {
			if (strcmp(f->nodes[i].v.name, f->nodes[j].v.name) == 0)
				return yr_fail(d->r, f->nodes[i].name_at,
					       "found node name '%s' again; expected each name once",
					       f->nodes[i].v.name);
			if (f->nodes[i].v.netns[0] != '\0' && strcmp(f->nodes[i].v.netns, "auto") != 0 &&
			    strcmp(f->nodes[i].v.netns, f->nodes[j].v.netns) == 0)
				return yr_fail(d->r, f->nodes[i].netns_at,
					       "found netns '%s' again; expected one node a network "
					       "namespace, or auto",
					       f->nodes[i].v.netns);
		}
		if (f->nodes[i].v.netns[0] != '\0' && !is_local(&f->nodes[i].v))
			return yr_fail(d->r, f->nodes[i].netns_at,
				       "found netns '%s' on host '%s'; expected netns only with host: local",
				       f->nodes[i].v.netns, f->nodes[i].v.host);
		d->t->nodes[i] = f->nodes[i].v;
	}
	d->t->n_nodes = f->n_nodes;
	return 0;
}

static int find_node(struct derive *d, const struct topo_file_proc *p, uint32_t *node_out)
{
	const char *names[TOPO_MAX_NODES], *near;

	if (p->node[0] == '\0') {
		if (d->f->n_nodes > 1 && !p->v.is_gateway)
			return yr_fail(d->r, p->at,
				       "found no 'node' in stage '%s'; expected the key node, as there are "
				       "%u nodes",
				       p->v.name, d->f->n_nodes);
		*node_out = 0;
		return 0;
	}
	for (uint32_t i = 0; i < d->f->n_nodes; i++) {
		names[i] = d->f->nodes[i].v.name;
		if (strcmp(names[i], p->node) == 0) {
			*node_out = i;
			return 0;
		}
	}
	near = yr_nearest(p->node, names, d->f->n_nodes);
	return yr_fail(d->r, p->node_at, "found node '%s'; expected a node of this file, such as '%s'",
		       p->node, near ? near : names[0]);
}

static int derive_procs(struct derive *d)
{
	struct topo_file *f = d->f;

	for (uint32_t i = 0; i <= f->n_stages; i++) {
		struct topo_file_proc *p = i < f->n_stages ? &f->stages[i] : &f->gateway;
		int rc = find_node(d, p, &p->v.node);

		if (rc != 0)
			return rc;
		for (uint32_t j = 0; j < i; j++)
			if (strcmp(p->v.name, f->stages[j].v.name) == 0)
				return yr_fail(d->r, p->at.line ? p->name_at : f->stages[j].name_at,
					       "found process name '%s' again; expected each stage and the "
					       "gateway to have a name of its own",
					       p->v.name);
		d->t->procs[i] = p->v;
		d->t->procs[i].line = p->blocks_at.line;
		d->t->procs[i].column = p->blocks_at.column;
	}
	d->t->n_stages = f->n_stages;
	d->t->n_procs = f->n_stages + 1;
	return 0;
}

/* What can be said about ranges before the model is known: all or none automatic, from 0
 * upwards, without holes or overlaps. topo_set_blocks checks the end. */
static int check_blocks(struct derive *d)
{
	const struct topo_file_proc *s = d->f->stages;
	uint32_t next = 0;

	for (uint32_t i = 0; i < d->f->n_stages; i++) {
		if (s[i].v.blocks_auto != s[0].v.blocks_auto)
			return yr_fail(d->r, s[i].blocks_at,
				       "found %s blocks in stage '%s' beside %s ones in stage '%s'; expected "
				       "ranges for all stages or for none",
				       s[i].v.blocks_auto ? "automatic" : "explicit", s[i].v.name,
				       s[0].v.blocks_auto ? "automatic" : "explicit", s[0].v.name);
		if (s[i].v.blocks_auto)
			continue;
		if (s[i].v.block_first < next)
			return yr_fail(d->r, s[i].blocks_at,
				       "found overlapping blocks %u-%u in stage '%s'; expected a range that "
				       "starts at %u, after stage '%s'",
				       s[i].v.block_first, s[i].v.block_last - 1, s[i].v.name, next,
				       s[i - 1].v.name);
		if (s[i].v.block_first > next)
			return yr_fail(d->r, s[i].blocks_at,
				       "found missing blocks %u-%u before %u-%u of stage '%s'; expected a "
				       "range that starts at %u",
				       next, s[i].v.block_first - 1, s[i].v.block_first,
				       s[i].v.block_last - 1, s[i].v.name, next);
		next = s[i].v.block_last;
	}
	return 0;
}

/* ---- links ---- */

static uint32_t link_proc(const struct topology *t, uint32_t link, int end)
{
	if (end == 0)
		return link == 0 ? t->n_stages : link - 1;
	return link; /* t->n_stages is the gateway's index */
}

static int find_link_proc(struct derive *d, const struct topo_file_end *e, uint32_t *out)
{
	const char *names[TOPO_MAX_PROCS], *near;

	for (uint32_t i = 0; i < d->t->n_procs; i++) {
		names[i] = d->t->procs[i].name;
		if (strcmp(names[i], e->proc) == 0) {
			*out = i;
			return 0;
		}
	}
	near = yr_nearest(e->proc, names, d->t->n_procs);
	return yr_fail(d->r, e->proc_at,
		       "found a link to nowhere: '%s'; expected a stage or the gateway of this file, "
		       "such as '%s'",
		       e->proc, near ? near : names[0]);
}

static int match_links(struct derive *d)
{
	for (uint32_t i = 0; i < d->f->n_links; i++) {
		const struct topo_file_link *l = &d->f->links[i];
		uint32_t from, to, k;
		int rc = find_link_proc(d, &l->end[0], &from);

		if (rc == 0)
			rc = find_link_proc(d, &l->end[1], &to);
		if (rc != 0)
			return rc;
		for (k = 0; k <= d->t->n_stages; k++)
			if (link_proc(d->t, k, 0) == from && link_proc(d->t, k, 1) == to)
				break;
		if (k > d->t->n_stages) {
			k = from == d->t->n_stages ? 0 : from + 1;
			return yr_fail(d->r, l->at,
				       "found a link from '%s' to '%s'; expected one of the pipeline's, such "
				       "as from '%s' to '%s'",
				       l->end[0].proc, l->end[1].proc, l->end[0].proc,
				       d->t->procs[link_proc(d->t, k, 1)].name);
		}
		if (d->explicit_of[k] != NULL)
			return yr_fail(d->r, l->at,
				       "found the link from '%s' to '%s' again; expected each link once",
				       l->end[0].proc, l->end[1].proc);
		d->explicit_of[k] = l;
	}
	return 0;
}

static struct yr_mark link_mark(const struct derive *d, uint32_t k)
{
	uint32_t to = link_proc(d->t, k, 1);

	if (d->explicit_of[k] != NULL)
		return d->explicit_of[k]->at;
	return to < d->t->n_stages ? d->f->stages[to].at : d->f->stages[d->t->n_stages - 1].at;
}

static int derive_driver(struct derive *d, uint32_t k)
{
	const struct topo_file_link *x = d->explicit_of[k];
	struct topo_link *l = &d->t->links[k];
	const struct topo_proc *p[2] = {&d->t->procs[l->end[0].proc], &d->t->procs[l->end[1].proc]};
	struct topo_node *n[2] = {&d->t->nodes[p[0]->node], &d->t->nodes[p[1]->node]};
	bool one_node = n[0] == n[1];

	l->driver = one_node ? TOPO_DRIVER_MEMIF : d->t->wire.driver;
	if (x != NULL && x->driver >= 0)
		l->driver = (enum topo_driver)x->driver;
	if (one_node && l->driver == TOPO_DRIVER_AF_XDP)
		return yr_fail(d->r, x->driver_at,
			       "found af_xdp between '%s' and '%s', which share node '%s'; expected memif",
			       p[0]->name, p[1]->name, n[0]->name);
	if (l->driver == TOPO_DRIVER_MEMIF && strcmp(n[0]->host, n[1]->host) != 0)
		return yr_fail(
		    d->r, link_mark(d, k),
		    "found memif between '%s' on host '%s' and '%s' on host '%s'; expected af_xdp, "
		    "as memif joins processes of one host",
		    p[0]->name, n[0]->host, p[1]->name, n[1]->host);
	l->veth = l->driver == TOPO_DRIVER_AF_XDP && is_local(n[0]) && is_local(n[1]);
	for (int i = 0; i < 2; i++)
		if (l->veth && n[i]->netns[0] == '\0')
			strcpy(n[i]->netns, "auto");
	return 0;
}

static int derive_mtu(struct derive *d, uint32_t k)
{
	const struct topo_file_link *x = d->explicit_of[k];
	struct topo_link *l = &d->t->links[k];
	struct yr_mark at = d->f->wire_mtu_at;

	l->mtu = l->driver == d->t->wire.driver ? d->t->wire.mtu : topo_driver_mtu_default(l->driver);
	if (x != NULL && x->mtu != 0) {
		l->mtu = x->mtu;
		at = x->mtu_at;
	}
	if (l->mtu > topo_driver_mtu_max(l->driver))
		return yr_fail(d->r, at, "found mtu %u on a link over %s; expected %u to %u", l->mtu,
			       topo_driver_name(l->driver), TOPO_MTU_MIN, topo_driver_mtu_max(l->driver));
	return 0;
}

/* Links that end at a real interface can't be invented. */
static int require_explicit(struct derive *d, uint32_t k)
{
	const struct topo_link *l = &d->t->links[k];
	const struct topo_file_link *x = d->explicit_of[k];
	const struct topo_proc *p[2] = {&d->t->procs[l->end[0].proc], &d->t->procs[l->end[1].proc]};

	for (int i = 0; i < 2; i++) {
		const struct topo_node *n = &d->t->nodes[p[i]->node];

		if (n->netns[0] != '\0')
			return yr_fail(
			    d->r, link_mark(d, k),
			    "found node '%s' in network namespace '%s' with a link to another host; "
			    "expected a node without netns, as the link ends at a real interface",
			    n->name, n->netns);
	}
	if (x != NULL && x->end[0].iface[0] && x->end[1].iface[0] && x->end[0].prefix_len &&
	    x->end[1].prefix_len)
		return 0;
	return yr_fail(d->r, link_mark(d, k),
		       "found no interfaces and addresses for the link from '%s' (host %s) to '%s' (host "
		       "%s); expected an entry in links with from, to, from_iface, from_address, to_iface "
		       "and to_address",
		       p[0]->name, d->t->nodes[p[0]->node].host, p[1]->name, d->t->nodes[p[1]->node].host);
}

static void derive_end(const struct derive *d, uint32_t k, uint32_t i)
{
	const struct topo_file_link *x = d->explicit_of[k];
	struct topo_link *l = &d->t->links[k];
	struct topo_link_end *e = &l->end[i];
	static const uint8_t none[6];

	e->udp_port = d->t->wire.udp_port;
	e->ip = DERIVED_NET | (uint32_t)l->id << 8 | (i + 1);
	e->prefix_len = DERIVED_PREFIX;
	if (x != NULL && x->udp_port != 0)
		e->udp_port = (uint16_t)x->udp_port;
	if (x != NULL && x->end[i].prefix_len != 0) {
		e->ip = x->end[i].ip;
		e->prefix_len = x->end[i].prefix_len;
	}
	if (x != NULL) {
		memcpy(e->iface, x->end[i].iface, sizeof(x->end[i].iface));
		memcpy(e->mac, x->end[i].mac, 6);
	}
	if (l->veth && e->iface[0] == '\0')
		snprintf(e->iface, sizeof(e->iface), "ps%u%c", l->id, 'a' + (int)i);
	if (l->veth && memcmp(e->mac, none, 6) == 0) {
		/* Locally administered (IEEE 802): nobody has to ask for it. */
		const uint8_t mac[6] = {
		    0x02, 'P', 'S', (uint8_t)(l->id >> 8), (uint8_t)l->id, (uint8_t)(i + 1)};

		memcpy(e->mac, mac, 6);
	}
}

static int check_ends(struct derive *d, uint32_t k)
{
	const struct topo_file_link *x = d->explicit_of[k];
	const struct topo_link *l = &d->t->links[k];
	uint32_t mask;

	if (x == NULL)
		return 0;
	for (int i = 0; i < 2; i++)
		if (l->driver == TOPO_DRIVER_MEMIF && x->end[i].iface[0] != '\0')
			return yr_fail(d->r, x->end[i].iface_at,
				       "found interface '%s' on a memif link; expected none",
				       x->end[i].iface);
	if ((x->end[0].prefix_len == 0) != (x->end[1].prefix_len == 0))
		return yr_fail(d->r, x->end[x->end[0].prefix_len == 0].ip_at,
			       "found an address for one end of a link only; expected from_address and "
			       "to_address, or neither");
	if (x->end[0].prefix_len == 0)
		return 0;
	mask = ~((1u << (32 - l->end[0].prefix_len)) - 1);
	if (l->end[0].prefix_len != l->end[1].prefix_len || ((l->end[0].ip ^ l->end[1].ip) & mask) != 0)
		return yr_fail(d->r, x->end[1].ip_at,
			       "found two ends of a link in different subnets; expected addresses of one "
			       "subnet with one prefix length");
	return 0;
}

static int derive_links(struct derive *d)
{
	struct topology *t = d->t;
	int rc = match_links(d);

	t->n_links = t->n_stages + 1;
	for (uint32_t k = 0; rc == 0 && k < t->n_links; k++) {
		struct topo_link *l = &t->links[k];

		l->id = (uint16_t)(k + 1);
		for (int i = 0; i < 2; i++)
			l->end[i].proc = link_proc(t, k, i);
		rc = derive_driver(d, k);
		if (rc == 0)
			rc = derive_mtu(d, k);
	}
	/* Only now does each node know whether it gets a namespace. */
	for (uint32_t k = 0; rc == 0 && k < t->n_links; k++) {
		if (t->links[k].driver == TOPO_DRIVER_AF_XDP && !t->links[k].veth)
			rc = require_explicit(d, k);
		derive_end(d, k, 0);
		derive_end(d, k, 1);
		if (rc == 0)
			rc = check_ends(d, k);
	}
	return rc;
}

/* ---- addresses and interfaces are nobody else's ---- */

static const char *ip_text(uint32_t ip, char buf[16])
{
	snprintf(buf, 16, "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
	return buf;
}

static int check_pair(struct derive *d, uint32_t a, uint32_t b)
{
	const struct topology *t = d->t;
	const struct topo_link_end *ea = &t->links[a / 2].end[a % 2], *eb = &t->links[b / 2].end[b % 2];
	const struct topo_file_link *xa = d->explicit_of[a / 2], *xb = d->explicit_of[b / 2];
	const struct topo_proc *pa = &t->procs[ea->proc], *pb = &t->procs[eb->proc];
	bool one_iface = pa->node == pb->node && ea->iface[0] && strcmp(ea->iface, eb->iface) == 0;
	struct yr_mark at = link_mark(d, b / 2);
	char ip[16], ip2[16];

	if (ea->ip == eb->ip && !one_iface) {
		if (xb != NULL && xb->end[b % 2].prefix_len != 0)
			at = xb->end[b % 2].ip_at;
		else if (xa != NULL && xa->end[a % 2].prefix_len != 0)
			at = xa->end[a % 2].ip_at;
		return yr_fail(d->r, at,
			       "found address %s twice, at '%s' and at '%s'; expected an address of its own "
			       "for each",
			       ip_text(eb->ip, ip), pa->name, pb->name);
	}
	if (!one_iface)
		return 0;
	if (xb != NULL && xb->end[b % 2].iface[0] != '\0')
		at = xb->end[b % 2].iface_at;
	else if (xa != NULL && xa->end[a % 2].iface[0] != '\0')
		at = xa->end[a % 2].iface_at;
	if (ea->ip != eb->ip)
		return yr_fail(
		    d->r, at, "found interface '%s' of node '%s' with two addresses, %s and %s; expected one",
		    ea->iface, t->nodes[pa->node].name, ip_text(ea->ip, ip), ip_text(eb->ip, ip2));
	if (ea->proc != eb->proc || t->links[a / 2].veth || t->links[b / 2].veth)
		return yr_fail(
		    d->r, at,
		    "found interface '%s' of node '%s' twice (%s and %s); expected an interface of "
		    "its own for each, as an AF_XDP socket takes the whole interface",
		    ea->iface, t->nodes[pa->node].name, pa->name, pb->name);
	return 0;
}

static int check_unique(struct derive *d)
{
	int rc = 0;

	for (uint32_t b = 1; rc == 0 && b < 2 * d->t->n_links; b++)
		for (uint32_t a = 0; rc == 0 && a < b; a++)
			rc = check_pair(d, a, b);
	return rc;
}

int topo_derive(struct yr *r, struct topo_file *f, const struct topo_overrides *ov, struct topology *t)
{
	struct derive d = {.r = r, .f = f, .t = t};
	int rc;

	if (f->n_nodes == 0) {
		strcpy(f->nodes[0].v.name, "local");
		strcpy(f->nodes[0].v.host, "local");
		f->nodes[0].v.hugepages_mb = 64;
		f->n_nodes = 1;
	}
	rc = apply_overrides(r, f, ov);
	if (rc != 0)
		return rc;
	t->wire = f->wire;
	t->wire.driver = (enum topo_driver)f->wire_driver;
	if (t->wire.mtu == 0)
		t->wire.mtu = topo_driver_mtu_default(t->wire.driver);
	if (t->wire.mtu > topo_driver_mtu_max(t->wire.driver))
		return yr_fail(r, f->wire_mtu_at, "found mtu %u for links over %s; expected %u to %u",
			       t->wire.mtu, topo_driver_name(t->wire.driver), TOPO_MTU_MIN,
			       topo_driver_mtu_max(t->wire.driver));
	derive_name(&d);
	rc = derive_model(&d, ov);
	if (rc == 0)
		rc = derive_nodes(&d);
	if (rc == 0)
		rc = derive_procs(&d);
	if (rc == 0)
		rc = check_blocks(&d);
	if (rc == 0)
		rc = derive_links(&d);
	if (rc == 0)
		rc = check_unique(&d);
	return rc;
}
