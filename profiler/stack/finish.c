/* SPDX-License-Identifier: Apache-2.0 */
/*
 * finish: see finish.h.
 *
 * The code below makes room under the red zone of the function that made the call, and
 * the call again for the rest. Interrupted once more it goes on with the same room.
 * Nothing but rcx and r11 differs afterwards, which every system call overwrites; so they
 * bring in where the call was made, and its number.
 *
 * Calls are left as they are where a part is what the program has asked for: of
 * descriptors that do not block, files and datagrams, and where a flag says so.
 */
#include "profiler/stack/finish.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <termios.h>

#include "preload/base/os.h"

#define PARTS_MOST 16 /* of writev; calls with more are left as they are */

/* At the stack pointer while the code below runs. */
struct frame {
	uintptr_t done; /* bytes so far */
	uintptr_t rip, rsi, rdx, nr;
	struct iovec parts[PARTS_MOST]; /* of writev: those that are left */
	char red_zone[128];
};

#define DROP	  424 /* bytes */
#define STRING(x) #x
#define EXPAND(x) STRING(x)
#define DROP_TEXT EXPAND(DROP)

_Static_assert(offsetof(struct frame, rip) == 8 && offsetof(struct frame, rsi) == 16 &&
		       offsetof(struct frame, rdx) == 24 &&
		       offsetof(struct frame, nr) == 32 &&
		       offsetof(struct frame, parts) == 40 &&
		       sizeof(struct frame) == DROP && SYS_writev == 20,
	       "as in the code below");

extern const char finish_enter[] HIDDEN, finish_again[] HIDDEN, finish_made[] HIDDEN;

/* rax: the bytes that were moved last. Of writev's parts those that are done are skipped,
 * and the others copied; they may overlap with where they go, which lies before them. */
__asm__(".text\n\t"
	".globl finish_enter, finish_again, finish_made\n\t"
	".hidden finish_enter, finish_again, finish_made\n\t"
	".type finish_enter, @function\n"
	"finish_enter:\n\t"
	".cfi_startproc\n\t"
	".cfi_def_cfa rsp, 0\n\t"
	".cfi_register rip, rcx\n\t"
	"lea -" DROP_TEXT "(%rsp), %rsp\n\t"
	".cfi_def_cfa_offset " DROP_TEXT "\n\t"
	"mov %rcx, 8(%rsp)\n\t"
	".cfi_offset rip, 8 - " DROP_TEXT "\n\t"
	"movq $0, (%rsp)\n\t"
	"mov %rsi, 16(%rsp)\n\t"
	"mov %rdx, 24(%rsp)\n\t"
	"mov %r11, 32(%rsp)\n"
	"finish_again:\n\t"
	"add %rax, (%rsp)\n\t"
	"cmpl $20, 32(%rsp)\n\t"
	"je 1f\n\t"
	"add %rax, %rsi\n\t"
	"sub %rax, %rdx\n\t"
	"jmp 4f\n"
	"1:\n\t"
	"mov 8(%rsi), %rcx\n\t"
	"cmp %rcx, %rax\n\t"
	"jb 2f\n\t"
	"sub %rcx, %rax\n\t"
	"add $16, %rsi\n\t"
	"dec %rdx\n\t"
	"jmp 1b\n"
	"2:\n\t"
	"shl $4, %rdx\n\t"
	"xor %r11d, %r11d\n"
	"3:\n\t"
	"mov (%rsi,%r11), %rcx\n\t"
	"mov %rcx, 40(%rsp,%r11)\n\t"
	"add $8, %r11\n\t"
	"cmp %rdx, %r11\n\t"
	"jb 3b\n\t"
	"shr $4, %rdx\n\t"
	"add %rax, 40(%rsp)\n\t"
	"sub %rax, 48(%rsp)\n\t"
	"lea 40(%rsp), %rsi\n"
	"4:\n\t"
	"mov 32(%rsp), %rax\n\t"
	"syscall\n"
	"finish_made:\n\t"
	"test %rax, %rax\n\t"
	"js 5f\n\t"
	"add %rax, (%rsp)\n"
	"5:\n\t"
	"mov (%rsp), %rax\n\t"
	"mov 8(%rsp), %rcx\n\t"
	"mov 16(%rsp), %rsi\n\t"
	"mov 24(%rsp), %rdx\n\t"
	".cfi_register rip, rcx\n\t"
	"lea " DROP_TEXT "(%rsp), %rsp\n\t"
	".cfi_def_cfa_offset "
	"0\n\t"
	"jmp *%rcx\n\t"
	".cfi_endproc\n\t"
	".size finish_enter, . - "
	"finish_enter");

int finish_call_at(uintptr_t pc, uintptr_t sp)
{
	const struct frame *f = (const void *)sp;

	return pc == (uintptr_t)finish_made ? (int)f->nr : -1;
}

bool finish_may(int nr, uintptr_t rax)
{
	return (nr == SYS_write || nr == SYS_writev || nr == SYS_sendto ||
		nr == SYS_recvfrom) &&
	       (intptr_t)rax > 0;
}

/* Is there no other reason for a part of the bytes? */
static bool file_blocks(int fd, bool is_receive)
{
	const long flags = os_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);
	int type = 0, size = sizeof(type);
	struct termios terminal; /* larger than the kernel's */
	struct stat st;

	if (flags < 0 || (flags & O_NONBLOCK) || os_stat(fd, &st) != 0)
		return false;
	if (S_ISFIFO(st.st_mode))
		return !is_receive;
	if (S_ISCHR(st.st_mode)) /* a terminal; of other devices a part may be a record */
		return !is_receive &&
		       os_call(SYS_ioctl, fd, TCGETS, (long)&terminal, 0, 0, 0) == 0;
	return S_ISSOCK(st.st_mode) &&
	       os_call(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, (long)&type, (long)&size,
		       0) == 0 &&
	       type == SOCK_STREAM;
}

static bool blocks(int fd, bool is_receive, const struct finish_access *access)
{
	const int copy = access->descriptor ? access->descriptor(fd, access->arg) : fd;
	bool result;

	if (copy < 0)
		return false;
	result = file_blocks(copy, is_receive);
	if (access->descriptor)
		os_call(SYS_close, copy, 0, 0, 0, 0, 0);
	return result;
}

/* Bytes that the call was to move; 0: it may come back with any number. */
static size_t bytes_asked(int nr, const struct finish_regs *r,
			  const struct finish_access *access)
{
	struct iovec parts[PARTS_MOST];
	size_t sum = 0;

	switch (nr) {
	case SYS_write:
		return r->rdx;
	case SYS_sendto:
		return r->r10 & MSG_DONTWAIT ? 0 : r->rdx;
	case SYS_recvfrom:
		return (r->r10 & (MSG_WAITALL | MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC)) ==
				       MSG_WAITALL
			       ? r->rdx
			       : 0;
	case SYS_writev:
		if (r->rdx > PARTS_MOST ||
		    !access->read(r->rsi, parts, r->rdx * sizeof(*parts), access->arg))
			return 0;
		for (size_t i = 0; i < r->rdx; i++)
			sum += parts[i].iov_len;
		return sum;
	default:
		return 0;
	}
}

bool finish_call(int nr, struct finish_regs *r, const struct finish_access *access)
{
	if (!finish_may(nr, r->rax) || r->rax >= bytes_asked(nr, r, access) ||
	    !blocks((int)r->rdi, nr == SYS_recvfrom, access))
		return false;
	if (r->rip == (uintptr_t)finish_made) {
		r->rip = (uintptr_t)finish_again;
		return true;
	}
	r->rcx = r->rip;
	r->r11 = (uintptr_t)nr;
	r->rip = (uintptr_t)finish_enter;
	return true;
}
