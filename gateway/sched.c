/* SPDX-License-Identifier: BSD-3-Clause */
#include "gateway/sched.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum seq_state {
	SEQ_FREE,
	SEQ_WAITING,   /* for a slot */
	SEQ_READY,     /* its next rows can go out */
	SEQ_UNDER_WAY, /* in a batch */
	SEQ_GONE,      /* ended while in a batch: free once the batch is back */
};

struct sequence {
	enum seq_state state;
	uint32_t id;
	int32_t slot;           /* -1: none */
	int32_t *tokens;        /* prompt, then what was generated */
	uint32_t n_tokens, cap; /* cap = prompt + max_tokens, within the context */
	uint32_t pos;           /* rows sent so far */
	uint32_t n_sent;        /* rows in the batch under way */
	uint32_t batch_id;      /* of that batch */
	uint64_t ready_ns;      /* since when it could go on */
	uint64_t start_ns;      /* when the gateway began to work on that */
	struct sampler_params sampling;
	const struct gw_sink *sink;
	void *user;
	struct gw_timing timing;
};

struct gw_sched {
	struct gw_sched_cfg cfg;
	struct sequence *seqs; /* [n_seqs] */
	uint32_t n_seqs;
	bool *slot_used; /* [n_slots] */
	uint32_t next_id, next_batch;
	uint32_t first;       /* where the next batch starts to look, so that none starves */
	uint32_t *batch_seqs; /* [ACT_MAX_SEQS] indices chosen for the batch being built */
	uint32_t clock_id;
	bool broken;
	char broken_text[512];
	struct gw_sched_stats stats;
};

int gw_sched_create(const struct gw_sched_cfg *cfg, struct gw_sched **sched_out, struct ps_err *err)
{
	struct gw_sched *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for the scheduler");
	s->cfg = *cfg;
	if (s->cfg.n_slots > ACT_MAX_SEQS)
		s->cfg.n_slots = ACT_MAX_SEQS;
	s->n_seqs = s->cfg.n_slots + cfg->max_waiting;
	s->seqs = calloc(s->n_seqs, sizeof(*s->seqs));
	s->slot_used = calloc(s->cfg.n_slots, sizeof(*s->slot_used));
	s->batch_seqs = calloc(ACT_MAX_SEQS, sizeof(*s->batch_seqs));
	s->clock_id = act_clock_id();
	s->next_id = 1;
	if (s->seqs == NULL || s->slot_used == NULL || s->batch_seqs == NULL) {
		gw_sched_destroy(s);
		return ps_err_set(err, -ENOMEM, "out of memory for %u sequences", cfg->n_slots);
	}
	*sched_out = s;
	return 0;
}

static void free_seq(struct gw_sched *s, struct sequence *q)
{
	if (q->slot >= 0)
		s->slot_used[q->slot] = false;
	free(q->tokens);
	gw_timing_fini(&q->timing);
	memset(q, 0, sizeof(*q));
	q->slot = -1;
}

void gw_sched_destroy(struct gw_sched *s)
{
	uint32_t i;

	if (s == NULL)
		return;
	for (i = 0; s->seqs != NULL && s->slot_used != NULL && i < s->n_seqs; i++) {
		if (s->seqs[i].state != SEQ_FREE)
			free_seq(s, &s->seqs[i]);
	}
	free(s->seqs);
	free(s->slot_used);
	free(s->batch_seqs);
	free(s);
}

static int check_request(const struct gw_sched *s, const struct gw_request *req, struct ps_err *err)
{
	const char *bad = sampler_params_check(&req->sampling);
	uint32_t i;

	if (s->broken)
		return ps_err_set(err, -EPIPE, "%s", s->broken_text);
	if (bad != NULL)
		return ps_err_set(err, -EINVAL, "%s", bad);
	if (req->n_tokens == 0)
		return ps_err_set(err, -EINVAL, "the prompt is empty: give at least one token");
	if (req->n_tokens >= s->cfg.n_ctx)
		return ps_err_set(
		    err, -EINVAL,
		    "the prompt has %u tokens, the context holds %u with room for one more: shorten the "
		    "prompt or raise model.context in the topology",
		    req->n_tokens, s->cfg.n_ctx);
	for (i = 0; i < req->n_tokens; i++) {
		if (req->tokens[i] < 0 || (uint32_t)req->tokens[i] >= s->cfg.n_vocab)
			return ps_err_set(err, -EINVAL, "token %u is %d, the vocabulary has %u", i,
					  req->tokens[i], s->cfg.n_vocab);
	}
	return 0;
}

static void give_slots(struct gw_sched *s, uint64_t now_ns)
{
	uint32_t slot = 0, i;

	for (;;) {
		struct sequence *oldest = NULL;

		while (slot < s->cfg.n_slots && s->slot_used[slot])
			slot++;
		if (slot == s->cfg.n_slots)
			return;
		for (i = 0; i < s->n_seqs; i++) {
			struct sequence *q = &s->seqs[i];

			if (q->state == SEQ_WAITING && (oldest == NULL || q->id < oldest->id))
				oldest = q;
		}
		if (oldest == NULL)
			return;
		oldest->slot = (int32_t)slot;
		oldest->state = SEQ_READY;
		oldest->ready_ns = now_ns;
		oldest->start_ns = now_ns;
		s->slot_used[slot] = true;
	}
}

int gw_sched_submit(struct gw_sched *s, const struct gw_request *req, uint64_t now_ns, uint32_t *id_out,
		    struct ps_err *err)
{
	struct sequence *q = NULL;
	uint64_t cap;
	uint32_t i;
	int rc = check_request(s, req, err);

	if (rc != 0)
		return rc;
	for (i = 0; i < s->n_seqs && q == NULL; i++) {
		if (s->seqs[i].state == SEQ_FREE)
			q = &s->seqs[i];
	}
	if (q == NULL)
		return ps_err_set(err, -EAGAIN, "%u requests are waiting already: try again later",
				  s->cfg.max_waiting);
	cap = (uint64_t)req->n_tokens + req->max_tokens;
	q->cap = cap > s->cfg.n_ctx ? s->cfg.n_ctx : (uint32_t)cap;
	q->tokens = malloc((size_t)q->cap * sizeof(*q->tokens));
	if (q->tokens == NULL ||
	    !gw_timing_init(&q->timing, s->cfg.n_stages, q->cap - req->n_tokens, now_ns)) {
		free(q->tokens);
		q->tokens = NULL;
		return ps_err_set(err, -ENOMEM, "out of memory for a request of %u tokens", q->cap);
	}
	memcpy(q->tokens, req->tokens, (size_t)req->n_tokens * sizeof(*q->tokens));
	q->n_tokens = req->n_tokens;
	q->sampling = req->sampling;
	q->sink = req->sink;
	q->user = req->user;
	q->slot = -1;
	q->pos = 0;
	q->id = s->next_id++;
	q->state = SEQ_WAITING;
	s->stats.requests++;
	*id_out = q->id;
	give_slots(s, now_ns);
	return 0;
}

/* Tells the request it is over and frees the sequence, now or when its batch is back. */
static void end_seq(struct gw_sched *s, struct sequence *q, enum gw_reason reason, const char *error)
{
	const struct gw_sink *sink = q->sink;

	if (q->state == SEQ_FREE || q->state == SEQ_GONE)
		return;
	if (reason == GW_REASON_ERROR)
		s->stats.errors++;
	sink->done(q->user, reason, error, &q->timing);
	if (q->state == SEQ_UNDER_WAY) {
		q->state = SEQ_GONE;
		return;
	}
	free_seq(s, q);
}

void gw_sched_cancel(struct gw_sched *s, uint32_t id, uint64_t now_ns)
{
	uint32_t i;

	for (i = 0; i < s->n_seqs; i++) {
		if (s->seqs[i].state != SEQ_FREE && s->seqs[i].id == id)
			end_seq(s, &s->seqs[i], GW_REASON_CANCELLED, NULL);
	}
	give_slots(s, now_ns);
}

/* Ready sequences a batch, so that about n_stages batches are under way. */
static uint32_t batch_share(const struct gw_sched *s)
{
	uint32_t i, active = 0;

	for (i = 0; i < s->n_seqs; i++)
		active += s->seqs[i].state == SEQ_READY || s->seqs[i].state == SEQ_UNDER_WAY;
	return (active + s->cfg.n_stages - 1) / s->cfg.n_stages;
}

/* Chooses sequences and sets their n_sent; returns rows. */
static uint32_t choose(struct gw_sched *s, uint32_t *n_seqs_out)
{
	uint32_t share = batch_share(s), i, n = 0, rows = 0;

	for (i = 0; i < s->n_seqs && n < share && rows < s->cfg.max_batch_tokens; i++) {
		uint32_t at = (s->first + i) % s->n_seqs, left;
		struct sequence *q = &s->seqs[at];

		if (q->state != SEQ_READY)
			continue;
		left = q->n_tokens - q->pos;
		q->n_sent = left < s->cfg.max_batch_tokens - rows ? left : s->cfg.max_batch_tokens - rows;
		rows += q->n_sent;
		s->batch_seqs[n++] = at;
	}
	if (n > 0)
		s->first = (s->batch_seqs[n - 1] + 1) % s->n_seqs;
	*n_seqs_out = n;
	return rows;
}

static void put_seq(struct gw_sched *s, struct act *a, uint32_t i, uint32_t *row)
{
	struct sequence *q = &s->seqs[s->batch_seqs[i]];
	const struct act_seq seq = {
	    .seq_id = q->id,
	    .slot = (uint16_t)q->slot,
	    /* A token is wanted once the last known one has been fed. */
	    .flags = q->pos + q->n_sent == q->n_tokens ? ACT_SEQ_SAMPLE : 0,
	    .pos = q->pos,
	    .n_tokens = q->n_sent,
	    .temperature = q->sampling.temperature,
	    .top_p = q->sampling.top_p,
	    .min_p = q->sampling.min_p,
	    .repeat_penalty = q->sampling.repeat_penalty,
	    .top_k = q->sampling.top_k,
	    .repeat_last_n = q->sampling.repeat_last_n,
	    .seed = q->sampling.seed,
	    .token = -1,
	};

	act_seq_put(a, i, &seq);
	memcpy(a->tokens + (size_t)*row * 4, q->tokens + q->pos, (size_t)q->n_sent * 4);
	*row += q->n_sent;
	q->state = SEQ_UNDER_WAY;
	q->batch_id = a->batch_id;
}

bool gw_sched_next(struct gw_sched *s, uint64_t now_ns, uint8_t *buf, size_t cap, size_t *len_out,
		   uint8_t **hop_tx_out)
{
	struct act a = {.kind = ACT_TOKENS, .dtype = ACT_F32, .n_hops = 1};
	struct act_hop hop = {
	    .proc = ACT_PROC_GATEWAY,
	    .clock_id = s->clock_id,
	    .rx_ns = now_ns,
	    .start_ns = now_ns,
	    .end_ns = now_ns,
	};
	uint32_t i, row = 0;

	if (s->broken || s->stats.batches_under_way >= s->cfg.max_batches)
		return false;
	a.n_rows = choose(s, &a.n_seqs);
	if (a.n_seqs == 0)
		return false;
	a.batch_id = s->next_batch++;
	CHECK(act_begin(&a, buf, cap) == 0);
	for (i = 0; i < a.n_seqs; i++) {
		const struct sequence *q = &s->seqs[s->batch_seqs[i]];

		if (q->ready_ns < hop.rx_ns) {
			hop.rx_ns = q->ready_ns;
			hop.start_ns = q->start_ns;
		}
		put_seq(s, &a, i, &row);
	}
	act_hop_put(&a, 0, &hop);
	*hop_tx_out = act_hop_tx_ns(&a, 0);
	*len_out = a.len;
	s->stats.batches++;
	s->stats.batches_under_way++;
	return true;
}

static struct sequence *find_in_batch(struct gw_sched *s, uint32_t seq_id, uint32_t batch_id)
{
	uint32_t i;

	for (i = 0; i < s->n_seqs; i++) {
		struct sequence *q = &s->seqs[i];

		if ((q->state == SEQ_UNDER_WAY || q->state == SEQ_GONE) && q->id == seq_id &&
		    q->batch_id == batch_id)
			return q;
	}
	return NULL;
}

static void take_token(struct gw_sched *s, struct sequence *q, const struct act *a, int32_t token,
		       uint64_t rx_ns)
{
	if (token < 0) {
		end_seq(s, q, GW_REASON_ERROR,
			"the last stage had no token to give: its logits are not numbers");
		return;
	}
	gw_timing_add(&q->timing, a, rx_ns);
	s->stats.tokens++;
	q->tokens[q->n_tokens++] = token;
	if (!q->sink->token(q->user, token))
		end_seq(s, q, GW_REASON_STOP, NULL);
	else if (q->n_tokens == q->cap)
		end_seq(s, q, GW_REASON_LENGTH, NULL);
}

static void take_seq(struct gw_sched *s, const struct act *a, const struct act_seq *seq, const char *error,
		     uint64_t rx_ns, uint64_t now_ns)
{
	struct sequence *q = find_in_batch(s, seq->seq_id, a->batch_id);
	bool asked;

	if (q == NULL)
		return;
	if (q->state == SEQ_GONE) {
		free_seq(s, q);
		return;
	}
	q->state = SEQ_READY;
	q->ready_ns = rx_ns;
	q->start_ns = now_ns;
	q->pos += q->n_sent;
	asked = q->pos == q->n_tokens;
	if (error != NULL)
		end_seq(s, q, GW_REASON_ERROR, error);
	else if (asked && q->n_tokens == q->cap)
		end_seq(s, q, GW_REASON_LENGTH, NULL); /* max_tokens was 0 */
	else if (asked)
		take_token(s, q, a, seq->token, rx_ns);
}

int gw_sched_result(struct gw_sched *s, const uint8_t *msg, size_t len, uint64_t rx_ns, uint64_t now_ns,
		    struct ps_err *err)
{
	char text[1024];
	const char *error = NULL;
	struct act_seq seq;
	struct act a;
	uint32_t i;
	int rc = act_parse(msg, len, &a, err);

	if (rc != 0)
		return rc;
	if (a.kind == ACT_ERROR) {
		snprintf(text, sizeof(text), "%.*s", (int)a.width, (const char *)a.payload);
		error = text;
	} else if (a.kind != ACT_SAMPLED) {
		return ps_err_set(err, -EBADMSG, "the pipeline answered with a batch of kind %u",
				  (unsigned)a.kind);
	}
	if (error != NULL && a.n_seqs == 0) {
		gw_sched_break(s, error);
		return 0;
	}
	if (s->stats.batches_under_way > 0)
		s->stats.batches_under_way--;
	for (i = 0; i < a.n_seqs; i++) {
		act_seq_get(&a, i, &seq);
		take_seq(s, &a, &seq, error, rx_ns, now_ns);
	}
	give_slots(s, now_ns);
	return 0;
}

void gw_sched_break(struct gw_sched *s, const char *text)
{
	uint32_t i;

	if (s->broken)
		return;
	s->broken = true;
	snprintf(s->broken_text, sizeof(s->broken_text), "%s", text);
	for (i = 0; i < s->n_seqs; i++) {
		struct sequence *q = &s->seqs[i];

		if (q->state == SEQ_UNDER_WAY)
			q->state = SEQ_READY; /* its batch will not come back */
		if (q->state == SEQ_GONE)
			free_seq(s, q);
		else if (q->state != SEQ_FREE)
			end_seq(s, q, GW_REASON_ERROR, s->broken_text);
	}
	s->stats.batches_under_way = 0;
}

void gw_sched_mend(struct gw_sched *s)
{
	s->broken = false;
}

const char *gw_sched_broken(const struct gw_sched *s)
{
	return s->broken ? s->broken_text : NULL;
}

void gw_sched_stats(const struct gw_sched *s, struct gw_sched_stats *out)
{
	uint32_t i;

	*out = s->stats;
	out->active = 0;
	out->waiting = 0;
	for (i = 0; i < s->n_seqs; i++) {
		out->active += s->seqs[i].state == SEQ_READY || s->seqs[i].state == SEQ_UNDER_WAY;
		out->waiting += s->seqs[i].state == SEQ_WAITING;
	}
}

size_t gw_sched_max_bytes(const struct gw_sched *s)
{
	return act_max_bytes(s->cfg.max_batch_tokens, ACT_MAX_SEQS, 0);
}
