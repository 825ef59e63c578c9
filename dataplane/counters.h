/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_COUNTERS_H
#define PENSTOCK_DATAPLANE_COUNTERS_H
/*
 * Ids and descriptions of a link's counters, made from counters.def. Values live
 * in the link (dp_link_counters), indexed by these ids.
 */
#include <stdint.h>

enum dp_counter {
#define DP_COUNTER(name, kind, unit, help) DP_COUNTER_##name,
#include "dataplane/counters.def"
#undef DP_COUNTER
	DP_COUNTER_COUNT
};

struct dp_counter_info {
	const char *name;
	const char *kind; /* "counter" or "gauge" */
	const char *unit;
	const char *help;
};

/* DP_COUNTER_COUNT descriptions. */
extern const struct dp_counter_info dp_counter_infos[DP_COUNTER_COUNT];

#endif
