/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtable: the library's side of the tool's table, see runtable.h.
 */
#include "profiler/control/runtable.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

#include "preload/base/atomic.h"
#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"

#define AHEAD	     32	  /* rows there is room for, for children that cannot make any */
#define LIMITED_ROWS 4096 /* mapped where the address space is limited */

static struct {
	struct runtable *table; /* NULL: none */
	uint32_t nrows;		/* that are mapped */
	struct runtable_row *row;
} control;

static size_t bytes_of(uint32_t nrows)
{
	return offsetof(struct runtable, rows) + nrows * sizeof(struct runtable_row);
}

static bool within_limit(uint64_t size)
{
	uint64_t lim[2] = { UINT64_MAX, UINT64_MAX };

	os_call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)lim, 0, 0);
	return size <= lim[0]; /* more would raise SIGXFSZ */
}

/* Room in the file for the first nrows. Others may do the same. */
static bool grow(struct runtable *t, int fd, uint32_t nrows)
{
	uint32_t room = atomic_load_acquire(&t->room);

	if (nrows <= room)
		return true;
	nrows = (uint32_t)align_up(nrows, RUNTABLE_STEP);
	if (nrows > RUNTABLE_ROWS || fd < 0 || !within_limit(bytes_of(nrows)) ||
	    os_call(SYS_fallocate, fd, 0, (long)bytes_of(room),
		    (long)(bytes_of(nrows) - bytes_of(room)), 0, 0) != 0)
		return false;
	while (room < nrows && !atomic_cas_acq_rel(&t->room, &room, nrows))
		;
	return true;
}

static bool make_room(struct runtable *t, uint32_t nrows)
{
	int fd;
	bool ok;

	if (nrows <= atomic_load_acquire(&t->room))
		return true;
	fd = os_open(opt_get()->run, O_RDWR | O_NOFOLLOW, 0);
	ok = grow(t, fd, nrows);
	if (fd >= 0)
		os_close(fd);
	return ok;
}

static struct runtable *map_table(const char *path, uint32_t *out_nrows)
{
	bool limited = os_address_space_limit() != SIZE_MAX;
	uint32_t nrows = limited ? LIMITED_ROWS : RUNTABLE_ROWS;
	int fd = os_open(path, O_RDWR | O_NOFOLLOW, 0);
	struct runtable *t = NULL;
	uint32_t room;

	if (fd < 0)
		return NULL;
	if (os_file_size(fd) >= (long)bytes_of(RUNTABLE_STEP))
		t = os_map_file(fd, bytes_of(nrows), true);
	room = t ? atomic_load_acquire(&t->room) : 0; /* before the size: both rise */
	if (t && (t->magic != RUNTABLE_MAGIC || t->version != RUNTABLE_VERSION ||
		  os_file_size(fd) < (long)bytes_of(room))) {
		os_unmap(t, align_up(bytes_of(nrows), OS_PAGE));
		t = NULL;
	}
	if (t) {
		grow(t, fd, atomic_load_acquire(&t->claimed) + AHEAD);
		meta_register_range((uintptr_t)t, align_up(bytes_of(nrows), OS_PAGE));
	}
	os_close(fd);
	*out_nrows = nrows;
	return t;
}

static uint32_t claimed(const struct runtable *t)
{
	uint32_t n = atomic_load_acquire(&t->claimed);
	uint32_t room = atomic_load_acquire(&t->room);

	n = n < room ? n : room;
	return n < control.nrows ? n : control.nrows;
}

/* The program that ran under this pid before has been replaced by exec. */
static void close_earlier_rows(struct runtable *t, uint32_t before, int pid)
{
	for (uint32_t i = 0; i < before; i++)
		if (atomic_load_relaxed(&t->pids[i]) == pid &&
		    atomic_load_acquire(&t->rows[i].state) == RUNROW_CLAIMED)
			atomic_store_release(&t->rows[i].state, (uint32_t)RUNROW_EXECED);
}

/* The next free one, for that process, or NULL. */
static struct runtable_row *next_row(struct runtable *t, int pid)
{
	uint32_t i = atomic_fetch_add_acq_rel(&t->claimed, 1u);

	if (i >= control.nrows || !make_room(t, i + 1)) {
		atomic_add_relaxed(&t->lost, 1u);
		return NULL;
	}
	t->rows[i].pid = pid;
	atomic_store_relaxed(&t->pids[i], pid);
	return &t->rows[i];
}

/* The one that whoever started this process has made for it. */
static struct runtable_row *made_for(struct runtable *t, int pid)
{
	uint32_t n = claimed(t);

	for (uint32_t i = 0; i < n; i++)
		if (atomic_load_relaxed(&t->pids[i]) == pid &&
		    atomic_load_acquire(&t->rows[i].state) == RUNROW_SPAWNED)
			return &t->rows[i];
	return NULL;
}

static void claim(uint32_t forked)
{
	struct runtable *t = control.table;
	struct runtable_row *row = NULL;

	control.row = NULL;
	if (!t)
		return;
	if (!forked)
		row = made_for(t, os_getpid());
	if (!row)
		row = next_row(t, os_getpid());
	if (!row)
		return;
	row->ppid = os_getppid();
	row->forked = forked;
	os_program(row->exe, sizeof(row->exe));
	atomic_store_release(&row->state, (uint32_t)RUNROW_CLAIMED);
	if (!forked)
		close_earlier_rows(t, (uint32_t)(row - t->rows), row->pid);
	control.row = row;
}

void runtable_attach(void)
{
	if (opt_get()->run[0] == '\0')
		return;
	control.table = map_table(opt_get()->run, &control.nrows);
	claim(0);
}

/* Should the fork fail, or its child be killed at once, one too many is counted: the tool
 * then waits a little in vain. */
void runtable_fork_prepare(void)
{
	if (control.table)
		atomic_add_relaxed(&control.table->forking, 1);
}

void runtable_fork_child(void)
{
	struct runtable *t = control.table;

	claim(1);
	if (t)
		atomic_add_release(&t->forking, -1);
}

struct runtable_row *runtable_note_spawn(int pid, const char *program)
{
	struct runtable_row *row = NULL;
	size_t n = 0;

	if (control.table)
		row = next_row(control.table, pid ? pid : os_getpid());
	if (!row)
		return NULL;
	row->ppid = pid ? os_getpid() : os_getppid();
	for (; program[n] && n < sizeof(row->exe) - 1; n++)
		row->exe[n] = program[n];
	row->exe[n] = '\0';
	atomic_store_release(&row->state, (uint32_t)RUNROW_SPAWNED);
	return row;
}

void runtable_forget_spawn(struct runtable_row *row)
{
	uint32_t spawned = RUNROW_SPAWNED;

	if (row)
		atomic_cas_acq_rel(&row->state, &spawned, (uint32_t)RUNROW_FREE);
}

struct runtable_row *runtable_row(void)
{
	return control.row;
}

int runtable_is_gate(void)
{
	return control.table && control.table->is_gate;
}

int runtable_is_out_of_reach(void)
{
	return !control.table && opt_get()->run[0] != '\0';
}

bool runtable_kept_prefix(char *buf, size_t size)
{
	return control.row && fmt_string(buf, size, "%s.%u", opt_get()->run,
					 runtable_row_index()) < size;
}

uint32_t runtable_row_index(void)
{
	return control.row ? (uint32_t)(control.row - control.table->rows) : 0;
}

struct runtable_row *runtable_adopt(uint32_t index, int pid)
{
	struct runtable *t = NULL;

	if (opt_get()->run[0])
		t = map_table(opt_get()->run, &control.nrows);
	if (!t || index >= claimed(t) || t->rows[index].pid != pid)
		return NULL;
	return &t->rows[index];
}
