/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jit: allocations under code that lies in no module, and has frame pointers: directly,
 * and through a function without call frame information, as the builtins of a language's
 * runtime are.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NOINLINE __attribute__((noinline))

static void *kept[4];

NOINLINE void make_under_code(void)
{
	kept[0] = malloc(1000);
}

NOINLINE void make_under_builtin(void)
{
	kept[1] = malloc(2000);
}

NOINLINE void make_between(void)
{
	kept[2] = malloc(4000);
}

__asm__(".text\n.globl builtin\n.type builtin, @function\nbuiltin:\n"
	"\tpush %rbp\n\tmov %rsp, %rbp\n\tcall make_under_builtin\n"
	"\tpop %rbp\n\tret\n.size builtin, .-builtin");
void builtin(void);

/* push rbp; mov rbp, rsp; mov rax, function; call rax; pop rbp; ret */
static void (*make_code(uint8_t *at, void (*callee)(void)))(void)
{
	static const uint8_t code[] = { 0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8,
					0,    0,    0,	  0,	0,    0,
					0,    0,    0xff, 0xd0, 0x5d, 0xc3 };
	uintptr_t function = (uintptr_t)callee;

	memcpy(at, code, sizeof(code));
	memcpy(at + 6, &function, sizeof(function));
	return (void (*)(void))(uintptr_t)at;
}

int main(void)
{
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void (*outer)(void);

	if (page == MAP_FAILED)
		return 2;
	outer = make_code(page + 64, make_code(page + 128, make_under_code));
	outer();
	outer = make_code(page + 192, make_code(page + 256, builtin));
	outer();
	make_code(page + 320, make_between)();
	return kept[0] && kept[1] && kept[2] ? 0 : 1;
}
