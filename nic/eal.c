/* SPDX-License-Identifier: BSD-3-Clause */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <limits.h>
#include <mntent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_memory.h>
#include <rte_pdump.h>

#include "nic/internal.h"

#define ARGS_MAX     96
#define ARG_BYTES    256
#define LOG_TAIL_MAX 600u
/* What EAL, its hash tables and the driver's own structures take beside the packet pools. */
#define EAL_OWN_MB   16u
#define NAME_MAX_LEN 32u

/* EAL's argument vector, and the log lines that it wrote. */
static struct {
	bool started;
	bool hugepages;
	bool capture;
	bool keep_quiet; /* during start: the log goes into the error text only */
	uint32_t mb;
	char prefix[128];
	char text[224];
	char args[ARGS_MAX][ARG_BYTES];
	char *argv[ARGS_MAX + 1];
	int argc;
	pthread_mutex_t log_lock;
	char log_tail[LOG_TAIL_MAX];
} eal = {.log_lock = PTHREAD_MUTEX_INITIALIZER};

/* An option that we pass unless the user has given one of those that speak of the same thing. */
struct own_arg {
	const char *opt;
	const char *value; /* NULL: none */
	const char *rivals[8];
};

static ssize_t log_write(void *cookie, const char *buf, size_t n)
{
	size_t len;

	(void)cookie;
	pthread_mutex_lock(&eal.log_lock);
	if (!eal.keep_quiet)
		(void)!write(STDERR_FILENO, buf, n);
	len = strlen(eal.log_tail);
	if (len + n >= LOG_TAIL_MAX) {
		size_t drop = len + n - LOG_TAIL_MAX + 1;

		if (drop > len)
			drop = len;
		memmove(eal.log_tail, eal.log_tail + drop, len - drop + 1);
		len -= drop;
	}
	if (len + n < LOG_TAIL_MAX) {
		memcpy(eal.log_tail + len, buf, n);
		eal.log_tail[len + n] = '\0';
	}
	pthread_mutex_unlock(&eal.log_lock);
	return (ssize_t)n;
}

const char *nic_eal_log_tail(void)
{
	size_t len = strlen(eal.log_tail);

	while (len > 0 && isspace((unsigned char)eal.log_tail[len - 1]))
		eal.log_tail[--len] = '\0';
	for (char *s = eal.log_tail; *s != '\0'; s++)
		if (*s == '\n')
			*s = '|';
	return len > 0 ? eal.log_tail : "no reason given";
}

void nic_eal_log_clear(void)
{
	eal.log_tail[0] = '\0';
}

void nic_eal_log_loud(void)
{
	/* The memif driver says each failed attempt to reconnect; status and describe() tell that. */
	if (eal.keep_quiet)
		rte_log_set_level_pattern("pmd.net.memif", RTE_LOG_CRIT);
	eal.keep_quiet = false;
}

void nic_eal_log_quiet(void)
{
	eal.keep_quiet = true;
}

/* Does `arg` name the option `opt`: "-m", "-m64", "--file-prefix", "--file-prefix=x"? */
static bool arg_is(const char *arg, const char *opt)
{
	size_t n = strlen(opt);

	if (strncmp(arg, opt, n) != 0)
		return false;
	if (opt[1] != '-')
		return true; /* a short option may carry its value without a space */
	return arg[n] == '\0' || arg[n] == '=';
}

static bool user_has(const struct nic_cfg *cfg, const char *opt)
{
	for (int i = 0; i < cfg->eal_argc; i++) {
		if (strcmp(cfg->eal_argv[i], "--") == 0)
			return false;
		if (arg_is(cfg->eal_argv[i], opt))
			return true;
	}
	return false;
}

static int push(const char *s, struct ps_err *err)
{
	if (eal.argc >= ARGS_MAX)
		return ps_err_set(err, -EINVAL, "EAL: more than %d arguments", ARGS_MAX);
	if (strlen(s) >= ARG_BYTES)
		return ps_err_set(err, -EINVAL, "EAL argument longer than %d bytes: %.40s…", ARG_BYTES - 1,
				  s);
	strcpy(eal.args[eal.argc], s);
	eal.argv[eal.argc] = eal.args[eal.argc];
	eal.argc++;
	return 0;
}

static int push_own(const struct nic_cfg *cfg, const struct own_arg *a, struct ps_err *err)
{
	int rc;

	if (user_has(cfg, a->opt))
		return 0;
	for (int i = 0; i < 8 && a->rivals[i] != NULL; i++)
		if (user_has(cfg, a->rivals[i]))
			return 0;
	rc = push(a->opt, err);
	if (rc == 0 && a->value != NULL)
		rc = push(a->value, err);
	return rc;
}

/* One lcore that floats over all CPUs the process may use: "0@(0,1,5)". EAL would otherwise
 * start a thread on each CPU and pin the caller to the first. */
static void lcores_value(char *out, size_t size)
{
	cpu_set_t set;
	size_t n = (size_t)snprintf(out, size, "0@(");

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		CPU_SET(0, &set);
	for (size_t first = 0; first < CPU_SETSIZE; first++) {
		size_t last = first;

		if (!CPU_ISSET(first, &set))
			continue;
		while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set))
			last++;
		n += (size_t)snprintf(out + n, size - n, "%s%zu-%zu", out[n - 1] == '(' ? "" : ",", first,
				      last);
		if (n + 24 >= size)
			break; /* a mask of very many pieces: the first ones do */
		first = last;
	}
	snprintf(out + n, size - n, ")");
}

static int build_args(const struct nic_cfg *cfg, struct ps_err *err)
{
	char mb[16], lcores[ARG_BYTES];
	struct own_arg own[] = {
	    {"--file-prefix", eal.prefix, {NULL}},
	    {"--no-pci", NULL, {"-a", "--allow", "-b", "--block"}},
	    {"-m", mb, {"--socket-mem"}},
	    {"--lcores", lcores, {"-l", "-c", "-s", "-S"}},
	    {"--iova-mode", "va", {NULL}},
	    /* memif's zero-copy client exports one file of memory to its peer. */
	    {"--single-file-segments", NULL, {"--legacy-mem"}},
	    {"--log-level", "notice", {NULL}},
	    {"--no-huge", NULL, {"--huge-dir", "--socket-mem", "--huge-unlink"}},
	    /* Without hugepages --in-memory is refused; no files are shared either way. */
	    {"--no-shconf", NULL, {"--proc-type"}},
	    {"--in-memory", NULL, {"--huge-dir", "--huge-unlink", "--no-shconf", "--proc-type"}},
	};
	int rc = push("penstock", err);

	snprintf(mb, sizeof(mb), "%u", eal.mb);
	lcores_value(lcores, sizeof(lcores));
	for (size_t i = 0; rc == 0 && i < sizeof(own) / sizeof(own[0]); i++) {
		if (strcmp(own[i].opt, "--no-huge") == 0 && eal.hugepages)
			continue;
		if (strcmp(own[i].opt, "--in-memory") == 0 && (eal.capture || !eal.hugepages))
			continue;
		if (strcmp(own[i].opt, "--no-shconf") == 0 && eal.hugepages)
			continue;
		rc = push_own(cfg, &own[i], err);
	}
	for (int i = 0; rc == 0 && i < cfg->eal_argc; i++) {
		if (strcmp(cfg->eal_argv[i], "--") == 0)
			break;
		rc = push(cfg->eal_argv[i], err);
	}
	return rc;
}

/* Free hugepages of all sizes, in MB. */
static uint64_t hugepages_free_mb(void)
{
	glob_t g;
	uint64_t mb = 0;

	if (glob("/sys/kernel/mm/hugepages/hugepages-*kB", 0, NULL, &g) != 0)
		return 0;
	for (size_t i = 0; i < g.gl_pathc; i++) {
		char path[PATH_MAX];
		unsigned long kb = 0, n = 0;
		FILE *f;

		if (sscanf(strrchr(g.gl_pathv[i], '/'), "/hugepages-%lukB", &kb) != 1)
			continue;
		snprintf(path, sizeof(path), "%s/free_hugepages", g.gl_pathv[i]);
		f = fopen(path, "re");
		if (f == NULL)
			continue;
		if (fscanf(f, "%lu", &n) == 1)
			mb += (uint64_t)n * kb / 1024u;
		fclose(f);
	}
	globfree(&g);
	return mb;
}

static bool hugetlbfs_mounted(void)
{
	FILE *f = setmntent("/proc/mounts", "r");
	const struct mntent *m;
	bool found = false;

	if (f == NULL)
		return false;
	while (!found && (m = getmntent(f)) != NULL)
		found = strcmp(m->mnt_type, "hugetlbfs") == 0;
	endmntent(f);
	return found;
}

static int check_hugepages(const struct nic_cfg *cfg, struct ps_err *err)
{
	uint64_t free_mb = hugepages_free_mb();
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "re");
	unsigned long have = 0;

	if (f != NULL) {
		if (fscanf(f, "%lu", &have) != 1)
			have = 0;
		fclose(f);
	}
	if (free_mb < eal.mb)
		return ps_err_set(err, -ENOMEM,
				  "hugepages: %u MB wanted, %" PRIu64 " MB free; as root: "
				  "echo %" PRIu64 " > /proc/sys/vm/nr_hugepages (or: penstock host "
				  "apply), or run without them (hugepages_mb: 0)",
				  eal.mb, free_mb, have + (eal.mb - free_mb + 1) / 2);
	if (cfg->capture && !hugetlbfs_mounted())
		return ps_err_set(err, -ENOMEM,
				  "capture: needs a hugetlbfs mount, none is there; as root: "
				  "mkdir -p /dev/hugepages && mount -t hugetlbfs nodev /dev/hugepages");
	return 0;
}

static void set_prefix(const struct nic_cfg *cfg)
{
	size_t n = (size_t)snprintf(eal.prefix, sizeof(eal.prefix), "penstock-");
	const char *name = cfg->name != NULL ? cfg->name : "nic";

	if (cfg->file_prefix != NULL) {
		snprintf(eal.prefix, sizeof(eal.prefix), "%s", cfg->file_prefix);
		return;
	}
	for (size_t i = 0; name[i] != '\0' && i < NAME_MAX_LEN; i++)
		eal.prefix[n++] = isalnum((unsigned char)name[i]) ? name[i] : '-';
	eal.prefix[n++] = '-';
	eal.prefix[n] = '\0';
	/* What a predecessor of this name left when it was killed. */
	(void)nic_cleanup_stale(eal.prefix);
	snprintf(eal.prefix + n, sizeof(eal.prefix) - n, "%ld", (long)getpid());
}

/* EAL prints its usage on stdout, which may be somebody's JSON, and getopt's complaints and
 * "FATAL" lines past its log on stderr. While it starts, the first goes to /dev/null and the
 * second to a file in memory, whose descriptor is returned (or -1). */
static int silence(int saved[2])
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int heard = memfd_create("eal-stderr", MFD_CLOEXEC);

	fflush(NULL);
	for (int fd = 1; fd <= 2; fd++)
		saved[fd - 1] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (null >= 0 && saved[0] >= 0)
		dup2(null, 1);
	if (heard >= 0 && saved[1] >= 0)
		dup2(heard, 2);
	if (null >= 0)
		close(null);
	return heard;
}

static void unsilence(const int saved[2])
{
	fflush(NULL);
	for (int fd = 1; fd <= 2; fd++) {
		if (saved[fd - 1] < 0)
			continue;
		dup2(saved[fd - 1], fd);
		close(saved[fd - 1]);
	}
}

static int run_eal_init(const struct nic_cfg *cfg, struct ps_err *err)
{
	cookie_io_functions_t io = {.write = log_write};
	bool user_cores = user_has(cfg, "-l") || user_has(cfg, "-c") || user_has(cfg, "--lcores");
	FILE *log = fopencookie(NULL, "w", io);
	int saved[2] = {-1, -1}, heard = -1;
	char text[200] = "";
	cpu_set_t before;
	bool restore;
	int rc;

	if (log == NULL)
		return ps_err_set(err, -ENOMEM, "EAL: no memory for its log");
	setvbuf(log, NULL, _IOLBF, 0);
	rte_openlog_stream(log);
	eal.keep_quiet = !user_has(cfg, "--log-level") && !user_has(cfg, "-h") && !user_has(cfg, "--help");
	if (eal.keep_quiet)
		heard = silence(saved);
	restore = pthread_getaffinity_np(pthread_self(), sizeof(before), &before) == 0;
	rc = rte_eal_init(eal.argc, eal.argv);
	if (eal.keep_quiet)
		unsilence(saved);
	/* EAL pins the thread that starts it; where the user chose the cores, that is wanted. */
	if (restore && !user_cores)
		pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	if (heard >= 0) {
		ssize_t n = pread(heard, text, sizeof(text) - 1, 0);

		text[n > 0 ? n : 0] = '\0';
		close(heard);
	}
	if (rc >= 0)
		return 0;
	rc = rte_errno == ENOMEM ? -ENOMEM : rte_errno == EACCES || rte_errno == EPERM ? -EPERM : -EINVAL;
	/* The first line is getopt's, where an argument is wrong. */
	return ps_err_set(err, rc, "EAL does not start (%s): %.*s; %s", rte_strerror(rte_errno),
			  (int)strcspn(text, "\n"), text, nic_eal_log_tail());
}

int nic_eal_start(const struct nic_cfg *cfg, uint64_t need_bytes, struct ps_err *err)
{
	uint32_t need_mb = (uint32_t)(need_bytes >> 20) + EAL_OWN_MB;
	int rc;

	if (eal.started)
		return 0;
	eal.hugepages = cfg->hugepages_mb != 0 && !user_has(cfg, "--no-huge");
	eal.capture = cfg->capture;
	eal.mb = eal.hugepages ? cfg->hugepages_mb : need_mb;
	eal.argc = 0;
	if (eal.capture && !eal.hugepages)
		return ps_err_set(err, -EINVAL, "capture: needs hugepages (dpdk-dumpcap shares them)");
	if (eal.hugepages && eal.mb < need_mb && !user_has(cfg, "-m") && !user_has(cfg, "--socket-mem"))
		return ps_err_set(err, -ENOMEM,
				  "hugepages_mb: %u is too little for these ports, they need %u", eal.mb,
				  need_mb);
	set_prefix(cfg);
	rc = build_args(cfg, err);
	if (rc == 0 && eal.hugepages && !user_has(cfg, "-m") && !user_has(cfg, "--socket-mem"))
		rc = check_hugepages(cfg, err);
	if (rc == 0)
		rc = run_eal_init(cfg, err);
	if (rc != 0) {
		nic_eal_stop();
		return rc;
	}
	eal.started = true;
	if (eal.capture && rte_pdump_init() != 0)
		return ps_err_set(err, -EINVAL, "capture: rte_pdump_init: %s", nic_eal_log_tail());
	nic_pool_mark_init();
	/* What EAL really holds: the user's arguments may have asked for something else. */
	eal.hugepages = rte_eal_has_hugepages() != 0;
	eal.mb = (uint32_t)(rte_eal_get_physmem_size() >> 20);
	if (eal.hugepages)
		snprintf(eal.text, sizeof(eal.text), "hugepages=%uMB prefix=%s%s", eal.mb, eal.prefix,
			 eal.capture ? " capture=yes" : "");
	else
		snprintf(eal.text, sizeof(eal.text), "no-huge mem=%uMB prefix=%s", eal.mb, eal.prefix);
	return 0;
}

/* Removes files `dir`/`prefix``pattern`; returns how many. */
static int remove_files(const char *dir, const char *prefix, const char *pattern)
{
	char path[PATH_MAX];
	int n = 0;
	glob_t g;

	snprintf(path, sizeof(path), "%s/%s%s", dir, prefix, pattern);
	if (glob(path, 0, NULL, &g) != 0)
		return 0;
	for (size_t i = 0; i < g.gl_pathc; i++)
		n += unlink(g.gl_pathv[i]) == 0;
	globfree(&g);
	return n;
}

/* EAL's hugepage files are `<mount>/<prefix>map_<n>`. */
static int remove_hugepage_files(const char *prefix)
{
	FILE *f = setmntent("/proc/mounts", "r");
	const struct mntent *m;
	int n = 0;

	if (f == NULL)
		return 0;
	while ((m = getmntent(f)) != NULL)
		if (strcmp(m->mnt_type, "hugetlbfs") == 0)
			n += remove_files(m->mnt_dir, prefix, "map_*");
	endmntent(f);
	return n;
}

static int remove_runtime_dir(const char *dir)
{
	int n = remove_files(dir, "", "/*");

	return n + (rmdir(dir) == 0);
}

/* EAL's runtime directory: it holds the telemetry socket even where nothing is shared. */
static void remove_own_runtime_dir(void)
{
	const char *dir = rte_eal_get_runtime_dir();

	if (strstr(dir, eal.prefix) != NULL) {
		remove_runtime_dir(dir);
	} else if (dir[0] != '\0' && rte_eal_process_type() == RTE_PROC_PRIMARY) {
		/* A prefix of the user's: others may use it too. */
		remove_files(dir, "", "/dpdk_telemetry*");
		(void)!rmdir(dir);
	}
}

void nic_eal_stop(void)
{
	if (eal.started && eal.capture) {
		rte_pdump_uninit();
		remove_hugepage_files(eal.prefix);
	}
	remove_own_runtime_dir();
}

/* nic_start's own prefixes end in the process's number. A number that is in use again only delays
 * the clean-up; a prefix without one was given by a launcher, whose business it is. */
static bool prefix_in_use(const char *prefix)
{
	const char *dash = strrchr(prefix, '-');
	long pid = dash != NULL ? strtol(dash + 1, NULL, 10) : 0;

	return pid <= 0 || kill((pid_t)pid, 0) == 0 || errno == EPERM;
}

int nic_cleanup_stale(const char *prefix)
{
	const char *base = getenv("RUNTIME_DIRECTORY");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char pattern[PATH_MAX];
	glob_t g;
	int n = 0;

	/* EAL's own rule for where its runtime directory is (eal_create_runtime_dir). */
	if (base == NULL)
		base = getuid() == 0 ? "/var/run" : xdg != NULL ? xdg : "/tmp";
	if (prefix == NULL || strncmp(prefix, "penstock-", 9) != 0 || strchr(prefix, '/') != NULL)
		return -EINVAL;
	snprintf(pattern, sizeof(pattern), "%s/dpdk/%s*", base, prefix);
	if (glob(pattern, GLOB_ONLYDIR, NULL, &g) != 0)
		return 0;
	for (size_t i = 0; i < g.gl_pathc; i++) {
		const char *name = strrchr(g.gl_pathv[i], '/') + 1;

		if (prefix_in_use(name))
			continue;
		n += remove_hugepage_files(name);
		n += remove_runtime_dir(g.gl_pathv[i]);
	}
	globfree(&g);
	return n;
}

bool nic_eal_hugepages(void)
{
	return eal.hugepages;
}

bool nic_eal_capture(void)
{
	return eal.capture;
}

const char *nic_eal_describe(void)
{
	return eal.text;
}
