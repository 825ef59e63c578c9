/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf/pingpong.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define RUN_TIMEOUT_S 120u
#define IFACE_WAIT_US 200000u

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

bool pp_exchange(struct pp_side *s, void *ctx, pp_xfer send, pp_xfer recv)
{
	uint32_t size = s->o->size, warm = s->o->count / 10u, sink = 0;
	uint8_t *out = malloc(size + 1u), *in = malloc(size + 1u);
	bool ok = out != NULL && in != NULL;

	for (uint32_t i = 0; ok && i < s->o->count + warm; i++) {
		uint64_t t0 = ps_now_ns();

		if (s->side == 1)
			ok = recv(ctx, in, size);
		/* Touched as an activation is: written by the sender, read by the receiver. */
		memset(out, (int)(i & 0xff), size);
		ok = ok && send(ctx, out, size);
		if (s->side == 0)
			ok = ok && recv(ctx, in, size);
		for (uint32_t k = 0; k < size; k += 64)
			sink += in[k];
		if (s->side == 0 && i >= warm)
			s->rtt_ns[i - warm] = (uint32_t)(ps_now_ns() - t0);
		if (ok && size != 0 && in[size - 1] != (uint8_t)i) {
			fprintf(stderr, "side %d: round trip %u: wrong bytes\n", s->side, i);
			ok = false;
		}
	}
	__asm__ volatile("" ::"r"(sink));
	free(out);
	free(in);
	return ok;
}

static void print_json(const struct pp_options *o, const char *mode, uint32_t *rtt)
{
	uint32_t n = o->count;

	qsort(rtt, n, sizeof(*rtt), compare_u32);
	printf("{\"driver\": \"%s\", \"mode\": \"%s\", \"size\": %u, \"mtu\": %u, \"count\": %u, "
	       "\"rtt_ns_min\": %u, \"rtt_ns_p50\": %u, \"rtt_ns_p99\": %u, \"rtt_ns_p999\": %u, "
	       "\"rtt_ns_max\": %u}\n",
	       o->driver, mode, o->size, o->mtu, n, rtt[0], rtt[n / 2], rtt[(uint64_t)n * 99 / 100],
	       rtt[(uint64_t)n * 999 / 1000], rtt[n - 1]);
}

static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)core, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fprintf(stderr, "core %d: %s (not pinned)\n", core, strerror(errno));
}

/* The child's end of setting up: a namespace, and an interface that the parent puts in. */
static bool enter_netns(const struct pp_side *s, int ready, int go)
{
	char cmd[200], c;

	if (unshare(CLONE_NEWNET) != 0) {
		fprintf(stderr, "namespaces: %s (needs root)\n", strerror(errno));
		return false;
	}
	if (write(ready, "r", 1) != 1 || read(go, &c, 1) != 1)
		return false;
	snprintf(cmd, sizeof(cmd),
		 "ip link set lo up && ip link set ppveth%d mtu %u up && "
		 "ip addr add 10.98.0.%d/24 dev ppveth%d",
		 s->side, s->o->mtu, s->side + 1, s->side);
	if (system(cmd) != 0)
		return false;
	usleep(IFACE_WAIT_US); /* until the other end is up as well */
	return true;
}

struct child {
	pid_t pid;
	int ready, go;
};

static struct child spawn(struct pp_side *s, bool (*run_side)(struct pp_side *))
{
	struct child ch;
	int ready[2], go[2];

	if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0)
		abort();
	fflush(NULL);
	ch.pid = fork();
	if (ch.pid < 0)
		abort();
	if (ch.pid == 0) {
		bool ok;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		close(go[1]);
		ok = !s->o->netns || enter_netns(s, ready[1], go[0]);
		pin(s->o->core[s->side]);
		ok = ok && run_side(s);
		if (ok && s->side == 0)
			print_json(s->o, s->mode != NULL ? s->mode : "", s->rtt_ns);
		fflush(NULL);
		_exit(ok ? 0 : 1);
	}
	close(ready[1]);
	close(go[0]);
	ch.ready = ready[0];
	ch.go = go[1];
	return ch;
}

static void join_namespaces(const struct child ch[2])
{
	char cmd[160], c;

	for (int i = 0; i < 2; i++)
		if (read(ch[i].ready, &c, 1) != 1)
			return;
	snprintf(cmd, sizeof(cmd), "ip link add name ppveth0 netns %d type veth peer name ppveth1 netns %d",
		 (int)ch[0].pid, (int)ch[1].pid);
	if (system(cmd) != 0)
		return;
	for (int i = 0; i < 2; i++)
		(void)!write(ch[i].go, "g", 1);
}

/* Waits for both; when one fails or the time is up, the other is ended. */
static int join_children(const struct child ch[2])
{
	uint64_t end = ps_now_ns() + RUN_TIMEOUT_S * 1000000000ull;
	bool gone[2] = {false, false};
	int rc = 0;

	while (!gone[0] || !gone[1]) {
		for (int i = 0; i < 2; i++) {
			int status;

			if (gone[i] || waitpid(ch[i].pid, &status, WNOHANG) == 0)
				continue;
			gone[i] = true;
			if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
				rc = 1;
		}
		if (rc != 0 || ps_now_ns() > end) {
			rc = 1;
			for (int i = 0; i < 2; i++)
				if (!gone[i])
					kill(ch[i].pid, SIGKILL);
		}
		usleep(2000);
	}
	return rc;
}

static bool parse(int argc, char **argv, struct pp_options *o)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *k = argv[i], *v = argv[i + 1];

		if (strcmp(k, "--size") == 0)
			o->size = (uint32_t)strtoul(v, NULL, 0);
		else if (strcmp(k, "--count") == 0)
			o->count = (uint32_t)strtoul(v, NULL, 0);
		else if (strcmp(k, "--mtu") == 0)
			o->mtu = (uint32_t)strtoul(v, NULL, 0);
		else if (strcmp(k, "--driver") == 0)
			o->driver = v;
		else if (strcmp(k, "--hugepages") == 0)
			o->hugepages_mb = (uint32_t)strtoul(v, NULL, 0);
		else if (strcmp(k, "--capture") == 0)
			o->capture = strcmp(v, "1") == 0;
		else if (strcmp(k, "--cores") != 0 || sscanf(v, "%d,%d", &o->core[0], &o->core[1]) != 2)
			return false;
	}
	return argc % 2 == 1 && o->count > 0 && o->count <= 10000000 && o->size <= (1u << 20);
}

int pp_main(int argc, char **argv, struct pp_options *o, bool (*run_side)(struct pp_side *s))
{
	struct pp_side s[2] = {{.o = o, .side = 0}, {.o = o, .side = 1}};
	char dir[] = "/tmp/penstock-pp-XXXXXX", path[96];
	struct child ch[2];
	int rc;

	o->core[1] = sysconf(_SC_NPROCESSORS_ONLN) > 1;
	if (!parse(argc, argv, o)) {
		fprintf(stderr,
			"usage: %s [--size BYTES] [--count N] [--mtu N] [--driver memif|af_xdp] "
			"[--hugepages MB] [--cores A,B] [--capture 1]\n",
			argv[0]);
		return 2;
	}
	if (strcmp(o->driver, "af_xdp") == 0)
		o->netns = true;
	s[0].rtt_ns = calloc(o->count, sizeof(uint32_t));
	if (s[0].rtt_ns == NULL || mkdtemp(dir) == NULL)
		return 1;
	for (int i = 0; i < 2; i++)
		snprintf(s[i].dir, sizeof(s[i].dir), "%s", dir);
	ch[1] = spawn(&s[1], run_side);
	ch[0] = spawn(&s[0], run_side);
	if (o->netns)
		join_namespaces(ch);
	rc = join_children(ch);
	snprintf(path, sizeof(path), "%s/pp.sock", dir);
	unlink(path);
	rmdir(dir);
	free(s[0].rtt_ns);
	return rc;
}
