/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of every kind, in known amounts; says what the kernel counts. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1 << 20)

static char *kept[200000];

static void *touch(void *p, size_t size)
{
	return memset(p, 1, size);
}

/* Counted page by page; that of /proc/self/status is behind by some pages for each thread
 * or processor. */
static void print_rss(void)
{
	static char text[4096];
	int fd = open("/proc/self/smaps_rollup", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *at = n > 0 ? strstr(text, "\nRss:") : NULL;

	if (at)
		printf("%ld\n", atol(at + 5) * 1024);
	close(fd);
}

int main(int argc, char **argv)
{
	int n = 0;

	switch (argc > 1 ? argv[1][0] : 0) {
	case 'l': /* live: 20 MiB in small objects, 20 in a large one */
		for (; n < 20 * MIB / 128; n++)
			kept[n] = touch(malloc(128), 128);
		kept[n] = touch(malloc(20 * MIB), 20 * MIB);
		break;
	case 's': /* slack: 33 bytes take 48 */
		for (; n < 200000; n++)
			kept[n] = touch(malloc(33), 33);
		break;
	case 'f': /* free: every second one of many */
		for (; n < 200000; n++)
			kept[n] = touch(malloc(256), 256);
		for (n = 0; n < 200000; n += 2)
			free(kept[n]);
		break;
	case 'u': /* untouched: no part of resident memory */
		kept[0] = malloc(512 * MIB);
		kept[0][0] = 1;
		kept[1] = touch(malloc(10 * MIB), 10 * MIB);
		break;
	case 'o': /* outside the heap */
		touch(mmap(NULL, 40 * MIB, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		      40 * MIB);
		break;
	}
	print_rss();
	return 0;
}
