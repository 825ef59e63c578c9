/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client_run.h"
#include "cli/control.h"
#include "cli/deploy.h"
#include "model/chat.h"
#include "topology/launch.h"

#define RUN_MAX_PROMPTS 64u

static const char usage[] =
    "usage: penstock run [TOPOLOGY] [options]\n\n"
    "Brings a topology up (a gateway and its stages, each a process), generates text, takes it down.\n"
    "The text comes on stdout as it is generated, then a table of times on stderr. With a model that\n"
    "gives embeddings (BERT and its like) say what is wanted: --embed or --fill-mask.\n\n"
    "  --topology FILE      topology file (default: the three-stage memif one that ships)\n"
    "  --model FILE         a GGUF file instead of the topology's\n"
    "  --driver D           memif or af_xdp for the links, instead of the topology's\n"
    "  --stages N           N stages instead of the topology's\n"
    "  --ctx N              positions a sequence can have, instead of the topology's model.context\n"
    "  --batch N            rows of one message, instead of model.max_batch_tokens: what an encoder reads\n"
    "                       (BERT, T5's prompt) goes whole in one\n"
    "  --kv TYPE            elements of the KV cache: f32, f16 or q8_0, instead of model.kv\n"
    "  --wire TYPE          activations between stages: f32, f16, bf16 or q8, instead of wire.activations\n"
    "  -p, --prompt TEXT    may be given several times: the prompts run together\n"
    "  --prompt-ids IDS     token ids instead of a text, nothing added (for a model without a vocabulary)\n"
    "  --chat [NAME]        each prompt is a user's message, written in the chat template of the file\n"
    "                       (auto) or in the one named: chatml, llama2, llama3, mistral, gemma, phi3,\n"
    "                       zephyr ...\n"
    "  --embed [KIND]       embeddings instead of text, one JSON object: pooled (one for each prompt, as\n"
    "                       the model pools) or tokens (one for each token)\n"
    "  --fill-mask          what fits the places of the prompt where the mask token (such as [MASK])\n"
    "                       stands, with probabilities\n"
    "  --tokens N           tokens to generate (64)\n"
    "  --temperature T      0: greedy (0.8)\n"
    "  --top-k K, --top-p P, --min-p P, --repeat-penalty R, --repeat-last-n N\n"
    "                       filters of the sampler (40, 0.95, 0, 1.0, 64); greedy ignores the first three\n"
    "  --seed S             the same seed gives the same text (1)\n"
    "  --no-hugepages       run without hugepages even where they could be had (slower)\n"
    "  --capture            let dpdk-dumpcap attach to the ports\n"
    "  --attach NAME        use a deployment that penstock up brought up, and leave it running\n"
    "  --json               one JSON object on stdout instead of text and table\n";

struct run_opts {
	const char *topology, *attach;
	struct topo_overrides ov;
	const char *prompts[RUN_MAX_PROMPTS];
	uint32_t n_prompts, tokens;
	int32_t *ids;
	size_t n_ids;
	struct sampler_params sampling;
	const char *chat;
	enum gw_task task;
	bool json, capture, per_token;
};

enum {
	OPT_TOPOLOGY = 256,
	OPT_MODEL,
	OPT_DRIVER,
	OPT_STAGES,
	OPT_CTX,
	OPT_BATCH,
	OPT_KV,
	OPT_WIRE,
	OPT_TOKENS,
	OPT_TEMPERATURE,
	OPT_TOP_K,
	OPT_TOP_P,
	OPT_MIN_P,
	OPT_PENALTY,
	OPT_LAST_N,
	OPT_SEED,
	OPT_NO_HUGE,
	OPT_CAPTURE,
	OPT_ATTACH,
	OPT_JSON,
	OPT_IDS,
	OPT_CHAT,
	OPT_EMBED,
	OPT_FILL,
};

static const struct option longs[] = {
    {"topology", required_argument, NULL, OPT_TOPOLOGY},
    {"model", required_argument, NULL, OPT_MODEL},
    {"driver", required_argument, NULL, OPT_DRIVER},
    {"stages", required_argument, NULL, OPT_STAGES},
    {"ctx", required_argument, NULL, OPT_CTX},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"kv", required_argument, NULL, OPT_KV},
    {"wire", required_argument, NULL, OPT_WIRE},
    {"prompt", required_argument, NULL, 'p'},
    {"prompt-ids", required_argument, NULL, OPT_IDS},
    {"chat", optional_argument, NULL, OPT_CHAT},
    {"embed", optional_argument, NULL, OPT_EMBED},
    {"fill-mask", no_argument, NULL, OPT_FILL},
    {"tokens", required_argument, NULL, OPT_TOKENS},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-k", required_argument, NULL, OPT_TOP_K},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"min-p", required_argument, NULL, OPT_MIN_P},
    {"repeat-penalty", required_argument, NULL, OPT_PENALTY},
    {"repeat-last-n", required_argument, NULL, OPT_LAST_N},
    {"seed", required_argument, NULL, OPT_SEED},
    {"no-hugepages", no_argument, NULL, OPT_NO_HUGE},
    {"capture", no_argument, NULL, OPT_CAPTURE},
    {"attach", required_argument, NULL, OPT_ATTACH},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static _Atomic int interrupted;

static void on_signal(int sig)
{
	atomic_store(&interrupted, sig);
}

static bool parse_sampling(int c, const char *arg, struct sampler_params *s)
{
	uint32_t u;

	switch (c) {
	case OPT_TEMPERATURE:
		return cli_f32("run", "--temperature", arg, 0.0f, 100.0f, &s->temperature);
	case OPT_TOP_P:
		return cli_f32("run", "--top-p", arg, 0.0f, 1.0f, &s->top_p);
	case OPT_MIN_P:
		return cli_f32("run", "--min-p", arg, 0.0f, 1.0f, &s->min_p);
	case OPT_PENALTY:
		return cli_f32("run", "--repeat-penalty", arg, 0.01f, 100.0f, &s->repeat_penalty);
	case OPT_TOP_K:
		if (!cli_u32("run", "--top-k", arg, 0, INT32_MAX, &u))
			return false;
		s->top_k = (int32_t)u;
		return true;
	case OPT_LAST_N:
		if (!cli_u32("run", "--repeat-last-n", arg, 0, INT32_MAX, &u))
			return false;
		s->repeat_last_n = (int32_t)u;
		return true;
	default:
		return cli_u64("run", "--seed", arg, &s->seed);
	}
}

static bool parse_driver(const char *arg, int *driver)
{
	if (strcmp(arg, "memif") == 0)
		*driver = TOPO_DRIVER_MEMIF;
	else if (strcmp(arg, "af_xdp") == 0)
		*driver = TOPO_DRIVER_AF_XDP;
	else
		cli_usage("run", "--driver: found \"%s\", expected memif or af_xdp", arg);
	return *driver >= 0;
}

/* The gateway takes its requests as JSON. */
static bool is_utf8(const char *prompt)
{
	json_t *text = json_string(prompt);

	if (text == NULL)
		cli_usage("run", "--prompt: found bytes that are not UTF-8; expected UTF-8");
	json_decref(text);
	return text != NULL;
}

/* What changes the deployment; false for an option of another kind (*known_out) too. */
static bool parse_override(int c, struct topo_overrides *ov, bool *known_out)
{
	*known_out = true;
	switch (c) {
	case OPT_MODEL:
		ov->model = optarg;
		return true;
	case OPT_DRIVER:
		return parse_driver(optarg, &ov->driver);
	case OPT_STAGES:
		return cli_u32("run", "--stages", optarg, 1, TOPO_MAX_STAGES, &ov->n_stages);
	case OPT_CTX:
		return deploy_ctx_option("run", optarg, ov);
	case OPT_BATCH:
		return deploy_batch_option("run", optarg, ov);
	case OPT_KV:
		return deploy_kv_option("run", optarg, ov);
	case OPT_WIRE:
		return deploy_wire_option("run", optarg, ov);
	case OPT_NO_HUGE:
		ov->no_hugepages = true;
		return true;
	default:
		*known_out = false;
		return false;
	}
}

/* The word of an option that may go without: behind "=", or the next argument if it is one that the
 * option knows (so that a topology's path is not taken for it). */
static const char *optional_word(char **argv, bool (*knows)(const char *word))
{
	if (optarg != NULL)
		return optarg;
	return argv[optind] != NULL && knows(argv[optind]) ? argv[optind++] : NULL;
}

static bool is_embed_word(const char *word)
{
	return strcmp(word, "pooled") == 0 || strcmp(word, "tokens") == 0;
}

static bool is_chat_word(const char *word)
{
	enum chat_kind kind;

	return strcmp(word, "auto") == 0 || chat_by_name(word, &kind, NULL) == 0;
}

static bool parse_chat(char **argv, struct run_opts *o)
{
	enum chat_kind kind;
	struct ps_err err;

	o->chat = optional_word(argv, is_chat_word);
	if (o->chat == NULL)
		o->chat = "auto";
	if (strcmp(o->chat, "auto") == 0 || chat_by_name(o->chat, &kind, &err) == 0)
		return true;
	cli_usage("run", "--chat: %s", err.msg);
	return false;
}

static bool parse_task(int c, char **argv, struct run_opts *o)
{
	enum gw_task task = c == OPT_EMBED ? GW_TASK_EMBED : GW_TASK_FILL;
	const char *word = c == OPT_EMBED ? optional_word(argv, is_embed_word) : NULL;

	if (o->task != GW_TASK_GENERATE && o->task != task) {
		cli_usage("run", "--embed and --fill-mask exclude each other");
		return false;
	}
	o->task = task;
	if (word == NULL || is_embed_word(word)) {
		o->per_token = word != NULL && strcmp(word, "tokens") == 0;
		return true;
	}
	cli_usage("run", "--embed: found \"%s\", expected pooled or tokens", word);
	return false;
}

static bool parse_option(int c, char **argv, struct run_opts *o)
{
	bool known, good = parse_override(c, &o->ov, &known);

	if (known)
		return good;
	switch (c) {
	case OPT_TOPOLOGY:
		o->topology = optarg;
		return true;
	case 'p':
		if (o->n_prompts == RUN_MAX_PROMPTS) {
			cli_usage("run", "--prompt: found more than the %u prompts that run together",
				  RUN_MAX_PROMPTS);
			return false;
		}
		o->prompts[o->n_prompts++] = optarg;
		return is_utf8(optarg);
	case OPT_IDS:
		free(o->ids);
		o->ids = NULL;
		return cli_ids("run", "--prompt-ids", optarg, &o->ids, &o->n_ids);
	case OPT_TOKENS:
		return cli_u32("run", "--tokens", optarg, 1, 1u << 20, &o->tokens);
	case OPT_CHAT:
		return parse_chat(argv, o);
	case OPT_EMBED:
	case OPT_FILL:
		return parse_task(c, argv, o);
	case OPT_CAPTURE:
		o->capture = true;
		return true;
	case OPT_ATTACH:
		o->attach = optarg;
		return true;
	case OPT_JSON:
		o->json = true;
		return true;
	case '?':
		cli_see_help("run");
		return false;
	default:
		return parse_sampling(c, optarg, &o->sampling);
	}
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct run_opts *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "p:h", longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		}
		if (!parse_option(c, argv, o))
			return CLI_USAGE;
	}
	if (optind + 1 < argc)
		return cli_usage("run", "expected one TOPOLOGY, found %d; a prompt is given with --prompt",
				 argc - optind);
	if (optind < argc)
		o->topology = argv[optind];
	if (o->attach != NULL &&
	    (o->topology != NULL || o->capture || o->ov.model != NULL || o->ov.driver >= 0 ||
	     o->ov.n_stages > 0 || o->ov.no_hugepages || o->ov.context > 0 || o->ov.max_batch_tokens > 0 ||
	     o->ov.kv != NULL || o->ov.activations != NULL))
		return cli_usage("run",
				 "--attach takes a deployment as it is: no topology, --model, --driver, "
				 "--stages, --ctx, --batch, --kv, --wire, --no-hugepages or --capture");
	if (o->n_prompts > 0 && o->ids != NULL)
		return cli_usage("run", "--prompt and --prompt-ids exclude each other");
	if (o->chat != NULL && (o->ids != NULL || o->task != GW_TASK_GENERATE))
		return cli_usage("run", "--chat is for a --prompt after which text is generated: not with "
					"--prompt-ids, --embed or --fill-mask");
	if (o->n_prompts == 0)
		o->prompts[o->n_prompts++] =
		    o->task == GW_TASK_FILL ? "And the [MASK] said unto Moses" : "Then the king";
	return -1;
}

static bool process_died(void *ctx, struct ps_err *err)
{
	struct launch_exit ex;

	if (launch_poll(ctx, 0, &ex) != 1)
		return false;
	ps_err_set(err, -ECHILD, "%s", ex.text);
	return true;
}

/* "memif" or "af_xdp"; "memif+af_xdp" where links inside nodes and between them differ. */
static const char *drivers_of(const struct topology *t)
{
	bool used[2] = {false, false};

	for (uint32_t i = 0; i < t->n_links; i++)
		used[t->links[i].driver == TOPO_DRIVER_AF_XDP] = true;
	return used[0] && used[1] ? "memif+af_xdp"
				  : topo_driver_name(used[1] ? TOPO_DRIVER_AF_XDP : TOPO_DRIVER_MEMIF);
}

/* Text has been printed as it came; embeddings are one JSON object with or without --json. */
static int print_results(const struct run_opts *o, json_t *results, const struct topology *t)
{
	json_t *out;

	if (!o->json && o->task == GW_TASK_FILL)
		client_print_masks(results);
	if (!o->json)
		client_print_table(results);
	if (!o->json && o->task != GW_TASK_EMBED)
		return CLI_OK;
	out = json_pack("{s:O}", "results", results);
	if (t != NULL) {
		json_object_set_new(out, "topology", json_string(t->path));
		json_object_set_new(out, "model", json_string(t->model.path));
		json_object_set_new(out, "stages", json_integer(t->n_stages));
		json_object_set_new(out, "driver", json_string(drivers_of(t)));
		json_object_set_new(out, "kv", json_string(topo_kv_name(t->model.kv)));
		json_object_set_new(out, "wire", json_string(topo_act_name(t->wire.activations)));
	}
	json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12));
	putchar('\n');
	json_decref(out);
	return CLI_OK;
}

static int generate(const struct run_opts *o, const char *run_dir, const char *gateway, struct launch *l,
		    json_t **results, struct ps_err *err)
{
	const struct client_opts co = {
	    .run_dir = run_dir,
	    .gateway = gateway,
	    .prompts = o->prompts,
	    .n_prompts = o->n_prompts,
	    .prompt_ids = o->ids,
	    .n_prompt_ids = o->n_ids,
	    .task = o->task,
	    .per_token = o->per_token,
	    .chat = o->chat,
	    .max_tokens = o->tokens,
	    .sampling = o->sampling,
	    .json = o->json,
	    .broken = l != NULL ? process_died : NULL,
	    .broken_ctx = l,
	    .stop = &interrupted,
	};

	return client_run(&co, results, err);
}

/* With a deployment that is up already. */
static int run_attached(const struct run_opts *o)
{
	struct topology *t = NULL;
	struct ps_err err = {{0}};
	json_t *results = NULL;
	char dir[TOPO_PATH_BYTES], gateway[256];
	int rc;

	rc = deploy_find(o->attach, dir, sizeof(dir), &err);
	if (rc == 0 && deploy_load_dir(dir, &t, &err) == 0)
		snprintf(gateway, sizeof(gateway), "%s", t->procs[topo_gateway(t)].name);
	else if (rc == 0) /* started by hand: no launcher has left the topology there */
		rc = control_find_gateway(dir, gateway, sizeof(gateway), &err);
	if (rc == 0)
		rc = generate(o, dir, gateway, NULL, &results, &err);
	if (rc == 0)
		rc = print_results(o, results, t);
	else
		rc = cli_fail("run", "%s", err.msg);
	json_decref(results);
	topo_free(t);
	return rc;
}

static int run_launched(const struct run_opts *o)
{
	struct launch_opts lo = {0};
	struct topology *t = NULL;
	struct launch *l = NULL;
	struct ps_err err = {{0}}, down = {{0}};
	json_t *results = NULL;
	bool failed = false;
	int rc = deploy_load(o->topology, &o->ov, o->capture, &t, &err);

	if (rc == 0)
		rc = launch_up(t, &lo, &l, &err);
	if (rc == 0) {
		rc = generate(o, launch_run_dir(l), t->procs[topo_gateway(t)].name, l, &results, &err);
		if (launch_down(l, &down) != 0) {
			cli_fail("run", "taking the deployment down: %s", down.msg);
			failed = true;
		}
	}
	if (rc == 0)
		rc = print_results(o, results, t);
	else
		rc = cli_fail("run", "%s", err.msg);
	json_decref(results);
	topo_free(t);
	return failed ? CLI_FAILED : rc;
}

int cmd_run(int argc, char **argv)
{
	const struct sigaction sa = {.sa_handler = on_signal};
	struct run_opts o = {.ov = {.driver = -1}, .tokens = 64};
	int rc;

	sampler_params_default(&o.sampling);
	o.sampling.temperature = 0.8f;
	o.sampling.top_k = 40;
	o.sampling.top_p = 0.95f;
	o.sampling.seed = 1;
	rc = parse_args(argc, argv, &o);
	if (rc >= 0) {
		free(o.ids);
		return rc;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	rc = o.attach != NULL ? run_attached(&o) : run_launched(&o);
	free(o.ids);
	/* All is undone; scripts see the usual status of an interrupted command. */
	return atomic_load(&interrupted) != 0 ? 128 + atomic_load(&interrupted) : rc;
}
