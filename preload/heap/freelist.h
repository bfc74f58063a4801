/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freelist: the lists of free runs, by length and by whether they hold memory. All
 * functions need mheap's lock.
 *
 * One run may be kept out of the lists, the victim (so called since Lea's malloc): large
 * objects that come and go are cut off it and merged with it again, which is a tenth of
 * the work. Its neighbours do not merge with it, and nothing points to it, until it is
 * entered into the lists.
 */
#ifndef PRELOAD_HEAP_FREELIST_H
#define PRELOAD_HEAP_FREELIST_H

#include "preload/heap/mspan.h"

void freelist_insert(struct mspan *s); /* s->npages, s->ndirty are final */
void freelist_remove(struct mspan *s);
/* The best run of at least npages, still in its list; NULL: none, or many that nearly fit
 * hide it. */
struct mspan *freelist_find(size_t npages);
/* The same, if need be among all runs. */
struct mspan *freelist_search(size_t npages);
/* The longest run that holds memory, NULL: none. */
struct mspan *freelist_longest_dirty(void);
/* The victim, NULL: none; as one of the lists' runs it counts among the totals. */
struct mspan *freelist_victim(void);
void freelist_set_victim(struct mspan *s);
struct mspan *freelist_take_victim(void);
/* Would freelist_find() choose the victim, were it in a list? */
bool freelist_prefers_victim(size_t npages);
/* The longest dirty run of a few pages, or NULL. */
struct mspan *freelist_dirty_hole(void);
size_t freelist_dirty_pages(void);
size_t freelist_short_pages(void); /* dirty ones, in runs of less than a megabyte */
size_t freelist_total_pages(void);
size_t freelist_count(void); /* of runs */

#endif
