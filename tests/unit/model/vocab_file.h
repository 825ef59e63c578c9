/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_UNIT_MODEL_VOCAB_FILE_H
#define PENSTOCK_TESTS_UNIT_MODEL_VOCAB_FILE_H
/*
 * Makes small GGUF files of keys and no tensors, for tests of what reads them. The
 * file lives in memory. Any failure here fails the test.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

struct vocab_file {
	uint8_t *buf;
	size_t len, cap;
	uint64_t n_kv;
};

void vocab_file_init(struct vocab_file *f);
void vocab_file_fini(struct vocab_file *f);

void vocab_file_str(struct vocab_file *f, const char *key, const char *value);
void vocab_file_u32(struct vocab_file *f, const char *key, uint32_t value);
void vocab_file_bool(struct vocab_file *f, const char *key, bool value);
void vocab_file_strs(struct vocab_file *f, const char *key, const char *const *values, size_t n);
void vocab_file_f32s(struct vocab_file *f, const char *key, const float *values, size_t n);
void vocab_file_u8s(struct vocab_file *f, const char *key, const uint8_t *values, size_t n);
void vocab_file_i32s(struct vocab_file *f, const char *key, const int32_t *values, size_t n);

/* Opens what has been written so far; the result is gguf_open's. */
int vocab_file_open(struct vocab_file *f, struct gguf **g_out, struct ps_err *err);

#endif
