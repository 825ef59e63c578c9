/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/graph.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "model/arch.h"

/*
 * Bounds of what we believe. They are several times the largest published models, and small
 * enough that a product of two of them fits 64 bits and one of heads and head size 32.
 */
#define MAX_LAYERS   1024u
#define MAX_EMBD     (1u << 20)
#define MAX_HEADS    4096u
#define MAX_HEAD_DIM 8192u
#define MAX_FF       (1u << 24)
#define MAX_VOCAB    (1u << 24)
#define MAX_CTX      (1u << 28)
#define MAX_EXPERTS  4096u

#define KEY_BYTES 128u

/* Reads `<arch>.<suffix>` keys; the first error stays and later reads do nothing. */
struct reader {
	const struct gguf *g;
	const char *arch;
	struct ps_err *err;
	int rc;
};

static void key_name(const struct reader *r, const char *suffix, char *key)
{
	snprintf(key, KEY_BYTES, "%s.%s", r->arch, suffix);
}

static void ps_printf(3, 4) fail(struct reader *r, int rc, const char *fmt, ...)
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

/* Leaves *out where the key is absent; present, it has to be an integer in lo..hi. */
static bool opt_u32(struct reader *r, const char *suffix, uint32_t lo, uint32_t hi, uint32_t *out)
{
	char key[KEY_BYTES];
	uint32_t v = 0;

	key_name(r, suffix, key);
	if (r->rc < 0 || !gguf_has(r->g, key))
		return false;
	if (!gguf_get_u32(r->g, key, &v) && !get_uniform_i32(r->g, key, &v))
		fail(r, -EBADMSG, "key '%s': expected an integer (%u..%u), the same for all blocks", key, lo,
		     hi);
	else if (v < lo || v > hi)
		fail(r, -EBADMSG, "key '%s': %u is outside %u..%u", key, v, lo, hi);
	else
		*out = v;
	return r->rc == 0;
}

static void want_u32(struct reader *r, const char *suffix, uint32_t lo, uint32_t hi, uint32_t *out)
{
	if (!opt_u32(r, suffix, lo, hi, out))
		fail(r, -EBADMSG, "key '%s.%s' is missing", r->arch, suffix);
}

/* Leaves *out where the key is absent; present, it has to be a finite number in lo..hi. */
static bool opt_f32(struct reader *r, const char *suffix, float lo, float hi, float *out)
{
	char key[KEY_BYTES];
	float v = 0;

	key_name(r, suffix, key);
	if (r->rc < 0 || !gguf_has(r->g, key))
		return false;
	if (!gguf_get_f32(r->g, key, &v))
		fail(r, -EBADMSG, "key '%s': expected a floating-point number", key);
	else if (!(v >= lo && v <= hi)) /* also NaN */
		fail(r, -EBADMSG, "key '%s': %g is outside %g..%g", key, (double)v, (double)lo, (double)hi);
	else
		*out = v;
	return r->rc == 0;
}

static const struct model_arch *read_arch(const struct gguf *g, struct model_hparams *hp, struct ps_err *err,
					  int *rc_out)
{
	const struct model_arch *arch;
	struct gguf_str s;
	char known[256];

	*rc_out = 0;
	if (!gguf_get_str(g, "general.architecture", &s) || s.len == 0) {
		*rc_out =
		    ps_err_set(err, -EBADMSG, "%.400s: key 'general.architecture' is missing", gguf_path(g));
		return NULL;
	}
	arch = model_arch_find(s.s, s.len);
	if (arch == NULL) {
		model_arch_list(known, sizeof(known));
		for (size_t i = 0; i < s.len && i < sizeof(hp->arch) - 1; i++)
			hp->arch[i] = s.s[i] > 0x20 && s.s[i] < 0x7f ? s.s[i] : '?';
		*rc_out =
		    ps_err_set(err, -ENOTSUP, "%.400s: architecture '%s' is not supported; supported: %s",
			       gguf_path(g), hp->arch, known);
		return NULL;
	}
	snprintf(hp->arch, sizeof(hp->arch), "%s", arch->name);
	return arch;
}

static void read_name(const struct gguf *g, struct model_hparams *hp)
{
	struct gguf_str s;

	if (!gguf_get_str(g, "general.name", &s))
		return;
	for (size_t i = 0; i < s.len && i < sizeof(hp->name) - 1; i++) {
		unsigned char ch = (unsigned char)s.s[i];

		hp->name[i] = ch >= 0x20 && ch != 0x7f ? s.s[i] : '?';
	}
}

/* The rows of the embedding table are the vocabulary; what the keys say has to agree. */
static void read_vocab(struct reader *r, struct model_hparams *hp)
{
	const struct gguf_tensor *t = gguf_tensor(r->g, "token_embd.weight");
	size_t n_tokens = gguf_arr_len(r->g, "tokenizer.ggml.tokens");
	uint32_t said = 0;

	if (t == NULL || t->n_dims != 2 || t->ne[1] > MAX_VOCAB) {
		fail(r, -EBADMSG, "tensor 'token_embd.weight': expected a matrix of at most %u rows",
		     MAX_VOCAB);
		return;
	}
	hp->n_vocab = (uint32_t)t->ne[1];
	if (opt_u32(r, "vocab_size", 1, MAX_VOCAB, &said) && said != hp->n_vocab)
		fail(r, -EBADMSG, "key '%s.vocab_size' is %u, but 'token_embd.weight' has %u rows", r->arch,
		     said, hp->n_vocab);
	if (n_tokens > hp->n_vocab)
		fail(r, -EBADMSG,
		     "key 'tokenizer.ggml.tokens' has %zu entries, but "
		     "'token_embd.weight' only %u rows",
		     n_tokens, hp->n_vocab);
}

static void read_heads(struct reader *r, struct model_hparams *hp)
{
	want_u32(r, "attention.head_count", 1, MAX_HEADS, &hp->n_heads);
	hp->n_heads_kv = hp->n_heads;
	opt_u32(r, "attention.head_count_kv", 1, MAX_HEADS, &hp->n_heads_kv);
	if (r->rc < 0)
		return;
	if (hp->n_heads % hp->n_heads_kv != 0)
		fail(r, -EBADMSG, "%u attention heads cannot share %u KV heads evenly", hp->n_heads,
		     hp->n_heads_kv);
	hp->head_dim = hp->n_embd / hp->n_heads;
	if (!opt_u32(r, "attention.key_length", 1, MAX_HEAD_DIM, &hp->head_dim) &&
	    (hp->n_embd % hp->n_heads != 0 || hp->head_dim > MAX_HEAD_DIM))
		fail(r, -EBADMSG, "an embedding of %u cannot be cut into %u heads of at most %u", hp->n_embd,
		     hp->n_heads, MAX_HEAD_DIM);
	hp->head_dim_v = hp->head_dim;
	opt_u32(r, "attention.value_length", 1, MAX_HEAD_DIM, &hp->head_dim_v);
}

static void read_shape(struct reader *r, const struct model_arch *arch, struct model_hparams *hp)
{
	want_u32(r, "block_count", 1, MAX_LAYERS, &hp->n_layers);
	want_u32(r, "embedding_length", 1, MAX_EMBD, &hp->n_embd);
	want_u32(r, "feed_forward_length", 1, MAX_FF, &hp->n_ff);
	want_u32(r, "context_length", 1, MAX_CTX, &hp->n_ctx_train);
	read_heads(r, hp);
	if (!opt_f32(r, arch->eps_key, 1e-20f, 1.0f, &hp->norm_eps))
		fail(r, -EBADMSG, "key '%s.%s' is missing", r->arch, arch->eps_key);
	if (opt_u32(r, "expert_count", 0, MAX_EXPERTS, &hp->n_experts) && hp->n_experts > 0) {
		want_u32(r, "expert_used_count", 1, hp->n_experts, &hp->n_experts_used);
		if (!arch->ffn_gated)
			fail(r, -ENOTSUP, "a mixture of experts in architecture %s", r->arch);
	}
	read_vocab(r, hp);
}

static void read_positions(struct reader *r, struct model_hparams *hp)
{
	const struct gguf_tensor *t = gguf_tensor(r->g, "position_embd.weight");

	if (t == NULL || t->n_dims != 2 || t->ne[1] > MAX_CTX)
		fail(r, -EBADMSG,
		     "tensor 'position_embd.weight': expected a matrix of at most %u "
		     "rows",
		     MAX_CTX);
	else
		hp->n_ctx_max = (uint32_t)t->ne[1];
}

/* Magnitude of attention that YaRN asks for (Peng et al., 2023, section 3.4). */
static float yarn_magnitude(float factor, float multiplier)
{
	return factor <= 1.0f ? 1.0f : 0.1f * multiplier * logf(factor) + 1.0f;
}

static void read_yarn(struct reader *r, struct model_rope_params *p)
{
	float factor = 1.0f / p->freq_scale, log_mul = 0, attn = 1;

	p->ext_factor = 1.0f;
	opt_f32(r, "rope.scaling.yarn_ext_factor", 0, 100, &p->ext_factor);
	opt_f32(r, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, &p->beta_fast);
	opt_f32(r, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, &p->beta_slow);
	opt_f32(r, "rope.scaling.yarn_log_multiplier", 0, 100, &log_mul);
	if (opt_f32(r, "rope.scaling.yarn_attn_factor", 0, 100, &attn) && attn != 1.0f)
		fail(r, -ENOTSUP, "key '%s.rope.scaling.yarn_attn_factor': only 1 is supported", r->arch);
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

static void read_rope_scaling(struct reader *r, struct model_rope_params *p)
{
	struct gguf_str type = {.s = "linear", .len = 6}; /* the format's default */
	char key[KEY_BYTES];
	float factor = 0;

	opt_f32(r, "rope.scale_linear", 0, 1e6f, &factor); /* the name of old files */
	opt_f32(r, "rope.scaling.factor", 0, 1e6f, &factor);
	opt_f32(r, "rope.scaling.attn_factor", 1e-6f, 1e6f, &p->mscale);
	opt_u32(r, "rope.scaling.original_context_length", 1, MAX_CTX, &p->n_ctx_orig);
	key_name(r, "rope.scaling.type", key);
	if (gguf_has(r->g, key) && !gguf_get_str(r->g, key, &type))
		fail(r, -EBADMSG, "key '%s': expected a string", key);
	if (str_is(type, "none"))
		return;
	if (factor != 0.0f && factor < 1e-3f)
		fail(r, -EBADMSG, "key '%s.rope.scaling.factor': %g is too small", r->arch, (double)factor);
	if (factor != 0.0f)
		p->freq_scale = 1.0f / factor;
	if (str_is(type, "yarn"))
		read_yarn(r, p);
	else if (!str_is(type, "linear"))
		fail(r, -ENOTSUP, "key '%s': supported are none, linear, yarn", key);
}

static void read_rope_factors(struct reader *r, struct model_rope_params *p)
{
	const struct gguf_tensor *t = gguf_tensor(r->g, "rope_freqs.weight");

	if (t == NULL || r->rc < 0)
		return;
	if (t->dtype != GGUF_DT_F32 || t->n_dims != 1 || t->ne[0] != p->n_rot / 2) {
		fail(r, -EBADMSG, "tensor 'rope_freqs.weight': expected F32 [%u]", p->n_rot / 2);
		return;
	}
	for (uint32_t i = 0; i < p->n_rot / 2; i++) {
		float f = ((const float *)t->data)[i];

		if (!isnormal(f))
			fail(r, -EBADMSG, "tensor 'rope_freqs.weight': element %u is %g", i, (double)f);
	}
	p->factors = t;
}

static void read_rope(struct reader *r, const struct model_arch *arch, struct model_hparams *hp)
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
	opt_u32(r, "rope.dimension_count", 2, MAX_HEAD_DIM, &p->n_rot);
	if (r->rc == 0 && (p->n_rot > hp->head_dim || p->n_rot % 2 != 0))
		fail(r, -EBADMSG,
		     "%u rotated elements of a head of %u: expected an even number, at "
		     "most as many as the head has",
		     p->n_rot, hp->head_dim);
	/* Above 1 because YaRN divides by its logarithm. */
	opt_f32(r, "rope.freq_base", 1.001f, 1e12f, &p->freq_base);
	read_rope_scaling(r, p);
	read_rope_factors(r, p);
}

int model_read_hparams(const struct gguf *g, struct model_hparams *hp_out, struct ps_err *err)
{
	struct reader r = {.g = g, .err = err};
	const struct model_arch *arch;

	CHECK(g != NULL && hp_out != NULL);
	memset(hp_out, 0, sizeof(*hp_out));
	arch = read_arch(g, hp_out, err, &r.rc);
	if (arch == NULL)
		return r.rc;
	r.arch = arch->name;
	read_name(g, hp_out);
	read_shape(&r, arch, hp_out);
	if (arch->pos == MODEL_POS_LEARNED)
		read_positions(&r, hp_out);
	if (arch->pos == MODEL_POS_ROPE && r.rc == 0)
		read_rope(&r, arch, hp_out);
	return r.rc;
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
