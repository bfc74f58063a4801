/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hijack: see hijack.h.
 *
 * Invariants: entry k of the table is written before a stack word points to stub k. A
 * stub in use has its slot in the table, a free one 0; a return into a free stub (a copy
 * of the stack) still finds the last return address. The objects of a stub form a doubly
 * linked list by handle.
 *
 * Concurrency: the lock of escape.c. A handler that might leave by siglongjmp is put off
 * while it is held (preload/api/signal.c).
 * A stub that nobody waits for any more, the common case of what does not escape, is
 * given back without lock or system call: objects are attached only by a thread that runs
 * inside the activation, which has ended.
 */
#include "profiler/escape/hijack.h"

#include <cpuid.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "preload/base/atomic.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/tls.h"
#include "profiler/escape/personality.h"
#include "profiler/escape/where.h"
#include "profiler/site/site.h"
#include "profiler/stack/dynsym.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define STUBS	       4096 /* as in stub.S */
#define STRIDE	       16
#define SAMPLED_LEVELS 10  /* a return costs about 1 us; beyond, stacks are compared */
#define ASKED	       256 /* modules that are asked once */
#define CPUID_XSAVE    (1u << 27) /* leaf 1, ecx: OSXSAVE */

struct stub_entry {
	uintptr_t ra;	/* the true return address */
	uintptr_t slot; /* the word it was in; 0: free */
};
_Static_assert(sizeof(struct stub_entry) == STRIDE, "as in stub.S");

HIDDEN extern const char escape_stubs[];
HIDDEN extern struct stub_entry escape_stub_table[STUBS];

static struct {
	bool on;
	uintptr_t loader;  /* bias of the dynamic loader */
	uint32_t levels;   /* frames that an object is followed through */
	uintptr_t unknown; /* return address into no known module, or 0 */
	uint64_t asked[ASKED / 64], own[ASKED / 64]; /* has_own_tables(), by id */
	uint32_t fresh;				     /* first never used */
	/* Free stubs: those that returned, last first; those given up otherwise, first
	 * first, taken only when there is no other. */
	uint16_t stack[STUBS], ring[STUBS];
	uint32_t nstack, ring_head, nring;
	uint32_t heads[STUBS]; /* handles; 0: nobody waits. Written under the lock; of a
				* stub that is being reached, read without */
	/* Stubs that were reached with nobody waiting, 1 + number: pushed without the
	 * lock, taken all at once with it. */
	uint16_t idle, after[STUBS]; /* idle: atomic */
	uint64_t idle_returns;	     /* atomic */
	/* Stubs in use, stats.in_use of them, in no order; and where each is in it. */
	uint16_t used[STUBS], at[STUBS];
	struct hijack_stats stats;
} hijack;

static uintptr_t stub_address(uint32_t k)
{
	return (uintptr_t)escape_stubs + (uintptr_t)k * STRIDE;
}

bool hijack_init(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & CPUID_XSAVE))
		return false;
	if (os_call(SYS_mprotect, (long)escape_stub_table, sizeof(escape_stub_table),
		    PROT_READ | PROT_WRITE, 0, 0, 0) != 0)
		return false;
	hijack.loader = getauxval(AT_BASE);
	hijack.levels = opt_get()->mode == OPT_MODE_EXACT ? BOUND_SLOTS : SAMPLED_LEVELS;
	personality_init();
	unwind_set_stubs((uintptr_t)escape_stubs, (size_t)STUBS * STRIDE,
			 (uintptr_t)escape_stub_table);
	hijack.on = true;
	return true;
}

bool hijack_is_on(void)
{
	return hijack.on;
}

int hijack_stub_of(uintptr_t pc)
{
	uintptr_t offset = pc - (uintptr_t)escape_stubs;

	return offset < (uintptr_t)STUBS * STRIDE ? (int)(offset / STRIDE) : -1;
}

uintptr_t hijack_true_return(int stub)
{
	return escape_stub_table[stub].ra;
}

/* ---- free stubs ---- */

static void put_stub(uint32_t k, bool returned)
{
	uint16_t last = hijack.used[--hijack.stats.in_use];

	hijack.used[hijack.at[k]] = last;
	hijack.at[last] = hijack.at[k];
	escape_stub_table[k].slot = 0;
	atomic_store_relaxed(&hijack.heads[k], 0u);
	if (returned)
		hijack.stack[hijack.nstack++] = (uint16_t)k;
	else
		hijack.ring[(hijack.ring_head + hijack.nring++) % STUBS] = (uint16_t)k;
}

/* A handler that leaves in between takes the stub with it: it is lost, nothing else. A
 * return through a copy of a stack finds its stub given back before. */
static void push_idle(uint32_t k)
{
	uint16_t first = atomic_load_relaxed(&hijack.idle);

	if (atomic_exchange_acq_rel(&escape_stub_table[k].slot, (uintptr_t)0) == 0)
		return;
	atomic_add_relaxed(&hijack.idle_returns, 1u);
	do {
		hijack.after[k] = first;
	} while (!atomic_cas_acq_rel(&hijack.idle, &first, (uint16_t)(k + 1)));
}

static NOINLINE void collect_idle(void)
{
	uint16_t next = atomic_exchange_acquire(&hijack.idle, (uint16_t)0);

	for (; next; next = hijack.after[next - 1])
		put_stub(next - 1u, true);
}

static bool take_stub(uint32_t *out)
{
	if (atomic_load_relaxed(&hijack.idle))
		collect_idle();
	if (hijack.nstack > 0) {
		*out = hijack.stack[--hijack.nstack];
	} else if (hijack.fresh < STUBS) {
		*out = hijack.fresh++;
	} else if (hijack.nring > 0) {
		*out = hijack.ring[hijack.ring_head++ % STUBS];
		hijack.nring--;
	} else {
		return false;
	}
	hijack.at[*out] = (uint16_t)hijack.stats.in_use;
	hijack.used[hijack.stats.in_use++] = (uint16_t)*out;
	return true;
}

/* ---- attaching ---- */

/* A return to an instruction that no call is in front of is no ordinary one. */
static bool follows_call(uintptr_t ra)
{
	const uint8_t *p = (const uint8_t *)ra;

	if (p[-5] == 0xe8)
		return true;
	for (int n = 2; n <= 8; n++) /* call *r/m: ff /2 */
		if (p[-n] == 0xff && (p[-n + 1] >> 3 & 7) == 2)
			return true;
	return false;
}

/* The code that OCaml compiles, in the program or in a library of its own: its collector
 * looks up each return address of a stack in tables of the compiler's. */
static bool ask_own_tables(const struct module *m)
{
	static const char *const signs[] = { "caml_start_program", "caml_plugin_header" };
	bool found = false;

	for (size_t i = 0; m->dynamic && i < sizeof(signs) / sizeof(*signs); i++) {
		uintptr_t start;
		size_t size;

		found |= dynsym_find_at(m->bias, m->dynamic, signs[i], &start, &size);
	}
	return found;
}

static bool has_own_tables(const struct module *m)
{
	uint64_t bit = (uint64_t)1 << (m->id % 64);
	uint32_t at = m->id / 64;
	bool own;

	if (m->id < ASKED && hijack.asked[at] & bit)
		return hijack.own[at] & bit;
	own = ask_own_tables(m);
	if (m->id < ASKED) {
		hijack.asked[at] |= bit;
		hijack.own[at] |= own ? bit : 0;
	}
	return own;
}

/* Code without call frame information is of those who walk their stacks by themselves,
 * and would not know a stub: the builtins of a language's runtime. */
static bool may_replace(uintptr_t ra)
{
	const struct module *m = module_find_code(ra - 1);

	if (!m)
		hijack.unknown = ra;
	return m && !m->is_seep && m->bias != hijack.loader && module_find_code(ra - 8) &&
	       follows_call(ra) && unwind_is_described(ra - 1) && !has_own_tables(m);
}

static uintptr_t read_shadow_stack(void)
{
	uintptr_t ssp = 0;

	__asm__ volatile("rdsspq %0" : "+r"(ssp)); /* does nothing where there is none */
	return ssp;
}

struct hijack_system hijack_system = { .shadow_stack = read_shadow_stack };

static void link_to(uint32_t k, uint32_t handle)
{
	struct followed *f = followed_at(handle);

	f->stub = (uint16_t)(k + 1);
	f->prev = 0;
	f->next = hijack.heads[k];
	if (f->next) {
		struct followed *last = followed_at(f->next);

		last->prev = handle;
		if (last->site == f->site)
			last->several = f->several = true;
	}
	atomic_store_relaxed(&hijack.heads[k], handle);
}

void hijack_detach(uint32_t handle)
{
	struct followed *f = followed_at(handle);

	if (f->stub == 0)
		return;
	if (f->next)
		followed_at(f->next)->prev = f->prev;
	if (f->prev)
		followed_at(f->prev)->next = f->next;
	else
		atomic_store_relaxed(&hijack.heads[f->stub - 1], f->next);
	f->stub = 0;
}

static void arm(uint32_t handle, uintptr_t slot, uintptr_t ra)
{
	struct followed *f = followed_at(handle);
	volatile uintptr_t *word = (volatile uintptr_t *)slot;
	int shared = hijack_stub_of(*word);
	uint32_t k;

	if (shared >= 0 && escape_stub_table[shared].ra == ra &&
	    escape_stub_table[shared].slot == slot) {
		link_to((uint32_t)shared, handle);
		hijack.stats.shared++;
	} else if (*word != ra || !may_replace(ra)) {
		f->refused = true;
		hijack.stats.refused++;
	} else if (!take_stub(&k)) {
		f->full = true;
		hijack.stats.full++;
	} else {
		escape_stub_table[k].ra = ra;
		escape_stub_table[k].slot = slot;
		link_to(k, handle);
		atomic_store_release(word, stub_address(k));
		hijack.stats.armed++;
	}
}

uintptr_t hijack_take_unknown(void)
{
	uintptr_t ra = hijack.unknown;

	hijack.unknown = 0;
	return ra;
}

/* The site of frames[n] of a stack whose site is given. */
static uint32_t outer_site(uint32_t site, uint32_t n)
{
	while (n-- > 0 && site)
		site = site_parent(site);
	return site;
}

void hijack_attach(uint32_t handle)
{
	struct followed *f = followed_at(handle);
	uint32_t node;

	if (!hijack.on || f->level >= f->stack.count || f->level >= hijack.levels)
		return;
	node = outer_site(f->site, f->level + 1u);
	if (node == SITE_NONE || site_parent(node) == SITE_NONE)
		return; /* into the outermost frame: never seen to return */
	if (hijack_system.shadow_stack())
		f->refused = true;
	else
		arm(handle, bound_slot(&f->stack, f->level), site_pc(node));
}

bool hijack_holds(const struct followed *f)
{
	uintptr_t sp = (uintptr_t)__builtin_frame_address(0), lo, hi, slot;

	if (f->stub == 0)
		return false;
	slot = escape_stub_table[f->stub - 1].slot;
	if (!thread_stack_bounds(slot, &lo, &hi))
		return true; /* a coroutine's: nothing was heard of its end */
	if (slot <= sp && thread_stack_bounds(sp, &lo, &hi))
		return false;
	return *(volatile uintptr_t *)slot == stub_address(f->stub - 1u);
}

/* ---- ends of activations ---- */

/* The activation that all objects of stub k wait for has ended; the list of its objects,
 * which have been taken out. */
static uint32_t release(uint32_t k, bool returned)
{
	uint32_t list = hijack.heads[k];

	put_stub(k, returned);
	return list;
}

void escape_stub_return(uintptr_t after_call, const struct stub_regs *r)
{
	uint32_t k = (uint32_t)((after_call - (uintptr_t)escape_stubs) / STRIDE);
	uint32_t handle, next;
	uintptr_t unknown;

	if (atomic_load_relaxed(&hijack.heads[k]) == 0) {
		push_idle(k);
		return;
	}

	escape_lock();
	hijack.stats.returned++;
	for (handle = release(k, true); handle; handle = next) {
		struct followed *f = followed_at(handle);

		next = f->next;
		f->stub = 0;
		if (f->site == SITE_NONE)
			continue; /* given up, see escape_drop() */
		where_look(f, r->rax, r->rdx, r->ret);
		f->level++;
		hijack_attach(handle);
	}
	unknown = hijack_take_unknown();
	escape_unlock();
	if (UNLIKELY(unknown))
		module_learn(unknown - 1);
}

/* Objects of a list whose activation was left otherwise. */
static void move_unwound(uint32_t handle, uintptr_t target)
{
	uint32_t next;

	for (; handle; handle = next) {
		struct followed *f = followed_at(handle);

		next = f->next;
		f->stub = 0;
		if (f->site == SITE_NONE)
			continue; /* given up */
		f->unwound = true;
		while (f->level + 1u < f->stack.count &&
		       bound_slot(&f->stack, f->level + 1u) < target)
			f->level++;
		where_look(f, 0, 0, 0);
		f->level++;
		hijack_attach(handle);
	}
}

void hijack_unwound(int stub)
{
	escape_lock();
	if (escape_stub_table[stub].slot) {
		hijack.stats.unwound++;
		move_unwound(release((uint32_t)stub, false), 0);
	}
	escape_unlock();
}

void hijack_leave(uintptr_t target)
{
	uintptr_t sp = (uintptr_t)__builtin_frame_address(0);

	if (!hijack.on || target <= sp || seep_tls.internal > 0)
		return;
	escape_lock();
	/* From the end: what is released is replaced by one that was looked at, or is
	 * new. */
	for (uint32_t i = hijack.stats.in_use; i-- > 0;) {
		uint32_t k = hijack.used[i];
		uintptr_t slot = escape_stub_table[k].slot;

		if (slot < sp || slot >= target)
			continue;
		hijack.stats.left++;
		move_unwound(release(k, false), target);
	}
	escape_unlock();
}

void hijack_thread_end(uintptr_t sp)
{
	uintptr_t lo, hi;

	if (!hijack.on || !thread_stack_bounds(sp, &lo, &hi))
		return;
	escape_lock();
	for (uint32_t i = hijack.stats.in_use; i-- > 0;) {
		uint32_t k = hijack.used[i], handle, next;
		uintptr_t slot = escape_stub_table[k].slot;

		if (slot < lo || slot >= hi ||
		    (slot > sp && *(volatile uintptr_t *)slot == stub_address(k)))
			continue;
		for (handle = release(k, false); handle; handle = next) {
			next = followed_at(handle)->next;
			followed_at(handle)->stub = 0;
			followed_at(handle)->level++;
		}
	}
	escape_unlock();
}

void hijack_get_stats(struct hijack_stats *out)
{
	escape_lock();
	collect_idle();
	*out = hijack.stats;
	escape_unlock();
	out->returned += atomic_load_relaxed(&hijack.idle_returns);
}
