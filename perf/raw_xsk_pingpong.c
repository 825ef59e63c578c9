/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The baseline for af_xdp: a bare AF_XDP socket (libxdp) on veth in copy mode with a
 * five-instruction XDP program, no IP, no pools, one frame after another in a fixed
 * set of chunks. A message over the MTU goes as several frames, as it does through
 * DPDK's driver.
 */
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <xdp/xsk.h>

#include "base/clock.h"
#include "perf/pingpong.h"

#define CHUNK     4096u
#define N_RX      1024u
#define N_TX      512u
#define ETH_BYTES 14u
#define ETH_TYPE  0x88b5u /* local experimental: no kernel takes it */
#define STALL_NS  2000000000ull

struct raw {
	struct xsk_umem *umem;
	struct xsk_socket *xsk;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons comp, rx;
	uint8_t *mem;
	uint32_t n_tx; /* frames sent so far: picks the chunk */
	uint32_t in_flight;
	uint32_t frame_max; /* payload of a frame */
};

/* r0 = redirect_map(xsks_map, queue 0, XDP_PASS) */
static int attach_program(const char *iface, int *map_fd_out)
{
	int map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "xsks_map", 4, 4, 1, NULL);
	const struct bpf_insn code[] = {
	    {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
	    {0},
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 0},
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
	    {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
	    {.code = BPF_JMP | BPF_EXIT},
	};
	int prog;

	if (map < 0)
		return map;
	prog = bpf_prog_load(BPF_PROG_TYPE_XDP, "raw_xsk", "GPL", code, sizeof(code) / sizeof(code[0]), NULL);
	if (prog < 0)
		return prog;
	*map_fd_out = map;
	return bpf_xdp_attach((int)if_nametoindex(iface), prog, XDP_FLAGS_DRV_MODE, NULL);
}

static void reclaim_tx(struct raw *r)
{
	uint32_t at, n = xsk_ring_cons__peek(&r->comp, N_TX, &at);

	if (n == 0)
		return;
	xsk_ring_cons__release(&r->comp, n);
	r->in_flight -= n;
}

static bool send_msg(void *ctx, uint8_t *msg, uint32_t len)
{
	struct raw *r = ctx;
	uint32_t at = 0, slot, n_frames = 0;

	reclaim_tx(r);
	do {
		uint32_t n = len - at < r->frame_max ? len - at : r->frame_max;
		uint64_t addr = (uint64_t)(N_RX + r->n_tx++ % N_TX) * CHUNK;
		uint8_t *f = r->mem + addr;

		if (r->in_flight >= N_TX || xsk_ring_prod__reserve(&r->tx, 1, &slot) != 1)
			return false; /* a ping-pong never has that many in flight */
		memset(f, 0xff, 6);
		memset(f + 6, 2, 6);
		f[12] = ETH_TYPE >> 8;
		f[13] = ETH_TYPE & 0xff;
		memcpy(f + ETH_BYTES, msg + at, n);
		xsk_ring_prod__tx_desc(&r->tx, slot)->addr = addr;
		xsk_ring_prod__tx_desc(&r->tx, slot)->len = ETH_BYTES + n;
		r->in_flight++;
		n_frames++;
		at += n;
	} while (at < len);
	xsk_ring_prod__submit(&r->tx, n_frames);
	while (sendto(xsk_socket__fd(r->xsk), NULL, 0, MSG_DONTWAIT, NULL, 0) < 0)
		if (errno != EAGAIN && errno != EBUSY && errno != EINTR)
			return false;
	return true;
}

static bool recv_msg(void *ctx, uint8_t *msg, uint32_t len)
{
	struct raw *r = ctx;
	uint64_t end = ps_now_ns() + STALL_NS;
	uint32_t got = 0, spins = 0, at, slot;

	do {
		const struct xdp_desc *d;
		uint64_t addr;

		if (xsk_ring_cons__peek(&r->rx, 1, &at) == 0) {
			if ((++spins & 0xffffu) == 0 && ps_now_ns() > end) {
				fprintf(stderr, "nothing came for 2 s\n");
				return false;
			}
			continue;
		}
		d = xsk_ring_cons__rx_desc(&r->rx, at);
		addr = d->addr;
		/* The kernels' own chatter (IPv6) comes here too: the program takes everything. */
		if (d->len >= ETH_BYTES && r->mem[addr + 12] == ETH_TYPE >> 8 &&
		    r->mem[addr + 13] == (ETH_TYPE & 0xff)) {
			if (d->len - ETH_BYTES > len - got)
				return false;
			memcpy(msg + got, r->mem + addr + ETH_BYTES, d->len - ETH_BYTES);
			got += d->len - ETH_BYTES;
		}
		xsk_ring_cons__release(&r->rx, 1);
		if (xsk_ring_prod__reserve(&r->fill, 1, &slot) != 1)
			return false;
		*xsk_ring_prod__fill_addr(&r->fill, slot) = addr & ~(uint64_t)(CHUNK - 1);
		xsk_ring_prod__submit(&r->fill, 1);
	} while (got < len);
	return true;
}

static bool start(struct pp_side *s, struct raw *r)
{
	struct xsk_umem_config uc = {.fill_size = 2048, .comp_size = 1024, .frame_size = CHUNK};
	struct xsk_socket_config sc = {.rx_size = 1024,
				       .tx_size = 1024,
				       .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
				       .bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP};
	size_t bytes = (size_t)(N_RX + N_TX) * CHUNK;
	int map_fd = -1, zero = 0, fd;
	char iface[16];
	uint32_t at;

	snprintf(iface, sizeof(iface), "ppveth%d", s->side);
	r->frame_max = s->o->mtu;
	r->mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (r->mem == MAP_FAILED || attach_program(iface, &map_fd) != 0 ||
	    xsk_umem__create(&r->umem, r->mem, bytes, &r->fill, &r->comp, &uc) != 0 ||
	    xsk_socket__create(&r->xsk, iface, 0, r->umem, &r->rx, &r->tx, &sc) != 0)
		return false;
	fd = xsk_socket__fd(r->xsk);
	if (bpf_map_update_elem(map_fd, &zero, &fd, 0) != 0 ||
	    xsk_ring_prod__reserve(&r->fill, N_RX, &at) != N_RX)
		return false;
	for (uint32_t i = 0; i < N_RX; i++)
		*xsk_ring_prod__fill_addr(&r->fill, at + i) = (uint64_t)i * CHUNK;
	xsk_ring_prod__submit(&r->fill, N_RX);
	if (s->side == 0)
		usleep(500000); /* the other side has to be there, or the first message is lost */
	return true;
}

static bool run_side(struct pp_side *s)
{
	struct raw r = {0};
	bool ok;

	if (!start(s, &r)) {
		fprintf(stderr, "side %d: AF_XDP: %s\n", s->side, strerror(errno));
		return false;
	}
	s->mode = "native,copy, no protocol";
	ok = pp_exchange(s, &r, send_msg, recv_msg);
	if (s->side == 1)
		usleep(50000);
	return ok;
}

int main(int argc, char **argv)
{
	struct pp_options o = {
	    .driver = "raw-af_xdp", .size = 64, .count = 20000, .mtu = 3506, .netns = true};

	return pp_main(argc, argv, &o, run_side);
}
