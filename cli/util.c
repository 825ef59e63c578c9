/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say(const char *cmd, const char *fmt, va_list ap)
{
	fprintf(stderr, "penstock %s: ", cmd);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

int cli_fail(const char *cmd, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(cmd, fmt, ap);
	va_end(ap);
	return CLI_FAILED;
}

int cli_see_help(const char *cmd)
{
	fprintf(stderr, "try: penstock %s --help\n", cmd);
	return CLI_USAGE;
}

int cli_usage(const char *cmd, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(cmd, fmt, ap);
	va_end(ap);
	return cli_see_help(cmd);
}

bool cli_u64(const char *cmd, const char *option, const char *text, uint64_t *out)
{
	char *end = NULL;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
		cli_usage(cmd, "%s: found \"%s\", expected a whole number", option, text);
		return false;
	}
	*out = v;
	return true;
}

bool cli_u32(const char *cmd, const char *option, const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
	uint64_t v;

	if (!cli_u64(cmd, option, text, &v))
		return false;
	if (v < min || v > max) {
		cli_usage(cmd, "%s: found %s, expected %u to %u", option, text, min, max);
		return false;
	}
	*out = (uint32_t)v;
	return true;
}

bool cli_f32(const char *cmd, const char *option, const char *text, float min, float max, float *out)
{
	char *end = NULL;
	float v = strtof(text, &end);

	if (end == text || *end != '\0' || !(v >= min && v <= max)) {
		cli_usage(cmd, "%s: found \"%s\", expected a number from %g to %g", option, text, (double)min,
			  (double)max);
		return false;
	}
	*out = v;
	return true;
}

bool cli_ids(const char *cmd, const char *option, const char *text, int32_t **ids_out, size_t *n_out)
{
	size_t cap = strlen(text) / 2 + 1, n = 0;
	int32_t *ids = malloc(cap * sizeof(*ids));
	const char *p = text;

	if (ids == NULL) {
		cli_fail(cmd, "out of memory");
		return false;
	}
	while (*p != '\0') {
		char *end = NULL;
		long v;

		errno = 0;
		v = strtol(p, &end, 10);
		if (*p < '0' || *p > '9' || errno != 0 || v > INT32_MAX || (*end != ',' && *end != '\0') ||
		    (*end == ',' && end[1] == '\0')) {
			cli_usage(cmd, "%s: found \"%.24s\" at character %zu, expected token ids as in 1,2,3",
				  option, p, (size_t)(p - text) + 1);
			free(ids);
			return false;
		}
		ids[n++] = (int32_t)v;
		p = *end == ',' ? end + 1 : end;
	}
	*ids_out = ids;
	*n_out = n;
	return true;
}

char *cli_read_all(int fd, size_t max, size_t *len_out)
{
	size_t cap = 65536, len = 0;
	char *buf = malloc(cap + 1), *bigger;
	ssize_t n;

	while (buf != NULL) {
		n = read(fd, buf + len, cap - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || (len += (size_t)n) > max)
			break;
		if (n == 0) {
			buf[len] = '\0';
			*len_out = len;
			return buf;
		}
		if (len < cap)
			continue;
		cap *= 2;
		bigger = realloc(buf, cap + 1);
		if (bigger == NULL)
			break;
		buf = bigger;
	}
	free(buf);
	return NULL;
}

static int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t cli_quantile_u64(uint64_t *values, size_t n, double p)
{
	size_t rank;

	if (n == 0)
		return 0;
	qsort(values, n, sizeof(*values), cmp_u64);
	rank = (size_t)ceil(p * (double)n);
	return values[rank == 0 ? 0 : rank - 1];
}
