/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/gguf_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"

const char *gguf_path(const struct gguf *g)
{
	return g->path;
}

uint32_t gguf_version(const struct gguf *g)
{
	return g->version;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
	return g->size;
}

uint64_t gguf_hash(const struct gguf *g)
{
	return g->hash;
}

size_t gguf_n_kv(const struct gguf *g)
{
	return g->n_kv;
}

const char *gguf_kv_name(const struct gguf *g, size_t i)
{
	CHECK(i < g->n_kv);
	return g->kv[i].name;
}

enum gguf_type gguf_kv_type(const struct gguf *g, size_t i)
{
	CHECK(i < g->n_kv);
	return g->kv[i].type;
}

static const struct gguf_kv *kv_find(const struct gguf *g, const char *key)
{
	size_t slot;
	uint32_t at = gguf_index_find(g, &g->kv_index, gguf_kv_name_of, key, &slot);

	return at != 0 ? &g->kv[at - 1] : NULL;
}

static const struct gguf_kv *kv_find_array(const struct gguf *g, const char *key)
{
	const struct gguf_kv *kv = kv_find(g, key);

	return kv != NULL && kv->type == GGUF_ARRAY ? kv : NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
	return kv_find(g, key) != NULL;
}

/* Any integer type as i64; false for other types and for a u64 beyond i64. */
static bool load_i64(enum gguf_type type, const uint8_t *p, int64_t *out)
{
	switch (type) {
	case GGUF_U8:
		*out = *p;
		return true;
	case GGUF_I8:
		*out = (int8_t)*p;
		return true;
	case GGUF_U16:
		*out = ps_load16(p);
		return true;
	case GGUF_I16:
		*out = (int16_t)ps_load16(p);
		return true;
	case GGUF_U32:
		*out = ps_load32(p);
		return true;
	case GGUF_I32:
		*out = (int32_t)ps_load32(p);
		return true;
	case GGUF_U64:
		if (ps_load64(p) > INT64_MAX)
			return false;
		*out = (int64_t)ps_load64(p);
		return true;
	case GGUF_I64:
		*out = (int64_t)ps_load64(p);
		return true;
	default:
		return false;
	}
}

static double load_f32(const uint8_t *p)
{
	uint32_t bits = ps_load32(p);
	float f;

	memcpy(&f, &bits, sizeof(f));
	return (double)f;
}

static double load_f64(const uint8_t *p)
{
	uint64_t bits = ps_load64(p);
	double d;

	memcpy(&d, &bits, sizeof(d));
	return d;
}

bool gguf_get_i64(const struct gguf *g, const char *key, int64_t *out)
{
	const struct gguf_kv *kv = kv_find(g, key);

	return kv != NULL && load_i64(kv->type, kv->value, out);
}

bool gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out)
{
	int64_t v;

	if (!gguf_get_i64(g, key, &v) || v < 0 || v > UINT32_MAX)
		return false;
	*out = (uint32_t)v;
	return true;
}

bool gguf_get_f32(const struct gguf *g, const char *key, float *out)
{
	const struct gguf_kv *kv = kv_find(g, key);

	if (kv == NULL || (kv->type != GGUF_F32 && kv->type != GGUF_F64))
		return false;
	*out = (float)(kv->type == GGUF_F32 ? load_f32(kv->value) : load_f64(kv->value));
	return true;
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *out)
{
	const struct gguf_kv *kv = kv_find(g, key);

	if (kv == NULL || kv->type != GGUF_BOOL)
		return false;
	*out = *kv->value != 0;
	return true;
}

/* A string that was checked when the file was opened. */
static struct gguf_str str_at(const uint8_t *p)
{
	return (struct gguf_str){.s = (const char *)p + 8, .len = (size_t)ps_load64(p)};
}

bool gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out)
{
	const struct gguf_kv *kv = kv_find(g, key);

	if (kv == NULL || kv->type != GGUF_STRING)
		return false;
	*out = str_at(kv->value);
	return true;
}

size_t gguf_arr_len(const struct gguf *g, const char *key)
{
	const struct gguf_kv *kv = kv_find_array(g, key);

	return kv != NULL ? (size_t)kv->n : 0;
}

enum gguf_type gguf_arr_type(const struct gguf *g, const char *key)
{
	const struct gguf_kv *kv = kv_find_array(g, key);

	return kv != NULL ? kv->elem : GGUF_ARRAY;
}

const void *gguf_arr_data(const struct gguf *g, const char *key)
{
	const struct gguf_kv *kv = kv_find_array(g, key);

	return kv != NULL && kv->elem != GGUF_STRING ? kv->value : NULL;
}

bool gguf_arr_str(const struct gguf *g, const char *key, size_t i, struct gguf_str *out)
{
	const struct gguf_kv *kv = kv_find_array(g, key);

	if (kv == NULL || kv->elem != GGUF_STRING || i >= kv->n)
		return false;
	*out = str_at(g->map + kv->str_off[i]);
	return true;
}

size_t gguf_n_tensors(const struct gguf *g)
{
	return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
	CHECK(i < g->n_tensors);
	return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
	size_t slot;
	uint32_t at = gguf_index_find(g, &g->tensor_index, gguf_tensor_name_of, name, &slot);

	return at != 0 ? &g->tensors[at - 1] : NULL;
}

/* ---- printing ------------------------------------------------------------------------------- */

/* Appends to a bounded text; what does not fit is cut. */
struct text {
	char *buf;
	size_t cap, len;
};

static void ps_printf(2, 3) text_add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (t->len + 1 >= t->cap)
		return;
	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, t->cap - t->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len = (size_t)n < t->cap - t->len ? t->len + (size_t)n : t->cap - 1;
}

/* File text goes to terminals: control characters are written as \xNN. */
static void text_add_str(struct text *t, struct gguf_str s)
{
	text_add(t, "\"");
	for (size_t i = 0; i < s.len && t->len + 1 < t->cap; i++) {
		unsigned char ch = (unsigned char)s.s[i];

		if (ch == '"' || ch == '\\')
			text_add(t, "\\%c", ch);
		else if (ch < 0x20 || ch == 0x7f)
			text_add(t, "\\x%02x", ch);
		else
			text_add(t, "%c", ch);
	}
	text_add(t, "\"");
}

static void text_add_scalar(struct text *t, enum gguf_type type, const uint8_t *p)
{
	int64_t v;

	if (load_i64(type, p, &v))
		text_add(t, "%lld", (long long)v);
	else if (type == GGUF_U64)
		text_add(t, "%llu", (unsigned long long)ps_load64(p));
	else if (type == GGUF_F32)
		text_add(t, "%g", load_f32(p));
	else if (type == GGUF_F64)
		text_add(t, "%g", load_f64(p));
	else if (type == GGUF_BOOL)
		text_add(t, "%s", *p != 0 ? "true" : "false");
	else
		text_add_str(t, str_at(p));
}

void gguf_kv_format(const struct gguf *g, size_t i, size_t max_items, char *buf, size_t cap)
{
	struct text t = {.buf = buf, .cap = cap};
	const struct gguf_kv *kv;

	CHECK(i < g->n_kv && cap > 0);
	buf[0] = '\0';
	kv = &g->kv[i];
	if (kv->type != GGUF_ARRAY) {
		text_add_scalar(&t, kv->type, kv->value);
		return;
	}
	text_add(&t, "[");
	for (uint64_t k = 0; k < kv->n && k < max_items && t.len + 1 < t.cap; k++) {
		const uint8_t *p = kv->elem == GGUF_STRING ? g->map + kv->str_off[k]
							   : kv->value + k * gguf_type_bytes(kv->elem);

		text_add(&t, "%s", k > 0 ? ", " : "");
		text_add_scalar(&t, kv->elem, p);
	}
	if (kv->n > max_items)
		text_add(&t, "%s... %llu in all", max_items > 0 ? ", " : "", (unsigned long long)kv->n);
	text_add(&t, "]");
}
