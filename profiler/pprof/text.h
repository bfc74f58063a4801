/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text: the texts of profile files.
 */
#ifndef PROFILER_PPROF_TEXT_H
#define PROFILER_PPROF_TEXT_H

#include "preload/base/base.h"

/* Bytes of the UTF-8 character at s, 0 when it is none. */
size_t text_utf8_size(const unsigned char *s);
/* Of 64 bits, never 0. */
uint64_t text_hash(const char *text);
/* drop_frames of every profile: a regular expression of pprof. */
extern const char pprof_drop_frames[] HIDDEN;

#endif
