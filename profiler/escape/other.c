/* SPDX-License-Identifier: Apache-2.0 */
/*
 * other: see other.h. The registry's lock keeps threads from ending, and so their stacks
 * mapped. It is only tried: somebody who looks through all threads may hold it for long.
 */
#include "profiler/escape/other.h"

#include <fcntl.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"
#include "profiler/escape/words.h"
#include "profiler/stack/thread.h"

#define MAX_THREADS 64		/* looked at in one look */
#define STACK_BYTES (64u << 10) /* ... of one stack, from its end */
#define TEXT_BYTES  256

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

static bool stack_has(const struct thread_info *t, uintptr_t p, size_t size, size_t *left)
{
	uintptr_t sp = waiting_sp(t->tid), lo = sp;

	if (sp < t->stack_lo || sp >= t->stack_hi)
		return false; /* running, or on another stack */
	if (t->stack_hi - lo > STACK_BYTES)
		lo = t->stack_hi - STACK_BYTES;
	if (t->stack_hi - lo > *left)
		return false;
	*left -= t->stack_hi - lo;
	return words_find(lo, t->stack_hi, p, size) != 0;
}

bool other_has(uintptr_t p, size_t size, size_t *left, uint32_t *out_site)
{
	unsigned n = 0;
	bool found = false;

	if (!thread_try_lock())
		return false;
	for (struct thread_info *t = thread_list(); t && !found && n < MAX_THREADS;
	     t = t->next) {
		if (t == seep_tls.thread || t->state != THREAD_RUNNING)
			continue;
		n++;
		found = stack_has(t, p, size, left);
		*out_site = t->creator_site;
	}
	thread_unlock();
	return found;
}
