/* SPDX-License-Identifier: BSD-3-Clause */
/* rte_intr_fd_get and its like are still "experimental" in 22.11. */
#define ALLOW_EXPERIMENTAL_API
#include "nic/intr_guard.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <rte_interrupts.h>
#include <rte_memory.h>

/* The memif driver has two callbacks: its listener's and its control channels'. */
#define N_SLOTS 4

atomic_bool nic_intr_guard_busy;

/* Written when a callback is first registered, read by the trampolines; a slot never changes
 * once it is set. Release pairs with acquire. */
static _Atomic(rte_intr_callback_fn) slots[N_SLOTS];

void nic_intr_guard_enter(void)
{
	while (!nic_intr_guard_try())
		sched_yield();
}

/* No callback is let in; guarded by nic_intr_guard_busy. */
static bool shut;

/* What the callback that runs on this thread has registered. */
static _Thread_local struct {
	bool inside;
	int fd;         /* -1: nothing */
	struct stat st; /* of fd: its number may soon be another's */
	rte_intr_callback_fn fn;
	void *arg;
} fresh;

static void drop_dead_registration(void);

static void run_guarded(int slot, void *arg)
{
	rte_intr_callback_fn fn = atomic_load_explicit(&slots[slot], memory_order_acquire);

	nic_intr_guard_enter();
	if (!shut) {
		fresh.inside = true;
		fresh.fd = -1;
		fn(arg);
		drop_dead_registration();
		fresh.inside = false;
	}
	nic_intr_guard_leave();
}

void nic_intr_guard_shut(bool now_shut)
{
	nic_intr_guard_enter();
	shut = now_shut;
	nic_intr_guard_leave();
}

/* EAL finds a callback again by function and argument, so the argument has to stay the
 * driver's own and each function needs a trampoline of its own. */
static void trampoline_0(void *arg)
{
	run_guarded(0, arg);
}

static void trampoline_1(void *arg)
{
	run_guarded(1, arg);
}

static void trampoline_2(void *arg)
{
	run_guarded(2, arg);
}

static void trampoline_3(void *arg)
{
	run_guarded(3, arg);
}

static const rte_intr_callback_fn trampolines[N_SLOTS] = {trampoline_0, trampoline_1, trampoline_2,
							  trampoline_3};

static bool of_memif_driver(rte_intr_callback_fn fn)
{
	Dl_info info;

	return dladdr((void *)(uintptr_t)fn, &info) != 0 && info.dli_fname != NULL &&
	       strstr(info.dli_fname, "net_memif") != NULL;
}

/* The trampoline that stands for `fn`, or `fn` itself. */
static rte_intr_callback_fn guarded(rte_intr_callback_fn fn)
{
	for (int i = 0; i < N_SLOTS; i++) {
		rte_intr_callback_fn old = NULL;

		if (atomic_load_explicit(&slots[i], memory_order_acquire) == fn)
			return trampolines[i];
		if (!of_memif_driver(fn))
			return fn;
		if (atomic_compare_exchange_strong_explicit(&slots[i], &old, fn, memory_order_release,
							    memory_order_acquire) ||
		    old == fn)
			return trampolines[i];
	}
	/* A driver with more callbacks than slots: a programming error here, found by any test. */
	CHECK(!"too few trampolines for the memif driver");
	return fn;
}

/* EAL's own function of that name. */
static void *next_symbol(const char *name)
{
	void *fn = dlsym(RTLD_NEXT, name);

	CHECK(fn != NULL);
	return fn;
}

int rte_intr_callback_register(const struct rte_intr_handle *handle, rte_intr_callback_fn fn, void *arg)
{
	int (*next)(const struct rte_intr_handle *, rte_intr_callback_fn, void *) =
	    next_symbol("rte_intr_callback_register");

	if (fresh.inside && of_memif_driver(fn)) {
		fresh.fd = rte_intr_fd_get(handle);
		if (fstat(fresh.fd, &fresh.st) != 0)
			memset(&fresh.st, 0, sizeof(fresh.st));
		fresh.fn = guarded(fn);
		fresh.arg = arg;
	}
	return next(handle, guarded(fn), arg);
}

/*
 * A client that dies right after connect() makes the driver's listener close the new socket
 * without unregistering it; EAL then aborts ("Error adding fd"), and any local process that
 * connects and leaves could end ours. The forgotten registration is taken back here.
 */
static void drop_dead_registration(void)
{
	int (*unregister)(const struct rte_intr_handle *, rte_intr_callback_fn, void *) =
	    next_symbol("rte_intr_callback_unregister");
	struct rte_intr_handle *handle;
	struct stat now;

	if (fresh.fd < 0)
		return;
	/* Another thread may have got the number since: only the same socket is alive. */
	if (fstat(fresh.fd, &now) == 0 && now.st_ino == fresh.st.st_ino && now.st_dev == fresh.st.st_dev)
		return;
	handle = rte_intr_instance_alloc(RTE_INTR_INSTANCE_F_PRIVATE);
	CHECK(handle != NULL && rte_intr_fd_set(handle, fresh.fd) == 0);
	(void)unregister(handle, fresh.fn, fresh.arg);
	rte_intr_instance_free(handle);
}

int rte_intr_callback_unregister(const struct rte_intr_handle *handle, rte_intr_callback_fn fn, void *arg)
{
	int (*next)(const struct rte_intr_handle *, rte_intr_callback_fn, void *) =
	    next_symbol("rte_intr_callback_unregister");

	return next(handle, guarded(fn), arg);
}

int rte_intr_callback_unregister_sync(const struct rte_intr_handle *handle, rte_intr_callback_fn fn,
				      void *arg)
{
	int (*next)(const struct rte_intr_handle *, rte_intr_callback_fn, void *) =
	    next_symbol("rte_intr_callback_unregister_sync");

	return next(handle, guarded(fn), arg);
}

int rte_intr_callback_unregister_pending(const struct rte_intr_handle *handle, rte_intr_callback_fn fn,
					 void *arg, rte_intr_unregister_callback_fn done)
{
	int (*next)(const struct rte_intr_handle *, rte_intr_callback_fn, void *,
		    rte_intr_unregister_callback_fn) = next_symbol("rte_intr_callback_unregister_pending");

	return next(handle, guarded(fn), arg, done);
}

/*
 * The zero-copy client sends its peer the descriptor of EAL's memory and then closes it, EAL's
 * own one: its next connection would send whatever that number has become. It gets a copy.
 */
int rte_memseg_get_fd(const struct rte_memseg *ms)
{
	int (*next)(const struct rte_memseg *) = next_symbol("rte_memseg_get_fd");
	int fd = next(ms);

	return fd >= 0 && fresh.inside ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : fd;
}

int nic_intr_guard_check(struct ps_err *err)
{
	if (dlsym(RTLD_DEFAULT, "rte_intr_callback_register") ==
		(void *)(uintptr_t)rte_intr_callback_register &&
	    dlsym(RTLD_DEFAULT, "rte_memseg_get_fd") == (void *)(uintptr_t)rte_memseg_get_fd)
		return 0;
	return ps_err_set(
	    err, -ENOTSUP,
	    "memif: this program does not export rte_intr_callback_register, so DPDK's memif "
	    "driver could crash when a peer dies; link it with nic's link_args (nic/meson.build)");
}
