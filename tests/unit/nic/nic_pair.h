/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_TESTS_NIC_PAIR_H
#define PENSTOCK_TESTS_NIC_PAIR_H
/*
 * For tests of nic/ that need two processes: each child starts its own EAL and
 * talks to the parent by its exit status and a pipe. Not a test itself.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "nic/nic.h"

#define PAIR_IP(side)  (0x0a630001u + (uint32_t)(side))
#define PAIR_PORT      7411u
#define PAIR_TIMEOUT_S 20u
#define TEST_SKIPPED   77

/* Ends a child with a text and a status that the parent checks. */
#define CHILD_CHECK(cond, ...)                                                                               \
	do {                                                                                                 \
		if (!(cond)) {                                                                               \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                           \
			fprintf(stderr, __VA_ARGS__);                                                        \
			fprintf(stderr, "\n");                                                               \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)

/* A pattern in which every position of every message differs. */
static inline void pair_fill(uint8_t *buf, uint32_t len, uint32_t seed)
{
	for (uint32_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(seed * 131u + i * 7u + (i >> 8));
}

static inline bool pair_matches(const uint8_t *buf, uint32_t len, uint32_t seed)
{
	for (uint32_t i = 0; i < len; i++)
		if (buf[i] != (uint8_t)(seed * 131u + i * 7u + (i >> 8)))
			return false;
	return true;
}

static inline bool pair_wait_link(struct dp_port *p, bool up, uint32_t ms)
{
	uint64_t end = ps_now_ns() + ms * 1000000ull;
	struct dp_rx_pkt pkt;

	while (p->ops->link_up(p) != up) {
		if (ps_now_ns() > end)
			return false;
		/* What waits is taken only when the end is waited for: with the link comes the peer's
		 * first packet, which belongs to the caller. A poll for nothing still does the upkeep. */
		for (uint32_t n = dp_port_rx(p, &pkt, up ? 0 : 1); n > 0; n--)
			dp_port_buf_free(p, pkt.buf);
		usleep(200);
	}
	return true;
}

/* Sends one packet of `len` payload bytes with the pattern `seed`; retries while the ring is full. */
static inline bool pair_send(struct dp_port *p, uint8_t *scratch, uint32_t len, uint32_t seed, uint32_t ms)
{
	struct dp_tx_pkt t = {.payload = scratch, .payload_len = len, .peer = 0};
	uint64_t end = ps_now_ns() + ms * 1000000ull;

	memset(t.hdr, (int)(seed & 0xff), sizeof(t.hdr));
	memcpy(t.hdr, &seed, sizeof(seed));
	pair_fill(scratch, len, seed);
	while (dp_port_tx(p, &t, 1) != 1)
		if (ps_now_ns() > end)
			return false;
	return true;
}

/* Receives one packet: 1 intact, 0 none in time, -1 wrong content. */
static inline int pair_recv(struct dp_port *p, uint32_t len, uint32_t *seed_out, uint32_t ms)
{
	uint64_t end = ps_now_ns() + ms * 1000000ull;
	struct dp_rx_pkt pkt;
	int rc;

	while (dp_port_rx(p, &pkt, 1) == 0) {
		if (ps_now_ns() > end)
			return 0;
		usleep(0);
	}
	memcpy(seed_out, pkt.data, sizeof(*seed_out));
	rc = pkt.len == DP_HDR_BYTES + len && pkt.peer == 0 &&
		     pair_matches(pkt.data + DP_HDR_BYTES, len, *seed_out)
		 ? 1
		 : -1;
	dp_port_buf_free(p, pkt.buf);
	return rc;
}

/* Side 0 sends `count` messages and wants each back; side 1 echoes. Both end in nic_stop. */
static inline void pair_ping_pong(struct dp_port *p, int side, uint32_t len, uint32_t count)
{
	uint8_t *scratch = malloc(len + 1u);
	uint32_t got;

	CHILD_CHECK(scratch != NULL, "memory");
	for (uint32_t i = 0; i < count; i++) {
		if (side == 0)
			CHILD_CHECK(pair_send(p, scratch, len, i, 2000), "message %u not taken", i);
		int rc = pair_recv(p, len, &got, 5000);
		CHILD_CHECK(rc == 1, "side %d message %u of %u bytes: %s", side, i, len,
			    rc == 0 ? "nothing came" : "wrong bytes");
		CHILD_CHECK(got == i, "message %u came instead of %u", got, i);
		if (side == 1)
			CHILD_CHECK(pair_send(p, scratch, len, i, 2000), "echo %u not taken", i);
	}
	free(scratch);
}

/* A child without cmocka's signal handlers, which would run the parent's next tests in it, and
 * that does not outlive the parent. */
static inline pid_t pair_fork(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid != 0) {
		if (pid < 0)
			abort();
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_DFL);
	return 0;
}

/* Waits for a child with a bound; its exit status, or -1 (killed by a signal or by us). */
static inline int pair_join(pid_t pid)
{
	uint64_t end = ps_now_ns() + PAIR_TIMEOUT_S * 1000000000ull;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (ps_now_ns() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			fprintf(stderr, "child %d hung\n", (int)pid);
			return -1;
		}
		usleep(1000);
	}
	if (WIFSIGNALED(status))
		fprintf(stderr, "child %d died of signal %d\n", (int)pid, WTERMSIG(status));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
