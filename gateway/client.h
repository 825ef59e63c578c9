/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_GATEWAY_CLIENT_H
#define PENSTOCK_GATEWAY_CLIENT_H
/*
 * One connection of newline-delimited JSON over a unix socket: bounded input
 * lines, bounded output that never blocks. Used by the gateway's server and by
 * the control socket of every process.
 */
#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#define GW_LINE_MAX   (4u << 20) /* bytes of one request line */
#define GW_OUTPUT_MAX (4u << 20) /* bytes a slow client may leave unread before it is dropped */

struct gw_conn {
	int fd; /* -1: free */
	char *in;
	size_t in_used, in_len, in_cap; /* in_used: bytes that were handed out as lines */
	char *out;
	size_t out_len, out_cap;
	bool broken; /* to be closed */
};

void gw_conn_open(struct gw_conn *c, int fd); /* takes the descriptor; -1 makes a free one */
void gw_conn_close(struct gw_conn *c);

/* Reads what is there. False: the peer is gone or sent a line too long. */
bool gw_conn_read(struct gw_conn *c);
/* The next whole line, terminated in place, or NULL; valid until the next gw_conn_read. */
char *gw_conn_line(struct gw_conn *c);
/* Sends an object as one line (now, or as far as the socket takes it); steals the reference. */
void gw_conn_send(struct gw_conn *c, json_t *object);
/* Sends what is left over. */
void gw_conn_flush(struct gw_conn *c);

/* A listening unix socket, non-blocking, mode 0600, replacing a stale one. -errno: -EADDRINUSE where
 * somebody listens already, -EEXIST where the path is another kind of file, -ENAMETOOLONG. */
int gw_listen(const char *path);
/* Connects; -errno, -EAGAIN where the listener accepts nobody. */
int gw_connect(const char *path);

#endif
