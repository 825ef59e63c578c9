/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_CRC32C_H
#define PENSTOCK_DATAPLANE_CRC32C_H
/*
 * CRC-32C (Castagnoli, reflected, initial and final value all ones; RFC 3720
 * B.4) over packet headers and payloads. The processor's crc32 instruction is
 * used where it exists, in three interleaved streams for long inputs, because
 * one stream is bound by that instruction's latency of three cycles. Not a
 * protection against an adversary.
 */
#include <stddef.h>
#include <stdint.h>

/* CRC of `len` bytes; `crc` is 0 or the CRC of the bytes before them. */
uint32_t dp_crc32c(uint32_t crc, const void *data, size_t len);

/* The two implementations behind it, for tests and benches. */
uint32_t dp_crc32c_portable(uint32_t crc, const void *data, size_t len);
/* Only where dp_crc32c_has_hw() is not 0. */
uint32_t dp_crc32c_hw(uint32_t crc, const void *data, size_t len);
int dp_crc32c_has_hw(void);

/* "sse4.2" or "portable": what dp_crc32c uses here. */
const char *dp_crc32c_impl(void);

#endif
