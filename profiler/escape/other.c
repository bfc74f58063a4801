/* SPDX-License-Identifier: Apache-2.0 */
/*
 * other: see other.h. The registry's lock keeps threads from ending, and so their stacks
 * mapped. It is only tried: somebody who looks through all threads may hold it for long.
 */
#include "profiler/escape/other.h"

#include <fcntl.h>
#include <unistd.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"
#include "profiler/escape/words.h"
#include "profiler/stack/thread.h"

#define MAX_THREADS   64	  /* looked at in one look */
#define STACK_BYTES   (64u << 10) /* ... of one stack, from its end */
#define RUNNING_BYTES (16u << 10)
#define TEXT_BYTES    256

static uintptr_t other_main_end; /* of the main thread's frames */

/* The last number but one of a line "202 0x7f... 0x80 ... SP PC"; 0: there is none, as in
 * "running". */
static uintptr_t parse_sp(const char *text, long n)
{
	uintptr_t last = 0, before = 0;

	for (long i = 0; i + 2 < n; i++) {
		if (text[i] != '0' || text[i + 1] != 'x')
			continue;
		before = last;
		last = 0;
		for (i += 2; i < n; i++) {
			char c = text[i];

			if (c >= '0' && c <= '9')
				last = last << 4 | (uintptr_t)(c - '0');
			else if (c >= 'a' && c <= 'f')
				last = last << 4 | (uintptr_t)(c - 'a' + 10);
			else
				break;
		}
	}
	return before;
}

/* The stack pointer of a thread that waits in the kernel, or 0. */
static uintptr_t waiting_sp(int tid)
{
	char text[TEXT_BYTES];
	long n;
	int fd;

	fmt_string(text, sizeof(text), "/proc/self/task/%d/syscall", tid);
	fd = os_open(text, O_RDONLY, 0);
	if (fd < 0)
		return 0;
	n = os_read(fd, text, sizeof(text));
	os_close(fd);
	return parse_sp(text, n);
}

/* Where the first frames of a thread end. */
static uintptr_t frames_end(const struct thread_info *t)
{
	uintptr_t hi = t->tid == os_getpid() ? other_main_end : t->frames_hi;

	return hi > t->stack_lo && hi < t->stack_hi ? hi : t->stack_lo;
}

/* What is to be read of it; false: nothing. */
static bool part_of(const struct thread_info *t, uintptr_t *lo, uintptr_t *hi,
		    bool *out_waits)
{
	uintptr_t sp = waiting_sp(t->tid);

	*out_waits = sp != 0;
	*lo = sp;
	*hi = t->stack_hi;
	if (sp == 0) {
		*hi = frames_end(t);
		*lo = *hi - t->stack_lo > RUNNING_BYTES ? *hi - RUNNING_BYTES
							: t->stack_lo;
	}
	if (*lo < t->stack_lo || *lo >= *hi)
		return false; /* on another stack */
	if (*hi - *lo > STACK_BYTES)
		*lo = *hi - STACK_BYTES;
	return true;
}

static bool stack_has(const struct thread_info *t, uintptr_t p, size_t size, size_t *left,
		      struct other_word *out)
{
	uintptr_t lo, hi;

	if (!part_of(t, &lo, &hi, &out->waits) || hi - lo > *left)
		return false;
	*left -= hi - lo;
	out->at = words_find(lo, hi, p, size);
	out->site = t->creator_site;
	return out->at != 0;
}

static bool is_other(const struct thread_info *t)
{
	return t != seep_tls.thread && t->state == THREAD_RUNNING;
}

bool other_has(uintptr_t p, size_t size, size_t *left, struct other_word *out)
{
	unsigned n = 0;
	bool found = false;

	if (!thread_try_lock())
		return false;
	for (struct thread_info *t = thread_list(); t && !found && n < MAX_THREADS;
	     t = t->next) {
		if (!is_other(t))
			continue;
		n++;
		found = stack_has(t, p, size, left, out);
	}
	thread_unlock();
	return found;
}

bool other_refers(uintptr_t at, uintptr_t p, size_t size, struct other_word *out)
{
	bool found = false;

	if (!thread_try_lock())
		return false;
	for (struct thread_info *t = thread_list(); t && !found; t = t->next)
		if (is_other(t) && at >= t->stack_lo && at < t->stack_hi) {
			*out = (struct other_word){ .at = at, .site = t->creator_site };
			found = words_find(at, at + 8, p, size) != 0;
		}
	thread_unlock();
	return found;
}

void other_init(void)
{
	other_main_end = (uintptr_t)environ; /* above the first frame */
}
