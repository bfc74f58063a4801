/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text: see text.h.
 */
#include "profiler/pprof/text.h"

uint64_t text_hash(const char *text)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3u;
	h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
	return (h ^ h >> 32) | 1;
}

size_t text_utf8_size(const unsigned char *s)
{
	size_t n = s[0] < 0x80	 ? 1
		   : s[0] < 0xc2 ? 0
		   : s[0] < 0xe0 ? 2
		   : s[0] < 0xf0 ? 3
				 : 4;

	if (s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* Frames of allocation functions, so that what they allocate counts as their caller's.
 * C++ and Rust names in all the spellings that pprof may have made of them: as in the
 * file, demangled with template arguments, and without. pprof adds ^( and )$. */
const char pprof_drop_frames[] =
	"(__libc_)?(malloc|calloc|realloc|reallocarray|memalign|valloc|pvalloc)|"
	"posix_memalign|aligned_alloc|"
	"operator new(\\[\\])?|_Zn[wa]m.*|"
	"(std::__new_allocator|__gnu_cxx::new_allocator|std::allocator|"
	"std::allocator_traits)(<.*>)?::allocate|"
	"_ZNS(t15__new_allocator|aI|t16allocator_traits).*8allocateE.*|"
	"_ZN9__gnu_cxx13new_allocatorI.*8allocateE.*|"
	"<?alloc::(alloc|raw_vec)::.*|__rust_(alloc|alloc_zeroed|realloc)|"
	"__rdl_(alloc|alloc_zeroed|realloc)|"
	"_ZN5alloc(5alloc|7raw_vec).*|_ZN63_\\$LT\\$alloc\\.\\.alloc\\.\\.Global.*";
