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

#include "topology/host.h"
#include "topology/netns.h"

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB"
#define JIT  "/proc/sys/net/core/bpf_jit_enable"

/* A tree that looks like a machine's /proc, /sys and /dev. */
static char root[64], state[96], said[8192], ran[1024];
static int run_rc;

static void put(const char *path, const char *text)
{
	char full[256];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void assert_file(const char *path, const char *text)
{
	char full[256], is[64] = "";
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	f = fopen(full, "r");
	assert_non_null(f);
	is[fread(is, 1, sizeof(is) - 1, f)] = '\0';
	fclose(f);
	assert_string_equal(is, text);
}

static int fake_run(const char *const argv[], struct ps_err *err)
{
	for (int i = 0; argv[i] != NULL; i++)
		snprintf(ran + strlen(ran), sizeof(ran) - strlen(ran), "%s ", argv[i]);
	if (run_rc != 0)
		return ps_err_set(err, run_rc, "the program failed");
	put("/proc/self/mounts",
	    strcmp(argv[0], "mount") == 0 ? "nodev /dev/hugepages hugetlbfs rw 0 0\n" : "");
	return 0;
}

static int set_up(void **st)
{
	const char *const dirs[] = {"/sys/kernel/mm/hugepages/hugepages-2048kB", "/sys/devices/system/cpu",
				    "/proc/self/ns", "/proc/sys/net/core", "/dev"};

	(void)st;
	strcpy(root, "/tmp/th.XXXXXX");
	if (mkdtemp(root) == NULL)
		return -1;
	snprintf(state, sizeof(state), "%s/host.yaml", root);
	for (size_t i = 0; i < 5; i++) {
		char path[256];
		const char *const mkdirs[] = {"mkdir", "-p", path, NULL};

		snprintf(path, sizeof(path), "%s%s", root, dirs[i]);
		if (run_program(mkdirs, NULL, NULL) != 0)
			return -1;
	}
	put(POOL "/nr_hugepages", "10\n");
	put(POOL "/free_hugepages", "6\n");
	put(POOL "/resv_hugepages", "2\n");
	put(JIT, "0\n");
	put("/proc/self/mounts", "proc /proc proc rw 0 0\n");
	put("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
	put("/proc/self/ns/net", "");
	put("/sys/devices/system/cpu/isolated", "2-3\n");
	ran[0] = '\0';
	run_rc = 0;
	return 0;
}

static int tear_down(void **st)
{
	const char *const rm[] = {"rm", "-r", root, NULL};

	(void)st;
	return run_program(rm, NULL, NULL);
}

static struct host_ctx context(FILE *out)
{
	return (struct host_ctx){.driver = TOPO_DRIVER_AF_XDP,
				 .hugepages_mb = 16,
				 .state_path = state,
				 .root = root,
				 .out = out,
				 .run = fake_run};
}

static struct host_result check_step(const char *name, enum topo_driver driver)
{
	struct host_ctx c = context(stdout);
	struct host_result r = {0};
	uint32_t i = 0;

	c.driver = driver;
	while (host_step_name(i) != NULL && strcmp(host_step_name(i), name) != 0)
		i++;
	assert_non_null(host_step_name(i));
	host_step_check(&c, i, &r);
	return r;
}

static void test_check(void **st)
{
	struct host_result r = check_step("hugepages", TOPO_DRIVER_AF_XDP);

	(void)st;
	assert_int_equal(r.verdict, HOST_MISSING); /* 4 free, 8 wanted */
	assert_string_equal(r.found, "4 of 10 hugepages of 2 MB free, 8 wanted");
	assert_non_null(strstr(r.fix, "echo 14 > "));
	assert_int_equal(check_step("hugepages", TOPO_DRIVER_MEMIF).verdict, HOST_HINT);
	put(POOL "/free_hugepages", "10\n");
	assert_int_equal(check_step("hugepages", TOPO_DRIVER_AF_XDP).verdict, HOST_OK);
	assert_int_equal(check_step("hugetlbfs", TOPO_DRIVER_AF_XDP).verdict, HOST_HINT);
	assert_int_equal(check_step("bpf-jit", TOPO_DRIVER_AF_XDP).verdict, HOST_HINT);
	assert_int_equal(check_step("kernel", TOPO_DRIVER_AF_XDP).verdict, HOST_OK);
	assert_int_equal(check_step("capabilities", TOPO_DRIVER_AF_XDP).verdict, HOST_OK);
	put("/proc/self/status", "CapEff:\t0000000000001000\n");
	r = check_step("capabilities", TOPO_DRIVER_AF_XDP);
	assert_int_equal(r.verdict, HOST_MISSING);
	assert_string_equal(r.found, "without the capabilities NET_RAW BPF SYS_ADMIN");
	assert_int_equal(check_step("capabilities", TOPO_DRIVER_MEMIF).verdict, HOST_HINT);
	r = check_step("processors", TOPO_DRIVER_AF_XDP);
	assert_non_null(strstr(r.found, "isolated: 2-3"));
}

static void test_check_prints(void **st)
{
	FILE *out = fmemopen(said, sizeof(said), "w");
	struct host_ctx c = context(out);
	uint32_t missing;

	(void)st;
	c.driver = TOPO_DRIVER_MEMIF;
	missing = host_check(&c);
	fclose(out);
	assert_int_equal(missing, 0);
	for (uint32_t i = 0; host_step_name(i) != NULL; i++)
		assert_non_null(strstr(said, host_step_name(i)));
	assert_int_equal(access(state, F_OK), -1);
	assert_file(POOL "/nr_hugepages", "10\n");
	assert_string_equal(ran, "");
}

static void test_apply_undo(void **st)
{
	FILE *out = fmemopen(said, sizeof(said), "w");
	struct host_ctx c = context(out);
	struct ps_err err = {""};
	char dir[96];

	(void)st;
	snprintf(dir, sizeof(dir), "%s/dev/hugepages", root);
	assert_int_equal(host_apply(&c, &err), 0);
	assert_file(POOL "/nr_hugepages", "14\n");
	assert_file(JIT, "1\n");
	assert_string_equal(ran, "mount -t hugetlbfs nodev /dev/hugepages ");
	assert_int_equal(access(dir, F_OK), 0);
	assert_int_equal(access(state, F_OK), 0);
	/* Again: all is in order, nothing is added twice. */
	put(POOL "/free_hugepages", "12\n");
	assert_int_equal(host_apply(&c, &err), 0);
	assert_file(POOL "/nr_hugepages", "14\n");
	/* Meanwhile someone else has added three. */
	put(POOL "/nr_hugepages", "17\n");
	ran[0] = '\0';
	assert_int_equal(host_undo(&c, &err), 0);
	assert_file(POOL "/nr_hugepages", "13\n");
	assert_file(JIT, "0\n");
	assert_string_equal(ran, "umount /dev/hugepages ");
	assert_int_equal(access(dir, F_OK), -1);
	assert_int_equal(access(state, F_OK), -1);
	assert_int_equal(host_undo(&c, &err), 0); /* nothing left to do */
	assert_file(POOL "/nr_hugepages", "13\n");
	fclose(out);
	assert_non_null(strstr(said, "+ echo 14 > " POOL "/nr_hugepages\n"));
	assert_non_null(strstr(said, "+ mount -t hugetlbfs nodev /dev/hugepages\n"));
	assert_non_null(strstr(said, "+ umount /dev/hugepages\n"));
}

/* A step that fails in the middle: what came before it can be undone. */
static void test_apply_fails(void **st)
{
	FILE *out = fmemopen(said, sizeof(said), "w");
	struct host_ctx c = context(out);
	struct ps_err err = {""};

	(void)st;
	run_rc = -EIO;
	assert_int_equal(host_apply(&c, &err), -EIO);
	assert_string_equal(err.msg, "the program failed");
	assert_file(POOL "/nr_hugepages", "14\n");
	assert_file(JIT, "0\n");
	run_rc = 0;
	assert_int_equal(host_undo(&c, &err), 0);
	assert_file(POOL "/nr_hugepages", "10\n");
	assert_int_equal(access(state, F_OK), -1);
	fclose(out);
}

static void test_torn_state(void **st)
{
	struct host_ctx c = context(stdout);
	struct ps_err err = {""};

	(void)st;
	put("/host.yaml", "hugepages_added: many\n");
	assert_int_equal(host_undo(&c, &err), -EINVAL);
	assert_int_equal(host_apply(&c, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "host.yaml:1:18: found 'many'"));
	assert_file(POOL "/nr_hugepages", "10\n");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    T(test_check), T(test_check_prints), T(test_apply_undo), T(test_apply_fails), T(test_torn_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
