/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "accel/cpu/kern.h"

#if defined(__x86_64__)
/* The compiler's run-time check also asks whether the system saves the wide registers. */
static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __builtin_cpu_supports("f16c");
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512_vnni(void)
{
	return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
#endif

static bool always(void)
{
	return true;
}

/* Best first. */
static const struct {
	const struct kern *kern;
	bool (*available)(void);
} tables[] = {
#if defined(__x86_64__)
    {&kern_avx512_vnni, has_avx512_vnni},
    {&kern_avx512, has_avx512},
    {&kern_avx2, has_avx2},
#endif
    {&kern_portable, always},
};

int kern_find(const char *want, const struct kern **kern_out, struct ps_err *err)
{
	bool known = want == NULL;

#if defined(__x86_64__)
	__builtin_cpu_init();
#endif
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		if (want != NULL && strcmp(want, tables[i].kern->name) != 0)
			continue;
		known = true;
		if (tables[i].available()) {
			*kern_out = tables[i].kern;
			return 0;
		}
	}
	if (!known)
		return ps_err_set(err, -EINVAL, "PENSTOCK_ISA=%s: expected portable, avx2 or avx512", want);
	return ps_err_set(err, -ENOTSUP, "PENSTOCK_ISA=%s: this processor lacks it", want);
}
