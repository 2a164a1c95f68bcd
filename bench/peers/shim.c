/*
 * DPDK's engines as plain functions, each a whole pass over a ring of packets, so that
 * neither side pays for calls between languages.
 *
 * All packets are mbufs of one pool; the same bytes serve every engine.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cpuflags.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_gro.h>
#include <rte_gso.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_net.h>
#include <rte_prefetch.h>
#include <rte_tcp.h>
#include <rte_thash.h>
#include <rte_version.h>

#define ROOM 2048
#define BURST 64
#define SAVED 128
#define OUT_MAX 4096

struct saved {
	uint8_t head[SAVED];
	uint16_t len;
};

static struct rte_mempool *pool, *indirect, *large;
static struct rte_mbuf **ring;
static struct saved *saved;
static unsigned ring_size;

const char *shim_version(void) { return RTE_STR(RTE_VER_YEAR) "." RTE_STR(RTE_VER_MONTH); }
const char *shim_error(void) { return rte_strerror(rte_errno); }

int shim_init(const char *cpu, unsigned packets)
{
	char *args[] = {"peers", "--no-huge", "--no-pci", "-l", (char *)cpu, "-m", "768",
		"--no-telemetry", "--no-shconf", "--log-level=error"};
	if (rte_eal_init(RTE_DIM(args), args) < 0)
		return -1;
	pool = rte_pktmbuf_pool_create("packets", packets + 4096, 256, 0,
		RTE_PKTMBUF_HEADROOM + ROOM, SOCKET_ID_ANY);
	indirect = rte_pktmbuf_pool_create("indirect", 4095, 256, 0, 0, SOCKET_ID_ANY);
	large = rte_pktmbuf_pool_create("large", 15, 0, 0, UINT16_MAX, SOCKET_ID_ANY);
	ring = calloc(packets, sizeof(*ring));
	saved = calloc(packets, sizeof(*saved));
	if (!pool || !indirect || !large || !ring || !saved)
		return -1;
	ring_size = packets;
	return rte_pktmbuf_alloc_bulk(pool, ring, packets);
}

/* Bytes of packet i, or NULL if it does not fit. Packets of a ring lie in the order of their numbers. */
void *shim_put(unsigned i, const void *bytes, unsigned len)
{
	if (i >= ring_size || len > ROOM)
		return NULL;
	struct rte_mbuf *m = ring[i];
	saved[i].len = len;
	memcpy(saved[i].head, bytes, RTE_MIN(len, (unsigned)SAVED));
	m->data_off = RTE_PKTMBUF_HEADROOM;
	return memcpy(rte_pktmbuf_mtod(m, void *), bytes, len);
}

/* Makes the packets what a driver hands over: undoes what coalescing did to them. */
void shim_reset(unsigned first, unsigned count)
{
	for (unsigned i = first; i < first + count; i++) {
		struct rte_mbuf *m = ring[i];
		m->next = NULL;
		m->nb_segs = 1;
		m->data_off = RTE_PKTMBUF_HEADROOM;
		m->pkt_len = m->data_len = saved[i].len;
		m->packet_type = 0;
		m->tx_offload = 0;
		m->ol_flags = 0;
		memcpy(rte_pktmbuf_mtod(m, void *), saved[i].head, SAVED);
	}
}

/* ---- coalescing ---- */

void *shim_gro_new(unsigned flows, unsigned items, int v6)
{
	struct rte_gro_param param = {
		.max_flow_num = flows,
		.max_item_per_flow = items,
		.gro_types = RTE_GRO_TCP_IPV4,
	};
	if (v6) {
#ifdef RTE_GRO_TCP_IPV6
		param.gro_types = RTE_GRO_TCP_IPV6;
#else
		return NULL;
#endif
	}
	return rte_gro_ctx_create(&param);
}

#define PTYPES (RTE_PTYPE_L2_MASK | RTE_PTYPE_L3_MASK | RTE_PTYPE_L4_MASK)

/* What a NIC's driver would have said. */
static inline void classify(struct rte_mbuf *m)
{
	struct rte_net_hdr_lens lens;
	m->packet_type = rte_net_get_ptype(m, &lens, PTYPES);
	m->l2_len = lens.l2_len;
	m->l3_len = lens.l3_len;
	m->l4_len = lens.l4_len;
}

static inline void prefetch(unsigned i, unsigned end, unsigned ahead)
{
	if (!ahead)
		return;
	if (i + 2 * ahead < end)
		rte_prefetch0(ring[i + 2 * ahead]);
	if (i + ahead < end) {
		uint8_t *data = rte_pktmbuf_mtod(ring[i + ahead], uint8_t *);
		rte_prefetch0(data);
		rte_prefetch0(data + 64);
		rte_prefetch0((uint8_t *)ring[i + ahead] + 64);
	}
}

static inline int checksum_is_good(const struct rte_mbuf *m)
{
	const void *l3 = rte_pktmbuf_mtod_offset(m, const void *, m->l2_len);
	const void *l4 = rte_pktmbuf_mtod_offset(m, const void *, m->l2_len + m->l3_len);
	if (RTE_ETH_IS_IPV4_HDR(m->packet_type))
		return rte_ipv4_cksum(l3) == 0 && rte_ipv4_udptcp_cksum_verify(l3, l4) == 0;
	return rte_ipv6_udptcp_cksum_verify(l3, l4) == 0;
}

static inline unsigned burst(unsigned i, unsigned end, unsigned ahead, int verify, struct rte_mbuf **pkts)
{
	unsigned n = RTE_MIN(end - i, (unsigned)RTE_GRO_MAX_BURST_ITEM_NUM);
	for (unsigned k = 0; k < n; k++) {
		prefetch(i + k, end, ahead);
		pkts[k] = ring[i + k];
		classify(pkts[k]);
		if (verify && !checksum_is_good(pkts[k]))
			return 0;
	}
	return n;
}

/* Gathers an aggregate into `out`. */
static inline unsigned gather(const struct rte_mbuf *m, uint8_t *out, unsigned out_len)
{
	unsigned at = 0;
	for (; m; m = m->next) {
		if (at + m->data_len > out_len)
			return 0;
		rte_memcpy(out + at, rte_pktmbuf_mtod(m, const void *), m->data_len);
		at += m->data_len;
	}
	return at;
}

/*
 * Context mode: bursts into the context's tables, everything out after `flush` packets. With `out`
 * checksums are verified before and aggregates gathered there. Returns what left, 0 on failure.
 */
unsigned shim_gro_ctx(void *ctx, unsigned first, unsigned count, unsigned flush, unsigned ahead,
	uint8_t *out, unsigned out_len)
{
	struct rte_mbuf *pkts[RTE_GRO_MAX_BURST_ITEM_NUM], *left[OUT_MAX];
	unsigned leaving = 0, end = first + count;
	for (unsigned i = first; i < end;) {
		unsigned stop = RTE_MIN(i + flush, end);
		while (i < stop) {
			unsigned n = burst(i, stop, ahead, out != NULL, pkts);
			if (!n)
				return 0;
			leaving += rte_gro_reassemble(pkts, n, ctx);
			i += n;
		}
		uint64_t types = RTE_GRO_TCP_IPV4;
#ifdef RTE_GRO_TCP_IPV6
		types |= RTE_GRO_TCP_IPV6;
#endif
		unsigned n = rte_gro_timeout_flush(ctx, 0, types, left, OUT_MAX);
		for (unsigned k = 0; out && k < n; k++)
			if (!gather(left[k], out, out_len))
				return 0;
		leaving += n;
	}
	return leaving;
}

/* Burst mode: each burst stands for itself. */
unsigned shim_gro_burst(unsigned flows, unsigned items, int v6, unsigned first, unsigned count,
	unsigned flush, unsigned ahead)
{
	struct rte_mbuf *pkts[RTE_GRO_MAX_BURST_ITEM_NUM];
	struct rte_gro_param param = {
		.max_flow_num = flows,
		.max_item_per_flow = items,
		.gro_types = RTE_GRO_TCP_IPV4,
	};
#ifdef RTE_GRO_TCP_IPV6
	if (v6)
		param.gro_types = RTE_GRO_TCP_IPV6;
#else
	if (v6)
		return 0;
#endif
	unsigned leaving = 0, end = first + count;
	for (unsigned i = first; i < end;) {
		unsigned stop = RTE_MIN(i + flush, end);
		while (i < stop) {
			unsigned n = burst(i, stop, ahead, 0, pkts);
			leaving += rte_gro_reassemble_burst(pkts, n, &param);
			i += n;
		}
	}
	return leaving;
}

/* ---- segmentation ---- */

static struct rte_mbuf *whole;
static struct rte_gso_ctx gso;

int shim_gso_set(const void *bytes, unsigned len, unsigned l2, unsigned l3, unsigned l4, unsigned mss)
{
	whole = rte_pktmbuf_alloc(large);
	if (!whole || len > rte_pktmbuf_tailroom(whole))
		return -1;
	memcpy(rte_pktmbuf_append(whole, len), bytes, len);
	whole->l2_len = l2;
	whole->l3_len = l3;
	whole->l4_len = l4;
	whole->packet_type = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4 | RTE_PTYPE_L4_TCP;
	gso.direct_pool = pool;
	gso.indirect_pool = indirect;
	gso.gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO;
	gso.gso_size = l2 + l3 + l4 + mss;
	return 0;
}

/* Segments it, computes the segments' checksums if asked to, frees them. Returns how many. */
int shim_gso(int checksum)
{
	struct rte_mbuf *out[64];
	whole->ol_flags = RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IPV4;
	int n = rte_gso_segment(whole, &gso, out, RTE_DIM(out));
	for (int i = 0; checksum && i < n; i++) {
		struct rte_mbuf *m = out[i];
		unsigned l4_at = whole->l2_len + whole->l3_len;
		struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(m, void *, whole->l2_len);
		struct rte_tcp_hdr *tcp = rte_pktmbuf_mtod_offset(m, void *, l4_at);
		ip->hdr_checksum = 0;
		ip->hdr_checksum = rte_ipv4_cksum(ip);
		tcp->cksum = 0;
		tcp->cksum = rte_ipv4_udptcp_cksum_mbuf(m, ip, l4_at);
	}
	if (n > 0)
		rte_pktmbuf_free_bulk(out, n);
	return n;
}

/* The checksums of the segments, for comparison. */
int shim_gso_checksums(uint16_t *checks, int max)
{
	struct rte_mbuf *out[64];
	whole->ol_flags = RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IPV4;
	int n = rte_gso_segment(whole, &gso, out, RTE_DIM(out));
	for (int i = 0; i < n && i < max; i++) {
		unsigned l4_at = whole->l2_len + whole->l3_len;
		struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(out[i], void *, whole->l2_len);
		struct rte_tcp_hdr *tcp = rte_pktmbuf_mtod_offset(out[i], void *, l4_at);
		tcp->cksum = 0;
		checks[i] = rte_ipv4_udptcp_cksum_mbuf(out[i], ip, l4_at);
	}
	if (n > 0)
		rte_pktmbuf_free_bulk(out, n);
	return n;
}

/* ---- sums and hashes: `times` of them, none left out by the compiler ---- */

uint16_t shim_raw_cksum(const void *bytes, size_t len, unsigned times)
{
	uint16_t sum = 0;
	for (unsigned i = 0; i < times; i++) {
		__asm__ volatile("" : "+r"(bytes) : : "memory");
		sum = rte_raw_cksum(bytes, len);
		__asm__ volatile("" : : "r"(sum));
	}
	return sum;
}

/* `tuples`: three 32-bit words each, in host order. */
void shim_softrss(uint32_t *tuples, unsigned count, const uint8_t *key, uint32_t *hashes)
{
	for (unsigned i = 0; i < count; i++)
		hashes[i] = rte_softrss(tuples + 3 * i, 3, key);
}

void shim_softrss_be(uint32_t *tuples, unsigned count, const uint8_t *key, uint32_t *hashes)
{
	for (unsigned i = 0; i < count; i++)
		hashes[i] = rte_softrss_be(tuples + 3 * i, 3, key);
}

void shim_convert_key(const uint32_t *key, uint32_t *converted, int len)
{
	rte_convert_rss_key(key, converted, len);
}

#ifdef RTE_THASH_GFNI_DEFINED
int shim_gfni(const uint8_t *key, unsigned len, uint64_t *matrices)
{
	rte_thash_complete_matrix(matrices, key, len);
	/* rte_thash_gfni_supported() speaks of the library, which Debian builds without; these are inline. */
	return rte_cpu_get_flag_enabled(RTE_CPUFLAG_GFNI) > 0;
}

/* `tuples`: 12 bytes each, in network order. */
void shim_thash_gfni(const uint64_t *matrices, uint8_t *tuples, unsigned count, uint32_t *hashes)
{
	for (unsigned i = 0; i < count; i++)
		hashes[i] = rte_thash_gfni(matrices, tuples + 12 * i, 12);
}

void shim_thash_gfni_bulk(const uint64_t *matrices, uint8_t **tuples, unsigned count, uint32_t *hashes)
{
	rte_thash_gfni_bulk(matrices, 12, tuples, hashes, count);
}
#else
int shim_gfni(const uint8_t *key, unsigned len, uint64_t *matrices)
{
	(void)key, (void)len, (void)matrices;
	return 0;
}
void shim_thash_gfni(const uint64_t *m, uint8_t *t, unsigned n, uint32_t *h) { (void)m, (void)t, (void)n, (void)h; }
void shim_thash_gfni_bulk(const uint64_t *m, uint8_t **t, unsigned n, uint32_t *h) { (void)m, (void)t, (void)n, (void)h; }
#endif
