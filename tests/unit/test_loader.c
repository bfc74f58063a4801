/* SPDX-License-Identifier: Apache-2.0 */
/* A child that inherits the loader's lock held must see it, and never wait for it; and
 * may use it where the holder was a reader of ours. */
#include "tests/unit/cm.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "profiler/stack/loader.h"

static int entered[2], leave[2];

static int stay(struct dl_phdr_info *info, size_t size, void *arg)
{
	char c = 0;

	(void)info;
	(void)size;
	(void)arg;
	if (write(entered[1], &c, 1) != 1 || read(leave[0], &c, 1) != 1)
		_exit(99);
	return 1;
}

static void *hold(void *arg)
{
	dl_iterate_phdr(stay, arg);
	return arg;
}

static void *hold_as_reader(void *arg)
{
	loader_with_lock(stay, arg);
	return arg;
}

static int count(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)info;
	(void)size;
	++*(int *)arg;
	return 0;
}

/* 0: the lock is free there, 1: lost and nothing hangs. */
static int look_in_child(void)
{
	int status, n = 0;
	pid_t pid = fork();

	if (pid == 0) {
		loader_fork_child();
		if (loader_is_usable()) {
			loader_each(count, &n);
			_exit(n > 1 ? 0 : 4);
		}
		loader_each(count, &n);
		if (n != 0)
			_exit(2);
		loader_with_lock(count, &n);
		_exit(n == 1 ? 1 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status >> 8;
}

static void while_held(void *(*by)(void *), int in_child)
{
	pthread_t t;
	char c = 0;

	assert_int_equal(pipe(entered) | pipe(leave), 0);
	pthread_create(&t, NULL, by, NULL);
	assert_int_equal(read(entered[0], &c, 1), 1);
	assert_int_equal(look_in_child(), in_child);
	assert_int_equal(write(leave[1], &c, 1), 1);
	pthread_join(t, NULL);
	assert_int_equal(look_in_child(), 0);
}

static void test_lost(void **state)
{
	int n = 0;

	(void)state;
	loader_init();
	assert_int_equal(look_in_child(), 0);
	while_held(hold, 1);
	while_held(hold_as_reader, 0);
	assert_true(loader_is_usable());
	loader_each(count, &n);
	assert_true(n > 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_lost) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
