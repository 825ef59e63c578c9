/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/client.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/penstock-client-XXXXXX");
	return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

/* A connection and, as a bare descriptor, its other end. */
static int open_conn(struct gw_conn *c)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	gw_conn_open(c, fds[0]);
	return fds[1];
}

static void put(int fd, const char *bytes)
{
	assert_int_equal(send(fd, bytes, strlen(bytes), MSG_NOSIGNAL), strlen(bytes));
}

static void test_split_lines(void **state)
{
	struct gw_conn c;
	int peer = open_conn(&c);

	(void)state;
	assert_true(gw_conn_read(&c)); /* nothing there is no error */
	assert_null(gw_conn_line(&c));
	put(peer, "{\"op\":");
	assert_true(gw_conn_read(&c));
	assert_null(gw_conn_line(&c));
	put(peer, "1}\nrest");
	assert_true(gw_conn_read(&c));
	assert_string_equal(gw_conn_line(&c), "{\"op\":1}");
	assert_null(gw_conn_line(&c));
	put(peer, " of it\n");
	assert_true(gw_conn_read(&c));
	assert_string_equal(gw_conn_line(&c), "rest of it");
	assert_null(gw_conn_line(&c));
	gw_conn_close(&c);
	close(peer);
}

/* Lines stay valid while the others of the same read are taken. */
static void test_many_lines_in_one_read(void **state)
{
	char text[40], *lines[500], all[16000] = "";
	struct gw_conn c;
	int peer = open_conn(&c);
	uint32_t i, n = 0;

	(void)state;
	for (i = 0; i < 500; i++) {
		snprintf(text, sizeof(text), "%u%s\n", i, i % 7 == 0 ? " and a longer one" : "");
		strcat(all, i == 13 ? "\n" : text);
	}
	strcat(all, "no end");
	put(peer, all);
	while (n < 500) {
		assert_true(gw_conn_read(&c));
		for (i = n; n < 500 && (lines[n] = gw_conn_line(&c)) != NULL; n++)
			;
		assert_true(n > i);
		for (; i < n; i++) {
			snprintf(text, sizeof(text), "%u%s", i, i % 7 == 0 ? " and a longer one" : "");
			assert_string_equal(lines[i], i == 13 ? "" : text);
		}
	}
	assert_true(gw_conn_read(&c));
	assert_null(gw_conn_line(&c));
	gw_conn_close(&c);
	close(peer);
}

/* Sends n bytes of a line from a peer that writes as the socket takes them; what gw_conn_read said last. */
static bool feed(struct gw_conn *c, int peer, size_t n, bool newline)
{
	static char chunk[65536];
	bool ok = true;

	memset(chunk, 'x', sizeof(chunk));
	while (n > 0 && ok) {
		ssize_t put_n =
		    send(peer, chunk, n < sizeof(chunk) ? n : sizeof(chunk), MSG_DONTWAIT | MSG_NOSIGNAL);

		assert_true(put_n > 0);
		n -= (size_t)put_n;
		ok = gw_conn_read(c);
	}
	if (ok && newline) {
		put(peer, "\n");
		ok = gw_conn_read(c);
	}
	return ok;
}

/* A line may have GW_LINE_MAX bytes with its end, and no more. */
static void test_long_lines(void **state)
{
	struct gw_conn c;
	int peer = open_conn(&c);
	char *line;

	(void)state;
	assert_true(feed(&c, peer, GW_LINE_MAX - 1, true));
	line = gw_conn_line(&c);
	assert_non_null(line);
	assert_int_equal(strlen(line), GW_LINE_MAX - 1);
	/* And the next one is a line like any other. */
	put(peer, "short\n");
	assert_true(gw_conn_read(&c));
	assert_string_equal(gw_conn_line(&c), "short");
	assert_false(feed(&c, peer, (size_t)GW_LINE_MAX + 1, false));
	assert_null(gw_conn_line(&c));
	assert_true(c.in_cap <= GW_LINE_MAX);
	gw_conn_close(&c);
	close(peer);
}

/* Takes n objects, waiting for them where they have not come yet; they count up from `first`. */
static void expect_objects(struct gw_conn *c, int64_t first, uint32_t n)
{
	for (; n > 0; n--, first++) {
		struct pollfd pfd = {.fd = c->fd, .events = POLLIN};
		json_t *o;
		char *line;

		while ((line = gw_conn_line(c)) == NULL) {
			assert_int_equal(poll(&pfd, 1, 10000), 1);
			assert_true(gw_conn_read(c));
		}
		o = json_loads(line, 0, NULL);
		assert_int_equal(json_integer_value(json_object_get(o, "n")), first);
		json_decref(o);
	}
}

static json_t *object(int64_t n, const char *text)
{
	return json_pack("{s:I, s:s}", "n", (json_int_t)n, "text", text);
}

static void test_send(void **state)
{
	struct gw_conn c;
	int peer = open_conn(&c);
	char buf[100];
	json_t *o = json_pack("{s:s, s:f}", "a", "line\nbreak", "b", 0.1);

	(void)state;
	json_incref(o);
	gw_conn_send(&c, o);
	assert_int_equal(o->refcount, 1); /* the other reference was taken */
	json_decref(o);
	assert_int_equal(recv(peer, buf, sizeof(buf), 0), 28);
	assert_memory_equal(buf, "{\"a\":\"line\\nbreak\",\"b\":0.1}\n", 28);
	assert_false(c.broken);
	gw_conn_send(&c, NULL); /* an object that could not be made */
	assert_true(c.broken);
	gw_conn_close(&c);
	close(peer);
}

/* What a slow reader leaves is kept and comes later, whole and in order. */
static void test_slow_reader(void **state)
{
	struct gw_conn c, reader;
	char *text = calloc(1, 10001);
	int peer = open_conn(&c);
	int64_t n = 0;

	(void)state;
	memset(text, 'y', 10000);
	gw_conn_open(&reader, peer);
	while (c.out_len < 300000) {
		gw_conn_send(&c, object(n++, text));
		assert_false(c.broken);
	}
	expect_objects(&reader, 0, 5);
	gw_conn_flush(&c);
	while (c.out_len > 0) {
		assert_true(gw_conn_read(&reader));
		assert_false(c.broken);
		gw_conn_flush(&c);
	}
	expect_objects(&reader, 5, (uint32_t)n - 5);
	gw_conn_close(&reader);
	gw_conn_close(&c);
	free(text);
}

/* Beyond the bound the connection is given up, and never grows further. */
static void test_reader_too_slow(void **state)
{
	struct gw_conn c;
	char *text = calloc(1, 100001);
	int peer = open_conn(&c);
	int64_t n = 0;
	size_t len = 0;

	(void)state;
	memset(text, 'y', 100000);
	while (!c.broken) {
		len = c.out_len;
		gw_conn_send(&c, object(n++, text));
		assert_true(n < 100);
	}
	assert_true(len > GW_OUTPUT_MAX - 200000 && c.out_len <= GW_OUTPUT_MAX);
	gw_conn_send(&c, object(n, text));
	assert_true(c.broken && c.out_len == len);
	gw_conn_close(&c);
	close(peer);
	free(text);
}

/* A peer that went away: its last lines are still there, then the end is told; sending breaks
 * the connection and not the process. */
static void test_peer_gone(void **state)
{
	struct gw_conn c;
	int peer = open_conn(&c);

	(void)state;
	put(peer, "last words\nhalf");
	close(peer);
	assert_true(gw_conn_read(&c));
	assert_string_equal(gw_conn_line(&c), "last words");
	assert_null(gw_conn_line(&c));
	assert_false(gw_conn_read(&c));
	assert_null(gw_conn_line(&c));
	gw_conn_send(&c, object(1, "x"));
	assert_true(c.broken);
	gw_conn_close(&c);
	assert_int_equal(c.fd, -1);
	gw_conn_close(&c);
}

static void test_listen_and_connect(void **state)
{
	char path[100];
	struct stat st;
	int listener, client, accepted;

	(void)state;
	snprintf(path, sizeof(path), "%s/gw.sock", dir);
	assert_int_equal(gw_connect(path), -ENOENT);
	listener = gw_listen(path);
	assert_true(listener >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(accept(listener, NULL, NULL), -1); /* it does not block */
	assert_int_equal(errno, EAGAIN);
	client = gw_connect(path);
	assert_true(client >= 0);
	accepted = accept(listener, NULL, NULL);
	assert_true(accepted >= 0);
	put(client, "x");
	close(accepted);
	close(client);
	/* Somebody listens: he is not pushed off his path. */
	assert_int_equal(gw_listen(path), -EADDRINUSE);
	client = gw_connect(path);
	assert_true(client >= 0);
	close(client);
	close(listener);
	/* The file is still there, but nobody listens. */
	assert_int_equal(gw_connect(path), -ECONNREFUSED);
	listener = gw_listen(path);
	assert_true(listener >= 0);
	client = gw_connect(path);
	assert_true(client >= 0);
	close(client);
	close(listener);
	unlink(path);
}

/* A path is never taken from a file that is no socket. */
static void test_listen_keeps_files(void **state)
{
	char path[100];
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "%s/notes", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(gw_listen(path), -EEXIST);
	assert_int_equal(unlink(path), 0);
}

static void test_bad_paths(void **state)
{
	const size_t room = sizeof(((struct sockaddr_un *)NULL)->sun_path);
	char path[300];

	(void)state;
	memset(path, 'p', sizeof(path));
	path[room] = '\0';
	assert_int_equal(gw_listen(path), -ENAMETOOLONG);
	assert_int_equal(gw_connect(path), -ENAMETOOLONG);
	snprintf(path, sizeof(path), "%s/no/such/folder", dir);
	assert_int_equal(gw_listen(path), -ENOENT);
	assert_int_equal(gw_connect(path), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_split_lines),        cmocka_unit_test(test_many_lines_in_one_read),
	    cmocka_unit_test(test_long_lines),         cmocka_unit_test(test_send),
	    cmocka_unit_test(test_slow_reader),        cmocka_unit_test(test_reader_too_slow),
	    cmocka_unit_test(test_peer_gone),          cmocka_unit_test(test_listen_and_connect),
	    cmocka_unit_test(test_listen_keeps_files), cmocka_unit_test(test_bad_paths),
	};

	return cmocka_run_group_tests_name("client", tests, make_dir, remove_dir);
}
