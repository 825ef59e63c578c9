/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_ACCEL_ACCEL_H
#define PENSTOCK_ACCEL_ACCEL_H
/*
 * One table of functions a back end offers: it loads a graph (a range of
 * blocks), keeps the KV cache of those blocks for a fixed number of slots, and
 * runs batches. Submission is asynchronous so that a GPU or a card can work
 * while the caller polls; the CPU back ends finish inside submit. What knows a
 * kernel never knows a packet: inputs and outputs are plain memory, which the
 * caller may have registered as pinned.
 *
 * One thread (the stage's compute thread) calls all functions of a back end.
 *
 * Invariance: a row's result does not depend, to the bit, on the other rows of
 * its batch, on how a prompt was cut into batches, on the number of threads, or
 * on the block range being cut into stages.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/graph.h"

struct accel;

struct accel_caps {
	char device[64]; /* e.g. "cpu" */
	char isa[64];    /* kernels in use, e.g. "avx2+fma+f16c" */
	uint32_t n_threads;
	uint64_t weight_bytes; /* read for one decode token */
	uint64_t kv_bytes;     /* allocated for the KV cache */
	uint64_t scratch_bytes;
	uint64_t repacked_bytes; /* weights copied out of the mapped file, 0 if used in place */
	bool can_register;       /* takes the caller's memory as pinned */
	bool must_allocate;      /* pinned memory must come from mem_alloc */
};

/* Elements of the KV cache. Q8_0: blocks of 32 along a head with a float16 scale; the last of a head that is
 * no multiple of 32 is padded. Keys and values are rounded once, when they are appended; those of
 * attention without causality, which are kept for one batch only, are not. */
enum accel_kv_dtype { ACCEL_KV_F32, ACCEL_KV_F16, ACCEL_KV_Q8_0 };

/*
 * Shows a back end's work, for tests and `penstock eval --dump`: fn gets each operation and its result as
 * soon as it is there, rows [n_rows, op->width], `ld` floats from one to the next. Operations without a
 * result (CROSS_KV) are left out. A back end that would fuse operations so that a result never exists
 * does not fuse while it is traced.
 */
struct accel_trace {
	void (*fn)(void *ctx, const struct model_op *op, const float *rows, size_t ld, uint32_t n_rows);
	void *ctx;
};

struct accel_open_args {
	const char *device;  /* "cpu", "cpu-ref", later "cuda:0", "xrt:0" */
	uint32_t n_threads;  /* 0: one a core */
	const int *cores;    /* pin thread i to cores[i], or NULL */
	uint32_t n_slots;    /* sequences at a time */
	uint32_t n_ctx;      /* positions a slot can hold */
	uint32_t max_tokens; /* rows of a batch, at most */
	enum accel_kv_dtype kv;
	struct accel_trace trace; /* fn NULL: nobody looks */
};

/* A run of consecutive rows of a batch that belong to one sequence. */
struct accel_seq {
	uint32_t slot; /* KV slot, < n_slots */
	uint32_t pos;  /* position of its first row; rows before it are in the cache */
	uint32_t n_tokens;
};

struct accel_batch {
	/* MODEL_PASS_ENCODE: sequences come whole, from position 0; positions are the encoder's and the slot
	 * remembers their number for cross-attention, until the next encode pass. The lengths of the
	 * KV cache proper are not touched. */
	enum model_pass pass;
	uint32_t n_tokens; /* rows, sum of the sequences' */
	uint32_t n_seqs;
	const struct accel_seq *seqs;
	const int32_t *tokens; /* [n_tokens]; needed where the graph embeds */
	const float *x_in;     /* [n_tokens, n_embd]; where it does not. 4-byte alignment suffices */
	/* Rows whose logits are wanted (ascending), where the graph has the head. */
	const uint32_t *out_rows; /* [n_out] */
	uint32_t n_out;
	float
	    *out; /* head: logits or hidden states [n_out, out_width]; else activations [n_tokens, n_embd] */
};

struct accel_ops {
	const char *name;
	/* -ENODEV, -ENOTSUP (text says what is missing), -EINVAL, -ENOMEM. The graph is borrowed
	 * until close. All memory is allocated here. */
	int (*open)(const struct accel_open_args *args, const struct model_graph *graph,
		    struct accel **accel_out, struct ps_err *err);
	void (*close)(struct accel *a);
	void (*caps)(const struct accel *a, struct accel_caps *out);
	/* Pinned memory; NULL where the back end has no use for it (then any memory is as good). */
	int (*mem_register)(struct accel *a, void *mem, size_t bytes);
	void (*mem_unregister)(struct accel *a, void *mem);
	void *(*mem_alloc)(struct accel *a, size_t bytes);
	void (*mem_free)(struct accel *a, void *mem);
	/* Starts a batch; its memory is the back end's until poll says done. -EINVAL: a slot or
	 * position out of range (nothing was run). At most one batch in flight unless caps say more. */
	int (*submit)(struct accel *a, const struct accel_batch *b);
	/* 1: the oldest batch is done; 0: still running; -errno: it failed. */
	int (*poll)(struct accel *a);
	/* KV cache. trim: forget positions >= pos. copy: slot `from` to `to` up to n positions. */
	void (*kv_trim)(struct accel *a, uint32_t slot, uint32_t pos);
	void (*kv_copy)(struct accel *a, uint32_t from, uint32_t to, uint32_t n);
};

/* The back end for a device name. NULL with a text that lists those built in. */
const struct accel_ops *accel_find(const char *device, struct ps_err *err);

extern const struct accel_ops accel_cpu_ref;
extern const struct accel_ops accel_cpu;

#endif
