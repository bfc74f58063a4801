/* SPDX-License-Identifier: Apache-2.0 */
/* Libraries that come and go: RTLD_DEEPBIND, other namespaces, RUNPATH, unloading with
 * blocks still there, several threads at it. The plugins lie in the directory that the
 * environment variable PLUGINS names. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#include "cases.h"

static const char *path(const char *name)
{
	static __thread char buf[1000];

	snprintf(buf, sizeof(buf), "%s/%s", getenv("PLUGINS"), name);
	return buf;
}

/* Exported: a plugin without DEEPBIND finds this one. */
__attribute__((visibility("default"))) int who(void)
{
	return 1;
}

static int call(void *h, const char *name)
{
	int (*fn)(void) = h ? (int (*)(void))dlsym(h, name) : NULL;

	if (!h)
		fprintf(stderr, "%s\n", dlerror());
	return fn ? fn() : 0;
}

static int crosses(void *h)
{
	void *(*make)(size_t) = (void *(*)(size_t))dlsym(h, "plugin_make");
	void (*give)(void *) = (void (*)(void *))dlsym(h, "plugin_free");

	for (size_t n = 1; n < 300000; n = n * 3 + 1) {
		free(make(n));
		give(malloc(n));
		give(realloc(make(n), 2 * n));
	}
	return 1;
}

static int test_deepbind(void)
{
	void *h = dlopen(path("libhazard_plugin.so"), RTLD_NOW | RTLD_DEEPBIND);

	return HOLDS(call(h, "plugin_work")) && HOLDS(crosses(h)) &&
	       HOLDS(call(h, "plugin_who") == 1) && HOLDS(dlclose(h) == 0);
}

/* Option deepbind=on: the flag does what the program says. */
static int test_deepbind_on(void)
{
	void *h = dlopen(path("libhazard_plugin.so"), RTLD_LAZY | RTLD_DEEPBIND);

	return HOLDS(call(h, "plugin_who") == 2);
}

/* Its namespace has a libc and a malloc of its own. */
static int test_dlmopen(void)
{
	for (int i = 0; i < 20; i++) {
		void *h = dlmopen(LM_ID_NEWLM, path("libhazard_plugin.so"),
				  RTLD_NOW | RTLD_DEEPBIND);

		if (!HOLDS(call(h, "plugin_work")) ||
		    !HOLDS(call(h, "plugin_who") == 2) || !HOLDS(dlclose(h) == 0))
			return 0;
	}
	return 1;
}

static int test_runpath(void)
{
	void *h = dlopen(path("libhazard_plugin.so"), RTLD_NOW);

	/* Not on our own path, but on the plugin's. */
	return HOLDS(dlopen("libhazard_sub.so", RTLD_NOW) == NULL) &&
	       HOLDS(call(h, "plugin_open_sub"));
}

#define UNLOADS 500

static int test_unload(void)
{
	static char *held[UNLOADS];

	for (int i = 0; i < UNLOADS; i++) {
		void *h = dlopen(path("libhazard_plugin.so"), RTLD_NOW);
		void *(*make)(size_t) = (void *(*)(size_t))dlsym(h, "plugin_make");

		held[i] = make(100 + (size_t)i * 10);
		dlclose(h);
		if (dlopen(path("libhazard_plugin.so"), RTLD_NOW | RTLD_NOLOAD))
			return HOLDS(!"still loaded");
	}
	for (int i = 0; i < UNLOADS; i += 2) {
		if (!HOLDS(held[i][0] == 0x33 && held[i][99] == 0x33))
			return 0;
		free(held[i]);
	}
	return 1;
}

static void *load_often(void *arg)
{
	for (int i = 0; i < 150; i++) {
		void *h = dlopen(path("libhazard_plugin.so"), RTLD_NOW | RTLD_LOCAL);

		if (!h || !call(h, "plugin_work") || dlclose(h) != 0)
			return NULL;
	}
	return arg;
}

static int test_threads(void)
{
	pthread_t t[4];
	int ok = 1;
	void *ret;

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, load_often, t);
	for (int i = 0; i < 2000; i++)
		free(malloc((size_t)i * 13));
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &ret);
		ok &= HOLDS(ret != NULL);
	}
	return ok;
}

/* The library itself, by a program that does not have it: static TLS must be enough. */
static int test_load_late(void)
{
	void *h = dlopen(getenv("LATE"), RTLD_NOW);
	void *(*m)(size_t) = h ? (void *(*)(size_t))dlsym(h, "malloc") : NULL;
	void *(*r)(void *, size_t) =
		h ? (void *(*)(void *, size_t))dlsym(h, "realloc") : NULL;
	void (*f)(void *) = h ? (void (*)(void *))dlsym(h, "free") : NULL;
	pthread_t t;

	if (!h)
		fprintf(stderr, "%s\n", dlerror());
	if (!HOLDS(m && r && f && (void *)m != (void *)malloc))
		return 0;
	for (size_t n = 0; n < 300000; n = n * 3 + 1)
		f(r(m(n), 2 * n + 1));
	f(malloc(100)); /* libc's */
	f(r(strdup("x"), 100));
	if (fork() == 0) {
		f(m(100));
		_exit(0);
	}
	pthread_create(&t, NULL, (void *(*)(void *))m, (void *)100);
	pthread_join(t, NULL);
	return HOLDS(dlclose(h) == 0) && HOLDS(dlopen(getenv("LATE"), RTLD_NOW) == h);
}

static int test_nothing(void)
{
	free(malloc(100));
	return 1;
}

static const struct test_case cases[] = {
	{ "deepbind", test_deepbind },	 { "deepbind_on", test_deepbind_on },
	{ "dlmopen", test_dlmopen },	 { "runpath", test_runpath },
	{ "unload", test_unload },	 { "load_threads", test_threads },
	{ "load_late", test_load_late }, { "nothing", test_nothing },
};

int main(int argc, char **argv)
{
	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
