/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/build.h"

#define NAME_BYTES 128u

void model_build_fail(struct model_build *b, int rc, const char *fmt, ...)
{
	char what[512];
	va_list ap;

	if (b->rc < 0)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	b->rc = ps_err_set(b->err, rc, "%.400s: %s", gguf_path(b->g), what);
}

static void weight_name(const struct model_build *b, uint32_t layer, const char *stem, const char *ending,
			char *buf)
{
	uint32_t n_enc = b->hp.n_layers_enc;

	if (layer == MODEL_GLOBAL)
		snprintf(buf, NAME_BYTES, "%s%s", stem, ending);
	else if (b->d.arch->stack == MODEL_STACK_PLAIN)
		snprintf(buf, NAME_BYTES, "blk.%u.%s%s", layer, stem, ending);
	else if (b->d.arch->stack == MODEL_STACK_ENC || layer < n_enc)
		snprintf(buf, NAME_BYTES, "enc.blk.%u.%s%s", layer, stem, ending);
	else
		snprintf(buf, NAME_BYTES, "dec.blk.%u.%s%s", layer - n_enc, stem, ending);
}

const struct gguf_tensor *model_peek(const struct model_build *b, uint32_t layer, const char *stem)
{
	char name[NAME_BYTES];

	if (stem == NULL)
		return NULL;
	weight_name(b, layer, stem, ".weight", name);
	return gguf_tensor(b->g, name);
}

bool model_has_weight(const struct model_build *b, uint32_t layer, const char *stem)
{
	return model_peek(b, layer, stem) != NULL;
}

static const struct gguf_tensor *find(struct model_build *b, uint32_t layer, const char *stem,
				      const char *ending)
{
	const struct gguf_tensor *t;
	char name[NAME_BYTES];

	if (b->rc < 0)
		return NULL;
	weight_name(b, layer, stem, ending, name);
	t = gguf_tensor(b->g, name);
	if (t == NULL)
		model_build_fail(b, -EBADMSG, "tensor '%s' is missing", name);
	else
		b->used[t - gguf_tensor_at(b->g, 0)] = true;
	return t;
}

static void check_shape(struct model_build *b, const struct gguf_tensor *t, uint64_t ne0, uint64_t ne1,
			uint64_t ne2)
{
	if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != ne2 || t->ne[3] != 1)
		model_build_fail(b, -EBADMSG,
				 "tensor '%s' is [%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64
				 "], expected [%" PRIu64 ", %" PRIu64 ", %" PRIu64 "]",
				 t->name, t->ne[0], t->ne[1], t->ne[2], t->ne[3], ne0, ne1, ne2);
}

const struct gguf_tensor *model_stack_of(struct model_build *b, uint32_t layer, const char *stem, uint64_t in,
					 uint64_t out, uint64_t n)
{
	const struct gguf_tensor *t = find(b, layer, stem, ".weight");
	char supported[128];

	if (t == NULL)
		return NULL;
	check_shape(b, t, in, out, n);
	if (!model_dtype_supported(t->dtype)) {
		model_dtype_list(supported, sizeof(supported));
		model_build_fail(b, -ENOTSUP, "tensor '%s' is %s; supported are %s", t->name,
				 gguf_dtype_name(t->dtype), supported);
	}
	return t;
}

const struct gguf_tensor *model_matrix(struct model_build *b, uint32_t layer, const char *stem, uint64_t in,
				       uint64_t out)
{
	return model_stack_of(b, layer, stem, in, out, 1);
}

const struct gguf_tensor *model_table(struct model_build *b, const char *stem, uint64_t in)
{
	const struct gguf_tensor *t = model_peek(b, MODEL_GLOBAL, stem);

	return model_matrix(b, MODEL_GLOBAL, stem, in, t != NULL ? t->ne[1] : 1);
}

static const struct gguf_tensor *check_f32(struct model_build *b, const struct gguf_tensor *t, uint64_t ne0,
					   uint64_t ne1)
{
	if (t == NULL)
		return NULL;
	check_shape(b, t, ne0, ne1, 1);
	if (t->dtype != GGUF_DT_F32)
		model_build_fail(b, -ENOTSUP, "tensor '%s' is %s; norms and biases are supported as F32",
				 t->name, gguf_dtype_name(t->dtype));
	return t;
}

const struct gguf_tensor *model_f32(struct model_build *b, uint32_t layer, const char *stem, uint64_t ne0,
				    uint64_t ne1)
{
	return check_f32(b, find(b, layer, stem, ".weight"), ne0, ne1);
}

const struct gguf_tensor *model_bias(struct model_build *b, uint32_t layer, const char *stem, uint64_t n,
				     bool must)
{
	char name[NAME_BYTES];

	weight_name(b, layer, stem, ".bias", name);
	if (!must && gguf_tensor(b->g, name) == NULL)
		return NULL;
	return check_f32(b, find(b, layer, stem, ".bias"), n, 1);
}

/*
 * Leftovers of converters that llama.cpp leaves out as well: the rotary table that old ones
 * stored for each block, which follows from the keys, and T5's bias of cross-attention, which its
 * authors' code never reads.
 */
static bool is_known_leftover(const char *name)
{
	static const char *const endings[] = {".attn_rot_embd", ".attn_rot_embd.weight",
					      ".cross_attn_rel_b.weight"};
	size_t len = strlen(name);

	if (strcmp(name, "rope.freqs") == 0)
		return true;
	for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
		size_t n = strlen(endings[i]);

		if (len > n && strcmp(name + len - n, endings[i]) == 0)
			return true;
	}
	return false;
}

/* The factors that model_read_rope has read. */
static bool is_rope_factor(const struct model_build *b, const struct gguf_tensor *t)
{
	const struct model_rope_params *p = &b->hp.rope;

	return t == p->factors || t == p->factors_long;
}

void model_check_all_used(struct model_build *b)
{
	for (size_t i = 0; i < gguf_n_tensors(b->g) && b->rc == 0; i++) {
		const struct gguf_tensor *t = gguf_tensor_at(b->g, i);

		if (!b->used[i] && !is_rope_factor(b, t) && !is_known_leftover(t->name))
			model_build_fail(b, -ENOTSUP,
					 "tensor '%s' is not part of architecture %s as it is "
					 "supported here",
					 t->name, b->hp.arch);
	}
}
