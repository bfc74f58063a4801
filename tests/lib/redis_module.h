/* SPDX-License-Identifier: Apache-2.0 */
/* redis_module: what a library needs to be a module of redis, without redis's header. */
#ifndef TESTS_LIB_REDIS_MODULE_H
#define TESTS_LIB_REDIS_MODULE_H

#include <string.h>

/* Called by redis. */
int RedisModule_OnLoad(void **context, void **argv, int argc);

/* What it has to do first, and return: the first word of the context is where functions
 * are asked for. 0: well done. */
static inline int redis_module_register(void **context, const char *module)
{
	int (*get)(const char *, void *);
	void (*name)(void *, const char *, int, int) = NULL;

	memcpy(&get, &context[0], sizeof(get));
	if (get("RedisModule_SetModuleAttribs", &name) != 0 || !name)
		return 1;
	name(context, module, 1, 1);
	return 0;
}

#endif
