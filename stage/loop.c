/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage/loop.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/clock.h"

#define LOOP_WAIT_NS 100000000ull /* how often the stop flag is looked at when all is quiet */

struct loop {
	struct stage_loop_cfg cfg;
	struct stage_loop_stats *stats;
	bool up_is_up, down_is_up, was_ready;
	struct ps_err refused;
};

static void collect_done(struct loop *l)
{
	struct dp_tx_msg done;
	uint32_t link;

	while (dp_endpoint_done(l->cfg.ep, &link, &done))
		dp_slots_release(l->cfg.slots, done.data);
}

/* A free slot; waits for the link to acknowledge one. NULL: the process is to stop. */
static uint8_t *acquire_slot(struct loop *l)
{
	uint8_t *slot;

	while ((slot = dp_slots_acquire(l->cfg.slots)) == NULL) {
		if (atomic_load_explicit(l->cfg.stop, memory_order_relaxed) != 0)
			return NULL;
		/* The wait ends at once while batches lie ready: the I/O thread must get a core all the same.
		 */
		sched_yield();
		dp_endpoint_wait(l->cfg.ep, LOOP_WAIT_NS);
		collect_done(l);
	}
	return slot;
}

static void send_slot(struct loop *l, uint32_t link, uint8_t *slot, size_t len, uint8_t *stamp)
{
	const struct dp_tx_msg msg = {.data = slot, .len = (uint32_t)len, .stamp_ns = stamp};

	dp_slots_sent(l->cfg.slots, slot);
	if (!dp_endpoint_send(l->cfg.ep, link, &msg))
		dp_slots_release(l->cfg.slots, slot); /* cannot happen: fewer slots than queue entries */
}

static void publish_stats(struct loop *l, const struct dp_msg *msg)
{
	struct stage_core_stats st;

	stage_core_stats(l->cfg.core, &st);
	atomic_store_explicit(&l->stats->batches, st.batches, memory_order_relaxed);
	atomic_store_explicit(&l->stats->rows, st.rows, memory_order_relaxed);
	atomic_store_explicit(&l->stats->errors, st.errors, memory_order_relaxed);
	atomic_store_explicit(&l->stats->cut_values, st.cut_values, memory_order_relaxed);
	atomic_store_explicit(&l->stats->compute_ns, st.compute_ns, memory_order_relaxed);
	atomic_store_explicit(&l->stats->cut_values, st.cut_values, memory_order_relaxed);
	atomic_fetch_add_explicit(msg->buf != NULL ? &l->stats->in_place : &l->stats->copied, 1,
				  memory_order_relaxed);
}

static void run_batch(struct loop *l, const struct dp_msg *msg)
{
	uint8_t *slot = acquire_slot(l), *stamp = NULL;
	size_t len = 0;

	if (slot != NULL)
		stage_core_run(l->cfg.core, msg->data, msg->len, msg->rx_done_ns, slot, &len, &stamp);
	dp_endpoint_release(l->cfg.ep, l->cfg.link_up, msg);
	if (slot == NULL)
		return;
	send_slot(l, l->cfg.link_down, slot, len, stamp);
	publish_stats(l, msg);
}

/* Only errors travel upstream. */
static void pass_upstream(struct loop *l, const struct dp_msg *msg)
{
	uint8_t *slot = NULL;
	struct act a;

	if (act_parse(msg->data, msg->len, &a, NULL) == 0 && a.kind == ACT_ERROR &&
	    msg->len <= dp_slots_stride(l->cfg.slots))
		slot = acquire_slot(l);
	if (slot != NULL) {
		memcpy(slot, msg->data, msg->len);
		send_slot(l, l->cfg.link_up, slot, msg->len, NULL);
	}
	dp_endpoint_release(l->cfg.ep, l->cfg.link_down, msg);
}

/* An error of the pipeline, not of a batch: no sequences, any batch id. */
static void announce(struct loop *l, uint32_t link, const char *text)
{
	uint8_t *slot = acquire_slot(l);
	struct act a = {
	    .kind = ACT_ERROR,
	    .dtype = ACT_BYTES,
	    .n_rows = 1,
	    .width = (uint32_t)strlen(text),
	};

	if (slot == NULL)
		return;
	CHECK(act_begin(&a, slot, dp_slots_stride(l->cfg.slots)) == 0);
	memset(a.tokens, 0, sizeof(int32_t));
	memcpy(a.payload, text, a.width);
	send_slot(l, link, slot, a.len, NULL);
}

static void take_event(struct loop *l, uint32_t link, const struct dp_link_event *ev)
{
	bool *side = link == l->cfg.link_up ? &l->up_is_up : &l->down_is_up;
	char text[400];

	*side = ev->kind == DP_LINK_EV_UP;
	if (ev->kind == DP_LINK_EV_REFUSED)
		ps_err_set(&l->refused, -ECONNREFUSED, "%s", ev->text);
	if (ev->kind != DP_LINK_EV_UP) {
		fprintf(stderr, "topic=link level=error stage=%s text=\"%s\"\n", l->cfg.name, ev->text);
		if (l->was_ready) {
			snprintf(text, sizeof(text), "stage %s: %s", l->cfg.name, ev->text);
			announce(l, link == l->cfg.link_up ? l->cfg.link_down : l->cfg.link_up, text);
		}
	}
	if (l->up_is_up && l->down_is_up && !l->was_ready) {
		l->was_ready = true;
		atomic_store_explicit(&l->stats->ready, 1, memory_order_relaxed);
		if (l->cfg.ready != NULL)
			l->cfg.ready(l->cfg.ready_ctx);
	}
}

int stage_loop_run(const struct stage_loop_cfg *cfg, struct stage_loop_stats *stats, struct ps_err *err)
{
	struct loop l = {.cfg = *cfg, .stats = stats};
	struct dp_link_event ev;
	struct dp_msg msg;
	uint32_t link;
	bool busy;

	CHECK(dp_slots_stride(cfg->slots) >= stage_core_max_bytes(cfg->core));
	while (atomic_load_explicit(cfg->stop, memory_order_relaxed) == 0) {
		busy = false;
		collect_done(&l);
		while (dp_endpoint_event(cfg->ep, &link, &ev))
			take_event(&l, link, &ev);
		if (l.refused.msg[0] != '\0' && !l.was_ready)
			return ps_err_set(err, -ECONNREFUSED, "%s", l.refused.msg);
		/* One at a time: a stage that always has a batch waiting still sees its flag and events. */
		if (dp_endpoint_recv(cfg->ep, &link, &msg)) {
			if (link == cfg->link_up)
				run_batch(&l, &msg);
			else
				pass_upstream(&l, &msg);
			busy = true;
		}
		if (!busy)
			dp_endpoint_wait(cfg->ep, LOOP_WAIT_NS);
	}
	return 0;
}
