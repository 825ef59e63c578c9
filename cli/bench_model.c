/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/pipeline.h"

#define BATCH_TOKENS 512u /* rows of one batch message, as a prompt is cut */
#define MAX_REPS     1000u
#define SEED         1u

#define DEFAULT_PROMPT 512u
#define DEFAULT_GEN    128u
#define BY_MODEL       UINT32_MAX /* --prompt, --gen: not given */

static const char usage[] =
    "usage: penstock bench model MODEL [--prompt N] [--gen N] [options]\n\n"
    "Feeds a prompt of random token ids, then generates one token at a time (greedy), in this\n"
    "process. Each repetition starts with an empty cache; one more comes first to warm up. Of T5 the\n"
    "prompt goes through the encoder and the decoder generates; BERT has a prompt only.\n\n"
    "  --prompt N    tokens of the prompt; 0: none (512, or as many as the model has positions for)\n"
    "  --gen N       tokens generated after it; 0: none (128; BERT: 0)\n"
    "  --reps N      repetitions (3)\n"
    "  --threads N   compute threads; 0: one a core (0)\n"
    "  --device D    cpu or cpu-ref (cpu)\n"
    "  --stages N    cut the model into N block ranges that pass batch messages (1)\n"
    "  --wire T      activations between stages: f32 (exact), f16, bf16 or q8 (f32)\n"
    "  --kv T        elements of the KV cache: f32, f16 or q8_0 (f32)\n"
    "  --ctx N       positions of the context (as many as are needed)\n"
    "  --json        one JSON object on one line instead of a table\n\n"
    "Speeds are tokens per second: the median of the repetitions, the least and the greatest.\n";

struct model_opts {
	const char *model, *device;
	uint32_t prompt, gen, reps, threads, stages, ctx;
	enum accel_kv_dtype kv;
	enum act_dtype wire;
	bool json;
};

/* Speeds of the repetitions, tokens per second. */
struct speeds {
	double *prompt, *gen; /* [reps] */
};

static bool take_value(int c, struct model_opts *o)
{
	switch (c) {
	case 'p':
		return cli_u32("bench model", "--prompt", optarg, 0, 1u << 20, &o->prompt);
	case 'g':
		return cli_u32("bench model", "--gen", optarg, 0, 1u << 20, &o->gen);
	case 'r':
		return cli_u32("bench model", "--reps", optarg, 1, MAX_REPS, &o->reps);
	case 't':
		return cli_u32("bench model", "--threads", optarg, 0, 1024, &o->threads);
	case 's':
		return cli_u32("bench model", "--stages", optarg, 1, PIPELINE_MAX_STAGES, &o->stages);
	case 'w':
		return pipeline_wire_option("bench model", optarg, &o->wire);
	case 'k':
		return pipeline_kv_option("bench model", optarg, &o->kv);
	default:
		return cli_u32("bench model", "--ctx", optarg, 1, 1u << 24, &o->ctx);
	}
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct model_opts *o)
{
	static const struct option longs[] = {
	    {"prompt", required_argument, NULL, 'p'}, {"gen", required_argument, NULL, 'g'},
	    {"reps", required_argument, NULL, 'r'},   {"threads", required_argument, NULL, 't'},
	    {"device", required_argument, NULL, 'd'}, {"stages", required_argument, NULL, 's'},
	    {"wire", required_argument, NULL, 'w'},   {"kv", required_argument, NULL, 'k'},
	    {"ctx", required_argument, NULL, 'c'},    {"json", no_argument, NULL, 'j'},
	    {"help", no_argument, NULL, 'h'},         {0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'd')
			o->device = optarg;
		else if (c == 'j')
			o->json = true;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else if (c == '?')
			return cli_see_help("bench model");
		else if (!take_value(c, o))
			return CLI_USAGE;
	}
	if (optind + 1 != argc)
		return cli_usage("bench model", "expected one MODEL, found %d", argc - optind);
	if (o->prompt == 0 && o->gen == 0)
		return cli_usage("bench model", "--prompt and --gen are both 0: nothing to measure");
	o->model = argv[optind];
	return -1;
}

static uint32_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (uint32_t)(*state >> 32);
}

static double rate(uint32_t n, uint64_t ns)
{
	return ns == 0 ? 0 : (double)n * 1e9 / (double)ns;
}

/* All of a model that embeds; the encoder of one that has one; else the prompt, whose next token comes out.
 */
static int feed_prompt(struct pipeline *p, const struct model_opts *o, const int32_t *tokens, int32_t *next,
		       struct ps_err *err)
{
	const struct model_hparams *hp = pipeline_hparams(p);
	struct pipeline_values v;

	if (hp->task == MODEL_TASK_EMBED)
		return pipeline_embed(p, tokens, o->prompt, true, &v, err);
	if (hp->n_layers_enc > 0)
		return pipeline_encode(p, tokens, o->prompt, err);
	return pipeline_feed(p, tokens, o->prompt, 0, next, err);
}

/* Prompt, then generation. Without a prompt (and in a decoder of its own) the first token generated follows
 * tokens[0]. */
static int repeat(struct pipeline *p, const struct model_opts *o, const int32_t *tokens, double *prompt_out,
		  double *gen_out, struct ps_err *err)
{
	uint32_t pos = pipeline_hparams(p)->n_layers_enc > 0 ? 0 : o->prompt;
	uint64_t t0 = ps_now_ns(), t1;
	int32_t next = tokens[0];
	uint32_t i;
	int rc = 0;

	if (o->prompt > 0)
		rc = feed_prompt(p, o, tokens, &next, err);
	t1 = ps_now_ns();
	*prompt_out = rate(o->prompt, t1 - t0);
	for (i = 0; i < o->gen && rc == 0; i++) {
		rc = pipeline_feed(p, &next, 1, pos + i, &next, err);
		if (rc == 0 && next < 0)
			rc = ps_err_set(err, -EDOM, "token %u: every logit is NaN", pos + i);
	}
	*gen_out = rate(o->gen, ps_now_ns() - t1);
	return rc;
}

static int cmp_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(const double *sorted, uint32_t n)
{
	return n % 2 != 0 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static void add_speed(json_t *j, const char *what, uint32_t tokens, const double *sorted, uint32_t n)
{
	const struct {
		const char *suffix;
		double value;
	} keys[] = {{"", median(sorted, n)}, {"_min", sorted[0]}, {"_max", sorted[n - 1]}};
	char key[64];
	size_t i;

	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		snprintf(key, sizeof(key), "%s_tokens_per_s%s", what, keys[i].suffix);
		/* Nothing was measured of a part of no tokens: null, not 0. */
		json_object_set_new(j, key, tokens == 0 ? json_null() : json_real(keys[i].value));
	}
}

/* Of all stages; caps say it of one. */
static uint64_t weight_bytes(const struct gguf *g, const struct pipeline *p)
{
	return model_range_bytes(g, 0, pipeline_hparams(p)->n_layers);
}

static void print_json(const struct model_opts *o, const struct gguf *g, const struct pipeline *p,
		       const struct speeds *s)
{
	const struct model_hparams *hp = pipeline_hparams(p);
	struct accel_caps caps;
	json_t *j;

	pipeline_caps(p, &caps);
	j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "model", o->model,
		      "arch", hp->arch, "name", hp->name, "device", caps.device, "isa", caps.isa, "threads",
		      (json_int_t)caps.n_threads, "stages", (json_int_t)o->stages, "weight_bytes",
		      (json_int_t)weight_bytes(g, p), "kv_bytes", (json_int_t)caps.kv_bytes, "prompt",
		      (json_int_t)o->prompt, "gen", (json_int_t)o->gen, "reps", (json_int_t)o->reps);
	if (j == NULL) /* A path or name that is not UTF-8. */
		j = json_pack("{s:s}", "model", "(not UTF-8)");
	CHECK(j != NULL);
	json_object_set_new(j, "kv", json_string(pipeline_kv_name(o->kv)));
	json_object_set_new(j, "wire", json_string(act_dtype_name(o->wire)));
	json_object_set_new(j, "ctx", json_integer(o->ctx));
	add_speed(j, "prompt", o->prompt, s->prompt, o->reps);
	add_speed(j, "gen", o->gen, s->gen, o->reps);
	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(j);
}

static void print_speed(const char *what, uint32_t tokens, const double *sorted, uint32_t n)
{
	if (tokens > 0)
		printf("%-10s  %.2f tokens/s  (%.2f to %.2f; %u tokens, %u times)\n", what, median(sorted, n),
		       sorted[0], sorted[n - 1], tokens, n);
}

static void print_table(const struct model_opts *o, const struct gguf *g, const struct pipeline *p,
			const struct speeds *s)
{
	const struct model_hparams *hp = pipeline_hparams(p);
	struct accel_caps caps;

	pipeline_caps(p, &caps);
	printf("model       %s: %s %s, %u blocks, %.1f MB of weights\n", o->model, hp->arch, hp->name,
	       hp->n_layers, (double)weight_bytes(g, p) / 1e6);
	printf("device      %s (%s), %u threads, %u stages, %s on the wire\n", caps.device, caps.isa,
	       caps.n_threads, o->stages, act_dtype_name(o->wire));
	printf("KV cache    %s, %u positions, %.1f MB\n", pipeline_kv_name(o->kv), o->ctx,
	       (double)caps.kv_bytes / 1e6);
	print_speed("prompt", o->prompt, s->prompt, o->reps);
	print_speed("generation", o->gen, s->gen, o->reps);
}

static int measure(const struct model_opts *o, const struct gguf *g, struct pipeline *p, struct ps_err *err)
{
	struct speeds s = {.prompt = calloc(o->reps, sizeof(double)), .gen = calloc(o->reps, sizeof(double))};
	int32_t *tokens = calloc((size_t)o->prompt + 1, sizeof(*tokens));
	uint64_t random = 88172645463325252ull + SEED;
	uint32_t i;
	int rc = 0;

	if (s.prompt == NULL || s.gen == NULL || tokens == NULL) {
		rc = ps_err_set(err, -ENOMEM, "out of memory");
		goto out_free;
	}
	for (i = 0; i <= o->prompt; i++)
		tokens[i] = (int32_t)(next_random(&random) % pipeline_hparams(p)->n_vocab);
	rc = repeat(p, o, tokens, &s.prompt[0], &s.gen[0], err);
	for (i = 0; i < o->reps && rc == 0; i++)
		rc = repeat(p, o, tokens, &s.prompt[i], &s.gen[i], err);
	if (rc != 0)
		goto out_free;
	qsort(s.prompt, o->reps, sizeof(double), cmp_double);
	qsort(s.gen, o->reps, sizeof(double), cmp_double);
	if (o->json)
		print_json(o, g, p, &s);
	else
		print_table(o, g, p, &s);
out_free:
	free(tokens);
	free(s.prompt);
	free(s.gen);
	return rc;
}

/* Fills in what was not given, and refuses, before memory is allocated, what the model cannot do. */
static int choose_sizes(struct model_opts *o, const struct model_hparams *hp, struct ps_err *err)
{
	bool embeds = hp->task == MODEL_TASK_EMBED, seq2seq = hp->n_layers_enc > 0;
	uint32_t need;

	if (embeds && o->gen != 0 && o->gen != BY_MODEL)
		return ps_err_set(err, -EINVAL, "%s: --gen %u: %s models generate nothing", o->model, o->gen,
				  hp->arch);
	if (o->gen == BY_MODEL)
		o->gen = embeds ? 0 : DEFAULT_GEN;
	if (o->prompt == BY_MODEL) {
		o->prompt = DEFAULT_PROMPT;
		if (hp->n_ctx_max != 0 && o->prompt + o->gen > hp->n_ctx_max)
			o->prompt = hp->n_ctx_max > o->gen ? hp->n_ctx_max - o->gen : 1;
	}
	if (seq2seq && o->prompt == 0)
		return ps_err_set(err, -EINVAL, "%s: --prompt 0: the decoder of %s reads an encoded prompt",
				  o->model, hp->arch);
	need = !seq2seq ? o->prompt + o->gen : o->prompt > o->gen ? o->prompt : o->gen;
	if (hp->n_ctx_max != 0 && need > hp->n_ctx_max)
		return ps_err_set(
		    err, -EINVAL,
		    "%s: --prompt %u and --gen %u make %u positions, the model has %u: take fewer tokens",
		    o->model, o->prompt, o->gen, need, hp->n_ctx_max);
	if (o->ctx != 0 && need > o->ctx)
		return ps_err_set(err, -EINVAL,
				  "%s: --prompt %u and --gen %u make %u positions, --ctx is %u: raise it",
				  o->model, o->prompt, o->gen, need, o->ctx);
	o->ctx = o->ctx != 0 ? o->ctx : need;
	return 0;
}

/* A prompt is cut into messages where the model lets it. */
static uint32_t choose_rows(const struct model_opts *o, const struct model_hparams *hp)
{
	bool whole = hp->task == MODEL_TASK_EMBED || hp->n_layers_enc > 0;

	if (o->prompt <= 1)
		return 1;
	return whole || o->prompt < BATCH_TOKENS ? o->prompt : BATCH_TOKENS;
}

int bench_model(int argc, char **argv)
{
	struct model_opts o = {.device = "cpu", .prompt = BY_MODEL, .gen = BY_MODEL, .reps = 3, .stages = 1};
	struct pipeline_cfg cfg = {0};
	struct model_hparams hp;
	struct ps_err err = {{0}};
	struct pipeline *p = NULL;
	struct gguf *g = NULL;
	int rc = parse_args(argc, argv, &o);

	if (rc >= 0)
		return rc;
	rc = gguf_open(o.model, &g, &err);
	if (rc == 0)
		rc = model_read_hparams(g, &hp, &err);
	if (rc == 0)
		rc = choose_sizes(&o, &hp, &err);
	if (rc == 0) {
		cfg = (struct pipeline_cfg){
		    .gguf = g,
		    .n_stages = o.stages,
		    .device = o.device,
		    .n_threads = o.threads,
		    .n_ctx = o.ctx,
		    .max_tokens = choose_rows(&o, &hp),
		    .kv = o.kv,
		    .act_dtype = o.wire,
		};
		rc = pipeline_open(&cfg, &p, &err);
	}
	if (rc == 0)
		rc = measure(&o, g, p, &err);
	pipeline_close(p);
	gguf_close(g);
	return rc == 0 ? CLI_OK : cli_fail("bench model", "%s", err.msg);
}
