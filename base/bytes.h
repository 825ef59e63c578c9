/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_BASE_BYTES_H
#define PENSTOCK_BASE_BYTES_H
/*
 * Little-endian loads and stores for everything that is stored or sent. They
 * take any alignment and compile to one move on little-endian machines.
 */
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PS_LE16(x) (x)
#define PS_LE32(x) (x)
#define PS_LE64(x) (x)
#else
#define PS_LE16(x) __builtin_bswap16(x)
#define PS_LE32(x) __builtin_bswap32(x)
#define PS_LE64(x) __builtin_bswap64(x)
#endif

static inline uint16_t ps_load16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return PS_LE16(v);
}

static inline uint32_t ps_load32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return PS_LE32(v);
}

static inline uint64_t ps_load64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return PS_LE64(v);
}

static inline void ps_store16(void *p, uint16_t v)
{
	v = PS_LE16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void ps_store32(void *p, uint32_t v)
{
	v = PS_LE32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void ps_store64(void *p, uint64_t v)
{
	v = PS_LE64(v);
	memcpy(p, &v, sizeof(v));
}

#endif
