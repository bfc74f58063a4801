/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freelist: see freelist.h. List i < EXACT holds runs of i + 1 pages; above, eight lists
 * to a power of two. Within one of the wide lists the shortest of the first PROBES runs
 * that fit is taken. In the list of npages itself there may be many that nearly fit: when
 * SEARCH of them do not, longer ones are cut, and the rest is looked at only where memory
 * is short.
 */
#include "preload/heap/freelist.h"

#include "preload/base/check.h"

#define EXACT  64
#define STEPS  8
#define LISTS  (EXACT + STEPS * 40)
#define WORDS  ((LISTS + 63) / 64)
#define PROBES 24
#define SEARCH 96
#define LONG   (1 * MIB >> PAGE_SHIFT)
#define HOLE   16 /* pages, at most, of one */
_Static_assert(HOLE < EXACT, "the first word has a list for each length");

struct set {
	struct mspan *heads[LISTS];
	uint64_t nonempty[WORDS];
};

static struct {
	struct set sets[2];		 /* 0 clean, 1 dirty */
	size_t total_pages, dirty_pages; /* with the victim */
	size_t long_pages;		 /* dirty ones in runs of LONG and more */
	size_t nruns;			 /* without */
	struct mspan *victim;
} freelist;

/* The list for runs of npages: lists are in ascending order of length. */
static unsigned list_of(size_t npages)
{
	unsigned lg, step;

	if (npages <= EXACT)
		return (unsigned)npages - 1;
	lg = 63u - (unsigned)__builtin_clzl(npages);
	step = (unsigned)(npages >> (lg - 3)) & (STEPS - 1);
	return EXACT + (lg - 6) * STEPS + step;
}

/* s comes or goes. */
static void count(const struct mspan *s, bool in)
{
	size_t dirty = in ? s->ndirty : 0 - s->ndirty;

	freelist.total_pages += in ? s->npages : 0 - s->npages;
	freelist.dirty_pages += dirty;
	if (s->npages >= LONG)
		freelist.long_pages += dirty;
}

static struct set *set_of(const struct mspan *s)
{
	return &freelist.sets[s->ndirty > 0];
}

void freelist_insert(struct mspan *s)
{
	struct set *set = set_of(s);
	unsigned i = list_of(s->npages);

	s->state = MSPAN_FREE;
	s->prev = NULL;
	s->next = set->heads[i];
	if (s->next)
		s->next->prev = s;
	set->heads[i] = s;
	set->nonempty[i / 64] |= (uint64_t)1 << (i % 64);
	freelist.nruns++;
	count(s, true);
}

void freelist_remove(struct mspan *s)
{
	struct set *set = set_of(s);
	unsigned i = list_of(s->npages);

	if (s->prev)
		s->prev->next = s->next;
	else
		set->heads[i] = s->next;
	if (s->next)
		s->next->prev = s->prev;
	if (!set->heads[i])
		set->nonempty[i / 64] &= ~((uint64_t)1 << (i % 64));
	s->next = s->prev = NULL;
	s->state = MSPAN_DEAD; /* no neighbour may absorb it now */
	freelist.nruns--;
	count(s, false);
}

/* First list at or after i that is not empty, or LISTS. */
static unsigned next_list(const struct set *set, unsigned i)
{
	unsigned word = i / 64;
	uint64_t bits;

	if (i >= LISTS)
		return LISTS;
	bits = set->nonempty[word] & (~(uint64_t)0 << (i % 64));
	while (bits == 0) {
		if (++word == WORDS)
			return LISTS;
		bits = set->nonempty[word];
	}
	return word * 64 + (unsigned)__builtin_ctzl(bits);
}

/* Looks at PROBES runs, or until one fits, but at no more than most. */
static struct mspan *best_in_list(const struct set *set, unsigned i, size_t npages,
				  size_t most)
{
	struct mspan *best = NULL, *s = i < LISTS ? set->heads[i] : NULL;

	for (size_t n = 0; s && n < most && (n < PROBES || !best); s = s->next, n++) {
		if (s->npages < npages || (best && best->npages <= s->npages))
			continue;
		best = s;
		if (best->npages == npages)
			break;
	}
	return best;
}

static struct mspan *find_in_set(const struct set *set, size_t npages)
{
	const unsigned first = list_of(npages);
	struct mspan *s = best_in_list(set, first, npages, SEARCH);
	unsigned i;

	if (s)
		return s;
	i = next_list(set, first + 1); /* all of them fit */
	return best_in_list(set, i, npages, PROBES);
}

struct mspan *freelist_find(size_t npages)
{
	struct mspan *dirty = find_in_set(&freelist.sets[1], npages);

	return dirty ? dirty : find_in_set(&freelist.sets[0], npages);
}

struct mspan *freelist_search(size_t npages)
{
	const unsigned first = list_of(npages);
	struct mspan *s = freelist_find(npages);

	if (!s)
		s = best_in_list(&freelist.sets[1], first, npages, SIZE_MAX);
	if (!s)
		s = best_in_list(&freelist.sets[0], first, npages, SIZE_MAX);
	return s;
}

struct mspan *freelist_victim(void)
{
	return freelist.victim;
}

void freelist_set_victim(struct mspan *s)
{
	s->state = MSPAN_VICTIM;
	freelist.victim = s;
	count(s, true);
}

struct mspan *freelist_take_victim(void)
{
	struct mspan *s = freelist.victim;

	freelist.victim = NULL;
	s->state = MSPAN_DEAD;
	count(s, false);
	return s;
}

bool freelist_prefers_victim(size_t npages)
{
	const struct mspan *v = freelist.victim;
	const uint64_t *nonempty;
	unsigned from, to;

	if (!v || v->npages < npages ||
	    (v->ndirty == 0 && freelist.dirty_pages > 0)) /* dirty runs come first */
		return false;
	nonempty = freelist.sets[v->ndirty > 0].nonempty;
	from = list_of(npages);
	to = list_of(v->npages);
	for (unsigned w = from / 64; w <= to / 64; w++) {
		uint64_t bits = nonempty[w];

		if (w == from / 64)
			bits &= ~(uint64_t)0 << (from % 64);
		if (w == to / 64)
			bits &= ((uint64_t)1 << (to % 64)) - 1;
		if (bits)
			return false;
	}
	return true;
}

struct mspan *freelist_longest_dirty(void)
{
	const struct set *set = &freelist.sets[1];

	for (unsigned w = WORDS; w > 0; w--) {
		uint64_t bits = set->nonempty[w - 1];

		if (bits)
			return set->heads[(w - 1) * 64 + 63 -
					  (unsigned)__builtin_clzl(bits)];
	}
	return NULL;
}

struct mspan *freelist_dirty_hole(void)
{
	const struct set *set = &freelist.sets[1];
	uint64_t bits = set->nonempty[0] & (((uint64_t)1 << HOLE) - 1);

	return bits ? set->heads[63 - (unsigned)__builtin_clzl(bits)] : NULL;
}

size_t freelist_dirty_pages(void)
{
	return freelist.dirty_pages;
}

size_t freelist_short_pages(void)
{
	return freelist.dirty_pages - freelist.long_pages;
}

size_t freelist_total_pages(void)
{
	return freelist.total_pages;
}

size_t freelist_count(void)
{
	return freelist.nruns + (freelist.victim != NULL);
}
