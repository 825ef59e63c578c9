/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_UNIT_MODEL_FAMILY_H
#define PENSTOCK_TESTS_UNIT_MODEL_FAMILY_H
/*
 * Small models of any family from lists of keys and tensors, and what must hold
 * of every graph that is built of them.
 */
#include <stddef.h>
#include <stdint.h>

#include "model/graph.h"
#include "tests/unit/model/gguf_writer.h"

/* The shape of all of them. */
enum { FAM_D = 32, FAM_FF = 48, FAM_HEADS = 4, FAM_KV = 2, FAM_HEAD = 8, FAM_VOCAB = 40, FAM_CTX = 24 };
#define FAM_EPS_RMS   1e-5f
#define FAM_EPS_LAYER 2e-5f

#define FAM_MAX_KEYS    8
#define FAM_MAX_TENSORS 48

struct fam_key {
	const char *suffix; /* behind "<arch>." */
	char kind;          /* 'u', 'f' or 'b' */
	double v;
};

/* A name that begins with '*' is one of each block: "*attn_norm.weight". One that begins with 'E'
 * or 'D' and a '*' is one of each encoder or decoder block. */
struct fam_tensor {
	const char *name;
	uint32_t ne[3]; /* 0: not there */
};

struct family {
	const char *arch;
	uint32_t n_layers, n_dec; /* of n_layers encoder blocks, T5 */
	struct fam_key keys[FAM_MAX_KEYS];
	struct fam_tensor tensors[FAM_MAX_TENSORS];
};

/* A vector, a norm with and without bias, a matrix with and without bias. */
#define FAM_V(stem, n)                                                                                       \
	{                                                                                                    \
		stem,                                                                                        \
		{                                                                                            \
			n                                                                                    \
		}                                                                                            \
	}
#define FAM_N(stem)                                                                                          \
	{                                                                                                    \
		stem ".weight",                                                                              \
		{                                                                                            \
			FAM_D                                                                                \
		}                                                                                            \
	}
#define FAM_NB(stem)                                                                                         \
	{stem ".weight", {FAM_D}},                                                                           \
	{                                                                                                    \
		stem ".bias",                                                                                \
		{                                                                                            \
			FAM_D                                                                                \
		}                                                                                            \
	}
#define FAM_M(stem, in, out)                                                                                 \
	{                                                                                                    \
		stem ".weight",                                                                              \
		{                                                                                            \
			in, out                                                                              \
		}                                                                                            \
	}
#define FAM_MB(stem, in, out)                                                                                \
	{stem ".weight", {in, out}},                                                                         \
	{                                                                                                    \
		stem ".bias",                                                                                \
		{                                                                                            \
			out                                                                                  \
		}                                                                                            \
	}
#define FAM_EMBED FAM_M("token_embd", FAM_D, FAM_VOCAB)

/* Without the key or tensor `skip` (a whole name), which may be NULL. */
void fam_write(struct gw *w, const struct family *f, const char *skip);
struct gguf *fam_open(const struct family *f);

/* Fails the test where the graph does not build. */
struct model_graph *fam_build(const struct gguf *g, uint32_t first, uint32_t last);

/* Every source was written before, shapes fit, one selection of rows before a head and none else, and
 * what comes after it reads only what was selected; of all passes. */
void fam_check_graph(const struct model_graph *gr);

/* The operations of each pass of the whole are those of its ranges, one after another, for every
 * cut in two. */
void fam_check_ranges(const struct gguf *g);

/* Names of a pass's operations, with a blank between two. */
void fam_ops_text(const struct model_graph *gr, char *buf, size_t cap);

/* Operation of a kind, the n-th (from 0), or a failed test. */
const struct model_op *fam_op(const struct model_graph *gr, enum model_op_kind kind, uint32_t n);

/* That building all blocks is refused with `want` and a text that has `text` in it. Frees w. */
void fam_assert_refused(struct gw *w, int want, const char *text);

#endif
