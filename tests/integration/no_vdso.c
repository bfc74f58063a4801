/* SPDX-License-Identifier: Apache-2.0 */
/*
 * no_vdso: runs a program whose auxiliary vector names no vDSO, as an emulator of user
 * space does. Usage: no_vdso PROGRAM ARGUMENTS.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child;

static uintptr_t word_at(uintptr_t address)
{
	return (uintptr_t)ptrace(PTRACE_PEEKDATA, child, address, 0);
}

/* What the kernel laid out: the arguments' number, the arguments, the environment. */
static uintptr_t auxiliary_vector(void)
{
	struct user_regs_struct regs;
	uintptr_t at;

	if (ptrace(PTRACE_GETREGS, child, 0, &regs) != 0)
		return 0;
	at = (uintptr_t)regs.rsp;
	at += (word_at(at) + 2) * sizeof(uintptr_t);
	while (word_at(at) != 0)
		at += sizeof(uintptr_t);
	return at + sizeof(uintptr_t);
}

int main(int argc, char **argv)
{
	int status;
	uintptr_t at;

	child = argc > 1 ? fork() : -1;
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		return 99;
	for (at = auxiliary_vector(); at && word_at(at) != AT_NULL; at += 16)
		if (word_at(at) == AT_SYSINFO_EHDR)
			ptrace(PTRACE_POKEDATA, child, at, AT_IGNORE);
	ptrace(PTRACE_DETACH, child, 0, 0);
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return 99;
	return WEXITSTATUS(status);
}
