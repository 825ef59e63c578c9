/* SPDX-License-Identifier: BSD-3-Clause */
#include "accel/cpu/cpu.h"

#include <stdbool.h>

#include "accel/weights.h"
#include "base/check.h"

/* Weights below this are not worth handing to another thread: about 2 us of reading at 25 GB/s,
 * which is what waking and gathering the threads costs. */
#define MIN_CHUNK_BYTES (48u << 10)
#define CHUNKS_A_THREAD 4u

struct mul_job {
	struct accel *a;
	const struct cpu_mat *mat;
	struct kern_mul mul;            /* of all rows */
	const struct kern_quant *quant; /* NULL: the product is one of floats */
	kern_k_mul_fn *k_mul;           /* of a K type, else NULL */
	bool columns;                   /* of kern_q8: in columns, and the weights are packed */
	uint32_t rows_a_chunk;
	uint32_t first_chunk; /* of the set's chunks */
};

/* Products of the same input that share one round of the threads. */
struct mul_set {
	struct mul_job jobs[CPU_PRODUCTS];
	uint32_t n;
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

/* Panels of as many rows as stay in the L2 cache, so that each column is fetched from farther away once. */
static void multiply_quant(const struct mul_job *job, const struct kern_mul *m, const struct cpu_thread *t)
{
	const struct kern_quant *quant = job->quant;
	uint32_t groups = kern_quant_groups(m->k);
	size_t panel_bytes = (size_t)groups * KERN_QUANT_PANEL_BYTES;
	uint8_t *panel = (uint8_t *)t->panel;

	if (!job->columns) {
		quant->mul(m, job->a->q8.x);
		return;
	}
	for (uint32_t r = 0; r < m->rows; r += KERN_PANEL) {
		struct kern_mul part[KERN_PANEL / KERN_QUANT_ROWS];
		uint32_t n = 0;

		for (; n < KERN_PANEL / KERN_QUANT_ROWS && r + n * KERN_QUANT_ROWS < m->rows; n++) {
			uint32_t r0 = r + n * KERN_QUANT_ROWS, left = m->rows - r0;

			part[n] = rows_of(m, r0, r0 + (left < KERN_QUANT_ROWS ? left : KERN_QUANT_ROWS));
			quant->pack(&part[n], panel + n * panel_bytes);
		}
		for (uint32_t c = 0; c < m->cols; c += KERN_QUANT_COLS) {
			for (uint32_t i = 0; i < n; i++) {
				struct kern_mul tile = part[i];

				tile.y += c * tile.ldy;
				tile.cols = m->cols - c < KERN_QUANT_COLS ? m->cols - c : KERN_QUANT_COLS;
				quant->mul_panel(&tile, panel + i * panel_bytes,
						 job->a->q8.x + (size_t)c * groups);
			}
		}
	}
}

static void multiply_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
	const struct mul_set *set = ctx;
	const struct mul_job *job = &set->jobs[set->n - 1];
	uint32_t r0, left;
	struct kern_mul m;

	while (chunk < job->first_chunk)
		job--;
	r0 = (chunk - job->first_chunk) * job->rows_a_chunk;
	left = job->mul.rows - r0;
	m = rows_of(&job->mul, r0, r0 + (left < job->rows_a_chunk ? left : job->rows_a_chunk));
	if (job->quant != NULL)
		multiply_quant(job, &m, &job->a->threads[thread]);
	else if (job->k_mul != NULL)
		cpu_k_multiply(job->a, job->k_mul, &m, thread);
	else if (m.cols <= KERN_FEW_COLS && is_float(job->mat->dtype))
		multiply_few(job->a->kern, job->mat->dtype, &m);
	else
		multiply_panels(job, &m, &job->a->threads[thread]);
	cpu_finish(job->a, job->mat, r0, m.rows, m.y, m.ldy, m.cols);
}

static void quantize_rows(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct kern_mul *m = &((const struct mul_job *)arg)->mul;

	for (uint32_t c = row; c < end; c++)
		a->kern->quants->quantize(m->x + c * m->ldx, m->k,
					  a->q8.x + (size_t)c * kern_quant_groups(m->k));
}

/* Rows are those of KERN_QUANT_COLS columns. */
static void quantize_columns(struct accel *a, const void *arg, uint32_t row, uint32_t end)
{
	const struct kern_mul *m = &((const struct mul_job *)arg)->mul;

	for (uint32_t i = row; i < end; i++) {
		uint32_t c = i * KERN_QUANT_COLS;

		a->kern->quants->quantize_cols(m->x + c * m->ldx, m->ldx,
					       m->cols - c < KERN_QUANT_COLS ? m->cols - c : KERN_QUANT_COLS,
					       m->k, a->q8.x + (size_t)c * kern_quant_groups(m->k));
	}
}

static void quantize_input(struct accel *a, const struct mul_job *job)
{
	const struct kern_mul *m = &job->mul;

	if (a->q8.src == m->x && a->q8.cols == m->cols && a->q8.k == m->k)
		return;
	if (job->columns)
		cpu_run_rows(a, quantize_columns, job, (m->cols + KERN_QUANT_COLS - 1) / KERN_QUANT_COLS,
			     m->k * KERN_QUANT_COLS);
	else
		cpu_run_rows(a, quantize_rows, job, m->cols, m->k);
	a->q8.src = m->x;
	a->q8.cols = m->cols;
	a->q8.k = m->k;
}

void cpu_q8_forget(struct accel *a, const float *x)
{
	if (a->q8.src == x)
		a->q8.src = NULL;
	if (a->k.src == x)
		a->k.src = NULL;
}

/* Multiples of the panel, so many that a late thread costs little, not so many that they are tiny. `rows`:
 * of all matrices of the set. */
static uint32_t rows_a_chunk(const struct accel *a, const struct kern_mul *m, uint32_t rows)
{
	uint32_t threads = pool_n_threads(a->pool);
	uint64_t chunks = (uint64_t)rows * m->row_bytes * m->cols / MIN_CHUNK_BYTES;

	if (threads == 1 || chunks <= 1)
		return rows;
	if (chunks > (uint64_t)threads * CHUNKS_A_THREAD)
		chunks = threads * CHUNKS_A_THREAD;
	rows = (rows + (uint32_t)chunks - 1) / (uint32_t)chunks;
	if (m->cols > KERN_FEW_COLS || rows >= 4 * KERN_PANEL)
		return (rows + KERN_PANEL - 1) / KERN_PANEL * KERN_PANEL;
	return (rows + 3) / 4 * 4;
}

static struct mul_job make_job(struct accel *a, const struct cpu_product *p, const float *x, size_t ldx,
			       uint32_t n)
{
	struct mul_job job = {
	    .a = a,
	    .mat = &p->mat,
	    .mul = {.w = p->mat.w,
		    .row_bytes = accel_row_bytes(p->mat.dtype, p->mat.k),
		    .rows = p->mat.rows,
		    .k = p->mat.k,
		    .x = x,
		    .ldx = ldx,
		    .cols = n,
		    .y = p->y,
		    .ldy = p->ldy},
	    .quant = kern_quant_find(a->kern->quants, p->mat.dtype),
	    .k_mul = kern_k_find(a->kern->k, p->mat.dtype),
	};

	DCHECK(job.mul.row_bytes != 0);
	job.columns = job.quant != NULL && n > KERN_FEW_COLS && job.quant->pack != NULL;
	return job;
}

void cpu_multiply_all(struct accel *a, const struct cpu_product *products, uint32_t n_products,
		      const float *x, size_t ldx, uint32_t n)
{
	struct mul_set set = {.n = n_products};
	uint32_t rows = 0, chunks = 0;

	if (n == 0)
		return;
	DCHECK(n_products > 0 && n_products <= CPU_PRODUCTS);
	for (uint32_t i = 0; i < n_products; i++) {
		set.jobs[i] = make_job(a, &products[i], x, ldx, n);
		rows += products[i].mat.rows;
	}
	if (set.jobs[0].quant != NULL)
		quantize_input(a, &set.jobs[0]);
	else if (set.jobs[0].k_mul != NULL)
		cpu_k_round(a, &set.jobs[0].mul);
	rows = rows_a_chunk(a, &set.jobs[0].mul, rows);
	for (uint32_t i = 0; i < n_products; i++) {
		set.jobs[i].rows_a_chunk = rows;
		set.jobs[i].first_chunk = chunks;
		chunks += (products[i].mat.rows + rows - 1) / rows;
	}
	pool_run(a->pool, multiply_chunk, &set, chunks);
}

void cpu_multiply(struct accel *a, const struct cpu_mat *mat, const float *x, size_t ldx, uint32_t n,
		  float *y, size_t ldy)
{
	struct cpu_product product = {.mat = *mat, .y = y, .ldy = ldy};

	cpu_multiply_all(a, &product, 1, x, ldx, n);
}
