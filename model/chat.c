/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/chat.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define KEY_TEMPLATE "tokenizer.chat_template"
#define KEY_TOKENS   "tokenizer.ggml.tokens"
#define KEY_EOS      "tokenizer.ggml.eos_token_id"
/* Characters that Python's strip() removes, as UTF-8; templates run it on messages. */
#define BLANKS_MAX 3u

/* How turns are written. Most families are a prefix and a suffix around each message; the "[INST]" ones
 * put the system's text inside the first user's turn and are code of their own. */
struct style {
	const char *name;
	enum chat_kind family;
	bool in_turns;      /* user and assistant alternate, the user first */
	bool trims;         /* messages lose their blanks at both ends */
	const char *before; /* the role's name */
	const char *after_role, *end;
	const char *assistant; /* the role's name in the text */
};

static const struct style styles[CHAT_N_KINDS] = {
    [CHAT_CHATML] = {"chatml", CHAT_CHATML, false, false, "<|im_start|>", "\n", "<|im_end|>\n", "assistant"},
    [CHAT_LLAMA2] = {"llama2", CHAT_LLAMA2, true, true, NULL, NULL, NULL, NULL},
    [CHAT_LLAMA3] = {"llama3", CHAT_LLAMA3, false, true, "<|start_header_id|>", "<|end_header_id|>\n\n",
		     "<|eot_id|>", "assistant"},
    [CHAT_MISTRAL] = {"mistral", CHAT_MISTRAL, true, false, NULL, NULL, NULL, NULL},
    [CHAT_GEMMA] = {"gemma", CHAT_GEMMA, true, true, "<start_of_turn>", "\n", "<end_of_turn>\n", "model"},
    [CHAT_PHI3] = {"phi3", CHAT_PHI3, false, false, "<|", "|>\n", "<|end|>\n", "assistant"},
    [CHAT_ZEPHYR] = {"zephyr", CHAT_ZEPHYR, false, false, "<|", "|>\n", "</s>\n", "assistant"},
    [CHAT_MISTRAL_V3] = {"mistral-v3", CHAT_MISTRAL, true, false, NULL, NULL, NULL, NULL},
    [CHAT_MISTRAL_V3_TEKKEN] = {"mistral-v3-tekken", CHAT_MISTRAL, true, false, NULL, NULL, NULL, NULL},
    [CHAT_MISTRAL_V7] = {"mistral-v7", CHAT_MISTRAL, true, false, NULL, NULL, NULL, NULL},
    [CHAT_MISTRAL_V7_TEKKEN] = {"mistral-v7-tekken", CHAT_MISTRAL, true, false, NULL, NULL, NULL, NULL},
    [CHAT_ZEPHYR_ENDOFTEXT] = {"zephyr-endoftext", CHAT_ZEPHYR, false, false, "<|", "|>\n", "<|endoftext|>\n",
			       "assistant"},
};

const char *chat_name(enum chat_kind kind)
{
	CHECK(kind < CHAT_N_KINDS);
	return styles[kind].name;
}

/* "chatml, llama2, ..." for error texts. */
static const char *list_names(char *buf, size_t cap)
{
	size_t at = 0;

	for (unsigned k = 0; k < CHAT_N_KINDS; k++) {
		at += (size_t)snprintf(buf + at, cap - at, "%s%s", k ? ", " : "", styles[k].name);
		CHECK(at < cap);
	}
	return buf;
}

static bool find_name(const char *name, size_t len, enum chat_kind *kind_out)
{
	for (unsigned k = 0; k < CHAT_N_KINDS; k++)
		if (strlen(styles[k].name) == len && memcmp(styles[k].name, name, len) == 0) {
			*kind_out = (enum chat_kind)k;
			return true;
		}
	return false;
}

int chat_by_name(const char *name, enum chat_kind *kind_out, struct ps_err *err)
{
	char names[256];

	if (find_name(name, strlen(name), kind_out))
		return 0;
	return ps_err_set(err, -EINVAL, "chat template \"%.64s\" is not known; expected one of %s", name,
			  list_names(names, sizeof(names)));
}

static bool has(struct gguf_str t, const char *what)
{
	return memmem(t.s, t.len, what, strlen(what)) != NULL;
}

static bool has_any(struct gguf_str t, const char *const *what, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (has(t, what[i]))
			return true;
	return false;
}
#define HAS_ANY(t, list) has_any(t, list, sizeof(list) / sizeof((list)[0]))

/* A role's marker ends the line, however the template spells that: as an escape or as itself. */
static bool role_ends_line(struct gguf_str t)
{
	static const char *const how[] = {"|>\\n", "|>\n", "|>' + '\\n'", "|>'+'\\n'", "|>\" + \"\\n\""};

	return HAS_ANY(t, how);
}

static bool detect_inst(struct gguf_str t, enum chat_kind *kind_out)
{
	/* The opening marker as the last of a string, so with nothing behind it. */
	static const char *const bare[] = {"[INST]'", "[INST]\""};
	static const char *const spaced_end[] = {" [/INST]"};
	bool spaced = !HAS_ANY(t, bare);

	if (has(t, "<<SYS>>"))
		*kind_out = CHAT_LLAMA2;
	else if (has(t, "[SYSTEM_PROMPT]"))
		*kind_out = spaced && has(t, "[INST] ") ? CHAT_MISTRAL_V7 : CHAT_MISTRAL_V7_TEKKEN;
	else if (HAS_ANY(t, spaced_end))
		*kind_out = CHAT_MISTRAL;
	else
		*kind_out = spaced ? CHAT_MISTRAL_V3 : CHAT_MISTRAL_V3_TEKKEN;
	return true;
}

static bool eos_is(const struct gguf *g, const char *text)
{
	struct gguf_str s;
	uint32_t id;

	return gguf_get_u32(g, KEY_EOS, &id) && gguf_arr_type(g, KEY_TOKENS) == GGUF_STRING &&
	       gguf_arr_str(g, KEY_TOKENS, id, &s) && s.len == strlen(text) && memcmp(s.s, text, s.len) == 0;
}

/* Zephyr ends the user's turn with a token, which tells it from others that write <|user|>. Which token it is
 * the template says, or leaves to the file's EOS. */
static bool detect_zephyr(const struct gguf *g, struct gguf_str t, enum chat_kind *kind_out)
{
	const char *user = memmem(t.s, t.len, "<|user|>", 8), *end;
	struct gguf_str turn;

	if (user == NULL || !role_ends_line(t))
		return false;
	turn = (struct gguf_str){.s = user, .len = t.len - (size_t)(user - t.s)};
	end = memmem(turn.s, turn.len, "}}", 2);
	if (end != NULL)
		turn.len = (size_t)(end - user);
	*kind_out = CHAT_ZEPHYR;
	if (has(turn, "</s>") || (has(turn, "eos_token") && eos_is(g, "</s>")))
		return true;
	*kind_out = CHAT_ZEPHYR_ENDOFTEXT;
	return has(turn, "<|endoftext|>") || (has(turn, "eos_token") && eos_is(g, "<|endoftext|>"));
}

static bool detect(const struct gguf *g, struct gguf_str t, enum chat_kind *kind_out)
{
	/* Formats that borrow the markers of one of ours and do other things with them. */
	static const char *const others[] = {"<|im_sep|>", "<end_of_utterance>", "<|im_middle|>", "<|start|>",
					     "[gMASK]",    "<|begin_of_image|>"};

	if (find_name(t.s, t.len, kind_out))
		return true;
	if (HAS_ANY(t, others))
		return false;
	if (has(t, "[INST]") && has(t, "[/INST]"))
		return detect_inst(t, kind_out);
	if (has(t, "<|im_start|>") && has(t, "<|im_end|>"))
		*kind_out = CHAT_CHATML;
	else if (has(t, "<|start_header_id|>") && has(t, "<|end_header_id|>") && has(t, "<|eot_id|>"))
		*kind_out = CHAT_LLAMA3;
	else if (has(t, "<start_of_turn>") && has(t, "<end_of_turn>"))
		*kind_out = CHAT_GEMMA;
	else if (has(t, "<|end|>") && role_ends_line(t) && has(t, "<|assistant|>"))
		*kind_out = CHAT_PHI3;
	else
		return detect_zephyr(g, t, kind_out);
	return true;
}

int chat_detect(const struct gguf *g, enum chat_kind *kind_out, struct ps_err *err)
{
	char names[256];
	struct gguf_str t;

	if (!gguf_has(g, KEY_TEMPLATE))
		return ps_err_set(err, -ENOENT,
				  "%s: the file has no chat template (%s); ask for one by its name: %s",
				  gguf_path(g), KEY_TEMPLATE, list_names(names, sizeof(names)));
	if (!gguf_get_str(g, KEY_TEMPLATE, &t))
		return ps_err_set(err, -EBADMSG, "%s: expected a string", KEY_TEMPLATE);
	if (detect(g, t, kind_out))
		return 0;
	return ps_err_set(err, -ENOTSUP,
			  "%s: the file's chat template is none that is known; if the model was trained on "
			  "one of these, ask for it by its name: %s",
			  gguf_path(g), list_names(names, sizeof(names)));
}

int chat_choose(const struct gguf *g, const char *name, enum chat_kind *kind_out, struct ps_err *err)
{
	enum chat_kind shown;
	int rc;

	if (strcmp(name, "auto") == 0)
		return chat_detect(g, kind_out, err);
	rc = chat_by_name(name, kind_out, err);
	if (rc == 0 && styles[*kind_out].family == *kind_out && chat_detect(g, &shown, NULL) == 0 &&
	    styles[shown].family == *kind_out)
		*kind_out = shown;
	return rc;
}

/* A text that grows; once memory is refused it stays failed. */
struct text {
	char *s;
	size_t len, cap;
	bool failed;
};

static void put_n(struct text *t, const char *s, size_t n)
{
	if (t->failed)
		return;
	if (t->len + n + 1 > t->cap) {
		size_t cap = (t->len + n + 1) * 2;
		char *p = realloc(t->s, cap);

		if (p == NULL) {
			t->failed = true;
			return;
		}
		t->s = p;
		t->cap = cap;
	}
	memcpy(t->s + t->len, s, n);
	t->len += n;
	t->s[t->len] = '\0';
}

static void put(struct text *t, const char *s)
{
	put_n(t, s, strlen(s));
}

/* Bytes of a blank at s, 0 if there is none: White_Space and U+001C to U+001F, as Python has it. */
static size_t blank_at(const char *s, size_t n)
{
	static const char *const wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8",
					   "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

	if (n == 0)
		return 0;
	if (s[0] == ' ' || (s[0] >= '\t' && s[0] <= '\r') || (s[0] >= 0x1c && s[0] <= 0x1f))
		return 1;
	if (n >= 3 && memcmp(s, "\xe2\x80", 2) == 0 && (uint8_t)s[2] >= 0x80 && (uint8_t)s[2] <= 0x8a)
		return 3; /* U+2000 to U+200A */
	for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
		if (strlen(wide[i]) <= n && memcmp(s, wide[i], strlen(wide[i])) == 0)
			return strlen(wide[i]);
	return 0;
}

/* Without the blanks at its end, and with `both` without those at its beginning. */
static void put_stripped(struct text *t, const char *s, bool both)
{
	size_t n = strlen(s), k;

	while (both && (k = blank_at(s, n)) > 0) {
		s += k;
		n -= k;
	}
	for (k = 1; k <= BLANKS_MAX && k <= n; k++)
		if (blank_at(s + n - k, k) == k) {
			n -= k;
			k = 0;
		}
	put_n(t, s, n);
}

static void put_trimmed(struct text *t, const char *s)
{
	put_stripped(t, s, true);
}

static bool is_role(const struct chat_message *m, const char *role)
{
	return strcmp(m->role, role) == 0;
}

static int check_roles(enum chat_kind kind, const struct chat_message *m, size_t n, bool add_prompt,
		       struct ps_err *err)
{
	size_t first = n > 0 && is_role(&m[0], "system");

	for (size_t i = 0; i < n; i++) {
		bool user = is_role(&m[i], "user");

		if (!user && !is_role(&m[i], "assistant") && !is_role(&m[i], "system"))
			return ps_err_set(err, -EINVAL,
					  "message %zu: role \"%.32s\"; expected system, user or assistant",
					  i + 1, m[i].role);
		if (i > 0 && is_role(&m[i], "system"))
			return ps_err_set(err, -EINVAL, "message %zu: only the first may be the system's",
					  i + 1);
		if (styles[kind].in_turns && i >= first && user != ((i - first) % 2 == 0))
			return ps_err_set(
			    err, -EINVAL,
			    "message %zu is the %s's; %s has the user and the assistant in turns, "
			    "the user first",
			    i + 1, m[i].role, styles[kind].name);
	}
	if (n == first)
		return ps_err_set(err, -EINVAL, "a conversation needs a message of the user");
	if (styles[kind].in_turns && add_prompt && !is_role(&m[n - 1], "user"))
		return ps_err_set(err, -EINVAL, "the last message is the %s's; only the user's is answered",
				  m[n - 1].role);
	return 0;
}

/* Meta's own format: a turn is a sequence with its own BOS. */
static void format_llama2(struct text *t, const struct chat_message *m, size_t n)
{
	const struct chat_message *system = is_role(&m[0], "system") ? &m[0] : NULL;

	for (size_t i = system != NULL; i < n; i++) {
		if (!is_role(&m[i], "user")) {
			put(t, " ");
			put_trimmed(t, m[i].text);
			put(t, " </s>");
			continue;
		}
		put(t, t->len == 0 ? "[INST] " : "<s>[INST] ");
		if (system != NULL && i == 1) {
			put(t, "<<SYS>>\n");
			put(t, system->text);
			put(t, "\n<</SYS>>\n\n");
		}
		/* The template strips system and user as one text. */
		put_stripped(t, m[i].text, system == NULL || i != 1);
		put(t, " [/INST]");
	}
}

/* Some templates of the first version write a space between the BOS and "[INST]": it is the one that
 * SentencePiece puts in front of a text by itself, so it is not repeated here. */
static void format_mistral(struct text *t, enum chat_kind kind, const struct chat_message *m, size_t n)
{
	bool v7 = kind == CHAT_MISTRAL_V7 || kind == CHAT_MISTRAL_V7_TEKKEN;
	bool tight = kind == CHAT_MISTRAL_V3_TEKKEN || kind == CHAT_MISTRAL_V7_TEKKEN;
	const char *space = tight ? "" : " ";
	const struct chat_message *system = is_role(&m[0], "system") ? &m[0] : NULL;
	/* Where the system's text goes: before v3 into the first user's turn, in v3 into the last. */
	size_t host = kind == CHAT_MISTRAL ? 1 : n - 1 - !is_role(&m[n - 1], "user");

	if (v7 && system != NULL) {
		put(t, "[SYSTEM_PROMPT]");
		put(t, space);
		put(t, system->text);
		put(t, "[/SYSTEM_PROMPT]");
	}
	for (size_t i = system != NULL; i < n; i++) {
		if (is_role(&m[i], "user")) {
			put(t, "[INST]");
			put(t, space);
			if (!v7 && system != NULL && i == host) {
				put(t, system->text);
				put(t, "\n\n");
			}
			put(t, m[i].text);
			put(t, kind == CHAT_MISTRAL ? " [/INST]" : "[/INST]");
		} else {
			put(t, space);
			if (kind == CHAT_MISTRAL || v7)
				put(t, m[i].text);
			else
				put_trimmed(t, m[i].text);
			put(t, "</s>");
		}
	}
}

static void format_marked(struct text *t, enum chat_kind kind, const struct chat_message *m, size_t n,
			  bool add_prompt)
{
	const struct style *y = &styles[kind];
	/* Gemma knows no system: what it says opens the first user's turn. */
	bool merges = kind == CHAT_GEMMA && is_role(&m[0], "system");

	for (size_t i = merges; i < n; i++) {
		put(t, y->before);
		put(t, is_role(&m[i], "assistant") ? y->assistant : m[i].role);
		put(t, y->after_role);
		if (merges && i == 1) {
			put(t, m[0].text);
			put(t, "\n\n");
		}
		if (y->trims)
			put_trimmed(t, m[i].text);
		else
			put(t, m[i].text);
		put(t, y->end);
	}
	if (add_prompt) {
		put(t, y->before);
		put(t, y->assistant);
		put(t, y->after_role);
	}
}

int chat_format(enum chat_kind kind, const struct chat_message *m, size_t n, bool add_prompt, char **text_out,
		struct ps_err *err)
{
	struct text t = {0};
	int rc;

	CHECK(kind < CHAT_N_KINDS);
	rc = check_roles(kind, m, n, add_prompt, err);
	if (rc != 0)
		return rc;
	if (kind == CHAT_LLAMA2)
		format_llama2(&t, m, n);
	else if (styles[kind].family == CHAT_MISTRAL)
		format_mistral(&t, kind, m, n);
	else
		format_marked(&t, kind, m, n, add_prompt);
	if (t.failed) {
		free(t.s);
		return ps_err_set(err, -ENOMEM, "no memory for a conversation");
	}
	*text_out = t.s;
	return 0;
}
