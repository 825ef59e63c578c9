/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/check.h"
#include "model/gguf_priv.h"

#define GGUF_MAGIC         0x46554747u /* "GGUF" read as a little-endian u32 */
#define GGUF_HEADER_BYTES  24u         /* magic, version, n_tensors, n_kv */
#define GGUF_ALIGN_DEFAULT 32u
#define GGUF_ALIGN_MIN     8u /* the format asks for a multiple of 8 */
#define GGUF_ALIGN_MAX     (1u << 20)
#define GGUF_KEY_MAX       65535u /* the format's own limit on a key */
#define GGUF_MAX_DIMS      4u
/* The least bytes an entry takes in the file. A count that would need more than the file has is
 * refused before anything is allocated for it, so tables stay within a few times the file. */
#define GGUF_KV_MIN_BYTES     (8u + 1u + 4u + 1u)
#define GGUF_TENSOR_MIN_BYTES (8u + 1u + 4u + 8u + 4u + 8u)
/* Pieces of tensor data that enter gguf_hash, so that two trainings of one shape differ. */
#define GGUF_HASH_SAMPLES      16u
#define GGUF_HASH_SAMPLE_BYTES 64u

/* A place in the mapped file while it is read. */
struct cursor {
	const uint8_t *map;
	size_t size, off;
	const char *path;
	struct ps_err *err;
};

static const struct dtype_info {
	enum gguf_dtype type;
	const char *name;
	uint32_t elems, bytes;
} dtypes[] = {
    {GGUF_DT_F32, "F32", 1, 4},       {GGUF_DT_F16, "F16", 1, 2},       {GGUF_DT_Q4_0, "Q4_0", 32, 18},
    {GGUF_DT_Q4_1, "Q4_1", 32, 20},   {GGUF_DT_Q5_0, "Q5_0", 32, 22},   {GGUF_DT_Q5_1, "Q5_1", 32, 24},
    {GGUF_DT_Q8_0, "Q8_0", 32, 34},   {GGUF_DT_Q8_1, "Q8_1", 32, 36},   {GGUF_DT_Q2_K, "Q2_K", 256, 84},
    {GGUF_DT_Q3_K, "Q3_K", 256, 110}, {GGUF_DT_Q4_K, "Q4_K", 256, 144}, {GGUF_DT_Q5_K, "Q5_K", 256, 176},
    {GGUF_DT_Q6_K, "Q6_K", 256, 210}, {GGUF_DT_Q8_K, "Q8_K", 256, 292}, {GGUF_DT_IQ4_NL, "IQ4_NL", 32, 18},
    {GGUF_DT_I8, "I8", 1, 1},         {GGUF_DT_I16, "I16", 1, 2},       {GGUF_DT_I32, "I32", 1, 4},
    {GGUF_DT_I64, "I64", 1, 8},       {GGUF_DT_F64, "F64", 1, 8},       {GGUF_DT_BF16, "BF16", 1, 2},
};

static const struct dtype_info *dtype_find(uint32_t t)
{
	for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
		if ((uint32_t)dtypes[i].type == t)
			return &dtypes[i];
	}
	return NULL;
}

const char *gguf_dtype_name(enum gguf_dtype t)
{
	const struct dtype_info *d = dtype_find((uint32_t)t);

	return d != NULL ? d->name : "unknown";
}

bool gguf_dtype_block(enum gguf_dtype t, uint32_t *elems_out, uint32_t *bytes_out)
{
	const struct dtype_info *d = dtype_find((uint32_t)t);

	if (d == NULL)
		return false;
	*elems_out = d->elems;
	*bytes_out = d->bytes;
	return true;
}

uint32_t gguf_type_bytes(uint32_t t)
{
	static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

	return t < sizeof(bytes) ? bytes[t] : 0;
}

static size_t cursor_left(const struct cursor *c)
{
	return c->size - c->off;
}

/* ---- errors --------------------------------------------------------------------------------- */

static int ps_printf(2, 3) torn(const struct cursor *c, const char *fmt, ...)
{
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return ps_err_set(c->err, -EBADMSG, "%.400s: %s", c->path, what);
}

static int take_u32(struct cursor *c, uint32_t *out)
{
	if (cursor_left(c) < 4)
		return -EBADMSG;
	*out = ps_load32(c->map + c->off);
	c->off += 4;
	return 0;
}

static int take_u64(struct cursor *c, uint64_t *out)
{
	if (cursor_left(c) < 8)
		return -EBADMSG;
	*out = ps_load64(c->map + c->off);
	c->off += 8;
	return 0;
}

static int take_bytes(struct cursor *c, uint64_t n, const uint8_t **out)
{
	if (n > cursor_left(c))
		return -EBADMSG;
	*out = c->map + c->off;
	c->off += (size_t)n;
	return 0;
}

static int take_str(struct cursor *c, struct gguf_str *out)
{
	const uint8_t *p = NULL;
	uint64_t len = 0;

	if (take_u64(c, &len) < 0 || take_bytes(c, len, &p) < 0)
		return -EBADMSG;
	out->s = (const char *)p;
	out->len = (size_t)len;
	return 0;
}

/* A key's or a tensor's name goes into messages and C strings: it must be able to. */
static bool name_is_clean(const struct gguf_str *s)
{
	for (size_t i = 0; i < s->len; i++) {
		unsigned char ch = (unsigned char)s->s[i];

		if (ch < 0x20 || ch == 0x7f)
			return false;
	}
	return s->len > 0;
}

/* ---- keys ----------------------------------------------------------------------------------- */

static int read_str_array(struct cursor *c, struct gguf_kv *kv)
{
	if (kv->n > cursor_left(c) / 8)
		return torn(c, "key '%s': %llu strings cannot fit the %zu bytes that follow", kv->name,
			    (unsigned long long)kv->n, cursor_left(c));
	kv->str_off = malloc((size_t)kv->n * sizeof(*kv->str_off) + 1);
	if (kv->str_off == NULL)
		return ps_err_set(c->err, -ENOMEM, "%s: no memory for the index of key '%.300s'", c->path,
				  kv->name);
	for (uint64_t i = 0; i < kv->n; i++) {
		struct gguf_str s;

		kv->str_off[i] = c->off;
		if (take_str(c, &s) < 0)
			return torn(c, "key '%s': string %llu of %llu runs past the file's end", kv->name,
				    (unsigned long long)i, (unsigned long long)kv->n);
	}
	return 0;
}

static int read_array(struct cursor *c, struct gguf_kv *kv)
{
	uint32_t elem = 0, bytes;

	if (take_u32(c, &elem) < 0 || take_u64(c, &kv->n) < 0)
		return torn(c, "key '%s': the file ends inside its array header", kv->name);
	kv->elem = (enum gguf_type)elem;
	kv->value = c->map + c->off;
	if (elem == GGUF_STRING)
		return read_str_array(c, kv);
	if (elem == GGUF_ARRAY)
		return torn(c, "key '%s': arrays of arrays are not supported", kv->name);
	bytes = gguf_type_bytes(elem);
	if (bytes == 0)
		return torn(c, "key '%s': unknown array element type %u", kv->name, elem);
	if (kv->n > cursor_left(c) / bytes)
		return torn(c, "key '%s': %llu elements of %u bytes, but %zu bytes follow", kv->name,
			    (unsigned long long)kv->n, bytes, cursor_left(c));
	c->off += (size_t)kv->n * bytes;
	return 0;
}

static int read_value(struct cursor *c, struct gguf_kv *kv)
{
	uint32_t type = 0, bytes;
	struct gguf_str s;

	if (take_u32(c, &type) < 0)
		return torn(c, "key '%s': the file ends before its type", kv->name);
	kv->type = (enum gguf_type)type;
	kv->n = 1;
	kv->value = c->map + c->off;
	if (type == GGUF_ARRAY)
		return read_array(c, kv);
	if (type == GGUF_STRING) {
		if (take_str(c, &s) < 0)
			return torn(c, "key '%s': its string runs past the file's end", kv->name);
		return 0;
	}
	bytes = gguf_type_bytes(type);
	if (bytes == 0)
		return torn(c, "key '%s': unknown value type %u", kv->name, type);
	if (bytes > cursor_left(c))
		return torn(c, "key '%s': the file ends inside its value", kv->name);
	if (type == GGUF_BOOL && *kv->value > 1)
		return torn(c, "key '%s': a bool of value %u", kv->name, *kv->value);
	c->off += bytes;
	return 0;
}

static int read_kvs(struct cursor *c, struct gguf *g, uint64_t n)
{
	if (n > cursor_left(c) / GGUF_KV_MIN_BYTES)
		return torn(c, "%llu keys cannot fit a file of %zu bytes", (unsigned long long)n, c->size);
	g->kv = calloc((size_t)n + 1, sizeof(*g->kv));
	if (g->kv == NULL)
		return ps_err_set(c->err, -ENOMEM, "%s: no memory for %llu keys", c->path,
				  (unsigned long long)n);
	for (uint64_t i = 0; i < n; i++) {
		struct gguf_kv *kv = &g->kv[i];
		struct gguf_str name;
		int rc;

		if (take_str(c, &name) < 0)
			return torn(c, "the file ends inside the name of key %llu of %llu",
				    (unsigned long long)i, (unsigned long long)n);
		if (name.len > GGUF_KEY_MAX || !name_is_clean(&name))
			return torn(c,
				    "the name of key %llu is empty, too long or has control "
				    "characters",
				    (unsigned long long)i);
		kv->name = strndup(name.s, name.len);
		if (kv->name == NULL)
			return ps_err_set(c->err, -ENOMEM, "%s: no memory for a key", c->path);
		g->n_kv++;
		rc = read_value(c, kv);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* The alignment is needed before the index is built. */
static int read_alignment(const struct cursor *c, const struct gguf *g, uint32_t *align_out)
{
	uint32_t align;

	*align_out = GGUF_ALIGN_DEFAULT;
	for (size_t i = 0; i < g->n_kv; i++) {
		if (strcmp(g->kv[i].name, "general.alignment") != 0)
			continue;
		if (g->kv[i].type != GGUF_U32)
			return torn(c, "key 'general.alignment': expected a u32");
		align = ps_load32(g->kv[i].value);
		if (align < GGUF_ALIGN_MIN || align > GGUF_ALIGN_MAX || (align & (align - 1)) != 0)
			return torn(c,
				    "key 'general.alignment': %u is not a power of two in "
				    "%u..%u",
				    align, GGUF_ALIGN_MIN, GGUF_ALIGN_MAX);
		*align_out = align;
	}
	return 0;
}

/* ---- tensors -------------------------------------------------------------------------------- */

static int tensor_bytes(const struct cursor *c, struct gguf_tensor *t, uint32_t dtype)
{
	const struct dtype_info *d = dtype_find(dtype);
	uint64_t n = 1;

	if (d == NULL)
		return ps_err_set(c->err, -ENOTSUP, "%.400s: tensor '%s': unknown element type %u", c->path,
				  t->name, dtype);
	t->dtype = d->type;
	for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
		if (t->ne[i] == 0 || __builtin_mul_overflow(n, t->ne[i], &n) || n > INT64_MAX)
			return torn(c, "tensor '%s': impossible dimension %u of %llu", t->name, i,
				    (unsigned long long)t->ne[i]);
	}
	if (t->ne[0] % d->elems != 0)
		return torn(c, "tensor '%s': rows of %llu elements are not whole %s blocks of %u", t->name,
			    (unsigned long long)t->ne[0], d->name, d->elems);
	if (__builtin_mul_overflow(n / d->elems, (uint64_t)d->bytes, &t->n_bytes))
		return torn(c, "tensor '%s': its size overflows", t->name);
	return 0;
}

/* The offset is turned into a pointer when the start of the data is known: see place_tensors. */
static int read_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t i, uint64_t *off_out)
{
	struct gguf_str name;
	uint32_t dtype = 0;

	if (take_str(c, &name) < 0)
		return torn(c, "the file ends inside the name of tensor %llu", (unsigned long long)i);
	if (name.len >= sizeof(t->name) || !name_is_clean(&name))
		return torn(c,
			    "the name of tensor %llu is empty, longer than %zu bytes or has "
			    "control characters",
			    (unsigned long long)i, sizeof(t->name) - 1);
	memcpy(t->name, name.s, name.len);
	if (take_u32(c, &t->n_dims) < 0)
		return torn(c, "tensor '%s': the file ends inside its description", t->name);
	if (t->n_dims < 1 || t->n_dims > GGUF_MAX_DIMS)
		return torn(c, "tensor '%s': %u dimensions, expected 1 to %u", t->name, t->n_dims,
			    GGUF_MAX_DIMS);
	for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++) {
		t->ne[d] = 1;
		if (d < t->n_dims && take_u64(c, &t->ne[d]) < 0)
			return torn(c, "tensor '%s': the file ends inside its shape", t->name);
	}
	if (take_u32(c, &dtype) < 0 || take_u64(c, off_out) < 0)
		return torn(c, "tensor '%s': the file ends inside its description", t->name);
	return tensor_bytes(c, t, dtype);
}

/* Turns offsets into pointers; `offs` are relative to the start of the data section. */
static int place_tensors(const struct cursor *c, struct gguf *g, const uint64_t *offs, uint32_t align)
{
	uint64_t start = ((uint64_t)c->off + align - 1) / align * align;
	uint64_t avail = start <= c->size ? c->size - start : 0;

	for (size_t i = 0; i < g->n_tensors; i++) {
		struct gguf_tensor *t = &g->tensors[i];

		if (offs[i] % align != 0)
			return torn(c, "tensor '%s': offset %llu is not a multiple of the alignment %u",
				    t->name, (unsigned long long)offs[i], align);
		if (offs[i] > avail || t->n_bytes > avail - offs[i])
			return torn(c,
				    "tensor '%s': needs %llu bytes at %llu of the data, which has "
				    "%llu: the file is truncated or wrong",
				    t->name, (unsigned long long)t->n_bytes, (unsigned long long)offs[i],
				    (unsigned long long)avail);
		t->data = g->map + start + offs[i];
	}
	return 0;
}

static int read_tensors(struct cursor *c, struct gguf *g, uint64_t n)
{
	uint64_t *offs;
	uint32_t align = 0;
	int rc;

	if (n > cursor_left(c) / GGUF_TENSOR_MIN_BYTES)
		return torn(c, "%llu tensors cannot fit a file of %zu bytes", (unsigned long long)n, c->size);
	g->tensors = calloc((size_t)n + 1, sizeof(*g->tensors));
	offs = calloc((size_t)n + 1, sizeof(*offs));
	if (g->tensors == NULL || offs == NULL) {
		rc = ps_err_set(c->err, -ENOMEM, "%s: no memory for %llu tensors", c->path,
				(unsigned long long)n);
		goto out_offs;
	}
	rc = read_alignment(c, g, &align);
	for (uint64_t i = 0; i < n && rc == 0; i++) {
		rc = read_tensor(c, &g->tensors[i], i, &offs[i]);
		g->n_tensors = (size_t)i + 1;
	}
	if (rc == 0)
		rc = place_tensors(c, g, offs, align);
out_offs:
	free(offs);
	return rc;
}

/* ---- index ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t x)
{
	h = (h ^ x) * 0x9e3779b97f4a7c15ull; /* 2^64 / golden ratio: an odd number of mixed bits */
	return h ^ (h >> 29);
}

static uint64_t hash_bytes(uint64_t h, const void *p, size_t n)
{
	const uint8_t *b = p;
	uint64_t tail = 0;

	h = mix(h, n);
	for (; n >= 8; n -= 8, b += 8)
		h = mix(h, ps_load64(b));
	memcpy(&tail, b, n);
	return mix(h, PS_LE64(tail));
}

/* The table's seed is the hash of the whole header, so a file cannot carry names that were chosen
 * to collide: changing a name changes the seed. */
static size_t index_home(const struct gguf *g, const char *name, size_t mask)
{
	return (size_t)hash_bytes(g->hash, name, strlen(name)) & mask;
}

const char *gguf_kv_name_of(const struct gguf *g, size_t i)
{
	return g->kv[i].name;
}

const char *gguf_tensor_name_of(const struct gguf *g, size_t i)
{
	return g->tensors[i].name;
}

uint32_t gguf_index_find(const struct gguf *g, const struct gguf_index *ix, gguf_name_fn name_of,
			 const char *name, size_t *slot)
{
	*slot = index_home(g, name, ix->mask);
	while (ix->slots[*slot] != 0) {
		if (strcmp(name_of(g, ix->slots[*slot] - 1), name) == 0)
			return ix->slots[*slot];
		*slot = (*slot + 1) & ix->mask;
	}
	return 0;
}

static int index_build(const struct cursor *c, const struct gguf *g, struct gguf_index *ix,
		       gguf_name_fn name_of, size_t n, const char *what)
{
	size_t cap = 8, slot;

	if (n >= UINT32_MAX / 4)
		return torn(c, "%zu entries are more than this reader indexes", n);
	while (cap < n * 2)
		cap *= 2;
	ix->slots = calloc(cap, sizeof(*ix->slots));
	if (ix->slots == NULL)
		return ps_err_set(c->err, -ENOMEM, "%s: no memory for an index", c->path);
	ix->mask = cap - 1;
	for (size_t i = 0; i < n; i++) {
		if (gguf_index_find(g, ix, name_of, name_of(g, i), &slot) != 0)
			return torn(c, "%s '%s' appears twice", what, name_of(g, i));
		ix->slots[slot] = (uint32_t)i + 1;
	}
	return 0;
}

/* ---- open and close ------------------------------------------------------------------------- */

static uint64_t file_hash(const struct cursor *c)
{
	uint64_t h = hash_bytes(c->size, c->map, c->off);
	size_t data = c->size - c->off;

	for (size_t i = 0; i < GGUF_HASH_SAMPLES && data >= GGUF_HASH_SAMPLE_BYTES; i++) {
		/* In two steps because data * i may overflow. */
		size_t at = (data - GGUF_HASH_SAMPLE_BYTES) / GGUF_HASH_SAMPLES * i;

		h = hash_bytes(h, c->map + c->off + at, GGUF_HASH_SAMPLE_BYTES);
	}
	return h;
}

static int check_version(const struct cursor *c, uint32_t magic, uint32_t version)
{
	if (magic != GGUF_MAGIC)
		return torn(c, "not a GGUF file (it does not begin with \"GGUF\")");
	if (version == 2 || version == 3)
		return 0;
	if (version != 0 && (version & 0xffffu) == 0)
		return ps_err_set(c->err, -ENOTSUP,
				  "%.400s: a big-endian GGUF file (version %u); "
				  "only little-endian ones are supported",
				  c->path, __builtin_bswap32(version));
	return ps_err_set(c->err, -ENOTSUP, "%.400s: GGUF version %u, expected 2 or 3", c->path, version);
}

static int parse(struct gguf *g, struct ps_err *err)
{
	struct cursor c = {.map = g->map, .size = g->size, .path = g->path, .err = err};
	uint64_t n_tensors = 0, n_kv = 0;
	uint32_t magic = 0;
	int rc;

	if (c.size < GGUF_HEADER_BYTES)
		return torn(&c, "%zu bytes are too few for a GGUF header", c.size);
	if (take_u32(&c, &magic) < 0 || take_u32(&c, &g->version) < 0 || take_u64(&c, &n_tensors) < 0 ||
	    take_u64(&c, &n_kv) < 0)
		return torn(&c, "the file ends inside its header");
	rc = check_version(&c, magic, g->version);
	if (rc == 0)
		rc = read_kvs(&c, g, n_kv);
	if (rc == 0)
		rc = read_tensors(&c, g, n_tensors);
	if (rc < 0)
		return rc;
	g->hash = file_hash(&c);
	rc = index_build(&c, g, &g->kv_index, gguf_kv_name_of, g->n_kv, "key");
	if (rc == 0)
		rc = index_build(&c, g, &g->tensor_index, gguf_tensor_name_of, g->n_tensors, "tensor");
	return rc;
}

static int map_file(struct gguf *g, struct ps_err *err)
{
	struct stat st;
	void *map;
	int fd, rc = 0;

	/* O_NONBLOCK: a FIFO of that name must not hang the program. */
	fd = open(g->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return ps_err_set(err, -errno, "%.400s: %s", g->path, strerror(errno));
	if (fstat(fd, &st) < 0) {
		rc = ps_err_set(err, -errno, "%.400s: %s", g->path, strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		rc = ps_err_set(err, -EINVAL, "%.400s: not a regular file", g->path);
	} else if (st.st_size == 0) {
		rc = ps_err_set(err, -EBADMSG, "%.400s: the file is empty", g->path);
	} else {
		map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED) {
			rc = ps_err_set(err, -errno, "%.400s: mmap: %s", g->path, strerror(errno));
		} else {
			g->map = map;
			g->size = (size_t)st.st_size;
			/* Best effort. Where the file system keeps large folios and the file is not in
			 * the page cache already, it is read into 2 MB pages: weights then
			 * stream at 30 GB/s, in pages of 4 KB at 20 (a virtual machine's Zen 4). */
			(void)madvise(map, g->size, MADV_HUGEPAGE);
		}
	}
	close(fd);
	return rc;
}

int gguf_open(const char *path, struct gguf **gguf_out, struct ps_err *err)
{
	struct gguf *g;
	int rc;

	CHECK(path != NULL && gguf_out != NULL);
	*gguf_out = NULL;
	g = calloc(1, sizeof(*g));
	if (g != NULL)
		g->path = strdup(path);
	if (g == NULL || g->path == NULL) {
		free(g);
		return ps_err_set(err, -ENOMEM, "%.400s: no memory", path);
	}
	rc = map_file(g, err);
	if (rc == 0)
		rc = parse(g, err);
	if (rc < 0) {
		gguf_close(g);
		return rc;
	}
	*gguf_out = g;
	return 0;
}

void gguf_close(struct gguf *g)
{
	if (g == NULL)
		return;
	for (size_t i = 0; i < g->n_kv; i++) {
		free(g->kv[i].name);
		free(g->kv[i].str_off);
	}
	free(g->kv);
	free(g->tensors);
	free(g->kv_index.slots);
	free(g->tensor_index.slots);
	if (g->map != NULL)
		munmap((void *)(uintptr_t)g->map, g->size);
	free(g->path);
	free(g);
}
