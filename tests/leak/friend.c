/* SPDX-License-Identifier: Apache-2.0 */
/*
 * friend: a program that uses seep.h. Without Seep it must run all the same: then it ends
 * with status 42. With it: 0, or the number of the first answer that was wrong.
 */
#include "preload/api/seep.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/leak/lose.h"

static void *volatile kept;

static APART void *make_block(size_t size)
{
	return keep_alive(calloc(1, size));
}

static APART void lose(size_t size)
{
	make_block(size);
}

static APART void lose_on_purpose(void)
{
	void **p;

	seep_leak_disable();
	seep_leak_disable();
	make_block(33);
	seep_leak_enable();
	make_block(34);
	seep_leak_enable();
	p = make_block(35);
	p[0] = make_block(36);
	seep_leak_ignore(p);
}

/* The only pointer stands in memory that is no root by itself: a file's, read-only. */
static APART void **hold_in_read_only(void)
{
	int file = open("/proc/self/exe", O_RDONLY);
	void **p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);

	close(file);
	p[5] = make_block(37);
	mprotect(p, 4096, PROT_READ);
	return p;
}

int main(void)
{
	void **held;

	kept = make_block(32);
	lose_on_purpose();
	scrub();
	if (!seep_is_loaded())
		return seep_leak_check() == SEEP_ABSENT &&
				       seep_leak_check_new() == SEEP_ABSENT
			       ? 42
			       : 1;
	if (seep_leak_check() != SEEP_CLEAN)
		return 2;
	held = hold_in_read_only();
	scrub();
	if (seep_leak_check() != SEEP_LEAK)
		return 3;
	seep_root_add(held, 4096);
	if (seep_leak_check() != SEEP_CLEAN)
		return 4;
	lose(38);
	scrub();
	if (seep_leak_check_new() != SEEP_LEAK || seep_leak_check_new() != SEEP_CLEAN ||
	    seep_leak_check() != SEEP_LEAK)
		return 5;
	seep_root_remove(held, 4096);
	if (seep_leak_check_new() != SEEP_LEAK)
		return 6;
	return 0;
}
