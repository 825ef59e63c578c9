/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_PERF_PINGPONG_H
#define PENSTOCK_PERF_PINGPONG_H
/*
 * What the ping-pong programs share: options, two processes each on a core of its
 * own (for AF_XDP each in a network namespace, joined by a veth pair that vanishes
 * with them), the sample buffer and one line of JSON in the form of
 * `penstock bench link`. A program supplies one function that runs a side.
 */
#include <stdbool.h>
#include <stdint.h>

struct pp_options {
	const char *driver; /* for the JSON, and for nic_pingpong to choose by */
	uint32_t size;      /* bytes of a message, touched on both sides */
	uint32_t count;     /* round trips that are measured; count/10 before them are not */
	uint32_t mtu;
	bool netns; /* give each side a namespace and the veth ends `ppveth<side>` */
	uint32_t hugepages_mb;
	bool capture; /* nic_pingpong: lets dpdk-dumpcap attach */
	int core[2];
};

struct pp_side {
	const struct pp_options *o;
	int side;         /* 0 asks and measures, 1 answers */
	uint32_t *rtt_ns; /* side 0: count entries */
	const char *mode; /* side 0: set for the JSON */
	char dir[64];     /* a directory of this run, for sockets */
};

/* Sends and receives one message of o->size bytes; false ends the run. */
typedef bool (*pp_xfer)(void *ctx, uint8_t *msg, uint32_t len);

/* Parses --size --count --mtu --driver --hugepages MB --cores A,B
 * --capture 1, runs both sides and prints.
 * Returns an exit status. `run_side` runs in its own process and returns true when it is done. */
int pp_main(int argc, char **argv, struct pp_options *o, bool (*run_side)(struct pp_side *s));

/* The exchange itself: side 0 measures into s->rtt_ns. Each side writes every byte that it sends
 * and reads every byte that it gets. */
bool pp_exchange(struct pp_side *s, void *ctx, pp_xfer send, pp_xfer recv);

#endif
