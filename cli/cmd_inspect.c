/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "model/graph.h"

#define MAX_STAGES     64u
#define DEFAULT_STAGES 3u
#define MAX_DTYPES     64u /* numbers of element types in the file format stay below */
#define VALUE_CAP      400u
#define VALUE_ITEMS    6u

static const char usage[] =
    "usage: penstock inspect FILE.gguf [--keys] [--tensors] [--stages N] [--json]\n\n"
    "Says what is in a model file: architecture, hyperparameters, what it gives (logits or\n"
    "embeddings), how it tells positions apart, sliding windows, passes, tensor types, the bytes\n"
    "of each block, and how it would be cut into stages; and why, if it cannot be run. Reads no\n"
    "weights. The megabytes of a stage are what one token makes it read: of an embedding table\n"
    "a row, but all of one that is the output matrix too.\n\n"
    "  --keys       also every key of the metadata (arrays: their first items)\n"
    "  --tensors    also every tensor\n"
    "  --stages N   stages of the cut that is proposed (3, or one a block if there are fewer)\n"
    "  --json       one JSON object instead of text\n";

struct inspect {
	const struct gguf *g;
	uint32_t stages;
	bool keys, tensors, json, has_hp;
	struct model_hparams hp;
	struct model_graph *graph; /* of all blocks, NULL if the model cannot be run */
	struct ps_err why_not;     /* if so */
	uint64_t type_bytes[MAX_DTYPES];
	uint64_t type_count[MAX_DTYPES];
	uint64_t *block_bytes; /* [n_layers] */
	uint64_t all_bytes, outside_bytes;
	uint32_t cuts[MAX_STAGES + 1];
	bool has_cuts;
	struct ps_err no_cuts; /* if !has_cuts */
};

static const char *type_name(enum gguf_type t)
{
	static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
					    "bool", "string", "array", "u64", "i64", "f64"};

	return (size_t)t < sizeof(names) / sizeof(names[0]) ? names[t] : "?";
}

/* Bytes of a file for a terminal or for JSON: control characters and what is no UTF-8 become '?'. */
static const char *clean(const char *text, char *buf, size_t cap)
{
	json_t *valid;
	size_t i;

	snprintf(buf, cap, "%s", text);
	for (i = 0; buf[i] != '\0'; i++) {
		if ((unsigned char)buf[i] < 0x20 || buf[i] == 0x7f)
			buf[i] = '?';
	}
	valid = json_string(buf);
	for (i = 0; valid == NULL && buf[i] != '\0'; i++) {
		if ((unsigned char)buf[i] >= 0x80)
			buf[i] = '?';
	}
	json_decref(valid);
	return buf;
}

static void count_tensors(struct inspect *in)
{
	size_t i;

	for (i = 0; i < gguf_n_tensors(in->g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(in->g, i);
		uint32_t layer;

		in->all_bytes += t->n_bytes;
		if ((size_t)t->dtype < MAX_DTYPES) {
			in->type_bytes[t->dtype] += t->n_bytes;
			in->type_count[t->dtype]++;
		}
		if (in->block_bytes != NULL && model_tensor_block(&in->hp, t->name, &layer))
			in->block_bytes[layer] += t->n_bytes;
		else
			in->outside_bytes += t->n_bytes;
	}
}

static int examine(struct inspect *in, struct ps_err *err)
{
	in->has_hp = model_read_hparams(in->g, &in->hp, &in->why_not) == 0;
	if (in->has_hp) {
		in->block_bytes = calloc((size_t)in->hp.n_layers + 1, sizeof(*in->block_bytes));
		if (in->block_bytes == NULL)
			return ps_err_set(err, -ENOMEM, "out of memory for %u blocks", in->hp.n_layers);
		if (in->stages == 0)
			in->stages = in->hp.n_layers < DEFAULT_STAGES ? in->hp.n_layers : DEFAULT_STAGES;
		in->has_cuts =
		    in->stages > 0 && model_split_even(in->g, in->stages, in->cuts, &in->no_cuts) == 0;
		if (!in->has_cuts && in->stages > 0)
			return ps_err_set(err, -EINVAL, "%s", in->no_cuts.msg);
		if (model_graph_build(in->g, 0, in->hp.n_layers, &in->graph, &in->why_not) < 0)
			in->graph = NULL;
	}
	count_tensors(in);
	return 0;
}

static double mb(uint64_t bytes)
{
	return (double)bytes / 1e6;
}

static const char *const pass_names[MODEL_N_PASSES] = {"main", "encode", "fill"};

static const char *pooling_name(enum model_pooling pooling)
{
	static const char *const names[] = {"none", "mean", "cls", "last"};

	return (size_t)pooling < sizeof(names) / sizeof(names[0]) ? names[pooling] : "?";
}

static const char *task_name(enum model_task task)
{
	return task == MODEL_TASK_GENERATE ? "generate" : "embed";
}

/* Operation of attention of a block, of any pass; NULL where there is none. */
static const struct model_op *attention_of(const struct model_graph *graph, uint32_t layer)
{
	uint32_t i;

	if (graph->encode != NULL && layer < graph->hp.n_layers_enc)
		graph = graph->encode;
	for (i = 0; i < graph->n_ops; i++) {
		if (graph->ops[i].kind == MODEL_OP_ATTN && graph->ops[i].layer == layer)
			return &graph->ops[i];
	}
	return NULL;
}

static void print_task(const struct model_hparams *hp)
{
	if (hp->n_layers_enc != 0)
		printf("             an encoder of %u blocks, then a decoder of %u\n", hp->n_layers_enc,
		       hp->n_layers - hp->n_layers_enc);
	if (hp->task == MODEL_TASK_GENERATE)
		printf("             gives logits, from which it generates\n");
	else
		printf("             gives embeddings, pooling %s%s\n", pooling_name(hp->pooling),
		       hp->has_fill ? "; fills masks" : "");
}

static const char *rope_text(const struct model_rope_params *p, char *buf, size_t cap)
{
	const char *scaling = p->ext_factor != 0        ? ", YaRN"
			      : p->factors_long != NULL ? ", factors by context (LongRoPE)"
			      : p->factors != NULL      ? ", factors"
			      : p->freq_scale != 1.0f   ? ", linear scaling"
							: "";

	snprintf(buf, cap, "rotary, %u of a head, %s, base %g%s", p->n_rot,
		 p->kind == MODEL_ROPE_NORM ? "neighbouring pairs" : "pairs of halves", (double)p->freq_base,
		 scaling);
	return buf;
}

/* How positions are told apart; and whether attention sees all of them. */
static void print_positions(const struct inspect *in)
{
	const struct model_hparams *hp = &in->hp;
	const struct model_op *attn = attention_of(in->graph, 0);
	uint32_t i, window = 0, n_sliding = 0;
	char text[160];

	if (attn == NULL)
		return;
	if (hp->rope.kind != MODEL_ROPE_NONE)
		printf("positions    %s\n", rope_text(&hp->rope, text, sizeof(text)));
	if (hp->n_ctx_max != 0)
		printf("positions    a table of %u\n", hp->n_ctx_max);
	if (attn->max_alibi_bias != 0)
		printf("positions    ALiBi to %g\n", (double)attn->max_alibi_bias);
	if (attn->rel_bias != NULL)
		printf("positions    relative bias in %" PRIu64 " buckets to distance %u\n",
		       attn->rel_bias->ne[1], attn->rel_max_distance);
	for (i = 0; i < hp->n_layers; i++) {
		attn = attention_of(in->graph, i);
		if (attn == NULL || attn->window == 0)
			continue;
		window = attn->window;
		n_sliding++;
	}
	if (n_sliding > 0)
		printf("window       %u positions in %u of %u blocks\n", window, n_sliding, hp->n_layers);
}

static void print_passes(const struct model_graph *graph)
{
	uint32_t i;

	printf("passes      ");
	for (i = 0; i < MODEL_N_PASSES; i++) {
		const struct model_graph *pass = model_graph_pass(graph, (enum model_pass)i);

		if (pass != NULL)
			printf("%s %s (%u operations)", i == 0 ? "" : ",", pass_names[i], pass->n_ops);
	}
	putchar('\n');
}

static void print_hparams(const struct inspect *in)
{
	const struct model_hparams *hp = &in->hp;
	char name[128];

	if (!in->has_hp) {
		printf("model        cannot be run: %s\n", in->why_not.msg);
		return;
	}
	printf("model        %s \"%s\"\n", hp->arch, clean(hp->name, name, sizeof(name)));
	printf("             %u blocks, width %u, %u heads (%u for keys and values) of %u, feed-forward %u\n",
	       hp->n_layers, hp->n_embd, hp->n_heads, hp->n_heads_kv, hp->head_dim, hp->n_ff);
	printf("             vocabulary %u, trained on %u positions%s\n", hp->n_vocab, hp->n_ctx_train,
	       hp->n_ctx_max != 0 ? ", which are all it has" : "");
	if (hp->n_experts != 0)
		printf("             %u experts, %u used for a token\n", hp->n_experts, hp->n_experts_used);
	print_task(hp);
	if (in->graph == NULL) {
		printf("             cannot be run: %s\n", in->why_not.msg);
		return;
	}
	print_positions(in);
	print_passes(in->graph);
}

static void print_weights(const struct inspect *in)
{
	uint32_t i, same;

	printf("tensors      %zu, %.2f MB:", gguf_n_tensors(in->g), mb(in->all_bytes));
	for (i = 0; i < MAX_DTYPES; i++) {
		if (in->type_count[i] > 0)
			printf(" %s %" PRIu64 " (%.2f MB)", gguf_dtype_name((enum gguf_dtype)i),
			       in->type_count[i], mb(in->type_bytes[i]));
	}
	putchar('\n');
	if (!in->has_hp)
		return;
	for (i = 0; i < in->hp.n_layers; i = same) {
		for (same = i + 1; same < in->hp.n_layers && in->block_bytes[same] == in->block_bytes[i];
		     same++)
			;
		if (same == i + 1)
			printf("%-12s block %u: %" PRIu64 " bytes\n", i == 0 ? "blocks" : "", i,
			       in->block_bytes[i]);
		else
			printf("%-12s blocks %u to %u: %" PRIu64 " bytes each\n", i == 0 ? "blocks" : "", i,
			       same - 1, in->block_bytes[i]);
	}
	printf("%-12s outside blocks (embedding, final norm, head): %" PRIu64 " bytes\n", "",
	       in->outside_bytes);
	for (i = 0; in->has_cuts && i < in->stages; i++)
		printf("%-12s stage %u: blocks %u to %u, %.2f MB\n", i == 0 ? "split" : "", i, in->cuts[i],
		       in->cuts[i + 1] - 1, mb(model_range_bytes(in->g, in->cuts[i], in->cuts[i + 1])));
}

static void dims_text(const struct gguf_tensor *t, char *buf, size_t cap)
{
	size_t at = 0;
	uint32_t d;

	buf[0] = '\0';
	for (d = 0; d < t->n_dims && at < cap; d++)
		at += (size_t)snprintf(buf + at, cap - at, "%s%" PRIu64, d == 0 ? "" : " x ", t->ne[d]);
}

static void print_lists(const struct inspect *in)
{
	char value[VALUE_CAP], text[VALUE_CAP], dims[96];
	size_t i;

	for (i = 0; in->keys && i < gguf_n_kv(in->g); i++) {
		gguf_kv_format(in->g, i, VALUE_ITEMS, value, sizeof(value));
		printf("key          %s ", clean(gguf_kv_name(in->g, i), text, sizeof(text)));
		printf("(%s) = %s\n", type_name(gguf_kv_type(in->g, i)), clean(value, text, sizeof(text)));
	}
	for (i = 0; in->tensors && i < gguf_n_tensors(in->g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(in->g, i);

		dims_text(t, dims, sizeof(dims));
		printf("tensor       %-32s %-6s %-18s %" PRIu64 " bytes\n",
		       clean(t->name, text, sizeof(text)), gguf_dtype_name(t->dtype), dims, t->n_bytes);
	}
}

static void print_text(const struct inspect *in)
{
	char text[VALUE_CAP];

	printf("file         %s: GGUF version %u, %.2f MB, %zu keys, hash %016" PRIx64 "\n",
	       clean(gguf_path(in->g), text, sizeof(text)), gguf_version(in->g), mb(gguf_file_bytes(in->g)),
	       gguf_n_kv(in->g), gguf_hash(in->g));
	print_hparams(in);
	print_weights(in);
	print_lists(in);
}

static json_t *json_hparams(const struct inspect *in)
{
	const struct model_hparams *hp = &in->hp;
	json_t *j;

	if (!in->has_hp)
		return json_null();
	j = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "n_layers",
		      (int)hp->n_layers, "n_embd", (int)hp->n_embd, "n_heads", (int)hp->n_heads, "n_heads_kv",
		      (int)hp->n_heads_kv, "head_dim", (int)hp->head_dim, "n_ff", (int)hp->n_ff, "n_vocab",
		      (int)hp->n_vocab, "n_ctx_train", (int)hp->n_ctx_train, "n_ctx_max", (int)hp->n_ctx_max,
		      "n_experts", (int)hp->n_experts, "n_experts_used", (int)hp->n_experts_used);
	CHECK(j != NULL);
	json_object_set_new(j, "n_layers_enc", json_integer(hp->n_layers_enc));
	json_object_set_new(j, "task", json_string(task_name(hp->task)));
	json_object_set_new(j, "pooling", json_string(pooling_name(hp->pooling)));
	json_object_set_new(j, "fills_masks", json_boolean(hp->has_fill));
	json_object_set_new(j, "causal", json_boolean(hp->causal));
	return j;
}

/* Window of each block, 0 for none; null for a model that cannot be run. */
static json_t *json_windows(const struct inspect *in)
{
	json_t *list;
	uint32_t i;

	if (in->graph == NULL)
		return json_null();
	list = json_array();
	for (i = 0; i < in->hp.n_layers; i++) {
		const struct model_op *attn = attention_of(in->graph, i);

		json_array_append_new(list, json_integer(attn != NULL ? attn->window : 0));
	}
	return list;
}

static json_t *json_passes(const struct inspect *in)
{
	json_t *j;
	uint32_t i;

	if (in->graph == NULL)
		return json_null();
	j = json_object();
	for (i = 0; i < MODEL_N_PASSES; i++) {
		const struct model_graph *pass = model_graph_pass(in->graph, (enum model_pass)i);

		if (pass != NULL)
			json_object_set_new(j, pass_names[i], json_integer(pass->n_ops));
	}
	return j;
}

static json_t *json_types(const struct inspect *in)
{
	json_t *types = json_object();
	uint32_t i;

	for (i = 0; i < MAX_DTYPES; i++) {
		if (in->type_count[i] > 0)
			json_object_set_new(types, gguf_dtype_name((enum gguf_dtype)i),
					    json_pack("{s:I, s:I}", "count", (json_int_t)in->type_count[i],
						      "bytes", (json_int_t)in->type_bytes[i]));
	}
	return types;
}

static json_t *json_keys(const struct inspect *in)
{
	json_t *keys = json_object();
	char value[VALUE_CAP], name[VALUE_CAP], text[VALUE_CAP];
	size_t i;

	for (i = 0; i < gguf_n_kv(in->g); i++) {
		gguf_kv_format(in->g, i, VALUE_ITEMS, value, sizeof(value));
		json_object_set_new(keys, clean(gguf_kv_name(in->g, i), name, sizeof(name)),
				    json_pack("{s:s, s:s}", "type", type_name(gguf_kv_type(in->g, i)),
					      "value", clean(value, text, sizeof(text))));
	}
	return keys;
}

static json_t *json_tensors(const struct inspect *in)
{
	json_t *list = json_array();
	char name[VALUE_CAP];
	size_t i;
	uint32_t d;

	for (i = 0; i < gguf_n_tensors(in->g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(in->g, i);
		json_t *dims = json_array();

		for (d = 0; d < t->n_dims; d++)
			json_array_append_new(dims, json_integer((json_int_t)t->ne[d]));
		json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name",
						      clean(t->name, name, sizeof(name)), "type",
						      gguf_dtype_name(t->dtype), "dims", dims, "bytes",
						      (json_int_t)t->n_bytes));
	}
	return list;
}

static void print_json(const struct inspect *in)
{
	char path[VALUE_CAP], name[VALUE_CAP], hash[24];
	json_t *j, *blocks = json_array(), *split = json_array();
	uint32_t i;

	snprintf(hash, sizeof(hash), "%016" PRIx64, gguf_hash(in->g));
	for (i = 0; in->has_hp && i < in->hp.n_layers; i++)
		json_array_append_new(blocks, json_integer((json_int_t)in->block_bytes[i]));
	for (i = 0; in->has_cuts && i < in->stages; i++)
		json_array_append_new(
		    split, json_pack("{s:i, s:i, s:i, s:I}", "stage", (int)i, "block_first", (int)in->cuts[i],
				     "block_last", (int)in->cuts[i + 1] - 1, "bytes",
				     (json_int_t)model_range_bytes(in->g, in->cuts[i], in->cuts[i + 1])));
	j = json_pack("{s:s, s:i, s:I, s:s, s:s, s:s, s:o, s:o, s:I, s:o, s:I, s:o}", "file",
		      clean(gguf_path(in->g), path, sizeof(path)), "version", (int)gguf_version(in->g),
		      "file_bytes", (json_int_t)gguf_file_bytes(in->g), "hash", hash, "arch",
		      in->has_hp ? in->hp.arch : "", "name",
		      in->has_hp ? clean(in->hp.name, name, sizeof(name)) : "", "hparams", json_hparams(in),
		      "tensor_types", json_types(in), "weight_bytes", (json_int_t)in->all_bytes,
		      "block_bytes", blocks, "outside_bytes", (json_int_t)in->outside_bytes, "split", split);
	CHECK(j != NULL);
	json_object_set_new(j, "windows", json_windows(in));
	json_object_set_new(j, "passes", json_passes(in));
	if (in->graph == NULL)
		json_object_set_new(j, "cannot_run", json_string(clean(in->why_not.msg, name, sizeof(name))));
	if (in->keys)
		json_object_set_new(j, "keys", json_keys(in));
	if (in->tensors)
		json_object_set_new(j, "tensors", json_tensors(in));
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

/* -1: go on; else the exit code. */
static int parse_args(int argc, char **argv, struct inspect *in, const char **path_out)
{
	static const struct option longs[] = {
	    {"keys", no_argument, NULL, 'k'},         {"tensors", no_argument, NULL, 't'},
	    {"stages", required_argument, NULL, 's'}, {"json", no_argument, NULL, 'j'},
	    {"help", no_argument, NULL, 'h'},         {0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'k')
			in->keys = true;
		else if (c == 't')
			in->tensors = true;
		else if (c == 'j')
			in->json = true;
		else if (c == 's') {
			if (!cli_u32("inspect", "--stages", optarg, 1, MAX_STAGES, &in->stages))
				return CLI_USAGE;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else
			return cli_see_help("inspect");
	}
	if (optind + 1 != argc)
		return cli_usage("inspect", "expected one FILE.gguf, found %d", argc - optind);
	*path_out = argv[optind];
	return -1;
}

int cmd_inspect(int argc, char **argv)
{
	struct inspect in = {0};
	struct ps_err err = {{0}};
	struct gguf *g = NULL;
	const char *path = NULL;
	int rc = parse_args(argc, argv, &in, &path);

	if (rc >= 0)
		return rc;
	rc = gguf_open(path, &g, &err);
	if (rc == 0) {
		in.g = g;
		rc = examine(&in, &err);
	}
	if (rc == 0) {
		if (in.json)
			print_json(&in);
		else
			print_text(&in);
	}
	free(in.block_bytes);
	model_graph_free(in.graph);
	gguf_close(g);
	return rc == 0 ? CLI_OK : cli_fail("inspect", "%s", err.msg);
}
