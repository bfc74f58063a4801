/* SPDX-License-Identifier: Apache-2.0 */
/* A library that opened.c opens while it runs. */
#include <stdlib.h>

#define NOINLINE  __attribute__((noinline))
#define BARRIER() __asm__ volatile("" : : : "memory")

void plugin_run(void);
extern void *plugin_kept;
void *plugin_kept;

NOINLINE static void plugin_keep(void)
{
	void *p = malloc(72);

	BARRIER();
	plugin_kept = p;
	BARRIER();
}

NOINLINE static void plugin_use(void)
{
	char *p = malloc(40);

	p[0] = 1;
	BARRIER();
	free(p);
	BARRIER();
}

extern void *plugin_made;
void *plugin_made;

__attribute__((constructor)) static void make_in_constructor(void)
{
	plugin_made = malloc(112);
	BARRIER();
}

void plugin_run(void)
{
	plugin_use();
	plugin_keep();
	free(plugin_kept);
	BARRIER();
}
