/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Positions: rotary embedding as the keys and factor tensors describe it and the
 * frequencies that follow, slopes of ALiBi, buckets of relative positions.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "model/arch.h"
#include "model/keys.h"

#define MAX_CTX (1u << 28)

/* Magnitude of attention that YaRN asks for (Peng et al., 2023, section 3.4). */
static float yarn_magnitude(float factor, float multiplier)
{
	return factor <= 1.0f ? 1.0f : 0.1f * multiplier * logf(factor) + 1.0f;
}

static void read_yarn(struct model_keys *r, struct model_rope_params *p)
{
	float factor = 1.0f / p->freq_scale, log_mul = 0, attn = 1;

	p->ext_factor = 1.0f;
	model_keys_f32(r, "rope.scaling.yarn_ext_factor", 0, 100, &p->ext_factor);
	model_keys_f32(r, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, &p->beta_fast);
	model_keys_f32(r, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, &p->beta_slow);
	model_keys_f32(r, "rope.scaling.yarn_log_multiplier", 0, 100, &log_mul);
	if (model_keys_f32(r, "rope.scaling.yarn_attn_factor", 0, 100, &attn) && attn != 1.0f)
		model_keys_fail(r, -ENOTSUP, "key '%s.rope.scaling.yarn_attn_factor': only 1 is supported",
				r->arch);
	if (p->ext_factor == 0.0f)
		return;
	p->mscale *= yarn_magnitude(factor, 1.0f);
	if (log_mul != 0.0f)
		p->mscale /= yarn_magnitude(factor, log_mul);
}

static bool str_is(struct gguf_str s, const char *want)
{
	return s.len == strlen(want) && memcmp(s.s, want, s.len) == 0;
}

static void read_scaling(struct model_keys *r, struct model_rope_params *p)
{
	struct gguf_str type = {.s = "linear", .len = 6}; /* the format's default */
	char key[MODEL_KEY_BYTES];
	float factor = 0;

	model_keys_f32(r, "rope.scale_linear", 0, 1e6f, &factor); /* the name of old files */
	model_keys_f32(r, "rope.scaling.factor", 0, 1e6f, &factor);
	model_keys_f32(r, "rope.scaling.attn_factor", 1e-6f, 1e6f, &p->mscale);
	model_keys_u32(r, "rope.scaling.original_context_length", 1, MAX_CTX, &p->n_ctx_orig);
	model_keys_name(r, "rope.scaling.type", key);
	if (gguf_has(r->g, key) && !gguf_get_str(r->g, key, &type))
		model_keys_fail(r, -EBADMSG, "key '%s': expected a string", key);
	if (str_is(type, "none"))
		return;
	if (factor != 0.0f && factor < 1e-3f)
		model_keys_fail(r, -EBADMSG, "key '%s.rope.scaling.factor': %g is too small", r->arch,
				(double)factor);
	if (factor != 0.0f)
		p->freq_scale = 1.0f / factor;
	if (str_is(type, "yarn"))
		read_yarn(r, p);
	else if (str_is(type, "longrope") && gguf_tensor(r->g, "rope_factors_short.weight") == NULL)
		model_keys_fail(r, -EBADMSG,
				"key '%s' is longrope, but tensor "
				"'rope_factors_short.weight' is missing",
				key);
	else if (!str_is(type, "linear") && !str_is(type, "longrope"))
		model_keys_fail(r, -ENOTSUP, "key '%s': supported are none, linear, yarn, longrope", key);
}

static const struct gguf_tensor *read_factors(struct model_keys *r, const char *name, uint32_t n)
{
	const struct gguf_tensor *t = gguf_tensor(r->g, name);

	if (t == NULL || r->rc < 0)
		return NULL;
	if (t->dtype != GGUF_DT_F32 || t->n_dims != 1 || t->ne[0] != n) {
		model_keys_fail(r, -EBADMSG, "tensor '%s': expected F32 [%u]", name, n);
		return NULL;
	}
	for (uint32_t i = 0; i < n; i++) {
		float f = ((const float *)t->data)[i];

		if (!isnormal(f))
			model_keys_fail(r, -EBADMSG, "tensor '%s': element %u is %g", name, i, (double)f);
	}
	return t;
}

/* One set of factors (Llama 3.1), or two, of which the context chooses (LongRoPE). */
static void read_all_factors(struct model_keys *r, struct model_rope_params *p)
{
	const struct gguf_tensor *shorter = read_factors(r, "rope_factors_short.weight", p->n_rot / 2);

	p->factors = read_factors(r, "rope_freqs.weight", p->n_rot / 2);
	p->factors_long = read_factors(r, "rope_factors_long.weight", p->n_rot / 2);
	if ((shorter == NULL) != (p->factors_long == NULL))
		model_keys_fail(r, -EBADMSG,
				"tensors 'rope_factors_short.weight' and "
				"'rope_factors_long.weight': one of the two is missing");
	if (shorter != NULL && p->factors != NULL)
		model_keys_fail(r, -EBADMSG,
				"tensors 'rope_freqs.weight' and 'rope_factors_short.weight': "
				"expected one of the two");
	if (shorter != NULL)
		p->factors = shorter;
}

/* Of blocks that slide. The reference reads a base of their own for OLMo too, but does not use it. */
static void read_swa(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	struct model_rope_params *p = &hp->rope_swa;

	*p = hp->rope;
	if (arch->swa_rope != MODEL_SWA_ROPE_SAME) {
		p->mscale = 1;
		p->freq_scale = 1;
		p->ext_factor = 0;
		p->factors = NULL;
		p->factors_long = NULL;
	}
	if (arch->swa_rope == MODEL_SWA_ROPE_10000)
		p->freq_base = 10000;
	if (arch->window_period != 0 && arch->swa_rope != MODEL_SWA_ROPE_PLAIN)
		model_keys_f32(r, "rope.freq_base_swa", 1.001f, 1e12f, &p->freq_base);
}

void model_read_rope(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	struct model_rope_params *p = &hp->rope;

	*p = (struct model_rope_params){
	    .kind = arch->rope,
	    .n_rot = hp->head_dim,
	    .mscale = 1,
	    .freq_base = 10000,
	    .freq_scale = 1,
	    .beta_fast = 32,
	    .beta_slow = 1,
	    .n_ctx_orig = hp->n_ctx_train,
	};
	model_keys_u32(r, "rope.dimension_count", 2, UINT32_MAX, &p->n_rot);
	if (r->rc == 0 && (p->n_rot > hp->head_dim || p->n_rot % 2 != 0))
		model_keys_fail(r, -EBADMSG,
				"key '%s.rope.dimension_count': %u rotated elements of a head of %u: "
				"expected an even number, at most as many as the head has",
				r->arch, p->n_rot, hp->head_dim);
	/* Above 1 because YaRN divides by its logarithm. */
	model_keys_f32(r, "rope.freq_base", 1.001f, 1e12f, &p->freq_base);
	read_scaling(r, p);
	read_all_factors(r, p);
	read_swa(r, arch, hp);
}

void model_rope_freqs(const struct model_rope_params *p, uint32_t n_ctx, double *freqs_out)
{
	const struct gguf_tensor *factors =
	    p->factors_long != NULL && n_ctx > p->n_ctx_orig ? p->factors_long : p->factors;
	double log_base = log((double)p->freq_base), n_rot = p->n_rot;
	double fast = n_rot * log(p->n_ctx_orig / (2 * M_PI * (double)p->beta_fast)) / (2 * log_base);
	double slow = n_rot * log(p->n_ctx_orig / (2 * M_PI * (double)p->beta_slow)) / (2 * log_base);
	double low = fmax(0, floor(fast)), high = fmin(n_rot - 1, ceil(slow));

	for (uint32_t i = 0; i < p->n_rot / 2; i++) {
		double t = exp(-2.0 * i / n_rot * log_base), scaled, ramp, m;

		if (factors != NULL)
			t /= (double)((const float *)factors->data)[i];
		scaled = (double)p->freq_scale * t;
		ramp = (i - low) / fmax(high - low, 0.001);
		m = (double)p->ext_factor * (1 - fmin(1, fmax(0, ramp)));
		freqs_out[i] = p->ext_factor == 0.0f ? scaled : scaled * (1 - m) + t * m;
	}
}

double model_alibi_slope(uint32_t head, uint32_t n_heads, double max_bias)
{
	uint32_t n = 1;

	CHECK(head < n_heads);
	while (n <= n_heads / 2)
		n *= 2;
	if (head < n)
		return exp2(-max_bias * (head + 1) / n);
	return exp2(-max_bias / 2 * (2.0 * (head - n) + 1) / n);
}

uint32_t model_rel_bucket(int64_t distance, uint32_t n_buckets, uint32_t max_distance, bool bidirectional)
{
	uint32_t n = bidirectional ? n_buckets / 2 : n_buckets, exact = n / 2;
	uint32_t first = bidirectional && distance > 0 ? n : 0;
	uint64_t d = (uint64_t)(distance < 0 ? -distance : bidirectional ? distance : 0);
	double large;

	CHECK(exact > 0 && max_distance > exact);
	if (d < exact)
		return first + (uint32_t)d;
	/* The epsilon puts distances that lie on a boundary, such as 2 exact, where float32 puts them:
	 * in the upper bucket. */
	large = exact + log((double)d / exact) / log((double)max_distance / exact) * (n - exact) + 1e-6;
	return first + (large < n - 1 ? (uint32_t)large : n - 1);
}
