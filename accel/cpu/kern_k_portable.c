/* SPDX-License-Identifier: BSD-3-Clause */
/* The kernels of kern_k.h in plain C: a row's block is taken apart once for all columns. */
#include "accel/cpu/kern_k.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "accel/cpu/kern.h"
#include "accel/kquant.h"

/* The largest magnitude; NaN if any is not finite. */
static float largest_magnitude(const float *x)
{
	float max = 0, rest = 0;

	for (uint32_t i = 0; i < KERN_K_BLOCK; i++) {
		max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
		rest += x[i] - x[i]; /* 0, or NaN */
	}
	return max + rest;
}

static void quantize_k(const float *x, uint32_t k, struct kern_k_act *dst, size_t stride)
{
	for (uint32_t b = 0; b < k / KERN_K_BLOCK; b++, x += KERN_K_BLOCK, dst += stride) {
		float largest = largest_magnitude(x);
		/* Below, 127 / largest may overflow. */
		float inv = largest > 1e-30f ? 127.0f / largest : 0;

		memset(dst, 0, sizeof(*dst));
		dst->scale = largest <= FLT_MAX ? largest / 127.0f : NAN;
		for (uint32_t i = 0; i < KERN_K_BLOCK && largest <= FLT_MAX; i++) {
			uint32_t run = i / 16;
			float q = (x[i] * inv + 12582912.0f) - 12582912.0f; /* to the nearest integer */

			dst->q[i] = (int8_t)q;
			dst->offset[run] -= 32 * dst->q[i];
			dst->sum[run % 2][run / 2] = (int16_t)(dst->sum[run % 2][run / 2] + dst->q[i]);
			dst->sum_pair[run / 2] = (int16_t)(dst->sum_pair[run / 2] + dst->q[i]);
		}
	}
}

static void block_sums(const struct accel_k_block *w, const struct kern_k_act *x, int32_t *isum,
		       int32_t *msum)
{
	*isum = *msum = 0;
	for (uint32_t run = 0; run < ACCEL_K_RUNS; run++) {
		int32_t sum = 0;

		for (uint32_t i = run * ACCEL_K_RUN; i < (run + 1) * ACCEL_K_RUN; i++)
			sum += (int16_t)w->q[i] * (int16_t)x->q[i];
		*isum += w->scale[run] * sum;
		*msum += w->min[run] * x->sum[run % 2][run / 2];
	}
}

static void mul_k(enum gguf_dtype dtype, bool has_min, size_t bytes, const struct kern_mul *m,
		  const struct kern_k_act *x)
{
	for (uint32_t r = 0; r < m->rows; r++) {
		for (uint32_t b = 0; b < m->k / KERN_K_BLOCK; b++) {
			struct accel_k_block w;

			accel_k_unpack(dtype, m->w + r * m->row_bytes + b * bytes, &w);
			for (uint32_t c = 0; c < m->cols; c++) {
				const struct kern_k_act *xb = x + b * m->ldx + c;
				float *y = m->y + c * m->ldy + r, acc = b == 0 ? 0 : *y;
				int32_t isum, msum;

				block_sums(&w, xb, &isum, &msum);
				acc += (float)isum * (w.d * xb->scale);
				if (has_min)
					acc -= (float)msum * (w.dmin * xb->scale);
				*y = acc;
			}
		}
	}
}

#define K_KERNEL(name, dtype, has_min, bytes)                                                                \
	static void mul_##name(const struct kern_mul *m, const struct kern_k_act *x, void *scratch)          \
	{                                                                                                    \
		(void)scratch;                                                                               \
		mul_k(dtype, has_min, bytes, m, x);                                                          \
	}

K_KERNEL(q2_k, GGUF_DT_Q2_K, true, 84)
K_KERNEL(q3_k, GGUF_DT_Q3_K, false, 110)
K_KERNEL(q4_k, GGUF_DT_Q4_K, true, 144)
K_KERNEL(q5_k, GGUF_DT_Q5_K, true, 176)
K_KERNEL(q6_k, GGUF_DT_Q6_K, false, 210)

const struct kern_k kern_k_portable = {
    .quantize = quantize_k,
    .mul_q2_k = mul_q2_k,
    .mul_q3_k = mul_q3_k,
    .mul_q4_k = mul_q4_k,
    .mul_q5_k = mul_q5_k,
    .mul_q6_k = mul_q6_k,
};
