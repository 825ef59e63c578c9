/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_UNIT_MODEL_GGUF_WRITER_H
#define PENSTOCK_TESTS_UNIT_MODEL_GGUF_WRITER_H
/*
 * Builds GGUF files in memory, right or wrong as a test asks, and opens them
 * through the reader without touching a disk. Nothing is checked here: a test
 * may write any nonsense.
 */
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

struct gw_buf {
	uint8_t *p;
	size_t len, cap;
};

struct gw {
	uint32_t version, align;
	uint64_t n_kv, n_tensors;
	struct gw_buf kv, info, data;
};

void gw_init(struct gw *w); /* version 3, alignment 32 (of the layout; not written as a key) */
void gw_free(struct gw *w);

void gw_put(struct gw_buf *b, const void *p, size_t n);
void gw_put_u32(struct gw_buf *b, uint32_t v);
void gw_put_u64(struct gw_buf *b, uint64_t v);
void gw_put_str(struct gw_buf *b, const char *s);

/* A key and its type, the value to follow with gw_put*(&w->kv, ...). */
void gw_key(struct gw *w, const char *key, uint32_t type);
void gw_kv_u32(struct gw *w, const char *key, uint32_t v);
void gw_kv_f32(struct gw *w, const char *key, float v);
void gw_kv_bool(struct gw *w, const char *key, uint8_t v);
void gw_kv_str(struct gw *w, const char *key, const char *v);
void gw_kv_array(struct gw *w, const char *key, uint32_t elem, uint64_t n, const void *p, size_t bytes);
void gw_kv_strs(struct gw *w, const char *key, const char *const *strs, size_t n);

/* The directory entry alone, as given. */
void gw_info(struct gw *w, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t dtype,
	     uint64_t off);
/* A tensor with its data: bytes of a pattern that follows from the name. ne[n_dims]. */
void gw_tensor(struct gw *w, const char *name, uint32_t n_dims, const uint64_t *ne, enum gguf_dtype dtype);

/* The file; the caller frees. */
uint8_t *gw_finish(const struct gw *w, size_t *len_out);

/* Opens bytes as a file. */
int gw_open_bytes(const uint8_t *bytes, size_t len, struct gguf **gguf_out, struct ps_err *err);
int gw_open(const struct gw *w, struct gguf **gguf_out, struct ps_err *err);
/* Where a file that cannot be opened is a mistake of the test. */
struct gguf *gw_open_good(const struct gw *w);

/* Small whole models whose graphs build: 2 blocks unless said otherwise. */
struct gw_model {
	uint32_t n_layers;
	enum gguf_dtype dtype; /* of the matrices */
	const char *skip;      /* leaves out the tensor or key of that name */
	const char *reshape;   /* gives that tensor one more element in its last dimension */
	const char *retype;    /* makes that tensor F64, which nothing computes with */
	bool untied, fused, biases, moe;
};
void gw_llama(struct gw *w, const struct gw_model *m);
void gw_gpt2(struct gw *w, const struct gw_model *m);

/* Calls every reading function on an open file, as the sanitizers' bait; whether a graph of it
 * builds does not matter. */
void gw_exercise(const struct gguf *g);

#endif
