/* SPDX-License-Identifier: Apache-2.0 */
/* The file that outlives the process: what was counted is in it, also for forked children
 * and past its first size; a damaged one is refused or read without harm. */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/base/lock.h"
#include "profiler/site/share.h"
#include "profiler/site/site.h"
#include "profiler/site/store.h"
#include "profiler/stack/thread.h"
#include "tests/unit/child.h"

#define DEPTH	6
#define STACKS	60000 /* more than the first region holds */
#define MUTANTS 300
#define SHARED	200 /* sites that several threads count at */
#define ROUNDS	50
#define BESIDE	4 /* threads */

static char path[512], child_path[512];

/* A stack for each number, with shared outer frames. */
static uint32_t site_of(uint32_t number)
{
	struct frame frames[DEPTH];

	for (int i = 0; i < DEPTH; i++) {
		frames[i].pc = 0x10000 + (uintptr_t)(number % 30);
		number /= 30;
	}
	return site_intern(frames, DEPTH);
}

static void count(uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		struct site_counters *c = site_counters(site_of(i));

		assert_non_null(c);
		c->alloc_bytes += i;
		c->samples++;
	}
}

static bool add_up(uint32_t site, struct site_counters *c, void *arg)
{
	uint64_t *sums = arg;
	uintptr_t pcs[DEPTH + 1];

	sums[0] += c->samples;
	sums[1] += c->alloc_bytes;
	sums[2] += site_stack(site, pcs, DEPTH + 1) == DEPTH;
	return true;
}

static uint64_t sum_below(uint64_t n)
{
	return n * (n - 1) / 2;
}

static void check_file(const char *file, uint64_t samples, uint64_t bytes)
{
	uint64_t sums[3] = { 0 };
	size_t size;
	struct store_header *h = store_load(file, &size);

	require(h != NULL);
	require(h->lost == 0 && h->period == 1 && strcmp(h->name, "victim") == 0);
	require(site_adopt(h));
	site_each(add_up, sums);
	require(sums[0] == samples && sums[1] == bytes && sums[2] == samples);
}

static struct store_owner owner_of(const char *file)
{
	return (struct store_owner){ .path = file, .pid = getpid(), .name = "victim" };
}

static void write_and_die(void)
{
	struct store_owner own = owner_of(path);

	require(site_store(&own, 1));
	count(0, STACKS);
	raise(9);
}

static void check_whole(void)
{
	check_file(path, STACKS, sum_below(STACKS));
}

static void test_killed(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(in_child(write_and_die), 9);
	assert_int_equal(in_child(check_whole), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true((uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size);
	unlink(path);
}

/* As the library forks: the child counts in a file of its own, or without one. */
static pid_t fork_counting(const char *file)
{
	pid_t pid;

	site_fork_prepare();
	pid = fork();
	site_fork_done(pid == 0);
	if (pid == 0)
		lock_forget_held();
	if (pid == 0 && file) {
		struct store_owner own = owner_of(file);

		site_store_move(&own);
	}
	return pid;
}

static void fork_and_die(void)
{
	struct store_owner own = owner_of(path);
	pid_t pid;

	require(site_store(&own, 1));
	count(0, 1000);
	pid = fork_counting(child_path);
	if (pid == 0) {
		count(5000, 5100);
		raise(9);
	}
	count(1000, 2000);
	waitpid(pid, NULL, 0);
	raise(9);
}

static void check_parent(void)
{
	check_file(path, 2000, sum_below(2000));
}

static void check_child(void)
{
	check_file(child_path, 1100, sum_below(1000) + sum_below(5100) - sum_below(5000));
}

static void test_forked(void **state)
{
	(void)state;
	assert_int_equal(in_child(fork_and_die), 9);
	assert_int_equal(in_child(check_parent), 0);
	assert_int_equal(in_child(check_child), 0);
	unlink(path);
	unlink(child_path);
}

static void check_grown(void)
{
	check_file(child_path, 100, sum_below(5100) - sum_below(5000));
}

/* The file has grown and has its first chunks when the child moves: none of them is the
 * child's, which made nothing before. */
static void fork_before_growth(void)
{
	struct store_owner own = owner_of(path), childs = owner_of(child_path);
	struct module late = { .path = "/late", .end = 1, .id = 40 };
	int grown[2], status;
	char c = 0;
	pid_t pid;

	require(site_store(&own, 1) && pipe(grown) == 0);
	pid = fork_counting(NULL);
	if (pid == 0) {
		require(read(grown[0], &c, 1) == 1);
		site_store_move(&childs);
		count(5000, 5100);
		store_put_module(&late);
		pid = fork_counting(NULL);
		if (pid == 0)
			_exit(0);
		waitpid(pid, &status, 0);
		require(status == 0);
		raise(9);
	}
	count(0, 20000);
	store_put_module(&late);
	require(write(grown[1], &c, 1) == 1);
	waitpid(pid, NULL, 0);
	raise(9);
}

static void test_grown_meanwhile(void **state)
{
	(void)state;
	assert_int_equal(in_child(fork_before_growth), 9);
	assert_int_equal(in_child(check_grown), 0);
	unlink(path);
	unlink(child_path);
}

/* No room for what the child would move to: it leaves alone what is the parent's. */
static void fork_without_room(void)
{
	struct store_owner own = owner_of(path), childs = owner_of(child_path);
	const struct rlimit none = { 0, 0 };
	int status = -1;
	pid_t pid;

	require(site_store(&own, 1));
	count(0, 1000);
	pid = fork_counting(NULL);
	if (pid == 0) {
		require(setrlimit(RLIMIT_AS, &none) == 0);
		site_store_move(&childs);
		_exit(store_is_own() ? 1 : 0);
	}
	waitpid(pid, &status, 0);
	require(status == 0);
	count(1000, 2000);
	raise(9);
}

static void test_forked_without_room(void **state)
{
	(void)state;
	assert_int_equal(in_child(fork_without_room), 9);
	assert_int_equal(in_child(check_parent), 0);
	unlink(path);
	unlink(child_path);
}

/* ---- sites that made few ---- */

static void count_few(uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		struct site_few *f = site_few(site_of(i));

		require(f && !(f->now & FEW_MOVED));
		f->now += FEW_OBJECT + i;
	}
}

static bool add_objects(uint32_t site, struct site_counters *c, void *arg)
{
	uint64_t *sums = arg;

	(void)site;
	sums[0] += c->alloc_objects >> SITE_SHIFT;
	sums[1] += c->alloc_bytes;
	return true;
}

static void check_few(const char *file, uint64_t objects, uint64_t bytes)
{
	uint64_t sums[2] = { 0 };
	size_t size;
	struct store_header *h = store_load(file, &size);

	require(h != NULL && site_adopt(h));
	site_each(add_objects, sums);
	require(sums[0] == objects && sums[1] == bytes);
}

static void check_few_of_parent(void)
{
	check_few(path, 3100, sum_below(3000) + sum_below(100));
}

static void check_few_of_child(void)
{
	check_few(child_path, 3100, sum_below(3000) + sum_below(5100) - sum_below(5000));
}

/* The parent's larger counters take over while the child still has the parent's memory.
 */
static void fork_with_few(void)
{
	struct store_owner own = owner_of(path), childs = owner_of(child_path);
	int moved[2];
	char c = 0;
	pid_t pid;

	require(site_store(&own, 1) && pipe(moved) == 0);
	count_few(0, 3000);
	for (uint32_t i = 0; i < 3000; i += 3)
		require(site_counters(site_of(i)) != NULL);
	pid = fork_counting(NULL);
	if (pid == 0) {
		require(read(moved[0], &c, 1) == 1);
		site_store_move(&childs);
		count_few(5000, 5100);
		raise(9);
	}
	for (uint32_t i = 0; i < 3000; i++)
		require(site_counters(site_of(i)) != NULL);
	for (uint32_t i = 0; i < 100; i++) {
		struct site_counters *more = site_counters(site_of(i));

		more->alloc_objects += (uint64_t)1 << SITE_SHIFT;
		more->alloc_bytes += i;
	}
	require(write(moved[1], &c, 1) == 1);
	waitpid(pid, NULL, 0);
	raise(9);
}

static void test_few(void **state)
{
	(void)state;
	assert_int_equal(in_child(fork_with_few), 9);
	assert_int_equal(in_child(check_few_of_parent), 0);
	assert_int_equal(in_child(check_few_of_child), 0);
	unlink(path);
	unlink(child_path);
}

/* ---- shares ---- */

/* Each of them frees more at the site than it makes but for the first. */
static void *count_beside(void *arg)
{
	bool makes = *(const int *)arg == 0;

	thread_register(0, true);
	for (uint32_t i = 0; i < SHARED * ROUNDS; i++) {
		uint32_t site = site_of(i % SHARED);
		struct site_counters *c = share_counters(site_number(site));

		require(c && c != site_counters(site));
		c->samples++;
		c->alloc_bytes += makes ? 10 : 1;
		c->free_bytes += 2;
		((struct thread_info *)seep_tls.thread)->share->recorded++;
	}
	share_thread_end();
	thread_finished();
	return NULL;
}

static void run_beside(void)
{
	pthread_t threads[BESIDE];
	int numbers[BESIDE];

	for (int i = 0; i < BESIDE; i++) {
		numbers[i] = i;
		require(pthread_create(&threads[i], NULL, count_beside, &numbers[i]) ==
			0);
	}
	for (int i = 0; i < BESIDE; i++)
		pthread_join(threads[i], NULL);
}

static bool add_live(uint32_t site, struct site_counters *c, void *arg)
{
	uint64_t *sums = arg;

	(void)site;
	sums[0] += c->samples;
	sums[1] += c->alloc_bytes - c->free_bytes;
	return true;
}

/* Times that all threads ran. The first makes 8 more than it frees, the others 1 less. */
static void require_beside(uint64_t times, uint64_t alone)
{
	const uint64_t each = SHARED * ROUNDS;
	uint64_t sums[2] = { 0 };

	site_each(add_live, sums);
	require(sums[0] == times * BESIDE * each + alone);
	require(sums[1] == times * (8 - (BESIDE - 1)) * each + sum_below(alone));
}

static void share_and_die(void)
{
	struct store_owner own = owner_of(path);
	pid_t pid;

	require(site_store(&own, 1));
	count(0, SHARED);
	run_beside();
	run_beside(); /* in the shares of those before */
	require_beside(2, SHARED);
	pid = fork_counting(child_path);
	if (pid == 0) {
		require_beside(2, SHARED);
		run_beside();
		require_beside(3, SHARED);
		raise(9);
	}
	run_beside();
	run_beside();
	require_beside(4, SHARED);
	waitpid(pid, NULL, 0);
	raise(9);
}

static void adopt(const char *file)
{
	size_t size;
	struct store_header *h = store_load(file, &size);

	require(h && site_adopt(h));
}

static void check_shares(void)
{
	adopt(path);
	require_beside(4, SHARED);
}

static void check_child_shares(void)
{
	adopt(child_path);
	require_beside(3, SHARED);
}

/* The same where there is no file. */
static void share_in_memory(void)
{
	pid_t pid;
	int status;

	count(0, SHARED);
	run_beside();
	pid = fork_counting(NULL);
	run_beside();
	require_beside(2, SHARED);
	if (pid == 0)
		_exit(0);
	waitpid(pid, &status, 0);
	require(status == 0);
}

/* More threads in all than there are shares: one that ended has left its own. */
static void share_again(void)
{
	uint64_t times = SHARES / BESIDE + 1;

	count(0, SHARED);
	for (uint64_t i = 0; i < times; i++)
		run_beside();
	require_beside(times, SHARED);
	require(share_recorded() == times * BESIDE * SHARED * ROUNDS);
}

static void *own_share(void *arg)
{
	struct thread_info *t = thread_register(0, true);

	(void)arg;
	share_make(0);
	return t->share;
}

/* In a forked child the thread that is left keeps its share to itself. */
static void share_in_child(void)
{
	void *own = own_share(NULL), *other = NULL;
	pthread_t t;
	int status;
	pid_t pid;

	require(own != NULL);
	pid = fork_counting(NULL);
	require(pthread_create(&t, NULL, own_share, NULL) == 0);
	pthread_join(t, &other);
	require(other && other != own);
	if (pid == 0)
		_exit(0);
	waitpid(pid, &status, 0);
	require(status == 0);
}

static void test_shares(void **state)
{
	(void)state;
	assert_int_equal(in_child(share_and_die), 9);
	assert_int_equal(in_child(check_shares), 0);
	assert_int_equal(in_child(check_child_shares), 0);
	assert_int_equal(in_child(share_in_memory), 0);
	assert_int_equal(in_child(share_again), 0);
	assert_int_equal(in_child(share_in_child), 0);
	unlink(path);
	unlink(child_path);
}

/* A list of blocks that leads out of the file, or round, is refused. */
static void refuse_lists(void)
{
	size_t size;
	struct store_header *h;
	uint64_t block;

	require((h = store_load(path, &size)) != NULL);
	require(h->lists[STORE_SHARES].head != 0);
	block = h->lists[STORE_SHARES].head;
	for (int i = 0; i < 3; i++) {
		int fd = open(path, O_RDWR);
		const uint64_t wrong[] = { size - 8, block + 1, block };

		require(fd >= 0);
		require(pwrite(fd, &wrong[i], 8, (off_t)block) == 8);
		close(fd);
		require(store_load(path, &size) == NULL);
	}
}

static void share_a_little(void)
{
	struct store_owner own = owner_of(path);

	require(site_store(&own, 1));
	count(0, SHARED);
	count_beside(&(int){ 0 });
	raise(9);
}

static void test_damaged_shares(void **state)
{
	(void)state;
	assert_int_equal(in_child(share_a_little), 9);
	assert_int_equal(in_child(refuse_lists), 0);
	unlink(path);
}

static struct site_counters part(uint64_t live, uint64_t peak, uint64_t number)
{
	return (struct site_counters){ .alloc_bytes = live + 100,
				       .free_bytes = 100,
				       .peak_bytes = peak,
				       .peak_number = number };
}

/* What a part that has not met the latest peak held then is what it holds now. */
static void test_peaks_of_parts(void **state)
{
	struct site_counters sum = part(7, 3, 4), other = part(20, 11, 9);
	struct site_counters behind = part(5, 1000, 8);

	(void)state;
	share_add(&sum, &other);
	assert_int_equal(sum.peak_number, 9);
	assert_int_equal(sum.peak_bytes, 7 + 11);
	share_add(&sum, &behind);
	assert_int_equal(sum.peak_bytes, 7 + 11 + 5);
	assert_int_equal(sum.alloc_bytes - sum.free_bytes, 7 + 20 + 5);
	other = part((uint64_t)-4, (uint64_t)-3, 9);
	share_add(&sum, &other);
	assert_int_equal(sum.peak_bytes, 7 + 11 + 5 - 3);
}

/* Without room for the file, sites work as before. */
static void limited(void)
{
	const struct rlimit lim = { 100000, 100000 };
	struct store_owner own = owner_of(path);
	uint64_t sums[3] = { 0 };

	setrlimit(RLIMIT_FSIZE, &lim);
	require(!site_store(&own, 1));
	require(access(path, F_OK) != 0);
	count(0, 1000);
	site_each(add_up, sums);
	require(sums[0] == 1000);
}

static void outgrown(void)
{
	const struct rlimit lim = { 3 << 20, 3 << 20 };
	struct store_owner own = owner_of(path);
	uint64_t sums[3] = { 0 };

	setrlimit(RLIMIT_FSIZE, &lim);
	require(site_store(&own, 1));
	count(0, STACKS);
	site_each(add_up, sums);
	require(sums[0] == STACKS && sums[1] == sum_below(STACKS));
	raise(9);
}

/* What had room is read; the rest is known to be missing. */
static void check_outgrown(void)
{
	uint64_t sums[3] = { 0 };
	size_t size;
	struct store_header *h = store_load(path, &size);

	require(h && h->lost > 0 && site_adopt(h));
	site_each(add_up, sums);
	require(sums[0] > 1000 && sums[0] < STACKS);
}

static void test_no_room(void **state)
{
	(void)state;
	assert_int_equal(in_child(limited), 0);
	assert_int_equal(in_child(outgrown), 9);
	assert_int_equal(in_child(check_outgrown), 0);
	unlink(path);
}

static void write_few(void)
{
	struct store_owner own = owner_of(path);

	require(site_store(&own, 1));
	count(0, 500);
	raise(9);
}

static void read_anything(void)
{
	uint64_t sums[3] = { 0 };
	size_t size;
	struct store_header *h = store_load(path, &size);

	if (h && site_adopt(h))
		site_each(add_up, sums);
}

static void test_damaged(void **state)
{
	struct stat st;
	unsigned seed = 4711;
	char *file;
	int fd;

	(void)state;
	assert_int_equal(in_child(write_few), 9);
	fd = open(path, O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	file = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (int i = 0; i < MUTANTS; i++) {
		size_t at;
		char old;

		seed = seed * 1103515245u + 12345u;
		/* Half of them in the fixed fields, where it hurts. */
		at = i % 2 ? seed % 128 : seed % (size_t)st.st_size;
		old = file[at];
		file[at] = (char)(seed >> 16);
		assert_int_equal(in_child(read_anything), 0);
		file[at] = old;
	}
	munmap(file, (size_t)st.st_size);
	for (off_t size = st.st_size; size > 0; size = size * 2 / 3) {
		assert_int_equal(ftruncate(fd, size), 0);
		assert_int_equal(in_child(read_anything), 0);
	}
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_forked),
		cmocka_unit_test(test_grown_meanwhile),
		cmocka_unit_test(test_forked_without_room),
		cmocka_unit_test(test_few),
		cmocka_unit_test(test_shares),
		cmocka_unit_test(test_damaged_shares),
		cmocka_unit_test(test_peaks_of_parts),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_damaged),
	};
	char dir[] = "/tmp/seep-store.XXXXXX";
	int failed;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/one", dir);
	snprintf(child_path, sizeof(child_path), "%s/two", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return failed;
}
