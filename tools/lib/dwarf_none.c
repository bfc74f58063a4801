/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf_none: what stands in for dwarf.c where libdw is missing at build time.
 */
#include "tools/lib/dwarf.h"

bool dwarf_available(void)
{
	return false;
}

struct dwarf *dwarf_new(const char *const *directories)
{
	(void)directories;
	return NULL;
}

void dwarf_free(struct dwarf *d)
{
	(void)d;
}

struct dwarf_module *dwarf_module(struct dwarf *d, const char *path, const char *build_id,
				  int64_t not_after)
{
	(void)d;
	(void)path;
	(void)build_id;
	(void)not_after;
	return NULL;
}

bool dwarf_file_address(const struct dwarf_module *m, uint64_t address, uint64_t start,
			uint64_t file_offset, uint64_t *out_address)
{
	(void)m;
	(void)address;
	(void)start;
	(void)file_offset;
	(void)out_address;
	return false;
}

void dwarf_want(struct dwarf_module *m, uint64_t file_address, bool is_named)
{
	(void)m;
	(void)file_address;
	(void)is_named;
}

void dwarf_resolve(struct dwarf *d)
{
	(void)d;
}

const struct dwarf_address *dwarf_lookup(const struct dwarf_module *m,
					 uint64_t file_address)
{
	(void)m;
	(void)file_address;
	return NULL;
}
