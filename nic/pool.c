/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_mbuf_dyn.h>
#include <rte_memzone.h>

#include "nic/internal.h"

/*
 * AF_XDP: the driver fills 2,048 buffers into the fill ring and up to 1,024 wait in each of the
 * completion and receive rings; a chunk is one page, headers included (pool.h of the kernel:
 * chunk_size <= PAGE_SIZE), which makes 3,904 the largest data room. memif: 512 descriptors a
 * ring each way, and as many for the application. Two ports with jumbo frames stay under 40 MB.
 */
#define AF_XDP_MBUFS     4608u
#define AF_XDP_DATA_ROOM 3904u
#define MEMIF_MBUFS      2048u
/* Behind 128 bytes of headroom, 42 of Ethernet, IP and UDP and 48 of ours the payload would lie 2
 * bytes off; messages are only handed on in place where it is aligned to 8. AF_XDP's driver
 * computes a frame's place from the mbuf's address, so it cannot be moved there. */
#define MEMIF_SHIFT   6u
#define SHIFT_ROOM    64u /* of each buffer, so that a shifted one still has its whole data room */
#define MEMPOOL_CACHE 64u
#define POOL_ALIGN    4096u
/* No padding between objects: the sizes above are exact. No gaps at page borders: the AF_XDP
 * driver takes the pool as one array. */
#define POOL_FLAGS (RTE_MEMPOOL_F_NO_SPREAD | RTE_MEMPOOL_F_NO_IOVA_CONTIG)

/* mbuf dynamic field: who has the buffer, as far as we know. */
enum mark { MARK_NONE, MARK_HELD, MARK_FREE };
static int mark_offset = -1;

static uint8_t *mark_of(struct rte_mbuf *m)
{
	return (uint8_t *)m + (size_t)mark_offset;
}

void nic_pool_mark_init(void)
{
	static const struct rte_mbuf_dynfield desc = {
	    .name = "penstock_nic_mark",
	    .size = sizeof(uint8_t),
	    .align = 1,
	};

	if (mark_offset < 0)
		mark_offset = rte_mbuf_dynfield_register(&desc);
	CHECK(mark_offset >= 0);
}

void nic_pool_mark_held(struct rte_mbuf *m, bool held)
{
	*mark_of(m) = held ? MARK_HELD : MARK_NONE;
}

static uint32_t elt_bytes(const struct nic_pool_shape *s)
{
	return (uint32_t)sizeof(struct rte_mbuf) + s->data_room + (s->shift != 0 ? SHIFT_ROOM : 0);
}

struct nic_pool_shape nic_pool_shape(const struct nic_port_cfg *cfg)
{
	struct nic_pool_shape s = {0};

	if (cfg->driver == NIC_DRIVER_AF_XDP) {
		s.n_mbufs = AF_XDP_MBUFS;
		s.data_room = AF_XDP_DATA_ROOM;
	} else {
		s.n_mbufs = MEMIF_MBUFS;
		s.data_room = RTE_PKTMBUF_HEADROOM + (uint32_t)RTE_ALIGN_CEIL(cfg->mtu + NIC_ETH_BYTES, 256u);
		if (s.data_room > UINT16_MAX)
			s.data_room = UINT16_MAX;
		s.shift = MEMIF_SHIFT;
	}
	s.bytes =
	    (uint64_t)rte_mempool_calc_obj_size(elt_bytes(&s), POOL_FLAGS, NULL) * s.n_mbufs + POOL_ALIGN;
	return s;
}

uint64_t nic_pool_bytes(const struct nic_port_cfg *port)
{
	return RTE_ALIGN_CEIL(nic_pool_shape(port).bytes, POOL_ALIGN);
}

/* The memory of a pool: the caller's, or one memory zone of EAL's. */
static void *pool_memory(struct nic_port *p, const struct nic_pool_shape *shape, uint8_t **mem,
			 uint64_t *mem_left, struct ps_err *err)
{
	uint64_t bytes = RTE_ALIGN_CEIL(shape->bytes, POOL_ALIGN);
	const struct rte_memzone *mz;
	char name[RTE_MEMZONE_NAMESIZE];

	if (*mem != NULL) {
		uint8_t *taken = *mem;

		if (*mem_left < bytes) {
			ps_err_set(err, -ENOMEM,
				   "pool_mem: %s needs %" PRIu64 " more bytes, %" PRIu64 " are left",
				   p->dev_name, bytes, *mem_left);
			return NULL;
		}
		*mem += bytes;
		*mem_left -= bytes;
		return taken;
	}
	snprintf(name, sizeof(name), "mem_%s", p->dev_name);
	mz = rte_memzone_reserve_aligned(name, bytes, SOCKET_ID_ANY, 0, POOL_ALIGN);
	if (mz == NULL) {
		ps_err_set(err, -ENOMEM,
			   "%s: no room for its packet buffers (%" PRIu64 " MB) in EAL's memory: ask "
			   "for more hugepages_mb",
			   p->dev_name, (bytes >> 20) + 1);
		return NULL;
	}
	return mz->addr;
}

static void shift_one(struct rte_mempool *pool, void *arg, void *obj, unsigned idx)
{
	const struct nic_pool_shape *shape = arg;
	struct rte_mbuf *m = obj;

	(void)pool;
	(void)idx;
	m->buf_addr = (uint8_t *)m->buf_addr + shape->shift;
	m->buf_iova += shape->shift;
}

static int pool_populate(struct rte_mempool *mp, const struct nic_pool_shape *shape, void *mem)
{
	struct rte_pktmbuf_pool_private priv = {.mbuf_data_room_size = (uint16_t)shape->data_room};
	int rc;

	rc = rte_mempool_set_ops_byname(mp, "ring_mp_mc", NULL);
	if (rc != 0)
		return rc;
	rte_pktmbuf_pool_init(mp, &priv);
	/* IOVAs are virtual addresses here (--iova-mode=va). */
	rc = rte_mempool_populate_iova(mp, mem, (rte_iova_t)(uintptr_t)mem, shape->bytes, NULL, NULL);
	if (rc < 0)
		return rc;
	if ((uint32_t)rc != shape->n_mbufs || mp->nb_mem_chunks != 1)
		return -ENOMEM;
	rte_mempool_obj_iter(mp, rte_pktmbuf_init, NULL);
	rte_mempool_obj_iter(mp, shift_one, (void *)(uintptr_t)shape);
	return 0;
}

int nic_pool_create(struct nic_port *p, const struct nic_pool_shape *shape, uint8_t **mem, uint64_t *mem_left,
		    struct ps_err *err)
{
	void *addr = pool_memory(p, shape, mem, mem_left, err);
	char name[RTE_MEMPOOL_NAMESIZE];
	struct rte_mempool *mp;
	int rc;

	if (addr == NULL)
		return -ENOMEM;
	snprintf(name, sizeof(name), "mp_%s", p->dev_name);
	mp = rte_mempool_create_empty(name, shape->n_mbufs, elt_bytes(shape), MEMPOOL_CACHE,
				      sizeof(struct rte_pktmbuf_pool_private), SOCKET_ID_ANY, POOL_FLAGS);
	if (mp == NULL)
		return ps_err_set(err, -rte_errno, "%s: packet pool: %s; ask for more hugepages_mb",
				  p->dev_name, rte_strerror(rte_errno));
	rc = pool_populate(mp, shape, addr);
	if (rc != 0) {
		rte_mempool_free(mp);
		return ps_err_set(err, rc, "%s: packet pool: %s", p->dev_name, rte_strerror(-rc));
	}
	p->pool = mp;
	return 0;
}

void nic_pool_destroy(struct nic_port *p)
{
	char name[RTE_MEMZONE_NAMESIZE];
	const struct rte_memzone *mz;

	rte_mempool_free(p->pool);
	p->pool = NULL;
	snprintf(name, sizeof(name), "mem_%s", p->dev_name);
	mz = rte_memzone_lookup(name);
	if (mz != NULL)
		rte_memzone_free(mz);
}

/* Takes everything out of the pool, marks it, and puts it back. */
static void mark_free_ones(struct rte_mempool *pool)
{
	struct rte_mbuf *head = NULL, *m;
	void *obj;

	/* The chain runs through `next`, which is NULL in a free mbuf and is made so again. */
	while (rte_mempool_get(pool, &obj) == 0) {
		m = obj;
		*mark_of(m) = MARK_FREE;
		m->next = head;
		head = m;
	}
	while (head != NULL) {
		m = head;
		head = m->next;
		m->next = NULL;
		rte_mempool_put(pool, m);
	}
}

static void reclaim_one(struct rte_mempool *pool, void *arg, void *obj, unsigned idx)
{
	uint32_t *n_reclaimed = arg;
	struct rte_mbuf *m = obj;
	uint8_t *mark = mark_of(m);

	(void)idx;
	if (*mark == MARK_NONE) {
		m->next = NULL;
		m->nb_segs = 1;
		rte_mbuf_refcnt_set(m, 1);
		rte_mempool_put(pool, m);
		(*n_reclaimed)++;
	} else if (*mark == MARK_FREE) {
		*mark = MARK_NONE;
	}
}

uint32_t nic_pool_reclaim(struct rte_mempool *pool)
{
	uint32_t n_reclaimed = 0;

	/* Other threads' caches (start-up's) would look like lost buffers. */
	for (unsigned i = 0; i < RTE_MAX_LCORE; i++) {
		struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, i);

		if (cache != NULL && cache->len != 0)
			rte_mempool_cache_flush(cache, pool);
	}
	mark_free_ones(pool);
	rte_mempool_obj_iter(pool, reclaim_one, &n_reclaimed);
	return n_reclaimed;
}
