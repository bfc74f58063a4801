/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc: what /proc says about a process that is to be asked.
 */
#ifndef TOOLS_LIB_PROC_H
#define TOOLS_LIB_PROC_H

#include <stdbool.h>
#include <stdint.h>

/* The whole of a small file of /proc, terminated, allocated; NULL with errno. */
char *proc_read(const char *path, long *out_size);
/* The value of a line "KEY:\tVALUE" of a status file: number in the given base, or
 * missing. */
uint64_t proc_number(const char *status, const char *key, int base, uint64_t missing);
/* The letter of "State:", or 0. */
char proc_state(const char *status);
/* A thread of pid that takes the signal, rather one that the signal interrupts in nothing
 * that must be done again. signal 0: any thread. 0: all block it. */
int proc_pick_thread(int pid, int signal);
/* A thread of pid whose files in /proc show the process: its main thread unless that has
 * ended before the others. */
int proc_view(int pid);
/* Likewise, as proc_read(), a file of the process by its name there. */
char *proc_read_of(int pid, const char *name, long *out_size);
/* There, with a thread that is no zombie. */
bool proc_is_alive(int pid);
/* Does the thread wait where no signal comes, as while its child of vfork() runs? */
bool proc_is_deaf(int tid);
/* Can it open a file? True as well where that is not known. */
bool proc_has_descriptor(int pid);
/* Has it a tracer, whoever that is? */
bool proc_is_traced(int pid, int tid);
/* Does a thread wait in an exec, for others to end? Who would trace one waits, too. */
bool proc_is_in_exec(int pid);
/* Has it a handler for the signal? */
bool proc_handles(int pid, int signal);
/* Is the library mapped? -1 with errno: cannot be seen. */
int proc_has_library(int pid);
/* Might the library still be coming? The loader is at work and has been told to load it,
 * or the process is so young that it may be about to exec. */
bool proc_may_load_library(int pid);
/* Do both have the same name space ("net", "mnt")? Also true when it cannot be seen. */
bool proc_same_namespace(int pid, const char *kind);

#endif
