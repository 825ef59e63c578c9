/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a)        (sizeof(a) / sizeof((a)[0]))
#define AT(type, field) offsetof(type, field)

const struct yr_choice topo_driver_choices[] = {
    {"memif", TOPO_DRIVER_MEMIF}, {"af_xdp", TOPO_DRIVER_AF_XDP}, {NULL, 0}};
static const struct yr_choice idle_choices[] = {
    {"adaptive", TOPO_IDLE_ADAPTIVE}, {"spin", TOPO_IDLE_SPIN}, {NULL, 0}};
static const struct yr_choice tristate_choices[] = {
    {"auto", TOPO_AUTO}, {"on", TOPO_ON}, {"off", TOPO_OFF}, {NULL, 0}};
static const struct yr_choice kv_choices[] = {
    {"f32", TOPO_KV_F32}, {"f16", TOPO_KV_F16}, {"q8_0", TOPO_KV_Q8_0}, {NULL, 0}};
static const struct yr_choice act_choices[] = {
    {"f32", TOPO_ACT_F32}, {"f16", TOPO_ACT_F16}, {"bf16", TOPO_ACT_BF16}, {"q8", TOPO_ACT_Q8}, {NULL, 0}};

static const char *text_of(const yaml_node_t *n)
{
	return n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : "";
}

/* ---- model ---- */

#define MODEL(f) AT(struct topo_model, f)
static const struct yr_key model_keys[] = {
    {.name = "path", .kind = YR_TEXT, .offset = MODEL(path), .max = TOPO_PATH_BYTES, .required = true},
    {.name = "context", .kind = YR_U32, .offset = MODEL(context), .max = TOPO_CONTEXT_MAX},
    {.name = "max_sequences", .kind = YR_U32, .offset = MODEL(max_sequences), .min = 1, .max = 1024},
    {.name = "max_batch_tokens",
     .kind = YR_U32,
     .offset = MODEL(max_batch_tokens),
     .min = 1,
     .max = TOPO_BATCH_MAX},
    {.name = "kv", .kind = YR_CHOICE, .offset = MODEL(kv), .choices = kv_choices},
};

/* "model: PATH" is short for "model: {path: PATH}". */
static int read_model(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;
	char show[YR_SHOW_BYTES];

	f->has_model = true;
	if (n->type == YAML_MAPPING_NODE)
		return yr_mapping(r, n, "model", model_keys, COUNT(model_keys), &f->model);
	if (n->type != YAML_SCALAR_NODE || n->data.scalar.length == 0 ||
	    n->data.scalar.length >= TOPO_PATH_BYTES)
		return yr_fail(
		    r, yr_at(n),
		    "found %s for model; expected the path of a GGUF file (at most %u characters), or "
		    "a mapping with the key path",
		    yr_show(n, show), TOPO_PATH_BYTES - 1);
	memcpy(f->model.path, text_of(n), n->data.scalar.length);
	return 0;
}

/* ---- wire ---- */

static int read_wire_port(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;
	uint64_t v = 0;
	int rc = yr_u64(r, n, "udp_port", 1, 65535, &v);

	f->wire.udp_port = (uint16_t)v;
	return rc;
}

#define FILE_WIRE(f) (AT(struct topo_file, wire) + AT(struct topo_wire, f))
static const struct yr_key wire_keys[] = {
    {.name = "driver",
     .kind = YR_CHOICE,
     .offset = AT(struct topo_file, wire_driver),
     .choices = topo_driver_choices,
     .mark_offset = AT(struct topo_file, wire_driver_at)},
    {.name = "mtu",
     .kind = YR_U32,
     .offset = FILE_WIRE(mtu),
     .min = TOPO_MTU_MIN,
     .max = 65535,
     .mark_offset = AT(struct topo_file, wire_mtu_at)},
    {.name = "window_bytes", .kind = YR_U32, .offset = FILE_WIRE(window_bytes), .max = 1u << 30},
    {.name = "slots", .kind = YR_U32, .offset = FILE_WIRE(slots), .min = 1, .max = 16},
    {.name = "checksum", .kind = YR_CHOICE, .offset = FILE_WIRE(checksum), .choices = tristate_choices},
    {.name = "dead_after_ms", .kind = YR_U32, .offset = FILE_WIRE(dead_after_ms), .min = 10, .max = 600000},
    {.name = "udp_port", .kind = YR_CUSTOM, .custom = read_wire_port},
    {.name = "capture", .kind = YR_BOOL, .offset = FILE_WIRE(capture)},
    {.name = "activations", .kind = YR_CHOICE, .offset = FILE_WIRE(activations), .choices = act_choices},
};

static int read_wire(struct yr *r, const yaml_node_t *n, void *obj)
{
	return yr_mapping(r, n, "wire", wire_keys, COUNT(wire_keys), obj);
}

/* ---- nodes ---- */

static int read_hugepages(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file_node *node = obj;
	uint64_t mb = 0;
	int rc = yr_u64(r, n, "hugepages_mb", 0, 65536, &mb);

	if (rc != 0)
		return rc;
	if (mb % 2 != 0 || (mb != 0 && mb < 16))
		return yr_fail(r, yr_at(n),
			       "found '%u' for hugepages_mb; expected 0 or an even number from 16 to 65536 "
			       "(pages have 2 MB)",
			       (unsigned)mb);
	node->v.hugepages_mb = (uint32_t)mb;
	return 0;
}

#define NODE(f) (AT(struct topo_file_node, v) + AT(struct topo_node, f))
static const struct yr_key node_keys[] = {
    {.name = "name",
     .kind = YR_NAME,
     .offset = NODE(name),
     .max = TOPO_NAME_BYTES,
     .required = true,
     .mark_offset = AT(struct topo_file_node, name_at)},
    {.name = "host", .kind = YR_NAME, .offset = NODE(host), .max = 64},
    {.name = "netns",
     .kind = YR_NAME,
     .offset = NODE(netns),
     .max = TOPO_NAME_BYTES,
     .mark_offset = AT(struct topo_file_node, netns_at)},
    {.name = "hugepages_mb", .kind = YR_CUSTOM, .custom = read_hugepages},
};

static void node_defaults(struct topo_file_node *n)
{
	strcpy(n->v.host, "local");
	n->v.hugepages_mb = 64;
}

static int read_node(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;
	struct topo_file_node *node = &f->nodes[f->n_nodes++];

	node_defaults(node);
	node->at = yr_at(n);
	return yr_mapping(r, n, "a node", node_keys, COUNT(node_keys), node);
}

static int read_nodes(struct yr *r, const yaml_node_t *n, void *obj)
{
	return yr_list(r, n, "nodes", TOPO_MAX_NODES, read_node, obj);
}

/* ---- stages and the gateway ---- */

/* "A-B" (inclusive, as people count), "A", or auto. */
static int read_blocks(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file_proc *p = obj;
	char show[YR_SHOW_BYTES];
	unsigned first = 0, last = 0;
	int used = 0;

	p->has_blocks = true;
	p->v.blocks_auto = yr_is_text(n, "auto");
	if (p->v.blocks_auto)
		return 0;
	if (n->type == YAML_SCALAR_NODE && n->data.scalar.length < 16 &&
	    strspn(text_of(n), "0123456789-") == n->data.scalar.length) {
		if (sscanf(text_of(n), "%5u-%5u%n", &first, &last, &used) != 2 ||
		    (size_t)used != n->data.scalar.length) {
			used = 0;
			if (sscanf(text_of(n), "%5u%n", &first, &used) == 1)
				last = first;
		}
	}
	if (used == 0 || (size_t)used != n->data.scalar.length || first > last || last > 9999)
		return yr_fail(r, yr_at(n),
			       "found %s for blocks; expected a range such as \"0-3\" (both inclusive, first "
			       "<= last <= 9999) or auto",
			       yr_show(n, show));
	p->v.block_first = first;
	p->v.block_last = last + 1;
	return 0;
}

static int read_core(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file_proc *p = obj;
	uint64_t core = 0;
	int rc = yr_u64(r, n, "cores", 0, 1023, &core);

	if (rc != 0)
		return rc;
	for (uint32_t i = 0; i < p->v.n_cores; i++)
		if (p->v.cores[i] == (int)core)
			return yr_fail(r, yr_at(n), "found core %d again; expected each core once",
				       (int)core);
	p->v.cores[p->v.n_cores++] = (int)core;
	return 0;
}

static int read_cores(struct yr *r, const yaml_node_t *n, void *obj)
{
	return yr_list(r, n, "core numbers", TOPO_MAX_CORES, read_core, obj);
}

#define PROC(f) (AT(struct topo_file_proc, v) + AT(struct topo_proc, f))
static const struct yr_key stage_keys[] = {
    {.name = "name",
     .kind = YR_NAME,
     .offset = PROC(name),
     .max = TOPO_NAME_BYTES,
     .mark_offset = AT(struct topo_file_proc, name_at)},
    {.name = "node",
     .kind = YR_NAME,
     .offset = AT(struct topo_file_proc, node),
     .max = TOPO_NAME_BYTES,
     .mark_offset = AT(struct topo_file_proc, node_at)},
    {.name = "device", .kind = YR_NAME, .offset = PROC(device), .max = TOPO_NAME_BYTES},
    {.name = "blocks",
     .kind = YR_CUSTOM,
     .custom = read_blocks,
     .mark_offset = AT(struct topo_file_proc, blocks_at)},
    {.name = "threads", .kind = YR_U32, .offset = PROC(n_threads), .max = 256},
    {.name = "idle", .kind = YR_CHOICE, .offset = PROC(idle), .choices = idle_choices},
    {.name = "cores", .kind = YR_CUSTOM, .custom = read_cores},
    {.name = "io_core", .kind = YR_INT, .offset = PROC(io_core), .max = 1023},
};

static const struct yr_key gateway_keys[] = {
    {.name = "name",
     .kind = YR_NAME,
     .offset = PROC(name),
     .max = TOPO_NAME_BYTES,
     .mark_offset = AT(struct topo_file_proc, name_at)},
    {.name = "node",
     .kind = YR_NAME,
     .offset = AT(struct topo_file_proc, node),
     .max = TOPO_NAME_BYTES,
     .mark_offset = AT(struct topo_file_proc, node_at)},
    {.name = "idle", .kind = YR_CHOICE, .offset = PROC(idle), .choices = idle_choices},
    {.name = "io_core", .kind = YR_INT, .offset = PROC(io_core), .max = 1023},
};

static int read_stage(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;
	struct topo_file_proc *p = &f->stages[f->n_stages];

	snprintf(p->v.name, sizeof(p->v.name), "s%u", f->n_stages);
	f->n_stages++;
	strcpy(p->v.device, "cpu");
	p->v.io_core = -1;
	p->v.blocks_auto = true;
	p->at = p->name_at = p->node_at = p->blocks_at = yr_at(n);
	return yr_mapping(r, n, "a stage", stage_keys, COUNT(stage_keys), p);
}

static int read_stages(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;
	int rc = yr_list(r, n, "stages", TOPO_MAX_STAGES, read_stage, obj);

	if (rc == 0 && f->n_stages == 0)
		rc = yr_fail(r, yr_at(n), "found an empty list of stages; expected at least one stage");
	return rc;
}

static int read_gateway(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;

	f->gateway.at = f->gateway.name_at = f->gateway.node_at = yr_at(n);
	return yr_mapping(r, n, "gateway", gateway_keys, COUNT(gateway_keys), &f->gateway);
}

/* ---- links ---- */

static bool host_address_ok(uint32_t ip, uint32_t prefix)
{
	uint32_t host_mask = prefix == 0 ? UINT32_MAX : (1u << (32 - prefix)) - 1;
	uint32_t top = ip >> 24;

	if (top == 0 || top == 127 || top >= 224 || prefix < 1 || prefix > 31)
		return false;
	return prefix == 31 || ((ip & host_mask) != 0 && (ip & host_mask) != host_mask);
}

static int read_address(struct yr *r, const yaml_node_t *n, const char *key, struct topo_file_end *e)
{
	char show[YR_SHOW_BYTES], addr[INET_ADDRSTRLEN];
	const char *text = text_of(n), *slash = strchr(text, '/');
	struct in_addr ip = {0};
	uint32_t prefix = 0;

	if (slash != NULL && (size_t)(slash - text) < sizeof(addr) && slash[1] >= '1' && slash[1] <= '9' &&
	    strlen(slash + 1) <= 2 && strspn(slash + 1, "0123456789") == strlen(slash + 1)) {
		memcpy(addr, text, (size_t)(slash - text));
		addr[slash - text] = '\0';
		prefix = (uint32_t)atoi(slash + 1);
		if (inet_pton(AF_INET, addr, &ip) != 1)
			prefix = 0;
	}
	e->ip = ntohl(ip.s_addr);
	e->prefix_len = prefix;
	if (prefix > 31 || !host_address_ok(e->ip, prefix))
		return yr_fail(r, yr_at(n),
			       "found %s for %s; expected a host's IPv4 address and prefix length, such as "
			       "10.0.0.1/30",
			       yr_show(n, show), key);
	e->ip_at = yr_at(n);
	return 0;
}

static int read_from_address(struct yr *r, const yaml_node_t *n, void *obj)
{
	return read_address(r, n, "from_address", &((struct topo_file_link *)obj)->end[0]);
}

static int read_to_address(struct yr *r, const yaml_node_t *n, void *obj)
{
	return read_address(r, n, "to_address", &((struct topo_file_link *)obj)->end[1]);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int read_mac(struct yr *r, const yaml_node_t *n, const char *key, uint8_t mac[6])
{
	const char *s = text_of(n);
	char show[YR_SHOW_BYTES];
	uint8_t any = 0;
	bool ok = strlen(s) == 17;

	for (size_t i = 0; ok && i < 6; i++) {
		int hi = hex_digit(s[3 * i]), lo = hex_digit(s[3 * i + 1]);

		ok = hi >= 0 && lo >= 0 && (i == 5 || s[3 * i + 2] == ':');
		mac[i] = ok ? (uint8_t)(hi * 16 + lo) : 0;
		any |= mac[i];
	}
	if (!ok || any == 0 || (mac[0] & 1) != 0)
		return yr_fail(r, yr_at(n),
			       "found %s for %s; expected one machine's MAC address, such as "
			       "02:00:00:00:00:01",
			       yr_show(n, show), key);
	return 0;
}

static int read_from_mac(struct yr *r, const yaml_node_t *n, void *obj)
{
	return read_mac(r, n, "from_mac", ((struct topo_file_link *)obj)->end[0].mac);
}

static int read_to_mac(struct yr *r, const yaml_node_t *n, void *obj)
{
	return read_mac(r, n, "to_mac", ((struct topo_file_link *)obj)->end[1].mac);
}

#define LINK(f)   AT(struct topo_file_link, f)
#define END(i, f) (LINK(end) + (i) * sizeof(struct topo_file_end) + AT(struct topo_file_end, f))
static const struct yr_key link_keys[] = {
    {.name = "from",
     .kind = YR_NAME,
     .offset = END(0, proc),
     .max = TOPO_NAME_BYTES,
     .required = true,
     .mark_offset = END(0, proc_at)},
    {.name = "to",
     .kind = YR_NAME,
     .offset = END(1, proc),
     .max = TOPO_NAME_BYTES,
     .required = true,
     .mark_offset = END(1, proc_at)},
    {.name = "driver",
     .kind = YR_CHOICE,
     .offset = LINK(driver),
     .choices = topo_driver_choices,
     .mark_offset = LINK(driver_at)},
    {.name = "mtu",
     .kind = YR_U32,
     .offset = LINK(mtu),
     .min = TOPO_MTU_MIN,
     .max = 65535,
     .mark_offset = LINK(mtu_at)},
    {.name = "from_iface",
     .kind = YR_NAME,
     .offset = END(0, iface),
     .max = 16,
     .mark_offset = END(0, iface_at)},
    {.name = "from_address", .kind = YR_CUSTOM, .custom = read_from_address},
    {.name = "to_iface",
     .kind = YR_NAME,
     .offset = END(1, iface),
     .max = 16,
     .mark_offset = END(1, iface_at)},
    {.name = "to_address", .kind = YR_CUSTOM, .custom = read_to_address},
    {.name = "from_mac", .kind = YR_CUSTOM, .custom = read_from_mac},
    {.name = "to_mac", .kind = YR_CUSTOM, .custom = read_to_mac},
    {.name = "udp_port", .kind = YR_U32, .offset = LINK(udp_port), .min = 1, .max = 65535},
};

static int read_link(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct topo_file *f = obj;
	struct topo_file_link *l = &f->links[f->n_links++];

	l->driver = -1;
	l->at = yr_at(n);
	return yr_mapping(r, n, "a link", link_keys, COUNT(link_keys), l);
}

static int read_links(struct yr *r, const yaml_node_t *n, void *obj)
{
	return yr_list(r, n, "links", TOPO_MAX_LINKS, read_link, obj);
}

/* ---- the whole file ---- */

static const struct yr_key root_keys[] = {
    {.name = "version",
     .kind = YR_U32,
     .offset = AT(struct topo_file, version),
     .min = 1,
     .max = 1,
     .required = true},
    {.name = "name", .kind = YR_NAME, .offset = AT(struct topo_file, name), .max = TOPO_NAME_BYTES},
    {.name = "model", .kind = YR_CUSTOM, .custom = read_model},
    {.name = "wire", .kind = YR_CUSTOM, .custom = read_wire},
    {.name = "nodes", .kind = YR_CUSTOM, .custom = read_nodes},
    {.name = "stages", .kind = YR_CUSTOM, .custom = read_stages, .required = true},
    {.name = "gateway", .kind = YR_CUSTOM, .custom = read_gateway},
    {.name = "links", .kind = YR_CUSTOM, .custom = read_links},
};

int topo_file_read(struct yr *r, struct topo_file *f)
{
	f->model.max_sequences = 8;
	f->model.max_batch_tokens = 256;
	f->wire_driver = TOPO_DRIVER_MEMIF;
	f->wire.slots = 8;
	f->wire.dead_after_ms = 1000;
	f->wire.udp_port = 7600;
	strcpy(f->gateway.v.name, "gateway");
	f->gateway.v.is_gateway = true;
	f->gateway.v.io_core = -1;
	return yr_mapping(r, yr_root(r), "a topology", root_keys, COUNT(root_keys), f);
}
