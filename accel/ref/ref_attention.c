/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <string.h>

#include "accel/ref/ref.h"

/* The rows' keys and values, into the cache of the operation's block. */
static void append_kv(struct accel *a, const struct model_op *op, const struct accel_kv_cache *c,
		      uint32_t n_rows)
{
	for (uint32_t r = 0; r < n_rows; r++) {
		const struct accel_row *row = &a->slots.rows[r];

		accel_kv_put(c, accel_kv_slot(op, row), accel_kv_first(op, row) + row->pos,
			     ref_row(a, op->src1, r), ref_row(a, op->src2, r));
	}
}

/* One query head, and the positions [first, end) that it sees. */
struct query {
	const float *q; /* [head_dim] */
	uint32_t head, pos, slot;
	uint32_t kv_first; /* where the cache has position 0 */
	uint32_t first, end;
};

static double bias(const struct model_op *op, const struct query *q, uint32_t p)
{
	int64_t distance = (int64_t)p - q->pos;
	const struct gguf_tensor *t = op->rel_bias; /* [n_buckets, n_heads] */

	if (op->max_alibi_bias != 0)
		return (double)distance * model_alibi_slope(q->head, op->n_heads, (double)op->max_alibi_bias);
	if (t == NULL)
		return 0;
	return (double)((const float *)t->data)[(size_t)model_rel_bucket(distance, (uint32_t)t->ne[1],
									 op->rel_max_distance, !op->causal) *
						    op->n_heads +
						q->head];
}

static double score(struct accel *a, const struct model_op *op, const struct accel_kv_cache *c,
		    const struct query *q, uint32_t p)
{
	double cap = (double)op->softcap, s = 0;

	accel_kv_get_k(c, q->slot, q->head / (op->n_heads / op->n_heads_kv), q->kv_first + p, a->head);
	for (uint32_t i = 0; i < op->head_dim; i++)
		s += (double)q->q[i] * (double)a->head[i];
	s *= (double)op->attn_scale;
	if (cap != 0)
		s = cap * tanh(s / cap);
	return s + bias(op, q, p);
}

static void attend(struct accel *a, const struct model_op *op, const struct accel_kv_cache *c,
		   const struct query *q, float *dst /* [head_dim_v] */)
{
	double max = -INFINITY, sum = 0;

	for (uint32_t p = q->first; p < q->end; p++) {
		a->scores[p] = score(a, op, c, q, p);
		max = fmax(max, a->scores[p]);
	}
	memset(a->sums, 0, op->head_dim_v * sizeof(*a->sums));
	for (uint32_t p = q->first; p < q->end; p++) {
		double e = exp(a->scores[p] - max);

		sum += e;
		accel_kv_get_v(c, q->slot, q->head / (op->n_heads / op->n_heads_kv), q->kv_first + p,
			       a->head);
		for (uint32_t i = 0; i < op->head_dim_v; i++)
			a->sums[i] += e * (double)a->head[i];
	}
	for (uint32_t i = 0; i < op->head_dim_v; i++)
		dst[i] = (float)(a->sums[i] / sum);
}

void ref_attention(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	struct accel_kv_cache c = accel_kv_of(&a->kv, op);

	if (!op->cross)
		append_kv(a, op, &c, n_rows);
	for (uint32_t r = 0; r < n_rows; r++) {
		const struct accel_row *row = &a->slots.rows[r];
		struct query q = {
		    .pos = row->pos, .slot = accel_kv_slot(op, row), .kv_first = accel_kv_first(op, row)};

		q.end = op->cross ? a->slots.enc_len[row->slot] : op->causal ? row->pos + 1 : row->seq_end;
		if (op->window != 0 && row->pos >= op->window)
			q.first = row->pos - op->window + 1;
		for (q.head = 0; q.head < op->n_heads; q.head++) {
			q.q = ref_row(a, op->src0, r) + (size_t)q.head * op->head_dim;
			attend(a, op, &c, &q, ref_row(a, op->dst, r) + (size_t)q.head * op->head_dim_v);
		}
	}
}

void ref_cross_kv(struct accel *a, const struct model_op *op, uint32_t n_rows)
{
	struct accel_kv_cache c = accel_kv_of(&a->kv, op);

	append_kv(a, op, &c, n_rows);
}
