/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader: see loader.h.
 *
 * The lock has no name that we could ask for. Inside a callback of dl_iterate_phdr() it
 * is held by us: a recursive pthread_mutex_t with our thread's number as its owner, in
 * the writable data of the loader; and free again afterwards.
 */
#include "profiler/stack/loader.h"

#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>

#include "preload/base/atomic.h"
#include "preload/base/os.h"

static struct {
	pthread_mutex_t *lock; /* NULL: not found */
	int reader;	       /* thread in loader_with_lock(), 0: none; atomic */
	bool lost;	       /* held by a thread that fork left behind */
} loader;

static bool is_held_by(const pthread_mutex_t *m, int tid)
{
	return m->__data.__owner == tid && m->__data.__lock == 1 &&
	       m->__data.__count >= 1 &&
	       (m->__data.__kind & 3) == PTHREAD_MUTEX_RECURSIVE_NP;
}

static void search(uintptr_t lo, uintptr_t hi, int tid)
{
	for (; lo + sizeof(pthread_mutex_t) <= hi && !loader.lock; lo += 8)
		if (is_held_by((const pthread_mutex_t *)lo, tid))
			loader.lock = (pthread_mutex_t *)lo;
}

static int search_loader(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	if (info->dlpi_addr != getauxval(AT_BASE))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type == PT_LOAD && (ph->p_flags & PF_W))
			search(align_up(start, 8), start + ph->p_memsz, *(int *)arg);
	}
	return 1;
}

void loader_init(void)
{
	int tid = os_gettid();

	dl_iterate_phdr(search_loader, &tid);
	if (loader.lock && is_held_by(loader.lock, tid))
		loader.lock = NULL; /* another one, that the caller holds */
}

/* Held by a thread of ours that only reads: what the lock guards is whole, and a program
 * that may have had one thread without us may ask the loader after fork(). */
static bool give_back(pthread_mutex_t *m)
{
	int reader = atomic_load_acquire(&loader.reader);

	if (reader == 0 || m->__data.__owner != reader || m->__data.__count != 1)
		return false;
	m->__data.__count = 0;
	m->__data.__owner = 0;
	m->__data.__nusers = 0;
	atomic_store_release(&m->__data.__lock, 0);
	return true;
}

void loader_fork_child(void)
{
	const int *word = loader.lock ? &loader.lock->__data.__lock : NULL;

	/* Held by whom? Not by the child's thread: its number is new, so that it could
	 * not give back what it took before the fork either. */
	loader.lost = word && atomic_load_relaxed(word) != 0 && !give_back(loader.lock);
	atomic_store_relaxed(&loader.reader, 0);
}

bool loader_is_usable(void)
{
	return !loader.lost;
}

int loader_each(loader_callback fn, void *arg)
{
	return loader.lost ? 0 : dl_iterate_phdr(fn, arg);
}

struct reading {
	loader_callback fn;
	void *arg;
};

static int as_reader(struct dl_phdr_info *info, size_t size, void *arg)
{
	const struct reading *r = arg;
	int ret;

	atomic_store_release(&loader.reader, os_gettid());
	ret = r->fn(info, size, r->arg);
	atomic_store_release(&loader.reader, 0);
	return ret;
}

void loader_with_lock(loader_callback fn, void *arg)
{
	struct reading r = { fn, arg };

	if (loader.lost)
		fn(NULL, 0, arg);
	else
		dl_iterate_phdr(as_reader, &r);
}
