/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api: what the files of this folder share. Only this folder exports symbols.
 */
#ifndef PRELOAD_API_API_H
#define PRELOAD_API_API_H

#include "preload/base/base.h"

struct unwind_regs;

/* Functions that <malloc.h> and <stdlib.h> do not declare. */
void cfree(void *p);
void free_sized(void *p, size_t size);
void free_aligned_sized(void *p, size_t align, size_t size);
void *__libc_malloc(size_t size);
void __libc_free(void *p);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_reallocarray(void *p, size_t count, size_t size);
void *__libc_memalign(size_t align, size_t size);
void *__libc_valloc(size_t size);
void *__libc_pvalloc(size_t size);
int __posix_memalign(void **out, size_t align, size_t size);

/* INIT. Each file's share of the constructor. */
void foreign_init(void);
void cxx_init(void);
void thread_api_init(void);
void dl_init(void);
void longjmp_init(void);
void sandbox_init(void);
void fork_init(void);
/* Flags of a clone() that is not like a fork: its child shares our memory, or makes us
 * wait, or its thread-local storage is not a copy of ours. CLONE_VM, _VFORK, _SETTLS */
#define FORK_NOT_ALIKE 0x84100
/* That system call, which is like a fork, with our handlers. */
long fork_by_syscall(long nr, long a, long b, long c, long d, long e);
/* The real function behind one of ours; NULL when there is none. INIT or SLOW. */
void *api_next_symbol(const char *name);

/* entry.c: our malloc itself, whatever the name malloc is bound to. */
void *api_own_malloc(size_t size);
/* INIT. False: the program exports a malloc of its own, so its calls do not reach us. */
bool api_is_bound(void);

/* exit.c: what is written at the end of the process. */
enum exit_way {
	EXIT_NORMAL,  /* the library's destructor */
	EXIT_AT_ONCE, /* _exit, quick_exit: perhaps in a signal handler */
	EXIT_EXEC,    /* about to become another program */
	EXIT_SIGNAL,  /* in the handler of a signal that will kill the process */
};
struct exit_cause {
	enum exit_way way;
	int signal;				    /* of EXIT_SIGNAL */
	const struct leak_interrupted *interrupted; /* EXIT_SIGNAL */
	const struct unwind_regs *regs; /* EXIT_SIGNAL: interrupted registers */
	uintptr_t sp;			/* of leak_check_above(); 0: not known */
};
void exit_init(void);
/* Checks and writes, once. The status that the verdict forces on the process, or -1. */
int exit_reports(const struct exit_cause *cause);
/* The exec failed: the process goes on and will report again. */
void exit_undo_exec(void);
/* SIGNAL. A child that shares our memory becomes the program (pid 0), or process pid has.
 * What exit_unnote_spawn() takes, or NULL. */
void *exit_note_spawn(int pid, const char *program);
void exit_unnote_spawn(void *note);
/* SIGNAL. Around an exec, see world_exec_begin(). */
void exit_exec_begin(void);
void exit_exec_failed(void);
void exit_fork_child(void);
/* SIGNAL. False in a child that shares our memory, or whose fork we did not see. */
bool exit_is_own_process(void);
/* The same at less cost; but where a filter of system calls may be in the way, true also
 * in a child that shares our memory. */
bool exit_seems_own_process(void);
/* SIGNAL. Reports are being written, or were. */
bool exit_has_begun(void);
bool exit_is_busy(void);   /* they are being written */
bool exit_is_ending(void); /* the same, and without us the process would be gone */
/* SIGNAL. Another thread is at it, and will end the process: returns if it does not. */
void exit_await_end(void);
/* The same in the middle of exit(), which goes on with that status. */
void exit_normally(void);
/* INIT. Whoever calls exit() beside the worker waits for it. */
void exit_catch_others(void);
/* Nothing will be recorded: only the row in the tool's table says so. */
void exit_set_passive(void);
/* Is there anything to be done at the end, perhaps only to say that nothing was recorded?
 */
bool exit_may_report(void);
/* Is there more? INIT. */
bool exit_is_wanted(void);

/* For survive.c. Where this process writes; empty: nowhere. */
const char *exit_prefix(void);
/* The expanded pattern, with room for our suffixes behind it; false: too
 * long. */
bool exit_make_prefix(const char *pattern, char *buf, size_t size);
const char *exit_program_name(void);
void exit_set_program(const char *name, int pid); /* of a process that has ended */
struct runtable_row;
void exit_fill_row(struct runtable_row *row, const char *prefix);

/* survive.c: the file that outlives the process. */
void survive_init(void);		/* INIT, before the first site */
void survive_fork_child(bool profiled); /* before the child's first sample */
void survive_no_more(void);		/* the profiles are written */
void survive_recover(void); /* INIT. With recover=: writes profiles and exits */

/* leave.c: _exit, quick_exit and exec. INIT. */
void leave_init(void);

/* fatal.c: signals whose default action ends the process. */
struct sigaction;
void fatal_init(void); /* INIT */
void fatal_fork_child(void);
void sandbox_fork_child(void);
/* Raises a signal that came while the reports before an exec were being written. */
void fatal_raise_pending(void);
/* SIGNAL. Without us the process would have ended before this signal, by which one asks a
 * program to end, came to its handler. */
bool fatal_is_late(int sig);
/* SIGNAL. What the program sets or sees, for whoever interposes sigaction(): the default
 * action is our handler, and our handler is the default action. */
const struct sigaction *fatal_action_in(int sig, const struct sigaction *act,
					struct sigaction *buf);
void fatal_action_out(struct sigaction *old);
/* The program has just set sig to its default with something else than sigaction(). */
void fatal_was_defaulted(int sig);
/* action.c: libc's own sigaction(). */
int action_set(int sig, const struct sigaction *act, struct sigaction *old);
/* SIGNAL. Sets our entry of signal.c again, after the kernel has reset it. */
void action_again(int sig, int flags);

/* signal.c: the program's handlers run through an entry of ours. SIGNAL. */
/* What to give to libc in the place of handler, which is remembered. */
void *signal_in(int sig, void *handler, int flags);
/* The program's handler where the kernel has this one; NULL: it is one of ours that leads
 * to none of the program's. */
const void *signal_program_handler(int sig, const void *handler);
/* The handler remembered for sig: ask before signal_in(). */
void *signal_known(int sig);
/* The calling thread will go on at stack pointer target, perhaps out of handlers. */
void signal_leave(uintptr_t target);
/* What the program sees in the place of handler, known being what was remembered. */
void *signal_out(void *handler, void *known);

/* seep_agent_call() can be called: the tool looks at it, before. */
extern EXPORT uint64_t seep_agent_ready;

#endif
