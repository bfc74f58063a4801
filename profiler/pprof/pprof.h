/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pprof: writes gzipped profile.proto files, streaming. The mappings of all modules open
 * a file, the program's first; strings, functions and locations are numbered and sent
 * when first met; Samples follow as they are added. Memory comes from meta mappings only.
 * The public format is described by the field numbers in profile.proto (our own text of
 * it) and in pprof's README.
 *
 * Concurrency: one caller at a time for one file; several files may be written at once.
 */
#ifndef PROFILER_PPROF_PPROF_H
#define PROFILER_PPROF_PPROF_H

#include "preload/base/base.h"

struct pprof_type {
	const char *type, *unit;
};

/* What a profile of one kind always looks like. Frozen: pprof refuses to diff otherwise.
 */
struct pprof_kind {
	const char *name; /* "heap": also the file's suffix, .heap.pb.gz */
	const struct pprof_type *types;
	int ntypes;
	const char *default_type; /* one of types */
	struct pprof_type period_type;
};
extern const struct pprof_kind pprof_kind_heap, pprof_kind_allocs, pprof_kind_peak,
	pprof_kind_leak, pprof_kind_escape, pprof_kind_lifetimes, pprof_kind_threads,
	pprof_kind_threadcreate;

struct pprof_label {
	const char *key;
	const char *text; /* NULL: numeric */
	int64_t number;
	const char *unit; /* of number, or NULL */
};

struct pprof; /* a file being written */

/*
 * DUMP. Starts PREFIX.KIND.pb.gz, see file.h.
 * comments: NULL-terminated. period: mean sampling interval in period_type's unit.
 * Returns 0 or -errno; *out is then NULL.
 */
int pprof_begin(struct pprof **out, const struct pprof_kind *kind, const char *prefix,
		int64_t period, const char *const *comments);
/* DUMP. The same for two files of the same contents but for their default types: kinds
 * with the same list of types. *out is both. What fails for one of them is told at the
 * end. */
int pprof_begin_pair(struct pprof **out, const struct pprof_kind *const kinds[2],
		     const char *prefix, int64_t period, const char *const *comments);
/* DUMP. The same into a descriptor of the caller's, see out_file_adopt(). */
int pprof_begin_fd(struct pprof **out, const struct pprof_kind *kind, int fd,
		   int64_t period, const char *const *comments);
/* How long what the profile tells took. */
void pprof_duration(struct pprof *p, uint64_t ns);
/*
 * Adds a sample. pcs: leaf first, return addresses (one is subtracted from each, see
 * precise_leaf) or pseudo pcs of unwind.h, which become the frames "[truncated]",
 * "[jit]". precise_leaf: pcs[0] is exact. count 0 gives the frame "[stack not sampled]".
 * Errors are kept and reported by pprof_finish().
 */
void pprof_sample(struct pprof *p, const uintptr_t *pcs, int count, bool precise_leaf,
		  const int64_t *values, const struct pprof_label *labels, int nlabels);
/* Completes and renames the file, frees *p. 0, or -errno with nothing left behind. */
int pprof_finish(struct pprof *p);
void pprof_abandon(struct pprof *p);
/* The process ends: a file's memory is kept for the next file. */
void pprof_keep_memory(void);

#endif
