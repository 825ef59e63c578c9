/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_DUMP_H
#define PENSTOCK_CLI_DUMP_H
/*
 * Writes the result of each operation that a back end runs to a file of its own,
 * to be compared with another implementation's. Not for measurements.
 */
#include <stddef.h>
#include <stdint.h>

#include "accel/accel.h"
#include "base/err.h"

struct dump {
	const char *folder;
	uint32_t n; /* files so far */
	int error;  /* -errno of the first that could not be written */
};

/* Makes the folder where it is not there. -errno with a text. */
int ps_warn_unused dump_open(struct dump *d, const char *folder, struct ps_err *err);

/* For accel_trace.fn, ctx a struct dump: NUMBER-OPERATION-BLOCK-TENSOR.f32 holds little-endian float32
 * [n_rows, op->width]; NUMBER counts from 00000, TENSOR is the operation's weight, if it has one. */
void dump_op(void *ctx, const struct model_op *op, const float *rows, size_t ld, uint32_t n_rows);

/* -EIO with a text if a file could not be written. */
int ps_warn_unused dump_close(const struct dump *d, struct ps_err *err);

#endif
