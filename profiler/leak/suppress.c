/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suppress: see suppress.h. Patterns are read at start, while the file can be reached,
 * and kept for the life of the process.
 */
#include "profiler/leak/suppress.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "preload/base/pattern.h"
#include "profiler/leak/leak.h"
#include "profiler/pprof/symbol.h"
#include "profiler/site/site.h"
#include "profiler/stack/unwind.h"

#define MAX_PATTERNS   4096
#define MEMO_LG	       13
#define MEMO_SIZE      (1 << MEMO_LG) /* frames */
#define MAX_FILE_BYTES (4 * MIB)
#define NO_TEXT	       '\1' /* instead of a zero byte, which would end a pattern */

static struct {
	struct pattern {
		const char *text;
		/* What it matched; guarded by the leak check's lock. */
		uint64_t objects, bytes;
	} patterns[MAX_PATTERNS];
	size_t count, too_many;
} suppressions;

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

	if (strchr(line, NO_TEXT))
		return false;
	line = trim(line);
	if (*line == '\0' || *line == '#')
		return true;
	if (suppress_block_line(line, &ok))
		return ok;
	if (strncmp(line, "leak:", 5) != 0 || line[5] == '\0')
		return false;
	if (suppressions.count < MAX_PATTERNS)
		suppressions.patterns[suppressions.count++].text = line + 5;
	else
		suppressions.too_many++;
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

static const char *read_all(int fd, char *text, size_t room, size_t *out_used)
{
	size_t used = 0;
	long n = 0;

	while (used < room && (n = os_read(fd, text + used, room - used)) > 0)
		used += (size_t)n;
	for (size_t i = 0; i < used; i++)
		if (text[i] == '\0')
			text[i] = NO_TEXT;
	*out_used = used;
	return n < 0 ? os_error_text((int)n) : NULL;
}

/* The text, terminated; NULL, and why. */
static char *read_file(const char *path, const char **out_why)
{
	/* Nobody may be at the other end of what is no file. */
	int fd = os_open(path, O_RDONLY | O_NONBLOCK, 0);
	size_t room = MAX_FILE_BYTES, used;
	struct stat st = { 0 };
	char *text = NULL;

	*out_why = fd < 0 ? os_error_text(fd) : "out of memory";
	if (fd < 0)
		return NULL;
	os_stat(fd, &st);
	if (S_ISREG(st.st_mode) && (size_t)st.st_size < room)
		room = (size_t)st.st_size;
	if (S_ISREG(st.st_mode) && (size_t)st.st_size > room)
		*out_why = "it has more than 4 MiB";
	else if (S_ISFIFO(st.st_mode))
		*out_why = "it is a pipe";
	else
		text = meta_map(room + 1, META_LEAK);
	if (text)
		*out_why = read_all(fd, text, room, &used);
	os_close(fd);
	return *out_why ? NULL : text;
}

static void complain(const char *path, unsigned bad)
{
	size_t too_many = suppressions.too_many + suppress_blocks_too_many();

	if (too_many)
		log_line("%.400s: %zu suppressions are left out: %u lines of leak: and "
			 "%u blocks are the most",
			 path, too_many, MAX_PATTERNS, SUPPRESS_MAX_BLOCKS);
	if (bad)
		log_line("%.400s:%u: not a suppression (leak:PATTERN or a memcheck "
			 "block); ignored",
			 path, bad);
}

static void parse_file(const char *path, char *text)
{
	static const char mark[] = "\xef\xbb\xbf"; /* some editors begin UTF-8 so */

	complain(path, suppress_parse(strncmp(text, mark, sizeof(mark) - 1) == 0
					      ? text + sizeof(mark) - 1
					      : text));
}

static void load(const char *path)
{
	const char *why;
	char *text = read_file(path, &why);

	if (text)
		parse_file(path, text);
	else
		log_line("cannot read suppressions %.400s: %s; none are used", path, why);
}

void suppress_load(void)
{
	if (opt_get()->suppressions[0])
		load(opt_get()->suppressions);
}

void suppress_load_late(const char *path)
{
	char beside[512], *slash;
	const char *why;
	char *text;

	if (opt_get()->suppressions[0] || path[0] == '\0')
		return;
	os_program(beside, sizeof(beside));
	slash = strrchr(beside, '/');
	text = path[0] != '/' && slash ? read_file(path, &why) : NULL;
	if (text) {
		parse_file(path, text);
	} else if (path[0] != '/' && slash) {
		slash++;
		fmt_string(slash, sizeof(beside) - (size_t)(slash - beside), "%s", path);
		load(beside);
	} else {
		load(path);
	}
}

/* plain: the function's name, demangled. */
static bool matches_frame(const char *pattern, const struct symbol *s, const char *plain)
{
	if (s->function &&
	    (pattern_find(pattern, s->function) || pattern_find(pattern, plain)))
		return true;
	return s->module && pattern_find(pattern, s->module->path);
}

/* The first pattern that matches, by 1 + index; 0: none does. */
static uint32_t find_pattern(uintptr_t pc)
{
	struct symbol s;
	char text[512];
	const char *plain;

	if (pc <= FRAME_PSEUDO_MAX || !symbol_lookup(pc - 1, &s))
		return 0;
	plain = s.function ? symbol_demangle(s.function, text, sizeof(text)) : "";
	for (size_t i = 0; i < suppressions.count; i++)
		if (matches_frame(suppressions.patterns[i].text, &s, plain))
			return (uint32_t)i + 1;
	return 0;
}

/* Stacks have most of their frames in common: what was found for these, until
 * suppress_begin(). Guarded by the leak check's lock. */
static struct {
	uintptr_t pc;
	uint32_t match;
} memo[MEMO_SIZE];

void suppress_begin(void)
{
	if (suppressions.count > 0)
		memset(memo, 0, sizeof(memo));
	suppress_block_begin();
}

static uint32_t pattern_of(uintptr_t pc)
{
	const size_t i = (pc * 0x9e3779b97f4a7c15u) >> (64 - MEMO_LG);

	if (memo[i].pc != pc) {
		memo[i].match = find_pattern(pc);
		memo[i].pc = pc;
	}
	return memo[i].match;
}

bool suppress_matches(const struct leak_record *r)
{
	uint32_t site = r->site;

	if (suppress_block_matches(r))
		return true;
	for (; site && suppressions.count > 0; site = site_parent(site)) {
		uint32_t match = pattern_of(site_pc(site));

		if (match == 0)
			continue;
		suppressions.patterns[match - 1].objects += r->objects;
		suppressions.patterns[match - 1].bytes += r->bytes;
		return true;
	}
	return false;
}

void suppress_each(suppress_fn fn, void *arg)
{
	for (size_t i = 0; i < suppressions.count; i++) {
		const struct pattern *p = &suppressions.patterns[i];
		const struct suppress_entry e = { .name = p->text,
						  .kinds = ~0u,
						  .objects = p->objects,
						  .bytes = p->bytes };

		fn(&e, arg);
	}
	suppress_block_each(fn, arg);
}

static void count_one(const struct suppress_entry *e, void *arg)
{
	(void)e;
	++*(size_t *)arg;
}

bool suppress_any(void)
{
	size_t count = 0;

	suppress_each(count_one, &count);
	return count > 0;
}
