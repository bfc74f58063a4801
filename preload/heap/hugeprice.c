/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hugeprice: see hugeprice.h.
 *
 * The clock is the thread's: that of the wall often counts other programs' turns, too.
 */
#include "preload/heap/hugeprice.h"

#include "preload/base/os.h"

/* Above what small pages cost where faults are slow, below what any page costs that the
 * host has to find first. */
#define DEAR_NS	     1500000
#define DEAR_FOR_LG2 2 /* until the heap is four times as large */
/* From then on the price is not asked: what reads or copies the page tables, such as a
 * leak check of the running process, needs huge pages there. */
#define LARGE_HEAP (128 * MIB)

static struct {
	size_t again_bytes; /* heap size from which the next one may be tried */
} price;

bool hugeprice_is_fair(size_t heap_bytes)
{
	return heap_bytes >= price.again_bytes;
}

void hugeprice_note(uint64_t ns, size_t heap_bytes)
{
	size_t again = heap_bytes << DEAR_FOR_LG2;

	if (ns > DEAR_NS)
		price.again_bytes = again < LARGE_HEAP ? again : LARGE_HEAP;
}

void hugeprice_advise(uintptr_t lo, uintptr_t hi, size_t heap_bytes)
{
	uint64_t before;

	if (lo >= hi || !hugeprice_is_fair(heap_bytes))
		return;
	if (heap_bytes >= LARGE_HEAP) {
		os_hugepage((void *)lo, hi - lo, true);
		return;
	}
	if (!os_hugepage((void *)lo, HUGE_PAGE, true))
		return;
	before = os_thread_ns();
	*(volatile char *)lo = 0; /* nobody has it yet */
	hugeprice_note(os_thread_ns() - before, heap_bytes);
	lo += HUGE_PAGE;
	if (lo < hi && hugeprice_is_fair(heap_bytes))
		os_hugepage((void *)lo, hi - lo, true);
}
