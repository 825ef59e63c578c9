/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "topology/hugepages.h"
#include "topology/launch.h"
#include "topology/netns.h"

static char base[64], fake[512];

static struct topology *load(const char *body)
{
	struct topology *t = NULL;
	struct ps_err err = {""};
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/t.yaml", base);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "version: 1\nname: utest\nmodel: m.gguf\n%s", body);
	fclose(f);
	if (topo_load(path, NULL, &t, &err) != 0)
		print_error("%s\n", err.msg);
	assert_non_null(t);
	unlink(path);
	return t;
}

#define MEMIF "nodes: [{name: a, hugepages_mb: 0}]\nstages: [{}, {}]\n"
#define XDP                                                                                                  \
	"wire: {driver: af_xdp}\nnodes: [{name: a, hugepages_mb: 0}, {name: b, hugepages_mb: 0}]\n"          \
	"stages: [{node: a}, {node: b}]\n"

static int set_up(void **state)
{
	(void)state;
	strcpy(base, "/tmp/tl.XXXXXX");
	if (mkdtemp(base) == NULL)
		return -1;
	snprintf(fake, sizeof(fake), "%s/tests/unit/topology/fake_penstock.sh",
		 getenv("PENSTOCK_SOURCE_ROOT"));
	return 0;
}

/* Fails when a test has left a run directory behind. */
static int tear_down(void **state)
{
	(void)state;
	return rmdir(base);
}

static struct launch_opts opts(const char *mode)
{
	setenv("FAKE_MODE", mode, 1);
	return (struct launch_opts){.run_base = base, .penstock_exe = fake, .ready_timeout_ms = 10000};
}

static struct launch *up_ok(const struct topology *t, const struct launch_opts *o)
{
	struct launch *l = NULL;
	struct ps_err err = {""};

	if (launch_up(t, o, &l, &err) != 0)
		print_error("%s\n", err.msg);
	assert_non_null(l);
	return l;
}

static void read_log(const struct launch *l, const char *name, char *buf, size_t cap)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.log", launch_run_dir(l), name);
	f = fopen(path, "r");
	assert_non_null(f);
	buf[fread(buf, 1, cap - 1, f)] = '\0';
	fclose(f);
}

static void assert_gone(const struct launch_state *s)
{
	for (uint32_t i = 0; i < s->n_procs; i++)
		assert_true(launch_start_ticks((pid_t)s->procs[i].pid) != s->procs[i].start_ticks);
	for (uint32_t i = 0; i < s->n_netns; i++)
		assert_false(netns_exists(s->netns[i].name));
}

static void test_up_down(void **state)
{
	struct topology *t = load(MEMIF);
	char *eal[] = {(char *)(uintptr_t) "--log-level=7"};
	struct launch_opts o = opts("ok");
	struct launch_state s;
	struct launch_exit gone;
	struct topology *run = NULL;
	struct ps_err err = {""};
	char dir[256], path[700], log[2048];
	struct launch *l;

	(void)state;
	o.eal_argv = eal;
	o.eal_argc = 1;
	l = up_ok(t, &o);
	snprintf(dir, sizeof(dir), "%s", launch_run_dir(l));
	assert_int_equal(launch_poll(l, 0, &gone), 0);
	assert_int_equal(launch_state_read(dir, &s, &err), 0);
	assert_true(s.ready);
	assert_false(s.detached);
	assert_int_equal(s.n_procs, 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_true(launch_start_ticks((pid_t)s.procs[i].pid) == s.procs[i].start_ticks);
	read_log(l, "s1", log, sizeof(log));
	snprintf(
	    path, sizeof(path),
	    "args: stage --log-level=7 -- --run-dir %s --topology %s/topology.yaml --name s1 --ready-fd ",
	    dir, dir);
	assert_non_null(strstr(log, path));
	read_log(l, "gateway", log, sizeof(log));
	assert_non_null(strstr(log, "args: gateway "));
	snprintf(path, sizeof(path), "%s/topology.yaml", dir);
	assert_int_equal(topo_load(path, NULL, &run, &err), 0);
	assert_true(topo_hash(run) == topo_hash(t));
	topo_free(run);
	assert_int_equal(launch_down(l, &err), 0);
	assert_gone(&s);
	assert_int_equal(access(dir, F_OK), -1);
	topo_free(t);
}

static void test_killed_process(void **state)
{
	struct topology *t = load(MEMIF);
	struct launch_opts o = opts("ok");
	struct launch *l = up_ok(t, &o);
	struct launch_state s;
	struct launch_exit gone = {0};
	struct ps_err err;

	(void)state;
	assert_int_equal(launch_state_read(launch_run_dir(l), &s, &err), 0);
	assert_int_equal(kill((pid_t)s.procs[1].pid, SIGKILL), 0);
	assert_int_equal(launch_poll(l, 2000, &gone), 1);
	assert_string_equal(gone.name, "s1");
	assert_true(WIFSIGNALED(gone.status));
	assert_non_null(strstr(gone.text, "s1 was killed by signal 9; its last lines: args: stage"));
	assert_int_equal(launch_poll(l, 0, &gone), 0);
	assert_int_equal(launch_down(l, &err), 0);
	assert_gone(&s);
	topo_free(t);
}

static void fails(const char *mode, uint32_t timeout_ms, int rc, const char *text)
{
	struct topology *t = load(MEMIF);
	struct launch_opts o = opts(mode);
	struct launch *l = NULL;
	struct ps_err err = {""};

	o.ready_timeout_ms = timeout_ms;
	assert_int_equal(launch_up(t, &o, &l, &err), rc);
	assert_null(l);
	if (strstr(err.msg, text) == NULL)
		print_error("got: %s\n", err.msg);
	assert_non_null(strstr(err.msg, text));
	topo_free(t);
}

static void test_failures(void **state)
{
	(void)state;
	fails("die", 10000, -ECHILD, "s1 ended with status 3; its last lines: ");
	fails("die", 10000, -ECHILD, "cannot open the model");
	fails("hang", 300, -ETIMEDOUT, "s1 was not ready after 300 ms");
	fails("wrong", 10000, -EPROTO, "s1 wrote a wrong byte");
}

static void test_closed_ready(void **state)
{
	(void)state;
	fails("close", 10000, -EPROTO, "s1 closed its ready pipe without READY");
}

static void test_refused(void **state)
{
	char deep[200];
	struct topology *t = load("nodes: [{name: a, host: far}]\nstages: [{}]\n");
	struct launch_opts o = opts("ok");
	struct launch *l = NULL;
	struct ps_err err = {""};

	(void)state;
	assert_int_equal(launch_up(t, &o, &l, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "host 'far'"));
	topo_free(t);
	t = load(MEMIF);
	o.penstock_exe = "/nonexistent/penstock";
	assert_int_equal(launch_up(t, &o, &l, &err), -ENOENT);
	o = opts("ok");
	snprintf(deep, sizeof(deep), "%s/%080d", base, 1);
	o.run_base = deep;
	assert_int_equal(launch_up(t, &o, &l, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.msg, "PENSTOCK_RUN_DIR"));
	rmdir(deep);
	snprintf(deep, sizeof(deep), "%s/open", base);
	assert_int_equal(mkdir(deep, 0700), 0);
	assert_int_equal(chmod(deep, 0777), 0);
	assert_int_equal(launch_up(t, &o, &l, &err), -EPERM);
	assert_non_null(strstr(err.msg, "others can change"));
	rmdir(deep);
	topo_free(t);
}

static void test_detached(void **state)
{
	struct topology *t = load(MEMIF);
	struct launch_opts o = opts("ok");
	struct launch *l, *second = NULL;
	struct launch_state s;
	struct ps_err err = {""};
	char dir[256];

	(void)state;
	o.detach = true;
	l = up_ok(t, &o);
	launch_release(l);
	assert_int_equal(launch_find(base, "utest", dir, sizeof(dir), &err), 0);
	assert_int_equal(launch_state_read(dir, &s, &err), 0);
	assert_true(s.detached);
	assert_int_equal(launch_up(t, &o, &second, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "penstock down utest"));
	assert_int_equal(launch_clean_stale(base), 0);
	assert_int_equal(launch_find(base, "other", dir, sizeof(dir), &err), -ENOENT);
	assert_non_null(strstr(err.msg, "that is up: utest"));
	assert_int_equal(launch_find(base, "utest", dir, sizeof(dir), &err), 0);
	assert_int_equal(launch_down_dir(dir, &err), 0);
	assert_gone(&s);
	assert_int_equal(launch_down_dir(dir, &err), -ENOENT);
	topo_free(t);
}

/* A launcher that is killed: its processes end, and the next start finds its remains. */
static void killed_launcher(const char *body)
{
	struct topology *t = load(body);
	struct launch_opts o = opts("ok");
	struct launch_state s;
	struct ps_err err = {""};
	char dir[256];
	int ready[2], status;
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		struct launch *l = NULL;

		if (launch_up(t, &o, &l, NULL) != 0 || write(ready[1], "r", 1) != 1)
			_exit(1);
		pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	snprintf(dir, sizeof(dir), "%s/utest-%d", base, (int)pid);
	assert_int_equal(launch_state_read(dir, &s, &err), 0);
	assert_int_equal(launch_clean_stale(base), 0); /* alive: left alone */
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(launch_clean_stale(base), 1);
	assert_gone(&s);
	assert_int_equal(access(dir, F_OK), -1);
	topo_free(t);
}

static void test_killed_launcher(void **state)
{
	(void)state;
	killed_launcher(MEMIF);
}

/* Processes that ignore SIGTERM get SIGKILL after the wait. */
static void test_stubborn(void **state)
{
	struct topology *t = load(MEMIF);
	struct launch_opts o = opts("stubborn");
	struct launch *l = up_ok(t, &o);
	struct launch_state s;
	struct ps_err err;

	(void)state;
	assert_int_equal(launch_state_read(launch_run_dir(l), &s, &err), 0);
	launch_term_wait_ms = 50;
	assert_int_equal(launch_down(l, &err), 0);
	launch_term_wait_ms = 5000;
	assert_gone(&s);
	topo_free(t);
}

/* ---- hugepages, in a pool of the test's own: what is in it is free ---- */

static char pool[96], said[512];

static void pool_write(const char *file, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", pool, file);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void make_pool(const char *total)
{
	char path[128];

	snprintf(pool, sizeof(pool), "%s/pool", base);
	assert_int_equal(mkdir(pool, 0700), 0);
	pool_write("nr_hugepages", total);
	pool_write("resv_hugepages", "0");
	snprintf(path, sizeof(path), "%s/free_hugepages", pool);
	assert_int_equal(symlink("nr_hugepages", path), 0);
	hugepages_pool = pool;
}

static void remove_pool(const char *const *real)
{
	const char *const files[] = {"nr_hugepages", "resv_hugepages", "free_hugepages"};
	char path[128];

	hugepages_pool = *real;
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", pool, files[i]);
		(void)remove(path);
	}
	rmdir(pool);
}

static uint32_t pool_total(void)
{
	struct hugepages h;

	assert_int_equal(hugepages_read(&h, NULL), 0);
	return h.total;
}

static void say(void *ctx, const char *line)
{
	(void)ctx;
	snprintf(said, sizeof(said), "%s", line);
}

#define HUGE "nodes: [{name: a, hugepages_mb: 64}]\nstages: [{}, {}]\n"

static void test_hugepages_added(void **state)
{
	const char *real = hugepages_pool;
	struct launch_opts o = opts("ok");
	struct launch *first, *second;
	struct topology *t = load(HUGE);
	struct launch_state s;
	struct ps_err err;

	(void)state;
	make_pool("10");
	first = up_ok(t, &o); /* 3 processes of 32 pages: 86 are missing */
	assert_int_equal(launch_state_read(launch_run_dir(first), &s, &err), 0);
	assert_int_equal(s.hugepages_added, 86);
	assert_int_equal(pool_total(), 96);
	o.detach = true; /* another name; finds enough, and so adds and gives back none */
	second = up_ok(t, &o);
	assert_int_equal(launch_state_read(launch_run_dir(second), &s, &err), 0);
	assert_int_equal(s.hugepages_added, 0);
	assert_int_equal(launch_down(second, &err), 0);
	assert_int_equal(pool_total(), 96);
	pool_write("nr_hugepages", "98"); /* someone else adds two: they stay */
	assert_int_equal(launch_down(first, &err), 0);
	assert_int_equal(pool_total(), 12);
	remove_pool(&real);
	topo_free(t);
}

/* memif goes on without hugepages and says so; what needs them does not. */
static void test_hugepages_lacking(void **state)
{
	const char *real = hugepages_pool;
	struct launch_opts o = opts("ok");
	struct topology *t = load(HUGE);
	struct launch *l;
	struct ps_err err;

	(void)state;
	o.say = say;
	said[0] = '\0';
	hugepages_pool = "/nonexistent";
	l = up_ok(t, &o);
	hugepages_pool = real;
	assert_non_null(strstr(said, "running without hugepages (slower): /nonexistent"));
	assert_int_equal(launch_topology(l)->nodes[0].hugepages_mb, 0);
	assert_int_equal(launch_down(l, &err), 0);
	topo_free(t);
	if (geteuid() != 0)
		return; /* af_xdp fails earlier */
	t = load("wire: {driver: af_xdp}\nnodes: [{name: a}, {name: b}]\nstages: [{node: a}, {node: b}]\n");
	hugepages_pool = "/nonexistent";
	assert_int_equal(launch_up(t, &o, &l, &err), -ENOENT);
	hugepages_pool = real;
	assert_non_null(strstr(err.msg, "expected a kernel with 2 MB hugepages"));
	topo_free(t);
}

/* Pages that the kernel cannot find are not kept half. */
static void test_hugepages_scattered(void **state)
{
	const char *real = hugepages_pool;
	struct ps_err err = {""};
	char path[128];
	uint32_t added = 7;
	int lock = 0;

	(void)state;
	make_pool("10");
	snprintf(path, sizeof(path), "%s/free_hugepages", pool);
	assert_int_equal(unlink(path), 0);
	pool_write("free_hugepages", "3"); /* whatever is asked for */
	assert_int_equal(hugepages_reserve(12, &lock, &added, &err), -ENOMEM);
	assert_int_equal(added, 0);
	assert_int_equal(lock, -1);
	assert_int_equal(pool_total(), 10);
	remove_pool(&real);
}

static void test_killed_process_files(void **state)
{
	struct topology *t = load(MEMIF);
	struct launch_opts o = opts("ok");
	struct launch *l = up_ok(t, &o);
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char dpdk[128], dir[256], prefix[128], file[300];
	struct launch_state s;
	struct ps_err err;
	FILE *f;

	(void)state;
	assert_int_equal(launch_state_read(launch_run_dir(l), &s, &err), 0);
	launch_eal_prefix("/r/deployment-of-a-very-long-name-1", "stage-of-a-very-long-name-too", prefix,
			  sizeof(prefix));
	assert_int_equal(strlen(prefix), 25);
	launch_eal_prefix(launch_run_dir(l), "s1", prefix, sizeof(prefix));
	snprintf(dpdk, sizeof(dpdk), "%s/dpdk", geteuid() == 0 ? "/var/run" : xdg != NULL ? xdg : "/tmp");
	(void)mkdir(dpdk, 0700);
	snprintf(dir, sizeof(dir), "%s/%s", dpdk, prefix);
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(file, sizeof(file), "%s/config", dir);
	f = fopen(file, "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(launch_down(l, &err), 0);
	assert_int_equal(access(dir, F_OK), -1);
	topo_free(t);
}

static void on_signal(int sig)
{
	(void)sig;
	_exit(42);
}

/* Ctrl-C in the middle of a start that would take for ever. */
static void interrupted(const char *body)
{
	struct topology *t = load(body);
	struct launch_opts o = opts("hang");
	int status = 0;
	uint64_t at;
	pid_t pid;

	o.ready_timeout_ms = 20000;
	pid = fork();

	if (pid == 0) {
		struct launch *l = NULL;

		signal(SIGINT, on_signal);
		(void)!launch_up(t, &o, &l, NULL);
		_exit(1);
	}
	for (int i = 0; i < 500; i++) { /* until the process that hangs has been started */
		struct launch_state s;
		char dir[256];

		snprintf(dir, sizeof(dir), "%s/utest-%d", base, (int)pid);
		if (launch_state_read(dir, &s, NULL) == 0 && s.n_procs == 3)
			break;
		usleep(10000);
	}
	at = ps_now_ns();
	assert_int_equal(kill(pid, SIGINT), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(ps_now_ns() - at < 8000000000ull); /* and did not wait for the 20 s of the start */
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42); /* the handler ran, after everything was undone */
	topo_free(t);
}

static void test_interrupted(void **state)
{
	(void)state;
	interrupted(MEMIF);
}

/* A pid in the state that by now is someone else's must not be touched. */
static void test_reused_pid(void **state)
{
	struct launch_state s = {.name = "utest", .launcher_pid = 1, .n_procs = 1};
	struct ps_err err = {""};
	char dir[128];
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		pause();
		_exit(0);
	}
	s.procs[0] = (struct launch_state_proc){
	    .name = "s0", .pid = (uint32_t)pid, .start_ticks = launch_start_ticks(pid) - 1};
	snprintf(dir, sizeof(dir), "%s/utest", base);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(launch_state_write(dir, &s, &err), 0);
	assert_int_equal(launch_down_dir(dir, &err), 0);
	assert_true(launch_start_ticks(pid) != 0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void test_torn_state(void **state)
{
	static const char *const texts[] = {
	    "", "name: [", "name: x\n", "name: x\nlauncher_pid: 0\n",
	    "name: x\nlauncher_pid: 5\nlauncher_start_ticks: 1\nprocesses: 3\n"};
	struct ps_err err;
	char dir[128], path[160];

	(void)state;
	snprintf(dir, sizeof(dir), "%s/torn", base);
	snprintf(path, sizeof(path), "%s/state.yaml", dir);
	assert_int_equal(mkdir(dir, 0700), 0);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		FILE *f = fopen(path, "w");

		fputs(texts[i], f);
		fclose(f);
		assert_int_equal(launch_down_dir(dir, &err), -EINVAL);
		assert_int_equal(launch_clean_stale(base), 0);
	}
	unlink(path);
	rmdir(dir);
}

static bool no_namespaces(void)
{
	struct ps_err err = {""};
	int rc = geteuid() == 0 ? netns_add("utest-probe", &err) : -EPERM;

	if (rc == 0)
		rc = netns_del("utest-probe", &err);
	if (rc != 0)
		print_message("skipped: network namespaces need root (%s)\n", err.msg);
	return rc != 0;
}

static void test_namespaces(void **state)
{
	struct launch_opts o = opts("ok");
	struct launch_state s;
	struct topology *t;
	struct ps_err err = {""};
	struct launch *l;
	char log[2048];

	(void)state;
	if (no_namespaces())
		skip();
	t = load(XDP);
	l = up_ok(t, &o);
	assert_int_equal(launch_state_read(launch_run_dir(l), &s, &err), 0);
	assert_int_equal(s.n_netns, 2);
	assert_true(netns_exists(s.netns[0].name));
	assert_string_equal(launch_topology(l)->nodes[1].netns, s.netns[1].name);
	read_log(l, "s1", log, sizeof(log));
	assert_non_null(strstr(log, "/sys/class/net/ps2b"));
	assert_null(strstr(log, "/sys/class/net/ps2a"));
	{
		/* The pair carries traffic both ways, and neighbours are known without asking. */
		const char *const ping[] = {"ip",
					    "netns",
					    "exec",
					    s.netns[0].name,
					    "sh",
					    "-c",
					    "ip -d link show ps2a | grep -q 'mtu 3420' && "
					    "ip neigh show dev ps2a | grep -q '10.80.2.2 .*PERMANENT' && "
					    "ip addr show ps2a | grep -q '10.80.2.1/30'",
					    NULL};

		assert_int_equal(run_program(ping, NULL, &err), 0);
	}
	assert_int_equal(launch_down(l, &err), 0);
	assert_gone(&s);
	topo_free(t);
}

static void test_namespaces_killed(void **state)
{
	(void)state;
	if (no_namespaces())
		skip();
	killed_launcher(XDP);
	interrupted(XDP);
}

static bool netns_folder_mounted(void)
{
	FILE *f = fopen("/proc/self/mounts", "r");
	char line[1024];
	bool found = false;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL)
		found = found || strstr(line, " /run/netns ") != NULL;
	fclose(f);
	return found;
}

/* What `ip netns add` mounts the first time goes with the last namespace, not before. */
static void test_last_namespace_takes_the_mount(void **state)
{
	struct ps_err err = {""};

	(void)state;
	if (no_namespaces())
		skip();
	assert_int_equal(netns_add("utest-mount", &err), 0);
	assert_true(netns_folder_mounted());
	assert_int_equal(netns_add("utest-mount2", &err), 0);
	assert_int_equal(netns_del("utest-mount", &err), 0);
	assert_true(netns_folder_mounted());
	assert_int_equal(netns_del("utest-mount2", &err), 0);
	/* Another program's namespace keeps it. */
	if (rmdir("/run/netns") == 0 || errno != ENOTEMPTY)
		assert_false(netns_folder_mounted());
}

static void test_named_namespace_taken(void **state)
{
	struct launch_opts o = opts("ok");
	struct launch *l = NULL;
	struct ps_err err = {""};
	struct topology *t;

	(void)state;
	if (no_namespaces())
		skip();
	assert_int_equal(netns_add("utest-taken", &err), 0);
	t = load("wire: {driver: af_xdp}\nnodes: [{name: a, hugepages_mb: 0}, {name: b, netns: utest-taken, "
		 "hugepages_mb: 0}]\nstages: [{node: a}, {node: b}]\n");
	assert_int_equal(launch_up(t, &o, &l, &err), -EEXIST);
	assert_true(netns_exists("utest-taken")); /* not ours: it stays */
	assert_int_equal(netns_del("utest-taken", &err), 0);
	topo_free(t);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    T(test_up_down),
	    T(test_killed_process),
	    T(test_failures),
	    T(test_closed_ready),
	    T(test_refused),
	    T(test_detached),
	    T(test_killed_launcher),
	    T(test_interrupted),
	    T(test_reused_pid),
	    T(test_torn_state),
	    T(test_stubborn),
	    T(test_hugepages_added),
	    T(test_hugepages_lacking),
	    T(test_hugepages_scattered),
	    T(test_killed_process_files),
	    T(test_namespaces),
	    T(test_namespaces_killed),
	    T(test_last_namespace_takes_the_mount),
	    T(test_named_namespace_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
