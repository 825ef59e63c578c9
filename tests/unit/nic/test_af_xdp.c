/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * af_xdp ports over veth: content, what the guard lets through, drops and leaves to
 * the kernel, what a kill -9 leaves, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "tests/unit/nic/netns_pair.h"

#define MTU         3506u
#define PAYLOAD     (MTU - 28u - DP_HDR_BYTES)
#define STRANGER_IP (PAIR_IP(0) + 8u)
#define N_STRANGERS 20

static uint32_t hugepages_mb;
static bool app_memory;

static int try_start(int side, uint32_t mtu, struct dp_port **p_out, struct ps_err *err)
{
	char iface[16];
	struct nic_port_cfg port = {
	    .driver = NIC_DRIVER_AF_XDP,
	    .iface = iface,
	    .ip = PAIR_IP(side),
	    .udp_port = PAIR_PORT,
	    .mtu = mtu,
	    .n_peers = 1,
	    .peers = {{.ip = PAIR_IP(1 - side), .udp_port = PAIR_PORT}},
	};
	struct nic_cfg cfg = {
	    .name = "test-af-xdp", .hugepages_mb = hugepages_mb, .ports = &port, .n_ports = 1};

	snprintf(iface, sizeof(iface), NETNS_IFACE, side);
	if (app_memory) {
		cfg.pool_mem_bytes = nic_pool_bytes(&port);
		cfg.pool_mem = mmap(NULL, cfg.pool_mem_bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHILD_CHECK(cfg.pool_mem != MAP_FAILED, "memory");
	}
	return nic_start(&cfg, p_out, err);
}

static struct dp_port *start(int side)
{
	struct dp_port *p = NULL;
	struct ps_err err = {""};

	CHILD_CHECK(try_start(side, MTU, &p, &err) == 0, "nic_start: %s", err.msg);
	return p;
}

/* UDP through the kernel from `src_ip` to the peer's Penstock port. */
static void knock(uint32_t src_ip, uint32_t dst_ip, int n)
{
	struct sockaddr_in from = {
	    .sin_family = AF_INET, .sin_port = htons(PAIR_PORT), .sin_addr.s_addr = htonl(src_ip)};
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons(PAIR_PORT), .sin_addr.s_addr = htonl(dst_ip)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	CHILD_CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0, "stranger");
	for (int i = 0; i < n; i++)
		CHILD_CHECK(sendto(fd, "knock", 5, 0, (struct sockaddr *)&to, sizeof(to)) == 5, "send: %s",
			    strerror(errno));
	close(fd);
}

/* One echo request through the kernels of both sides; true when it is answered within 2 s. */
static bool ping(uint32_t ip)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(ip)};
	struct icmphdr req = {.type = ICMP_ECHO, .un.echo.id = htons(77)};
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	uint64_t end = ps_now_ns() + 2000000000ull;
	bool ok = false;

	CHILD_CHECK(fd >= 0, "raw socket: %s", strerror(errno));
	req.checksum = (uint16_t) ~(ICMP_ECHO + htons(77));
	CHILD_CHECK(sendto(fd, &req, sizeof(req), 0, (struct sockaddr *)&to, sizeof(to)) > 0, "ping: %s",
		    strerror(errno));
	while (!ok && ps_now_ns() < end) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		uint8_t buf[256];
		ssize_t n = poll(&pfd, 1, 50) == 1 ? recv(fd, buf, sizeof(buf), 0) : 0;
		const struct ip *h = (const struct ip *)buf;

		ok = n >= (ssize_t)(sizeof(*h) + sizeof(req)) &&
		     ((const struct icmphdr *)(buf + h->ip_hl * 4))->type == ICMP_ECHOREPLY;
	}
	close(fd);
	return ok;
}

static void check_text(struct dp_port *p)
{
	const char *text = p->ops->describe(p);

	CHILD_CHECK(strstr(text, "mode=native,copy") != NULL, "describe: %s", text);
	CHILD_CHECK(p->ops->wait_fd(p) >= 0, "no descriptor to wait on");
}

static void body_ping_pong(int side)
{
	static const uint32_t sizes[] = {0, 1, 64, 1408, 3392, PAYLOAD};
	struct dp_port *p = start(side);

	check_text(p);
	netns_meet(side); /* a message to a side that is still starting would be lost */
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		pair_ping_pong(p, side, sizes[i], 1500); /* more than a ring */
	netns_meet(side);
	nic_stop();
	_exit(0);
}

static void body_guard(int side)
{
	struct nic_guard_counts before, after;
	struct dp_port_counters n;
	struct dp_port *p = start(side);
	struct dp_rx_pkt pkt;

	netns_meet(side);
	if (side == 1) {
		/* Echoes one message and then only looks on until the other side is done. */
		pair_ping_pong(p, side, 64, 1);
		CHILD_CHECK(nic_port_guard_counts(p, &before) == 0, "counts");
		CHILD_CHECK(before.redirected >= 1 && before.dropped == 0, "before the knocking");
		uint64_t end = ps_now_ns() + 3000000000ull;
		do {
			CHILD_CHECK(dp_port_rx(p, &pkt, 1) == 0, "a stranger's packet came through");
			CHILD_CHECK(nic_port_guard_counts(p, &after) == 0, "counts");
		} while ((after.dropped < N_STRANGERS || after.passed <= before.passed) && ps_now_ns() < end);
		CHILD_CHECK(after.dropped == N_STRANGERS, "%u dropped", (unsigned)after.dropped);
		CHILD_CHECK(after.passed > before.passed, "ping did not pass");
		p->ops->counters(p, &n);
		CHILD_CHECK(n.rx_strangers == 0 && n.rx_malformed == 0, "counters");
	} else {
		pair_ping_pong(p, side, 64, 1);
		netns_run("ip addr add 10.99.0.%d/24 dev pstest%d%.0d", 9, 0, 0);
		knock(STRANGER_IP, PAIR_IP(1), N_STRANGERS);
		CHILD_CHECK(ping(PAIR_IP(1)), "ping does not work while the program is attached");
	}
	netns_meet(side);
	nic_stop();
	_exit(0);
}

/* The descriptor wakes a sleeper when a packet comes. */
static void body_wait_fd(int side)
{
	struct dp_port *p = start(side);
	uint8_t scratch[64];
	uint32_t got;

	netns_meet(side);
	if (side == 0) {
		CHILD_CHECK(pair_send(p, scratch, 64, 1, 1000), "send");
	} else {
		struct pollfd pfd = {.fd = p->ops->wait_fd(p), .events = POLLIN};

		CHILD_CHECK(poll(&pfd, 1, 5000) == 1 && (pfd.revents & POLLIN) != 0, "not woken");
		CHILD_CHECK(pair_recv(p, 64, &got, 0) == 1, "woken for nothing");
	}
	netns_meet(side);
	nic_stop();
	_exit(0);
}

/* Side 0: a child is killed with the program attached; its successor starts all the same, and a
 * third one is refused while that lives. */
static void body_stale(int side)
{
	struct ps_err err = {""};
	struct dp_port *p;
	pid_t pid;
	int rc, fds[2], stop[2];
	char c;

	if (side == 1) {
		pause(); /* holds the other end of the veth until the test ends it */
		_exit(0);
	}
	CHILD_CHECK(pipe(fds) == 0 && pipe(stop) == 0, "pipe");
	pid = pair_fork();
	if (pid == 0) {
		start(side);
		(void)!write(fds[1], "x", 1);
		pause();
	}
	CHILD_CHECK(read(fds[0], &c, 1) == 1, "pipe");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	CHILD_CHECK(system("ip link show dev pstest0 | grep -q xdp") == 0, "nothing is attached");
	pid = pair_fork();
	if (pid == 0) {
		start(side);
		(void)!write(fds[1], "x", 1);
		(void)!read(stop[0], &c, 1);
		nic_stop();
		_exit(0);
	}
	CHILD_CHECK(read(fds[0], &c, 1) == 1, "pipe");
	rc = try_start(side, MTU, &p, &err);
	CHILD_CHECK(rc == -EBUSY && strstr(err.msg, "in use by penstock process") != NULL, "%d %s", rc,
		    err.msg);
	CHILD_CHECK(write(stop[1], "x", 1) == 1, "pipe");
	CHILD_CHECK(pair_join(pid) == 0, "the successor");
	CHILD_CHECK(system("ip link show dev pstest0 | grep -q xdp") != 0, "still attached");
	_exit(0);
}

static void body_refusals(int side)
{
	struct ps_err err = {""};
	struct dp_port *p;
	int rc;

	if (side == 1) {
		pause();
		_exit(0);
	}
	rc = try_start(side, 3507, &p, &err);
	CHILD_CHECK(rc == -EINVAL && strstr(err.msg, "3506") != NULL, "%d %s", rc, err.msg);
	netns_run("ip link set pstest%d mtu %d%.0d", 0, 1500, 0);
	rc = try_start(side, 3400, &p, &err);
	CHILD_CHECK(rc == -EINVAL && strstr(err.msg, "ip link set dev pstest0 mtu 3400") != NULL, "%d %s", rc,
		    err.msg);
	netns_run("ip link set pstest%d mtu %d%.0d", 0, 9000, 0);
	rc = try_start(side, 1500, &p, &err);
	CHILD_CHECK(rc == -EINVAL && strstr(err.msg, "9000") != NULL, "%d %s", rc, err.msg);
	netns_run("ip link set pstest%d mtu %d && ip addr flush dev pstest%d", 0, 1500, 0);
	rc = try_start(side, 1500, &p, &err);
	CHILD_CHECK(rc == -EINVAL && strstr(err.msg, "ip addr add 10.99.0.1") != NULL, "%d %s", rc, err.msg);
	_exit(0);
}

static void run_both(uint32_t mtu, void (*body)(int))
{
	struct netns_pair n;
	int status[2];

	netns_pair_start(&n, mtu, body);
	netns_pair_join(&n, status);
	assert_int_equal(status[0], 0);
	assert_int_equal(status[1], 0);
}

static void test_ping_pong(void **state)
{
	(void)state;
	run_both(MTU, body_ping_pong);
}

static void test_ping_pong_hugepages(void **state)
{
	unsigned long n = 0;
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");

	(void)state;
	if (f == NULL || fscanf(f, "%lu", &n) != 1 || n < 80) {
		print_message("skipped: 80 free hugepages of 2 MB needed\n");
		skip();
	}
	fclose(f);
	hugepages_mb = 64;
	run_both(MTU, body_ping_pong);
	hugepages_mb = 0;
}

static void test_app_memory(void **state)
{
	(void)state;
	app_memory = true;
	run_both(MTU, body_wait_fd);
	app_memory = false;
}

static void test_guard(void **state)
{
	(void)state;
	run_both(MTU, body_guard);
}

static void test_wait_fd(void **state)
{
	(void)state;
	run_both(MTU, body_wait_fd);
}

/* Side 1 only holds its end of the veth. */
static void run_alone(void (*body)(int))
{
	struct netns_pair n;
	int status;

	netns_pair_start(&n, MTU, body);
	status = pair_join(n.pid[0]);
	kill(n.pid[1], SIGKILL);
	waitpid(n.pid[1], NULL, 0);
	close(n.go[0]);
	close(n.go[1]);
	assert_int_equal(status, 0);
}

static void test_stale(void **state)
{
	(void)state;
	run_alone(body_stale);
}

static void test_refusals(void **state)
{
	(void)state;
	run_alone(body_refusals);
}

/* What the killed processes left. */
static int teardown(void **state)
{
	(void)state;
	return nic_cleanup_stale("penstock-test-af-xdp-") < 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_ping_pong),
	    cmocka_unit_test(test_ping_pong_hugepages),
	    cmocka_unit_test(test_app_memory),
	    cmocka_unit_test(test_guard),
	    cmocka_unit_test(test_wait_fd),
	    cmocka_unit_test(test_stale),
	};

	if (getuid() != 0) {
		printf("skipped: needs root (network namespaces, XDP)\n");
		return TEST_SKIPPED;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, teardown);
}
