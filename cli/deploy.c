/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/deploy.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "topology/launch.h"

#define DEFAULT_TOPOLOGY "three-stages-memif.yaml"
#define DEFAULT_CONTEXT  4096u

int deploy_resolve(struct topology *t, struct gguf **gguf_out, struct model_hparams *hp_out,
		   struct ps_err *err)
{
	uint32_t cuts[TOPO_MAX_STAGES + 1];
	struct gguf *g = NULL;
	int rc = gguf_open(t->model.path, &g, err);

	if (rc == 0)
		rc = model_read_hparams(g, hp_out, err);
	if (rc == 0)
		rc = model_split_even(g, t->n_stages, cuts, err);
	if (rc == 0)
		rc = topo_set_blocks(t, hp_out->n_layers, cuts, err);
	if (rc == 0)
		*gguf_out = g;
	else
		gguf_close(g);
	return rc;
}

int deploy_context(const struct topology *t, const struct model_hparams *hp, uint32_t *n_ctx_out,
		   struct ps_err *err)
{
	uint32_t n = t->model.context;

	if (n == 0)
		n = hp->n_ctx_train < DEFAULT_CONTEXT ? hp->n_ctx_train : DEFAULT_CONTEXT;
	if (hp->n_ctx_max != 0 && n > hp->n_ctx_max)
		return ps_err_set(err, -EINVAL,
				  "%s: model.context is %u, expected at most %u: %s has no more positions",
				  t->path, n, hp->n_ctx_max, t->model.path);
	*n_ctx_out = n;
	return 0;
}

bool deploy_ctx_option(const char *cmd, const char *arg, struct topo_overrides *ov)
{
	return cli_u32(cmd, "--ctx", arg, 1, TOPO_CONTEXT_MAX, &ov->context);
}

bool deploy_batch_option(const char *cmd, const char *arg, struct topo_overrides *ov)
{
	return cli_u32(cmd, "--batch", arg, 1, TOPO_BATCH_MAX, &ov->max_batch_tokens);
}

bool deploy_kv_option(const char *cmd, const char *arg, struct topo_overrides *ov)
{
	enum topo_kv unused;

	ov->kv = arg;
	if (topo_kv_by_name(arg, &unused))
		return true;
	cli_usage(cmd, "--kv: found \"%s\", expected " TOPO_KV_NAMES, arg);
	return false;
}

bool deploy_wire_option(const char *cmd, const char *arg, struct topo_overrides *ov)
{
	enum topo_act unused;

	ov->activations = arg;
	if (topo_act_by_name(arg, &unused))
		return true;
	cli_usage(cmd, "--wire: found \"%s\", expected " TOPO_ACT_NAMES, arg);
	return false;
}

/* From a build tree, the source's own; from an installation, the data directory's. */
static const char *default_topology(void)
{
	static const char source[] = PENSTOCK_SOURCE_DIR "/topology/" DEFAULT_TOPOLOGY;

	return access(source, R_OK) == 0 ? source : PENSTOCK_DATA_DIR "/topology/" DEFAULT_TOPOLOGY;
}

int deploy_load(const char *path, const struct topo_overrides *ov, bool capture, struct topology **topo_out,
		struct ps_err *err)
{
	struct model_hparams hp;
	struct topology *t = NULL;
	struct gguf *g = NULL;
	uint32_t n_ctx;
	int rc = topo_load(path != NULL ? path : default_topology(), ov, &t, err);

	if (rc != 0)
		return rc;
	t->wire.capture = t->wire.capture || capture;
	rc = deploy_resolve(t, &g, &hp, err);
	if (rc == 0)
		rc = deploy_context(t, &hp, &n_ctx, err);
	gguf_close(g);
	if (rc == 0)
		*topo_out = t;
	else
		topo_free(t);
	return rc;
}

int deploy_load_dir(const char *run_dir, struct topology **topo_out, struct ps_err *err)
{
	const struct topo_overrides none = {.driver = -1};
	char path[TOPO_PATH_BYTES + 32];

	snprintf(path, sizeof(path), "%s/topology.yaml", run_dir);
	return topo_load(path, &none, topo_out, err);
}

/* Processes that were started by hand leave no state file; their sockets tell of them. */
static bool has_sockets(const char *dir)
{
	char pattern[TOPO_PATH_BYTES + 16];
	glob_t g;
	bool found;

	snprintf(pattern, sizeof(pattern), "%s/*.sock", dir);
	found = glob(pattern, 0, NULL, &g) == 0;
	globfree(&g);
	return found;
}

int deploy_find(const char *name, char *dir_out, size_t cap, struct ps_err *err)
{
	char base[TOPO_PATH_BYTES], dir[TOPO_PATH_BYTES];
	int rc = launch_find(NULL, name, dir_out, cap, err);

	if (rc != -ENOENT || name[0] == '\0' || name[0] == '.' || strpbrk(name, "/*?[\\") != NULL)
		return rc;
	launch_run_base(base, sizeof(base));
	if (snprintf(dir, sizeof(dir), "%s/%s", base, name) >= (int)sizeof(dir) || !has_sockets(dir))
		return rc;
	snprintf(dir_out, cap, "%s", dir);
	return 0;
}
