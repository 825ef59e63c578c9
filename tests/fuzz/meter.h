/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_METER_H
#define PENSTOCK_TESTS_METER_H
/*
 * Counts what the program under test has allocated. The linker sends every call of
 * the allocation functions in our own objects through meter.c (-Wl,--wrap), with
 * sanitizers too; what libraries allocate inside themselves is not seen. One
 * thread.
 */
#include <stddef.h>

/* Starts anew: the peak is that from now on, above what is allocated now. */
void meter_start(void);
/* Most bytes that were allocated at one time since the start. */
size_t meter_peak(void);
/* Bytes allocated since the start and not freed. */
size_t meter_live(void);

#endif
