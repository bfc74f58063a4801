/* SPDX-License-Identifier: Apache-2.0 */
/* Allocations in functions that are inlined into each other; test_symbolize.py finds the
 * lines by the words in their comments. */
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif
#define INLINE	 __attribute__((always_inline)) static inline

volatile int zero;
void *volatile kept;

INLINE void *innermost(size_t n)
{
	return malloc(n + (size_t)zero); /* at innermost */
}

namespace shop {

template <class T> struct Shelf {
	INLINE void *take(size_t n)
	{
		return innermost(n * sizeof(T)); /* at take */
	}
};

NOINLINE void order(size_t n) /* start order */
{
	kept = Shelf<long>::take(n); /* at order */
	zero = 0;
}

NOINLINE static void quiet(size_t n)
{
	kept = malloc(n); /* at quiet */
	zero = 0;
}

} // namespace shop

extern "C" {
NOINLINE void rust_new(size_t n) __asm__("_RNvNtCs1234_7mycrate5parse5token");
NOINLINE void rust_old(size_t n) __asm__("_ZN5crate4heap4grow17h0123456789abcdefE");
NOINLINE void rust_alloc(size_t n) __asm__("_ZN5alloc5alloc5alloc17h0123456789abcdefE");
}
void rust_new(size_t n)
{
	kept = malloc(n); /* at token */
	zero = 0;
}

void rust_alloc(size_t n)
{
	kept = malloc(n);
	zero = 0;
}

NOINLINE static void of_rust(size_t n)
{
	rust_alloc(n);
	free(kept);
	kept = nullptr;
}

void rust_old(size_t n)
{
	kept = malloc(n); /* at grow */
	zero = 0;
}

NOINLINE static void lose(size_t n)
{
	kept = innermost(n); /* at lose */
	kept = nullptr;
}

int main(int argc, char **argv)
{
	std::map<std::string, int> m;

	m[argv[0]] = argc;
	shop::order(1000); /* at main */
	shop::quiet(300);
	rust_new(77);
	rust_old(88);
	of_rust(99);
	lose(55);
	if (argc > 1) /* until its input ends */
		while (getchar() != EOF)
			;
	return m.size() != 1;
}
