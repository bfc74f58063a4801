/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code: see code.h.
 */
#include "profiler/site/code.h"

#include <string.h>

#include "preload/base/meta.h"
#include "profiler/site/store.h"

#define OFFSET_MASK ((1u << CODE_LG_REGION) - 1)
#define LONG_CHUNK  (1u << CODE_LG_CHUNK)

struct codes codes;

static uint32_t code_of(uint32_t number, uintptr_t pc)
{
	return number << CODE_LG_REGION | (uint32_t)(pc & OFFSET_MASK);
}

uintptr_t code_pc(uint32_t code)
{
	uint32_t number = code >> CODE_LG_REGION, offset = code & OFFSET_MASK;

	if (LIKELY(number < CODE_REGIONS))
		return atomic_load_relaxed(&codes.regions[number]) << CODE_LG_REGION |
		       offset;
	if (number != CODE_LONG || offset > atomic_load_acquire(&codes.nlong))
		return 0;
	return atomic_load_acquire(
		&codes.long_pcs[offset >> CODE_LG_CHUNK])[offset % LONG_CHUNK];
}

static uint8_t *hint_of(uint64_t region)
{
	return &codes.hints[region * 0x9e3779b97f4a7c15u >> 58];
}

uint32_t code_find(uintptr_t pc)
{
	uint64_t region = pc >> CODE_LG_REGION;
	uint8_t *hint = hint_of(region);
	uint32_t n = atomic_load_acquire(&codes.count), i = atomic_load_relaxed(hint);

	if (LIKELY(i - 1 < n) && LIKELY(atomic_load_relaxed(&codes.regions[i]) == region))
		return code_of(i, pc);
	for (i = 1; i <= n; i++) {
		if (atomic_load_relaxed(&codes.regions[i]) != region)
			continue;
		atomic_store_relaxed(hint, (uint8_t)i);
		return code_of(i, pc);
	}
	return 0;
}

static uint32_t make_long(uintptr_t pc)
{
	uint32_t at = codes.nlong + 1, i = at >> CODE_LG_CHUNK;
	uint64_t *chunk;

	if (i >= CODE_CHUNKS)
		return 0;
	chunk = codes.long_pcs[i];
	if (!chunk) {
		size_t bytes = LONG_CHUNK * sizeof(*chunk);

		chunk = store_chunk(STORE_PCS, i, bytes);
		if (!chunk)
			chunk = meta_alloc(bytes, CACHE_LINE, META_SITE);
		if (!chunk)
			return 0;
		atomic_store_release(&codes.long_pcs[i], chunk);
	}
	atomic_store_relaxed(&chunk[at % LONG_CHUNK], pc);
	atomic_store_release(&codes.nlong, at);
	store_set_count(STORE_PCS, at);
	return CODE_LONG << CODE_LG_REGION | at;
}

/* Labels are no addresses, and would take all regions. */
static bool is_address(uintptr_t pc)
{
	return pc >> 48 == 0;
}

uint32_t code_make(uintptr_t pc)
{
	uint32_t code = code_find(pc), number = codes.count + 1;

	if (code)
		return code;
	if (!is_address(pc) || number >= CODE_REGIONS)
		return make_long(pc);
	atomic_store_relaxed(&codes.regions[number], pc >> CODE_LG_REGION);
	store_put_region(number, pc >> CODE_LG_REGION);
	atomic_store_release(&codes.count, number);
	return code_of(number, pc);
}

void code_adopt(const struct store_header *h)
{
	const uintptr_t base = (uintptr_t)h;

	codes.count = CODE_REGIONS - 1;
	memcpy(codes.regions, h->regions, sizeof(codes.regions));
	codes.nlong = store_counted(h, STORE_PCS);
	for (uint32_t i = 0; i <= codes.nlong >> CODE_LG_CHUNK; i++)
		codes.long_pcs[i] = (void *)(base + h->pc_chunks[i]);
}
