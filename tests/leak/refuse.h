/* SPDX-License-Identifier: Apache-2.0 */
/* refuse: how a test program has the kernel refuse it a call, by seccomp. */
#ifndef TESTS_LEAK_REFUSE_H
#define TESTS_LEAK_REFUSE_H

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>

#define REFUSE_IMPOSSIBLE 77 /* exit status: no filter can be set here */

/* With EPERM, from now on, when the argument has one of the bits. */
static inline void refuse_call(int call, unsigned argument, uint32_t bits)
{
	const size_t at = offsetof(struct seccomp_data, args) + 8 * argument;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)at),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		exit(REFUSE_IMPOSSIBLE);
}

#endif
