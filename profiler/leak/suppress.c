/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suppress: see suppress.h. Patterns are read at start, while the file can be reached,
 * and kept for the life of the process.
 */
#include "profiler/leak/suppress.h"

#include <fcntl.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/leak/leak.h"
#include "profiler/pprof/symbol.h"
#include "profiler/site/site.h"
#include "profiler/stack/unwind.h"

#define MAX_PATTERNS   4096
#define MAX_FILE_BYTES (4 * MIB)

static struct {
	struct pattern {
		const char *text;
		/* What it matched; guarded by the leak check's lock. */
		uint64_t objects, bytes;
	} patterns[MAX_PATTERNS];
	size_t count;
} suppressions;

/* Matches pattern[0..end) against text from its beginning; whole: to its end as well. */
static bool match_from(const char *p, const char *end, const char *text, bool whole)
{
	const char *star = NULL, *retry = NULL;

	for (;;) {
		if (p < end && *p == '*') {
			star = ++p;
			retry = text;
		} else if (p == end) {
			if (!whole || *text == '\0')
				return true;
			if (!star)
				return false;
			p = star;
			text = ++retry;
		} else if (*text && *p == *text) {
			p++;
			text++;
		} else if (star && *retry) {
			p = star;
			text = ++retry;
		} else {
			return false;
		}
	}
}

bool suppress_glob(const char *pattern, const char *text)
{
	const char *end = pattern + strlen(pattern);
	bool whole = end > pattern && end[-1] == '$';

	if (whole)
		end--;
	if (*pattern == '^')
		return match_from(pattern + 1, end, text, whole);
	for (;; text++) {
		if (match_from(pattern, end, text, whole))
			return true;
		if (*text == '\0')
			return false;
	}
}

static char *trim(char *line)
{
	char *end;

	while (*line == ' ' || *line == '\t')
		line++;
	end = line + strlen(line);
	while (end > line && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
		*--end = '\0';
	return line;
}

static bool parse_line(char *line)
{
	bool ok;

	line = trim(line);
	if (*line == '\0' || *line == '#')
		return true;
	if (suppress_block_line(line, &ok))
		return ok;
	if (strncmp(line, "leak:", 5) != 0 || line[5] == '\0')
		return false;
	if (suppressions.count < MAX_PATTERNS)
		suppressions.patterns[suppressions.count++].text = line + 5;
	return true;
}

unsigned suppress_parse(char *text)
{
	unsigned line = 0, bad = 0;

	while (text) {
		char *end = strchr(text, '\n');

		line++;
		if (end)
			*end++ = '\0';
		if (!parse_line(text) && bad == 0)
			bad = line;
		text = end;
	}
	if (suppress_block_open() && bad == 0)
		bad = line;
	return bad;
}

void suppress_load(void)
{
	const char *path = opt_get()->suppressions;
	int fd;
	long size, n;
	char *text;
	unsigned bad;

	if (path[0] == '\0')
		return;
	fd = os_open(path, O_RDONLY, 0);
	if (fd < 0) {
		log_line("cannot read suppressions %.400s: %s; none are used", path,
			 os_error_text(fd));
		return;
	}
	size = os_file_size(fd);
	text = size >= 0 && (size_t)size <= MAX_FILE_BYTES
		       ? meta_map((size_t)size + 1, META_LEAK)
		       : NULL;
	n = text ? os_read(fd, text, (size_t)size) : -1;
	os_close(fd);
	if (n < 0) {
		log_line("cannot read suppressions %.400s; none are used", path);
		return;
	}
	bad = suppress_parse(text);
	if (suppress_blocks_with_source() > 0)
		log_line("%.400s: %u blocks with src: lines are left out: line numbers "
			 "are not known at run time",
			 path, suppress_blocks_with_source());
	if (bad)
		log_line("%.400s:%u: not a suppression (leak:PATTERN or a memcheck "
			 "block); ignored",
			 path, bad);
}

static bool matches_frame(const char *pattern, const struct symbol *s)
{
	char text[512];

	if (s->function &&
	    (suppress_glob(pattern, s->function) ||
	     suppress_glob(pattern, symbol_demangle(s->function, text, sizeof(text)))))
		return true;
	return s->module && suppress_glob(pattern, s->module->path);
}

bool suppress_matches(const struct leak_record *r)
{
	uint32_t site = r->site;

	if (suppress_block_matches(r))
		return true;
	for (; site && suppressions.count > 0; site = site_parent(site)) {
		struct symbol s;
		uintptr_t pc = site_pc(site);

		if (pc <= FRAME_PSEUDO_MAX || !symbol_lookup(pc - 1, &s))
			continue;
		for (size_t i = 0; i < suppressions.count; i++) {
			struct pattern *p = &suppressions.patterns[i];

			if (!matches_frame(p->text, &s))
				continue;
			p->objects += r->objects;
			p->bytes += r->bytes;
			return true;
		}
	}
	return false;
}

void suppress_each(void (*fn)(const char *name, uint64_t objects, uint64_t bytes,
			      void *arg),
		   void *arg)
{
	for (size_t i = 0; i < suppressions.count; i++) {
		const struct pattern *p = &suppressions.patterns[i];

		fn(p->text, p->objects, p->bytes, arg);
	}
	suppress_block_each(fn, arg);
}
