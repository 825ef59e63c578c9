/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_UNIT_ACCEL_RIG_H
#define PENSTOCK_TESTS_UNIT_ACCEL_RIG_H
/* A toy model on one back end, cut into stages that run in this process one after the other. */
#include <stddef.h>

#include "accel/accel.h"
#include "tests/unit/accel/toy.h"

#define RIG_STAGES 5u

struct rig {
	const struct accel_ops *ops;
	const struct toy_spec *spec;
	struct toy *toy;
	uint32_t n_stages;
	struct model_graph *graphs[RIG_STAGES];
	struct accel *stages[RIG_STAGES];
	float *act[2];  /* [max_tokens, n_embd] */
	uint32_t *rows; /* [max_tokens] 0, 1, ... */
};

/* The same weights for the same spec. */
void rig_open(struct rig *r, const struct toy_spec *spec, const struct accel_open_args *args,
	      uint32_t n_stages);
void rig_close(struct rig *r);

/* Runs a batch (pass, sequences and tokens of it) through all stages, with the outputs of every row; out may
 * be NULL in an encode pass. The first error of a stage, which the stages before it do not undo. */
int rig_batch(struct rig *r, const struct accel_batch *batch, float *out);

/* Mean square of the difference over that of the reference; both must be finite. */
double rig_nmse(const float *got, const float *want, size_t n);

#endif
