/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/launch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "topology/hugepages.h"
#include "topology/netns.h"

#define KILL_WAIT_MS 2000u
#define PREFIX_BYTES 64u /* what the nic room keeps of an EAL file prefix */

uint32_t launch_term_wait_ms = 5000;

void launch_run_base(char *buf, size_t cap)
{
	const char *own = getenv("PENSTOCK_RUN_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");

	if (own != NULL && own[0] == '/')
		snprintf(buf, cap, "%s", own);
	else if (geteuid() == 0)
		snprintf(buf, cap, "/run/penstock");
	else if (xdg != NULL && xdg[0] == '/')
		snprintf(buf, cap, "%s/penstock", xdg);
	else
		snprintf(buf, cap, "/tmp/penstock-%u", (unsigned)geteuid());
}

void launch_eal_prefix(const char *run_dir, const char *proc, char *buf, size_t cap)
{
	const char *slash = strrchr(run_dir, '/'), *dir = slash != NULL ? slash + 1 : run_dir;
	uint64_t h = 0xcbf29ce484222325ull;

	if (snprintf(buf, cap, "penstock-%s-%s", dir, proc) < (int)(cap < PREFIX_BYTES ? cap : PREFIX_BYTES))
		return;
	/* Too long for EAL: a hash (FNV-1a) is as much the deployment's own. */
	for (const char *c = dir; *c != '\0'; c++)
		h = (h ^ (uint8_t)*c) * 0x100000001b3ull;
	for (const char *c = proc; *c != '\0'; c++)
		h = (h ^ (uint8_t)*c) * 0x100000001b3ull;
	snprintf(buf, cap, "penstock-%016llx", (unsigned long long)h);
}

/* ---- removing files ---- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	(void)remove(path);
	return 0;
}

static void remove_tree(const char *path)
{
	(void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void remove_prefixed(const char *dir, const char *prefix)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	if (d == NULL)
		return;
	while ((e = readdir(d)) != NULL)
		if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
			(void)unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
}

/* Every mounted hugetlbfs may hold EAL's <prefix>map_<n> files of a process that was killed. */
static void remove_hugepage_files(const char *eal_prefix)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], dir[512], type[64], map[160];

	snprintf(map, sizeof(map), "%smap_", eal_prefix);
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "%*s %511s %63s", dir, type) == 2 && strcmp(type, "hugetlbfs") == 0)
			remove_prefixed(dir, map);
	if (f != NULL)
		fclose(f);
}

static void remove_eal_files(const char *run_dir, const char *proc)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char prefix[128], path[PATH_MAX];

	launch_eal_prefix(run_dir, proc, prefix, sizeof(prefix));
	remove_hugepage_files(prefix);
	snprintf(path, sizeof(path), "%s/dpdk/%s", geteuid() == 0 ? "/var/run" : (xdg != NULL ? xdg : "/tmp"),
		 prefix);
	remove_tree(path);
}

/* ---- ending processes ---- */

struct ending {
	int fds[TOPO_MAX_PROCS]; /* pidfds, -1: over */
	uint32_t n;
};

/* Opens each process that is still the one written down. */
static void open_processes(const struct launch_state *s, struct ending *e)
{
	e->n = s->n_procs;
	for (uint32_t i = 0; i < s->n_procs; i++) {
		pid_t pid = (pid_t)s->procs[i].pid;

		e->fds[i] = pidfd_open(pid, 0);
		if (e->fds[i] < 0)
			continue;
		if (launch_start_ticks(pid) != s->procs[i].start_ticks) {
			close(e->fds[i]);
			e->fds[i] = -1;
		}
	}
}

static void signal_all(struct ending *e, int sig)
{
	for (uint32_t i = 0; i < e->n; i++)
		if (e->fds[i] >= 0)
			(void)pidfd_send_signal(e->fds[i], sig, NULL, 0);
}

static bool wait_all(struct ending *e, uint32_t timeout_ms)
{
	uint64_t until = ps_now_ns() + timeout_ms * 1000000ull;

	for (uint32_t i = 0; i < e->n; i++) {
		struct pollfd p = {.fd = e->fds[i], .events = POLLIN};

		while (e->fds[i] >= 0) {
			uint64_t now = ps_now_ns();
			int rc = poll(&p, 1, now >= until ? 0 : (int)((until - now) / 1000000u) + 1);

			if (rc > 0) {
				close(e->fds[i]);
				e->fds[i] = -1;
			} else if (rc == 0 && now >= until) {
				return false;
			}
		}
	}
	return true;
}

/* Reaps it, if it is our child. A process that crashed over its own end is an error, too, though
 * nothing of it is left. */
static int reap(const struct launch_state_proc *proc, bool was_alive, struct ps_err *err)
{
	int status = 0;

	if (waitpid((pid_t)proc->pid, &status, WNOHANG) <= 0 || !was_alive || !WIFSIGNALED(status))
		return 0;
	if (WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGKILL)
		return 0;
	return ps_err_set(err, -ECHILD, "%s crashed with signal %d (%s) while it was ending", proc->name,
			  WTERMSIG(status), strsignal(WTERMSIG(status)));
}

static int end_processes(const struct launch_state *s, struct ps_err *err)
{
	bool alive[TOPO_MAX_PROCS];
	struct ending e;
	bool ended;
	int rc = 0;

	open_processes(s, &e);
	for (uint32_t i = 0; i < s->n_procs; i++)
		alive[i] = e.fds[i] >= 0;
	signal_all(&e, SIGCONT);
	signal_all(&e, SIGTERM);
	ended = wait_all(&e, launch_term_wait_ms);
	if (!ended) {
		signal_all(&e, SIGKILL);
		ended = wait_all(&e, KILL_WAIT_MS);
	}
	for (uint32_t i = 0; i < s->n_procs; i++) {
		if (e.fds[i] >= 0)
			close(e.fds[i]);
		if (rc == 0)
			rc = reap(&s->procs[i], alive[i], err);
		else
			(void)reap(&s->procs[i], alive[i], NULL);
	}
	if (!ended)
		rc = ps_err_set(err, -EBUSY, "found a process that survives SIGKILL; expected all to end");
	return rc;
}

/* ---- a whole deployment ---- */

static void keep_first(int rc, const struct ps_err *e, int *first, struct ps_err *err)
{
	if (rc == 0 || *first != 0)
		return;
	*first = rc;
	if (err != NULL)
		*err = *e;
}

static int take_down(const char *run_dir, struct launch_state *s, struct ps_err *err)
{
	uint32_t pages = s->hugepages_added;
	struct ps_err e = {""};
	int first = 0;

	keep_first(end_processes(s, &e), &e, &first, err);
	for (uint32_t i = 0; i < s->n_netns; i++)
		keep_first(netns_del(s->netns[i].name, &e), &e, &first, err);
	for (uint32_t i = 0; i < s->n_procs; i++)
		remove_eal_files(run_dir, s->procs[i].name);
	if (pages > 0) {
		/* Written down first: pages kept by a crash here are better than pages taken twice. */
		s->hugepages_added = 0;
		keep_first(launch_state_write(run_dir, s, &e), &e, &first, err);
		keep_first(hugepages_give_back(pages, &e), &e, &first, err);
	}
	remove_tree(run_dir);
	return first;
}

int launch_down_dir(const char *run_dir, struct ps_err *err)
{
	struct launch_state *s = malloc(sizeof(*s));
	sigset_t block, old;
	int rc, fd = -1;

	if (s == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory");
	sigemptyset(&block);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGHUP);
	sigprocmask(SIG_BLOCK, &block, &old);
	fd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	/* One taker-down at a time; whoever comes second finds no state. */
	if (fd < 0 || flock(fd, LOCK_EX) != 0)
		rc = ps_err_set(err, -errno, "%s: %s", run_dir, strerror(errno));
	else
		rc = launch_state_read(run_dir, s, err);
	if (rc == 0)
		rc = take_down(run_dir, s, err);
	if (fd >= 0)
		close(fd);
	free(s);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return rc;
}

/* ---- finding deployments ---- */

static bool is_stale(const struct launch_state *s)
{
	if (launch_start_ticks((pid_t)s->launcher_pid) == s->launcher_start_ticks)
		return false;
	return !(s->detached && s->ready);
}

static const char *base_or_own(const char *run_base, char *buf, size_t cap)
{
	if (run_base != NULL)
		return run_base;
	launch_run_base(buf, cap);
	return buf;
}

uint32_t launch_clean_stale(const char *run_base)
{
	struct launch_state *s = malloc(sizeof(*s));
	char dir[PATH_MAX + 300], own[PATH_MAX];
	struct dirent *e;
	uint32_t n = 0;
	DIR *d;

	run_base = base_or_own(run_base, own, sizeof(own));
	d = opendir(run_base);

	while (s != NULL && d != NULL && (e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(dir, sizeof(dir), "%s/%s", run_base, e->d_name);
		if (launch_state_read(dir, s, NULL) != 0 || !is_stale(s))
			continue;
		if (launch_down_dir(dir, NULL) == 0)
			n++;
	}
	if (d != NULL)
		closedir(d);
	free(s);
	return n;
}

int launch_find(const char *run_base, const char *name, char *dir_out, size_t cap, struct ps_err *err)
{
	struct launch_state *s = malloc(sizeof(*s));
	char dir[PATH_MAX + 300], own[PATH_MAX], up[600] = "";
	struct dirent *e;
	size_t o = 0;
	int rc = -ENOENT;
	DIR *d;

	run_base = base_or_own(run_base, own, sizeof(own));
	d = opendir(run_base);

	while (s != NULL && d != NULL && rc != 0 && (e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(dir, sizeof(dir), "%s/%s", run_base, e->d_name);
		if (launch_state_read(dir, s, NULL) != 0)
			continue;
		if (strcmp(e->d_name, name) == 0) {
			snprintf(dir_out, cap, "%s", dir);
			rc = 0;
		}
		if (o < sizeof(up) - 80)
			o += (size_t)snprintf(up + o, sizeof(up) - o, "%s%.64s", o ? ", " : "", e->d_name);
	}
	if (d != NULL)
		closedir(d);
	free(s);
	if (rc != 0)
		return ps_err_set(err, rc, "found no deployment '%.64s' in %s; expected one that is up: %s",
				  name, run_base, o ? up : "none is");
	return 0;
}
