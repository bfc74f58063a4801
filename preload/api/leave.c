/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leave: the ways out of a process that run no destructor: _exit and its like,
 * quick_exit, daemon's parent, and exec.
 *
 * All of them are called in children that share our memory (vfork), in signal handlers
 * and in forked children of programs with threads; exit_reports() finds out and does
 * nothing, or not all. Until it is called, nothing here writes any memory of ours.
 *
 * Before an exec it is asked whether there is such a program; where the exec fails all
 * the same, the process goes on as if it had not been asked.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "preload/api/api.h"
#include "preload/base/fmt.h"
#include "preload/base/os.h"

#define PATH_BYTES 768 /* on the stack; longer ones are not looked for */

typedef int (*exec_path)(const char *, char *const[]);
typedef int (*exec_path_env)(const char *, char *const[], char *const[]);
typedef int (*exec_fd)(int, char *const[], char *const[]);
typedef int (*exec_at)(int, const char *, char *const[], char *const[], int);

static struct {
	pid_t (*fork)(void);
	exec_path_env execve, execvpe;
	exec_fd fexecve;
	exec_at execveat;
} real;

/* Dynamic symbols of the real functions; those that may be called after vfork or in a
 * signal handler, where dlsym() may not, are resolved at start. */
#define RESOLVE(name)                                               \
	do {                                                        \
		if (!real.name) {                                   \
			void *found = dlsym(RTLD_NEXT, #name);      \
			memcpy(&real.name, &found, sizeof(void *)); \
		}                                                   \
	} while (0)

static void at_quick_exit_last(void *arg, int status);

/* libc's, behind at_quick_exit(), which no library exports. The first handler that it
 * knows is the last one that it calls. */
static void register_handler(void)
{
	int (*add)(void (*)(void *, int), void *);
	void *found = dlsym(RTLD_NEXT, "__cxa_at_quick_exit");

	memcpy(&add, &found, sizeof(found));
	if (add)
		add(at_quick_exit_last, NULL);
}

void leave_init(void)
{
	if (exit_may_report()) {
		register_handler();
		exit_catch_others();
	}
	RESOLVE(execve);
	RESOLVE(execvpe);
	RESOLVE(fexecve);
	RESOLVE(execveat);
}

/* ---- _exit ---- */

static int status_of(int status, uintptr_t sp)
{
	const struct exit_cause cause = { .way = EXIT_AT_ONCE, .sp = sp };
	int forced = exit_is_own_process() ? exit_reports(&cause) : -1;

	return forced >= 0 ? forced : status;
}

__attribute__((used, noreturn)) static void leave_above(int status, uintptr_t sp)
{
	os_exit_group(status_of(status, sp));
}

/* Saves the caller's registers, which is where the program's stack ends: old pointers in
 * gaps of our own frames below are nobody's. */
__attribute__((naked, noreturn, used)) static void leave_at_once(int status UNUSED)
{
	__asm__("push %rbp\n\t"
		".cfi_adjust_cfa_offset 8\n\t"
		".cfi_rel_offset %rbp, 0\n\t"
		"mov %rsp, %rbp\n\t"
		".cfi_def_cfa_register %rbp\n\t"
		"push %rbx\n\t"
		"push %r12\n\t"
		"push %r13\n\t"
		"push %r14\n\t"
		"push %r15\n\t"
		"mov %rsp, %rsi\n\t"
		"sub $8, %rsp\n\t"
		"call leave_above\n\t"
		"ud2");
}

EXPORT void _exit(int status) __attribute__((alias("leave_at_once")));
EXPORT void _Exit(int status) __attribute__((alias("leave_at_once")));

/* Libraries that were initialised before us may have handlers that are yet to come. */
static void at_quick_exit_last(void *arg UNUSED, int status)
{
	int forced = status_of(status, 0);

	if (forced != status)
		os_exit_group(forced);
}

/* ---- daemon ---- */

static int no_such_function(void)
{
	errno = ENOSYS;
	return -1;
}

static bool is_null_device(int fd)
{
	struct stat st;

	return os_stat(fd, &st) == 0 && S_ISCHR(st.st_mode) &&
	       st.st_rdev == makedev(1, 3);
}

static int close_standard_files(void)
{
	int fd = os_open("/dev/null", O_RDWR, 0);

	if (fd >= 0 && is_null_device(fd)) {
		for (int i = 0; i <= 2; i++)
			os_call(SYS_dup2, fd, i, 0, 0, 0, 0);
		if (fd > 2)
			os_close(fd);
		return 0;
	}
	if (fd >= 0)
		os_close(fd);
	errno = fd >= 0 ? ENODEV : -fd;
	return -1;
}

/* As the C library's, whose parent leaves by a call of its own that nobody sees. */
EXPORT int daemon(int nochdir, int noclose)
{
	pid_t pid;
	long error;

	RESOLVE(fork);
	if (!real.fork)
		return no_such_function();
	pid = real.fork();
	if (pid < 0)
		return -1;
	if (pid > 0)
		_exit(0);
	error = os_call(SYS_setsid, 0, 0, 0, 0, 0, 0);
	if (error < 0) {
		errno = (int)-error;
		return -1;
	}
	if (!nochdir)
		os_call(SYS_chdir, (long)"/", 0, 0, 0, 0, 0);
	return noclose ? 0 : close_standard_files();
}

/* ---- exec ---- */

static bool is_program(const char *path)
{
	return os_call(SYS_access, (long)path, X_OK, 0, 0, 0, 0) == 0;
}

/* Is there a program of that name, as execvp() would find it? */
static bool is_found(const char *name)
{
	const char *list = getenv("PATH");
	char path[PATH_BYTES];

	if (strchr(name, '/'))
		return is_program(name);
	if (!list)
		list = "/bin:/usr/bin";
	for (;;) {
		size_t n = 0;

		while (list[n] && list[n] != ':')
			n++;

		if (fmt_string(path, sizeof(path), "%.*s%s%s", (int)n, list, n ? "/" : "",
			       name) < sizeof(path) &&
		    is_program(path))
			return true;
		if (list[n] == '\0')
			return false;
		list += n + 1;
	}
}

/* What is to be taken back should the exec fail. */
struct attempt {
	bool reported; /* reports were made, and are to be forgotten */
	bool begun;    /* exit_exec_begin() */
	void *note;    /* of exit_note_spawn() */
};

static struct attempt before_exec(const char *program, bool exists)
{
	const struct exit_cause cause = { .way = EXIT_EXEC };
	struct attempt a = { false, false, NULL };

	if (!exit_is_own_process()) {
		if (exists)
			a.note = exit_note_spawn(0, program);
		return a;
	}
	if (exists && !exit_has_begun()) {
		exit_reports(&cause);
		a.reported = true;
	}
	exit_exec_begin();
	a.begun = true;
	return a;
}

static int after_exec(struct attempt a, int ret)
{
	int saved = errno;

	exit_unnote_spawn(a.note);
	if (a.begun)
		exit_exec_failed();
	if (a.reported)
		exit_undo_exec();
	errno = saved;
	return ret;
}

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	struct attempt a;

	RESOLVE(execve);
	if (!real.execve)
		return no_such_function();
	a = before_exec(path, is_program(path));
	return after_exec(a, real.execve(path, argv, envp));
}

EXPORT int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

EXPORT int execvpe(const char *name, char *const argv[], char *const envp[])
{
	struct attempt a;

	RESOLVE(execvpe);
	if (!real.execvpe)
		return no_such_function();
	a = before_exec(name, is_found(name));
	return after_exec(a, real.execvpe(name, argv, envp));
}

EXPORT int execvp(const char *name, char *const argv[])
{
	return execvpe(name, argv, environ);
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	struct attempt a;

	RESOLVE(fexecve);
	if (!real.fexecve)
		return no_such_function();
	a = before_exec("(a descriptor)",
			os_call(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0) >= 0);
	return after_exec(a, real.fexecve(fd, argv, envp));
}

EXPORT int execveat(int fd, const char *path, char *const argv[], char *const envp[],
		    int flags)
{
	struct attempt a;
	bool exists;

	RESOLVE(execveat);
	if (!real.execveat)
		return no_such_function();
	exists = (flags & AT_EMPTY_PATH) ||
		 os_call(SYS_faccessat, fd, (long)path, X_OK, 0, 0, 0) == 0;
	a = before_exec(path, exists);
	return after_exec(a, real.execveat(fd, path, argv, envp, flags));
}

/* The arguments of execl() and its like as an array, on the caller's stack: no malloc
 * after vfork. ap stands behind first. */
static size_t count_arguments(const char *first, va_list ap)
{
	size_t n = 0;

	for (const char *a = first; a; a = va_arg(ap, const char *))
		n++;
	return n;
}

static void take_arguments(char **argv, const char *first, va_list ap)
{
	memcpy(argv++, &first, sizeof(first));
	while (first) {
		first = va_arg(ap, const char *);
		memcpy(argv++, &first, sizeof(first));
	}
}

#define ARGUMENTS(argv, first)                                                     \
	char **argv;                                                               \
	va_list ap;                                                                \
	va_start(ap, first);                                                       \
	argv = __builtin_alloca((count_arguments(first, ap) + 1) * sizeof(*argv)); \
	va_end(ap);                                                                \
	va_start(ap, first);                                                       \
	take_arguments(argv, first, ap)

EXPORT int execl(const char *path, const char *arg, ...)
{
	ARGUMENTS(argv, arg);
	va_end(ap);
	return execve(path, argv, environ);
}

EXPORT int execlp(const char *name, const char *arg, ...)
{
	ARGUMENTS(argv, arg);
	va_end(ap);
	return execvpe(name, argv, environ);
}

EXPORT int execle(const char *path, const char *arg, ...)
{
	char *const *envp;

	ARGUMENTS(argv, arg);
	envp = va_arg(ap, char *const *);
	va_end(ap);
	return execve(path, argv, envp);
}
