/* SPDX-License-Identifier: Apache-2.0 */
/* child: parts of a test that run in a child, since a process has one of what they try. A
 * child reports by its status: cmocka's own way would run the later tests there. */
#ifndef TESTS_UNIT_CHILD_H
#define TESTS_UNIT_CHILD_H

#include "tests/unit/cm.h"

#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs fn in a child; the status of its exit, as waitpid() gives it. */
static inline int in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static inline void require(bool ok)
{
	if (!ok)
		_exit(1);
}

#endif
