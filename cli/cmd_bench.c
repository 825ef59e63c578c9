/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"

static const char usage[] = "usage: penstock bench link --driver D --size BYTES --count N [options]\n"
			    "       penstock bench model MODEL [options]\n\n"
			    "  link    round trip of one message between two processes\n"
			    "  model   prompt and generation speed in one process\n\n"
			    "Each has its own --help.\n";

int cmd_bench(int argc, char **argv)
{
	static char link[] = "penstock bench link", model[] = "penstock bench model";

	if (argc >= 2 && strcmp(argv[1], "link") == 0) {
		argv[1] = link;
		return bench_link(argc - 1, argv + 1);
	}
	if (argc >= 2 && strcmp(argv[1], "model") == 0) {
		argv[1] = model;
		return bench_model(argc - 1, argv + 1);
	}
	if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(usage, stdout);
		return CLI_OK;
	}
	if (argc < 2)
		return cli_usage("bench", "expected link or model");
	return cli_usage("bench", "found \"%s\", expected link or model", argv[1]);
}
