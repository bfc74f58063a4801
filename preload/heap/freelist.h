/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freelist: the lists of free runs, by length and by whether they hold memory. All
 * functions need mheap's lock.
 */
#ifndef PRELOAD_HEAP_FREELIST_H
#define PRELOAD_HEAP_FREELIST_H

#include "preload/heap/mspan.h"

void freelist_insert(struct mspan *s); /* s->npages, s->ndirty are final */
void freelist_remove(struct mspan *s);
/* The best run of at least npages, still in its list; NULL: none. */
struct mspan *freelist_find(size_t npages);
/* The longest run that holds memory, NULL: none. */
struct mspan *freelist_longest_dirty(void);
size_t freelist_dirty_pages(void);
size_t freelist_total_pages(void);
size_t freelist_count(void); /* of runs */

#endif
