/* SPDX-License-Identifier: BSD-3-Clause */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/cli.h"

/* stderr goes to a file, so that a test can see what the user is told. */
static int real_stderr, told;

static int capture(void **state)
{
	FILE *f = tmpfile();

	(void)state;
	if (f == NULL)
		return -1;
	told = dup(fileno(f));
	fclose(f);
	real_stderr = dup(STDERR_FILENO);
	return told < 0 || real_stderr < 0 || dup2(told, STDERR_FILENO) < 0;
}

static int restore(void **state)
{
	(void)state;
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	return close(told);
}

/* What was printed since the last call. */
static const char *said(void)
{
	static char text[2048];
	ssize_t n;

	fflush(stderr);
	n = pread(told, text, sizeof(text) - 1, 0);
	assert_true(n >= 0);
	text[n] = '\0';
	assert_int_equal(ftruncate(told, 0), 0);
	lseek(told, 0, SEEK_SET);
	return text;
}

static void expect_said(const char *part)
{
	const char *text = said();

	if (strstr(text, part) == NULL)
		fail_msg("expected \"%s\" in \"%s\"", part, text);
}

static void test_fail_and_usage(void **state)
{
	(void)state;
	assert_int_equal(cli_fail("run", "no %s at %d", "file", 7), CLI_FAILED);
	assert_string_equal(said(), "penstock run: no file at 7\n");
	assert_int_equal(cli_usage("up", "odd"), CLI_USAGE);
	assert_string_equal(said(), "penstock up: odd\ntry: penstock up --help\n");
}

static void test_u64(void **state)
{
	static const char *const bad[] = {"",
					  "-1",
					  "+1",
					  " 1",
					  "1 ",
					  "1x",
					  "0x10",
					  "1.0",
					  "1e3",
					  "ten",
					  "18446744073709551616",
					  "99999999999999999999999"};
	uint64_t v = 42;
	size_t i;

	(void)state;
	assert_true(cli_u64("c", "--n", "0", &v) && v == 0);
	assert_true(cli_u64("c", "--n", "007", &v) && v == 7);
	assert_true(cli_u64("c", "--n", "18446744073709551615", &v) && v == UINT64_MAX);
	assert_string_equal(said(), "");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		v = 42;
		if (cli_u64("c", "--n", bad[i], &v))
			fail_msg("\"%s\" was taken for a number", bad[i]);
		assert_int_equal(v, 42);
		expect_said("penstock c: --n: found");
	}
}

static void test_u32(void **state)
{
	uint32_t v = 42;

	(void)state;
	assert_true(cli_u32("c", "--n", "3", 3, 9, &v) && v == 3);
	assert_true(cli_u32("c", "--n", "9", 3, 9, &v) && v == 9);
	assert_true(cli_u32("c", "--n", "4294967295", 0, UINT32_MAX, &v) && v == UINT32_MAX);
	assert_string_equal(said(), "");
	v = 42;
	assert_false(cli_u32("c", "--n", "2", 3, 9, &v));
	expect_said("--n: found 2, expected 3 to 9");
	assert_false(cli_u32("c", "--n", "10", 3, 9, &v));
	expect_said("found 10, expected 3 to 9");
	/* No wrapping round at 32 bits. */
	assert_false(cli_u32("c", "--n", "4294967299", 3, 9, &v));
	expect_said("found 4294967299");
	assert_false(cli_u32("c", "--n", "x", 3, 9, &v));
	expect_said("expected a whole number");
	assert_int_equal(v, 42);
}

static void test_f32(void **state)
{
	static const char *const bad[] = {"", "x", "1x", "1 ", "nan", "inf", "-0.1", "2.1", "1e99", "1,5"};
	float v = 42;
	size_t i;

	(void)state;
	assert_true(cli_f32("c", "--t", "0.25", 0, 2, &v));
	assert_float_equal(v, 0.25f, 0);
	assert_true(cli_f32("c", "--t", "2", 0, 2, &v));
	assert_float_equal(v, 2.0f, 0);
	assert_true(cli_f32("c", "--t", "-1.5", -2, 2, &v));
	assert_float_equal(v, -1.5f, 0);
	assert_string_equal(said(), "");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		v = 42;
		if (cli_f32("c", "--t", bad[i], 0, 2, &v))
			fail_msg("\"%s\" was taken for a number from 0 to 2", bad[i]);
		assert_float_equal(v, 42, 0);
		expect_said("expected a number from 0 to 2");
	}
}

static void test_ids(void **state)
{
	static const struct {
		const char *text;
		size_t n;
		int32_t ids[4];
	} good[] = {{"", 0, {0}},
		    {"0", 1, {0}},
		    {"1,2,3", 3, {1, 2, 3}},
		    {"2147483647,5", 2, {INT32_MAX, 5}},
		    {"1,2,3,4", 4, {1, 2, 3, 4}}};
	static const struct {
		const char *text, *part;
	} bad[] = {
	    {",", "character 1"},    {"1,", "character 1"},           {"1,,2", "character 3"},
	    {"1,-2", "character 3"}, {"1, 2", "character 3"},         {"1 ,2", "character 1"},
	    {"x", "character 1"},    {"1,2147483648", "character 3"}, {"99999999999999999999", "character 1"},
	    {"1;2", "character 1"}};
	int32_t *ids;
	size_t i, n;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ids = NULL;
		assert_true(cli_ids("c", "--ids", good[i].text, &ids, &n));
		assert_int_equal(n, good[i].n);
		assert_non_null(ids);
		assert_memory_equal(ids, good[i].ids, n * sizeof(*ids));
		free(ids);
	}
	assert_string_equal(said(), "");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cli_ids("c", "--ids", bad[i].text, &ids, &n))
			fail_msg("\"%s\" was taken for ids", bad[i].text);
		expect_said(bad[i].part);
	}
}

/* A file of n bytes, read with a bound of max. */
static char *read_file(size_t n, size_t max, size_t *len)
{
	FILE *f = tmpfile();
	char *text;
	size_t i;

	assert_non_null(f);
	for (i = 0; i < n; i++)
		fputc((int)(i * 7 % 251), f);
	fflush(f);
	lseek(fileno(f), 0, SEEK_SET);
	text = cli_read_all(fileno(f), max, len);
	for (i = 0; text != NULL && i < n; i++)
		assert_int_equal((uint8_t)text[i], i * 7 % 251);
	fclose(f);
	return text;
}

static void test_read_all(void **state)
{
	static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, 200000};
	size_t i, len;
	char *text;

	(void)state;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		len = 99;
		/* A bound is a size that is still taken. */
		text = read_file(sizes[i], sizes[i], &len);
		assert_non_null(text);
		assert_int_equal(len, sizes[i]);
		assert_int_equal(text[len], '\0');
		free(text);
		if (sizes[i] > 0)
			assert_null(read_file(sizes[i], sizes[i] - 1, &len));
	}
	assert_null(cli_read_all(-1, 100, &len));
}

/* A stream comes in pieces. */
static void test_read_all_from_a_pipe(void **state)
{
	size_t len = 0;
	char *text;
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "first ", 6), 6);
	assert_int_equal(write(fds[1], "second", 6), 6);
	close(fds[1]);
	text = cli_read_all(fds[0], 100, &len);
	assert_non_null(text);
	assert_string_equal(text, "first second");
	assert_int_equal(len, 12);
	free(text);
	close(fds[0]);
}

static void test_quantile(void **state)
{
	uint64_t v[1000];
	uint32_t i;

	(void)state;
	assert_int_equal(cli_quantile_u64(v, 0, 0.5), 0);
	v[0] = 9;
	assert_int_equal(cli_quantile_u64(v, 1, 0.0), 9);
	assert_int_equal(cli_quantile_u64(v, 1, 0.5), 9);
	assert_int_equal(cli_quantile_u64(v, 1, 1.0), 9);
	for (i = 0; i < 1000; i++)
		v[i] = (uint64_t)(i * 7 % 1000 + 1) << 40;
	assert_int_equal(cli_quantile_u64(v, 1000, 0.5) >> 40, 500);
	assert_int_equal(cli_quantile_u64(v, 1000, 0.99) >> 40, 990);
	assert_int_equal(cli_quantile_u64(v, 1000, 0.999) >> 40, 999);
	assert_int_equal(cli_quantile_u64(v, 1000, 0.9991) >> 40, 1000);
	assert_int_equal(cli_quantile_u64(v, 1000, 0.0) >> 40, 1);
	assert_int_equal(cli_quantile_u64(v, 1000, 1.0) >> 40, 1000);
	for (i = 1; i < 1000; i++)
		assert_true(v[i] > v[i - 1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fail_and_usage),
	    cmocka_unit_test(test_u64),
	    cmocka_unit_test(test_u32),
	    cmocka_unit_test(test_f32),
	    cmocka_unit_test(test_ids),
	    cmocka_unit_test(test_read_all),
	    cmocka_unit_test(test_read_all_from_a_pipe),
	    cmocka_unit_test(test_quantile),
	};

	return cmocka_run_group_tests_name("cli-util", tests, capture, restore);
}
