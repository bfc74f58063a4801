/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that a test program goes on behind, counting those that fail. */
#ifndef TESTS_INTEGRATION_CHECK_H
#define TESTS_INTEGRATION_CHECK_H

#include <stdio.h>

static int failures;

#define CHECK(cond)                                                       \
	do {                                                              \
		if (!(cond)) {                                            \
			printf("%s:%d: %s\n", __func__, __LINE__, #cond); \
			failures++;                                       \
		}                                                         \
	} while (0)

#endif
