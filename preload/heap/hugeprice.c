/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hugeprice: see hugeprice.h.
 *
 * The clock is the thread's: that of the wall often counts other programs' turns, too.
 */
#include "preload/heap/hugeprice.h"

#include "preload/base/meta.h"
#include "preload/base/os.h"

/* Above what small pages cost where faults are slow, below what any page costs that the
 * host has to find first. */
#define DEAR_NS	     1500000
#define DEAR_FOR_LG2 2 /* until the heap is four times as large */
/* From then on the price is not asked: what reads or copies the page tables, such as a
 * leak check of the running process, needs huge pages there, and small pages that the
 * host need not find are few in number, too. */
#define LARGE_HEAP (512 * MIB)
/* Huge pages saved interpreters a tenth of their time, whatever the size of the heap, and
 * a dear one costs 4 to 6 ms more than small pages. So they are worth it when the program
 * has run, and so is likely to run, for ten times what they cost for the whole heap. */
#define LONG_RUN_NS   (50000000 * (uint64_t)(MIB) / HUGE_PAGE) /* for a MiB of heap */
#define LONG_LEAST_NS 2000000000u
/* Of a large object. */
#define MOST_TRIED 32

static struct {
	size_t again_bytes; /* heap size from which the next one may be tried */
} price;

bool hugeprice_is_fair(size_t heap_bytes, uint64_t cpu_ns)
{
	return heap_bytes >= price.again_bytes ||
	       (cpu_ns >= LONG_LEAST_NS && cpu_ns >= heap_bytes / MIB * LONG_RUN_NS);
}

void hugeprice_note(uint64_t ns, size_t heap_bytes)
{
	size_t again = heap_bytes << DEAR_FOR_LG2;

	if (ns > DEAR_NS)
		price.again_bytes = again < LARGE_HEAP ? again : LARGE_HEAP;
	meta_want_huge(ns <= DEAR_NS);
}

/* The huge page at lo is advised and faulted in. False: that was refused, or dear. */
static bool try_one(uintptr_t lo, size_t heap_bytes)
{
	uint64_t before;

	if (!os_hugepage((void *)lo, HUGE_PAGE, true))
		return false;
	before = os_thread_ns();
	*(volatile char *)lo = 0; /* nobody has it yet */
	hugeprice_note(os_thread_ns() - before, heap_bytes);
	return hugeprice_is_fair(heap_bytes, 0);
}

void hugeprice_advise(uintptr_t lo, uintptr_t hi, size_t heap_bytes)
{
	uint64_t cpu_ns;
	size_t ntry;

	if (lo >= hi)
		return;
	cpu_ns = price.again_bytes > heap_bytes ? os_process_ns() : 0;
	if (!hugeprice_is_fair(heap_bytes, cpu_ns))
		return;
	if (heap_bytes < LARGE_HEAP && cpu_ns == 0) { /* else whatever it costs */
		ntry = ((hi - lo) / HUGE_PAGE + 1) / 2;
		ntry = ntry < MOST_TRIED ? ntry : MOST_TRIED;
		for (; ntry > 0; ntry--, lo += HUGE_PAGE)
			if (!try_one(lo, heap_bytes))
				return;
	} else {
		meta_want_huge(true);
	}
	if (lo < hi)
		os_hugepage((void *)lo, hi - lo, true);
}
