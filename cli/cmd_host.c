/* SPDX-License-Identifier: BSD-3-Clause */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "topology/host.h"

static const char usage[] =
    "usage: penstock host check|apply|undo [options]\n\n"
    "  check                what this machine has and lacks; changes nothing, needs no root\n"
    "  apply                reserves hugepages, mounts hugetlbfs, switches the BPF compiler on,\n"
    "                       printing each command it runs; needs root\n"
    "  undo                 restores what apply has changed; needs root\n\n"
    "  --driver D           what is needed for memif or af_xdp (af_xdp, which needs more)\n"
    "  --hugepages-mb N     memory in free hugepages that is wanted (256: four processes of 64 MB)\n\n"
    "check exits with 1 when something that the driver needs is missing.\n";

static int perform(const char *what, const struct host_ctx *c)
{
	struct ps_err err = {{0}};
	int rc;

	if (strcmp(what, "check") == 0)
		return host_check(c) == 0 ? CLI_OK : CLI_FAILED;
	if (strcmp(what, "apply") != 0 && strcmp(what, "undo") != 0)
		return cli_usage("host", "found \"%s\", expected check, apply or undo", what);
	rc = strcmp(what, "apply") == 0 ? host_apply(c, &err) : host_undo(c, &err);
	return rc == 0 ? CLI_OK : cli_fail("host", "%s", err.msg);
}

int cmd_host(int argc, char **argv)
{
	enum { OPT_DRIVER = 256, OPT_HUGEPAGES };
	static const struct option longs[] = {
	    {"driver", required_argument, NULL, OPT_DRIVER},
	    {"hugepages-mb", required_argument, NULL, OPT_HUGEPAGES},
	    {"help", no_argument, NULL, 'h'},
	    {NULL, 0, NULL, 0},
	};
	struct host_ctx c = {.driver = TOPO_DRIVER_AF_XDP, .hugepages_mb = 256, .out = stdout};
	int o;

	while ((o = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (o) {
		case OPT_DRIVER:
			if (strcmp(optarg, "memif") != 0 && strcmp(optarg, "af_xdp") != 0)
				return cli_usage("host", "--driver: found \"%s\", expected memif or af_xdp",
						 optarg);
			c.driver = optarg[0] == 'm' ? TOPO_DRIVER_MEMIF : TOPO_DRIVER_AF_XDP;
			break;
		case OPT_HUGEPAGES:
			if (!cli_u32("host", "--hugepages-mb", optarg, 0, 1u << 20, &c.hugepages_mb))
				return CLI_USAGE;
			break;
		case 'h':
			fputs(usage, stdout);
			return CLI_OK;
		default:
			return cli_see_help("host");
		}
	}
	if (argc - optind != 1)
		return cli_usage("host", "found %d actions, expected one of check, apply, undo",
				 argc - optind);
	return perform(argv[optind], &c);
}
