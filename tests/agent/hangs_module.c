/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hangs_module: a library whose constructor never ends: it waits for a thread that waits
 * for the loader's lock, which the one who loads the library holds.
 */
#include <dlfcn.h>
#include <pthread.h>

static void *ask_loader(void *arg)
{
	(void)arg;
	return dlsym(RTLD_DEFAULT, "no_such_symbol");
}

__attribute__((constructor)) static void begin(void)
{
	pthread_t t;

	pthread_create(&t, NULL, ask_loader, NULL);
	pthread_join(t, NULL);
}
