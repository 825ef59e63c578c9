/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/act.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"

static_assert(sizeof(struct act_seq) == ACT_SEQ_BYTES, "the sequence table is sent as it stands");
static_assert(offsetof(struct act_seq, seed) == 40, "no hidden padding in act_seq");
static_assert(offsetof(struct act_seq, token) == 48, "no hidden padding in act_seq");
static_assert(sizeof(struct act_hop) == ACT_HOP_BYTES, "the hop table is sent as it stands");
static_assert(offsetof(struct act_hop, tx_ns) == 32, "no hidden padding in act_hop");
/* Results are f32 as the CPU has them; a big-endian port would have to swap. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "messages are little-endian");

/* Offsets in the descriptor. */
enum {
	D_MAGIC = 0,      /* u32 */
	D_VERSION = 4,    /* u8 */
	D_KIND = 5,       /* u8 */
	D_DTYPE = 6,      /* u8 */
	D_PASS = 7,       /* u8 */
	D_BATCH = 8,      /* u32 */
	D_ROWS = 12,      /* u32 */
	D_SEQS = 16,      /* u32 */
	D_HOPS = 20,      /* u32 */
	D_WIDTH = 24,     /* u32 */
	D_BLOCK = 28,     /* u32 */
	D_LEN = 32,       /* u64 */
	D_RESERVED1 = 40, /* 24 bytes of zero */
};

#define ACT_MAX_ROWS  (1u << 20)
#define ACT_MAX_WIDTH (1u << 24)

static size_t align_up(size_t n)
{
	return (n + ACT_ALIGN - 1) & ~(size_t)(ACT_ALIGN - 1);
}

/* Section offsets; returns the whole length. */
static size_t layout(const struct act *a, size_t *seqs, size_t *hops, size_t *tokens, size_t *payload)
{
	*seqs = ACT_DESC_BYTES;
	*hops = *seqs + (size_t)a->n_seqs * ACT_SEQ_BYTES;
	*tokens = align_up(*hops + (size_t)a->n_hops * ACT_HOP_BYTES);
	*payload = align_up(*tokens + (size_t)a->n_rows * 4);
	return *payload + (size_t)a->n_rows * act_row_bytes(a->dtype, a->width);
}

static bool shape_ok(const struct act *a)
{
	return a->n_seqs <= ACT_MAX_SEQS && a->n_hops <= ACT_MAX_HOPS && a->n_rows <= ACT_MAX_ROWS &&
	       a->width <= ACT_MAX_WIDTH;
}

size_t act_bytes(const struct act *shape)
{
	size_t s, h, t, p;

	return shape_ok(shape) ? layout(shape, &s, &h, &t, &p) : 0;
}

static void set_sections(struct act *a, uint8_t *buf)
{
	size_t s, h, t, p;

	a->len = layout(a, &s, &h, &t, &p);
	a->seqs = buf + s;
	a->hops = buf + h;
	a->tokens = buf + t;
	a->payload = buf + p;
}

int act_begin(struct act *a, uint8_t *buf, size_t cap)
{
	size_t len = act_bytes(a);

	if (len == 0 || len > cap)
		return -EMSGSIZE;
	set_sections(a, buf);
	memset(buf, 0, ACT_DESC_BYTES);
	ps_store32(buf + D_MAGIC, ACT_MAGIC);
	buf[D_VERSION] = ACT_VERSION;
	buf[D_KIND] = (uint8_t)a->kind;
	buf[D_DTYPE] = (uint8_t)a->dtype;
	buf[D_PASS] = (uint8_t)a->pass;
	ps_store32(buf + D_BATCH, a->batch_id);
	ps_store32(buf + D_ROWS, a->n_rows);
	ps_store32(buf + D_SEQS, a->n_seqs);
	ps_store32(buf + D_HOPS, a->n_hops);
	ps_store32(buf + D_WIDTH, a->width);
	ps_store32(buf + D_BLOCK, a->block_next);
	ps_store64(buf + D_LEN, a->len);
	return 0;
}

static bool dtype_ok(enum act_kind kind, enum act_dtype dtype)
{
	if (kind == ACT_ERROR)
		return dtype == ACT_BYTES;
	return dtype == ACT_F32 || (kind == ACT_HIDDEN && dtype < ACT_N_DTYPES);
}

/* Receivers take a payload's size from the kind: hidden rows have one, an error is one row of text. */
static int check_kind_shape(const struct act *a, struct ps_err *err)
{
	bool has_width = a->width != 0;

	if (((a->kind == ACT_HIDDEN || a->kind == ACT_VALUES) && !has_width) ||
	    ((a->kind == ACT_TOKENS || a->kind == ACT_SAMPLED) && has_width))
		return ps_err_set(err, -EBADMSG, "batch of kind %u with a width of %u", (unsigned)a->kind,
				  a->width);
	if (a->kind == ACT_ERROR && a->n_rows != 1)
		return ps_err_set(err, -EBADMSG, "error batch of %u rows, expected 1", a->n_rows);
	return 0;
}

static int parse_desc(const uint8_t *data, size_t len, struct act *a, struct ps_err *err)
{
	if (len < ACT_DESC_BYTES)
		return ps_err_set(err, -EBADMSG, "batch of %zu bytes: shorter than its descriptor", len);
	if (ps_load32(data + D_MAGIC) != ACT_MAGIC || data[D_VERSION] != ACT_VERSION)
		return ps_err_set(err, -EBADMSG, "batch: magic %08x version %u, expected %08x version %u",
				  ps_load32(data + D_MAGIC), data[D_VERSION], ACT_MAGIC, ACT_VERSION);
	a->kind = data[D_KIND];
	a->dtype = data[D_DTYPE];
	a->pass = data[D_PASS];
	a->batch_id = ps_load32(data + D_BATCH);
	a->n_rows = ps_load32(data + D_ROWS);
	a->n_seqs = ps_load32(data + D_SEQS);
	a->n_hops = ps_load32(data + D_HOPS);
	a->width = ps_load32(data + D_WIDTH);
	a->block_next = ps_load32(data + D_BLOCK);
	if (a->kind < ACT_TOKENS || a->kind > ACT_VALUES || a->pass > ACT_PASS_FILL)
		return ps_err_set(err, -EBADMSG, "batch: unknown kind %u, pass %u", (unsigned)a->kind,
				  (unsigned)a->pass);
	if (!dtype_ok(a->kind, a->dtype))
		return ps_err_set(err, -EBADMSG, "batch of kind %u: element type %u", (unsigned)a->kind,
				  (unsigned)a->dtype);
	if (!shape_ok(a))
		return ps_err_set(err, -EBADMSG,
				  "batch: %u rows, %u sequences, %u hops, width %u: out of range", a->n_rows,
				  a->n_seqs, a->n_hops, a->width);
	return check_kind_shape(a, err);
}

static bool reserved_is_zero(const uint8_t *data)
{
	size_t i;

	for (i = D_RESERVED1; i < ACT_DESC_BYTES; i++) {
		if (data[i] != 0)
			return false;
	}
	return true;
}

static int parse_seqs(const struct act *a, struct ps_err *err)
{
	uint64_t rows = 0;
	uint32_t i;

	for (i = 0; i < a->n_seqs; i++) {
		struct act_seq seq;

		act_seq_get(a, i, &seq);
		if ((seq.flags & ~ACT_SEQ_FLAGS) != 0)
			return ps_err_set(err, -EBADMSG, "batch: sequence %u has unknown flags %#x", i,
					  seq.flags);
		rows += seq.n_tokens;
	}
	/* An error keeps the table of the batch that failed, but has the one row of its text. */
	if (rows != a->n_rows && a->kind != ACT_ERROR)
		return ps_err_set(err, -EBADMSG, "batch: its sequences have %llu rows, the descriptor %u",
				  (unsigned long long)rows, a->n_rows);
	return 0;
}

int act_parse(const uint8_t *data, size_t len, struct act *a_out, struct ps_err *err)
{
	struct act a = {0};
	int rc = parse_desc(data, len, &a, err);

	if (rc != 0)
		return rc;
	if (!reserved_is_zero(data))
		return ps_err_set(err, -EBADMSG, "batch: a reserved byte of its descriptor is not 0");
	/* The view is const in spirit: only act_*_put, which a receiver does not call, writes. */
	set_sections(&a, (uint8_t *)(uintptr_t)data);
	if (a.len != len || ps_load64(data + D_LEN) != len)
		return ps_err_set(err, -EBADMSG,
				  "batch: %zu bytes, its descriptor says %llu and its counts %zu", len,
				  (unsigned long long)ps_load64(data + D_LEN), a.len);
	rc = parse_seqs(&a, err);
	if (rc == 0)
		*a_out = a;
	return rc;
}

void act_seq_get(const struct act *a, uint32_t i, struct act_seq *out)
{
	CHECK(i < a->n_seqs);
	memcpy(out, a->seqs + (size_t)i * ACT_SEQ_BYTES, sizeof(*out));
}

void act_seq_put(struct act *a, uint32_t i, const struct act_seq *seq)
{
	CHECK(i < a->n_seqs);
	memcpy(a->seqs + (size_t)i * ACT_SEQ_BYTES, seq, sizeof(*seq));
}

void act_hop_get(const struct act *a, uint32_t i, struct act_hop *out)
{
	CHECK(i < a->n_hops);
	memcpy(out, a->hops + (size_t)i * ACT_HOP_BYTES, sizeof(*out));
}

void act_hop_put(struct act *a, uint32_t i, const struct act_hop *hop)
{
	CHECK(i < a->n_hops);
	memcpy(a->hops + (size_t)i * ACT_HOP_BYTES, hop, sizeof(*hop));
}

uint8_t *act_hop_tx_ns(const struct act *a, uint32_t i)
{
	CHECK(i < a->n_hops);
	return a->hops + (size_t)i * ACT_HOP_BYTES + offsetof(struct act_hop, tx_ns);
}

size_t act_max_bytes(uint32_t max_rows, uint32_t max_seqs, uint32_t n_embd)
{
	struct act a = {
	    .dtype = ACT_F32,
	    .n_rows = max_rows,
	    .n_seqs = max_seqs,
	    .n_hops = ACT_MAX_HOPS,
	    .width = n_embd,
	};
	size_t f32, q8;

	/* Rows of ACT_SEQ_FILL have a width of their own. */
	if (n_embd != 0 && n_embd < 2 * ACT_FILL_BEST)
		a.width = 2 * ACT_FILL_BEST;
	f32 = act_bytes(&a);
	/* Of a very narrow row a padded Q8 block is the longest form. */
	a.width = n_embd;
	a.dtype = ACT_Q8;
	q8 = act_bytes(&a);
	return f32 > q8 ? f32 : q8;
}

uint32_t act_clock_id(void)
{
	char id[64] = {0};
	uint32_t h = 2166136261u; /* FNV-1a */
	ssize_t n, i;
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	n = read(fd, id, sizeof(id) - 1);
	close(fd);
	for (i = 0; i < n; i++)
		h = (h ^ (uint8_t)id[i]) * 16777619u;
	return h;
}
