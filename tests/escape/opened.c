/* SPDX-License-Identifier: Apache-2.0 */
/* opened: allocates in a library that it opened: argument 1. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	void (*run)(void) =
		plugin ? (void (*)(void))(uintptr_t)dlsym(plugin, "plugin_run") : NULL;

	if (!run)
		return 1;
	for (int i = 0; i < 40; i++)
		run();
	puts("done");
	return 0;
}
