/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * penstock-make-gguf: writes a GGUF of random weights in any shape, for
 * measurements and tests that need a model's size but not its sense. Weights
 * are scaled so that activations stay near one and logits near two; the same
 * options give the same bytes. Tensors are made and written a piece at a time:
 * a model larger than memory is no trouble.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "model/gguf.h"
#include "perf/weights.h"

#define ALIGN       32u
#define PIECE_ELEMS 65536u /* elements made at a time; whole blocks of every type */
#define MAX_NAME    64u

enum init {
	INIT_ONES,   /* 1 +- 0.1, norm weights */
	INIT_SMALL,  /* +- 0.05, biases */
	INIT_MATRIX, /* uniform of the tensor's standard deviation */
};

struct tensor {
	char name[MAX_NAME];
	uint64_t ne[2];
	enum gguf_dtype dtype;
	enum init init;
	double std;
	uint64_t off, bytes;
};

struct spec {
	const char *arch, *name, *out, *vocab_from;
	uint32_t n_layers, n_embd, n_heads, n_heads_kv, n_ff, n_vocab, n_ctx;
	enum gguf_dtype dtype;
	int tied; /* -1: as the architecture usually is */
	uint64_t seed;
};

struct plan {
	struct tensor *t;
	size_t n;
	uint64_t bytes; /* of the data section */
};

static const struct preset {
	const char *name;
	struct spec spec;
} presets[] = {
    {"gpt2-124m",
     {.arch = "gpt2",
      .n_layers = 12,
      .n_embd = 768,
      .n_heads = 12,
      .n_ff = 3072,
      .n_vocab = 50257,
      .n_ctx = 1024}},
    {"tinyllama-1.1b",
     {.arch = "llama",
      .n_layers = 22,
      .n_embd = 2048,
      .n_heads = 32,
      .n_heads_kv = 4,
      .n_ff = 5632,
      .n_vocab = 32000,
      .n_ctx = 2048}},
    {"llama2-7b",
     {.arch = "llama",
      .n_layers = 32,
      .n_embd = 4096,
      .n_heads = 32,
      .n_ff = 11008,
      .n_vocab = 32000,
      .n_ctx = 4096}},
};

static const struct dtype_name {
	const char *name;
	enum gguf_dtype dtype;
	uint32_t file_type; /* general.file_type of the format */
} dtype_names[] = {
    {"f32", GGUF_DT_F32, 0},    {"f16", GGUF_DT_F16, 1},        {"bf16", GGUF_DT_BF16, 32},
    {"q8_0", GGUF_DT_Q8_0, 7},  {"q4_0", GGUF_DT_Q4_0, 2},      {"q4_1", GGUF_DT_Q4_1, 3},
    {"q5_0", GGUF_DT_Q5_0, 8},  {"q5_1", GGUF_DT_Q5_1, 9},      {"q2_k", GGUF_DT_Q2_K, 10},
    {"q3_k", GGUF_DT_Q3_K, 11}, {"q4_k", GGUF_DT_Q4_K, 14},     {"q5_k", GGUF_DT_Q5_K, 16},
    {"q6_k", GGUF_DT_Q6_K, 18}, {"iq4_nl", GGUF_DT_IQ4_NL, 25},
};

static int write_tensor(FILE *f, const struct tensor *t, uint64_t seed, float *x, uint8_t *bytes)
{
	static const uint8_t zeros[ALIGN];
	uint64_t n = t->ne[0] * t->ne[1], done = 0, written = 0;
	float centre = t->init == INIT_ONES ? 1.0f : 0.0f;
	/* A uniform of +-a has the standard deviation a / sqrt(3). */
	float half = t->init == INIT_ONES    ? 0.1f
		     : t->init == INIT_SMALL ? 0.05f
					     : (float)(t->std * sqrt(3.0));
	size_t pad = (size_t)((ALIGN - t->bytes % ALIGN) % ALIGN);

	while (done < n) {
		size_t part = n - done < PIECE_ELEMS ? (size_t)(n - done) : PIECE_ELEMS;
		size_t out;

		make_weights(seed, done, part, centre, half, x);
		out = encode_weights(t->dtype, x, part, bytes);
		if (fwrite(bytes, 1, out, f) != out)
			return -errno;
		done += part;
		written += out;
	}
	CHECK(written == t->bytes);
	return fwrite(zeros, 1, pad, f) == pad ? 0 : -errno;
}

/* ---- the plan of tensors -------------------------------------------------------------------- */

static void plan_add(struct plan *p, const char *name, enum gguf_dtype dtype, enum init init, uint64_t in,
		     uint64_t out, double std)
{
	struct tensor *t = &p->t[p->n++];
	uint32_t elems = 1, bytes = 0;

	CHECK(gguf_dtype_block(dtype, &elems, &bytes));
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->ne[0] = in;
	t->ne[1] = out;
	t->dtype = dtype;
	t->init = init;
	t->std = std;
	t->bytes = in * out / elems * bytes;
	t->off = p->bytes;
	p->bytes += (t->bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void plan_vector(struct plan *p, enum init init, uint64_t n, const char *name)
{
	plan_add(p, name, GGUF_DT_F32, init, n, 1, 0);
}

/* `gain` is the output's standard deviation for inputs of one. */
static void plan_matrix(struct plan *p, const struct spec *s, uint32_t layer, const char *stem, uint32_t in,
			uint32_t out, double gain, bool bias)
{
	char name[MAX_NAME];

	snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, stem);
	plan_add(p, name, s->dtype, INIT_MATRIX, in, out, gain / sqrt(in));
	snprintf(name, sizeof(name), "blk.%u.%s.bias", layer, stem);
	if (bias)
		plan_vector(p, INIT_SMALL, out, name);
}

static void plan_norm(struct plan *p, const char *stem, uint32_t n, bool bias)
{
	char name[MAX_NAME];

	snprintf(name, sizeof(name), "%s.weight", stem);
	plan_vector(p, INIT_ONES, n, name);
	snprintf(name, sizeof(name), "%s.bias", stem);
	if (bias)
		plan_vector(p, INIT_SMALL, n, name);
}

static void plan_block(struct plan *p, const struct spec *s, uint32_t layer, bool gpt2)
{
	uint32_t d = s->n_embd, kv = d / s->n_heads * s->n_heads_kv;
	double residual = 1 / sqrt(2.0 * s->n_layers); /* 2 sums a block keep the stream near one */
	char stem[MAX_NAME];

	snprintf(stem, sizeof(stem), "blk.%u.attn_norm", layer);
	plan_norm(p, stem, d, gpt2);
	if (gpt2) {
		plan_matrix(p, s, layer, "attn_qkv", d, d + 2 * kv, 1, true);
	} else {
		plan_matrix(p, s, layer, "attn_q", d, d, 1, false);
		plan_matrix(p, s, layer, "attn_k", d, kv, 1, false);
		plan_matrix(p, s, layer, "attn_v", d, kv, 1, false);
	}
	plan_matrix(p, s, layer, "attn_output", d, d, residual, gpt2);
	snprintf(stem, sizeof(stem), "blk.%u.ffn_norm", layer);
	plan_norm(p, stem, d, gpt2);
	if (!gpt2)
		plan_matrix(p, s, layer, "ffn_gate", d, s->n_ff, 1, false);
	plan_matrix(p, s, layer, "ffn_up", d, s->n_ff, 1, gpt2);
	plan_matrix(p, s, layer, "ffn_down", s->n_ff, d, residual, gpt2);
}

static int plan_make(struct plan *p, const struct spec *s)
{
	bool gpt2 = strcmp(s->arch, "gpt2") == 0;
	double std = 2 / sqrt(s->n_embd); /* logits of a tied head get a standard deviation of 2 */

	p->t = calloc((size_t)s->n_layers * 16 + 8, sizeof(*p->t));
	if (p->t == NULL)
		return -ENOMEM;
	plan_add(p, "token_embd.weight", s->dtype, INIT_MATRIX, s->n_embd, s->n_vocab, std);
	if (gpt2)
		plan_add(p, "position_embd.weight", GGUF_DT_F32, INIT_MATRIX, s->n_embd, s->n_ctx, std / 2);
	for (uint32_t layer = 0; layer < s->n_layers; layer++)
		plan_block(p, s, layer, gpt2);
	plan_norm(p, "output_norm", s->n_embd, gpt2);
	if (!s->tied)
		plan_add(p, "output.weight", s->dtype, INIT_MATRIX, s->n_embd, s->n_vocab, std);
	return 0;
}

/* ---- the header ----------------------------------------------------------------------------- */

/* Keys are gathered in memory because their number stands in front of them. Errors of the memory
 * stream show when it is closed. */
struct header {
	FILE *f;
	uint64_t n_kv;
};

static void put(FILE *f, uint64_t v, size_t bytes)
{
	uint8_t le[8];

	ps_store64(le, v);
	fwrite(le, 1, bytes, f);
}

static void put_str(FILE *f, const char *s, size_t len)
{
	put(f, len, 8);
	fwrite(s, 1, len, f);
}

static void put_key(struct header *h, const char *key, enum gguf_type type)
{
	put_str(h->f, key, strlen(key));
	put(h->f, (uint64_t)type, 4);
	h->n_kv++;
}

static void put_kv_str(struct header *h, const char *key, const char *value)
{
	put_key(h, key, GGUF_STRING);
	put_str(h->f, value, strlen(value));
}

static void put_kv_u32(struct header *h, const char *arch, const char *key, uint32_t value)
{
	char full[MAX_NAME];

	snprintf(full, sizeof(full), "%s.%s", arch, key);
	put_key(h, full, GGUF_U32);
	put(h->f, value, 4);
}

static void put_kv_f32(struct header *h, const char *arch, const char *key, float value)
{
	char full[MAX_NAME];
	uint32_t bits;

	snprintf(full, sizeof(full), "%s.%s", arch, key);
	put_key(h, full, GGUF_F32);
	memcpy(&bits, &value, sizeof(bits));
	put(h->f, bits, 4);
}

static size_t scalar_bytes(enum gguf_type type)
{
	switch (type) {
	case GGUF_U8:
	case GGUF_I8:
	case GGUF_BOOL:
		return 1;
	case GGUF_U16:
	case GGUF_I16:
		return 2;
	case GGUF_U64:
	case GGUF_I64:
	case GGUF_F64:
		return 8;
	default:
		return 4;
	}
}

static void copy_array(struct header *h, const struct gguf *g, const char *key)
{
	enum gguf_type elem = gguf_arr_type(g, key);
	size_t n = gguf_arr_len(g, key);
	struct gguf_str s;

	put(h->f, (uint64_t)elem, 4);
	put(h->f, n, 8);
	if (elem != GGUF_STRING) {
		fwrite(gguf_arr_data(g, key), scalar_bytes(elem), n, h->f);
		return;
	}
	for (size_t i = 0; i < n && gguf_arr_str(g, key, i, &s); i++)
		put_str(h->f, s.s, s.len);
}

/* Copies one key of the other file; -ENOTSUP for a type that no tokenizer key has. */
static int copy_kv(struct header *h, const struct gguf *g, size_t i)
{
	const char *key = gguf_kv_name(g, i);
	enum gguf_type type = gguf_kv_type(g, i);
	struct gguf_str s;
	uint32_t bits;
	int64_t v;
	bool b;
	float f;

	put_key(h, key, type);
	if (type == GGUF_ARRAY) {
		copy_array(h, g, key);
	} else if (gguf_get_str(g, key, &s)) {
		put_str(h->f, s.s, s.len);
	} else if (gguf_get_bool(g, key, &b)) {
		put(h->f, b, 1);
	} else if (gguf_get_i64(g, key, &v)) {
		put(h->f, (uint64_t)v, scalar_bytes(type));
	} else if (type == GGUF_F32 && gguf_get_f32(g, key, &f)) {
		memcpy(&bits, &f, sizeof(bits));
		put(h->f, bits, 4);
	} else {
		return -ENOTSUP;
	}
	return 0;
}

static int put_vocab(struct header *h, const struct gguf *vocab, struct ps_err *err)
{
	if (vocab == NULL) {
		put_kv_str(h, "tokenizer.ggml.model", "no_vocab");
		return 0;
	}
	for (size_t i = 0; i < gguf_n_kv(vocab); i++) {
		if (strncmp(gguf_kv_name(vocab, i), "tokenizer.", 10) != 0)
			continue;
		if (copy_kv(h, vocab, i) < 0)
			return ps_err_set(err, -ENOTSUP, "%s: key '%s' cannot be copied", gguf_path(vocab),
					  gguf_kv_name(vocab, i));
	}
	return 0;
}

static void put_shape(struct header *h, const struct spec *s)
{
	bool gpt2 = strcmp(s->arch, "gpt2") == 0;

	put_kv_u32(h, s->arch, "context_length", s->n_ctx);
	put_kv_u32(h, s->arch, "embedding_length", s->n_embd);
	put_kv_u32(h, s->arch, "block_count", s->n_layers);
	put_kv_u32(h, s->arch, "vocab_size", s->n_vocab);
	put_kv_u32(h, s->arch, "feed_forward_length", s->n_ff);
	put_kv_u32(h, s->arch, "attention.head_count", s->n_heads);
	put_kv_u32(h, s->arch, "attention.head_count_kv", s->n_heads_kv);
	if (gpt2) {
		put_kv_f32(h, s->arch, "attention.layer_norm_epsilon", 1e-5f);
		return;
	}
	put_kv_f32(h, s->arch, "attention.layer_norm_rms_epsilon", 1e-5f);
	put_kv_u32(h, s->arch, "rope.dimension_count", s->n_embd / s->n_heads);
	put_kv_f32(h, s->arch, "rope.freq_base", 10000.0f);
}

static uint32_t file_type_of(enum gguf_dtype dtype)
{
	for (size_t i = 0; i < sizeof(dtype_names) / sizeof(dtype_names[0]); i++) {
		if (dtype_names[i].dtype == dtype)
			return dtype_names[i].file_type;
	}
	return 0;
}

static void put_tensors(FILE *f, const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct tensor *t = &p->t[i];
		uint32_t n_dims = t->init == INIT_MATRIX ? 2 : 1;

		put_str(f, t->name, strlen(t->name));
		put(f, n_dims, 4);
		for (uint32_t d = 0; d < n_dims; d++)
			put(f, t->ne[d], 8);
		put(f, (uint64_t)t->dtype, 4);
		put(f, t->off, 8);
	}
}

/* *bytes_out is malloc'd and padded to where the data begins. */
static int make_header(const struct spec *s, const struct plan *p, const struct gguf *vocab, char **bytes_out,
		       size_t *len_out, struct ps_err *err)
{
	struct header h = {0};
	int rc;

	h.f = open_memstream(bytes_out, len_out);
	if (h.f == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for the header");
	fwrite("GGUF", 1, 4, h.f);
	put(h.f, 3, 4);
	put(h.f, p->n, 8);
	put(h.f, 0, 8); /* the number of keys, below */
	put_kv_str(&h, "general.architecture", s->arch);
	put_kv_str(&h, "general.name", s->name);
	put_kv_u32(&h, "general", "file_type", file_type_of(s->dtype));
	put_kv_u32(&h, "general", "quantization_version", 2);
	put_shape(&h, s);
	rc = put_vocab(&h, vocab, err);
	put_tensors(h.f, p);
	while (rc == 0 && ftell(h.f) % ALIGN != 0)
		put(h.f, 0, 1);
	if (fclose(h.f) != 0 && rc == 0)
		rc = ps_err_set(err, -ENOMEM, "no memory for the header");
	if (rc == 0)
		ps_store64(*bytes_out + 16, h.n_kv);
	return rc;
}

/* ---- writing -------------------------------------------------------------------------------- */

static int write_all(FILE *f, const struct spec *s, const struct plan *p, const char *head, size_t head_len)
{
	float *x = malloc((PIECE_ELEMS + 1) * sizeof(*x)); /* one more: elements are made in pairs */
	uint8_t *bytes = malloc(PIECE_ELEMS * sizeof(float));
	int rc = x == NULL || bytes == NULL ? -ENOMEM : 0;

	if (rc == 0 && fwrite(head, 1, head_len, f) != head_len)
		rc = -errno;
	for (size_t i = 0; i < p->n && rc == 0; i++)
		rc = write_tensor(f, &p->t[i], random_at(s->seed, i), x, bytes);
	free(x);
	free(bytes);
	return rc;
}

/* Out of the page cache, where writing has left it in small pages: who maps it next gets it in large ones
 * (see gguf.c), as after a restart. Small models have no use for them. */
#define FORGET_FROM_BYTES (64u << 20)

static int forget_pages(FILE *f, uint64_t bytes)
{
	if (bytes < FORGET_FROM_BYTES)
		return 0;
	if (fflush(f) != 0 || fdatasync(fileno(f)) != 0)
		return -errno;
	(void)posix_fadvise(fileno(f), 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

/* Through a temporary name: who maps the old file keeps it, and an interrupted run leaves no torn
 * model under the name that was asked for. */
static int write_file(const struct spec *s, const struct plan *p, const char *head, size_t head_len,
		      struct ps_err *err)
{
	char tmp[4096];
	FILE *f;
	int rc;

	if (snprintf(tmp, sizeof(tmp), "%s.tmp", s->out) >= (int)sizeof(tmp))
		return ps_err_set(err, -ENAMETOOLONG, "the name is too long: %.100s...", s->out);
	f = fopen(tmp, "wb");
	if (f == NULL)
		return ps_err_set(err, -errno, "%.900s: %s", tmp, strerror(errno));
	/* A full disk shows now and not after minutes. */
	rc = -posix_fallocate(fileno(f), 0, (off_t)(head_len + p->bytes));
	if (rc == -EOPNOTSUPP || rc == -EINVAL)
		rc = 0;
	if (rc == 0)
		rc = write_all(f, s, p, head, head_len);
	if (rc == 0)
		rc = forget_pages(f, p->bytes);
	if (fclose(f) != 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && rename(tmp, s->out) != 0)
		rc = -errno;
	if (rc < 0) {
		unlink(tmp);
		ps_err_set(err, rc, "%.900s: %s", s->out, strerror(-rc));
	}
	return rc;
}

/* ---- options -------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: penstock-make-gguf [options] OUT.gguf\n"
    "Writes a model of random weights in the shape asked for.\n"
    "\n"
    "  --preset NAME      gpt2-124m, tinyllama-1.1b or llama2-7b; other options change it\n"
    "  --arch NAME        llama (default) or gpt2\n"
    "  --layers N         blocks (default 4)\n"
    "  --embd N           embedding width (default 256)\n"
    "  --heads N          attention heads (default 4); they divide the width\n"
    "  --heads-kv N       KV heads (default: as many as heads)\n"
    "  --ff N             feed-forward width (default: 4 times the embedding's)\n"
    "  --vocab N          vocabulary (default 1000, or that of --vocab-from)\n"
    "  --ctx N            context length (default 512)\n"
    "  --dtype T          of the matrices: f32, f16 (default), bf16, q8_0, q4_0, q4_1, q5_0,\n"
    "                     q5_1, q2_k, q3_k, q4_k, q5_k, q6_k or iq4_nl\n"
    "  --tied | --untied  head shares the embedding or not (default: gpt2 does, llama does not)\n"
    "  --vocab-from FILE  copy the tokenizer of another GGUF; without it the model has none\n"
    "  --name TEXT        general.name\n"
    "  --seed N           of the weights (default 1)\n"
    "  --help             this text\n";

enum opt {
	OPT_PRESET = 1,
	OPT_ARCH,
	OPT_LAYERS,
	OPT_EMBD,
	OPT_HEADS,
	OPT_HEADS_KV,
	OPT_FF,
	OPT_VOCAB,
	OPT_CTX,
	OPT_DTYPE,
	OPT_TIED,
	OPT_UNTIED,
	OPT_VOCAB_FROM,
	OPT_NAME,
	OPT_SEED,
	OPT_HELP,
};

static const struct option options[] = {
    {"preset", required_argument, NULL, OPT_PRESET},
    {"arch", required_argument, NULL, OPT_ARCH},
    {"layers", required_argument, NULL, OPT_LAYERS},
    {"embd", required_argument, NULL, OPT_EMBD},
    {"heads", required_argument, NULL, OPT_HEADS},
    {"heads-kv", required_argument, NULL, OPT_HEADS_KV},
    {"ff", required_argument, NULL, OPT_FF},
    {"vocab", required_argument, NULL, OPT_VOCAB},
    {"ctx", required_argument, NULL, OPT_CTX},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"tied", no_argument, NULL, OPT_TIED},
    {"untied", no_argument, NULL, OPT_UNTIED},
    {"vocab-from", required_argument, NULL, OPT_VOCAB_FROM},
    {"name", required_argument, NULL, OPT_NAME},
    {"seed", required_argument, NULL, OPT_SEED},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int parse_u64(const char *what, const char *text, uint64_t lo, uint64_t hi, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (errno == 0 && end != text && *end == '\0' && text[0] != '-' && *out >= lo && *out <= hi)
		return 0;
	fprintf(stderr, "penstock-make-gguf: --%s: '%s' is not a number in %" PRIu64 "..%" PRIu64 "\n", what,
		text, lo, hi);
	return -EINVAL;
}

static int parse_u32(const char *what, const char *text, uint32_t hi, uint32_t *out)
{
	uint64_t v = 0;
	int rc = parse_u64(what, text, 1, hi, &v);

	if (rc == 0)
		*out = (uint32_t)v;
	return rc;
}

static int parse_dtype(const char *text, enum gguf_dtype *out)
{
	for (size_t i = 0; i < sizeof(dtype_names) / sizeof(dtype_names[0]); i++) {
		if (strcmp(dtype_names[i].name, text) == 0) {
			*out = dtype_names[i].dtype;
			return 0;
		}
	}
	fprintf(stderr, "penstock-make-gguf: --dtype: '%s' is not one of", text);
	for (size_t i = 0; i < sizeof(dtype_names) / sizeof(dtype_names[0]); i++)
		fprintf(stderr, " %s", dtype_names[i].name);
	fputc('\n', stderr);
	return -EINVAL;
}

/* Takes the preset's shape and leaves what is no shape. */
static int apply_preset(struct spec *s, const char *name)
{
	for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
		const struct spec *p = &presets[i].spec;

		if (strcmp(presets[i].name, name) != 0)
			continue;
		s->arch = p->arch;
		s->name = presets[i].name;
		s->n_layers = p->n_layers;
		s->n_embd = p->n_embd;
		s->n_heads = p->n_heads;
		s->n_heads_kv = p->n_heads_kv;
		s->n_ff = p->n_ff;
		s->n_vocab = p->n_vocab;
		s->n_ctx = p->n_ctx;
		return 0;
	}
	fprintf(stderr, "penstock-make-gguf: --preset: '%s' is not gpt2-124m, tinyllama-1.1b or llama2-7b\n",
		name);
	return -EINVAL;
}

static int apply_option(struct spec *s, int opt, const char *arg)
{
	switch (opt) {
	case OPT_PRESET:
		return 0; /* applied before the others */
	case OPT_ARCH:
		s->arch = arg;
		return 0;
	case OPT_LAYERS:
		return parse_u32("layers", arg, 1024, &s->n_layers);
	case OPT_EMBD:
		return parse_u32("embd", arg, 1u << 20, &s->n_embd);
	case OPT_HEADS:
		return parse_u32("heads", arg, 4096, &s->n_heads);
	case OPT_HEADS_KV:
		return parse_u32("heads-kv", arg, 4096, &s->n_heads_kv);
	case OPT_FF:
		return parse_u32("ff", arg, 1u << 24, &s->n_ff);
	case OPT_VOCAB:
		return parse_u32("vocab", arg, 1u << 24, &s->n_vocab);
	case OPT_CTX:
		return parse_u32("ctx", arg, 1u << 24, &s->n_ctx);
	case OPT_DTYPE:
		return parse_dtype(arg, &s->dtype);
	case OPT_TIED:
	case OPT_UNTIED:
		s->tied = opt == OPT_TIED;
		return 0;
	case OPT_VOCAB_FROM:
		s->vocab_from = arg;
		return 0;
	case OPT_NAME:
		s->name = arg;
		return 0;
	case OPT_SEED:
		return parse_u64("seed", arg, 0, UINT64_MAX, &s->seed);
	default:
		return -EINVAL; /* getopt_long has said why */
	}
}

/* 0, 1 for --help, or -EINVAL after a message. */
static int parse_args(int argc, char **argv, struct spec *s)
{
	int opt, rc = 0;

	/* The preset first, wherever it stands, so that the other options change it. */
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1 && rc == 0) {
		if (opt == OPT_HELP)
			return 1;
		rc = opt == '?' ? -EINVAL : opt == OPT_PRESET ? apply_preset(s, optarg) : 0;
	}
	optind = 1;
	while (rc == 0 && (opt = getopt_long(argc, argv, "", options, NULL)) != -1)
		rc = apply_option(s, opt, optarg);
	if (rc == 0 && optind + 1 != argc) {
		fprintf(stderr, "penstock-make-gguf: expected one output file (see --help)\n");
		rc = -EINVAL;
	}
	if (rc == 0)
		s->out = argv[optind];
	return rc;
}

/* Rows are whole blocks. */
static int check_blocks(const struct spec *s, struct ps_err *err)
{
	uint32_t elems = 1, bytes = 0;

	CHECK(gguf_dtype_block(s->dtype, &elems, &bytes));
	if (s->n_embd % elems == 0 && s->n_ff % elems == 0)
		return 0;
	return ps_err_set(err, -EINVAL, "%s needs --embd %u and --ff %u to be multiples of %u",
			  gguf_dtype_name(s->dtype), s->n_embd, s->n_ff, elems);
}

/* Fills in what follows from the rest and says what does not fit together. */
static int complete(struct spec *s, const struct gguf *vocab, struct ps_err *err)
{
	size_t n_tokens = vocab != NULL ? gguf_arr_len(vocab, "tokenizer.ggml.tokens") : 0;
	bool gpt2 = strcmp(s->arch, "gpt2") == 0;

	if (!gpt2 && strcmp(s->arch, "llama") != 0)
		return ps_err_set(err, -EINVAL, "--arch: '%s' is not llama or gpt2", s->arch);
	if (vocab != NULL && (n_tokens == 0 || n_tokens > UINT32_MAX))
		return ps_err_set(err, -EINVAL, "--vocab-from: '%s' has no vocabulary", s->vocab_from);
	if (s->n_vocab == 0)
		s->n_vocab = n_tokens > 0 ? (uint32_t)n_tokens : 1000;
	if (s->n_vocab < n_tokens)
		return ps_err_set(err, -EINVAL, "--vocab %u is less than the %zu tokens of '%s'", s->n_vocab,
				  n_tokens, s->vocab_from);
	if (s->n_heads_kv == 0)
		s->n_heads_kv = s->n_heads;
	if (s->n_ff == 0)
		s->n_ff = 4 * s->n_embd;
	if (s->tied < 0)
		s->tied = gpt2;
	if (s->n_embd % s->n_heads != 0 || s->n_heads % s->n_heads_kv != 0)
		return ps_err_set(err, -EINVAL,
				  "--embd %u, --heads %u, --heads-kv %u: each must divide the one before",
				  s->n_embd, s->n_heads, s->n_heads_kv);
	if (!gpt2 && s->n_embd / s->n_heads % 2 != 0)
		return ps_err_set(err, -EINVAL, "heads of %u: rotary embedding needs an even number",
				  s->n_embd / s->n_heads);
	return check_blocks(s, err);
}

static int make(struct spec *s, struct ps_err *err)
{
	uint64_t start_ns = ps_now_ns();
	struct gguf *vocab = NULL;
	struct plan plan = {0};
	char *head = NULL;
	size_t head_len = 0;
	int rc = 0;

	if (s->vocab_from != NULL)
		rc = gguf_open(s->vocab_from, &vocab, err);
	if (rc == 0)
		rc = complete(s, vocab, err);
	if (rc == 0 && plan_make(&plan, s) < 0)
		rc = ps_err_set(err, -ENOMEM, "no memory for %u blocks", s->n_layers);
	if (rc == 0)
		rc = make_header(s, &plan, vocab, &head, &head_len, err);
	if (rc == 0)
		rc = write_file(s, &plan, head, head_len, err);
	if (rc == 0)
		printf("%s: %s, %zu tensors, %.1f MB in %.1f s\n", s->out, s->arch, plan.n,
		       (double)(head_len + plan.bytes) / 1e6, (double)(ps_now_ns() - start_ns) / 1e9);
	free(head);
	free(plan.t);
	gguf_close(vocab);
	return rc;
}

int main(int argc, char **argv)
{
	struct spec s = {
	    .arch = "llama",
	    .name = "random",
	    .n_layers = 4,
	    .n_embd = 256,
	    .n_heads = 4,
	    .n_ctx = 512,
	    .dtype = GGUF_DT_F16,
	    .tied = -1,
	    .seed = 1,
	};
	struct ps_err err;
	int rc;

	rc = parse_args(argc, argv, &s);
	if (rc > 0) {
		fputs(usage, stdout);
		return 0;
	}
	if (rc < 0)
		return 2;
	if (make(&s, &err) < 0) {
		fprintf(stderr, "penstock-make-gguf: %s\n", err.msg);
		return 1;
	}
	return 0;
}
