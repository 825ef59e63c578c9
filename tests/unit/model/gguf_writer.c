/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/model/gguf_writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/check.h"
#include "model/graph.h"

void gw_init(struct gw *w)
{
	*w = (struct gw){.version = 3, .align = 32};
}

void gw_free(struct gw *w)
{
	free(w->kv.p);
	free(w->info.p);
	free(w->data.p);
}

void gw_put(struct gw_buf *b, const void *p, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = (b->len + n) * 2;
		b->p = realloc(b->p, b->cap);
		CHECK(b->p != NULL);
	}
	if (n > 0)
		memcpy(b->p + b->len, p, n);
	b->len += n;
}

void gw_put_u32(struct gw_buf *b, uint32_t v)
{
	uint8_t le[4];

	ps_store32(le, v);
	gw_put(b, le, sizeof(le));
}

void gw_put_u64(struct gw_buf *b, uint64_t v)
{
	uint8_t le[8];

	ps_store64(le, v);
	gw_put(b, le, sizeof(le));
}

void gw_put_str(struct gw_buf *b, const char *s)
{
	gw_put_u64(b, strlen(s));
	gw_put(b, s, strlen(s));
}

void gw_key(struct gw *w, const char *key, uint32_t type)
{
	gw_put_str(&w->kv, key);
	gw_put_u32(&w->kv, type);
	w->n_kv++;
}

void gw_kv_u32(struct gw *w, const char *key, uint32_t v)
{
	gw_key(w, key, GGUF_U32);
	gw_put_u32(&w->kv, v);
}

void gw_kv_f32(struct gw *w, const char *key, float v)
{
	uint32_t bits;

	memcpy(&bits, &v, sizeof(bits));
	gw_key(w, key, GGUF_F32);
	gw_put_u32(&w->kv, bits);
}

void gw_kv_bool(struct gw *w, const char *key, uint8_t v)
{
	gw_key(w, key, GGUF_BOOL);
	gw_put(&w->kv, &v, 1);
}

void gw_kv_str(struct gw *w, const char *key, const char *v)
{
	gw_key(w, key, GGUF_STRING);
	gw_put_str(&w->kv, v);
}

void gw_kv_array(struct gw *w, const char *key, uint32_t elem, uint64_t n, const void *p, size_t bytes)
{
	gw_key(w, key, GGUF_ARRAY);
	gw_put_u32(&w->kv, elem);
	gw_put_u64(&w->kv, n);
	gw_put(&w->kv, p, bytes);
}

void gw_kv_strs(struct gw *w, const char *key, const char *const *strs, size_t n)
{
	gw_key(w, key, GGUF_ARRAY);
	gw_put_u32(&w->kv, GGUF_STRING);
	gw_put_u64(&w->kv, n);
	for (size_t i = 0; i < n; i++)
		gw_put_str(&w->kv, strs[i]);
}

void gw_info(struct gw *w, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t dtype,
	     uint64_t off)
{
	gw_put_str(&w->info, name);
	gw_put_u32(&w->info, n_dims);
	for (uint32_t i = 0; i < n_dims; i++)
		gw_put_u64(&w->info, ne[i]);
	gw_put_u32(&w->info, dtype);
	gw_put_u64(&w->info, off);
	w->n_tensors++;
}

static void pad(struct gw_buf *b, size_t align)
{
	static const uint8_t zero;

	while (b->len % align != 0)
		gw_put(b, &zero, 1);
}

void gw_tensor(struct gw *w, const char *name, uint32_t n_dims, const uint64_t *ne, enum gguf_dtype dtype)
{
	uint32_t elems = 1, bytes = 0;
	uint64_t n = 1;
	uint8_t fill = 0;

	CHECK(gguf_dtype_block(dtype, &elems, &bytes));
	for (uint32_t i = 0; i < n_dims; i++)
		n *= ne[i];
	for (const char *s = name; *s != '\0'; s++)
		fill = (uint8_t)(fill * 31 + (uint8_t)*s);
	pad(&w->data, w->align);
	gw_info(w, name, n_dims, ne, (uint32_t)dtype, w->data.len);
	for (uint64_t i = 0; i < n / elems * bytes; i++)
		gw_put(&w->data, &fill, 1);
}

uint8_t *gw_finish(const struct gw *w, size_t *len_out)
{
	struct gw_buf f = {0};

	gw_put(&f, "GGUF", 4);
	gw_put_u32(&f, w->version);
	gw_put_u64(&f, w->n_tensors);
	gw_put_u64(&f, w->n_kv);
	gw_put(&f, w->kv.p, w->kv.len);
	gw_put(&f, w->info.p, w->info.len);
	pad(&f, w->align);
	gw_put(&f, w->data.p, w->data.len);
	*len_out = f.len;
	return f.p;
}

int gw_open_bytes(const uint8_t *bytes, size_t len, struct gguf **gguf_out, struct ps_err *err)
{
	char path[64];
	int fd = memfd_create("gguf", 0), rc;

	CHECK(fd >= 0);
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, bytes + at, len - at);

		CHECK(n > 0);
		at += (size_t)n;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = gguf_open(path, gguf_out, err);
	close(fd);
	return rc;
}

int gw_open(const struct gw *w, struct gguf **gguf_out, struct ps_err *err)
{
	size_t len;
	uint8_t *bytes = gw_finish(w, &len);
	int rc = gw_open_bytes(bytes, len, gguf_out, err);

	free(bytes);
	return rc;
}

struct gguf *gw_open_good(const struct gw *w)
{
	struct gguf *g = NULL;
	struct ps_err err = {{0}};

	if (gw_open(w, &g, &err) != 0)
		fprintf(stderr, "%s\n", err.msg);
	CHECK(g != NULL);
	return g;
}

/* ---- whole models --------------------------------------------------------------------------- */

#define D     32u
#define FF    64u
#define HEADS 4u
#define KV    2u
#define VOCAB 40u
#define CTX   24u
#define N_EXP 3u

static bool is(const char *a, const char *b)
{
	return a != NULL && strcmp(a, b) == 0;
}

static void key_u32(struct gw *w, const struct gw_model *m, const char *key, uint32_t v)
{
	if (!is(m->skip, key))
		gw_kv_u32(w, key, v);
}

static void tensor(struct gw *w, const struct gw_model *m, const char *name, uint32_t n_dims, uint64_t ne0,
		   uint64_t ne1, uint64_t ne2, enum gguf_dtype dtype)
{
	uint64_t ne[3] = {ne0, ne1, ne2};

	if (is(m->skip, name))
		return;
	if (is(m->reshape, name))
		ne[n_dims - 1]++;
	gw_tensor(w, name, n_dims, ne, is(m->retype, name) ? GGUF_DT_F64 : dtype);
}

static void vec(struct gw *w, const struct gw_model *m, const char *name, uint64_t n)
{
	tensor(w, m, name, 1, n, 1, 1, GGUF_DT_F32);
}

static void mat(struct gw *w, const struct gw_model *m, int layer, const char *stem, uint64_t in,
		uint64_t out)
{
	char name[64];

	snprintf(name, sizeof(name), "blk.%d.%s.weight", layer, stem);
	tensor(w, m, name, 2, in, out, 1, m->dtype);
	snprintf(name, sizeof(name), "blk.%d.%s.bias", layer, stem);
	if (m->biases)
		vec(w, m, name, out);
}

static void norm(struct gw *w, const struct gw_model *m, int layer, const char *stem)
{
	char name[64];

	snprintf(name, sizeof(name), "blk.%d.%s.weight", layer, stem);
	vec(w, m, name, D);
	snprintf(name, sizeof(name), "blk.%d.%s.bias", layer, stem);
	if (m->biases)
		vec(w, m, name, D);
}

static void common_keys(struct gw *w, const struct gw_model *m, const char *arch, const char *eps_key)
{
	static const char *const suffixes[] = {"block_count",         "embedding_length",
					       "feed_forward_length", "attention.head_count",
					       "context_length",      "vocab_size"};
	const uint32_t values[] = {m->n_layers, D, FF, HEADS, CTX, VOCAB};
	char key[64];

	if (!is(m->skip, "general.architecture"))
		gw_kv_str(w, "general.architecture", arch);
	gw_kv_str(w, "general.name", "tiny");
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		snprintf(key, sizeof(key), "%s.%s", arch, suffixes[i]);
		key_u32(w, m, key, values[i]);
	}
	snprintf(key, sizeof(key), "%s.%s", arch, eps_key);
	if (!is(m->skip, key))
		gw_kv_f32(w, key, 1e-5f);
}

static void llama_ffn(struct gw *w, const struct gw_model *m, int layer)
{
	char name[64];

	if (!m->moe) {
		mat(w, m, layer, "ffn_gate", D, FF);
		mat(w, m, layer, "ffn_up", D, FF);
		mat(w, m, layer, "ffn_down", FF, D);
		return;
	}
	snprintf(name, sizeof(name), "blk.%d.ffn_gate_inp.weight", layer);
	tensor(w, m, name, 2, D, N_EXP, 1, GGUF_DT_F32);
	snprintf(name, sizeof(name), "blk.%d.ffn_gate_exps.weight", layer);
	tensor(w, m, name, 3, D, FF, N_EXP, m->dtype);
	snprintf(name, sizeof(name), "blk.%d.ffn_up_exps.weight", layer);
	tensor(w, m, name, 3, D, FF, N_EXP, m->dtype);
	snprintf(name, sizeof(name), "blk.%d.ffn_down_exps.weight", layer);
	tensor(w, m, name, 3, FF, D, N_EXP, m->dtype);
}

void gw_llama(struct gw *w, const struct gw_model *m)
{
	const uint32_t kv = D / HEADS * KV;

	gw_init(w);
	common_keys(w, m, "llama", "attention.layer_norm_rms_epsilon");
	key_u32(w, m, "llama.attention.head_count_kv", KV);
	if (m->moe) {
		key_u32(w, m, "llama.expert_count", N_EXP);
		key_u32(w, m, "llama.expert_used_count", 2);
	}
	tensor(w, m, "token_embd.weight", 2, D, VOCAB, 1, m->dtype);
	for (int i = 0; i < (int)m->n_layers; i++) {
		norm(w, m, i, "attn_norm");
		if (m->fused) {
			mat(w, m, i, "attn_qkv", D, D + 2 * kv);
		} else {
			mat(w, m, i, "attn_q", D, D);
			mat(w, m, i, "attn_k", D, kv);
			mat(w, m, i, "attn_v", D, kv);
		}
		mat(w, m, i, "attn_output", D, D);
		norm(w, m, i, "ffn_norm");
		llama_ffn(w, m, i);
	}
	vec(w, m, "output_norm.weight", D);
	if (m->untied)
		tensor(w, m, "output.weight", 2, D, VOCAB, 1, m->dtype);
}

void gw_gpt2(struct gw *w, const struct gw_model *m)
{
	struct gw_model b = *m;

	b.biases = true;
	gw_init(w);
	common_keys(w, m, "gpt2", "attention.layer_norm_epsilon");
	tensor(w, m, "token_embd.weight", 2, D, VOCAB, 1, m->dtype);
	tensor(w, m, "position_embd.weight", 2, D, CTX, 1, GGUF_DT_F32);
	for (int i = 0; i < (int)m->n_layers; i++) {
		norm(w, &b, i, "attn_norm");
		mat(w, &b, i, "attn_qkv", D, 3 * D);
		mat(w, &b, i, "attn_output", D, D);
		norm(w, &b, i, "ffn_norm");
		mat(w, &b, i, "ffn_up", D, FF);
		mat(w, &b, i, "ffn_down", FF, D);
	}
	vec(w, m, "output_norm.weight", D);
	vec(w, m, "output_norm.bias", D);
	if (m->untied)
		tensor(w, m, "output.weight", 2, D, VOCAB, 1, m->dtype);
}

/* ---- exercise ------------------------------------------------------------------------------- */

static void exercise_kv(const struct gguf *g, size_t i)
{
	const char *key = gguf_kv_name(g, i);
	struct gguf_str s;
	char text[100];
	uint32_t u;
	int64_t v;
	bool b;
	float f;

	gguf_kv_format(g, i, 5, text, sizeof(text));
	CHECK(strlen(text) < sizeof(text) && gguf_has(g, key));
	(void)gguf_get_u32(g, key, &u);
	(void)gguf_get_i64(g, key, &v);
	(void)gguf_get_f32(g, key, &f);
	(void)gguf_get_bool(g, key, &b);
	(void)gguf_get_str(g, key, &s);
	for (size_t k = 0; k < gguf_arr_len(g, key); k++) {
		if (gguf_arr_str(g, key, k, &s) && s.len > 0)
			CHECK(s.s[0] == s.s[0] && s.s[s.len - 1] == s.s[s.len - 1]);
	}
}

void gw_exercise(const struct gguf *g)
{
	struct model_graph *graph = NULL;
	struct model_hparams hp;
	volatile uint8_t sink = 0;
	uint32_t *cuts;

	for (size_t i = 0; i < gguf_n_kv(g); i++)
		exercise_kv(g, i);
	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		const uint8_t *p = t->data;

		CHECK(gguf_tensor(g, t->name) == t && t->n_bytes > 0);
		sink = (uint8_t)(sink + p[0] + p[t->n_bytes - 1]);
	}
	if (model_read_hparams(g, &hp, NULL) < 0)
		return;
	if (hp.rope.kind != MODEL_ROPE_NONE) {
		double *freqs = calloc(hp.rope.n_rot / 2, sizeof(*freqs));

		CHECK(freqs != NULL);
		model_rope_freqs(&hp.rope, hp.n_ctx_train, freqs);
		free(freqs);
	}
	if (model_graph_build(g, 0, hp.n_layers, &graph, NULL) == 0)
		model_graph_free(graph);
	cuts = calloc((size_t)hp.n_layers + 1, sizeof(*cuts));
	CHECK(cuts != NULL);
	if (model_split_even(g, (hp.n_layers + 1) / 2, cuts, NULL) == 0)
		(void)model_range_bytes(g, cuts[0], cuts[1]);
	free(cuts);
}
