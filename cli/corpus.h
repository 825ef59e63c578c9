/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_CORPUS_H
#define PENSTOCK_CLI_CORPUS_H
/*
 * The token ids that `bench accuracy` measures a model with: of a text, through
 * the file's own tokenizer, or given as they are.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

#define CORPUS_SENTINELS 5u

struct corpus {
	int32_t *ids;
	size_t n;
	/* What the file's tokenizer puts around a text, e.g. BOS in front; none for ids. Already in `ids`
	 * unless the corpus was read bare. */
	int32_t prefix[4], suffix[4];
	size_t n_prefix, n_suffix;
	/* T5's <extra_id_0> and on, where the vocabulary has that many. */
	int32_t sentinels[CORPUS_SENTINELS];
	bool has_sentinels;
};

/* Blank lines part a text into documents, each of which gets prefix and suffix (`bare`: none does). At most
 * `limit` ids are kept. -EINVAL, -EIO and errors of the tokenizer, with a text. Free with corpus_free. */
int ps_warn_unused corpus_read_text(struct corpus *c, const struct gguf *g, const char *path, bool bare,
				    size_t limit, struct ps_err *err);
/* Ids parted by commas or white space. */
int ps_warn_unused corpus_read_ids(struct corpus *c, const char *path, uint32_t n_vocab, size_t limit,
				   struct ps_err *err);
void corpus_free(struct corpus *c);

#endif
