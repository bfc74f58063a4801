/* SPDX-License-Identifier: Apache-2.0 */
/*
 * estimate: see estimate.h.
 */
#include "tools/lib/estimate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/say.h"

/* Leaks are found one by one, in sampled mode, too; escapes are thinned out besides, and
 * their report has errors of its own. */
static const char *const prefixes[] = { "alloc_", "inuse_", "peak_" };

static void find_pair(const struct pbfile *f, const char *type, struct estimate *e)
{
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		char *objects, *space;

		if (strncmp(type, prefixes[i], strlen(prefixes[i])) != 0)
			continue;
		objects = format_string("%sobjects", prefixes[i]);
		space = format_string("%sspace", prefixes[i]);
		e->objects = pbfile_type(f, objects);
		e->space = pbfile_type(f, space);
		free(objects);
		free(space);
	}
	if (pbfile_type(f, "slack") >= 0) {
		e->objects = pbfile_type(f, "objects");
		e->space = pbfile_type(f, "space");
	}
}

struct estimate estimate_of(const struct pbfile *f, int type)
{
	struct estimate e = { .objects = -1, .space = -1 };

	find_pair(f, pbfile_text(f, f->p->sample_type[type]->type), &e);
	if (f->p->period > 1 && e.objects >= 0 && e.space >= 0)
		e.period = (double)f->p->period;
	return e;
}

double estimate_variance(const struct estimate *e, const Seep__Pprof__Sample *s,
			 int64_t value)
{
	double objects, space, p, k;

	if (e->period == 0)
		return 0;
	objects = (double)s->value[e->objects];
	space = (double)s->value[e->space];
	if (objects <= 0 || space <= 0) /* of size 0: counted as of 1 */
		space = objects;
	p = objects > 0 ? -expm1(-space / objects / e->period) : 1;
	k = objects * p;
	if (k < 1) /* rounding: somebody was seen, or nothing is claimed */
		k = 1;
	return (1 - p) / k * (double)value * (double)value;
}

const char *estimate_text(double value, double variance, char *buf, size_t size)
{
	double percent = value != 0 ? 100 * sqrt(variance) / fabs(value) : 0;

	if (variance == 0)
		buf[0] = '\0';
	else if (percent < 0.05)
		snprintf(buf, size, " ±<0.1 %%");
	else
		snprintf(buf, size, percent < 9.95 ? " ±%.1f %%" : " ±%.0f %%", percent);
	return buf;
}
