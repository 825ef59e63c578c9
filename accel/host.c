/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "accel/weights.h"

#define HUGE_BYTES (2ull << 20)

static uint64_t mapped_bytes(uint64_t n, uint64_t size)
{
	uint64_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2)
		return 0;
	return bytes == 0 ? 64 : bytes;
}

void *accel_host_alloc(uint64_t n, uint64_t size)
{
	uint64_t bytes = mapped_bytes(n, size);
	void *mem;

	if (bytes == 0)
		return NULL;
	mem = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return NULL;
	if (bytes >= HUGE_BYTES) /* advice only: without it the memory is as right, a little slower */
		(void)madvise(mem, (size_t)bytes, MADV_HUGEPAGE);
	return mem;
}

void accel_host_free(void *mem, uint64_t n, uint64_t size)
{
	if (mem != NULL)
		munmap(mem, (size_t)mapped_bytes(n, size));
}

int accel_slots_init(struct accel_slots *s, const struct accel_open_args *args)
{
	*s = (struct accel_slots){
	    .n_slots = args->n_slots, .n_ctx = args->n_ctx, .max_tokens = args->max_tokens};
	s->len = calloc(args->n_slots, sizeof(*s->len));
	s->next = calloc(args->n_slots, sizeof(*s->next));
	s->rows = calloc(args->max_tokens, sizeof(*s->rows));
	if (s->len != NULL && s->next != NULL && s->rows != NULL)
		return 0;
	accel_slots_fini(s);
	return -ENOMEM;
}

void accel_slots_fini(struct accel_slots *s)
{
	free(s->len);
	free(s->next);
	free(s->rows);
	*s = (struct accel_slots){0};
}

/* One run of rows; extends next[] of its slot. A slot may come twice in a batch as long as the
 * second run goes on where the first ended: attention sees all rows of the batch appended. */
static int check_seq(struct accel_slots *s, const struct accel_seq *seq, bool seen_in_batch, uint32_t row)
{
	uint32_t end;

	if (seq->slot >= s->n_slots || seq->n_tokens == 0 || seq->n_tokens > s->max_tokens - row)
		return -EINVAL;
	if (__builtin_add_overflow(seq->pos, seq->n_tokens, &end) || end > s->n_ctx)
		return -EINVAL;
	if (seq->pos > s->next[seq->slot] || (seen_in_batch && seq->pos != s->next[seq->slot]))
		return -EINVAL;
	s->next[seq->slot] = end;
	for (uint32_t i = 0; i < seq->n_tokens; i++)
		s->rows[row + i] = (struct accel_row){.slot = seq->slot, .pos = seq->pos + i, .seq_end = end};
	return 0;
}

static bool came_before(const struct accel_batch *b, uint32_t i)
{
	for (uint32_t j = 0; j < i; j++)
		if (b->seqs[j].slot == b->seqs[i].slot)
			return true;
	return false;
}

static int check_seqs(struct accel_slots *s, const struct accel_batch *b)
{
	uint32_t row = 0;

	memcpy(s->next, s->len, s->n_slots * sizeof(*s->next));
	for (uint32_t i = 0; i < b->n_seqs; i++) {
		if (row >= b->n_tokens || check_seq(s, &b->seqs[i], came_before(b, i), row) != 0)
			return -EINVAL;
		row += b->seqs[i].n_tokens;
	}
	return row == b->n_tokens ? 0 : -EINVAL;
}

/* Token ids and positions index the embedding tables. */
static int check_tokens(const struct accel_slots *s, const struct model_graph *g, const struct accel_batch *b)
{
	const struct model_op *embed = &g->ops[0];

	if (!g->has_embed)
		return b->x_in != NULL ? 0 : -EINVAL;
	if (b->tokens == NULL)
		return -EINVAL;
	for (uint32_t i = 0; i < b->n_tokens; i++) {
		if (b->tokens[i] < 0 || (uint64_t)b->tokens[i] >= embed->w->ne[1])
			return -EINVAL;
		if (embed->w2 != NULL && s->rows[i].pos >= embed->w2->ne[1])
			return -EINVAL;
	}
	return 0;
}

static int check_outputs(const struct model_graph *g, const struct accel_batch *b)
{
	if (!g->has_head)
		return b->out != NULL ? 0 : -EINVAL;
	if (b->n_out > b->n_tokens || (b->n_out > 0 && (b->out_rows == NULL || b->out == NULL)))
		return -EINVAL;
	for (uint32_t i = 0; i < b->n_out; i++) {
		if (b->out_rows[i] >= b->n_tokens)
			return -EINVAL;
		if (i > 0 && b->out_rows[i] <= b->out_rows[i - 1])
			return -EINVAL;
	}
	return 0;
}

int accel_slots_begin(struct accel_slots *s, const struct model_graph *g, const struct accel_batch *b)
{
	if (b->n_tokens == 0 || b->n_tokens > s->max_tokens || b->n_seqs == 0 || b->n_seqs > b->n_tokens ||
	    b->seqs == NULL)
		return -EINVAL;
	if (check_seqs(s, b) != 0 || check_tokens(s, g, b) != 0 || check_outputs(g, b) != 0)
		return -EINVAL;
	memcpy(s->len, s->next, s->n_slots * sizeof(*s->len));
	return 0;
}

void accel_slots_trim(struct accel_slots *s, uint32_t slot, uint32_t pos)
{
	if (slot < s->n_slots && pos < s->len[slot])
		s->len[slot] = pos;
}

uint32_t accel_slots_copy(struct accel_slots *s, uint32_t from, uint32_t to, uint32_t n)
{
	if (from >= s->n_slots || to >= s->n_slots || from == to)
		return 0;
	if (n > s->len[from])
		n = s->len[from];
	s->len[to] = n;
	return n;
}

static uint32_t round_up(uint32_t n, uint32_t to)
{
	return (n + to - 1) / to * to;
}

static int kv_layer_init(struct accel_kv *kv, const struct model_op *op, uint32_t pad)
{
	struct accel_kv_layer *l = accel_kv_layer_of(kv, op->layer);
	uint64_t positions;

	l->n_heads_kv = op->n_heads_kv;
	l->k_dim = op->head_dim;
	l->v_dim = op->head_dim_v;
	l->k_pad = round_up(l->k_dim, pad);
	l->v_pad = round_up(l->v_dim, pad);
	if (__builtin_mul_overflow((uint64_t)kv->n_slots * l->n_heads_kv, (uint64_t)kv->n_ctx_pad,
				   &positions))
		return -ENOMEM;
	l->k = accel_host_alloc(positions, l->k_pad * sizeof(float));
	l->v = accel_host_alloc(positions, l->v_pad * sizeof(float));
	if (l->k == NULL || l->v == NULL)
		return -ENOMEM;
	kv->bytes += positions * (l->k_pad + l->v_pad) * sizeof(float);
	return 0;
}

int accel_kv_init(struct accel_kv *kv, const struct model_graph *g, const struct accel_open_args *args,
		  uint32_t pad)
{
	*kv = (struct accel_kv){.block_first = g->block_first,
				.n_layers = g->block_last - g->block_first,
				.n_slots = args->n_slots,
				.n_ctx_pad = round_up(args->n_ctx, 4)};
	kv->layers = calloc(kv->n_layers, sizeof(*kv->layers));
	if (kv->layers == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->n_ops; i++) {
		if (g->ops[i].kind != MODEL_OP_ATTN)
			continue;
		if (kv_layer_init(kv, &g->ops[i], pad) != 0) {
			accel_kv_fini(kv);
			return -ENOMEM;
		}
	}
	return 0;
}

void accel_kv_fini(struct accel_kv *kv)
{
	for (uint32_t i = 0; kv->layers != NULL && i < kv->n_layers; i++) {
		struct accel_kv_layer *l = &kv->layers[i];
		uint64_t positions = (uint64_t)kv->n_slots * l->n_heads_kv * kv->n_ctx_pad;

		accel_host_free(l->k, positions, l->k_pad * sizeof(float));
		accel_host_free(l->v, positions, l->v_pad * sizeof(float));
	}
	free(kv->layers);
	*kv = (struct accel_kv){0};
}

void accel_kv_copy(struct accel_kv *kv, uint32_t from, uint32_t to, uint32_t n)
{
	for (uint32_t i = 0; n > 0 && i < kv->n_layers; i++) {
		const struct accel_kv_layer *l = &kv->layers[i];

		for (uint32_t h = 0; h < l->n_heads_kv; h++) {
			memcpy(accel_kv_k(kv, l, to, h), accel_kv_k(kv, l, from, h),
			       (size_t)n * l->k_pad * sizeof(float));
			memcpy(accel_kv_v(kv, l, to, h), accel_kv_v(kv, l, from, h),
			       (size_t)n * l->v_pad * sizeof(float));
		}
	}
}
