/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

#define EPS_RMS   "attention.layer_norm_rms_epsilon"
#define EPS_LAYER "attention.layer_norm_epsilon"

static const struct model_names names_common = {
    .attn_norm = "attn_norm",
    .attn_q = "attn_q",
    .attn_k = "attn_k",
    .attn_v = "attn_v",
    .attn_qkv = "attn_qkv",
    .attn_out = "attn_output",
    .attn_q_norm = "attn_q_norm",
    .attn_k_norm = "attn_k_norm",
    .attn_norm_2 = "attn_norm_2",
    .attn_norm_out = "post_attention_norm",
    .ffn_norm_out = "post_ffw_norm",
    .ffn_norm = "ffn_norm",
    .ffn_up = "ffn_up",
    .ffn_gate = "ffn_gate",
    .ffn_down = "ffn_down",
    .final_norm = "output_norm",
};

static const struct model_names names_bert = {
    .attn_q = "attn_q",
    .attn_k = "attn_k",
    .attn_v = "attn_v",
    .attn_qkv = "attn_qkv",
    .attn_out = "attn_output",
    .attn_norm_sum = "attn_output_norm",
    .ffn_norm_sum = "layer_output_norm",
    .ffn_up = "ffn_up",
    .ffn_gate = "ffn_gate",
    .ffn_down = "ffn_down",
};

#define NAMES_T5                                                                                             \
	.attn_norm = "attn_norm", .attn_q = "attn_q", .attn_k = "attn_k", .attn_v = "attn_v",                \
	.attn_out = "attn_o", .ffn_norm = "ffn_norm", .ffn_up = "ffn_up", .ffn_gate = "ffn_gate",            \
	.ffn_down = "ffn_down", .rel_bias = "attn_rel_b"

static const struct model_names names_t5 = {
    NAMES_T5,
    .cross_norm = "cross_attn_norm",
    .cross_q = "cross_attn_q",
    .cross_k = "cross_attn_k",
    .cross_v = "cross_attn_v",
    .cross_out = "cross_attn_o",
    .final_norm = "dec.output_norm",
    .enc_norm = "enc.output_norm",
};

static const struct model_names names_t5encoder = {
    NAMES_T5,
    .final_norm = "enc.output_norm",
};

static const struct model_arch archs[] = {
    {
	.name = "llama",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.rope = MODEL_ROPE_NORM,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_SILU,
	.moe = true,
    },
    {
	.name = "gpt2",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.biases = MODEL_BIASES_ALL,
	.positions = MODEL_HAS,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "bloom",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.biases = MODEL_BIASES_ALL,
	.embed_norm = true,
	.alibi = true,
	.max_alibi_bias = 8,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "bert",
	.names = &names_bert,
	.task = MODEL_TASK_EMBED,
	.bidirectional = true,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_SUM,
	.biases = MODEL_BIASES_ALL,
	.positions = MODEL_HAS,
	.types = MODEL_HAS_MAYBE,
	.embed_norm = true,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "nomic-bert",
	.names = &names_bert,
	.task = MODEL_TASK_EMBED,
	.bidirectional = true,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_SUM,
	.biases = MODEL_BIASES_NORMS,
	.types = MODEL_HAS_MAYBE,
	.embed_norm = true,
	.rope = MODEL_ROPE_NEOX,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_SILU,
    },
    {
	.name = "t5",
	.names = &names_t5,
	.stack = MODEL_STACK_ENC_DEC,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.unscaled = true,
	.ffn = MODEL_FFN_GATE_OR_RELU,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "t5encoder",
	.names = &names_t5encoder,
	.stack = MODEL_STACK_ENC,
	.task = MODEL_TASK_EMBED,
	.bidirectional = true,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.unscaled = true,
	.ffn = MODEL_FFN_GATE_OR_RELU,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "qwen2",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.rope = MODEL_ROPE_NEOX,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_SILU,
    },
    {
	.name = "qwen3",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.rope = MODEL_ROPE_NEOX,
	.qk_norm = MODEL_HAS,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_SILU,
    },
    {
	.name = "gemma",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.embed_scaled = true,
	.rope = MODEL_ROPE_NEOX,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "gemma2",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN | MODEL_NORMS_OUT,
	.embed_scaled = true,
	.rope = MODEL_ROPE_NEOX,
	.wide_scale = 46, /* the 27B */
	.window_period = 2,
	.window = 4096,
	.attn_cap = true,
	.attn_cap_default = 50,
	.final_cap = true,
	.final_cap_default = 30,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "gemma3",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN | MODEL_NORMS_OUT,
	.embed_scaled = true,
	.rope = MODEL_ROPE_NEOX,
	.qk_norm = MODEL_HAS,
	.wide_scale = 62, /* the 27B */
	.window_period = 6,
	.swa_rope = MODEL_SWA_ROPE_10000,
	.final_cap = true,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "phi2",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.parallel = MODEL_PARALLEL_ALWAYS,
	.biases = MODEL_BIASES_ALL,
	.head_bias = true,
	.rope = MODEL_ROPE_NEOX,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "phi3",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_IN,
	.rope = MODEL_ROPE_NEOX,
	.ffn = MODEL_FFN_FUSED,
	.act = MODEL_ACT_SILU,
    },
    {
	.name = "gptneox",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.parallel = MODEL_PARALLEL_KEY,
	.biases = MODEL_BIASES_ALL,
	.rope = MODEL_ROPE_NEOX,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "falcon",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.parallel = MODEL_PARALLEL_ALWAYS,
	.biases = MODEL_BIASES_NORMS,
	.rope = MODEL_ROPE_NEOX,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "mpt",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.positions = MODEL_HAS_MAYBE,
	.alibi = true,
	.qk_norm = MODEL_HAS_MAYBE,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "starcoder",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.biases = MODEL_BIASES_ALL,
	.positions = MODEL_HAS,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "starcoder2",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.biases = MODEL_BIASES_NORMS,
	.rope = MODEL_ROPE_NEOX,
	.act = MODEL_ACT_GELU_TANH,
    },
    {
	.name = "stablelm",
	.names = &names_common,
	.norm = MODEL_NORM_LAYER,
	.eps_key = EPS_LAYER,
	.norms = MODEL_NORMS_IN,
	.parallel = MODEL_PARALLEL_NO_FFN_NORM,
	.biases = MODEL_BIASES_NORMS,
	.rope = MODEL_ROPE_NEOX,
	.ffn = MODEL_FFN_GATED,
	.qk_norm = MODEL_HAS_MAYBE,
	.act = MODEL_ACT_SILU,
    },
    {
	.name = "olmo2",
	.names = &names_common,
	.norm = MODEL_NORM_RMS,
	.eps_key = EPS_RMS,
	.norms = MODEL_NORMS_OUT,
	.rope = MODEL_ROPE_NEOX,
	.qk_norm = MODEL_HAS,
	.window_period = 4,
	.swa_rope = MODEL_SWA_ROPE_PLAIN,
	.ffn = MODEL_FFN_GATED,
	.act = MODEL_ACT_SILU,
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
