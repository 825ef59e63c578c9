/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/pipeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/sampler.h"

struct pipeline {
	struct pipeline_cfg cfg;
	struct stage_core *cores[PIPELINE_MAX_STAGES];
	uint8_t *buf[2]; /* messages between stages, in turns; 64-byte aligned as slots are */
	size_t buf_bytes;
	uint32_t batch_id;
};

static int open_core(struct pipeline *p, const uint32_t *cuts, uint32_t i, struct ps_err *err)
{
	const struct stage_core_cfg cfg = {
	    .gguf = p->cfg.gguf,
	    .stage = i,
	    .block_first = cuts[i],
	    .block_last = cuts[i + 1],
	    .device = p->cfg.device,
	    .n_threads = p->cfg.n_threads,
	    .n_slots = 1,
	    .n_ctx = p->cfg.n_ctx,
	    .max_tokens = p->cfg.max_tokens,
	    .logits = i + 1 == p->cfg.n_stages ? p->cfg.logits : NULL,
	    .logits_ctx = p->cfg.logits_ctx,
	};

	return stage_core_open(&cfg, &p->cores[i], err);
}

int pipeline_open(const struct pipeline_cfg *cfg, struct pipeline **p_out, struct ps_err *err)
{
	struct pipeline *p = calloc(1, sizeof(*p));
	uint32_t cuts[PIPELINE_MAX_STAGES + 1], i;
	int rc;

	if (p == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory");
	CHECK(cfg->n_stages >= 1 && cfg->n_stages <= PIPELINE_MAX_STAGES);
	p->cfg = *cfg;
	rc = model_split_even(cfg->gguf, cfg->n_stages, cuts, err);
	for (i = 0; i < cfg->n_stages && rc == 0; i++)
		rc = open_core(p, cuts, i, err);
	if (rc != 0)
		goto out_close;
	p->buf_bytes = (stage_core_max_bytes(p->cores[0]) + 63) & ~(size_t)63;
	for (i = 0; i < 2; i++) {
		p->buf[i] = aligned_alloc(64, p->buf_bytes);
		if (p->buf[i] == NULL) {
			rc = ps_err_set(err, -ENOMEM, "out of memory for a message of %zu bytes",
					p->buf_bytes);
			goto out_close;
		}
	}
	*p_out = p;
	return 0;

out_close:
	pipeline_close(p);
	return rc;
}

void pipeline_close(struct pipeline *p)
{
	uint32_t i;

	if (p == NULL)
		return;
	for (i = 0; i < p->cfg.n_stages; i++)
		stage_core_close(p->cores[i]);
	free(p->buf[0]);
	free(p->buf[1]);
	free(p);
}

static int read_result(const uint8_t *msg, size_t len, int32_t *next_out, struct ps_err *err)
{
	struct act_seq seq;
	struct act a;
	int rc = act_parse(msg, len, &a, err);

	if (rc != 0)
		return rc;
	if (a.kind == ACT_ERROR)
		return ps_err_set(err, -EIO, "%.*s", (int)a.width, (const char *)a.payload);
	act_seq_get(&a, 0, &seq);
	*next_out = seq.token;
	return 0;
}

static int feed_chunk(struct pipeline *p, const int32_t *tokens, uint32_t n, uint32_t pos, int32_t *next_out,
		      struct ps_err *err)
{
	struct act_seq seq = {
	    .flags = ACT_SEQ_SAMPLE, .pos = pos, .n_tokens = n, .top_p = 1.0f, .repeat_penalty = 1.0f};
	struct act a = {
	    .kind = ACT_TOKENS,
	    .dtype = ACT_F32,
	    .batch_id = p->batch_id++,
	    .n_rows = n,
	    .n_seqs = 1,
	};
	uint8_t *hop_tx;
	uint64_t now_ns;
	size_t len;
	uint32_t i;
	int rc = act_begin(&a, p->buf[0], p->buf_bytes);

	if (rc != 0)
		return ps_err_set(err, rc, "a batch of %u tokens does not fit a message", n);
	act_seq_put(&a, 0, &seq);
	memcpy(a.tokens, tokens, (size_t)n * sizeof(*tokens));
	len = a.len;
	now_ns = ps_now_ns();
	for (i = 0; i < p->cfg.n_stages; i++)
		stage_core_run(p->cores[i], p->buf[i & 1], len, now_ns, p->buf[(i + 1) & 1], &len, &hop_tx);
	return read_result(p->buf[p->cfg.n_stages & 1], len, next_out, err);
}

int pipeline_feed(struct pipeline *p, const int32_t *tokens, uint32_t n, uint32_t pos, int32_t *next_out,
		  struct ps_err *err)
{
	uint32_t done, chunk;
	int rc = 0;

	for (done = 0; done < n && rc == 0; done += chunk) {
		chunk = n - done < p->cfg.max_tokens ? n - done : p->cfg.max_tokens;
		rc = feed_chunk(p, tokens + done, chunk, pos + done, next_out, err);
	}
	return rc;
}

void pipeline_caps(const struct pipeline *p, struct accel_caps *out)
{
	stage_core_caps(p->cores[0], out);
}

const struct model_hparams *pipeline_hparams(const struct pipeline *p)
{
	return stage_core_hparams(p->cores[0]);
}
