/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_ALIGN 64u
#define HUGE_BYTES (2u << 20)
#define POISON     0xdb

struct dp_slots {
	uint8_t *mem;
	size_t bytes, stride;
	uint32_t n, n_free;
	enum dp_slot_memory memory;
	uint8_t *states; /* [n] enum dp_slot_state */
	uint32_t *free;  /* stack of free slot numbers, [n_free] */
};

static bool map_memory(struct dp_slots *s, bool want_huge)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
	size_t huge = (s->bytes + HUGE_BYTES - 1) & ~(size_t)(HUGE_BYTES - 1);

	if (want_huge) {
		s->mem = mmap(NULL, huge, prot, flags | MAP_HUGETLB | MAP_POPULATE, -1, 0);
		if (s->mem != MAP_FAILED) {
			s->bytes = huge;
			s->memory = DP_SLOT_MEM_HUGE;
			return true;
		}
	}
	s->mem = mmap(NULL, s->bytes, prot, flags | MAP_POPULATE, -1, 0);
	if (s->mem == MAP_FAILED)
		return false;
	s->memory = mlock(s->mem, s->bytes) == 0 ? DP_SLOT_MEM_LOCKED : DP_SLOT_MEM_PAGEABLE;
	return true;
}

int dp_slots_create(uint32_t n, size_t bytes, bool want_huge, struct dp_slots **slots_out, struct ps_err *err)
{
	struct dp_slots *s = calloc(1, sizeof(*s));
	uint32_t i;

	CHECK(n > 0 && bytes > 0);
	if (s == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for message slots");
	s->n = n;
	s->n_free = n;
	s->stride = (bytes + SLOT_ALIGN - 1) & ~(size_t)(SLOT_ALIGN - 1);
	s->bytes = s->stride * n;
	s->states = calloc(n, 1);
	s->free = calloc(n, sizeof(*s->free));
	if (s->states == NULL || s->free == NULL || !map_memory(s, want_huge)) {
		free(s->states);
		free(s->free);
		free(s);
		return ps_err_set(err, -ENOMEM, "no memory for %u message slots of %zu bytes", n, bytes);
	}
	for (i = 0; i < n; i++)
		s->free[i] = n - 1 - i;
	*slots_out = s;
	return 0;
}

void dp_slots_destroy(struct dp_slots *s)
{
	if (s == NULL)
		return;
	munmap(s->mem, s->bytes);
	free(s->states);
	free(s->free);
	free(s);
}

static uint32_t slot_number(const struct dp_slots *s, const uint8_t *slot)
{
	size_t off = (size_t)(slot - s->mem);

	CHECK(slot >= s->mem && off % s->stride == 0 && off / s->stride < s->n);
	return (uint32_t)(off / s->stride);
}

uint8_t *dp_slots_acquire(struct dp_slots *s)
{
	uint32_t i;

	if (s->n_free == 0)
		return NULL;
	i = s->free[--s->n_free];
	DCHECK(s->states[i] == DP_SLOT_FREE);
	s->states[i] = DP_SLOT_COMPUTE;
	return s->mem + i * s->stride;
}

void dp_slots_sent(struct dp_slots *s, const uint8_t *slot)
{
	uint32_t i = slot_number(s, slot);

	CHECK(s->states[i] == DP_SLOT_COMPUTE);
	s->states[i] = DP_SLOT_TX;
}

void dp_slots_release(struct dp_slots *s, const uint8_t *slot)
{
	uint32_t i = slot_number(s, slot);

	CHECK(s->states[i] != DP_SLOT_FREE); /* a slot is given back once */
	s->states[i] = DP_SLOT_FREE;
#ifdef PENSTOCK_DEBUG
	memset(s->mem + i * s->stride, POISON, s->stride);
#else
	(void)POISON;
#endif
	s->free[s->n_free++] = i;
}

uint8_t *dp_slots_base(const struct dp_slots *s)
{
	return s->mem;
}

size_t dp_slots_stride(const struct dp_slots *s)
{
	return s->stride;
}

size_t dp_slots_bytes(const struct dp_slots *s)
{
	return s->bytes;
}

uint32_t dp_slots_free(const struct dp_slots *s)
{
	return s->n_free;
}

enum dp_slot_memory dp_slots_memory(const struct dp_slots *s)
{
	return s->memory;
}

const char *dp_slots_memory_name(enum dp_slot_memory m)
{
	static const char *const names[] = {"hugepages", "locked", "pageable"};

	return names[m];
}
