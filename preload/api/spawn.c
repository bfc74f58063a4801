/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn: posix_spawn(), as far as the tool is concerned: a program that runs without the
 * library is to be known by name. The C library's own calls (system(), popen()) start
 * /bin/sh and are not seen.
 */
#include <dlfcn.h>
#include <errno.h>
#include <spawn.h>
#include <string.h>

#include "preload/api/api.h"

typedef int (*spawn_function)(pid_t *, const char *, const posix_spawn_file_actions_t *,
			      const posix_spawnattr_t *, char *const[], char *const[]);

static struct {
	spawn_function posix_spawn, posix_spawnp;
} real;

static void find(spawn_function *out, const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	memcpy(out, &found, sizeof(found));
}

static int note(int error, pid_t pid, const char *program, pid_t *out_pid)
{
	int saved = errno;

	if (error)
		return error;
	exit_note_spawn(pid, program);
	errno = saved;
	if (out_pid)
		*out_pid = pid;
	return 0;
}

EXPORT int posix_spawn(pid_t *out_pid, const char *path,
		       const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attr, char *const argv[],
		       char *const envp[])
{
	pid_t pid = 0;
	int error;

	if (!real.posix_spawn)
		find(&real.posix_spawn, "posix_spawn");
	if (!real.posix_spawn)
		return ENOSYS;
	error = real.posix_spawn(&pid, path, actions, attr, argv, envp);
	return note(error, pid, path, out_pid);
}

EXPORT int posix_spawnp(pid_t *out_pid, const char *name,
			const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attr, char *const argv[],
			char *const envp[])
{
	pid_t pid = 0;
	int error;

	if (!real.posix_spawnp)
		find(&real.posix_spawnp, "posix_spawnp");
	if (!real.posix_spawnp)
		return ENOSYS;
	error = real.posix_spawnp(&pid, name, actions, attr, argv, envp);
	return note(error, pid, name, out_pid);
}
