/* SPDX-License-Identifier: Apache-2.0 */
/*
 * survive: the profile file that outlives the process (profiler/site/store.h): where it
 * lies, when it goes, and how profiles are made of one that is left.
 *
 * Under the tool it lies beside the tool's table, "TABLE.ROW"; with out= alone it is
 * PREFIX.store. It goes when the process has written its profiles. The tool starts itself
 * once more with the option recover=FILE to read one: the constructor then writes the
 * profiles of the process that has ended, and exits.
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "preload/api/api.h"
#include "preload/base/fmt.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#if CONFIG_PROFILER
#include "preload/base/meta.h"
#include "profiler/control/runtable.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/module.h"
#endif

#define PATH_ROOM 4160 /* OPT_PATH_MAX and our suffixes */

#if CONFIG_PROFILER

static struct {
	char path[PATH_ROOM]; /* of the file; empty: none is wanted */
} survive;

static bool choose_path(void)
{
	const struct options *o = opt_get();
	const char *prefix;

	survive.path[0] = '\0';
	if (runtable_row())
		return fmt_string(survive.path, PATH_ROOM, "%s.%u", o->run,
				  runtable_row_index()) < PATH_ROOM;
	prefix = exit_prefix();
	return prefix[0] &&
	       fmt_string(survive.path, PATH_ROOM, "%s.store", prefix) < PATH_ROOM;
}

static struct store_owner owner(void)
{
	return (struct store_owner){ .path = choose_path() ? survive.path : NULL,
				     .pid = os_getpid(),
				     .row = runtable_row_index(),
				     .name = exit_program_name() };
}

static void mark_row(void)
{
	struct runtable_row *row = runtable_row();

	if (row)
		row->stored = store_is_open();
}

void survive_init(void)
{
	const struct options *o = opt_get();
	struct store_owner own;

	if (!o->out[0])
		return;
	own = owner();
	if (site_store(&own, o->mode == OPT_MODE_EXACT ? 1 : o->sample))
		module_hook = store_put_module;
	mark_row();
}

void survive_fork_child(bool profiled)
{
	struct store_owner own;

	if (!store_is_open())
		return;
	own = owner();
	if (!profiled)
		own.path = NULL;
	site_store_move(&own);
	sample_store_move();
	mark_row();
}

void survive_no_more(void)
{
	struct runtable_row *row = runtable_row();

	store_remove();
	if (row)
		row->stored = 0;
}

/* ---- reading one ---- */

static void adopt_module(const struct store_module *s)
{
	struct module m = { .bias = s->bias, .start = s->start, .end = s->end };
	char path[STORE_MODULE_PATH];

	m.nsegments =
		s->nsegments < MODULE_MAX_SEGMENTS ? s->nsegments : MODULE_MAX_SEGMENTS;
	m.build_id_size = s->build_id_size < MODULE_BUILD_ID_MAX ? s->build_id_size
								 : MODULE_BUILD_ID_MAX;
	memcpy(m.build_id, s->build_id, sizeof(m.build_id));
	m.unloaded = s->unloaded;
	for (uint32_t i = 0; i < m.nsegments; i++) {
		m.segments[i].start = s->segments[i].start;
		m.segments[i].end = s->segments[i].end;
		m.segments[i].file_offset = s->segments[i].file_offset;
		m.segments[i].executable = s->segments[i].executable;
		m.segments[i].writable = s->segments[i].writable;
	}
	memcpy(path, s->path, sizeof(path));
	path[sizeof(path) - 1] = '\0';
	module_adopt(&m, path);
}

static void adopt_modules(const struct store_header *h)
{
	for (uint32_t i = 0; i < h->counts[STORE_MODULES]; i++) {
		uint32_t chunk = i / h->shapes[STORE_MODULES].chunk;
		const struct store_module *list;

		if (chunk >= STORE_MODULE_CHUNKS || h->module_chunks[chunk] == 0)
			return;
		list = (const void *)((const char *)h + h->module_chunks[chunk]);
		adopt_module(&list[i % h->shapes[STORE_MODULES].chunk]);
	}
}

static int write_recovered(const struct store_header *h, struct runtable_row *row)
{
	const char *pattern = opt_get()->out[0] ? opt_get()->out : h->out;
	char *prefix = meta_map(PATH_ROOM, META_OTHER);
	int error;

	exit_set_program(h->name, h->pid);
	if (!prefix || !exit_make_prefix(pattern, prefix, PATH_ROOM))
		return 1;
	error = sample_write_profiles(prefix);
	if (error)
		log_line("cannot write %.200s.*: %s", prefix, os_error_text(error));
	else if (!row)
		log_line("wrote %s.{heap,allocs,peak%s}.pb.gz", prefix,
			 h->latest_ns ? ",lifetimes" : "");
	if (row && !error) {
		exit_fill_row(row, prefix);
		row->lost = h->lost;
		row->recovered = 1;
	}
	return error ? 1 : 0;
}

/* Where the profiles go says the file, which any user that a program of root's became may
 * have left in the directory of its run (whose files nobody else can replace): so root
 * reads it, and writes, with the rights of its owner. */
static bool become_owner(const char *path)
{
	struct stat st;

	if (os_call(SYS_geteuid, 0, 0, 0, 0, 0, 0) != 0 || opt_get()->out[0])
		return true;
	if (os_call(SYS_lstat, (long)path, (long)&st, 0, 0, 0, 0) != 0)
		return false;
	return st.st_uid == 0 ||
	       (os_call(SYS_setgroups, 0, 0, 0, 0, 0, 0) == 0 &&
		os_call(SYS_setresgid, st.st_gid, st.st_gid, st.st_gid, 0, 0, 0) == 0 &&
		os_call(SYS_setresuid, st.st_uid, st.st_uid, st.st_uid, 0, 0, 0) == 0);
}

void survive_recover(void)
{
	const char *path = opt_get()->recover;
	struct store_header *h = NULL;
	struct runtable_row *row;
	size_t size;

	if (path[0] == '\0')
		return;
	if (become_owner(path))
		h = store_load(path, &size);
	if (!h || !site_adopt(h)) {
		log_line("%.400s: not a profile store of this version", path);
		os_exit_group(1);
	}
	adopt_modules(h);
	row = runtable_adopt(h->row, h->pid);
	/* What is live grew older after the last event. */
	if (row && h->latest_ns != 0 && row->ended_ns > h->latest_ns)
		h->latest_ns = row->ended_ns;
	sample_adopt(h);
	os_exit_group(write_recovered(h, row));
}

#else

void survive_init(void)
{
}

void survive_fork_child(bool profiled)
{
	(void)profiled;
}

void survive_no_more(void)
{
}

void survive_recover(void)
{
}

#endif
