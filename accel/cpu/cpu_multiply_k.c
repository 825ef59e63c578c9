/* SPDX-License-Identifier: BSD-3-Clause */
/* What products with weights of the K types need beyond cpu_multiply.c: memory, and their rounding of the
 * input. */
#include <errno.h>
#include <stdlib.h>

#include "accel/cpu/cpu.h"

static void measure(const struct accel *a, const struct gguf_tensor *w, uint32_t *longest)
{
	if (w != NULL && kern_k_find(a->kern->k, w->dtype) != NULL && w->ne[0] > *longest)
		*longest = (uint32_t)w->ne[0];
}

/* The longest row of any K type that is multiplied, 0 if there is none. */
static uint32_t longest_row(const struct accel *a)
{
	uint32_t longest = 0;

	for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++) {
		const struct model_graph *g = model_graph_pass(a->graph, (enum model_pass)pass);

		for (uint32_t i = 0; g != NULL && i < g->n_ops; i++) {
			const struct model_op *op = &g->ops[i];

			if (op->kind != MODEL_OP_MATMUL && op->kind != MODEL_OP_MOE)
				continue;
			measure(a, op->w, &longest);
			measure(a, op->w_gate, &longest);
			measure(a, op->w_up, &longest);
			measure(a, op->w_down, &longest);
		}
	}
	return longest;
}

int cpu_k_init(struct accel *a)
{
	uint32_t longest = longest_row(a), threads = pool_n_threads(a->pool);
	struct cpu_k *k = &a->k;

	if (longest == 0)
		return 0;
	k->n_acts = (uint64_t)a->slots.max_tokens * (longest / KERN_K_BLOCK);
	/* Shorter rows take more panels at a time, which are never larger together than this. */
	k->scratch_bytes = KERN_K_GROUP_BYTES + kern_k_scratch_bytes(longest);
	k->acts = accel_host_alloc(k->n_acts, sizeof(*k->acts));
	k->scratch = accel_host_alloc(threads, k->scratch_bytes);
	if (k->acts == NULL || k->scratch == NULL)
		return -ENOMEM;
	a->scratch_bytes += k->n_acts * sizeof(*k->acts) + threads * (uint64_t)k->scratch_bytes;
	return 0;
}

void cpu_k_fini(struct accel *a)
{
	accel_host_free(a->k.acts, a->k.n_acts, sizeof(*a->k.acts));
	if (a->k.scratch != NULL)
		accel_host_free(a->k.scratch, pool_n_threads(a->pool), a->k.scratch_bytes);
}

static void round_columns(struct accel *a, const void *arg, uint32_t col, uint32_t end)
{
	const struct kern_mul *m = arg;

	for (uint32_t c = col; c < end; c++)
		a->kern->k->quantize(m->x + c * m->ldx, m->k, a->k.acts + c, m->cols);
}

void cpu_k_round(struct accel *a, const struct kern_mul *m)
{
	if (a->k.src == m->x && a->k.cols == m->cols && a->k.k == m->k)
		return;
	cpu_run_rows(a, round_columns, m, m->cols, m->k);
	a->k.src = m->x;
	a->k.cols = m->cols;
	a->k.k = m->k;
}

void cpu_k_multiply(struct accel *a, kern_k_mul_fn *fn, const struct kern_mul *m, uint32_t thread)
{
	struct kern_mul rounded = *m;

	rounded.x = NULL;
	rounded.ldx = m->cols;
	fn(&rounded, a->k.acts, a->k.scratch + thread * a->k.scratch_bytes);
}
