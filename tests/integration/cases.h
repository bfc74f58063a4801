/* SPDX-License-Identifier: Apache-2.0 */
/* A test program of many cases: the first argument names the one to run. */
#ifndef TESTS_INTEGRATION_CASES_H
#define TESTS_INTEGRATION_CASES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case {
	const char *name;
	int (*run)(void); /* not 0: passed */
};

/* Says where, for a case that goes on to return the result. */
#define HOLDS(cond) ((cond) ? 1 : (fprintf(stderr, "line %d: %s\n", __LINE__, #cond), 0))

static int run_case(const struct test_case *cases, size_t n, int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < n; i++)
		if (strcmp(argv[1], cases[i].name) == 0)
			return cases[i].run() ? 0 : 1;
	return 2;
}

#endif
