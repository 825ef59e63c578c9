/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_TOPOLOGY_H
#define PENSTOCK_TOPOLOGY_TOPOLOGY_H
/*
 * A deployment as read from a topology file and completed with every default
 * and derived value: after topo_load nothing is left to guess. Not for starting
 * anything (launch.h).
 *
 * A process is a stage or the gateway. Links join two processes and carry
 * messages both ways; those of the pipeline (gateway, stage 0 ... N-1, gateway)
 * are derived unless the file lists them.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define TOPO_NAME_BYTES  32u
#define TOPO_PATH_BYTES  512u
#define TOPO_MAX_NODES   64u
#define TOPO_MAX_STAGES  64u
#define TOPO_MAX_PROCS   (TOPO_MAX_STAGES + 1u)
#define TOPO_MAX_LINKS   (TOPO_MAX_STAGES + 1u)
#define TOPO_MAX_CORES   64u
#define TOPO_CONTEXT_MAX (1u << 20)
#define TOPO_BATCH_MAX   65536u /* rows of a message */

enum topo_driver { TOPO_DRIVER_MEMIF, TOPO_DRIVER_AF_XDP, TOPO_DRIVER_LOOPBACK };
enum topo_idle { TOPO_IDLE_ADAPTIVE, TOPO_IDLE_SPIN };
enum topo_tristate { TOPO_AUTO, TOPO_ON, TOPO_OFF };
/* Elements of the KV cache, and of activations between stages. */
enum topo_kv { TOPO_KV_F32, TOPO_KV_F16, TOPO_KV_Q8_0 };
enum topo_act { TOPO_ACT_F32, TOPO_ACT_F16, TOPO_ACT_BF16, TOPO_ACT_Q8 };

struct topo_node {
	char name[TOPO_NAME_BYTES];
	char host[64];               /* "local" for this machine; others need a later launcher */
	char netns[TOPO_NAME_BYTES]; /* network namespace that the local launcher makes, or "" */
	uint32_t hugepages_mb;       /* per process; 0: run without hugepages */
};

struct topo_proc {
	char name[TOPO_NAME_BYTES];
	uint32_t node;
	bool is_gateway;
	/* stages */
	char device[TOPO_NAME_BYTES];
	uint32_t block_first, block_last; /* [first, last); both 0 for "auto" until topo_set_blocks */
	bool blocks_auto;                 /* until topo_write: a written file has the ranges that were set */
	uint32_t line, column;            /* of its block range (or of itself) in the file, for errors */
	uint32_t n_threads;               /* 0: one a core that the node has for it */
	enum topo_idle idle;
	int cores[TOPO_MAX_CORES]; /* compute threads' */
	uint32_t n_cores;
	int io_core; /* -1: not pinned */
};

struct topo_link_end {
	uint32_t proc;
	char iface[TOPO_NAME_BYTES]; /* af_xdp: interface in the process's namespace; memif: "" */
	uint32_t ip;                 /* host byte order */
	uint32_t prefix_len;
	uint16_t udp_port;
	uint8_t mac[6]; /* all zero: ask the kernel's neighbour table */
};

struct topo_link {
	uint16_t id; /* 1-based */
	enum topo_driver driver;
	uint32_t mtu;
	bool veth;                   /* the local launcher makes a veth pair for it */
	struct topo_link_end end[2]; /* end 0 is upstream */
};

struct topo_wire {
	enum topo_driver driver; /* default of links between nodes; links inside one are memif */
	uint32_t mtu;
	uint32_t window_bytes;       /* 0: auto */
	uint32_t slots;              /* messages in flight a direction */
	enum topo_tristate checksum; /* payload CRC: auto = on for all but memif */
	uint32_t dead_after_ms;
	uint16_t udp_port;
	bool capture; /* dpdk-dumpcap may attach */
	enum topo_act activations;
};

struct topo_model {
	char path[TOPO_PATH_BYTES]; /* absolute, or relative to the topology file's folder resolved */
	uint32_t context;           /* positions a sequence; 0: the model's, at most 4096 */
	uint32_t max_sequences;     /* KV slots */
	uint32_t max_batch_tokens;  /* rows of one activation message */
	enum topo_kv kv;
};

struct topology {
	char path[TOPO_PATH_BYTES];
	char name[TOPO_NAME_BYTES];
	struct topo_node nodes[TOPO_MAX_NODES];
	uint32_t n_nodes;
	struct topo_proc procs[TOPO_MAX_PROCS]; /* stages in pipeline order, then the gateway */
	uint32_t n_procs, n_stages;
	struct topo_link
	    links[TOPO_MAX_LINKS]; /* n_stages + 1 of them: links[i] enters stage i, the last the gateway */
	uint32_t n_links;
	struct topo_wire wire;
	struct topo_model model;
};

/* What the command line overrides before defaults and derivation. Zero/NULL: keep the file's. */
struct topo_overrides {
	const char *model;
	int driver;        /* enum topo_driver, or -1 */
	uint32_t n_stages; /* replaces the stages by N with automatic ranges on the same nodes */
	bool no_hugepages;
	uint32_t context, max_batch_tokens;
	const char *kv, *activations; /* by name */
};

/* Errors: -errno of the file, -EINVAL with "file:line:column: what was found; what was expected". */
int ps_warn_unused topo_load(const char *path, const struct topo_overrides *ov, struct topology **topo_out,
			     struct ps_err *err);
void topo_free(struct topology *t);

/* Writes the topology with everything filled in, as a file that topo_load reads back to the same
 * topology (its path apart). Replaces PATH atomically; -errno. */
int ps_warn_unused topo_write(const struct topology *t, const char *path, struct ps_err *err);

/* Fills automatic block ranges from cuts[n_stages + 1], or checks given ones against the
 * model's n_layers: contiguous, complete. -EINVAL with the ranges named. */
int ps_warn_unused topo_set_blocks(struct topology *t, uint32_t n_layers, const uint32_t *cuts,
				   struct ps_err *err);

/* NULL and a text with the known names where there is none. */
const struct topo_proc *topo_find_proc(const struct topology *t, const char *name, struct ps_err *err);
uint32_t topo_gateway(const struct topology *t); /* its index among procs */

/* Same on every process of a deployment, different when anything that matters differs. */
uint64_t topo_hash(const struct topology *t);

const char *topo_driver_name(enum topo_driver d);
const char *topo_kv_name(enum topo_kv kv);
const char *topo_act_name(enum topo_act act);
/* False: no such name (TOPO_KV_NAMES and TOPO_ACT_NAMES have them for texts). */
bool topo_kv_by_name(const char *name, enum topo_kv *kv_out);
bool topo_act_by_name(const char *name, enum topo_act *act_out);
#define TOPO_KV_NAMES  "f32, f16 or q8_0"
#define TOPO_ACT_NAMES "f32, f16, bf16 or q8"

#endif
