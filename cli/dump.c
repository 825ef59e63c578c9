/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/dump.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int dump_open(struct dump *d, const char *folder, struct ps_err *err)
{
	*d = (struct dump){.folder = folder};
	if (mkdir(folder, 0777) != 0 && errno != EEXIST)
		return ps_err_set(err, -errno, "%s: cannot make this folder: %s", folder, strerror(errno));
	return 0;
}

static void file_name(const struct dump *d, const struct model_op *op, char *path, size_t cap)
{
	char tensor[sizeof(op->w->name)] = "";

	if (op->w != NULL)
		snprintf(tensor, sizeof(tensor), "%s", op->w->name);
	/* Names come from the model file. */
	for (char *c = tensor; *c != '\0'; c++)
		*c = *c == '/' ? '_' : *c;
	snprintf(path, cap, "%s/%05u-%s-%u%s%s.f32", d->folder, d->n, model_op_name(op->kind), op->layer,
		 tensor[0] != '\0' ? "-" : "", tensor);
}

void dump_op(void *ctx, const struct model_op *op, const float *rows, size_t ld, uint32_t n_rows)
{
	struct dump *d = ctx;
	char path[4096];
	bool ok = true;
	FILE *f;

	if (d->error != 0)
		return;
	file_name(d, op, path, sizeof(path));
	d->n++;
	f = fopen(path, "wb");
	if (f == NULL) {
		d->error = -errno;
		return;
	}
	for (uint32_t r = 0; r < n_rows && ok; r++)
		ok = fwrite(rows + r * ld, sizeof(float), op->width, f) == op->width;
	if (fclose(f) != 0 || !ok)
		d->error = -EIO;
}

int dump_close(const struct dump *d, struct ps_err *err)
{
	if (d->error != 0)
		return ps_err_set(err, d->error, "%s: the results of operations could not be written: %s",
				  d->folder, strerror(-d->error));
	return 0;
}
