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
	int32_t slot; /* -1: none */
	/* What has to go whole, in one batch before all others: an encoder's input. NULL: nothing. */
	int32_t *whole;
	uint32_t n_whole;
	bool whole_done;
	enum act_pass whole_pass;
	uint16_t want;          /* ACT_SEQ_EMBED ... of that batch; 0: tokens are generated afterwards */
	int32_t *tokens;        /* prompt (or what the decoder begins with), then what was generated */
	uint32_t n_tokens, cap; /* cap = prompt + max_tokens, within the context */
	uint32_t pos;           /* rows of them sent so far */
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
	struct model_hparams hp;
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
	s->hp = *cfg->hp;
	s->cfg.hp = &s->hp;
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
	free(q->whole);
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

/* Whether the model can do what is asked; if not, the text says what it can. */
static int check_task(const struct gw_sched *s, const struct gw_request *req, struct ps_err *err)
{
	const struct model_hparams *hp = &s->hp;
	bool embeds = hp->task == MODEL_TASK_EMBED || hp->n_layers_enc > 0;

	if (req->task == GW_TASK_GENERATE && hp->task == MODEL_TASK_EMBED)
		return ps_err_set(err, -ENOTSUP,
				  "a model of family %s gives embeddings, not text: ask for \"embed\"%s (run "
				  "--embed%s)",
				  hp->arch, hp->has_fill ? " or \"fill\"" : "",
				  hp->has_fill ? ", run --fill-mask" : "");
	if (req->task == GW_TASK_GENERATE && hp->n_layers_enc > 0 && hp->decoder_start < 0)
		return ps_err_set(err, -ENOTSUP,
				  "the model file does not say what its decoder begins with: "
				  "%s.decoder_start_token_id is missing",
				  hp->arch);
	if (req->task == GW_TASK_EMBED && !embeds)
		return ps_err_set(
		    err, -ENOTSUP,
		    "a model of family %s gives text, not embeddings: ask for \"generate\" (run "
		    "without --embed)",
		    hp->arch);
	if (req->task == GW_TASK_FILL && !hp->has_fill)
		return ps_err_set(err, -ENOTSUP,
				  "the model file (family %s) has no masked-language-model head (tensors "
				  "mlm_dense, mlm_norm, mlm_output): ask for \"%s\"",
				  hp->arch, embeds ? "embed" : "generate");
	return 0;
}

/* What an encoder reads: whole in one message, and no longer than the context. */
static int check_whole_length(const struct gw_sched *s, uint32_t n, struct ps_err *err)
{
	if (n > s->cfg.n_ctx)
		return ps_err_set(
		    err, -EINVAL,
		    "the prompt has %u tokens, the context holds %u: shorten the prompt or raise "
		    "model.context in the topology (run --ctx)",
		    n, s->cfg.n_ctx);
	if (n > s->cfg.max_batch_tokens)
		return ps_err_set(
		    err, -EINVAL,
		    "the prompt has %u tokens and has to go through the encoder whole, in one "
		    "message, which holds %u: shorten the prompt or raise model.max_batch_tokens "
		    "in the topology (run --batch)",
		    n, s->cfg.max_batch_tokens);
	return 0;
}

static int check_length(const struct gw_sched *s, const struct gw_request *req, struct ps_err *err)
{
	if (req->n_tokens == 0)
		return ps_err_set(err, -EINVAL, "the prompt is empty: give at least one token");
	if (req->task != GW_TASK_GENERATE || s->hp.n_layers_enc > 0)
		return check_whole_length(s, req->n_tokens, err);
	if (req->n_tokens >= s->cfg.n_ctx)
		return ps_err_set(
		    err, -EINVAL,
		    "the prompt has %u tokens, the context holds %u with room for one more: shorten the "
		    "prompt or raise model.context in the topology (run --ctx)",
		    req->n_tokens, s->cfg.n_ctx);
	return 0;
}

static int check_tokens(const struct gw_sched *s, const struct gw_request *req, struct ps_err *err)
{
	uint32_t i, masks = 0;

	for (i = 0; i < req->n_tokens; i++) {
		if (req->tokens[i] < 0 || (uint32_t)req->tokens[i] >= s->hp.n_vocab)
			return ps_err_set(err, -EINVAL, "token %u is %d, the vocabulary has %u", i,
					  req->tokens[i], s->hp.n_vocab);
		masks += req->tokens[i] == s->cfg.mask_token;
	}
	if (req->task == GW_TASK_FILL && s->cfg.mask_token < 0)
		return ps_err_set(
		    err, -ENOTSUP,
		    "the model file names no mask token: tokenizer.ggml.mask_token_id is missing");
	if (req->task == GW_TASK_FILL && masks == 0)
		return ps_err_set(
		    err, -EINVAL,
		    "the prompt has no mask token (%d, such as [MASK]): put one where a word is "
		    "wanted",
		    s->cfg.mask_token);
	return 0;
}

static int check_request(const struct gw_sched *s, const struct gw_request *req, struct ps_err *err)
{
	const char *bad = sampler_params_check(&req->sampling);
	int rc;

	if (s->broken)
		return ps_err_set(err, -EPIPE, "%s", s->broken_text);
	if (bad != NULL)
		return ps_err_set(err, -EINVAL, "%s", bad);
	rc = check_task(s, req, err);
	if (rc == 0)
		rc = check_length(s, req, err);
	return rc != 0 ? rc : check_tokens(s, req, err);
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

/* The rows of a request: what goes whole first, and what tokens are generated after. */
static int set_rows(struct gw_sched *s, struct sequence *q, const struct gw_request *req, uint64_t now_ns,
		    struct ps_err *err)
{
	const bool encoder = s->hp.n_layers_enc > 0, generate = req->task == GW_TASK_GENERATE;
	const bool whole = !generate || encoder;
	const int32_t *first = whole ? &s->hp.decoder_start : req->tokens;
	const uint32_t n_first = whole ? 1 : req->n_tokens;
	uint64_t cap = (uint64_t)n_first + req->max_tokens;

	q->cap = !generate ? 0 : cap > s->cfg.n_ctx ? s->cfg.n_ctx : (uint32_t)cap;
	q->n_tokens = generate ? n_first : 0;
	q->n_whole = whole ? req->n_tokens : 0;
	q->whole_done = !whole;
	q->whole_pass = req->task == GW_TASK_FILL ? ACT_PASS_FILL : encoder ? ACT_PASS_ENCODE : ACT_PASS_MAIN;
	q->want = req->task == GW_TASK_FILL ? ACT_SEQ_FILL
		  : req->task == GW_TASK_EMBED
		      ? (uint16_t)(ACT_SEQ_EMBED | (req->per_token ? ACT_SEQ_ROWS : 0))
		      : 0;
	q->tokens = malloc(((size_t)q->cap + 1) * sizeof(*q->tokens));
	q->whole = malloc(((size_t)q->n_whole + 1) * sizeof(*q->whole));
	if (q->tokens == NULL || q->whole == NULL ||
	    !gw_timing_init(&q->timing, s->cfg.n_stages, generate ? q->cap - q->n_tokens : 1, now_ns))
		return ps_err_set(err, -ENOMEM, "out of memory for a request of %u tokens",
				  q->n_whole + q->cap);
	memcpy(q->tokens, first, (size_t)q->n_tokens * sizeof(*q->tokens));
	memcpy(q->whole, req->tokens, (size_t)q->n_whole * sizeof(*q->whole));
	return 0;
}

int gw_sched_submit(struct gw_sched *s, const struct gw_request *req, uint64_t now_ns, uint32_t *id_out,
		    struct ps_err *err)
{
	struct sequence *q = NULL;
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
	q->slot = -1;
	rc = set_rows(s, q, req, now_ns, err);
	if (rc != 0) {
		free_seq(s, q);
		return rc;
	}
	q->sampling = req->sampling;
	q->sink = req->sink;
	q->user = req->user;
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

/* A batch runs through one pass and is answered in one way: what can go together. */
static uint32_t batch_kind(const struct sequence *q)
{
	return q->whole_done ? ACT_PASS_MAIN : (uint32_t)q->whole_pass | (uint32_t)q->want << 8;
}

/* Rows of the sequence that may go into a batch with room for `room` more; 0: none now. */
static uint32_t rows_for(const struct sequence *q, uint32_t room)
{
	uint32_t left = q->whole_done ? q->n_tokens - q->pos : q->n_whole;

	if (left <= room)
		return left;
	return q->whole_done ? room : 0;
}

/* Chooses sequences of one kind of batch and sets their n_sent; returns rows. One that is ready and has to
 * be left out is where the next batch starts to look: it has all the room then. */
static uint32_t choose(struct gw_sched *s, uint32_t *n_seqs_out)
{
	uint32_t share = batch_share(s), i, n = 0, rows = 0, kind = 0, left_out = UINT32_MAX;

	for (i = 0; i < s->n_seqs && n < share && rows < s->cfg.max_batch_tokens; i++) {
		uint32_t at = (s->first + i) % s->n_seqs, take;
		struct sequence *q = &s->seqs[at];

		if (q->state != SEQ_READY)
			continue;
		take = n > 0 && batch_kind(q) != kind ? 0 : rows_for(q, s->cfg.max_batch_tokens - rows);
		if (take == 0) {
			left_out = left_out == UINT32_MAX ? at : left_out;
			continue;
		}
		kind = batch_kind(q);
		q->n_sent = take;
		rows += take;
		s->batch_seqs[n++] = at;
	}
	if (left_out != UINT32_MAX)
		s->first = left_out;
	else if (n > 0)
		s->first = (s->batch_seqs[n - 1] + 1) % s->n_seqs;
	*n_seqs_out = n;
	return rows;
}

/* Flags of the rows at hand: a token is wanted once the last known one has been fed. */
static uint16_t flags_of(const struct sequence *q)
{
	if (!q->whole_done)
		return q->want;
	return q->pos + q->n_sent == q->n_tokens ? ACT_SEQ_SAMPLE : 0;
}

static void put_seq(struct gw_sched *s, struct act *a, uint32_t i, uint32_t *row)
{
	struct sequence *q = &s->seqs[s->batch_seqs[i]];
	const int32_t *tokens = q->whole_done ? q->tokens + q->pos : q->whole;
	const struct act_seq seq = {
	    .seq_id = q->id,
	    .slot = (uint16_t)q->slot,
	    .flags = flags_of(q),
	    .pos = q->whole_done ? q->pos : 0,
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
	memcpy(a->tokens + (size_t)*row * 4, tokens, (size_t)q->n_sent * 4);
	*row += q->n_sent;
	q->state = SEQ_UNDER_WAY;
	q->batch_id = a->batch_id;
}

/* Pass and first block: the decoder's blocks come after the encoder's. */
static void set_pass(const struct gw_sched *s, struct act *a)
{
	const struct sequence *q = &s->seqs[s->batch_seqs[0]];

	a->pass = q->whole_done ? ACT_PASS_MAIN : q->whole_pass;
	a->block_next = a->pass == ACT_PASS_MAIN ? s->hp.n_layers_enc : 0;
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
	set_pass(s, &a);
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

/* Whether the answer has the rows that were asked for, of the width that they have to have. */
static bool values_fit(const struct gw_sched *s, const struct sequence *q, const struct act *a,
		       uint32_t n_rows)
{
	const uint32_t width = q->want == ACT_SEQ_FILL ? 2 * ACT_FILL_BEST : s->hp.n_embd;

	if (a->kind != ACT_VALUES || a->width != width)
		return false;
	if (q->want == ACT_SEQ_EMBED)
		return n_rows == 1;
	return (q->want & ACT_SEQ_ROWS) != 0 ? n_rows == q->n_whole : n_rows >= 1 && n_rows <= q->n_whole;
}

/* Rows [row, row + seq->n_tokens) of the answer are the request's. */
static void take_values(struct gw_sched *s, struct sequence *q, const struct act *a,
			const struct act_seq *seq, uint32_t row, uint64_t rx_ns)
{
	struct gw_values v = {.n_rows = seq->n_tokens, .width = a->width};

	if (!values_fit(s, q, a, seq->n_tokens)) {
		end_seq(s, q, GW_REASON_ERROR,
			"the last stage answered with other values than were asked for");
		return;
	}
	CHECK((uintptr_t)a->payload % sizeof(float) == 0);
	v.positions = (const int32_t *)(const void *)(a->tokens + (size_t)row * sizeof(int32_t));
	v.rows = (const float *)(const void *)(a->payload + (size_t)row * a->width * sizeof(float));
	gw_timing_add_values(&q->timing, a, rx_ns);
	q->sink->values(q->user, &v);
	end_seq(s, q, GW_REASON_STOP, NULL);
}

static void take_rows(struct gw_sched *s, struct sequence *q, const struct act *a, const struct act_seq *seq,
		      uint64_t rx_ns)
{
	bool asked;

	q->pos += q->n_sent;
	asked = q->pos == q->n_tokens;
	if (asked && q->n_tokens == q->cap)
		end_seq(s, q, GW_REASON_LENGTH, NULL); /* max_tokens was 0 */
	else if (asked)
		take_token(s, q, a, seq->token, rx_ns);
}

static void take_seq(struct gw_sched *s, const struct act *a, const struct act_seq *seq, uint32_t row,
		     const char *error, uint64_t rx_ns, uint64_t now_ns)
{
	struct sequence *q = find_in_batch(s, seq->seq_id, a->batch_id);

	if (q == NULL)
		return;
	if (q->state == SEQ_GONE) {
		free_seq(s, q);
		return;
	}
	q->state = SEQ_READY;
	q->ready_ns = rx_ns;
	q->start_ns = now_ns;
	if (error != NULL)
		end_seq(s, q, GW_REASON_ERROR, error);
	else if (q->whole_done)
		take_rows(s, q, a, seq, rx_ns);
	else if (q->want != 0)
		take_values(s, q, a, seq, row, rx_ns);
	else
		q->whole_done = true; /* the stages hold what the decoder reads of the encoder */
}

int gw_sched_result(struct gw_sched *s, const uint8_t *msg, size_t len, uint64_t rx_ns, uint64_t now_ns,
		    struct ps_err *err)
{
	char text[1024];
	const char *error = NULL;
	struct act_seq seq;
	struct act a;
	uint32_t i, row = 0;
	int rc = act_parse(msg, len, &a, err);

	if (rc != 0)
		return rc;
	if (a.kind == ACT_ERROR) {
		snprintf(text, sizeof(text), "%.*s", (int)a.width, (const char *)a.payload);
		error = text;
	} else if (a.kind != ACT_SAMPLED && a.kind != ACT_VALUES) {
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
		take_seq(s, &a, &seq, row, error, rx_ns, now_ns);
		row += a.kind == ACT_VALUES ? seq.n_tokens : 0;
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
