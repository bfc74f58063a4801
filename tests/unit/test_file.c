/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of profiles appear whole, with the right mode, or not at all: links, directories
 * in the way, limits and full disks, seen through the writer of profiles.
 */
#include "tests/unit/outdir.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "profiler/pprof/pprof.h"
#include "profiler/stack/module.h"

#define SKIPPED 77 /* exit status of a child that could not set its stage */

static struct pprof *begin(void)
{
	struct pprof *p;

	assert_int_equal(pprof_begin(&p, &pprof_kind_heap, at.prefix, 524288, NULL), 0);
	assert_non_null(p);
	return p;
}

static void check_gzip(const char *path)
{
	FILE *f = fopen(path, "rb");

	assert_non_null(f);
	assert_int_equal(fgetc(f), 0x1f);
	assert_int_equal(fgetc(f), 0x8b);
	fclose(f);
}

static void test_modes(void **state)
{
	mode_t old = umask(0);
	struct pprof *w = begin();
	char temporary[600];
	struct stat st;

	(void)state;
	assert_int_equal(list_dir(temporary, sizeof(temporary), false), 1);
	assert_string_not_equal(temporary, path_of("heap"));
	assert_int_equal(stat(temporary, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(pprof_finish(w), 0);
	umask(old);
	assert_int_equal(stat(path_of("heap"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(list_dir(NULL, 0, false), 1);
}

static void test_temporary(void **state)
{
	char temporary[600];
	struct pprof *w;
	FILE *f;

	(void)state;
	pprof_abandon(begin());
	assert_int_equal(list_dir(NULL, 0, false), 0);
	/* One that a killed process left behind is no obstacle. */
	w = begin();
	assert_int_equal(list_dir(temporary, sizeof(temporary), false), 1);
	pprof_abandon(w);
	f = fopen(temporary, "w");
	fputs("old", f);
	fclose(f);
	assert_int_equal(pprof_finish(begin()), 0);
	assert_int_equal(list_dir(NULL, 0, false), 1);
	check_gzip(path_of("heap"));
	/* Writing again replaces the file. */
	assert_int_equal(pprof_finish(begin()), 0);
	assert_int_equal(list_dir(NULL, 0, false), 1);
}

static void test_symlink(void **state)
{
	struct pprof *w;
	struct stat st;
	char target[400];

	(void)state;
	snprintf(target, sizeof(target), "%s/target", at.dir);
	assert_int_equal(symlink(target, path_of("heap")), 0);
	assert_int_equal(pprof_begin(&w, &pprof_kind_heap, at.prefix, 1, NULL), -ELOOP);
	assert_null(w);
	assert_int_equal(list_dir(NULL, 0, false), 1);
	/* Also when it appears while we write. */
	unlink(path_of("heap"));
	w = begin();
	assert_int_equal(symlink(target, path_of("heap")), 0);
	assert_int_equal(pprof_finish(w), -ELOOP);
	assert_int_equal(list_dir(NULL, 0, false), 1);
	assert_int_equal(lstat(path_of("heap"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stat(target, &st), -1);
}

static void test_bad_paths(void **state)
{
	struct pprof *w = (struct pprof *)&w;
	char prefix[700], *longer = malloc(70000);

	(void)state;
	snprintf(prefix, sizeof(prefix), "%s/none/out", at.dir);
	assert_int_equal(pprof_begin(&w, &pprof_kind_heap, prefix, 1, NULL), -ENOENT);
	assert_null(w);
	memset(longer, 'a', 69999);
	longer[69999] = '\0';
	assert_int_equal(pprof_begin(&w, &pprof_kind_heap, longer, 1, NULL),
			 -ENAMETOOLONG);
	free(longer);
	/* A directory in the way is found at the end only. */
	assert_int_equal(mkdir(path_of("heap"), 0700), 0);
	assert_int_equal(pprof_finish(begin()), -EISDIR);
	assert_int_equal(rmdir(path_of("heap")), 0);
	assert_int_equal(list_dir(NULL, 0, false), 0);
}

/* Adds samples that deflate cannot make small. */
static int write_noise(int count)
{
	struct pprof *w;
	int error = pprof_begin(&w, &pprof_kind_heap, at.prefix, 1, NULL);
	uint64_t seed = 7;

	if (error)
		return error;
	for (int i = 0; i < count; i++) {
		uintptr_t pcs[16];
		int64_t values[4];

		for (size_t k = 0; k < 16; k++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			pcs[k] = seed;
			values[k % 4] = (int64_t)(seed >> 1);
		}
		pprof_sample(w, pcs, 16, false, values, NULL, 0);
	}
	return pprof_finish(w);
}

/* Runs fn in a child. Its exit status; a child that a signal killed fails the test. */
static int in_child(int (*fn)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(fn());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int limited(void)
{
	struct rlimit lim = { 64 * 1024, 64 * 1024 };

	signal(SIGXFSZ, SIG_DFL);
	if (setrlimit(RLIMIT_FSIZE, &lim) != 0)
		return SKIPPED;
	if (write_noise(2000) != -EFBIG)
		return 1;
	return list_dir(NULL, 0, false) == 0 ? 0 : 2;
}

static void test_size_limit(void **state)
{
	(void)state;
	assert_int_equal(in_child(limited), 0);
	assert_int_equal(write_noise(2000), 0); /* the same without the limit */
}

static bool write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	bool done = f && fputs(text, f) >= 0;

	return f && fclose(f) == 0 && done;
}

/* A name space for mounts; for somebody who is not root, where he is. */
static bool enter_name_space(void)
{
	char users[40], groups[40];

	if (unshare(CLONE_NEWNS) == 0)
		return true;
	snprintf(users, sizeof(users), "0 %u 1", geteuid());
	snprintf(groups, sizeof(groups), "0 %u 1", getegid());
	return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
	       write_text("/proc/self/setgroups", "deny") &&
	       write_text("/proc/self/uid_map", users) &&
	       write_text("/proc/self/gid_map", groups);
}

/* A file system of 64 KiB, seen by this process alone. */
static int on_full_disk(void)
{
	if (!enter_name_space())
		return SKIPPED;
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("none", at.dir, "tmpfs", 0, "size=64k") != 0)
		return SKIPPED;
	if (write_noise(2000) != -ENOSPC)
		return 1;
	if (list_dir(NULL, 0, false) != 0)
		return 2;
	return write_noise(10) == 0 ? 0 : 3;
}

static void test_full_disk(void **state)
{
	int status = in_child(on_full_disk);

	(void)state;
	if (status == SKIPPED)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_DIR(test_modes),	IN_DIR(test_temporary),	 IN_DIR(test_symlink),
		IN_DIR(test_bad_paths), IN_DIR(test_size_limit), IN_DIR(test_full_disk),
	};

	module_refresh();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
