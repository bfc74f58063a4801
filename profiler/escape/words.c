/* SPDX-License-Identifier: Apache-2.0 */
/*
 * words: see words.h. A word w points into the object when w - p < size. Vectors cannot
 * compare like that, but (w - p) >> k is 0 for these, with 2^k not below size, and for
 * few others; what passes is looked at again one by one.
 */
#include "profiler/escape/words.h"

#include <cpuid.h>
#include <immintrin.h>

#define BLOCK	    128	       /* bytes looked at before a branch */
#define CPUID_XSAVE (1u << 27) /* leaf 1, ecx: OSXSAVE */
#define CPUID_AVX2  (1u << 5)  /* leaf 7, ebx */
#define XCR0_AVX    6	       /* the system saves xmm and ymm */
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

static bool words_avx2; /* written once by words_init() */

NO_SANITIZE static uintptr_t find_plain(uintptr_t lo, uintptr_t hi, uintptr_t p,
					size_t size)
{
	for (uintptr_t a = lo; a + 8 <= hi; a += 8)
		if (*(const volatile uintptr_t *)a - p < size)
			return a;
	return 0;
}

__attribute__((target("avx2"))) NO_SANITIZE static __m256i
matches(uintptr_t at, __m256i minus_p, __m128i shift)
{
	__m256i w = _mm256_loadu_si256((const __m256i *)at);

	return _mm256_cmpeq_epi64(_mm256_srl_epi64(_mm256_add_epi64(w, minus_p), shift),
				  _mm256_setzero_si256());
}

__attribute__((target("avx2"))) NO_SANITIZE static uintptr_t
find_avx2(uintptr_t lo, uintptr_t hi, uintptr_t p, size_t size)
{
	__m256i minus_p = _mm256_set1_epi64x(-(long long)p);
	__m128i shift = _mm_cvtsi32_si128(size > 1 ? 64 - __builtin_clzl(size - 1) : 0);

	for (; hi - lo >= BLOCK; lo += BLOCK) {
		__m256i a = _mm256_or_si256(matches(lo, minus_p, shift),
					    matches(lo + 32, minus_p, shift));
		__m256i b = _mm256_or_si256(matches(lo + 64, minus_p, shift),
					    matches(lo + 96, minus_p, shift));
		uintptr_t at;

		a = _mm256_or_si256(a, b);
		if (LIKELY(_mm256_testz_si256(a, a)))
			continue;
		at = find_plain(lo, lo + BLOCK, p, size);
		if (at)
			return at;
	}
	return find_plain(lo, hi, p, size);
}

void words_init(void)
{
	unsigned a, b, c, d, low, high;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & CPUID_XSAVE))
		return;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	if ((low & XCR0_AVX) == XCR0_AVX && __get_cpuid_count(7, 0, &a, &b, &c, &d))
		words_avx2 = b & CPUID_AVX2;
}

uintptr_t words_find(uintptr_t lo, uintptr_t hi, uintptr_t p, size_t size)
{
	lo = align_up(lo, 8);
	if (hi <= lo)
		return 0;
	return words_avx2 ? find_avx2(lo, hi, p, size) : find_plain(lo, hi, p, size);
}
