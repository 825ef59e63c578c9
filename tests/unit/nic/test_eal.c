/* SPDX-License-Identifier: BSD-3-Clause */
/* What starting EAL does to the process and leaves on the host, and that the user's arguments win. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "dataplane/bell.h"
#include "tests/unit/nic/nic_pair.h"

static char dir[64];
static char sock_path[96];
static char bell_path[96];

static int start(int argc, char **argv, bool capture, uint32_t hugepages_mb, struct dp_port **p_out,
		 struct ps_err *err)
{
	struct nic_port_cfg port = {
	    .driver = NIC_DRIVER_MEMIF,
	    .socket_path = sock_path,
	    .memif_server = true,
	    .ip = PAIR_IP(1),
	    .udp_port = PAIR_PORT,
	    .mtu = 1500,
	    .n_peers = 1,
	    .peers = {{.ip = PAIR_IP(0), .udp_port = PAIR_PORT, .bell_path = bell_path}},
	};
	struct nic_cfg cfg = {.name = "test-eal",
			      .ports = &port,
			      .n_ports = 1,
			      .capture = capture,
			      .hugepages_mb = hugepages_mb,
			      .eal_argc = argc,
			      .eal_argv = argv};

	err->msg[0] = '\0';
	return nic_start(&cfg, p_out, err);
}

/* Entries of EAL's runtime directory that begin with `prefix`. */
static int count_runtime_dirs(const char *prefix)
{
	DIR *d = opendir(getuid() == 0 ? "/var/run/dpdk" : "/tmp/dpdk");
	const struct dirent *e;
	int n = 0;

	if (d == NULL)
		return 0;
	while ((e = readdir(d)) != NULL)
		n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
	closedir(d);
	return n;
}

static void in_child(void (*body)(void))
{
	pid_t pid;

	unlink(sock_path);
	pid = pair_fork();
	if (pid == 0) {
		body();
		_exit(0);
	}
	assert_int_equal(pair_join(pid), 0);
}

static void body_traces(void)
{
	char prefix[64];
	cpu_set_t before, after;
	struct dp_port *p;
	struct ps_err err;

	/* The runtime directory stays root's otherwise. */
	CHILD_CHECK(sched_getaffinity(0, sizeof(before), &before) == 0, "affinity");
	CHILD_CHECK(start(0, NULL, false, 0, &p, &err) == 0, "%s", err.msg);
	CHILD_CHECK(sched_getaffinity(0, sizeof(after), &after) == 0, "affinity");
	CHILD_CHECK(CPU_EQUAL(&before, &after), "the caller was left pinned");
	CHILD_CHECK(strncmp(nic_describe(), "no-huge", 7) == 0, "%s", nic_describe());
	snprintf(prefix, sizeof(prefix), "penstock-test-eal-%d", (int)getpid());
	CHILD_CHECK(strstr(nic_describe(), prefix) != NULL, "%s", nic_describe());
	CHILD_CHECK(access(sock_path, F_OK) == 0, "no socket");
	nic_stop();
	CHILD_CHECK(count_runtime_dirs(prefix) == 0, "the runtime directory is left");
	CHILD_CHECK(access(sock_path, F_OK) != 0, "the socket is left");
}

static void test_traces(void **state)
{
	(void)state;
	in_child(body_traces);
}

static void body_start_again(void)
{
	struct dp_port *p;
	struct ps_err err;

	for (int i = 0; i < 3; i++) {
		CHILD_CHECK(start(0, NULL, false, 0, &p, &err) == 0, "start %d: %s", i, err.msg);
		nic_stop();
	}
}

static void test_start_again(void **state)
{
	(void)state;
	in_child(body_start_again);
}

static void body_user_args(void)
{
	char *argv[] = {"--file-prefix=penstock-usertest", "-m", "77", "--", "--not-for-eal"};
	struct dp_port *p;
	struct ps_err err;

	CHILD_CHECK(start(5, argv, false, 0, &p, &err) == 0, "%s", err.msg);
	CHILD_CHECK(count_runtime_dirs("penstock-usertest") == 1, "the user's prefix was not used");
	nic_stop();
	CHILD_CHECK(count_runtime_dirs("penstock-usertest") == 0, "the runtime directory is left");
}

static void test_user_args_win(void **state)
{
	(void)state;
	in_child(body_user_args);
}

static void body_bad_arg(void)
{
	char *argv[] = {"--no-such-option"};
	struct dp_port *p;
	struct ps_err err;
	int rc = start(1, argv, false, 0, &p, &err);

	CHILD_CHECK(rc == -EINVAL && strstr(err.msg, "no-such-option") != NULL, "%d %s", rc, err.msg);
}

static void test_bad_arg(void **state)
{
	(void)state;
	in_child(body_bad_arg);
}

/* A process of this name that was killed leaves its runtime directory; the next start clears it. */
static void body_after_kill(void)
{
	struct dp_port *p;
	struct ps_err err;
	char prefix[64], c;
	int fds[2];
	pid_t pid;

	CHILD_CHECK(pipe(fds) == 0, "pipe");
	pid = pair_fork();
	if (pid == 0) {
		CHILD_CHECK(start(0, NULL, false, 0, &p, &err) == 0, "%s", err.msg);
		(void)!write(fds[1], "x", 1);
		pause();
	}
	close(fds[1]);
	CHILD_CHECK(read(fds[0], &c, 1) == 1, "the first process did not start");
	snprintf(prefix, sizeof(prefix), "penstock-test-eal-%d", (int)pid);
	CHILD_CHECK(count_runtime_dirs(prefix) == 1, "EAL makes no such directory any more");
	CHILD_CHECK(nic_cleanup_stale(prefix) == 0, "a living process was cleared away");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	CHILD_CHECK(access(sock_path, F_OK) == 0, "no stale socket to test with");
	CHILD_CHECK(start(0, NULL, false, 0, &p, &err) == 0, "after a kill: %s", err.msg);
	CHILD_CHECK(count_runtime_dirs(prefix) == 0, "the killed process's directory is left");
	nic_stop();
}

static void test_after_kill(void **state)
{
	(void)state;
	in_child(body_after_kill);
}

static void test_cleanup_refuses(void **state)
{
	(void)state;
	assert_int_equal(nic_cleanup_stale(NULL), -EINVAL);
	assert_int_equal(nic_cleanup_stale(""), -EINVAL);
	assert_int_equal(nic_cleanup_stale("rte"), -EINVAL);
	assert_int_equal(nic_cleanup_stale("penstock-/../../x"), -EINVAL);
}

/* Somebody who connects to the socket and leaves must not end the process: DPDK 22.11's own
 * server aborts there. */
static void body_rude_clients(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct dp_port *p;
	struct ps_err err;

	CHILD_CHECK(start(0, NULL, false, 0, &p, &err) == 0, "%s", err.msg);
	memcpy(un.sun_path, sock_path, strlen(sock_path) + 1);
	for (int i = 0; i < 300; i++) {
		int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

		CHILD_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0, "connect %d: %s",
			    i, strerror(errno));
		if (i % 3 == 0)
			(void)!send(fd, "rubbish", 7, MSG_NOSIGNAL);
		if (i % 5 == 0)
			usleep(500);
		close(fd);
	}
	usleep(50000);
	CHILD_CHECK(!p->ops->link_up(p), "up with nobody there");
	nic_stop();
}

static void test_rude_clients(void **state)
{
	(void)state;
	in_child(body_rude_clients);
}

static void body_bell(void)
{
	struct dp_port *p;
	struct dp_bell *bell;
	struct ps_err err;

	CHILD_CHECK(start(0, NULL, false, 0, &p, &err) == 0, "%s", err.msg);
	p->ops->ring_peer(p, 0); /* nobody has a bell yet: nothing happens */
	CHILD_CHECK(dp_bell_create_shared(bell_path, &bell, &err) == 0, "%s", err.msg);
	dp_bell_arm(bell, false);
	usleep(150000); /* opening is tried ten times a second */
	p->ops->ring_peer(p, 0);
	uint64_t t0 = ps_now_ns();
	dp_bell_wait(bell, NULL, 0, 3000000000ull);
	CHILD_CHECK(ps_now_ns() - t0 < 2000000000ull, "the bell was not rung");
	dp_bell_destroy(bell);
	nic_stop();
}

static void test_bell(void **state)
{
	(void)state;
	in_child(body_bell);
}

/* With capture there are files while it runs, and none afterwards. */
static void body_capture(void)
{
	char mnt[80], cmd[160];
	struct dp_port *p;
	struct ps_err err;

	/* A mount of our own, seen by nobody else and gone with the process. */
	snprintf(mnt, sizeof(mnt), "%s/huge", dir);
	CHILD_CHECK(unshare(CLONE_NEWNS) == 0 && mount("", "/", "", MS_REC | MS_PRIVATE, "") == 0,
		    "namespace");
	CHILD_CHECK(mkdir(mnt, 0700) == 0 && mount("nodev", mnt, "hugetlbfs", 0, "") == 0, "mount");
	CHILD_CHECK(start(0, NULL, true, 64, &p, &err) == 0, "%s", err.msg);
	CHILD_CHECK(strstr(nic_describe(), "capture=yes") != NULL, "%s", nic_describe());
	snprintf(cmd, sizeof(cmd), "ls %s | grep -q penstock-test-eal-%dmap_", mnt, (int)getpid());
	CHILD_CHECK(system(cmd) == 0, "no hugepage files that dpdk-dumpcap could share");
	nic_stop();
	CHILD_CHECK(system(cmd) != 0, "hugepage files are left");
	/* The files are unlinked but still mapped by EAL, so the mount goes with the process. */
	CHILD_CHECK(umount2(mnt, MNT_DETACH) == 0 && rmdir(mnt) == 0, "umount");
}

static void test_capture(void **state)
{
	unsigned long n = 0;
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");

	(void)state;
	if (f != NULL) {
		if (fscanf(f, "%lu", &n) != 1)
			n = 0;
		fclose(f);
	}
	if (getuid() != 0 || n < 40) {
		print_message("skipped: needs root and 40 free hugepages of 2 MB\n");
		skip();
	}
	in_child(body_capture);
}

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/penstock-test-eal-XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(sock_path, sizeof(sock_path), "%s/s.sock", dir);
	snprintf(bell_path, sizeof(bell_path), "%s/bell", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(sock_path);
	return rmdir(dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_traces),        cmocka_unit_test(test_start_again),
	    cmocka_unit_test(test_user_args_win), cmocka_unit_test(test_bad_arg),
	    cmocka_unit_test(test_after_kill),    cmocka_unit_test(test_cleanup_refuses),
	    cmocka_unit_test(test_rude_clients),  cmocka_unit_test(test_bell),
	    cmocka_unit_test(test_capture),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
