/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_KEYS_H
#define PENSTOCK_MODEL_KEYS_H
/*
 * Reads the keys `<arch>.<suffix>` of a file within bounds. The first error stays
 * and later reads do nothing, so that reads are written one after another and
 * `rc` is looked at once. Private to model/.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

#define MODEL_KEY_BYTES 128u

struct model_keys {
	const struct gguf *g;
	const char *arch;   /* the prefix */
	struct ps_err *err; /* its text begins with the file's path */
	int rc;
};

void ps_printf(3, 4) model_keys_fail(struct model_keys *r, int rc, const char *fmt, ...);

/* The whole name of a key; key[MODEL_KEY_BYTES]. */
void model_keys_name(const struct model_keys *r, const char *suffix, char *key);

/* Each leaves *out where the key is absent and returns whether it was set. Present, it has to be an
 * integer (or an array of equal ones, one a block) or a finite number in lo..hi, or a bool. */
bool model_keys_u32(struct model_keys *r, const char *suffix, uint32_t lo, uint32_t hi, uint32_t *out);
bool model_keys_f32(struct model_keys *r, const char *suffix, float lo, float hi, float *out);
bool model_keys_bool(struct model_keys *r, const char *suffix, bool *out);
/* An error where the key is absent. */
void model_keys_want_u32(struct model_keys *r, const char *suffix, uint32_t lo, uint32_t hi, uint32_t *out);

#endif
