/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sizeclass: the map from a size in bytes to a size class.
 *
 * Classes are 16 bytes apart up to 256 bytes; above, each power of two is cut into eight
 * equal steps, one of them in two, so at most 1/9 of a slot is lost to rounding. Class 0
 * is no class: its byte in the page map means "take the slow path".
 */
#ifndef PRELOAD_HEAP_SIZECLASS_H
#define PRELOAD_HEAP_SIZECLASS_H

#include "preload/base/base.h"

#define SIZECLASS_COUNT	   74	 /* classes 0 to 73 */
#define SIZECLASS_MAX_SIZE 32768 /* largest small object, bytes */
#define SIZECLASS_FINE_MAX 1024	 /* sizes up to this use the 16-byte table */

struct sizeclass_info {
	uint32_t slot_size; /* bytes given */
	uint32_t npages;    /* pages of one span */
	uint32_t nslots;    /* objects of one span */
	uint32_t magic; /* ceil(2^35 / slot_size): offset -> index, see mspan_index_of */
	uint16_t cache_max; /* most pointers an mcache array of this class may hold */
	uint16_t batch;	    /* pointers moved at once between mcache and mcentral */
};

extern const struct sizeclass_info sizeclass_info[SIZECLASS_COUNT];
extern const uint8_t sizeclass_fine[SIZECLASS_FINE_MAX / 16 + 1];
extern const uint8_t sizeclass_coarse[SIZECLASS_MAX_SIZE / 128 + 1];

/* FAST. Class of a size of 0 to SIZECLASS_MAX_SIZE bytes. */
static inline unsigned sizeclass_of(size_t size)
{
	if (LIKELY(size <= SIZECLASS_FINE_MAX))
		return sizeclass_fine[(size + 15) >> 4];
	return sizeclass_coarse[(size + 127) >> 7];
}

/* SLOW. Pages of a span of a class that has hardly any: see sizeclass.c. */
uint32_t sizeclass_short_pages(unsigned sizeclass);

/* SLOW. Smallest class whose slots all lie on multiples of align (a power of two up to a
 * page) and hold size bytes; 0 when there is none. */
unsigned sizeclass_of_aligned(size_t size, size_t align);

#endif
