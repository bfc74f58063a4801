/* SPDX-License-Identifier: Apache-2.0 */
/*
 * info: mallinfo, malloc_info, malloc_stats, malloc_trim and mallopt, all about our heap.
 */
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>

#include "preload/api/api.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/sizeclass.h"

#define STATS_CLASSES 16 /* rows of malloc_stats() */

/*
 * What glibc's words mean here: an ordinary free block is a free slot or a run of free
 * pages, a mapped region a large object. The heap's bookkeeping is in use, as glibc's
 * headers are. There are no fast blocks: slots in a thread's cache are free bytes and
 * nothing else, most of them were never given out, and glibc does not count its own
 * thread caches there either.
 */
EXPORT struct mallinfo2 mallinfo2(void)
{
	struct heap_stats st;
	struct mallinfo2 m = { 0 };
	size_t bookkeeping = meta_bytes(META_SPAN) + meta_bytes(META_MCACHE) +
			     meta_bytes(META_CENTRAL);

	heap_get_stats(&st);
	m.arena = st.inuse_small + st.free_dirty + st.free_clean + bookkeeping;
	m.ordblks = st.nfree_runs + st.nfree_slots + st.ncached;
	m.hblks = st.nlarge;
	m.hblkhd = st.inuse_large;
	m.uordblks = bookkeeping;
	if (st.live_bytes > st.inuse_large)
		m.uordblks += st.live_bytes - st.inuse_large;
	m.fordblks = m.arena - m.uordblks;
	m.keepcost = st.free_dirty;
	return m;
}

static int saturate(size_t value)
{
	return value < INT_MAX ? (int)value : INT_MAX;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
EXPORT struct mallinfo mallinfo(void)
{
	struct mallinfo2 w = mallinfo2();
	struct mallinfo m = {
		.arena = saturate(w.arena),
		.ordblks = saturate(w.ordblks),
		.hblks = saturate(w.hblks),
		.hblkhd = saturate(w.hblkhd),
		.uordblks = saturate(w.uordblks),
		.fordblks = saturate(w.fordblks),
		.keepcost = saturate(w.keepcost),
	};

	return m;
}
#pragma GCC diagnostic pop

EXPORT int malloc_trim(size_t pad)
{
	(void)pad;
	return heap_trim();
}

/* Known parameters are accepted and have no effect: our heap has no such knobs. */
EXPORT int mallopt(int param, int value)
{
	(void)value;
	switch (param) {
	case M_MXFAST:
	case M_TRIM_THRESHOLD:
	case M_TOP_PAD:
	case M_MMAP_THRESHOLD:
	case M_MMAP_MAX:
	case M_CHECK_ACTION:
	case M_PERTURB:
	case M_ARENA_TEST:
	case M_ARENA_MAX:
		return 1;
	default:
		return 0;
	}
}

static bool stdio_sink(void *arg, const char *bytes, size_t size)
{
	return fwrite(bytes, 1, size, arg) == size;
}

EXPORT int malloc_info(int options, FILE *stream)
{
	struct heap_stats st;
	char buf[512];
	struct out o;

	if (options != 0) {
		errno = EINVAL;
		return -1;
	}
	heap_get_stats(&st);
	out_init(&o, buf, sizeof(buf), stdio_sink, stream);
	out_format(&o, "<malloc version=\"seep-1\">\n<heap nr=\"0\">\n");
	out_format(&o, "<system type=\"current\" size=\"%zu\"/>\n", st.committed);
	out_format(&o, "<system type=\"max\" size=\"%zu\"/>\n",
		   st.peak_inuse > st.committed ? st.peak_inuse : st.committed);
	out_format(&o, "<inuse type=\"small\" size=\"%zu\"/>\n", st.inuse_small);
	out_format(&o, "<inuse type=\"large\" count=\"%zu\" size=\"%zu\"/>\n", st.nlarge,
		   st.inuse_large);
	out_format(&o, "<total type=\"live\" size=\"%zu\"/>\n", st.live_bytes);
	out_format(&o, "<total type=\"cached\" size=\"%zu\"/>\n", st.cached);
	out_format(&o, "<total type=\"rest\" size=\"%zu\"/>\n",
		   st.free_dirty + st.central_free + st.tails);
	out_format(&o, "<aspace type=\"total\" size=\"%zu\"/>\n", st.reserved);
	out_format(&o, "</heap>\n</malloc>\n");
	return out_flush(&o) ? 0 : -1;
}

static bool stderr_sink(void *arg, const char *bytes, size_t size)
{
	(void)arg;
	return os_write_all(2, bytes, size) == (long)size;
}

static size_t percent(size_t part, size_t whole)
{
	return whole ? (size_t)((uint128)part * 100 / whole) : 0;
}

static void print_class(struct out *o, unsigned c)
{
	struct heap_class_stats k;

	heap_get_class_stats(c, &k);
	out_format(o, "seep:   %5u %8zu %6zu %15zu %7zu %7zu %8zu %8zu %4zu%%\n", c,
		   k.slot_size, k.nspans, k.span_bytes / KIB, k.live, k.free, k.transfer,
		   k.cached, 100 - percent(k.live * k.slot_size, k.span_bytes));
}

/* The size classes that take most memory, biggest first. */
static NOINLINE void print_classes(struct out *o)
{
	size_t bytes[SIZECLASS_COUNT] = { 0 };

	for (unsigned c = 1; c < SIZECLASS_COUNT; c++) {
		struct heap_class_stats k;

		heap_get_class_stats(c, &k);
		bytes[c] = k.span_bytes;
	}
	out_format(o, "seep:   class    bytes  spans  in spans (KiB)    live    free "
		      "transfer   "
		      "cached waste\n");
	for (int row = 0; row < STATS_CLASSES; row++) {
		unsigned most = 0;

		for (unsigned c = 1; c < SIZECLASS_COUNT; c++)
			if (bytes[c] > bytes[most])
				most = c;
		if (most == 0)
			break;
		print_class(o, most);
		bytes[most] = 0;
	}
}

static NOINLINE void print_metadata(struct out *o)
{
	char line[256];
	size_t at = 0;

	line[0] = '\0';
	for (int t = 0; t < META_TAG_COUNT; t++) {
		size_t bytes = meta_bytes((enum meta_tag)t);

		if (bytes >= KIB)
			at += fmt_string(line + at, sizeof(line) - at, " %s %zu",
					 meta_tag_name((enum meta_tag)t), bytes / KIB);
	}
	out_format(o, "seep: metadata %zu KiB:%s\n", meta_bytes_total() / KIB, line);
}

/* The lines of glibc's malloc_stats(), for whoever looks for them. */
static NOINLINE void print_totals(struct out *o, const struct heap_stats *st)
{
	out_format(o,
		   "Total (incl. mmap):\nsystem bytes     = %10zu\n"
		   "in use bytes     = %10zu\nmax mmap regions = %10zu\n"
		   "max mmap bytes   = %10zu\n",
		   st->inuse_small + st->inuse_large + st->free_dirty, st->live_bytes,
		   st->nlarge, st->inuse_large);
}

/* One screen on descriptor 2, whatever the program has there: it asked for it. In use =
 * live objects of the program; spans = pages cut into slots; waste = part of a class's
 * spans that no live object has. */
EXPORT void malloc_stats(void)
{
	struct heap_stats st;
	char buf[256];
	struct out o;

	heap_get_stats(&st);
	out_init(&o, buf, sizeof(buf), stderr_sink, NULL);
	out_format(&o,
		   "seep: in use %zu KiB (large objects: %zu in %zu KiB), most pages "
		   "ever %zu KiB\n",
		   st.live_bytes / KIB, st.nlarge, st.inuse_large / KIB,
		   st.peak_inuse / KIB);
	out_format(
		&o,
		"seep: spans of small objects %zu KiB: free slots %zu KiB, in %zu thread "
		"caches %zu KiB\n",
		st.inuse_small / KIB, st.central_free / KIB, st.nmcaches,
		st.cached / KIB);
	out_format(&o,
		   "seep: free pages: dirty %zu KiB, clean %zu KiB; given back so far "
		   "%lu KiB\n",
		   st.free_dirty / KIB, st.free_clean / KIB, st.npurged_bytes / KIB);
	out_format(
		&o,
		"seep: address space: %zu KiB usable of %zu KiB; foreign pointers %lu\n",
		st.committed / KIB, st.reserved / KIB, st.nforeign);
	print_metadata(&o);
	print_classes(&o);
	print_totals(&o, &st);
	out_flush(&o);
}
