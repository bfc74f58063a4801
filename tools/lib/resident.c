/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resident: see resident.h.
 */
#include "tools/lib/resident.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/lib/pbfile.h"
#include "tools/lib/say.h"

void resident_print(uint64_t total, const uint64_t parts[RESIDENT_PARTS],
		    const char *when)
{
	static const char *const names[RESIDENT_PARTS] = {
		"live",	    "slack",	"free in the allocator",
		"metadata", "profiler", "outside the heap"
	};
	char a[32];

	if (total == 0)
		return;
	say_title("resident %s: %s", when, say_bytes(total, a, sizeof(a)));
	for (int i = 0; i < RESIDENT_PARTS; i++)
		say("  %10s  %5.1f %%  %s", say_bytes(parts[i], a, sizeof(a)),
		    100.0 * (double)parts[i] / (double)total, names[i]);
}

/* As profiler/sample/profile.c writes it. */
static bool parse(const char *comment, uint64_t *total, uint64_t parts[RESIDENT_PARTS])
{
	return sscanf(comment,
		      "resident %" SCNu64 " bytes = live %" SCNu64 " + slack %" SCNu64
		      " + free in the allocator %" SCNu64 " + metadata %" SCNu64
		      " + profiler %" SCNu64 " + outside the heap %" SCNu64,
		      total, &parts[0], &parts[1], &parts[2], &parts[3], &parts[4],
		      &parts[5]) == 1 + RESIDENT_PARTS;
}

void resident_print_file(const char *path, const char *when)
{
	uint64_t total, parts[RESIDENT_PARTS];
	char *why = NULL;
	struct pbfile *f = pbfile_read(path, &why);

	free(why);
	if (!f)
		return;
	for (size_t i = 0; i < f->p->n_comment; i++)
		if (parse(pbfile_text(f, f->p->comment[i]), &total, parts))
			resident_print(total, parts, when);
	pbfile_free(f);
}
