/* SPDX-License-Identifier: BSD-3-Clause */
/* memif ports between two processes: content, sizes, memory modes, and a peer that dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/unit/nic/nic_pair.h"

#define MTU     9000u
#define PAYLOAD (MTU - 28u - DP_HDR_BYTES)

static char dir[64];
static char sock_path[96];

struct mode {
	uint32_t hugepages_mb;
	bool app_memory;
	uid_t uid; /* 0: stay what we are */
};

static struct dp_port *start(int side, const struct mode *mode)
{
	struct nic_port_cfg port = {
	    .driver = NIC_DRIVER_MEMIF,
	    .socket_path = sock_path,
	    .memif_server = side == 1,
	    .ip = PAIR_IP(side),
	    .udp_port = PAIR_PORT,
	    .mtu = MTU,
	    .n_peers = 1,
	    .peers = {{.ip = PAIR_IP(1 - side), .udp_port = PAIR_PORT}},
	};
	struct nic_cfg cfg = {
	    .name = "test-memif",
	    .hugepages_mb = mode->hugepages_mb,
	    .ports = &port,
	    .n_ports = 1,
	    .wait_ms = 5000,
	};
	struct dp_port *p = NULL;
	struct ps_err err = {""};

	if (mode->uid != 0)
		CHILD_CHECK(setgid(mode->uid) == 0 && setuid(mode->uid) == 0, "setuid");
	if (mode->app_memory) {
		cfg.pool_mem_bytes = nic_pool_bytes(&port);
		cfg.pool_mem = mmap(NULL, cfg.pool_mem_bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHILD_CHECK(cfg.pool_mem != MAP_FAILED, "memory");
	}
	CHILD_CHECK(nic_start(&cfg, &p, &err) == 0, "nic_start: %s", err.msg);
	return p;
}

static void side_main(int side, const struct mode *mode)
{
	struct dp_port *p = start(side, mode);
	static const uint32_t sizes[] = {0, 1, 64, 1408, 8192, PAYLOAD};

	CHILD_CHECK(pair_wait_link(p, true, 5000), "no link");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		pair_ping_pong(p, side, sizes[i], 700); /* more than a ring */
	if (side == 0)
		CHILD_CHECK(strstr(p->ops->describe(p), mode->app_memory ? "mode=copy" : "mode=zero-copy") !=
				NULL,
			    "describe: %s", p->ops->describe(p));
	/* The echo is the last packet on the wire; the echoing side waits for the other's close. */
	if (side == 1)
		CHILD_CHECK(pair_wait_link(p, false, 5000), "the peer's close was not seen");
	nic_stop();
	_exit(0);
}

static pid_t spawn(int side, const struct mode *mode)
{
	pid_t pid = pair_fork();

	if (pid == 0)
		side_main(side, mode);
	return pid;
}

static bool have_hugepages(void)
{
	unsigned long n = 0;
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");

	if (f != NULL) {
		if (fscanf(f, "%lu", &n) != 1)
			n = 0;
		fclose(f);
	}
	return n >= 80;
}

static void run_pair(const struct mode *mode)
{
	pid_t server, client;

	unlink(sock_path); /* of a test that failed */
	server = spawn(1, mode);
	client = spawn(0, mode);
	assert_int_equal(pair_join(client), 0);
	assert_int_equal(pair_join(server), 0);
	assert_int_equal(access(sock_path, F_OK), -1);
}

static void test_no_huge(void **state)
{
	(void)state;
	run_pair(&(struct mode){0});
}

static void test_ordinary_user(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip(); /* then test_no_huge was it */
	run_pair(&(struct mode){.uid = 65534});
}

static void test_hugepages(void **state)
{
	(void)state;
	if (!have_hugepages()) {
		print_message("skipped: 80 free hugepages of 2 MB needed\n");
		skip();
	}
	run_pair(&(struct mode){.hugepages_mb = 64});
}

static void test_app_memory(void **state)
{
	(void)state;
	run_pair(&(struct mode){.app_memory = true});
}

/* The survivor of a kill -9 must live, see the link go, and work with the peer's successor. */
static void survivor_main(int side, int report_fd, uint32_t n_kills)
{
	struct mode mode = {0};
	struct dp_port *p = start(side, &mode);
	uint8_t *scratch = malloc(PAYLOAD);
	uint32_t got, seq = 0;

	for (uint32_t k = 0; k <= n_kills; k++) {
		uint32_t rounds = 0;

		CHILD_CHECK(pair_wait_link(p, true, 8000), "round %u: no link", k);
		while (rounds < 50) {
			/* What was in flight when the peer died is lost: that is the link's business. */
			(void)!pair_send(p, scratch, PAYLOAD, seq++, 100);
			int rc = pair_recv(p, PAYLOAD, &got, 100);
			CHILD_CHECK(rc >= 0, "wrong bytes");
			rounds += rc == 1;
			CHILD_CHECK(seq < 1000000, "nothing comes back");
		}
		CHILD_CHECK(write(report_fd, "x", 1) == 1, "report");
		if (k == n_kills)
			break;
		/* Goes on hammering the rings while the peer dies. */
		while (p->ops->link_up(p)) {
			(void)!pair_send(p, scratch, PAYLOAD, seq++, 0);
			CHILD_CHECK(pair_recv(p, PAYLOAD, &got, 0) >= 0, "wrong bytes");
		}
	}
	nic_stop();
	_exit(0);
}

static void echo_main(int side)
{
	struct mode mode = {0};
	struct dp_port *p = start(side, &mode);
	uint8_t *scratch = malloc(PAYLOAD);
	uint32_t got;

	for (;;)
		if (pair_recv(p, PAYLOAD, &got, 1000) == 1)
			(void)!pair_send(p, scratch, PAYLOAD, got, 100);
}

static void kill_peer(int survivor_side, uint32_t n_kills)
{
	int fds[2];
	pid_t survivor, peer = -1;
	char c;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	survivor = pair_fork();
	assert_true(survivor >= 0);
	if (survivor == 0) {
		close(fds[0]);
		survivor_main(survivor_side, fds[1], n_kills);
	}
	close(fds[1]);
	for (uint32_t k = 0; k <= n_kills; k++) {
		peer = pair_fork();
		assert_true(peer >= 0);
		if (peer == 0)
			echo_main(1 - survivor_side);
		struct pollfd pfd = {.fd = fds[0], .events = POLLIN};

		if (poll(&pfd, 1, 10000) != 1 || read(fds[0], &c, 1) != 1)
			break; /* the survivor has ended or hangs: its status will say */
		kill(peer, SIGKILL);
		waitpid(peer, NULL, 0);
		peer = -1;
	}
	if (peer > 0) {
		kill(peer, SIGKILL);
		waitpid(peer, NULL, 0);
	}
	close(fds[0]);
	assert_int_equal(pair_join(survivor), 0);
	unlink(sock_path);
}

static void test_client_dies(void **state)
{
	(void)state;
	kill_peer(1, 6);
}

static void test_server_dies(void **state)
{
	(void)state;
	kill_peer(0, 6);
}

static int start_expecting(struct nic_port_cfg *port, uint32_t hugepages_mb, struct ps_err *err)
{
	struct nic_cfg cfg = {
	    .name = "t", .hugepages_mb = hugepages_mb, .ports = port, .n_ports = 1, .wait_ms = 50};
	struct dp_port *p;

	err->msg[0] = '\0';
	return nic_start(&cfg, &p, err);
}

static void test_refusals(void **state)
{
	struct nic_port_cfg good = {.driver = NIC_DRIVER_MEMIF,
				    .socket_path = sock_path,
				    .ip = 1,
				    .udp_port = 2,
				    .mtu = 1500,
				    .n_peers = 1,
				    .peers = {{.ip = 3, .udp_port = 4}}};
	struct nic_port_cfg bad = good;
	struct ps_err err;

	(void)state;
	bad.mtu = 65535;
	assert_int_equal(start_expecting(&bad, 0, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "65521"));
	bad = good;
	bad.n_peers = 2;
	bad.peers[1] = (struct nic_peer_cfg){.ip = 5, .udp_port = 6};
	assert_int_equal(start_expecting(&bad, 0, &err), -EINVAL);
	bad = good;
	bad.socket_path = "relative";
	assert_int_equal(start_expecting(&bad, 0, &err), -EINVAL);
	assert_int_equal(start_expecting(&good, 1u << 20, &err), -ENOMEM);
	assert_non_null(strstr(err.msg, "/proc/sys/vm/nr_hugepages"));
	assert_int_equal(start_expecting(&good, 1, &err), -ENOMEM);
}

/* These need EAL and so a process of their own. */
static void test_no_server(void **state)
{
	pid_t pid = pair_fork();

	(void)state;
	if (pid == 0) {
		struct nic_port_cfg port = {.driver = NIC_DRIVER_MEMIF,
					    .socket_path = sock_path,
					    .ip = 1,
					    .udp_port = 2,
					    .mtu = 1500,
					    .n_peers = 1,
					    .peers = {{.ip = 3, .udp_port = 4}}};
		struct ps_err err;
		int rc = start_expecting(&port, 0, &err);

		CHILD_CHECK(rc == -ETIMEDOUT, "%d %s", rc, err.msg);
		/* A second try in the same process works as the first. */
		rc = start_expecting(&port, 0, &err);
		CHILD_CHECK(rc == -ETIMEDOUT, "%d %s", rc, err.msg);
		_exit(0);
	}
	assert_int_equal(pair_join(pid), 0);
}

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/penstock-test-memif-XXXXXX");
	if (mkdtemp(dir) == NULL || chmod(dir, 0777) != 0)
		return -1;
	snprintf(sock_path, sizeof(sock_path), "%s/s.sock", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(sock_path);
	(void)nic_cleanup_stale("penstock-test-memif-"); /* of the peers that were killed */
	return rmdir(dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refusals),    cmocka_unit_test(test_no_server),
	    cmocka_unit_test(test_no_huge),     cmocka_unit_test(test_ordinary_user),
	    cmocka_unit_test(test_hugepages),   cmocka_unit_test(test_app_memory),
	    cmocka_unit_test(test_client_dies), cmocka_unit_test(test_server_dies),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
