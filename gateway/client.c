/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define CONN_FIRST_BYTES 4096u
#define CONN_CONNECT_S   2 /* how long gw_connect waits for a full backlog */

void gw_conn_open(struct gw_conn *c, int fd)
{
	memset(c, 0, sizeof(*c));
	c->fd = fd;
}

void gw_conn_close(struct gw_conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->in);
	free(c->out);
	memset(c, 0, sizeof(*c));
	c->fd = -1;
}

/* Room for `more` bytes; false beyond `max` or out of memory. */
static bool grow(char **buf, size_t *cap, size_t len, size_t more, size_t max)
{
	size_t want = *cap == 0 ? CONN_FIRST_BYTES : *cap;
	char *bigger;

	if (len + more > max)
		return false;
	while (want < len + more)
		want *= 2;
	if (want == *cap)
		return true;
	bigger = realloc(*buf, want);
	if (bigger == NULL)
		return false;
	*buf = bigger;
	*cap = want;
	return true;
}

bool gw_conn_read(struct gw_conn *c)
{
	size_t room;
	ssize_t n;

	/* The lines that were handed out are done with. */
	if (c->in_used > 0) {
		c->in_len -= c->in_used;
		memmove(c->in, c->in + c->in_used, c->in_len);
		c->in_used = 0;
	}
	for (;;) {
		room = GW_LINE_MAX - c->in_len;
		if (room == 0 || !grow(&c->in, &c->in_cap, c->in_len,
				       room < CONN_FIRST_BYTES ? room : CONN_FIRST_BYTES, GW_LINE_MAX))
			return false;
		n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		c->in_len += (size_t)n;
		if (memchr(c->in + c->in_len - (size_t)n, '\n', (size_t)n) != NULL)
			return true;
	}
}

char *gw_conn_line(struct gw_conn *c)
{
	size_t left = c->in_len - c->in_used;
	char *line = c->in + c->in_used, *end = left > 0 ? memchr(line, '\n', left) : NULL;

	if (end == NULL)
		return NULL;
	*end = '\0';
	c->in_used += (size_t)(end - line) + 1;
	return line;
}

void gw_conn_flush(struct gw_conn *c)
{
	ssize_t n;

	while (c->out_len > 0 && !c->broken) {
		n = send(c->fd, c->out, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			c->broken = errno != EAGAIN;
			return;
		}
		memmove(c->out, c->out + n, c->out_len - (size_t)n);
		c->out_len -= (size_t)n;
	}
}

void gw_conn_send(struct gw_conn *c, json_t *object)
{
	char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(12));
	size_t len;

	json_decref(object);
	if (text == NULL) {
		c->broken = true;
		return;
	}
	len = strlen(text);
	if (c->broken || !grow(&c->out, &c->out_cap, c->out_len, len + 1, GW_OUTPUT_MAX)) {
		c->broken = true;
	} else {
		memcpy(c->out + c->out_len, text, len);
		c->out[c->out_len + len] = '\n';
		c->out_len += len + 1;
		gw_conn_flush(c);
	}
	free(text);
}

static int unix_socket(const char *path, int flags, struct sockaddr_un *addr)
{
	int fd;

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(addr->sun_path))
		return -ENAMETOOLONG;
	strcpy(addr->sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	return fd < 0 ? -errno : fd;
}

/* Makes room at the path: a socket on which nobody listens any more goes, one in use and any other
 * file stay. */
static int remove_stale(const char *path, const struct sockaddr_un *addr)
{
	struct stat st;
	int fd, rc;

	if (lstat(path, &st) != 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* EAGAIN: somebody listens, whose backlog is full. */
	rc = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN ? -EADDRINUSE
											       : 0;
	close(fd);
	if (rc == 0 && unlink(path) != 0 && errno != ENOENT)
		rc = -errno;
	return rc;
}

int gw_listen(const char *path)
{
	struct sockaddr_un addr;
	int fd = unix_socket(path, SOCK_NONBLOCK, &addr), rc;

	if (fd < 0)
		return fd;
	rc = remove_stale(path, &addr);
	if (rc == 0 && (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || chmod(path, 0600) != 0 ||
			listen(fd, 16) != 0))
		rc = -errno;
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

int gw_connect(const char *path)
{
	/* A peer that accepts no more (a process that was stopped) must not hang its caller. */
	const struct timeval patience = {.tv_sec = CONN_CONNECT_S};
	struct sockaddr_un addr;
	int fd = unix_socket(path, 0, &addr), rc;

	if (fd < 0)
		return fd;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0 ||
	    connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}
