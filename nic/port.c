/* SPDX-License-Identifier: BSD-3-Clause */
/* The packet path: bursts between dp_port and DPDK, the same for both drivers. */
#include <string.h>
#include <unistd.h>

#include <rte_cycles.h>

#include "nic/internal.h"
#include "nic/intr_guard.h"

#define NO_PEER          UINT32_MAX
#define BELL_RETRY_PER_S 10u

static inline struct nic_port *port_of(struct dp_port *dp)
{
	return (struct nic_port *)dp;
}

void nic_thread_register(void)
{
	/* With capture a registered thread would shut dpdk-dumpcap out (rte_mp_disable): the
	 * pools are then used without a cache, some 40 ns a packet slower. */
	if (rte_lcore_id() == LCORE_ID_ANY && !nic_eal_capture())
		(void)!rte_thread_register();
}

static uint32_t find_peer(const struct nic_port *p, uint32_t ip, uint16_t udp_port)
{
	uint64_t key = (uint64_t)ip << 16 | udp_port;

	for (uint32_t i = 0; i < p->n_peers; i++)
		if (p->peers[i].key == key)
			return i;
	return NO_PEER;
}

/* Fills `pkt` from a received mbuf; false: counted, and the mbuf is the caller's to free. */
static bool accept_frame(struct nic_port *p, struct rte_mbuf *m, struct dp_rx_pkt *pkt)
{
	const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
	struct nic_frame f;
	uint32_t peer;

	/* A chain means a peer with larger frames than we agreed on. */
	if (m->nb_segs != 1 ||
	    nic_frame_parse(data, rte_pktmbuf_data_len(m), p->ip, p->udp_port, &f) != NIC_FRAME_OK) {
		p->n.rx_malformed++;
		return false;
	}
	peer = find_peer(p, f.src_ip, f.src_port);
	if (peer == NO_PEER) {
		p->n.rx_strangers++;
		return false;
	}
	pkt->data = data + f.payload_offset;
	pkt->len = f.payload_len;
	pkt->peer = (uint16_t)peer;
	pkt->buf = m;
	nic_pool_mark_held(m, true);
	p->n.rx_packets++;
	p->n.rx_bytes += f.payload_len;
	return true;
}

static void housekeep_when_due(struct nic_port *p)
{
	uint64_t now = rte_rdtsc();

	if (now < p->housekeep_tsc)
		return;
	p->housekeep_tsc = now + p->housekeep_every_tsc;
	p->housekeep(p, now);
}

static inline bool driver_enter(struct nic_port *p)
{
	return !p->guarded || nic_intr_guard_try();
}

static inline void driver_leave(struct nic_port *p)
{
	if (p->guarded)
		nic_intr_guard_leave();
}

static uint32_t port_rx_burst(struct dp_port *dp, struct dp_rx_pkt *pkts, uint32_t n)
{
	struct nic_port *p = port_of(dp);
	struct rte_mbuf *m[NIC_BURST];
	uint32_t n_ok = 0;
	uint16_t n_rx;

	if (ps_unlikely(rte_lcore_id() == LCORE_ID_ANY))
		nic_thread_register();
	if (n > NIC_BURST)
		n = NIC_BURST;
	if (!driver_enter(p))
		return 0;
	n_rx = p->started ? rte_eth_rx_burst(p->eth, 0, m, (uint16_t)n) : 0;
	driver_leave(p);
	if (n_rx == 0) {
		housekeep_when_due(p);
		return 0;
	}
	for (uint16_t i = 0; i < n_rx; i++) {
		if (ps_likely(accept_frame(p, m[i], &pkts[n_ok])))
			n_ok++;
		else
			rte_pktmbuf_free(m[i]);
	}
	return n_ok;
}

/* Header and payload into one mbuf: the only payload copy of the transmit path. */
static void gather(struct nic_port *p, struct rte_mbuf *m, const struct dp_tx_pkt *pkt)
{
	uint32_t udp_payload = DP_HDR_BYTES + pkt->payload_len;
	uint8_t *dst = rte_pktmbuf_mtod(m, uint8_t *);

	nic_frame_build(dst, &p->peers[pkt->peer].tmpl, udp_payload);
	memcpy(dst + NIC_FRAME_BYTES, pkt->hdr, DP_HDR_BYTES);
	if (pkt->payload_len != 0)
		memcpy(dst + NIC_FRAME_BYTES + DP_HDR_BYTES, pkt->payload, pkt->payload_len);
	m->data_len = (uint16_t)(NIC_FRAME_BYTES + udp_payload);
	m->pkt_len = m->data_len;
	p->n.copied_bytes += pkt->payload_len;
}

/* Sends `n` filled mbufs in order; returns how many the driver took, the others are freed. */
static uint32_t send_burst(struct nic_port *p, struct rte_mbuf **m, uint32_t n)
{
	uint32_t sent = 0;

	if (driver_enter(p)) {
		sent = p->started ? rte_eth_tx_burst(p->eth, 0, m, (uint16_t)n) : 0;
		driver_leave(p);
	}
	if (ps_unlikely(sent < n)) {
		p->n.tx_ring_full += n - sent;
		rte_pktmbuf_free_bulk(m + sent, n - sent);
	}
	return sent;
}

static uint32_t port_tx_burst(struct dp_port *dp, const struct dp_tx_pkt *pkts, uint32_t n)
{
	struct nic_port *p = port_of(dp);
	struct rte_mbuf *m[NIC_BURST];
	uint32_t from[NIC_BURST]; /* which packet an mbuf carries */
	uint32_t n_m = 0, taken = 0, sent;

	if (ps_unlikely(rte_lcore_id() == LCORE_ID_ANY))
		nic_thread_register();
	if (n > NIC_BURST)
		n = NIC_BURST;
	for (; taken < n; taken++) {
		const struct dp_tx_pkt *pkt = &pkts[taken];

		CHECK(pkt->peer < p->n_peers &&
		      pkt->payload_len + DP_HDR_BYTES + NIC_FRAME_BYTES - NIC_ETH_BYTES <= p->base.mtu);
		if (ps_unlikely(!p->peers[pkt->peer].resolved)) {
			/* Dropped as a wire would: other peers must not wait for this one. */
			p->n.tx_unresolved++;
			housekeep_when_due(p);
			continue;
		}
		m[n_m] = rte_pktmbuf_alloc(p->pool);
		if (ps_unlikely(m[n_m] == NULL)) {
			p->n.tx_no_buffer++;
			break;
		}
		gather(p, m[n_m], pkt);
		from[n_m++] = taken;
	}
	if (n_m == 0)
		return taken;
	sent = send_burst(p, m, n_m);
	for (uint32_t i = 0; i < sent; i++)
		p->n.tx_bytes += DP_HDR_BYTES + pkts[from[i]].payload_len;
	p->n.tx_packets += sent;
	return sent < n_m ? from[sent] : taken;
}

static void port_buf_free(struct dp_port *dp, void *buf)
{
	(void)dp;
	nic_pool_mark_held(buf, false);
	rte_pktmbuf_free(buf);
}

static int port_wait_fd(struct dp_port *dp)
{
	return port_of(dp)->xsk_fd;
}

static void port_ring_peer(struct dp_port *dp, uint16_t peer)
{
	struct nic_port *p = port_of(dp);
	struct nic_peer *q = &p->peers[peer];
	uint64_t now;

	CHECK(peer < p->n_peers);
	if (q->bell != NULL) {
		dp_bell_ring(q->bell);
		return;
	}
	if (q->bell_path[0] == '\0')
		return;
	now = rte_rdtsc();
	if (now < q->bell_retry_tsc)
		return;
	q->bell_retry_tsc = now + rte_get_tsc_hz() / BELL_RETRY_PER_S;
	if (dp_bell_open(q->bell_path, &q->bell, NULL) == 0)
		dp_bell_ring(q->bell);
	else
		q->bell = NULL;
}

void nic_port_close_bells(struct nic_port *p)
{
	for (uint32_t i = 0; i < p->n_peers; i++) {
		if (p->peers[i].bell != NULL)
			dp_bell_destroy(p->peers[i].bell);
		p->peers[i].bell = NULL;
		p->peers[i].bell_retry_tsc = 0;
	}
}

static bool port_link_up(struct dp_port *dp)
{
	struct nic_port *p = port_of(dp);

	housekeep_when_due(p);
	return p->link_up;
}

static void port_counters(struct dp_port *dp, struct dp_port_counters *out)
{
	*out = port_of(dp)->n;
}

static const char *port_describe(struct dp_port *dp)
{
	return port_of(dp)->text;
}

static void port_close(struct dp_port *dp)
{
	struct nic_port *p = port_of(dp);

	nic_port_close_bells(p);
	if (p->driver == NIC_DRIVER_MEMIF)
		nic_memif_close(p);
	else
		nic_af_xdp_close(p);
}

const struct dp_port_ops nic_port_ops = {
    .rx_burst = port_rx_burst,
    .tx_burst = port_tx_burst,
    .buf_free = port_buf_free,
    .wait_fd = port_wait_fd,
    .ring_peer = port_ring_peer,
    .link_up = port_link_up,
    .counters = port_counters,
    .describe = port_describe,
    .close = port_close,
};

void nic_port_memif_mac(uint32_t ip, uint8_t mac_out[6])
{
	mac_out[0] = 0x02; /* locally administered */
	mac_out[1] = 0x00;
	mac_out[2] = (uint8_t)(ip >> 24);
	mac_out[3] = (uint8_t)(ip >> 16);
	mac_out[4] = (uint8_t)(ip >> 8);
	mac_out[5] = (uint8_t)ip;
}

void nic_port_set_mac(struct nic_port *p, struct nic_peer *peer, const uint8_t mac[6])
{
	struct rte_ether_addr own;
	struct nic_frame_addr a = {
	    .src_ip = p->ip,
	    .dst_ip = peer->ip,
	    .src_port = p->udp_port,
	    .dst_port = (uint16_t)peer->key,
	};

	if (p->driver == NIC_DRIVER_MEMIF) {
		nic_port_memif_mac(p->ip, a.src_mac);
	} else {
		CHECK(rte_eth_macaddr_get(p->eth, &own) == 0);
		memcpy(a.src_mac, own.addr_bytes, 6);
	}
	memcpy(a.dst_mac, mac, 6);
	nic_frame_template_init(&peer->tmpl, &a);
	peer->resolved = true;
}
