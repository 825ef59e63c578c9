/* SPDX-License-Identifier: BSD-3-Clause */
#include "nic/nic.h"

#include <errno.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_cycles.h>
#include <rte_errno.h>

#include "nic/internal.h"
#include "nic/intr_guard.h"

static struct nic_port ports[NIC_MAX_PORTS];
static uint32_t n_ports;

int nic_ethdev_start(struct nic_port *p, uint16_t n_desc, struct ps_err *err)
{
	struct rte_eth_conf conf = {0};
	int rc = 0;

	/* A second call starts again what could not be started. */
	if (p->configured)
		goto start;
	rc = rte_eth_dev_configure(p->eth, 1, 1, &conf);
	if (rc == 0)
		rc = rte_eth_rx_queue_setup(p->eth, 0, n_desc, 0, NULL, p->pool);
	if (rc == 0)
		rc = rte_eth_tx_queue_setup(p->eth, 0, n_desc, 0, NULL);
	p->configured = rc == 0;
	p->base.rx_ring = n_desc;
start:
	if (rc == 0)
		rc = rte_eth_dev_start(p->eth);
	if (rc != 0)
		return ps_err_set(err, rc, "%s: %s: %s", p->dev_name, strerror(-rc), nic_eal_log_tail());
	p->started = true;
	return 0;
}

void nic_ethdev_close(struct nic_port *p)
{
	if (p->eth == UINT16_MAX)
		return;
	(void)!rte_eth_dev_stop(p->eth);
	/* Closes the port as well. */
	(void)!rte_eal_hotplug_remove("vdev", p->dev_name);
	p->eth = UINT16_MAX;
}

static bool mac_is_set(const uint8_t mac[6])
{
	static const uint8_t none[6];

	return memcmp(mac, none, 6) != 0;
}

static int check_peers(const struct nic_port_cfg *c, uint32_t i, struct ps_err *err)
{
	if (c->n_peers == 0 || c->n_peers > NIC_MAX_PEERS)
		return ps_err_set(err, -EINVAL, "port %u: %u peers, 1 to %u are possible", i, c->n_peers,
				  NIC_MAX_PEERS);
	for (uint32_t k = 0; k < c->n_peers; k++) {
		const struct nic_peer_cfg *q = &c->peers[k];

		if (q->ip == 0 || q->udp_port == 0)
			return ps_err_set(err, -EINVAL, "port %u: peer %u has no address or port", i, k);
		if (q->bell_path != NULL && strlen(q->bell_path) >= sizeof(ports->peers->bell_path))
			return ps_err_set(err, -EINVAL, "port %u: bell path too long: %s", i, q->bell_path);
		for (uint32_t j = 0; j < k; j++)
			if (c->peers[j].ip == q->ip && c->peers[j].udp_port == q->udp_port)
				return ps_err_set(err, -EINVAL,
						  "port %u: peers %u and %u have the same address", i, j, k);
	}
	return 0;
}

static int check_ports(const struct nic_cfg *cfg, struct ps_err *err)
{
	int rc = 0;

	if (cfg->n_ports == 0 || cfg->n_ports > NIC_MAX_PORTS)
		return ps_err_set(err, -EINVAL, "%u ports, 1 to %u are possible", cfg->n_ports,
				  NIC_MAX_PORTS);
	for (uint32_t i = 0; rc == 0 && i < cfg->n_ports; i++) {
		const struct nic_port_cfg *c = &cfg->ports[i];

		if (c->ip == 0 || c->udp_port == 0)
			return ps_err_set(err, -EINVAL, "port %u: no address or UDP port", i);
		if (c->mtu < NIC_MTU_MIN)
			return ps_err_set(err, -EINVAL, "port %u: mtu %u, the least is %u", i, c->mtu,
					  NIC_MTU_MIN);
		rc = check_peers(c, i, err);
		if (rc == 0 && c->driver == NIC_DRIVER_MEMIF)
			rc = nic_memif_check(c, err);
		else if (rc == 0 && c->driver == NIC_DRIVER_AF_XDP)
			rc = nic_af_xdp_check(c, err);
		else if (rc == 0)
			rc = ps_err_set(err, -EINVAL, "port %u: unknown driver", i);
	}
	return rc;
}

static void init_port(struct nic_port *p, const struct nic_port_cfg *c, uint32_t index)
{
	memset(p, 0, sizeof(*p));
	p->base.ops = &nic_port_ops;
	p->base.mtu = c->mtu;
	p->eth = UINT16_MAX;
	p->driver = c->driver;
	p->ip = c->ip;
	p->udp_port = c->udp_port;
	p->xsk_fd = p->netlink_fd = p->prog_fd = p->counters_fd = -1;
	p->n_peers = c->n_peers;
	for (uint32_t k = 0; k < c->n_peers; k++) {
		struct nic_peer *q = &p->peers[k];

		q->ip = c->peers[k].ip;
		q->key = (uint64_t)q->ip << 16 | c->peers[k].udp_port;
		q->static_mac = mac_is_set(c->peers[k].mac);
		if (c->peers[k].bell_path != NULL)
			snprintf(q->bell_path, sizeof(q->bell_path), "%s", c->peers[k].bell_path);
	}
	snprintf(p->dev_name, sizeof(p->dev_name), "net_%s%u",
		 c->driver == NIC_DRIVER_MEMIF ? "memif" : "af_xdp", index);
}

static int open_port(struct nic_port *p, const struct nic_cfg *cfg, uint32_t index, uint8_t **mem,
		     uint64_t *mem_left, struct ps_err *err)
{
	const struct nic_port_cfg *c = &cfg->ports[index];
	struct nic_pool_shape shape = nic_pool_shape(c);
	int rc;

	init_port(p, c, index);
	/* The memif driver can lend its peer only EAL's own memory. */
	p->zero_copy = c->driver == NIC_DRIVER_MEMIF && *mem == NULL;
	rc = nic_pool_create(p, &shape, mem, mem_left, err);
	if (rc != 0)
		return rc;
	if (c->driver == NIC_DRIVER_MEMIF)
		return nic_memif_open(p, c, cfg->wait_ms, err);
	return nic_af_xdp_open(p, c, err);
}

int nic_start(const struct nic_cfg *cfg, struct dp_port **ports_out, struct ps_err *err)
{
	uint8_t *mem = cfg->pool_mem;
	uint64_t mem_left = cfg->pool_mem_bytes, need = 0;
	int rc;

	if (n_ports != 0)
		return ps_err_set(err, -EINVAL, "nic_start: already started");
	nic_intr_guard_shut(false);
	rc = check_ports(cfg, err);
	if (rc != 0)
		return rc;
	for (uint32_t i = 0; i < cfg->n_ports; i++)
		need += nic_pool_bytes(&cfg->ports[i]);
	rc = nic_eal_start(cfg, mem != NULL ? 0 : need, err);
	if (rc != 0) {
		nic_eal_log_loud();
		return rc;
	}
	for (uint32_t i = 0; rc == 0 && i < cfg->n_ports; i++) {
		n_ports = i + 1;
		rc = open_port(&ports[i], cfg, i, &mem, &mem_left, err);
		ports_out[i] = &ports[i].base;
	}
	nic_eal_log_loud();
	if (rc != 0)
		nic_stop();
	return rc;
}

void nic_stop(void)
{
	nic_eal_log_quiet(); /* the memif driver frees one thing twice, and EAL says so */
	nic_intr_guard_shut(true);
	for (uint32_t i = n_ports; i-- > 0;)
		dp_port_close(&ports[i].base);
	for (uint32_t i = 0; i < n_ports; i++)
		nic_pool_destroy(&ports[i]);
	n_ports = 0;
	nic_eal_stop();
}

const char *nic_describe(void)
{
	return nic_eal_describe();
}
