/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the program have in common. */
#ifndef TESTS_MISUSE_MISUSE_H
#define TESTS_MISUSE_MISUSE_H

#define CASE(name)          \
	{                   \
#name, name \
	}

struct misuse_case {
	const char *name;
	void (*run)(void);
};

extern const struct misuse_case misuse_double_frees[], *const misuse_double_frees_end;

extern void *volatile misuse_unused;

void misuse_in_thread(void *(*fn)(void *), void *arg); /* to its end */

#endif
