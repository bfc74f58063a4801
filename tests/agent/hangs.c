/* SPDX-License-Identifier: Apache-2.0 */
/* hangs: loads the library that its first argument names, with all signals blocked. */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

int main(int argc, char **argv)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	return argc < 2 || !dlopen(argv[1], RTLD_NOW);
}
