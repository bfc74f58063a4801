/* SPDX-License-Identifier: Apache-2.0 */
/* A library that hazards_load.c opens: blocks cross between it, libc and the program. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int plugin_work(void);
void *plugin_make(size_t size);
void plugin_free(void *p);
int plugin_who(void);
int plugin_open_sub(void);
int who(void);

static int resolved;

static int answer_42(void)
{
	return 42;
}

/* Runs while the library is being relocated. */
static int (*resolve(void))(void)
{
	free(malloc(100));
	return answer_42;
}
int plugin_answer(void) __attribute__((ifunc("resolve")));

static __thread char *per_thread;

__attribute__((constructor)) static void start(void)
{
	if (!getenv("PLUGIN_QUIET")) /* with DEEPBIND this is what kills */
		free(strdup("constructor"));
	resolved = plugin_answer();
}

__attribute__((destructor)) static void end(void)
{
	free(malloc(1000));
}

/* Blocks that libc makes and we free, and the other way round. */
int plugin_work(void)
{
	char *text = NULL, *line = NULL, *p;
	size_t size = 0;
	int ok;
	FILE *f;

	if (asprintf(&text, "%d-%s", resolved, "text") < 0)
		return 0;
	ok = strcmp(text, "42-text") == 0;
	free(text);
	p = strdup("abc");
	p = realloc(p, 5000);
	ok &= memcmp(p, "abc", 4) == 0;
	free(p);
	f = open_memstream(&text, &size);
	fprintf(f, "one\ntwo\n");
	fclose(f);
	ok &= size == 8;
	f = fmemopen(text, size, "r");
	size = 0;
	line = malloc(1); /* getline() grows our block */
	size = 1;
	ok &= getline(&line, &size, f) == 4;
	fclose(f);
	free(line);
	free(text);
	p = realpath("/", NULL);
	ok &= p && strcmp(p, "/") == 0;
	free(p);
	if (!per_thread)
		per_thread = malloc(10);
	free(per_thread);
	per_thread = NULL;
	return ok;
}

void *plugin_make(size_t size)
{
	void *p = malloc(size);

	memset(p, 0x33, size);
	return p;
}

void plugin_free(void *p)
{
	free(p);
}

/* Whose who()? With RTLD_DEEPBIND ours. */
int who(void)
{
	return 2;
}

int plugin_who(void)
{
	return who();
}

/* Found only through our own RUNPATH. */
int plugin_open_sub(void)
{
	void *h = dlopen("libhazard_sub.so", RTLD_NOW);
	int (*fn)(void) = h ? (int (*)(void))dlsym(h, "plugin_work") : NULL;
	int ok = fn && fn();

	if (h)
		dlclose(h);
	return ok;
}
