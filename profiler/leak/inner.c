/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inner: pointers into objects that are as good as pointers to them, because that is all
 * a C++ program keeps: to an array behind the count that new[] puts in front of it, and
 * to an object's second base class, which begins with a pointer to a table of functions
 * as the object itself does. And a thread's vector of thread-local blocks, as glibc keeps
 * it: behind an entry with their number.
 */
#include "profiler/leak/inner.h"

#include "profiler/stack/module.h"

#define COOKIE		 sizeof(uintptr_t)
#define TLS_ENTRY	 16 /* of the vector of thread-local blocks */
#define NO_SANITIZE	 __attribute__((no_sanitize("address", "thread", "undefined")))
#define RANGES_OF_TABLES 256

static struct {
	struct {
		uintptr_t lo, hi;
	} list[RANGES_OF_TABLES]; /* where function tables can lie */
	unsigned count;
} tables;

void inner_init(void)
{
	tables.count = 0;
	for (uint32_t i = 0; i < module_count() && tables.count < RANGES_OF_TABLES; i++) {
		const struct module *m = module_at(i);

		if (m->unloaded || m->is_seep)
			continue;
		tables.list[tables.count].lo = m->start;
		tables.list[tables.count].hi = m->end;
		tables.count++;
	}
}

static bool may_be_table(uintptr_t addr)
{
	if (addr % sizeof(uintptr_t) != 0)
		return false;
	for (unsigned i = 0; i < tables.count; i++)
		if (addr - tables.list[i].lo < tables.list[i].hi - tables.list[i].lo)
			return true;
	return false;
}

/* One entry with the number, one of the generation, then as many as the number says. */
static bool is_tls_vector(uintptr_t number, size_t size)
{
	size_t bytes = (number + 2) * TLS_ENTRY;

	return number > 0 && number < size && bytes <= size &&
	       bytes > size - size / 8 - 32;
}

NO_SANITIZE bool inner_is_as_good(uintptr_t base, size_t inside, size_t size)
{
	const volatile uintptr_t *object = (const volatile uintptr_t *)base;

	if (inside % sizeof(uintptr_t) != 0 || inside + sizeof(uintptr_t) > size)
		return false;
	if (inside == COOKIE && object[0] > 0 && object[0] <= size - COOKIE)
		return true;
	/* The cookie of aligned elements is padded in front. */
	if (inside == 2 * COOKIE && object[1] > 0 && object[1] <= size - 2 * COOKIE)
		return true;
	if (inside == TLS_ENTRY && is_tls_vector(object[0], size))
		return true;
	return may_be_table(object[0]) && may_be_table(object[inside / COOKIE]);
}
