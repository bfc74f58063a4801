/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leftovers: directories of runs whose tool was killed. The next run recovers the
 * profiles in them and clears them away.
 */
#ifndef TOOLS_LIB_LEFTOVERS_H
#define TOOLS_LIB_LEFTOVERS_H

/* How a run's directory is called, with a part for mkdtemp(), and the table in it. */
#define LEFTOVERS_NAME	   "seep-run."
#define LEFTOVERS_TEMPLATE LEFTOVERS_NAME "XXXXXX"
#define LEFTOVERS_TABLE	   "table"

/* The table at path belongs to a run that lives as long as fd is open. */
void leftovers_mark(int fd);
/* Looks through place, /dev/shm say. Directories of others, and those of which a process
 * still runs, stay. */
void leftovers_clear(const char *place, const char *library);
/* Removes a directory with the files in it. */
void leftovers_remove(const char *directory);

#endif
