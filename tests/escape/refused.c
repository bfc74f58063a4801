/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refused: functions whose return address must be left alone. Each make_ function
 * allocates, stores the object in a variable and returns; its caller is code that was
 * made while the program runs, code without call frame information, the loader, the start
 * of a coroutine, or the kernel. What is made is freed at the end of the round.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define ROUNDS	  30
#define NOINLINE  __attribute__((noinline))
#define BARRIER() __asm__ volatile("" : : : "memory")

static void *kept[8];
static int n;
static void *expected; /* where a function must return to, by its own account */

/* Keeps the object and reads the return address as the function has it. */
#define MAKE(name, size)                                                            \
	NOINLINE void name(void)                                                    \
	{                                                                           \
		kept[n++] = malloc(size);                                           \
		BARRIER();                                                          \
		if (expected && __builtin_extract_return_addr(                      \
					__builtin_return_address(0)) != expected) { \
			puts("another return address in " #name);                   \
		}                                                                   \
	}

void make_under_jit(void);
void make_under_bare(void);
void make_in_context(void);
void make_in_handler(int sig);
MAKE(make_under_jit, 48)
MAKE(make_under_bare, 64)
MAKE(make_in_context, 80)

NOINLINE void make_in_handler(int sig)
{
	(void)sig;
	kept[n++] = malloc(96);
	BARRIER();
}

/* No call frame information, as in the builtins of a language's runtime. */
__asm__(".text\n.globl bare\n.type bare, @function\nbare:\n"
	"\tpush %rbp\n\tmov %rsp, %rbp\n\tcall make_under_bare\n"
	"after_bare:\n\tpop %rbp\n\tret\n.size bare, .-bare");
void bare(void);
extern char after_bare[];

/* push rbp; mov rbp, rsp; mov rax, function; call rax; pop rbp; ret */
static void (*make_code(void **out_after))(void)
{
	static const uint8_t code[] = { 0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8,
					0,    0,    0,	  0,	0,    0,
					0,    0,    0xff, 0xd0, 0x5d, 0xc3 };
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t function = (uintptr_t)make_under_jit;

	if (page == MAP_FAILED)
		exit(2);
	memcpy(page + 64, code, sizeof(code));
	memcpy(page + 64 + 6, &function, sizeof(function));
	*out_after = page + 64 + 16;
	return (void (*)(void))(uintptr_t)(page + 64);
}

static void in_context(void)
{
	static ucontext_t inside, outside;
	static char stack[64 << 10];

	getcontext(&inside);
	inside.uc_stack.ss_sp = stack;
	inside.uc_stack.ss_size = sizeof(stack);
	inside.uc_link = &outside;
	makecontext(&inside, make_in_context, 0);
	swapcontext(&outside, &inside);
}

int main(int argc, char **argv)
{
	void *after_jit;
	void (*jit)(void) = make_code(&after_jit);

	signal(SIGUSR1, make_in_handler);
	for (int i = 0; i < ROUNDS; i++) {
		void *plugin = dlopen(argc > 1 ? argv[1] : "", RTLD_NOW), **made;

		if (!plugin)
			return 1;
		made = dlsym(plugin, "plugin_made");
		kept[n++] = *made;
		expected = after_jit;
		jit();
		expected = after_bare;
		bare();
		expected = NULL;
		in_context();
		raise(SIGUSR1);
		while (n > 0)
			free(kept[--n]);
		dlclose(plugin);
	}
	puts("done");
	return 0;
}
