/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One input is one GGUF file: it is opened, printed, its hyperparameters read,
 * graphs built for it, its vocabulary loaded and used, and a model that is
 * accepted is run on both back ends. Whatever the bytes are, it ends in time,
 * without a bad access, without more memory than a small multiple of the file,
 * and an error names what is wrong. driver.c calls it.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/check.h"
#include "model/gguf.h"
#include "model/graph.h"
#include "model/tokenizer.h"
#include "tests/fuzz/meter.h"
#include "tests/fuzz/target.h"

/*
 * What reading a file may allocate: a fixed part (error texts, one page of tables) and for each byte of
 * the file. A tensor of 1 element takes 41 bytes or more of the file and 192 of memory; a token of
 * a vocabulary takes 8 bytes or more of the file and about 100 (text, piece, type, tables).
 */
#define MEMORY_FIXED    (64u << 10)
#define MEMORY_PER_BYTE 8u
/* Processor time of one input. The slowest of the corpus take a few milliseconds. */
#define TIME_FIXED_S  1.0
#define TIME_PER_MB_S 2.0
/* Only small models are run: it is the shapes that are tried, not the arithmetic. */
#define RUN_MAX_WEIGHTS (2u << 20)
#define RUN_MAX_WIDTH   (1u << 16)
#define RUN_CTX         4u

static unsigned result;

unsigned target_result(void)
{
	return result;
}

/* ---- what must hold ------------------------------------------------------------------------- */

static double cpu_seconds(void)
{
	struct timespec t;

	CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check_memory(size_t file_bytes, const char *what)
{
	size_t limit = MEMORY_FIXED + MEMORY_PER_BYTE * file_bytes;

	if (meter_peak() <= limit)
		return;
	fprintf(stderr, "%s: %zu bytes allocated for a file of %zu, expected at most %zu\n", what,
		meter_peak(), file_bytes, limit);
	abort();
}

/* An error is worth something if it says which key, tensor or part of the file is meant. */
static void check_error(int rc, const struct ps_err *err, const char *path, const char *what)
{
	static const char *const named[] = {
	    "keys '", "key '",          "tensor '",        "tokenizer.ggml.", "general.",
	    "GGUF",   "empty",          "cannot fit",      "inside",          "name of key",
	    "tensor", "architecture '", "attention heads", "embedding of",    "rotated elements",
	    "_token"};
	const char *text = err->msg;

	CHECK(rc < 0);
	/* A file without a vocabulary is a good one. */
	if (rc != -ENOENT)
		result |= TARGET_REFUSED;
	/* The path holds some of these words. */
	if (strncmp(text, path, strlen(path)) == 0)
		text += strlen(path);
	for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++) {
		if (strstr(text, named[i]) != NULL)
			return;
	}
	fprintf(stderr, "%s: error %d names neither a key nor a tensor: \"%s\"\n", what, rc, err->msg);
	abort();
}

/* ---- what is done with a file --------------------------------------------------------------- */

static void print_all(const struct gguf *g)
{
	char text[300];

	for (size_t i = 0; i < gguf_n_kv(g); i++) {
		gguf_kv_format(g, i, 5, text, sizeof(text));
		CHECK(strlen(text) < sizeof(text));
	}
	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		volatile uint8_t sum = 0;

		CHECK(gguf_tensor(g, t->name) == t);
		/* The first and the last byte are within the map. */
		if (t->n_bytes > 0)
			sum = (uint8_t)(((const uint8_t *)t->data)[0] +
					((const uint8_t *)t->data)[t->n_bytes - 1]);
		(void)sum;
	}
}

static void use_tokenizer(const struct tokenizer *t)
{
	static const char *const texts[] = {"", " ", "In the beginning",
					    "caf\xc3\xa9 \xe2\x98\x83\xf0\x9f\x98\x80",
					    "\xff\xfe\x80 <s>[MASK]<extra_id_0> 12345!\n\t''ll"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		int32_t *ids = NULL;
		char *back = NULL;
		size_t n = 0, len = 0;
		int rc = tokenizer_encode(t, texts[i], strlen(texts[i]), true, true, &ids, &n);

		CHECK(rc == 0 || rc == -EILSEQ || rc == -E2BIG || rc == -EBADMSG);
		/* A torn charsmap shows when it is used. */
		if (rc == -EBADMSG)
			result |= TARGET_REFUSED;
		if (rc != 0)
			continue;
		for (size_t k = 0; k < n; k++)
			CHECK(ids[k] >= 0 && (uint32_t)ids[k] < tokenizer_n_vocab(t));
		CHECK(tokenizer_decode(t, ids, n, &back, &len) == 0);
		free(back);
		free(ids);
	}
}

static void try_tokenizer(const struct gguf *g, const char *path)
{
	struct tokenizer *t = NULL;
	struct ps_err err = {{0}};
	int rc = tokenizer_load(g, &t, &err);

	check_memory(gguf_file_bytes(g), "loading the vocabulary");
	if (rc != 0) {
		check_error(rc, &err, path, "tokenizer_load");
		return;
	}
	result |= TARGET_VOCAB;
	use_tokenizer(t);
	tokenizer_free(t);
}

static bool small_enough(const struct model_graph *graph)
{
	for (uint32_t i = 0; i < graph->n_bufs; i++) {
		if (graph->buf_width[i] > RUN_MAX_WIDTH)
			return false;
	}
	return model_range_bytes(graph->gguf, graph->block_first, graph->block_last) <= RUN_MAX_WEIGHTS;
}

static void run_pass(const struct accel_ops *ops, struct accel *a, const struct model_graph *pass,
		     enum model_pass which)
{
	static const int32_t tokens[RUN_CTX];
	static const uint32_t rows[RUN_CTX] = {0, 1, 2};
	struct accel_seq seq = {.slot = 0, .pos = 0, .n_tokens = 3};
	struct accel_batch b = {.pass = which,
				.n_tokens = 3,
				.n_seqs = 1,
				.seqs = &seq,
				.tokens = tokens,
				.out_rows = rows,
				.n_out = pass->has_head ? 3 : 0};
	float *in = calloc(3 * (size_t)pass->hp.n_embd, sizeof(float));
	float *out = calloc(3 * (size_t)pass->out_width + 3 * (size_t)pass->hp.n_embd, sizeof(float));

	CHECK(in != NULL && out != NULL);
	b.x_in = in;
	b.out = out;
	if (ops->submit(a, &b) == 0)
		CHECK(ops->poll(a) == 1);
	free(in);
	free(out);
}

/* The numbers do not matter: every access must be within what the graph promised. */
static void run_graph(const struct model_graph *graph, const char *device)
{
	struct accel_open_args args = {
	    .device = device, .n_threads = 1, .n_slots = 1, .n_ctx = RUN_CTX, .max_tokens = RUN_CTX};
	struct ps_err err = {{0}};
	const struct accel_ops *ops = accel_find(device, &err);
	struct accel *a = NULL;

	CHECK(ops != NULL);
	if (ops->open(&args, graph, &a, &err) != 0) {
		CHECK(err.msg[0] != '\0');
		return;
	}
	if (graph->encode != NULL)
		run_pass(ops, a, graph->encode, MODEL_PASS_ENCODE);
	run_pass(ops, a, graph, MODEL_PASS_MAIN);
	if (graph->fill != NULL)
		run_pass(ops, a, graph->fill, MODEL_PASS_FILL);
	ops->close(a);
}

static void try_range(const struct gguf *g, uint32_t first, uint32_t last, const char *path)
{
	struct model_graph *graph = NULL;
	struct ps_err err = {{0}};
	int rc;

	meter_start();
	rc = model_graph_build(g, first, last, &graph, &err);
	check_memory(gguf_file_bytes(g), "building a graph");
	if (rc != 0) {
		check_error(rc, &err, path, "model_graph_build");
		return;
	}
	if (first == 0)
		result |= TARGET_MODEL;
	if (small_enough(graph)) {
		run_graph(graph, "cpu-ref");
		run_graph(graph, "cpu");
	}
	model_graph_free(graph);
}

static void try_model(const struct gguf *g, const char *path)
{
	struct model_hparams hp;
	struct ps_err err = {{0}};
	int rc = model_read_hparams(g, &hp, &err);
	uint32_t cuts[3] = {0};

	check_memory(gguf_file_bytes(g), "reading the hyperparameters");
	if (rc != 0) {
		check_error(rc, &err, path, "model_read_hparams");
		return;
	}
	CHECK(hp.n_layers > 0 && hp.n_embd > 0 && hp.n_vocab > 0);
	try_range(g, 0, hp.n_layers, path);
	if (hp.n_layers < 2)
		return;
	try_range(g, 0, 1, path);
	try_range(g, hp.n_layers - 1, hp.n_layers, path);
	meter_start();
	rc = model_split_even(g, 2, cuts, &err);
	check_memory(gguf_file_bytes(g), "cutting the model");
	if (rc != 0)
		check_error(rc, &err, path, "model_split_even");
	else
		CHECK(cuts[0] == 0 && cuts[1] > 0 && cuts[1] < hp.n_layers && cuts[2] == hp.n_layers);
}

/* A file in memory, with a name that gguf_open takes. */
static int memory_file(const uint8_t *data, size_t len, char *path, size_t cap)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	CHECK(fd >= 0);
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, data + done, len - done);

		CHECK(n > 0);
		done += (size_t)n;
	}
	snprintf(path, cap, "/proc/self/fd/%d", fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	double before = cpu_seconds(), limit = TIME_FIXED_S + TIME_PER_MB_S * (double)len / 1e6, took;
	struct ps_err err = {{0}};
	struct gguf *g = NULL;
	char path[64];
	int fd = memory_file(data, len, path, sizeof(path)), rc;

	result = 0;
	meter_start();
	rc = gguf_open(path, &g, &err);
	check_memory(len, "opening the file");
	if (rc == 0) {
		print_all(g);
		try_tokenizer(g, path);
		meter_start();
		try_model(g, path);
		gguf_close(g);
	} else {
		check_error(rc, &err, path, "gguf_open");
	}
	close(fd);
	took = cpu_seconds() - before;
	if (took > limit) {
		fprintf(stderr, "%.2f s for a file of %zu bytes, expected at most %.2f\n", took, len, limit);
		abort();
	}
	return 0;
}
