/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/accel/rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

void rig_open(struct rig *r, const struct toy_spec *spec, const struct accel_open_args *args,
	      uint32_t n_stages)
{
	struct ps_err err = {{0}};

	*r = (struct rig){.ops = accel_find(args->device, &err),
			  .spec = spec,
			  .toy = toy_new(spec, 99),
			  .n_stages = n_stages};
	CHECK(r->ops != NULL && n_stages <= RIG_STAGES);
	for (uint32_t i = 0; i < n_stages; i++) {
		r->graphs[i] =
		    toy_graph(r->toy, i * spec->layers / n_stages, (i + 1) * spec->layers / n_stages);
		if (r->ops->open(args, r->graphs[i], &r->stages[i], &err) != 0) {
			fprintf(stderr, "%s\n", err.msg);
			abort();
		}
	}
	r->rows = calloc(args->max_tokens, sizeof(*r->rows));
	for (int i = 0; i < 2; i++)
		r->act[i] = calloc((size_t)args->max_tokens * spec->embd, sizeof(float));
	CHECK(r->rows != NULL && r->act[0] != NULL && r->act[1] != NULL);
	for (uint32_t i = 0; i < args->max_tokens; i++)
		r->rows[i] = i;
}

void rig_close(struct rig *r)
{
	for (uint32_t i = 0; i < r->n_stages; i++) {
		r->ops->close(r->stages[i]);
		toy_graph_free(r->graphs[i]);
	}
	toy_free(r->toy);
	free(r->act[0]);
	free(r->act[1]);
	free(r->rows);
}

int rig_batch(struct rig *r, const struct accel_batch *batch, float *out)
{
	for (uint32_t s = 0; s < r->n_stages; s++) {
		struct accel_batch b = *batch;
		int rc;

		b.x_in = r->act[(s + 1) & 1];
		b.out_rows = r->rows;
		b.n_out = b.n_tokens;
		b.out = s + 1 == r->n_stages ? out : r->act[s & 1];
		rc = r->ops->submit(r->stages[s], &b);
		if (rc != 0)
			return rc;
		CHECK(r->ops->poll(r->stages[s]) == 1 && r->ops->poll(r->stages[s]) == 0);
	}
	return 0;
}

double rig_nmse(const float *got, const float *want, size_t n)
{
	double diff = 0, power = 0;

	for (size_t i = 0; i < n; i++) {
		CHECK(isfinite(got[i]) && isfinite(want[i]));
		diff += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
		power += (double)want[i] * (double)want[i];
	}
	return diff / power;
}
