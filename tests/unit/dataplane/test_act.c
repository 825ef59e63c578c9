/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/act.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

/* Offsets in the descriptor, as PROTOCOL.md gives them: a test of the bytes, not of the code's enum. */
enum {
	O_MAGIC = 0,
	O_VERSION = 4,
	O_KIND = 5,
	O_DTYPE = 6,
	O_RESERVED0 = 7,
	O_ROWS = 12,
	O_SEQS = 16,
	O_HOPS = 20,
	O_WIDTH = 24,
	O_LEN = 32,
	O_RESERVED1 = 40
};

#define N_ROWS 5u
#define WIDTH  12u
#define N_HOPS 4u /* fills whole 64-byte units, so that a hop more shows in the length */

static struct act_seq seq_of(uint32_t i)
{
	return (struct act_seq){
	    .seq_id = 100 + i,
	    .slot = (uint16_t)(i + 1),
	    .flags = (uint16_t)(i & ACT_SEQ_SAMPLE),
	    .pos = 7 * i,
	    .n_tokens = i == 0 ? 2 : 3,
	    .temperature = 0.5f,
	    .top_p = 0.9f,
	    .min_p = 0.1f,
	    .repeat_penalty = 1.1f,
	    .top_k = 40,
	    .repeat_last_n = 64,
	    .seed = 0x1122334455667788ull,
	    .token = -1,
	};
}

/* A message of exactly its length, so that a sanitizer sees a read beyond it. Two sequences; the dtype is of
 * hidden rows. */
static uint8_t *make_of(enum act_kind kind, enum act_dtype dtype, size_t *len_out)
{
	bool has_rows = kind == ACT_HIDDEN || kind == ACT_VALUES;
	struct act a = {
	    .kind = kind,
	    .dtype = kind == ACT_ERROR    ? ACT_BYTES
		     : kind == ACT_HIDDEN ? dtype
					  : ACT_F32,
	    .batch_id = 77,
	    .n_rows = kind == ACT_SAMPLED ? 0
		      : kind == ACT_ERROR ? 1
					  : N_ROWS,
	    .n_seqs = 2,
	    .n_hops = N_HOPS,
	    .width = has_rows || kind == ACT_ERROR ? WIDTH : 0,
	    .block_next = 4,
	};
	uint8_t *buf = calloc(1, act_bytes(&a));
	uint32_t i;

	assert_non_null(buf);
	assert_int_equal(act_begin(&a, buf, act_bytes(&a)), 0);
	for (i = 0; i < 2; i++) {
		struct act_seq seq = seq_of(i);

		if (kind == ACT_SAMPLED)
			seq.n_tokens = 0;
		act_seq_put(&a, i, &seq);
	}
	for (i = 0; i < N_HOPS; i++)
		act_hop_put(
		    &a, i, &(struct act_hop){.proc = i, .clock_id = 9, .rx_ns = 1000 + i, .tx_ns = 2000 + i});
	for (i = 0; i < a.n_rows; i++)
		ps_store32(a.tokens + (size_t)4 * i, 500 + i);
	for (i = 0; has_rows && i < a.n_rows; i++) {
		float row[WIDTH];
		uint32_t k;

		for (k = 0; k < WIDTH; k++)
			row[k] = 0.25f * (float)(i * WIDTH + k);
		act_encode(a.dtype, row, 1, WIDTH, a.payload + i * act_row_bytes(a.dtype, WIDTH));
	}
	if (kind == ACT_ERROR)
		memcpy(a.payload, "out of order", WIDTH);
	*len_out = a.len;
	return buf;
}

static uint8_t *make(enum act_kind kind, size_t *len_out)
{
	return make_of(kind, ACT_F32, len_out);
}

static void test_round_trip(void **state)
{
	struct ps_err err;
	struct act_seq seq, want;
	struct act_hop hop;
	struct act a;
	size_t len;
	uint8_t *m = make(ACT_HIDDEN, &len);
	uint32_t i;
	float f;

	(void)state;
	assert_int_equal(act_parse(m, len, &a, &err), 0);
	assert_true(a.kind == ACT_HIDDEN && a.dtype == ACT_F32 && a.batch_id == 77 && a.n_rows == N_ROWS &&
		    a.n_seqs == 2 && a.n_hops == N_HOPS && a.width == WIDTH && a.block_next == 4 &&
		    a.len == len);
	for (i = 0; i < 2; i++) {
		act_seq_get(&a, i, &seq);
		want = seq_of(i);
		assert_memory_equal(&seq, &want, sizeof(seq));
	}
	act_hop_get(&a, 2, &hop);
	assert_true(hop.proc == 2 && hop.clock_id == 9 && hop.rx_ns == 1002 && hop.tx_ns == 2002);
	assert_int_equal(ps_load64(act_hop_tx_ns(&a, 1)), 2001);
	assert_int_equal(ps_load32(a.tokens + 16), 504);
	memcpy(&f, a.payload + (size_t)4 * (N_ROWS * WIDTH - 1), 4);
	assert_true(f == 0.25f * (float)(N_ROWS * WIDTH - 1));
	/* Sections are aligned in the message, and the payload ends it. */
	assert_int_equal((size_t)(a.seqs - m), ACT_DESC_BYTES);
	assert_int_equal((size_t)(a.tokens - m) % ACT_ALIGN, 0);
	assert_int_equal((size_t)(a.payload - m) % ACT_ALIGN, 0);
	assert_int_equal((size_t)(a.payload - m) + 4u * N_ROWS * WIDTH, len);
	free(m);
}

static void test_bytes_on_the_wire(void **state)
{
	size_t len;
	uint8_t *m = make(ACT_HIDDEN, &len);

	(void)state;
	assert_memory_equal(m, "PACT\2\2\0\0", 8);
	assert_int_equal(ps_load32(m + O_ROWS), N_ROWS);
	assert_int_equal(ps_load64(m + O_LEN), len);
	assert_int_equal(ps_load32(m + 64), 100);                          /* seq 0: id */
	assert_int_equal(ps_load16(m + 64 + 64 + 4), 2);                   /* seq 1: slot */
	assert_true(ps_load64(m + 64 + 64 + 40) == 0x1122334455667788ull); /* seq 1: seed */
	assert_int_equal(ps_load64(m + 64 + 2 * 64 + 2 * 48 + 8), 1002);   /* hop 2: rx_ns */
	free(m);
}

static void test_begin_checks_the_room(void **state)
{
	struct act a = {
	    .kind = ACT_HIDDEN, .dtype = ACT_F32, .n_rows = 3, .n_seqs = 1, .n_hops = 1, .width = 10};
	uint8_t buf[512];
	size_t len = act_bytes(&a);

	(void)state;
	assert_true(len > 0 && len <= sizeof(buf));
	assert_int_equal(act_begin(&a, buf, len - 1), -EMSGSIZE);
	assert_int_equal(act_begin(&a, buf, len), 0);
	a.n_seqs = ACT_MAX_SEQS + 1;
	assert_int_equal(act_bytes(&a), 0);
	assert_int_equal(act_begin(&a, buf, sizeof(buf)), -EMSGSIZE);
	a.n_seqs = 1;
	a.n_hops = ACT_MAX_HOPS + 1;
	assert_int_equal(act_bytes(&a), 0);
	assert_true(act_max_bytes(8, ACT_MAX_SEQS, 64) >=
		    act_bytes(&(struct act){.n_rows = 8, .n_seqs = 8, .width = 64}));
	assert_int_equal(act_max_bytes(UINT32_MAX, 1, 64), 0);
}

static void expect_refused(uint8_t *m, size_t len, const char *what)
{
	struct ps_err err = {{0}};
	struct act a;
	int rc = act_parse(m, len, &a, &err);

	if (rc != -EBADMSG || err.msg[0] == '\0')
		fail_msg("%s: act_parse returned %d, text \"%s\"", what, rc, err.msg);
}

static void test_refuses_each_field(void **state)
{
	static const struct {
		const char *what;
		enum act_kind kind;
		size_t offset;
		uint32_t bytes;
		uint64_t value;
	} cases[] = {
	    {"magic", ACT_HIDDEN, O_MAGIC, 4, 0x54434151},
	    {"version", ACT_HIDDEN, O_VERSION, 1, 1},
	    {"kind 0", ACT_HIDDEN, O_KIND, 1, 0},
	    {"kind 6", ACT_HIDDEN, O_KIND, 1, 6},
	    {"hidden rows as tokens", ACT_HIDDEN, O_KIND, 1, ACT_TOKENS},
	    {"hidden rows as an error", ACT_HIDDEN, O_KIND, 1, ACT_ERROR},
	    {"tokens as hidden rows", ACT_TOKENS, O_KIND, 1, ACT_HIDDEN},
	    {"float rows as float16", ACT_HIDDEN, O_DTYPE, 1, ACT_F16},
	    {"float rows as blocks", ACT_HIDDEN, O_DTYPE, 1, ACT_Q8},
	    {"element type 4", ACT_HIDDEN, O_DTYPE, 1, 4},
	    {"tokens of float16", ACT_TOKENS, O_DTYPE, 1, ACT_F16},
	    {"sampled of blocks", ACT_SAMPLED, O_DTYPE, 1, ACT_Q8},
	    {"values of bytes", ACT_VALUES, O_DTYPE, 1, ACT_BYTES},
	    {"values of no width", ACT_VALUES, O_WIDTH, 4, 0},
	    {"values of fewer rows", ACT_VALUES, 64 + 12, 4, 1},
	    {"values of more rows", ACT_VALUES, 64 + 12, 4, 3},
	    {"values of other rows", ACT_VALUES, O_ROWS, 4, N_ROWS - 1},
	    {"hidden rows of bytes", ACT_HIDDEN, O_DTYPE, 1, ACT_BYTES},
	    {"error of floats", ACT_ERROR, O_DTYPE, 1, ACT_F32},
	    {"error of no rows", ACT_ERROR, O_ROWS, 4, 0},
	    {"error of many rows", ACT_ERROR, O_ROWS, 4, 2},
	    {"pass", ACT_HIDDEN, O_RESERVED0, 1, 3},
	    {"reserved word", ACT_HIDDEN, O_RESERVED1, 4, 1},
	    {"last reserved byte", ACT_HIDDEN, 63, 1, 0x80},
	    {"rows + 1", ACT_HIDDEN, O_ROWS, 4, N_ROWS + 1},
	    {"rows huge", ACT_HIDDEN, O_ROWS, 4, UINT32_MAX},
	    {"sequences + 1", ACT_HIDDEN, O_SEQS, 4, 3},
	    {"sequences huge", ACT_HIDDEN, O_SEQS, 4, UINT32_MAX},
	    {"hops + 1", ACT_HIDDEN, O_HOPS, 4, N_HOPS + 1},
	    {"hops huge", ACT_HIDDEN, O_HOPS, 4, UINT32_MAX},
	    {"width + 1", ACT_HIDDEN, O_WIDTH, 4, WIDTH + 1},
	    {"width 0", ACT_HIDDEN, O_WIDTH, 4, 0},
	    {"width huge", ACT_HIDDEN, O_WIDTH, 4, UINT32_MAX},
	    {"length + 1", ACT_HIDDEN, O_LEN, 8, 1},
	    {"length huge", ACT_HIDDEN, O_LEN, 8, UINT64_MAX},
	    {"sequence flags", ACT_HIDDEN, 64 + 6, 2, 16},
	    {"sequence rows", ACT_HIDDEN, 64 + 12, 4, 3},
	    {"sequence rows huge", ACT_HIDDEN, 64 + 12, 4, UINT32_MAX},
	    {"sampled with rows", ACT_SAMPLED, 64 + 12, 4, 1},
	};
	size_t i, len;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *m = make(cases[i].kind, &len);
		uint8_t value[8];

		ps_store64(value, cases[i].value);
		memcpy(m + cases[i].offset, value, cases[i].bytes);
		expect_refused(m, len, cases[i].what);
		free(m);
	}
}

static void test_all_kinds_parse(void **state)
{
	struct ps_err err = {{0}};
	struct act a;
	size_t len;
	int kind;

	(void)state;
	for (kind = ACT_TOKENS; kind <= ACT_VALUES; kind++) {
		uint8_t *m = make((enum act_kind)kind, &len);

		if (act_parse(m, len, &a, &err) != 0)
			fail_msg("kind %d: %s", kind, err.msg);
		assert_int_equal(a.kind, kind);
		free(m);
	}
}

/* Hidden rows of each element type: the length follows from it, and nothing else is taken. */
static void test_element_types(void **state)
{
	size_t len, row;
	int t, other;

	(void)state;
	for (t = 0; t < (int)ACT_N_DTYPES; t++) {
		uint8_t *m = make_of(ACT_HIDDEN, (enum act_dtype)t, &len);
		struct ps_err err = {{0}};
		float back[WIDTH];
		struct act a;

		if (act_parse(m, len, &a, &err) != 0)
			fail_msg("%s: %s", act_dtype_name((enum act_dtype)t), err.msg);
		assert_int_equal(a.dtype, t);
		row = act_row_bytes(a.dtype, WIDTH);
		assert_int_equal((size_t)(a.payload - m) + N_ROWS * row, len);
		act_decode(a.dtype, a.payload + (N_ROWS - 1) * row, 1, WIDTH, back);
		assert_true(back[0] > 11.9f && back[0] < 12.1f && back[WIDTH - 1] > 14.7f &&
			    back[WIDTH - 1] < 14.8f);
		for (other = 0; other < 256; other++) {
			/* Float16 and bfloat16 have the same length: they cannot be told apart. */
			bool same = other == t || (t == ACT_F16 && other == ACT_BF16) ||
				    (t == ACT_BF16 && other == ACT_F16);

			m[O_DTYPE] = (uint8_t)other;
			assert_int_equal(act_parse(m, len, &a, &err), same ? 0 : -EBADMSG);
		}
		free(m);
	}
}

/* The largest message is that of any element type, and of rows of fill-mask results. */
static void test_max_bytes(void **state)
{
	uint32_t width, t;

	(void)state;
	for (width = 1; width < 70; width++) {
		struct act a = {.n_rows = 9, .n_seqs = ACT_MAX_SEQS, .n_hops = ACT_MAX_HOPS, .width = width};

		for (t = 0; t < ACT_N_DTYPES; t++) {
			a.dtype = (enum act_dtype)t;
			assert_true(act_bytes(&a) <= act_max_bytes(9, ACT_MAX_SEQS, width));
		}
		a.dtype = ACT_F32;
		a.width = 2 * ACT_FILL_BEST;
		assert_true(act_bytes(&a) <= act_max_bytes(9, ACT_MAX_SEQS, width));
	}
}

/* Every shorter message, in memory of exactly its length, and one byte more. */
static void test_refuses_torn_messages(void **state)
{
	size_t len, cut;
	uint8_t *m = make(ACT_HIDDEN, &len), *torn;

	(void)state;
	for (cut = 0; cut < len; cut++) {
		torn = malloc(cut > 0 ? cut : 1);
		assert_non_null(torn);
		memcpy(torn, m, cut);
		expect_refused(torn, cut, "torn");
		free(torn);
	}
	torn = calloc(1, len + 1);
	memcpy(torn, m, len);
	expect_refused(torn, len + 1, "a byte too long");
	free(torn);
	free(m);
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Reads all that a parsed message claims to have; a sanitizer or the heap sees a claim that is false. */
static uint64_t read_all(const struct act *a, const uint8_t *m, size_t len)
{
	size_t payload = (size_t)(m + len - a->payload), i;
	uint64_t sum = 0;
	struct act_seq seq;
	struct act_hop hop;

	for (i = 0; i < a->n_seqs; i++) {
		act_seq_get(a, (uint32_t)i, &seq);
		sum += seq.seed;
	}
	for (i = 0; i < a->n_hops; i++) {
		act_hop_get(a, (uint32_t)i, &hop);
		sum += hop.rx_ns;
	}
	for (i = 0; i < a->n_rows; i++)
		sum += ps_load32(a->tokens + 4 * i);
	assert_true(payload == (size_t)a->n_rows * act_row_bytes(a->dtype, a->width) || a->width == 0);
	if (a->kind == ACT_HIDDEN) {
		float *rows = malloc(sizeof(float) * a->n_rows * a->width + 1);

		assert_non_null(rows);
		act_decode(a->dtype, a->payload, a->n_rows, a->width, rows);
		free(rows);
	}
	for (i = 0; i < (a->width == 0 ? 0 : payload); i++)
		sum += a->payload[i];
	return sum;
}

static void test_mutations(void **state)
{
	uint64_t seed = 20240607, sum = 0;
	uint32_t round, taken = 0;
	struct ps_err err;

	(void)state;
	for (round = 0; round < 40000; round++) {
		size_t len;
		uint8_t *m = make_of((enum act_kind)(1 + round % 5), (enum act_dtype)(round % 4), &len);
		uint32_t n = 1 + (uint32_t)(next_random(&seed) % 4);
		struct act a;

		while (n-- > 0) {
			uint64_t r = next_random(&seed);
			/* Mostly in the descriptor and the sequence table, where the lengths are. */
			size_t at = (size_t)(r >> 8) % ((r & 7) != 0 ? 192 : len);

			m[at] = (r & 8) != 0 ? (uint8_t)(m[at] ^ (1u << ((r >> 4) & 7))) : (uint8_t)(r >> 40);
		}
		if (act_parse(m, len, &a, &err) == 0) {
			sum += read_all(&a, m, len);
			taken++;
		} else {
			assert_true(err.msg[0] != '\0');
		}
		free(m);
	}
	assert_true(sum != 0 && taken > 1000 && taken < 39000);
}

static void test_clock_id(void **state)
{
	(void)state;
	assert_int_equal(act_clock_id(), act_clock_id());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_bytes_on_the_wire),
	    cmocka_unit_test(test_begin_checks_the_room),
	    cmocka_unit_test(test_refuses_each_field),
	    cmocka_unit_test(test_all_kinds_parse),
	    cmocka_unit_test(test_element_types),
	    cmocka_unit_test(test_max_bytes),
	    cmocka_unit_test(test_refuses_torn_messages),
	    cmocka_unit_test(test_mutations),
	    cmocka_unit_test(test_clock_id),
	};

	return cmocka_run_group_tests_name("act", tests, NULL, NULL);
}
