/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/bench_baseline.h"
#include "cli/cli.h"
#include "nic/nic.h"

#define SIZE_MAX_BYTES  (64u << 20)
#define COUNT_MAX       10000000u
#define LOOPBACK_FRAMES 1024u
#define KILL_GRACE_NS   2000000000ull
#define POLL_NS         2000000l
#define DEFAULT_HUGE_MB 64u

static const char usage[] =
    "usage: penstock bench link --driver memif|af_xdp|loopback --size BYTES --count N [options]\n\n"
    "Sends a message to another process and waits for its answer of the same size, N times,\n"
    "over the whole link protocol (credits, acknowledgements, retransmission). Each side writes\n"
    "every byte of what it sends and compares every byte of what it receives; a message longer\n"
    "than a packet goes in several. Each process drives its endpoint in one thread.\n\n"
    "  --driver D      memif, af_xdp (as root; makes two network namespaces joined by a veth pair,\n"
    "                  gone when it ends) or loopback (shared memory, no DPDK)\n"
    "  --size BYTES    of a message, 1 to 67108864 (8192)\n"
    "  --count N       round trips, 1 to 10000000 (10000)\n"
    "  --warmup N      round trips before them that are not counted (1000)\n"
    "  --one-way       then N messages one way, several in flight: adds bytes_per_s\n"
    "  --mtu N         largest IP packet (memif and loopback 9000, af_xdp 3506)\n"
    "  --idle P        spin or adaptive: what a side does while it waits (spin where each side\n"
    "                  has a core, else adaptive)\n"
    "  --cores A,B     where the two sides run (the first two that are allowed); none: anywhere\n"
    "  --checksum C    CRC-32C over payloads: on, off or auto, which is on except over memif (auto)\n"
    "  --hugepages MB  of each side; 0: none (64 if they are free)\n"
    "  --baseline      in turns with the driver's bare ping-pong of the same size (the program\n"
    "                  penstock-raw-*-pingpong beside this one); adds the ratio\n"
    "  --json          one JSON object on one line instead of a table\n";

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

static bool parse_driver(const char *text, struct bench_link_opts *o)
{
	static const struct {
		const char *name;
		enum bench_driver driver;
	} drivers[] = {{"loopback", BENCH_LOOPBACK}, {"memif", BENCH_MEMIF}, {"af_xdp", BENCH_AF_XDP}};
	size_t i;

	for (i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++) {
		if (strcmp(text, drivers[i].name) == 0) {
			o->driver = drivers[i].driver;
			o->driver_name = drivers[i].name;
			return true;
		}
	}
	cli_usage("bench link", "--driver: found \"%s\", expected memif, af_xdp or loopback", text);
	return false;
}

static bool parse_choice(const char *option, const char *text, const char *a, const char *b, const char *c,
			 int *out)
{
	const char *const names[3] = {a, b, c};
	int i;

	for (i = 0; i < 3; i++) {
		if (names[i] != NULL && strcmp(text, names[i]) == 0) {
			*out = i;
			return true;
		}
	}
	cli_usage("bench link", "%s: found \"%s\", expected %s%s%s%s %s", option, text, a,
		  c != NULL ? ", " : "", c != NULL ? b : "", " or", c != NULL ? c : b);
	return false;
}

/* Cores as the user or the scheduler gives them: -1 -1 where the sides may run anywhere. */
static bool choose_cores(const char *text, int cores[2])
{
	cpu_set_t set;
	int i, n = 0;
	char end;

	cores[0] = cores[1] = -1;
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		CPU_ZERO(&set);
	if (text != NULL && strcmp(text, "none") == 0)
		return true;
	if (text != NULL) {
		if (sscanf(text, "%d,%d%c", &cores[0], &cores[1], &end) != 2 || cores[0] < 0 ||
		    cores[1] < 0 || cores[0] >= CPU_SETSIZE || cores[1] >= CPU_SETSIZE ||
		    !CPU_ISSET((size_t)cores[0], &set) || !CPU_ISSET((size_t)cores[1], &set)) {
			cli_usage("bench link",
				  "--cores: found \"%s\", expected two cores of this process as in 0,1",
				  text);
			return false;
		}
		return true;
	}
	for (i = 0; i < CPU_SETSIZE && n < 2; i++) {
		if (CPU_ISSET((size_t)i, &set))
			cores[n++] = i;
	}
	if (n < 2)
		cores[0] = cores[1] = -1;
	return true;
}

static uint64_t free_hugepages_mb(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t n_free = 0, kb = 0;
	char line[128];

	if (f == NULL)
		return 0;
	while (fgets(line, sizeof(line), f) != NULL) {
		(void)!sscanf(line, "HugePages_Free: %lu", &n_free);
		(void)!sscanf(line, "Hugepagesize: %lu", &kb);
	}
	fclose(f);
	return n_free * kb / 1024;
}

struct raw_opts {
	const char *driver, *cores, *hugepages;
	int idle, checksum; /* -1: not given */
};

/* What was not given, and what does not go together. -1: go on; else the exit code. */
static int settle(struct bench_link_opts *o, const struct raw_opts *raw)
{
	static const uint32_t default_mtu[] = {
	    [BENCH_LOOPBACK] = 9000, [BENCH_MEMIF] = 9000, [BENCH_AF_XDP] = 3506};

	if (raw->driver == NULL)
		return cli_usage("bench link", "--driver is missing: memif, af_xdp or loopback");
	if (!parse_driver(raw->driver, o) || !choose_cores(raw->cores, o->cores))
		return CLI_USAGE;
	if (o->mtu == 0)
		o->mtu = default_mtu[o->driver];
	o->idle = raw->idle == 1 || (raw->idle < 0 && (o->cores[0] < 0 || o->cores[0] == o->cores[1]))
		      ? DP_IDLE_ADAPTIVE
		      : DP_IDLE_SPIN;
	o->checksum = raw->checksum == 0 || (raw->checksum != 1 && o->driver != BENCH_MEMIF);
	if (o->driver == BENCH_LOOPBACK) {
		if (raw->hugepages != NULL || o->baseline)
			return cli_usage("bench link", "--hugepages and --baseline are for memif and af_xdp");
		return -1;
	}
	if (raw->hugepages != NULL) {
		if (!cli_u32("bench link", "--hugepages", raw->hugepages, 0, 65536, &o->hugepages_mb))
			return CLI_USAGE;
	} else {
		o->hugepages_mb = free_hugepages_mb() >= 2 * DEFAULT_HUGE_MB ? DEFAULT_HUGE_MB : 0;
	}
	return -1;
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct bench_link_opts *o)
{
	static const struct option longs[] = {
	    {"driver", required_argument, NULL, 'd'},   {"size", required_argument, NULL, 's'},
	    {"count", required_argument, NULL, 'n'},    {"warmup", required_argument, NULL, 'w'},
	    {"one-way", no_argument, NULL, 'o'},        {"mtu", required_argument, NULL, 'm'},
	    {"idle", required_argument, NULL, 'i'},     {"cores", required_argument, NULL, 'c'},
	    {"checksum", required_argument, NULL, 'k'}, {"hugepages", required_argument, NULL, 'g'},
	    {"baseline", no_argument, NULL, 'b'},       {"json", no_argument, NULL, 'j'},
	    {"help", no_argument, NULL, 'h'},           {0},
	};
	struct raw_opts raw = {.idle = -1, .checksum = -1};
	bool ok = true;
	int c;

	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'd':
			raw.driver = optarg;
			break;
		case 's':
			ok = cli_u32("bench link", "--size", optarg, 1, SIZE_MAX_BYTES, &o->size);
			break;
		case 'n':
			ok = cli_u32("bench link", "--count", optarg, 1, COUNT_MAX, &o->count);
			break;
		case 'w':
			ok = cli_u32("bench link", "--warmup", optarg, 0, COUNT_MAX, &o->warmup);
			break;
		case 'o':
			o->one_way = true;
			break;
		case 'm':
			ok = cli_u32("bench link", "--mtu", optarg, 576, 65535, &o->mtu);
			break;
		case 'i':
			ok = parse_choice("--idle", optarg, "spin", "adaptive", NULL, &raw.idle);
			break;
		case 'c':
			raw.cores = optarg;
			break;
		case 'k':
			ok = parse_choice("--checksum", optarg, "on", "off", "auto", &raw.checksum);
			break;
		case 'g':
			raw.hugepages = optarg;
			break;
		case 'b':
			o->baseline = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return CLI_OK;
		default:
			return cli_see_help("bench link");
		}
	}
	if (!ok)
		return CLI_USAGE;
	if (optind != argc)
		return cli_usage("bench link", "unexpected \"%s\"", argv[optind]);
	return settle(o, &raw);
}

/* One run of the two sides. */
struct bench_run {
	const struct bench_link_opts *o;
	struct bench_shared *shared;
	struct dp_loopback *lb;
	char dir[64];
	pid_t pids[2];
	int ready[2], go[2]; /* our ends of the sides' pipes */
};

static void remove_dir(const char *dir)
{
	struct dirent *e;
	DIR *d = opendir(dir);

	if (d == NULL)
		return;
	while ((e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
	rmdir(dir);
}

/* What EAL of a side that was killed left: its run-time folders (there are no hugepage files). */
static void remove_eal_dirs(void)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char pattern[PATH_MAX];
	glob_t g = {0};
	size_t i;

	snprintf(pattern, sizeof(pattern), "%s/dpdk/penstock-bench%d-*",
		 geteuid() == 0 ? "/var/run" : (xdg != NULL ? xdg : "/tmp"), (int)getpid());
	if (glob(pattern, 0, NULL, &g) == 0) {
		for (i = 0; i < g.gl_pathc; i++)
			remove_dir(g.gl_pathv[i]);
	}
	globfree(&g);
}

/* In the child: never returns. */
static void side_main(struct bench_run *r, uint32_t side, int ready_fd, int go_fd, pid_t parent)
{
	struct bench_side b = {
	    .o = r->o,
	    .shared = r->shared,
	    .side = side,
	    .dir = r->dir,
	    .lb = r->lb,
	    .run_id = parent,
	    .ready_fd = ready_fd,
	    .go_fd = go_fd,
	};

	/* The side goes with its supervisor, whatever ends that. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CLI_FAILED);
	/* The supervisor decides what a Ctrl-C means; and only it writes to standard output. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_IGN);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	_exit(bench_side_run(&b));
}

static int start_side(struct bench_run *r, uint32_t side, struct ps_err *err)
{
	const pid_t parent = getpid();
	int ready[2], go[2];

	if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0)
		return ps_err_set(err, -errno, "no pipe: %s", strerror(errno));
	fflush(stdout);
	r->pids[side] = fork();
	if (r->pids[side] == 0) {
		close(ready[0]);
		close(go[1]);
		side_main(r, side, ready[1], go[0], parent);
	}
	close(ready[1]);
	close(go[0]);
	r->ready[side] = ready[0];
	r->go[side] = go[1];
	if (r->pids[side] < 0)
		return ps_err_set(err, -errno, "cannot fork: %s", strerror(errno));
	return 0;
}

/* A side that failed before it was ready closed its pipe: its own error says more than ours. */
static int join_namespaces(struct bench_run *r, struct ps_err *err)
{
	char byte = 1;
	uint32_t i;
	int rc;

	for (i = 0; i < 2; i++) {
		if (read(r->ready[i], &byte, 1) != 1)
			return 0;
	}
	rc = bench_veth_join(r->pids, err);
	for (i = 0; i < 2 && rc == 0; i++) {
		if (write(r->go[i], &byte, 1) != 1)
			return ps_err_set(err, -EPIPE, "a side of the bench is gone");
	}
	return rc;
}

/* Waits for both; if one fails or somebody interrupts us, the other is ended. */
static int reap(struct bench_run *r, bool stop)
{
	const struct timespec nap = {.tv_nsec = POLL_NS};
	uint64_t stop_ns = stop ? ps_now_ns() : 0;
	int failed = stop ? 1 : 0, status;
	uint32_t i, left = 0;

	for (i = 0; i < 2; i++)
		left += r->pids[i] > 0;
	while (left > 0) {
		for (i = 0; i < 2; i++) {
			if (r->pids[i] <= 0 || waitpid(r->pids[i], &status, WNOHANG) != r->pids[i])
				continue;
			r->pids[i] = 0;
			left--;
			if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
				continue;
			failed = 1;
			if (WIFSIGNALED(status) && stop_ns == 0)
				snprintf(r->shared->error[i], sizeof(r->shared->error[i]),
					 "the %s side was ended by signal %d",
					 i == BENCH_PING ? "ping" : "echo", WTERMSIG(status));
		}
		if ((failed != 0 || interrupted != 0) && stop_ns == 0)
			stop_ns = ps_now_ns();
		for (i = 0; i < 2 && stop_ns != 0; i++) {
			if (r->pids[i] > 0)
				kill(r->pids[i], ps_now_ns() - stop_ns > KILL_GRACE_NS ? SIGKILL : SIGTERM);
		}
		if (left > 0)
			nanosleep(&nap, NULL);
	}
	return failed;
}

static int bench_once(const struct bench_link_opts *o, struct bench_shared *shared, struct ps_err *err)
{
	const struct dp_loopback_cfg lb = {.mtu = o->mtu, .n_frames = LOOPBACK_FRAMES};
	struct bench_run r = {
	    .o = o, .shared = shared, .dir = "/tmp/penstock-bench-XXXXXX", .ready = {-1, -1}, .go = {-1, -1}};
	uint32_t i;
	int rc = 0;

	memset(shared, 0, sizeof(*shared));
	if (mkdtemp(r.dir) == NULL)
		return ps_err_set(err, -errno, "%s: cannot make a folder: %s", r.dir, strerror(errno));
	if (o->driver == BENCH_LOOPBACK)
		rc = dp_loopback_create(&lb, &r.lb, err);
	for (i = 0; i < 2 && rc == 0; i++)
		rc = start_side(&r, i, err);
	if (rc == 0 && o->driver == BENCH_AF_XDP)
		rc = join_namespaces(&r, err);
	if (reap(&r, rc != 0) != 0 && rc == 0) {
		/* The echo side often only notices that the ping side failed, or the other way round. */
		i = shared->error[BENCH_PING][0] != '\0' &&
			    strstr(shared->error[BENCH_PING], "did not answer") == NULL
			? BENCH_PING
		    : shared->error[BENCH_ECHO][0] != '\0' ? BENCH_ECHO
							   : BENCH_PING;
		rc = ps_err_set(err, -EIO, "%s",
				interrupted != 0              ? "interrupted"
				: shared->error[i][0] != '\0' ? shared->error[i]
							      : "failed");
	}
	for (i = 0; i < 2; i++) {
		if (r.ready[i] >= 0)
			close(r.ready[i]);
		if (r.go[i] >= 0)
			close(r.go[i]);
	}
	dp_loopback_destroy(r.lb);
	remove_dir(r.dir);
	if (o->driver != BENCH_LOOPBACK)
		remove_eal_dirs();
	return rc;
}

struct bench_result {
	uint64_t min, p50, p99, p999, max;
	double bytes_per_s;
	struct bench_baseline base;
};

static void summarize(const struct bench_link_opts *o, struct bench_shared *sh, struct bench_result *res)
{
	res->p50 = cli_quantile_u64(sh->rtt_ns, o->count, 0.5); /* sorts */
	res->p99 = cli_quantile_u64(sh->rtt_ns, o->count, 0.99);
	res->p999 = cli_quantile_u64(sh->rtt_ns, o->count, 0.999);
	res->min = sh->rtt_ns[0];
	res->max = sh->rtt_ns[o->count - 1];
	if (o->one_way && sh->one_way_ns > 0)
		res->bytes_per_s = (double)o->size * (double)o->count * 1e9 / (double)sh->one_way_ns;
}

static void print_json(const struct bench_link_opts *o, const struct bench_shared *sh,
		       const struct bench_result *res)
{
	json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "driver", o->driver_name,
			      "mode", sh->mode[BENCH_PING], "size", (json_int_t)o->size, "count",
			      (json_int_t)o->count, "rtt_ns_min", (json_int_t)res->min, "rtt_ns_p50",
			      (json_int_t)res->p50, "rtt_ns_p99", (json_int_t)res->p99, "rtt_ns_p999",
			      (json_int_t)res->p999, "rtt_ns_max", (json_int_t)res->max);

	CHECK(j != NULL);
	if (o->one_way)
		json_object_set_new(j, "bytes_per_s", json_real(res->bytes_per_s));
	json_object_set_new(j, "mtu", json_integer(sh->mtu));
	json_object_set_new(j, "warmup", json_integer(o->warmup));
	json_object_set_new(j, "idle", json_string(o->idle == DP_IDLE_SPIN ? "spin" : "adaptive"));
	json_object_set_new(j, "cores", json_pack("[i, i]", o->cores[0], o->cores[1]));
	json_object_set_new(j, "checksum", json_boolean(o->checksum));
	json_object_set_new(j, "payload",
			    json_string("written whole, and read a byte a cache line, on both sides"));
	json_object_set_new(j, "retransmits", json_integer((json_int_t)sh->retransmits));
	json_object_set_new(j, "rx_in_place", json_integer((json_int_t)sh->rx_in_place));
	json_object_set_new(j, "rx_copied_bytes", json_integer((json_int_t)sh->rx_copied_bytes));
	json_object_set_new(j, "mode_peer", json_string(sh->mode[BENCH_ECHO]));
	if (o->baseline) {
		json_object_set_new(j, "baseline", json_string(res->base.program));
		json_object_set_new(j, "baseline_rtt_ns_p50", json_integer((json_int_t)res->base.rtt_ns_p50));
		json_object_set_new(j, "baseline_ratio",
				    json_real((double)res->p50 / (double)res->base.rtt_ns_p50));
	}
	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(j);
}

static void print_table(const struct bench_link_opts *o, const struct bench_shared *sh,
			const struct bench_result *res)
{
	printf("driver      %s: %s\n", o->driver_name, sh->mode[BENCH_PING]);
	printf("message     %u bytes, written whole, and read a byte a cache line, on both sides; mtu %u, "
	       "payload checksum %s\n",
	       o->size, sh->mtu, o->checksum ? "on" : "off");
	printf("sides       idle %s, ", o->idle == DP_IDLE_SPIN ? "spin" : "adaptive");
	if (o->cores[0] >= 0)
		printf("cores %d and %d\n", o->cores[0], o->cores[1]);
	else
		printf("not pinned\n");
	printf("round trip  min %.2f  median %.2f  p99 %.2f  p99.9 %.2f  max %.2f us  (%u, after %u to warm "
	       "up)\n",
	       (double)res->min / 1e3, (double)res->p50 / 1e3, (double)res->p99 / 1e3,
	       (double)res->p999 / 1e3, (double)res->max / 1e3, o->count, o->warmup);
	if (o->one_way)
		printf("one way     %.3f GB/s\n", res->bytes_per_s / 1e9);
	if (sh->retransmits > 0)
		printf("repairs     %llu packets were sent again\n", (unsigned long long)sh->retransmits);
	if (o->baseline)
		printf("baseline    %s: median %.2f us; the link takes %.2f times as long\n",
		       res->base.program, (double)res->base.rtt_ns_p50 / 1e3,
		       (double)res->p50 / (double)res->base.rtt_ns_p50);
}

/* With a baseline: rounds of both in turns, a part of the count each, so that drift meets both. */
static int measure(struct bench_link_opts *o, struct bench_shared *sh, struct bench_result *res,
		   struct ps_err *err)
{
	struct bench_link_opts part = *o;
	struct bench_shared *tmp;
	uint32_t round, done = 0;
	int rc = 0;

	if (!o->baseline)
		return bench_once(o, sh, err);
	rc = bench_baseline_find(o, &res->base, err);
	if (rc != 0)
		return rc;
	tmp = malloc((size_t)o->count * sizeof(uint64_t));
	if (tmp == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for %u results", o->count);
	for (round = 0; round < BENCH_BASELINE_ROUNDS && rc == 0; round++) {
		part.count = (o->count - done) / (BENCH_BASELINE_ROUNDS - round);
		part.count = part.count == 0 ? 1 : part.count;
		part.one_way = o->one_way && round + 1 == BENCH_BASELINE_ROUNDS;
		rc = bench_once(&part, sh, err);
		memcpy((uint64_t *)(void *)tmp + done, sh->rtt_ns, (size_t)part.count * sizeof(uint64_t));
		done += part.count;
		if (rc == 0)
			rc = bench_baseline_run(o, &res->base, round, err);
	}
	memcpy(sh->rtt_ns, tmp, (size_t)o->count * sizeof(uint64_t));
	if (sh->one_way_ns > 0 && part.count > 0)
		sh->one_way_ns = (uint64_t)((double)sh->one_way_ns * o->count / part.count);
	free(tmp);
	return rc;
}

int bench_link(int argc, char **argv)
{
	struct bench_link_opts o = {.size = 8192, .count = 10000, .warmup = 1000};
	struct sigaction sa = {.sa_handler = on_signal}; /* no SA_RESTART: reads end, too */
	struct bench_result res = {0};
	struct ps_err err = {{0}};
	struct bench_shared *sh;
	size_t bytes;
	int rc = parse_args(argc, argv, &o);

	if (rc >= 0)
		return rc;
	if (o.baseline && o.count < BENCH_BASELINE_ROUNDS)
		return cli_usage("bench link", "--baseline wants --count of at least %u",
				 BENCH_BASELINE_ROUNDS);
	bytes = sizeof(*sh) + (size_t)o.count * sizeof(sh->rtt_ns[0]);
	sh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		return cli_fail("bench link", "cannot map %zu bytes for %u results: %s", bytes, o.count,
				strerror(errno));
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	rc = measure(&o, sh, &res, &err);
	if (rc == 0) {
		summarize(&o, sh, &res);
		if (o.json)
			print_json(&o, sh, &res);
		else
			print_table(&o, sh, &res);
	}
	munmap(sh, bytes);
	if (interrupted != 0)
		return 128 + interrupted;
	return rc == 0 ? CLI_OK : cli_fail("bench link", "%s", err.msg);
}
