/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chat templates: each family's text as its published template renders it (the
 * expected texts were written down from the templates, less their BOS), what a
 * template is recognised by, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/chat.h"
#include "tests/unit/model/vocab_file.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const struct chat_message talk[] = {
    {"system", " Be kind. "}, {"user", " Hello\n"}, {"assistant", " Hi "}, {"user", "Who\xe3\x80\x80"}};
#define WIDE "\xe3\x80\x80"

/* With the system and without, both asking for an answer. */
static const struct {
	enum chat_kind kind;
	const char *whole, *single;
} expected[] = {
    {CHAT_CHATML,
     "<|im_start|>system\n Be kind. <|im_end|>\n<|im_start|>user\n Hello\n<|im_end|>\n"
     "<|im_start|>assistant\n Hi <|im_end|>\n<|im_start|>user\nWho" WIDE
     "<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\n Hello\n<|im_end|>\n<|im_start|>assistant\n"},
    {CHAT_LLAMA2, "[INST] <<SYS>>\n Be kind. \n<</SYS>>\n\n Hello [/INST] Hi </s><s>[INST] Who [/INST]",
     "[INST] Hello [/INST]"},
    {CHAT_LLAMA3,
     "<|start_header_id|>system<|end_header_id|>\n\nBe "
     "kind.<|eot_id|><|start_header_id|>user<|end_header_id|>"
     "\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>user"
     "<|end_header_id|>\n\nWho<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|"
     ">"
     "\n\n"},
    {CHAT_MISTRAL, "[INST]  Be kind. \n\n Hello\n [/INST]  Hi </s>[INST] Who" WIDE " [/INST]",
     "[INST]  Hello\n [/INST]"},
    {CHAT_MISTRAL_V3, "[INST]  Hello\n[/INST] Hi</s>[INST]  Be kind. \n\nWho" WIDE "[/INST]",
     "[INST]  Hello\n[/INST]"},
    {CHAT_MISTRAL_V3_TEKKEN, "[INST] Hello\n[/INST]Hi</s>[INST] Be kind. \n\nWho" WIDE "[/INST]",
     "[INST] Hello\n[/INST]"},
    {CHAT_MISTRAL_V7,
     "[SYSTEM_PROMPT]  Be kind. [/SYSTEM_PROMPT][INST]  Hello\n[/INST]  Hi </s>[INST] Who" WIDE "[/INST]",
     "[INST]  Hello\n[/INST]"},
    {CHAT_MISTRAL_V7_TEKKEN,
     "[SYSTEM_PROMPT] Be kind. [/SYSTEM_PROMPT][INST] Hello\n[/INST] Hi </s>[INST]Who" WIDE "[/INST]",
     "[INST] Hello\n[/INST]"},
    {CHAT_GEMMA,
     "<start_of_turn>user\n Be kind. \n\nHello<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n"
     "<start_of_turn>user\nWho<end_of_turn>\n<start_of_turn>model\n",
     "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"},
    {CHAT_PHI3,
     "<|system|>\n Be kind. <|end|>\n<|user|>\n Hello\n<|end|>\n<|assistant|>\n Hi <|end|>\n<|user|>\n"
     "Who" WIDE "<|end|>\n<|assistant|>\n",
     "<|user|>\n Hello\n<|end|>\n<|assistant|>\n"},
    {CHAT_ZEPHYR,
     "<|system|>\n Be kind. </s>\n<|user|>\n Hello\n</s>\n<|assistant|>\n Hi </s>\n<|user|>\nWho" WIDE
     "</s>\n<|assistant|>\n",
     "<|user|>\n Hello\n</s>\n<|assistant|>\n"},
    {CHAT_ZEPHYR_ENDOFTEXT,
     "<|system|>\n Be kind. <|endoftext|>\n<|user|>\n Hello\n<|endoftext|>\n<|assistant|>\n Hi "
     "<|endoftext|>\n"
     "<|user|>\nWho" WIDE "<|endoftext|>\n<|assistant|>\n",
     "<|user|>\n Hello\n<|endoftext|>\n<|assistant|>\n"},
};

static void formats(void **state)
{
	struct ps_err err;
	char *text;

	(void)state;
	assert_int_equal(N(expected), CHAT_N_KINDS);
	for (size_t i = 0; i < N(expected); i++) {
		assert_int_equal(chat_format(expected[i].kind, talk, N(talk), true, &text, &err), 0);
		assert_string_equal(text, expected[i].whole);
		free(text);
		assert_int_equal(chat_format(expected[i].kind, &talk[1], 1, true, &text, &err), 0);
		assert_string_equal(text, expected[i].single);
		free(text);
	}
}

static void without_a_prompt_nothing_opens(void **state)
{
	char *text;

	(void)state;
	assert_int_equal(chat_format(CHAT_GEMMA, &talk[1], 2, false, &text, NULL), 0);
	assert_string_equal(
	    text, "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n");
	free(text);
	assert_int_equal(chat_format(CHAT_LLAMA2, &talk[1], 2, false, &text, NULL), 0);
	assert_string_equal(text, "[INST] Hello [/INST] Hi </s>");
	free(text);
}

static void only_blanks_are_trimmed_to_nothing(void **state)
{
	const struct chat_message m = {"user", " \t\r\n\xc2\xa0\xe2\x80\x83\x1f "};
	char *text;

	(void)state;
	assert_int_equal(chat_format(CHAT_LLAMA2, &m, 1, true, &text, NULL), 0);
	assert_string_equal(text, "[INST]  [/INST]");
	free(text);
}

static void refused(enum chat_kind kind, const struct chat_message *m, size_t n, bool prompt, const char *why)
{
	struct ps_err err;
	char *text = NULL;

	assert_int_equal(chat_format(kind, m, n, prompt, &text, &err), -EINVAL);
	assert_null(text);
	assert_non_null(strstr(err.msg, why));
}

static void wrong_orders_are_refused(void **state)
{
	const struct chat_message odd = {"tool", "x"};
	const struct chat_message two[] = {{"user", "a"}, {"user", "b"}};
	const struct chat_message late[] = {{"user", "a"}, {"system", "b"}};
	char *text;

	(void)state;
	for (unsigned k = 0; k < CHAT_N_KINDS; k++) {
		refused((enum chat_kind)k, NULL, 0, true, "needs a message");
		refused((enum chat_kind)k, talk, 1, true, "needs a message");
		refused((enum chat_kind)k, &odd, 1, true, "\"tool\"");
		refused((enum chat_kind)k, late, 2, true, "only the first");
	}
	refused(CHAT_LLAMA2, two, 2, true, "in turns");
	refused(CHAT_GEMMA, &talk[2], 2, true, "in turns");
	refused(CHAT_MISTRAL_V7, talk, 3, true, "only the user's is answered");
	assert_int_equal(chat_format(CHAT_CHATML, two, 2, true, &text, NULL), 0);
	free(text);
}

static void names(void **state)
{
	enum chat_kind kind;
	struct ps_err err;

	(void)state;
	for (unsigned k = 0; k < CHAT_N_KINDS; k++) {
		assert_int_equal(chat_by_name(chat_name((enum chat_kind)k), &kind, &err), 0);
		assert_int_equal(kind, k);
	}
	assert_int_equal(chat_by_name("alpaca", &kind, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "alpaca"));
	assert_non_null(strstr(err.msg, "chatml, llama2, llama3, mistral, gemma, phi3, zephyr"));
}

struct shown {
	const char *text, *eos;
	int kind; /* -1: none of ours */
};

/* Fragments as the published templates write them (in the file "\n" is an escape of Jinja, two characters).
 */
static const struct shown shown[] = {
    {"{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}", NULL,
     CHAT_CHATML},
    {"{{'<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>'}}", NULL, -1},
    {"{% set content = '<<SYS>>\\n' + system_message %}{{ bos_token + '[INST] ' + content.strip() + ' "
     "[/INST]' }}",
     NULL, CHAT_LLAMA2},
    {"{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n'+ content | trim + '<|eot_id|>' }}", NULL,
     CHAT_LLAMA3},
    {"{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token}}", NULL,
     CHAT_MISTRAL},
    {"{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}", NULL, CHAT_MISTRAL},
    {"{{- \"[AVAILABLE_TOOLS] [\" }}{{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}", NULL,
     CHAT_MISTRAL_V3},
    {"{{- \"[AVAILABLE_TOOLS][\" }}{{- \"[INST]\" + message[\"content\"] + \"[/INST]\" }}", NULL,
     CHAT_MISTRAL_V3_TEKKEN},
    {"{{- '[SYSTEM_PROMPT] ' + s + '[/SYSTEM_PROMPT]' }}{{- '[INST] ' + message['content'] + '[/INST]' }}",
     NULL, CHAT_MISTRAL_V7},
    {"{{- '[SYSTEM_PROMPT]' + s + '[/SYSTEM_PROMPT]' }}{{- '[INST]' + message['content'] + '[/INST]' }}",
     NULL, CHAT_MISTRAL_V7_TEKKEN},
    {"{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}", NULL,
     CHAT_GEMMA},
    {"{{'<|user|>' + '\\n' + message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}", NULL,
     CHAT_PHI3},
    {"{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{{ '<|assistant|>\\n' }}", NULL, CHAT_PHI3},
    {"{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{{ '<|assistant|>' }}", NULL, -1},
    {"{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}", "</s>", CHAT_ZEPHYR},
    {"{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}", "<|endoftext|>",
     CHAT_ZEPHYR_ENDOFTEXT},
    {"{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}", "<end>", -1},
    {"{{ '<|user|>\\n' + message['content'] + '<|endoftext|>' }}", NULL, CHAT_ZEPHYR_ENDOFTEXT},
    {"{{ '<|user|>\\n' + message['content'] + '\\n' }}{{ '<|assistant|>\\n' + eos_token }}", "</s>", -1},
    {"{{ 'GPT4 Correct User: ' + message['content'] }}", NULL, -1},
    {"", NULL, -1},
    {"gemma", NULL, CHAT_GEMMA},
};

static struct gguf *open_shown(const struct shown *s)
{
	const char *tokens[] = {"a", s->eos};
	struct vocab_file f;
	struct ps_err err;
	struct gguf *g;

	vocab_file_init(&f);
	if (s->text != NULL)
		vocab_file_str(&f, "tokenizer.chat_template", s->text);
	if (s->eos != NULL) {
		vocab_file_u32(&f, "tokenizer.ggml.eos_token_id", 1);
		vocab_file_strs(&f, "tokenizer.ggml.tokens", tokens, 2);
	}
	assert_int_equal(vocab_file_open(&f, &g, &err), 0);
	vocab_file_fini(&f);
	return g;
}

static void templates_are_recognised(void **state)
{
	(void)state;
	for (size_t i = 0; i < N(shown); i++) {
		struct gguf *g = open_shown(&shown[i]);
		enum chat_kind kind = CHAT_N_KINDS;
		struct ps_err err;
		int rc = chat_detect(g, &kind, &err);

		if (shown[i].kind < 0) {
			assert_int_equal(rc, -ENOTSUP);
			assert_non_null(strstr(err.msg, "zephyr"));
		} else {
			assert_int_equal(rc, 0);
			assert_int_equal(kind, shown[i].kind);
		}
		gguf_close(g);
	}
}

static void no_template_is_said(void **state)
{
	const struct shown none = {NULL, NULL, -1};
	struct gguf *g = open_shown(&none);
	enum chat_kind kind;
	struct ps_err err;

	(void)state;
	assert_int_equal(chat_detect(g, &kind, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "tokenizer.chat_template"));
	assert_int_equal(chat_choose(g, "auto", &kind, &err), -ENOENT);
	assert_int_equal(chat_choose(g, "mistral", &kind, &err), 0);
	assert_int_equal(kind, CHAT_MISTRAL);
	gguf_close(g);
}

static void a_name_takes_the_files_variant(void **state)
{
	const struct shown tekken = {"{{ '[INST]' + message['content'] + '[/INST]' }}", NULL, 0};
	struct gguf *g = open_shown(&tekken);
	enum chat_kind kind;
	struct ps_err err;

	(void)state;
	assert_int_equal(chat_choose(g, "mistral", &kind, &err), 0);
	assert_int_equal(kind, CHAT_MISTRAL_V3_TEKKEN);
	assert_int_equal(chat_choose(g, "auto", &kind, &err), 0);
	assert_int_equal(kind, CHAT_MISTRAL_V3_TEKKEN);
	assert_int_equal(chat_choose(g, "mistral-v7", &kind, &err), 0);
	assert_int_equal(kind, CHAT_MISTRAL_V7);
	assert_int_equal(chat_choose(g, "chatml", &kind, &err), 0);
	assert_int_equal(kind, CHAT_CHATML);
	assert_int_equal(chat_choose(g, "nonsense", &kind, &err), -EINVAL);
	gguf_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(formats),
	    cmocka_unit_test(without_a_prompt_nothing_opens),
	    cmocka_unit_test(only_blanks_are_trimmed_to_nothing),
	    cmocka_unit_test(wrong_orders_are_refused),
	    cmocka_unit_test(names),
	    cmocka_unit_test(templates_are_recognised),
	    cmocka_unit_test(no_template_is_said),
	    cmocka_unit_test(a_name_takes_the_files_variant),
	};

	return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
