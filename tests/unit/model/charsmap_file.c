/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/unit/model/charsmap_file.h"

#define UNITS 4096u

struct maker {
	const struct charsmap_pair *pairs;
	size_t n;
	uint32_t unit[UNITS];
	bool used[UNITS];
	uint32_t text_at[64];
};

/* An offset at which all children fit. Offsets that are multiples of 256 never mix two nodes' children
 * up, and there are enough of them for a test. */
static uint32_t free_offset(struct maker *m)
{
	for (uint32_t at = 256; at < UNITS; at += 256)
		if (!m->used[at]) {
			m->used[at] = true;
			return at;
		}
	fail_msg("too many nodes for a test");
	return 0;
}

/* The node at `at` with the prefix of pair `of`, `depth` bytes long: its value and its children. */
static void place(struct maker *m, uint32_t at, size_t of, size_t depth)
{
	uint32_t base = free_offset(m);

	m->unit[at] |= (base ^ at) << 10;
	if (at == 0)
		m->unit[at] = base << 10;
	for (size_t i = 0; i < m->n; i++) {
		const char *s = m->pairs[i].from;
		uint8_t c;

		if (strlen(s) < depth || memcmp(s, m->pairs[of].from, depth) != 0)
			continue;
		c = (uint8_t)s[depth];
		if (c == 0) {
			m->unit[at] |= 1u << 8;
			m->unit[base] = 1u << 31 | m->text_at[i];
		} else if (m->unit[base ^ c] == 0) {
			m->unit[base ^ c] = c;
			place(m, base ^ c, i, depth + 1);
		}
	}
}

uint8_t *charsmap_file(const struct charsmap_pair *pairs, size_t n, size_t *bytes_out)
{
	struct maker *m = calloc(1, sizeof(*m));
	size_t texts = 0;
	uint8_t *blob;

	assert_non_null(m);
	assert_true(n <= 64);
	m->pairs = pairs;
	m->n = n;
	for (size_t i = 0; i < n; i++) {
		m->text_at[i] = (uint32_t)texts;
		texts += strlen(pairs[i].to) + 1;
	}
	place(m, 0, 0, 0);
	*bytes_out = 4 + 4 * UNITS + texts;
	blob = malloc(*bytes_out);
	assert_non_null(blob);
	ps_store32(blob, 4 * UNITS);
	for (size_t i = 0; i < UNITS; i++)
		ps_store32(blob + 4 + 4 * i, m->unit[i]);
	for (size_t i = 0; i < n; i++)
		memcpy(blob + 4 + 4 * UNITS + m->text_at[i], pairs[i].to, strlen(pairs[i].to) + 1);
	free(m);
	return blob;
}
