/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names: linkage names in human form: C++ and Rust, old and new.
 */
#ifndef TOOLS_LIB_NAMES_H
#define TOOLS_LIB_NAMES_H

#include <stdbool.h>

enum names_style {
	NAMES_NONE,	 /* as they are */
	NAMES_SIMPLE,	 /* std::vector::push_back, as pprof shows them */
	NAMES_TEMPLATES, /* std::vector<int, std::allocator<int> >::push_back */
	NAMES_FULL,	 /* and parameters */
};

/* "none", "simple", "templates", "full". False: none of these. */
bool names_style_of(const char *word, enum names_style *out_style);
/* Allocated. */
char *names_human(const char *linkage, enum names_style style);
/* Is it the place of an unnamed function, "libc.so.6+0x27249"? */
bool names_is_place(const char *name);

#endif
