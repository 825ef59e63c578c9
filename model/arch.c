/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

static const struct model_arch archs[] = {
    {
	.name = "llama",
	.norm = MODEL_NORM_RMS,
	.eps_key = "attention.layer_norm_rms_epsilon",
	.pos = MODEL_POS_ROPE,
	.rope = MODEL_ROPE_NORM,
	.act = MODEL_ACT_SILU,
	.ffn_gated = true,
	.moe_norm_weights = true,
    },
    {
	.name = "gpt2",
	.norm = MODEL_NORM_LAYER,
	.eps_key = "attention.layer_norm_epsilon",
	.pos = MODEL_POS_LEARNED,
	.rope = MODEL_ROPE_NONE,
	.act = MODEL_ACT_GELU_TANH,
	.all_biases = true,
    },
};

#define N_ARCHS (sizeof(archs) / sizeof(archs[0]))

const struct model_arch *model_arch_find(const char *name, size_t len)
{
	for (size_t i = 0; i < N_ARCHS; i++) {
		if (strlen(archs[i].name) == len && memcmp(archs[i].name, name, len) == 0)
			return &archs[i];
	}
	return NULL;
}

void model_arch_list(char *buf, size_t cap)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < N_ARCHS && len < cap; i++) {
		int n = snprintf(buf + len, cap - len, "%s%s", i > 0 ? ", " : "", archs[i].name);

		len += n > 0 ? (size_t)n : 0;
	}
}
