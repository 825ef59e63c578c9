/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The GGUF reader: every getter, every reason to refuse a file, and torn files
 * by the thousand, which may be refused or read but never crash the reader.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "model/gguf.h"
#include "model/graph.h"
#include "tests/unit/model/gguf_writer.h"

#define COUNT(a)   (sizeof(a) / sizeof((a)[0]))
#define PAGE_BYTES 4096u

/* ---- getters -------------------------------------------------------------------------------- */

static void put_scalars(struct gw *w)
{
	const double d = -2.5;
	uint64_t bits;

	gw_key(w, "u8", GGUF_U8);
	gw_put(&w->kv, "\xfe", 1);
	gw_key(w, "i8", GGUF_I8);
	gw_put(&w->kv, "\xfe", 1);
	gw_key(w, "u16", GGUF_U16);
	gw_put(&w->kv, "\x01\xff", 2);
	gw_key(w, "i16", GGUF_I16);
	gw_put(&w->kv, "\x01\xff", 2);
	gw_kv_u32(w, "u32", 0xfffffffeu);
	gw_key(w, "i32", GGUF_I32);
	gw_put_u32(&w->kv, (uint32_t)-7);
	gw_key(w, "u64", GGUF_U64);
	gw_put_u64(&w->kv, 0x123456789aull);
	gw_key(w, "u64big", GGUF_U64);
	gw_put_u64(&w->kv, UINT64_MAX);
	gw_key(w, "i64", GGUF_I64);
	gw_put_u64(&w->kv, (uint64_t)INT64_MIN);
	gw_kv_f32(w, "f32", 0.25f);
	memcpy(&bits, &d, sizeof(bits));
	gw_key(w, "f64", GGUF_F64);
	gw_put_u64(&w->kv, bits);
	gw_kv_bool(w, "yes", 1);
	gw_kv_bool(w, "no", 0);
	gw_kv_str(w, "text", "two \"words\"\n");
	gw_kv_str(w, "empty", "");
}

static void assert_i64(const struct gguf *g, const char *key, int64_t want)
{
	int64_t v = 0;

	assert_true(gguf_get_i64(g, key, &v));
	assert_true(v == want);
}

static void test_integers(void **state)
{
	struct gw w;
	struct gguf *g;
	uint32_t u = 77;
	int64_t v = 77;

	(void)state;
	gw_init(&w);
	put_scalars(&w);
	g = gw_open_good(&w);
	assert_i64(g, "u8", 254);
	assert_i64(g, "i8", -2);
	assert_i64(g, "u16", 0xff01);
	assert_i64(g, "i16", -255);
	assert_i64(g, "u32", 0xfffffffell);
	assert_i64(g, "i32", -7);
	assert_i64(g, "u64", 0x123456789all);
	assert_i64(g, "i64", INT64_MIN);
	assert_true(gguf_get_u32(g, "u32", &u));
	assert_true(u == 0xfffffffeu);
	u = 77;
	/* What does not fit, is of another kind or is not there leaves the output alone. */
	assert_false(gguf_get_u32(g, "i32", &u));
	assert_false(gguf_get_u32(g, "u64", &u));
	assert_false(gguf_get_u32(g, "f32", &u));
	assert_false(gguf_get_u32(g, "text", &u));
	assert_false(gguf_get_u32(g, "nothing", &u));
	assert_false(gguf_get_i64(g, "u64big", &v));
	assert_false(gguf_get_i64(g, "yes", &v));
	assert_int_equal(u, 77);
	assert_int_equal(v, 77);
	gguf_close(g);
	gw_free(&w);
}

static void test_other_scalars(void **state)
{
	struct gguf_str s = {0};
	struct gw w;
	struct gguf *g;
	float f = 9;
	bool b = false;

	(void)state;
	gw_init(&w);
	w.version = 2;
	put_scalars(&w);
	g = gw_open_good(&w);
	assert_int_equal(gguf_version(g), 2);
	assert_true(gguf_get_f32(g, "f32", &f) && f == 0.25f);
	assert_true(gguf_get_f32(g, "f64", &f) && f == -2.5f);
	assert_false(gguf_get_f32(g, "u32", &f));
	assert_true(gguf_get_bool(g, "yes", &b) && b);
	assert_true(gguf_get_bool(g, "no", &b) && !b);
	assert_false(gguf_get_bool(g, "u8", &b));
	assert_true(gguf_get_str(g, "text", &s));
	assert_int_equal(s.len, 12);
	assert_memory_equal(s.s, "two \"words\"\n", 12);
	assert_true(gguf_get_str(g, "empty", &s));
	assert_int_equal(s.len, 0);
	assert_false(gguf_get_str(g, "u8", &s));
	assert_true(gguf_has(g, "u8"));
	assert_false(gguf_has(g, "u"));
	assert_int_equal(gguf_n_kv(g), 15);
	assert_string_equal(gguf_kv_name(g, 4), "u32");
	assert_int_equal(gguf_kv_type(g, 4), GGUF_U32);
	gguf_close(g);
	gw_free(&w);
}

static void test_arrays(void **state)
{
	static const char *const strs[] = {"a", "", "ccc"};
	const uint16_t nums[] = {1, 2, 3, 4};
	struct gguf_str s;
	struct gw w;
	struct gguf *g;
	uint32_t u;

	(void)state;
	gw_init(&w);
	gw_kv_array(&w, "nums", GGUF_U16, 4, nums, sizeof(nums));
	gw_kv_strs(&w, "strs", strs, 3);
	gw_kv_array(&w, "none", GGUF_F32, 0, NULL, 0);
	gw_kv_u32(&w, "after", 5);
	g = gw_open_good(&w);
	assert_int_equal(gguf_arr_len(g, "nums"), 4);
	assert_int_equal(gguf_arr_type(g, "nums"), GGUF_U16);
	assert_int_equal(ps_load16((const uint8_t *)gguf_arr_data(g, "nums") + 6), 4);
	assert_false(gguf_arr_str(g, "nums", 0, &s));
	assert_int_equal(gguf_arr_len(g, "strs"), 3);
	assert_null(gguf_arr_data(g, "strs"));
	assert_true(gguf_arr_str(g, "strs", 2, &s));
	assert_int_equal(s.len, 3);
	assert_memory_equal(s.s, "ccc", 3);
	assert_true(gguf_arr_str(g, "strs", 1, &s) && s.len == 0);
	assert_false(gguf_arr_str(g, "strs", 3, &s));
	assert_int_equal(gguf_arr_len(g, "none"), 0);
	assert_int_equal(gguf_arr_type(g, "none"), GGUF_F32);
	assert_int_equal(gguf_arr_len(g, "after"), 0);
	assert_null(gguf_arr_data(g, "after"));
	assert_true(gguf_get_u32(g, "after", &u) && u == 5);
	gguf_close(g);
	gw_free(&w);
}

static void assert_format(const struct gguf *g, size_t i, const char *want)
{
	char text[64];

	gguf_kv_format(g, i, 2, text, sizeof(text));
	assert_string_equal(text, want);
}

static void test_format(void **state)
{
	static const char *const strs[] = {"a", "b", "c"};
	struct gw w;
	struct gguf *g;
	char text[5];

	(void)state;
	gw_init(&w);
	gw_kv_u32(&w, "u", 7);
	gw_kv_f32(&w, "f", 0.5f);
	gw_kv_bool(&w, "b", 1);
	gw_kv_str(&w, "s", "x\x1b[\"\\");
	gw_kv_strs(&w, "a", strs, 3);
	gw_kv_strs(&w, "a2", strs, 2);
	gw_key(&w, "u64", GGUF_U64);
	gw_put_u64(&w.kv, UINT64_MAX);
	g = gw_open_good(&w);
	assert_format(g, 0, "7");
	assert_format(g, 1, "0.5");
	assert_format(g, 2, "true");
	assert_format(g, 3, "\"x\\x1b[\\\"\\\\\"");
	assert_format(g, 4, "[\"a\", \"b\", ... 3 in all]");
	assert_format(g, 5, "[\"a\", \"b\"]");
	assert_format(g, 6, "18446744073709551615");
	gguf_kv_format(g, 4, 3, text, sizeof(text));
	assert_string_equal(text, "[\"a\"");
	gguf_close(g);
	gw_free(&w);
}

static void test_tensors(void **state)
{
	const uint64_t ne[4] = {64, 3, 2, 2}, one[1] = {5};
	const struct gguf_tensor *t;
	struct gw w;
	struct gguf *g;

	(void)state;
	gw_init(&w);
	w.align = 64;
	gw_kv_u32(&w, "general.alignment", 64);
	gw_tensor(&w, "one", 1, one, GGUF_DT_F32);
	gw_tensor(&w, "q", 4, ne, GGUF_DT_Q8_0);
	gw_tensor(&w, "h", 2, ne, GGUF_DT_BF16);
	g = gw_open_good(&w);
	assert_int_equal(gguf_n_tensors(g), 3);
	t = gguf_tensor(g, "q");
	assert_non_null(t);
	assert_ptr_equal(t, gguf_tensor_at(g, 1));
	assert_string_equal(t->name, "q");
	assert_int_equal(t->dtype, GGUF_DT_Q8_0);
	assert_int_equal(t->n_dims, 4);
	assert_memory_equal(t->ne, ne, sizeof(ne));
	assert_int_equal(t->n_bytes, 64 * 3 * 2 * 2 / 32 * 34);
	assert_int_equal((uintptr_t)t->data % 64, 0);
	assert_int_equal(*(const uint8_t *)t->data, 'q');
	t = gguf_tensor(g, "one");
	assert_int_equal(t->ne[0] * 1000 + t->ne[1] * 100 + t->ne[2] * 10 + t->ne[3], 5111);
	assert_int_equal(t->n_bytes, 20);
	assert_null(gguf_tensor(g, "on"));
	assert_null(gguf_tensor(g, ""));
	gguf_close(g);
	gw_free(&w);
}

static void test_dtypes(void **state)
{
	uint32_t elems, bytes;

	(void)state;
	assert_string_equal(gguf_dtype_name(GGUF_DT_Q4_K), "Q4_K");
	assert_true(gguf_dtype_block(GGUF_DT_Q4_K, &elems, &bytes));
	assert_int_equal(elems, 256);
	assert_int_equal(bytes, 144);
	assert_string_equal(gguf_dtype_name((enum gguf_dtype)4), "unknown");
	assert_false(gguf_dtype_block((enum gguf_dtype)4, &elems, &bytes));
}

static void test_many_names(void **state)
{
	const uint64_t ne[1] = {1};
	struct gw w;
	struct gguf *g;
	char name[32];
	uint32_t u;

	(void)state;
	gw_init(&w);
	for (uint32_t i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "key.%u", i);
		gw_kv_u32(&w, name, i);
		gw_tensor(&w, name, 1, ne, GGUF_DT_F32);
	}
	g = gw_open_good(&w);
	for (uint32_t i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "key.%u", i);
		assert_true(gguf_get_u32(g, name, &u) && u == i);
		assert_ptr_equal(gguf_tensor(g, name), gguf_tensor_at(g, i));
	}
	assert_null(gguf_tensor(g, "key.3000"));
	gguf_close(g);
	gw_free(&w);
}

static uint64_t hash_of(const uint8_t *bytes, size_t len)
{
	struct gguf *g = NULL;
	uint64_t h;

	assert_int_equal(gw_open_bytes(bytes, len, &g, NULL), 0);
	h = gguf_hash(g);
	assert_int_equal(gguf_file_bytes(g), len);
	gguf_close(g);
	return h;
}

static void test_hash(void **state)
{
	const uint64_t ne[1] = {4096};
	struct gw w;
	size_t len;
	uint8_t *bytes;
	uint64_t h;

	(void)state;
	gw_init(&w);
	gw_kv_u32(&w, "key", 1);
	gw_tensor(&w, "t", 1, ne, GGUF_DT_F32);
	bytes = gw_finish(&w, &len);
	h = hash_of(bytes, len);
	assert_true(hash_of(bytes, len) == h);
	bytes[24 + 8 + 3 + 4] = 2; /* the key's value */
	assert_true(hash_of(bytes, len) != h);
	bytes[24 + 8 + 3 + 4] = 1;
	memset(bytes + len - 16384, 5, 16384); /* other weights in the same shape */
	assert_true(hash_of(bytes, len) != h);
	free(bytes);
	gw_free(&w);
}

/* ---- files to refuse ------------------------------------------------------------------------ */

static const uint64_t ne_ok[4] = {32, 2, 1, 1};

static void bad_version_1(struct gw *w)
{
	w->version = 1;
}

static void bad_version_4(struct gw *w)
{
	w->version = 4;
}

static void bad_endian(struct gw *w)
{
	w->version = 0x03000000u;
}

static void bad_n_kv(struct gw *w)
{
	w->n_kv = 20; /* of 14 bytes at least, in a file that has none */
}

static void bad_n_tensors(struct gw *w)
{
	w->n_tensors = UINT64_MAX;
}

static void bad_n_kv_by_one(struct gw *w)
{
	gw_kv_u32(w, "k", 1);
	w->n_kv++;
}

static void bad_key_len(struct gw *w)
{
	gw_put_u64(&w->kv, UINT64_MAX - 3);
	gw_put(&w->kv, "................", 16);
	w->n_kv++;
}

static void bad_key_empty(struct gw *w)
{
	gw_kv_u32(w, "", 1);
}

static void bad_key_control(struct gw *w)
{
	gw_kv_u32(w, "a\x1b[31m", 1);
}

static void bad_key_twice(struct gw *w)
{
	gw_kv_u32(w, "same", 1);
	gw_kv_str(w, "same", "x");
}

static void bad_type(struct gw *w)
{
	gw_key(w, "odd", 13);
	gw_put_u64(&w->kv, 0);
}

static void bad_str_len(struct gw *w)
{
	gw_key(w, "long", GGUF_STRING);
	gw_put_u64(&w->kv, UINT64_MAX);
	gw_put(&w->kv, "xxxxxxxx", 8);
}

static void bad_bool(struct gw *w)
{
	gw_kv_bool(w, "maybe", 2);
}

static void bad_arr_count(struct gw *w)
{
	gw_kv_array(w, "huge", GGUF_F64, UINT64_MAX / 8 + 2, "xxxxxxxx", 8); /* 8 n overflows to 8 */
}

static void bad_arr_strs(struct gw *w)
{
	gw_kv_array(w, "strs", GGUF_STRING, UINT64_MAX / 4, "xxxxxxxx", 8);
}

static void bad_arr_str_len(struct gw *w)
{
	gw_kv_array(w, "strs", GGUF_STRING, 1, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
}

static void bad_arr_nested(struct gw *w)
{
	gw_kv_array(w, "nest", GGUF_ARRAY, 1, "\4\0\0\0\0\0\0\0\0\0\0\0", 12);
}

static void bad_arr_type(struct gw *w)
{
	gw_kv_array(w, "elem", 99, 1, "xxxxxxxx", 8);
}

static void bad_align_3(struct gw *w)
{
	gw_kv_u32(w, "general.alignment", 24);
}

static void bad_align_0(struct gw *w)
{
	gw_kv_u32(w, "general.alignment", 0);
}

static void bad_align_huge(struct gw *w)
{
	gw_kv_u32(w, "general.alignment", 1u << 31);
}

static void bad_align_type(struct gw *w)
{
	gw_kv_str(w, "general.alignment", "32");
}

static void bad_tensor_twice(struct gw *w)
{
	gw_tensor(w, "t", 2, ne_ok, GGUF_DT_F32);
	gw_tensor(w, "t", 2, ne_ok, GGUF_DT_F16);
}

static void bad_tensor_name(struct gw *w)
{
	char name[140];

	memset(name, 'n', sizeof(name));
	name[128] = '\0';
	gw_tensor(w, name, 2, ne_ok, GGUF_DT_F32);
}

static void bad_tensor_no_name(struct gw *w)
{
	gw_tensor(w, "", 2, ne_ok, GGUF_DT_F32);
}

static void bad_dims_0(struct gw *w)
{
	gw_info(w, "flat", 0, ne_ok, GGUF_DT_F32, 0);
	gw_put(&w->data, ne_ok, sizeof(ne_ok));
}

static void bad_dims_5(struct gw *w)
{
	const uint64_t ne[5] = {32, 1, 1, 1, 1};

	gw_info(w, "deep", 5, ne, GGUF_DT_F32, 0);
}

static void bad_dim_zero(struct gw *w)
{
	const uint64_t ne[2] = {32, 0};

	gw_info(w, "none", 2, ne, GGUF_DT_F32, 0);
}

static void bad_dims_overflow(struct gw *w)
{
	const uint64_t ne[4] = {1ull << 32, 1ull << 32, 1, 1};

	gw_info(w, "wrap", 4, ne, GGUF_DT_F32, 0);
}

static void bad_bytes_overflow(struct gw *w)
{
	const uint64_t ne[2] = {1ull << 31, 1ull << 31}; /* 2^62 elements of 4 bytes: 2^64 */

	gw_info(w, "wrap", 2, ne, GGUF_DT_F32, 0);
}

static void bad_dtype(struct gw *w)
{
	gw_info(w, "kind", 2, ne_ok, 4, 0);
}

static void bad_block(struct gw *w)
{
	const uint64_t ne[2] = {33, 32};

	gw_info(w, "part", 2, ne, GGUF_DT_Q8_0, 0);
}

static void bad_offset_align(struct gw *w)
{
	gw_tensor(w, "t", 2, ne_ok, GGUF_DT_F32);
	gw_info(w, "shift", 1, ne_ok, GGUF_DT_F32, 8);
}

static void bad_offset_huge(struct gw *w)
{
	gw_tensor(w, "t", 2, ne_ok, GGUF_DT_F32);
	gw_info(w, "far", 1, ne_ok, GGUF_DT_F32, UINT64_MAX - 31);
}

static void bad_data_short(struct gw *w)
{
	gw_tensor(w, "t", 2, ne_ok, GGUF_DT_F32);
	gw_tensor(w, "last", 2, ne_ok, GGUF_DT_F32);
	w->data.len--;
}

static const struct {
	void (*make)(struct gw *w);
	int rc;
	const char *text; /* what the message has to name */
} bad[] = {
    {bad_version_1, -ENOTSUP, "version 1, expected 2 or 3"},
    {bad_version_4, -ENOTSUP, "version 4, expected 2 or 3"},
    {bad_endian, -ENOTSUP, "big-endian"},
    {bad_n_kv, -EBADMSG, "keys cannot fit"},
    {bad_n_tensors, -EBADMSG, "tensors cannot fit"},
    {bad_n_kv_by_one, -EBADMSG, "key"},
    {bad_key_len, -EBADMSG, "name of key 0"},
    {bad_key_empty, -EBADMSG, "name of key 0"},
    {bad_key_control, -EBADMSG, "name of key 0"},
    {bad_key_twice, -EBADMSG, "key 'same' appears twice"},
    {bad_type, -EBADMSG, "key 'odd': unknown value type 13"},
    {bad_str_len, -EBADMSG, "key 'long'"},
    {bad_bool, -EBADMSG, "key 'maybe'"},
    {bad_arr_count, -EBADMSG, "key 'huge'"},
    {bad_arr_strs, -EBADMSG, "key 'strs'"},
    {bad_arr_str_len, -EBADMSG, "key 'strs': string 0"},
    {bad_arr_nested, -EBADMSG, "key 'nest': arrays of arrays"},
    {bad_arr_type, -EBADMSG, "key 'elem'"},
    {bad_align_3, -EBADMSG, "general.alignment"},
    {bad_align_0, -EBADMSG, "general.alignment"},
    {bad_align_huge, -EBADMSG, "general.alignment"},
    {bad_align_type, -EBADMSG, "general.alignment"},
    {bad_tensor_twice, -EBADMSG, "tensor 't' appears twice"},
    {bad_tensor_name, -EBADMSG, "name of tensor 0"},
    {bad_tensor_no_name, -EBADMSG, "name of tensor 0"},
    {bad_dims_0, -EBADMSG, "tensor 'flat'"},
    {bad_dims_5, -EBADMSG, "tensor 'deep'"},
    {bad_dim_zero, -EBADMSG, "tensor 'none'"},
    {bad_dims_overflow, -EBADMSG, "tensor 'wrap'"},
    {bad_bytes_overflow, -EBADMSG, "tensor 'wrap'"},
    {bad_dtype, -ENOTSUP, "tensor 'kind': unknown element type 4"},
    {bad_block, -EBADMSG, "tensor 'part': rows of 33"},
    {bad_offset_align, -EBADMSG, "tensor 'shift'"},
    {bad_offset_huge, -EBADMSG, "tensor 'far'"},
    {bad_data_short, -EBADMSG, "tensor 'last'"},
};

static void test_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct gguf *g = (struct gguf *)1;
		struct ps_err err = {{0}};
		struct gw w;
		int rc;

		gw_init(&w);
		bad[i].make(&w);
		rc = gw_open(&w, &g, &err);
		if (rc != bad[i].rc || strstr(err.msg, bad[i].text) == NULL)
			fail_msg("case %zu (%s): rc %d, '%s'", i, bad[i].text, rc, err.msg);
		assert_null(g);
		gw_free(&w);
	}
}

static void test_no_file(void **state)
{
	struct gguf *g;
	struct ps_err err;

	(void)state;
	assert_int_equal(gguf_open("/nonexistent/model.gguf", &g, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/model.gguf"));
	assert_int_equal(gguf_open("/", &g, &err), -EINVAL);
	assert_int_equal(gguf_open("/dev/null", &g, &err), -EINVAL);
	assert_int_equal(gw_open_bytes(NULL, 0, &g, &err), -EBADMSG);
	assert_int_equal(gw_open_bytes((const uint8_t *)"GGUF", 4, &g, &err), -EBADMSG);
	assert_int_equal(gw_open_bytes((const uint8_t *)"ELF, not a GGUF file at all", 27, &g, &err),
			 -EBADMSG);
	assert_non_null(strstr(err.msg, "not a GGUF file"));
	gguf_close(NULL);
}

/* ---- torn files ----------------------------------------------------------------------------- */

static void make_model(struct gw *w, bool gpt2)
{
	static const char *const tokens[] = {"<unk>", "a", "b"};
	const struct gw_model m = {.n_layers = 1, .dtype = GGUF_DT_Q8_0};

	if (gpt2)
		gw_gpt2(w, &m);
	else
		gw_llama(w, &m);
	gw_kv_strs(w, "tokenizer.ggml.tokens", tokens, 3);
}

/* The end of the directory, where only weights follow. */
static size_t header_bytes(const struct gw *w)
{
	return 24 + w->kv.len + w->info.len;
}

/* A cut file is said to be cut, and not taken for another mistake further on. */
static void assert_says_cut(const char *msg)
{
	static const char *const words[] = {"ends",   "runs past", "cannot fit",   "too few",
					    "follow", "truncated", "file is empty"};

	for (size_t i = 0; i < COUNT(words); i++) {
		if (strstr(msg, words[i]) != NULL)
			return;
	}
	fail_msg("'%s' does not say that the file is cut", msg);
}

static void test_truncated(void **state)
{
	struct gw w;
	uint8_t *bytes, *copy;
	size_t len, n = 0;

	(void)state;
	make_model(&w, false);
	bytes = gw_finish(&w, &len);
	for (size_t cut = 0; cut < len; cut += cut <= header_bytes(&w) + 64 ? 1 : 997, n++) {
		struct gguf *g = NULL;
		struct ps_err err = {{0}};

		copy = malloc(cut + 1);
		assert_non_null(copy);
		memcpy(copy, bytes, cut);
		/* Its last tensor ends where the file does, so any cut is a torn file. */
		assert_int_equal(gw_open_bytes(copy, cut, &g, &err), -EBADMSG);
		assert_says_cut(err.msg);
		free(copy);
	}
	assert_true(n > 700);
	free(bytes);
	gw_free(&w);
}

/* The same cuts of the header, moved to the end of a page by a key in front: what reads past the
 * cut then reads past the map and not just into the rest of its last page. */
static void test_truncated_at_page(void **state)
{
	static char filler[PAGE_BYTES + 1];
	struct gw w;
	size_t header;

	(void)state;
	make_model(&w, false);
	header = header_bytes(&w);
	for (size_t cut = 24; cut < header; cut++) {
		struct gguf *g = NULL;
		struct ps_err err = {{0}};
		struct gw padded = w;
		uint8_t *bytes;
		size_t len, fill = PAGE_BYTES - (cut + 8 + 1 + 4 + 8) % PAGE_BYTES;

		memset(filler, 'x', fill);
		filler[fill] = '\0';
		padded.kv = (struct gw_buf){0};
		gw_kv_str(&padded, "f", filler);
		gw_put(&padded.kv, w.kv.p, w.kv.len);
		bytes = gw_finish(&padded, &len);
		len = cut + 8 + 1 + 4 + 8 + fill;
		assert_int_equal(len % PAGE_BYTES, 0);
		assert_int_equal(gw_open_bytes(bytes, len, &g, &err), -EBADMSG);
		assert_says_cut(err.msg);
		free(bytes);
		free(padded.kv.p);
	}
	gw_free(&w);
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull; /* Knuth's MMIX */
	return *state >> 33;
}

/* Changes 1 to 3 bytes of the header: to anything, by one bit, or to an extreme. */
static void tear(uint8_t *bytes, size_t n, uint64_t *rng)
{
	static const uint8_t extremes[] = {0x00, 0xff, 0x7f, 0x80};
	uint64_t count = 1 + next_random(rng) % 3;

	for (uint64_t i = 0; i < count; i++) {
		size_t at = next_random(rng) % n;

		switch (next_random(rng) % 3) {
		case 0:
			bytes[at] = (uint8_t)next_random(rng);
			break;
		case 1:
			bytes[at] ^= (uint8_t)(1u << next_random(rng) % 8);
			break;
		default:
			bytes[at] = extremes[next_random(rng) % COUNT(extremes)];
		}
	}
}

static void flip_many(bool gpt2, uint64_t seed, unsigned int rounds)
{
	unsigned int opened = 0, refused = 0;
	struct gw w;
	uint8_t *bytes, *copy;
	size_t len;

	make_model(&w, gpt2);
	bytes = gw_finish(&w, &len);
	copy = malloc(len);
	assert_non_null(copy);
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t rng = seed + i;
		struct gguf *g = NULL;
		struct ps_err err = {{0}};

		memcpy(copy, bytes, len);
		tear(copy, header_bytes(&w), &rng);
		if (gw_open_bytes(copy, len, &g, &err) == 0) {
			gw_exercise(g);
			gguf_close(g);
			opened++;
		} else {
			assert_true(err.msg[0] != '\0');
			refused++;
		}
	}
	/* Both happen, or the test would look at one path only. */
	assert_true(opened > rounds / 20 && refused > rounds / 20);
	free(copy);
	free(bytes);
	gw_free(&w);
}

static void test_flipped_llama(void **state)
{
	(void)state;
	flip_many(false, 1, 4000);
}

static void test_flipped_gpt2(void **state)
{
	(void)state;
	flip_many(true, 1000000, 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_integers),      cmocka_unit_test(test_other_scalars),
	    cmocka_unit_test(test_arrays),        cmocka_unit_test(test_format),
	    cmocka_unit_test(test_tensors),       cmocka_unit_test(test_dtypes),
	    cmocka_unit_test(test_many_names),    cmocka_unit_test(test_hash),
	    cmocka_unit_test(test_refused),       cmocka_unit_test(test_no_file),
	    cmocka_unit_test(test_truncated),     cmocka_unit_test(test_truncated_at_page),
	    cmocka_unit_test(test_flipped_llama), cmocka_unit_test(test_flipped_gpt2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
