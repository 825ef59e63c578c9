/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Whether a batch fits this stage: its pass, kind and width, its slots and
 * positions, its token ids, and whether the model can give what it asks for.
 * Everything here comes from the network.
 */
#include <errno.h>
#include <string.h>

#include "model/sampler.h"
#include "stage/core_priv.h"

int stage_core_sampling(const struct act_seq *s, uint32_t i, struct sampler_params *p_out, struct ps_err *err)
{
	const char *bad;

	*p_out = (struct sampler_params){
	    .temperature = s->temperature,
	    .top_k = s->top_k,
	    .top_p = s->top_p,
	    .min_p = s->min_p,
	    .repeat_penalty = s->repeat_penalty,
	    .repeat_last_n = s->repeat_last_n,
	    .seed = s->seed,
	};
	bad = sampler_params_check(p_out);
	return bad == NULL ? 0 : ps_err_set(err, -EINVAL, "sequence %u: %s", i, bad);
}

static int check_pass(const struct stage_core *c, enum act_pass pass, struct ps_err *err)
{
	const struct model_hparams *hp = &c->graph->hp;

	if (pass == ACT_PASS_ENCODE && hp->n_layers_enc == 0)
		return ps_err_set(err, -EINVAL,
				  "an encode pass, but %s models have no encoder before a decoder: send a "
				  "main pass",
				  hp->arch);
	if (pass == ACT_PASS_FILL && !hp->has_fill)
		return ps_err_set(
		    err, -EINVAL,
		    "a fill pass, but the model's file has no masked-language-model head: use one that has");
	/* The builder makes a pass for every range of a model that has it. */
	return stage_graph(c, pass) != NULL ? 0 : ps_err_set(err, -ENOTSUP, "no graph of pass %u", pass);
}

static int check_shape(const struct stage_core *c, const struct act *a, struct ps_err *err)
{
	bool tokens = stage_passes_on(c, a->pass) || stage_graph(c, a->pass)->has_embed;
	enum act_kind want = tokens ? ACT_TOKENS : ACT_HIDDEN;
	uint32_t width = tokens ? 0 : c->graph->hp.n_embd, block = c->cfg.block_first;

	if (a->pass == ACT_PASS_MAIN && block < c->graph->hp.n_layers_enc)
		block = c->graph->hp.n_layers_enc;
	if (a->kind != want || a->width != width)
		return ps_err_set(err, -EINVAL,
				  "batch of kind %u, width %u: this stage takes kind %u, width %u", a->kind,
				  a->width, want, width);
	if (a->block_next != block)
		return ps_err_set(err, -EINVAL,
				  "batch is for block %u, this stage (blocks %u to %u) takes one for %u",
				  a->block_next, c->cfg.block_first, c->cfg.block_last - 1, block);
	if (a->n_rows == 0 || a->n_rows > c->cfg.max_tokens || a->n_seqs == 0 || a->n_hops >= ACT_MAX_HOPS)
		return ps_err_set(err, -EINVAL, "batch of %u rows, %u sequences, %u hops: at most %u rows",
				  a->n_rows, a->n_seqs, a->n_hops, c->cfg.max_tokens);
	return 0;
}

/* Asked for what this pass of this model does not give. */
static int check_wants(const struct stage_core *c, enum act_pass pass, const struct act_seq *s, uint32_t i,
		       struct ps_err *err)
{
	const struct model_hparams *hp = &c->graph->hp;
	bool embeds = pass == ACT_PASS_ENCODE || (pass == ACT_PASS_MAIN && hp->task == MODEL_TASK_EMBED);
	bool samples = pass == ACT_PASS_MAIN && hp->task == MODEL_TASK_GENERATE;

	if ((s->flags & ACT_SEQ_SAMPLE) != 0 && !samples)
		return ps_err_set(err, -EINVAL, "sequence %u: a next token is asked for; %s", i,
				  hp->task == MODEL_TASK_EMBED
				      ? "this model has none to give: ask for embeddings"
				      : "this pass has none to give: ask the main pass");
	if ((s->flags & (ACT_SEQ_EMBED | ACT_SEQ_ROWS)) != 0 && !embeds)
		return ps_err_set(err, -EINVAL, "sequence %u: embeddings are asked for; %s models give %s", i,
				  hp->arch,
				  pass == ACT_PASS_FILL  ? "tokens in a fill pass"
				  : hp->n_layers_enc > 0 ? "them in an encode pass"
							 : "next tokens only");
	if ((s->flags & ACT_SEQ_FILL) != 0 && pass != ACT_PASS_FILL)
		return ps_err_set(err, -EINVAL,
				  "sequence %u: fill-mask results are asked of pass %u: send a fill pass", i,
				  pass);
	if ((s->flags & ACT_SEQ_FILL) != 0 && c->mask_token < 0)
		return ps_err_set(err, -EINVAL,
				  "sequence %u: fill-mask results are asked for, but the model's file "
				  "names no mask token (tokenizer.ggml.mask_token_id)",
				  i);
	if ((s->flags & ACT_SEQ_ROWS) != 0 && (s->flags & ACT_SEQ_EMBED) == 0)
		return ps_err_set(err, -EINVAL, "sequence %u: a row a token of no embeddings", i);
	return 0;
}

static int check_place(const struct stage_core *c, enum act_pass pass, const struct act_seq *s, uint32_t i,
		       struct ps_err *err)
{
	const struct model_hparams *hp = &c->graph->hp;
	const struct slot_state *slot = &c->slots[s->slot];
	bool whole = pass == ACT_PASS_ENCODE || (hp->task == MODEL_TASK_EMBED && !hp->causal);

	if (s->n_tokens == 0 || (uint64_t)s->pos + s->n_tokens > c->cfg.n_ctx)
		return ps_err_set(err, -EINVAL, "sequence %u: positions %u to %llu, the context holds %u", i,
				  s->pos, (unsigned long long)s->pos + s->n_tokens, c->cfg.n_ctx);
	if (whole && s->pos != 0)
		return ps_err_set(err, -EINVAL,
				  "sequence %u: starts at position %u; here every token sees all others, so "
				  "it has to come whole, from position 0",
				  i, s->pos);
	if (stage_passes_on(c, pass) || whole)
		return 0;
	if (hp->n_layers_enc > 0 && slot->enc_len == 0)
		return ps_err_set(err, -EINVAL,
				  "sequence %u: nothing was encoded for slot %u: send an encode pass first",
				  i, s->slot);
	if (s->pos > slot->len)
		return ps_err_set(err, -EINVAL, "sequence %u: starts at position %u, its cache ends at %u", i,
				  s->pos, slot->len);
	return 0;
}

static int check_seq(struct stage_core *c, enum act_pass pass, const struct act_seq *s, uint32_t i,
		     struct ps_err *err)
{
	struct sampler_params params;
	int rc;

	if (s->slot >= c->cfg.n_slots)
		return ps_err_set(err, -EINVAL, "sequence %u: slot %u, this stage has %u", i, s->slot,
				  c->cfg.n_slots);
	rc = check_wants(c, pass, s, i, err);
	if (rc == 0)
		rc = check_place(c, pass, s, i, err);
	if (rc == 0 && (s->flags & ACT_SEQ_SAMPLE) != 0)
		rc = stage_core_sampling(s, i, &params, err);
	if (rc != 0)
		return rc;
	/* Two runs of rows of one slot in a batch would be computed in no defined order. */
	if (c->slots[s->slot].batch == c->batch)
		return ps_err_set(err, -EINVAL, "sequence %u: slot %u is there twice", i, s->slot);
	c->slots[s->slot].batch = c->batch;
	return 0;
}

int stage_core_check(struct stage_core *c, const struct act *a, struct ps_err *err)
{
	const struct model_hparams *hp = &c->graph->hp;
	uint32_t i;
	int rc = check_pass(c, a->pass, err);

	if (rc == 0)
		rc = check_shape(c, a, err);
	if (rc != 0)
		return rc;
	c->batch++;
	for (i = 0; i < a->n_seqs; i++) {
		struct act_seq *s = &c->act_seqs[i];

		act_seq_get(a, i, s);
		rc = check_seq(c, a->pass, s, i, err);
		if (rc != 0)
			return rc;
		c->seqs[i] = (struct accel_seq){.slot = s->slot, .pos = s->pos, .n_tokens = s->n_tokens};
	}
	memcpy(c->tokens, a->tokens, (size_t)a->n_rows * sizeof(*c->tokens));
	for (i = 0; i < a->n_rows; i++) {
		if (c->tokens[i] < 0 || (uint32_t)c->tokens[i] >= hp->n_vocab)
			return ps_err_set(err, -EINVAL, "row %u: token %d, the vocabulary has %u", i,
					  c->tokens[i], hp->n_vocab);
	}
	return 0;
}
