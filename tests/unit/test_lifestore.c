/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of lifetimes in the file that outlives the process: what was filled is there
 * after a kill, what was given back is used again, also in a forked child, whose own file
 * has them at the same addresses; lists that lead astray are refused. */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/base/lock.h"
#include "profiler/sample/lifestore.h"
#include "profiler/site/site.h"
#include "tests/unit/child.h"

#define MANY  (20 * LIFE_BLOCK_ENTRIES)
#define POOLS 3

static char path[512], child_path[512];
static struct life_pool pools[POOLS];
static struct life_entry *entries[MANY];

static struct store_owner owner_of(const char *file)
{
	return (struct store_owner){ .path = file, .pid = getpid(), .name = "victim" };
}

static uint64_t key_of(size_t i)
{
	return LIFE_KEY(i + 1, LIFETIME_LIVE, i % 250);
}

static struct lifetime_sum sum_of(size_t i)
{
	return (struct lifetime_sum){
		.objects = i, .bytes = 2 * i, .slack = 3 * i, .total_ns = i << 40
	};
}

static void fill(size_t i)
{
	struct lifetime_sum sum = sum_of(i);

	entries[i] = life_get(&pools[i % POOLS], (unsigned)(i % POOLS));
	require(entries[i] != NULL);
	life_fill(entries[i], key_of(i), &sum);
	require(life_pool_of(entries[i]) == i % POOLS);
}

static void put(size_t i)
{
	life_put(&pools[i % POOLS], entries[i]);
}

struct seen {
	uint8_t times[MANY];
	size_t count;
};

static bool see(uint64_t key, const struct lifetime_sum *sum, void *arg)
{
	struct seen *seen = arg;
	size_t i = (size_t)(key >> 16) - 1;
	struct lifetime_sum want = sum_of(i);

	require(i < MANY && key == key_of(i) && memcmp(sum, &want, sizeof(want)) == 0);
	seen->times[i]++;
	seen->count++;
	return true;
}

/* The file has those from first on by so many, and no others. */
static void require_file(const char *file, size_t first, size_t step)
{
	static struct seen seen;
	size_t size, count = 0;
	struct store_header *h = store_load(file, &size);

	memset(&seen, 0, sizeof(seen));
	require(h && life_each(h, see, &seen));
	for (size_t i = first; i < MANY; i += step, count++)
		require(seen.times[i] == 1);
	require(seen.count == count);
}

static void write_and_die(void)
{
	struct store_owner own = owner_of(path);

	require(site_store(&own, 1));
	for (size_t i = 0; i < MANY; i++)
		fill(i);
	for (size_t i = 0; i < MANY; i += 2)
		put(i);
	raise(SIGKILL);
}

static void check_odd(void)
{
	require_file(path, 1, 2);
}

static void test_killed(void **state)
{
	(void)state;
	assert_int_equal(in_child(write_and_die), SIGKILL);
	assert_int_equal(in_child(check_odd), 0);
	unlink(path);
}

static uint64_t list_length(const char *file)
{
	size_t size;
	struct store_header *h = store_load(file, &size);
	uint64_t n = 0;

	require(h != NULL);
	for (uint64_t at = h->lists[STORE_LIVES].head; at; n++)
		memcpy(&at, (const char *)h + at, sizeof(at));
	return n;
}

/* What is given back is enough for as many again. */
static void use_again(void)
{
	struct store_owner own = owner_of(path);
	uint64_t blocks;

	require(site_store(&own, 1));
	for (size_t i = 0; i < MANY; i++)
		fill(i);
	blocks = list_length(path);
	for (int times = 0; times < 10; times++) {
		for (size_t i = 0; i < MANY; i++)
			put(i);
		for (size_t i = 0; i < MANY; i++)
			fill(i);
	}
	require(list_length(path) == blocks);
	require(blocks >= MANY / LIFE_BLOCK_ENTRIES &&
		blocks <= MANY / LIFE_BLOCK_ENTRIES + POOLS);
	require_file(path, 0, 1);
}

static void test_used_again(void **state)
{
	(void)state;
	assert_int_equal(in_child(use_again), 0);
	unlink(path);
}

/* The parent changes all while the child fills what it knows: none of it gets there. */
static void child_part(void)
{
	struct store_owner own = owner_of(child_path);
	uint64_t blocks = list_length(path);

	site_store_move(&own);
	for (size_t i = 1; i < MANY; i += 2) {
		struct lifetime_sum sum = sum_of(i);

		life_fill(entries[i], key_of(i), &sum);
	}
	for (unsigned i = 0; i < POOLS; i++)
		life_find_free(&pools[i], i);
	for (size_t i = 1; i < MANY; i += 2)
		require(life_pool_of(entries[i]) == i % POOLS);
	require_file(child_path, 1, 2);
	for (size_t i = 0; i < MANY; i += 2)
		fill(i);
	require_file(child_path, 0, 1);
	require(list_length(child_path) == blocks);
	raise(SIGKILL);
}

static void fork_and_die(void)
{
	struct store_owner own = owner_of(path);
	int ready[2], status;
	char byte = 0;
	pid_t pid;

	require(site_store(&own, 1) && pipe(ready) == 0);
	for (size_t i = 0; i < MANY; i++)
		fill(i);
	for (size_t i = 0; i < MANY; i += 2)
		put(i);
	site_fork_prepare();
	pid = fork();
	site_fork_done(pid == 0);
	if (pid == 0) {
		lock_forget_held();
		require(read(ready[0], &byte, 1) == 1);
		child_part();
	}
	for (size_t i = 1; i < MANY; i += 2)
		put(i);
	require(write(ready[1], &byte, 1) == 1);
	require(waitpid(pid, &status, 0) == pid && status == SIGKILL);
	require_file(path, MANY, 1);
	raise(SIGKILL);
}

static void test_forked(void **state)
{
	(void)state;
	assert_int_equal(in_child(fork_and_die), SIGKILL);
	unlink(path);
	unlink(child_path);
}

static void without_file(void)
{
	require(life_get(&pools[0], 0) == NULL);
	require(life_get(&pools[0], 0) == NULL);
}

static void test_no_file(void **state)
{
	(void)state;
	assert_int_equal(in_child(without_file), 0);
}

static bool count_one(uint64_t key, const struct lifetime_sum *sum, void *arg)
{
	(void)key;
	(void)sum;
	++*(size_t *)arg;
	return true;
}

static void refuse_lists(void)
{
	size_t size, n = 0;
	struct store_header *h = store_load(path, &size);
	uint64_t block, wrong_bytes = 16;

	require(h && h->lists[STORE_LIVES].head != 0);
	block = h->lists[STORE_LIVES].head;
	for (int i = 0; i < 3; i++) {
		const uint64_t wrong[] = { size - 8, block + 1, block };
		int fd = open(path, O_RDWR);

		require(fd >= 0 && pwrite(fd, &wrong[i], 8, (off_t)block) == 8);
		close(fd);
		require(store_load(path, &size) == NULL);
	}
	h->lists[STORE_LIVES].bytes = wrong_bytes;
	require(!life_each(h, count_one, &n) && n == 0);
}

static void test_damaged(void **state)
{
	(void)state;
	assert_int_equal(in_child(write_and_die), SIGKILL);
	assert_int_equal(in_child(refuse_lists), 0);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_killed),	cmocka_unit_test(test_used_again),
		cmocka_unit_test(test_forked),	cmocka_unit_test(test_no_file),
		cmocka_unit_test(test_damaged),
	};
	char dir[] = "/tmp/seep-lives.XXXXXX";
	int failed;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/one", dir);
	snprintf(child_path, sizeof(child_path), "%s/two", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return failed;
}
