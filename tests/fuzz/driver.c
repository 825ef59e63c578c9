/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz-gguf CORPUS [--runs N] [--seed S] [--only I] [--seconds T]: every file of
 * a folder, then N damaged ones. Input I depends on the seed and I alone: what
 * a failure prints repeats it. Files ending in .head are stored without the data of
 * their tensors: see FILL_LOW.
 */
#include <dirent.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/target.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define MAX_FILES 256u
#define MAX_BYTES (3u << 20)
#define ROOM      4096u /* a damaged file may grow by this */
/* The data of tensors: as F16 1.0, as F32 0.0078; neither zero nor so large that sums overflow. */
#define FILL_LOW  0x00u
#define FILL_HIGH 0x3cu
#define HANG_S    60u /* a single input that takes this long does not end */

struct input {
	char name[128];
	uint8_t *data;
	size_t len;
};

struct corpus {
	struct input files[MAX_FILES];
	size_t n;
};

/* For the signal handler: what is being tried. */
static char current[256];

static void say_current(void)
{
	static const char text[] = "hang or crash in: ";
	ssize_t n = write(2, text, sizeof(text) - 1);

	n += write(2, current, strlen(current));
	n += write(2, "\n", 1);
	(void)n;
}

static void on_signal(int sig)
{
	say_current();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void install_handlers(void)
{
	signal(SIGALRM, on_signal);
	signal(SIGABRT, on_signal);
#ifdef __SANITIZE_ADDRESS__
	/* Its own handlers say where it happened. */
	__sanitizer_set_death_callback(say_current);
#else
	signal(SIGSEGV, on_signal);
	signal(SIGBUS, on_signal);
#endif
}

static void load(struct corpus *c, const char *folder, const char *name)
{
	struct input *in = &c->files[c->n];
	size_t whole, n = strlen(name);
	char path[512];
	FILE *f;

	CHECK(c->n < MAX_FILES);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	snprintf(in->name, sizeof(in->name), "%s", name);
	f = fopen(path, "rb");
	if (f == NULL) {
		perror(path);
		exit(1);
	}
	in->data = calloc(1, MAX_BYTES);
	CHECK(in->data != NULL);
	in->len = fread(in->data, 1, MAX_BYTES, f);
	CHECK(fclose(f) == 0 && in->len < MAX_BYTES);
	if (n > 5 && strcmp(name + n - 5, ".head") == 0) {
		whole = mutate_gguf_whole(in->data, in->len, MAX_BYTES);
		for (; in->len < whole; in->len++)
			in->data[in->len] = in->len % 2 == 0 ? FILL_LOW : FILL_HIGH;
	}
	c->n++;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct input *)a)->name, ((const struct input *)b)->name);
}

static void load_all(struct corpus *c, const char *folder)
{
	DIR *d = opendir(folder);
	struct dirent *e;

	if (d == NULL) {
		perror(folder);
		exit(1);
	}
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] != '.')
			load(c, folder, e->d_name);
	}
	closedir(d);
	qsort(c->files, c->n, sizeof(c->files[0]), by_name);
}

static void try_input(const uint8_t *data, size_t len)
{
	/* A copy of the exact size, so that a sanitizer sees every byte beyond it. */
	uint8_t *copy = malloc(len + 1);

	CHECK(copy != NULL);
	memcpy(copy, data, len);
	alarm(HANG_S);
	LLVMFuzzerTestOneInput(copy, len);
	alarm(0);
	free(copy);
}

static void try_damaged(const struct corpus *c, uint64_t seed, uint64_t i, uint8_t *buf)
{
	uint64_t state = seed * 0x2545f4914f6cdd1dull + i;
	const struct input *in = &c->files[mutate_random(&state) % c->n];
	size_t len;

	/* What is refused already is worth less. */
	for (int k = 0; k < 3 && strncmp(in->name, "bad-", 4) == 0; i++)
		in = &c->files[mutate_random(&state) % c->n];
	len = in->len;
	snprintf(current, sizeof(current), "%s damaged, --seed %llu --only %llu", in->name,
		 (unsigned long long)seed, (unsigned long long)i);
	memcpy(buf, in->data, len);
	len = mutate_gguf(buf, len, in->len + ROOM, &state);
	try_input(buf, len);
}

/* What the name of a file of the corpus promises. */
static bool as_promised(const char *name)
{
	unsigned r = target_result();

	if (strncmp(name, "family-", 7) == 0)
		return (r & TARGET_MODEL) != 0 && (r & TARGET_REFUSED) == 0;
	if (strncmp(name, "vocab-", 6) == 0)
		return (r & TARGET_VOCAB) != 0;
	return strncmp(name, "bad-", 4) != 0 || (r & TARGET_REFUSED) != 0;
}

static int try_corpus(const struct corpus *c)
{
	int failed = 0;

	for (size_t k = 0; k < c->n; k++) {
		bool ok;

		snprintf(current, sizeof(current), "%s", c->files[k].name);
		try_input(c->files[k].data, c->files[k].len);
		ok = as_promised(current);
		failed |= !ok;
		printf("%sok %zu - %s\n", ok ? "" : "not ", k + 1, current);
		if (!ok)
			printf("# expected it to be %s\n",
			       strncmp(current, "bad-", 4) == 0 ? "refused" : "accepted");
	}
	return failed;
}

static double now_s(void)
{
	struct timespec t;

	CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct opts {
	const char *corpus;
	uint64_t runs, seed, only;
	bool has_only;
	double seconds;
};

static struct opts parse(int argc, char **argv)
{
	static const struct option longs[] = {{"runs", required_argument, NULL, 'r'},
					      {"seed", required_argument, NULL, 's'},
					      {"only", required_argument, NULL, 'o'},
					      {"seconds", required_argument, NULL, 't'},
					      {0}};
	struct opts o = {.runs = 1000, .seed = 1, .seconds = 1e9};
	int ch;

	while ((ch = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (ch == 'r')
			o.runs = strtoull(optarg, NULL, 0);
		else if (ch == 's')
			o.seed = strtoull(optarg, NULL, 0);
		else if (ch == 't')
			o.seconds = strtod(optarg, NULL);
		else if (ch == 'o') {
			o.only = strtoull(optarg, NULL, 0);
			o.has_only = true;
		} else
			exit(2);
	}
	if (optind + 1 != argc) {
		fprintf(stderr, "usage: fuzz-gguf CORPUS [--runs N] [--seed S] [--only I] [--seconds T]\n");
		exit(2);
	}
	o.corpus = argv[optind];
	return o;
}

int main(int argc, char **argv)
{
	struct opts o = parse(argc, argv);
	struct corpus *c = calloc(1, sizeof(*c));
	uint8_t *buf = malloc(MAX_BYTES + ROOM);
	double t0 = now_s();
	uint64_t i = 0, n_models = 0, n_vocabs = 0, n_refused = 0;
	int failed = 0;

	CHECK(c != NULL && buf != NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	install_handlers();
	load_all(c, o.corpus);
	CHECK(c->n > 0);
	if (!o.has_only)
		failed = try_corpus(c);
	else
		try_damaged(c, o.seed, o.only, buf);
	for (i = 0; i < o.runs && !o.has_only && now_s() - t0 < o.seconds; i++) {
		try_damaged(c, o.seed, i, buf);
		n_models += (target_result() & TARGET_MODEL) != 0;
		n_vocabs += (target_result() & TARGET_VOCAB) != 0;
		n_refused += (target_result() & TARGET_REFUSED) != 0;
	}
	printf("# of damaged files %llu models and %llu vocabularies were accepted, %llu refused\n",
	       (unsigned long long)n_models, (unsigned long long)n_vocabs, (unsigned long long)n_refused);
	printf("ok %zu - %llu damaged files, seed %llu, %.1f s\n1..%zu\n", o.has_only ? 1 : c->n + 1,
	       (unsigned long long)i, (unsigned long long)o.seed, now_s() - t0, o.has_only ? 1 : c->n + 1);
	for (size_t k = 0; k < c->n; k++)
		free(c->files[k].data);
	free(c);
	free(buf);
	return failed;
}
