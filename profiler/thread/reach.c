/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach: what memory those who run can find, see blocked.h.
 *
 * Handles: a pthread_t is the address of the thread's descriptor. libc has that address
 * itself, in the descriptor and in that of a thread that is joined; the lists of all
 * threads hold another one. So a word that equals it, and lies in no descriptor but among
 * the values of pthread_setspecific(), is a handle of the program's.
 */
#include <errno.h>
#include <link.h>
#include <string.h>
#include <unistd.h>

#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "profiler/leak/hidden.h"
#include "profiler/stack/dynsym.h"
#include "profiler/stack/loader.h"
#include "profiler/thread/blocked_int.h"
#include "profiler/thread/inflight.h"
#include "profiler/leak/kernelrefs.h"

#define RED_ZONE	 128
#define DESCRIPTOR	 2304 /* bytes of libc's thread descriptor, or more */
#define SPECIFIC_BYTES	 512  /* in the descriptor, before the field "specific" */
#define HANDLE_ALIGNMENT 64
#define ADDRESS_BITS	 48
#define POINTER_TAG_BITS 16

enum { FOUND_FRAMES = 1, FOUND_STORAGE = 2 };

/* Owned by reach_prepare(). */
static struct {
	uintptr_t stack_end; /* where the main thread's first frame began */
	uint32_t specific;   /* offset in the descriptor; 0: not known */
	uintptr_t own_errno; /* where it is, as seen from the descriptor */
} libc;

static int see_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t at;
	size_t bytes;

	(void)size;
	(void)arg;
	if (dynsym_find(info, "__libc_stack_end", &at, &bytes))
		libc.stack_end = *(const uintptr_t *)at;
	/* Of libthread_db's descriptions: bits, count, offset. */
	if (dynsym_find(info, "_thread_db_pthread_specific", &at, &bytes) &&
	    bytes == 3 * sizeof(uint32_t))
		libc.specific = ((const uint32_t *)at)[2];
	return 0;
}

void reach_prepare(void)
{
	loader_each(see_module, NULL);
	libc.own_errno =
		(uintptr_t)__errno_location() - (uintptr_t)__builtin_thread_pointer();
}

static void mark_register(uintptr_t word, void *arg)
{
	mark_word(arg, word);
}

static void mark_root(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct finder *f = arg;

	mark_range(&f->marker, lo, hi);
	mark_drain(&f->marker);
}

static void mark_code_root(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct finder *f = arg;

	mark_code(&f->marker, lo, hi);
	mark_drain(&f->marker);
}

static void mark_kernel_ref(uintptr_t word, void *arg)
{
	struct finder *f = arg;

	mark_word(&f->marker, word);
	mark_drain(&f->marker);
}

static void live_stack(const struct finder *f, uint32_t i, uintptr_t *lo, uintptr_t *hi)
{
	*lo = align_down(f->w->threads[i].regs.sp - RED_ZONE, 8);
	*hi = f->infos[i]->stack_hi;
}

void reach_from(struct finder *f, uint32_t i)
{
	uintptr_t lo, hi;

	f->live[i] = true;
	live_stack(f, i, &lo, &hi);
	stopped_each_word(&f->w->threads[i], mark_register, &f->marker);
	mark_root(lo, hi, f);
}

/* Where the thread-local storage ends. A thread's own descriptor above it does not count,
 * since libc's lists and handles point there; nor do the environment and the arguments.
 */
static uintptr_t storage_top(const struct thread_info *t)
{
	if (t->self > t->stack_lo && t->self < t->stack_hi)
		return t->self;
	if (libc.stack_end > t->stack_lo && libc.stack_end < t->stack_hi)
		return libc.stack_end;
	return t->stack_hi;
}

static uintptr_t frames_top(const struct thread_info *t)
{
	const uintptr_t top = storage_top(t);

	return t->frames_hi > t->stack_lo && t->frames_hi < top ? t->frames_hi : top;
}

/* The suspect in whose stack the word lies, -1: none. */
static int stack_of(const struct finder *f, uintptr_t word)
{
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (f->out[i].suspect && word >= f->infos[i]->stack_lo &&
		    word < f->infos[i]->stack_hi)
			return (int)i;
	return -1;
}

static bool is_marked(const struct finder *f, size_t bit)
{
	return mark_test(f->marker.live, bit) && !mark_test(f->marker.white, bit);
}

static bool is_found(const struct finder *f, int i, uintptr_t word)
{
	return f->found[i] &
	       (word < frames_top(f->infos[i]) ? FOUND_FRAMES : FOUND_STORAGE);
}

bool reach_word(struct finder *f, struct blocked *b)
{
	uint32_t index;
	size_t bit;
	int in = stack_of(f, b->word);

	if (f->unknown)
		return true;
	if (in >= 0)
		return f->live[in] || is_found(f, in, b->word);
	if (b->word - f->marker.lo >= f->marker.hi - f->marker.lo)
		return true; /* static data, a mapping: anybody can find it */
	b->freed = !mark_find(&f->marker, b->word, &index, &bit);
	return !b->freed && is_marked(f, bit);
}

/*
 * ---- pointers into stacks ----
 *
 * A stack that is pointed at from reached memory is reached memory itself: what lies in
 * it, and what it points at, can be found, even if its own thread never runs again. So is
 * the thread-local storage above it, by itself, since runtimes keep lists of that.
 */

/* The place among the sought of the stack that word lies in or above; -1: below all. */
static int stack_below(const struct finder *f, uintptr_t word)
{
	int lo = 0, hi = (int)f->nsought;

	while (lo < hi) {
		int middle = (lo + hi) / 2;

		if (f->infos[f->sought[middle]]->stack_lo <= word)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo - 1;
}

/* Is it a place of libc's own, in a thread's descriptor? */
static bool is_of(const struct thread_info *t, uintptr_t at)
{
	const uintptr_t *descriptor = (const uintptr_t *)t->self;
	const uintptr_t offset = at - t->self;

	if (!t->self || offset >= DESCRIPTOR)
		return false;
	if (t->state != THREAD_RUNNING && /* may be something else by now */
	    (descriptor[0] != t->self || descriptor[2] != t->self))
		return false;
	if (!libc.specific)
		return offset == 0 || offset == 2 * sizeof(*descriptor);
	return offset - (libc.specific - SPECIFIC_BYTES) >= SPECIFIC_BYTES;
}

static bool is_of_libc(uintptr_t at)
{
	for (const struct thread_info *t = thread_list(); t; t = t->next)
		if (is_of(t, at))
			return true;
	return false;
}

static void see_handle(struct finder *f, uintptr_t word, uintptr_t at)
{
	for (uint32_t k = 0; k < f->nhandles; k++) {
		const uint32_t i = f->handles[k];

		if (f->infos[i]->self == word && !f->known[i] && !is_of_libc(at))
			f->known[i] = true;
	}
}

static void see_pointer(struct finder *f, uintptr_t word, uintptr_t at)
{
	int place = stack_below(f, word);
	uint32_t i = place >= 0 ? f->sought[place] : 0;
	const struct thread_info *t = f->infos[i];

	if (word % HANDLE_ALIGNMENT == 0)
		see_handle(f, word, at);
	/* libc notes in the descriptor where the thread's first frame is. */
	if (place < 0 || at - t->self < DESCRIPTOR)
		return;
	if (word == t->self + libc.own_errno)
		return; /* tells threads apart (Rust has a list of these) */
	if (word >= storage_top(t) || word < f->w->threads[i].regs.sp - RED_ZONE)
		return;
	f->found[i] |= word < frames_top(t) ? FOUND_FRAMES : FOUND_STORAGE;
}

static void look_for_stacks(uintptr_t lo, uintptr_t hi, void *arg)
{
	struct finder *f = arg;
	const size_t step = f->wide ? 1 : sizeof(uintptr_t);

	for (lo = align_up(lo, 8); lo + 8 <= hi; lo += step) {
		uintptr_t word;

		memcpy(&word, (const void *)lo, sizeof(word));
		if (UNLIKELY(word - f->lo < f->hi - f->lo))
			see_pointer(f, word, lo);
	}
}

static void look_in_objects(struct finder *f)
{
	for (size_t k = 0; k < f->marker.nspans; k++) {
		const struct mspan *s = f->marker.spans[k];

		for (uint32_t i = 0; i < s->nslots; i++) {
			uintptr_t base = s->slot_size ? mspan_slot(s, i) : s->base;

			if (is_marked(f, s->mark_index + i))
				look_for_stacks(base, base + mspan_slot_bytes(s), f);
		}
	}
}

static void look_kernel_ref(uintptr_t word, void *arg)
{
	look_for_stacks((uintptr_t)&word, (uintptr_t)(&word + 1), arg);
}

/* Those that still wait and that nobody is known to point at. */
static void seek_stacks(struct finder *f)
{
	f->nsought = 0;
	f->lo = UINTPTR_MAX;
	f->hi = 0;
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		const struct thread_info *t = f->infos[i];
		uint32_t at = f->nsought;

		if (!blocked_waits(f, (int)i) ||
		    f->found[i] == (FOUND_FRAMES | FOUND_STORAGE))
			continue;
		for (; at > 0 && f->infos[f->sought[at - 1]]->stack_lo > t->stack_lo;
		     at--)
			f->sought[at] = f->sought[at - 1];
		f->sought[at] = i;
		f->nsought++;
		if (t->stack_lo < f->lo)
			f->lo = t->stack_lo;
		if (t->stack_hi > f->hi)
			f->hi = t->stack_hi;
	}
}

static void seek_handles(struct finder *f)
{
	f->nhandles = 0;
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		const uintptr_t self = f->infos[i] ? f->infos[i]->self : 0;
		uint32_t at = f->nhandles;

		if (!blocked_waits(f, (int)i) || !f->ends[i])
			continue;
		for (; at > 0 && f->infos[f->handles[at - 1]]->self > self; at--)
			f->handles[at] = f->handles[at - 1];
		f->handles[at] = i;
		f->nhandles++;
		if (self < f->lo)
			f->lo = self;
		if (self >= f->hi)
			f->hi = self + 1;
	}
}

/* What of a suspect's stack is reached. */
static void each_found(struct finder *f, uint32_t i,
		       void (*fn)(uintptr_t lo, uintptr_t hi, void *arg))
{
	uintptr_t lo, hi;

	live_stack(f, i, &lo, &hi);
	if (f->live[i]) {
		fn(lo, hi, f);
		return;
	}
	if (f->found[i] & FOUND_FRAMES)
		fn(lo, frames_top(f->infos[i]), f);
	if (f->found[i] & FOUND_STORAGE)
		fn(frames_top(f->infos[i]), storage_top(f->infos[i]), f);
}

static void look_everywhere(struct finder *f)
{
	roots_each(&f->roots, look_for_stacks, f);
	for (uint32_t i = 0; i < f->w->nthreads; i++) {
		const struct stopped_thread *t = &f->w->threads[i];

		if (!blocked_waits(f, (int)i))
			look_for_stacks((uintptr_t)t->gprs, (uintptr_t)(t->gprs + 16), f);
		if (f->out[i].suspect)
			each_found(f, i, look_for_stacks);
	}
	look_for_stacks(f->in->own->saved_lo, f->in->own->saved_hi, f);
	look_in_objects(f);
	kernelrefs_each(f->in->pid, look_kernel_ref, f);
	inflight_each(f->in->inflight, look_kernel_ref, f);
}

/* Those whose handle was found can run; marks from stacks that are pointed at. */
static bool mark_found(struct finder *f)
{
	bool any = false;

	for (uint32_t k = 0; k < f->nhandles; k++) {
		const uint32_t i = f->handles[k];

		if (!f->known[i])
			continue;
		any = true;
		reach_from(f, i);
	}
	for (uint32_t k = 0; k < f->nsought; k++) {
		const uint32_t i = f->sought[k];

		if (f->found[i] == f->before[i])
			continue;
		any = true;
		if (!f->live[i])
			each_found(f, i, mark_root);
	}
	return any;
}

bool reach_more(struct finder *f)
{
	seek_stacks(f);
	seek_handles(f);
	if (f->nsought + f->nhandles == 0 || f->unknown)
		return false;
	memcpy(f->before, f->found, f->w->nthreads);
	look_everywhere(f);
	return mark_found(f);
}

/* ---- the marker ---- */

/* The disguises that a program needs not have been started with an option for. */
static void accept_disguises(struct finder *f)
{
	const struct opt_pointer usual[] = {
		{ OPT_POINTER_UNALIGNED, 0 },
		{ OPT_POINTER_MASK, ((uint64_t)1 << ADDRESS_BITS) - 1 },
		{ OPT_POINTER_RIGHT, POINTER_TAG_BITS },
	};
	unsigned n = opt_get()->npointers;

	memcpy(f->disguises, opt_get()->pointers, n * sizeof(*f->disguises));
	for (size_t i = 0; f->wide && i < ARRAY_LEN(usual) && n < OPT_POINTERS_MAX; i++)
		f->disguises[n++] = usual[i];
	f->marker.decodes = f->disguises;
	f->marker.ndecodes = n;
}

static void exclude_suspects(struct finder *f)
{
	/* The words themselves are noted there. */
	roots_exclude(&f->roots, (uintptr_t)f->out, (uintptr_t)(f->out + f->w->nthreads));
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (f->out[i].suspect)
			roots_exclude(&f->roots, f->infos[i]->stack_lo,
				      f->infos[i]->stack_hi);
}

/* What the copy lacks is what was not there when it began: it has mapped memory of its
 * own in such places since. */
static bool mark_hidden(struct finder *f)
{
	struct roots first = f->roots;
	bool any;

	first.include = f->in->mappings;
	first.ninclude = f->in->nmappings;
	first.nexclude = 0;
	if (f->in->origin.maps >= 0)
		os_call(SYS_lseek, f->in->origin.maps, 0, SEEK_SET, 0, 0, 0);
	return hidden_mark(&f->marker, &first, &f->in->origin, &any);
}

static bool mark_all(struct finder *f)
{
	const struct leak_exit *own = f->in->own;

	exclude_suspects(f);
	if (!roots_collect(&f->roots, f->w,
			   own->sp ? own->sp : (uintptr_t)__builtin_frame_address(0)))
		return false;
	if (f->roots.no_maps || f->roots.full)
		return false;
	roots_each(&f->roots, mark_root, f);
	roots_each_code(&f->roots, mark_code_root, f);
	mark_root(own->saved_lo, own->saved_hi, f);
	for (uint32_t i = 0; i < f->w->nthreads; i++)
		if (!f->out[i].suspect)
			stopped_each_word(&f->w->threads[i], mark_register, &f->marker);
	mark_drain(&f->marker);
	if (!mark_hidden(f))
		f->unknown = true;
	if (kernelrefs_each(f->in->pid, mark_kernel_ref, f) != 0 ||
	    !inflight_each(f->in->inflight, mark_kernel_ref, f))
		f->unknown = true;
	return true;
}

bool reach_begin(struct finder *f)
{
	heap_index_large();
	if (!roots_init(&f->roots) || !mark_init(&f->marker))
		return false;
	accept_disguises(f);
	return mark_all(f);
}

void reach_end(struct finder *f)
{
	mark_free(&f->marker);
	roots_close(&f->roots);
	roots_free(&f->roots);
}
