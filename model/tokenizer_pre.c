/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/tokenizer_pre.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define STAGES_MAX 6u
/* The patterns repeat single characters only, which needs a few hundred bytes of stack. */
#define JIT_STACK_START 32768u
#define JIT_STACK_MAX   (1024u * 1024u)

/* The characters of White_Space, to be used inside a class. PCRE2's own \s differs by U+180E. */
#define WS                                                                                                   \
	"\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{"    \
	"205f}\\x{3000}"
#define SPACES      "[" WS "]+(?![^" WS "])|[" WS "]+"
#define NEWLINES    "[" WS "]*[\\r\\n]+"
#define SYMBOLS     " ?[^" WS "\\p{L}\\p{N}]+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER       "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD        "[^\\r\\n\\p{L}\\p{N}]?"

#define RE_GPT2           "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|" SPACES
#define RE_MODERN(digits) CONTRACTION "|" LEAD "\\p{L}+|" digits "|" SYMBOLS "[\\r\\n]*|" NEWLINES "|" SPACES
#define RE_LLAMA3         RE_MODERN("\\p{N}{1,3}")
#define RE_QWEN2          RE_MODERN("\\p{N}")
#define RE_CASED(contraction, digits)                                                                        \
	LEAD UPPER "*" LOWER "+" contraction "|" LEAD UPPER "+" LOWER "*" contraction "|" digits "|" SYMBOLS \
		   "[\\r\\n/]*|" NEWLINES "|" SPACES
#define RE_BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{0964}\\x{06d4}\\x{060c})]+"
#define RE_DEEPSEEK3                                                                                         \
	"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                             \
	"[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" SPACES
#define RE_HAN_KANA "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"

#define RE_SEED CONTRACTION "|" LEAD "\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" NEWLINES "|" SPACES
#define RE_BAILING                                                                                           \
	"'(?i:[sdmt]|ll|ve|re)|" LEAD "\\p{L}+|\\p{N}|" SYMBOLS "[\\r\\n]*|[" WS "]*[\\r\\n]|" SPACES
#define RE_QWEN35                                                                                            \
	CONTRACTION "|" LEAD "[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES      \
		    "|" SPACES
/* Runs of blanks in powers of two, the longest first. */
#define RUN(n) "[" WS "]{" n "}(?![^" WS "])|"
#define RE_JAIS2                                                                                             \
	CONTRACTION "|" LEAD "\\p{L}+|\\p{N}{1,3}|" SYMBOLS "[\\r\\n]*|" NEWLINES "|" RUN("512") RUN("256")  \
	    RUN("128") RUN("64") RUN("32") RUN("16") RUN("8") RUN("4") RUN("1,2") "[" WS "]"
/* The letters that have case, as DeepSeek's first tokenizer lists them. */
#define CASED_LETTERS                                                                                        \
	"A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                       \
	"\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"               \
	"\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                        \
	"\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                             \
	"\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                       \
	"\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                       \
	"\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"                       \
	"\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}"               \
	"\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"                                 \
	"\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"                       \
	"\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"                \
	"\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                        \
	"\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"               \
	"\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"                        \
	"\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"                       \
	"\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"                       \
	"\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"               \
	"\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define RE_CJK_DEEPSEEK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define RE_YOUTU                                                                                             \
	"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}"  \
	"\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]" \
	"+|" RE_HAN_KANA

struct kind {
	bool whole_words, adds_bos;
	/* Applied one after the other, each inside the pieces of the one before. */
	const char *stage[STAGES_MAX];
};

static const struct kind kind_default = {
    .stage = {"[\\p{P}$+<=>^~|]+", RE_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}};
static const struct kind kind_gpt2 = {.stage = {RE_GPT2}};
static const struct kind kind_llama3 = {.whole_words = true, .adds_bos = true, .stage = {RE_LLAMA3}};
static const struct kind kind_dbrx = {.stage = {RE_LLAMA3}};
static const struct kind kind_minicpm5 = {.whole_words = true,
					  .stage = {"\\p{N}{1,3}", RE_MODERN("\\p{N}+")}};
static const struct kind kind_jais2 = {.stage = {RE_JAIS2}};
static const struct kind kind_qwen2 = {.stage = {RE_QWEN2}};
static const struct kind kind_qwen35 = {.stage = {RE_QWEN35}};
static const struct kind kind_laguna = {.stage = {"[^\\n]+|\\n+", RE_QWEN2}};
static const struct kind kind_seed = {.stage = {RE_SEED}};
static const struct kind kind_bailing = {.stage = {RE_BAILING}};
static const struct kind kind_falcon = {.stage = {"[\\p{P}$+<=>^~|`]+", RE_GPT2, "[0-9][0-9][0-9]"}};
static const struct kind kind_starcoder = {.stage = {"\\p{N}", RE_GPT2}};
static const struct kind kind_bloom = {.stage = {RE_BLOOM}};
static const struct kind kind_viking = {.stage = {RE_BLOOM, "\\p{N}"}};
static const struct kind kind_gpt4o = {.stage = {RE_CASED(CONTRACTION "?", "\\p{N}{1,3}")}};
static const struct kind kind_granite = {.whole_words = true,
					 .stage = {RE_CASED(CONTRACTION "?", "\\p{N}{1,3}")}};
static const struct kind kind_tekken = {
    .whole_words = true, .adds_bos = true, .stage = {RE_CASED("", "\\p{N}")}};
static const struct kind kind_youtu = {.whole_words = true,
				       .stage = {RE_YOUTU, RE_CASED(CONTRACTION "?", "\\p{N}")}};
static const struct kind kind_chameleon = {.adds_bos = true,
					   .stage = {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z",
						     "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]",
						     RE_GPT2}};
static const struct kind kind_deepseek_llm = {
    .stage = {"[\\r\\n]", "[" WS "]?[" CASED_LETTERS "]+",
	      "[" WS
	      "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
	      "[" WS "]+\\z", RE_CJK_DEEPSEEK, "\\p{N}+"}};
static const struct kind kind_deepseek_coder = {
    .stage = {"[\\r\\n]", "[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", RE_CJK_DEEPSEEK, "\\p{N}"}};
static const struct kind kind_deepseek3 = {.stage = {"\\p{N}{1,3}", RE_HAN_KANA, RE_DEEPSEEK3}};

static const struct {
	const char *name;
	const struct kind *kind;
} names[] = {
    {"default", &kind_default},
    {"gpt-2", &kind_gpt2},
    {"phi-2", &kind_gpt2},
    {"mpt", &kind_gpt2},
    {"olmo", &kind_gpt2},
    {"jais", &kind_gpt2},
    {"trillion", &kind_gpt2},
    {"roberta-bpe", &kind_gpt2},
    {"modern-bert", &kind_gpt2},
    {"jina-es", &kind_gpt2},
    {"jina-de", &kind_gpt2},
    {"jina-v1-en", &kind_gpt2},
    {"jina-v2-es", &kind_gpt2},
    {"jina-v2-de", &kind_gpt2},
    {"jina-v2-code", &kind_gpt2},
    {"gigachat", &kind_gpt2},
    {"a.x-4.0", &kind_gpt2},
    {"mellum", &kind_gpt2},
    {"exaone4", &kind_gpt2},
    {"granite-docling", &kind_gpt2},
    {"llama-bpe", &kind_llama3},
    {"llama3", &kind_llama3},
    {"llama-v3", &kind_llama3},
    {"falcon3", &kind_llama3},
    {"falcon-h1", &kind_llama3},
    {"pixtral", &kind_llama3},
    {"midm-2.0", &kind_llama3},
    {"lfm2", &kind_llama3},
    {"jina-v5-nano", &kind_llama3},
    {"dbrx", &kind_dbrx},
    {"smaug-bpe", &kind_dbrx},
    {"chatglm-bpe", &kind_dbrx},
    {"glm4", &kind_dbrx},
    {"minicpm5", &kind_minicpm5},
    {"jais-2", &kind_jais2},
    {"qwen2", &kind_qwen2},
    {"deepseek-r1-qwen", &kind_qwen2},
    {"stablelm2", &kind_qwen2},
    {"megrez", &kind_qwen2},
    {"kormo", &kind_qwen2},
    {"f2llmv2", &kind_qwen2},
    {"hunyuan", &kind_qwen2},
    {"solar-open", &kind_qwen2},
    {"grok-2", &kind_qwen2},
    {"qwen35", &kind_qwen35},
    {"laguna", &kind_laguna},
    {"seed-coder", &kind_seed},
    {"bailingmoe", &kind_bailing},
    {"bailingmoe2", &kind_bailing},
    {"llada-moe", &kind_bailing},
    {"falcon", &kind_falcon},
    {"starcoder", &kind_starcoder},
    {"refact", &kind_starcoder},
    {"command-r", &kind_starcoder},
    {"smollm", &kind_starcoder},
    {"codeshell", &kind_starcoder},
    {"exaone", &kind_starcoder},
    {"minerva-7b", &kind_starcoder},
    {"mellum2", &kind_starcoder},
    {"bloom", &kind_bloom},
    {"poro-chat", &kind_bloom},
    {"gpt3-finnish", &kind_bloom},
    {"viking", &kind_viking},
    {"gpt-4o", &kind_gpt4o},
    {"llama4", &kind_gpt4o},
    {"kanana2", &kind_gpt4o},
    {"talkie", &kind_gpt4o},
    {"minimax-m2", &kind_gpt4o},
    {"granite-embed-multi-97m", &kind_granite},
    {"tekken", &kind_tekken},
    {"youtu", &kind_youtu},
    {"chameleon", &kind_chameleon},
    {"deepseek-llm", &kind_deepseek_llm},
    {"deepseek-coder", &kind_deepseek_coder},
    {"deepseek-v3", &kind_deepseek3},
    {"hunyuan-dense", &kind_deepseek3},
    {"joyai-llm", &kind_deepseek3},
    {"hy_v4", &kind_deepseek3},
};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

struct tok_pre {
	const struct kind *kind;
	uint32_t n_stages;
	pcre2_code *stage[STAGES_MAX];
};

struct tok_pre_work {
	pcre2_match_data *match;
	pcre2_match_context *context;
	pcre2_jit_stack *jit_stack;
	/* Word ends before and after a stage. */
	uint32_t *ends[2];
	size_t cap[2];
};

static int unknown_name(const char *name, size_t len, struct ps_err *err)
{
	char known[900] = "";
	size_t at = 0;

	for (size_t i = 0; i < N_NAMES && at < sizeof(known); i++)
		at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s", i ? ", " : "", names[i].name);
	return ps_err_set(err, -ENOTSUP,
			  "tokenizer.ggml.pre: pre-tokenizer \"%.*s\" is not known; expected one of %s",
			  (int)(len < 64 ? len : 64), name, known);
}

static int compile_stage(const char *regex, pcre2_code **code_out, struct ps_err *err)
{
	char text[120];
	int code;
	size_t at;

	*code_out = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
	if (*code_out == NULL) {
		pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof(text));
		return ps_err_set(err, code == PCRE2_ERROR_HEAP_FAILED ? -ENOMEM : -ENOTSUP,
				  "this PCRE2 refuses a pre-tokenizer expression at %zu: %s", at, text);
	}
	/* Where there is no JIT (a build without it, a kernel that forbids it) matching is slower
	 * and gives the same words. */
	(void)pcre2_jit_compile(*code_out, PCRE2_JIT_COMPLETE);
	return 0;
}

int tok_pre_create(const char *name, size_t len, struct tok_pre **pre_out, struct ps_err *err)
{
	struct tok_pre *p;
	size_t i;
	int rc;

	for (i = 0; i < N_NAMES; i++)
		if (strlen(names[i].name) == len && memcmp(names[i].name, name, len) == 0)
			break;
	if (i == N_NAMES)
		return unknown_name(name, len, err);
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return ps_err_set(err, -ENOMEM, "no memory for a pre-tokenizer");
	p->kind = names[i].kind;
	while (p->n_stages < STAGES_MAX && p->kind->stage[p->n_stages] != NULL) {
		rc = compile_stage(p->kind->stage[p->n_stages], &p->stage[p->n_stages], err);
		if (rc != 0) {
			tok_pre_free(p);
			return rc;
		}
		p->n_stages++;
	}
	*pre_out = p;
	return 0;
}

void tok_pre_free(struct tok_pre *p)
{
	if (p == NULL)
		return;
	for (uint32_t i = 0; i < p->n_stages; i++)
		pcre2_code_free(p->stage[i]);
	free(p);
}

bool tok_pre_whole_words(const struct tok_pre *p)
{
	return p->kind->whole_words;
}

bool tok_pre_adds_bos(const struct tok_pre *p)
{
	return p->kind->adds_bos;
}

struct tok_pre_work *tok_pre_work_create(void)
{
	struct tok_pre_work *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->match = pcre2_match_data_create(1, NULL);
	w->context = pcre2_match_context_create(NULL);
	w->jit_stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
	/* A PCRE2 without JIT has no stacks for it and needs none. */
	if (w->match == NULL || w->context == NULL) {
		tok_pre_work_free(w);
		return NULL;
	}
	if (w->jit_stack != NULL)
		pcre2_jit_stack_assign(w->context, NULL, w->jit_stack);
	return w;
}

void tok_pre_work_free(struct tok_pre_work *w)
{
	if (w == NULL)
		return;
	pcre2_match_data_free(w->match);
	pcre2_match_context_free(w->context);
	pcre2_jit_stack_free(w->jit_stack);
	free(w->ends[0]);
	free(w->ends[1]);
	free(w);
}

static int put_end(struct tok_pre_work *w, int which, size_t *n, uint32_t end)
{
	if (*n == w->cap[which]) {
		size_t cap = w->cap[which] ? w->cap[which] * 2 : 256;
		uint32_t *ends = realloc(w->ends[which], cap * sizeof(*ends));

		if (ends == NULL)
			return -ENOMEM;
		w->ends[which] = ends;
		w->cap[which] = cap;
	}
	w->ends[which][(*n)++] = end;
	return 0;
}

/* Cuts one piece: the matches are words, and so is what lies between them. The piece is a
 * subject of its own, so that lookahead ends where it ends. */
static int cut_piece(const pcre2_code *code, struct tok_pre_work *w, const char *text, uint32_t from,
		     uint32_t to, int which, size_t *n)
{
	const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->match);
	size_t len = to - from, done = 0;
	int rc = 0;

	while (done < len && rc == 0) {
		int found = pcre2_match(code, (PCRE2_SPTR)text + from, len, done, PCRE2_NO_UTF_CHECK,
					w->match, w->context);

		if (found == PCRE2_ERROR_NOMATCH)
			break;
		if (found < 0)
			return -ENOMEM;
		if (at[1] == at[0])
			break; /* No expression of the table matches nothing; this keeps the loop bounded. */
		if (at[0] > done)
			rc = put_end(w, which, n, from + (uint32_t)at[0]);
		if (rc == 0)
			rc = put_end(w, which, n, from + (uint32_t)at[1]);
		done = at[1];
	}
	if (rc == 0 && done < len)
		rc = put_end(w, which, n, to);
	return rc;
}

int tok_pre_split(const struct tok_pre *p, struct tok_pre_work *w, const char *text, uint32_t len,
		  const uint32_t **ends_out, size_t *n_out)
{
	size_t n_in = 0, n = 0;
	int in = 0, rc = 0;

	if (len > 0)
		rc = put_end(w, in, &n_in, len);
	for (uint32_t s = 0; s < p->n_stages && rc == 0; s++) {
		uint32_t from = 0;

		n = 0;
		for (size_t i = 0; i < n_in && rc == 0; i++) {
			rc = cut_piece(p->stage[s], w, text, from, w->ends[in][i], !in, &n);
			from = w->ends[in][i];
		}
		in = !in;
		n_in = n;
	}
	*ends_out = w->ends[in];
	*n_out = n_in;
	return rc;
}
