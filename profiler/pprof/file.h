/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file: an output file that appears whole or not at all: written under a temporary name
 * beside its place, mode 0600, and renamed. The size limit of the process is respected,
 * so that no write can raise SIGXFSZ.
 */
#ifndef PROFILER_PPROF_FILE_H
#define PROFILER_PPROF_FILE_H

#include "preload/base/base.h"
#include "preload/base/opt.h"

struct out_file {
	int fd;
	int error; /* first -errno; 0: none */
	uint64_t size, limit;
	char path[OPT_PATH_MAX + 64], temporary[OPT_PATH_MAX + 96];
};

/* DUMP. Starts PREFIX.SUFFIX. 0 or -errno: -ELOOP when a symbolic link has that name. */
int out_file_open(struct out_file *f, const char *prefix, const char *suffix);
/* DUMP. Writes to a descriptor of the caller's, which stays open; there is no path then.
 */
void out_file_adopt(struct out_file *f, int fd);
/* Keeps the first error. An out_sink of fmt.h: arg is the struct out_file. */
bool out_file_write(void *arg, const char *bytes, size_t size);
/* Renames into place; on any error removes the temporary file. 0 or -errno. */
int out_file_close(struct out_file *f);
void out_file_abandon(struct out_file *f);

#endif
