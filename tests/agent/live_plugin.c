/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live_plugin: a library that loses memory: when its function is called; preloaded with
 * SEEP_TEST_LOSE=N, every N milliseconds from a thread of its own, whatever the program
 * does; with SEEP_TEST_LOSE=load, when it is loaded; and as a module of redis.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/redis_module.h"

void plugin_loses(void);

__attribute__((noinline)) static void plugin_inner(void)
{
	void *p = calloc(1, 77);

	__asm__ volatile("" : : "r"(p) : "memory");
}

void plugin_loses(void)
{
	for (int i = 0; i < 5; i++)
		plugin_inner();
}

static void *run(void *arg)
{
	for (;;) {
		plugin_loses();
		usleep((unsigned)(size_t)arg * 1000);
	}
	return NULL;
}

int RedisModule_OnLoad(void **context, void **argv, int argc)
{
	(void)argv;
	(void)argc;
	if (redis_module_register(context, "leaky") != 0)
		return 1;
	plugin_loses();
	return 0;
}

__attribute__((constructor)) static void start(void)
{
	const char *text = getenv("SEEP_TEST_LOSE");
	pthread_t t;

	if (text && strcmp(text, "load") == 0)
		plugin_loses();
	else if (text)
		pthread_create(&t, NULL, run, (void *)(size_t)atoi(text));
}
