/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What element types of activations on the wire and of the KV cache cost a
 * model's accuracy: one run in float32, then one for each type, all else equal.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/accuracy.h"
#include "cli/bench.h"
#include "cli/cli.h"

#define CMD "bench accuracy"

static const char usage[] =
    "usage: penstock bench accuracy MODEL [--text FILE | --tokens-file FILE] [options]\n\n"
    "Measures what element types of the activations between stages and of the KV cache cost: the\n"
    "model runs over a text in float32, then once with each type, cut into the same stages.\n"
    "Perplexity is over windows of the context that overlap by half, each token scored once; greedy\n"
    "continuations of places in the text are compared token by token. For T5 perplexity is of spans left\n"
    "out of the text; for BERT of masked tokens, beside their choice and the error of embeddings.\n\n"
    "  --text FILE         a text; blank lines part it into documents (models/held-out.txt)\n"
    "  --tokens-file FILE  token ids instead, parted by commas or white space\n"
    "  --limit N           at most N tokens of it (16384)\n"
    "  --stages N          block ranges that pass batch messages (2)\n"
    "  --wire LIST         of f32,f16,bf16,q8 (all)\n"
    "  --kv LIST           of f32,f16,q8_0 (all)\n"
    "  --ctx N             positions of a window (the model's context, at most 512)\n"
    "  --prompts N         greedy continuations; 0: none (16)\n"
    "  --greedy N          tokens of each (64)\n"
    "  --device D          cpu or cpu-ref (cpu)\n"
    "  --threads N         compute threads; 0: one a core (0)\n"
    "  --json              one JSON object on one line instead of a table\n";

/* ---- options --------------------------------------------------------------------------------- */

/* "a,b" to flags. */
static bool take_wires(const char *list, struct acc_opts *o)
{
	char copy[128], *word, *save = NULL;
	enum act_dtype t;

	memset(o->wire, 0, sizeof(o->wire));
	o->wire_given = true;
	snprintf(copy, sizeof(copy), "%s", list);
	for (word = strtok_r(copy, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) {
		if (!pipeline_wire_option(CMD, word, &t))
			return false;
		o->wire[t] = true;
	}
	return true;
}

static bool take_kvs(const char *list, struct acc_opts *o)
{
	char copy[128], *word, *save = NULL;
	enum accel_kv_dtype t;

	memset(o->kv, 0, sizeof(o->kv));
	snprintf(copy, sizeof(copy), "%s", list);
	for (word = strtok_r(copy, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) {
		if (!pipeline_kv_option(CMD, word, &t))
			return false;
		o->kv[t] = true;
	}
	return true;
}

static bool take_value(int c, struct acc_opts *o)
{
	switch (c) {
	case 'l':
		return cli_u32(CMD, "--limit", optarg, 2, 1u << 24, &o->limit);
	case 's':
		return cli_u32(CMD, "--stages", optarg, 1, PIPELINE_MAX_STAGES, &o->stages);
	case 'w':
		return take_wires(optarg, o);
	case 'k':
		return take_kvs(optarg, o);
	case 'c':
		return cli_u32(CMD, "--ctx", optarg, 16, 1u << 16, &o->ctx);
	case 'p':
		return cli_u32(CMD, "--prompts", optarg, 0, 1024, &o->prompts);
	case 'g':
		return cli_u32(CMD, "--greedy", optarg, 1, 1u << 16, &o->greedy);
	default:
		return cli_u32(CMD, "--threads", optarg, 0, 1024, &o->threads);
	}
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct acc_opts *o)
{
	static const struct option longs[] = {
	    {"text", required_argument, NULL, 't'},    {"tokens-file", required_argument, NULL, 'i'},
	    {"limit", required_argument, NULL, 'l'},   {"stages", required_argument, NULL, 's'},
	    {"wire", required_argument, NULL, 'w'},    {"kv", required_argument, NULL, 'k'},
	    {"ctx", required_argument, NULL, 'c'},     {"prompts", required_argument, NULL, 'p'},
	    {"greedy", required_argument, NULL, 'g'},  {"device", required_argument, NULL, 'd'},
	    {"threads", required_argument, NULL, 'n'}, {"json", no_argument, NULL, 'j'},
	    {"help", no_argument, NULL, 'h'},          {0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 't')
			o->text = optarg;
		else if (c == 'i')
			o->ids = optarg;
		else if (c == 'd')
			o->device = optarg;
		else if (c == 'j')
			o->json = true;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else if (c == '?')
			return cli_see_help(CMD);
		else if (!take_value(c, o))
			return CLI_USAGE;
	}
	if (optind + 1 != argc)
		return cli_usage(CMD, "expected one MODEL, found %d", argc - optind);
	if (o->text != NULL && o->ids != NULL)
		return cli_usage(CMD, "--text and --tokens-file are both given: take one");
	if (o->wire_given && o->stages == 1)
		return cli_usage(CMD, "--wire with --stages 1: one stage sends no activations");
	o->model = argv[optind];
	return -1;
}

/* ---- results --------------------------------------------------------------------------------- */

/* Choices before the first that differs, of one continuation. */
static uint32_t same_choices(const struct acc *a, const struct acc_row *row, uint32_t prompt)
{
	const int32_t *x = a->rows[0].choices + (size_t)prompt * a->greedy;
	const int32_t *y = row->choices + (size_t)prompt * a->greedy;
	uint32_t i = 0;

	while (i < a->greedy && x[i] == y[i])
		i++;
	return i;
}

struct divergence {
	uint32_t equal;         /* continuations that are the same to the end */
	uint32_t first, median; /* tokens before the first difference: least, and median over all */
	double share;           /* choices before a difference, of all */
};

static int cmp_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Masked places are continuations of one token. */
static struct divergence diverge(const struct acc *a, const struct acc_row *row)
{
	uint32_t n = a->n_prompts, i, same[1024];
	struct divergence d = {0};
	uint64_t sum = 0;

	if (a->hp.task == MODEL_TASK_EMBED) {
		for (i = 0; i < a->n_choices; i++)
			sum += row->choices[i] == a->rows[0].choices[i];
		d.share = a->n_choices > 0 ? (double)sum / a->n_choices : 0;
		return d;
	}
	for (i = 0; i < n; i++) {
		same[i] = same_choices(a, row, i);
		d.equal += same[i] == a->greedy;
		sum += same[i];
	}
	if (n == 0)
		return d;
	qsort(same, n, sizeof(same[0]), cmp_u32);
	d.first = same[0];
	d.median = same[n / 2];
	d.share = (double)sum / ((double)n * a->greedy);
	return d;
}

static double perplexity(const struct acc_row *row)
{
	return exp(row->nll / (double)row->scored);
}

static json_t *real_or_null(bool there, double value)
{
	return there ? json_real(value) : json_null();
}

static json_t *row_json(const struct acc *a, const struct acc_row *row)
{
	struct divergence d = diverge(a, row);
	bool embeds = a->hp.task == MODEL_TASK_EMBED, continues = !embeds && a->n_prompts > 0;
	json_t *j = json_pack("{s:s, s:s, s:I, s:I}", "wire", act_dtype_name(row->wire), "kv",
			      pipeline_kv_name(row->kv), "bytes_per_token",
			      (json_int_t)act_row_bytes(row->wire, a->hp.n_embd), "cut_values",
			      (json_int_t)row->cut_values);

	json_object_set_new(j, "perplexity", real_or_null(row->scored > 0, perplexity(row)));
	json_object_set_new(j, "perplexity_change",
			    real_or_null(row->scored > 0, perplexity(row) / perplexity(&a->rows[0]) - 1));
	json_object_set_new(j, "equal_share", real_or_null(a->n_choices > 0, d.share));
	if (continues) {
		json_object_set_new(j, "prompts_equal", json_integer(d.equal));
		json_object_set_new(j, "first_difference_min",
				    d.first < a->greedy ? json_integer(d.first) : json_null());
		json_object_set_new(j, "first_difference_median",
				    d.median < a->greedy ? json_integer(d.median) : json_null());
	}
	if (embeds)
		json_object_set_new(j, "embedding_nmse", json_real(row->diff2 / row->base2));
	return j;
}

static void print_json(const struct acc *a)
{
	json_t *rows = json_array(), *j;
	uint32_t i;

	for (i = 0; i < a->n_rows; i++)
		json_array_append_new(rows, row_json(a, &a->rows[i]));
	j = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "model",
		      a->o->model, "arch", a->hp.arch, "device", a->caps.device, "isa", a->caps.isa,
		      "threads", (json_int_t)a->caps.n_threads, "stages", (json_int_t)a->stages,
		      "text_tokens", (json_int_t)a->corpus.n, "ctx", (json_int_t)a->window, "scored",
		      (json_int_t)a->rows[0].scored, "prompts", (json_int_t)a->n_prompts, "prompt_tokens",
		      (json_int_t)a->prompt, "greedy", (json_int_t)a->greedy, "rows", rows);
	CHECK(j != NULL || json_array_size(rows) > 0);
	if (j == NULL) /* A path that is not UTF-8. */
		j = json_pack("{s:s, s:o}", "model", "(not UTF-8)", "rows", rows);
	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(j);
}

static void print_row(const struct acc *a, const struct acc_row *row)
{
	struct divergence d = diverge(a, row);
	bool base = row == &a->rows[0];

	printf("%-5s %-5s %10zu", act_dtype_name(row->wire), pipeline_kv_name(row->kv),
	       act_row_bytes(row->wire, a->hp.n_embd));
	if (row->scored > 0)
		printf("  %10.4f %+9.4f%%", perplexity(row),
		       100 * (perplexity(row) / perplexity(&a->rows[0]) - 1));
	else
		printf("  %10s %10s", "-", "-");
	if (a->n_choices > 0 && !base)
		printf("  %6.2f%%", 100 * d.share);
	else
		printf("  %7s", "-");
	if (a->hp.task == MODEL_TASK_EMBED)
		printf("  %.2e", row->diff2 / row->base2);
	else if (base || a->n_prompts == 0)
		printf("  %9s  %5s  %6s", "-", "-", "-");
	else if (d.equal == a->n_prompts)
		printf("  %4u/%-4u  %5s  %6s", d.equal, a->n_prompts, "none", "none");
	else if (d.median == a->greedy)
		printf("  %4u/%-4u  %5u  %6s", d.equal, a->n_prompts, d.first, "none");
	else
		printf("  %4u/%-4u  %5u  %6u", d.equal, a->n_prompts, d.first, d.median);
	printf("  %llu\n", (unsigned long long)row->cut_values);
}

static void print_table(const struct acc *a)
{
	bool embeds = a->hp.task == MODEL_TASK_EMBED;
	uint32_t i;

	printf("model   %s: %s %s, %u blocks in %u stages\n", a->o->model, a->hp.arch, a->hp.name,
	       a->hp.n_layers, a->stages);
	printf("device  %s (%s), %u threads\n", a->caps.device, a->caps.isa, a->caps.n_threads);
	printf("text    %zu tokens", a->corpus.n);
	if (a->rows[0].scored > 0)
		printf(", %llu scored, context %u", (unsigned long long)a->rows[0].scored, a->window);
	if (!embeds)
		printf("; %u prompts of %u tokens and %u greedy ones each", a->n_prompts, a->prompt,
		       a->greedy);
	printf("\n\n%-5s %-5s %10s  %10s %10s  %7s  %s  %s\n", "wire", "kv", "B/token", "perplexity",
	       "change", "same", embeds ? "emb NMSE" : "    equal  first  median", "cut");
	for (i = 0; i < a->n_rows; i++)
		print_row(a, &a->rows[i]);
}

/* ---- preparation ----------------------------------------------------------------------------- */

static void add_row(struct acc *a, enum act_dtype wire, enum accel_kv_dtype kv)
{
	a->rows[a->n_rows++] = (struct acc_row){.wire = wire, .kv = kv};
}

static void choose_rows(struct acc *a)
{
	uint32_t t;

	add_row(a, ACT_F32, ACCEL_KV_F32);
	for (t = ACT_F16; t < ACT_N_DTYPES && a->stages > 1; t++) {
		if (a->o->wire[t])
			add_row(a, (enum act_dtype)t, ACCEL_KV_F32);
	}
	for (t = ACCEL_KV_F16; t < ACC_N_KV; t++) {
		if (a->o->kv[t])
			add_row(a, ACT_F32, (enum accel_kv_dtype)t);
	}
}

/* Window, prompts and stages by the model and the options. */
static int choose_sizes(struct acc *a, struct ps_err *err)
{
	const struct acc_opts *o = a->o;
	const struct model_hparams *hp = &a->hp;
	uint32_t model_ctx = hp->n_ctx_max != 0 ? hp->n_ctx_max : hp->n_ctx_train, id;

	a->stages = o->stages != 0 ? o->stages : hp->n_layers < 2 ? 1 : 2;
	a->window = o->ctx != 0 ? o->ctx : ACC_MAX_WINDOW;
	if (o->ctx == 0 && model_ctx != 0 && model_ctx < a->window)
		a->window = model_ctx;
	if (hp->n_ctx_max != 0 && a->window > hp->n_ctx_max)
		return ps_err_set(err, -EINVAL, "%s: --ctx %u: the model has %u positions", o->model,
				  a->window, hp->n_ctx_max);
	if (hp->task == MODEL_TASK_EMBED && a->window > ACC_MAX_WINDOW)
		return ps_err_set(err, -EINVAL, "%s: --ctx %u: at most %u for %s models", o->model, a->window,
				  ACC_MAX_WINDOW, hp->arch);
	if (hp->n_layers_enc > 0 && a->window < ACC_SPAN_PIECE + 8)
		return ps_err_set(err, -EINVAL, "%s: a context of %u: at least %u are needed", o->model,
				  a->window, ACC_SPAN_PIECE + 8);
	if (hp->n_layers_enc > 0 && hp->decoder_start < 0)
		return ps_err_set(err, -EINVAL, "%s: the file names no decoder start token", o->model);
	a->prompt = ACC_PROMPT_TOKENS < a->window / 2 ? ACC_PROMPT_TOKENS : a->window / 2;
	a->greedy = o->greedy < a->window - a->prompt ? o->greedy : a->window - a->prompt;
	a->n_prompts = hp->task == MODEL_TASK_EMBED ? 0 : o->prompts;
	a->mask = hp->has_fill && gguf_get_u32(a->g, "tokenizer.ggml.mask_token_id", &id) && id < hp->n_vocab
		      ? (int32_t)id
		      : -1;
	return 0;
}

static int read_corpus(struct acc *a, struct ps_err *err)
{
	static const char source[] = PENSTOCK_SOURCE_DIR "/models/held-out.txt";
	const struct acc_opts *o = a->o;
	const char *text = o->text;
	bool bare = a->hp.task == MODEL_TASK_EMBED || a->hp.n_layers_enc > 0; /* wrapped piece by piece */
	int rc;

	if (text == NULL)
		text = access(source, R_OK) == 0 ? source : PENSTOCK_DATA_DIR "/models/held-out.txt";
	if (o->ids != NULL)
		rc = corpus_read_ids(&a->corpus, o->ids, a->hp.n_vocab, o->limit, err);
	else
		rc = corpus_read_text(&a->corpus, a->g, text, bare, o->limit, err);
	if (rc == 0 && a->corpus.n < a->prompt + 1)
		rc = ps_err_set(err, -EINVAL, "%zu tokens of text: at least %u are needed", a->corpus.n,
				a->prompt + 1);
	return rc;
}

static int allocate(struct acc *a, struct ps_err *err)
{
	bool embeds = a->hp.task == MODEL_TASK_EMBED, ok;
	size_t pieces = 1 + a->corpus.n / accuracy_piece_tokens(a);
	uint32_t i;

	a->n_choices = !embeds ? a->n_prompts * a->greedy : a->mask >= 0 ? accuracy_count_masked(a) : 0;
	a->targets = calloc(a->window + ACC_SPAN_PIECE, sizeof(*a->targets));
	ok = a->targets != NULL;
	if (embeds) {
		a->rows[0].hidden = malloc((a->corpus.n + 8 * pieces) * a->hp.n_embd *
					   sizeof(float)); /* with what is around */
		ok = ok && a->rows[0].hidden != NULL;
	}
	for (i = 0; i < a->n_rows; i++) {
		a->rows[i].choices = calloc((size_t)a->n_choices + 1, sizeof(int32_t));
		ok = ok && a->rows[i].choices != NULL;
	}
	return ok ? 0 : ps_err_set(err, -ENOMEM, "out of memory");
}

static int measure(struct acc *a, struct ps_err *err)
{
	uint32_t i;
	int rc = model_read_hparams(a->g, &a->hp, err);

	if (rc == 0)
		rc = choose_sizes(a, err);
	if (rc == 0)
		rc = read_corpus(a, err);
	if (rc != 0)
		return rc;
	choose_rows(a);
	rc = allocate(a, err);
	for (i = 0; i < a->n_rows && rc == 0; i++)
		rc = accuracy_run(a, &a->rows[i], err);
	if (rc != 0)
		return rc;
	if (a->o->json)
		print_json(a);
	else
		print_table(a);
	return 0;
}

int bench_accuracy(int argc, char **argv)
{
	struct acc_opts o = {.device = "cpu",
			     .limit = 16384,
			     .prompts = 16,
			     .greedy = 64,
			     .wire = {true, true, true, true},
			     .kv = {true, true, true}};
	struct acc a = {.o = &o};
	struct ps_err err = {{0}};
	struct gguf *g = NULL;
	uint32_t i;
	int rc = parse_args(argc, argv, &o);

	if (rc >= 0)
		return rc;
	rc = gguf_open(o.model, &g, &err);
	a.g = g;
	if (rc == 0)
		rc = measure(&a, &err);
	for (i = 0; i < a.n_rows; i++) {
		free(a.rows[i].choices);
		free(a.rows[i].hidden);
	}
	free(a.targets);
	corpus_free(&a.corpus);
	gguf_close(g);
	return rc == 0 ? CLI_OK : cli_fail(CMD, "%s", err.msg);
}
