/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_DEPLOY_H
#define PENSTOCK_CLI_DEPLOY_H
/*
 * A topology joined with its model: what `run`, `up` and every process need
 * before anything starts. It joins topology/ and model/.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "model/graph.h"
#include "topology/topology.h"

/* Opens the topology's model and fills in the block ranges; *gguf_out is the caller's to close. */
int ps_warn_unused deploy_resolve(struct topology *t, struct gguf **gguf_out, struct model_hparams *hp_out,
				  struct ps_err *err);

/* --ctx, --batch, --kv and --wire of `cmd`: false, and the usage error is on stderr. */
bool deploy_ctx_option(const char *cmd, const char *arg, struct topo_overrides *ov);
bool deploy_batch_option(const char *cmd, const char *arg, struct topo_overrides *ov);
bool deploy_kv_option(const char *cmd, const char *arg, struct topo_overrides *ov);
bool deploy_wire_option(const char *cmd, const char *arg, struct topo_overrides *ov);

/* Positions a sequence may have: model.context, or the model's own, at most 4096. */
int ps_warn_unused deploy_context(const struct topology *t, const struct model_hparams *hp,
				  uint32_t *n_ctx_out, struct ps_err *err);

/* Loads a topology file (NULL: the one that ships) with overrides and resolves it. */
int ps_warn_unused deploy_load(const char *path, const struct topo_overrides *ov, bool capture,
			       struct topology **topo_out, struct ps_err *err);

/* The topology of a deployment that is up, from its run directory. */
int ps_warn_unused deploy_load_dir(const char *run_dir, struct topology **topo_out, struct ps_err *err);

/* The run directory of a deployment by its name: one that a launcher brought up, or one whose
 * processes were started by hand. -ENOENT with those that are up. */
int ps_warn_unused deploy_find(const char *name, char *dir_out, size_t cap, struct ps_err *err);

#endif
