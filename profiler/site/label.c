/* SPDX-License-Identifier: Apache-2.0 */
/*
 * label: see label.h.
 *
 * The highest byte of a label's pc tells what it is: no address of a program has it.
 * Seven bytes of a thread's name follow, or the size. Sizes of large objects are rounded
 * up to an eighth of a power of two, so that their number is bounded.
 */
#include "profiler/site/label.h"

#include <string.h>
#include <sys/prctl.h>

#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/heap/mspan.h"
#include "profiler/site/site.h"
#include "profiler/stack/thread.h"

#define KIND_SHIFT  56
#define KIND_NAME   0xe1u
#define KIND_SIZE   0xe2u
#define VALUE_MASK  (((uint64_t)1 << KIND_SHIFT) - 1)
#define PART	    7  /* bytes of a name in one node */
#define NAME_PERIOD 64 /* a thread may be renamed: its name is asked for so often */

static void ask_name(char name[LABEL_NAME_BYTES])
{
	if (os_call(SYS_prctl, PR_GET_NAME, (long)name, 0, 0, 0, 0) != 0)
		name[0] = '\0';
	name[LABEL_NAME_BYTES - 1] = '\0';
}

static uint32_t add_name(uint32_t site)
{
	struct thread_info *t = seep_tls.thread;
	char own[LABEL_NAME_BYTES], *name = own;

	if (t) {
		name = t->name;
		if (t->name_uses++ % NAME_PERIOD == 0)
			ask_name(name);
	} else {
		ask_name(name);
	}
	for (size_t at = 0, n = strlen(name); site && at < n; at += PART) {
		uint64_t part = 0;

		memcpy(&part, name + at, n - at < PART ? n - at : PART);
		site = site_child(site, (uint64_t)KIND_NAME << KIND_SHIFT | part);
	}
	return site;
}

static uint64_t rounded(size_t bytes)
{
	size_t step;

	if (bytes < PAGE_SIZE)
		return bytes;
	step = (size_t)1 << (60 - __builtin_clzl(bytes)); /* an eighth */
	return align_up(bytes, step);
}

uint32_t label_site(uint32_t site, size_t slot_bytes)
{
	const struct options *o = opt_get();
	uint32_t split = site;

	if (o->label_thread)
		split = add_name(split);
	if (o->label_size && split)
		split = site_child(split, (uint64_t)KIND_SIZE << KIND_SHIFT |
						  (rounded(slot_bytes) & VALUE_MASK));
	return split ? split : site;
}

/* Parts come last first. */
static void put_before(char name[LABEL_NAME_BYTES], uint64_t value)
{
	char part[PART + 1] = "", rest[LABEL_NAME_BYTES];
	size_t n;

	memcpy(part, &value, PART);
	memcpy(rest, name, sizeof(rest));
	n = strlen(part);
	memcpy(name, part, n);
	memcpy(name + n, rest, LABEL_NAME_BYTES - n);
	name[LABEL_NAME_BYTES - 1] = '\0';
}

uint32_t label_read(uint32_t site, struct labels *out)
{
	if (out)
		*out = (struct labels){ .size = 0 };
	while (site) {
		uintptr_t pc = site_pc(site);

		if (pc >> KIND_SHIFT == KIND_NAME && out)
			put_before(out->thread, pc & VALUE_MASK);
		else if (pc >> KIND_SHIFT == KIND_SIZE && out)
			out->size = pc & VALUE_MASK;
		else if (pc >> KIND_SHIFT != KIND_NAME && pc >> KIND_SHIFT != KIND_SIZE)
			break;
		site = site_parent(site);
	}
	return site;
}
