/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/keys.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/bytes.h"

void model_keys_name(const struct model_keys *r, const char *suffix, char *key)
{
	snprintf(key, MODEL_KEY_BYTES, "%s.%s", r->arch, suffix);
}

void model_keys_fail(struct model_keys *r, int rc, const char *fmt, ...)
{
	char what[512];
	va_list ap;

	if (r->rc < 0)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	r->rc = ps_err_set(r->err, rc, "%.400s: %s", gguf_path(r->g), what);
}

/* An array of one number a block counts as that number if all are equal. */
static bool get_uniform_i32(const struct gguf *g, const char *key, uint32_t *out)
{
	size_t n = gguf_arr_len(g, key);
	enum gguf_type type = gguf_arr_type(g, key);
	const uint8_t *p = gguf_arr_data(g, key);

	if (n == 0 || p == NULL || (type != GGUF_I32 && type != GGUF_U32))
		return false;
	for (size_t i = 1; i < n; i++) {
		if (ps_load32(p + 4 * i) != ps_load32(p))
			return false;
	}
	*out = ps_load32(p);
	return true;
}

bool model_keys_u32(struct model_keys *r, const char *suffix, uint32_t lo, uint32_t hi, uint32_t *out)
{
	char key[MODEL_KEY_BYTES];
	uint32_t v = 0;

	model_keys_name(r, suffix, key);
	if (r->rc < 0 || !gguf_has(r->g, key))
		return false;
	if (!gguf_get_u32(r->g, key, &v) && !get_uniform_i32(r->g, key, &v))
		model_keys_fail(r, -EBADMSG,
				"key '%s': expected an integer (%u..%u), the same for all blocks", key, lo,
				hi);
	else if (v < lo || v > hi)
		model_keys_fail(r, -EBADMSG, "key '%s': %u is outside %u..%u", key, v, lo, hi);
	else
		*out = v;
	return r->rc == 0;
}

void model_keys_want_u32(struct model_keys *r, const char *suffix, uint32_t lo, uint32_t hi, uint32_t *out)
{
	if (!model_keys_u32(r, suffix, lo, hi, out))
		model_keys_fail(r, -EBADMSG, "key '%s.%s' is missing", r->arch, suffix);
}

bool model_keys_f32(struct model_keys *r, const char *suffix, float lo, float hi, float *out)
{
	char key[MODEL_KEY_BYTES];
	float v = 0;

	model_keys_name(r, suffix, key);
	if (r->rc < 0 || !gguf_has(r->g, key))
		return false;
	if (!gguf_get_f32(r->g, key, &v))
		model_keys_fail(r, -EBADMSG, "key '%s': expected a floating-point number", key);
	else if (!(v >= lo && v <= hi)) /* also NaN */
		model_keys_fail(r, -EBADMSG, "key '%s': %g is outside %g..%g", key, (double)v, (double)lo,
				(double)hi);
	else
		*out = v;
	return r->rc == 0;
}

bool model_keys_bool(struct model_keys *r, const char *suffix, bool *out)
{
	char key[MODEL_KEY_BYTES];

	model_keys_name(r, suffix, key);
	if (r->rc < 0 || !gguf_has(r->g, key))
		return false;
	if (!gguf_get_bool(r->g, key, out))
		model_keys_fail(r, -EBADMSG, "key '%s': expected a bool", key);
	return r->rc == 0;
}
