/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin: a library to be opened at run time that can hold a pointer in its bss, in what
 * the loader made read-only, and in its thread-local storage (of the dynamic kind, since
 * it is opened late).
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

void plugin_hold_bss(void *p);
void plugin_hold_relro(void *p);
void plugin_lose(void);
void plugin_hold_tls(void *p);
void *plugin_take(void);

static void *volatile in_bss[64];
static __thread void *volatile in_tls[64];

void plugin_hold_bss(void *p)
{
	in_bss[17] = p;
}

void plugin_hold_tls(void *p)
{
	in_tls[23] = p;
}

void plugin_lose(void)
{
	void *volatile lost = calloc(1, 88);

	lost = 0;
}

/* Relocated, hence read-only from then on; written all the same. */
static void *const in_relro[1024] = { (void *)&in_bss, (void *)&in_bss[1] };

void plugin_hold_relro(void *p)
{
	uintptr_t page = ((uintptr_t)in_relro + 4095) & ~(uintptr_t)4095;
	void *volatile *at = (void *volatile *)page;

	if (mprotect((void *)page, 4096, PROT_READ | PROT_WRITE) != 0)
		return;
	at[7] = p;
	mprotect((void *)page, 4096, PROT_READ);
}

void *plugin_take(void)
{
	return in_bss[17] ? in_bss[17] : in_tls[23];
}
