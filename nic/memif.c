/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memif ports: shared memory between two processes of a host. The client exports
 * its packet pool to the server (zero-copy on the client's side); the server
 * copies. When the peer dies the driver tears the connection down; a server takes
 * the next client by itself, a client is restarted from here.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_dev.h>
#include <rte_cycles.h>
#include <rte_errno.h>

#include "base/clock.h"
#include "nic/internal.h"
#include "nic/intr_guard.h"

#define RING_LOG2       9u
#define WAIT_MS_DEFAULT 10000u
#define WAIT_STEP_US    2000u
#define HOUSEKEEP_PER_S 1000u
/* While nobody listens, a try costs one connect(). Once connected, the handshake takes under
 * 1 ms on an idle machine, and a restart that comes too early would cut it off. */
#define RETRY_MS     20u
#define HANDSHAKE_MS 1000u

int nic_memif_check(const struct nic_port_cfg *cfg, struct ps_err *err)
{
	if (cfg->socket_path == NULL || cfg->socket_path[0] == '\0')
		return ps_err_set(err, -EINVAL, "memif: socket_path is missing");
	if (strlen(cfg->socket_path) >= NIC_PATH_MAX)
		return ps_err_set(err, -EINVAL, "memif: socket_path is longer than %u bytes: %s",
				  NIC_PATH_MAX - 1, cfg->socket_path);
	if (strpbrk(cfg->socket_path, ",=") != NULL || cfg->socket_path[0] != '/')
		return ps_err_set(err, -EINVAL,
				  "memif: socket_path has to be absolute and without ',' and '=': %s",
				  cfg->socket_path);
	if (cfg->n_peers != 1)
		return ps_err_set(err, -EINVAL, "memif: a port has exactly one peer, %u were given",
				  cfg->n_peers);
	if (cfg->mtu > NIC_MEMIF_MTU_MAX)
		return ps_err_set(err, -EINVAL, "memif: mtu %u, the most is %u", cfg->mtu, NIC_MEMIF_MTU_MAX);
	return 0;
}

/* Connects to the socket and leaves at once: 0, or the errno. */
static int probe_socket(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc = 0;

	if (fd < 0)
		return errno;
	memcpy(un.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0)
		rc = errno;
	close(fd);
	return rc;
}

/* A server killed with -9 leaves its socket file, on which bind() would fail. */
static int remove_stale_socket(const char *path, struct ps_err *err)
{
	int rc = probe_socket(path);

	if (rc == ENOENT)
		return 0;
	if (rc == 0 || rc == EAGAIN)
		return ps_err_set(err, -EBUSY, "memif: another process serves %s", path);
	if (rc != ECONNREFUSED)
		return ps_err_set(err, -EINVAL, "memif: %s is in the way: %s", path, strerror(rc));
	if (unlink(path) != 0)
		return ps_err_set(err, -errno, "memif: cannot remove the stale socket %s: %s", path,
				  strerror(errno));
	return 0;
}

static bool memif_carrier(const struct nic_port *p)
{
	struct rte_eth_link link;

	return rte_eth_link_get_nowait(p->eth, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

static void update_text(struct nic_port *p)
{
	snprintf(p->text, sizeof(p->text),
		 "memif socket=%s role=%s mode=%s mtu=%u hugepages=%s link=%s reconnects=%u", p->socket_path,
		 p->memif_server ? "server" : "client",
		 p->memif_server ? "copy(server)"
		 : p->zero_copy  ? "zero-copy"
				 : "copy",
		 p->base.mtu, nic_eal_hugepages() ? "yes" : "no", p->link_up ? "up" : "down",
		 atomic_load_explicit(&p->reconnects, memory_order_relaxed));
}

static uint64_t ms_tsc(uint32_t ms)
{
	return rte_get_tsc_hz() / 1000u * ms;
}

/* On the interrupt thread, so that a connect() that blocks never holds the poll loop. */
static void reconnect(void *arg)
{
	struct nic_port *p = arg;

	nic_intr_guard_enter();
	if (!memif_carrier(p)) {
		(void)!rte_eth_dev_stop(p->eth);
		p->started = rte_eth_dev_start(p->eth) == 0;
		p->reconnect_tsc = rte_rdtsc() + ms_tsc(p->started ? HANDSHAKE_MS : RETRY_MS);
		if (p->started)
			atomic_fetch_add_explicit(&p->reconnects, 1, memory_order_relaxed);
	}
	nic_intr_guard_leave();
	/* Release pairs with the acquire in memif_housekeep. */
	atomic_store_explicit(&p->reconnecting, false, memory_order_release);
}

static void memif_housekeep(struct nic_port *p, uint64_t now_tsc)
{
	bool up = memif_carrier(p);

	if (up != p->link_up) {
		p->link_up = up;
		p->reconnect_tsc = 0;
		/* A restarted peer has a bell of its own: the old mapping rings nobody. */
		nic_port_close_bells(p);
		update_text(p);
	}
	if (up || p->memif_server || now_tsc < p->reconnect_tsc ||
	    atomic_load_explicit(&p->reconnecting, memory_order_acquire))
		return;
	if (!nic_intr_guard_try())
		return;
	/* The zero-copy client forgets the buffers of its rings at a disconnect. */
	up = memif_carrier(p);
	if (p->zero_copy && !up)
		(void)nic_pool_reclaim(p->pool);
	nic_intr_guard_leave();
	if (up)
		return;
	atomic_store_explicit(&p->reconnecting, true, memory_order_relaxed);
	if (rte_eal_alarm_set(1, reconnect, p) != 0)
		atomic_store_explicit(&p->reconnecting, false, memory_order_relaxed);
}

static int create_device(struct nic_port *p, struct ps_err *err)
{
	uint32_t bsize = rte_pktmbuf_data_room_size(p->pool) - RTE_PKTMBUF_HEADROOM;
	char args[NIC_PATH_MAX + 128];
	int rc;

	snprintf(args, sizeof(args), "role=%s,socket=%s,socket-abstract=no,bsize=%u,rsize=%u%s",
		 p->memif_server ? "server" : "client", p->socket_path, bsize, RING_LOG2,
		 p->zero_copy ? ",zero-copy=yes" : "");
	nic_eal_log_clear();
	rc = rte_eal_hotplug_add("vdev", p->dev_name, args);
	if (rc != 0)
		return ps_err_set(err, rc == -EPERM ? -EPERM : -EINVAL, "memif %s: %s", p->socket_path,
				  nic_eal_log_tail());
	CHECK(rte_eth_dev_get_port_by_name(p->dev_name, &p->eth) == 0);
	return 0;
}

/* Starts a client, which connects. A connection that only asks whether somebody is there would
 * do as well, but the driver's servers do not like those (intr_guard.c). */
static int start_client(struct nic_port *p, uint32_t wait_ms, struct ps_err *err)
{
	uint64_t deadline = ps_now_ns() + (uint64_t)wait_ms * 1000000u;
	int rc = -ENOENT;

	for (;;) {
		if (access(p->socket_path, F_OK) == 0)
			rc = nic_ethdev_start(p, 1u << RING_LOG2, err);
		if (rc == 0)
			return 0;
		if (ps_now_ns() >= deadline)
			return ps_err_set(err, -ETIMEDOUT,
					  "memif: no server on %s after %u ms (%s): start the other "
					  "process, or look at the file's permissions",
					  p->socket_path, wait_ms,
					  access(p->socket_path, R_OK | W_OK) == 0 ? "a dead socket"
										   : strerror(errno));
		usleep(WAIT_STEP_US);
	}
}

int nic_memif_open(struct nic_port *p, const struct nic_port_cfg *cfg, uint32_t wait_ms, struct ps_err *err)
{
	int rc = nic_intr_guard_check(err);

	if (rc != 0)
		return rc;
	p->guarded = true;
	p->memif_server = cfg->memif_server;
	p->zero_copy = p->zero_copy && !cfg->memif_server;
	snprintf(p->socket_path, sizeof(p->socket_path), "%s", cfg->socket_path);
	p->housekeep = memif_housekeep;
	p->housekeep_every_tsc = rte_get_tsc_hz() / HOUSEKEEP_PER_S;
	if (p->memif_server)
		rc = remove_stale_socket(p->socket_path, err);
	if (rc == 0)
		rc = create_device(p, err);
	if (rc == 0 && p->memif_server)
		rc = nic_ethdev_start(p, 1u << RING_LOG2, err);
	else if (rc == 0)
		rc = start_client(p, wait_ms != 0 ? wait_ms : WAIT_MS_DEFAULT, err);
	if (rc != 0)
		return rc;
	p->reconnect_tsc = rte_rdtsc() + ms_tsc(HANDSHAKE_MS);
	if (!p->peers[0].static_mac) {
		uint8_t mac[6];

		nic_port_memif_mac(p->peers[0].ip, mac);
		nic_port_set_mac(p, &p->peers[0], mac);
	}
	update_text(p);
	return 0;
}

void nic_memif_close(struct nic_port *p)
{
	/* Waits for one that runs. */
	rte_eal_alarm_cancel(reconnect, p);
	nic_intr_guard_enter();
	nic_ethdev_close(p);
	nic_intr_guard_leave();
}
