/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/deploy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct topo_overrides none = {.driver = -1};

/* What the file asks for, what the model was trained on, and what it has at most; 0: refused. */
static void test_context(void **state)
{
	static const struct {
		uint32_t asked, train, max, want;
	} cases[] = {
	    {0, 512, 0, 512},        {0, 4096, 0, 4096}, {0, 4097, 0, 4096}, {0, 131072, 0, 4096},
	    {8192, 131072, 0, 8192}, {600, 512, 0, 600}, {1, 512, 512, 1},   {512, 512, 512, 512},
	    {513, 512, 512, 0},      {0, 1024, 512, 0},
	};
	struct topology *t = calloc(1, sizeof(*t));
	size_t i;

	(void)state;
	snprintf(t->path, sizeof(t->path), "some.yaml");
	snprintf(t->model.path, sizeof(t->model.path), "some.gguf");
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct model_hparams hp = {.n_ctx_train = cases[i].train, .n_ctx_max = cases[i].max};
		struct ps_err err = {{0}};
		uint32_t n = 0;
		int rc;

		t->model.context = cases[i].asked;
		rc = deploy_context(t, &hp, &n, &err);
		assert_int_equal(rc, cases[i].want == 0 ? -EINVAL : 0);
		assert_int_equal(n, cases[i].want);
		if (rc != 0)
			assert_non_null(strstr(err.msg, "some.yaml: model.context is"));
	}
	free(t);
}

/* Without an argument the topology that ships is taken, and its model fills in the ranges. */
static void test_default_topology(void **state)
{
	struct topology *t = NULL;
	struct ps_err err = {{0}};
	uint32_t i;

	(void)state;
	if (deploy_load(NULL, &none, false, &t, &err) != 0)
		fail_msg("%s", err.msg);
	assert_non_null(strstr(t->path, "three-stages-memif.yaml"));
	assert_int_equal(t->n_stages, 3);
	assert_false(t->wire.capture);
	assert_int_equal(t->procs[0].block_first, 0);
	for (i = 0; i < 3; i++) {
		assert_true(t->procs[i].block_last > t->procs[i].block_first);
		if (i > 0)
			assert_int_equal(t->procs[i].block_first, t->procs[i - 1].block_last);
	}
	topo_free(t);
}

/* The command line's wishes: another number of stages, and capture. */
static void test_overrides(void **state)
{
	struct topo_overrides ov = {.driver = -1, .n_stages = 2};
	struct topology *t = NULL;
	struct ps_err err = {{0}};

	(void)state;
	if (deploy_load(NULL, &ov, true, &t, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(t->n_stages, 2);
	assert_true(t->wire.capture);
	assert_int_equal(t->procs[1].block_first, t->procs[0].block_last);
	topo_free(t);
	/* More stages than the model has blocks. */
	ov.n_stages = 64;
	t = NULL;
	assert_true(deploy_load(NULL, &ov, false, &t, &err) < 0);
	assert_null(t);
	assert_true(err.msg[0] != '\0');
}

static void test_value_options(void **state)
{
	struct topo_overrides ov = {.driver = -1};
	struct topology *t = NULL;
	struct ps_err err = {{0}};

	(void)state;
	assert_true(deploy_ctx_option("run", "99", &ov));
	assert_true(deploy_batch_option("run", "33", &ov));
	assert_true(deploy_kv_option("run", "f16", &ov));
	assert_true(deploy_wire_option("run", "q8", &ov));
	if (deploy_load(NULL, &ov, false, &t, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(t->model.context, 99);
	assert_int_equal(t->model.max_batch_tokens, 33);
	assert_int_equal(t->model.kv, TOPO_KV_F16);
	assert_int_equal(t->wire.activations, TOPO_ACT_Q8);
	topo_free(t);
	assert_false(deploy_ctx_option("run", "0", &ov));
	assert_false(deploy_batch_option("run", "65537", &ov));
	assert_false(deploy_kv_option("run", "q8", &ov));
	assert_false(deploy_wire_option("run", "q8_0", &ov));
}

static void test_missing_files(void **state)
{
	struct topo_overrides ov = {.driver = -1, .model = "/no/such/model.gguf"};
	struct topology *t = NULL;
	struct ps_err err = {{0}};

	(void)state;
	assert_int_equal(deploy_load("/no/such/file.yaml", &none, false, &t, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/no/such/file.yaml"));
	assert_true(deploy_load(NULL, &ov, false, &t, &err) < 0);
	assert_non_null(strstr(err.msg, "/no/such/model.gguf"));
	assert_null(t);
}

/* What is written into a run directory is what a process of it reads back. */
static void test_run_directory(void **state)
{
	char dir[] = "/tmp/penstock-deploy-XXXXXX", path[64];
	struct topology *t = NULL, *back = NULL;
	struct ps_err err = {{0}};

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_true(deploy_load_dir(dir, &back, &err) < 0);
	assert_non_null(strstr(err.msg, dir));
	assert_int_equal(deploy_load(NULL, &none, false, &t, &err), 0);
	snprintf(path, sizeof(path), "%s/topology.yaml", dir);
	assert_int_equal(topo_write(t, path, &err), 0);
	if (deploy_load_dir(dir, &back, &err) != 0)
		fail_msg("%s", err.msg);
	assert_int_equal(topo_hash(back), topo_hash(t));
	topo_free(back);
	topo_free(t);
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_context),       cmocka_unit_test(test_default_topology),
	    cmocka_unit_test(test_overrides),     cmocka_unit_test(test_missing_files),
	    cmocka_unit_test(test_run_directory), cmocka_unit_test(test_value_options),
	};

	return cmocka_run_group_tests_name("cli-deploy", tests, NULL, NULL);
}
