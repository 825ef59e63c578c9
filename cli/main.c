/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct cli_cmd commands[] = {
    {"run", cmd_run, "bring a topology up, generate text, print the latency table, take it down"},
    {"up", cmd_up, "bring a topology up and leave it running (--check: only validate)"},
    {"status", cmd_status, "what runs and what is in use"},
    {"down", cmd_down, "take a topology down and undo what up did to the host"},
    {"stage", cmd_stage, "the process of one stage: [EAL args] -- --topology F --name N"},
    {"gateway", cmd_gateway, "the process of the gateway: [EAL args] -- --topology F"},
    {"inspect", cmd_inspect, "what is in a model file, and which blocks weigh what"},
    {"eval", cmd_eval, "run a model on token ids in this process and write its logits"},
    {"tokenize", cmd_tokenize, "text to token ids and back"},
    {"bench", cmd_bench, "round trips of a link, and prompt and generation speed of a model"},
    {"host", cmd_host, "check, apply or undo what a host needs"},
};

static void help(FILE *out)
{
	size_t i;

	fprintf(out,
		"usage: penstock COMMAND [options]\n\n"
		"Runs a transformer model as a pipeline of processes over a kernel-bypass dataplane.\n\n");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
	fprintf(out, "\n  penstock COMMAND --help says more. Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

int main(int argc, char **argv)
{
	static char name[32];
	size_t i;

	if (argc < 2) {
		help(stderr);
		return CLI_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		help(stdout);
		return CLI_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("penstock %s\n", PENSTOCK_VERSION);
		return CLI_OK;
	}
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		snprintf(name, sizeof(name), "penstock %s", commands[i].name);
		argv[1] = name;
		return commands[i].run(argc - 1, argv + 1);
	}
	fprintf(stderr, "penstock: no command \"%s\"\n\n", argv[1]);
	help(stderr);
	return CLI_USAGE;
}
