/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * AF_XDP ports: any kernel interface, through DPDK's af_xdp driver and our own XDP
 * program (xdp_guard.bpf.c). The program is built into the binary; the driver wants
 * a path to it and gets one of a memfd. The driver loads and attaches it (libbpf)
 * and puts its socket into xsks_map; the other maps are found by the program's id
 * and filled here.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <rte_dev.h>
#include <rte_cycles.h>

#include "base/clock.h"
#include "nic/internal.h"
#include "nic/neigh.h"
#include "nic/xdp_guard_obj.h"

#define N_DESC          1024u
#define FD_MAX          1024
#define HOUSEKEEP_PER_S 20u
#define NEIGH_WAIT_MS   1000u
#define NEIGH_STEP_US   5000u
#define PROG_MAPS_MAX   16u

/* --- checks and set-up of the interface ------------------------------------------ */

static int iface_ioctl(const char *iface, unsigned long request, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc;

	if (fd < 0)
		return -errno;
	snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", iface);
	rc = ioctl(fd, request, ifr) != 0 ? -errno : 0;
	close(fd);
	return rc;
}

static bool iface_has_ip(const char *iface, uint32_t ip)
{
	struct ifaddrs *list, *a;
	bool found = false;

	if (getifaddrs(&list) != 0)
		return false;
	for (a = list; a != NULL && !found; a = a->ifa_next) {
		if (a->ifa_addr == NULL || a->ifa_addr->sa_family != AF_INET ||
		    strcmp(a->ifa_name, iface) != 0)
			continue;
		found = ((struct sockaddr_in *)a->ifa_addr)->sin_addr.s_addr == htonl(ip);
	}
	freeifaddrs(list);
	return found;
}

/* Receive queues of an interface; 1 where the driver does not say. */
static uint32_t iface_queues(const char *iface)
{
	struct ethtool_channels ch = {.cmd = ETHTOOL_GCHANNELS};
	struct ifreq ifr = {.ifr_data = (char *)&ch};

	if (iface_ioctl(iface, SIOCETHTOOL, &ifr) != 0)
		return 1;
	return ch.combined_count + ch.rx_count;
}

static int check_mtu(const struct nic_port_cfg *cfg, struct ps_err *err)
{
	struct ifreq ifr = {0};
	int rc = iface_ioctl(cfg->iface, SIOCGIFMTU, &ifr);

	if (rc != 0)
		return ps_err_set(err, rc, "af_xdp %s: MTU: %s", cfg->iface, strerror(-rc));
	if (cfg->mtu > NIC_AF_XDP_MTU_MAX)
		return ps_err_set(err, -EINVAL,
				  "af_xdp %s: mtu %u, the most is %u (one page a packet, no multi-buffer)",
				  cfg->iface, cfg->mtu, NIC_AF_XDP_MTU_MAX);
	if (ifr.ifr_mtu > (int)NIC_AF_XDP_MTU_MAX)
		return ps_err_set(err, -EINVAL,
				  "af_xdp %s: the interface's MTU is %d, the most for XDP is %u; on both "
				  "ends: ip link set dev %s mtu %u",
				  cfg->iface, ifr.ifr_mtu, NIC_AF_XDP_MTU_MAX, cfg->iface,
				  NIC_AF_XDP_MTU_MAX);
	if ((int)cfg->mtu > ifr.ifr_mtu)
		return ps_err_set(err, -EINVAL,
				  "af_xdp %s: mtu %u asked for, the interface has %d; on both ends: "
				  "ip link set dev %s mtu %u",
				  cfg->iface, cfg->mtu, ifr.ifr_mtu, cfg->iface, cfg->mtu);
	return 0;
}

int nic_af_xdp_check(const struct nic_port_cfg *cfg, struct ps_err *err)
{
	struct in_addr a = {.s_addr = htonl(cfg->ip)};
	char text[INET_ADDRSTRLEN];
	uint32_t queues;
	int fd, rc;

	if (cfg->iface == NULL || cfg->iface[0] == '\0' || strlen(cfg->iface) >= IFNAMSIZ ||
	    strpbrk(cfg->iface, ",=") != NULL)
		return ps_err_set(err, -EINVAL, "af_xdp: the interface's name is missing or wrong");
	if (if_nametoindex(cfg->iface) == 0)
		return ps_err_set(err, -EINVAL, "af_xdp: no interface %s here (see: ip link)", cfg->iface);
	rc = check_mtu(cfg, err);
	if (rc != 0)
		return rc;
	if (!iface_has_ip(cfg->iface, cfg->ip))
		return ps_err_set(err, -EINVAL,
				  "af_xdp %s: the interface has no address %s (the kernel answers ARP "
				  "for it); as root: ip addr add %s/24 dev %s",
				  cfg->iface, inet_ntop(AF_INET, &a, text, sizeof(text)), text, cfg->iface);
	queues = iface_queues(cfg->iface);
	if (queues > 1)
		return ps_err_set(err, -ENOTSUP,
				  "af_xdp %s: %u receive queues, one is supported; as root: "
				  "ethtool -L %s combined 1",
				  cfg->iface, queues, cfg->iface);
	fd = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "ps_probe", 4, 4, 1, NULL);
	if (fd < 0)
		return ps_err_set(err, fd == -EPERM ? -EPERM : -ENOTSUP,
				  "af_xdp %s: BPF: %s; this needs root, or CAP_NET_ADMIN, CAP_NET_RAW "
				  "and CAP_BPF",
				  cfg->iface, strerror(-fd));
	close(fd);
	return 0;
}

/* --- the XDP program ---------------------------------------------------------------- */

/* Field 22 of /proc/PID/stat; 0 when there is no such process. */
static uint64_t start_time_of(uint32_t pid)
{
	char path[32], line[1024];
	uint64_t t = 0;
	char *s;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	f = fopen(path, "re");
	if (f == NULL)
		return 0;
	/* The name (field 2) may hold spaces: fields are counted from its closing bracket. */
	if (fgets(line, sizeof(line), f) != NULL && (s = strrchr(line, ')')) != NULL) {
		s++;
		for (int field = 3; field <= 22 && s != NULL; field++) {
			s = strchr(s, ' ');
			if (s != NULL)
				s++;
		}
		if (s != NULL)
			t = strtoull(s, NULL, 10);
	}
	fclose(f);
	return t;
}

/* A descriptor of the map of that name of a loaded program, or -errno. */
static int prog_map_fd(int prog_fd, const char *name)
{
	struct bpf_prog_info info = {0};
	__u32 ids[PROG_MAPS_MAX] = {0}, len = sizeof(info);
	int rc;

	info.map_ids = (__u64)(uintptr_t)ids;
	info.nr_map_ids = PROG_MAPS_MAX;
	rc = bpf_obj_get_info_by_fd(prog_fd, &info, &len);
	if (rc != 0)
		return rc;
	for (__u32 i = 0; i < info.nr_map_ids && i < PROG_MAPS_MAX; i++) {
		int fd = bpf_map_get_fd_by_id(ids[i]);
		struct bpf_map_info map = {0};

		if (fd < 0)
			continue;
		len = sizeof(map);
		if (bpf_obj_get_info_by_fd(fd, &map, &len) == 0 && strcmp(map.name, name) == 0)
			return fd;
		close(fd);
	}
	return -ENOENT;
}

/* The program that is attached to an interface: its id and a descriptor; id 0: none. */
static int attached_prog(int ifindex, __u32 *id_out, int *fd_out)
{
	int rc = bpf_xdp_query_id(ifindex, 0, id_out);

	*fd_out = -1;
	if (rc != 0 || *id_out == 0)
		return rc;
	*fd_out = bpf_prog_get_fd_by_id(*id_out);
	return *fd_out < 0 ? *fd_out : 0;
}

static bool owner_alive(int prog_fd, uint32_t *pid_out)
{
	struct nic_guard_owner owner = {0};
	struct nic_guard_endpoint key;
	int fd = prog_map_fd(prog_fd, "endpoints");
	bool alive = false;

	if (fd < 0)
		return false;
	if (bpf_map_get_next_key(fd, NULL, &key) == 0 && bpf_map_lookup_elem(fd, &key, &owner) == 0 &&
	    owner.pid != 0)
		alive = start_time_of(owner.pid) == owner.start_time;
	close(fd);
	*pid_out = owner.pid;
	return alive;
}

/* After a kill -9 the program stays attached. Ours is taken off; any other one is somebody's. */
static int replace_stale(const struct nic_port *p, struct ps_err *err)
{
	struct bpf_prog_info info = {0};
	__u32 id = 0, len = sizeof(info);
	uint32_t pid = 0;
	int fd, rc;

	rc = attached_prog(p->ifindex, &id, &fd);
	if (rc != 0)
		return ps_err_set(err, rc, "af_xdp %s: XDP query: %s", p->iface, strerror(-rc));
	if (id == 0)
		return 0;
	rc = bpf_obj_get_info_by_fd(fd, &info, &len);
	if (rc == 0 && strcmp(info.name, NIC_GUARD_PROG) != 0)
		rc = ps_err_set(err, -EBUSY,
				"af_xdp %s: another XDP program is attached (id %u, \"%s\"); as root: "
				"ip link set dev %s xdp off",
				p->iface, id, info.name, p->iface);
	else if (rc == 0 && owner_alive(fd, &pid))
		rc = ps_err_set(err, -EBUSY, "af_xdp %s: in use by penstock process %u", p->iface, pid);
	if (rc == 0) {
		LIBBPF_OPTS(bpf_xdp_attach_opts, opts, .old_prog_fd = fd);

		rc = bpf_xdp_detach(p->ifindex, 0, &opts);
		if (rc != 0)
			ps_err_set(err, rc,
				   "af_xdp %s: cannot detach the program that a killed "
				   "process left: %s",
				   p->iface, strerror(-rc));
	}
	close(fd);
	return rc;
}

static int fill_maps(struct nic_port *p)
{
	struct nic_guard_endpoint ep = {.ip = htonl(p->ip), .udp_port = htons(p->udp_port)};
	struct nic_guard_owner owner = {.pid = (uint32_t)getpid()};
	int peers_fd = prog_map_fd(p->prog_fd, "peers");
	int ep_fd = prog_map_fd(p->prog_fd, "endpoints");
	__u8 one = 1;
	int rc = 0;

	owner.start_time = start_time_of(owner.pid);
	p->counters_fd = prog_map_fd(p->prog_fd, "counters");
	if (peers_fd < 0 || ep_fd < 0 || p->counters_fd < 0)
		rc = -ENOENT;
	for (uint32_t i = 0; rc == 0 && i < p->n_peers; i++) {
		__be32 ip = htonl(p->peers[i].ip);

		rc = bpf_map_update_elem(peers_fd, &ip, &one, BPF_ANY);
	}
	/* The endpoint last: until it is there everything passes to the kernel. */
	if (rc == 0)
		rc = bpf_map_update_elem(ep_fd, &ep, &owner, BPF_ANY);
	if (peers_fd >= 0)
		close(peers_fd);
	if (ep_fd >= 0)
		close(ep_fd);
	return rc;
}

/* The program's bytes under a path, /proc/self/fd/N, for as long as the descriptor is open. */
static int guard_file(void)
{
	int fd = memfd_create("penstock_guard.o", MFD_CLOEXEC);
	size_t left = nic_xdp_guard_obj_bytes;
	const uint8_t *s = nic_xdp_guard_obj;

	if (fd < 0)
		return -errno;
	while (left > 0) {
		ssize_t n = write(fd, s, left);

		if (n <= 0) {
			close(fd);
			return -EIO;
		}
		s += n;
		left -= (size_t)n;
	}
	return fd;
}

/* --- the port -------------------------------------------------------------------------- */

/* DPDK keeps its AF_XDP socket to itself; it is found as the one that was not there before. */
static void list_xsk_fds(bool seen[FD_MAX])
{
	for (int fd = 0; fd < FD_MAX; fd++) {
		int domain = 0;
		socklen_t len = sizeof(domain);

		seen[fd] = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_XDP;
	}
}

static int new_xsk_fd(const bool before[FD_MAX])
{
	bool now[FD_MAX];

	list_xsk_fds(now);
	for (int fd = 0; fd < FD_MAX; fd++)
		if (now[fd] && !before[fd])
			return fd;
	return -1;
}

static void write_text(struct nic_port *p)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, q);
	struct xdp_options o = {0};
	socklen_t len = sizeof(o);
	const char *mode = "?";

	if (bpf_xdp_query(p->ifindex, 0, &q) == 0)
		mode = q.attach_mode == XDP_ATTACHED_DRV  ? "native"
		       : q.attach_mode == XDP_ATTACHED_HW ? "offload"
							  : "skb";
	if (getsockopt(p->xsk_fd, SOL_XDP, XDP_OPTIONS, &o, &len) != 0)
		o.flags = 0;
	snprintf(p->text, sizeof(p->text), "af_xdp iface=%s mode=%s,%s mtu=%u guard=%u hugepages=%s",
		 p->iface, mode, (o.flags & XDP_OPTIONS_ZEROCOPY) != 0 ? "zerocopy" : "copy", p->base.mtu,
		 p->prog_id, nic_eal_hugepages() ? "yes" : "no");
}

static void resolve_peers(struct nic_port *p, bool provoke)
{
	uint8_t mac[6];

	for (uint32_t i = 0; i < p->n_peers; i++) {
		struct nic_peer *q = &p->peers[i];

		if (q->static_mac)
			continue;
		if (nic_neigh_lookup(p->netlink_fd, p->ifindex, q->ip, mac) == 0) {
			if (!q->resolved || memcmp(q->tmpl.hdr, mac, 6) != 0)
				nic_port_set_mac(p, q, mac);
		} else if (provoke && !q->resolved) {
			nic_neigh_provoke(p->iface, q->ip);
		}
	}
}

static bool all_resolved(const struct nic_port *p)
{
	for (uint32_t i = 0; i < p->n_peers; i++)
		if (!p->peers[i].resolved)
			return false;
	return true;
}

static void af_xdp_housekeep(struct nic_port *p, uint64_t now_tsc)
{
	struct ifreq ifr = {0};

	p->link_up = iface_ioctl(p->iface, SIOCGIFFLAGS, &ifr) == 0 && (ifr.ifr_flags & IFF_RUNNING) != 0;
	if (all_resolved(p)) {
		/* A peer that got another interface has another MAC: looked up once a second. */
		p->housekeep_tsc = now_tsc + rte_get_tsc_hz();
	}
	resolve_peers(p, true);
}

/* Makes the device; the driver attaches the program when its queue is set up. */
static int start_device(struct nic_port *p, struct ps_err *err)
{
	int obj_fd = guard_file();
	bool before[FD_MAX];
	char args[128];
	int rc;

	if (obj_fd < 0)
		return ps_err_set(err, obj_fd, "af_xdp %s: memfd: %s", p->iface, strerror(-obj_fd));
	list_xsk_fds(before);
	nic_eal_log_clear();
	snprintf(args, sizeof(args), "iface=%s,busy_budget=0,xdp_prog=/proc/self/fd/%d", p->iface, obj_fd);
	rc = rte_eal_hotplug_add("vdev", p->dev_name, args);
	if (rc != 0) {
		rc = ps_err_set(err, -EINVAL, "af_xdp %s: %s", p->iface, nic_eal_log_tail());
		goto out_obj;
	}
	CHECK(rte_eth_dev_get_port_by_name(p->dev_name, &p->eth) == 0);
	rc = nic_ethdev_start(p, N_DESC, err);
	if (rc != 0)
		goto out_obj;
	p->xsk_fd = new_xsk_fd(before);
	if (p->xsk_fd < 0)
		rc = ps_err_set(err, -ENOTSUP,
				"af_xdp %s: the driver's socket was not found among the first %d "
				"descriptors",
				p->iface, FD_MAX);
out_obj:
	close(obj_fd);
	return rc;
}

int nic_af_xdp_open(struct nic_port *p, const struct nic_port_cfg *cfg, struct ps_err *err)
{
	uint64_t deadline;
	int rc;

	snprintf(p->iface, sizeof(p->iface), "%s", cfg->iface);
	p->ifindex = (int)if_nametoindex(cfg->iface);
	p->housekeep = af_xdp_housekeep;
	p->housekeep_every_tsc = rte_get_tsc_hz() / HOUSEKEEP_PER_S;
	rc = replace_stale(p, err);
	if (rc == 0)
		rc = start_device(p, err);
	if (rc != 0)
		return rc;
	rc = attached_prog(p->ifindex, &p->prog_id, &p->prog_fd);
	if (rc == 0 && p->prog_id != 0)
		rc = fill_maps(p);
	if (rc != 0 || p->prog_id == 0)
		return ps_err_set(err, rc != 0 ? rc : -EINVAL, "af_xdp %s: the XDP program's maps: %s",
				  p->iface, strerror(-rc));
	p->netlink_fd = nic_neigh_open();
	if (p->netlink_fd < 0)
		return ps_err_set(err, p->netlink_fd, "af_xdp %s: netlink: %s", p->iface,
				  strerror(-p->netlink_fd));
	for (uint32_t i = 0; i < p->n_peers; i++)
		if (p->peers[i].static_mac)
			nic_port_set_mac(p, &p->peers[i], cfg->peers[i].mac);
	/* Peers that do not answer yet are asked again by the poll loop's housekeeping. */
	deadline = ps_now_ns() + NEIGH_WAIT_MS * 1000000ull;
	for (bool first = true;; first = false) {
		resolve_peers(p, first);
		if (all_resolved(p) || ps_now_ns() >= deadline)
			break;
		usleep(NEIGH_STEP_US);
	}
	p->link_up = true;
	write_text(p);
	return 0;
}

void nic_af_xdp_close(struct nic_port *p)
{
	__u32 id = 0;

	nic_ethdev_close(p); /* the driver detaches the program */
	if (p->prog_id != 0 && bpf_xdp_query_id(p->ifindex, 0, &id) == 0 && id == p->prog_id)
		bpf_xdp_detach(p->ifindex, 0, NULL);
	p->prog_id = 0;
	if (p->prog_fd >= 0)
		close(p->prog_fd);
	if (p->counters_fd >= 0)
		close(p->counters_fd);
	if (p->netlink_fd >= 0)
		close(p->netlink_fd);
	p->prog_fd = p->counters_fd = p->netlink_fd = p->xsk_fd = -1;
}

int nic_port_guard_counts(struct dp_port *port, struct nic_guard_counts *out)
{
	struct nic_port *p = (struct nic_port *)port;
	int n_cpus = libbpf_num_possible_cpus();
	uint64_t sums[NIC_GUARD_N_COUNTERS] = {0};
	uint64_t *values;
	int rc = 0;

	if (p->driver != NIC_DRIVER_AF_XDP || p->counters_fd < 0)
		return -ENOTSUP;
	if (n_cpus <= 0)
		return -EIO;
	values = calloc((size_t)n_cpus, sizeof(*values));
	if (values == NULL)
		return -ENOMEM;
	for (__u32 k = 0; rc == 0 && k < NIC_GUARD_N_COUNTERS; k++) {
		rc = bpf_map_lookup_elem(p->counters_fd, &k, values);
		for (int c = 0; rc == 0 && c < n_cpus; c++)
			sums[k] += values[c];
	}
	free(values);
	if (rc == 0)
		*out = (struct nic_guard_counts){
		    .redirected = sums[NIC_GUARD_REDIRECTED],
		    .dropped = sums[NIC_GUARD_DROPPED],
		    .passed = sums[NIC_GUARD_PASSED],
		    .no_socket = sums[NIC_GUARD_NO_SOCKET],
		};
	return rc;
}
