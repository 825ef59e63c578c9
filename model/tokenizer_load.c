/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loading a vocabulary: what both kinds have in common. Nothing of the file is
 * believed before it is checked; a vocabulary that is refused says which
 * key is wrong.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/tokenizer_priv.h"

#define KEY(name) "tokenizer.ggml." name

static bool str_is(struct gguf_str s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.s, text, s.len) == 0;
}

/* A special token's id. All bits set is how files say that there is none. */
static int load_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t fallback,
		   int32_t *id_out, struct ps_err *err)
{
	int64_t id;

	*id_out = fallback >= 0 && (uint32_t)fallback < t->n_vocab ? fallback : -1;
	if (!gguf_has(g, key))
		return 0;
	if (!gguf_get_i64(g, key, &id))
		return ps_err_set(err, -EBADMSG, "%s: expected an integer", key);
	if (id == -1 || id == (int64_t)UINT32_MAX) {
		*id_out = -1;
		return 0;
	}
	if (id < 0 || id >= (int64_t)t->n_vocab)
		return ps_err_set(err, -EBADMSG, "%s: expected a token id below %u, found %lld", key,
				  t->n_vocab, (long long)id);
	*id_out = (int32_t)id;
	return 0;
}

static int load_flag(const struct gguf *g, const char *key, bool fallback, bool *out, struct ps_err *err)
{
	*out = fallback;
	if (gguf_has(g, key) && !gguf_get_bool(g, key, out))
		return ps_err_set(err, -EBADMSG, "%s: expected a bool", key);
	return 0;
}

static int load_types(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	const char *key = KEY("token_type");
	const uint8_t *types = gguf_arr_data(g, key);
	enum gguf_type elem;

	memset(t->type, TOK_NORMAL, t->n_vocab);
	if (!gguf_has(g, key))
		return 0;
	elem = gguf_arr_type(g, key);
	if (types == NULL || (elem != GGUF_I32 && elem != GGUF_U32))
		return ps_err_set(err, -EBADMSG, "%s: expected an array of int32", key);
	if (gguf_arr_len(g, key) != t->n_vocab)
		return ps_err_set(err, -EBADMSG, "%s: expected %u types, one a token, found %zu", key,
				  t->n_vocab, gguf_arr_len(g, key));
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		uint32_t type = ps_load32(types + 4 * (size_t)i);

		if (type >= TOK_N_TYPES)
			return ps_err_set(err, -EBADMSG, "%s[%u]: expected 0 to 6, found %u", key, i, type);
		if (type != TOK_UNDEFINED)
			t->type[i] = (uint8_t)type;
	}
	return 0;
}

/* Ids that a file without the keys means, by kind: those of the first models of the kind. */
static const struct {
	int32_t bos, eos, unk;
} default_ids[] = {
    [TOK_SPM] = {1, 2, 0},
    [TOK_BPE] = {-1, -1, -1},
    [TOK_WPM] = {101, 102, 100},
    [TOK_UGM] = {-1, 1, 2},
};

/* Special tokens of a file without types: at least those that it names are not plain text. */
static void mark_named(struct tokenizer *t, const struct gguf *g)
{
	if (gguf_has(g, KEY("token_type")))
		return;
	if (t->bos >= 0)
		t->type[t->bos] = TOK_CONTROL;
	if (t->eos >= 0)
		t->type[t->eos] = TOK_CONTROL;
	if (t->unk >= 0)
		t->type[t->unk] = TOK_UNKNOWN;
}

/* BERT's own names for the tokens around a text are [CLS] and [SEP]; files have them under either name. */
static int load_ends(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	bool wpm = t->kind == TOK_WPM;
	bool cls = wpm && !gguf_has(g, KEY("bos_token_id")),
	     sep = wpm && gguf_has(g, KEY("seperator_token_id"));
	int rc = load_id(t, g, cls ? KEY("cls_token_id") : KEY("bos_token_id"), default_ids[t->kind].bos,
			 &t->bos, err);

	if (rc == 0)
		rc = load_id(t, g, sep ? KEY("seperator_token_id") : KEY("eos_token_id"),
			     default_ids[t->kind].eos, &t->eos, err);
	return rc;
}

static int load_ids(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	static const char *const more[] = {KEY("eot_token_id"), KEY("eom_token_id")};
	int32_t id;
	int rc = load_ends(t, g, err);

	if (rc == 0)
		rc = load_id(t, g, KEY("unknown_token_id"), default_ids[t->kind].unk, &t->unk, err);
	if (rc == 0)
		rc = load_id(t, g, KEY("mask_token_id"), -1, &t->mask, err);
	if (rc == 0 && t->eos >= 0)
		t->eog[t->eos] = true;
	for (size_t i = 0; i < sizeof(more) / sizeof(more[0]) && rc == 0; i++) {
		rc = load_id(t, g, more[i], -1, &id, err);
		if (rc == 0 && id >= 0)
			t->eog[id] = true;
	}
	return rc;
}

static int load_flags(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	bool bos =
	    t->kind == TOK_SPM || t->kind == TOK_WPM || (t->kind == TOK_BPE && tok_pre_adds_bos(t->pre));
	bool eos = t->kind == TOK_WPM || t->kind == TOK_UGM;
	int rc = load_flag(g, KEY("add_bos_token"), bos && t->bos >= 0, &t->add_bos, err);

	if (rc == 0)
		rc = load_flag(g, KEY("add_eos_token"), eos && t->eos >= 0, &t->add_eos, err);
	if (rc == 0)
		rc = load_flag(g, KEY("add_space_prefix"), t->kind == TOK_SPM, &t->add_space_prefix, err);
	/* The others have no such rule: byte-level vocabularies' expressions say where a space goes, and
	 * WordPiece's words have none. */
	if (t->kind == TOK_BPE || t->kind == TOK_WPM)
		t->add_space_prefix = false;
	t->drops_first_space = t->add_space_prefix || t->merge_spaces || t->kind == TOK_WPM;
	if (rc == 0 && ((t->add_bos && t->bos < 0) || (t->add_eos && t->eos < 0)))
		return ps_err_set(err, -EBADMSG, "the file asks to add a token at the %s but names none",
				  t->add_bos && t->bos < 0 ? "beginning (add_bos_token)"
							   : "end (add_eos_token)");
	return rc;
}

static char *arena_take(struct tokenizer *t, size_t n)
{
	CHECK(t->arena_used + n <= t->arena_cap);
	t->arena_used += n;
	return t->arena + t->arena_used - n;
}

/* SentencePiece text with its spaces as spaces. */
static struct tok_str with_spaces(struct tokenizer *t, struct tok_str s)
{
	char *out = arena_take(t, s.len);
	uint32_t n = 0;

	for (uint32_t i = 0; i < s.len;) {
		if (s.len - i >= TOK_SPACE_LEN && memcmp(s.s + i, TOK_SPACE, TOK_SPACE_LEN) == 0) {
			out[n++] = ' ';
			i += TOK_SPACE_LEN;
		} else {
			out[n++] = s.s[i++];
		}
	}
	return (struct tok_str){.s = out, .len = n};
}

/* What token i decodes to, from its type and spelling. */
static int load_piece(struct tokenizer *t, const struct unicode_byte_alphabet *a, uint32_t i,
		      struct ps_err *err)
{
	struct tok_str raw = t->text[i];
	ptrdiff_t n;
	char *out;

	t->piece[i] = raw;
	if (t->type[i] == TOK_CONTROL || t->type[i] == TOK_UNKNOWN) {
		t->piece[i].len = 0;
	} else if (t->type[i] == TOK_BYTE) {
		if (t->kind == TOK_BPE || t->kind == TOK_WPM)
			return ps_err_set(err, -EBADMSG, "%s[%u]: a %s vocabulary has no byte tokens",
					  KEY("token_type"), i,
					  t->kind == TOK_BPE ? "byte-level" : "WordPiece");
		out = arena_take(t, 1);
		out[0] = (char)tok_spm_byte_of(raw);
		t->piece[i] = (struct tok_str){.s = out, .len = 1};
	} else if (t->kind != TOK_BPE) {
		t->piece[i] = with_spaces(t, raw);
	} else if (t->type[i] != TOK_USER) {
		out = arena_take(t, raw.len);
		n = unicode_byte_alphabet_decode(a, raw.s, raw.len, out);
		/* A spelling outside the byte alphabet stands for itself; no text becomes it. */
		if (n >= 0) {
			t->piece[i] = (struct tok_str){.s = out, .len = (uint32_t)n};
			t->text[i] = t->piece[i];
		} else {
			t->text[i].len = 0;
		}
	}
	if (t->piece[i].len > TOK_PIECE_MAX)
		return ps_err_set(err, -EBADMSG, "%s[%u]: a token of %u bytes; at most %u are accepted",
				  KEY("tokens"), i, t->piece[i].len, TOK_PIECE_MAX);
	return 0;
}

static int load_texts(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	size_t n_merges = t->kind == TOK_BPE ? gguf_arr_len(g, KEY("merges")) : 0, bytes = 256;
	struct gguf_str s;

	for (uint32_t i = 0; i < t->n_vocab; i++) {
		if (!gguf_arr_str(g, KEY("tokens"), i, &s))
			return ps_err_set(err, -EBADMSG, "%s[%u] cannot be read", KEY("tokens"), i);
		if (s.len > TOK_RAW_MAX)
			return ps_err_set(err, -EBADMSG,
					  "%s[%u]: a token of %zu bytes; at most %u are accepted",
					  KEY("tokens"), i, s.len, TOK_RAW_MAX);
		t->text[i] = (struct tok_str){.s = s.s, .len = (uint32_t)s.len};
		bytes += s.len + 1;
	}
	if (n_merges > TOK_MERGES_MAX)
		return ps_err_set(err, -EBADMSG, "%s: %zu merges; at most %u are accepted", KEY("merges"),
				  n_merges, TOK_MERGES_MAX);
	/* A merge adds at most its two parts and their union. */
	for (size_t i = 0; i < n_merges; i++)
		if (gguf_arr_str(g, KEY("merges"), i, &s))
			bytes += 2 * s.len;
	t->arena = malloc(bytes);
	t->arena_cap = bytes;
	return t->arena != NULL ? 0
				: ps_err_set(err, -ENOMEM, "no memory for %zu bytes of vocabulary", bytes);
}

static int load_pieces(struct tokenizer *t, struct ps_err *err)
{
	struct unicode_byte_alphabet a;
	int rc = 0;

	unicode_byte_alphabet_init(&a);
	for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++)
		rc = load_piece(t, &a, i, err);
	return rc;
}

/* What plain text of a byte-level vocabulary may become. */
static int load_words(struct tokenizer *t, struct ps_err *err)
{
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		int rc;

		if ((t->type[i] != TOK_NORMAL && t->type[i] != TOK_UNUSED) || t->text[i].len == 0)
			continue;
		rc = tok_map_put(&t->by_text, t->text, i);
		if (rc != 0)
			return ps_err_set(err, rc == -ENOMEM ? rc : -EBADMSG,
					  "%s[%u]: the vocabulary's table cannot hold it", KEY("tokens"), i);
	}
	return 0;
}

static int load_all(struct tokenizer *t, const struct gguf *g, struct ps_err *err)
{
	int rc = tok_map_init(&t->by_text, t->n_vocab);

	if (rc != 0)
		return ps_err_set(err, rc, "no memory for %u tokens", t->n_vocab);
	rc = load_types(t, g, err);
	if (rc == 0)
		rc = load_ids(t, g, err);
	if (rc == 0)
		mark_named(t, g);
	if (rc == 0)
		rc = load_texts(t, g, err);
	if (rc == 0)
		tok_special_mark(t);
	if (rc == 0 && t->kind == TOK_SPM)
		rc = tok_spm_load(t, g, err);
	if (rc == 0 && t->kind == TOK_WPM)
		rc = tok_wpm_load(t, g, err);
	if (rc == 0 && t->kind == TOK_UGM)
		rc = tok_ugm_load(t, g, err);
	if (rc == 0)
		rc = load_pieces(t, err);
	if (rc == 0 && t->kind == TOK_BPE)
		rc = load_words(t, err);
	if (rc == 0)
		rc = tok_special_load(t, g, err);
	/* Merges come last: they add symbols, which moves the texts. */
	if (rc == 0 && t->kind == TOK_BPE)
		rc = tok_bpe_load(t, g, err);
	return rc == 0 ? load_flags(t, g, err) : rc;
}

static int load_kind(const struct gguf *g, enum tok_kind *kind_out, struct ps_err *err)
{
	static const char *const kinds[] = {
	    [TOK_SPM] = "llama", [TOK_BPE] = "gpt2", [TOK_WPM] = "bert", [TOK_UGM] = "t5"};
	struct gguf_str model;

	if (!gguf_get_str(g, KEY("model"), &model) || str_is(model, "no_vocab") || str_is(model, "none"))
		return ps_err_set(err, -ENOENT, "%s: the file has no vocabulary (%s)", gguf_path(g),
				  KEY("model"));
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (str_is(model, kinds[i])) {
			*kind_out = (enum tok_kind)i;
			return 0;
		}
	return ps_err_set(err, -ENOTSUP,
			  "%s: tokenizer \"%.*s\" is not known; expected one of llama, gpt2, bert, t5",
			  KEY("model"), (int)(model.len < 64 ? model.len : 64), model.s);
}

int tokenizer_load(const struct gguf *g, struct tokenizer **tok_out, struct ps_err *err)
{
	size_t n = gguf_arr_len(g, KEY("tokens"));
	struct tokenizer *t;
	enum tok_kind kind = TOK_SPM;
	int rc = load_kind(g, &kind, err);

	if (rc != 0)
		return rc;
	if (n == 0 || gguf_arr_type(g, KEY("tokens")) != GGUF_STRING)
		return ps_err_set(err, -EBADMSG, "%s: expected an array of strings", KEY("tokens"));
	if (n > TOK_VOCAB_MAX)
		return ps_err_set(err, -EBADMSG, "%s: %zu tokens; at most %u are accepted", KEY("tokens"), n,
				  TOK_VOCAB_MAX);
	t = calloc(1, sizeof(*t));
	if (t == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for a tokenizer");
	t->kind = kind;
	t->n_vocab = t->n_syms = (uint32_t)n;
	t->cap_syms = n;
	memset(t->byte_id, 0xff, sizeof(t->byte_id));
	t->type = calloc(n, sizeof(*t->type));
	t->eog = calloc(n, sizeof(*t->eog));
	t->text = calloc(n, sizeof(*t->text));
	t->piece = calloc(n, sizeof(*t->piece));
	t->strip = calloc(n, sizeof(*t->strip));
	if (t->type == NULL || t->eog == NULL || t->strip == NULL || t->text == NULL || t->piece == NULL)
		rc = ps_err_set(err, -ENOMEM, "no memory for %zu tokens", n);
	else
		rc = load_all(t, g, err);
	if (rc != 0) {
		tokenizer_free(t);
		return rc;
	}
	*tok_out = t;
	return 0;
}

void tokenizer_free(struct tokenizer *t)
{
	if (t == NULL)
		return;
	tok_pre_free(t->pre);
	tok_map_fini(&t->by_text);
	tok_pairs_fini(&t->pairs);
	free(t->type);
	free(t->eog);
	free(t->text);
	free(t->piece);
	free(t->arena);
	free(t->special);
	free(t->special_id);
	free(t->strip);
	free(t->order);
	free(t->score);
	tok_trie_fini(&t->trie);
	free(t);
}
