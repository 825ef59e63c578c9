/* SPDX-License-Identifier: BSD-3-Clause */
/* The KV cache of the host back ends: layout, memory, and access element by element. */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "accel/host.h"
#include "accel/weights.h"
#include "base/bytes.h"

static uint32_t round_up(uint32_t n, uint32_t to)
{
	return (n + to - 1) / to * to;
}

static uint32_t n_tiles(uint32_t positions)
{
	return positions / ACCEL_KV_TILE + (positions % ACCEL_KV_TILE != 0);
}

/* Bytes of a tile of heads of `dim` elements, a multiple of the block in Q8_0. */
static size_t tile_bytes(enum accel_kv_dtype dtype, uint32_t dim)
{
	switch (dtype) {
	case ACCEL_KV_F32:
		return (size_t)dim * ACCEL_KV_TILE * 4;
	case ACCEL_KV_F16:
		return (size_t)dim * ACCEL_KV_TILE * 2;
	case ACCEL_KV_Q8_0:
		return (size_t)dim / ACCEL_KV_BLOCK * ACCEL_KV_TILE * (ACCEL_KV_BLOCK + 2);
	}
	return 0;
}

/* Everything but the memory. */
static struct accel_kv_cache cache_shape(enum accel_kv_dtype dtype, const struct model_op *op,
					 uint32_t n_slots, uint32_t tiles)
{
	bool q8 = dtype == ACCEL_KV_Q8_0;
	struct accel_kv_cache c = {.dtype = dtype,
				   .n_heads = op->n_heads_kv,
				   .k_dim = op->head_dim,
				   .v_dim = op->head_dim_v,
				   .v_pad = round_up(op->head_dim_v, q8 ? ACCEL_KV_BLOCK : ACCEL_KV_PAD),
				   .n_slots = n_slots,
				   .n_tiles = tiles};

	c.k_tile = tile_bytes(dtype, q8 ? round_up(c.k_dim, ACCEL_KV_BLOCK) : c.k_dim);
	c.v_tile = tile_bytes(dtype, c.v_pad);
	return c;
}

static uint64_t cache_tiles(const struct accel_kv_cache *c)
{
	return (uint64_t)c->n_slots * c->n_heads * c->n_tiles; /* below 2^20 * 2^20 * 2^26: checked args */
}

static int cache_init(struct accel_kv *kv, struct accel_kv_cache *c, const struct model_op *op,
		      uint32_t n_slots, uint32_t positions)
{
	if (c->n_heads != 0)
		return 0; /* another pass has the same block */
	*c = cache_shape(kv->dtype, op, n_slots, n_tiles(positions));
	c->k = accel_host_alloc(cache_tiles(c), c->k_tile);
	c->v = accel_host_alloc(cache_tiles(c), c->v_tile);
	if (c->k == NULL || c->v == NULL)
		return -ENOMEM;
	kv->bytes += cache_tiles(c) * (c->k_tile + c->v_tile);
	return 0;
}

static void cache_fini(struct accel_kv_cache *c)
{
	accel_host_free(c->k, cache_tiles(c), c->k_tile);
	accel_host_free(c->v, cache_tiles(c), c->v_tile);
}

/* The cache of one batch is as large as the largest block wants it. */
static void measure_batch(struct accel_kv *kv, const struct model_op *op)
{
	struct accel_kv_cache c = cache_shape(ACCEL_KV_F32, op, 1, kv->batch_tiles);
	uint64_t k = cache_tiles(&c) * c.k_tile, v = cache_tiles(&c) * c.v_tile;

	kv->batch_k_bytes = k > kv->batch_k_bytes ? k : kv->batch_k_bytes;
	kv->batch_v_bytes = v > kv->batch_v_bytes ? v : kv->batch_v_bytes;
}

static int pass_init(struct accel_kv *kv, const struct model_graph *g, const struct accel_open_args *args)
{
	/* An encoded sequence comes in one batch. */
	uint32_t cross = args->max_tokens < args->n_ctx ? args->max_tokens : args->n_ctx;

	for (uint32_t i = 0; i < g->n_ops; i++) {
		const struct model_op *op = &g->ops[i];
		struct accel_kv_block *block;
		int rc = 0;

		if (op->kind != MODEL_OP_ATTN && op->kind != MODEL_OP_CROSS_KV)
			continue;
		block = &kv->blocks[op->layer - kv->block_first];
		if (op->kind == MODEL_OP_CROSS_KV)
			rc = cache_init(kv, &block->cross, op, args->n_slots, cross);
		else if (op->causal)
			rc = cache_init(kv, &block->self, op, args->n_slots, args->n_ctx);
		else if (!op->cross)
			measure_batch(kv, op);
		if (rc != 0)
			return rc;
	}
	return 0;
}

int accel_kv_init(struct accel_kv *kv, const struct model_graph *g, const struct accel_open_args *args)
{
	uint32_t n_seqs = args->n_slots < args->max_tokens ? args->n_slots : args->max_tokens;

	*kv = (struct accel_kv){.block_first = g->block_first,
				.n_blocks = g->block_last - g->block_first,
				.dtype = args->kv,
				/* Each sequence of a batch rounds up to a tile. */
				.batch_tiles = n_tiles(args->max_tokens) + n_seqs};
	kv->blocks = calloc(kv->n_blocks, sizeof(*kv->blocks));
	if (kv->blocks == NULL)
		return -ENOMEM;
	for (unsigned pass = 0; pass < MODEL_N_PASSES; pass++) {
		const struct model_graph *p = model_graph_pass(g, (enum model_pass)pass);

		if (p != NULL && pass_init(kv, p, args) != 0)
			goto out_kv;
	}
	if (kv->batch_k_bytes > 0) {
		kv->batch_k = accel_host_alloc(kv->batch_k_bytes, 1);
		kv->batch_v = accel_host_alloc(kv->batch_v_bytes, 1);
		if (kv->batch_k == NULL || kv->batch_v == NULL)
			goto out_kv;
		kv->bytes += kv->batch_k_bytes + kv->batch_v_bytes;
	}
	return 0;

out_kv:
	accel_kv_fini(kv);
	return -ENOMEM;
}

void accel_kv_fini(struct accel_kv *kv)
{
	for (uint32_t i = 0; kv->blocks != NULL && i < kv->n_blocks; i++) {
		cache_fini(&kv->blocks[i].self);
		cache_fini(&kv->blocks[i].cross);
	}
	accel_host_free(kv->batch_k, kv->batch_k_bytes, 1);
	accel_host_free(kv->batch_v, kv->batch_v_bytes, 1);
	free(kv->blocks);
	*kv = (struct accel_kv){0};
}

static void cache_copy(const struct accel_kv_cache *c, uint32_t from, uint32_t to, uint32_t tiles)
{
	for (uint32_t h = 0; h < c->n_heads; h++) {
		memcpy(accel_kv_k(c, to, h, 0), accel_kv_k(c, from, h, 0), tiles * c->k_tile);
		memcpy(accel_kv_v(c, to, h, 0), accel_kv_v(c, from, h, 0), tiles * c->v_tile);
	}
}

void accel_kv_copy(struct accel_kv *kv, uint32_t from, uint32_t to, uint32_t n)
{
	for (uint32_t i = 0; n > 0 && i < kv->n_blocks; i++) {
		cache_copy(&kv->blocks[i].self, from, to, n_tiles(n));
		cache_copy(&kv->blocks[i].cross, from, to, kv->blocks[i].cross.n_tiles);
	}
}

struct accel_kv_cache accel_kv_of(const struct accel_kv *kv, const struct model_op *op)
{
	struct accel_kv_cache c;

	if (op->kind == MODEL_OP_CROSS_KV || op->cross)
		return kv->blocks[op->layer - kv->block_first].cross;
	if (op->causal)
		return kv->blocks[op->layer - kv->block_first].self;
	c = cache_shape(ACCEL_KV_F32, op, 1, kv->batch_tiles);
	c.k = kv->batch_k;
	c.v = kv->batch_v;
	return c;
}

uint16_t accel_f32_to_f16(float f)
{
	uint32_t bits, sign, abs;
	float scaled;

	memcpy(&bits, &f, sizeof(bits));
	sign = bits >> 16 & 0x8000u;
	abs = bits & 0x7fffffffu;
	if (abs > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u);
	if (abs >= 0x47800000u) /* 65536 and more */
		return (uint16_t)(sign | 0x7c00u);
	if (abs < 0x38800000u) { /* below 2^-14: the sum's last bit is 2^-24, a subnormal's */
		memcpy(&scaled, &abs, sizeof(scaled));
		scaled += 0.5f;
		memcpy(&abs, &scaled, sizeof(abs));
		return (uint16_t)(sign | (abs - 0x3f000000u));
	}
	abs += 0xfffu + (abs >> 13 & 1); /* to the nearest; a carry goes into the exponent, as it should */
	return (uint16_t)(sign | (abs - 0x38000000u) >> 13);
}

/* Where element i of position p of a tile lies: a number among elements of 4 or 2 bytes. */
static size_t k_index(uint32_t i, uint32_t p)
{
	return (size_t)i * ACCEL_KV_TILE + p;
}

static size_t v_index(const struct accel_kv_cache *c, uint32_t i, uint32_t p)
{
	return (size_t)p * c->v_pad + i;
}

/* Block b of a Q8_0 tile: the scales, then the bytes. */
static uint8_t *q8_block(uint8_t *tile, uint32_t b)
{
	return tile + (size_t)b * ACCEL_KV_TILE * (ACCEL_KV_BLOCK + 2);
}

static void put(enum accel_kv_dtype dtype, uint8_t *tile, size_t index, float x)
{
	if (dtype == ACCEL_KV_F32)
		memcpy(tile + 4 * index, &x, sizeof(x));
	else
		ps_store16(tile + 2 * index, accel_f32_to_f16(x));
}

static float get(enum accel_kv_dtype dtype, const uint8_t *tile, size_t index)
{
	float x;

	if (dtype != ACCEL_KV_F32)
		return accel_f16_to_f32(ps_load16(tile + 2 * index));
	memcpy(&x, tile + 4 * index, sizeof(x));
	return x;
}

/* A block as in the file's Q8_0: the largest magnitude becomes 127. `stride` bytes between elements. An
 * element that is no finite number makes the scale, and so the whole block, not a number. */
static void put_q8(uint8_t *scale, uint8_t *q, size_t stride, const float *x, uint32_t n)
{
	float max = 0, inv;

	for (uint32_t i = 0; i < n; i++)
		max = fabsf(x[i]) <= max ? max : fabsf(x[i]) <= FLT_MAX ? fabsf(x[i]) : NAN;
	inv = max > 1e-30f ? 127.0f / max : 0; /* below, 127 / max may overflow; the scale is 0 then */
	ps_store16(scale, accel_f32_to_f16(max / 127.0f));
	for (uint32_t i = 0; i < ACCEL_KV_BLOCK; i++)
		q[i * stride] = i < n && inv > 0 ? (uint8_t)(int8_t)rintf(x[i] * inv) : 0;
}

static void put_head_q8(const struct accel_kv_cache *c, uint8_t *k_tile, uint8_t *v_tile, uint32_t p,
			const float *k, const float *v)
{
	for (uint32_t i = 0; i < c->k_dim; i += ACCEL_KV_BLOCK) {
		uint8_t *block = q8_block(k_tile, i / ACCEL_KV_BLOCK);
		uint32_t n = c->k_dim - i < ACCEL_KV_BLOCK ? c->k_dim - i : ACCEL_KV_BLOCK;

		put_q8(block + 2 * p, block + 2 * ACCEL_KV_TILE + p, ACCEL_KV_TILE, k + i, n);
	}
	for (uint32_t i = 0; i < c->v_dim; i += ACCEL_KV_BLOCK) {
		uint8_t *block = q8_block(v_tile, i / ACCEL_KV_BLOCK);
		uint32_t n = c->v_dim - i < ACCEL_KV_BLOCK ? c->v_dim - i : ACCEL_KV_BLOCK;

		put_q8(block + 2 * p, block + 2 * ACCEL_KV_TILE + p * ACCEL_KV_BLOCK, 1, v + i, n);
	}
}

void accel_kv_put(const struct accel_kv_cache *c, uint32_t slot, uint32_t pos, const float *k, const float *v)
{
	uint32_t p = pos % ACCEL_KV_TILE;

	for (uint32_t h = 0; h < c->n_heads; h++, k += c->k_dim, v += c->v_dim) {
		uint8_t *k_tile = accel_kv_k(c, slot, h, pos), *v_tile = accel_kv_v(c, slot, h, pos);

		if (c->dtype == ACCEL_KV_Q8_0) {
			put_head_q8(c, k_tile, v_tile, p, k, v);
			continue;
		}
		for (uint32_t i = 0; i < c->k_dim; i++)
			put(c->dtype, k_tile, k_index(i, p), k[i]);
		for (uint32_t i = 0; i < c->v_dim; i++)
			put(c->dtype, v_tile, v_index(c, i, p), v[i]);
	}
}

static float get_q8(uint8_t *block, uint32_t p, size_t index)
{
	int8_t q = (int8_t)block[2 * ACCEL_KV_TILE + index];

	return accel_f16_to_f32(ps_load16(block + 2 * p)) * (float)q;
}

void accel_kv_get_k(const struct accel_kv_cache *c, uint32_t slot, uint32_t head, uint32_t pos, float *dst)
{
	uint8_t *tile = accel_kv_k(c, slot, head, pos);
	uint32_t p = pos % ACCEL_KV_TILE;

	for (uint32_t i = 0; i < c->k_dim; i++)
		dst[i] = c->dtype == ACCEL_KV_Q8_0
			     ? get_q8(q8_block(tile, i / ACCEL_KV_BLOCK), p, k_index(i % ACCEL_KV_BLOCK, p))
			     : get(c->dtype, tile, k_index(i, p));
}

void accel_kv_get_v(const struct accel_kv_cache *c, uint32_t slot, uint32_t head, uint32_t pos, float *dst)
{
	uint8_t *tile = accel_kv_v(c, slot, head, pos);
	uint32_t p = pos % ACCEL_KV_TILE;

	for (uint32_t i = 0; i < c->v_dim; i++)
		dst[i] = c->dtype == ACCEL_KV_Q8_0 ? get_q8(q8_block(tile, i / ACCEL_KV_BLOCK), p,
							    (size_t)p * ACCEL_KV_BLOCK + i % ACCEL_KV_BLOCK)
						   : get(c->dtype, tile, v_index(c, i, p));
}
