/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop_vectors: vector registers beyond xmm0 to xmm15 of threads that ran when they were
 * stopped. A copy of memory onto itself (memmove) has words nowhere but there, between
 * two of its stores; the C library makes it with ymm16 and above where there is AVX-512.
 *
 * A thread in a system call has nothing there that counts, as all of them may be changed
 * by the function that makes the call; but old words, which nobody clears.
 *
 * Where they lie in an XSAVE area: Intel's manual, volume 1, 13.4 (standard format).
 */
#include <cpuid.h>
#include <linux/futex.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/leak/stop_int.h"
#include "profiler/stack/module.h"

#define LEGACY_BYTES 512 /* FXSAVE's part; then the bitmap of components in use */
#define HEADER_BYTES 64
#define LEAF	     0xd
#define LOWEST	     ((uintptr_t)65536)
#define USER_END     ((uintptr_t)1 << 47)

static const unsigned components[] = { 2,    /* high halves of ymm0 to ymm15 */
				       6,    /* of zmm0 to zmm15 */
				       7,    /* zmm16 to zmm31 */
				       19 }; /* APX: r16 to r31 */

static struct {
	uint32_t bytes, at; /* in the area; 0: there is none */
} parts[ARRAY_LEN(components)];

bool stop_vectors_map(struct world *w, void *(*map)(size_t, enum meta_tag))
{
	uint32_t c, d;

	for (size_t i = 0; i < ARRAY_LEN(components); i++)
		if (parts[i].bytes == 0 &&
		    !__get_cpuid_count(LEAF, components[i], &parts[i].bytes, &parts[i].at,
				       &c, &d))
			parts[i].bytes = 0;
	w->wide = map(STOP_WIDE_WORDS * sizeof(*w->wide), META_LEAK);
	return w->wide != NULL;
}

void stop_vectors_unmap(struct world *w)
{
	meta_unmap(w->wide, STOP_WIDE_WORDS * sizeof(*w->wide), META_LEAK);
	w->wide = NULL;
}

/* Or a disguised one (the option pointers=). */
static STOP_NO_SANITIZE bool may_be_pointer(uintptr_t word)
{
	return word != 0 &&
	       (opt_get()->npointers > 0 || word - LOWEST < USER_END - LOWEST);
}

/* What may be pointers, of the i-th part of an area; to: NULL, or where they go. */
static STOP_NO_SANITIZE uint32_t take_part(const char *area, size_t bytes, size_t i,
					   uintptr_t *to)
{
	const size_t from = parts[i].at, end = from + parts[i].bytes;
	uint32_t count = 0;
	uint64_t used;

	if (from < LEGACY_BYTES + HEADER_BYTES || end > bytes)
		return 0;
	memcpy(&used, area + LEGACY_BYTES, sizeof(used));
	if (!(used >> components[i] & 1))
		return 0;
	for (size_t at = from; at < end; at += sizeof(uintptr_t)) {
		uintptr_t word;

		memcpy(&word, area + at, sizeof(word));
		if (!may_be_pointer(word))
			continue;
		if (to)
			to[count] = word;
		count++;
	}
	return count;
}

STOP_NO_SANITIZE bool stop_take_vectors(struct world *w, struct stopped_thread *t,
					const void *area, size_t bytes)
{
	uint32_t count = 0, at;

	t->nwide = 0;
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		count += take_part(area, bytes, i, NULL);
	if (count == 0)
		return true;
	at = atomic_fetch_add_acq_rel(&w->nwide, count);
	if (at > STOP_WIDE_WORDS || STOP_WIDE_WORDS - at < count)
		return false;
	t->wide = w->wide + at;
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		t->nwide += take_part(area, bytes, i, t->wide + t->nwide);
	return true;
}

static uintptr_t libc_function; /* any of the C library; 0: not known */

void stopped_set_libc(uintptr_t function)
{
	libc_function = function;
}

bool stopped_waits_in_libc(const struct stopped_thread *t)
{
	return t->call >= 0 && libc_function &&
	       module_find_code(t->regs.ip) == module_find_code(libc_function);
}

/* Arguments of the calls in which threads wait most; of others, all that there can be. */
static unsigned arguments_of(const struct stopped_thread *t)
{
	static const struct {
		int call;
		unsigned arguments;
	} known[] = {
		{ SYS_pause, 0 },	  { SYS_read, 3 },
		{ SYS_write, 3 },	  { SYS_poll, 3 },
		{ SYS_nanosleep, 2 },	  { SYS_clock_nanosleep, 4 },
		{ SYS_epoll_wait, 4 },	  { SYS_wait4, 4 },
		{ SYS_accept, 3 },	  { SYS_recvmsg, 3 },
		{ SYS_sendmsg, 3 },	  { SYS_rt_sigtimedwait, 4 },
		{ SYS_rt_sigsuspend, 2 }, { SYS_select, 5 },
		{ SYS_accept4, 4 },
	};

	if (t->call == SYS_futex && ((int)t->args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT)
		return 4;
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (known[i].call == t->call)
			return known[i].arguments;
	return ARRAY_LEN(t->args);
}

static void each_word_kept(const struct stopped_thread *t,
			   void (*fn)(uintptr_t word, void *arg), void *arg)
{
	const struct unwind_regs *r = &t->regs;
	const uintptr_t kept[] = { r->bx, r->bp, r->r12, r->r13, r->r14, r->r15 };

	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		fn(kept[i], arg);
	for (unsigned i = 0; i < arguments_of(t); i++)
		fn(t->args[i], arg);
}

void stopped_each_word(const struct stopped_thread *t,
		       void (*fn)(uintptr_t word, void *arg), void *arg)
{
	if (!t->captured)
		return;
	if (stopped_waits_in_libc(t)) {
		each_word_kept(t, fn, arg);
		fn(t->fs_base, arg);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(t->gprs); i++)
		fn(t->gprs[i], arg);
	for (size_t i = 0; i < ARRAY_LEN(t->xmm); i++)
		fn(t->xmm[i], arg);
	fn(t->fs_base, arg);
	for (uint32_t i = 0; i < t->nwide; i++)
		fn(t->wide[i], arg);
}
