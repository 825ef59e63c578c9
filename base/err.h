/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_BASE_ERR_H
#define PENSTOCK_BASE_ERR_H
/*
 * The text of a start-up or input error: what was expected, what was found and
 * the command that mends it. Functions that take a `struct ps_err *` return 0 or
 * -errno (or NULL for a pointer) and fill the text on failure; `err` may be NULL.
 * Not for the polling path.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "base/check.h"

struct ps_err {
	char msg[1024];
};

/* Formats the text and returns `rc` (a -errno), so that `return ps_err_set(...)` reads well. */
static inline int ps_printf(3, 4) ps_err_set(struct ps_err *err, int rc, const char *fmt, ...)
{
	if (err != NULL) {
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
	}
	return rc;
}

#endif
