/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rss: see rss.h.
 *
 * The whole is what the kernel says (smaps_rollup). /proc/self/pagemap tells which pages
 * of the arenas and of our own memory are there; the rest is outside the heap. In the
 * arenas, pages of spans are live as far as their slots are, large objects as far as they
 * were touched; the share of slack among live small slots is that of all of them, asked
 * against given.
 */
#include "profiler/sample/rss.h"

#include <string.h>

#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/arena.h"
#include "preload/heap/heap.h"
#include "profiler/sample/sample.h"

#define PRESENT	   ((uint64_t)1 << 63)
#define ENTRIES	   4096 /* of pagemap read at once */
#define MAX_RANGES 65536

static struct rss rss; /* of the last rss_measure() */

struct range {
	uintptr_t start;
	size_t size;
};

struct measure {
	int pagemap;
	bool failed;
	/* of one arena: a bit for each OS page from its base that is resident */
	uint8_t *bits;
	const struct arena *arena;
	uint64_t tables, heap;				  /* resident bytes of arenas */
	uint64_t small_given, small_resident, small_free; /* slots given out; free ones */
	uint64_t large_live, large_slack, large_asked;
	struct range *ranges; /* of meta, without the arenas */
	size_t nranges;
	uint64_t entries[ENTRIES];
};

/* ---- what is resident ---- */

/* Sets bits (may be NULL) for the resident ones among the pages of [lo, hi), and returns
 * their bytes. */
static uint64_t count_resident(struct measure *m, uintptr_t lo, uintptr_t hi,
			       uint8_t *bits)
{
	uint64_t n = 0;
	size_t first = lo / OS_PAGE, pages = (hi - lo) / OS_PAGE;

	for (size_t at = 0; at < pages;) {
		size_t want = pages - at < ENTRIES ? pages - at : ENTRIES;
		long got = os_call(SYS_pread64, m->pagemap, (long)m->entries,
				   (long)(want * 8), (long)((first + at) * 8), 0, 0);

		if (got < 8) {
			m->failed = true;
			return 0;
		}
		for (size_t i = 0; i < (size_t)got / 8; i++, at++) {
			if (!(m->entries[i] & PRESENT))
				continue;
			n++;
			if (bits)
				bits[at / 8] |= (uint8_t)(1u << at % 8);
		}
	}
	return n * OS_PAGE;
}

static uint64_t resident_of_span(const struct measure *m, const struct mspan *s)
{
	size_t page = (s->base - m->arena->base) / OS_PAGE;
	size_t end = page + (s->npages << PAGE_SHIFT) / OS_PAGE;
	uint64_t n = 0;

	for (; page < end; page++)
		n += m->bits[page / 8] >> page % 8 & 1;
	return n * OS_PAGE;
}

/* ---- spans ---- */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool add_span(struct mspan *s, void *arg)
{
	struct measure *m = arg;
	uint64_t bytes = s->npages << PAGE_SHIFT, resident, given;

	if (arena_of(s->base) != m->arena)
		return true;
	resident = resident_of_span(m, s);
	if (s->state == MSPAN_LARGE) {
		m->large_asked += s->size_asked;
		m->large_live += least(s->size_asked, resident);
		m->large_slack += resident - least(s->size_asked, resident);
	} else if (s->state == MSPAN_SMALL) {
		given = (uint64_t)(s->nslots - s->nfree) * s->slot_size;
		m->small_given += given;
		m->small_resident += (uint64_t)((uint128)given * resident / bytes);
		m->small_free += (uint64_t)s->nfree * s->slot_size;
	}
	return true;
}

static uint64_t count_table(struct measure *m, uintptr_t start, size_t size)
{
	return count_resident(m, align_down(start, OS_PAGE),
			      align_up(start + size, OS_PAGE), NULL);
}

static NO_LOCK_CHECK void measure_arena(struct measure *m, const struct arena *a)
{
	uintptr_t pages = a->base + (a->first_page << PAGE_SHIFT);
	uintptr_t end = a->base + (atomic_load_acquire(&a->end_page) << PAGE_SHIFT);
	size_t nbits = end > a->base ? (end - a->base) / OS_PAGE : 0;
	size_t size = nbits / 8 + 1;
	size_t offset = (pages - a->base) / OS_PAGE / 8;

	if (end <= pages)
		return;
	m->arena = a;
	m->bits = meta_map(size, META_SAMPLE);
	if (!m->bits) {
		m->failed = true;
		return;
	}
	m->tables += count_table(m, a->base, a->classes_end);
	m->tables += count_table(m, (uintptr_t)a->spans, a->spans_end);
	m->heap += count_resident(m, pages, end, m->bits + offset);
	heap_lock_all();
	heap_each_span(add_span, m);
	heap_unlock_all();
	meta_unmap(m->bits, size, META_SAMPLE);
}

/* ---- the whole ---- */

/* An arena's range begins at most a page before it, and may be cut into parts. */
static bool is_arenas(uintptr_t start)
{
	for (size_t i = 0; i < arena_count(); i++) {
		const struct arena *a = arena_at(i);

		if (start + PAGE_SIZE > a->base && start < a->base + a->size)
			return true;
	}
	return false;
}

static bool add_range(uintptr_t start, size_t size, void *arg)
{
	struct measure *m = arg;

	if (!is_arenas(start) && m->nranges < MAX_RANGES)
		m->ranges[m->nranges++] = (struct range){ start, size };
	return true;
}

static uint64_t own_resident(struct measure *m)
{
	uint64_t bytes = 0;

	m->ranges = meta_map(MAX_RANGES * sizeof(*m->ranges), META_SAMPLE);
	if (!m->ranges) {
		m->failed = true;
		return 0;
	}
	meta_each_range(add_range, m);
	for (size_t i = 0; i < m->nranges; i++)
		bytes += count_resident(
			m, m->ranges[i].start,
			m->ranges[i].start +
				meta_usable(m->ranges[i].start, m->ranges[i].size),
			NULL);
	meta_unmap(m->ranges, MAX_RANGES * sizeof(*m->ranges), META_SAMPLE);
	return bytes;
}

static bool find_rss(char *line, void *arg)
{
	uint64_t kib = 0;

	if (strncmp(line, "Rss:", 4) != 0)
		return true;
	for (line += 4; *line; line++)
		if (*line >= '0' && *line <= '9')
			kib = kib * 10 + (uint64_t)(*line - '0');
	*(uint64_t *)arg = kib * 1024;
	return false;
}

/* Takes bytes from the whole as far as there are any left. */
static uint64_t take(uint64_t *left, uint64_t bytes)
{
	bytes = least(*left, bytes);
	*left -= bytes;
	return bytes;
}

/* Of small slots that are given out some lie in caches; of the live ones a part is slack.
 */
static void split_heap(const struct measure *m, uint64_t *left)
{
	uint64_t heap = take(left, m->heap), resident = m->small_resident, live;
	struct sample_total t;
	struct heap_stats st;
	uint64_t idle, held, asked;

	sample_get_total(&t);
	heap_get_stats(&st);
	/* Slots in mcaches, and in transfer caches: free, but not in their spans. */
	idle = st.cached + (st.central_free - least(st.central_free, m->small_free));
	held = m->small_given - least(m->small_given, idle);
	asked = t.live_bytes - least(t.live_bytes, m->large_asked);
	if (m->small_given)
		resident = (uint64_t)((uint128)resident * held / m->small_given);
	live = held && asked < held ? (uint64_t)((uint128)resident * asked / held)
				    : resident;
	rss.part[RSS_LIVE] = take(&heap, live + m->large_live);
	rss.part[RSS_SLACK] = take(&heap, resident - live + m->large_slack);
	rss.part[RSS_FREE] = heap;
}

static void split(struct measure *m)
{
	uint64_t own = own_resident(m), left = rss.total;
	uint64_t tables = meta_bytes(META_SPAN) + meta_bytes(META_MCACHE) +
			  meta_bytes(META_CENTRAL);

	tables = least(own, tables);
	rss.part[RSS_METADATA] = take(&left, m->tables + tables);
	rss.part[RSS_PROFILER] = take(&left, own - tables);
	split_heap(m, &left);
	rss.part[RSS_OTHER] = left;
}

static void measure(struct measure *m)
{
	for (size_t i = 0; i < arena_count(); i++)
		measure_arena(m, arena_at(i));
	os_each_line("/proc/thread-self/smaps_rollup", find_rss, &rss.total);
	if (rss.total)
		split(m);
	if (m->failed)
		rss.total = 0;
}

void rss_measure(void)
{
	struct measure *m = meta_map(sizeof(*m), META_SAMPLE);

	memset(&rss, 0, sizeof(rss));
	if (!m)
		return;
	m->pagemap = os_open("/proc/thread-self/pagemap", 0, 0);
	if (m->pagemap >= 0) {
		measure(m);
		os_close(m->pagemap);
	}
	meta_unmap(m, sizeof(*m), META_SAMPLE);
}

const struct rss *rss_get(void)
{
	return &rss;
}
