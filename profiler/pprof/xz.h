/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xz: unpacks a small .xz file in memory: what is in a section .gnu_debugdata. One stream
 * of blocks with the filter LZMA2 alone, as xz(1) makes them. Checksums are not looked
 * at; the data is not trusted, and every access is bounded.
 */
#ifndef PROFILER_PPROF_XZ_H
#define PROFILER_PPROF_XZ_H

#include "preload/base/base.h"

/* Bytes that the file says it unpacks to; 0: not such a file. */
size_t xz_unpacked_size(const void *file, size_t size);
/* DUMP. Fills out[0..out_size), out_size being what xz_unpacked_size() said. False: the
 * file is damaged, or no memory. */
bool xz_unpack(const void *file, size_t size, void *out, size_t out_size);

#endif
