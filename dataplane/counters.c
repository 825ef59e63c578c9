/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/counters.h"

const struct dp_counter_info dp_counter_infos[DP_COUNTER_COUNT] = {
#define DP_COUNTER(name, kind, unit, help) {#name, #kind, #unit, help},
#include "dataplane/counters.def"
#undef DP_COUNTER
};
