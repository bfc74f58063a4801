/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slices: programs whose GLib cuts its small objects out of chunks, so that a lost one is
 * held by those beside it, and is not found.
 */
#ifndef TOOLS_LIB_SLICES_H
#define TOOLS_LIB_SLICES_H

#include <jansson.h>
#include <stdbool.h>

/* Has the process of this leak report a GLib that does so? Not where the environment,
 * which the process has from us, says what GLib is to do. */
bool slices_hide(const json_t *report);

#endif
