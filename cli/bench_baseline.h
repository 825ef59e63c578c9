/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_BENCH_BASELINE_H
#define PENSTOCK_CLI_BENCH_BASELINE_H
/*
 * The bare ping-pong of a driver, without Penstock's link: a program of perf/
 * that is run with --size, --count and --mtu, and prints one
 * JSON object with rtt_ns_p50. For the ratio that `bench link --baseline` gives.
 */
#include <limits.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/bench.h"

#define BENCH_BASELINE_ROUNDS 3u

struct bench_baseline {
	char program[PATH_MAX];
	uint64_t rounds_ns[BENCH_BASELINE_ROUNDS];
	uint64_t rtt_ns_p50; /* median of the rounds' medians */
};

/* Beside this binary or in the build's perf folder. -ENOENT: the text says how to build it. */
int ps_warn_unused bench_baseline_find(const struct bench_link_opts *o, struct bench_baseline *b,
				       struct ps_err *err);
int ps_warn_unused bench_baseline_run(const struct bench_link_opts *o, struct bench_baseline *b,
				      uint32_t round, struct ps_err *err);

#endif
