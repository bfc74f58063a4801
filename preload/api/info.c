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
#include "preload/heap/heap.h"

EXPORT struct mallinfo2 mallinfo2(void)
{
	struct heap_stats st;
	struct mallinfo2 m = { 0 };

	heap_get_stats(&st);
	m.arena = st.inuse_small + st.free_dirty + st.free_clean;
	m.ordblks = st.nspans;
	m.hblks = st.nlarge;
	m.hblkhd = st.inuse_large;
	m.uordblks = st.live_bytes > st.inuse_large ? st.live_bytes - st.inuse_large : 0;
	m.fordblks = m.arena - m.uordblks;
	m.fsmblks = st.cached;
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
		.fsmblks = saturate(w.fsmblks),
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
	out_format(&o, "<system type=\"max\" size=\"%zu\"/>\n", st.peak_inuse);
	out_format(&o, "<inuse type=\"small\" size=\"%zu\"/>\n", st.inuse_small);
	out_format(&o, "<inuse type=\"large\" count=\"%zu\" size=\"%zu\"/>\n", st.nlarge,
		   st.inuse_large);
	out_format(&o, "<total type=\"live\" size=\"%zu\"/>\n", st.live_bytes);
	out_format(&o, "<total type=\"cached\" size=\"%zu\"/>\n", st.cached);
	out_format(&o, "<total type=\"rest\" size=\"%zu\"/>\n",
		   st.free_dirty + st.central_free);
	out_format(&o, "<aspace type=\"total\" size=\"%zu\"/>\n", st.reserved);
	out_format(&o, "</heap>\n</malloc>\n");
	return out_flush(&o) ? 0 : -1;
}

EXPORT void malloc_stats(void)
{
	struct heap_stats st;

	heap_get_stats(&st);
	log_line("live %zu bytes, peak of spans %zu, committed %zu of %zu reserved",
		 st.live_bytes, st.peak_inuse, st.committed, st.reserved);
	log_line("small spans %zu bytes, large objects %zu in %zu bytes", st.inuse_small,
		 st.nlarge, st.inuse_large);
	log_line(
		"free: dirty pages %zu, clean pages %zu, in spans %zu, in %zu caches %zu",
		st.free_dirty, st.free_clean, st.central_free, st.nmcaches, st.cached);
	log_line("metadata %zu bytes, given back %lu, foreign pointers %lu",
		 meta_bytes_total(), st.npurged_bytes, st.nforeign);
}
