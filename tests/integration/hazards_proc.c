/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that are not what one expects: children by every way there is, daemons,
 * chroot and no /proc, sandboxes that refuse or kill, no arguments and no environment, a
 * program that moves the break itself. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"
#include "forker.h"

extern char **environ;
static char **arguments;

static void use(void)
{
	void *held[300];

	for (size_t i = 0; i < 300; i++)
		held[i] = calloc(1, i * 50);
	for (size_t i = 0; i < 300; i += 2)
		held[i] = realloc(held[i], i * 70 + 1);
	for (size_t i = 0; i < 300; i++)
		free(held[i]);
	held[0] = malloc(3 << 20);
	memset(held[0], 1, 3 << 20);
	free(realloc(held[0], 5 << 20));
}

static int ended_with(pid_t pid, int code)
{
	int status = 0;

	if (pid < 0 || waitpid(pid, &status, __WALL) != pid)
		return 0;
	return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

/* ---- children ---- */

static int child_uses(void *arg)
{
	use();
	*(void **)arg = malloc(1000);
	_exit(6);
}

/* In our memory, on another stack, with our thread's storage; we wait for it. */
static int test_clone_vm(void)
{
	size_t size = 65536;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *from_child = NULL;

	for (int i = 0; i < 50; i++) {
		int flags = i % 2 ? CLONE_VM | CLONE_VFORK | SIGCHLD : CLONE_VM | SIGCHLD;
		pid_t pid = clone(child_uses, stack + size, flags, &from_child);

		if (!HOLDS(ended_with(pid, 6)) || !HOLDS(from_child != NULL))
			return 0;
		free(from_child);
		from_child = NULL;
		use();
	}
	return 1;
}

/* A copy of our memory, without any fork handler. */
static int test_clone_copy(void)
{
	char stack[65536] __attribute__((aligned(16)));
	void *from_child = NULL;

	for (int i = 0; i < 20; i++) {
		pid_t pid =
			clone(child_uses, stack + sizeof(stack), SIGCHLD, &from_child);

		if (!HOLDS(ended_with(pid, 6)) || !HOLDS(from_child == NULL))
			return 0;
		pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid == 0) {
			use();
			exit(8); /* all the way through exit */
		}
		if (!HOLDS(ended_with(pid, 8)))
			return 0;
	}
	return 1;
}

/* As code does that takes the newline off an empty text, and what looks at one more than
 * there are. The first object of all, and as long as the heap is: nothing is beside it.
 */
static int test_just_outside(void)
{
	const size_t size = 1 << 20;
	char *p = malloc(size);

	if (!HOLDS(p != NULL))
		return 0;
	for (size_t i = 1; i <= 64; i++) {
		(void)*(volatile char *)(p - i);
		(void)*(volatile char *)(p + size - 1 + i);
	}
	free(p);
	return 1;
}

static void *work_until(void *stop)
{
	while (!__atomic_load_n((int *)stop, __ATOMIC_ACQUIRE))
		forker_work();
	return NULL;
}

/* A library's handlers wait for threads that allocate. */
static int test_fork_handlers(void)
{
	pthread_t t[2];
	int stop = 0, good = 1;

	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, work_until, &stop);
	for (int i = 0; i < 100 && good; i++) {
		pid_t pid;

		if (i % 2)
			forker_start();
		pid = fork();
		if (pid == 0) {
			use();
			forker_work();
			_exit(6);
		}
		good = HOLDS(ended_with(pid, 6)) && HOLDS(forker_has_ended() == i % 2);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	return good;
}

static void *fork_on(void *count)
{
	for (;;) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		waitpid(pid, NULL, 0);
		__atomic_fetch_add((int *)count, 1, __ATOMIC_ACQ_REL);
	}
	return NULL;
}

/* exit() comes while other threads fork. */
static int test_fork_at_exit(void)
{
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();
		pthread_t t;
		int count = 0;

		if (pid == 0) {
			alarm(60);
			for (int k = 0; k < 4; k++)
				pthread_create(&t, NULL, fork_on, &count);
			while (__atomic_load_n(&count, __ATOMIC_ACQUIRE) < 10 + i)
				sched_yield();
			exit(6);
		}
		if (!HOLDS(ended_with(pid, 6)))
			return 0;
	}
	return 1;
}

static int test_vfork_exec(void)
{
	char *argv[] = { "sh", "-c", "exit 9", NULL };

	for (int i = 0; i < 10; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			execvp("sh", argv);
			_exit(1);
		}
		if (!HOLDS(ended_with(pid, 9)))
			return 0;
		if (!HOLDS(posix_spawnp(&pid, "sh", NULL, NULL, argv, environ) == 0) ||
		    !HOLDS(ended_with(pid, 9)))
			return 0;
		use();
	}
	return 1;
}

static void *spawns(void *arg)
{
	char *argv[] = { "true", NULL };

	for (int i = 0; i < 15; i++) {
		pid_t pid;

		if (posix_spawnp(&pid, "true", NULL, NULL, argv, environ) != 0 ||
		    !ended_with(pid, 0))
			return NULL;
		use();
	}
	return arg;
}

static int test_spawn_threads(void)
{
	pthread_t t[4];
	int ok = 1;
	void *ret;

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, spawns, t);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &ret);
		ok &= HOLDS(ret != NULL);
	}
	return ok;
}

/* Loses what its arguments say, in three processes: one block each of its own size. */
static void *volatile kept;

static int test_family_tree(void)
{
	kept = malloc(1111);
	kept = NULL;
	for (int i = 0; i < 2; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			kept = malloc(i ? 3333 : 2222);
			kept = NULL;
			printf("child %d\n", (int)getpid());
			return 1; /* from main: reports are written */
		}
		waitpid(pid, NULL, 0);
	}
	printf("parent %d\n", (int)getpid());
	return 1;
}

/* Replaces itself twice. */
static int test_reexec(void)
{
	const char *round = getenv("ROUND");
	char next[] = { (char)(round ? round[0] + 1 : '1'), 0 };

	use();
	if (round && round[0] == '2')
		return 1;
	setenv("ROUND", next, 1);
	execv("/proc/self/exe", arguments);
	return 0;
}

/* ---- surroundings ---- */

/* Daemon: all descriptors closed; what the program opens next gets their numbers. */
static int test_daemon(void)
{
	char path[] = "/tmp/seep-daemon-XXXXXX";
	int fd = mkstemp(path);
	struct stat st;
	pid_t pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1); /* the daemon becomes our child */
	pid = fork();
	if (pid == 0) {
		setsid();
		if (fork() != 0)
			_exit(0);
		dup2(fd, 200);
		syscall(SYS_close_range, 0, 199, 0);
		for (int i = 0; i < 32; i++)
			dup2(200, i); /* wherever one might write: the data file */
		use();
		malloc(999); /* lost: there is something to report */
		exit(0);
	}
	while (wait(NULL) > 0)
		;
	fstat(fd, &st);
	unlink(path);
	return HOLDS(st.st_size == 0);
}

static int test_no_proc(void)
{
	char dir[] = "/tmp/seep-root-XXXXXX";
	struct rlimit none = { 0, 0 };

	if (!mkdtemp(dir) || chdir(dir) != 0)
		return 0;
	if (geteuid() == 0 && chroot(".") == 0)
		chdir("/");
	else
		rmdir(dir);		 /* the current directory is gone */
	setrlimit(RLIMIT_NOFILE, &none); /* nothing can be opened at all */
	if (!HOLDS(open("/proc/self/maps", O_RDONLY) < 0))
		return 0;
	use();
	malloc(500);
	malloc_trim(0);
	if (fork() == 0) {
		use();
		_exit(0);
	}
	return wait(NULL) > 0;
}

static int test_no_arguments(void)
{
	char *none[] = { NULL }, *environment[2] = { NULL, NULL };
	char preload[600];
	pid_t pid;

	if (getenv("AGAIN"))
		return 0;
	snprintf(preload, sizeof(preload), "LD_PRELOAD=%s",
		 getenv("LD_PRELOAD") ? getenv("LD_PRELOAD") : "");
	environment[0] = preload;
	pid = fork();
	if (pid == 0) {
		execve("/proc/self/exe", none, environment);
		_exit(1);
	}
	return HOLDS(ended_with(pid, 33)); /* see main() */
}

static int test_break(void)
{
	char *a = sbrk(0), *b;

	use();
	if (!HOLDS(sbrk(0) == a)) /* it is the program's alone */
		return 0;
	b = sbrk(100000);
	if (!HOLDS(b == a))
		return 0;
	memset(b, 0x44, 100000);
	use();
	if (!HOLDS(sbrk(50000) == a + 100000))
		return 0;
	for (int i = 0; i < 100000; i++)
		if (!HOLDS(b[i] == 0x44))
			return 0;
	return HOLDS(sbrk(-150000) == a + 150000) && HOLDS(sbrk(0) == a);
}

/* ---- sandboxes ---- */

#define ALLOW	  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOAD_NR	  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define IF(nr)	  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1)
#define GIVE(ret) BPF_STMT(BPF_RET | BPF_K, ret)

static void install(struct sock_filter *code, size_t n)
{
	struct sock_fprog prog = { (unsigned short)n, code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		abort();
}

static int is_zero(const char *p, size_t n)
{
	while (n > 0 && p[n - 1] == 0)
		n--;
	return n == 0;
}

/* A process that must not read the time stamp counter, and its child. */
static int test_no_counter(void)
{
	pid_t pid;

	if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) != 0)
		return errno == EINVAL; /* not this processor's */
	use();
	pid = fork();
	if (pid == 0) {
		use();
		_exit(6);
	}
	return HOLDS(ended_with(pid, 6));
}

/* Calls that an allocator may do without fail. What was dirty must still come zeroed. */
static int test_sandbox_refuses(void)
{
	const unsigned no = SECCOMP_RET_ERRNO | EPERM;
	struct sock_filter code[] = { LOAD_NR,	IF(SYS_madvise),
				      GIVE(no), IF(SYS_mremap),
				      GIVE(no), IF(SYS_getrandom),
				      GIVE(no), IF(SYS_prctl),
				      GIVE(no), IF(SYS_prlimit64),
				      GIVE(no), IF(SYS_openat),
				      GIVE(no), ALLOW };
	char *p;

	use();
	install(code, sizeof(code) / sizeof(code[0]));
	for (size_t n = 1000; n < (size_t)100 << 20; n = n * 3) {
		p = malloc(n);
		memset(p, 0x77, n);
		p = realloc(p, 2 * n);
		if (!HOLDS(p && p[0] == 0x77 && p[n - 1] == 0x77))
			return 0;
		memset(p, 0x77, 2 * n);
		free(p);
		malloc_trim(0);
		errno = 0;
		p = calloc(1, 2 * n);
		if (!HOLDS(p && errno == 0 && is_zero(p, 2 * n)))
			return 0;
		free(p);
		use();
	}
	return 1;
}

/* A sandbox that kills for everything that no allocator needs. */
static int test_sandbox_kills(void)
{
	struct sock_filter code[] = { LOAD_NR, IF(SYS_mmap),
				      ALLOW,   IF(SYS_munmap),
				      ALLOW,   IF(SYS_mprotect),
				      ALLOW,   IF(SYS_mremap),
				      ALLOW,   IF(SYS_madvise),
				      ALLOW,   IF(SYS_futex),
				      ALLOW,   IF(SYS_brk),
				      ALLOW,   IF(SYS_write),
				      ALLOW,   IF(SYS_exit_group),
				      ALLOW,   IF(SYS_clock_gettime),
				      ALLOW,   GIVE(SECCOMP_RET_KILL_PROCESS) };
	static void *held[400000];

	use();
	install(code, sizeof(code) / sizeof(code[0]));
	for (size_t i = 0; i < 400000; i++)
		held[i] = malloc(i % 700);
	for (size_t i = 0; i < 400000; i++)
		free(held[i]);
	for (size_t n = 1000; n < (size_t)100 << 20; n *= 3)
		free(realloc(malloc(n), 2 * n));
	use();
	malloc_trim(0);
	return 1;
}

static const struct test_case cases[] = {
	{ "clone_vm", test_clone_vm },
	{ "clone_copy", test_clone_copy },
	{ "just_outside", test_just_outside },
	{ "fork_handlers", test_fork_handlers },
	{ "fork_at_exit", test_fork_at_exit },
	{ "vfork_exec", test_vfork_exec },
	{ "spawn_threads", test_spawn_threads },
	{ "family_tree", test_family_tree },
	{ "reexec", test_reexec },
	{ "daemon", test_daemon },
	{ "no_proc", test_no_proc },
	{ "no_arguments", test_no_arguments },
	{ "break", test_break },
	{ "no_counter", test_no_counter },
	{ "sandbox_refuses", test_sandbox_refuses },
	{ "sandbox_kills", test_sandbox_kills },
};

int main(int argc, char **argv)
{
	arguments = argv;
	if (argc == 0 || argv[0][0] == '\0') { /* from test_no_arguments() */
		use();
		return 33;
	}
	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
