/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_BASE_CHECK_H
#define PENSTOCK_BASE_CHECK_H
/*
 * Assertions for programmer errors. CHECK is always on, DCHECK only where
 * PENSTOCK_DEBUG is defined. Neither is for operational errors: bytes from the
 * network or from a file are validated, dropped and counted instead.
 */
#include <stdio.h>
#include <stdlib.h>

#define CHECK(cond)                                                                                          \
	do {                                                                                                 \
		if (__builtin_expect(!(cond), 0)) {                                                          \
			fprintf(stderr, "%s:%d: %s: check failed: %s\n", __FILE__, __LINE__, __func__,       \
				#cond);                                                                      \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

#ifdef PENSTOCK_DEBUG
#define DCHECK(cond) CHECK(cond)
#else
#define DCHECK(cond)                                                                                         \
	do {                                                                                                 \
		(void)sizeof(cond);                                                                          \
	} while (0)
#endif

#define ps_likely(x)         __builtin_expect(!!(x), 1)
#define ps_unlikely(x)       __builtin_expect(!!(x), 0)
#define ps_warn_unused       __attribute__((warn_unused_result))
#define ps_printf(fmt, args) __attribute__((format(printf, fmt, args)))

#endif
