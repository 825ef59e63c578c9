/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_TARGET_H
#define PENSTOCK_TESTS_TARGET_H
/*
 * What a fuzzer calls for each input. The name and the form are libFuzzer's, so
 * that a target runs under it and under driver.c.
 */
#include <stddef.h>
#include <stdint.h>

/* Returns 0; aborts if something does not hold. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What became of the last input: parts that were read without an error, and whether any was refused. */
#define TARGET_MODEL   1u /* hyperparameters and the graph of all blocks */
#define TARGET_VOCAB   2u
#define TARGET_REFUSED 4u
unsigned target_result(void);

#endif
