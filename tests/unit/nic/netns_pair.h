/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_NETNS_PAIR_H
#define PENSTOCK_TESTS_NETNS_PAIR_H
/*
 * Two processes in two nameless network namespaces joined by a veth pair: they
 * and the veth vanish with the processes, however a test ends. Needs root.
 */
#include <fcntl.h>
#include <sched.h>

#include "tests/unit/nic/nic_pair.h"

#define NETNS_IFACE "pstest%d" /* with the side: 0 or 1 */

static int netns_bell[2][2]; /* a pipe for each side, made before the sides are */

/* Both sides wait here for each other. */
static inline void netns_meet(int side)
{
	char c = 'm';

	CHILD_CHECK(write(netns_bell[1 - side][1], &c, 1) == 1, "pipe");
	CHILD_CHECK(read(netns_bell[side][0], &c, 1) == 1, "pipe");
}

struct netns_pair {
	pid_t pid[2];
	int go[2]; /* a byte: start; end of file: leave */
};

static inline void netns_run(const char *fmt, int a, int b, int c)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), fmt, a, b, c);
	if (system(cmd) != 0) {
		fprintf(stderr, "failed: %s\n", cmd);
		_exit(1);
	}
}

static inline pid_t netns_side(int side, uint32_t mtu, int *go_out, void (*body)(int side))
{
	int ready[2], go[2];
	char c;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0)
		abort();
	pid = pair_fork();
	if (pid == 0) {
		close(ready[0]);
		close(go[1]);
		CHILD_CHECK(unshare(CLONE_NEWNET) == 0, "unshare: %s", strerror(errno));
		CHILD_CHECK(write(ready[1], "r", 1) == 1, "pipe");
		if (read(go[0], &c, 1) != 1)
			_exit(1);
		netns_run("ip link set lo up && ip link set pstest%d mtu %d up && "
			  "ip addr add 10.99.0.%d/24 dev $(ls /proc/sys/net/ipv4/conf | grep pstest)",
			  side, (int)mtu, side + 1);
		netns_meet(side); /* both ends are up */
		body(side);
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) != 1)
		fprintf(stderr, "side %d did not start\n", side);
	close(ready[0]);
	*go_out = go[1];
	return pid;
}

/* Both processes with their interfaces up run body(side). */
static inline void netns_pair_start(struct netns_pair *n, uint32_t mtu, void (*body)(int side))
{
	char cmd[200];

	for (int side = 0; side < 2; side++)
		if (pipe2(netns_bell[side], O_CLOEXEC) != 0)
			abort();
	for (int side = 0; side < 2; side++)
		n->pid[side] = netns_side(side, mtu, &n->go[side], body);
	snprintf(cmd, sizeof(cmd), "ip link add name pstest0 netns %d type veth peer name pstest1 netns %d",
		 (int)n->pid[0], (int)n->pid[1]);
	if (system(cmd) != 0)
		fprintf(stderr, "failed: %s\n", cmd);
	for (int side = 0; side < 2; side++) {
		close(netns_bell[side][0]);
		close(netns_bell[side][1]);
	}
	for (int side = 0; side < 2; side++)
		(void)!write(n->go[side], "g", 1);
}

static inline void netns_pair_join(struct netns_pair *n, int status_out[2])
{
	for (int side = 0; side < 2; side++) {
		status_out[side] = pair_join(n->pid[side]);
		close(n->go[side]);
	}
}

#endif
