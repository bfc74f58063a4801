/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcentral: for each size class, the spans with free slots and a transfer cache: pointers
 * that one thread's mcache gave back and another's may take, without a look at the spans.
 *
 * Locks: one per class, rank MCENTRAL. A transfer cache holds slots whose alloc bit is
 * set.
 */
#ifndef PRELOAD_HEAP_MCENTRAL_H
#define PRELOAD_HEAP_MCENTRAL_H

#include "preload/base/base.h"

struct mcache;

/* The caller, whose mcache is mc, or NULL, holds the class's lock. Fills out[0..want)
 * with free slots, lowest address last, so that popping from the end ascends. Returns how
 * many; 0: memory is out. */
uint32_t mcentral_take_locked(unsigned sizeclass, const struct mcache *mc, void **out,
			      uint32_t want);
/* The caller holds the class's lock. Takes n pointers back, to their spans if they are to
 * go home. Aborts with a message when one of them is no allocated slot of the class: a
 * double or an invalid free. */
void mcentral_give_locked(unsigned sizeclass, void *const *pointers, uint32_t n,
			  bool home);
/* Without the lock. Should these pointers of mc go home? So it is where they were freed
 * in no order and mc itself is about to take others: from a span it gets neighbours. */
bool mcentral_should_go_home(unsigned sizeclass, const struct mcache *mc,
			     void *const *pointers, uint32_t n);

/* SLOW. The caller holds the class's lock. One of the pointers that lies in the transfer
 * cache already, among the newest so many; NULL: none. */
const void *mcentral_find_any_locked(unsigned sizeclass, void *const *pointers,
				     uint32_t n, uint32_t newest);

/* SLOW. Does p lie in the transfer cache? */
bool mcentral_holds(unsigned sizeclass, const void *p);

void mcentral_lock(unsigned sizeclass);
bool mcentral_try_lock(unsigned sizeclass);
void mcentral_unlock(unsigned sizeclass);
/* Every class, in order; for fork and the leak check. */
void mcentral_lock_all(void);
void mcentral_unlock_all(void);
void mcentral_reset_locks(void); /* forked child */

/* With the locks held: every pointer in the transfer caches. */
void mcentral_each_cached(void (*fn)(uintptr_t slot, void *arg), void *arg);
/* Empties the transfer caches into the spans, and the spans into mheap. SLOW. */
void mcentral_trim(void);
/* Called for each class now and then: what nobody took since the last call goes back,
 * half of the transfer cache and the empty span. Does nothing while the class is busy.
 * SLOW. */
void mcentral_decay(unsigned sizeclass);
/* What a class has. */
struct mcentral_counts {
	uint32_t nspans;
	uint32_t ntransfer;	/* pointers in the transfer cache */
	uint64_t npages;	/* of its spans */
	uint64_t nslots, nfree; /* in them */
};
void mcentral_count(unsigned sizeclass, struct mcentral_counts *out);
/* Bytes of free slots in spans and transfer caches, and how many; and of what no slot has
 * at the ends of spans. */
size_t mcentral_free_bytes(size_t *out_slots, size_t *out_tails);

#endif
