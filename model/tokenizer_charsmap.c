/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/tokenizer_charsmap.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/bytes.h"

/* A unit of a double array (Aoe 1989; bit layout of Darts-clone): a node holds its label in bits 0 to 7, bit
 * 8 says that a value hangs below it, the rest is the offset of its children, in units of 256 if bit 9 is
 * set; a value has bit 31 set, so it is no label. */
#define HAS_VALUE  (1u << 8)
#define WIDE       (1u << 9)
#define LABEL_MASK (1u << 31 | 0xffu)
#define VALUE_MASK ((1u << 31) - 1)
/* Bytes of a replacement; Unicode's longest compatibility decomposition has 33. */
#define TEXT_MAX   1024u
#define OFFSET_BIT 10
#define WIDE_SHIFT 8

int tok_charsmap_init(struct tok_charsmap *m, const void *blob, size_t bytes, struct ps_err *err)
{
	uint32_t array_bytes;

	if (bytes < 4)
		return ps_err_set(err, -EBADMSG, "expected a length of 4 bytes, found %zu bytes in all",
				  bytes);
	array_bytes = ps_load32(blob);
	if (array_bytes % 4 != 0 || array_bytes == 0 || array_bytes >= bytes - 4)
		return ps_err_set(
		    err, -EBADMSG,
		    "expected units of 4 bytes and then texts in %zu bytes, found %u bytes of units",
		    bytes - 4, array_bytes);
	m->units = (const uint8_t *)blob + 4;
	m->n_units = array_bytes / 4;
	m->texts = (const char *)m->units + array_bytes;
	m->texts_bytes = bytes - 4 - array_bytes;
	if (m->texts[m->texts_bytes - 1] != '\0')
		return ps_err_set(err, -EBADMSG, "the last text does not end");
	return 0;
}

static uint32_t offset_of(uint32_t unit)
{
	return unit >> OFFSET_BIT << (unit & WIDE ? WIDE_SHIFT : 0);
}

int tok_charsmap_match(const struct tok_charsmap *m, const char *s, size_t n, const char **text_out)
{
	uint32_t at, unit, value;
	int found = 0;

	if (m->n_units == 0)
		return 0;
	at = offset_of(ps_load32(m->units));
	for (size_t i = 0; i < n && i < INT_MAX; i++) {
		uint8_t c = (uint8_t)s[i];

		at ^= c;
		if (c == 0)
			break; /* A label 0 is where a value hangs. */
		if (at >= m->n_units)
			return -EBADMSG;
		unit = ps_load32(m->units + 4 * (size_t)at);
		if ((unit & LABEL_MASK) != c)
			break;
		at ^= offset_of(unit);
		if (unit & HAS_VALUE) {
			if (at >= m->n_units)
				return -EBADMSG;
			value = ps_load32(m->units + 4 * (size_t)at) & VALUE_MASK;
			if (value >= m->texts_bytes || strnlen(m->texts + value, TEXT_MAX + 1) > TEXT_MAX)
				return -EBADMSG;
			*text_out = m->texts + value;
			found = (int)i + 1;
		}
	}
	return found;
}
