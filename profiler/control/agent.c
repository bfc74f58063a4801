/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent: a thread that exists only while the seep command is being answered.
 *
 *   signal -> handler -> clone -> serve() -> end
 *
 * The handler only looks at the sender, claims the agent's one place, and clones; the
 * interrupted thread goes on at once, so it may have been anywhere, with any lock held.
 * The new thread is no pthread: libc does not know it. Its stack and thread-local storage
 * are parts of one static area, whose pages go back to the system at its end. It has a
 * descriptor table of its own, emptied first, and blocks all signals: nothing of it can
 * be met by the program.
 *
 *   area | stack ...... | thread-local storage ..... TCB |
 *
 * Of libc's thread descriptor only what our code can reach is filled in: the thread's own
 * address, the values that guard stacks and pointers, and its id, by which libc's
 * recursive locks (the loader's) know their holder. Where the id lies is found at start.
 *
 * Concurrency: agent.tid is 0, CLAIMED, or the id of the running agent; who moves it from
 * 0 may clone, and the kernel sets it to 0 when the thread is gone for good. The rest is
 * constant after agent_init(), but for pid.
 */
#include "profiler/control/agent.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/heap.h"
#include "preload/heap/tls.h"
#include "profiler/control/agent_int.h"
#include "profiler/control/alone.h"
#include "profiler/control/request.h"
#include "profiler/stack/restart.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

#define STACK_BYTES (256 * KIB)
#define TLS_BYTES   (256 * KIB) /* below the thread descriptor */
#define TCB_BYTES   (8 * KIB)	/* the descriptor; glibc's is 2.3 KiB */
#define TLS_MARGIN  4096	/* what libc has below errno */
#define CLAIMED	    UINT32_MAX

/* Offsets in the head of a thread descriptor that the x86-64 ABI fixes. */
#define TCB_SELF	  0
#define TCB_DTV		  8
#define TCB_THREAD	  16
#define TCB_STACK_GUARD	  0x28
#define TCB_POINTER_GUARD 0x30
/* The id is looked for here; it is at 0x2d0 in every glibc so far. */
#define TID_FROM 0x80
#define TID_TO	 0x600

static char area[STACK_BYTES + TLS_BYTES + TCB_BYTES] __attribute__((aligned(4096)));

static struct {
	uint32_t tid; /* atomic; also written by the kernel */
	int pid;      /* of the process that may be asked */
	bool ready;   /* an agent can be made */
	size_t tid_offset;
	const char *refusal;
	uint64_t key; /* of the request; written by who holds the claim */
} agent;

/* ---- the thread ---- */

static char *own_tcb(void)
{
	return area + STACK_BYTES + TLS_BYTES;
}

static void copy_word(char *to, const char *from, size_t offset)
{
	memcpy(to + offset, from + offset, sizeof(uintptr_t));
}

/* SIGNAL. The area is all zero. */
static void fill_tcb(void)
{
	const char *current = __builtin_thread_pointer();
	char *tcb = own_tcb();
	const uintptr_t self = (uintptr_t)tcb;

	memcpy(tcb + TCB_SELF, &self, sizeof(self));
	memcpy(tcb + TCB_THREAD, &self, sizeof(self));
	copy_word(tcb, current, TCB_DTV);
	copy_word(tcb, current, TCB_STACK_GUARD);
	copy_word(tcb, current, TCB_POINTER_GUARD);
}

static void close_all(void)
{
	if (os_call(SYS_close_range, 0, UINT32_MAX, 0, 0, 0, 0) == 0)
		return;
	for (int fd = 0; fd < 65536; fd++) /* a kernel before 5.9 */
		os_close(fd);
}

static void agent_main(void)
{
	const int tid = os_gettid();

	memcpy(own_tcb() + agent.tid_offset, &tid, sizeof(tid));
	seep_tls.internal++;
	close_all();
	serve(agent.key, agent.refusal);
	unwind_thread_end();
	heap_thread_exit();
	alone_again();
	os_leave_thread(area, sizeof(area));
}

/* ---- the handler ---- */

/* SIGNAL. Who may queue a signal to us at all, the kernel has seen to; this keeps out
 * what was not meant for us. The peer's credentials decide in the end. */
static bool is_request(const siginfo_t *info)
{
	const uid_t uid = info->si_uid;

	return info->si_code == SI_QUEUE &&
	       (uid == 0 || (long)uid == os_call(SYS_geteuid, 0, 0, 0, 0, 0, 0) ||
		(long)uid == os_call(SYS_getuid, 0, 0, 0, 0, 0, 0)) &&
	       agent.pid == os_getpid();
}

/* SIGNAL. A request while another is served, or at a bad moment, is dropped; the tool
 * asks again. */
static void start(uint64_t key, uintptr_t pc)
{
	uint32_t expected = 0;

	if (os_is_in_valgrind() || !atomic_cas_acquire(&agent.tid, &expected, CLAIMED))
		return;
	agent.key = key;
	fill_tcb();
	if (!alone_end(pc) ||
	    os_clone_thread(area + STACK_BYTES, own_tcb(), &agent.tid, agent_main) < 0)
		atomic_store_release(&agent.tid, 0u);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	thread_excuse_wait();
	if (info->si_errno == AGENT_TRACED)
		thread_excuse_wait();
	if (is_request(info))
		start((uint64_t)(uintptr_t)info->si_value.sival_ptr,
		      (uintptr_t)uc->uc_mcontext.gregs[REG_RIP]);
	restart_call(uc);
}

void agent_called(uint64_t key, uintptr_t pc)
{
	thread_excuse_wait();
	if (agent.ready && agent.pid == os_getpid())
		start(key, pc);
}

/* ---- life ---- */

/* False: not found, or not by one place alone. */
static bool find_tid_offset(void)
{
	const char *tcb = __builtin_thread_pointer();
	const int tid = os_gettid();

	for (size_t at = TID_FROM; at < TID_TO; at += sizeof(int)) {
		int value;

		memcpy(&value, tcb + at, sizeof(value));
		if (value != tid)
			continue;
		agent.tid_offset = at;
		return true;
	}
	return false;
}

static bool tls_fits(void)
{
	uintptr_t fs = (uintptr_t)__builtin_thread_pointer();
	uintptr_t ours = (uintptr_t)&seep_tls, libc = (uintptr_t)&errno;

	return fs - (ours < libc ? ours : libc) + TLS_MARGIN < TLS_BYTES;
}

void agent_init(const char *refusal)
{
	struct sigaction act = { .sa_sigaction = on_signal,
				 .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };
	const int sig = opt_get()->signal;
	struct sigaction now;

	agent.refusal = refusal;
	agent.pid = os_getpid();
	agent.ready = sig != 0 && tls_fits() && find_tid_offset();
	if (!agent.ready || sigaction(sig, NULL, &now) != 0 || now.sa_handler != SIG_DFL)
		return;
	os_fill_signals(&act.sa_mask, 0);
	sigaction(sig, &act, NULL);
}

void agent_fork_child(void)
{
	agent.pid = os_getpid();
	atomic_store_release(&agent.tid, 0u);
	alone_fork_child();
}
