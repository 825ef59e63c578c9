/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/model/vocab_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/check.h"

static void put(struct vocab_file *f, const void *p, size_t n)
{
	if (f->len + n > f->cap) {
		f->cap = 2 * (f->len + n);
		f->buf = realloc(f->buf, f->cap);
		CHECK(f->buf != NULL);
	}
	memcpy(f->buf + f->len, p, n);
	f->len += n;
}

static void put32(struct vocab_file *f, uint32_t v)
{
	uint8_t b[4];

	ps_store32(b, v);
	put(f, b, sizeof(b));
}

static void put64(struct vocab_file *f, uint64_t v)
{
	uint8_t b[8];

	ps_store64(b, v);
	put(f, b, sizeof(b));
}

static void put_str(struct vocab_file *f, const char *s)
{
	put64(f, strlen(s));
	put(f, s, strlen(s));
}

void vocab_file_init(struct vocab_file *f)
{
	*f = (struct vocab_file){.n_kv = 0};
	put(f, "GGUF", 4);
	put32(f, 3);
	put64(f, 0); /* tensors */
	put64(f, 0); /* keys, set when the file is opened */
}

void vocab_file_fini(struct vocab_file *f)
{
	free(f->buf);
}

static void put_key(struct vocab_file *f, const char *key, enum gguf_type type)
{
	put_str(f, key);
	put32(f, type);
	f->n_kv++;
}

static void put_array(struct vocab_file *f, const char *key, enum gguf_type type, size_t n)
{
	put_key(f, key, GGUF_ARRAY);
	put32(f, type);
	put64(f, n);
}

void vocab_file_str(struct vocab_file *f, const char *key, const char *value)
{
	put_key(f, key, GGUF_STRING);
	put_str(f, value);
}

void vocab_file_u32(struct vocab_file *f, const char *key, uint32_t value)
{
	put_key(f, key, GGUF_U32);
	put32(f, value);
}

void vocab_file_bool(struct vocab_file *f, const char *key, bool value)
{
	uint8_t b = value;

	put_key(f, key, GGUF_BOOL);
	put(f, &b, 1);
}

void vocab_file_strs(struct vocab_file *f, const char *key, const char *const *values, size_t n)
{
	put_array(f, key, GGUF_STRING, n);
	for (size_t i = 0; i < n; i++)
		put_str(f, values[i]);
}

void vocab_file_f32s(struct vocab_file *f, const char *key, const float *values, size_t n)
{
	put_array(f, key, GGUF_F32, n);
	for (size_t i = 0; i < n; i++) {
		uint32_t bits;

		memcpy(&bits, &values[i], sizeof(bits));
		put32(f, bits);
	}
}

void vocab_file_i32s(struct vocab_file *f, const char *key, const int32_t *values, size_t n)
{
	put_array(f, key, GGUF_I32, n);
	for (size_t i = 0; i < n; i++)
		put32(f, (uint32_t)values[i]);
}

void vocab_file_u8s(struct vocab_file *f, const char *key, const uint8_t *values, size_t n)
{
	put_array(f, key, GGUF_U8, n);
	put(f, values, n);
}

int vocab_file_open(struct vocab_file *f, struct gguf **g_out, struct ps_err *err)
{
	char path[64];
	int fd = memfd_create("vocabulary", 0), rc;

	CHECK(fd >= 0);
	ps_store64(f->buf + 16, f->n_kv);
	CHECK(write(fd, f->buf, f->len) == (ssize_t)f->len);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = gguf_open(path, g_out, err);
	close(fd);
	return rc;
}
