/* SPDX-License-Identifier: BSD-3-Clause */
/* The XDP program's verdicts on crafted packets, by the kernel's own test run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>
#include <linux/bpf.h>
#include <unistd.h>

#include "nic/frame.h"
#include "nic/xdp_guard.h"
#include "nic/xdp_guard_obj.h"

#define MY_IP      0x0a000002u
#define PEER_IP    0x0a000001u
#define MY_PORT    7000u
#define N_CPUS_MAX 4096

static struct bpf_object *obj;
static int prog_fd;

static int map_fd(const char *name)
{
	int fd = bpf_object__find_map_fd_by_name(obj, name);

	assert_true(fd >= 0);
	return fd;
}

static uint64_t counter(uint32_t which)
{
	static uint64_t values[N_CPUS_MAX];
	int n = libbpf_num_possible_cpus();
	uint64_t sum = 0;

	assert_true(n > 0 && n <= N_CPUS_MAX);
	assert_int_equal(bpf_map_lookup_elem(map_fd("counters"), &which, values), 0);
	for (int i = 0; i < n; i++)
		sum += values[i];
	return sum;
}

static uint32_t packet(uint8_t *frame, uint32_t src_ip, uint32_t dst_ip, uint16_t dst_port)
{
	const struct nic_frame_addr a = {
	    .src_ip = src_ip, .dst_ip = dst_ip, .src_port = 1, .dst_port = dst_port};
	struct nic_frame_template t;

	nic_frame_template_init(&t, &a);
	nic_frame_build(frame, &t, 48);
	memset(frame + NIC_FRAME_BYTES, 0, 48);
	return NIC_FRAME_BYTES + 48;
}

/* Runs the program; the verdict, and exactly one counter may have moved: `counted`. */
static void expect(const uint8_t *frame, uint32_t len, uint32_t verdict, uint32_t counted)
{
	uint64_t before[NIC_GUARD_N_COUNTERS];
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = frame, .data_size_in = len, .repeat = 1);

	for (uint32_t i = 0; i < NIC_GUARD_N_COUNTERS; i++)
		before[i] = counter(i);
	assert_int_equal(bpf_prog_test_run_opts(prog_fd, &o), 0);
	assert_int_equal(o.retval, verdict);
	for (uint32_t i = 0; i < NIC_GUARD_N_COUNTERS; i++)
		assert_int_equal(counter(i) - before[i], i == counted);
}

/* No socket is in the map here, so a peer's packet is told by that counter. */
#define TO_US(frame, len) expect(frame, len, XDP_DROP, NIC_GUARD_NO_SOCKET)

static void test_peer(void **state)
{
	uint8_t f[128];
	uint32_t len = packet(f, PEER_IP, MY_IP, MY_PORT);

	(void)state;
	TO_US(f, len);
}

static void test_stranger(void **state)
{
	uint8_t f[128];
	uint32_t len = packet(f, PEER_IP + 7, MY_IP, MY_PORT);

	(void)state;
	expect(f, len, XDP_DROP, NIC_GUARD_DROPPED);
}

static void test_kernels_business(void **state)
{
	uint8_t f[128];
	uint32_t len;

	(void)state;
	len = packet(f, PEER_IP, MY_IP, MY_PORT + 1); /* another port */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	len = packet(f, PEER_IP, MY_IP + 1, MY_PORT); /* another address */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	len = packet(f, PEER_IP, MY_IP, MY_PORT);
	f[23] = 1; /* ICMP */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	len = packet(f, PEER_IP, MY_IP, MY_PORT);
	f[12] = 0x08, f[13] = 0x06; /* ARP */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	f[12] = 0x86, f[13] = 0xdd; /* IPv6 */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	f[12] = 0x81, f[13] = 0x00; /* VLAN */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
}

static void test_fragments(void **state)
{
	uint8_t f[128];
	uint32_t len = packet(f, PEER_IP, MY_IP, MY_PORT);

	(void)state;
	f[20] = 0x20; /* the first of several */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	f[20] = 0x00, f[21] = 0x10; /* a later one: no UDP header in it */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	f[20] = 0x40, f[21] = 0x00; /* don't fragment */
	TO_US(f, len);
}

/* With options the UDP header stands further back. */
static void test_options(void **state)
{
	uint8_t f[160];
	uint32_t len = packet(f, PEER_IP, MY_IP, MY_PORT);

	(void)state;
	memmove(f + 14 + 40, f + 14 + 20, len - 34);
	memset(f + 34, 1, 20); /* no-operation options */
	len += 20;
	f[14] = 0x4a;
	expect(f, len, XDP_DROP, NIC_GUARD_DROPPED);
	f[14] = 0x4f; /* 60 bytes of header: what is read as ports there is not ours */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	f[14] = 0x44; /* shorter than a header can be */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	f[14] = 0x65; /* version 6 in an IPv4 frame */
	expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
}

static void test_truncations(void **state)
{
	uint8_t f[128];

	(void)state;
	packet(f, PEER_IP, MY_IP, MY_PORT);
	/* The kernel's test run wants at least an Ethernet header. */
	for (uint32_t len = 14; len < NIC_FRAME_BYTES; len++)
		expect(f, len, XDP_PASS, NIC_GUARD_PASSED);
	TO_US(f, NIC_FRAME_BYTES);
}

static int setup(void **state)
{
	struct nic_guard_endpoint ep = {.ip = htonl(MY_IP), .udp_port = htons(MY_PORT)};
	struct nic_guard_owner owner = {.pid = 1};
	__be32 peer = htonl(PEER_IP);
	__u8 one = 1;
	struct bpf_program *prog;

	(void)state;
	obj = bpf_object__open_mem(nic_xdp_guard_obj, nic_xdp_guard_obj_bytes, NULL);
	if (obj == NULL || bpf_object__load(obj) != 0)
		return -1;
	/* As DPDK's driver does: the first program of the object. */
	prog = bpf_object__next_program(obj, NULL);
	if (prog == NULL || strcmp(bpf_program__name(prog), NIC_GUARD_PROG) != 0)
		return -1;
	prog_fd = bpf_program__fd(prog);
	return bpf_map_update_elem(map_fd("endpoints"), &ep, &owner, BPF_ANY) != 0 ||
	       bpf_map_update_elem(map_fd("peers"), &peer, &one, BPF_ANY) != 0;
}

static int teardown(void **state)
{
	(void)state;
	bpf_object__close(obj);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_peer),
	    cmocka_unit_test(test_stranger),
	    cmocka_unit_test(test_kernels_business),
	    cmocka_unit_test(test_fragments),
	    cmocka_unit_test(test_options),
	    cmocka_unit_test(test_truncations),
	};
	int fd = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "ps_probe", 4, 4, 1, NULL);

	if (fd < 0) {
		printf("skipped: needs root or CAP_BPF and CAP_NET_ADMIN (%s)\n", strerror(-fd));
		return 77;
	}
	close(fd);
	return cmocka_run_group_tests(tests, setup, teardown);
}
