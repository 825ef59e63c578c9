/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/bell.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/pause.h"

#define ROUNDS  2000u
#define LOST_NS 20000000000ull /* a wait that took this long was never rung */
#define LONG_NS 30000000000ull

/* Two players hand a counter to and fro; each sleeps until it is its turn. */
struct game {
	_Atomic uint32_t turn; /* even: player 0 moves, odd: player 1 */
	_Atomic uint32_t lost; /* wake-ups that never came */
};

struct player {
	struct game *game;
	uint32_t side;
	bool with_fds;
	struct dp_bell *mine, *other;
};

/* Sleeps as the poll loops do: poll, arm, poll once more, wait. */
static bool await_turn(struct player *p, uint32_t turn)
{
	uint64_t start_ns;

	while (atomic_load_explicit(&p->game->turn, memory_order_acquire) != turn) {
		dp_bell_arm(p->mine, p->with_fds);
		if (atomic_load_explicit(&p->game->turn, memory_order_acquire) == turn) {
			dp_bell_disarm(p->mine);
			break;
		}
		start_ns = ps_now_ns();
		dp_bell_wait(p->mine, NULL, 0, LONG_NS);
		if (ps_now_ns() - start_ns >= LOST_NS) {
			atomic_fetch_add(&p->game->lost, 1);
			return false;
		}
	}
	return true;
}

static void *play(void *arg)
{
	struct player *p = arg;
	uint64_t random = 88172645463325252ull + p->side;
	uint32_t turn, i;

	for (turn = p->side; turn < 2 * ROUNDS; turn += 2) {
		if (!await_turn(p, turn))
			break;
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		/* So that the move falls before, into and after the other's arming. */
		for (i = 0; i < random % 512; i++)
			ps_pause();
		atomic_store_explicit(&p->game->turn, turn + 1, memory_order_release);
		dp_bell_ring(p->other);
	}
	return NULL;
}

static void play_threads(bool with_fds)
{
	struct game g = {0};
	struct dp_bell *a = dp_bell_create(), *b = dp_bell_create();
	struct player p0 = {.game = &g, .side = 0, .with_fds = with_fds, .mine = a, .other = b};
	struct player p1 = {.game = &g, .side = 1, .with_fds = with_fds, .mine = b, .other = a};
	pthread_t t;

	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal(pthread_create(&t, NULL, play, &p1), 0);
	play(&p0);
	pthread_join(t, NULL);
	assert_int_equal(atomic_load(&g.lost), 0);
	assert_int_equal(atomic_load(&g.turn), 2 * ROUNDS);
	assert_true(dp_bell_sleeps(a) + dp_bell_sleeps(b) > 0);
	dp_bell_destroy(a);
	dp_bell_destroy(b);
}

static void test_threads_futex(void **state)
{
	(void)state;
	play_threads(false);
}

static void test_threads_fifo(void **state)
{
	(void)state;
	play_threads(true);
}

static char folder[64];

static int make_folder(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/penstock-bell-XXXXXX");
	return mkdtemp(folder) == NULL ? -1 : 0;
}

static int remove_folder(void **state)
{
	(void)state;
	/* Fails, and with it the test, if a bell left a file. */
	return rmdir(folder);
}

static const char *path_of(const char *name)
{
	static char paths[4][128];
	static uint32_t n;
	char *path = paths[n++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static struct dp_bell *create_shared(const char *name)
{
	struct dp_bell *b = NULL;
	struct ps_err err = {{0}};

	if (dp_bell_create_shared(path_of(name), &b, &err) != 0)
		fail_msg("%s", err.msg);
	return b;
}

/* The child's part: opens the parent's bell, makes its own, plays side 1. */
static int child_plays(struct game *g, bool with_fds)
{
	struct player p = {.game = g, .side = 1, .with_fds = with_fds};
	struct ps_err err;

	if (dp_bell_open(path_of("parent"), &p.other, &err) != 0 ||
	    dp_bell_create_shared(path_of("child"), &p.mine, &err) != 0)
		return 2;
	play(&p);
	dp_bell_destroy(p.mine);
	dp_bell_destroy(p.other);
	return atomic_load(&g->turn) == 2 * ROUNDS && atomic_load(&g->lost) == 0 ? 0 : 1;
}

static void play_processes(bool with_fds)
{
	struct game *g = mmap(NULL, sizeof(*g), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct player p = {.game = g, .side = 0, .with_fds = with_fds};
	struct ps_err err;
	int status = -1, rc;
	pid_t pid;

	assert_true(g != MAP_FAILED);
	p.mine = create_shared("parent");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(child_plays(g, with_fds));
	/* -ENOENT is what a peer that is not up yet looks like. */
	do {
		rc = dp_bell_open(path_of("child"), &p.other, &err);
	} while (rc == -ENOENT && waitpid(pid, &status, WNOHANG) == 0);
	assert_int_equal(rc, 0);
	play(&p);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	dp_bell_destroy(p.mine);
	dp_bell_destroy(p.other);
	munmap(g, sizeof(*g));
}

static void test_processes_futex(void **state)
{
	(void)state;
	play_processes(false);
}

static void test_processes_fifo(void **state)
{
	(void)state;
	play_processes(true);
}

/* A bell rung while nobody is armed makes no later wait return early (futex), and at most one (FIFO). */
static void test_ring_without_sleeper(void **state)
{
	struct dp_bell *b = dp_bell_create();
	uint64_t start_ns;

	(void)state;
	assert_non_null(b);
	dp_bell_ring(b);
	dp_bell_arm(b, false);
	start_ns = ps_now_ns();
	dp_bell_wait(b, NULL, 0, 3000000);
	assert_true(ps_now_ns() - start_ns >= 3000000);
	/* Rung between arming and waiting: the wait returns at once, both ways. */
	dp_bell_arm(b, false);
	dp_bell_ring(b);
	dp_bell_wait(b, NULL, 0, LONG_NS);
	dp_bell_arm(b, true);
	dp_bell_ring(b);
	dp_bell_wait(b, NULL, 0, LONG_NS);
	assert_true(ps_now_ns() - start_ns < LOST_NS);
	/* The byte that this ring wrote may end one sleep, not two. */
	dp_bell_arm(b, true);
	dp_bell_wait(b, NULL, 0, 3000000);
	start_ns = ps_now_ns();
	dp_bell_arm(b, true);
	dp_bell_wait(b, NULL, 0, 3000000);
	assert_true(ps_now_ns() - start_ns >= 3000000);
	assert_int_equal(dp_bell_sleeps(b), 5);
	dp_bell_destroy(b);
}

static void test_descriptor_wakes(void **state)
{
	struct dp_bell *b = dp_bell_create();
	uint64_t start_ns = ps_now_ns();
	struct pollfd fd = {.events = POLLIN};
	int fds[2];

	(void)state;
	assert_non_null(b);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	fd.fd = fds[0];
	dp_bell_arm(b, true);
	dp_bell_wait(b, &fd, 1, LONG_NS);
	assert_true(ps_now_ns() - start_ns < LOST_NS);
	close(fds[0]);
	close(fds[1]);
	dp_bell_destroy(b);
}

static void write_file(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	close(fd);
}

static void test_open_errors(void **state)
{
	static uint8_t zeros[4096];
	struct dp_bell *b = NULL;
	struct ps_err err;

	(void)state;
	assert_int_equal(dp_bell_open(path_of("nobody"), &b, &err), -ENOENT);
	write_file(path_of("short"), "BELL", 4);
	assert_int_equal(dp_bell_open(path_of("short"), &b, &err), -EBADMSG);
	unlink(path_of("short"));
	write_file(path_of("zeros"), zeros, sizeof(zeros));
	assert_int_equal(dp_bell_open(path_of("zeros"), &b, &err), -ENOENT);
	unlink(path_of("zeros"));
	assert_int_equal(dp_bell_create_shared(path_of("no/such/folder"), &b, &err), -ENOENT);
	assert_true(strstr(err.msg, "no/such/folder") != NULL);
	assert_null(b);
}

/* A restarted owner replaces what a killed one left; the files go with the bell. */
static void test_replaces_stale(void **state)
{
	struct dp_bell *a, *b;
	struct stat st;

	(void)state;
	write_file(path_of("bell"), "stale", 5);
	write_file(path_of("bell.fifo"), "stale", 5);
	a = create_shared("bell");
	assert_int_equal(stat(path_of("bell.fifo"), &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	b = create_shared("bell");
	dp_bell_destroy(b);
	assert_int_equal(stat(path_of("bell"), &st), -1);
	assert_int_equal(stat(path_of("bell.fifo"), &st), -1);
	dp_bell_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ring_without_sleeper), cmocka_unit_test(test_descriptor_wakes),
	    cmocka_unit_test(test_open_errors),          cmocka_unit_test(test_replaces_stale),
	    cmocka_unit_test(test_threads_futex),        cmocka_unit_test(test_threads_fifo),
	    cmocka_unit_test(test_processes_futex),      cmocka_unit_test(test_processes_fifo),
	};

	return cmocka_run_group_tests_name("bell", tests, make_folder, remove_folder);
}
