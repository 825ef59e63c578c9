/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_TOKENIZER_PRE_H
#define PENSTOCK_MODEL_TOKENIZER_PRE_H
/*
 * The named pre-tokenizers of byte-level BPE: regular expressions that cut a
 * text into words, within which alone merges happen. The expressions are those
 * of the published tokenizers. Not for invalid UTF-8: the caller cuts
 * that out first.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct tok_pre; /* immutable, any thread */

/* -ENOTSUP: a name we do not know (the text lists those we do), -ENOMEM. */
int ps_warn_unused tok_pre_create(const char *name, size_t len, struct tok_pre **pre_out, struct ps_err *err);
void tok_pre_free(struct tok_pre *p);

/* A word that is a token as a whole is that token, whatever its merges would give. */
bool tok_pre_whole_words(const struct tok_pre *p);
/* Whether a file that does not say so wants a BOS. */
bool tok_pre_adds_bos(const struct tok_pre *p);

struct tok_pre_work; /* of one thread */
/* NULL: no memory. */
struct tok_pre_work *tok_pre_work_create(void);
void tok_pre_work_free(struct tok_pre_work *w);

/* Cuts valid UTF-8 into words. *ends_out[i] is where word i ends; the words lie end to end
 * and cover the text. The array stays the work area's until its next use. -ENOMEM, also where
 * PCRE2 runs out of its own memory. */
int ps_warn_unused tok_pre_split(const struct tok_pre *p, struct tok_pre_work *w, const char *text,
				 uint32_t len, const uint32_t **ends_out, size_t *n_out);

#endif
