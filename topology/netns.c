/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/netns.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define NETNS_DIR "/run/netns"

static void child_exec(const char *const argv[], int in, int out)
{
	int null = open("/dev/null", O_RDWR);

	dup2(in >= 0 ? in : null, 0);
	dup2(null, 1);
	dup2(out, 2);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	dprintf(2, "%s: %s", argv[0], strerror(errno));
	_exit(127);
}

/* Reads what a child writes until it closes the pipe, and keeps the end of it. */
static void read_tail(int fd, char *buf, size_t cap)
{
	size_t len = 0;
	ssize_t n;

	for (;;) {
		if (len == cap - 1) {
			memmove(buf, buf + cap / 2, len - cap / 2);
			len -= cap / 2;
		}
		n = read(fd, buf + len, cap - 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	while (len > 0 && (buf[len - 1] == '\n' || buf[len - 1] == ' '))
		len--;
	buf[len] = '\0';
}

static void write_input(int fd, const char *input)
{
	size_t len = strlen(input);

	while (len > 0) {
		ssize_t n = write(fd, input, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* the child is gone; its exit status says why */
		input += n;
		len -= (size_t)n;
	}
}

int run_program(const char *const argv[], const char *input, struct ps_err *err)
{
	int in[2] = {-1, -1}, out[2], status = 0;
	char said[400];
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) != 0)
		return ps_err_set(err, -errno, "pipe: %s", strerror(errno));
	if (input != NULL && pipe2(in, O_CLOEXEC) != 0) {
		int rc = ps_err_set(err, -errno, "pipe: %s", strerror(errno));

		close(out[0]);
		close(out[1]);
		return rc;
	}
	pid = fork();
	if (pid == 0)
		child_exec(argv, in[0], out[1]);
	close(out[1]);
	if (input != NULL) {
		/* The inputs are far smaller than a pipe holds: this cannot wait for the child. */
		close(in[0]);
		if (pid > 0)
			write_input(in[1], input);
		close(in[1]);
	}
	if (pid < 0) {
		close(out[0]);
		return ps_err_set(err, -EAGAIN, "fork: %s", strerror(errno));
	}
	read_tail(out[0], said, sizeof(said));
	close(out[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return ps_err_set(err, -ENOENT,
				  "%s; expected the program '%s' (Debian: apt install iproute2)", said,
				  argv[0]);
	return ps_err_set(err, -EIO, "%s %s %s ...: %s", argv[0], argv[1] ? argv[1] : "",
			  argv[1] && argv[2] ? argv[2] : "", said[0] ? said : "failed");
}

bool netns_exists(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), NETNS_DIR "/%s", name);
	return access(path, F_OK) == 0;
}

int netns_add(const char *name, struct ps_err *err)
{
	const char *const add[] = {"ip", "netns", "add", name, NULL};
	const char *const lo[] = {"ip", "-n", name, "link", "set", "lo", "up", NULL};
	int rc;

	if (netns_exists(name))
		return ps_err_set(err, -EEXIST,
				  "found network namespace '%s' already; expected a free name: write netns: "
				  "auto, or remove it with: ip netns del %s",
				  name, name);
	rc = run_program(add, NULL, err);
	if (rc == 0)
		rc = run_program(lo, NULL, err);
	return rc;
}

/*
 * `ip netns add` mounts NETNS_DIR over itself the first time and never takes that back. Where no
 * namespace is left, the mount goes too; it fails harmlessly where there is none or where another
 * program has just mounted a namespace in it.
 */
static void drop_netns_mount(void)
{
	DIR *d = opendir(NETNS_DIR);
	struct dirent *e;
	bool empty = d != NULL;

	while (d != NULL && (e = readdir(d)) != NULL)
		empty = empty && e->d_name[0] == '.';
	if (d != NULL)
		closedir(d);
	if (empty)
		(void)umount2(NETNS_DIR, UMOUNT_NOFOLLOW);
}

int netns_del(const char *name, struct ps_err *err)
{
	const char *const del[] = {"ip", "netns", "del", name, NULL};
	int rc;

	if (!netns_exists(name))
		return 0;
	rc = run_program(del, NULL, err);
	if (rc == 0)
		drop_netns_mount();
	return rc;
}

struct end_text {
	char ip[32], cidr[40], mac[24];
};

static void format_end(const struct topo_link_end *e, struct end_text *out)
{
	const uint32_t ip = e->ip;

	snprintf(out->ip, sizeof(out->ip), "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
	snprintf(out->cidr, sizeof(out->cidr), "%u.%u.%u.%u/%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255,
		 ip & 255, e->prefix_len);
	snprintf(out->mac, sizeof(out->mac), "%02x:%02x:%02x:%02x:%02x:%02x", e->mac[0], e->mac[1], e->mac[2],
		 e->mac[3], e->mac[4], e->mac[5]);
}

/* Segmentation offloads need no switch here: the kernel turns a veth peer's off itself while
 * an XDP program is attached. */
int netns_veth_add(const struct topology *t, const struct topo_link *l, struct ps_err *err)
{
	const char *ns[2];
	struct end_text x[2];
	char mtu[16];
	int rc;

	snprintf(mtu, sizeof(mtu), "%u", l->mtu);
	for (int i = 0; i < 2; i++) {
		ns[i] = t->nodes[t->procs[l->end[i].proc].node].netns;
		format_end(&l->end[i], &x[i]);
	}
	{
		const char *const pair[] = {"ip",
					    "link",
					    "add",
					    l->end[0].iface,
					    "address",
					    x[0].mac,
					    "mtu",
					    mtu,
					    "netns",
					    ns[0],
					    "type",
					    "veth",
					    "peer",
					    "name",
					    l->end[1].iface,
					    "address",
					    x[1].mac,
					    "mtu",
					    mtu,
					    "netns",
					    ns[1],
					    NULL};

		rc = run_program(pair, NULL, err);
	}
	for (int i = 0; rc == 0 && i < 2; i++) {
		const char *const batch[] = {"ip", "-n", ns[i], "-batch", "-", NULL};
		const char *dev = l->end[i].iface;
		char lines[400];

		snprintf(lines, sizeof(lines),
			 "addr add %s dev %s\nlink set dev %s up\n"
			 "neigh replace %s lladdr %s dev %s nud permanent\n",
			 x[i].cidr, dev, dev, x[1 - i].ip, x[1 - i].mac, dev);
		rc = run_program(batch, lines, err);
	}
	return rc;
}

int netns_enter(const char *name, struct ps_err *err)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), NETNS_DIR "/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) {
		int rc = ps_err_set(err, -errno, "entering network namespace %s: %s", name, strerror(errno));

		if (fd >= 0)
			close(fd);
		return rc;
	}
	close(fd);
	/* A /sys of this namespace, seen by this process only, as `ip netns exec` does it. */
	if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "none", MS_SLAVE | MS_REC, NULL) != 0)
		return ps_err_set(err, -errno, "mount namespace: %s", strerror(errno));
	if (umount2("/sys", MNT_DETACH) != 0 && errno != EINVAL)
		return ps_err_set(err, -errno, "umount /sys: %s", strerror(errno));
	if (mount(name, "/sys", "sysfs", 0, NULL) != 0)
		return ps_err_set(err, -errno, "mount /sys: %s", strerror(errno));
	return 0;
}
