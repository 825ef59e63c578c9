/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/bench_baseline.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

#define OUTPUT_MAX 65536u

extern char **environ;

int bench_baseline_find(const struct bench_link_opts *o, struct bench_baseline *b, struct ps_err *err)
{
	const char *name =
	    o->driver == BENCH_AF_XDP ? "penstock-raw-xsk-pingpong" : "penstock-raw-memif-pingpong";
	static const char *const places[] = {"", "../perf/"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	size_t i;
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash != NULL)
		slash[1] = '\0';
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int len = snprintf(b->program, sizeof(b->program), "%s%s%s", self, places[i], name);

		if (len > 0 && (size_t)len < sizeof(b->program) && access(b->program, X_OK) == 0)
			return 0;
	}
	return ps_err_set(
	    err, -ENOENT,
	    "--baseline: there is no %s beside %spenstock: build it with ninja -C build perf/%s", name, self,
	    name);
}

static int read_result(int fd, const char *program, uint64_t *p50_out, struct ps_err *err)
{
	json_error_t jerr;
	size_t len = 0;
	char *text = cli_read_all(fd, OUTPUT_MAX, &len);
	json_t *j = text == NULL ? NULL : json_loads(text, 0, &jerr);
	json_int_t p50 = json_integer_value(json_object_get(j, "rtt_ns_p50"));
	int rc = 0;

	if (p50 <= 0)
		rc = ps_err_set(err, -EBADMSG, "%s: expected a JSON object with rtt_ns_p50, found \"%.80s\"",
				program, text == NULL ? "" : text);
	else
		*p50_out = (uint64_t)p50;
	json_decref(j);
	free(text);
	return rc;
}

static int spawn_program(const struct bench_link_opts *o, const struct bench_baseline *b, int out_fd,
			 pid_t *pid_out, struct ps_err *err)
{
	char size[16], count[16], mtu[16];
	char *argv[] = {(char *)(uintptr_t)b->program, "--size", size, "--count", count, "--mtu", mtu, NULL};
	posix_spawn_file_actions_t actions;
	int rc;

	snprintf(size, sizeof(size), "%u", o->size);
	snprintf(count, sizeof(count), "%u", o->count / BENCH_BASELINE_ROUNDS);
	snprintf(mtu, sizeof(mtu), "%u", o->mtu);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
	rc = posix_spawn(pid_out, b->program, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (rc != 0)
		return ps_err_set(err, -rc, "%s: cannot run: %s", b->program, strerror(rc));
	return 0;
}

int bench_baseline_run(const struct bench_link_opts *o, struct bench_baseline *b, uint32_t round,
		       struct ps_err *err)
{
	uint64_t sorted[BENCH_BASELINE_ROUNDS];
	int fds[2], status = -1, rc;
	pid_t pid = 0;

	if (pipe2(fds, O_CLOEXEC) != 0)
		return ps_err_set(err, -errno, "no pipe: %s", strerror(errno));
	rc = spawn_program(o, b, fds[1], &pid, err);
	close(fds[1]);
	if (rc == 0)
		rc = read_result(fds[0], b->program, &b->rounds_ns[round], err);
	close(fds[0]);
	if (pid > 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			rc = ps_err_set(err, -EIO, "%s: failed (its reason is above)", b->program);
	}
	memcpy(sorted, b->rounds_ns, sizeof(sorted));
	b->rtt_ns_p50 = cli_quantile_u64(sorted, round + 1, 0.5);
	return rc;
}
