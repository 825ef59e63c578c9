/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The attention kernel and the KV cache of every instruction set against plain
 * loops in double, over odd heads, windows, biases, caps and element types; and
 * against itself: a query gives the same bits alone and among others.
 */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "accel/cpu/kern.h"
#include "accel/host.h"
#include "tests/unit/accel/toy.h"

#define MAX_POS 400u

static const struct kern *kern; /* under test */

static void *alloc64(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(p);
	memset(p, 0, (bytes + 63) / 64 * 64);
	return p;
}

/* One head of keys and values, its queries, and scratch. */
struct rig {
	struct accel_kv_cache cache;
	struct kern_attn a;
	float *rel; /* [2 * MAX_POS + 128], distance d at MAX_POS + 64 + d */
	float *q;   /* [KERN_QUERIES, k_dim] */
	float *acc; /* [KERN_QUERIES, v_pad] */
};

static uint32_t round_up(uint32_t n, uint32_t to)
{
	return (n + to - 1) / to * to;
}

static void cache_init(struct accel_kv_cache *c, enum accel_kv_dtype dtype, uint32_t k_dim, uint32_t v_dim)
{
	bool q8 = dtype == ACCEL_KV_Q8_0;
	uint32_t k_rows = q8 ? round_up(k_dim, 32) : k_dim, v_pad = round_up(v_dim, q8 ? 32 : 16);
	size_t size = dtype == ACCEL_KV_F32 ? 4 * 32 : dtype == ACCEL_KV_F16 ? 2 * 32 : 34;

	*c = (struct accel_kv_cache){.dtype = dtype,
				     .n_heads = 1,
				     .k_dim = k_dim,
				     .v_dim = v_dim,
				     .v_pad = v_pad,
				     .n_slots = 1,
				     .n_tiles = (MAX_POS + 63) / 64,
				     .k_tile = (size_t)k_rows * 64 * size / 32,
				     .v_tile = (size_t)v_pad * 64 * size / 32};
	c->k = alloc64(c->n_tiles * c->k_tile);
	c->v = alloc64(c->n_tiles * c->v_tile);
}

static void put(const struct accel_kv_cache *c, uint32_t pos, const float *k, const float *v)
{
	struct kern_kv shape = {.dtype = c->dtype, .k_dim = c->k_dim, .v_dim = c->v_dim, .v_pad = c->v_pad};

	kern->kv_put(&shape, accel_kv_k(c, 0, 0, pos), accel_kv_v(c, 0, 0, pos), pos % 64, k, v);
}

static void fill_cache(const struct accel_kv_cache *c, struct toy_rng *rng, uint32_t n)
{
	float *k = alloc64(c->k_dim * 4), *v = alloc64(c->v_dim * 4);

	for (uint32_t p = 0; p < n; p++) {
		toy_fill(rng, GGUF_DT_F32, c->k_dim, k);
		toy_fill(rng, GGUF_DT_F32, c->v_dim, v);
		put(c, p, k, v);
	}
	free(k);
	free(v);
}

static void rig_init(struct rig *r, enum accel_kv_dtype dtype, uint32_t k_dim, uint32_t v_dim)
{
	cache_init(&r->cache, dtype, k_dim, v_dim);
	r->rel = alloc64((2 * MAX_POS + 192) * 4);
	r->q = alloc64(KERN_QUERIES * k_dim * 4);
	r->acc = alloc64(KERN_QUERIES * r->cache.v_pad * 4);
	r->a = (struct kern_attn){.dtype = dtype,
				  .k = r->cache.k,
				  .v = r->cache.v,
				  .k_tile = r->cache.k_tile,
				  .v_tile = r->cache.v_tile,
				  .k_dim = k_dim,
				  .v_pad = r->cache.v_pad,
				  .queries = alloc64(KERN_QUERIES * sizeof(struct kern_query)),
				  .scores = alloc64(4 * 64 * 4),
				  .k_expanded = alloc64(k_dim * 64 * 4),
				  .v_expanded = alloc64(r->cache.v_pad * 64 * 4),
				  .scales = alloc64((r->cache.v_pad / 32 + 1) * 64 * 4)};
}

static void rig_fini(struct rig *r)
{
	free(r->cache.k);
	free(r->cache.v);
	free(r->rel);
	free(r->q);
	free(r->acc);
	free(r->a.queries);
	free(r->a.scores);
	free(r->a.k_expanded);
	free(r->a.v_expanded);
	free(r->a.scales);
}

static double plain_score(const struct rig *r, const struct kern_query *q, uint32_t p)
{
	float k[512];
	double s = 0, cap = (double)r->a.softcap;

	accel_kv_get_k(&r->cache, 0, 0, p, k);
	for (uint32_t i = 0; i < r->a.k_dim; i++)
		s += (double)q->q[i] * (double)k[i];
	if (cap != 0)
		s = cap * tanh(s / cap);
	s += ((double)p - q->pos) * (double)q->slope;
	return q->rel != NULL ? s + (double)q->rel[p] : s;
}

static void plain_attention(const struct rig *r, const struct kern_query *q, double *out /* [v_dim] */)
{
	double score[MAX_POS], max = -INFINITY, sum = 0;

	for (uint32_t p = q->first; p < q->end; p++) {
		score[p] = plain_score(r, q, p);
		max = fmax(max, score[p]);
	}
	memset(out, 0, r->cache.v_dim * sizeof(*out));
	for (uint32_t p = q->first; p < q->end; p++)
		sum += exp(score[p] - max);
	for (uint32_t p = q->first; p < q->end; p++) {
		float v[512];

		accel_kv_get_v(&r->cache, 0, 0, p, v);
		for (uint32_t i = 0; i < r->cache.v_dim; i++)
			out[i] += exp(score[p] - max) / sum * (double)v[i];
	}
}

static void check_results(const struct rig *r)
{
	double want[512];

	for (uint32_t i = 0; i < r->a.n; i++) {
		const struct kern_query *q = &r->a.queries[i];

		plain_attention(r, q, want);
		for (uint32_t j = 0; j < r->cache.v_dim; j++)
			if (!(fabs((double)q->acc[j] - want[j]) <= 1e-5))
				fail_msg("%s: kv %d, heads of %u and %u, query %u of %u, positions %u to %u: "
					 "element %u is %g, want %g",
					 kern->isa, (int)r->a.dtype, r->a.k_dim, r->cache.v_dim, i, r->a.n,
					 q->first, q->end, j, (double)q->acc[j], want[j]);
	}
}

/* Each query alone, and two at a time: the same bits. */
static void check_alone(struct rig *r)
{
	uint32_t n = r->a.n;
	size_t bytes = (size_t)n * r->cache.v_pad * sizeof(float);
	struct kern_query *all = r->a.queries;
	float *together = alloc64(bytes);

	memcpy(together, r->acc, bytes);
	for (uint32_t step = 1; step <= 5; step += 2) {
		memset(r->acc, 0, bytes);
		for (uint32_t i = 0; i < n; i += step) {
			r->a.queries = all + i;
			r->a.n = n - i < step ? n - i : step;
			kern->attn(&r->a);
		}
		assert_memory_equal(r->acc, together, bytes);
	}
	r->a.queries = all;
	r->a.n = n;
	free(together);
}

struct options {
	uint32_t group, window; /* queries a position; 0: no window */
	float softcap, slope;
	bool rel, causal;
};

/* Queries of the last positions of n. */
static void set_queries(struct rig *r, struct toy_rng *rng, uint32_t n, uint32_t n_queries,
			const struct options *o)
{
	uint32_t rows = (n_queries + o->group - 1) / o->group;

	r->a.softcap = o->softcap;
	r->a.n = n_queries;
	toy_fill(rng, GGUF_DT_F32, KERN_QUERIES * r->a.k_dim, r->q);
	toy_fill(rng, GGUF_DT_F32, 2 * MAX_POS + 192, r->rel);
	for (uint32_t i = 0; i < n_queries; i++) {
		uint32_t pos = n - rows + i / o->group;

		r->a.queries[i] = (struct kern_query){
		    .q = r->q + i * r->a.k_dim,
		    .acc = r->acc + i * r->cache.v_pad,
		    .pos = pos,
		    .first = o->window != 0 && pos >= o->window ? pos - o->window + 1 : 0,
		    .end = o->causal ? pos + 1 : n,
		    .slope = o->slope,
		    .rel = o->rel ? r->rel + MAX_POS + 64 - pos : NULL,
		};
	}
}

static void test_attention(void **state)
{
	static const uint32_t dims[][2] = {{1, 1},   {5, 5},    {9, 9},     {16, 16},   {20, 12},  {64, 64},
					   {80, 80}, {96, 128}, {128, 128}, {200, 200}, {256, 256}};
	static const uint32_t lengths[] = {1, 3, 16, 63, 64, 65, 130, 400},
			      counts[] = {1, 3, 4, 7, 8, 21, 64};
	static const struct options options[] = {
	    {.group = 1, .causal = true},
	    {.group = 4, .causal = true},
	    {.group = 3, .causal = true, .window = 5},
	    {.group = 1, .causal = true, .window = 70, .softcap = 2.5f},
	    {.group = 2, .causal = true, .slope = 0.25f},
	    {.group = 1, .causal = true, .slope = -0.5f}, /* the largest scores come first */
	    {.group = 1, .rel = true},
	    {.group = 1, .rel = true, .causal = true},
	    {.group = 5, .softcap = 20, .rel = true},
	};
	struct toy_rng rng = {1};
	uint32_t turn = 0;

	(void)state;
	for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
		for (int kv = ACCEL_KV_F32; kv <= ACCEL_KV_Q8_0; kv++) {
			struct rig r;

			rig_init(&r, (enum accel_kv_dtype)kv, dims[d][0], dims[d][1]);
			fill_cache(&r.cache, &rng, MAX_POS); /* those from n on must not count */
			for (size_t o = 0; o < sizeof(options) / sizeof(options[0]); o++, turn++) {
				uint32_t n = lengths[turn % 8], most = n * options[o].group;
				uint32_t count = counts[turn % 7];

				set_queries(&r, &rng, n, count < most ? count : most, &options[o]);
				kern->attn(&r.a);
				check_results(&r);
				check_alone(&r);
			}
			rig_fini(&r);
		}
	}
}

/* What a query does not see does not reach it, not even as 0 times something. */
static void test_unseen_not_a_number(void **state)
{
	static const struct options window = {.group = 1, .causal = true, .window = 9};
	struct toy_rng rng = {2};

	(void)state;
	for (int kv = ACCEL_KV_F32; kv <= ACCEL_KV_Q8_0; kv++) {
		struct rig r;
		float bad[24];

		for (int i = 0; i < 24; i++)
			bad[i] = NAN;
		rig_init(&r, (enum accel_kv_dtype)kv, 24, 24);
		fill_cache(&r.cache, &rng, 100);
		set_queries(&r, &rng, 100, 16, &window);
		put(&r.cache, 91, bad, bad); /* seen by the queries at 91 to 99 */
		kern->attn(&r.a);
		for (uint32_t i = 0; i < 16; i++)
			for (uint32_t j = 0; j < 24; j++)
				assert_true(isfinite(r.a.queries[i].acc[j]) == (r.a.queries[i].pos < 91));
		rig_fini(&r);
	}
}

/* The same bytes as the plain functions. */
static void test_put(void **state)
{
	static const uint32_t dims[] = {1, 9, 31, 32, 33, 64, 80, 256};
	struct toy_rng rng = {3};
	float k[256], v[256];

	(void)state;
	for (size_t d = 0; d < 8 * 3; d++) {
		struct accel_kv_cache got, want;
		uint32_t dim = dims[d / 3];

		cache_init(&got, (enum accel_kv_dtype)(d % 3), dim, dims[(d / 3 + 3) % 8]);
		cache_init(&want, (enum accel_kv_dtype)(d % 3), dim, dims[(d / 3 + 3) % 8]);
		for (uint32_t p = 0; p < 200; p++) {
			float scale = p % 7 == 0 ? 1e-9f : p % 7 == 1 ? 300.0f : 1.0f;

			for (uint32_t i = 0; i < 256; i++) {
				k[i] = toy_uniform(&rng) * scale;
				v[i] = p % 11 == 0 ? 0 : toy_uniform(&rng);
			}
			put(&got, p, k, v);
			accel_kv_put(&want, 0, p, k, v);
		}
		assert_memory_equal(got.k, want.k, got.n_tiles * got.k_tile);
		assert_memory_equal(got.v, want.v, got.n_tiles * got.v_tile);
		free(got.k);
		free(got.v);
		free(want.k);
		free(want.v);
	}
}

/* Rounding of the cache: to the nearest float16, to 1/254 of the largest of 32. */
static void test_rounding(void **state)
{
	struct toy_rng rng = {4};

	(void)state;
	for (int kv = ACCEL_KV_F32; kv <= ACCEL_KV_Q8_0; kv++) {
		struct accel_kv_cache c;
		float k[40], v[40], got[40];

		cache_init(&c, (enum accel_kv_dtype)kv, 40, 40);
		toy_fill(&rng, GGUF_DT_F32, 40, k);
		toy_fill(&rng, GGUF_DT_F32, 40, v);
		put(&c, 77, k, v);
		for (int what = 0; what < 2; what++) {
			const float *want = what ? v : k;

			if (what)
				accel_kv_get_v(&c, 0, 0, 77, got);
			else
				accel_kv_get_k(&c, 0, 0, 77, got);
			for (uint32_t i = 0; i < 40; i++) {
				double error = fabs((double)got[i] - (double)want[i]);

				if (kv == ACCEL_KV_F32)
					assert_true(error == 0);
				else if (kv == ACCEL_KV_F16)
					assert_true(error <= fabs((double)want[i]) / 2048 + 3e-8);
				else
					assert_true(error <= 1.0 / 254 + 4e-4);
			}
		}
		free(c.k);
		free(c.v);
	}
}

/* Against the definition: the nearest of all float16, and of two the even one. */
static void test_f16(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7c00; h++) {
		union {
			float f;
			uint32_t bits;
		} low = {.f = ldexpf((float)(h % 1024 + (h < 1024 ? 0 : 1024)),
				     (int)(h < 1024 ? 1 : h / 1024) - 25)},
		  next = {.f = ldexpf((float)((h + 1) % 1024 + (h + 1 < 1024 ? 0 : 1024)),
				      (int)(h + 1 < 1024 ? 1 : (h + 1) / 1024) - 25)},
		  mid = {.f = (low.f + next.f) / 2};

		assert_int_equal(accel_f32_to_f16(low.f), h);
		assert_int_equal(accel_f32_to_f16(-low.f), h | 0x8000);
		assert_int_equal(accel_f32_to_f16(mid.f), h + (h & 1));
		mid.bits++;
		assert_int_equal(accel_f32_to_f16(mid.f), h + 1);
		mid.bits -= 2;
		assert_int_equal(accel_f32_to_f16(mid.f), h);
	}
	assert_int_equal(accel_f32_to_f16(1e9f), 0x7c00);
	assert_int_equal(accel_f32_to_f16(-INFINITY), 0xfc00);
	assert_true((accel_f32_to_f16(NAN) & 0x7fff) > 0x7c00);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_attention), cmocka_unit_test(test_unseen_not_a_number),
	    cmocka_unit_test(test_put),       cmocka_unit_test(test_rounding),
	    cmocka_unit_test(test_f16),
	};
	static const char *const names[] = {"portable", "avx2", "avx512"};
	int failed = 0;

	for (size_t i = 0; i < 3; i++) {
		if (kern_find(names[i], &kern, NULL) != 0) {
			print_message("skipped: %s not on this CPU\n", names[i]);
			continue;
		}
		failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return failed;
}
