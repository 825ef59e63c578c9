/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_BASE_CLOCK_H
#define PENSTOCK_BASE_CLOCK_H
/*
 * CLOCK_MONOTONIC in nanoseconds. The programs read it once an iteration and
 * pass it on as `now_ns`; protocol code never reads a clock itself.
 */
#include <stdint.h>
#include <time.h>

static inline uint64_t ps_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

#endif
