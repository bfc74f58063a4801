// SPDX-License-Identifier: Apache-2.0
// hazards: ways of leaving a frame other than by return, each printing what it computed.
// Under return stubs the output must be the same, and so must the number of stubs left.
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <execinfo.h>
#include <memory>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#define NOINLINE  __attribute__((noinline))
#define BARRIER() __asm__ volatile("" : : : "memory")

static volatile size_t some = 40;
static long total;

struct Holder { // allocates when made, and again when it goes during unwinding
	char *p;
	NOINLINE Holder() : p(static_cast<char *>(malloc(some)))
	{
		p[0] = 1;
	}
	NOINLINE ~Holder()
	{
		char *q = static_cast<char *>(malloc(some + 8));
		q[0] = p[0];
		total += q[0];
		free(q);
		free(p);
	}
};

// ---- exceptions ----

NOINLINE static char *make_thrown_past(int depth)
{
	Holder h;
	char *p = static_cast<char *>(malloc(some));

	p[0] = 3;
	if (depth == 0) {
		free(p);
		throw std::runtime_error("bottom");
	}
	char *q = make_thrown_past(depth - 1);
	free(p);
	BARRIER();
	return q;
}

NOINLINE static int catch_deep(int depth)
{
	Holder h;

	try {
		free(make_thrown_past(depth));
	} catch (const std::logic_error &) {
		return 1;
	} catch (const std::runtime_error &e) {
		return static_cast<int>(strlen(e.what())) + std::uncaught_exceptions();
	}
	return 0;
}

NOINLINE static void rethrow(int n)
{
	try {
		Holder h;
		if (n == 0)
			throw std::string("again");
		rethrow(n - 1);
	} catch (std::string &s) {
		s += char('a' + n);
		throw;
	}
}

static void *kept_in_flight;

// An object that outlives the frame that an exception leaves; freed by the catcher.
NOINLINE static void make_kept(void)
{
	kept_in_flight = malloc(some + 100);
	BARRIER();
	throw 7;
}

NOINLINE static void middle_kept(void)
{
	Holder h;
	make_kept();
	BARRIER();
}

NOINLINE static void catch_kept(void)
{
	try {
		middle_kept();
	} catch (int n) {
		total += n;
	}
	free(kept_in_flight);
	BARRIER();
}

static void exceptions()
{
	for (int i = 0; i < 300; i++) {
		total += catch_deep(i % 9);
		try {
			rethrow(i % 5);
		} catch (const std::string &s) {
			total += static_cast<long>(s.size());
		}
		catch_kept();
		std::exception_ptr saved;
		try {
			throw std::vector<int>(10, i);
		} catch (...) {
			saved = std::current_exception();
		}
		try {
			std::rethrow_exception(saved);
		} catch (const std::vector<int> &v) {
			total += v[3];
		}
	}
	printf("exceptions %ld\n", total);
}

// ---- longjmp ----

static jmp_buf back;
static void *jumped;

NOINLINE static void make_jumped(int depth)
{
	void *p = malloc(some);

	if (depth == 0) {
		jumped = malloc(some + 200);
		free(p);
		longjmp(back, 1);
	}
	make_jumped(depth - 1);
	free(p);
	BARRIER();
}

NOINLINE static void jump_once(int depth)
{
	if (setjmp(back) == 0)
		make_jumped(depth);
	free(jumped);
	jumped = nullptr;
	BARRIER();
}

static sigjmp_buf out_of_handler;

static void on_signal(int)
{
	siglongjmp(out_of_handler, 1);
}

NOINLINE static void make_signalled(int n)
{
	char *p = static_cast<char *>(malloc(some));

	p[0] = 1;
	if (n == 0)
		raise(SIGUSR1);
	make_signalled(n - 1);
	free(p);
	BARRIER();
}

static void jumps()
{
	for (int i = 0; i < 10000; i++) // more than there are stubs
		jump_once(i % 7);
	signal(SIGUSR1, on_signal);
	for (int i = 0; i < 2000; i++)
		if (sigsetjmp(out_of_handler, 1) == 0)
			make_signalled(i % 5);
	printf("jumps %ld\n", total);
}

// ---- coroutines, also on another thread than before ----

static ucontext_t outside, inside[8];
static char stacks[8][64 << 10];
static int turns;

NOINLINE static char *make_yielding(int n)
{
	char *p = static_cast<char *>(malloc(some + static_cast<size_t>(n)));

	p[0] = static_cast<char>(n);
	swapcontext(&inside[n], &outside);
	BARRIER();
	return p;
}

static void body(int n)
{
	for (int i = 0; i < 20; i++) {
		char *p = make_yielding(n);

		turns += p[0];
		free(p);
	}
}

static void *run_all(void *arg)
{
	for (intptr_t k = 0; k < reinterpret_cast<intptr_t>(arg); k++)
		for (int n = 0; n < 8; n++)
			swapcontext(&outside, &inside[n]);
	return nullptr;
}

static void coroutines()
{
	pthread_t t;

	for (int n = 0; n < 8; n++) {
		getcontext(&inside[n]);
		inside[n].uc_stack.ss_sp = stacks[n];
		inside[n].uc_stack.ss_size = sizeof(stacks[n]);
		inside[n].uc_link = &outside;
		makecontext(&inside[n], reinterpret_cast<void (*)()>(body), 1, n);
	}
	run_all(reinterpret_cast<void *>(7));
	pthread_create(&t, nullptr, run_all, reinterpret_cast<void *>(7));
	pthread_join(t, nullptr);
	run_all(reinterpret_cast<void *>(7)); // 20 turns, and then the end
	printf("coroutines %d\n", turns);
}

// ---- the ends of threads ----

NOINLINE static void make_and_exit(int how)
{
	Holder h;
	char *p = static_cast<char *>(malloc(some));

	p[0] = 1;
	if (how == 0)
		pthread_exit(nullptr);
	if (how == 1)
		pthread_cancel(pthread_self());
	pthread_testcancel();
	free(p);
	BARRIER();
}

static void *thread(void *arg)
{
	make_and_exit(static_cast<int>(reinterpret_cast<intptr_t>(arg)));
	return nullptr;
}

static void threads()
{
	for (intptr_t i = 0; i < 300; i++) {
		pthread_t t;

		pthread_create(&t, nullptr, thread, reinterpret_cast<void *>(i % 3));
		pthread_join(t, nullptr);
	}
	printf("threads %ld\n", total);
}

// ---- fork, in frames that wait ----

NOINLINE static int make_forked(int depth)
{
	char *p = static_cast<char *>(malloc(some));
	int n;

	p[0] = 1;
	if (depth == 0) {
		fflush(stdout);
		n = fork();
	} else {
		n = make_forked(depth - 1);
	}
	free(p);
	BARRIER();
	return n;
}

static void forks()
{
	for (int i = 0; i < 20; i++) {
		int status = 0, pid = make_forked(i % 6);

		if (pid == 0)
			_exit(make_forked(0) == 0 ? 0 : 3);
		waitpid(pid, &status, 0);
		total += WEXITSTATUS(status);
	}
	printf("forks %ld\n", total);
}

// ---- recursion deeper than there are stubs ----

NOINLINE static long make_deep(int depth)
{
	long *p = static_cast<long *>(malloc(some));
	long n;

	*p = depth;
	if (depth == 0)
		n = 0;
	else if (static_cast<unsigned>(depth) * 2654435761u >> 31) // stacks that differ
		n = make_deep(depth - 1) + *p;
	else
		n = *p + make_deep(depth - 1);
	free(p);
	BARRIER();
	return n;
}

// ---- signals that look at the stack wherever it is ----

static volatile sig_atomic_t seen, lost;

static void look(int)
{
	void *pcs[64];
	int n = backtrace(pcs, 64);

	seen++;
	if (n < 4)
		lost++;
}

struct Values {
	double a, b;
};

NOINLINE static long double make_long_double(int i)
{
	free(malloc(some));
	BARRIER();
	return i * 1.25L;
}

NOINLINE static Values make_values(int i)
{
	free(malloc(some));
	BARRIER();
	return { i * 0.5, i * 2.0 };
}

NOINLINE static __int128 make_wide(int i)
{
	free(malloc(some));
	BARRIER();
	return (static_cast<__int128>(i) << 70) + 5;
}

static void signals()
{
	struct itimerval timer = { { 0, 200 }, { 0, 200 } };
	void *warm[4];
	double sum = 0;

	backtrace(warm, 4);
	signal(SIGPROF, look);
	setitimer(ITIMER_PROF, &timer, nullptr);
	for (int i = 0; i < 20000 || (seen < 20 && i < 100000000); i++) {
		Values v = make_values(i % 100);

		sum += v.a + v.b + static_cast<double>(make_long_double(i % 8)) +
		       static_cast<double>(make_wide(i % 3) >> 70);
		if (i == 19999)
			printf("values %.3f\n", sum);
	}
	timer = {};
	setitimer(ITIMER_PROF, &timer, nullptr);
	printf("signals %d\n", static_cast<int>(lost));
}

// ---- handlers that leave from wherever they come, in the middle of a return too ----

static sigjmp_buf out_of_return;
static volatile sig_atomic_t may_leave, handled;
static void *volatile left_over;

static void leave(int)
{
	handled++;
	if (may_leave) {
		may_leave = 0;
		siglongjmp(out_of_return, 1);
	}
}

// It returns with the flag set; keep: an object waits for that return.
NOINLINE static long make_left(int i, bool keep)
{
	void *p = malloc(some + 300);

	if (keep)
		left_over = p;
	else
		free(p);
	may_leave = 1;
	BARRIER();
	return i;
}

NOINLINE static void leave_once(int i)
{
	if (sigsetjmp(out_of_return, 1) == 0) {
		total += make_left(i, i % 2) * 0;
		may_leave = 0;
	}
	free(left_over);
	left_over = nullptr;
	BARRIER();
}

static void leaving()
{
	struct itimerval timer = { { 0, 100 }, { 0, 100 } };

	signal(SIGPROF, leave);
	setitimer(ITIMER_PROF, &timer, nullptr);
	for (int i = 0; i < 20000 || (handled < 20 && i < 100000000); i++)
		leave_once(i);
	timer = {};
	setitimer(ITIMER_PROF, &timer, nullptr);
	printf("left %d\n", left_over != nullptr);
}

// ---- code without call frame information, and no frame pointer: the stack ends there
// ----

__asm__(".text\n.type unknown_code, @function\nunknown_code:\n"
	"\tpush %rbp\n\tmov $1, %ebp\n\tpush %rdi\n"
	"\tpush %rax\n\tcall malloc@PLT\n\tmov %rax, %rdi\n\tcall free@PLT\n\tpop %rax\n"
	"\tpop %rax\n\tpop %rbp\n\tret\n.size unknown_code, . - unknown_code\n");
extern "C" size_t unknown_code(size_t size);

int main()
{
	printf("unknown %zu\n", unknown_code(some));
	printf("deep %ld\n", make_deep(6000));
	exceptions();
	jumps();
	coroutines();
	threads();
	forks();
	signals();
	leaving();
	exceptions();
	return 0;
}
