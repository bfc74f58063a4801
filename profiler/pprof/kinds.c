/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kinds: the sample types of each kind of profile. Frozen: pprof refuses to diff or merge
 * profiles whose lists differ.
 */
#include "profiler/pprof/pprof.h"

static const struct pprof_type heap_types[] = { { "alloc_objects", "count" },
						{ "alloc_space", "bytes" },
						{ "inuse_objects", "count" },
						{ "inuse_space", "bytes" } };
static const struct pprof_type peak_types[] = { { "peak_objects", "count" },
						{ "peak_space", "bytes" } };
static const struct pprof_type leak_types[] = { { "leaked_objects", "count" },
						{ "leaked_space", "bytes" },
						{ "retained_space", "bytes" } };
static const struct pprof_type escape_types[] = { { "objects", "count" },
						  { "space", "bytes" },
						  { "lifetime", "nanoseconds" } };
static const struct pprof_type lifetime_types[] = { { "objects", "count" },
						    { "space", "bytes" },
						    { "slack", "bytes" },
						    { "lifetime", "nanoseconds" } };
static const struct pprof_type thread_types[] = { { "threads", "count" } };

static const struct pprof_type threadcreate_types[] = { { "threadcreate", "count" },
							{ "live", "count" } };

#define KIND(kind_name, list, first, ...)                                    \
	{                                                                    \
		.name = kind_name, .types = list, .ntypes = ARRAY_LEN(list), \
		.default_type = first, .period_type = __VA_ARGS__            \
	}
#define SPACE                    \
	{                        \
		"space", "bytes" \
	}
#define THREADS                    \
	{                          \
		"threads", "count" \
	}

const struct pprof_kind pprof_kind_heap = KIND("heap", heap_types, "inuse_space", SPACE);
const struct pprof_kind pprof_kind_allocs =
	KIND("allocs", heap_types, "alloc_space", SPACE);
const struct pprof_kind pprof_kind_peak = KIND("peak", peak_types, "peak_space", SPACE);
const struct pprof_kind pprof_kind_leak = KIND("leak", leak_types, "leaked_space", SPACE);
const struct pprof_kind pprof_kind_escape = KIND("escape", escape_types, "space", SPACE);
const struct pprof_kind pprof_kind_lifetimes =
	KIND("lifetimes", lifetime_types, "objects", SPACE);
const struct pprof_kind pprof_kind_threadcreate = KIND(
	"threadcreate", threadcreate_types, "threadcreate", { "threadcreate", "count" });
const struct pprof_kind pprof_kind_threads =
	KIND("threads", thread_types, "threads", THREADS);
