/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The baseline for memif: DPDK's driver bare, with 9 KB buffers, a zero-copy client
 * and EAL's stock pool; frames are the message and nothing else.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "base/clock.h"
#include "perf/pingpong.h"

#define BSIZE    9216u
#define N_DESC   1024u
#define N_MBUFS  4096u
#define STALL_NS 2000000000ull

struct raw {
	uint16_t eth;
	struct rte_mempool *pool;
};

static bool send_msg(void *ctx, uint8_t *msg, uint32_t len)
{
	struct raw *r = ctx;
	uint64_t end = ps_now_ns() + STALL_NS;
	uint32_t at = 0;

	do {
		struct rte_mbuf *m = rte_pktmbuf_alloc(r->pool);
		uint32_t n = len - at < BSIZE ? len - at : BSIZE;

		if (m == NULL)
			return false;
		memcpy(rte_pktmbuf_mtod(m, uint8_t *), msg + at, n);
		m->data_len = (uint16_t)n;
		m->pkt_len = n;
		while (rte_eth_tx_burst(r->eth, 0, &m, 1) != 1)
			if (ps_now_ns() > end)
				return false;
		at += n;
	} while (at < len);
	return true;
}

static bool recv_msg(void *ctx, uint8_t *msg, uint32_t len)
{
	struct raw *r = ctx;
	uint64_t end = ps_now_ns() + STALL_NS;
	uint32_t got = 0, spins = 0;
	struct rte_mbuf *m;

	do {
		if (rte_eth_rx_burst(r->eth, 0, &m, 1) == 0) {
			if ((++spins & 0xffffu) == 0 && ps_now_ns() > end)
				return false;
			continue;
		}
		if (m->data_len > len - got)
			return false;
		memcpy(msg + got, rte_pktmbuf_mtod(m, uint8_t *), m->data_len);
		got += m->data_len;
		rte_pktmbuf_free(m);
	} while (got < len);
	return true;
}

static bool start(struct pp_side *s, struct raw *r)
{
	char vdev[200], prefix[64], core[16], mem[16], path[96];
	char *argv[] = {"raw",
			"--no-pci",
			"-m",
			mem,
			"--in-memory",
			"--single-file-segments",
			"--iova-mode=va",
			"--log-level=warning",
			"-l",
			core,
			prefix,
			vdev};
	struct rte_eth_conf conf = {0};
	struct rte_eth_link link = {0};

	snprintf(path, sizeof(path), "%s/pp.sock", s->dir);
	snprintf(prefix, sizeof(prefix), "--file-prefix=penstock-raw-%ld", (long)getpid());
	snprintf(core, sizeof(core), "%d", s->o->core[s->side]);
	snprintf(mem, sizeof(mem), "%u", s->o->hugepages_mb);
	snprintf(vdev, sizeof(vdev), "--vdev=net_memif0,role=%s,socket=%s,socket-abstract=no,bsize=%u%s",
		 s->side == 1 ? "server" : "client", path, BSIZE, s->side == 0 ? ",zero-copy=yes" : "");
	while (s->side == 0 && access(path, F_OK) != 0)
		usleep(1000);
	if (rte_eal_init((int)(sizeof(argv) / sizeof(argv[0])), argv) < 0 ||
	    rte_eth_dev_get_port_by_name("net_memif0", &r->eth) != 0)
		return false;
	r->pool = rte_pktmbuf_pool_create("raw", N_MBUFS, 64, 0, BSIZE + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
	if (r->pool == NULL || rte_eth_dev_configure(r->eth, 1, 1, &conf) != 0 ||
	    rte_eth_rx_queue_setup(r->eth, 0, N_DESC, 0, NULL, r->pool) != 0 ||
	    rte_eth_tx_queue_setup(r->eth, 0, N_DESC, 0, NULL) != 0)
		return false;
	while (rte_eth_dev_start(r->eth) != 0)
		usleep(1000);
	while (rte_eth_link_get_nowait(r->eth, &link) == 0 && link.link_status == RTE_ETH_LINK_DOWN)
		usleep(1000);
	if (s->side == 0)
		usleep(50000);
	return true;
}

static bool run_side(struct pp_side *s)
{
	struct raw r;
	char dir[128];
	bool ok;

	if (!start(s, &r)) {
		fprintf(stderr, "side %d: DPDK: %s\n", s->side, rte_strerror(rte_errno));
		return false;
	}
	s->mode = "zero-copy client, copying server, no protocol";
	ok = pp_exchange(s, &r, send_msg, recv_msg);
	if (s->side == 1)
		usleep(50000);
	snprintf(dir, sizeof(dir), "%s/dpdk_telemetry.v2", rte_eal_get_runtime_dir());
	unlink(dir);
	rmdir(rte_eal_get_runtime_dir());
	return ok;
}

int main(int argc, char **argv)
{
	struct pp_options o = {
	    .driver = "raw-memif", .size = 64, .count = 20000, .mtu = BSIZE, .hugepages_mb = 64};

	return pp_main(argc, argv, &o, run_side);
}
