/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/fuzz/mutate.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "model/gguf.h"

#define MAX_FIELDS   4096u
#define ARRAY_FIELDS 16u /* elements of an array that are worth aiming at */
#define ALIGN        32u

/* An integer or a float of the header. */
struct field {
	size_t off;
	uint8_t bytes;
};

struct walk {
	const uint8_t *data;
	size_t len, off;
	struct field fields[MAX_FIELDS];
	uint32_t n;
	uint32_t values[MAX_FIELDS]; /* fields that are values of keys: the file stays readable */
	uint32_t n_values;
	bool torn;
	size_t header_end, need;
};

uint64_t mutate_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t n)
{
	return n == 0 ? 0 : mutate_random(state) % n;
}

/* Reads a field of 1, 2, 4 or 8 bytes and remembers where it is. */
static uint64_t take(struct walk *w, uint8_t bytes, bool aim)
{
	uint64_t v = 0;

	if (w->torn || w->len - w->off < bytes) {
		w->torn = true;
		return 0;
	}
	for (uint8_t i = 0; i < bytes; i++)
		v |= (uint64_t)w->data[w->off + i] << (8 * i);
	if (aim && w->n < MAX_FIELDS)
		w->fields[w->n++] = (struct field){.off = w->off, .bytes = bytes};
	w->off += bytes;
	return v;
}

static void skip(struct walk *w, uint64_t n)
{
	if (w->torn || n > w->len - w->off)
		w->torn = true;
	else
		w->off += (size_t)n;
}

static uint8_t scalar_bytes(uint64_t type)
{
	static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

	return type < sizeof(bytes) ? bytes[type] : 0;
}

static void walk_value(struct walk *w)
{
	uint64_t type = take(w, 4, true), n = 1;
	bool array = type == GGUF_ARRAY;
	uint32_t first;

	if (array) {
		type = take(w, 4, true);
		n = take(w, 8, true);
	}
	first = w->n;
	for (uint64_t i = 0; i < n && !w->torn; i++) {
		bool aim = !array || i < ARRAY_FIELDS;

		if (type == GGUF_STRING)
			skip(w, take(w, 8, aim));
		else if (scalar_bytes(type) != 0)
			take(w, scalar_bytes(type), aim);
		else
			w->torn = true;
	}
	for (uint32_t i = first; i < w->n && type != GGUF_STRING; i++)
		w->values[w->n_values++] = i;
}

static void walk_tensor(struct walk *w)
{
	uint32_t elems = 1, bytes = 0;
	uint64_t n_dims, size = 1, off;

	skip(w, take(w, 8, true));
	n_dims = take(w, 4, true);
	for (uint64_t d = 0; d < n_dims && !w->torn; d++) {
		uint64_t ne = take(w, 8, true);

		size = ne != 0 && size > (1ull << 40) / ne ? 1ull << 40 : size * ne;
	}
	if (!gguf_dtype_block((enum gguf_dtype)take(w, 4, true), &elems, &bytes))
		bytes = 0;
	off = take(w, 8, true);
	size = size / elems * bytes;
	if (!w->torn && off < (1ull << 40) && off + size > w->need)
		w->need = (size_t)(off + size);
}

static void walk_header(struct walk *w, const uint8_t *data, size_t len)
{
	uint64_t n_tensors, n_kv;

	*w = (struct walk){.data = data, .len = len};
	take(w, 4, false);
	take(w, 4, true);
	n_tensors = take(w, 8, true);
	n_kv = take(w, 8, true);
	for (uint64_t i = 0; i < n_kv && !w->torn; i++) {
		skip(w, take(w, 8, true));
		walk_value(w);
	}
	for (uint64_t i = 0; i < n_tensors && !w->torn; i++)
		walk_tensor(w);
	w->header_end = w->off;
}

size_t mutate_gguf_whole(const uint8_t *data, size_t len, size_t most)
{
	static struct walk w;
	size_t start;

	walk_header(&w, data, len);
	start = (w.header_end + ALIGN - 1) / ALIGN * ALIGN;
	return w.torn || w.need > most || start + w.need > most ? 0 : start + w.need;
}

/* A number that is likely to be treated wrongly. */
static uint64_t bad_number(uint64_t *state, uint64_t was, size_t len)
{
	static const uint64_t bad[] = {
	    0,
	    1,
	    2,
	    3,
	    5,
	    31,
	    32,
	    33,
	    127,
	    128,
	    255,
	    256,
	    1023,
	    1024,
	    4096,
	    65535,
	    65536,
	    1u << 20,
	    1u << 24,
	    0x7fffffffu,
	    0x80000000u,
	    0xffffffffu,
	    1ull << 32,
	    1ull << 40,
	    1ull << 61,
	    1ull << 62,
	    1ull << 63,
	    UINT64_MAX,
	    UINT64_MAX - 7,
	    /* Floats: infinity, NaN, tiny, -1, huge. */
	    0x7f800000u,
	    0x7fc00000u,
	    0x00000001u,
	    0xbf800000u,
	    0x7f000000u,
	};

	switch (below(state, 6)) {
	case 0:
		return was + 1;
	case 1:
		return was - 1;
	case 2:
		return was * 2;
	case 3:
		return len - below(state, 64);
	default:
		return bad[below(state, sizeof(bad) / sizeof(bad[0]))];
	}
}

static void hit_field(struct walk *w, uint8_t *data, size_t len, uint64_t *state)
{
	bool value = w->n_values > 0 && below(state, 4) != 0;
	uint32_t place = value ? w->values[below(state, w->n_values)] : (uint32_t)below(state, w->n);
	const struct field *f = &w->fields[place];
	uint64_t was = 0, now;

	for (uint8_t i = 0; i < f->bytes; i++)
		was |= (uint64_t)data[f->off + i] << (8 * i);
	/* Often another field's value: shapes that fit one place and not another. */
	if (below(state, 4) == 0) {
		const struct field *other = &w->fields[below(state, w->n)];

		now = 0;
		for (uint8_t i = 0; i < other->bytes; i++)
			now |= (uint64_t)data[other->off + i] << (8 * i);
	} else {
		now = bad_number(state, was, len);
	}
	for (uint8_t i = 0; i < f->bytes; i++)
		data[f->off + i] = (uint8_t)(now >> (8 * i));
}

/* Cuts out, doubles or overwrites a short run of the header. */
static size_t move_bytes(uint8_t *data, size_t len, size_t cap, size_t header, uint64_t *state)
{
	size_t at = (size_t)below(state, header), n = 1 + (size_t)below(state, 64);
	size_t from = (size_t)below(state, header);

	if (n > len - at)
		n = len - at;
	if (n > len - from)
		n = len - from;
	switch (below(state, 3)) {
	case 0:
		memmove(data + at, data + at + n, len - at - n);
		return len - n;
	case 1:
		if (len + n > cap)
			return len;
		memmove(data + at + n, data + at, len - at);
		return len + n;
	default:
		memmove(data + at, data + from, n);
		return len;
	}
}

/* Other tensor data: infinities and NaNs, or anything. What is computed from it must stay in bounds. */
static void fill_data(uint8_t *data, size_t len, size_t header, uint64_t *state)
{
	bool random = below(state, 2) == 0;

	for (size_t i = header; i < len; i++)
		data[i] = random ? (uint8_t)mutate_random(state) : 0xff;
}

static size_t mutate_once(struct walk *w, uint8_t *data, size_t len, size_t cap, uint64_t *state)
{
	size_t header = w->header_end > 0 && w->header_end < len ? w->header_end : len;

	switch (below(state, 16)) {
	case 0:
		return (size_t)below(state, len);
	case 1:
		return (size_t)below(state, header);
	case 2:
		return move_bytes(data, len, cap, header, state);
	case 3:
	case 4:
		data[below(state, header)] ^= (uint8_t)(1u << below(state, 8));
		return len;
	case 6:
		fill_data(data, len, header, state);
		return len;
	case 5:
		data[below(state, len)] = (uint8_t)mutate_random(state);
		return len;
	default:
		if (w->n > 0)
			hit_field(w, data, len, state);
		return len;
	}
}

size_t mutate_gguf(uint8_t *data, size_t len, size_t cap, uint64_t *state)
{
	static struct walk w;
	uint64_t n = 1 + below(state, 3);

	for (uint64_t i = 0; i < n && len > 0; i++) {
		walk_header(&w, data, len);
		len = mutate_once(&w, data, len, cap, state);
	}
	return len;
}
