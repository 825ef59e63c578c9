/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_GGUF_H
#define PENSTOCK_MODEL_GGUF_H
/*
 * Reader of GGUF files, versions 2 and 3, little-endian. The file is memory
 * mapped read-only and stays so until gguf_close: tensor data and strings are
 * borrowed from the map, and only touched pages are ever read. Every length,
 * count and offset is checked against the file's size before it is used, and
 * nothing is allocated beyond a small multiple of the file's size. Format:
 * the "GGUF" specification of the ggml project (docs/gguf.md).
 *
 * Immutable after gguf_open: any thread may read.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Numbers are those of the file format. */
enum gguf_type {
	GGUF_U8,
	GGUF_I8,
	GGUF_U16,
	GGUF_I16,
	GGUF_U32,
	GGUF_I32,
	GGUF_F32,
	GGUF_BOOL,
	GGUF_STRING,
	GGUF_ARRAY,
	GGUF_U64,
	GGUF_I64,
	GGUF_F64,
};

/* Tensor element types, numbers of the file format. Types that the reader knows the size of
 * but no back end computes with are refused when a graph is built, not when a file is opened. */
enum gguf_dtype {
	GGUF_DT_F32 = 0,
	GGUF_DT_F16 = 1,
	GGUF_DT_Q4_0 = 2,
	GGUF_DT_Q4_1 = 3,
	GGUF_DT_Q5_0 = 6,
	GGUF_DT_Q5_1 = 7,
	GGUF_DT_Q8_0 = 8,
	GGUF_DT_Q8_1 = 9,
	GGUF_DT_Q2_K = 10,
	GGUF_DT_Q3_K = 11,
	GGUF_DT_Q4_K = 12,
	GGUF_DT_Q5_K = 13,
	GGUF_DT_Q6_K = 14,
	GGUF_DT_Q8_K = 15,
	GGUF_DT_IQ4_NL = 20,
	GGUF_DT_I8 = 24,
	GGUF_DT_I16 = 25,
	GGUF_DT_I32 = 26,
	GGUF_DT_I64 = 27,
	GGUF_DT_F64 = 28,
	GGUF_DT_BF16 = 30,
};

struct gguf_str {
	const char *s; /* not terminated; borrowed from the map */
	size_t len;
};

struct gguf_tensor {
	char name[128];
	enum gguf_dtype dtype;
	uint32_t n_dims;
	uint64_t ne[4];   /* ne[0] is the contiguous dimension ("in" of a matrix), unused ones are 1 */
	const void *data; /* borrowed, n_bytes long, aligned to the file's alignment */
	uint64_t n_bytes;
};

struct gguf;

/* Errors: -errno of open/mmap, -EBADMSG for a torn or wrong file, -ENOTSUP for another version,
 * byte order or an element type of unknown size; the text names the key or tensor and what was
 * expected. A file that somebody shortens while it is open raises SIGBUS: models are replaced by
 * renaming, never written in place. */
int ps_warn_unused gguf_open(const char *path, struct gguf **gguf_out, struct ps_err *err);
void gguf_close(struct gguf *g);

const char *gguf_path(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g);
/* A 64-bit hash over the header (keys, values, tensor directory), the file's size and 16 short
 * pieces of the data, for HELLO: cheap, and different for different models. Not cryptographic. */
uint64_t gguf_hash(const struct gguf *g);

/* Keys in file order, for inspect. */
size_t gguf_n_kv(const struct gguf *g);
const char *gguf_kv_name(const struct gguf *g, size_t i);
enum gguf_type gguf_kv_type(const struct gguf *g, size_t i);
/* Prints a value (arrays: the first `max_items`) into buf, terminated. */
void gguf_kv_format(const struct gguf *g, size_t i, size_t max_items, char *buf, size_t cap);

bool gguf_has(const struct gguf *g, const char *key);
/* Each returns whether the key is there with a convertible type (any integer type for u32/i64
 * if the value fits; f32 and f64 for f32); the output is untouched otherwise. */
bool gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out);
bool gguf_get_i64(const struct gguf *g, const char *key, int64_t *out);
bool gguf_get_f32(const struct gguf *g, const char *key, float *out);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out);
/* Arrays. Count is 0 where there is none. */
size_t gguf_arr_len(const struct gguf *g, const char *key);
enum gguf_type gguf_arr_type(const struct gguf *g, const char *key);
/* Raw little-endian elements of a fixed-size element array, or NULL. Any alignment. */
const void *gguf_arr_data(const struct gguf *g, const char *key);
/* Element i of a string array, O(1) (the reader keeps an index). */
bool gguf_arr_str(const struct gguf *g, const char *key, size_t i, struct gguf_str *out);

size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
/* By name, NULL where there is none. O(1) expected. */
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);

const char *gguf_dtype_name(enum gguf_dtype t);
/* Elements and bytes of a block; false for an unknown type. */
bool gguf_dtype_block(enum gguf_dtype t, uint32_t *elems_out, uint32_t *bytes_out);

#endif
