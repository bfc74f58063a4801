/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reportjson: leak reports as JSON trees, in which equal frames are one object: ten
 * thousand stacks hold hundreds of thousands of frames, of which few differ. Whoever
 * changes a frame changes it in every stack.
 */
#ifndef TOOLS_LIB_REPORTJSON_H
#define TOOLS_LIB_REPORTJSON_H

#include <jansson.h>

/* NULL: it is no JSON, and why says so where it is not NULL. */
json_t *reportjson_parse(const char *bytes, size_t size, json_error_t *why);
json_t *reportjson_read(const char *path, json_error_t *why);
/* Compact, a leak a line; allocated, NULL when memory is short. */
char *reportjson_text(json_t *report, size_t *out_size);

#endif
