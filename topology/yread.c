/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/yread.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct yr_mark mark_of(yaml_mark_t m)
{
	return (struct yr_mark){.line = (uint32_t)m.line + 1, .column = (uint32_t)m.column + 1};
}

struct yr_mark yr_at(const yaml_node_t *n)
{
	return mark_of(n->start_mark);
}

int yr_fail(const struct yr *r, struct yr_mark at, const char *fmt, ...)
{
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return ps_err_set(r->err, -EINVAL, "%s:%u:%u: %s", r->file, at.line ? at.line : 1,
			  at.column ? at.column : 1, text);
}

static const char *scalar(const yaml_node_t *n)
{
	return (const char *)n->data.scalar.value;
}

static bool is_null(const yaml_node_t *n)
{
	if (n->type != YAML_SCALAR_NODE || n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	return n->data.scalar.length == 0 || strcmp(scalar(n), "~") == 0 || strcmp(scalar(n), "null") == 0;
}

bool yr_is_text(const yaml_node_t *n, const char *text)
{
	return n->type == YAML_SCALAR_NODE && n->data.scalar.length == strlen(text) &&
	       memcmp(scalar(n), text, strlen(text)) == 0;
}

const char *yr_show(const yaml_node_t *n, char buf[YR_SHOW_BYTES])
{
	size_t len, i, o = 0;

	if (n->type == YAML_SEQUENCE_NODE)
		return "a list";
	if (n->type == YAML_MAPPING_NODE)
		return "a mapping";
	if (is_null(n))
		return "nothing";
	len = n->data.scalar.length;
	buf[o++] = '\'';
	for (i = 0; i < len && o < YR_SHOW_BYTES - 6; i++) {
		unsigned char c = (unsigned char)scalar(n)[i];

		buf[o++] = (c < 0x20 || c == 0x7f) ? '?' : (char)c;
	}
	if (i < len) {
		memcpy(buf + o, "...", 3);
		o += 3;
	}
	buf[o++] = '\'';
	buf[o] = '\0';
	return buf;
}

/* ---- parsing ---- */

static int fail_parser(struct yr *r, const yaml_parser_t *p)
{
	struct yr_mark at = mark_of(p->problem_mark);

	if (p->error == YAML_MEMORY_ERROR)
		return ps_err_set(r->err, -ENOMEM, "%s: out of memory", r->file);
	return yr_fail(r, at, "found text that is no YAML (%s%s%s); expected YAML 1.1",
		       p->problem ? p->problem : "unknown problem", p->context ? ", " : "",
		       p->context ? p->context : "");
}

static int check_event(struct yr *r, const yaml_event_t *ev, uint32_t *depth, uint32_t *documents)
{
	const yaml_char_t *anchor = NULL, *tag = NULL;

	switch (ev->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (++*documents > 1)
			return yr_fail(r, mark_of(ev->start_mark),
				       "found a second document; expected one document a file");
		break;
	case YAML_ALIAS_EVENT:
		return yr_fail(r, mark_of(ev->start_mark),
			       "found an alias; expected the value itself (aliases are not used here)");
	case YAML_SCALAR_EVENT:
		anchor = ev->data.scalar.anchor;
		tag = ev->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = ev->data.sequence_start.anchor;
		tag = ev->data.sequence_start.tag;
		++*depth;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = ev->data.mapping_start.anchor;
		tag = ev->data.mapping_start.tag;
		++*depth;
		break;
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		--*depth;
		break;
	default:
		break;
	}
	if (anchor != NULL || tag != NULL)
		return yr_fail(r, mark_of(ev->start_mark),
			       "found %s; expected a plain value (anchors and tags are not used here)",
			       anchor != NULL ? "an anchor" : "a tag");
	if (*depth > YR_MAX_DEPTH)
		return yr_fail(r, mark_of(ev->start_mark),
			       "found values nested deeper than %u; expected fewer levels", YR_MAX_DEPTH);
	return 0;
}

/* A pass over the events before the document is built: the document API hides anchors. */
static int scan(struct yr *r, const char *bytes, size_t len)
{
	uint32_t depth = 0, documents = 0;
	yaml_parser_t p;
	yaml_event_t ev;
	bool done = false;
	int rc = 0;

	if (!yaml_parser_initialize(&p))
		return ps_err_set(r->err, -ENOMEM, "%s: out of memory", r->file);
	yaml_parser_set_input_string(&p, (const unsigned char *)bytes, len);
	while (rc == 0 && !done) {
		if (!yaml_parser_parse(&p, &ev)) {
			rc = fail_parser(r, &p);
			break;
		}
		done = ev.type == YAML_STREAM_END_EVENT;
		rc = check_event(r, &ev, &depth, &documents);
		yaml_event_delete(&ev);
	}
	yaml_parser_delete(&p);
	return rc;
}

int yr_parse(struct yr *r, const char *name, const char *bytes, size_t len, struct ps_err *err)
{
	yaml_parser_t p;
	int rc;

	memset(r, 0, sizeof(*r));
	r->file = name;
	r->err = err;
	if (len > YR_MAX_FILE_BYTES)
		return ps_err_set(err, -EINVAL, "%s:1:1: found %zu bytes; expected at most %u", name, len,
				  YR_MAX_FILE_BYTES);
	rc = scan(r, bytes, len);
	if (rc != 0)
		return rc;
	if (!yaml_parser_initialize(&p))
		return ps_err_set(err, -ENOMEM, "%s: out of memory", name);
	yaml_parser_set_input_string(&p, (const unsigned char *)bytes, len);
	if (!yaml_parser_load(&p, &r->doc))
		rc = fail_parser(r, &p);
	yaml_parser_delete(&p);
	if (rc == 0 &&
	    (yaml_document_get_root_node(&r->doc) == NULL || is_null(yaml_document_get_root_node(&r->doc)))) {
		rc =
		    ps_err_set(err, -EINVAL, "%s:1:1: found an empty file; expected a mapping of keys", name);
		yaml_document_delete(&r->doc);
	}
	return rc;
}

static int read_file(const char *path, char **bytes_out, size_t *len_out, struct ps_err *err)
{
	size_t cap = YR_MAX_FILE_BYTES + 1, len = 0;
	struct stat st;
	char *buf = NULL;
	int rc, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return ps_err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		rc = ps_err_set(err, -EINVAL, "%s:1:1: found no regular file; expected a YAML file", path);
		goto out_fd;
	}
	buf = malloc(cap);
	if (buf == NULL) {
		rc = ps_err_set(err, -ENOMEM, "%s: out of memory", path);
		goto out_fd;
	}
	while (len < cap) {
		ssize_t n = read(fd, buf + len, cap - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = ps_err_set(err, -errno, "%s: %s", path, strerror(errno));
			goto out_buf;
		}
		if (n == 0)
			break;
		len += (size_t)n;
	}
	*bytes_out = buf;
	*len_out = len;
	close(fd);
	return 0;
out_buf:
	free(buf);
out_fd:
	close(fd);
	return rc;
}

int yr_open(struct yr *r, const char *path, struct ps_err *err)
{
	char *bytes = NULL;
	size_t len = 0;
	int rc = read_file(path, &bytes, &len, err);

	if (rc != 0)
		return rc;
	rc = yr_parse(r, path, bytes, len, err);
	free(bytes);
	return rc;
}

void yr_close(struct yr *r)
{
	yaml_document_delete(&r->doc);
}

const yaml_node_t *yr_root(struct yr *r)
{
	return yaml_document_get_root_node(&r->doc);
}

/* ---- the nearest known name ---- */

#define NEAR_MAX 40u

/* Edits (insert, delete, replace) between two short texts; Wagner and Fischer, 1974. */
static size_t edits(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), row[NEAR_MAX + 1];

	if (la > NEAR_MAX || lb > NEAR_MAX)
		return NEAR_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diag = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best =
			    diag + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));

			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diag = row[j];
			row[j] = best;
		}
	}
	return row[lb];
}

const char *yr_nearest(const char *given, const char *const *names, size_t n_names)
{
	size_t best = 1 + strlen(given) / 3;
	const char *near = NULL;

	for (size_t i = 0; i < n_names; i++) {
		size_t d = edits(given, names[i]);

		if (d <= best && (near == NULL || d < best)) {
			best = d;
			near = names[i];
		}
	}
	return near;
}

/* ---- values ---- */

int yr_u64(struct yr *r, const yaml_node_t *n, const char *key, uint64_t min, uint64_t max, uint64_t *out)
{
	char show[YR_SHOW_BYTES];
	uint64_t v = 0;
	bool ok = n->type == YAML_SCALAR_NODE && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
		  n->data.scalar.length > 0 && n->data.scalar.length <= 20;

	for (size_t i = 0; ok && i < n->data.scalar.length; i++) {
		char c = scalar(n)[i];

		ok = c >= '0' && c <= '9' && !__builtin_mul_overflow(v, 10u, &v) &&
		     !__builtin_add_overflow(v, (uint64_t)(c - '0'), &v);
	}
	if (!ok || v < min || v > max)
		return yr_fail(r, yr_at(n), "found %s for %s; expected a whole number from %llu to %llu",
			       yr_show(n, show), key, (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

static bool name_char(char c, size_t at)
{
	return isalnum((unsigned char)c) || (at > 0 && (c == '.' || c == '_' || c == '-'));
}

static int read_text(struct yr *r, const yaml_node_t *n, const struct yr_key *k, char *dst)
{
	bool name = k->kind == YR_NAME;
	char show[YR_SHOW_BYTES];
	bool ok = n->type == YAML_SCALAR_NODE && n->data.scalar.length > 0 &&
		  n->data.scalar.length < k->max && !is_null(n);

	for (size_t i = 0; ok && i < n->data.scalar.length; i++) {
		char c = scalar(n)[i];

		ok = name ? name_char(c, i) : ((unsigned char)c >= 0x20 && c != 0x7f);
	}
	if (!ok)
		return yr_fail(r, yr_at(n), "found %s for %s; expected %s of 1 to %u characters%s",
			       yr_show(n, show), k->name, name ? "a name" : "text", k->max - 1,
			       name ? " (letters, digits, '.', '_', '-')" : "");
	memset(dst, 0, k->max);
	memcpy(dst, scalar(n), n->data.scalar.length);
	return 0;
}

static int read_choice(struct yr *r, const yaml_node_t *n, const struct yr_key *k, int *out)
{
	const char *names[YR_MAX_KEYS], *near = NULL;
	char list[200] = "", show[YR_SHOW_BYTES];
	size_t n_names = 0, o = 0;

	for (const struct yr_choice *c = k->choices; c->name != NULL; c++) {
		if (yr_is_text(n, c->name)) {
			*out = c->value;
			return 0;
		}
		names[n_names++] = c->name;
		o += (size_t)snprintf(list + o, sizeof(list) - o, "%s%s", o ? ", " : "", c->name);
	}
	if (n->type == YAML_SCALAR_NODE)
		near = yr_nearest(scalar(n), names, n_names);
	return yr_fail(r, yr_at(n), "found %s for %s; expected one of %s%s%s%s", yr_show(n, show), k->name,
		       list, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

static const struct yr_choice bools[] = {{"true", 1}, {"false", 0}, {NULL, 0}};

static int read_value(struct yr *r, const yaml_node_t *n, const struct yr_key *k, void *obj)
{
	void *field = (char *)obj + k->offset;
	struct yr_key as_bool = *k;
	uint64_t v = 0;
	int c = 0, rc;

	switch (k->kind) {
	case YR_U32:
	case YR_INT:
		rc = yr_u64(r, n, k->name, k->min, k->max, &v);
		if (rc == 0)
			*(uint32_t *)field = (uint32_t)v; /* same size and sign rules as int */
		return rc;
	case YR_U64:
		return yr_u64(r, n, k->name, 0, UINT64_MAX, field);
	case YR_NAME:
	case YR_TEXT:
		return read_text(r, n, k, field);
	case YR_CHOICE:
		rc = read_choice(r, n, k, &c);
		if (rc == 0)
			*(int *)field = c;
		return rc;
	case YR_BOOL:
		as_bool.choices = bools;
		rc = read_choice(r, n, &as_bool, &c);
		if (rc == 0)
			*(bool *)field = c != 0;
		return rc;
	case YR_CUSTOM:
		return k->custom(r, n, obj);
	}
	return -EINVAL;
}

static int fail_key(struct yr *r, const yaml_node_t *key, const char *what, const struct yr_key *keys,
		    size_t n_keys)
{
	const char *names[YR_MAX_KEYS], *near = NULL;
	char list[400] = "", show[YR_SHOW_BYTES];
	size_t o = 0;

	for (size_t i = 0; i < n_keys; i++) {
		names[i] = keys[i].name;
		o += (size_t)snprintf(list + o, sizeof(list) - o, "%s%s", o ? ", " : "", keys[i].name);
		CHECK(o < sizeof(list));
	}
	if (key->type == YAML_SCALAR_NODE)
		near = yr_nearest(scalar(key), names, n_keys);
	return yr_fail(r, yr_at(key), "found unknown key %s in %s; expected %s%s%s%s%s", yr_show(key, show),
		       what, near ? "'" : "one of ", near ? near : list, near ? "' (known keys: " : "",
		       near ? list : "", near ? ")" : "");
}

static const struct yr_key *find_key(const yaml_node_t *key, const struct yr_key *keys, size_t n_keys)
{
	for (size_t i = 0; i < n_keys; i++)
		if (yr_is_text(key, keys[i].name))
			return &keys[i];
	return NULL;
}

int yr_mapping(struct yr *r, const yaml_node_t *n, const char *what, const struct yr_key *keys, size_t n_keys,
	       void *obj)
{
	char show[YR_SHOW_BYTES];
	uint32_t seen = 0;

	CHECK(n_keys <= YR_MAX_KEYS);
	if (n->type != YAML_MAPPING_NODE)
		return yr_fail(r, yr_at(n), "found %s for %s; expected a mapping with the key %s",
			       yr_show(n, show), what, keys[0].name);
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
		const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
		const yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
		const struct yr_key *k = find_key(key, keys, n_keys);
		uint32_t bit;
		int rc;

		if (k == NULL)
			return fail_key(r, key, what, keys, n_keys);
		bit = 1u << (k - keys);
		if (seen & bit)
			return yr_fail(r, yr_at(key), "found key '%s' again in %s; expected each key once",
				       k->name, what);
		seen |= bit;
		rc = read_value(r, value, k, obj);
		if (rc != 0)
			return rc;
		if (k->mark_offset != 0)
			*(struct yr_mark *)(void *)((char *)obj + k->mark_offset) = yr_at(value);
	}
	for (size_t i = 0; i < n_keys; i++)
		if (keys[i].required && !(seen & (1u << i)))
			return yr_fail(r, yr_at(n), "found no '%s' in %s; expected the key %s", keys[i].name,
				       what, keys[i].name);
	return 0;
}

int yr_list(struct yr *r, const yaml_node_t *n, const char *what, size_t max_items,
	    int (*item)(struct yr *r, const yaml_node_t *value, void *obj), void *obj)
{
	char show[YR_SHOW_BYTES];
	size_t count = 0;

	if (n->type != YAML_SEQUENCE_NODE)
		return yr_fail(r, yr_at(n), "found %s; expected a list of %s", yr_show(n, show), what);
	for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
		const yaml_node_t *value = yaml_document_get_node(&r->doc, *i);
		int rc;

		if (++count > max_items)
			return yr_fail(r, yr_at(value), "found more than %zu %s; expected at most %zu",
				       max_items, what, max_items);
		rc = item(r, value, obj);
		if (rc != 0)
			return rc;
	}
	return 0;
}
