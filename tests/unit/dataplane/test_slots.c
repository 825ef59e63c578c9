/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/slots.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct dp_slots *make(uint32_t n, size_t bytes, bool want_huge)
{
	struct dp_slots *s = NULL;
	struct ps_err err = {{0}};

	if (dp_slots_create(n, bytes, want_huge, &s, &err) != 0)
		fail_msg("%s", err.msg);
	return s;
}

/* Slots are of the size asked for, rounded up to 64 bytes, inside the block, and apart from each other. */
static void test_layout(void **state)
{
	static const struct {
		size_t bytes, stride;
	} cases[] = {{1, 64}, {63, 64}, {64, 64}, {65, 128}, {4096, 4096}, {100001, 100032}};
	size_t i, k, at;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct dp_slots *s = make(5, cases[i].bytes, false);
		bool seen[5] = {false};

		assert_int_equal(dp_slots_stride(s), cases[i].stride);
		assert_true(dp_slots_bytes(s) >= 5 * cases[i].stride);
		for (k = 0; k < 5; k++) {
			uint8_t *slot = dp_slots_acquire(s);

			assert_non_null(slot);
			assert_int_equal((uintptr_t)slot % 64, 0);
			at = (size_t)(slot - dp_slots_base(s));
			assert_true(at % cases[i].stride == 0 && at / cases[i].stride < 5);
			assert_false(seen[at / cases[i].stride]);
			seen[at / cases[i].stride] = true;
			memset(slot, (int)k, cases[i].bytes);
		}
		dp_slots_destroy(s);
	}
}

/* What is written into one slot is still there after the others were used. */
static void test_slots_do_not_overlap(void **state)
{
	struct dp_slots *s = make(4, 1000, false);
	uint8_t *slot[4];
	uint32_t i, k;

	(void)state;
	for (i = 0; i < 4; i++) {
		slot[i] = dp_slots_acquire(s);
		memset(slot[i], 0x10 + (int)i, 1000);
	}
	for (i = 0; i < 4; i++) {
		for (k = 0; k < 1000; k++)
			assert_int_equal(slot[i][k], 0x10 + i);
	}
	dp_slots_destroy(s);
}

static void test_exhaust_and_reuse(void **state)
{
	struct dp_slots *s = make(3, 100, false);
	uint8_t *slot[3];
	uint32_t i, round;

	(void)state;
	for (round = 0; round < 4; round++) {
		for (i = 0; i < 3; i++) {
			assert_int_equal(dp_slots_free(s), 3 - i);
			assert_non_null(slot[i] = dp_slots_acquire(s));
		}
		assert_int_equal(dp_slots_free(s), 0);
		assert_null(dp_slots_acquire(s));
		assert_null(dp_slots_acquire(s));
		/* The one that comes back is the one that is given out. */
		dp_slots_sent(s, slot[1]);
		dp_slots_release(s, slot[1]);
		assert_int_equal(dp_slots_free(s), 1);
		assert_ptr_equal(dp_slots_acquire(s), slot[1]);
		/* Whether it was sent or not, a slot can be given back, in any order. */
		dp_slots_sent(s, slot[2]);
		dp_slots_release(s, slot[round % 3]);
		dp_slots_release(s, slot[(round + 1) % 3]);
		dp_slots_release(s, slot[(round + 2) % 3]);
		assert_int_equal(dp_slots_free(s), 3);
	}
	dp_slots_destroy(s);
}

static void release_twice(struct dp_slots *s)
{
	uint8_t *slot = dp_slots_acquire(s);

	dp_slots_release(s, slot);
	dp_slots_release(s, slot);
}

static void release_free(struct dp_slots *s)
{
	dp_slots_release(s, dp_slots_base(s));
}

static void send_twice(struct dp_slots *s)
{
	uint8_t *slot = dp_slots_acquire(s);

	dp_slots_sent(s, slot);
	dp_slots_sent(s, slot);
}

static void send_free(struct dp_slots *s)
{
	dp_slots_sent(s, dp_slots_base(s));
}

static void release_inside(struct dp_slots *s)
{
	dp_slots_release(s, dp_slots_acquire(s) + 64);
}

static void release_before(struct dp_slots *s)
{
	dp_slots_release(s, dp_slots_base(s) - dp_slots_stride(s));
}

static void release_behind(struct dp_slots *s)
{
	dp_slots_release(s, dp_slots_base(s) + 2 * dp_slots_stride(s));
}

static void create_none(struct dp_slots *s)
{
	struct dp_slots *other;

	(void)s;
	if (dp_slots_create(0, 64, false, &other, NULL) != 0)
		return;
}

/* Misuse is a programmer's error: the process ends at once, and says where. */
static void test_misuse_aborts(void **state)
{
	static void (*const misuses[])(struct dp_slots *) = {
	    release_twice,  release_free,   send_twice,     send_free,
	    release_inside, release_before, release_behind, create_none,
	};
	struct dp_slots *s = make(2, 128, false);
	size_t i;
	int status;

	(void)state;
	for (i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			static const struct rlimit no_core;

			setrlimit(RLIMIT_CORE, &no_core);
			signal(SIGABRT, SIG_DFL);
			fclose(stderr);
			misuses[i](s);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
			fail_msg("misuse %zu: expected SIGABRT, found wait status %#x", i, (unsigned)status);
	}
	dp_slots_destroy(s);
}

/* Whatever memory it is, it is said, and all of it can be written. */
static void test_memory_modes(void **state)
{
	struct dp_slots *s = make(3, 5000, false);
	uint32_t i;

	(void)state;
	assert_true(dp_slots_memory(s) == DP_SLOT_MEM_LOCKED || dp_slots_memory(s) == DP_SLOT_MEM_PAGEABLE);
	assert_int_equal(dp_slots_bytes(s), 3 * dp_slots_stride(s));
	dp_slots_destroy(s);
	s = make(3, 5000, true);
	if (dp_slots_memory(s) == DP_SLOT_MEM_HUGE)
		assert_int_equal(dp_slots_bytes(s) % (2u << 20), 0);
	else
		print_message("no hugepages here: only the fallback was tested\n");
	memset(dp_slots_base(s), 0xff, dp_slots_bytes(s));
	for (i = 0; i < 3; i++)
		assert_non_null(dp_slots_acquire(s));
	assert_null(dp_slots_acquire(s));
	dp_slots_destroy(s);
	assert_string_equal(dp_slots_memory_name(DP_SLOT_MEM_HUGE), "hugepages");
	assert_string_equal(dp_slots_memory_name(DP_SLOT_MEM_LOCKED), "locked");
	assert_string_equal(dp_slots_memory_name(DP_SLOT_MEM_PAGEABLE), "pageable");
}

/* Where memory may not be locked the slots work all the same, and say so. */
static void test_unlockable_memory(void **state)
{
	pid_t pid;
	int status;

	(void)state;
#ifdef __SANITIZE_ADDRESS__
	skip(); /* the sanitizer's mlock does nothing and says it did */
#endif
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		static const struct rlimit none;
		struct dp_slots *s;

		/* A privileged process may lock beyond its limit. */
		if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0))
			_exit(2);
		if (dp_slots_create(2, 100, false, &s, NULL) != 0)
			_exit(3);
		_exit(dp_slots_memory(s) == DP_SLOT_MEM_PAGEABLE && dp_slots_acquire(s) != NULL ? 0 : 4);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_too_much_memory(void **state)
{
	struct dp_slots *s = NULL;
	struct ps_err err = {{0}};

	(void)state;
	/* More than an address space holds. */
	assert_int_equal(dp_slots_create(1u << 20, (size_t)1 << 40, false, &s, &err), -ENOMEM);
	assert_null(s);
	assert_non_null(strstr(err.msg, "1048576 message slots"));
	dp_slots_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_layout),
	    cmocka_unit_test(test_slots_do_not_overlap),
	    cmocka_unit_test(test_exhaust_and_reuse),
	    cmocka_unit_test(test_misuse_aborts),
	    cmocka_unit_test(test_memory_modes),
	    cmocka_unit_test(test_unlockable_memory),
	    cmocka_unit_test(test_too_much_memory),
	};

	return cmocka_run_group_tests_name("slots", tests, NULL, NULL);
}
