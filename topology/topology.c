/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/topology.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "topology/file.h"

const char *topo_driver_name(enum topo_driver d)
{
	switch (d) {
	case TOPO_DRIVER_MEMIF:
		return "memif";
	case TOPO_DRIVER_AF_XDP:
		return "af_xdp";
	case TOPO_DRIVER_LOOPBACK:
		return "loopback";
	}
	return "unknown";
}

static const char *const kv_names[] = {[TOPO_KV_F32] = "f32", [TOPO_KV_F16] = "f16", [TOPO_KV_Q8_0] = "q8_0"};
static const char *const act_names[] = {
    [TOPO_ACT_F32] = "f32", [TOPO_ACT_F16] = "f16", [TOPO_ACT_BF16] = "bf16", [TOPO_ACT_Q8] = "q8"};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int name_index(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -1;
}

const char *topo_kv_name(enum topo_kv kv)
{
	return kv_names[kv];
}

const char *topo_act_name(enum topo_act act)
{
	return act_names[act];
}

bool topo_kv_by_name(const char *name, enum topo_kv *kv_out)
{
	int i = name_index(kv_names, COUNT(kv_names), name);

	if (i >= 0)
		*kv_out = (enum topo_kv)i;
	return i >= 0;
}

bool topo_act_by_name(const char *name, enum topo_act *act_out)
{
	int i = name_index(act_names, COUNT(act_names), name);

	if (i >= 0)
		*act_out = (enum topo_act)i;
	return i >= 0;
}

static int set_topology_path(const char *path, struct topology *t, struct ps_err *err)
{
	char real[PATH_MAX];

	if (realpath(path, real) == NULL)
		return ps_err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (strlen(real) >= sizeof(t->path))
		return ps_err_set(err, -ENAMETOOLONG,
				  "%s: found a path of %zu characters; expected at most %zu", path,
				  strlen(real), sizeof(t->path) - 1);
	memcpy(t->path, real, strlen(real) + 1);
	return 0;
}

int topo_load(const char *path, const struct topo_overrides *ov, struct topology **topo_out,
	      struct ps_err *err)
{
	struct topology *t = calloc(1, sizeof(*t));
	struct topo_file *f = calloc(1, sizeof(*f));
	struct yr r;
	int rc;

	*topo_out = NULL;
	if (t == NULL || f == NULL) {
		rc = ps_err_set(err, -ENOMEM, "%s: out of memory", path);
		goto out_free;
	}
	rc = set_topology_path(path, t, err);
	if (rc == 0)
		rc = yr_open(&r, path, err);
	if (rc != 0)
		goto out_free;
	rc = topo_file_read(&r, f);
	if (rc == 0)
		rc = topo_derive(&r, f, ov, t);
	yr_close(&r);
	if (rc == 0) {
		*topo_out = t;
		t = NULL;
	}
out_free:
	free(f);
	free(t);
	return rc;
}

void topo_free(struct topology *t)
{
	free(t);
}

static int fail_range(const struct topology *t, uint32_t i, uint32_t next, uint32_t n_layers,
		      struct ps_err *err)
{
	const struct topo_proc *p = &t->procs[i];

	return ps_err_set(
	    err, -EINVAL,
	    "%s:%u:%u: found blocks %u-%u in stage '%s'; expected a range that starts at %u%s, so that "
	    "the stages hold all %u blocks (0-%u) of the model",
	    t->path, p->line, p->column, p->block_first, p->block_last - 1, p->name, next,
	    i + 1 == t->n_stages ? " and ends at the model's last block" : "", n_layers, n_layers - 1);
}

int topo_set_blocks(struct topology *t, uint32_t n_layers, const uint32_t *cuts, struct ps_err *err)
{
	uint32_t next = 0;

	if (n_layers < t->n_stages)
		return ps_err_set(
		    err, -EINVAL,
		    "%s: found %u stages for a model of %u blocks; expected at most one stage a "
		    "block",
		    t->path, t->n_stages, n_layers);
	for (uint32_t i = 0; i < t->n_stages; i++) {
		struct topo_proc *p = &t->procs[i];

		if (p->blocks_auto && (p->block_first | p->block_last) == 0) {
			if (cuts == NULL)
				return ps_err_set(err, -EINVAL,
						  "%s: found automatic blocks in stage '%s'; expected cuts",
						  t->path, p->name);
			p->block_first = cuts[i];
			p->block_last = cuts[i + 1];
		}
		if (p->block_first != next || p->block_last <= next || p->block_last > n_layers ||
		    (i + 1 == t->n_stages && p->block_last != n_layers))
			return fail_range(t, i, next, n_layers, err);
		next = p->block_last;
	}
	return 0;
}

const struct topo_proc *topo_find_proc(const struct topology *t, const char *name, struct ps_err *err)
{
	char names[700] = "";
	size_t o = 0;

	for (uint32_t i = 0; i < t->n_procs; i++) {
		if (strcmp(t->procs[i].name, name) == 0)
			return &t->procs[i];
		if (o < sizeof(names) - TOPO_NAME_BYTES - 2)
			o += (size_t)snprintf(names + o, sizeof(names) - o, "%s%s", o ? ", " : "",
					      t->procs[i].name);
	}
	(void)ps_err_set(err, -ENOENT, "found process name '%.40s'; expected one of %s", name, names);
	return NULL;
}

uint32_t topo_gateway(const struct topology *t)
{
	return t->n_procs - 1;
}

/* ---- hash ---- */

/* FNV-1a, 64 bits (Fowler, Noll, Vo). Numbers go in as eight little-endian bytes and texts
 * with their terminator, so that neighbours cannot run into each other. */
static uint64_t hash_u64(uint64_t h, uint64_t v)
{
	for (int i = 0; i < 8; i++) {
		h = (h ^ (v & 0xff)) * 0x100000001b3ull;
		v >>= 8;
	}
	return h;
}

static uint64_t hash_text(uint64_t h, const char *s)
{
	do
		h = (h ^ (uint8_t)*s) * 0x100000001b3ull;
	while (*s++ != '\0');
	return h;
}

static uint64_t hash_link(uint64_t h, const struct topo_link *l)
{
	h = hash_u64(h, l->id);
	h = hash_u64(h, l->driver);
	h = hash_u64(h, l->mtu);
	for (int i = 0; i < 2; i++) {
		const struct topo_link_end *e = &l->end[i];

		h = hash_u64(h, e->proc);
		h = hash_text(h, e->iface);
		h = hash_u64(h, e->ip);
		h = hash_u64(h, e->prefix_len);
		h = hash_u64(h, e->udp_port);
		for (int b = 0; b < 6; b++)
			h = hash_u64(h, e->mac[b]);
	}
	return h;
}

/* Not hashed: where files lie, and how a host runs its processes (cores, threads, idling,
 * hugepages, namespaces, capture), which may differ between copies of one deployment's file. */
uint64_t topo_hash(const struct topology *t)
{
	const char *slash = strrchr(t->model.path, '/');
	uint64_t h = hash_text(0xcbf29ce484222325ull, t->name);

	h = hash_text(h, slash != NULL ? slash + 1 : t->model.path);
	h = hash_u64(h, t->model.context);
	h = hash_u64(h, t->model.max_sequences);
	h = hash_u64(h, t->model.max_batch_tokens);
	h = hash_u64(h, t->model.kv);
	h = hash_u64(h, t->wire.activations);
	h = hash_u64(h, t->wire.driver);
	h = hash_u64(h, t->wire.mtu);
	h = hash_u64(h, t->wire.window_bytes);
	h = hash_u64(h, t->wire.slots);
	h = hash_u64(h, t->wire.checksum);
	h = hash_u64(h, t->wire.dead_after_ms);
	h = hash_u64(h, t->wire.udp_port);
	h = hash_u64(h, t->n_procs);
	for (uint32_t i = 0; i < t->n_procs; i++) {
		h = hash_text(h, t->procs[i].name);
		h = hash_text(h, t->nodes[t->procs[i].node].name);
		h = hash_text(h, t->nodes[t->procs[i].node].host);
		h = hash_text(h, t->procs[i].device);
		h = hash_u64(h, t->procs[i].block_first);
		h = hash_u64(h, t->procs[i].block_last);
	}
	for (uint32_t i = 0; i < t->n_links; i++)
		h = hash_link(h, &t->links[i]);
	return h;
}
