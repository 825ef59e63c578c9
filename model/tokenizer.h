/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_TOKENIZER_H
#define PENSTOCK_MODEL_TOKENIZER_H
/*
 * Text to token ids and back, from the vocabulary in a GGUF's own metadata:
 * SentencePiece BPE ("llama"), byte-level BPE ("gpt2", with its named
 * pre-tokenizer), WordPiece ("bert") and SentencePiece unigram ("t5"). Not for chat
 * templates: those are model/chat.h.
 *
 * Immutable after loading: any thread may use it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

struct tokenizer;

/* -ENOTSUP: a tokenizer model or pre-tokenizer we do not have (named, with those we have);
 * -ENOENT: the file has no vocabulary ("no_vocab"); -EBADMSG: a torn one. Borrows the GGUF. */
int ps_warn_unused tokenizer_load(const struct gguf *g, struct tokenizer **tok_out, struct ps_err *err);
void tokenizer_free(struct tokenizer *t);

uint32_t tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *t); /* -1: none */
/* The token that stands for what a model is to fill in; -1: the file names none. */
int32_t tokenizer_mask(const struct tokenizer *t);
/* Ends a generation: eos, eot, ... */
bool tokenizer_is_eog(const struct tokenizer *t, int32_t id);

/* Encodes `len` bytes, at most 64 MiB. Any bytes: with both kinds of BPE each byte that is not part of a
 * well-formed UTF-8 character is a word of its own and becomes a byte's token; unigram takes it for
 * U+FFFD, WordPiece drops it. A byte for which a byte-level vocabulary has no token is dropped. add_special:
 * BOS/EOS as the file asks; WordPiece's are [CLS] and [SEP]. parse_special: text of control tokens becomes
 * their ids; otherwise text never does. User-defined tokens are found either way, the leftmost first and of
 * those the longest. *ids_out is malloc'd (also for no ids), the caller frees. -ENOMEM; -E2BIG: too long,
 * also after unigram's normalisation; -EILSEQ: another vocabulary has neither a token for a part of the text
 * nor an unknown token; -EBADMSG: unigram's precompiled_charsmap is torn. */
int ps_warn_unused tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool add_special,
				    bool parse_special, int32_t **ids_out, size_t *n_out);

/* Decodes ids to bytes, malloc'd and terminated; control and unknown tokens yield nothing. The result
 * of decoding what either kind of BPE gave without specials and unknown tokens is the text itself;
 * WordPiece and unigram give the normalised text, with a space in front of every word but the first. -EINVAL:
 * an id out of range. */
int ps_warn_unused tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, char **text_out,
				    size_t *len_out);

/* Streaming: pieces come out as soon as they are whole UTF-8 characters, never half of one. All pieces
 * and the flush together are what tokenizer_decode gives, so bytes of no character come out too. */
#define TOKENIZER_STREAM_BYTES 512u
struct tokenizer_stream {
	bool started; /* SentencePiece drops the space in front of the very first word */
	uint32_t n_pending;
	char pending[8];
};
void tokenizer_stream_init(struct tokenizer_stream *s);
/* Writes the text that became whole with `id` (not terminated) and returns its length
 * (<= cap; it must be enough, and TOKENIZER_STREAM_BYTES is for any
 * piece we accept). An id out of range yields nothing. */
size_t tokenizer_stream_push(const struct tokenizer *t, struct tokenizer_stream *s, int32_t id, char *buf,
			     size_t cap);
/* At the end: what is pending and never became whole, as it is. */
size_t tokenizer_stream_flush(struct tokenizer_stream *s, char *buf, size_t cap);

#endif
