/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/dump.h"
#include "cli/pipeline.h"

#define EVAL_MAX_TOKENS 256u /* rows of one batch message, where a prompt may be cut */

static const char usage[] =
    "usage: penstock eval MODEL --tokens 1,2,3 [--logits OUT.f32] [options]\n\n"
    "Runs a model on token ids in this process. No token is added in front.\n\n"
    "  --tokens IDS          token ids, comma separated; of an encoder-decoder model (T5) the encoder's\n"
    "  --decoder-tokens IDS  T5: the decoder's token ids (the file's decoder start token)\n"
    "  --logits OUT.f32      little-endian float32 [n_tokens, n_vocab]; row i: logits after token i (of the\n"
    "                        decoder's tokens for T5, of the fill-mask head for BERT)\n"
    "  --greedy N            then N tokens more, each the arg max, fed back one at a time\n"
    "  --embeddings OUT.f32  BERT, T5: final hidden states of the encoder [n_tokens, n_embd]\n"
    "  --pooled OUT.f32      BERT, T5: one embedding [n_embd], pooled as the file says (else the mean), not\n"
    "                        normalised\n"
    "  --fill                BERT with a fill-mask head: the likeliest tokens for each mask token\n"
    "  --stages N            cut the model into N block ranges that pass batch messages (1)\n"
    "  --wire T              activations between stages: f32 (exact), f16, bf16 or q8 (f32)\n"
    "  --kv T                elements of the KV cache: f32, f16 or q8_0 (f32)\n"
    "  --ctx N               positions of the context (as many as are needed; a model with a table of\n"
    "                        positions has no more); rope scalings may depend on it\n"
    "  --device D            cpu or cpu-ref (cpu)\n"
    "  --threads N           compute threads; 0: one a core (0)\n"
    "  --one-by-one          feed the tokens one at a time; an encoder's come whole all the same\n"
    "  --dump DIR            writes each operation's result, NUMBER-OPERATION-BLOCK-TENSOR.f32 [n_rows,\n"
    "                        width], into this folder\n\n"
    "Prints one JSON line: greedy ids, times, what ran.\n";

struct eval_opts {
	const char *model, *logits_path, *embeddings_path, *pooled_path, *device, *dump;
	int32_t *tokens, *decoder_tokens; /* [n_tokens], [n_decoder_tokens] */
	size_t n_tokens, n_decoder_tokens;
	uint32_t greedy, stages, threads, ctx; /* ctx 0: as many as are needed */
	enum accel_kv_dtype kv;
	enum act_dtype wire;
	bool one_by_one, fill;
};

/* A file of float32 that is being written. */
struct eval_sink {
	const char *path;
	FILE *f;
	uint64_t rows_left; /* rows still to be written */
	bool failed;
};

struct eval {
	const struct eval_opts *o;
	struct model_hparams hp;
	struct pipeline *p;
	struct eval_sink *logits;
	int32_t start; /* the decoder's only token where none are given */
	struct dump dump;
	json_t *ids, *fills;
	uint64_t encode_ns, prompt_ns, gen_ns;
	bool encoded, decoded;
};

static void write_rows(void *ctx, const float *rows, uint32_t n_rows, uint32_t width)
{
	struct eval_sink *s = ctx;
	uint64_t n = n_rows < s->rows_left ? n_rows : s->rows_left;

	s->rows_left -= n;
	if (s->f != NULL && fwrite(rows, sizeof(float) * width, n, s->f) != n)
		s->failed = true;
}

enum { O_DECODER = 256, O_EMBEDDINGS, O_POOLED, O_FILL, O_WIRE, O_KV, O_CTX, O_DUMP };

static const struct option longs[] = {
    {"tokens", required_argument, NULL, 't'},
    {"decoder-tokens", required_argument, NULL, O_DECODER},
    {"logits", required_argument, NULL, 'l'},
    {"greedy", required_argument, NULL, 'g'},
    {"embeddings", required_argument, NULL, O_EMBEDDINGS},
    {"pooled", required_argument, NULL, O_POOLED},
    {"fill", no_argument, NULL, O_FILL},
    {"stages", required_argument, NULL, 's'},
    {"wire", required_argument, NULL, O_WIRE},
    {"kv", required_argument, NULL, O_KV},
    {"ctx", required_argument, NULL, O_CTX},
    {"device", required_argument, NULL, 'd'},
    {"threads", required_argument, NULL, 'n'},
    {"one-by-one", no_argument, NULL, '1'},
    {"dump", required_argument, NULL, O_DUMP},
    {"help", no_argument, NULL, 'h'},
    {0},
};

/* One option with a value of some form; false, and said, where it has none. */
static bool take_value(int c, struct eval_opts *o)
{
	switch (c) {
	case 't':
		free(o->tokens);
		return cli_ids("eval", "--tokens", optarg, &o->tokens, &o->n_tokens);
	case O_DECODER:
		free(o->decoder_tokens);
		return cli_ids("eval", "--decoder-tokens", optarg, &o->decoder_tokens, &o->n_decoder_tokens);
	case 'g':
		return cli_u32("eval", "--greedy", optarg, 0, 1u << 20, &o->greedy);
	case 's':
		return cli_u32("eval", "--stages", optarg, 1, PIPELINE_MAX_STAGES, &o->stages);
	case O_WIRE:
		return pipeline_wire_option("eval", optarg, &o->wire);
	case O_KV:
		return pipeline_kv_option("eval", optarg, &o->kv);
	case O_CTX:
		return cli_u32("eval", "--ctx", optarg, 1, 1u << 24, &o->ctx);
	case 'n':
		return cli_u32("eval", "--threads", optarg, 0, 1024, &o->threads);
	default:
		return true;
	}
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct eval_opts *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'l')
			o->logits_path = optarg;
		else if (c == O_EMBEDDINGS)
			o->embeddings_path = optarg;
		else if (c == O_POOLED)
			o->pooled_path = optarg;
		else if (c == O_FILL)
			o->fill = true;
		else if (c == 'd')
			o->device = optarg;
		else if (c == O_DUMP)
			o->dump = optarg;
		else if (c == '1')
			o->one_by_one = true;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else if (c == '?')
			return cli_see_help("eval");
		else if (!take_value(c, o))
			return CLI_USAGE;
	}
	if (optind + 1 != argc)
		return cli_usage("eval", "expected one MODEL, found %d", argc - optind);
	if (o->n_tokens == 0)
		return cli_usage("eval", "--tokens is missing or empty");
	if (o->decoder_tokens != NULL && o->n_decoder_tokens == 0)
		return cli_usage("eval", "--decoder-tokens is empty");
	o->model = argv[optind];
	return -1;
}

static bool is_seq2seq(const struct eval *e)
{
	return e->hp.n_layers_enc > 0;
}

static bool wants_embeddings(const struct eval_opts *o)
{
	return o->embeddings_path != NULL || o->pooled_path != NULL;
}

/* What goes to the model's decoder, or to the whole of a decoder-only model. */
static const int32_t *main_tokens(const struct eval *e, size_t *n_out)
{
	const struct eval_opts *o = e->o;

	if (!is_seq2seq(e)) {
		*n_out = o->n_tokens;
		return o->tokens;
	}
	*n_out = o->n_decoder_tokens > 0 ? o->n_decoder_tokens : 1;
	return o->n_decoder_tokens > 0 ? o->decoder_tokens : &e->start;
}

/* Options that the model has no use for are mistakes. */
static int check_options(struct eval *e, struct ps_err *err)
{
	const struct eval_opts *o = e->o;
	bool embeds = e->hp.task == MODEL_TASK_EMBED;

	if (o->decoder_tokens != NULL && !is_seq2seq(e))
		return ps_err_set(err, -EINVAL,
				  "%s: --decoder-tokens: %s models have no decoder beside an encoder",
				  o->model, e->hp.arch);
	if (embeds && o->greedy > 0)
		return ps_err_set(err, -EINVAL, "%s: --greedy: %s models have no next token", o->model,
				  e->hp.arch);
	if (wants_embeddings(o) && !embeds && !is_seq2seq(e))
		return ps_err_set(
		    err, -EINVAL,
		    "%s: --embeddings and --pooled: %s models have no encoder; ask for --logits", o->model,
		    e->hp.arch);
	if (o->fill && !e->hp.has_fill)
		return ps_err_set(err, -EINVAL, "%s: --fill: the file has no masked-language-model head",
				  o->model);
	if (embeds && o->logits_path != NULL && !e->hp.has_fill)
		return ps_err_set(err, -EINVAL,
				  "%s: --logits: the file has no head for them; ask for --embeddings",
				  o->model);
	if (is_seq2seq(e) && o->decoder_tokens == NULL && e->hp.decoder_start < 0)
		return ps_err_set(err, -EINVAL,
				  "%s: the file names no decoder start token: give --decoder-tokens",
				  o->model);
	e->start = e->hp.decoder_start;
	return 0;
}

/* Positions that the run needs: the last token generated is not fed. */
static int choose_context(const struct eval *e, uint32_t *ctx_out, struct ps_err *err)
{
	const struct eval_opts *o = e->o;
	size_t n_main, need;

	main_tokens(e, &n_main);
	need = n_main + (o->greedy > 0 ? o->greedy - 1 : 0);
	if (is_seq2seq(e) && o->n_tokens > need)
		need = o->n_tokens;
	if (o->ctx != 0 && need > o->ctx)
		return ps_err_set(
		    err, -EINVAL,
		    "%s: %zu tokens and %u more need %zu positions of context, --ctx is %u: raise it "
		    "or take fewer tokens",
		    o->model, n_main, o->greedy, need, o->ctx);
	if (e->hp.n_ctx_max != 0 && need > e->hp.n_ctx_max)
		return ps_err_set(
		    err, -EINVAL,
		    "%s: %zu tokens and %u more need %zu positions of context, the model has %u: "
		    "take fewer tokens",
		    o->model, n_main, o->greedy, need, e->hp.n_ctx_max);
	*ctx_out = o->ctx != 0 ? o->ctx : (uint32_t)need;
	/* All that fits the model fits this; no number of the run depends on the rest. */
	if (e->hp.n_ctx_max != 0 && *ctx_out > e->hp.n_ctx_max) {
		fprintf(stderr, "penstock eval: --ctx %u: the model has positions for %u, taken instead\n",
			o->ctx, e->hp.n_ctx_max);
		*ctx_out = e->hp.n_ctx_max;
	}
	/* No error: a reference run may go on there, and some models do well. */
	if (need > e->hp.n_ctx_train)
		fprintf(
		    stderr,
		    "penstock eval: %zu positions, but the model was trained on %u: results from there on "
		    "may be worth little\n",
		    need, e->hp.n_ctx_train);
	return 0;
}

/* Rows of a message: an encoder's tokens come whole, others in pieces. */
static uint32_t choose_rows(const struct eval *e)
{
	const struct eval_opts *o = e->o;
	uint32_t piece = o->one_by_one ? 1 : EVAL_MAX_TOKENS, whole;
	size_t n_main;

	main_tokens(e, &n_main);
	whole = is_seq2seq(e) || e->hp.task == MODEL_TASK_EMBED ? (uint32_t)o->n_tokens : 1;
	if (e->hp.task == MODEL_TASK_EMBED)
		return whole;
	if (piece > n_main)
		piece = (uint32_t)n_main;
	return piece > whole ? piece : whole;
}

/* Hidden states to a file. */
static int write_values(struct eval *e, const char *path, bool pooled, struct ps_err *err)
{
	struct pipeline_values v = {0};
	FILE *f;
	bool ok;
	int rc = pipeline_embed(e->p, e->o->tokens, (uint32_t)e->o->n_tokens, pooled, &v, err);

	if (rc != 0)
		return rc;
	f = fopen(path, "wb");
	if (f == NULL)
		return ps_err_set(err, -EIO, "%s: cannot write: %s", path, strerror(errno));
	ok = fwrite(v.rows, sizeof(float) * v.width, v.n_rows, f) == v.n_rows;
	if (fclose(f) != 0 || !ok)
		return ps_err_set(err, -EIO, "%s: could not be written whole: is the disk full?", path);
	return 0;
}

static int embed(struct eval *e, struct ps_err *err)
{
	int rc = 0;

	if (e->o->embeddings_path != NULL)
		rc = write_values(e, e->o->embeddings_path, false, err);
	if (rc == 0 && e->o->pooled_path != NULL)
		rc = write_values(e, e->o->pooled_path, true, err);
	return rc;
}

/* [{"position": 5, "best": [[id, probability], ...]}, ...] */
static void collect_fills(struct eval *e, const struct pipeline_values *v)
{
	uint32_t i, k;

	for (i = 0; i < v->n_rows; i++) {
		const float *pairs = v->rows + (size_t)i * v->width; /* [ACT_FILL_BEST, 2] */
		json_t *best = json_array();

		for (k = 0; k < ACT_FILL_BEST && pairs[2 * k] >= 0; k++)
			json_array_append_new(
			    best, json_pack("[I, f]", (json_int_t)pairs[2 * k], (double)pairs[2 * k + 1]));
		json_array_append_new(
		    e->fills, json_pack("{s:I, s:o}", "position", (json_int_t)v->positions[i], "best", best));
	}
}

/* A model that embeds: all in one pass, or in the fill pass where its head is asked for. */
static int run_encoder_only(struct eval *e, struct ps_err *err)
{
	const struct eval_opts *o = e->o;
	struct pipeline_values v = {0};
	uint64_t t0 = ps_now_ns();
	int rc = 0;

	if (o->fill || o->logits_path != NULL) {
		rc = pipeline_fill(e->p, o->tokens, (uint32_t)o->n_tokens, o->fill, &v, err);
		if (rc == 0 && o->fill && v.n_rows == 0)
			rc = ps_err_set(err, -EINVAL, "%s: --fill: none of the tokens is the mask token",
					o->model);
		if (rc == 0)
			collect_fills(e, &v);
	} else if (!wants_embeddings(o)) {
		rc = pipeline_embed(e->p, o->tokens, (uint32_t)o->n_tokens, true, &v, err);
	}
	if (rc == 0)
		rc = embed(e, err);
	e->prompt_ns = ps_now_ns() - t0;
	return rc;
}

static int feed_prompt(struct eval *e, int32_t *next, struct ps_err *err)
{
	size_t n, i;
	const int32_t *tokens = main_tokens(e, &n);
	int rc = 0;

	if (!e->o->one_by_one)
		return pipeline_feed(e->p, tokens, (uint32_t)n, 0, next, err);
	for (i = 0; i < n && rc == 0; i++)
		rc = pipeline_feed(e->p, tokens + i, 1, (uint32_t)i, next, err);
	return rc;
}

static int generate(struct eval *e, int32_t next, struct ps_err *err)
{
	size_t n;
	uint32_t i;
	int rc = 0;

	main_tokens(e, &n);
	for (i = 0; i < e->o->greedy && rc == 0; i++) {
		json_array_append_new(e->ids, json_integer(next));
		if (i + 1 < e->o->greedy)
			rc = pipeline_feed(e->p, &next, 1, (uint32_t)n + i, &next, err);
	}
	return rc;
}

static int run_main(struct eval *e, struct ps_err *err)
{
	uint64_t t0 = ps_now_ns();
	int32_t next = -1;
	int rc = feed_prompt(e, &next, err);

	e->prompt_ns = ps_now_ns() - t0;
	t0 = ps_now_ns();
	if (rc == 0)
		rc = generate(e, next, err);
	e->gen_ns = ps_now_ns() - t0;
	e->decoded = true;
	return rc;
}

/* The encoder; and the decoder, unless all that is wanted are the encoder's embeddings. */
static int run_seq2seq(struct eval *e, struct ps_err *err)
{
	const struct eval_opts *o = e->o;
	bool decodes =
	    o->logits_path != NULL || o->greedy > 0 || o->decoder_tokens != NULL || !wants_embeddings(o);
	uint64_t t0 = ps_now_ns();
	int rc = wants_embeddings(o) ? embed(e, err)
				     : pipeline_encode(e->p, o->tokens, (uint32_t)o->n_tokens, err);

	e->encode_ns = ps_now_ns() - t0;
	e->encoded = true;
	return rc == 0 && decodes ? run_main(e, err) : rc;
}

static const char *pooling_name(enum model_pooling pooling)
{
	return pooling == MODEL_POOL_CLS ? "cls" : pooling == MODEL_POOL_LAST ? "last" : "mean";
}

static void print_result(const struct eval *e, uint32_t ctx)
{
	const struct eval_opts *o = e->o;
	struct accel_caps caps;
	json_t *out;
	size_t n;

	pipeline_caps(e->p, &caps);
	out = json_pack("{s:O, s:I, s:I, s:I, s:f, s:f, s:s, s:s, s:I, s:I}", "greedy", e->ids, "n_tokens",
			(json_int_t)o->n_tokens, "n_vocab", (json_int_t)e->hp.n_vocab, "stages",
			(json_int_t)o->stages, "prompt_ms", (double)e->prompt_ns / 1e6, "generate_ms",
			(double)e->gen_ns / 1e6, "device", caps.device, "isa", caps.isa, "threads",
			(json_int_t)caps.n_threads, "kv_bytes", (json_int_t)caps.kv_bytes);
	json_object_update_new(out,
			       json_pack("{s:s, s:s, s:I, s:I, s:b, s:I}", "kv", pipeline_kv_name(o->kv),
					 "wire", act_dtype_name(o->wire), "ctx", (json_int_t)ctx, "n_embd",
					 (json_int_t)e->hp.n_embd, "one_by_one", o->one_by_one && e->decoded,
					 "cut_values", (json_int_t)pipeline_cut_values(e->p)));
	if (e->encoded)
		json_object_set_new(out, "encode_ms", json_real((double)e->encode_ns / 1e6));
	if (e->encoded && e->decoded) {
		main_tokens(e, &n);
		json_object_set_new(out, "n_decoder_tokens", json_integer((json_int_t)n));
	}
	if (o->pooled_path != NULL)
		json_object_set_new(out, "pooling", json_string(pooling_name(e->hp.pooling)));
	if (o->fill)
		json_object_set(out, "fill", e->fills);
	json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(out);
}

static int open_pipeline(struct eval *e, const struct gguf *g, uint32_t *ctx_out, struct ps_err *err)
{
	const struct eval_opts *o = e->o;
	struct pipeline_cfg cfg = {
	    .gguf = g,
	    .n_stages = o->stages,
	    .device = o->device,
	    .n_threads = o->threads,
	    .kv = o->kv,
	    .act_dtype = o->wire,
	    .logits = o->logits_path != NULL ? write_rows : NULL,
	    .logits_ctx = e->logits,
	};
	size_t n;
	int rc = model_read_hparams(g, &e->hp, err);

	if (rc == 0)
		rc = check_options(e, err);
	if (rc == 0)
		rc = choose_context(e, &cfg.n_ctx, err);
	if (rc == 0 && o->dump != NULL) {
		rc = dump_open(&e->dump, o->dump, err);
		cfg.trace = (struct accel_trace){.fn = dump_op, .ctx = &e->dump};
	}
	if (rc != 0)
		return rc;
	cfg.max_tokens = choose_rows(e);
	main_tokens(e, &n);
	e->logits->rows_left = n;
	*ctx_out = cfg.n_ctx;
	return pipeline_open(&cfg, &e->p, err);
}

static int eval(const struct eval_opts *o, struct eval_sink *sink, struct ps_err *err)
{
	struct eval e = {.o = o, .logits = sink, .ids = json_array(), .fills = json_array()};
	struct gguf *g = NULL;
	uint32_t ctx = 0;
	int rc = gguf_open(o->model, &g, err);

	if (rc == 0)
		rc = open_pipeline(&e, g, &ctx, err);
	if (rc == 0 && e.hp.task == MODEL_TASK_EMBED)
		rc = run_encoder_only(&e, err);
	else if (rc == 0)
		rc = is_seq2seq(&e) ? run_seq2seq(&e, err) : run_main(&e, err);
	if (rc == 0 && o->dump != NULL)
		rc = dump_close(&e.dump, err);
	if (rc == 0)
		print_result(&e, ctx);
	pipeline_close(e.p);
	gguf_close(g);
	json_decref(e.ids);
	json_decref(e.fills);
	return rc;
}

static int run_with_sink(const struct eval_opts *o)
{
	struct eval_sink sink = {.path = o->logits_path};
	struct ps_err err = {{0}};
	int rc;

	if (sink.path != NULL) {
		sink.f = fopen(sink.path, "wb");
		if (sink.f == NULL)
			return cli_fail("eval", "%s: cannot write: %s", sink.path, strerror(errno));
	}
	rc = eval(o, &sink, &err);
	if (sink.f != NULL && fclose(sink.f) != 0)
		sink.failed = true;
	if (rc != 0)
		return cli_fail("eval", "%s", err.msg);
	if (sink.failed)
		return cli_fail("eval", "%s: could not be written whole: is the disk full?", sink.path);
	return CLI_OK;
}

int cmd_eval(int argc, char **argv)
{
	struct eval_opts o = {.device = "cpu", .stages = 1};
	int rc = parse_args(argc, argv, &o);

	if (rc < 0)
		rc = run_with_sink(&o);
	free(o.tokens);
	free(o.decoder_tokens);
	return rc;
}
