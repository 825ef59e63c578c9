/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/control.h"
#include "cli/deploy.h"
#include "gateway/client.h"
#include "topology/launch.h"

#define STATUS_TIMEOUT_MS 1000

static const char usage[] =
    "usage: penstock status [NAME] [--run-dir DIR] [--json] [--watch]\n\n"
    "Asks every process of a deployment what it is and what is in use: device and kernels, blocks,\n"
    "memory, driver mode of each port, state and counters of each link. Without NAME: every\n"
    "deployment of this user.\n\n"
    "  --run-dir DIR  a deployment by its run directory\n"
    "  --json         one JSON object\n"
    "  --watch        again every second\n";

/* What is said of a process that gives no answer. Where a launcher has started it, it has a log. */
static json_t *silent(const char *run_dir, const char *name, const char *socket)
{
	int fd = gw_connect(socket);
	char text[TOPO_PATH_BYTES + 330] = "does not answer", log[TOPO_PATH_BYTES + 300];

	snprintf(log, sizeof(log), "%s/%s.log", run_dir, name);
	if (fd >= 0)
		close(fd);
	else
		snprintf(text, sizeof(text), "has ended%s%s", access(log, F_OK) == 0 ? "; its log: " : "",
			 access(log, F_OK) == 0 ? log : "");
	return json_pack("{s:s, s:b, s:s}", "name", name, "ready", 0, "error", text);
}

static void ask_one(json_t *procs, const char *run_dir, const char *name)
{
	json_t *o = control_ask(run_dir, name, "status", STATUS_TIMEOUT_MS);
	char path[TOPO_PATH_BYTES + 300];

	control_path(run_dir, name, path, sizeof(path));
	if (o == NULL)
		o = silent(run_dir, name, path);
	json_object_set_new(o, "socket", json_string(path));
	json_object_del(o, "event");
	json_array_append_new(procs, o);
}

static int is_socket(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return len > 5 && strcmp(e->d_name + len - 5, ".sock") == 0;
}

/* Processes that were started by hand: those that have a socket, by name. */
static json_t *ask_sockets(const char *run_dir)
{
	struct dirent **list;
	json_t *procs;
	int n = scandir(run_dir, &list, is_socket, alphasort);

	if (n < 0)
		return NULL;
	procs = json_array();
	for (int i = 0; i < n; i++) {
		list[i]->d_name[strlen(list[i]->d_name) - 5] = '\0';
		ask_one(procs, run_dir, list[i]->d_name);
		free(list[i]);
	}
	free(list);
	return procs;
}

/* All processes of a run directory, in the pipeline's order where a launcher has left its
 * topology there; NULL if there is no such directory. */
static json_t *ask_all(const char *run_dir)
{
	struct topology *t = NULL;
	json_t *procs;

	if (deploy_load_dir(run_dir, &t, NULL) != 0)
		return ask_sockets(run_dir);
	procs = json_array();
	for (uint32_t i = 0; i < t->n_procs; i++)
		ask_one(procs, run_dir, t->procs[i].name);
	topo_free(t);
	return procs;
}

static const char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s != NULL ? s : "-";
}

static long long int_of(json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

static void print_proc(json_t *p)
{
	json_t *links = json_object_get(p, "links"), *ports = json_object_get(p, "ports"), *v;
	size_t i;

	if (json_object_get(p, "error") != NULL) {
		printf("  %-10s NOT READY (%s)\n", text_of(p, "name"), text_of(p, "error"));
		return;
	}
	printf("  %-10s %-8s %s", text_of(p, "name"), text_of(p, "role"),
	       json_is_true(json_object_get(p, "ready")) ? "ready" : "NOT READY");
	if (json_object_get(p, "broken") != NULL)
		printf(" (%s)", text_of(p, "broken"));
	printf("  pid %lld  memory %s  slots %s  idle %s  context %lld  kv %s  wire %s\n", int_of(p, "pid"),
	       text_of(p, "memory"), text_of(p, "slots"), text_of(p, "idle"), int_of(p, "context"),
	       text_of(p, "kv"), text_of(p, "wire"));
	if (strcmp(text_of(p, "role"), "stage") == 0)
		printf("    blocks %lld-%lld on %s (%s, %lld threads), %lld batches, %lld rows, %.1f ms "
		       "compute\n",
		       int_of(p, "block_first"), int_of(p, "block_last"), text_of(p, "device"),
		       text_of(p, "isa"), int_of(p, "threads"), int_of(p, "batches"), int_of(p, "rows"),
		       (double)int_of(p, "compute_ns") / 1e6);
	else
		printf("    %lld requests, %lld tokens, %lld active, %lld waiting, on %s\n",
		       int_of(p, "requests"), int_of(p, "tokens"), int_of(p, "active"), int_of(p, "waiting"),
		       text_of(p, "socket"));
	if (int_of(p, "cut_values") > 0)
		printf(
		    "    %lld activations were too large for wire type %s and were cut: take bf16 or f32\n",
		    int_of(p, "cut_values"), text_of(p, "wire"));
	json_array_foreach(ports, i, v) printf("    port %zu: %s\n", i, json_string_value(v));
	json_array_foreach(links, i, v)
	    printf("    link %lld to %-10s %-11s srtt %.1f us\n", int_of(v, "id"), text_of(v, "peer"),
		   text_of(v, "state"), (double)int_of(v, "srtt_ns") / 1e3);
}

static json_t *ask_deployments(const char *name, const char *run_dir)
{
	char base[TOPO_PATH_BYTES], path[TOPO_PATH_BYTES + 300];
	json_t *all = json_object(), *procs;
	struct dirent *e;
	DIR *d;

	if (name != NULL && deploy_find(name, base, sizeof(base), NULL) == 0)
		run_dir = base;
	if (run_dir != NULL || name != NULL) {
		procs = run_dir != NULL ? ask_all(run_dir) : NULL;
		if (procs != NULL)
			json_object_set_new(all, name != NULL ? name : run_dir, procs);
		return all;
	}
	launch_run_base(base, sizeof(base));
	d = opendir(base);
	while (d != NULL && (e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", base, e->d_name);
		procs = ask_all(path);
		if (procs != NULL)
			json_object_set_new(all, e->d_name, procs);
	}
	if (d != NULL)
		closedir(d);
	return all;
}

static int show(const char *name, const char *run_dir, bool json)
{
	json_t *all = ask_deployments(name, run_dir), *procs, *p;
	const char *key;
	size_t i;
	int rc = CLI_OK;

	if (json) {
		json_dumpf(all, stdout, JSON_COMPACT);
		putchar('\n');
	}
	json_object_foreach(all, key, procs)
	{
		if (!json)
			printf("%s\n", key);
		json_array_foreach(procs, i, p)
		{
			if (!json)
				print_proc(p);
			if (!json_is_true(json_object_get(p, "ready")))
				rc = CLI_FAILED;
		}
	}
	if (json_object_size(all) == 0) {
		if (name != NULL || run_dir != NULL)
			rc = cli_fail("status",
				      "no deployment \"%s\" runs here; penstock up TOPOLOGY starts one",
				      name != NULL ? name : run_dir);
		else if (!json)
			printf("no deployment runs here\n");
	}
	json_decref(all);
	fflush(stdout);
	return rc;
}

int cmd_status(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"run-dir", required_argument, NULL, 'r'},
	    {"json", no_argument, NULL, 'j'},
	    {"watch", no_argument, NULL, 'w'},
	    {"help", no_argument, NULL, 'h'},
	    {0},
	};
	const char *run_dir = NULL, *name = NULL;
	bool json = false, watch = false;
	int c, rc;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'r')
			run_dir = optarg;
		else if (c == 'j')
			json = true;
		else if (c == 'w')
			watch = true;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else
			return cli_see_help("status");
	}
	if (optind + 1 < argc)
		return cli_usage("status", "expected one NAME, found %d", argc - optind);
	if (optind < argc)
		name = argv[optind];
	do {
		if (watch && !json)
			printf("\033[H\033[2J");
		rc = show(name, run_dir, json);
		if (watch)
			sleep(1);
	} while (watch);
	return rc;
}
