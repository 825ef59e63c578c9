/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/crc32c.h"

#include "base/bytes.h"
#include "base/check.h"

#define POLY        0x82f63b78u /* 0x1edc6f41 with its bits reversed */
#define LONG_BLOCK  1024u       /* bytes of one of three streams; three are 3 KB */
#define SHORT_BLOCK 128u

static uint32_t slice_table[8][256];
/* What a CRC becomes when LONG_BLOCK (or SHORT_BLOCK) zero bytes follow, by byte of the CRC. */
static uint32_t long_shift[4][256];
static uint32_t short_shift[4][256];
static int has_hw;

static uint32_t zeros(uint32_t crc, size_t n)
{
	while (n-- > 0)
		crc = slice_table[0][crc & 0xff] ^ (crc >> 8);
	return crc;
}

static void shift_table(uint32_t table[4][256], size_t n)
{
	for (uint32_t byte = 0; byte < 4; byte++)
		for (uint32_t bit = 0; bit < 8; bit++) {
			uint32_t one = 1u << bit;
			uint32_t image = zeros(one << (8 * byte), n);

			/* The operator is linear: an entry is the sum of its bits' images. */
			for (uint32_t v = one; v < 2 * one; v++)
				table[byte][v] = table[byte][v - one] ^ image;
		}
}

/* The tables cost 60 µs once a process, before main, so that no call needs to test for them. */
__attribute__((constructor)) static void crc32c_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = (c & 1) != 0 ? POLY ^ (c >> 1) : c >> 1;
		slice_table[0][i] = c;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (uint32_t k = 1; k < 8; k++) {
			uint32_t c = slice_table[k - 1][i];

			slice_table[k][i] = slice_table[0][c & 0xff] ^ (c >> 8);
		}
	shift_table(long_shift, LONG_BLOCK);
	shift_table(short_shift, SHORT_BLOCK);
#if defined(__x86_64__)
	__builtin_cpu_init();
	has_hw = __builtin_cpu_supports("sse4.2") != 0;
#endif
}

uint32_t dp_crc32c_portable(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t c = ~crc;

	for (; len >= 8; p += 8, len -= 8) {
		uint64_t v = ps_load64(p) ^ c;

		c = slice_table[7][v & 0xff] ^ slice_table[6][(v >> 8) & 0xff] ^
		    slice_table[5][(v >> 16) & 0xff] ^ slice_table[4][(v >> 24) & 0xff] ^
		    slice_table[3][(v >> 32) & 0xff] ^ slice_table[2][(v >> 40) & 0xff] ^
		    slice_table[1][(v >> 48) & 0xff] ^ slice_table[0][v >> 56];
	}
	for (; len > 0; p++, len--)
		c = slice_table[0][(c ^ *p) & 0xff] ^ (c >> 8);
	return ~c;
}

#if defined(__x86_64__)
static inline uint64_t shift(uint32_t table[4][256], uint64_t crc)
{
	return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^ table[2][(crc >> 16) & 0xff] ^
	       table[3][(crc >> 24) & 0xff];
}

/* Three streams of `block` bytes each, from p on, joined. */
__attribute__((target("sse4.2"))) static inline uint64_t three_streams(uint64_t c0, const uint8_t *p,
								       size_t block, uint32_t table[4][256])
{
	uint64_t c1 = 0, c2 = 0;

	for (size_t i = 0; i < block; i += 8) {
		c0 = __builtin_ia32_crc32di(c0, ps_load64(p + i));
		c1 = __builtin_ia32_crc32di(c1, ps_load64(p + block + i));
		c2 = __builtin_ia32_crc32di(c2, ps_load64(p + 2 * block + i));
	}
	return shift(table, shift(table, c0) ^ c1) ^ c2;
}

__attribute__((target("sse4.2"))) uint32_t dp_crc32c_hw(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t c = ~crc;

	for (; len >= 3 * LONG_BLOCK; p += 3 * LONG_BLOCK, len -= 3 * LONG_BLOCK)
		c = three_streams(c, p, LONG_BLOCK, long_shift);
	for (; len >= 3 * SHORT_BLOCK; p += 3 * SHORT_BLOCK, len -= 3 * SHORT_BLOCK)
		c = three_streams(c, p, SHORT_BLOCK, short_shift);
	for (; len >= 8; p += 8, len -= 8)
		c = __builtin_ia32_crc32di(c, ps_load64(p));
	for (; len > 0; p++, len--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p);
	return ~(uint32_t)c;
}
#else
uint32_t dp_crc32c_hw(uint32_t crc, const void *data, size_t len)
{
	return dp_crc32c_portable(crc, data, len);
}
#endif

int dp_crc32c_has_hw(void)
{
	return has_hw;
}

uint32_t dp_crc32c(uint32_t crc, const void *data, size_t len)
{
	if (ps_likely(has_hw))
		return dp_crc32c_hw(crc, data, len);
	return dp_crc32c_portable(crc, data, len);
}

const char *dp_crc32c_impl(void)
{
	return has_hw ? "sse4.2" : "portable";
}
