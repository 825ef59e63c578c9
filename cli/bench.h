/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_BENCH_H
#define PENSTOCK_CLI_BENCH_H
/*
 * The benches behind `penstock bench`, and what the parts of the link bench
 * share: a supervisor that prepares the host, forks the two sides, cleans up and
 * prints; and the sides, each one process with an endpoint that it drives in one
 * thread.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "dataplane/endpoint.h"
#include "dataplane/loopback.h"

int bench_link(int argc, char **argv);
int bench_model(int argc, char **argv);
int bench_accuracy(int argc, char **argv);

enum bench_driver { BENCH_LOOPBACK, BENCH_MEMIF, BENCH_AF_XDP };

#define BENCH_PING 0u /* side 0 measures */
#define BENCH_ECHO 1u

struct bench_link_opts {
	enum bench_driver driver;
	const char *driver_name;
	uint32_t size, count, warmup, mtu;
	enum dp_idle idle;
	bool one_way, json, checksum, baseline;
	uint32_t hugepages_mb; /* of each side; 0: none */
	int cores[2];          /* -1: not pinned */
};

/* Between the supervisor and the sides; mapped shared before the fork. */
struct bench_shared {
	_Atomic uint32_t done; /* how far the end is */
	char error[2][1024];
	char mode[2][512];
	uint32_t mtu;
	uint64_t one_way_ns, retransmits, rx_in_place, rx_copied_bytes;
	uint64_t rtt_ns[]; /* [count] */
};

struct bench_side {
	const struct bench_link_opts *o;
	struct bench_shared *shared;
	uint32_t side;
	const char *dir;        /* for sockets and bells; private to this run */
	struct dp_loopback *lb; /* driver loopback */
	pid_t run_id;           /* the supervisor's pid, in names */
	int ready_fd, go_fd;    /* af_xdp: a byte out when the namespace is there, one in when the veth is */
};

/* Runs one side to its end in a process of its own; the exit status. Errors go to shared->error. */
int bench_side_run(struct bench_side *s);

/* af_xdp. The side's process: a network namespace of its own, which goes with the process. */
int ps_warn_unused bench_veth_enter(struct ps_err *err);
/* The supervisor: a veth pair between the namespaces of two processes. */
int ps_warn_unused bench_veth_join(const pid_t pids[2], struct ps_err *err);
/* The side's process: address and MTU of its end. */
int ps_warn_unused bench_veth_up(uint32_t side, uint32_t mtu, struct ps_err *err);
const char *bench_veth_iface(uint32_t side);
uint32_t bench_veth_ip(uint32_t side);
void bench_veth_mac(uint32_t side, uint8_t mac[6]);

/* Writes or checks a message's bytes, which depend on its number. */
void bench_fill(uint8_t *data, uint32_t len, uint64_t number);
bool bench_is_filled(const uint8_t *data, uint32_t len, uint64_t number);

#endif
