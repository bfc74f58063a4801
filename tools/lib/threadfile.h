/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threadfile: the thread profile as the live agent writes it (each thread a sample, see
 * profiler/thread/threadprof.h), read, and written again as the grouped profile for go
 * tool pprof.
 */
#ifndef TOOLS_LIB_THREADFILE_H
#define TOOLS_LIB_THREADFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct threadfile;

struct thread_frame {
	uint64_t address;
	char *function; /* demangled, or "" */
	const char *file;
};

struct thread_sample {
	const char *role; /* "": a thread; "created" and so on: see threadprof.h */
	const char *name, *state, *blocked;
	const char *over_time, *growing; /* of a creation site */
	int64_t count;			 /* threads that the sample stands for */
	int64_t live, peak;		 /* of a creation site */
	int64_t tid, other, address, wait_ns, bytes;
	struct thread_frame *frames; /* leaf first */
	size_t nframes;
	uint64_t stack; /* equal for equal stacks */
};

/* NULL: not readable. */
struct threadfile *threadfile_read(const char *path);
/* Is it a profile of the kind whose first values are called so? */
bool threadfile_is(const struct threadfile *f, const char *kind);
size_t threadfile_count(const struct threadfile *f);
/* ", 12 s", or nothing when it is not known. */
const char *threadfile_wait(int64_t wait_ns, char *buf, size_t size);
const struct thread_sample *threadfile_at(const struct threadfile *f, size_t i);
/* Are two samples of one kind and stack? */
bool threadfile_same(const struct threadfile *f, size_t i, size_t k);
/* Is there an earlier one like it? */
bool threadfile_seen(const struct threadfile *f, size_t i);
bool threadfile_has_comment(const struct threadfile *f, const char *text);
/* Groups threads by stack, name, state and blocked, and writes that to fd. False: could
 * not be written. The samples stay as they are. */
bool threadfile_write_groups(struct threadfile *f, int fd);

#endif
