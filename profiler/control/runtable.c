/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtable: the library's side of the tool's table, see runtable.h.
 */
#include "profiler/control/runtable.h"

#include <fcntl.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"

static struct {
	struct runtable *table; /* NULL: none */
	struct runtable_row *row;
} control;

static struct runtable *map_table(const char *path)
{
	int fd = os_open(path, O_RDWR | O_NOFOLLOW, 0);
	struct runtable *t = NULL;

	if (fd < 0)
		return NULL;
	if (os_file_size(fd) >= (long)sizeof(*t))
		t = os_map_file(fd, sizeof(*t), true);
	os_close(fd);
	if (t && (t->magic != RUNTABLE_MAGIC || t->version != RUNTABLE_VERSION)) {
		os_unmap(t, sizeof(*t));
		return NULL;
	}
	if (t)
		meta_register_range((uintptr_t)t, align_up(sizeof(*t), OS_PAGE));
	return t;
}

/* The program that ran under this pid before has been replaced by exec. */
static void close_earlier_rows(struct runtable *t, uint32_t before, int pid)
{
	for (uint32_t i = 0; i < before && i < RUNTABLE_ROWS; i++)
		if (t->rows[i].pid == pid &&
		    atomic_load_acquire(&t->rows[i].state) == RUNROW_CLAIMED)
			atomic_store_release(&t->rows[i].state, (uint32_t)RUNROW_EXECED);
}

/* The next free one, or NULL. */
static struct runtable_row *next_row(struct runtable *t)
{
	uint32_t i = atomic_fetch_add_acq_rel(&t->claimed, 1u);

	return i < RUNTABLE_ROWS ? &t->rows[i] : NULL;
}

/* The one that whoever started this process has made for it. */
static struct runtable_row *made_for(struct runtable *t, int pid)
{
	uint32_t n = atomic_load_acquire(&t->claimed);

	for (uint32_t i = 0; i < n && i < RUNTABLE_ROWS; i++)
		if (t->rows[i].pid == pid &&
		    atomic_load_acquire(&t->rows[i].state) == RUNROW_SPAWNED)
			return &t->rows[i];
	return NULL;
}

static void claim(uint32_t forked)
{
	struct runtable *t = control.table;
	struct runtable_row *row = NULL;
	long n;

	control.row = NULL;
	if (!t)
		return;
	if (!forked)
		row = made_for(t, os_getpid());
	if (!row)
		row = next_row(t);
	if (!row)
		return;
	row->pid = os_getpid();
	row->ppid = os_getppid();
	row->forked = forked;
	n = os_readlink("/proc/thread-self/exe", row->exe, sizeof(row->exe) - 1);
	row->exe[n > 0 ? n : 0] = '\0';
	atomic_store_release(&row->state, (uint32_t)RUNROW_CLAIMED);
	if (!forked)
		close_earlier_rows(t, (uint32_t)(row - t->rows), row->pid);
	control.row = row;
}

void runtable_attach(void)
{
	if (opt_get()->run[0] == '\0')
		return;
	control.table = map_table(opt_get()->run);
	claim(0);
}

void runtable_fork_child(void)
{
	claim(1);
}

struct runtable_row *runtable_note_spawn(int pid, const char *program)
{
	struct runtable_row *row = control.table ? next_row(control.table) : NULL;
	size_t n = 0;

	if (!row)
		return NULL;
	row->pid = pid ? pid : os_getpid();
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

uint32_t runtable_row_index(void)
{
	return control.row ? (uint32_t)(control.row - control.table->rows) : 0;
}

struct runtable_row *runtable_adopt(uint32_t index, int pid)
{
	struct runtable *t = opt_get()->run[0] ? map_table(opt_get()->run) : NULL;

	if (!t || index >= RUNTABLE_ROWS || t->rows[index].pid != pid)
		return NULL;
	return &t->rows[index];
}
