/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/fuzz/meter.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
void __wrap_free(void *p);

static size_t live, peak, base;

/* Blocks that a library gave us (asprintf, say) are freed without having been counted. */
static void take_off(size_t n)
{
	live = n < live ? live - n : 0;
}

static void *counted(void *p)
{
	live += malloc_usable_size(p);
	if (live > peak)
		peak = live;
	return p;
}

void *__wrap_malloc(size_t n)
{
	return counted(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
	return counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
	size_t before = malloc_usable_size(p);
	void *q = __real_realloc(p, n);

	if (q == NULL && n != 0)
		return NULL;
	take_off(before);
	return counted(q);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
	return counted(__real_aligned_alloc(align, n));
}

int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
	int rc = __real_posix_memalign(out, align, n);

	if (rc == 0)
		counted(*out);
	return rc;
}

char *__wrap_strndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *p = __wrap_malloc(len + 1);

	if (p == NULL)
		return NULL;
	memcpy(p, s, len);
	p[len] = '\0';
	return p;
}

char *__wrap_strdup(const char *s)
{
	return __wrap_strndup(s, strlen(s));
}

void __wrap_free(void *p)
{
	take_off(malloc_usable_size(p));
	__real_free(p);
}

void meter_start(void)
{
	base = peak = live;
}

size_t meter_peak(void)
{
	return peak - base;
}

size_t meter_live(void)
{
	return live > base ? live - base : 0;
}
