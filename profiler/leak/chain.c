/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain: see chain.h. Breadth first over everything that is live: the address of the word
 * through which an object was found first is kept for each; from an object's word back to
 * the object that holds it, and so on, leads to a word outside the heap.
 */
#include "profiler/leak/chain.h"

#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "profiler/leak/absent.h"
#include "profiler/pprof/datasym.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))
#define IN_REGISTER 1 /* where: no address, a register of some thread */
#define IN_KERNEL   2 /* likewise, what the program has handed to it */

static void find(struct chain_search *s, uintptr_t word, uintptr_t where)
{
	uint32_t index;
	size_t bit;
	struct mspan *span = mark_find(s->m, word, &index, &bit);

	if (!span || s->where[bit] || s->tail == s->room)
		return;
	s->where[bit] = where;
	s->queue[s->tail++] = span->slot_size ? mspan_slot(span, index) : span->base;
}

static NO_SANITIZE void look_through(uintptr_t lo, uintptr_t hi, void *arg)
{
	const struct chain_search *s = arg;
	uintptr_t at = align_up(lo, sizeof(uintptr_t));

	for (uintptr_t end = hi; at < hi; at = end, end = hi) {
		if (s->m->absent && !absent_next(s->m->absent, &at, hi, &end))
			return;
		for (; at + sizeof(uintptr_t) <= end; at += sizeof(uintptr_t))
			find(arg, *(const volatile uintptr_t *)at, at);
	}
}

static NO_SANITIZE void look_through_code(uintptr_t lo, uintptr_t hi, void *arg)
{
	for (uintptr_t at = lo + 1; at + sizeof(uintptr_t) <= hi; at++) {
		uintptr_t word;

		memcpy(&word, (const void *)at, sizeof(word));
		find(arg, word, at);
	}
}

static void find_in_register(uintptr_t word, void *arg)
{
	find(arg, word, IN_REGISTER);
}

static void look_at_registers(struct chain_search *s, const struct world *w)
{
	for (uint32_t i = 0; i < w->nthreads; i++)
		stopped_each_word(&w->threads[i], find_in_register, s);
}

static void look_at_handed(struct chain_search *s, const struct handed *h)
{
	const size_t count = atomic_load_acquire(&h->count);

	for (size_t i = 0; i < count; i++)
		find(s, h->words[i], IN_KERNEL);
}

static void look_everywhere(struct chain_search *s, const struct roots *roots,
			    const struct world *w, const struct handed *handed)
{
	roots_each(roots, look_through, s);
	roots_each_code(roots, look_through_code, s);
	look_at_registers(s, w);
	look_at_handed(s, handed);
	while (s->head < s->tail) {
		uintptr_t base = s->queue[s->head++];
		uint32_t index;
		size_t bit;
		const struct mspan *span = mark_find(s->m, base, &index, &bit);

		if (span)
			look_through(base, base + mspan_slot_bytes(span), s);
	}
}

/* From the object back to the root. */
static void follow(const struct chain_search *s, uintptr_t object, struct leak_chain *out)
{
	uint32_t index;
	size_t bit;
	const struct mspan *span = mark_find(s->m, object, &index, &bit);

	while (span && s->where[bit]) {
		const struct sample_record *r;
		uintptr_t where = s->where[bit], base;

		span = mark_find(s->m, where, &index, &bit);
		if (!span) {
			out->root = where;
			return;
		}
		if (out->length++ >= LEAK_CHAIN_STEPS)
			continue;
		r = sample_find(span, index);
		base = span->slot_size ? mspan_slot(span, index) : span->base;
		out->steps[out->length - 1] =
			(struct leak_step){ .site = sample_site(r),
					    .offset = where - base,
					    .bytes = sample_size_asked(span, index) };
	}
}

static bool is_wanted(const struct leak_result *out, const struct leak_record *r)
{
	return r->kind == LEAK_REACHABLE && (out->with_chains || r->growing);
}

static void follow_all(const struct chain_search *s, struct leak_result *out)
{
	for (uint32_t i = 0; i < out->nrecords && out->nchains < CHAIN_RECORDS; i++) {
		struct leak_record *r = &out->records[i];

		if (!is_wanted(out, r))
			continue;
		follow(s, r->example, &out->chains[out->nchains]);
		if (out->chains[out->nchains].root)
			r->chain = ++out->nchains;
	}
}

bool chain_is_wanted(const struct leak_result *out)
{
	for (uint32_t i = 0; i < out->nrecords; i++)
		if (is_wanted(out, &out->records[i]))
			return true;
	return false;
}

bool chain_prepare(struct chain_search *s, struct marker *m, struct leak_result *out)
{
	*s = (struct chain_search){ .m = m, .room = m->nbits };
	s->bytes = (m->nbits + 1) * sizeof(uintptr_t);
	out->chains = meta_map(CHAIN_RECORDS * sizeof(*out->chains), META_LEAK);
	s->where = meta_map(s->bytes, META_LEAK);
	s->queue = meta_map(s->bytes, META_LEAK);
	return out->chains && s->where && s->queue;
}

void chain_search(struct chain_search *s, const struct roots *roots,
		  const struct world *w, const struct handed *handed,
		  struct leak_result *out)
{
	look_everywhere(s, roots, w, handed);
	follow_all(s, out);
}

void chain_free(struct chain_search *s)
{
	meta_unmap(s->where, s->bytes, META_LEAK);
	meta_unmap(s->queue, s->bytes, META_LEAK);
}

bool chain_find(struct marker *m, const struct roots *roots, const struct world *w,
		const struct handed *handed, struct leak_result *out)
{
	struct chain_search s;
	bool ok;

	if (!chain_is_wanted(out))
		return true;
	ok = chain_prepare(&s, m, out);
	if (ok)
		chain_search(&s, roots, w, handed, out);
	chain_free(&s);
	return ok;
}

/* ---- names ---- */

static bool describe_thread(uintptr_t where, char *text, size_t size)
{
	bool found = false;

	thread_lock();
	for (const struct thread_info *t = thread_list(); t && !found; t = t->next)
		if (t->state == THREAD_RUNNING &&
		    where - t->stack_lo < t->stack_hi - t->stack_lo) {
			fmt_string(text, size, "stack of thread %d", t->tid);
			found = true;
		}
	thread_unlock();
	return found;
}

void chain_describe_root(uintptr_t where, char *text, size_t size)
{
	if (where == IN_REGISTER)
		fmt_string(text, size, "a register");
	else if (where == IN_KERNEL)
		fmt_string(text, size, "the kernel (epoll or timer)");
	else if (!datasym_describe(where, text, size) &&
		 !describe_thread(where, text, size))
		fmt_string(text, size, "memory at %#lx", where);
}
