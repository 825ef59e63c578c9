/* SPDX-License-Identifier: BSD-3-Clause */
/* The trie against a search through the whole list, over random tokens of few letters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/tokenizer_trie.h"

#define TOKENS  200u
#define LONGEST 6u

static uint32_t seed = 12345;

static uint32_t rnd(uint32_t below)
{
	seed = seed * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(seed >> 8) * below >> 24);
}

/* The last token with just this text. */
static uint32_t search(const struct tok_str *strs, uint32_t n, const char *s, uint32_t len)
{
	uint32_t found = TOK_NONE;

	for (uint32_t i = 0; i < n; i++)
		if (strs[i].len == len && len > 0 && memcmp(strs[i].s, s, len) == 0)
			found = i;
	return found;
}

static void finds_what_a_search_finds(void **state)
{
	static char text[TOKENS][LONGEST];
	struct tok_str strs[TOKENS];
	uint32_t ids[TOKENS];

	(void)state;
	for (int round = 0; round < 50; round++) {
		struct tok_trie t = {0};

		for (uint32_t i = 0; i < TOKENS; i++) {
			strs[i] = (struct tok_str){.s = text[i], .len = rnd(LONGEST + 1)};
			for (uint32_t k = 0; k < LONGEST; k++)
				text[i][k] = (char)(rnd(3) + 254);
			ids[i] = i;
		}
		assert_int_equal(tok_trie_build(&t, strs, ids, TOKENS), 0);
		for (int walk = 0; walk < 200; walk++) {
			uint32_t node = 0;
			char s[LONGEST];

			for (uint32_t k = 0; k < LONGEST; k++)
				s[k] = (char)(rnd(3) + 254);
			for (uint32_t k = 0; k < LONGEST && node != TOK_NONE; k++) {
				uint32_t want = search(strs, TOKENS, s, k + 1);

				node = tok_trie_step(&t, node, (uint8_t)s[k]);
				assert_int_equal(node == TOK_NONE ? TOK_NONE : t.node[node].id, want);
			}
		}
		tok_trie_fini(&t);
	}
}

static void no_tokens(void **state)
{
	struct tok_str empty = {.s = "", .len = 0};
	struct tok_trie t = {0};
	uint32_t id = 0;

	(void)state;
	assert_int_equal(tok_trie_build(&t, NULL, NULL, 0), 0);
	assert_int_equal(tok_trie_step(&t, 0, 'a'), TOK_NONE);
	tok_trie_fini(&t);
	assert_int_equal(tok_trie_build(&t, &empty, &id, 1), 0);
	assert_int_equal(t.node[0].id, TOK_NONE);
	tok_trie_fini(&t);
}

static void a_node_has_all_bytes(void **state)
{
	char text[256];
	struct tok_str strs[256];
	uint32_t ids[256];
	struct tok_trie t = {0};

	(void)state;
	for (uint32_t i = 0; i < 256; i++) {
		text[i] = (char)i;
		strs[i] = (struct tok_str){.s = &text[i], .len = 1};
		ids[i] = 255 - i;
	}
	assert_int_equal(tok_trie_build(&t, strs, ids, 256), 0);
	for (uint32_t i = 0; i < 256; i++)
		assert_int_equal(t.node[tok_trie_step(&t, 0, (uint8_t)i)].id, i);
	tok_trie_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finds_what_a_search_finds),
	    cmocka_unit_test(no_tokens),
	    cmocka_unit_test(a_node_has_all_bytes),
	};

	return cmocka_run_group_tests_name("tokenizer_trie", tests, NULL, NULL);
}
