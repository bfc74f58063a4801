/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history: what earlier checks of this process found lost, object by object. It tells
 * what is new since the last check, and what was wrong: an object that was said to be
 * lost and has been freed since, or is reached again, is a retraction. One that is
 * reached again is remembered: an old word in a register or a buffer may look like its
 * address for a while, and it is not new when it is lost again.
 */
#ifndef PROFILER_LEAK_HISTORY_H
#define PROFILER_LEAK_HISTORY_H

#include "preload/base/base.h"

struct history_entry {
	uintptr_t base; /* 0: free */
	uint64_t born_ns;
	uint64_t bytes;
	uint32_t site;
	uint32_t seen;	 /* number of the last check that found it lost */
	bool is_live;	 /* not freed, as the present check has found */
	bool is_reached; /* taken back, as it was reached again */
};

/* All with the leak check's lock held; STW. */
void history_begin(void);
/* This check finds the object lost. True: an earlier one did, too. */
bool history_note(const struct history_entry *e);
/* Did the last check report it? */
bool history_knows(const struct history_entry *e);
/* Did an earlier one? */
bool history_has(const struct history_entry *e);
/* Which are not freed. A look may ask: nothing else changes. */
void history_ask(bool (*is_live)(const struct history_entry *e, void *arg), void *arg);
/* How many there are. */
size_t history_size(void);
/* Calls fn for what the last check reported and this one does not, and forgets it if it
 * is not live, or cannot be told from another at its address (births are not recorded).
 */
void history_end(void (*fn)(const struct history_entry *e, void *arg), void *arg);
/* In a forked child: nothing was reported here. */
void history_forget(void);
/* The same where the table may be in the middle of a change. */
void history_lose(void);
/* What a check in a snapshot remembered, for the process that it was made from: written
 * to memory that both share, up to max entries; how many. */
size_t history_give(struct history_entry *to, size_t max);
void history_take(const struct history_entry *from, size_t count);

#endif
