/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/bell.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BELL_MAGIC 0x4c4c4542u /* "BELL" */
#define BELL_PAGE  4096u

/* How the sleeper can be woken; the value of bell_page.state. */
enum bell_state { BELL_AWAKE, BELL_ON_FUTEX, BELL_ON_FIFO };

struct bell_page {
	uint32_t magic;
	_Alignas(64) _Atomic uint32_t state;
	_Atomic uint64_t sleeps; /* written by the sleeper only */
};

struct dp_bell {
	struct bell_page *page;
	int fifo; /* read and write end for the owner, write end for the others */
	bool shared;
	bool owner;
	bool armed_fifo;
	char path[PATH_MAX];
};

static long futex(_Atomic uint32_t *word, int op, uint32_t val, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, val, timeout, NULL, 0);
}

static void fifo_path(const char *path, char *out, size_t cap)
{
	snprintf(out, cap, "%s.fifo", path);
}

struct dp_bell *dp_bell_create(void)
{
	struct dp_bell *b = calloc(1, sizeof(*b));
	int fds[2];

	if (b == NULL)
		return NULL;
	b->page = mmap(NULL, BELL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->page == MAP_FAILED)
		goto out_free;
	/* One read-write descriptor serves both ends, as with the named FIFO of a shared bell. */
	if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0)
		goto out_unmap;
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fds[0]);
	b->fifo = open(self, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	close(fds[0]);
	close(fds[1]);
	if (b->fifo < 0)
		goto out_unmap;
	b->owner = true;
	b->page->magic = BELL_MAGIC;
	return b;

out_unmap:
	munmap(b->page, BELL_PAGE);
out_free:
	free(b);
	return NULL;
}

/* The page is written under a temporary name and renamed, so that a peer never maps half of it. */
static int map_new_page(struct dp_bell *b, struct ps_err *err)
{
	char tmp[PATH_MAX + 16];
	int fd, rc;

	snprintf(tmp, sizeof(tmp), "%s.tmp", b->path);
	fd = open(tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return ps_err_set(err, -errno, "%s: cannot create a doorbell: %s", tmp, strerror(errno));
	if (ftruncate(fd, BELL_PAGE) != 0) {
		rc = ps_err_set(err, -errno, "%s: cannot size a doorbell: %s", tmp, strerror(errno));
		goto out_close;
	}
	b->page = mmap(NULL, BELL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (b->page == MAP_FAILED) {
		rc = ps_err_set(err, -errno, "%s: cannot map a doorbell: %s", tmp, strerror(errno));
		goto out_close;
	}
	b->page->magic = BELL_MAGIC;
	rc = rename(tmp, b->path) == 0 ? 0 : -errno;
	if (rc != 0) {
		ps_err_set(err, rc, "%s: cannot rename a doorbell: %s", tmp, strerror(-rc));
		munmap(b->page, BELL_PAGE);
	}
out_close:
	close(fd);
	if (rc != 0)
		unlink(tmp);
	return rc;
}

int dp_bell_create_shared(const char *path, struct dp_bell **bell_out, struct ps_err *err)
{
	struct dp_bell *b = calloc(1, sizeof(*b));
	char fifo[PATH_MAX + 16];
	int rc;

	if (b == NULL)
		return ps_err_set(err, -ENOMEM, "out of memory for a doorbell");
	if (strlen(path) + 8 >= sizeof(b->path)) {
		free(b);
		return ps_err_set(err, -ENAMETOOLONG, "doorbell path too long: %s", path);
	}
	snprintf(b->path, sizeof(b->path), "%s", path);
	fifo_path(path, fifo, sizeof(fifo));
	unlink(fifo);
	/* The FIFO before the page: whoever sees the page finds the FIFO. */
	if (mkfifo(fifo, 0600) != 0) {
		rc = ps_err_set(err, -errno, "%s: cannot create a FIFO: %s", fifo, strerror(errno));
		goto out_free;
	}
	b->fifo = open(fifo, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (b->fifo < 0) {
		rc = ps_err_set(err, -errno, "%s: cannot open: %s", fifo, strerror(errno));
		goto out_unlink;
	}
	rc = map_new_page(b, err);
	if (rc != 0)
		goto out_close;
	b->shared = true;
	b->owner = true;
	*bell_out = b;
	return 0;

out_close:
	close(b->fifo);
out_unlink:
	unlink(fifo);
out_free:
	free(b);
	return rc;
}

int dp_bell_open(const char *path, struct dp_bell **bell_out, struct ps_err *err)
{
	struct dp_bell *b;
	char fifo[PATH_MAX + 16];
	struct stat st;
	int fd, rc;

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return ps_err_set(err, -errno, "%s: cannot open the doorbell: %s", path, strerror(errno));
	b = calloc(1, sizeof(*b));
	if (b == NULL) {
		close(fd);
		return ps_err_set(err, -ENOMEM, "out of memory for a doorbell");
	}
	if (fstat(fd, &st) != 0 || st.st_size < BELL_PAGE) {
		rc = ps_err_set(err, -EBADMSG, "%s: not a doorbell: too short", path);
		goto out_free;
	}
	b->page = mmap(NULL, BELL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (b->page == MAP_FAILED) {
		rc = ps_err_set(err, -errno, "%s: cannot map: %s", path, strerror(errno));
		goto out_free;
	}
	fifo_path(path, fifo, sizeof(fifo));
	b->fifo = open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (b->page->magic != BELL_MAGIC || b->fifo < 0) {
		rc = ps_err_set(err, -ENOENT, "%s: the doorbell's owner is not there", path);
		if (b->fifo >= 0)
			close(b->fifo);
		munmap(b->page, BELL_PAGE);
		goto out_free;
	}
	close(fd);
	b->shared = true;
	*bell_out = b;
	return 0;

out_free:
	close(fd);
	free(b);
	return rc;
}

void dp_bell_destroy(struct dp_bell *b)
{
	char fifo[PATH_MAX + 16];

	if (b == NULL)
		return;
	if (b->shared && b->owner) {
		fifo_path(b->path, fifo, sizeof(fifo));
		unlink(b->path);
		unlink(fifo);
	}
	munmap(b->page, BELL_PAGE);
	close(b->fifo);
	free(b);
}

void dp_bell_ring(struct dp_bell *b)
{
	uint32_t was;

	/* Orders the caller's earlier stores (the packet, the ring's tail) before the load of the
	 * state; pairs with the fence in dp_bell_arm, which orders the state before the second poll. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&b->page->state, memory_order_relaxed) == BELL_AWAKE)
		return;
	was = atomic_exchange_explicit(&b->page->state, BELL_AWAKE, memory_order_acq_rel);
	if (was == BELL_ON_FUTEX) {
		futex(&b->page->state, b->shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, 1, NULL);
	} else if (was == BELL_ON_FIFO) {
		/* A full FIFO has wakes enough in it; EAGAIN is no loss. */
		ssize_t n = write(b->fifo, "!", 1);

		(void)n;
	}
}

void dp_bell_arm(struct dp_bell *b, bool with_fds)
{
	b->armed_fifo = with_fds;
	atomic_store_explicit(&b->page->state, with_fds ? BELL_ON_FIFO : BELL_ON_FUTEX, memory_order_relaxed);
	/* Pairs with the fence in dp_bell_ring. */
	atomic_thread_fence(memory_order_seq_cst);
}

void dp_bell_disarm(struct dp_bell *b)
{
	atomic_store_explicit(&b->page->state, BELL_AWAKE, memory_order_relaxed);
}

static void drain_fifo(struct dp_bell *b)
{
	char sink[64];

	while (read(b->fifo, sink, sizeof(sink)) == (ssize_t)sizeof(sink))
		;
}

void dp_bell_wait(struct dp_bell *b, struct pollfd *fds, uint32_t n_fds, uint64_t timeout_ns)
{
	struct timespec ts = {
	    .tv_sec = (time_t)(timeout_ns / 1000000000ull),
	    .tv_nsec = (long)(timeout_ns % 1000000000ull),
	};
	struct pollfd all[DP_BELL_MAX_FDS + 1];

	atomic_store_explicit(&b->page->sleeps,
			      atomic_load_explicit(&b->page->sleeps, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	if (!b->armed_fifo) {
		CHECK(n_fds == 0);
		/* Returns at once if a ring has already reset the state. */
		futex(&b->page->state, b->shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, BELL_ON_FUTEX, &ts);
	} else {
		CHECK(n_fds <= DP_BELL_MAX_FDS);
		if (n_fds > 0)
			memcpy(all, fds, n_fds * sizeof(*fds));
		all[n_fds] = (struct pollfd){.fd = b->fifo, .events = POLLIN};
		if (atomic_load_explicit(&b->page->state, memory_order_relaxed) == BELL_ON_FIFO &&
		    ppoll(all, n_fds + 1, &ts, NULL) > 0 && all[n_fds].revents != 0)
			drain_fifo(b);
	}
	dp_bell_disarm(b);
}

uint64_t dp_bell_sleeps(const struct dp_bell *b)
{
	return atomic_load_explicit(&b->page->sleeps, memory_order_relaxed);
}
