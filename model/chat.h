/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_MODEL_CHAT_H
#define PENSTOCK_MODEL_CHAT_H
/*
 * Conversations as the text that a model was trained on. A GGUF carries its
 * template as a Jinja program; it is recognised by what only one family writes
 * and then formatted by code of our own, so this is no interpreter: a template
 * that is not one of these is said to be unknown, never approximated.
 *
 * The text never begins with a BOS, even where the template writes one: encode it
 * with add_special (which adds the BOS that the file asks for) and parse_special
 * (so that the markers become their tokens). Between the turns of a conversation it holds
 * those that the template puts there. Text of a message that spells a marker
 * becomes that marker. A system message that some templates add where there is
 * none (Qwen's) is left to the caller.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "model/gguf.h"

/* The first of a family is what its bare name asks for. Mistral's differ in the spaces around the
 * markers and where the system's text goes, Zephyr's in the token that ends a turn. */
enum chat_kind {
	CHAT_CHATML,
	CHAT_LLAMA2,
	CHAT_LLAMA3,
	CHAT_MISTRAL, /* Mistral 7B v0.1 and v0.2, Mixtral: " [/INST]" */
	CHAT_GEMMA,
	CHAT_PHI3,
	CHAT_ZEPHYR,            /* turns end in </s>: Zephyr, TinyLlama */
	CHAT_MISTRAL_V3,        /* Mistral 7B v0.3: "[INST] ...[/INST]" */
	CHAT_MISTRAL_V3_TEKKEN, /* Nemo: no spaces */
	CHAT_MISTRAL_V7,        /* [SYSTEM_PROMPT] */
	CHAT_MISTRAL_V7_TEKKEN, /* the same without spaces */
	CHAT_ZEPHYR_ENDOFTEXT,  /* turns end in <|endoftext|>: StableLM Zephyr */
	CHAT_N_KINDS,
};

struct chat_message {
	const char *role; /* "system" (first only), "user", "assistant" */
	const char *text;
};

const char *chat_name(enum chat_kind kind);

/* -EINVAL: no such name (the text lists them). */
int ps_warn_unused chat_by_name(const char *name, enum chat_kind *kind_out, struct ps_err *err);

/* By tokenizer.chat_template. -ENOENT: the file has none; -ENOTSUP: none of those we know. Both texts list
 * the names that can be asked for instead. */
int ps_warn_unused chat_detect(const struct gguf *g, enum chat_kind *kind_out, struct ps_err *err);

/* What a user asks for: "auto" is chat_detect; a family's bare name is the variant that the file's own
 * template shows, if it shows one of that family; any other name is that template. */
int ps_warn_unused chat_choose(const struct gguf *g, const char *name, enum chat_kind *kind_out,
			       struct ps_err *err);

/* add_prompt: the text ends where the assistant's answer begins. *text_out is malloc'd and terminated, the
 * caller frees. -EINVAL: no messages, an unknown role, or an order that the template refuses: a
 * system message that is not the first, for llama2, mistral and gemma anything but
 * user and assistant in turns, and there with add_prompt a last message that is not the user's.
 * -ENOMEM. */
int ps_warn_unused chat_format(enum chat_kind kind, const struct chat_message *m, size_t n, bool add_prompt,
			       char **text_out, struct ps_err *err);

#endif
