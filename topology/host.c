/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "topology/netns.h"
#include "topology/yread.h"

#define HUGEPAGES   "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define HUGE_MOUNT  "/dev/hugepages"
#define BPF_JIT     "/proc/sys/net/core/bpf_jit_enable"
#define KERNEL_MIN  "5.11" /* close_range with CLOSE_RANGE_CLOEXEC; pidfd_open and AF_XDP are older */
#define MEMLOCK_MIN (64u << 20)

#ifndef AF_XDP
#define AF_XDP 44
#endif

/* How things were before host_apply. */
struct host_state {
	uint32_t hugepages_added;
	bool mounted, made_dir;
	bool jit_set;
	uint32_t jit_before;
};

struct host_step {
	const char *name;
	void (*check)(const struct host_ctx *c, struct host_result *r);
	/* Both NULL: nothing that a program should change. */
	int (*apply)(const struct host_ctx *c, struct host_state *s, struct ps_err *err);
	int (*undo)(const struct host_ctx *c, struct host_state *s, struct ps_err *err);
};

/* ---- files under the root, and commands ---- */

static void under_root(const struct host_ctx *c, const char *path, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s%s", c->root != NULL ? c->root : "", path);
}

static int read_text_file(const struct host_ctx *c, const char *path, char *buf, size_t cap)
{
	char full[PATH_MAX];
	ssize_t n;
	int fd;

	under_root(c, path, full, sizeof(full));
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, cap - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}

static int read_number(const struct host_ctx *c, const char *path, uint32_t *out)
{
	char text[64];
	int rc = read_text_file(c, path, text, sizeof(text));

	if (rc == 0)
		*out = (uint32_t)strtoul(text, NULL, 10);
	return rc;
}

static int write_number(const struct host_ctx *c, const char *path, uint32_t value, struct ps_err *err)
{
	char full[PATH_MAX];
	int fd, rc = 0;

	fprintf(c->out, "+ echo %u > %s\n", value, path);
	under_root(c, path, full, sizeof(full));
	fd = open(full, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return ps_err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (dprintf(fd, "%u\n", value) < 0)
		rc = ps_err_set(err, -errno, "%s: %s", path, strerror(errno));
	close(fd);
	return rc;
}

static int run(const struct host_ctx *c, const char *const argv[], struct ps_err *err)
{
	fputc('+', c->out);
	for (int i = 0; argv[i] != NULL; i++)
		fprintf(c->out, " %s", argv[i]);
	fputc('\n', c->out);
	fflush(c->out);
	return c->run != NULL ? c->run(argv, err) : run_program(argv, NULL, err);
}

/* Missing for AF_XDP, no more than a hint for memif, which does without. */
static void lacking(const struct host_ctx *c, struct host_result *r)
{
	r->verdict = c->driver == TOPO_DRIVER_AF_XDP ? HOST_MISSING : HOST_HINT;
}

#define FOUND(r, ...) snprintf((r)->found, sizeof((r)->found), __VA_ARGS__)
#define FIX(r, ...)   snprintf((r)->fix, sizeof((r)->fix), __VA_ARGS__)

/* ---- kernel ---- */

static void check_kernel(const struct host_ctx *c, struct host_result *r)
{
	unsigned major = 0, minor = 0;
	struct utsname u;

	(void)c;
	if (uname(&u) != 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2) {
		FOUND(r, "kernel version unknown");
		r->verdict = HOST_HINT;
		return;
	}
	FOUND(r, "Linux %.60s", u.release);
	if (major > 5 || (major == 5 && minor >= 11))
		return;
	r->verdict = HOST_MISSING;
	FIX(r, "expected Linux " KERNEL_MIN " or later (Debian 12 has 6.1)");
}

/* ---- processors ---- */

static void check_cpus(const struct host_ctx *c, struct host_result *r)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	char isolated[80] = "";

	(void)read_text_file(c, "/sys/devices/system/cpu/isolated", isolated, sizeof(isolated));
	FOUND(r, "%ld processors, isolated: %s", n, isolated[0] ? isolated : "none");
	if (n >= 4)
		return;
	r->verdict = HOST_HINT;
	FIX(r, "a gateway and three stages share %ld processors: keep idle: adaptive (spin wants one each)",
	    n);
}

/* ---- hugepages ---- */

static uint32_t pages_wanted(const struct host_ctx *c)
{
	return (c->hugepages_mb + 1) / 2;
}

static int free_pages(const struct host_ctx *c, uint32_t *total, uint32_t *free_out)
{
	uint32_t reserved = 0;
	int rc = read_number(c, HUGEPAGES "nr_hugepages", total);

	if (rc == 0)
		rc = read_number(c, HUGEPAGES "free_hugepages", free_out);
	if (rc == 0)
		rc = read_number(c, HUGEPAGES "resv_hugepages", &reserved);
	*free_out -= reserved < *free_out ? reserved : *free_out;
	return rc;
}

static void check_hugepages(const struct host_ctx *c, struct host_result *r)
{
	uint32_t total = 0, n_free = 0, want = pages_wanted(c);

	if (free_pages(c, &total, &n_free) != 0) {
		FOUND(r, "no 2 MB hugepages in this kernel");
		FIX(r, "expected CONFIG_HUGETLBFS");
		lacking(c, r);
		return;
	}
	FOUND(r, "%u of %u hugepages of 2 MB free, %u wanted", n_free, total, want);
	if (n_free >= want)
		return;
	lacking(c, r);
	FIX(r, "as root: echo %u > " HUGEPAGES "nr_hugepages", total + want - n_free);
}

static int apply_hugepages(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	uint32_t total = 0, n_free = 0, now = 0, now_free = 0, want = pages_wanted(c);
	int rc = free_pages(c, &total, &n_free);

	if (rc != 0)
		return ps_err_set(err, rc, HUGEPAGES ": %s; expected a kernel with CONFIG_HUGETLBFS",
				  strerror(-rc));
	if (n_free >= want)
		return 0;
	rc = write_number(c, HUGEPAGES "nr_hugepages", total + want - n_free, err);
	if (rc != 0)
		return rc;
	rc = free_pages(c, &now, &now_free);
	if (rc != 0)
		return ps_err_set(err, rc, HUGEPAGES ": %s", strerror(-rc));
	s->hugepages_added += now > total ? now - total : 0;
	if (now < total + want - n_free)
		return ps_err_set(
		    err, -ENOMEM,
		    "found %u hugepages after asking for %u; expected enough unscattered memory: reserve "
		    "them at boot (hugepages=%u on the kernel's command line)",
		    now, total + want - n_free, total + want - n_free);
	return 0;
}

static int undo_hugepages(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	uint32_t total = 0, added = s->hugepages_added;
	int rc;

	if (added == 0)
		return 0;
	rc = read_number(c, HUGEPAGES "nr_hugepages", &total);
	if (rc != 0)
		return ps_err_set(err, rc, HUGEPAGES "nr_hugepages: %s", strerror(-rc));
	rc = write_number(c, HUGEPAGES "nr_hugepages", total > added ? total - added : 0, err);
	if (rc == 0)
		s->hugepages_added = 0;
	return rc;
}

/* ---- the hugepage file system: only for capture, which shares pages through files ---- */

static bool hugetlbfs_mounted(const struct host_ctx *c, char *where, size_t cap)
{
	char path[PATH_MAX], line[1024], dir[512], type[64];
	bool found = false;
	FILE *f;

	under_root(c, "/proc/self/mounts", path, sizeof(path));
	f = fopen(path, "re");
	while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL)
		found = sscanf(line, "%*s %511s %63s", dir, type) == 2 && strcmp(type, "hugetlbfs") == 0;
	if (f != NULL)
		fclose(f);
	if (found)
		snprintf(where, cap, "%.120s", dir);
	return found;
}

static void check_mount(const struct host_ctx *c, struct host_result *r)
{
	char where[128];

	if (hugetlbfs_mounted(c, where, sizeof(where))) {
		FOUND(r, "hugetlbfs on %s", where);
		return;
	}
	FOUND(r, "no hugetlbfs is mounted");
	FIX(r, "only --capture (dpdk-dumpcap) needs it; as root: mount -t hugetlbfs nodev " HUGE_MOUNT);
	r->verdict = HOST_HINT;
}

static int apply_mount(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	const char *const mount[] = {"mount", "-t", "hugetlbfs", "nodev", HUGE_MOUNT, NULL};
	char path[PATH_MAX];
	int rc;

	under_root(c, HUGE_MOUNT, path, sizeof(path));
	if (access(path, F_OK) != 0) {
		fprintf(c->out, "+ mkdir %s\n", HUGE_MOUNT);
		if (mkdir(path, 0755) != 0)
			return ps_err_set(err, -errno, "%s: %s", HUGE_MOUNT, strerror(errno));
		s->made_dir = true;
	}
	rc = run(c, mount, err);
	if (rc == 0)
		s->mounted = true;
	return rc;
}

static int undo_mount(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	const char *const umount[] = {"umount", HUGE_MOUNT, NULL};
	char path[PATH_MAX];
	int rc = 0;

	if (s->mounted)
		rc = run(c, umount, err);
	if (rc != 0)
		return rc;
	s->mounted = false;
	if (s->made_dir) {
		under_root(c, HUGE_MOUNT, path, sizeof(path));
		fprintf(c->out, "+ rmdir %s\n", HUGE_MOUNT);
		if (rmdir(path) != 0 && errno != ENOENT)
			return ps_err_set(err, -errno, "%s: %s", HUGE_MOUNT, strerror(errno));
		s->made_dir = false;
	}
	return 0;
}

/* ---- rights ---- */

enum { CAP_NET_ADMIN = 12, CAP_NET_RAW = 13, CAP_IPC_LOCK = 14, CAP_SYS_ADMIN = 21, CAP_BPF = 39 };

static uint64_t capabilities(const struct host_ctx *c)
{
	char path[PATH_MAX], line[256];
	unsigned long long caps = 0;
	FILE *f;

	under_root(c, "/proc/self/status", path, sizeof(path));
	f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	if (f != NULL)
		fclose(f);
	return caps;
}

static void check_capabilities(const struct host_ctx *c, struct host_result *r)
{
	static const struct {
		int bit;
		const char *name;
	} need[] = {{CAP_NET_ADMIN, "NET_ADMIN"},
		    {CAP_NET_RAW, "NET_RAW"},
		    {CAP_BPF, "BPF"},
		    {CAP_SYS_ADMIN, "SYS_ADMIN"}};
	uint64_t caps = capabilities(c);
	char missing[80] = "";
	size_t o = 0;

	for (size_t i = 0; i < sizeof(need) / sizeof(need[0]); i++)
		if ((caps >> need[i].bit & 1) == 0)
			o += (size_t)snprintf(missing + o, sizeof(missing) - o, " %s", need[i].name);
	if (o == 0) {
		FOUND(r, "NET_ADMIN, NET_RAW, BPF and SYS_ADMIN are there");
		return;
	}
	FOUND(r, "without the capabilities%s", missing);
	FIX(r, "af_xdp and network namespaces need them: run as root (sudo); memif does without");
	lacking(c, r);
}

static void check_memlock(const struct host_ctx *c, struct host_result *r)
{
	struct rlimit l = {0};

	getrlimit(RLIMIT_MEMLOCK, &l);
	if ((capabilities(c) >> CAP_IPC_LOCK & 1) != 0 || l.rlim_cur == RLIM_INFINITY) {
		FOUND(r, "locked memory is not limited");
		return;
	}
	FOUND(r, "locked memory is limited to %llu KB", (unsigned long long)l.rlim_cur / 1024);
	if (l.rlim_cur >= MEMLOCK_MIN)
		return;
	FIX(r,
	    "af_xdp locks 64 MB a process: run as root, or write \"%s - memlock unlimited\" into "
	    "/etc/security/limits.d/penstock.conf and log in again",
	    getenv("USER") ? getenv("USER") : "USER");
	lacking(c, r);
}

/* ---- AF_XDP, BPF, namespaces ---- */

static void check_xdp(const struct host_ctx *c, struct host_result *r)
{
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0), rc = errno;

	if (fd >= 0) {
		close(fd);
		FOUND(r, "AF_XDP sockets can be made");
		return;
	}
	lacking(c, r);
	if (rc == EPERM || rc == EACCES) {
		FOUND(r, "AF_XDP sockets are refused to this user");
		FIX(r, "needs the capability NET_RAW: run as root");
	} else {
		FOUND(r, "no AF_XDP sockets (%s)", strerror(rc));
		FIX(r, "expected a kernel with CONFIG_XDP_SOCKETS");
	}
}

static void check_jit(const struct host_ctx *c, struct host_result *r)
{
	uint32_t on = 0;

	if (read_number(c, BPF_JIT, &on) != 0) {
		FOUND(r, "the BPF compiler's switch cannot be read");
		return;
	}
	FOUND(r, "the kernel's BPF compiler is %s", on ? "on" : "off");
	if (on)
		return;
	r->verdict = HOST_HINT;
	FIX(r, "the XDP program is interpreted, slower; as root: echo 1 > " BPF_JIT);
}

static int apply_jit(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	uint32_t before = 1;
	int rc;

	if (read_number(c, BPF_JIT, &before) != 0 || before != 0)
		return 0;
	rc = write_number(c, BPF_JIT, 1, err);
	if (rc == 0 && !s->jit_set) {
		s->jit_before = before;
		s->jit_set = true;
	}
	return rc;
}

static int undo_jit(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	int rc = s->jit_set ? write_number(c, BPF_JIT, s->jit_before, err) : 0;

	if (rc == 0)
		s->jit_set = false;
	return rc;
}

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");
	char list[4096], full[PATH_MAX], *save = NULL;

	snprintf(list, sizeof(list), "%s:/usr/sbin:/sbin", path != NULL ? path : "/usr/bin:/bin");
	for (char *dir = strtok_r(list, ":", &save); dir != NULL; dir = strtok_r(NULL, ":", &save)) {
		snprintf(full, sizeof(full), "%s/%s", dir, program);
		if (access(full, X_OK) == 0)
			return true;
	}
	return false;
}

static void check_namespaces(const struct host_ctx *c, struct host_result *r)
{
	char path[PATH_MAX];

	under_root(c, "/proc/self/ns/net", path, sizeof(path));
	if (access(path, F_OK) != 0) {
		FOUND(r, "no network namespaces in this kernel");
		FIX(r, "expected CONFIG_NET_NS");
		lacking(c, r);
	} else if (!in_path("ip")) {
		FOUND(r, "no program ip");
		FIX(r, "Debian: apt install iproute2");
		lacking(c, r);
	} else {
		FOUND(r, "network namespaces and ip are there");
	}
}

/* ---- all steps ---- */

static const struct host_step steps[] = {
    {"kernel", check_kernel, NULL, NULL},
    {"processors", check_cpus, NULL, NULL},
    {"hugepages", check_hugepages, apply_hugepages, undo_hugepages},
    {"hugetlbfs", check_mount, apply_mount, undo_mount},
    {"capabilities", check_capabilities, NULL, NULL},
    {"memlock", check_memlock, NULL, NULL},
    {"af_xdp", check_xdp, NULL, NULL},
    {"bpf-jit", check_jit, apply_jit, undo_jit},
    {"namespaces", check_namespaces, NULL, NULL},
};
#define N_STEPS (sizeof(steps) / sizeof(steps[0]))
_Static_assert(N_STEPS <= HOST_MAX_STEPS, "HOST_MAX_STEPS");

const char *host_step_name(uint32_t i)
{
	return i < N_STEPS ? steps[i].name : NULL;
}

void host_step_check(const struct host_ctx *c, uint32_t i, struct host_result *out)
{
	CHECK(i < N_STEPS);
	memset(out, 0, sizeof(*out));
	steps[i].check(c, out);
}

uint32_t host_check(const struct host_ctx *c)
{
	static const char *const verdicts[] = {"ok", "hint", "MISSING"};
	struct host_result r;
	uint32_t missing = 0;

	for (uint32_t i = 0; i < N_STEPS; i++) {
		host_step_check(c, i, &r);
		fprintf(c->out, "%-13s %-8s %s\n", steps[i].name, verdicts[r.verdict], r.found);
		if (r.fix[0] != '\0')
			fprintf(c->out, "%-22s %s\n", "", r.fix);
		missing += r.verdict == HOST_MISSING;
	}
	return missing;
}

/* ---- state ---- */

static const char *state_path(const struct host_ctx *c)
{
	return c->state_path != NULL ? c->state_path : HOST_STATE_PATH;
}

#define AT(f) offsetof(struct host_state, f)
static const struct yr_key state_keys[] = {
    {.name = "hugepages_added",
     .kind = YR_U32,
     .offset = AT(hugepages_added),
     .max = 1u << 22,
     .required = true},
    {.name = "mounted", .kind = YR_BOOL, .offset = AT(mounted)},
    {.name = "made_dir", .kind = YR_BOOL, .offset = AT(made_dir)},
    {.name = "jit_set", .kind = YR_BOOL, .offset = AT(jit_set)},
    {.name = "jit_before", .kind = YR_U32, .offset = AT(jit_before), .max = 2},
};

/* No file: nothing was applied. */
static int load_state(const struct host_ctx *c, struct host_state *s, struct ps_err *err)
{
	struct yr r;
	int rc;

	memset(s, 0, sizeof(*s));
	if (access(state_path(c), F_OK) != 0)
		return 0;
	rc = yr_open(&r, state_path(c), err);
	if (rc != 0)
		return rc;
	rc = yr_mapping(&r, yr_root(&r), "the host's state", state_keys,
			sizeof(state_keys) / sizeof(state_keys[0]), s);
	yr_close(&r);
	return rc;
}

static int save_state(const struct host_ctx *c, const struct host_state *s, struct ps_err *err)
{
	bool nothing = s->hugepages_added == 0 && !s->mounted && !s->made_dir && !s->jit_set;
	char tmp[PATH_MAX];
	int rc = 0;
	FILE *f;

	if (nothing) {
		if (unlink(state_path(c)) != 0 && errno != ENOENT)
			return ps_err_set(err, -errno, "%s: %s", state_path(c), strerror(errno));
		return 0;
	}
	snprintf(tmp, sizeof(tmp), "%s.new", state_path(c));
	f = fopen(tmp, "we");
	if (f == NULL)
		return ps_err_set(err, -errno, "%s: %s", tmp, strerror(errno));
	fprintf(f, "hugepages_added: %u\nmounted: %s\nmade_dir: %s\njit_set: %s\njit_before: %u\n",
		s->hugepages_added, s->mounted ? "true" : "false", s->made_dir ? "true" : "false",
		s->jit_set ? "true" : "false", s->jit_before);
	if (fclose(f) != 0 || rename(tmp, state_path(c)) != 0)
		rc = ps_err_set(err, -errno, "%s: %s", state_path(c), strerror(errno));
	return rc;
}

int host_apply(const struct host_ctx *c, struct ps_err *err)
{
	struct host_state s;
	struct host_result r;
	int rc = load_state(c, &s, err);

	if (rc == 0 && c->root == NULL && geteuid() != 0)
		return ps_err_set(err, -EPERM,
				  "found user %u; expected root, as this changes the machine: use sudo",
				  (unsigned)geteuid());
	for (uint32_t i = 0; rc == 0 && i < N_STEPS; i++) {
		struct ps_err save_err;
		int saved;

		host_step_check(c, i, &r);
		if (r.verdict == HOST_OK || steps[i].apply == NULL)
			continue;
		rc = steps[i].apply(c, &s, err);
		saved = save_state(c, &s, &save_err); /* also what a step did before it failed */
		if (rc == 0 && saved != 0)
			rc = ps_err_set(err, saved, "%s", save_err.msg);
	}
	return rc;
}

int host_undo(const struct host_ctx *c, struct ps_err *err)
{
	struct host_state s;
	int rc = load_state(c, &s, err);

	if (rc == 0 && c->root == NULL && geteuid() != 0)
		return ps_err_set(err, -EPERM,
				  "found user %u; expected root, as this changes the machine: use sudo",
				  (unsigned)geteuid());
	for (uint32_t i = N_STEPS; rc == 0 && i-- > 0;) {
		if (steps[i].undo == NULL)
			continue;
		rc = steps[i].undo(c, &s, err);
		if (rc == 0)
			rc = save_state(c, &s, err);
	}
	return rc;
}
