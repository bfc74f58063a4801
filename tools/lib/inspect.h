/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inspect: can a program be helped by a preloaded library? Looked up before it is
 * started, from its ELF headers.
 */
#ifndef TOOLS_LIB_INSPECT_H
#define TOOLS_LIB_INSPECT_H

#include <stdbool.h>

enum inspect_result {
	INSPECT_OK,
	INSPECT_OWN_MALLOC, /* works, but its calls may not reach us */
	INSPECT_STATIC,	    /* not the program, but perhaps those that it starts */
	INSPECT_NO_HELP,    /* 32-bit, musl, set-user-ID, sanitizer */
};

/* The file that execvp(name) would run, allocated; NULL with errno ENOENT or EACCES. */
char *inspect_find(const char *name);
/* Looks at path; follows "#!" to the interpreter. *out_why is a phrase for the message
 * ("is statically linked: ..."), *out_file the file it is about; both allocated or NULL.
 */
enum inspect_result inspect_program(const char *path, char **out_file, char **out_why);

#endif
