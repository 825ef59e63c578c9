/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/corpus.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "model/tokenizer.h"

#define MAX_TEXT (64u << 20)

static char *read_file(const char *path, size_t *len_out, struct ps_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text;

	if (fd < 0) {
		ps_err_set(err, -errno, "%s: cannot open: %s", path, strerror(errno));
		return NULL;
	}
	text = cli_read_all(fd, MAX_TEXT, len_out);
	close(fd);
	if (text == NULL)
		ps_err_set(err, -EIO, "%s: cannot be read, or is larger than %u MiB", path, MAX_TEXT >> 20);
	return text;
}

static int append(struct corpus *c, const int32_t *ids, size_t n, size_t limit, struct ps_err *err)
{
	int32_t *more;

	if (n > limit - c->n)
		n = limit - c->n;
	if (n == 0)
		return 0;
	more = realloc(c->ids, (c->n + n) * sizeof(*more));
	if (more == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for %zu token ids", c->n + n);
	memcpy(more + c->n, ids, n * sizeof(*ids));
	c->ids = more;
	c->n += n;
	return 0;
}

/* The ids around a text: what an encoding with specials has more than one without. */
static int find_specials(struct corpus *c, const struct tokenizer *tok, struct ps_err *err)
{
	int32_t *with = NULL, *without = NULL;
	size_t n_with, n_without, before = 0, i;
	int rc = tokenizer_encode(tok, "a", 1, true, false, &with, &n_with);

	if (rc == 0)
		rc = tokenizer_encode(tok, "a", 1, false, false, &without, &n_without);
	if (rc != 0) {
		rc = ps_err_set(err, rc, "the tokenizer cannot encode \"a\": %s", strerror(-rc));
		goto out_free;
	}
	while (before < n_with && (n_without == 0 || with[before] != without[0]))
		before++;
	for (i = 0; i < before && i < 4; i++)
		c->prefix[c->n_prefix++] = with[i];
	for (i = before + n_without; i < n_with && c->n_suffix < 4; i++)
		c->suffix[c->n_suffix++] = with[i];
out_free:
	free(with);
	free(without);
	return rc;
}

/* Tokens that stand for left-out spans: text of that form that is one token. */
static void find_sentinels(struct corpus *c, const struct tokenizer *tok)
{
	uint32_t i;

	c->has_sentinels = true;
	for (i = 0; i < CORPUS_SENTINELS; i++) {
		char text[32];
		int32_t *ids = NULL;
		size_t n = 0;
		int len = snprintf(text, sizeof(text), "<extra_id_%u>", i);

		if (tokenizer_encode(tok, text, (size_t)len, false, true, &ids, &n) != 0 || n == 0)
			n = 0;
		/* A blank in front may come with it. */
		c->has_sentinels = c->has_sentinels && (n == 1 || n == 2);
		c->sentinels[i] = n > 0 ? ids[n - 1] : -1;
		c->has_sentinels = c->has_sentinels && (i == 0 || c->sentinels[i] != c->sentinels[i - 1]);
		free(ids);
	}
}

/* Up to the next blank line, without line ends around it; NULL at the end. */
static char *next_document(char **rest)
{
	char *start = *rest, *end;

	start += strspn(start, "\r\n");
	if (*start == '\0')
		return NULL;
	end = strstr(start, "\n\n");
	*rest = end != NULL ? end + 2 : start + strlen(start);
	end = end != NULL ? end : *rest;
	while (end > start && (end[-1] == '\n' || end[-1] == '\r'))
		*--end = '\0';
	*end = '\0';
	return start;
}

static int add_documents(struct corpus *c, const struct tokenizer *tok, char *text, bool bare, size_t limit,
			 struct ps_err *err)
{
	char *doc;
	int rc = 0;

	while (rc == 0 && c->n < limit && (doc = next_document(&text)) != NULL) {
		int32_t *ids;
		size_t n;

		rc = tokenizer_encode(tok, doc, strlen(doc), !bare, false, &ids, &n);
		if (rc != 0)
			return ps_err_set(err, rc, "the tokenizer cannot encode \"%.40s\": %s", doc,
					  strerror(-rc));
		rc = append(c, ids, n, limit, err);
		free(ids);
	}
	return rc;
}

int corpus_read_text(struct corpus *c, const struct gguf *g, const char *path, bool bare, size_t limit,
		     struct ps_err *err)
{
	struct tokenizer *tok = NULL;
	char *text = NULL;
	size_t len = 0;
	int rc = tokenizer_load(g, &tok, err);

	*c = (struct corpus){0};
	if (rc != 0)
		return rc;
	text = read_file(path, &len, err);
	rc = text == NULL ? -EIO : find_specials(c, tok, err);
	if (rc == 0)
		find_sentinels(c, tok);
	if (rc == 0 && strlen(text) != len)
		rc = ps_err_set(err, -EINVAL, "%s: byte %zu is 0: expected a text", path, strlen(text));
	if (rc == 0)
		rc = add_documents(c, tok, text, bare, limit, err);
	if (rc == 0 && c->n == 0)
		rc = ps_err_set(err, -EINVAL, "%s: holds no text", path);
	free(text);
	tokenizer_free(tok);
	if (rc != 0)
		corpus_free(c);
	return rc;
}

int corpus_read_ids(struct corpus *c, const char *path, uint32_t n_vocab, size_t limit, struct ps_err *err)
{
	size_t len = 0;
	char *text = read_file(path, &len, err), *word, *save = NULL, *end;
	int rc = text == NULL ? -EIO : 0;

	*c = (struct corpus){0};
	for (word = text == NULL ? NULL : strtok_r(text, ", \t\r\n[]", &save);
	     word != NULL && rc == 0 && c->n < limit; word = strtok_r(NULL, ", \t\r\n[]", &save)) {
		long id = strtol(word, &end, 10);
		int32_t id32 = (int32_t)id;

		if (*end != '\0' || id < 0 || id >= (long)n_vocab)
			rc = ps_err_set(err, -EINVAL, "%s: found \"%.20s\", expected token ids below %u",
					path, word, n_vocab);
		else
			rc = append(c, &id32, 1, limit, err);
	}
	if (rc == 0 && c->n == 0)
		rc = ps_err_set(err, -EINVAL, "%s: holds no token ids", path);
	free(text);
	if (rc != 0)
		corpus_free(c);
	return rc;
}

void corpus_free(struct corpus *c)
{
	free(c->ids);
	*c = (struct corpus){0};
}
