/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/pipeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
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
	    .kv = p->cfg.kv,
	    .act_dtype = p->cfg.act_dtype,
	    .logits = i + 1 == p->cfg.n_stages ? p->cfg.logits : NULL,
	    .logits_ctx = p->cfg.logits_ctx,
	    .trace = p->cfg.trace,
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

/* One batch of the one sequence. */
struct request {
	enum act_pass pass;
	uint16_t flags;
	uint32_t pos, n;
	const int32_t *tokens; /* [n] */
};

static int write_request(struct pipeline *p, const struct request *r, size_t *len_out, struct ps_err *err)
{
	struct act_seq seq = {
	    .flags = r->flags, .pos = r->pos, .n_tokens = r->n, .top_p = 1.0f, .repeat_penalty = 1.0f};
	struct act a = {
	    .kind = ACT_TOKENS,
	    .pass = r->pass,
	    .dtype = ACT_F32,
	    .batch_id = p->batch_id++,
	    .n_rows = r->n,
	    .n_seqs = 1,
	    .block_next = r->pass == ACT_PASS_MAIN ? pipeline_hparams(p)->n_layers_enc : 0,
	};
	int rc = act_begin(&a, p->buf[0], p->buf_bytes);

	if (rc != 0)
		return ps_err_set(err, rc, "%u tokens do not fit a message of %u", r->n, p->cfg.max_tokens);
	act_seq_put(&a, 0, &seq);
	memcpy(a.tokens, r->tokens, (size_t)r->n * sizeof(*r->tokens));
	*len_out = a.len;
	return 0;
}

/* Through all stages; the answer, which must be of that kind, lies in one of the buffers. */
static int run_request(struct pipeline *p, const struct request *r, enum act_kind want, struct act *a_out,
		       struct ps_err *err)
{
	uint64_t now_ns = ps_now_ns();
	uint8_t *hop_tx;
	size_t len;
	uint32_t i;
	int rc = write_request(p, r, &len, err);

	if (rc != 0)
		return rc;
	for (i = 0; i < p->cfg.n_stages; i++)
		stage_core_run(p->cores[i], p->buf[i & 1], len, now_ns, p->buf[(i + 1) & 1], &len, &hop_tx);
	rc = act_parse(p->buf[p->cfg.n_stages & 1], len, a_out, err);
	if (rc != 0)
		return rc;
	if (a_out->kind == ACT_ERROR)
		return ps_err_set(err, -EIO, "%.*s", (int)a_out->width, (const char *)a_out->payload);
	if (a_out->kind != want || a_out->n_seqs != 1)
		return ps_err_set(err, -EIO, "a batch was answered by kind %u of %u sequences, not kind %u",
				  a_out->kind, a_out->n_seqs, want);
	return 0;
}

int pipeline_feed(struct pipeline *p, const int32_t *tokens, uint32_t n, uint32_t pos, int32_t *next_out,
		  struct ps_err *err)
{
	uint32_t done, chunk;
	struct act_seq seq;
	struct act a;
	int rc = 0;

	for (done = 0; done < n && rc == 0; done += chunk) {
		chunk = n - done < p->cfg.max_tokens ? n - done : p->cfg.max_tokens;
		rc = run_request(p,
				 &(struct request){.pass = ACT_PASS_MAIN,
						   .flags = ACT_SEQ_SAMPLE,
						   .pos = pos + done,
						   .n = chunk,
						   .tokens = tokens + done},
				 ACT_SAMPLED, &a, err);
		if (rc != 0)
			break;
		act_seq_get(&a, 0, &seq);
		*next_out = seq.token;
	}
	return rc;
}

int pipeline_encode(struct pipeline *p, const int32_t *tokens, uint32_t n, struct ps_err *err)
{
	struct act a;

	return run_request(p, &(struct request){.pass = ACT_PASS_ENCODE, .n = n, .tokens = tokens},
			   ACT_SAMPLED, &a, err);
}

static int run_values(struct pipeline *p, const struct request *r, struct pipeline_values *out,
		      struct ps_err *err)
{
	struct act a;
	int rc = run_request(p, r, ACT_VALUES, &a, err);

	if (rc != 0)
		return rc;
	/* Sections of a message are aligned as the buffer is. */
	*out = (struct pipeline_values){.rows = (const float *)(const void *)a.payload,
					.positions = (const int32_t *)(const void *)a.tokens,
					.n_rows = a.n_rows,
					.width = a.width};
	return 0;
}

int pipeline_embed(struct pipeline *p, const int32_t *tokens, uint32_t n, bool pooled,
		   struct pipeline_values *out, struct ps_err *err)
{
	const struct request r = {
	    .pass = pipeline_hparams(p)->n_layers_enc > 0 ? ACT_PASS_ENCODE : ACT_PASS_MAIN,
	    .flags = pooled ? ACT_SEQ_EMBED : ACT_SEQ_EMBED | ACT_SEQ_ROWS,
	    .n = n,
	    .tokens = tokens,
	};

	return run_values(p, &r, out, err);
}

int pipeline_fill(struct pipeline *p, const int32_t *tokens, uint32_t n, bool best,
		  struct pipeline_values *out, struct ps_err *err)
{
	const struct request r = {
	    .pass = ACT_PASS_FILL, .flags = best ? ACT_SEQ_FILL : 0, .n = n, .tokens = tokens};

	return run_values(p, &r, out, err);
}

void pipeline_caps(const struct pipeline *p, struct accel_caps *out)
{
	struct accel_caps caps;
	uint32_t i;

	stage_core_caps(p->cores[0], out);
	for (i = 1; i < p->cfg.n_stages; i++) {
		stage_core_caps(p->cores[i], &caps);
		out->weight_bytes += caps.weight_bytes;
		out->kv_bytes += caps.kv_bytes;
		out->scratch_bytes += caps.scratch_bytes;
		out->repacked_bytes += caps.repacked_bytes;
	}
}

const struct model_hparams *pipeline_hparams(const struct pipeline *p)
{
	return stage_core_hparams(p->cores[0]);
}

uint64_t pipeline_cut_values(const struct pipeline *p)
{
	struct stage_core_stats st;
	uint64_t sum = 0;
	uint32_t i;

	for (i = 0; i < p->cfg.n_stages; i++) {
		stage_core_stats(p->cores[i], &st);
		sum += st.cut_values;
	}
	return sum;
}

static const char *const kv_names[] = {
    [ACCEL_KV_F32] = "f32", [ACCEL_KV_F16] = "f16", [ACCEL_KV_Q8_0] = "q8_0"};
#define N_KV (sizeof(kv_names) / sizeof(kv_names[0]))

const char *pipeline_kv_name(enum accel_kv_dtype kv)
{
	return kv < N_KV ? kv_names[kv] : "?";
}

bool pipeline_kv_option(const char *cmd, const char *text, enum accel_kv_dtype *out)
{
	size_t i;

	for (i = 0; i < N_KV; i++) {
		if (strcmp(text, kv_names[i]) == 0) {
			*out = (enum accel_kv_dtype)i;
			return true;
		}
	}
	cli_usage(cmd, "--kv: found \"%s\", expected f32, f16 or q8_0", text);
	return false;
}

bool pipeline_wire_option(const char *cmd, const char *text, enum act_dtype *out)
{
	int found = act_dtype_find(text);

	if (found < 0) {
		cli_usage(cmd, "--wire: found \"%s\", expected f32, f16, bf16 or q8", text);
		return false;
	}
	*out = (enum act_dtype)found;
	return true;
}
