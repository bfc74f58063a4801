/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inner: pointers into objects that are as good as pointers to them, because that is all
 * a C++ program keeps: to an array behind the count that new[] puts in front of it, to
 * an object's second base class, which begins with a pointer to a table of functions as
 * the object itself does, to what was thrown, behind its header, and to the characters of
 * a string that is shared. And a thread's vector of thread-local blocks, as glibc keeps
 * it: behind an entry with their number.
 */
#include "profiler/leak/inner.h"

#include "profiler/leak/absent.h"
#include "profiler/leak/mark.h"
#include "profiler/sample/sample.h"
#include "profiler/stack/module.h"

#define COOKIE		 sizeof(uintptr_t)
#define MAX_PADDED	 128 /* bytes that the elements of an array are aligned to */
#define TLS_ENTRY	 16  /* of the vector of thread-local blocks */
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

/* As the program asked for it, if that is known. */
static size_t size_asked(const struct marker *m, uintptr_t base, size_t size)
{
	uint32_t index;
	size_t bit;
	const struct mspan *s = mark_find(m, base, &index, &bit);

	return s ? sample_size_asked(s, index) : size;
}

/* An array of aligned elements: their count is padded in front, to their alignment, which
 * is the least that they have of bytes. */
static bool is_padded_array(uintptr_t base, size_t inside, uintptr_t count, size_t size)
{
	if (inside == 2 * COOKIE)
		return count > 0 && count <= size - inside;
	return inside >= 4 * COOKIE && inside <= MAX_PADDED && is_pow2(inside) &&
	       base % inside == 0 && count > 0 && count <= (size - inside) / inside;
}

/* ---- what was thrown ---- */

/* Both libraries' headers end in the unwinder's, which begins with the name of the
 * language; what was thrown lies behind. One that holds another by reference may be
 * shorter. */
#define THROWN	       (16 * sizeof(uintptr_t))
#define THROWN_TYPE    (2 * sizeof(uintptr_t)) /* libstdc++'s own header begins there */
#define UNWINDER       (12 * sizeof(uintptr_t))
#define UNWINDER_SHORT (10 * sizeof(uintptr_t))
#define UNWINDER_BYTES (4 * sizeof(uintptr_t))
/* "GNUCC++" and "CLNGC++"; the last byte is 1: by reference. */
#define LANGUAGE_GNU  0x474e5543432b2b00u
#define LANGUAGE_LLVM 0x434c4e47432b2b00u

static bool is_language(uintptr_t word, bool by_reference)
{
	return word == (LANGUAGE_GNU | by_reference) ||
	       word == (LANGUAGE_LLVM | by_reference);
}

NO_SANITIZE static bool is_thrown(const struct marker *m, uintptr_t base, size_t inside,
				  size_t size)
{
	const volatile uintptr_t *object = (const volatile uintptr_t *)base;

	if (inside != THROWN && inside != UNWINDER && inside != UNWINDER_SHORT &&
	    inside != THROWN_TYPE)
		return false;
	if (inside == UNWINDER_SHORT)
		return size >= UNWINDER_SHORT + UNWINDER_BYTES &&
		       is_language(object[UNWINDER_SHORT / sizeof(*object)], true);
	if (size < THROWN || !absent_has_not(m->absent, base, THROWN))
		return false;
	if (inside == UNWINDER && is_language(object[UNWINDER / sizeof(*object)], true))
		return true;
	return is_language(object[UNWINDER / sizeof(*object)], false) &&
	       may_be_table(object[THROWN_TYPE / sizeof(*object)]);
}

/* ---- strings ---- */

/* In front of a string that is shared until it is written to, as libstdc++ has it for
 * exceptions' texts and for programs of before C++11. */
struct shared_string {
	size_t length, capacity;
	int32_t more; /* holders; -1: it is not shared any more */
};

NO_SANITIZE static bool is_shared_string(const struct marker *m, uintptr_t base,
					 size_t inside, size_t size)
{
	const volatile struct shared_string *s =
		(const volatile struct shared_string *)base;
	const size_t length = s->length, capacity = s->capacity;
	size_t asked;

	if (inside != sizeof(*s) || length > capacity || capacity >= size || s->more < -1)
		return false;
	asked = size_asked(m, base, size);
	return asked == inside + capacity + 1 ||
	       asked == inside + (capacity + 1) * sizeof(uint16_t) ||
	       asked == inside + (capacity + 1) * sizeof(uint32_t);
}

NO_SANITIZE bool inner_is_as_good(const struct marker *m, uintptr_t base, size_t inside,
				  size_t size)
{
	const volatile uintptr_t *object = (const volatile uintptr_t *)base;

	if (inside % sizeof(uintptr_t) != 0 || inside + sizeof(uintptr_t) > size ||
	    !absent_has_not(m->absent, base, inside + sizeof(uintptr_t)))
		return false;
	if (inside == COOKIE && object[0] > 0 && object[0] <= size - COOKIE)
		return true;
	/* The array is empty. */
	if (inside == COOKIE && object[0] == 0 && size_asked(m, base, size) == COOKIE)
		return true;
	if (is_padded_array(base, inside, object[inside / COOKIE - 1], size))
		return true;
	if (inside == TLS_ENTRY && is_tls_vector(object[0], size))
		return true;
	if (is_thrown(m, base, inside, size) || is_shared_string(m, base, inside, size))
		return true;
	return may_be_table(object[0]) && may_be_table(object[inside / COOKIE]);
}
