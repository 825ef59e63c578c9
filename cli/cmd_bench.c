/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/cli.h"

static const char usage[] = "usage: penstock bench link --driver D --size BYTES --count N [options]\n"
			    "       penstock bench model MODEL [options]\n"
			    "       penstock bench accuracy MODEL [options]\n\n"
			    "  link      round trip of one message between two processes\n"
			    "  model     prompt and generation speed in one process\n"
			    "  accuracy  what element types of activations and of the KV cache cost\n\n"
			    "Each has its own --help.\n";

static const struct {
	const char *name;
	const char *title; /* for getopt's messages */
	int (*run)(int argc, char **argv);
} benches[] = {
    {"link", "penstock bench link", bench_link},
    {"model", "penstock bench model", bench_model},
    {"accuracy", "penstock bench accuracy", bench_accuracy},
};

int cmd_bench(int argc, char **argv)
{
	char title[64];
	size_t i;

	for (i = 0; argc >= 2 && i < sizeof(benches) / sizeof(benches[0]); i++) {
		if (strcmp(argv[1], benches[i].name) != 0)
			continue;
		snprintf(title, sizeof(title), "%s", benches[i].title);
		argv[1] = title;
		return benches[i].run(argc - 1, argv + 1);
	}
	if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(usage, stdout);
		return CLI_OK;
	}
	if (argc < 2)
		return cli_usage("bench", "expected link, model or accuracy");
	return cli_usage("bench", "found \"%s\", expected link, model or accuracy", argv[1]);
}
