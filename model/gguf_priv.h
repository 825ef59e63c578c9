/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_GGUF_PRIV_H
#define PENSTOCK_MODEL_GGUF_PRIV_H
/*
 * What gguf.c (opening a file) shares with gguf_get.c (reading values from an
 * open one). Not for other users.
 */
#include "model/gguf.h"

struct gguf_kv {
	char *name;
	enum gguf_type type;
	enum gguf_type elem;  /* of an array */
	uint64_t n;           /* elements of an array, 1 otherwise */
	const uint8_t *value; /* first byte of the value; of an array, its first element */
	uint64_t *str_off;    /* string arrays: offset of each element in the file */
};

/* Open addressing, entry + 1 in each used slot, at most half full. */
struct gguf_index {
	uint32_t *slots;
	size_t mask;
};

struct gguf {
	char *path;
	const uint8_t *map;
	size_t size;
	uint32_t version;
	uint64_t hash;
	size_t n_kv, n_tensors;
	struct gguf_kv *kv;
	struct gguf_tensor *tensors;
	struct gguf_index kv_index, tensor_index;
};

/* Name of entry i of the table that an index is over. */
typedef const char *(*gguf_name_fn)(const struct gguf *g, size_t i);
const char *gguf_kv_name_of(const struct gguf *g, size_t i);
const char *gguf_tensor_name_of(const struct gguf *g, size_t i);

/* Returns the entry + 1, or 0; *slot_out is where it is or would be. */
uint32_t gguf_index_find(const struct gguf *g, const struct gguf_index *ix, gguf_name_fn name_of,
			 const char *name, size_t *slot_out);

/* Bytes of a fixed-size value, 0 for strings, arrays and unknown types. */
uint32_t gguf_type_bytes(uint32_t t);

#endif
