/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_DATAPLANE_SLOTS_H
#define PENSTOCK_DATAPLANE_SLOTS_H
/*
 * Message slots in pinned memory: one block of hugepages (or, where there are
 * none, of locked pages) cut into equal, 64-byte aligned slots, allocated once
 * before the loop starts. An accelerator registers the whole block. Used for
 * messages to send; the receiving slots of a link are handed to it as bare
 * memory.
 *
 * One thread acquires and releases.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* The life of a buffer that is sent. Debug builds check each step and poison freed slots. */
enum dp_slot_state { DP_SLOT_FREE, DP_SLOT_COMPUTE, DP_SLOT_TX };

enum dp_slot_memory { DP_SLOT_MEM_HUGE, DP_SLOT_MEM_LOCKED, DP_SLOT_MEM_PAGEABLE };

struct dp_slots;

/* n slots of at least `bytes`. want_huge: try hugepages first. What was got is dp_slots_memory's
 * to tell: pageable memory works, but an accelerator has to copy from it. -ENOMEM. */
int ps_warn_unused dp_slots_create(uint32_t n, size_t bytes, bool want_huge, struct dp_slots **slots_out,
				   struct ps_err *err);
void dp_slots_destroy(struct dp_slots *s);

/* A free slot, or NULL. */
uint8_t *dp_slots_acquire(struct dp_slots *s);
/* The slot was queued for sending. */
void dp_slots_sent(struct dp_slots *s, const uint8_t *slot);
void dp_slots_release(struct dp_slots *s, const uint8_t *slot);

uint8_t *dp_slots_base(const struct dp_slots *s);
size_t dp_slots_stride(const struct dp_slots *s);
size_t dp_slots_bytes(const struct dp_slots *s); /* of the whole block */
uint32_t dp_slots_free(const struct dp_slots *s);
enum dp_slot_memory dp_slots_memory(const struct dp_slots *s);
const char *dp_slots_memory_name(enum dp_slot_memory m);

#endif
