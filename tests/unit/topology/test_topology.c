/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "topology/topology.h"
#include "topology/yread.h"

#define HEAD "version: 1\nmodel: m.gguf\n"

static char dir[64];

static const char *put(const char *text, size_t len)
{
	static char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/t.yaml", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
	return path;
}

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_topology.XXXXXX");
	return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/t.yaml", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/u.yaml", dir);
	unlink(path);
	return rmdir(dir);
}

static struct topology *load_ok(const char *text, const struct topo_overrides *ov)
{
	struct topology *t = NULL;
	struct ps_err err = {""};
	int rc = topo_load(put(text, strlen(text)), ov, &t, &err);

	if (rc != 0)
		print_error("%s\n", err.msg);
	assert_int_equal(rc, 0);
	return t;
}

/* ---- errors ---- */

struct bad {
	const char *text;
	uint32_t line, column;
	const char *found; /* each must be in the error */
	const char *expected;
};

#define TWO_HOSTS                                                                                            \
	HEAD "wire: {driver: af_xdp}\n"                                                                      \
	     "nodes: [{name: a}, {name: b, host: far}]\n"                                                    \
	     "stages: [{node: a}, {node: b}]\n"
#define FULL(from, to, fi, fa, ti, ta)                                                                       \
	"{from: " from ", to: " to ", from_iface: " fi ", from_address: " fa ", to_iface: " ti               \
	", to_address: " ta "}"

static const struct bad bads[] = {
    /* no YAML, or not this kind */
    {"", 1, 1, "empty file", "mapping"},
    {"# only a comment\n", 1, 1, "empty file", "mapping"},
    {"just text\n", 1, 1, "'just text'", "mapping"},
    {"- a\n- b\n", 1, 1, "a list", "mapping"},
    {"version: [1\nname: x\n", 2, 5, "no YAML", "YAML"},
    {"version: 1\n\tname: x\n", 2, 1, "no YAML", "YAML"},
    {"version: &a 1\n", 1, 10, "anchor", "plain value"},
    {"version: 1\nname: *a\n", 2, 7, "alias", "value itself"},
    {"version: !!int 1\n", 1, 10, "tag", "plain value"},
    {"version: 1\n---\nversion: 1\n", 2, 1, "second document", "one document"},
    {"a: [[[[[[[[[1]]]]]]]]]\n", 1, 11, "nested deeper", "fewer levels"},
    {"? [1]\n: 2\n", 1, 3, "unknown key a list", "version"},
    /* top level */
    {"name: x\nstages: [{}]\n", 1, 1, "no 'version'", "version"},
    {"version: 2\n", 1, 10, "'2'", "from 1 to 1"},
    {"version: one\n", 1, 10, "'one'", "whole number"},
    {"version: \"1\"\n", 1, 10, "'1'", "whole number"},
    {HEAD, 1, 1, "no 'stages'", "key stages"},
    {"version: 1\nstages: [{}]\n", 1, 1, "no 'model'", "--model"},
    {HEAD "stage: []\n", 3, 1, "unknown key 'stage'", "'stages'"},
    {HEAD "zzz: 1\nstages: [{}]\n", 3, 1, "unknown key 'zzz'", "one of version, name"},
    {HEAD "version: 1\n", 3, 1, "'version' again", "once"},
    {HEAD "name: a b\n", 3, 7, "'a b'", "a name"},
    {HEAD "name: abcdefghijklmnopqrstuvwxyz-0123456789\n", 3, 7, "'abc", "1 to 31"},
    {HEAD "name:\n", 3, 6, "nothing", "a name"},
    {"version: 1\nmodel: []\n", 2, 8, "a list", "GGUF"},
    {"version: 1\nmodel: {context: 1}\n", 2, 8, "no 'path'", "path"},
    {"version: 1\nmodel: {path: m, contxt: 1}\n", 2, 18, "'contxt'", "'context'"},
    {"version: 1\nmodel: {path: m, context: -1}\n", 2, 27, "'-1'", "0 to 1048576"},
    {"version: 1\nmodel: {path: m, max_sequences: 0}\n", 2, 33, "'0'", "1 to 1024"},
    {"version: 1\nmodel: {path: m, kv: f8}\n", 2, 22, "'f8'", "f32, f16, q8_0"},
    /* wire */
    {HEAD "wire: {activations: f64}\n", 3, 21, "'f64'", "f32, f16, bf16, q8"},
    {HEAD "wire: {driver: afxdp}\n", 3, 16, "'afxdp'", "did you mean 'af_xdp'"},
    {HEAD "wire: {driver: loopback}\n", 3, 16, "'loopback'", "memif, af_xdp"},
    {HEAD "wire: {mtu: 100}\n", 3, 13, "'100'", "576"},
    {HEAD "wire: {driver: af_xdp, mtu: 9000}\nstages: [{}]\n", 3, 29, "mtu 9000", "576 to 3442"},
    {HEAD "wire: {slots: 17}\n", 3, 15, "'17'", "1 to 16"},
    {HEAD "wire: {udp_port: 70000}\n", 3, 18, "'70000'", "1 to 65535"},
    {HEAD "wire: {capture: yes}\n", 3, 17, "'yes'", "true, false"},
    {HEAD "wire: {checksum: maybe}\n", 3, 18, "'maybe'", "auto, on, off"},
    {HEAD "wire: {dead_after_ms: 99999999999999999999999}\n", 3, 23, "'9999", "600000"},
    /* nodes */
    {HEAD "nodes: {name: a}\n", 3, 8, "a mapping", "list of nodes"},
    {HEAD "nodes: [{}]\n", 3, 9, "no 'name'", "name"},
    {HEAD "nodes:\n  - name: a\n  - name: a\nstages: [{node: a}]\n", 5, 11, "'a' again", "once"},
    {HEAD "nodes: [{name: a, hugepages_mb: 63}]\n", 3, 33, "'63'", "even"},
    {HEAD "nodes: [{name: a, netns: x y}]\n", 3, 26, "'x y'", "a name"},
    {HEAD "nodes: [{name: a, netns: x}, {name: b, netns: x}]\nstages: [{node: a}]\n", 3, 47,
     "netns 'x' again", "namespace"},
    {HEAD "nodes: [{name: a, host: far, netns: x}]\nstages: [{node: a}]\n", 3, 37, "host 'far'", "local"},
    /* stages */
    {HEAD "stages: []\n", 3, 9, "empty list", "at least one"},
    {HEAD "stages: 3\n", 3, 9, "'3'", "list of stages"},
    {HEAD "stages:\n  - name: a\n    blokcs: 0-1\n", 5, 5, "'blokcs'", "'blocks'"},
    {HEAD "stages: [{blocks: 2-1}]\n", 3, 19, "'2-1'", "range"},
    {HEAD "stages: [{blocks: 1-2-3}]\n", 3, 19, "'1-2-3'", "range"},
    {HEAD "stages: [{blocks: [0, 1]}]\n", 3, 19, "a list", "range"},
    {HEAD "stages: [{blocks: 99999999-1}]\n", 3, 19, "'99999999-1'", "range"},
    {HEAD "stages: [{blocks: 1-2}]\n", 3, 19, "missing blocks 0-0", "starts at 0"},
    {HEAD "stages:\n  - {blocks: 0-3}\n  - {blocks: 3-5}\n", 5, 14, "overlapping blocks 3-5", "starts at 4"},
    {HEAD "stages:\n  - {blocks: 0-3}\n  - {blocks: 6-7}\n", 5, 14, "missing blocks 4-5", "starts at 4"},
    {HEAD "stages: [{blocks: 0-3}, {blocks: auto}]\n", 3, 34, "automatic blocks", "all stages or"},
    {HEAD "stages: [{name: a}, {name: a}]\n", 3, 28, "'a' again", "name of its own"},
    {HEAD "stages: [{name: gateway}]\n", 3, 17, "'gateway' again", "name of its own"},
    {HEAD "stages: [{node: b}]\nnodes: [{name: a}]\n", 3, 17, "node 'b'", "'a'"},
    {HEAD "stages: [{}]\nnodes: [{name: a}, {name: b}]\n", 3, 10, "no 'node'", "2 nodes"},
    {HEAD "stages: [{cores: [1, 1]}]\n", 3, 22, "core 1 again", "once"},
    {HEAD "stages: [{cores: 3}]\n", 3, 18, "'3'", "list of core"},
    {HEAD "stages: [{threads: 1.5}]\n", 3, 20, "'1.5'", "whole number"},
    {HEAD "stages: [{idle: sping}]\n", 3, 17, "'sping'", "did you mean 'spin'"},
    {HEAD "stages: [{}]\ngateway: {device: cpu}\n", 4, 11, "'device'", "one of name, node"},
    {HEAD "stages: [{}]\ngateway: {node: x}\n", 4, 17, "node 'x'", "'local'"},
    /* links */
    {HEAD "stages: [{}]\nlinks: [{from: s0}]\n", 4, 9, "no 'to'", "key to"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: s9}]\n", 4, 24, "nowhere: 's9'", "'s0'"},
    {HEAD "stages: [{}]\nlinks: [{from: gatewy, to: s0}]\n", 4, 16, "'gatewy'", "'gateway'"},
    {HEAD "stages: [{}, {}]\nlinks: [{from: s1, to: s0}]\n", 4, 9, "from 's1' to 's0'",
     "from 's1' to 'gateway'"},
    {HEAD "stages: [{}]\nlinks:\n- {from: s0, to: gateway}\n- {from: s0, to: gateway}\n", 6, 3, "again",
     "once"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, driver: af_xdp}]\n", 4, 41, "share node 'local'",
     "memif"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_iface: e0}]\n", 4, 45,
     "interface 'e0' on a memif link", "none"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, to_iface: abcdefghijklmnop}]\n", 4, 43,
     "'abcdefghijklmnop'", "1 to 15"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 10.0.0.1}]\n", 4, 47, "'10.0.0.1'",
     "10.0.0.1/30"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 10.0.0.0/30}]\n", 4, 47,
     "'10.0.0.0/30'", "host's IPv4"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 127.0.0.1/8}]\n", 4, 47,
     "'127.0.0.1/8'", "host's IPv4"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 10.0.0.1/30}]\n", 4, 47, "one end",
     "to_address"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 10.0.0.1/30, to_address: "
	  "10.0.0.5/30}]\n",
     4, 72, "different subnets", "one subnet"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 10.0.0.1/30, to_address: "
	  "10.0.0.1/30}]\n",
     4, 72, "10.0.0.1 twice", "its own"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_address: 10.80.1.2/30, to_address: "
	  "10.80.1.1/30}]\n",
     4, 47, "10.80.1.2 twice", "its own"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_mac: \"02:00:00:00:00\"}]\n", 4, 43,
     "'02:00:00:00:00'", "MAC"},
    {HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway, from_mac: \"ff:ff:ff:ff:ff:ff\"}]\n", 4, 43,
     "'ff:ff", "MAC"},
    {HEAD "wire: {driver: memif}\nnodes: [{name: a}, {name: b, host: far}]\nstages: [{node: a}, "
	  "{node: b}]\n",
     5, 21, "memif between", "af_xdp"},
    {TWO_HOSTS, 5, 21, "no interfaces and addresses", "from_iface"},
    {TWO_HOSTS "links:\n  - {from: s0, to: s1, from_iface: e0}\n", 7, 5, "no interfaces", "to_address"},
    {TWO_HOSTS "links:\n  - " FULL("s0", "s1", "e0", "10.0.0.1/24", "e0",
				   "10.0.0.2/24") "\n"
						  "  - " FULL("s1", "gateway", "e1", "10.0.0.2/24", "e1",
							      "10.0.0.3/24") "\n",
     8, 59, "address 10.0.0.2 twice", "its own"},
    {TWO_HOSTS "links:\n  - " FULL("s0", "s1", "e0", "10.0.0.1/24", "e0",
				   "10.0.0.2/24") "\n"
						  "  - " FULL("s1", "gateway", "e0", "10.1.0.2/24", "e1",
							      "10.1.0.3/24") "\n",
     8, 41, "with two addresses", "one"},
    {TWO_HOSTS "links:\n  - " FULL("s0", "s1", "e0", "10.0.0.1/24", "e0",
				   "10.0.0.2/24") "\n"
						  "  - " FULL("s1", "gateway", "e0", "10.0.0.2/24", "e0",
							      "10.0.0.1/24") "\n",
     8, 82, "interface 'e0' of node 'a' twice", "its own"},
};

static void test_errors(void **state)
{
	uint32_t wrong = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		const struct bad *b = &bads[i];
		const char *path = put(b->text, strlen(b->text));
		struct ps_err err = {""};
		struct topology *t = NULL;
		char place[200];
		int rc = topo_load(path, NULL, &t, &err);

		snprintf(place, sizeof(place), "%s:%u:%u: ", path, b->line, b->column);
		if (rc != -EINVAL || t != NULL || strncmp(err.msg, place, strlen(place)) != 0 ||
		    strstr(err.msg, "found ") == NULL || strstr(err.msg, "; expected ") == NULL ||
		    strstr(err.msg, b->found) == NULL || strstr(err.msg, b->expected) == NULL) {
			print_error("case %zu, rc %d:\n%s\ngot:  %s\nwant: %s ... %s ... %s\n\n", i, rc,
				    b->text, err.msg, place, b->found, b->expected);
			wrong++;
		}
		topo_free(t);
	}
	assert_int_equal(wrong, 0);
	assert_true(sizeof(bads) / sizeof(bads[0]) >= 40);
}

static void test_file_errors(void **state)
{
	static char big[YR_MAX_FILE_BYTES + 2];
	struct topology *t = NULL;
	struct ps_err err = {""};

	(void)state;
	assert_int_equal(topo_load("/nonexistent/x.yaml", NULL, &t, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/x.yaml"));
	assert_int_equal(topo_load(dir, NULL, &t, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "no regular file"));
	memset(big, '#', sizeof(big));
	assert_int_equal(topo_load(put(big, sizeof(big)), NULL, &t, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "expected at most"));
}

/* ---- defaults and derivation ---- */

static void test_smallest(void **state)
{
	struct topology *t = load_ok(HEAD "stages: [{}, {}]\n", NULL);

	(void)state;
	assert_string_equal(t->name, "t");
	assert_int_equal(t->n_nodes, 1);
	assert_string_equal(t->nodes[0].name, "local");
	assert_string_equal(t->nodes[0].netns, "");
	assert_int_equal(t->nodes[0].hugepages_mb, 64);
	assert_int_equal(t->n_stages, 2);
	assert_int_equal(t->n_procs, 3);
	assert_int_equal(topo_gateway(t), 2);
	assert_string_equal(t->procs[2].name, "gateway");
	assert_true(t->procs[2].is_gateway);
	assert_string_equal(t->procs[1].device, "cpu");
	assert_int_equal(t->procs[1].io_core, -1);
	assert_true(t->procs[1].blocks_auto);
	assert_int_equal(t->wire.driver, TOPO_DRIVER_MEMIF);
	assert_int_equal(t->wire.mtu, 9000);
	assert_int_equal(t->wire.dead_after_ms, 1000);
	assert_int_equal(t->wire.slots, 8);
	assert_int_equal(t->model.max_sequences, 8);
	assert_int_equal(t->model.max_batch_tokens, 256);
	assert_int_equal(t->n_links, 3);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(t->links[i].id, i + 1);
		assert_int_equal(t->links[i].driver, TOPO_DRIVER_MEMIF);
		assert_int_equal(t->links[i].end[0].proc, i == 0 ? 2 : i - 1);
		assert_int_equal(t->links[i].end[1].proc, i);
		assert_int_equal(t->links[i].end[0].ip, 10u << 24 | 80u << 16 | (i + 1) << 8 | 1);
		assert_int_equal(t->links[i].end[0].udp_port, 7600);
		assert_false(t->links[i].veth);
	}
	topo_free(t);
}

static void test_derived_veth(void **state)
{
	struct topology *t = load_ok(HEAD "wire: {driver: af_xdp}\nnodes: [{name: a}, {name: b}]\n"
					  "stages: [{node: a}, {node: b}]\n",
				     NULL);

	(void)state;
	assert_string_equal(t->nodes[0].netns, "auto");
	assert_string_equal(t->nodes[1].netns, "auto");
	assert_int_equal(t->links[0].driver, TOPO_DRIVER_MEMIF);
	assert_int_equal(t->links[0].mtu, 9000);
	assert_false(t->links[0].veth);
	for (uint32_t i = 1; i < 3; i++) {
		assert_int_equal(t->links[i].driver, TOPO_DRIVER_AF_XDP);
		assert_int_equal(t->links[i].mtu, 3420);
		assert_true(t->links[i].veth);
		assert_int_equal(t->links[i].end[0].prefix_len, 30);
	}
	assert_string_equal(t->links[1].end[0].iface, "ps2a");
	assert_string_equal(t->links[1].end[1].iface, "ps2b");
	assert_true(memcmp(t->links[1].end[0].mac, t->links[1].end[1].mac, 6) != 0);
	topo_free(t);
}

static void test_two_hosts(void **state)
{
	struct topology *t = load_ok(
	    TWO_HOSTS "links:\n  - " FULL("s0", "s1", "e0", "10.0.0.1/24", "e0",
					  "10.0.0.2/24") "\n"
							 "  - " FULL("s1", "gateway", "e0", "10.0.0.2/24",
								     "e1", "10.0.0.3/24") "\n",
	    NULL);

	(void)state;
	assert_string_equal(t->nodes[0].netns, "");
	assert_false(t->links[1].veth);
	assert_string_equal(t->links[2].end[1].iface, "e1");
	assert_int_equal(t->links[2].end[1].ip, 10u << 24 | 3);
	topo_free(t);
}

static void test_overrides(void **state)
{
	const char *three = HEAD "stages: [{blocks: 0-1}, {blocks: 2-3}, {blocks: 4-5}]\n";
	const char *nodes = HEAD "wire: {driver: af_xdp, mtu: 3000}\nnodes: [{name: a}, {name: b}]\n"
				 "stages: [{node: a, threads: 3}, {node: b, threads: 4}]\n";
	struct topo_overrides ov = {.driver = -1, .n_stages = 5, .no_hugepages = true};
	struct topology *t = load_ok(three, &ov);

	(void)state;
	assert_int_equal(t->n_stages, 5);
	assert_true(t->procs[4].blocks_auto);
	assert_string_equal(t->procs[4].name, "s4");
	assert_int_equal(t->nodes[0].hugepages_mb, 0);
	assert_int_equal(t->n_links, 6);
	topo_free(t);

	ov = (struct topo_overrides){.driver = TOPO_DRIVER_AF_XDP, .model = "other.gguf"};
	t = load_ok(three, &ov);
	assert_int_equal(t->n_nodes, 4);
	for (uint32_t i = 0; i < 4; i++) {
		assert_string_equal(t->nodes[i].netns, "auto");
		assert_true(t->links[i].veth);
	}
	assert_int_equal(t->model.path[0], '/');
	assert_string_equal(strrchr(t->model.path, '/'), "/other.gguf");
	topo_free(t);

	ov = (struct topo_overrides){.driver = TOPO_DRIVER_MEMIF, .n_stages = 4};
	t = load_ok(nodes, &ov);
	assert_int_equal(t->procs[1].node, 0);
	assert_int_equal(t->procs[2].node, 1);
	assert_int_equal(t->procs[2].n_threads, 4);
	for (uint32_t i = 0; i < 5; i++) {
		assert_int_equal(t->links[i].driver, TOPO_DRIVER_MEMIF);
		assert_int_equal(t->links[i].mtu, 9000);
	}
	assert_string_equal(t->nodes[0].netns, "");
	topo_free(t);

	t = load_ok("version: 1\nmodel: {path: m, kv: f16, context: 7}\nstages: [{}]\n", NULL);
	assert_true(t->model.kv == TOPO_KV_F16 && t->model.context == 7);
	assert_int_equal(t->wire.activations, TOPO_ACT_F32);
	topo_free(t);
	ov = (struct topo_overrides){.driver = -1, .kv = "q8_0", .activations = "bf16", .context = 9};
	t = load_ok("version: 1\nmodel: {path: m, kv: f16, context: 7}\nstages: [{}]\n", &ov);
	assert_true(t->model.kv == TOPO_KV_Q8_0 && t->model.context == 9);
	assert_int_equal(t->wire.activations, TOPO_ACT_BF16);
	topo_free(t);
}

static void test_override_errors(void **state)
{
	const char *linked = HEAD "stages: [{}]\nlinks: [{from: s0, to: gateway}]\n";
	struct topo_overrides ov = {.driver = -1, .n_stages = 2};
	struct topology *t = NULL;
	struct ps_err err;

	(void)state;
	assert_int_equal(topo_load(put(linked, strlen(linked)), &ov, &t, &err), -EINVAL);
	assert_non_null(strstr(err.msg, ":4:9: "));
	ov.n_stages = TOPO_MAX_STAGES + 1;
	assert_int_equal(topo_load(put(HEAD "stages: [{}]\n", strlen(HEAD) + 13), &ov, &t, &err), -EINVAL);
	ov = (struct topo_overrides){.driver = TOPO_DRIVER_AF_XDP, .n_stages = TOPO_MAX_STAGES};
	assert_int_equal(topo_load(put(HEAD "stages: [{}]\n", strlen(HEAD) + 13), &ov, &t, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "at most 63"));
	ov = (struct topo_overrides){.driver = TOPO_DRIVER_LOOPBACK};
	assert_int_equal(topo_load(put(HEAD "stages: [{}]\n", strlen(HEAD) + 13), &ov, &t, &err), -EINVAL);
	ov = (struct topo_overrides){.driver = -1, .kv = "f8"};
	assert_int_equal(topo_load(put(HEAD "stages: [{}]\n", strlen(HEAD) + 13), &ov, &t, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "q8_0"));
	ov = (struct topo_overrides){.driver = -1, .activations = "q8_0"};
	assert_int_equal(topo_load(put(HEAD "stages: [{}]\n", strlen(HEAD) + 13), &ov, &t, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "bf16"));
}

static void test_set_blocks(void **state)
{
	struct topology *t = load_ok(HEAD "stages: [{}, {}]\n", NULL);
	const uint32_t cuts[] = {0, 2, 6}, torn[] = {0, 2, 5};
	struct ps_err err;

	(void)state;
	assert_int_equal(topo_set_blocks(t, 1, cuts, &err), -EINVAL);
	assert_int_equal(topo_set_blocks(t, 6, cuts, &err), 0);
	assert_int_equal(t->procs[0].block_last, 2);
	assert_int_equal(t->procs[1].block_first, 2);
	assert_int_equal(t->procs[1].block_last, 6);
	assert_int_equal(topo_set_blocks(t, 6, NULL, &err), 0);
	assert_int_equal(topo_set_blocks(t, 7, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "blocks 2-5 in stage 's1'"));
	topo_free(t);
	t = load_ok(HEAD "stages: [{}, {}]\n", NULL);
	assert_int_equal(topo_set_blocks(t, 6, torn, &err), -EINVAL);
	topo_free(t);
	t = load_ok(HEAD "stages: [{blocks: 0-2}, {blocks: 3-8}]\n", NULL);
	assert_int_equal(topo_set_blocks(t, 9, NULL, &err), 0);
	assert_int_equal(topo_set_blocks(t, 8, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, ":3:34: found blocks 3-8 in stage 's1'"));
	topo_free(t);
}

static void test_find_proc(void **state)
{
	struct topology *t = load_ok(HEAD "stages: [{name: x}, {name: y}]\n", NULL);
	struct ps_err err;

	(void)state;
	assert_ptr_equal(topo_find_proc(t, "y", &err), &t->procs[1]);
	assert_ptr_equal(topo_find_proc(t, "gateway", NULL), &t->procs[2]);
	assert_null(topo_find_proc(t, "z", &err));
	assert_non_null(strstr(err.msg, "x, y, gateway"));
	topo_free(t);
}

static void test_hash(void **state)
{
	static const char *const variants[] = {
	    HEAD "stages: [{}, {}]\n",
	    HEAD "name: other\nstages: [{}, {}]\n",
	    "version: 1\nmodel: n.gguf\nstages: [{}, {}]\n",
	    HEAD "stages: [{}, {}, {}]\n",
	    HEAD "stages: [{}, {device: cpu-ref}]\n",
	    HEAD "stages: [{blocks: 0-1}, {blocks: 2-3}]\n",
	    HEAD "stages: [{blocks: 0-0}, {blocks: 1-3}]\n",
	    HEAD "wire: {mtu: 1500}\nstages: [{}, {}]\n",
	    HEAD "wire: {checksum: on}\nstages: [{}, {}]\n",
	    HEAD "wire: {activations: q8}\nstages: [{}, {}]\n",
	    "version: 1\nmodel: {path: m.gguf, kv: f16}\nstages: [{}, {}]\n",
	    "version: 1\nmodel: {path: m.gguf, kv: q8_0}\nstages: [{}, {}]\n",
	    HEAD "wire: {udp_port: 7000}\nstages: [{}, {}]\n",
	    HEAD "wire: {driver: af_xdp}\nstages: [{}, {}]\n",
	    HEAD "stages: [{}, {}]\nlinks: [{from: s0, to: s1, mtu: 1500}]\n",
	};
	uint64_t h[sizeof(variants) / sizeof(variants[0])];
	struct topology *t;

	(void)state;
	for (size_t i = 0; i < sizeof(h) / sizeof(h[0]); i++) {
		t = load_ok(variants[i], NULL);
		h[i] = topo_hash(t);
		topo_free(t);
		for (size_t j = 0; j < i; j++)
			assert_true(h[i] != h[j]);
	}
	t = load_ok("version: 1\nmodel: elsewhere/m.gguf\nstages: [{threads: 2, idle: spin}, {}]\n", NULL);
	assert_true(topo_hash(t) == h[0]);
	topo_free(t);
}

/* ---- round trip ---- */

static void round_trip(struct topology *t)
{
	struct topology *back = NULL;
	struct ps_err err = {""};
	char path[128];

	snprintf(path, sizeof(path), "%s/u.yaml", dir);
	assert_int_equal(topo_write(t, path, &err), 0);
	if (topo_load(path, NULL, &back, &err) != 0) {
		print_error("%s\n", err.msg);
		fail();
	}
	assert_true(topo_hash(back) == topo_hash(t));
	memcpy(back->path, t->path, sizeof(t->path));
	for (uint32_t i = 0; i < t->n_procs; i++) { /* ranges that were set are written as ranges */
		back->procs[i].blocks_auto = t->procs[i].blocks_auto;
		back->procs[i].line = t->procs[i].line;
		back->procs[i].column = t->procs[i].column;
	}
	assert_memory_equal(back, t, sizeof(*t));
	topo_free(back);
	unlink(path);
}

static void test_shipped_files(void **state)
{
	static const char *const names[] = {"three-stages-memif", "three-namespaces-af_xdp",
					    "two-nodes-two-stages", "reference"};
	static const uint32_t cuts[] = {0, 1, 2, 3, 4};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct ps_err err = {""};
		struct topology *t = NULL;
		char path[512];

		snprintf(path, sizeof(path), "%s/topology/%s.yaml", getenv("PENSTOCK_SOURCE_ROOT"), names[i]);
		if (topo_load(path, NULL, &t, &err) != 0) {
			print_error("%s\n", err.msg);
			fail();
		}
		assert_string_equal(strrchr(t->model.path, '/'), "/demo-llama-f16.gguf");
		round_trip(t);
		assert_int_equal(topo_set_blocks(t, t->n_stages, cuts, &err), 0);
		round_trip(t);
		topo_free(t);
		for (int d = 0; d < 2; d++) {
			struct topo_overrides ov = {
			    .driver = d, .n_stages = 4, .context = 64, .kv = "f16", .activations = "q8"};

			if (strcmp(names[i], "reference") == 0)
				ov.n_stages = 0; /* its links are explicit */
			assert_int_equal(topo_load(path, &ov, &t, &err), 0);
			round_trip(t);
			topo_free(t);
		}
	}
}

static void test_largest(void **state)
{
	struct topo_overrides ov = {.driver = -1, .n_stages = TOPO_MAX_STAGES};
	struct topology *t = load_ok(HEAD "stages: [{}]\n", &ov);

	(void)state;
	assert_int_equal(t->n_links, TOPO_MAX_LINKS);
	round_trip(t);
	topo_free(t);
}

/* ---- torn and mutated files ---- */

static uint32_t next_random(uint32_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 17;
	*s ^= *s << 5;
	return *s;
}

static size_t mutate(char *bytes, size_t len, uint32_t *seed)
{
	static const char odd[] = "\"'{}[]:,-#&*!|>%@`\n\t 0a\xff\x80~?";
	uint32_t n = 1 + next_random(seed) % 4;

	for (uint32_t i = 0; i < n && len > 8; i++) {
		size_t at = next_random(seed) % (len - 8), cut = next_random(seed) % 8;

		switch (next_random(seed) % 4) {
		case 0:
			bytes[at] = odd[next_random(seed) % (sizeof(odd) - 1)];
			break;
		case 1:
			memmove(bytes + at, bytes + at + cut, len - at - cut);
			len -= cut;
			break;
		case 2:
			memmove(bytes + at + cut, bytes + at, len - at - cut);
			break;
		default:
			len = at + 1;
			break;
		}
	}
	return len;
}

/* Whatever the bytes are: an error with a place, or a topology that makes the round trip. */
static void test_mutated(void **state)
{
	static const char *const names[] = {"reference", "two-nodes-two-stages"};
	char path[512], text[16384], bytes[16384];
	uint32_t seed = 0x9e3779b9, errors = 0;

	(void)state;
	for (size_t f = 0; f < 2; f++) {
		FILE *in;
		size_t len;

		snprintf(path, sizeof(path), "%s/topology/%s.yaml", getenv("PENSTOCK_SOURCE_ROOT"), names[f]);
		in = fopen(path, "r");
		assert_non_null(in);
		len = fread(text, 1, sizeof(text), in);
		fclose(in);
		for (int i = 0; i < 500; i++) {
			struct topology *t = NULL;
			struct ps_err err = {""};
			size_t n;
			int rc;

			memcpy(bytes, text, len);
			n = mutate(bytes, len, &seed);
			rc = topo_load(put(bytes, n), NULL, &t, &err);
			if (rc == 0 && i % 10 == 0)
				round_trip(t);
			else if (rc != 0) {
				errors++;
				assert_int_equal(rc, -EINVAL);
				assert_non_null(strstr(err.msg, "; expected "));
			}
			topo_free(t);
		}
	}
	assert_true(errors > 150);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_errors),          cmocka_unit_test(test_file_errors),
	    cmocka_unit_test(test_smallest),        cmocka_unit_test(test_derived_veth),
	    cmocka_unit_test(test_two_hosts),       cmocka_unit_test(test_overrides),
	    cmocka_unit_test(test_override_errors), cmocka_unit_test(test_set_blocks),
	    cmocka_unit_test(test_find_proc),       cmocka_unit_test(test_hash),
	    cmocka_unit_test(test_shipped_files),   cmocka_unit_test(test_largest),
	    cmocka_unit_test(test_mutated),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
