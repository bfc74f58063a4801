/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freelist: see freelist.h. List i < EXACT holds runs of i + 1 pages; above, eight lists
 * to a power of two. Within one of the wide lists the shortest of the first PROBES runs
 * that fit is taken.
 */
#include "preload/heap/freelist.h"

#include "preload/base/check.h"

#define EXACT	     64
#define STEPS	     8
#define LISTS	     (EXACT + STEPS * 40)
#define WORDS	     ((LISTS + 63) / 64)
#define PROBES	     24

#define QUICK_EXACT  16 /* quick list i < QUICK_EXACT holds runs of i + 1 pages */
#define QUICK_LISTS  (QUICK_EXACT + STEPS * 3 + 1)
#define QUICK_WASTE  4 /* a quick run may be longer than asked for by 1/4 */
#define QUICK_PROBES 4
_Static_assert(QUICK_LISTS <= 64, "one word has a bit for each");

struct set {
	struct mspan *heads[LISTS];
	uint64_t nonempty[WORDS];
};

static struct {
	struct set sets[2];		 /* 0 clean, 1 dirty */
	size_t total_pages, dirty_pages; /* with the victim */
	size_t nruns;			 /* without */
	struct mspan *victim;

	/* Lists by length through next and prev; by age, oldest first, through inuse_next
	 * and inuse_prev. */
	struct {
		struct mspan *heads[QUICK_LISTS];
		uint64_t nonempty;
		struct mspan *oldest, *newest;
		size_t npages, nruns;
	} quick;
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
	freelist.total_pages += s->npages;
	freelist.dirty_pages += s->ndirty;
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
	freelist.total_pages -= s->npages;
	freelist.dirty_pages -= s->ndirty;
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

static struct mspan *best_in_list(struct mspan *s, size_t npages)
{
	struct mspan *best = NULL;

	for (int n = 0; s && (n < PROBES || !best); s = s->next, n++) {
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
	unsigned i = next_list(set, list_of(npages));

	while (i < LISTS) {
		struct mspan *s = best_in_list(set->heads[i], npages);

		if (s)
			return s;
		i = next_list(set, i + 1);
	}
	return NULL;
}

struct mspan *freelist_find(size_t npages)
{
	struct mspan *dirty = find_in_set(&freelist.sets[1], npages);

	return dirty ? dirty : find_in_set(&freelist.sets[0], npages);
}

struct mspan *freelist_victim(void)
{
	return freelist.victim;
}

void freelist_set_victim(struct mspan *s)
{
	s->state = MSPAN_VICTIM;
	freelist.victim = s;
	freelist.total_pages += s->npages;
	freelist.dirty_pages += s->ndirty;
}

struct mspan *freelist_take_victim(void)
{
	struct mspan *s = freelist.victim;

	freelist.victim = NULL;
	s->state = MSPAN_DEAD;
	freelist.total_pages -= s->npages;
	freelist.dirty_pages -= s->ndirty;
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

size_t freelist_quick_pages(void)
{
	return freelist.quick.npages;
}

/* Eight lists to a power of two above QUICK_EXACT. */
static unsigned quick_list_of(size_t npages)
{
	unsigned lg;

	if (npages <= QUICK_EXACT)
		return (unsigned)npages - 1;
	lg = 63u - (unsigned)__builtin_clzl(npages);
	return QUICK_EXACT - 1 + (lg - 4) * STEPS +
	       ((unsigned)(npages >> (lg - 3)) & (STEPS - 1));
}

static void enter_age(struct mspan *s)
{
	s->inuse_next = NULL;
	s->inuse_prev = freelist.quick.newest;
	if (s->inuse_prev)
		s->inuse_prev->inuse_next = s;
	else
		freelist.quick.oldest = s;
	freelist.quick.newest = s;
}

static void leave_age(const struct mspan *s)
{
	if (s->inuse_prev)
		s->inuse_prev->inuse_next = s->inuse_next;
	else
		freelist.quick.oldest = s->inuse_next;
	if (s->inuse_next)
		s->inuse_next->inuse_prev = s->inuse_prev;
	else
		freelist.quick.newest = s->inuse_prev;
}

void freelist_put_quick(struct mspan *s)
{
	unsigned i = quick_list_of(s->npages);

	s->state = MSPAN_VICTIM;
	s->prev = NULL;
	s->next = freelist.quick.heads[i];
	if (s->next)
		s->next->prev = s;
	freelist.quick.heads[i] = s;
	freelist.quick.nonempty |= (uint64_t)1 << i;
	enter_age(s);
	freelist.quick.nruns++;
	freelist.quick.npages += s->npages;
	freelist.total_pages += s->npages;
	freelist.dirty_pages += s->ndirty;
}

static struct mspan *take_quick(struct mspan *s)
{
	unsigned i = quick_list_of(s->npages);

	if (s->prev)
		s->prev->next = s->next;
	else
		freelist.quick.heads[i] = s->next;
	if (s->next)
		s->next->prev = s->prev;
	if (!freelist.quick.heads[i])
		freelist.quick.nonempty &= ~((uint64_t)1 << i);
	leave_age(s);
	freelist.quick.nruns--;
	freelist.quick.npages -= s->npages;
	freelist.total_pages -= s->npages;
	freelist.dirty_pages -= s->ndirty;
	s->state = MSPAN_DEAD;
	return s;
}

struct mspan *freelist_take_quick(size_t npages)
{
	struct mspan *s;
	uint64_t longer;
	unsigned i;

	if (freelist.quick.nonempty == 0 || npages > FREELIST_QUICK_PAGES)
		return NULL;
	i = quick_list_of(npages);
	s = freelist.quick.heads[i];
	for (int n = 0; s && n < QUICK_PROBES; s = s->next, n++)
		if (s->npages >= npages)
			return take_quick(s);
	longer = freelist.quick.nonempty & ~(((uint64_t)2 << i) - 1);
	if (longer == 0)
		return NULL;
	s = freelist.quick.heads[__builtin_ctzl(longer)];
	return s->npages - npages <= npages / QUICK_WASTE ? take_quick(s) : NULL;
}

struct mspan *freelist_take_oldest_quick(void)
{
	return freelist.quick.oldest ? take_quick(freelist.quick.oldest) : NULL;
}

struct mspan *freelist_take_quick_at(struct mspan *s, uintptr_t base)
{
	if (!s || s->state != MSPAN_VICTIM || s == freelist.victim || s->base != base)
		return NULL;
	return take_quick(s);
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

size_t freelist_dirty_pages(void)
{
	return freelist.dirty_pages;
}

size_t freelist_total_pages(void)
{
	return freelist.total_pages;
}

size_t freelist_count(void)
{
	return freelist.nruns + (freelist.victim != NULL) + freelist.quick.nruns;
}
