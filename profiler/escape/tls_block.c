/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls_block: see tls_block.h. Read once from the loader's list; blocks of libraries that
 * are opened later lie anywhere, and are not known.
 */
#include "profiler/escape/tls_block.h"

#include <link.h>
#include <string.h>

#define MAX_BLOCKS 256
#define MAX_BELOW  ((uintptr_t)1 << 20) /* further off: not in the static area */

static struct {
	struct tls_block list[MAX_BLOCKS];
	size_t count;
} blocks;

bool module_path_is_libc(const char *path)
{
	const char *base = strrchr(path, '/');

	base = base ? base + 1 : path;
	return strncmp(base, "libc.so", 7) == 0 || strncmp(base, "libc-", 5) == 0 ||
	       strncmp(base, "ld-linux", 8) == 0 || strncmp(base, "ld-2", 4) == 0 ||
	       strncmp(base, "libpthread", 10) == 0;
}

static int see(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t self = (uintptr_t)__builtin_thread_pointer();
	uintptr_t data = size >= sizeof(*info) ? (uintptr_t)info->dlpi_tls_data : 0;

	(void)arg;
	if (!data || data >= self || self - data > MAX_BELOW ||
	    module_path_is_libc(info->dlpi_name))
		return 0;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t own = (uintptr_t)&blocks;

		if (ph->p_type == PT_LOAD &&
		    own - info->dlpi_addr - ph->p_vaddr < ph->p_memsz)
			return 0; /* ourselves */
	}
	for (unsigned i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS && blocks.count < MAX_BLOCKS)
			blocks.list[blocks.count++] = (struct tls_block){
				.below = self - data,
				.size = info->dlpi_phdr[i].p_memsz,
				.code = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr,
			};
	return 0;
}

void tls_block_init(void)
{
	blocks.count = 0;
	dl_iterate_phdr(see, NULL);
}

size_t tls_block_count(void)
{
	return blocks.count;
}

const struct tls_block *tls_block_at(size_t i)
{
	return &blocks.list[i];
}
