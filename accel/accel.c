/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/accel.h"

#include <string.h>

static const struct accel_ops *const back_ends[] = {&accel_cpu, &accel_cpu_ref};

const struct accel_ops *accel_find(const char *device, struct ps_err *err)
{
	for (size_t i = 0; i < sizeof(back_ends) / sizeof(back_ends[0]); i++)
		if (strcmp(device, back_ends[i]->name) == 0)
			return back_ends[i];
	(void)ps_err_set(err, 0, "no back end for device \"%s\"; built in: cpu, cpu-ref", device);
	return NULL;
}
