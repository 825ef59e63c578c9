/* SPDX-License-Identifier: BSD-3-Clause */
#include "topology/hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define LOCK_WAIT_MS 60000u

const char *hugepages_pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";

static int read_count(const char *file, uint32_t *out)
{
	char path[PATH_MAX], text[32] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", hugepages_pool, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return -EIO;
	*out = (uint32_t)strtoul(text, NULL, 10);
	return 0;
}

int hugepages_read(struct hugepages *out, struct ps_err *err)
{
	uint32_t reserved = 0;
	int rc = read_count("nr_hugepages", &out->total);

	if (rc == 0)
		rc = read_count("free_hugepages", &out->free);
	if (rc == 0)
		rc = read_count("resv_hugepages", &reserved);
	if (rc != 0)
		return ps_err_set(err, rc, "%s: %s; expected a kernel with 2 MB hugepages", hugepages_pool,
				  strerror(-rc));
	out->free -= reserved < out->free ? reserved : out->free;
	return 0;
}

static int write_total(uint32_t pages)
{
	char path[PATH_MAX];
	int fd, rc = 0;

	snprintf(path, sizeof(path), "%s/nr_hugepages", hugepages_pool);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (dprintf(fd, "%u", pages) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

static bool interrupted(void)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
	       sigismember(&pending, SIGHUP);
}

/* The pool's own file is the lock: it is there for every user and leaves nothing behind. */
static int lock_pool(int *lock_out, struct ps_err *err)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/nr_hugepages", hugepages_pool);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ps_err_set(err, -errno, "%s: %s; expected a kernel with 2 MB hugepages",
				  hugepages_pool, strerror(errno));
	for (uint32_t ms = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; ms += 20) {
		if (interrupted() || ms >= LOCK_WAIT_MS) {
			close(fd);
			return ps_err_set(err, ms >= LOCK_WAIT_MS ? -EBUSY : -EINTR,
					  "found another deployment reserving hugepages; expected it to end "
					  "within %u s",
					  LOCK_WAIT_MS / 1000);
		}
		nanosleep(&pause, NULL);
	}
	*lock_out = fd;
	return 0;
}

void hugepages_unlock(int lock)
{
	if (lock >= 0)
		close(lock);
}

static int add_pages(const struct hugepages *have, uint32_t need, uint32_t *added_out, struct ps_err *err)
{
	uint32_t want = have->total + (need - have->free);
	struct hugepages now = *have;
	int rc = write_total(want);

	if (rc != 0)
		return ps_err_set(
		    err, rc == -EPERM || rc == -EACCES ? -EACCES : rc,
		    "found %u free hugepages of 2 MB; expected %u, and adding them failed (%s): "
		    "as root, echo %u > %s/nr_hugepages",
		    have->free, need, strerror(-rc), want, hugepages_pool);
	rc = hugepages_read(&now, err);
	if (rc == 0 && now.free >= need) {
		*added_out = now.total - have->total;
		return 0;
	}
	(void)write_total(have->total);
	return rc != 0
		   ? rc
		   : ps_err_set(err, -ENOMEM,
				"found %u free hugepages of 2 MB after asking for %u more; expected %u: free "
				"memory, or reserve them at boot (hugepages=%u on the kernel's command line)",
				now.free, need - have->free, need, want);
}

int hugepages_reserve(uint32_t need, int *lock_out, uint32_t *added_out, struct ps_err *err)
{
	struct hugepages have;
	int rc;

	*lock_out = -1;
	*added_out = 0;
	if (need == 0)
		return 0;
	rc = lock_pool(lock_out, err);
	if (rc == 0)
		rc = hugepages_read(&have, err);
	if (rc == 0 && have.free < need)
		rc = add_pages(&have, need, added_out, err);
	if (rc != 0) {
		hugepages_unlock(*lock_out);
		*lock_out = -1;
	}
	return rc;
}

int hugepages_give_back(uint32_t pages, struct ps_err *err)
{
	struct hugepages have;
	int lock = -1, rc;

	if (pages == 0)
		return 0;
	/* Neither a second Ctrl-C nor somebody who never unlocks may keep the pages. */
	(void)!lock_pool(&lock, NULL);
	rc = hugepages_read(&have, err);
	if (rc == 0) {
		rc = write_total(have.total > pages ? have.total - pages : 0);
		if (rc != 0)
			rc = ps_err_set(err, rc, "giving back %u hugepages: %s", pages, strerror(-rc));
	}
	hugepages_unlock(lock);
	return rc;
}
