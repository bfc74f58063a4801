/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that takes memory away and moves pointers all the time, and loses nothing:
 * maps and unmaps, closes and opens pages (of the heap, too), opens and closes
 * libraries, makes children and threads. "N" on stdin is answered when each part of it
 * has turned N more times; at the end of stdin it checks what it holds, and ends.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE	4096
#define AREA	(16 * PAGE)
#define ENTRIES 4096
#define PARTS	6

static struct {
	unsigned long turns; /* atomic */
} parts[PARTS];
static int ends; /* atomic */
static uintptr_t *table[ENTRIES];

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static uintptr_t *make(uintptr_t value)
{
	uintptr_t *p = malloc(48);

	if (!p)
		die("malloc");
	p[0] = value;
	return p;
}

static void take(uintptr_t *p, uintptr_t value)
{
	if (p[0] != value) {
		fputs("an object has changed\n", stderr);
		_exit(1);
	}
	free(p);
}

/* Objects that only a mapping holds, which goes. */
static void map(unsigned long turn)
{
	uintptr_t **area = mmap(NULL, AREA, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t *held[16];

	if (area == MAP_FAILED)
		die("mmap");
	for (uintptr_t i = 0; i < 16; i++)
		area[i * PAGE / sizeof(*area)] = make(turn + i);
	for (uintptr_t i = 0; i < 16; i++)
		held[i] = area[i * PAGE / sizeof(*area)];
	munmap(area, AREA);
	for (uintptr_t i = 0; i < 16; i++)
		take(held[i], turn + i);
}

/* Pages of an object and of a mapping, closed for a moment. */
static void close_pages(unsigned long turn)
{
	static char *object, *area;

	if (!object) {
		object = aligned_alloc(PAGE, AREA);
		area = mmap(NULL, AREA, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	if (!object || area == MAP_FAILED)
		die("memory");
	for (int i = 0; i < 2; i++) {
		char *p = i ? object : area;

		memset(p, (int)turn, AREA);
		if (mprotect(p + PAGE, AREA - 2 * PAGE, PROT_NONE) != 0 ||
		    mprotect(p + PAGE, AREA - 2 * PAGE, PROT_READ | PROT_WRITE) != 0)
			die("mprotect");
		if (p[2 * PAGE] != (char)turn)
			_exit(1);
	}
	usleep(100); /* else no look would ever find them open */
}

static void open_library(unsigned long turn)
{
	static const char *const names[] = { "libBrokenLocale.so.1", "libanl.so.1",
					     "libutil.so.1" };
	void *handle = dlopen(names[turn % 3], RTLD_NOW);

	if (handle)
		dlclose(handle);
}

static void make_child(unsigned long turn)
{
	char *argv[] = { (char[]){ "true" }, NULL };
	int status = -1;
	pid_t pid;

	if (turn % 2) {
		if (posix_spawnp(&pid, "true", NULL, NULL, argv, NULL) != 0)
			die("posix_spawn");
	} else {
		pid = fork();
		if (pid == 0) {
			free(make(1));
			_exit(0);
		}
	}
	if (waitpid(pid, &status, 0) != pid || status != 0)
		die("waitpid");
}

static void *hold(void *arg)
{
	uintptr_t *volatile held = make((uintptr_t)arg);
	volatile char deep[3 * PAGE];

	deep[0] = 1;
	take(held, (uintptr_t)arg);
	return NULL;
}

static void make_threads(unsigned long turn)
{
	pthread_t threads[4];

	for (uintptr_t i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, hold, (void *)(turn + i)) != 0)
			die("pthread_create");
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/* Objects change places, are freed and made, grow and shrink. */
static void move(unsigned long turn)
{
	unsigned seed = (unsigned)turn;
	char *large = malloc(100000);

	for (int i = 0; i < 2000; i++) {
		size_t a = (size_t)rand_r(&seed) % ENTRIES,
		       b = (size_t)rand_r(&seed) % ENTRIES;
		uintptr_t *p = table[a];

		table[a] = table[b];
		table[b] = p;
		if (i % 4 == 0) {
			uintptr_t value = table[a][0];

			take(table[a], value);
			table[a] = make(value);
		}
	}
	for (size_t i = 0; i < 20; i++)
		large = realloc(large, 50000 + (turn + i * 7) % 11 * 100000);
	free(large);
}

static void (*const work[PARTS])(unsigned long turn) = { map,	       close_pages,
							 open_library, make_child,
							 make_threads, move };

static void *turn(void *arg)
{
	uintptr_t part = (uintptr_t)arg;

	for (unsigned long n = 0; !__atomic_load_n(&ends, __ATOMIC_ACQUIRE); n++) {
		work[part](n);
		__atomic_store_n(&parts[part].turns, n + 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void await(unsigned long more)
{
	for (int i = 0; i < PARTS; i++) {
		unsigned long n = __atomic_load_n(&parts[i].turns, __ATOMIC_ACQUIRE);

		while (__atomic_load_n(&parts[i].turns, __ATOMIC_ACQUIRE) - n < more)
			usleep(1000);
	}
}

int main(void)
{
	pthread_t threads[PARTS];
	char line[32];
	uintptr_t sum = 0;

	for (uintptr_t i = 0; i < ENTRIES; i++)
		table[i] = make(i);
	for (uintptr_t i = 0; i < PARTS; i++)
		if (pthread_create(&threads[i], NULL, turn, (void *)i) != 0)
			die("pthread_create");
	while (fgets(line, sizeof(line), stdin)) {
		await(strtoul(line, NULL, 10));
		puts("turned");
		fflush(stdout);
	}
	__atomic_store_n(&ends, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < PARTS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < ENTRIES; i++)
		sum += table[i][0];
	printf("%d\n", sum == (uintptr_t)ENTRIES * (ENTRIES - 1) / 2);
	return 0;
}
