/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filebytes: whole files as bytes: read, gunzipped where they need it, and written so
 * that nobody sees a part of one.
 */
#ifndef TOOLS_LIB_FILEBYTES_H
#define TOOLS_LIB_FILEBYTES_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of a file; NULL with errno. Allocated, with a NUL after them. */
uint8_t *file_bytes_read(const char *path, size_t *out_size);
/* Writes them to a temporary name first, mode 0600 or that of the file it replaces.
 * False: errno, and nothing is left. */
bool file_bytes_write(const void *bytes, size_t size, const char *path);
/* A device, a pipe, or the system's name for an open file (/dev/stdout): it is written
 * to, and never replaced by a file. */
bool file_is_special(const char *path);
/* How such a one is opened. */
#define FILE_AS_IT_IS (O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY)

#endif
