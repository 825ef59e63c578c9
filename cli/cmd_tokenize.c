/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "model/chat.h"
#include "model/tokenizer.h"

#define TOKENIZE_MAX_BYTES (64u << 20) /* what the tokenizer takes */

static const char usage[] =
    "usage: penstock tokenize MODEL [--no-special] [--parse-special] [--chat NAME] < TEXT\n"
    "       penstock tokenize MODEL --decode < IDS\n\n"
    "Reads text on stdin and prints a JSON array of token ids; with --decode reads a JSON\n"
    "array of ids (or ids separated by commas) and prints the text, byte for byte.\n\n"
    "  --no-special      add no BOS or EOS ([CLS] or [SEP])\n"
    "  --parse-special   text that spells a control token becomes that token\n"
    "  --chat NAME       the text is what a user says: ids of the prompt for the answer, markers as\n"
    "                    tokens. NAME is a template (chatml, llama2, llama3, mistral, gemma, phi3,\n"
    "                    zephyr) or auto, the one that the file itself shows\n"
    "  --decode          ids to text\n";

static int encode(const struct tokenizer *t, const char *text, size_t len, bool special, bool parse)
{
	int32_t *ids = NULL;
	size_t n = 0, i;

	int rc = tokenizer_encode(t, text, len, special, parse, &ids, &n);

	if (rc == -EILSEQ)
		return cli_fail("tokenize",
				"the vocabulary has no token for a part of the text, and no unknown token");
	if (rc == -EBADMSG)
		return cli_fail("tokenize", "tokenizer.ggml.precompiled_charsmap: leads out of itself");
	if (rc == -E2BIG)
		return cli_fail("tokenize",
				"the text is longer than %u bytes, or becomes so when it is normalised",
				TOKENIZE_MAX_BYTES);
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

struct options {
	bool decode, special, parse;
	const char *chat; /* NULL: the text as it is */
};

/* Puts the user's text into the conversation's format. */
static int format(const struct gguf *g, const char *name, char **text, size_t *len)
{
	struct chat_message m = {.role = "user", .text = *text};
	struct ps_err err = {{0}};
	enum chat_kind kind;
	char *whole;

	if (memchr(*text, '\0', *len) != NULL)
		return cli_fail("tokenize", "stdin: a message holds no zero bytes");
	if (chat_choose(g, name, &kind, &err) != 0 || chat_format(kind, &m, 1, true, &whole, &err) != 0)
		return cli_fail("tokenize", "--chat: %s", err.msg);
	free(*text);
	*text = whole;
	*len = strlen(whole);
	return CLI_OK;
}

static int tokenize(const char *model, const struct options *o)
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
	else if (o->decode)
		rc = decode(t, text);
	else {
		rc = o->chat != NULL ? format(g, o->chat, &text, &len) : CLI_OK;
		if (rc == CLI_OK)
			rc = encode(t, text, len, o->special, o->parse || o->chat != NULL);
	}
	free(text);
	tokenizer_free(t);
	gguf_close(g);
	return rc;
}

int cmd_tokenize(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"no-special", no_argument, NULL, 'n'}, {"parse-special", no_argument, NULL, 'p'},
	    {"decode", no_argument, NULL, 'd'},     {"chat", required_argument, NULL, 'c'},
	    {"help", no_argument, NULL, 'h'},       {0},
	};
	struct options o = {.special = true};
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'n')
			o.special = false;
		else if (c == 'p')
			o.parse = true;
		else if (c == 'd')
			o.decode = true;
		else if (c == 'c')
			o.chat = optarg;
		else if (c == 'h') {
			fputs(usage, stdout);
			return CLI_OK;
		} else
			return cli_see_help("tokenize");
	}
	if (optind + 1 != argc)
		return cli_usage("tokenize", "expected one MODEL, found %d", argc - optind);
	if (o.decode && o.chat != NULL)
		return cli_usage("tokenize", "--chat is for text, --decode for ids");
	return tokenize(argv[optind], &o);
}
