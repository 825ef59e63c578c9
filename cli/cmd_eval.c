/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/pipeline.h"

#define EVAL_MAX_TOKENS 256u /* rows of one batch message */

static const char usage[] =
    "usage: penstock eval MODEL --tokens 1,2,3 [--logits OUT.f32] [options]\n\n"
    "Runs a model on token ids in this process. No token is added in front.\n\n"
    "  --tokens IDS      token ids, comma separated\n"
    "  --logits OUT.f32  little-endian float32 [n_tokens, n_vocab]; row i: logits after token i\n"
    "  --greedy N        then N tokens more, each the arg max, fed back one at a time\n"
    "  --stages N        cut the model into N block ranges that pass batch messages (1)\n"
    "  --device D        cpu or cpu-ref (cpu)\n"
    "  --threads N       compute threads; 0: one a core (0)\n"
    "  --one-by-one      feed the tokens one at a time\n\n"
    "Prints one JSON line: greedy ids, times, what ran.\n";

struct eval_opts {
	const char *model, *logits_path, *device;
	int32_t *tokens;
	size_t n_tokens;
	uint32_t greedy, stages, threads;
	bool one_by_one;
};

struct eval_sink {
	FILE *f;
	uint64_t rows_left; /* rows of the prompt still to be written */
	bool failed;
};

static void write_logits(void *ctx, const float *logits, uint32_t n_rows, uint32_t n_vocab)
{
	struct eval_sink *s = ctx;
	uint64_t n = n_rows < s->rows_left ? n_rows : s->rows_left;

	s->rows_left -= n;
	if (s->f != NULL && fwrite(logits, sizeof(float) * n_vocab, n, s->f) != n)
		s->failed = true;
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct eval_opts *o)
{
	static const struct option longs[] = {
	    {"tokens", required_argument, NULL, 't'},
	    {"logits", required_argument, NULL, 'l'},
	    {"greedy", required_argument, NULL, 'g'},
	    {"stages", required_argument, NULL, 's'},
	    {"device", required_argument, NULL, 'd'},
	    {"threads", required_argument, NULL, 'n'},
	    {"one-by-one", no_argument, NULL, '1'},
	    {"help", no_argument, NULL, 'h'},
	    {0},
	};
	bool ok = true;
	int c;

	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 't')
			ok = cli_ids("eval", "--tokens", optarg, &o->tokens, &o->n_tokens);
		else if (c == 'l')
			o->logits_path = optarg;
		else if (c == 'g')
			ok = cli_u32("eval", "--greedy", optarg, 0, 1u << 20, &o->greedy);
		else if (c == 's')
			ok = cli_u32("eval", "--stages", optarg, 1, PIPELINE_MAX_STAGES, &o->stages);
		else if (c == 'd')
			o->device = optarg;
		else if (c == 'n')
			ok = cli_u32("eval", "--threads", optarg, 0, 1024, &o->threads);
		else if (c == '1')
			o->one_by_one = true;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else
			return cli_see_help("eval");
	}
	if (!ok)
		return CLI_USAGE;
	if (optind + 1 != argc)
		return cli_usage("eval", "expected one MODEL, found %d", argc - optind);
	if (o->n_tokens == 0)
		return cli_usage("eval", "--tokens is missing or empty");
	o->model = argv[optind];
	return -1;
}

static int feed_prompt(struct pipeline *p, const struct eval_opts *o, int32_t *next, struct ps_err *err)
{
	size_t i;
	int rc = 0;

	if (!o->one_by_one)
		return pipeline_feed(p, o->tokens, (uint32_t)o->n_tokens, 0, next, err);
	for (i = 0; i < o->n_tokens && rc == 0; i++)
		rc = pipeline_feed(p, o->tokens + i, 1, (uint32_t)i, next, err);
	return rc;
}

static int generate(struct pipeline *p, const struct eval_opts *o, int32_t next, json_t *ids,
		    struct ps_err *err)
{
	uint32_t i;
	int rc = 0;

	for (i = 0; i < o->greedy && rc == 0; i++) {
		json_array_append_new(ids, json_integer(next));
		if (i + 1 < o->greedy)
			rc = pipeline_feed(p, &next, 1, (uint32_t)o->n_tokens + i, &next, err);
	}
	return rc;
}

static void print_result(struct pipeline *p, const struct eval_opts *o, json_t *ids, uint64_t prompt_ns,
			 uint64_t gen_ns)
{
	struct accel_caps caps;
	json_t *out;

	pipeline_caps(p, &caps);
	out = json_pack("{s:O, s:I, s:I, s:I, s:f, s:f, s:s, s:s, s:I, s:I}", "greedy", ids, "n_tokens",
			(json_int_t)o->n_tokens, "n_vocab", (json_int_t)pipeline_hparams(p)->n_vocab,
			"stages", (json_int_t)o->stages, "prompt_ms", (double)prompt_ns / 1e6, "generate_ms",
			(double)gen_ns / 1e6, "device", caps.device, "isa", caps.isa, "threads",
			(json_int_t)caps.n_threads, "kv_bytes", (json_int_t)caps.kv_bytes);
	json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(out);
}

static int eval(const struct eval_opts *o, struct eval_sink *sink, struct ps_err *err)
{
	struct pipeline_cfg cfg = {
	    .n_stages = o->stages,
	    .device = o->device,
	    .n_threads = o->threads,
	    .n_ctx = (uint32_t)o->n_tokens + o->greedy,
	    .max_tokens = o->one_by_one ? 1 : EVAL_MAX_TOKENS,
	    .logits = o->logits_path != NULL ? write_logits : NULL,
	    .logits_ctx = sink,
	};
	struct pipeline *p = NULL;
	struct gguf *g = NULL;
	json_t *ids = json_array();
	uint64_t t0, t1;
	int32_t next = -1;
	int rc;

	if (cfg.max_tokens > cfg.n_ctx)
		cfg.max_tokens = cfg.n_ctx;
	rc = gguf_open(o->model, &g, err);
	if (rc != 0)
		goto out_ids;
	cfg.gguf = g;
	rc = pipeline_open(&cfg, &p, err);
	if (rc != 0)
		goto out_gguf;
	t0 = ps_now_ns();
	rc = feed_prompt(p, o, &next, err);
	t1 = ps_now_ns();
	if (rc == 0)
		rc = generate(p, o, next, ids, err);
	if (rc == 0)
		print_result(p, o, ids, t1 - t0, ps_now_ns() - t1);
	pipeline_close(p);
out_gguf:
	gguf_close(g);
out_ids:
	json_decref(ids);
	return rc;
}

int cmd_eval(int argc, char **argv)
{
	struct eval_opts o = {.device = "cpu", .stages = 1};
	struct eval_sink sink = {0};
	struct ps_err err = {{0}};
	int rc = parse_args(argc, argv, &o);

	if (rc >= 0) {
		free(o.tokens);
		return rc;
	}
	sink.rows_left = o.n_tokens;
	if (o.logits_path != NULL) {
		sink.f = fopen(o.logits_path, "wb");
		if (sink.f == NULL) {
			free(o.tokens);
			return cli_fail("eval", "%s: cannot write: %s", o.logits_path, strerror(errno));
		}
	}
	rc = eval(&o, &sink, &err);
	if (sink.f != NULL && fclose(sink.f) != 0)
		sink.failed = true;
	free(o.tokens);
	if (rc != 0)
		return cli_fail("eval", "%s", err.msg);
	if (sink.failed)
		return cli_fail("eval", "%s: could not be written whole: is the disk full?", o.logits_path);
	return CLI_OK;
}
