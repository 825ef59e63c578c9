/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/control.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/client.h"

#define CONTROL_MAX_CLIENTS 16
#define CONTROL_WAIT_MS     100
#define CONTROL_ASK_MS      1000

void control_path(const char *run_dir, const char *name, char *out, size_t cap)
{
	snprintf(out, cap, "%s/%s.sock", run_dir, name);
}

static void answer(struct gw_conn *c, const char *line, void (*fill)(void *ctx, json_t *object), void *ctx)
{
	json_t *q = json_loads(line, 0, NULL), *o;
	const char *op = json_string_value(json_object_get(q, "op"));

	if (op != NULL && strcmp(op, "status") == 0) {
		o = json_pack("{s:s}", "event", "status");
		fill(ctx, o);
	} else {
		o = json_pack("{s:s, s:s}", "event", "error", "text", "expected {\"op\": \"status\"}");
	}
	json_decref(q);
	gw_conn_send(c, o);
}

static void serve_conn(struct gw_conn *c, void (*fill)(void *ctx, json_t *object), void *ctx)
{
	bool open = gw_conn_read(c);
	char *line;

	while (!c->broken && (line = gw_conn_line(c)) != NULL)
		answer(c, line, fill, ctx);
	gw_conn_flush(c);
	if (!open || c->broken)
		gw_conn_close(c);
}

int control_serve(struct proc *p, void (*fill)(void *ctx, json_t *object), void *ctx, struct ps_err *err)
{
	struct gw_conn conns[CONTROL_MAX_CLIENTS];
	char path[TOPO_PATH_BYTES + 64];
	int listen_fd, fd, i;

	control_path(p->args.run_dir, p->self->name, path, sizeof(path));
	listen_fd = gw_listen(path);
	if (listen_fd < 0)
		return ps_err_set(err, listen_fd, "%s: cannot listen: %s", path, strerror(-listen_fd));
	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		gw_conn_open(&conns[i], -1);
	while (atomic_load_explicit(&proc_stop, memory_order_relaxed) == 0) {
		struct pollfd fds[CONTROL_MAX_CLIENTS + 1];

		for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
			fds[i] = (struct pollfd){
			    .fd = conns[i].fd,
			    .events = (short)(POLLIN | (conns[i].out_len > 0 ? POLLOUT : 0)),
			};
		fds[CONTROL_MAX_CLIENTS] = (struct pollfd){.fd = listen_fd, .events = POLLIN};
		if (poll(fds, CONTROL_MAX_CLIENTS + 1, CONTROL_WAIT_MS) <= 0)
			continue;
		for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
			if (conns[i].fd >= 0 && fds[i].revents != 0)
				serve_conn(&conns[i], fill, ctx);
		}
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		for (i = 0; fd >= 0 && i < CONTROL_MAX_CLIENTS && conns[i].fd >= 0; i++)
			;
		if (fd >= 0 && i < CONTROL_MAX_CLIENTS)
			gw_conn_open(&conns[i], fd);
		else if (fd >= 0)
			close(fd);
	}
	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		gw_conn_close(&conns[i]);
	close(listen_fd);
	unlink(path);
	return 0;
}

json_t *control_ask(const char *run_dir, const char *name, const char *op, int timeout_ms)
{
	char path[TOPO_PATH_BYTES + 64];
	json_t *o = NULL;
	struct gw_conn c;
	struct pollfd pfd;
	char *line;
	int fd;

	control_path(run_dir, name, path, sizeof(path));
	fd = gw_connect(path);
	if (fd < 0)
		return NULL;
	gw_conn_open(&c, fd);
	gw_conn_send(&c, json_pack("{s:s}", "op", op));
	pfd = (struct pollfd){.fd = fd, .events = POLLIN};
	while (o == NULL && !c.broken && poll(&pfd, 1, timeout_ms) > 0) {
		bool open = gw_conn_read(&c);

		line = gw_conn_line(&c);
		if (line != NULL)
			o = json_loads(line, 0, NULL);
		if (!open)
			break;
	}
	gw_conn_close(&c);
	return o;
}

int control_find_gateway(const char *run_dir, char *name_out, size_t cap, struct ps_err *err)
{
	struct dirent *e;
	bool found = false;
	DIR *d = opendir(run_dir);

	while (!found && d != NULL && (e = readdir(d)) != NULL) {
		const char *dot = strrchr(e->d_name, '.'), *role;
		json_t *o;

		if (dot == NULL || strcmp(dot, ".sock") != 0)
			continue;
		snprintf(name_out, cap, "%.*s", (int)(dot - e->d_name), e->d_name);
		o = control_ask(run_dir, name_out, "status", CONTROL_ASK_MS);
		role = json_string_value(json_object_get(o, "role"));
		found = role != NULL && strcmp(role, "gateway") == 0;
		json_decref(o);
	}
	if (d != NULL)
		closedir(d);
	if (!found)
		return ps_err_set(err, -ENOENT,
				  "%s: found no gateway that answers; expected penstock gateway "
				  "to run there",
				  run_dir);
	return 0;
}
