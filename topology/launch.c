/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "topology/hugepages.h"
#include "topology/netns.h"

#define READY_TIMEOUT_MS 60000u
#define SLICE_MS         50  /* how often a wait looks for signals and dead processes */
#define SOCKET_SUFFIX    20u /* what processes add to their name: "/", ".sock.fifo" and room */
#define MAX_EAL_ARGS     64
#define READY_FD         3    /* in the processes */
#define RUN_DIR_BYTES    256u /* far more than a socket's path may have */

struct launch {
	struct topology t;
	struct launch_state s;
	char run_dir[RUN_DIR_BYTES];
	char log_dir[PATH_MAX];
	char exe[PATH_MAX];
	char *const *eal_argv;
	int eal_argc;
	uint32_t ready_timeout_ms;
	int ready_fds[TOPO_MAX_PROCS]; /* -1: has said it, or not started */
	uint32_t ready_len[TOPO_MAX_PROCS];
	bool reaped[TOPO_MAX_PROCS];
	int hugepage_lock;
	sigset_t old_mask;
	void (*say)(void *ctx, const char *line);
	void *say_ctx;
};

static void say_stderr(void *ctx, const char *line)
{
	(void)ctx;
	fprintf(stderr, "penstock: %s\n", line);
}

/* ---- signals: nothing interrupts a step, but every step looks ---- */

static void block_signals(sigset_t *old)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGPIPE); /* a child that dies early must not take the launcher along */
	sigprocmask(SIG_BLOCK, &set, old);
}

static void restore_signals(const sigset_t *old)
{
	const struct timespec now = {0};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	if (!sigismember(old, SIGPIPE))
		(void)sigtimedwait(&set, NULL, &now);
	sigprocmask(SIG_SETMASK, old, NULL);
}

static int check_signals(struct ps_err *err)
{
	sigset_t pending;

	sigpending(&pending);
	if (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) || sigismember(&pending, SIGHUP))
		return ps_err_set(err, -EINTR, "interrupted while starting");
	return 0;
}

/* ---- checks before anything is taken ---- */

static int check_local(const struct topology *t, struct ps_err *err)
{
	for (uint32_t i = 0; i < t->n_procs; i++) {
		const struct topo_node *n = &t->nodes[t->procs[i].node];

		if (strcmp(n->host, "local") != 0)
			return ps_err_set(
			    err, -ENOTSUP,
			    "found node '%s' on host '%s'; expected host: local, as processes on "
			    "other hosts are started there by hand (penstock stage -- --topology "
			    "FILE --name %s)",
			    n->name, n->host, t->procs[i].name);
		if (n->netns[0] != '\0' && geteuid() != 0)
			return ps_err_set(
			    err, -EPERM,
			    "found node '%s' in a network namespace; expected to be root: use sudo, "
			    "or choose --driver memif, which needs neither",
			    n->name);
	}
	return 0;
}

static int make_base(const char *base, struct ps_err *err)
{
	struct stat st;

	if (mkdir(base, 0700) != 0 && errno != EEXIST)
		return ps_err_set(err, -errno,
				  "%s: %s; expected a folder for run directories (set PENSTOCK_RUN_DIR to an "
				  "absolute path to choose another)",
				  base, strerror(errno));
	if (lstat(base, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
	    (st.st_mode & 022 & ~(mode_t)((st.st_mode & S_ISVTX) ? 022 : 0)) != 0)
		return ps_err_set(
		    err, -EPERM,
		    "%s: found something that others can change; expected a folder of yours, mode "
		    "0700",
		    base);
	return 0;
}

/* The processes make Unix sockets in the run directory, whose paths the kernel bounds. */
static int check_path(const struct launch *l, struct ps_err *err)
{
	size_t longest = 0, room = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

	for (uint32_t i = 0; i < l->t.n_procs; i++)
		if (strlen(l->t.procs[i].name) > longest)
			longest = strlen(l->t.procs[i].name);
	if (strlen(l->run_dir) + longest + SOCKET_SUFFIX > room)
		return ps_err_set(
		    err, -ENAMETOOLONG,
		    "found run directory %.200s (%zu characters); expected at most %zu, so that "
		    "sockets in it fit the kernel's %zu: set PENSTOCK_RUN_DIR to a shorter path",
		    l->run_dir, strlen(l->run_dir), room - longest - SOCKET_SUFFIX, room);
	return 0;
}

/* ---- the run directory ---- */

/* Made under another name with its state inside, then renamed: no run directory is ever
 * without its state, and of two launchers only one can have a name. */
static int make_run_dir(struct launch *l, const char *base, struct ps_err *err)
{
	char fresh[RUN_DIR_BYTES];
	int rc;

	if (snprintf(fresh, sizeof(fresh), "%s/.new-%d", base, (int)getpid()) >= (int)sizeof(fresh))
		return -ENAMETOOLONG; /* check_path bounds it far below */
	if (mkdir(fresh, 0700) != 0)
		return ps_err_set(err, -errno, "%s: %s", fresh, strerror(errno));
	rc = launch_state_write(fresh, &l->s, err);
	if (rc == 0 && rename(fresh, l->run_dir) != 0) {
		rc = errno == ENOTEMPTY || errno == EEXIST ? -EEXIST : -errno;
		(void)ps_err_set(err, rc,
				 rc == -EEXIST
				     ? "found '%s' up already (%s); expected it to be down: penstock "
				       "down %s"
				     : "making '%s' (%s) failed; free the name '%s'",
				 l->s.name, l->run_dir, l->s.name);
	}
	if (rc != 0) {
		char path[RUN_DIR_BYTES + 16];

		snprintf(path, sizeof(path), "%s/state.yaml", fresh);
		unlink(path);
		rmdir(fresh);
	}
	return rc;
}

static int init_launch(struct launch *l, const struct topology *t, const struct launch_opts *o,
		       const char *base, struct ps_err *err)
{
	char suffix[16] = "";

	memcpy(&l->t, t, sizeof(*t));
	memcpy(l->s.name, t->name, sizeof(l->s.name));
	l->s.launcher_pid = (uint32_t)getpid();
	l->s.launcher_start_ticks = launch_start_ticks(getpid());
	l->s.detached = o->detach;
	l->hugepage_lock = -1;
	l->eal_argv = o->eal_argv;
	l->eal_argc = o->eal_argc;
	l->ready_timeout_ms = o->ready_timeout_ms != 0 ? o->ready_timeout_ms : READY_TIMEOUT_MS;
	l->say = o->say != NULL ? o->say : say_stderr;
	l->say_ctx = o->say_ctx;
	if (o->eal_argc < 0 || o->eal_argc > MAX_EAL_ARGS)
		return ps_err_set(err, -EINVAL, "found %d EAL arguments; expected at most %d", o->eal_argc,
				  MAX_EAL_ARGS);
	if (!o->detach)
		snprintf(suffix, sizeof(suffix), "-%d", (int)getpid());
	if (snprintf(l->run_dir, sizeof(l->run_dir), "%s/%s%s", base, t->name, suffix) >=
	    (int)sizeof(l->run_dir))
		return ps_err_set(err, -ENAMETOOLONG,
				  "%.200s...: path too long; set PENSTOCK_RUN_DIR to a shorter one", base);
	snprintf(l->log_dir, sizeof(l->log_dir), "%s", o->log_dir != NULL ? o->log_dir : l->run_dir);
	if (o->penstock_exe != NULL) {
		snprintf(l->exe, sizeof(l->exe), "%s", o->penstock_exe);
	} else if (readlink("/proc/self/exe", l->exe, sizeof(l->exe) - 1) <= 0) {
		return ps_err_set(err, -errno, "/proc/self/exe: %s", strerror(errno));
	}
	if (access(l->exe, X_OK) != 0)
		return ps_err_set(err, -errno, "%s: %s; expected the penstock program", l->exe,
				  strerror(errno));
	return check_path(l, err);
}

/* ---- namespaces and hugepages ---- */

static bool node_used(const struct topology *t, uint32_t node)
{
	for (uint32_t i = 0; i < t->n_procs; i++)
		if (t->procs[i].node == node)
			return true;
	return false;
}

/* A name is written into the state only when the namespace is known to be ours to remove. */
static int make_namespaces(struct launch *l, struct ps_err *err)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < l->t.n_nodes; i++) {
		struct topo_node *n = &l->t.nodes[i];
		struct launch_state_netns *kept = &l->s.netns[l->s.n_netns];

		if (n->netns[0] == '\0' || !node_used(&l->t, i))
			continue;
		if (strcmp(n->netns, "auto") == 0) {
			memset(n->netns, 0, sizeof(n->netns));
			snprintf(n->netns, sizeof(n->netns), "%.12s-%d-%u", l->t.name, (int)getpid(), i);
		}
		if (netns_exists(n->netns))
			return netns_add(n->netns, err); /* says so */
		memcpy(kept->name, n->netns, sizeof(kept->name));
		l->s.n_netns++;
		rc = launch_state_write(l->run_dir, &l->s, err);
		if (rc == 0)
			rc = netns_add(n->netns, err);
		if (rc == 0)
			rc = check_signals(err);
	}
	for (uint32_t i = 0; rc == 0 && i < l->t.n_links; i++) {
		if (l->t.links[i].veth)
			rc = netns_veth_add(&l->t, &l->t.links[i], err);
		if (rc == 0)
			rc = check_signals(err);
	}
	return rc;
}

static bool all_memif(const struct topology *t)
{
	for (uint32_t i = 0; i < t->n_links; i++)
		if (t->links[i].driver != TOPO_DRIVER_MEMIF)
			return false;
	return true;
}

/* memif runs without hugepages, only slower; what needs them fails instead. */
static int take_hugepages(struct launch *l, struct ps_err *err)
{
	struct ps_err why = {""};
	char line[sizeof(why.msg) + 64];
	uint32_t need = 0;
	int rc;

	for (uint32_t i = 0; i < l->t.n_procs; i++)
		need += l->t.nodes[l->t.procs[i].node].hugepages_mb / 2;
	rc = hugepages_reserve(need, &l->hugepage_lock, &l->s.hugepages_added, &why);
	if (rc == 0)
		return l->s.hugepages_added ? launch_state_write(l->run_dir, &l->s, err) : 0;
	if (rc == -EINTR || rc == -EBUSY || !all_memif(&l->t))
		return ps_err_set(err, rc, "%s", why.msg);
	snprintf(line, sizeof(line), "running without hugepages (slower): %s", why.msg);
	l->say(l->say_ctx, line);
	for (uint32_t i = 0; i < l->t.n_nodes; i++)
		l->t.nodes[i].hugepages_mb = 0;
	return 0;
}

/* ---- processes ---- */

static void log_path(const struct launch *l, const char *name, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s/%s.log", l->log_dir, name);
}

/* In the child: from here on only _exit and exec. */
static void child_run(const struct launch *l, const struct topo_proc *p, int go_fd, int ready_fd, int log_fd)
{
	const char *netns = l->t.nodes[p->node].netns;
	char topology[PATH_MAX + 16], ready[16], byte;
	const char *argv[MAX_EAL_ARGS + 16];
	struct ps_err err;
	int n = 0, null = open("/dev/null", O_RDONLY);

	/* Until the launcher has written the pid down. If it dies first there is nothing to undo. */
	if (read(go_fd, &byte, 1) != 1)
		_exit(1);
	if (!l->s.detached) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != (pid_t)l->s.launcher_pid)
			_exit(1);
	}
	setsid(); /* a terminal's Ctrl-C is the launcher's business */
	dup2(null, 0);
	dup2(log_fd, 1);
	dup2(log_fd, 2);
	if (netns[0] != '\0' && netns_enter(netns, &err) != 0) {
		dprintf(2, "penstock: %s\n", err.msg);
		_exit(126);
	}
	/* One digit, since a POSIX shell that wraps the program knows no others. */
	if (ready_fd != READY_FD)
		dup2(ready_fd, READY_FD);
	fcntl(READY_FD, F_SETFD, 0);
	close_range(READY_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC);
	snprintf(topology, sizeof(topology), "%s/topology.yaml", l->run_dir);
	snprintf(ready, sizeof(ready), "%d", READY_FD);
	argv[n++] = l->exe;
	argv[n++] = p->is_gateway ? "gateway" : "stage";
	for (int i = 0; i < l->eal_argc; i++)
		argv[n++] = l->eal_argv[i];
	argv[n++] = "--";
	argv[n++] = "--run-dir";
	argv[n++] = l->run_dir;
	argv[n++] = "--topology";
	argv[n++] = topology;
	argv[n++] = "--name";
	argv[n++] = p->name;
	argv[n++] = "--ready-fd";
	argv[n++] = ready;
	argv[n] = NULL;
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &l->old_mask, NULL);
	execv(l->exe, (char *const *)(uintptr_t)argv);
	dprintf(2, "penstock: %s: %s\n", l->exe, strerror(errno));
	_exit(127);
}

static int start_process(struct launch *l, uint32_t i, struct ps_err *err)
{
	struct launch_state_proc *kept = &l->s.procs[i];
	const struct topo_proc *p = &l->t.procs[i];
	int go[2] = {-1, -1}, ready[2] = {-1, -1}, log = -1, rc = 0;
	char path[PATH_MAX + 64];
	pid_t pid;

	log_path(l, p->name, path, sizeof(path));
	log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (log < 0 || pipe2(go, O_CLOEXEC) != 0 || pipe2(ready, O_CLOEXEC) != 0) {
		rc = ps_err_set(err, -errno, "%s: %s", path, strerror(errno));
		goto out_fds;
	}
	pid = fork();
	if (pid == 0) {
		close(go[1]);
		child_run(l, p, go[0], ready[1], log);
	}
	if (pid < 0) {
		rc = ps_err_set(err, -errno, "fork: %s", strerror(errno));
		goto out_fds;
	}
	memcpy(kept->name, p->name, sizeof(kept->name));
	kept->pid = (uint32_t)pid;
	kept->start_ticks = launch_start_ticks(pid);
	l->s.n_procs = i + 1;
	l->ready_fds[i] = ready[0];
	ready[0] = -1;
	rc = launch_state_write(l->run_dir, &l->s, err);
	if (rc == 0 && write(go[1], "g", 1) != 1)
		rc = ps_err_set(err, -errno, "starting %s: %s", p->name, strerror(errno));
out_fds:
	for (int k = 0; k < 2; k++) {
		if (go[k] >= 0)
			close(go[k]);
		if (ready[k] >= 0)
			close(ready[k]);
	}
	if (log >= 0)
		close(log);
	return rc;
}

/* ---- waiting for processes ---- */

/* The last lines of a log, as one line. */
static void log_tail(const struct launch *l, const char *name, char *buf, size_t cap)
{
	char path[PATH_MAX + 64];
	int fd;
	ssize_t n = 0;
	off_t size;

	log_path(l, name, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		size = lseek(fd, 0, SEEK_END);
		if (size > (off_t)(cap - 1))
			lseek(fd, size - (off_t)(cap - 1), SEEK_SET);
		else
			lseek(fd, 0, SEEK_SET);
		n = read(fd, buf, cap - 1);
		close(fd);
	}
	n = n < 0 ? 0 : n;
	while (n > 0 && buf[n - 1] == '\n')
		n--;
	buf[n] = '\0';
	for (char *c = buf; *c != '\0'; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = *c == '\n' ? '|' : ' ';
}

static void describe_exit(const struct launch *l, uint32_t i, int status, struct launch_exit *out)
{
	char how[64], tail[640];

	if (WIFSIGNALED(status))
		snprintf(how, sizeof(how), "was killed by signal %d", WTERMSIG(status));
	else
		snprintf(how, sizeof(how), "ended with status %d", WEXITSTATUS(status));
	log_tail(l, l->s.procs[i].name, tail, sizeof(tail));
	memset(out, 0, sizeof(*out));
	memcpy(out->name, l->s.procs[i].name, sizeof(out->name));
	out->status = status;
	snprintf(out->text, sizeof(out->text), "%s %s%s%s", out->name, how,
		 tail[0] ? "; its last lines: " : " and left no output", tail);
}

/* Only pids that we started, one by one: the caller may have children of its own. */
static bool reap(struct launch *l, struct launch_exit *out)
{
	for (uint32_t i = 0; i < l->s.n_procs; i++) {
		int status = 0;

		if (l->reaped[i] || waitpid((pid_t)l->s.procs[i].pid, &status, WNOHANG) <= 0)
			continue;
		l->reaped[i] = true;
		describe_exit(l, i, status, out);
		return true;
	}
	return false;
}

/* Takes what process i has written to its ready pipe: "READY" ends the wait for it. */
static int take_ready(struct launch *l, uint32_t i, struct ps_err *err)
{
	static const char word[] = "READY\n";
	char byte;
	ssize_t n;

	do
		n = read(l->ready_fds[i], &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1 && byte == word[l->ready_len[i]]) {
		if (++l->ready_len[i] < sizeof(word) - 1)
			return 0;
		close(l->ready_fds[i]);
		l->ready_fds[i] = -1;
		return 0;
	}
	if (n == 1)
		return ps_err_set(err, -EPROTO, "%s wrote a wrong byte to its ready pipe; expected READY",
				  l->s.procs[i].name);
	close(l->ready_fds[i]); /* closed without READY: it ends, or it never will be ready */
	l->ready_fds[i] = -1;
	return 1;
}

static int fail_not_ready(struct launch *l, int rc, uint32_t i, const char *what, struct ps_err *err)
{
	char tail[640];

	log_tail(l, l->s.procs[i].name, tail, sizeof(tail));
	return ps_err_set(err, rc, "%s %s%s%s", l->s.procs[i].name, what,
			  tail[0] ? "; its last lines: " : " and left no output", tail);
}

static int poll_ready(struct launch *l, uint32_t *waiting, struct ps_err *err)
{
	struct pollfd p[TOPO_MAX_PROCS];
	uint32_t who[TOPO_MAX_PROCS], n = 0;

	for (uint32_t i = 0; i < l->s.n_procs; i++) {
		if (l->ready_fds[i] < 0)
			continue;
		who[n] = i;
		p[n++] = (struct pollfd){.fd = l->ready_fds[i], .events = POLLIN};
	}
	*waiting = n;
	if (n == 0 || poll(p, n, SLICE_MS) <= 0)
		return 0;
	for (uint32_t k = 0; k < n; k++) {
		struct launch_exit gone;
		int rc = p[k].revents == 0 ? 0 : take_ready(l, who[k], err);

		if (rc < 0)
			return rc;
		if (rc == 0)
			continue;
		for (int tries = 0; tries < 20; tries++) { /* its exit follows within moments */
			if (reap(l, &gone))
				return ps_err_set(err, -ECHILD, "%s", gone.text);
			poll(NULL, 0, SLICE_MS);
		}
		return fail_not_ready(l, -EPROTO, who[k], "closed its ready pipe without READY", err);
	}
	return 0;
}

static int wait_ready(struct launch *l, struct ps_err *err)
{
	uint64_t until = ps_now_ns() + l->ready_timeout_ms * 1000000ull;
	struct launch_exit gone;
	uint32_t waiting = 1;
	int rc = 0;

	while (rc == 0 && waiting > 0) {
		rc = check_signals(err);
		if (rc == 0)
			rc = poll_ready(l, &waiting, err);
		if (rc == 0 && reap(l, &gone))
			return ps_err_set(err, -ECHILD, "%s", gone.text);
		if (rc != 0 || ps_now_ns() < until)
			continue;
		for (uint32_t i = 0; i < l->s.n_procs; i++) {
			char what[64];

			if (l->ready_fds[i] < 0)
				continue;
			snprintf(what, sizeof(what), "was not ready after %u ms", l->ready_timeout_ms);
			return fail_not_ready(l, -ETIMEDOUT, i, what, err);
		}
	}
	return rc;
}

/* ---- the whole ---- */

static int start_all(struct launch *l, struct ps_err *err)
{
	char path[PATH_MAX + 16];
	int rc = check_signals(err);

	if (rc == 0)
		rc = make_namespaces(l, err);
	if (rc == 0)
		rc = take_hugepages(l, err);
	if (rc == 0) {
		snprintf(path, sizeof(path), "%s/topology.yaml", l->run_dir);
		rc = topo_write(&l->t, path, err);
	}
	for (uint32_t i = 0; rc == 0 && i < l->t.n_procs; i++)
		rc = start_process(l, i, err);
	if (rc == 0)
		rc = wait_ready(l, err);
	hugepages_unlock(l->hugepage_lock); /* the processes have theirs now */
	l->hugepage_lock = -1;
	if (rc == 0) {
		l->s.ready = true;
		rc = launch_state_write(l->run_dir, &l->s, err);
	}
	return rc;
}

int launch_up(const struct topology *t, const struct launch_opts *o, struct launch **launch_out,
	      struct ps_err *err)
{
	struct launch *l = calloc(1, sizeof(*l));
	struct ps_err undo;
	char base[PATH_MAX];
	int rc;

	*launch_out = NULL;
	if (l == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory");
	memset(l->ready_fds, 0xff, sizeof(l->ready_fds)); /* -1 each */
	if (o->run_base != NULL)
		snprintf(base, sizeof(base), "%s", o->run_base);
	else
		launch_run_base(base, sizeof(base));
	rc = check_local(t, err);
	if (rc == 0)
		rc = make_base(base, err);
	if (rc == 0)
		rc = init_launch(l, t, o, base, err);
	if (rc != 0)
		goto out_free;
	block_signals(&l->old_mask);
	launch_clean_stale(base);
	rc = make_run_dir(l, base, err);
	if (rc == 0) {
		rc = start_all(l, err);
		if (rc != 0 && launch_down_dir(l->run_dir, &undo) != 0)
			l->say(l->say_ctx, undo.msg);
	}
	restore_signals(&l->old_mask);
	if (rc == 0) {
		*launch_out = l;
		return 0;
	}
out_free:
	launch_release(l);
	return rc;
}

int launch_poll(struct launch *l, uint32_t timeout_ms, struct launch_exit *exit_out)
{
	uint64_t until = ps_now_ns() + timeout_ms * 1000000ull;

	for (;;) {
		uint64_t now = ps_now_ns();

		if (reap(l, exit_out))
			return 1;
		if (now >= until ||
		    poll(NULL, 0,
			 until - now < SLICE_MS * 1000000ull ? (int)((until - now) / 1000000u) + 1
							     : SLICE_MS) < 0)
			return 0; /* a signal ends the wait: its handler's flag is the caller's to see */
	}
}

const char *launch_run_dir(const struct launch *l)
{
	return l->run_dir;
}

const struct topology *launch_topology(const struct launch *l)
{
	return &l->t;
}

int launch_down(struct launch *l, struct ps_err *err)
{
	int rc = launch_down_dir(l->run_dir, err);

	launch_release(l);
	return rc == -ENOENT ? 0 : rc; /* someone else took it down */
}

void launch_release(struct launch *l)
{
	for (uint32_t i = 0; i < TOPO_MAX_PROCS; i++)
		if (l->ready_fds[i] >= 0)
			close(l->ready_fds[i]);
	free(l);
}
