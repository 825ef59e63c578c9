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
#include "model/tokenizer_charsmap.h"
#include "model/tokenizer_map.h"
#include "model/tokenizer_pre.h"
#include "model/tokenizer_trie.h"
#include "model/unicode.h"

/* Bounds on what a file may ask for, several times what published vocabularies have. */
#define TOK_VOCAB_MAX  (1u << 22)
#define TOK_MERGES_MAX (1u << 23)
#define TOK_RAW_MAX    1024u /* bytes of a token as spelled in the file */
/* Bytes of a token as decoded: with what a stream may hold back it fits the stream's buffer. */
#define TOK_PIECE_MAX (TOKENIZER_STREAM_BYTES - 8u)
/* Bytes of a text; symbols are counted in 32 bits and take up to 20 bytes each. */
#define TOK_TEXT_MAX (64u << 20)

enum tok_kind {
	TOK_SPM, /* SentencePiece BPE */
	TOK_BPE, /* byte-level BPE */
	TOK_WPM, /* WordPiece */
	TOK_UGM, /* SentencePiece unigram */
};

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
	int32_t byte_id[256];        /* -1: the vocabulary has no token for this byte */
	int32_t bos, eos, unk, mask; /* -1: none */
	bool add_bos, add_eos;
	bool drops_first_space; /* decoding: what encoding put in front is not part of the text */

	/* Control, unknown and user-defined tokens by their text, sorted bytewise. */
	struct tok_str *special; /* [n_special] */
	uint32_t *special_id;    /* [n_special] */
	uint32_t n_special;
	uint32_t special_from[257]; /* by first byte: [from[b], from[b + 1]) */
	/* Blanks that a special token takes with it, as TOK_STRIP_*. */
	uint8_t *strip; /* [n_vocab] */

	/* SentencePiece */
	bool add_space_prefix;
	bool words_apart;  /* no token goes on after a space that follows another character */
	uint32_t text_max; /* longest key of by_text */
	uint32_t *order;   /* [n_vocab] ascending: merges earlier (the score, turned over) */

	/* WordPiece and unigram: the tokens that plain text may become */
	struct tok_trie trie;

	/* WordPiece */
	bool lowercase, strip_accents;

	/* unigram; also add_space_prefix and words_apart */
	float *score;     /* [n_vocab] log probabilities; 0 for user-defined tokens */
	double unk_score; /* of a character that no token covers */
	struct tok_charsmap charsmap;
	bool merge_spaces; /* blanks at the ends go, those inside become one */

	/* byte-level */
	struct tok_pre *pre;
	struct tok_pairs pairs;
	uint32_t byte_sym[256];
};

#define TOK_STRIP_LEFT  1u
#define TOK_STRIP_RIGHT 2u

/* The best way to a place of the text: the token that ends there, and where it begins. */
struct tok_best {
	double score;
	int32_t id;
	uint32_t from;
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
	char *buf; /* the segment or word as it is looked up: spaces rewritten, normalised */
	size_t n_buf, cap_buf;
	struct tok_best *best; /* unigram: [n_buf + 1] */
	size_t cap_best;
	bool after_unk; /* unigram: the last token was the unknown one */
	struct tok_pre_work *pre;
};

/* Makes room for `need` elements; NULL leaves the old array as it was. */
void *tok_grow(void *array, size_t *cap, size_t need, size_t elem_bytes);

/* All that follow: 0, -ENOMEM, or -EILSEQ for what has no token and no unknown token; unigram also
 * -EBADMSG for a torn charsmap and -E2BIG for a text that its charsmap makes too long. */
int ps_warn_unused tok_put_id(struct tok_work *w, int32_t id);
/* Bytes one by one; if one has no token the unknown token stands for all n. A byte-level vocabulary
 * without an unknown token drops such a byte, as all who read these files do. */
int ps_warn_unused tok_put_bytes(const struct tokenizer *t, struct tok_work *w, const char *s, size_t n);
int ps_warn_unused tok_put_sym(struct tok_work *w, uint32_t id, uint32_t start, uint32_t len);
/* Merges w->sym over `text` until nothing merges; what is left is linked from symbol 0. */
int ps_warn_unused tok_merge(const struct tokenizer *t, struct tok_work *w, const char *text);

/* A run of plain text. `prefix`: put the space in front that SentencePiece wants there. */
int ps_warn_unused tok_spm_encode(const struct tokenizer *t, struct tok_work *w, const char *text,
				  uint32_t len, bool prefix);
int ps_warn_unused tok_bpe_encode(const struct tokenizer *t, struct tok_work *w, const char *text,
				  uint32_t len);
int ps_warn_unused tok_wpm_encode(const struct tokenizer *t, struct tok_work *w, const char *text,
				  uint32_t len);
int ps_warn_unused tok_ugm_encode(const struct tokenizer *t, struct tok_work *w, const char *text,
				  uint32_t len);

/* The longest special token at the beginning of s, or -1. Without parse_special only user-defined ones. */
int32_t tok_special_match(const struct tokenizer *t, const char *s, size_t len, bool parse_special,
			  uint32_t *len_out);
/* Tokens that published models use to end a generation are control tokens, whatever the file says. To be
 * called before the types are used. */
void tok_special_mark(struct tokenizer *t);
/* The table of special tokens, what they strip, and which of them end a generation. */
int ps_warn_unused tok_special_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);

/* The parts of loading that belong to one kind; tokens' texts and types are there already. */
int ps_warn_unused tok_spm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);
int ps_warn_unused tok_wpm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);
int ps_warn_unused tok_ugm_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);
/* What SentencePiece's two kinds share: scores into t->score, byte tokens, whether words stand apart. */
int ps_warn_unused tok_spm_load_scores(struct tokenizer *t, const struct gguf *g, struct ps_err *err);
int ps_warn_unused tok_spm_load_bytes(struct tokenizer *t, struct ps_err *err);
bool tok_spm_goes_on_after_space(struct tok_str s);
/* The byte that a token spelled "<0xXX>" stands for, or -1. */
int tok_spm_byte_of(struct tok_str s);
int ps_warn_unused tok_bpe_load(struct tokenizer *t, const struct gguf *g, struct ps_err *err);

#endif
