/* SPDX-License-Identifier: BSD-3-Clause */
#include "nic/neigh.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DISCARD_PORT 9u
/* States in which the kernel itself would send to the address that it holds. */
#define USABLE (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE)

int nic_neigh_open(void)
{
	struct sockaddr_nl sa = {.nl_family = AF_NETLINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

/* The MAC in one answer to RTM_GETNEIGH. */
static int parse_answer(const struct nlmsghdr *nh, size_t len, uint8_t mac_out[6])
{
	const struct ndmsg *nd;
	const struct rtattr *a;
	unsigned left;

	if (!NLMSG_OK(nh, len))
		return -EPROTO;
	if (nh->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *e = NLMSG_DATA(nh);

		return nh->nlmsg_len < NLMSG_LENGTH(sizeof(*e)) ? -EPROTO
		       : e->error == 0                          ? -ENOENT
								: e->error;
	}
	if (nh->nlmsg_type != RTM_NEWNEIGH || nh->nlmsg_len < NLMSG_LENGTH(sizeof(*nd)))
		return -EPROTO;
	nd = NLMSG_DATA(nh);
	if ((nd->ndm_state & USABLE) == 0)
		return -ENOENT;
	left = (unsigned)NLMSG_PAYLOAD(nh, sizeof(*nd));
	a = (const struct rtattr *)((const char *)nd + NLMSG_ALIGN(sizeof(*nd)));
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == NDA_LLADDR && RTA_PAYLOAD(a) == 6) {
			memcpy(mac_out, RTA_DATA(a), 6);
			return 0;
		}
	}
	return -ENOENT;
}

int nic_neigh_lookup(int netlink_fd, int ifindex, uint32_t ip, uint8_t mac_out[6])
{
	struct {
		struct nlmsghdr nh;
		struct ndmsg nd;
		struct rtattr a;
		uint32_t ip;
	} req = {
	    .nh = {.nlmsg_len = sizeof(req), .nlmsg_type = RTM_GETNEIGH, .nlmsg_flags = NLM_F_REQUEST},
	    .nd = {.ndm_family = AF_INET, .ndm_ifindex = ifindex},
	    .a = {.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = NDA_DST},
	    .ip = htonl(ip),
	};
	_Alignas(struct nlmsghdr) char answer[1024];
	ssize_t n;

	/* An answer that an interrupted lookup left behind would be taken for this one's. */
	while (recv(netlink_fd, answer, sizeof(answer), MSG_DONTWAIT) > 0)
		;
	if (send(netlink_fd, &req, sizeof(req), 0) != (ssize_t)sizeof(req))
		return -errno;
	/* The kernel answers within send(). */
	n = recv(netlink_fd, answer, sizeof(answer), MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	return parse_answer((const struct nlmsghdr *)answer, (size_t)n, mac_out);
}

void nic_neigh_provoke(const char *iface, uint32_t ip)
{
	struct sockaddr_in to = {
	    .sin_family = AF_INET,
	    .sin_port = htons(DISCARD_PORT),
	    .sin_addr.s_addr = htonl(ip),
	};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return;
	(void)!setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, iface, (socklen_t)strlen(iface) + 1);
	(void)!sendto(fd, "", 0, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to));
	close(fd);
}
