/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_ARCH_H
#define PENSTOCK_MODEL_ARCH_H
/*
 * The table of architecture traits: all that tells one family of models from
 * another, as data. hparams.c and graph.c read it and never compare names, so
 * a new family is a row here (and, where it needs something none had, one more
 * trait and its branch in the builder). What a file itself shows is not a
 * trait: fused or separate Q/K/V, optional biases, a tied head and a mixture of
 * experts are detected from the tensors and keys that are there.
 *
 * Private to model/: others see struct model_hparams and struct model_graph.
 */
#include <stdbool.h>
#include <stddef.h>

#include "model/graph.h"

enum model_pos {
	MODEL_POS_ROPE,    /* rotary, on Q and K of each block */
	MODEL_POS_LEARNED, /* a table added to the embedding; its length is a hard limit */
};

struct model_arch {
	const char *name;     /* general.architecture, and the prefix of the keys */
	enum model_norm norm; /* of all norms of the model */
	const char *eps_key;  /* without the prefix */
	enum model_pos pos;
	enum model_rope rope; /* which elements pair up, for MODEL_POS_ROPE */
	enum model_act act;
	bool ffn_gated;        /* act(gate) * up, or act(up) alone */
	bool all_biases;       /* norms and matrices must have biases; otherwise they may */
	bool moe_norm_weights; /* chosen experts' weights are made to sum 1 */
};

/* NULL where there is none. */
const struct model_arch *model_arch_find(const char *name, size_t len);

/* The names we have, separated by ", ", for error texts. */
void model_arch_list(char *buf, size_t cap);

#endif
