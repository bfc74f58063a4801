/* SPDX-License-Identifier: Apache-2.0 */
/* A storm of forks: some threads allocate, one opens and closes libraries, and several
 * fork at once. Each child allocates, resizes and frees, blocks of its parent too.
 * Arguments: forks in all, threads that fork, threads that allocate. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int stop, forks_left, failures;
static void *shared[64]; /* exchanged atomically */

static void *churn(void *arg)
{
	uint64_t s = (uintptr_t)arg;
	long steps = 0;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		size_t n;

		s = s * 6364136223846793005u + 1442695040888963407u;
		n = s >> 60 == 0 ? s >> 40 & 0x3ffff : s >> 40 & 2047;
		free(__atomic_exchange_n(&shared[s >> 34 & 63], malloc(n),
					 __ATOMIC_ACQ_REL));
		if (++steps % 256 == 0)
			sched_yield(); /* few cores: the forks are what counts */
	}
	return NULL;
}

static void *load(void *arg)
{
	static const char *const names[] = { "libm.so.6", "libz.so.1", "libresolv.so.2" };

	for (unsigned i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i++) {
		void *h = dlopen(names[i % 3], RTLD_NOW);

		if (h)
			dlclose(h);
	}
	return arg;
}

static void child(int i)
{
	void *held[100];

	for (size_t k = 0; k < 100; k++)
		held[k] = malloc(k * 40 + (size_t)i % 1000);
	for (size_t k = 0; k < 100; k += 3)
		held[k] = realloc(held[k], k * 100 + 1);
	for (size_t k = 0; k < 100; k++)
		free(held[k]);
	for (size_t k = 0; k < 64; k++) /* of the parent's threads */
		free(shared[k]);
	free(calloc(1, 200000));
	_exit(i % 50);
}

static void *storm(void *arg)
{
	for (;;) {
		int i = __atomic_sub_fetch(&forks_left, 1, __ATOMIC_RELAXED);
		int status = 0;
		pid_t pid;

		if (i < 0)
			return arg;
		pid = fork();
		if (pid == 0)
			child(i);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
		    WEXITSTATUS(status) != i % 50) {
			printf("fork %d: pid %d, status %#x\n", i, (int)pid, status);
			__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
		}
		free(malloc((size_t)i % 3000));
	}
}

int main(int argc, char **argv)
{
	int forkers = argc > 2 ? atoi(argv[2]) : 1;
	int allocators = argc > 3 ? atoi(argv[3]) : 4;
	pthread_t t[64], loader;

	forks_left = argc > 1 ? atoi(argv[1]) : 2000;
	if (forkers + allocators > 64)
		return 2;
	pthread_create(&loader, NULL, load, NULL);
	for (int i = 0; i < forkers + allocators; i++)
		pthread_create(&t[i], NULL, i < forkers ? storm : churn,
			       (void *)(uintptr_t)(i + 1));
	for (int i = 0; i < forkers + allocators; i++) {
		pthread_join(t[i], NULL);
		if (i == forkers - 1)
			__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	}
	pthread_join(loader, NULL);
	printf("failures %d\n", failures);
	return failures != 0;
}
