/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linger: waits for what a command leaves behind: daemons, and children that it did not
 * wait for. Their check comes at their own end, which may be soon or never.
 */
#ifndef TOOLS_LIB_LINGER_H
#define TOOLS_LIB_LINGER_H

#include <stdbool.h>

#include "tools/lib/launch.h"

/* Until all processes of the table that were checked in have ended, so many seconds at
 * most, or until the user asks for an end. Says so, if it takes long. */
void linger(const struct launch *l, int seconds, bool quiet);

#endif
