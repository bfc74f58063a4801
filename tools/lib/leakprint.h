/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leakprint: the leaks of a report (.report.json) for people, on stderr.
 */
#ifndef TOOLS_LIB_LEAKPRINT_H
#define TOOLS_LIB_LEAKPRINT_H

#include <jansson.h>
#include <stdbool.h>

void leakprint_frame(size_t i, json_t *frame);
/* "KIND leak: N bytes in N objects, from:" and the stack. only_new: the amounts are those
 * that are new. */
void leakprint_leak(json_t *leak, bool only_new);
/* The same with what is known of a running program: what it retains, its ages. */
void leakprint_live(json_t *leak, bool only_new);
/* Who holds a reachable one. False: it is not known, nothing was printed. */
bool leakprint_chain(json_t *entry);

#endif
