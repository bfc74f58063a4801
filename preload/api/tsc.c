/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tsc: prctl, watched for PR_SET_TSC.
 *
 * A thread may forbid itself, and the threads and processes it makes, to read the time
 * stamp counter. The vDSO's clocks read it: from then on ours ask the kernel.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "preload/api/api.h"
#include "preload/base/os.h"

EXPORT int prctl(int option, ...)
{
	unsigned long arg[4];
	va_list list;
	long ret;

	va_start(list, option);
	for (unsigned i = 0; i < ARRAY_LEN(arg); i++)
		arg[i] = va_arg(list, unsigned long);
	va_end(list);
	if (option == PR_SET_TSC && arg[0] != PR_TSC_ENABLE)
		os_avoid_counter();
	ret = os_call(SYS_prctl, option, (long)arg[0], (long)arg[1], (long)arg[2],
		      (long)arg[3], 0);
	if (ret >= 0)
		return (int)ret;
	errno = (int)-ret;
	return -1;
}
