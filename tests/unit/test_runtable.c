/* SPDX-License-Identifier: Apache-2.0 */
/* The library's side of the tool's table: which row a process takes, which it closes, and
 * which tables it leaves alone. */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/base/opt.h"
#include "profiler/control/runtable.h"
#include "tests/unit/child.h"

#define OTHER_PID 0x3fffffff /* of no process */

static struct runtable *table; /* shared with the children that each test makes */
static char path[512];

static int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/seep-runtable-XXXXXX", tmp ? tmp : "/tmp");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, sizeof(*table)) != 0)
		return -1;
	table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (table == MAP_FAILED)
		return -1;
	table->magic = RUNTABLE_MAGIC;
	table->version = RUNTABLE_VERSION;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(table, sizeof(*table));
	return unlink(path);
}

/* Options are read once in a process. */
static void use_table(void)
{
	char options[600];

	snprintf(options, sizeof(options), "mode=exact:run=%s", path);
	opt_init(options);
}

static void attach(void)
{
	struct runtable_row *row;
	char exe[256];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	use_table();
	runtable_attach();
	row = runtable_row();
	require(row && row->state == RUNROW_CLAIMED && row->pid == getpid());
	require(row->ppid == getppid() && !row->forked);
	require(n > 0 && strncmp(row->exe, exe, (size_t)n) == 0);
	require(!runtable_is_out_of_reach() && !runtable_is_gate());
	require(runtable_adopt(runtable_row_index(), getpid()) != NULL);
	require(!runtable_adopt(runtable_row_index(), OTHER_PID));
	require(!runtable_adopt(RUNTABLE_ROWS, getpid()));
}

static void test_attach(void **state)
{
	(void)state;
	assert_int_equal(in_child(attach), 0);
	assert_int_equal(in_child(attach), 0);
	assert_int_equal(table->claimed, 2);
	assert_int_not_equal(table->rows[0].pid, table->rows[1].pid);
	assert_int_equal(table->rows[0].state, RUNROW_CLAIMED);
}

/* The program that took another's place goes on in the row that was made for it, and the
 * one before is closed; nobody else's row is. */
static void take_over(void)
{
	struct runtable_row *spawned;

	use_table();
	runtable_attach();
	spawned = runtable_note_spawn(0, "/bin/next");
	require(spawned && spawned->state == RUNROW_SPAWNED);
	require(spawned->pid == getpid() && strcmp(spawned->exe, "/bin/next") == 0);
	runtable_attach();
	require(runtable_row() != NULL && runtable_row_index() == 2);
	require(table->claimed == 3);
	require(strcmp(runtable_row()->exe, "/bin/next") != 0);
	require(table->rows[0].state == RUNROW_CLAIMED);
	require(table->rows[1].state == RUNROW_EXECED);
	require(table->rows[2].state == RUNROW_CLAIMED);
}

static void test_take_over(void **state)
{
	(void)state;
	table->claimed = 1;
	table->rows[0].pid = OTHER_PID;
	table->rows[0].state = RUNROW_CLAIMED;
	assert_int_equal(in_child(take_over), 0);
}

/* A row for what was not started after all is free again, but not one in use. */
static void forget(void)
{
	struct runtable_row *row = runtable_note_spawn(OTHER_PID, "next");

	use_table();
	require(row == NULL); /* no table yet */
	runtable_forget_spawn(row);
	runtable_attach();
	row = runtable_note_spawn(OTHER_PID, "next");
	require(row->pid == OTHER_PID && row->ppid == getpid());
	runtable_forget_spawn(row);
	require(row->state == RUNROW_FREE);
	row = runtable_note_spawn(OTHER_PID, "next");
	row->state = RUNROW_CLAIMED;
	runtable_forget_spawn(row);
	require(row->state == RUNROW_CLAIMED);
}

static void test_forget(void **state)
{
	(void)state;
	assert_int_equal(in_child(forget), 0);
}

/* A forked child has a row of its own, whatever is made for the program it will be. */
static void fork_child(void)
{
	int status;
	pid_t pid;

	use_table();
	runtable_attach();
	pid = fork();
	if (pid == 0) {
		runtable_note_spawn(0, "next");
		runtable_fork_child();
		require(runtable_row_index() == 2 && runtable_row()->forked);
		require(table->rows[1].state == RUNROW_SPAWNED);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	require(status == 0 && table->rows[0].state == RUNROW_CLAIMED);
}

static void test_fork_child(void **state)
{
	(void)state;
	assert_int_equal(in_child(fork_child), 0);
}

static void last_row(void)
{
	use_table();
	runtable_attach();
	require(runtable_row_index() == RUNTABLE_ROWS - 1);
	require(!runtable_note_spawn(OTHER_PID, "next"));
	runtable_fork_child();
	require(!runtable_row() && !runtable_is_out_of_reach());
}

/* Those that find no row are counted. */
static void test_full(void **state)
{
	(void)state;
	table->claimed = RUNTABLE_ROWS - 1;
	assert_int_equal(in_child(last_row), 0);
	assert_int_equal(table->claimed, RUNTABLE_ROWS + 2);
	assert_int_equal(table->rows[0].state, RUNROW_FREE);
}

static void refuse(void)
{
	use_table();
	runtable_attach();
	require(!runtable_row() && runtable_is_out_of_reach());
	require(!runtable_note_spawn(OTHER_PID, "next"));
	runtable_fork_child();
	require(!runtable_row());
}

static void test_others(void **state)
{
	(void)state;
	table->magic++;
	assert_int_equal(in_child(refuse), 0);
	table->magic--;
	table->version++;
	assert_int_equal(in_child(refuse), 0);
	table->version--;
	assert_int_equal(truncate(path, offsetof(struct runtable, rows)), 0);
	assert_int_equal(in_child(refuse), 0);
	assert_int_equal(truncate(path, sizeof(*table) / 2), 0);
	table->room = RUNTABLE_ROWS; /* longer than it is */
	assert_int_equal(in_child(refuse), 0);
	table->room = 0;
	assert_int_equal(truncate(path, sizeof(*table)), 0);
	assert_int_equal(in_child(attach), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_attach, setup, teardown),
		cmocka_unit_test_setup_teardown(test_take_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fork_child, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_others, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
