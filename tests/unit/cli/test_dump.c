/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/dump.h"

/* Reads a file of the folder whole; it must have this many floats. */
static void read_floats(const char *folder, const char *name, float *out, size_t n)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "rb");
	if (f == NULL)
		fail_msg("%s is not there", path);
	assert_int_equal(fread(out, sizeof(float), n, f), n);
	assert_int_equal(fgetc(f), EOF);
	fclose(f);
	assert_int_equal(unlink(path), 0);
}

/* A file an operation, rows without the gap between them, and names that stay in the folder. */
static void test_files(void **state)
{
	const float rows[] = {1, 2, 3, -1, 4, 5, 6, -1}; /* [2, 3], 4 apart */
	const float want[] = {1, 2, 3, 4, 5, 6};
	struct gguf_tensor w = {.name = "../blk.7.x"};
	struct model_op matmul = {.kind = MODEL_OP_MATMUL, .layer = 7, .width = 3, .w = &w};
	struct model_op add = {.kind = MODEL_OP_ADD, .layer = 12, .width = 2};
	char folder[] = "/tmp/penstock-dump-XXXXXX";
	struct ps_err err = {{0}};
	struct dump d;
	float got[6];

	(void)state;
	assert_non_null(mkdtemp(folder));
	assert_int_equal(dump_open(&d, folder, &err), 0);
	dump_op(&d, &matmul, rows, 4, 2);
	dump_op(&d, &add, rows, 2, 1);
	assert_int_equal(dump_close(&d, &err), 0);
	read_floats(folder, "00000-matmul-7-.._blk.7.x.f32", got, 6);
	assert_memory_equal(got, want, sizeof(want));
	read_floats(folder, "00001-add-12.f32", got, 2);
	assert_memory_equal(got, rows, 2 * sizeof(float));
	assert_int_equal(rmdir(folder), 0);
}

/* The first error stays and is told at the end. */
static void test_errors(void **state)
{
	char folder[] = "/tmp/penstock-dump-XXXXXX";
	struct model_op add = {.kind = MODEL_OP_ADD, .width = 1};
	struct ps_err err = {{0}};
	struct dump d;
	float x = 0;

	(void)state;
	assert_int_equal(dump_open(&d, "/dev/null/x", &err), -ENOTDIR);
	assert_non_null(strstr(err.msg, "/dev/null/x"));
	assert_non_null(mkdtemp(folder));
	assert_int_equal(dump_open(&d, folder, &err), 0);
	assert_int_equal(rmdir(folder), 0);
	dump_op(&d, &add, &x, 1, 1);
	dump_op(&d, &add, &x, 1, 1);
	assert_int_equal(d.n, 1);
	assert_int_equal(dump_close(&d, &err), -ENOENT);
	assert_non_null(strstr(err.msg, folder));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_files),
	    cmocka_unit_test(test_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
