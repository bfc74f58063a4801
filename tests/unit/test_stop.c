/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stopped world, by ptrace and by signal: threads in all kinds of states stand still,
 * and values planted in their registers are found. Each test runs in a process of its
 * own.
 */
#include "tests/unit/cm.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "profiler/leak/stop_int.h"

#define PLANTED 0x5eed0000aa00u /* plus a number */
#define LOOK	2000000		/* looks at a counter that must not move */

enum { IN_FUTEX, IN_READ, IN_SLEEP, SPINNING, COUNTING, NSTATES };

static struct {
	sem_t never;
	int pipe[2];
	uint32_t ready;
	uint32_t spinning;
	volatile uint64_t counter;
} shared;

/* Kinds of masks: none, all signals, and all with the C library's own. */
enum { OPEN, MASKED, DEAF };

static void begin(uintptr_t mask)
{
	uint64_t everything = UINT64_MAX;
	sigset_t all;

	sigfillset(&all);
	if (mask == MASKED)
		pthread_sigmask(SIG_SETMASK, &all, NULL);
	if (mask == DEAF)
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &everything, NULL,
			sizeof(everything));
	__atomic_add_fetch(&shared.ready, 1, __ATOMIC_RELEASE);
}

static int has_avx(void)
{
	return __builtin_cpu_supports("avx") != 0;
}

static int has_avx512(void)
{
	return __builtin_cpu_supports("avx512dq") != 0;
}

static void spin_with_planted(void)
{
	__asm__ volatile("mov %[v], %%rbx\n\tlea 1(%[v]), %%r12\n\tlea 2(%[v]), %%r13\n\t"
			 "lea 3(%[v]), %%r14\n\tlea 4(%[v]), %%r15\n\t"
			 "lea 5(%[v]), %%rax\n\tmovq %%rax, %%xmm5\n\t"
			 "lea 6(%[v]), %%rax\n\tmovq %%rax, %%xmm15\n\t"
			 "test %[avx], %[avx]\n\tjz 2f\n\t"
			 "lea 7(%[v]), %%rax\n\tvmovq %%rax, %%xmm2\n\t"
			 "vinsertf128 $1, %%xmm2, %%ymm3, %%ymm3\n\t"
			 "vpxor %%xmm2, %%xmm2, %%xmm2\n"
			 "2:\ttest %[avx512], %[avx512]\n\tjz 3f\n\t"
			 "lea 8(%[v]), %%rax\n\tvmovq %%rax, %%xmm17\n\t"
			 "lea 9(%[v]), %%rax\n\tvmovq %%rax, %%xmm2\n\t"
			 "vinserti64x2 $3, %%xmm2, %%zmm4, %%zmm4\n\t"
			 "vinserti64x2 $2, %%xmm2, %%zmm31, %%zmm31\n\t"
			 "vpxor %%xmm2, %%xmm2, %%xmm2\n"
			 "3:\t"
			 "xor %%eax, %%eax\n\tmovl $1, %[flag]\n"
			 "1:\tpause\n\tjmp 1b"
			 : [flag] "=m"(shared.spinning)
			 : [v] "D"((uint64_t)PLANTED), [avx] "S"(has_avx()),
			   [avx512] "d"(has_avx512())
			 : "rax", "rbx", "r12", "r13", "r14", "r15", "xmm2", "xmm3",
			   "xmm4", "xmm5", "xmm15", "memory");
}

static void *thread_main(void *arg)
{
	struct timespec long_time = { 1000, 0 };
	uintptr_t what = (uintptr_t)arg;
	char c;

	begin(what / NSTATES);
	switch (what % NSTATES) {
	case IN_FUTEX:
		sem_wait(&shared.never);
		break;
	case IN_READ:
		_exit(read(shared.pipe[0], &c, 1) == 1 ? 90 : 91);
	case IN_SLEEP:
		nanosleep(&long_time, NULL);
		break;
	case SPINNING:
		spin_with_planted();
		break;
	default:
		for (;;)
			shared.counter++;
	}
	_exit(92); /* nobody may come back from where it was */
}

static void start(uintptr_t what)
{
	uint32_t before = __atomic_load_n(&shared.ready, __ATOMIC_ACQUIRE);
	pthread_t t;

	if (pthread_create(&t, NULL, thread_main, (void *)what) != 0)
		_exit(93);
	while (__atomic_load_n(&shared.ready, __ATOMIC_ACQUIRE) == before)
		sched_yield();
	if (what % NSTATES == SPINNING)
		while (!__atomic_load_n(&shared.spinning, __ATOMIC_ACQUIRE))
			sched_yield();
}

#define REQUIRE(cond, code)          \
	do {                         \
		if (!(cond))         \
			_exit(code); \
	} while (0)

static void note_planted(uintptr_t word, void *arg)
{
	if (word - PLANTED < 16)
		*(uint32_t *)arg |= 1u << (word - PLANTED);
}

static bool has_planted(const struct stopped_thread *t)
{
	uint32_t found = 0;

	stopped_each_word(t, note_planted, &found);
	return found == (0x7fu | (has_avx() ? 0x80u : 0) | (has_avx512() ? 0x300u : 0)) &&
	       t->regs.bx == PLANTED && t->regs.r12 == PLANTED + 1 &&
	       t->regs.r15 == PLANTED + 4;
}

static void check_still(void)
{
	uint64_t before = shared.counter;

	for (int i = 0; i < LOOK; i++)
		REQUIRE(shared.counter == before, 30);
}

static void check_moving(void)
{
	uint64_t before = shared.counter;

	while (shared.counter == before)
		sched_yield();
}

static void check_registers(const struct world *w)
{
	uint32_t planted = 0;

	for (uint32_t i = 0; i < w->nthreads; i++) {
		const struct stopped_thread *t = &w->threads[i];

		REQUIRE(t->captured && t->tid > 0, 31);
		REQUIRE(t->regs.sp != 0 && t->regs.ip != 0 && t->fs_base != 0, 32);
		REQUIRE(t->fs_base == *(uintptr_t *)t->fs_base, 33);
		planted += has_planted(t);
	}
	REQUIRE(planted == 1, 34);
}

static void stop_and_check(const char *how)
{
	static struct world w;
	sigset_t before, after;

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	REQUIRE(world_prepare(&w) == 0, 20);
	REQUIRE(world_stop(&w) == 0, 21);
	REQUIRE(strcmp(w.how, how) == 0, 22);
	REQUIRE(w.nthreads == NSTATES && w.nmissed == 0, 23);
	check_still();
	check_registers(&w);
	world_resume(&w);
	world_free(&w);
	check_moving();
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	REQUIRE(memcmp(&before, &after, (NSIG - 1) / 8) == 0, 24);
	REQUIRE(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, 25);
}

static void refuse_ptrace(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, 77);
	REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, 77);
}

static void prepare(void)
{
	sem_init(&shared.never, 0, 0);
	REQUIRE(pipe(shared.pipe) == 0, 10);
}

static void by_ptrace(void)
{
	prepare();
	for (uintptr_t i = 0; i < NSTATES; i++)
		start(i + NSTATES); /* with all signals blocked */
	for (int round = 0; round < 20; round++)
		stop_and_check("ptrace");
}

static void by_signal(void)
{
	prepare();
	refuse_ptrace();
	/* A sleep would end early: no signal restarts it. */
	for (uintptr_t i = 0; i < NSTATES; i++)
		start(i == IN_SLEEP ? IN_FUTEX : i);
	for (int round = 0; round < 20; round++)
		stop_and_check("signal");
}

/* A thread that takes no signal is missed, said so, and left alone. */
static void missed(void)
{
	static struct world w;

	prepare();
	refuse_ptrace();
	start(COUNTING + DEAF * NSTATES);
	start(IN_FUTEX + MASKED * NSTATES);
	REQUIRE(world_prepare(&w) == 0, 20);
	REQUIRE(world_stop(&w) == 0, 21);
	REQUIRE(w.nthreads == 2 && w.nmissed == 1 && w.reason[0], 22);
	check_moving();
	world_resume(&w);
	world_free(&w);
}

static void alone(void)
{
	static struct world w;

	REQUIRE(world_prepare(&w) == 0, 20);
	REQUIRE(world_stop(&w) == 0, 21);
	REQUIRE(w.nthreads == 0 && w.nmissed == 0, 22);
	REQUIRE(strcmp(w.how, "alone") == 0, 23);
	world_resume(&w);
	world_free(&w);
}

static void *comes_and_goes(void *arg)
{
	shared.counter++;
	return arg;
}

static void *makes_threads(void *arg)
{
	pthread_t t;

	begin(false);
	for (;;)
		if (pthread_create(&t, NULL, comes_and_goes, NULL) == 0)
			pthread_join(t, NULL);
	return arg;
}

/* Threads that begin and end all the time. */
static void while_threads_come_and_go(void)
{
	static struct world w;
	pthread_t t;

	for (int i = 0; i < 3; i++)
		REQUIRE(pthread_create(&t, NULL, makes_threads, NULL) == 0, 10);
	while (__atomic_load_n(&shared.ready, __ATOMIC_ACQUIRE) < 3)
		sched_yield();
	for (int round = 0; round < 200; round++) {
		REQUIRE(world_prepare(&w) == 0, 20);
		REQUIRE(world_stop(&w) == 0, 21);
		REQUIRE(w.nmissed == 0 && w.nthreads >= 3, 22);
		if (round % 20 == 0)
			check_still();
		world_resume(&w);
		world_free(&w);
		if (round % 20 == 0)
			check_moving();
	}
}

/* ---- a copy made on the way to the stop ---- */

#define NWRITERS     3
#define MUCH	     ((size_t)64 << 20) /* that takes the kernel a while to copy */
#define MANY_COPIES  60
#define TICK_US	     1000
#define FRAME_BYTES  4096 /* of a signal, and more */
#define NEVER_BEFORE 0x5eed00000000u

struct writer {
	volatile uint64_t number;
	char pad[4096 - sizeof(uint64_t)];
};

/* A page for each, so that they are copied at different times. */
static struct writer writers[NWRITERS] __attribute__((aligned(4096)));

/* Counts in a register that a signal's handler gets anew, and writes each number to its
 * page: what the page has is in the register, or one less. */
static void *write_numbers(void *arg)
{
	struct writer *w = arg;

	begin(OPEN);
	__asm__ volatile("1:\tinc %%rdx\n\tmov %%rdx, (%[to])\n\tjmp 1b"
			 :
			 : [to] "r"(&w->number), "d"((uint64_t)NEVER_BEFORE)
			 : "memory");
	return NULL;
}

static void on_tick(int sig)
{
	(void)sig;
}

static bool is_last(uint64_t value, uint64_t number)
{
	return value == number || value == number + 1;
}

/* In its registers, or in what a signal has made of them: on its stack. */
static __attribute__((no_sanitize("address"))) bool
has_number(const struct stopped_thread *t, uint64_t number)
{
	const uint64_t *sp = (void *)(t->regs.sp & ~(uintptr_t)7);

	for (int i = 0; i < 16; i++)
		if (is_last(t->gprs[i], number))
			return true;
	for (size_t i = 0; i < FRAME_BYTES / sizeof(*sp); i++)
		if (is_last(sp[i], number))
			return true;
	return false;
}

static void judge_copy(const struct world *w)
{
	for (int i = 0; i < NWRITERS; i++) {
		bool found = false;

		for (uint32_t k = 0; k < w->nthreads; k++)
			found |= has_number(&w->threads[k], writers[i].number);
		REQUIRE(found, 40 + i);
	}
	_exit(0);
}

/* Its status; -1: it was made too early. */
static int copy_on_the_way(void)
{
	static struct world w;
	struct world *told = mmap(NULL, sizeof(w), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int go[2], status = 0;
	pid_t copy;
	char c = 0;

	REQUIRE(told != MAP_FAILED && pipe(go) == 0, 20);
	REQUIRE(world_prepare_for_copy(&w) == 0, 21);
	REQUIRE(world_interrupt(&w) == 0, 22);
	copy = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (copy == 0) {
		if (read(go[0], &c, 1) != 1)
			_exit(50);
		judge_copy(told);
	}
	REQUIRE(world_await(&w) == 0, 23);
	REQUIRE(w.nthreads == NWRITERS && w.nmissed == 0, 24);
	*told = w;
	REQUIRE(write(go[1], &c, 1) == 1, 25);
	REQUIRE(waitpid(copy, &status, 0) == copy, 26);
	world_resume(&w);
	world_free(&w);
	munmap(told, sizeof(w));
	close(go[0]);
	close(go[1]);
	return w.late ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 60;
}

/* All copies that are not said to be late go with the registers, whatever signals come.
 */
static void copies(void)
{
	const struct sigaction act = { .sa_handler = on_tick };
	const struct itimerval every = { { 0, TICK_US }, { 0, TICK_US } };
	char *much = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	int late = 0;
	pthread_t t;

	REQUIRE(much != MAP_FAILED, 10);
	madvise(much, MUCH, MADV_NOHUGEPAGE);
	memset(much, 1, MUCH);
	for (int i = 0; i < NWRITERS; i++)
		REQUIRE(pthread_create(&t, NULL, write_numbers, &writers[i]) == 0, 11);
	while (__atomic_load_n(&shared.ready, __ATOMIC_ACQUIRE) < NWRITERS)
		sched_yield();
	sigaction(SIGVTALRM, &act, NULL);
	setitimer(ITIMER_VIRTUAL, &every, NULL);
	for (int i = 0; i < MANY_COPIES; i++) {
		const int status = copy_on_the_way();

		if (status > 0)
			_exit(status);
		late += status < 0;
	}
	REQUIRE(late < MANY_COPIES, 12);
}

/* The main thread has ended and is listed for ever. */
static void *stop_without_main(void *arg)
{
	static struct world w;

	while (!stop_is_dead(getpid(), getpid()))
		sched_yield();
	REQUIRE(world_prepare_for_copy(&w) == 0, 20);
	REQUIRE(world_stop(&w) == 0, 21);
	REQUIRE(w.nthreads == 1 && w.nmissed == 0, 22);
	REQUIRE(!w.late, 23);
	world_resume(&w);
	world_free(&w);
	_exit(0);
	return arg;
}

static void main_has_ended(void)
{
	pthread_t t;

	prepare();
	start(IN_FUTEX);
	REQUIRE(pthread_create(&t, NULL, stop_without_main, NULL) == 0, 10);
	pthread_exit(NULL);
}

static void in_child(void (*fn)(void))
{
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		alarm(600); /* of a loaded machine; else some seconds */
		fn();
		_exit(0);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Not in a container that refuses the system call, for example. */
static bool may_trace(void)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		_exit(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0 ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_ptrace(void **state)
{
	(void)state;
	if (!may_trace())
		skip();
	in_child(by_ptrace);
}

static void test_copies(void **state)
{
	(void)state;
	if (!may_trace())
		skip();
	in_child(copies);
}

static void test_main_has_ended(void **state)
{
	(void)state;
	if (!may_trace())
		skip();
	in_child(main_has_ended);
}

static void test_signal(void **state)
{
	(void)state;
	in_child(by_signal);
}

static void test_missed(void **state)
{
	(void)state;
	in_child(missed);
}

static void test_alone(void **state)
{
	(void)state;
	in_child(alone);
}

static void test_come_and_go(void **state)
{
	(void)state;
	in_child(while_threads_come_and_go);
}

static long policy(void)
{
	return syscall(SYS_sched_getscheduler, 0);
}

/* Of a process made now. */
static int policy_of_child(void)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		_exit((int)policy());
	assert_int_equal(waitpid(child, &status, 0), child);
	return WEXITSTATUS(status);
}

static void hurries(void)
{
	const struct sched_param none = { 0 };
	struct world w;

	assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &none), 0);
	assert_int_equal(world_prepare(&w), 0);
	world_hurry();
	if (policy() != SCHED_RR) { /* not allowed: as it was, then */
		assert_int_equal(policy(), SCHED_OTHER);
		world_hurry_alone();
		assert_int_equal(policy(), SCHED_OTHER);
	} else {
		assert_int_equal(policy_of_child(), SCHED_RR);
		world_hurry_alone();
		assert_int_equal(policy(), SCHED_RR | SCHED_RESET_ON_FORK);
	}
	assert_int_equal(policy_of_child(), SCHED_OTHER);
	world_hurry_no_more();
	assert_int_equal(policy() & ~SCHED_RESET_ON_FORK, SCHED_OTHER);
	world_free(&w);
}

static void test_hurry(void **state)
{
	(void)state;
	in_child(hurries);
}

/* A program's own choice is kept. */
static void has_chosen(void)
{
	const struct sched_param none = { 0 };
	struct world w;

	assert_int_equal(sched_setscheduler(0, SCHED_BATCH, &none), 0);
	assert_int_equal(world_prepare(&w), 0);
	world_hurry();
	assert_int_equal(policy(), SCHED_BATCH);
	world_hurry_alone();
	assert_int_equal(policy(), SCHED_BATCH);
	world_hurry_no_more();
	assert_int_equal(policy(), SCHED_BATCH);
	world_free(&w);
}

static void test_chosen_policy(void **state)
{
	(void)state;
	in_child(has_chosen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ptrace),
		cmocka_unit_test(test_signal),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_main_has_ended),
		cmocka_unit_test(test_missed),
		cmocka_unit_test(test_alone),
		cmocka_unit_test(test_come_and_go),
		cmocka_unit_test(test_hurry),
		cmocka_unit_test(test_chosen_policy),
	};

#if defined(__SANITIZE_THREAD__)
	return 77; /* its runtime keeps state per thread that a shared thread pointer
		      breaks */
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
