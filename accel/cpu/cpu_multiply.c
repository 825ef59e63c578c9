/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/cpu/cpu.h"

#include "accel/weights.h"
#include "base/check.h"

/* Weights below this are not worth handing to another thread: about 2 us of reading at 25 GB/s,
 * which is what waking and gathering the threads costs. */
#define MIN_CHUNK_BYTES (48u << 10)
#define CHUNKS_A_THREAD 4u

struct mul_job {
	struct accel *a;
	const struct cpu_mat *mat;
	struct kern_mul mul;    /* of all rows */
	struct kern_q8_rows q8; /* where the weights are Q8_0 */
	uint32_t rows_a_chunk;
};

/* The job's rows [r0, r1). */
static struct kern_mul rows_of(const struct kern_mul *m, uint32_t r0, uint32_t r1)
{
	struct kern_mul part = *m;

	part.w += r0 * m->row_bytes;
	part.y += r0;
	part.rows = r1 - r0;
	return part;
}

static void multiply_few(const struct kern *kern, enum gguf_dtype dtype, const struct kern_mul *m)
{
	if (dtype == GGUF_DT_F32)
		kern->mul_f32(m);
	else if (dtype == GGUF_DT_F16)
		kern->mul_f16(m);
	else
		kern->mul_bf16(m);
}

/* Types that have kernels of their own; rows of the others are expanded by accel_row_expand whatever the
 * number of columns. */
static bool is_float(enum gguf_dtype dtype)
{
	return dtype == GGUF_DT_F32 || dtype == GGUF_DT_F16 || dtype == GGUF_DT_BF16;
}

static void expand_row(const struct kern *kern, enum gguf_dtype dtype, const uint8_t *w, uint32_t k,
		       float *dst)
{
	if (dtype == GGUF_DT_F32)
		kern->expand_f32(w, k, dst);
	else if (dtype == GGUF_DT_F16)
		kern->expand_f16(w, k, dst);
	else if (dtype == GGUF_DT_BF16)
		kern->expand_bf16(w, k, dst);
	else
		accel_row_expand(dtype, w, k, dst);
}

/* A panel of rows is expanded once and serves all columns. */
static void multiply_panels(const struct mul_job *job, const struct kern_mul *m, const struct cpu_thread *t)
{
	const struct kern *kern = job->a->kern;
	size_t ldp = cpu_ld(m->k);

	for (uint32_t r = 0; r < m->rows; r += KERN_PANEL) {
		struct kern_mul part = rows_of(m, r, m->rows - r < KERN_PANEL ? m->rows : r + KERN_PANEL);

		for (uint32_t i = 0; i < part.rows; i++)
			expand_row(kern, job->mat->dtype, part.w + i * part.row_bytes, part.k,
				   t->panel + i * ldp);
		kern->mul_panel(&part, t->panel, ldp, t->sums);
	}
}

/* Blocks of rows and columns that stay in the L2 cache together. */
static void multiply_q8(const struct mul_job *job, const struct kern_mul *m, const struct cpu_thread *t)
{
	for (uint32_t r = 0; r < m->rows; r += KERN_PANEL) {
		struct kern_mul part = rows_of(m, r, m->rows - r < KERN_PANEL ? m->rows : r + KERN_PANEL);

		for (uint32_t c = 0; c < m->cols; c += KERN_Q8_COLS) {
			struct kern_q8_rows x = job->q8;

			x.q += c * x.ldq;
			x.scale += c * x.lds;
			x.bias += c * x.lds;
			part.cols = m->cols - c < KERN_Q8_COLS ? m->cols - c : KERN_Q8_COLS;
			part.y = m->y + r + c * m->ldy;
			job->a->kern->mul_q8(&part, &x, t->panel);
		}
	}
}

static void multiply_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
	const struct mul_job *job = ctx;
	uint32_t r0 = chunk * job->rows_a_chunk;
	uint32_t left = job->mul.rows - r0;
	struct kern_mul m =
	    rows_of(&job->mul, r0, r0 + (left < job->rows_a_chunk ? left : job->rows_a_chunk));

	if (job->mat->dtype == GGUF_DT_Q8_0)
		multiply_q8(job, &m, &job->a->threads[thread]);
	else if (m.cols <= KERN_FEW_COLS && is_float(job->mat->dtype))
		multiply_few(job->a->kern, job->mat->dtype, &m);
	else
		multiply_panels(job, &m, &job->a->threads[thread]);
	cpu_finish(job->a, job->mat, r0, m.rows, m.y, m.ldy, m.cols);
}

static void quantize_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct mul_job *job = arg;
	struct cpu_q8 *q8 = &a->q8;

	for (uint32_t c = row; c < end; c++)
		a->kern->quantize_q8(job->mul.x + c * job->mul.ldx, job->mul.k, q8->q + c * q8->ldq,
				     q8->scale + c * q8->lds, q8->bias + c * q8->lds);
}

/* Multiples of the panel, so many that a late thread costs little, not so many that they are tiny. */
static uint32_t rows_a_chunk(const struct accel *a, const struct kern_mul *m)
{
	uint32_t threads = pool_n_threads(a->pool);
	uint64_t chunks = (uint64_t)m->rows * m->row_bytes * m->cols / MIN_CHUNK_BYTES;
	uint32_t rows;

	if (threads == 1 || chunks <= 1)
		return m->rows;
	if (chunks > (uint64_t)threads * CHUNKS_A_THREAD)
		chunks = threads * CHUNKS_A_THREAD;
	rows = (m->rows + (uint32_t)chunks - 1) / (uint32_t)chunks;
	if (m->cols > KERN_FEW_COLS || rows >= 4 * KERN_PANEL)
		return (rows + KERN_PANEL - 1) / KERN_PANEL * KERN_PANEL;
	return (rows + 3) / 4 * 4;
}

void cpu_multiply(struct accel *a, const struct cpu_mat *mat, const float *x, size_t ldx, uint32_t n,
		  float *y, size_t ldy)
{
	struct mul_job job = {
	    .a = a,
	    .mat = mat,
	    .mul = {.w = mat->w,
		    .row_bytes = accel_row_bytes(mat->dtype, mat->k),
		    .rows = mat->rows,
		    .k = mat->k,
		    .x = x,
		    .ldx = ldx,
		    .cols = n,
		    .y = y,
		    .ldy = ldy},
	    .q8 =
		{.q = a->q8.q, .scale = a->q8.scale, .bias = a->q8.bias, .ldq = a->q8.ldq, .lds = a->q8.lds},
	};

	if (n == 0)
		return;
	DCHECK(job.mul.row_bytes != 0);
	if (mat->dtype == GGUF_DT_Q8_0)
		cpu_run_rows(a, quantize_rows, &job, n, mat->k);
	job.rows_a_chunk = rows_a_chunk(a, &job.mul);
	pool_run(a->pool, multiply_chunk, &job, (mat->rows + job.rows_a_chunk - 1) / job.rows_a_chunk);
}
