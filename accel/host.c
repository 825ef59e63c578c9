/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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
	s->enc_len = calloc(args->n_slots, sizeof(*s->enc_len));
	s->next = calloc(args->n_slots, sizeof(*s->next));
	s->rows = calloc(args->max_tokens, sizeof(*s->rows));
	if (s->len != NULL && s->enc_len != NULL && s->next != NULL && s->rows != NULL)
		return 0;
	accel_slots_fini(s);
	return -ENOMEM;
}

void accel_slots_fini(struct accel_slots *s)
{
	free(s->len);
	free(s->enc_len);
	free(s->next);
	free(s->rows);
	*s = (struct accel_slots){0};
}

bool accel_host_pass_whole(const struct model_graph *pass)
{
	for (uint32_t i = 0; i < pass->n_ops; i++)
		if (pass->ops[i].kind == MODEL_OP_ATTN && !pass->ops[i].causal && !pass->ops[i].cross)
			return true;
	return false;
}

/* One run of rows; extends next[] of its slot. A slot may come twice in a batch as long as the
 * second run goes on where the first ended: attention sees all rows of the batch appended. */
static int check_seq(struct accel_slots *s, const struct accel_seq *seq, bool seen_in_batch, uint32_t row,
		     uint32_t kv_first)
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
		s->rows[row + i] = (struct accel_row){
		    .slot = seq->slot, .pos = seq->pos + i, .seq_end = end, .kv_first = kv_first};
	return 0;
}

static bool came_before(const struct accel_batch *b, uint32_t i)
{
	for (uint32_t j = 0; j < i; j++)
		if (b->seqs[j].slot == b->seqs[i].slot)
			return true;
	return false;
}

/* `whole`: each sequence starts at 0, and so a slot comes once. */
static int check_seqs(struct accel_slots *s, const struct accel_batch *b, bool whole, bool decoder)
{
	uint32_t row = 0, kv_first = 0;

	for (uint32_t i = 0; i < b->n_seqs; i++) {
		const struct accel_seq *seq = &b->seqs[i];

		if (row >= b->n_tokens || (whole && seq->pos != 0) ||
		    check_seq(s, seq, came_before(b, i), row, kv_first) != 0)
			return -EINVAL;
		if (decoder && s->enc_len[seq->slot] == 0)
			return -EINVAL;
		row += seq->n_tokens;
		kv_first += (seq->n_tokens + ACCEL_KV_TILE - 1) / ACCEL_KV_TILE * ACCEL_KV_TILE;
	}
	return row == b->n_tokens ? 0 : -EINVAL;
}

/* Token ids and positions index the embedding tables. */
static int check_tokens(const struct accel_slots *s, const struct model_graph *g, const struct accel_batch *b)
{
	const struct model_op *embed = g->ops;

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

/* The last range of an encode pass has no one to hand its activations to: `out` may be NULL there. */
static int check_outputs(const struct model_graph *g, const struct accel_batch *b)
{
	if (!g->has_head)
		return b->out != NULL || b->pass == MODEL_PASS_ENCODE ? 0 : -EINVAL;
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

int accel_slots_begin(struct accel_slots *s, const struct model_graph *g, const struct accel_batch *b,
		      const struct model_graph **pass_out)
{
	const struct model_graph *pass;
	bool encode = b->pass == MODEL_PASS_ENCODE, whole;
	uint32_t *len = encode ? s->enc_len : s->len;

	if ((unsigned)b->pass >= MODEL_N_PASSES || (pass = model_graph_pass(g, b->pass)) == NULL)
		return -EINVAL;
	if (b->n_tokens == 0 || b->n_tokens > s->max_tokens || b->n_seqs == 0 || b->n_seqs > b->n_tokens ||
	    b->seqs == NULL)
		return -EINVAL;
	memcpy(s->next, len, s->n_slots * sizeof(*s->next));
	whole = b->pass != MODEL_PASS_MAIN || accel_host_pass_whole(pass);
	if (check_seqs(s, b, whole, !encode && g->encode != NULL) != 0 || check_tokens(s, pass, b) != 0 ||
	    check_outputs(pass, b) != 0)
		return -EINVAL;
	memcpy(len, s->next, s->n_slots * sizeof(*len));
	*pass_out = pass;
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
	if (n > 0)
		s->enc_len[to] = s->enc_len[from];
	return n;
}
