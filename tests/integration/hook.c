/* SPDX-License-Identifier: Apache-2.0 */
/* A library that is preloaded beside ours, or audits the loader: it allocates inside
 * functions that others call, in its constructor, and in handlers of fork. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int depth; /* of all threads: good enough for one */

static void allocate(void)
{
	void *p;

	if (depth++ == 0) {
		p = malloc(1000);
		free(realloc(p, 5000));
		free(calloc(10, 10));
		free(malloc(1 << 18));
	}
	depth--;
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

char *getenv(const char *name)
{
	allocate();
	return NEXT(char *(*)(const char *), "getenv")(name);
}

int unsetenv(const char *name)
{
	allocate();
	return NEXT(int (*)(const char *), "unsetenv")(name);
}

int pthread_key_create(pthread_key_t *key, void (*destructor)(void *))
{
	allocate();
	return NEXT(int (*)(pthread_key_t *, void (*)(void *)),
		    "pthread_key_create")(key, destructor);
}

int pthread_setspecific(pthread_key_t key, const void *value)
{
	allocate();
	return NEXT(int (*)(pthread_key_t, const void *), "pthread_setspecific")(key,
										 value);
}

struct dl_phdr_info;

int dl_iterate_phdr(int (*fn)(struct dl_phdr_info *, size_t, void *), void *arg)
{
	allocate();
	return NEXT(int (*)(int (*)(struct dl_phdr_info *, size_t, void *), void *),
		    "dl_iterate_phdr")(fn, arg);
}

unsigned long getauxval(unsigned long type)
{
	allocate();
	return NEXT(unsigned long (*)(unsigned long), "getauxval")(type);
}

static void on_fork(void)
{
	void *held[500];

	for (size_t i = 0; i < 500; i++)
		held[i] = malloc(i * 90);
	for (size_t i = 0; i < 500; i++)
		free(held[i]);
}

static void on_end(void)
{
	free(malloc(100));
}

__attribute__((constructor)) static void start(void)
{
	pthread_atfork(on_fork, on_fork, on_fork);
	atexit(on_end);
	free(malloc(10));
}

/* ---- LD_AUDIT ---- */

unsigned int la_version(unsigned int version)
{
	free(malloc(10));
	return version;
}

unsigned int la_objopen(void *map, long id, unsigned long *cookie)
{
	(void)map;
	(void)id;
	(void)cookie;
	free(malloc(100));
	return 0;
}
