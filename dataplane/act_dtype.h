/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_ACT_DTYPE_H
#define PENSTOCK_DATAPLANE_ACT_DTYPE_H
/*
 * Element types of activations in a message, and the conversion of rows to and
 * from float32. f32 is exact; the others trade accuracy for bytes on the wire
 * (`penstock bench accuracy` measures what each costs a model). Not for weights:
 * those are the file's (accel/weights.h).
 *
 * Rounding is to nearest, ties to even. What is finite and too large for the
 * type becomes its largest finite value of the same sign, and is counted: an
 * infinity made on the wire would poison all later blocks and look like the
 * model's own. Infinities and NaNs of the model's own go through as they are; in a
 * Q8 block, which has no other way to say it, they make the whole block NaN.
 *
 * Results do not depend on the instruction set.
 */
#include <stddef.h>
#include <stdint.h>

/* ACT_Q8: blocks of 32 elements of a row, the last one padded with zeros: a float16 scale and 32 signed
 * bytes, 34 bytes, x = scale * q, as GGUF's Q8_0. */
enum act_dtype {
	ACT_F32 = 0,
	ACT_F16 = 1,
	ACT_BF16 = 2,
	ACT_Q8 = 3,
	ACT_N_DTYPES = 4, /* types of activations */
	ACT_BYTES = 255,  /* text of ACT_ERROR: width = bytes, one row */
};

#define ACT_Q8_BLOCK       32u /* elements */
#define ACT_Q8_BLOCK_BYTES 34u

/* "f32", "f16", "bf16", "q8"; NULL for what is no type of activations. */
const char *act_dtype_name(enum act_dtype dtype);
/* The type of that name; -1 for none. */
int act_dtype_find(const char *name);

/* Bytes of a row of `width` elements; 0 for an unknown type (or a width of 0). */
size_t act_row_bytes(enum act_dtype dtype, uint32_t width);

/* Converts rows; dst has n_rows * act_row_bytes bytes, of any alignment, and does not overlap src. Returns
 * how many values were too large and were cut. */
uint64_t act_encode(enum act_dtype dtype, const float *src /* [n_rows, width] */, uint32_t n_rows,
		    uint32_t width, uint8_t *dst);
void act_decode(enum act_dtype dtype, const uint8_t *src, uint32_t n_rows, uint32_t width,
		float *dst /* [n_rows, width] */);

/* The same without wide instructions, for tests and measurements. */
uint64_t act_encode_portable(enum act_dtype dtype, const float *src /* [n_rows, width] */, uint32_t n_rows,
			     uint32_t width, uint8_t *dst);
void act_decode_portable(enum act_dtype dtype, const uint8_t *src, uint32_t n_rows, uint32_t width,
			 float *dst /* [n_rows, width] */);

#endif
