/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TOPOLOGY_YREAD_H
#define PENSTOCK_TOPOLOGY_YREAD_H
/*
 * Typed reading of small YAML files with errors that name file, line and column,
 * what was found and what was expected. Mappings are described by tables of
 * keys; unknown and repeated keys are errors. Anchors, aliases and tags are
 * refused, so that a small file cannot unfold into a large one. Used for
 * topology files and for the launcher's state; not a general YAML library.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#include <yaml.h>

#define YR_MAX_FILE_BYTES (256u * 1024u) /* a resolved topology of 64 stages takes about 40 KB */
#define YR_MAX_DEPTH      8u
#define YR_MAX_KEYS       32u

struct yr_mark {
	uint32_t line, column; /* from 1; 0: nowhere in the file */
};

struct yr {
	const char *file; /* as it appears in error texts; borrowed */
	yaml_document_t doc;
	struct ps_err *err;
};

enum yr_kind {
	YR_U32,    /* uint32_t, min..max */
	YR_INT,    /* int, min..max */
	YR_U64,    /* uint64_t, any */
	YR_NAME,   /* char[size]: letters, digits, '.', '_', '-', starting with a letter or digit */
	YR_TEXT,   /* char[size]: any printable text, not empty */
	YR_CHOICE, /* int, one of choices */
	YR_BOOL,   /* bool, true or false */
	YR_CUSTOM,
};

struct yr_choice {
	const char *name;
	int value;
};

struct yr_key {
	const char *name;
	enum yr_kind kind;
	size_t offset;                   /* of the field in the object */
	uint32_t min, max;               /* numbers; for text `max` is the field's size in bytes */
	const struct yr_choice *choices; /* ended by a NULL name */
	int (*custom)(struct yr *r, const yaml_node_t *value, void *obj);
	bool required;
	size_t mark_offset; /* of a yr_mark that takes the value's place, 0: none */
};

/* Reads and parses a file; -errno, or -EINVAL for what is no YAML or beyond the bounds. */
int ps_warn_unused yr_open(struct yr *r, const char *path, struct ps_err *err);
/* The same for bytes in memory. `name` is borrowed. */
int ps_warn_unused yr_parse(struct yr *r, const char *name, const char *bytes, size_t len,
			    struct ps_err *err);
void yr_close(struct yr *r);

const yaml_node_t *yr_root(struct yr *r);
struct yr_mark yr_at(const yaml_node_t *n);

/* Formats "file:line:column: ..." and returns -EINVAL. */
int ps_printf(3, 4) yr_fail(const struct yr *r, struct yr_mark at, const char *fmt, ...);

/* How a value is shown in an error: 'text' (printable, cut short), "a list", "a mapping", "nothing". */
#define YR_SHOW_BYTES 64u
const char *yr_show(const yaml_node_t *n, char buf[YR_SHOW_BYTES]);

bool yr_is_text(const yaml_node_t *n, const char *text);

/* Fills `obj` from a mapping. `what` names the mapping in errors ("a stage"). */
int ps_warn_unused yr_mapping(struct yr *r, const yaml_node_t *n, const char *what, const struct yr_key *keys,
			      size_t n_keys, void *obj);

/* Calls `item` for each element of a list of at most max_items; `what` as in "a list of stages". */
int ps_warn_unused yr_list(struct yr *r, const yaml_node_t *n, const char *what, size_t max_items,
			   int (*item)(struct yr *r, const yaml_node_t *value, void *obj), void *obj);

/* Single values, for custom readers. */
int ps_warn_unused yr_u64(struct yr *r, const yaml_node_t *n, const char *key, uint64_t min, uint64_t max,
			  uint64_t *out);

/* The name nearest to `given`, or NULL when none is near. */
const char *yr_nearest(const char *given, const char *const *names, size_t n_names);

#endif
