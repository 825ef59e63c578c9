/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "topology/yread.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct yr_key proc_keys[] = {
    {.name = "name",
     .kind = YR_NAME,
     .offset = offsetof(struct launch_state_proc, name),
     .max = TOPO_NAME_BYTES,
     .required = true},
    {.name = "pid",
     .kind = YR_U32,
     .offset = offsetof(struct launch_state_proc, pid),
     .min = 2,
     .max = INT32_MAX,
     .required = true},
    {.name = "start_ticks",
     .kind = YR_U64,
     .offset = offsetof(struct launch_state_proc, start_ticks),
     .required = true},
};

static int read_proc(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct launch_state *s = obj;

	return yr_mapping(r, n, "a process", proc_keys, COUNT(proc_keys), &s->procs[s->n_procs++]);
}

static int read_procs(struct yr *r, const yaml_node_t *n, void *obj)
{
	return yr_list(r, n, "processes", TOPO_MAX_PROCS, read_proc, obj);
}

static const struct yr_key netns_keys[] = {
    {.name = "name",
     .kind = YR_NAME,
     .offset = offsetof(struct launch_state_netns, name),
     .max = TOPO_NAME_BYTES,
     .required = true},
};

static int read_netns(struct yr *r, const yaml_node_t *n, void *obj)
{
	struct launch_state *s = obj;

	return yr_mapping(r, n, "a namespace", netns_keys, COUNT(netns_keys), &s->netns[s->n_netns++]);
}

static int read_netnses(struct yr *r, const yaml_node_t *n, void *obj)
{
	return yr_list(r, n, "namespaces", TOPO_MAX_NODES, read_netns, obj);
}

#define AT(f) offsetof(struct launch_state, f)
static const struct yr_key state_keys[] = {
    {.name = "name", .kind = YR_NAME, .offset = AT(name), .max = TOPO_NAME_BYTES, .required = true},
    {.name = "launcher_pid",
     .kind = YR_U32,
     .offset = AT(launcher_pid),
     .min = 1,
     .max = INT32_MAX,
     .required = true},
    {.name = "launcher_start_ticks", .kind = YR_U64, .offset = AT(launcher_start_ticks), .required = true},
    {.name = "detached", .kind = YR_BOOL, .offset = AT(detached)},
    {.name = "ready", .kind = YR_BOOL, .offset = AT(ready)},
    {.name = "hugepages_added", .kind = YR_U32, .offset = AT(hugepages_added), .max = 1u << 22},
    {.name = "netns", .kind = YR_CUSTOM, .custom = read_netnses},
    {.name = "processes", .kind = YR_CUSTOM, .custom = read_procs},
};

int launch_state_read(const char *run_dir, struct launch_state *s, struct ps_err *err)
{
	char path[PATH_MAX];
	struct yr r;
	int rc;

	memset(s, 0, sizeof(*s));
	snprintf(path, sizeof(path), "%s/state.yaml", run_dir);
	rc = yr_open(&r, path, err);
	if (rc != 0)
		return rc;
	rc = yr_mapping(&r, yr_root(&r), "a deployment's state", state_keys, COUNT(state_keys), s);
	yr_close(&r);
	return rc;
}

static void write_state(FILE *f, const struct launch_state *s)
{
	fprintf(f, "name: \"%s\"\nlauncher_pid: %u\nlauncher_start_ticks: %llu\n", s->name, s->launcher_pid,
		(unsigned long long)s->launcher_start_ticks);
	fprintf(f, "detached: %s\nready: %s\nhugepages_added: %u\n", s->detached ? "true" : "false",
		s->ready ? "true" : "false", s->hugepages_added);
	fprintf(f, "netns:%s\n", s->n_netns == 0 ? " []" : "");
	for (uint32_t i = 0; i < s->n_netns; i++)
		fprintf(f, "  - {name: \"%s\"}\n", s->netns[i].name);
	fprintf(f, "processes:%s\n", s->n_procs == 0 ? " []" : "");
	for (uint32_t i = 0; i < s->n_procs; i++)
		fprintf(f, "  - {name: \"%s\", pid: %u, start_ticks: %llu}\n", s->procs[i].name,
			s->procs[i].pid, (unsigned long long)s->procs[i].start_ticks);
}

int launch_state_write(const char *run_dir, const struct launch_state *s, struct ps_err *err)
{
	char path[PATH_MAX], tmp[PATH_MAX];
	bool failed;
	FILE *f;

	snprintf(path, sizeof(path), "%s/state.yaml", run_dir);
	snprintf(tmp, sizeof(tmp), "%s/state.new", run_dir);
	f = fopen(tmp, "we");
	if (f == NULL)
		return ps_err_set(err, -errno, "%s: %s", tmp, strerror(errno));
	write_state(f, s);
	failed = ferror(f) != 0;
	if (fclose(f) != 0 || failed || rename(tmp, path) != 0)
		return ps_err_set(err, -(errno ? errno : EIO), "%s: %s", path, strerror(errno));
	return 0;
}

uint64_t launch_start_ticks(pid_t pid)
{
	unsigned long long ticks = 0;
	char path[64], line[1024], *p, state = 'X';
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, line, sizeof(line) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	line[n] = '\0';
	/* The name in parentheses may hold anything; fields 3 (state) and 22 come after the last one. */
	p = strrchr(line, ')');
	if (p == NULL || sscanf(p + 1,
				" %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
				"%*s %llu",
				&state, &ticks) != 2)
		return 0;
	return state == 'Z' || state == 'X' ? 0 : ticks;
}
