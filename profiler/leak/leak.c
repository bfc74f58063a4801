/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leak: one check from beginning to end, see leak.h.
 *
 * Locks, in this order: the loader's (the work is done inside a callback of
 * dl_iterate_phdr), the thread registry's, all of the heap's, and for the moment of
 * the stop also the metadata's, so that no stopped thread holds one of them. World
 * stopped, the metadata lock is released again: we need it, and nobody else can be
 * inside.
 */
#include "profiler/leak/leak.h"

#include <link.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/lock.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/leak/annotate.h"
#include "profiler/leak/chain.h"
#include "profiler/leak/collapse.h"
#include "profiler/leak/growth.h"
#include "profiler/leak/history.h"
#include "profiler/leak/hidden.h"
#include "profiler/leak/inner.h"
#include "profiler/leak/leak_int.h"
#include "profiler/leak/mark.h"
#include "profiler/leak/roots.h"
#include "profiler/leak/stop.h"
#include "profiler/leak/suppress.h"
#include "profiler/leak/sweep.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/loader.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"

#define CANARY_BYTES  48
#define STACK_CLEARED 112 /* words */

static struct {
	struct lock lock; /* one check at a time */
	/* The canaries, inverted so that these words are no references to them. */
	uintptr_t held_inverted, lost_inverted;
	uint32_t final;	 /* a check has said that it is the last one; atomic */
	uintptr_t *page; /* a root of the program's kind; holds the first canary */
	int pid;	 /* of the process that the history is about */
} leak = { .lock = LOCK_INIT(LOCK_RANK_LEAK) };

void leak_incomplete(struct leak_result *out, const char *reason)
{
	if (out->verdict == LEAK_INCOMPLETE)
		return;
	out->verdict = LEAK_INCOMPLETE;
	fmt_string(out->reason, sizeof(out->reason), "%s", reason);
}

static void mark_root(uintptr_t lo, uintptr_t hi, void *arg)
{
	mark_range(arg, lo, hi);
}

static void mark_code_root(uintptr_t lo, uintptr_t hi, void *arg)
{
	mark_code(arg, lo, hi);
}

void cycle_ask_kernel(struct cycle *c)
{
	handed_ask(c->handed, c->agent);
}

void cycle_mark_handed(struct cycle *c)
{
	const uintptr_t words = (uintptr_t)c->handed->words;
	const size_t count = atomic_load_acquire(&c->handed->count);

	mark_range(&c->marker, words, words + count * sizeof(uintptr_t));
}

void cycle_mark_roots(struct cycle *c)
{
	cycle_mark_handed(c);
	roots_each(&c->roots, mark_root, &c->marker);
	roots_each_code(&c->roots, mark_code_root, &c->marker);
}

static void mark_one_word(uintptr_t word, void *arg)
{
	mark_word(arg, word);
}

/* Alternate signal stacks may be known to nobody but the kernel. */
static void mark_signal_stacks(struct cycle *c)
{
	for (const struct thread_info *t = roots_threads(&c->roots); t; t = t->next)
		if (t->state != THREAD_FINISHED)
			mark_word(&c->marker, atomic_load_relaxed(&t->signal_stack));
}

static void mark_registers(struct cycle *c)
{
	for (uint32_t i = 0; i < c->world.nthreads; i++)
		stopped_each_word(&c->world.threads[i], mark_one_word, &c->marker);
}

static void mark_interrupted(struct cycle *c)
{
	for (size_t i = 0; c->interrupted && i < LEAK_REGISTER_SETS; i++)
		for (size_t k = 0; k < c->interrupted->registers[i].count; k++)
			mark_word(&c->marker, c->interrupted->registers[i].words[k]);
}

/* Marking proves itself on two canaries: a block that only a word in a page of its own
 * holds must be reached, and a block that nothing holds must not be. The second lies in a
 * page that the program never had, so that no stale pointer can keep it.
 */
static bool canaries_agree(const struct cycle *c)
{
	uint32_t index;
	size_t held, lost;

	return mark_find(&c->marker, ~leak.held_inverted, &index, &held) &&
	       mark_find(&c->marker, ~leak.lost_inverted, &index, &lost) &&
	       !mark_test(c->marker.white, held) && mark_test(c->marker.white, lost);
}

static void mark_all(struct cycle *c)
{
	c->marker.strict = true;
	if (!c->alone)
		mark_start_helpers(&c->marker, mark_useful_helpers(&c->marker));
	cycle_mark_roots(c);
	mark_registers(c);
	mark_interrupted(c);
	mark_signal_stacks(c);
	roots_each_region_in_heap(mark_one_word, &c->marker);
	if (c->roots.no_maps)
		mark_root((uintptr_t)leak.page, (uintptr_t)leak.page + OS_PAGE,
			  &c->marker);
	if (c->exit.sp)
		mark_root(c->exit.saved_lo, c->exit.saved_hi, &c->marker);
	mark_drain(&c->marker);
	mark_stop_helpers(&c->marker);
	if (c->origin &&
	    !hidden_mark(&c->marker, &c->roots, c->origin, &c->roots.is_late))
		c->roots.hidden = true;
	if (!canaries_agree(c))
		leak_incomplete(c->out, "the check did not find its own canaries");
	if (c->keeps_lost)
		return;
	mark_word(&c->marker, ~leak.lost_inverted);
	mark_drain(&c->marker);
}

static bool has_losses(const struct leak_result *out)
{
	for (uint32_t i = 0; i < out->nrecords; i++)
		if (out->records[i].kind <= LEAK_POSSIBLE)
			return true;
	return false;
}

bool cycle_mark(struct cycle *c)
{
	c->roots.is_copy = c->origin != NULL;
	heap_index_large(); /* objects are looked for by any address */
	/* The marker's own memory may come to lie where a snapshot has a gap. */
	if (!roots_collect(&c->roots, &c->world, c->own_sp)) {
		roots_close(&c->roots);
		leak_incomplete(c->out,
				c->roots.absent.full
					? "which pages of the heap wait for being "
					  "supplied (userfaultfd) cannot be seen"
					: "pages of the heap cannot be made readable");
		return false;
	}
	if (!mark_init(&c->marker)) {
		roots_close(&c->roots);
		leak_incomplete(c->out, "out of memory for the mark bits");
		return false;
	}
	c->marker.absent = c->roots.absent.count > 0 ? &c->roots.absent : NULL;
	c->marker.decodes = opt_get()->pointers;
	c->marker.ndecodes = opt_get()->npointers;
	if (c->roots.full)
		leak_incomplete(c->out, "more than 65536 mappings");
	mark_all(c);
	sweep_hold(&c->marker);
	c->out->reachable_objects = c->marker.objects;
	c->out->reachable_bytes = c->marker.bytes;
	return true;
}

bool cycle_look(struct cycle *c)
{
	c->out->verdict = LEAK_CLEAN;
	if (!roots_collect(&c->roots, &c->world, 0) || !mark_fill(&c->marker))
		return false;
	c->marker.absent = c->roots.absent.count > 0 ? &c->roots.absent : NULL;
	c->marker.decodes = opt_get()->pointers;
	c->marker.ndecodes = opt_get()->npointers;
	mark_all(c);
	sweep_hold(&c->marker);
	mark_drop_cached(&c->marker);
	c->out->reachable_objects = c->marker.objects;
	c->out->reachable_bytes = c->marker.bytes;
	return c->out->verdict != LEAK_INCOMPLETE;
}

bool cycle_find_again(struct cycle *c)
{
	if (!roots_collect(&c->roots, &c->world, 0))
		return false;
	c->marker.absent = c->roots.absent.count > 0 ? &c->roots.absent : NULL;
	return mark_refresh(&c->marker) || !c->keeps_lost;
}

void cycle_mark_threads(struct cycle *c)
{
	mark_registers(c);
	mark_signal_stacks(c);
	roots_each_region_in_heap(mark_one_word, &c->marker);
}

void cycle_show_lost(bool shown)
{
	leak.page[1] = shown ? ~leak.lost_inverted : 0;
}

bool cycle_has_found_lost(const struct cycle *c)
{
	uint32_t index;
	size_t bit;

	return mark_find(&c->marker, ~leak.lost_inverted, &index, &bit) &&
	       !mark_test(c->marker.white, bit);
}

bool cycle_look_again(struct cycle *c)
{
	if (!cycle_find_again(c))
		return false;
	cycle_mark_roots(c);
	mark_again(&c->marker);
	mark_drain(&c->marker);
	sweep_hold(&c->marker);
	mark_drop_cached(&c->marker);
	return true;
}

void cycle_doubt_handed(struct cycle *c)
{
	if ((c->handed->full || c->handed->unseen) && has_losses(c->out))
		leak_incomplete(c->out, "what the kernel keeps for the program (epoll) "
					"cannot be seen");
}

void cycle_sweep(struct cycle *c)
{
	struct leak_result *out = c->out;

	if (!sweep_collect(&c->marker, out))
		leak_incomplete(out, "out of memory for the mark stack");
	if (out->with_reachable)
		growth_compare(out);
	if (out->with_reachable &&
	    !chain_find(&c->marker, &c->roots, &c->world, c->handed, out))
		leak_incomplete(out, "out of memory for the chains of holders");
	roots_close(&c->roots);
	/* With fewer roots than there are, a clean verdict still stands. */
	if (c->roots.no_maps && has_losses(out))
		leak_incomplete(out, "the list of mappings (/proc) is not readable");
	if (c->roots.closed && has_losses(out))
		leak_incomplete(out, "memory that the program has closed (PROT_NONE) "
				     "cannot be made readable");
	cycle_doubt_handed(c);
	if (c->roots.shut && has_losses(out))
		leak_incomplete(out, "memory that the program has named as roots is "
				     "closed and cannot be read");
	if (c->roots.unseen && has_losses(out))
		leak_incomplete(out, "which pages wait for being supplied (userfaultfd) "
				     "cannot be seen (/proc/self/pagemap)");
	if (has_losses(out) && (absent_is_awaited(&c->roots.absent) ||
				(c->origin && hidden_is_awaited(c->origin))))
		leak_incomplete(out, "pages of objects wait for being supplied "
				     "(userfaultfd): what they hold cannot be seen");
	/* What went there meanwhile, or came from there, seems lost. */
	if (c->roots.is_late && c->at_once && has_losses(out))
		leak_incomplete(out, "memory that a snapshot does not have "
				     "(MADV_DONTFORK) was read while the program ran on");
	if (c->roots.hidden && has_losses(out))
		leak_incomplete(out, "memory that a snapshot does not have "
				     "(MADV_DONTFORK, MADV_WIPEONFORK) is not readable");
}

static void mark_and_sweep(struct cycle *c)
{
	uint64_t start = os_now_ns();

	cycle_ask_kernel(c);
	if (cycle_mark(c))
		cycle_sweep(c);
	c->out->mark_ns = os_now_ns() - start;
}

static NO_LOCK_CHECK void stop_and_work(struct cycle *c)
{
	uint64_t start = os_now_ns();
	int error;

	thread_lock();
	heap_lock_all();
	sample_pool_fork_prepare();
	meta_fork_prepare();
	error = world_stop(&c->world);
	meta_fork_done(false);
	sample_pool_fork_done(false);
	if (error)
		leak_incomplete(c->out, c->world.reason[0]
						? c->world.reason
						: "threads could not be stopped");
	else
		mark_and_sweep(c);
	c->out->nthreads = c->world.nthreads;
	world_resume(&c->world);
	c->out->stop_ns = os_now_ns() - start;
	if (c->world.nmissed)
		leak_incomplete(c->out, c->world.reason);
	heap_unlock_all();
	thread_unlock();
}

static int with_loader_locked(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)info;
	(void)size;
	stop_and_work(arg);
	return 1; /* once */
}

void leak_judge(struct leak_result *out)
{
	suppress_begin();
	for (uint32_t i = 0; i < out->nrecords; i++) {
		struct leak_record *r = &out->records[i];

		if (r->kind == LEAK_REACHABLE)
			continue;
		if (r->kind == LEAK_RETRACTED) {
			out->retracted_objects += r->objects;
			out->retracted_bytes += r->bytes;
			out->retracted_freed += r->freed;
			continue;
		}
		r->suppressed = suppress_matches(r);
		if (r->suppressed) {
			out->suppressed_objects += r->objects;
			out->suppressed_bytes += r->bytes;
			continue;
		}
		if (r->kind == LEAK_POSSIBLE) {
			out->possible_objects += r->objects;
			out->possible_bytes += r->bytes;
			if (!opt_get()->possible)
				continue;
		}
		out->objects += r->objects;
		out->bytes += r->bytes;
		out->new_objects += r->new_objects;
		out->sites++;
	}
	if (out->verdict != LEAK_INCOMPLETE)
		out->verdict = out->objects ? LEAK_FOUND : LEAK_CLEAN;
}

/* Clears what the calls before have left below: where the stack's lower end is not known,
 * all of it is searched, and a canary's address lies there. */
static NOINLINE void clear_stack_below(void)
{
	uintptr_t words[STACK_CLEARED];

	memset(words, 0, sizeof(words));
	__asm__ volatile("" : : "r"(words) : "memory");
}

static NOINLINE bool plant_canaries(void)
{
	if (!leak.page)
		leak.page = meta_map_scanned(OS_PAGE);
	if (leak.lost_inverted == 0)
		leak.lost_inverted = ~(uintptr_t)heap_alloc_unseen();
	leak.held_inverted = ~(uintptr_t)heap_calloc(1, CANARY_BYTES);
	if (leak.page)
		leak.page[0] = ~leak.held_inverted;
	clear_stack_below();
	return leak.page && ~leak.lost_inverted != 0 && ~leak.held_inverted != 0;
}

static NOINLINE void remove_canaries(void)
{
	const uintptr_t held = leak.held_inverted;

	leak.held_inverted = 0;
	if (leak.page)
		leak.page[0] = 0;
	if (held != 0) /* it was planted */
		heap_free((void *)~held);
}

bool cycle_prepare(struct cycle *c)
{
	if (!roots_init(&c->roots) || (c->alone ? world_prepare_for_copy(&c->world)
						: world_prepare(&c->world)) != 0) {
		leak_incomplete(c->out, "out of memory");
		return false;
	}
	c->prepared = true;
	c->handed = handed_map(c->alone);
	if (c->handed && plant_canaries()) {
		if (c->alone) /* beside the program */
			cycle_ask_kernel(c);
		return true;
	}
	leak_incomplete(c->out, "out of memory");
	return false;
}

void cycle_free(struct cycle *c)
{
	if (c->prepared) {
		remove_canaries();
		mark_free(&c->marker);
		world_free(&c->world);
		handed_unmap(c->handed);
	}
	roots_free(&c->roots);
}

NO_LOCK_CHECK void leak_enter(void)
{
	thread_internal_enter();
	exit_frames_init();
	lock_acquire(&leak.lock);
	if (leak.pid != os_getpid()) { /* a forked child has reported nothing yet */
		history_forget();
		growth_forget();
	}
	leak.pid = os_getpid();
	module_refresh();
	inner_init();
}

NO_LOCK_CHECK void leak_leave(void)
{
	lock_release(&leak.lock);
	thread_internal_leave();
}

void leak_fork_child(void)
{
	collapse_fork_child();
	if (!lock_is_held(&leak.lock))
		return;
	/* By a thread that is not here, perhaps in the middle of a change. */
	history_lose();
	growth_lose();
	lock_reset(&leak.lock);
}

/* Of what was found: may the program have something to say, and be asked? */
static NO_LOCK_CHECK void hear_program(struct leak_result *out)
{
	leak_leave();
	if (annotate_ask()) {
		log_line("the program has turned leak checks off "
			 "(__lsan_is_turned_off, or detect_leaks=0)");
		out->nrecords = 0;
	}
	leak_enter();
}

static void check(struct leak_result *out, uintptr_t own_sp, bool at_end,
		  const struct leak_interrupted *interrupted)
{
	struct cycle *c;

	if (os_is_in_valgrind()) { /* what it maps for itself comes and goes meanwhile */
		leak_incomplete(out, "valgrind runs the program");
		return;
	}
	if (!sample_is_on()) {
		leak_incomplete(out, "profiling is off (mode=off)");
		return;
	}
	leak_enter();
	out->checked_ns = os_now_ns();
	c = meta_map(sizeof(*c), META_LEAK);
	if (c) {
		c->out = out;
		c->own_sp = own_sp;
		c->agent = at_end ? 0 : os_gettid();
		c->interrupted = interrupted;
		if (at_end)
			leak_find_exit(&c->exit);
		if (c->exit.sp)
			c->own_sp = c->exit.sp;
		if (cycle_prepare(c))
			loader_with_lock(with_loader_locked, c);
		cycle_free(c);
		meta_unmap(c, sizeof(*c), META_LEAK);
	} else {
		leak_incomplete(out, "out of memory");
	}
	if (!interrupted && has_losses(out))
		hear_program(out);
	leak_judge(out);
	leak_leave();
}

static void check_at_end(struct leak_result *out, uintptr_t own_sp,
			 const struct leak_interrupted *interrupted)
{
	memset(out, 0, sizeof(*out));
	out->with_reachable = out->with_chains = opt_get()->reachable;
	check(out, own_sp, true, interrupted);
}

void leak_check_interrupted(struct leak_result *out, const struct leak_interrupted *at)
{
	check_at_end(out, at->sp, at);
}

__attribute__((used)) void leak_check_above(struct leak_result *out, uintptr_t own_sp)
{
	check_at_end(out, own_sp, NULL);
}

void leak_check_standing(struct leak_result *out)
{
	check(out, (uintptr_t)__builtin_frame_address(0), false, NULL);
}

/* Saves the caller's registers on the stack, where they are scanned with it; our own
 * frames begin below and do not count. */
__attribute__((naked)) void leak_check(struct leak_result *out UNUSED)
{
	__asm__("push %rbp\n\t"
		".cfi_adjust_cfa_offset 8\n\t"
		".cfi_rel_offset %rbp, 0\n\t"
		"mov %rsp, %rbp\n\t"
		".cfi_def_cfa_register %rbp\n\t"
		"push %rbx\n\t"
		"push %r12\n\t"
		"push %r13\n\t"
		"push %r14\n\t"
		"push %r15\n\t"
		"mov %rsp, %rsi\n\t"
		"sub $8, %rsp\n\t"
		"call leak_check_above\n\t"
		"leave\n\t"
		".cfi_def_cfa %rsp, 8\n\t"
		"ret");
}

void leak_result_free(struct leak_result *r)
{
	meta_unmap(r->records, r->records_bytes, META_LEAK);
	meta_unmap(r->chains, CHAIN_RECORDS * sizeof(*r->chains), META_LEAK);
	r->records = NULL;
	r->chains = NULL;
	r->nrecords = 0;
}

void leak_init(void)
{
	exit_frames_init();
	suppress_load();
}

void leak_set_final(void)
{
	atomic_store_relaxed(&leak.final, (uint32_t)1);
}

bool leak_is_final(void)
{
	return atomic_load_relaxed(&leak.final) != 0;
}

void leak_disable(void)
{
	sample_hide_enter();
}

void leak_enable(void)
{
	sample_hide_leave();
}

void leak_ignore_object(const void *p)
{
	lock_acquire(&leak.lock);
	sweep_ignore((uintptr_t)p);
	lock_release(&leak.lock);
}

void leak_add_root(const void *p, size_t size)
{
	lock_acquire(&leak.lock);
	roots_add_region((uintptr_t)p, size);
	lock_release(&leak.lock);
}

void leak_remove_root(const void *p, size_t size)
{
	lock_acquire(&leak.lock);
	roots_remove_region((uintptr_t)p, size);
	lock_release(&leak.lock);
}
