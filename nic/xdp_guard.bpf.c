/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The XDP program in front of an AF_XDP port. It gives the application only
 * UDP/IPv4 packets of configured peers to an endpoint of ours, drops strangers
 * who knock on such an endpoint, and leaves everything else (ARP, ping, ssh,
 * VLANs, fragments, IPv6) to the kernel. Each decision is counted.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "nic/xdp_guard.h"

#define IP_FRAG_MASK 0x3fff /* more-fragments and the offset */

/* DPDK's driver looks this map up by its name and puts its socket in. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NIC_GUARD_MAX_PEERS);
	__type(key, __be32);
	__type(value, __u8);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NIC_GUARD_MAX_PORTS);
	__type(key, struct nic_guard_endpoint);
	__type(value, struct nic_guard_owner);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NIC_GUARD_N_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int count(__u32 which, int verdict)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		(*n)++;
	return verdict;
}

/* The UDP header of an unfragmented UDP/IPv4 frame, or 0. */
static __always_inline struct udphdr *find_udp(void *data, void *end, struct iphdr **ip_out)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return 0;
	if (ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_UDP ||
	    (ip->frag_off & bpf_htons(IP_FRAG_MASK)))
		return 0;
	udp = (void *)ip + ip->ihl * 4;
	if ((void *)(udp + 1) > end)
		return 0;
	*ip_out = ip;
	return udp;
}

SEC("xdp")
int penstock_guard(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct nic_guard_endpoint to = {};
	__u32 queue = ctx->rx_queue_index;
	struct iphdr *ip = 0;
	struct udphdr *udp = find_udp(data, end, &ip);

	if (!udp)
		return count(NIC_GUARD_PASSED, XDP_PASS);
	to.ip = ip->daddr;
	to.udp_port = udp->dest;
	if (!bpf_map_lookup_elem(&endpoints, &to))
		return count(NIC_GUARD_PASSED, XDP_PASS);
	/* Nobody of ours sends IP options, and the application does not parse them. */
	if (ip->ihl != 5 || !bpf_map_lookup_elem(&peers, &ip->saddr))
		return count(NIC_GUARD_DROPPED, XDP_DROP);
	if (!bpf_map_lookup_elem(&xsks_map, &queue))
		return count(NIC_GUARD_NO_SOCKET, XDP_DROP);
	return count(NIC_GUARD_REDIRECTED, (int)bpf_redirect_map(&xsks_map, queue, XDP_DROP));
}

char _license[] SEC("license") = "Dual BSD/GPL";
