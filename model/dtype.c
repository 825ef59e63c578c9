/* SPDX-License-Identifier: BSD-3-Clause */
/* The element types of matrices that the host's back ends compute with. */
#include <stdio.h>

#include "model/graph.h"

static const enum gguf_dtype supported[] = {
    GGUF_DT_F32,  GGUF_DT_F16,  GGUF_DT_BF16, GGUF_DT_Q8_0, GGUF_DT_Q4_0, GGUF_DT_Q4_1, GGUF_DT_Q5_0,
    GGUF_DT_Q5_1, GGUF_DT_Q2_K, GGUF_DT_Q3_K, GGUF_DT_Q4_K, GGUF_DT_Q5_K, GGUF_DT_Q6_K, GGUF_DT_IQ4_NL,
};
#define N_SUPPORTED (sizeof(supported) / sizeof(supported[0]))

bool model_dtype_supported(enum gguf_dtype t)
{
	for (size_t i = 0; i < N_SUPPORTED; i++) {
		if (supported[i] == t)
			return true;
	}
	return false;
}

void model_dtype_list(char *buf, size_t cap)
{
	size_t len = 0;

	for (size_t i = 0; i < N_SUPPORTED && len < cap; i++)
		len += (size_t)snprintf(buf + len, cap - len, "%s%s", i == 0 ? "" : ", ",
					gguf_dtype_name(supported[i]));
}
