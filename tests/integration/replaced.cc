// SPDX-License-Identifier: Apache-2.0
// A program with operators of its own, that leaves out some forms: those must come to its
// own, whose blocks are no blocks of malloc's. FORMS says which it has.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

#define PLAIN 1
#define ARRAY 2
#define ALIGNED 4
#define ALIGNED_ARRAY 8

static int failures;
static int made[4], given[4]; // calls, by form
static bool refuses;

#define CHECK(cond)                                               \
	do {                                                      \
		if (!(cond)) {                                    \
			printf("line %d: %s\n", __LINE__, #cond); \
			failures++;                               \
		}                                                 \
	} while (0)

enum { MAGIC = 0x5eed };

// What it returns lies inside of a block.
static void *make(std::size_t size, std::size_t align, int form)
{
	if (refuses)
		throw std::bad_alloc();
	char *p = static_cast<char *>(std::aligned_alloc(align, size + 2 * align));
	char *q = p + align;

	*reinterpret_cast<int *>(q - 8) = MAGIC;
	made[form]++;
	return q;
}

static void give(void *p, std::size_t align, int form)
{
	char *q = static_cast<char *>(p);

	given[form]++;
	if (!q)
		return;
	if (*reinterpret_cast<int *>(q - 8) != MAGIC) {
		printf("form %d gets what it did not make\n", form);
		fflush(stdout);
		_Exit(3);
	}
	free(q - align);
}

#if FORMS & PLAIN
void *operator new(std::size_t size)
{
	return make(size, 16, 0);
}

void operator delete(void *p) noexcept
{
	give(p, 16, 0);
}
#endif
#if FORMS & ARRAY
void *operator new[](std::size_t size)
{
	return make(size, 16, 1);
}

void operator delete[](void *p) noexcept
{
	give(p, 16, 1);
}
#endif
#if FORMS & ALIGNED
void *operator new(std::size_t size, std::align_val_t align)
{
	return make(size, static_cast<std::size_t>(align), 2);
}

void operator delete(void *p, std::align_val_t align) noexcept
{
	give(p, static_cast<std::size_t>(align), 2);
}
#endif
#if FORMS & ALIGNED_ARRAY
void *operator new[](std::size_t size, std::align_val_t align)
{
	return make(size, static_cast<std::size_t>(align), 3);
}

void operator delete[](void *p, std::align_val_t align) noexcept
{
	give(p, static_cast<std::size_t>(align), 3);
}
#endif

// One block through a form of new and a form of delete: whose are called?
template <typename N, typename D> static void pair(int form, N get, D put)
{
	// The array forms rest on the plain ones.
	int at = FORMS & 1 << form ? form : form - 1;
	bool ours = at >= 0 && FORMS & 1 << at && (form % 2 == 1 || at == form);
	int m = made[ours ? at : 0], g = given[ours ? at : 0];
	void *p = get();

	CHECK(p != nullptr);
	put(p);
	CHECK(made[ours ? at : 0] == m + ours);
	CHECK(given[ours ? at : 0] == g + ours);
	if (!ours)
		return;
	refuses = true;
	try {
		CHECK(get() == nullptr); // a form that does not throw
	} catch (const std::bad_alloc &) {
	}
	refuses = false;
}

static const std::align_val_t align{ 64 };

static void plain_forms()
{
	auto get = [] { return ::operator new(40); };
	auto quiet = [] { return ::operator new(40, std::nothrow); };

	pair(0, get, [](void *p) { ::operator delete(p); });
	pair(0, get, [](void *p) { ::operator delete(p, 40); });
	pair(0, get, [](void *p) { ::operator delete(p, std::nothrow); });
	pair(0, quiet, [](void *p) { ::operator delete(p, 40); });
}

static void array_forms()
{
	auto get = [] { return ::operator new[](400); };
	auto quiet = [] { return ::operator new[](400, std::nothrow); };

	pair(1, get, [](void *p) { ::operator delete[](p); });
	pair(1, get, [](void *p) { ::operator delete[](p, 400); });
	pair(1, get, [](void *p) { ::operator delete[](p, std::nothrow); });
	pair(1, quiet, [](void *p) { ::operator delete[](p, 400); });
}

static void aligned_forms()
{
	auto get = [] { return ::operator new(40, align); };
	auto quiet = [] { return ::operator new(40, align, std::nothrow); };

	pair(2, get, [](void *p) { ::operator delete(p, align); });
	pair(2, get, [](void *p) { ::operator delete(p, 40, align); });
	pair(2, get, [](void *p) { ::operator delete(p, align, std::nothrow); });
	pair(2, quiet, [](void *p) { ::operator delete(p, 40, align); });
}

static void aligned_array_forms()
{
	auto get = [] { return ::operator new[](400, align); };
	auto quiet = [] { return ::operator new[](400, align, std::nothrow); };

	pair(3, get, [](void *p) { ::operator delete[](p, align); });
	pair(3, get, [](void *p) { ::operator delete[](p, 400, align); });
	pair(3, get, [](void *p) { ::operator delete[](p, align, std::nothrow); });
	pair(3, quiet, [](void *p) { ::operator delete[](p, 400, align); });
}

int main()
{
	plain_forms();
	array_forms();
	aligned_forms();
	aligned_array_forms();
	return failures != 0;
}
