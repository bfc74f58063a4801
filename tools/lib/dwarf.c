/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf: see dwarf.h. Addresses wanted are grouped by unit and sorted, so that a unit is
 * walked once; a unit without wanted addresses is not read at all.
 */
#include "tools/lib/dwarf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/lib/dwarf_int.h"
#include "tools/lib/say.h"

bool dwarf_available(void)
{
	return true;
}

struct dwarf *dwarf_new(const char *const *directories)
{
	struct dwarf *d = allocate(sizeof(*d));
	/* '+': a file found by .gnu_debuglink must have the right checksum. */
	char *path = format_string("+:.debug:/usr/lib/debug");

	for (size_t i = 0; directories && directories[i]; i++) {
		char *joined = format_string("%s:%s", path, directories[i]);

		free(path);
		path = joined;
	}
	d->directories = directories;
	d->debuginfo_path = path;
	return d;
}

static void module_free(struct dwarf_module *m)
{
	if (!m)
		return;
	if (m->image.elf)
		dwarf_end(m->dwarf);
	dwarf_image_free(&m->image);
	if (m->dwfl)
		dwfl_end(m->dwfl);
	if (m->separate_fd >= 0)
		close(m->separate_fd);
	free(m->separate_path);
	free(m->units);
	free(m->ranges);
	free(m->symbols);
	free(m->addresses);
	free(m->functions_list);
	intern_free(&m->wanted);
	intern_free(&m->functions);
	free(m);
}

void dwarf_free(struct dwarf *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->keys.count; i++)
		module_free(d->modules[i]);
	free(d->modules);
	free(d->debuginfo_path);
	intern_free(&d->keys);
	intern_free(&d->paths);
	free(d->tidy_paths);
	arena_free(&d->arena);
	free(d);
}

struct dwarf_module *dwarf_module(struct dwarf *d, const char *path, const char *build_id,
				  int64_t not_after)
{
	char *key = format_string("%s\n%s", path, build_id);
	size_t before = d->keys.count, number = intern_text(&d->keys, key);
	struct dwarf_module *m;

	free(key);
	if (number < before)
		return d->modules[number];
	d->modules = grown(d->modules, number, &d->modules_size, sizeof(m));
	m = allocate(sizeof(*m));
	m->owner = d;
	m->separate_fd = -1;
	if (!dwarf_file_open(m, path, build_id, not_after)) {
		module_free(m);
		m = NULL;
	}
	return d->modules[number] = m;
}

bool dwarf_file_address(const struct dwarf_module *m, uint64_t address, uint64_t start,
			uint64_t file_offset, uint64_t *out_address)
{
	uint64_t offset = address - start + file_offset;
	size_t n;

	if (address < start || elf_getphdrnum(m->elf, &n) != 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		GElf_Phdr ph;

		if (!gelf_getphdr(m->elf, (int)i, &ph) || ph.p_type != PT_LOAD)
			continue;
		/* Where only debug information is left, a segment keeps its address,
		 * not its place in the file: take the mapping for the whole segment. */
		if (m->segments_moved && (ph.p_flags & PF_X)) {
			*out_address = address - start +
				       (ph.p_vaddr & ~((start & 4095) ? 0 : 4095ull));
			return *out_address < ph.p_vaddr + ph.p_memsz;
		}
		if (!m->segments_moved && offset >= ph.p_offset &&
		    offset - ph.p_offset < ph.p_filesz && (ph.p_flags & PF_X)) {
			*out_address = offset - ph.p_offset + ph.p_vaddr;
			return true;
		}
	}
	return false;
}

static void name_by_symbol(struct dwarf_module *m, struct dwarf_address *a)
{
	const struct file_symbol *s = dwarf_file_symbol(m, a->address);
	struct dwarf_frame *frame;

	if (!s)
		return;
	frame = arena_zalloc(&m->owner->arena, sizeof(*frame));
	frame->function = s->name;
	a->frames = frame;
	a->nframes = 1;
}

void dwarf_want(struct dwarf_module *m, uint64_t file_address, bool is_named)
{
	size_t before = m->wanted.count;
	size_t number = intern_bytes(&m->wanted, &file_address, sizeof(file_address));

	if (number == before) {
		m->addresses = grown(m->addresses, before, &m->addresses_size,
				     sizeof(*m->addresses));
		m->addresses[before] = (struct dwarf_address){ .address = file_address,
							       .is_named = true };
	}
	m->addresses[number].is_named &= is_named;
	if (number < m->naddresses_done && !is_named && !m->addresses[number].frames)
		name_by_symbol(m, &m->addresses[number]);
}

const struct dwarf_address *dwarf_lookup(const struct dwarf_module *m,
					 uint64_t file_address)
{
	size_t number = intern_find(&m->wanted, &file_address, sizeof(file_address));

	return number < m->naddresses_done ? &m->addresses[number] : NULL;
}

/* ---- resolving ---- */

/* The range with the greatest start that holds the address. Ranges of units seldom
 * overlap: a few steps back are enough. */
static const struct unit_range *range_of(const struct dwarf_module *m, uint64_t address)
{
	size_t low = 0, high = m->nranges;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (m->ranges[middle].low <= address)
			low = middle + 1;
		else
			high = middle;
	}
	for (int steps = 0; low > 0 && steps < 16; steps++) {
		const struct unit_range *r = &m->ranges[--low];

		if (address < r->high)
			return r;
	}
	return NULL;
}

struct pending {
	struct dwarf_address *address;
	uint32_t unit;
};

static int by_unit(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;

	if (x->unit != y->unit)
		return x->unit < y->unit ? -1 : 1;
	return x->address->address < y->address->address   ? -1
	       : x->address->address > y->address->address ? 1
							   : 0;
}

static void resolve_units(struct dwarf_module *m, struct pending *list, size_t n)
{
	struct dwarf_address **group = allocate((n + 1) * sizeof(*group));

	qsort(list, n, sizeof(*list), by_unit);
	for (size_t i = 0; i < n;) {
		size_t k = 0;
		uint32_t unit = list[i].unit;

		for (; i < n && list[i].unit == unit; i++)
			group[k++] = list[i].address;
		dwarf_unit_resolve(m, &m->units[unit], group, k);
	}
	free(group);
}

static void resolve_module(struct dwarf_module *m)
{
	size_t n = m->wanted.count - m->naddresses_done, npending = 0;
	struct pending *list;

	if (n == 0)
		return;
	if (!m->opened) {
		m->opened = true;
		dwarf_file_open_debug(m);
		if (m->dwarf)
			dwarf_unit_list(m);
	}
	list = allocate(n * sizeof(*list));
	for (size_t i = m->naddresses_done; i < m->wanted.count; i++) {
		struct dwarf_address *a = &m->addresses[i];
		const struct unit_range *r = range_of(m, a->address + m->debug_bias);

		if (r)
			list[npending++] = (struct pending){ a, r->unit };
	}
	resolve_units(m, list, npending);
	free(list);
	for (size_t i = m->naddresses_done; i < m->wanted.count; i++)
		if (!m->addresses[i].frames && !m->addresses[i].is_named)
			name_by_symbol(m, &m->addresses[i]);
	m->naddresses_done = m->wanted.count;
}

void dwarf_resolve(struct dwarf *d)
{
	for (size_t i = 0; i < d->keys.count; i++)
		if (d->modules[i])
			resolve_module(d->modules[i]);
}
