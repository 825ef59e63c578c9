/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Round trips over nic/'s ports without the link protocol: what the port itself
 * costs over raw_memif_pingpong and raw_xsk_pingpong.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "nic/nic.h"
#include "perf/pingpong.h"

#define MSG_FRAMES_MAX 1024u
#define STALL_NS       2000000000ull
#define LINK_NS        5000000000ull

static uint32_t chunk_bytes(const struct dp_port *p)
{
	return (p->mtu - 28u - DP_HDR_BYTES) / 64u * 64u;
}

static bool send_msg(void *ctx, uint8_t *msg, uint32_t len)
{
	struct dp_port *p = ctx;
	uint32_t chunk = chunk_bytes(p), at = 0;
	uint64_t end = ps_now_ns() + STALL_NS;

	do {
		struct dp_tx_pkt t = {.payload = msg + at,
				      .payload_len = len - at < chunk ? len - at : chunk};

		memcpy(t.hdr, &at, sizeof(at));
		if (dp_port_tx(p, &t, 1) == 1)
			at += t.payload_len;
		else if (ps_now_ns() > end)
			return false;
	} while (at < len);
	return true;
}

static bool recv_msg(void *ctx, uint8_t *msg, uint32_t len)
{
	struct dp_port *p = ctx;
	uint64_t end = ps_now_ns() + STALL_NS;
	struct dp_rx_pkt pkt;
	uint32_t got = 0, at, spins = 0;

	do {
		if (dp_port_rx(p, &pkt, 1) == 0) {
			if ((++spins & 0xffffu) == 0 && ps_now_ns() > end) {
				fprintf(stderr, "nothing came for 2 s\n");
				return false;
			}
			continue;
		}
		memcpy(&at, pkt.data, sizeof(at));
		if (at + (pkt.len - DP_HDR_BYTES) > len)
			return false;
		memcpy(msg + at, pkt.data + DP_HDR_BYTES, pkt.len - DP_HDR_BYTES);
		got += pkt.len - DP_HDR_BYTES;
		dp_port_buf_free(p, pkt.buf);
	} while (got < len);
	return true;
}

static bool run_side(struct pp_side *s)
{
	bool memif = strcmp(s->o->driver, "memif") == 0, ok;
	char path[80], iface[16];
	struct nic_port_cfg port = {
	    .driver = memif ? NIC_DRIVER_MEMIF : NIC_DRIVER_AF_XDP,
	    .iface = iface,
	    .socket_path = path,
	    .memif_server = s->side == 1,
	    .ip = 0x0a620001u + (uint32_t)s->side,
	    .udp_port = 7412,
	    .mtu = s->o->mtu,
	    .n_peers = 1,
	    .peers = {{.ip = 0x0a620002u - (uint32_t)s->side, .udp_port = 7412}},
	};
	struct nic_cfg cfg = {.name = "pp",
			      .hugepages_mb = s->o->hugepages_mb,
			      .capture = s->o->capture,
			      .ports = &port,
			      .n_ports = 1};
	uint64_t end;
	struct dp_port *p;
	struct ps_err err;

	snprintf(path, sizeof(path), "%s/pp.sock", s->dir);
	snprintf(iface, sizeof(iface), "ppveth%d", s->side);
	if (nic_start(&cfg, &p, &err) != 0) {
		fprintf(stderr, "side %d: %s\n", s->side, err.msg);
		return false;
	}
	end = ps_now_ns() + LINK_NS;
	while (!p->ops->link_up(p) && ps_now_ns() < end)
		usleep(1000);
	/* Over AF_XDP the other side has to be there before the first message: it would be lost. */
	if (s->side == 0)
		usleep(memif ? 50000 : 1500000);
	ok = pp_exchange(s, p, send_msg, recv_msg);
	s->mode = strdup(p->ops->describe(p));
	if (s->side == 1)
		usleep(50000);
	nic_stop();
	return ok;
}

int main(int argc, char **argv)
{
	struct pp_options o = {.driver = "memif", .size = 64, .count = 20000, .mtu = 0};

	for (int i = 1; i + 1 < argc; i++)
		if (strcmp(argv[i], "--driver") == 0 && strcmp(argv[i + 1], "af_xdp") == 0)
			o.mtu = 3506;
	if (o.mtu == 0)
		o.mtu = 9000;
	return pp_main(argc, argv, &o, run_side);
}
