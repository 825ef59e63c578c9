/* SPDX-License-Identifier: BSD-3-Clause */
/* A stage's control socket, served by a thread, and those who ask it. */
#include "cli/control.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "gateway/client.h"

#define FILL_BYTES 20000u /* so that answers soon fill a socket that nobody reads */

_Atomic int proc_stop; /* a process's own, in cli/proc.c */

struct rig {
	struct proc p;
	struct topo_proc self;
	pthread_t thread;
	char text[FILL_BYTES + 1];
	int rc;
	struct ps_err err;
};

static void fill(void *ctx, json_t *o)
{
	json_object_set_new(o, "text", json_string(ctx));
}

static void *serve(void *arg)
{
	struct rig *r = arg;

	r->rc = control_serve(&r->p, fill, r->text, &r->err);
	return NULL;
}

static void prepare(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	atomic_store(&proc_stop, 0);
	snprintf(r->p.args.run_dir, sizeof(r->p.args.run_dir), "/tmp/penstock-control-XXXXXX");
	assert_non_null(mkdtemp(r->p.args.run_dir));
	snprintf(r->self.name, sizeof(r->self.name), "one");
	r->p.self = &r->self;
	memset(r->text, 'f', FILL_BYTES);
}

static int connect_to(const struct rig *r)
{
	char path[TOPO_PATH_BYTES + 64];
	uint64_t start_ns = ps_now_ns();
	int fd;

	control_path(r->p.args.run_dir, "one", path, sizeof(path));
	/* The server's thread may not have got there yet. */
	while ((fd = gw_connect(path)) < 0 && ps_now_ns() - start_ns < 20000000000ull)
		sched_yield();
	assert_true(fd >= 0);
	return fd;
}

static void start(struct rig *r)
{
	prepare(r);
	assert_int_equal(pthread_create(&r->thread, NULL, serve, r), 0);
	close(connect_to(r));
}

static void end(struct rig *r)
{
	atomic_store(&proc_stop, 1);
	pthread_join(r->thread, NULL);
	assert_int_equal(r->rc, 0);
	/* The socket's file is gone. */
	assert_int_equal(rmdir(r->p.args.run_dir), 0);
}

static void test_path(void **state)
{
	char path[64];

	(void)state;
	control_path("/run/x", "stage-1", path, sizeof(path));
	assert_string_equal(path, "/run/x/stage-1.sock");
}

static void test_ask(void **state)
{
	struct rig r;
	json_t *o;
	uint32_t i;

	(void)state;
	start(&r);
	/* More questions, one after the other, than there are connections. */
	for (i = 0; i < 40; i++) {
		o = control_ask(r.p.args.run_dir, "one", "status", 10000);
		assert_non_null(o);
		assert_string_equal(json_string_value(json_object_get(o, "event")), "status");
		assert_string_equal(json_string_value(json_object_get(o, "text")), r.text);
		json_decref(o);
	}
	o = control_ask(r.p.args.run_dir, "one", "dance", 10000);
	assert_string_equal(json_string_value(json_object_get(o, "event")), "error");
	json_decref(o);
	assert_null(control_ask(r.p.args.run_dir, "other", "status", 10000));
	end(&r);
	assert_null(control_ask(r.p.args.run_dir, "one", "status", 10000));
}

static json_t *next_answer(struct gw_conn *c)
{
	struct pollfd pfd = {.fd = c->fd, .events = POLLIN};
	char *line;

	while ((line = gw_conn_line(c)) == NULL) {
		if (poll(&pfd, 1, 10000) != 1 || !gw_conn_read(c))
			return NULL;
	}
	return json_loads(line, 0, NULL);
}

/* Who asks a lot and reads late gets all answers though he asks no more. */
static void test_slow_reader(void **state)
{
	static const char question[] = "{\"op\": \"status\"}\n";
	struct gw_conn c;
	struct rig r;
	json_t *o;
	uint32_t i;

	(void)state;
	start(&r);
	gw_conn_open(&c, connect_to(&r));
	for (i = 0; i < 100; i++)
		assert_int_equal(send(c.fd, question, sizeof(question) - 1, 0), sizeof(question) - 1);
	for (i = 0; i < 100; i++) {
		o = next_answer(&c);
		if (o == NULL)
			fail_msg("answer %u did not come", i);
		json_decref(o);
	}
	gw_conn_close(&c);
	end(&r);
}

/* Nonsense is answered with an error; a client more than there is room for is let go. */
static void test_strangers(void **state)
{
	struct gw_conn c[17];
	struct rig r;
	char byte;
	uint32_t i;
	json_t *o;

	(void)state;
	start(&r);
	for (i = 0; i < 16; i++) {
		gw_conn_open(&c[i], connect_to(&r));
		assert_int_equal(send(c[i].fd, "nonsense\n", 9, 0), 9);
		o = next_answer(&c[i]);
		assert_string_equal(json_string_value(json_object_get(o, "event")), "error");
		json_decref(o);
	}
	gw_conn_open(&c[16], connect_to(&r));
	assert_int_equal(recv(c[16].fd, &byte, 1, 0), 0);
	/* When one has gone there is room again. */
	gw_conn_close(&c[3]);
	do {
		o = control_ask(r.p.args.run_dir, "one", "status", 10000);
	} while (o == NULL);
	json_decref(o);
	for (i = 0; i < 17; i++)
		gw_conn_close(&c[i]);
	end(&r);
}

static void test_cannot_listen(void **state)
{
	struct rig r;

	(void)state;
	prepare(&r);
	assert_int_equal(rmdir(r.p.args.run_dir), 0);
	assert_int_equal(control_serve(&r.p, fill, r.text, &r.err), -ENOENT);
	assert_non_null(strstr(r.err.msg, "one.sock: cannot listen"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_path),          cmocka_unit_test(test_ask),
	    cmocka_unit_test(test_slow_reader),   cmocka_unit_test(test_strangers),
	    cmocka_unit_test(test_cannot_listen),
	};

	return cmocka_run_group_tests_name("cli-control", tests, NULL, NULL);
}
