/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/graph.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "model/arch.h"
#include "model/keys.h"

/*
 * Bounds of what we believe. They are several times the largest published models, and small
 * enough that a product of two of them fits 64 bits and one of heads and head size 32. A head and the
 * experts are what the back ends take at most.
 */
#define MAX_LAYERS   1024u
#define MAX_EMBD     (1u << 20)
#define MAX_HEADS    4096u
#define MAX_HEAD_DIM 1024u
#define MAX_FF       (1u << 24)
#define MAX_VOCAB    (1u << 24)
#define MAX_CTX      (1u << 28)
#define MAX_EXPERTS  1024u
/* Of a bidirectional stack the exact half is a quarter, otherwise a half: below the distance
 * MODEL_REL_MAX_DISTANCE, from which on all are the last bucket. */
#define MIN_BUCKETS 4u
#define MAX_BUCKETS 254u

static const struct model_arch *read_arch(const struct gguf *g, struct model_hparams *hp, struct ps_err *err,
					  int *rc_out)
{
	const struct model_arch *arch;
	struct gguf_str s;
	char known[512];

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
static void read_vocab(struct model_keys *r, struct model_hparams *hp)
{
	const struct gguf_tensor *t = gguf_tensor(r->g, "token_embd.weight");
	size_t n_tokens = gguf_arr_len(r->g, "tokenizer.ggml.tokens");
	uint32_t said = 0;

	if (t == NULL || t->n_dims != 2 || t->ne[1] > MAX_VOCAB) {
		model_keys_fail(r, -EBADMSG,
				"tensor 'token_embd.weight': expected a matrix of at most %u rows",
				MAX_VOCAB);
		return;
	}
	hp->n_vocab = (uint32_t)t->ne[1];
	if (model_keys_u32(r, "vocab_size", 1, MAX_VOCAB, &said) && said != hp->n_vocab)
		model_keys_fail(r, -EBADMSG, "key '%s.vocab_size' is %u, but 'token_embd.weight' has %u rows",
				r->arch, said, hp->n_vocab);
	if (n_tokens > hp->n_vocab)
		model_keys_fail(r, -EBADMSG,
				"key 'tokenizer.ggml.tokens' has %zu entries, but "
				"'token_embd.weight' only %u rows",
				n_tokens, hp->n_vocab);
}

static void read_heads(struct model_keys *r, struct model_hparams *hp)
{
	model_keys_want_u32(r, "attention.head_count", 1, MAX_HEADS, &hp->n_heads);
	hp->n_heads_kv = hp->n_heads;
	model_keys_u32(r, "attention.head_count_kv", 1, MAX_HEADS, &hp->n_heads_kv);
	if (r->rc < 0)
		return;
	if (hp->n_heads % hp->n_heads_kv != 0)
		model_keys_fail(r, -EBADMSG, "%u attention heads cannot share %u KV heads evenly",
				hp->n_heads, hp->n_heads_kv);
	hp->head_dim = hp->n_embd / hp->n_heads;
	if (!model_keys_u32(r, "attention.key_length", 1, MAX_HEAD_DIM, &hp->head_dim) &&
	    (hp->n_embd % hp->n_heads != 0 || hp->head_dim > MAX_HEAD_DIM))
		model_keys_fail(r, -EBADMSG, "an embedding of %u cannot be cut into %u heads of at most %u",
				hp->n_embd, hp->n_heads, MAX_HEAD_DIM);
	hp->head_dim_v = hp->head_dim;
	model_keys_u32(r, "attention.value_length", 1, MAX_HEAD_DIM, &hp->head_dim_v);
}

/* An encoder-decoder model counts the blocks of its encoder; those of the decoder come behind. */
static void read_blocks(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	uint32_t n_dec;

	model_keys_want_u32(r, "block_count", 1, MAX_LAYERS, &hp->n_layers);
	if (arch->stack != MODEL_STACK_ENC_DEC)
		return;
	n_dec = hp->n_layers;
	model_keys_u32(r, "decoder_block_count", 1, MAX_LAYERS, &n_dec);
	hp->n_layers_enc = hp->n_layers;
	hp->n_layers += n_dec;
	if (hp->n_layers > MAX_LAYERS)
		model_keys_fail(r, -EBADMSG,
				"keys '%s.block_count' and '%s.decoder_block_count': %u blocks are "
				"more than %u",
				r->arch, r->arch, hp->n_layers, MAX_LAYERS);
}

static void read_experts(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	if (!model_keys_u32(r, "expert_count", 0, MAX_EXPERTS, &hp->n_experts) || hp->n_experts == 0)
		return;
	if (!arch->moe)
		model_keys_fail(r, -ENOTSUP,
				"key '%s.expert_count' is %u: a mixture of experts is not supported in "
				"architecture %s",
				r->arch, hp->n_experts, r->arch);
	model_keys_want_u32(r, "expert_used_count", 1, hp->n_experts, &hp->n_experts_used);
}

static void read_shape(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	read_blocks(r, arch, hp);
	model_keys_want_u32(r, "embedding_length", 1, MAX_EMBD, &hp->n_embd);
	model_keys_want_u32(r, "feed_forward_length", 1, MAX_FF, &hp->n_ff);
	model_keys_want_u32(r, "context_length", 1, MAX_CTX, &hp->n_ctx_train);
	read_heads(r, hp);
	if (!model_keys_f32(r, arch->eps_key, 1e-20f, 1.0f, &hp->norm_eps))
		model_keys_fail(r, -EBADMSG, "key '%s.%s' is missing", r->arch, arch->eps_key);
	read_experts(r, arch, hp);
	read_vocab(r, hp);
}

/* The table of positions, whose length is the longest sequence there can be. */
static void read_positions(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	const struct gguf_tensor *t = gguf_tensor(r->g, "position_embd.weight");

	if (arch->positions == MODEL_HAS_NONE || (t == NULL && arch->positions == MODEL_HAS_MAYBE))
		return;
	if (t == NULL || t->n_dims != 2 || t->ne[1] > MAX_CTX)
		model_keys_fail(r, -EBADMSG,
				"tensor 'position_embd.weight': expected a matrix of at most %u rows",
				MAX_CTX);
	else
		hp->n_ctx_max = (uint32_t)t->ne[1];
}

/* What is made of a model's output. */
static void read_task(struct model_keys *r, const struct model_arch *arch, struct model_hparams *hp)
{
	uint32_t pooling = MODEL_POOL_NONE, start = 0;
	bool causal = !arch->bidirectional;

	hp->task = arch->task;
	hp->decoder_start = -1;
	model_keys_bool(r, "attention.causal", &causal);
	if (!causal && !arch->bidirectional)
		model_keys_fail(r, -ENOTSUP,
				"key '%s.attention.causal' is false: a model of architecture %s whose tokens "
				"all see each other is not supported",
				r->arch, r->arch);
	hp->causal = causal;
	if (arch->task == MODEL_TASK_EMBED) {
		model_keys_u32(r, "pooling_type", MODEL_POOL_NONE, MODEL_POOL_LAST, &pooling);
		hp->pooling = (enum model_pooling)pooling;
		hp->has_fill = gguf_tensor(r->g, "mlm_dense.weight") != NULL;
	}
	if (arch->stack == MODEL_STACK_ENC_DEC && r->rc == 0 &&
	    model_keys_u32(r, "decoder_start_token_id", 0, hp->n_vocab - 1, &start))
		hp->decoder_start = (int32_t)start;
}

/* Which blocks slide: all but the last of a period, or as an array says block by block. */
static void read_window_pattern(struct model_keys *r, const struct model_arch *arch,
				const struct model_hparams *hp, struct model_details *d)
{
	static const char suffix[] = "attention.sliding_window_pattern";
	char key[MODEL_KEY_BYTES];

	model_keys_name(r, suffix, key);
	d->window_period = arch->window_period;
	if (gguf_arr_len(r->g, key) == 0) {
		model_keys_u32(r, suffix, 1, MAX_LAYERS, &d->window_period);
		return;
	}
	d->window_blocks = gguf_arr_data(r->g, key);
	if (gguf_arr_type(r->g, key) != GGUF_BOOL || gguf_arr_len(r->g, key) != hp->n_layers ||
	    d->window_blocks == NULL)
		model_keys_fail(r, -EBADMSG, "key '%s': expected an integer or %u bools", key, hp->n_layers);
}

static void read_window(struct model_keys *r, const struct model_arch *arch, const struct model_hparams *hp,
			struct model_details *d)
{
	if (arch->window_period == 0)
		return;
	d->window = arch->window;
	model_keys_u32(r, "attention.sliding_window", 0, MAX_CTX, &d->window);
	if (d->window != 0)
		read_window_pattern(r, arch, hp, d);
}

bool model_block_slides(const struct model_details *d, uint32_t layer)
{
	if (d->window == 0)
		return false;
	return d->window_blocks != NULL ? d->window_blocks[layer] != 0
					: layer % d->window_period < d->window_period - 1;
}

static float default_attn_scale(const struct model_arch *arch, const struct model_hparams *hp)
{
	if (arch->unscaled)
		return 1;
	if (arch->wide_scale != 0 && arch->wide_scale == hp->n_layers)
		return 1.0f / sqrtf((float)hp->n_embd / (float)hp->n_heads);
	return 1.0f / sqrtf((float)hp->head_dim);
}

static void read_attention(struct model_keys *r, const struct model_arch *arch,
			   const struct model_hparams *hp, struct model_details *d)
{
	float scale = 0;

	if (arch->attn_cap) {
		d->attn_cap = arch->attn_cap_default;
		model_keys_f32(r, "attn_logit_softcapping", 0, 1e6f, &d->attn_cap);
	}
	if (arch->final_cap) {
		d->final_cap = arch->final_cap_default;
		model_keys_f32(r, "final_logit_softcapping", 0, 1e6f, &d->final_cap);
	}
	if (arch->alibi) {
		d->max_alibi_bias = arch->max_alibi_bias;
		model_keys_f32(r, "attention.max_alibi_bias", 0, 1e3f, &d->max_alibi_bias);
	}
	model_keys_f32(r, "attention.clamp_kqv", 0, 1e6f, &d->clamp);
	d->attn_scale = default_attn_scale(arch, hp);
	if (model_keys_f32(r, "attention.scale", 0, 1e3f, &scale) && scale != 0.0f)
		d->attn_scale = scale;
}

static void read_details(struct model_keys *r, const struct model_arch *arch, const struct model_hparams *hp,
			 struct model_details *d)
{
	*d = (struct model_details){.arch = arch, .embed_scale = 1};
	if (arch->embed_scaled)
		d->embed_scale = sqrtf((float)hp->n_embd);
	if (arch->parallel == MODEL_PARALLEL_KEY &&
	    !model_keys_bool(r, "use_parallel_residual", &d->parallel))
		model_keys_fail(r, -EBADMSG, "key '%s.use_parallel_residual' is missing", r->arch);
	read_window(r, arch, hp, d);
	read_attention(r, arch, hp, d);
	if (arch->names->rel_bias != NULL)
		model_keys_want_u32(r, "attention.relative_buckets_count", MIN_BUCKETS, MAX_BUCKETS,
				    &d->n_rel_buckets);
	if (d->n_rel_buckets % 2 != 0)
		model_keys_fail(
		    r, -EBADMSG,
		    "key '%s.attention.relative_buckets_count': %u is odd, but the encoder halves "
		    "them",
		    r->arch, d->n_rel_buckets);
}

int model_read_details(const struct gguf *g, struct model_hparams *hp_out, struct model_details *details_out,
		       struct ps_err *err)
{
	struct model_keys r = {.g = g, .err = err};
	const struct model_arch *arch;

	CHECK(g != NULL && hp_out != NULL && details_out != NULL);
	memset(hp_out, 0, sizeof(*hp_out));
	memset(details_out, 0, sizeof(*details_out));
	arch = read_arch(g, hp_out, err, &r.rc);
	if (arch == NULL)
		return r.rc;
	r.arch = arch->name;
	read_name(g, hp_out);
	read_shape(&r, arch, hp_out);
	if (r.rc < 0)
		return r.rc;
	read_positions(&r, arch, hp_out);
	if (arch->rope != MODEL_ROPE_NONE)
		model_read_rope(&r, arch, hp_out);
	read_task(&r, arch, hp_out);
	read_details(&r, arch, hp_out, details_out);
	return r.rc;
}

int model_read_hparams(const struct gguf *g, struct model_hparams *hp_out, struct ps_err *err)
{
	struct model_details details;

	return model_read_details(g, hp_out, &details, err);
}
