/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_TOKENIZER_PRIV_H
#define PENSTOCK_MODEL_TOKENIZER_PRIV_H
/*
 * What the tokenizer's sources share: the loaded vocabulary, the work area of
 * one call, and the merge engine that both kinds of BPE use. Not for users of
 * tokenizer.h.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/tokenizer_map.h"
#include "model/tokenizer_pre.h"
#include "model/unicode.h"

/* Bounds on what a file may ask for, several times what published vocabularies have. */
#define TOK_VOCAB_MAX  (1u << 22)
#define TOK_MERGES_MAX (1u << 23)
#define TOK_RAW_MAX    1024u /* bytes of a token as spelled in the file */
/* Bytes of a token as decoded: with what a stream may hold back it fits the stream's buffer. */
#define TOK_PIECE_MAX (TOKENIZER_STREAM_BYTES - 8u)
/* Bytes of a text; symbols are counted in 32 bits and take up to 20 bytes each. */
#define TOK_TEXT_MAX (64u << 20)

enum tok_kind { TOK_SPM, TOK_BPE };

/* Numbers of tokenizer.ggml.token_type. */
enum tok_type {
	TOK_UNDEFINED,
	TOK_NORMAL,
	TOK_UNKNOWN,
	TOK_CONTROL,
	TOK_USER,
	TOK_UNUSED,
	TOK_BYTE,
	TOK_N_TYPES,
};

/* U+2581, which SentencePiece writes for a space. */
#define TOK_SPACE     "\xe2\x96\x81"
#define TOK_SPACE_LEN 3u

struct tokenizer {
	enum tok_kind kind;
	uint32_t n_vocab;
	uint8_t *type; /* [n_vocab] enum tok_type */
	bool *eog;     /* [n_vocab] */
	/* Symbols are the tokens and, numbered from n_vocab, what byte-level merges name beyond
	 * them. Strings are what a symbol means in bytes, but SentencePiece's normal tokens keep
	 * TOK_SPACE (`text`); `piece` is what a token decodes to. */
	struct tok_str *text;  /* [n_syms] */
	struct tok_str *piece; /* [n_vocab] */
	uint32_t n_syms;
	size_t cap_syms;
	char *arena; /* holds what is not spelled so in the file */
	size_t arena_used, arena_cap;
	/* text -> symbol, of all that plain text may become: never a control token. */
	struct tok_map by_text;
	int32_t byte_id[256];  /* -1: the vocabulary has no token for this byte */
	int32_t bos, eos, unk; /* -1: none */
	bool add_bos, add_eos;

	/* Control, unknown and user-defined tokens by their text, sorted bytewise. */
	struct tok_str *special; /* [n_special] */
	uint32_t *special_id;    /* [n_special] */
	uint32_t n_special;
	uint32_t special_from[257]; /* by first byte: [from[b], from[b + 1]) */

	/* SentencePiece */
	bool add_space_prefix;
	bool words_apart;  /* no token goes on after a space that follows another character */
	uint32_t text_max; /* longest key of by_text */
	uint32_t *order;   /* [n_vocab] ascending: merges earlier (the score, turned over) */

	/* byte-level */
	struct tok_pre *pre;
	struct tok_pairs pairs;
	uint32_t byte_sym[256];
};

/* A piece of the text being merged; neighbours by index, TOK_NONE at the ends. */
struct tok_sym {
	uint32_t id; /* TOK_NONE: not in the vocabulary */
	uint32_t start, len;
	uint32_t prev, next;
};

/* A possible merge of symbol `(uint32_t)key` with its next one. */
struct tok_cand {
	uint64_t key; /* order << 32 | index of the left symbol: the smallest goes first */
	uint32_t len; /* of both together; a stale entry shows by it */
	uint32_t id;  /* what they become */
};

/* Of one call: nothing here outlives it. */
struct tok_work {
	int32_t *ids;
	size_t n_ids, cap_ids;
	struct tok_sym *sym;
	size_t n_sym, cap_sym;
	struct tok_cand *heap;
	size_t n_heap, cap_heap;
	char *buf; /* SentencePiece: the segment with its spaces rewritten */
	size_t n_buf, cap_buf;
	struct tok_pre_work *pre;
};

/* Makes room for `need` elements; NULL leaves the old array as it was. */
void *tok_grow(void *array, size_t *cap, size_t need, size_t elem_bytes);

/* All that follow: 0, -ENOMEM, or -EILSEQ for a byte without a token and no unknown token. */
int ps_warn_unused tok_put_id(struct tok_work *w, int32_t id);
/* Bytes one by one; if one has no token the unknown token stands for all n. */
int ps_warn_unused tok_put_bytes(const struct tokenizer *t, struct tok_work *w, const char *s, size_t n);
int ps_warn_unused tok_put_sym(struct tok_work *w, uint32_t id, uint32_t start, uint32_t len);
/* Merges w->sym over `text` until nothing merges; what is left is linked from symbol 0. */
int ps_warn_unused tok_merge(const struct tokenizer *t, struct tok_work *w, const char *text);

/* A run of plain text. `prefix`: put the space in front that SentencePiece wants there. */
int ps_warn_unused tok_spm_encode(const struct tokenizer *t, struct tok_work *w, const char *text,
				  uint32_t len, bool prefix);
int ps_warn_unused tok_bpe_encode(const struct tokenizer *t, struct tok_work *w, const char *text,
				  uint32_t len);

/* The parts of loading that belong to one kind; tokens' texts and types are there already. */
int ps_warn_unused tok_spm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);
/* The byte that a token spelled "<0xXX>" stands for, or -1. */
int tok_spm_byte_of(struct tok_str s);
int ps_warn_unused tok_bpe_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);

#endif
