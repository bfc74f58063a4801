/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stub: what a function returns to whose return address was replaced (hijack.c).
 *
 * One section holds, in this order: the stubs, 16 bytes each; the code they share; the
 * landing pad for exceptions; and, from a page of its own, the table with 16 bytes a
 * stub: the true return address, and the stack word that it was taken from. hijack.c
 * makes the table's pages writable. As stubs and entries have the same stride, entry k
 * lies at stub k + DISTANCE for every k: one unwind description serves all stubs.
 *
 * A stub is entered by a ret, so the stack pointer is the caller's: CFA = rsp + 0, and
 * the "return address" of the stub's frame is found in the table. Its call then pushes
 * stub + 5 onto just the word that the replaced return address was in.
 */
#define STUBS	 4096
#define STRIDE	 16
#define TEXT	 4096 /* room for the shared code: the pad in front and what follows */
#define DISTANCE (STUBS * STRIDE + TEXT - 16)

/* DISTANCE, and DISTANCE - 5, as three bytes of LEB128. */
#define LEB0(x) (((x) & 0x7f) | 0x80)
#define LEB1(x) ((((x) >> 7) & 0x7f) | 0x80)
#define LEB2(x) (((x) >> 14) & 0x3f)

#define SAVED  (10 * 8)	/* bytes of registers below the return address */
#define XSTATE (2688 + 64)	/* x87, SSE, AVX and AVX-512 in xsave's standard form */
#define MASK   0xe7

	.section .seep.stubs, "ax", @progbits
	.p2align 12
	.type	escape_stub_area, @function
escape_stub_area:
	.cfi_startproc simple
	.cfi_personality 0x1b, escape_personality
	.cfi_lsda 0xff
	.cfi_def_cfa rsp, 0
	/* DW_CFA_expression rip: { DW_OP_breg16 DISTANCE } */
	.cfi_escape 0x10, 16, 4, 0x80, LEB0(DISTANCE), LEB1(DISTANCE), LEB2(DISTANCE)
	.fill	16, 1, 0x90	/* unwinders look up pc - 1 */
	.globl	escape_stubs
	.hidden	escape_stubs
escape_stubs:
	.rept	STUBS
	call	stub_common
	.p2align 4
	.endr
	.cfi_endproc
	.size	escape_stub_area, . - escape_stub_area

	.type	stub_common, @function
stub_common:
	.cfi_startproc
	.cfi_def_cfa rsp, 8
	/* DW_CFA_expression rip: { lit8, minus, deref, plus_uconst DISTANCE - 5 } of CFA */
	.cfi_escape 0x10, 16, 7, 0x38, 0x1c, 0x06, 0x23, LEB0(DISTANCE - 5), \
		LEB1(DISTANCE - 5), LEB2(DISTANCE - 5)
	.macro	save reg
	pushq	\reg
	.cfi_adjust_cfa_offset 8
	.endm
	save	%rax
	save	%rdx
	save	%rcx
	save	%rsi
	save	%rdi
	save	%r8
	save	%r9
	save	%r10
	save	%r11
	save	%rbp
	.cfi_rel_offset rbp, 0
	movq	%rsp, %rbp
	.cfi_def_cfa_register rbp
	movq	SAVED(%rbp), %rdi	/* stub + 5 */
	movq	DISTANCE - 5(%rdi), %rax
	movq	%rax, SAVED(%rbp)	/* from here on an ordinary frame */
	.cfi_offset rip, -8
	movq	%rbp, %rsi
	subq	$XSTATE, %rsp
	andq	$-64, %rsp
	xorl	%eax, %eax
	movq	%rax, 512(%rsp)		/* xsave's header must be zero */
	movq	%rax, 520(%rsp)
	movq	%rax, 528(%rsp)
	movq	%rax, 536(%rsp)
	movq	%rax, 544(%rsp)
	movq	%rax, 552(%rsp)
	movq	%rax, 560(%rsp)
	movq	%rax, 568(%rsp)
	movl	$MASK, %eax
	xorl	%edx, %edx
	xsave64	(%rsp)
	cld
	call	escape_stub_return
	movl	$MASK, %eax
	xorl	%edx, %edx
	xrstor64 (%rsp)
	movq	%rbp, %rsp
	.macro	restore reg
	popq	\reg
	.cfi_adjust_cfa_offset -8
	.endm
	popq	%rbp
	.cfi_def_cfa rsp, SAVED
	.cfi_restore rbp
	restore	%r11
	restore	%r10
	restore	%r9
	restore	%r8
	restore	%rdi
	restore	%rsi
	restore	%rcx
	restore	%rdx
	restore	%rax
	ret
	.cfi_endproc
	.size	stub_common, . - stub_common

	/* The unwinder wanted to stop at a stub, which has the CFA of its caller: the
	 * search starts again from the caller. rax: the exception; rdx: the true return
	 * address; rsp: the caller's. */
	.type	escape_landing, @function
	.globl	escape_landing
	.hidden	escape_landing
	.cfi_startproc
	.cfi_def_cfa_offset 0
	.cfi_register rip, rdx
	nop
escape_landing:
	pushq	%rdx
	.cfi_def_cfa_offset 8
	.cfi_offset rip, -8
	subq	$8, %rsp
	.cfi_def_cfa_offset 16
	movq	%rax, %rdi
	call	*escape_resume(%rip)
	ud2
	.cfi_endproc
	.size	escape_landing, . - escape_landing

	.org	escape_stubs - escape_stub_area + DISTANCE
	.globl	escape_stub_table
	.hidden	escape_stub_table
	.type	escape_stub_table, @object
escape_stub_table:
	.fill	STUBS * STRIDE, 1, 0
	.size	escape_stub_table, . - escape_stub_table
	.p2align 12

	.section .note.GNU-stack, "", @progbits
