/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "model/tokenizer.h"

#define TOKENIZE_MAX_BYTES (64u << 20) /* what the tokenizer takes */

static const char usage[] =
    "usage: penstock tokenize MODEL [--no-special] [--parse-special] < TEXT\n"
    "       penstock tokenize MODEL --decode < IDS\n\n"
    "Reads text on stdin and prints a JSON array of token ids; with --decode reads a JSON\n"
    "array of ids (or ids separated by commas) and prints the text, byte for byte.\n\n"
    "  --no-special      add no BOS or EOS\n"
    "  --parse-special   text that spells a control token becomes that token\n"
    "  --decode          ids to text\n";

static int encode(const struct tokenizer *t, const char *text, size_t len, bool special, bool parse)
{
	int32_t *ids = NULL;
	size_t n = 0, i;

	int rc = tokenizer_encode(t, text, len, special, parse, &ids, &n);

	if (rc == -EILSEQ)
		return cli_fail(
		    "tokenize",
		    "the vocabulary has no token for one of the text's bytes, and no unknown token");
	if (rc != 0)
		return cli_fail("tokenize", "%s", strerror(-rc));
	putchar('[');
	for (i = 0; i < n; i++)
		printf(i == 0 ? "%d" : ", %d", ids[i]);
	puts("]");
	free(ids);
	return CLI_OK;
}

static bool read_json_ids(const char *text, int32_t **ids_out, size_t *n_out)
{
	json_error_t jerr;
	json_t *arr = json_loads(text, 0, &jerr), *v;
	size_t i;

	if (!json_is_array(arr)) {
		cli_fail("tokenize", "stdin: expected a JSON array of token ids as in [1, 2, 3]");
		json_decref(arr);
		return false;
	}
	*n_out = json_array_size(arr);
	*ids_out = malloc((*n_out + 1) * sizeof(**ids_out));
	json_array_foreach(arr, i, v)
	{
		json_int_t id = json_integer_value(v);

		if (*ids_out == NULL || !json_is_integer(v) || id < 0 || id > INT32_MAX) {
			cli_fail("tokenize", "stdin: item %zu is not a token id", i);
			free(*ids_out);
			json_decref(arr);
			return false;
		}
		(*ids_out)[i] = (int32_t)id;
	}
	json_decref(arr);
	return true;
}

static int decode(const struct tokenizer *t, char *text)
{
	int32_t *ids = NULL;
	size_t n = 0, len = 0, i;
	char *out = NULL;
	bool ok;

	while (strlen(text) > 0 && strchr(" \r\n\t", text[strlen(text) - 1]) != NULL)
		text[strlen(text) - 1] = '\0';
	ok = text[strspn(text, " \t\r\n")] == '[' ? read_json_ids(text, &ids, &n)
						  : cli_ids("tokenize", "stdin", text, &ids, &n);
	if (!ok)
		return CLI_FAILED;
	for (i = 0; i < n && (uint32_t)ids[i] < tokenizer_n_vocab(t); i++)
		;
	if (i < n || tokenizer_decode(t, ids, n, &out, &len) != 0) {
		if (i < n)
			cli_fail("tokenize", "stdin: item %zu is %d, the vocabulary has %u tokens", i, ids[i],
				 tokenizer_n_vocab(t));
		else
			cli_fail("tokenize", "out of memory");
		free(ids);
		return CLI_FAILED;
	}
	fwrite(out, 1, len, stdout);
	free(out);
	free(ids);
	return CLI_OK;
}

static int tokenize(const char *model, bool dec, bool special, bool parse)
{
	struct tokenizer *t = NULL;
	struct ps_err err = {{0}};
	struct gguf *g = NULL;
	size_t len = 0;
	char *text = NULL;
	int rc = gguf_open(model, &g, &err);

	if (rc != 0)
		return cli_fail("tokenize", "%s", err.msg);
	rc = tokenizer_load(g, &t, &err);
	if (rc != 0) {
		gguf_close(g);
		return cli_fail("tokenize", "%s", err.msg);
	}
	text = cli_read_all(STDIN_FILENO, TOKENIZE_MAX_BYTES, &len);
	if (text == NULL)
		rc = cli_fail("tokenize", "stdin: could not be read, or longer than %u bytes",
			      TOKENIZE_MAX_BYTES);
	else
		rc = dec ? decode(t, text) : encode(t, text, len, special, parse);
	free(text);
	tokenizer_free(t);
	gguf_close(g);
	return rc;
}

int cmd_tokenize(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"no-special", no_argument, NULL, 'n'},
	    {"parse-special", no_argument, NULL, 'p'},
	    {"decode", no_argument, NULL, 'd'},
	    {"help", no_argument, NULL, 'h'},
	    {0},
	};
	bool dec = false, special = true, parse = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'n')
			special = false;
		else if (c == 'p')
			parse = true;
		else if (c == 'd')
			dec = true;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else
			return cli_see_help("tokenize");
	}
	if (optind + 1 != argc)
		return cli_usage("tokenize", "expected one MODEL, found %d", argc - optind);
	return tokenize(argv[optind], dec, special, parse);
}
