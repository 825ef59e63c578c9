/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/bench.h"

#include <errno.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * The namespaces have no names: each lives as long as its process, and the veth
 * pair as long as either, so that not even kill -9 leaves anything behind.
 */
static const struct {
	const char *iface, *mac_text, *address;
	uint32_t ip;
	uint8_t mac[6];
} ends[2] = {
    {"psbench0", "02:70:73:00:00:01", "10.203.0.1/30", 0x0acb0001u, {0x02, 0x70, 0x73, 0, 0, 1}},
    {"psbench1", "02:70:73:00:00:02", "10.203.0.2/30", 0x0acb0002u, {0x02, 0x70, 0x73, 0, 0, 2}},
};

extern char **environ;

static int run(char *const argv[], struct ps_err *err)
{
	char line[256] = "";
	size_t i, at = 0;
	int status = -1, rc;
	pid_t pid;

	for (i = 0; argv[i] != NULL && at < sizeof(line); i++)
		at += (size_t)snprintf(line + at, sizeof(line) - at, "%s%s", i == 0 ? "" : " ", argv[i]);
	rc = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (rc != 0)
		return ps_err_set(err, -rc, "%s: %s; is iproute2 installed? (apt-get install iproute2)", line,
				  strerror(rc));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return ps_err_set(err, -EIO, "%s: failed (its reason is above)", line);
	return 0;
}

int bench_veth_enter(struct ps_err *err)
{
	if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0)
		return ps_err_set(
		    err, -errno,
		    "af_xdp: cannot make a network namespace: %s; run as root (sudo), or take --driver memif",
		    strerror(errno));
	/* /sys/class/net shows the namespace in which sysfs was mounted. */
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("sysfs", "/sys", "sysfs", 0, NULL) != 0)
		return ps_err_set(err, -errno, "af_xdp: cannot mount sysfs in the new namespace: %s",
				  strerror(errno));
	return 0;
}

int bench_veth_join(const pid_t pids[2], struct ps_err *err)
{
	char pid[2][16];
	char *argv[] = {"ip",
			"link",
			"add",
			(char *)(uintptr_t)ends[0].iface,
			"address",
			(char *)(uintptr_t)ends[0].mac_text,
			"netns",
			pid[0],
			"type",
			"veth",
			"peer",
			"name",
			(char *)(uintptr_t)ends[1].iface,
			"address",
			(char *)(uintptr_t)ends[1].mac_text,
			"netns",
			pid[1],
			NULL};

	snprintf(pid[0], sizeof(pid[0]), "%d", (int)pids[0]);
	snprintf(pid[1], sizeof(pid[1]), "%d", (int)pids[1]);
	return run(argv, err);
}

int bench_veth_up(uint32_t side, uint32_t mtu, struct ps_err *err)
{
	char *iface = (char *)(uintptr_t)ends[side].iface;
	char mtu_text[16];
	char *add[] = {"ip", "addr", "add", (char *)(uintptr_t)ends[side].address, "dev", iface, NULL};
	char *up[] = {"ip", "link", "set", "dev", iface, "mtu", mtu_text, "up", NULL};
	int rc;

	snprintf(mtu_text, sizeof(mtu_text), "%u", mtu);
	rc = run(add, err);
	return rc != 0 ? rc : run(up, err);
}

const char *bench_veth_iface(uint32_t side)
{
	return ends[side].iface;
}

uint32_t bench_veth_ip(uint32_t side)
{
	return ends[side].ip;
}

void bench_veth_mac(uint32_t side, uint8_t mac[6])
{
	memcpy(mac, ends[side].mac, 6);
}
