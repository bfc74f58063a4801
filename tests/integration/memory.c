/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory: what a heap keeps. Each case builds a heap of known shape and prints figures of
 * the kernel about it, one "NAME VALUE" a line; test_memory.py knows what they may be.
 *
 * Usage: memory CASE [SIZE], SIZE in MiB or threads.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <glob.h>
#include <link.h>
#include <locale.h>
#include <malloc.h>
#include <pthread.h>
#include <regex.h>
#include <search.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* Of /proc/self/FILE, the number behind the line's key, in its own unit. */
static size_t proc_number(const char *file, const char *key)
{
	char line[256];
	size_t n = strlen(key), value = 0;
	FILE *f = fopen(file, "r");

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, key, n) == 0)
			value = strtoul(line + n, NULL, 10);
	if (f)
		fclose(f);
	return value;
}

static size_t rss_kib(void)
{
	return proc_number("/proc/self/smaps_rollup", "Rss:");
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* Pointers of a big heap, in memory that is not of it. */
struct blocks {
	void **at;
	size_t count, room;
};

static struct blocks blocks_of(size_t room)
{
	void *p = mmap(NULL, room * sizeof(void *), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return (struct blocks){ .at = p, .room = room };
}

static void fill(struct blocks *b, size_t size, size_t bytes)
{
	for (size_t n = bytes / size; n > 0 && b->count < b->room; n--) {
		void *p = malloc(size);

		if (!p)
			abort();
		memset(p, 1, size);
		b->at[b->count++] = p;
	}
}

static void free_blocks(struct blocks *b)
{
	for (size_t i = 0; i < b->count; i++)
		free(b->at[i]);
	b->count = 0;
}

static void drop_blocks(struct blocks *b)
{
	free_blocks(b);
	munmap(b->at, b->room * sizeof(void *));
}

/* bytes of live objects: a quarter each of four sizes. */
static struct blocks mixed(size_t bytes)
{
	static const size_t sizes[] = { 112, 1500, 20000, 600000 };
	struct blocks b = blocks_of(bytes / 64);

	for (int i = 0; i < 4; i++)
		fill(&b, sizes[i], bytes / 4);
	return b;
}

/* A program with little to do: now and then some objects of common sizes. */
static void work_a_little(void)
{
	static void *live[64];
	const struct timespec ms = { .tv_nsec = 1000000 };

	for (int i = 0; i < 8; i++) {
		void **slot = &live[next_random() % 64];

		free(*slot);
		*slot = malloc(16 + next_random() % 500);
	}
	nanosleep(&ms, NULL);
}

/* Even less: one size, which its cache always has. */
static void work_very_little(void)
{
	const struct timespec ms = { .tv_nsec = 1000000 };

	for (int i = 0; i < 8; i++) {
		void *volatile p = malloc(100);

		free(p);
	}
	nanosleep(&ms, NULL);
}

#define DECAY_SECONDS 300 /* where the program hardly gets to run; else 2 */
#define DECAY_KIB     (100 * 1024)

/* goal: KiB that RSS must fall below. */
static int decay_beside(void (*work)(void), size_t mib, size_t goal)
{
	struct blocks b = mixed(mib * MIB);
	double start;
	size_t kib;

	printf("full_kib %zu\n", rss_kib());
	free_blocks(&b);
	start = now();
	do {
		for (int i = 0; i < 50; i++)
			work();
		kib = rss_kib();
	} while (kib >= goal && now() - start < DECAY_SECONDS);
	printf("freed_kib %zu\nseconds %.2f\n", kib, now() - start);
	return 0;
}

static int decay(size_t mib, size_t goal)
{
	return decay_beside(work_a_little, mib, goal);
}

static int decay_in_cache(size_t mib, size_t goal)
{
	return decay_beside(work_very_little, mib, goal);
}

static int trim(struct blocks b)
{
	size_t kib;

	printf("full_kib %zu\n", rss_kib());
	drop_blocks(&b);
	printf("trimmed %d\n", malloc_trim(0));
	kib = rss_kib();
	printf("freed_kib %zu\n", kib);
	return 0;
}

static int trim_small(size_t mib)
{
	struct blocks b = blocks_of(mib * MIB / 64);

	fill(&b, 64, mib * MIB);
	return trim(b);
}

static void *short_thread(void *arg)
{
	void *p[40];

	for (int i = 0; i < 40; i++)
		p[i] = memset(malloc(16 + (size_t)i * 50), 1, 16);
	for (int i = 0; i < 40; i++)
		free(p[i]);
	return arg;
}

#define WAVE	    50
#define SMALL_STACK ((size_t)128 * 1024)
#define LOOKS_APART (4 * WAVE)

/* Resident is what threads have left behind: their stacks are small, so that glibc keeps
 * all of them from the first wave on. */
static int threads(size_t count)
{
	pthread_attr_t a;
	pthread_t t[WAVE];
	size_t most = 0;

	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, SMALL_STACK);
	for (size_t done = 0; done < count; done += WAVE) {
		for (int i = 0; i < WAVE; i++)
			if (pthread_create(&t[i], &a, short_thread, NULL) != 0)
				abort();
		for (int i = 0; i < WAVE; i++)
			pthread_join(t[i], NULL);
		if (done % LOOKS_APART == 0) {
			size_t kib = rss_kib();

			most = kib > most ? kib : most;
		}
	}
	printf("peak_kib %zu\n", most > rss_kib() ? most : rss_kib());
	return 0;
}

static pthread_barrier_t ready, go, done;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static size_t each_class, random_most; /* objects; bytes */

/* A thousand objects of 16 bytes and more, up to 64 at a time. */
static void use_random(size_t most)
{
	void *p[64] = { NULL };
	unsigned seed = 1;

	for (int i = 0; i < 1000; i++) {
		size_t k = (size_t)rand_r(&seed) % 64;
		size_t size = 16 + (size_t)rand_r(&seed) % most;

		free(p[k]);
		p[k] = memset(malloc(size), 1, size);
	}
	for (size_t k = 0; k < 64; k++)
		free(p[k]);
}

/* count objects of each size that differs for the heap, all at a time. */
static void use_every_class(size_t count)
{
	void **last = NULL;

	for (size_t n = 0; n < count; n++)
		for (size_t size = 1; size <= 32768;) {
			void **p = malloc(size);

			size = malloc_usable_size(p);
			memset(p, 1, size++);
			*p = last;
			last = p;
		}
	while (last) {
		void **p = last;

		last = *p;
		free(p);
	}
}

/* The stack is touched first, so that it does not count as the heap's. */
static void *idle_thread(void *arg)
{
	char stack[16384];

	memset(stack, 1, sizeof(stack));
	__asm__ volatile("" : : "r"(stack) : "memory");
	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&go);
	/* Kept by the thread, while all do not. One after the other: what is in use at
	 * the same time depends on the scheduler, and is the heap's afterwards, not a
	 * thread's. */
	pthread_mutex_lock(&turn);
	free(memset(malloc(200000), 1, 200000));
	use_every_class(each_class);
	if (random_most)
		use_random(random_most);
	pthread_mutex_unlock(&turn);
	arg = malloc(100);
	memset(arg, 1, 100);
	pthread_barrier_wait(&done);
	pthread_barrier_wait(&ready);
	free(arg);
	return NULL;
}

static int idle(size_t count)
{
	pthread_t *t = malloc(count * sizeof(*t));
	size_t before, after;
	pthread_attr_t a;

	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, SMALL_STACK);
	pthread_barrier_init(&ready, NULL, (unsigned)count + 1);
	pthread_barrier_init(&go, NULL, (unsigned)count + 1);
	pthread_barrier_init(&done, NULL, (unsigned)count + 1);
	for (size_t i = 0; i < count; i++)
		if (pthread_create(&t[i], &a, idle_thread, NULL) != 0)
			abort();
	pthread_barrier_wait(&ready);
	before = rss_kib();
	pthread_barrier_wait(&go);
	pthread_barrier_wait(&done);
	after = rss_kib();
	pthread_barrier_wait(&ready);
	for (size_t i = 0; i < count; i++)
		pthread_join(t[i], NULL);
	printf("bytes_a_thread %zu\n", (after - before) * 1024 / count);
	return 0;
}

static int start(void)
{
	free(malloc(100));
	printf("rss_kib %zu\n", rss_kib());
	printf("space_kib %zu\n", proc_number("/proc/self/status", "VmSize:"));
	return 0;
}

/* size bytes an object: every second of them is freed, and as many bytes are taken in
 * objects of another size. */
static void fragment(const char *name, size_t size, size_t other, size_t bytes)
{
	struct blocks b = blocks_of(bytes / size), more = blocks_of(bytes / other);
	size_t full, kib;

	fill(&b, size, bytes);
	full = rss_kib();
	for (size_t i = 0; i < b.count; i += 2) {
		free(b.at[i]);
		b.at[i] = NULL;
	}
	fill(&more, other, bytes / 2);
	kib = rss_kib();
	printf("growth_%s %.3f\n", name, (double)kib / (double)full);
	drop_blocks(&b);
	drop_blocks(&more);
	malloc_trim(0);
	printf("left_%s_kib %zu\n", name, rss_kib());
}

static int fragmentation(size_t mib)
{
	fragment("small", 64, 96, mib * MIB);
	fragment("medium", 3000, 5000, mib * MIB);
	fragment("large", 100000, 150000, mib * MIB);
	return 0;
}

/* Repeated allocation and release of big touched objects, some of them live. */
static int faults(size_t rounds)
{
	static void *live[24];
	struct rusage u;
	size_t bytes = 0;
	double start = now();

	for (size_t i = 0; i < rounds; i++) {
		void **slot = &live[next_random() % 24];
		size_t size = 256 * 1024 + next_random() % (4 * MIB - 256 * 1024);

		free(*slot);
		*slot = malloc(size);
		for (size_t at = 0; at < size; at += 4096)
			((char *)*slot)[at] = 1;
		bytes += size;
	}
	getrusage(RUSAGE_SELF, &u);
	printf("faults %ld\npages %zu\nfreed_kib %zu\nseconds %.2f\n", u.ru_minflt,
	       bytes / 4096, rss_kib(), now() - start);
	return 0;
}

/* Has the kernel been asked for huge pages at this address? */
static void print_advised(uintptr_t at)
{
	uintptr_t lo = 0, hi = 0, in = 0, thp = 0;
	size_t flagged = 0;
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "r");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
			in = at - lo < hi - lo;
		if (in && sscanf(line, "AnonHugePages: %lu", &thp) == 1)
			printf("thp_kib %lu\n", thp);
		if (in && strncmp(line, "VmFlags:", 8) == 0)
			flagged = strstr(line, " hg") != NULL;
	}
	printf("advised %zu\n", flagged);
}

/* Does the heap, once it is big, ask for huge pages? */
static int huge(size_t mib)
{
	struct blocks b = blocks_of(mib * MIB / 64);

	fill(&b, 1000, mib * MIB);
	print_advised((uintptr_t)b.at[b.count - b.count / 8]);
	return 0;
}

/* The same for objects of a MiB, of which all bytes are written to, or one. */
static int huge_objects(size_t mib, size_t written)
{
	struct blocks b = blocks_of(mib);

	for (size_t i = 0; i < mib; i++)
		b.at[i] = memset(malloc(MIB), 1, written);
	print_advised((uintptr_t)b.at[mib - mib / 8] + MIB / 2);
	return 0;
}

struct tables {
	uintptr_t from, to;
};

/* Whole pages of libc's .eh_frame_hdr and .eh_frame. */
static int find_tables(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct tables *t = arg;
	uintptr_t hdr = 0;

	if (!info->dlpi_name || !strstr(info->dlpi_name, "/libc.so"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME)
			hdr = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type != PT_LOAD || hdr - start >= ph->p_memsz)
			continue;
		t->from = (hdr + 4095) & ~(uintptr_t)4095;
		t->to = (start + ph->p_memsz) & ~(uintptr_t)4095;
	}
	return 1;
}

/* Which pages of the tables were resident at the last look, and how often one was no
 * longer: nobody but who gives them back makes that happen. */
static struct {
	struct tables tables; /* empty: nobody looks */
	bool was[4096];
	size_t resident, dropped;
} looks;

static void look(void)
{
	size_t n = (looks.tables.to - looks.tables.from) / 4096;
	static uint64_t entries[4096];
	int fd = n && n <= 4096 ? open("/proc/self/pagemap", O_RDONLY) : -1;

	if (fd < 0 || pread(fd, entries, n * 8, (off_t)(looks.tables.from / 4096 * 8)) !=
			      (ssize_t)(n * 8))
		n = 0;
	if (fd >= 0)
		close(fd);
	looks.resident = 0;
	for (size_t i = 0; i < n; i++) {
		bool is = entries[i] >> 63;

		looks.resident += is;
		looks.dropped += looks.was[i] && !is;
		looks.was[i] = is;
	}
}

/* Allocates from many places inside libc. */
static void allocate_in_libc(int round)
{
	char *text = NULL, *line = NULL, **list;
	size_t n = 0;
	struct dirent **names;
	glob_t g;
	regex_t r;
	FILE *f;

	for (int i = 0; i < 40; i++)
		free(strdup("seep"));
	look();
	asprintf(&text, "%d %200s %ls", round, "text", L"wide");
	free(text);
	look();
	f = open_memstream(&text, &n);
	fprintf(f, "%0*d", 3000, round);
	fclose(f);
	free(text);
	look();
	f = fopen("/proc/self/status", "r");
	for (n = 0; f && getline(&line, &n, f) > 0;)
		;
	free(line);
	fclose(f);
	look();
	if (regcomp(&r, "(a|b)*c[[:alpha:]]{2,3}(d|e+)", REG_EXTENDED) == 0) {
		regexec(&r, "abababcxyzee", 0, NULL, 0);
		regfree(&r);
	}
	look();
	if (glob("/usr/lib/*.so*", 0, NULL, &g) == 0)
		globfree(&g);
	look();
	closedir(opendir("/"));
	n = (size_t)scandir("/", &names, NULL, alphasort);
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	look();
	free(realpath("/proc/self/exe", NULL));
	free(getcwd(NULL, 0));
	look();
	tzset();
	setlocale(LC_ALL, round % 2 ? "C" : "C.UTF-8");
	look();
	list = backtrace_symbols((void *[]){ (void *)malloc }, 1);
	free(list);
	hcreate(100);
	hdestroy();
	look();
}

/* The tables of call frames are no file's any more: nobody may take them for one. */
static int own_tables(void)
{
	struct tables t = { 0 };
	size_t size;
	char *copy, *fresh;

	dl_iterate_phdr(find_tables, &t);
	if (t.to <= t.from)
		return 1;
	size = t.to - t.from;
	copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	fresh = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	memcpy(copy, (void *)t.from, size);
	memcpy(fresh, (void *)t.from, size);
	if (mremap(fresh, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)t.from) ==
	    MAP_FAILED)
		return 1;
	for (int i = 0; i < 20; i++)
		allocate_in_libc(i);
	printf("bytes %zu\nintact %d\n", size, memcmp(copy, (void *)t.from, size) == 0);
	return 0;
}

/* What is resident of the same pages after the same work, and what was for a while. */
static int file_tables(void)
{
	dl_iterate_phdr(find_tables, &looks.tables);
	for (int i = 0; i < 20; i++)
		allocate_in_libc(i);
	printf("bytes %zu\nresident_kib %zu\ndropped %zu\n",
	       looks.tables.to - looks.tables.from, looks.resident * 4, looks.dropped);
	return 0;
}

/* A table for the worst case, made and dropped again and again, with few entries. */
static int tables(size_t mib)
{
	const size_t step = 37 * MIB;
	char *p = NULL;

	for (size_t round = 0; round < 5; round++) {
		p = calloc(mib, MIB);
		for (size_t at = 0; at < mib * MIB; at += 512)
			if (!p || p[at])
				abort();
		for (size_t at = round * 4096; at < mib * MIB; at += step)
			p[at] = 1;
		memset(p + mib * MIB / 2, 1, 3 * MIB); /* and one part that is full */
		if (round < 4)
			free(p);
	}
	printf("rss_kib %zu\n", rss_kib());
	free(p);
	return 0;
}

#define KNOWN_SMALL 1000 /* objects of 1000 bytes */
#define KNOWN_LARGE 10	 /* of 1 MiB */

static void info(const char *name)
{
	struct mallinfo2 m = mallinfo2();

	printf("%s_arena %zu\n%s_used %zu\n%s_free %zu\n%s_large %zu\n%s_nlarge %zu\n",
	       name, m.arena, name, m.uordblks, name, m.fordblks, name, m.hblkhd, name,
	       m.hblks);
	fflush(stdout);
	malloc_info(0, stdout);
	fflush(stdout);
}

static int numbers(void)
{
	static void *p[KNOWN_SMALL], *big[KNOWN_LARGE];

	setvbuf(stdout, malloc(1 << 16), _IOFBF, 1 << 16);
	info("before");
	for (int i = 0; i < KNOWN_SMALL; i++)
		p[i] = malloc(1000);
	for (int i = 0; i < KNOWN_LARGE; i++)
		big[i] = malloc(MIB);
	info("full");
	malloc_stats();
	for (int i = 0; i < KNOWN_SMALL; i++)
		free(p[i]);
	for (int i = 0; i < KNOWN_LARGE; i++)
		free(big[i]);
	info("after");
	return 0;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	size_t size = argc > 2 ? strtoul(argv[2], NULL, 10) : 64;

	if (strcmp(name, "decay") == 0)
		return decay(size, argc > 3 ? strtoul(argv[3], NULL, 10) : DECAY_KIB);
	if (strcmp(name, "decay_in_cache") == 0)
		return decay_in_cache(size, DECAY_KIB);
	if (strcmp(name, "trim") == 0)
		return trim(mixed(size * MIB));
	if (strcmp(name, "trim_small") == 0)
		return trim_small(size);
	if (strcmp(name, "threads") == 0)
		return threads(size);
	if (strcmp(name, "idle") == 0) {
		each_class = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
		random_most = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
		return idle(size);
	}
	if (strcmp(name, "start") == 0)
		return start();
	if (strcmp(name, "fragment") == 0)
		return fragmentation(size);
	if (strcmp(name, "faults") == 0)
		return faults(size);
	if (strcmp(name, "huge") == 0)
		return huge(size);
	if (strcmp(name, "huge_filled") == 0)
		return huge_objects(size, MIB);
	if (strcmp(name, "huge_sparse") == 0)
		return huge_objects(size, 1);
	if (strcmp(name, "own_tables") == 0)
		return own_tables();
	if (strcmp(name, "file_tables") == 0)
		return file_tables();
	if (strcmp(name, "tables") == 0)
		return tables(size);
	if (strcmp(name, "numbers") == 0)
		return numbers();
	return 2;
}
