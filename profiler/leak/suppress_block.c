/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suppress_block: suppressions in the form that memcheck reads and writes:
 *
 *   {
 *     any name, shown when the block is not used
 *     Memcheck:Leak
 *     match-leak-kinds: definite     (optional)
 *     fun:malloc                     (innermost frame first)
 *     fun:make_*
 *     obj:*libfoo.so*
 *     ...                            (any number of frames)
 *   }
 *
 * The frames must match the innermost ones of the stack, in order; '*' and '?' are
 * wildcards and a pattern covers the whole name. Blocks about other errors are read and
 * dropped. Our stacks begin with the caller of malloc, so a first line that names an
 * allocation function is left out when it does not match.
 */
#include "profiler/leak/suppress.h"

#include <string.h>

#include "profiler/leak/leak.h"
#include "profiler/pprof/symbol.h"
#include "profiler/site/site.h"
#include "profiler/stack/unwind.h"

#define MAX_BLOCKS SUPPRESS_MAX_BLOCKS
#define MAX_LINES  16384 /* frame lines of all blocks */
#define MAX_DEPTH  48	 /* innermost frames of a stack that are looked at */

static struct {
	const char *lines[MAX_LINES]; /* "fun:x", "obj:x", "..." */
	uint32_t nlines;
	struct {
		const char *name;
		uint32_t first, count;	 /* in lines */
		unsigned kinds;		 /* bits by enum leak_kind */
		uint64_t objects, bytes; /* matched; guarded by the leak check's lock */
	} list[MAX_BLOCKS];
	uint32_t count;
	uint32_t with_source; /* left out */
	uint32_t too_many;    /* likewise */
	/* While a block is read: */
	uint32_t seen; /* lines of its head: name, kind */
	bool inside, wanted;
	/* Of the stack that is being matched; guarded by the leak check's lock. */
	struct symbol frames[MAX_DEPTH];
} blocks;

bool suppress_glob_whole(const char *p, const char *text)
{
	const char *star = NULL, *retry = NULL;

	while (*text) {
		if (*p == '*') {
			star = ++p;
			retry = text;
		} else if (*p && (*p == '?' || *p == *text)) {
			p++;
			text++;
		} else if (star) {
			p = star;
			text = ++retry;
		} else {
			return false;
		}
	}
	while (*p == '*')
		p++;
	return *p == '\0';
}

/* ---- reading ---- */

static bool starts_with(const char *line, const char *word)
{
	return strncmp(line, word, strlen(word)) == 0;
}

static void begin_block(void)
{
	blocks.inside = true;
	blocks.wanted = blocks.count < MAX_BLOCKS;
	blocks.seen = 0;
	blocks.too_many += !blocks.wanted;
	if (blocks.wanted) {
		blocks.list[blocks.count].first = blocks.nlines;
		blocks.list[blocks.count].count = 0;
		blocks.list[blocks.count].kinds = ~0u;
	}
}

/* A block of gaps alone would match every stack. */
static bool names_something(uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++)
		if (strcmp(blocks.lines[i], "...") != 0)
			return true;
	return false;
}

/* False: it lacks something. */
static bool end_block(void)
{
	blocks.inside = false;
	if (!blocks.wanted)
		return true;
	if (!names_something(blocks.list[blocks.count].first,
			     blocks.list[blocks.count].count))
		return false;
	blocks.count++;
	return true;
}

/* The second line: tools and kind of error. */
static bool read_kind(const char *line)
{
	const char *colon = strchr(line, ':');

	if (!colon)
		return false;
	if (strcmp(colon + 1, "Leak") != 0 || !strstr(line, "Memcheck"))
		blocks.wanted = false;
	return true;
}

static const struct {
	const char *name;
	unsigned kinds;
} kind_names[] = {
	{ "definite", 1u << LEAK_DIRECT }, /* what we call direct */
	{ "indirect", 1u << LEAK_INDIRECT },
	{ "possible", 1u << LEAK_POSSIBLE },
	{ "reachable", 0 }, /* is no loss */
	{ "all", ~0u },
	{ "none", 0 },
};

/* Of one name of that length. */
static bool add_kind(const char *name, size_t length, unsigned *kinds)
{
	for (size_t i = 0; i < ARRAY_LEN(kind_names); i++)
		if (strlen(kind_names[i].name) == length &&
		    strncmp(name, kind_names[i].name, length) == 0) {
			*kinds |= kind_names[i].kinds;
			return true;
		}
	return false;
}

/* "definite,possible". */
static bool read_kinds(const char *line)
{
	unsigned kinds = 0;

	while (*line == ' ' || *line == '\t')
		line++;
	for (;;) {
		const char *comma = strchr(line, ',');
		size_t length = comma ? (size_t)(comma - line) : strlen(line);

		if (!add_kind(line, length, &kinds))
			return false;
		if (line[length] == '\0')
			break;
		line += length + 1;
	}
	if (blocks.wanted)
		blocks.list[blocks.count].kinds = kinds;
	return true;
}

static bool read_frame(const char *line)
{
	static const char kinds[] = "match-leak-kinds:";

	if (starts_with(line, kinds))
		return read_kinds(line + sizeof(kinds) - 1) || !blocks.wanted;
	if (starts_with(line, "src:") && blocks.wanted) {
		blocks.with_source++;
		blocks.wanted = false;
	}
	if (strcmp(line, "...") != 0 && !starts_with(line, "fun:") &&
	    !starts_with(line, "obj:"))
		return !blocks.wanted; /* blocks of other kinds have lines of their own */
	if (blocks.nlines == MAX_LINES && blocks.wanted) {
		blocks.wanted = false;
		blocks.too_many++;
	}
	if (blocks.wanted) {
		blocks.lines[blocks.nlines++] = line;
		blocks.list[blocks.count].count++;
	}
	return true;
}

/* Of a line inside a block. A block with a line that makes no sense is left out: what is
 * left of it would match more than was meant. */
static bool read_inside(const char *line)
{
	bool ok = true;

	if (strcmp(line, "}") == 0)
		return end_block();
	if (strcmp(line, "{") == 0) {
		begin_block(); /* the one before has no end */
		return false;
	}
	if (blocks.seen++ == 0) {
		if (blocks.wanted)
			blocks.list[blocks.count].name = line;
		return true;
	}
	ok = blocks.seen == 2 ? read_kind(line) : read_frame(line);
	if (!ok)
		blocks.wanted = false;
	return ok;
}

bool suppress_block_line(const char *line, bool *out_ok)
{
	*out_ok = true;
	if (blocks.inside) {
		*out_ok = read_inside(line);
		return true;
	}
	if (strcmp(line, "{") != 0)
		return false;
	begin_block();
	return true;
}

uint32_t suppress_blocks_too_many(void)
{
	return blocks.too_many;
}

bool suppress_block_open(void)
{
	bool open = blocks.inside;

	blocks.inside = false;
	return open;
}

/* ---- matching ---- */

static bool line_matches(const char *line, const struct symbol *s)
{
	char text[512];

	if (starts_with(line, "obj:"))
		return s->module && suppress_glob_whole(line + 4, s->module->path);
	if (!starts_with(line, "fun:") || !s->function)
		return false;
	return suppress_glob_whole(line + 4, s->function) ||
	       suppress_glob_whole(line + 4,
				   symbol_demangle(s->function, text, sizeof(text)));
}

bool suppress_frames_match(const char *const *lines, uint32_t nlines,
			   const struct symbol *frames, uint32_t nframes)
{
	uint32_t l = 0, f = 0, after_gap = 0, retry = 0;
	bool gap = false;

	while (l < nlines) {
		if (strcmp(lines[l], "...") == 0) {
			gap = true;
			after_gap = ++l;
			retry = f;
		} else if (f < nframes && line_matches(lines[l], &frames[f])) {
			l++;
			f++;
		} else if (gap && retry < nframes) {
			l = after_gap;
			f = ++retry;
		} else {
			return false;
		}
	}
	return true;
}

static bool names_allocator(const char *line)
{
	static const char *const names[] = { "malloc",
					     "calloc",
					     "realloc",
					     "reallocarray",
					     "memalign",
					     "valloc",
					     "aligned_alloc",
					     "posix_memalign",
					     "_Znwm",
					     "_Znam",
					     "_ZnwmRKSt9nothrow_t",
					     "_ZnamRKSt9nothrow_t" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (starts_with(line, "fun:") && suppress_glob_whole(line + 4, names[i]))
			return true;
	return starts_with(line, "obj:") && strstr(line, "vgpreload");
}

static uint32_t collect(uint32_t site, struct symbol *frames)
{
	uint32_t n = 0;

	for (; site && n < MAX_DEPTH; site = site_parent(site), n++) {
		uintptr_t pc = site_pc(site);

		if (pc <= FRAME_PSEUDO_MAX || !symbol_lookup(pc - 1, &frames[n]))
			frames[n] = (struct symbol){ 0 };
	}
	return n;
}

static bool block_matches(uint32_t i, uint32_t nframes)
{
	const char *const *lines = &blocks.lines[blocks.list[i].first];
	const struct symbol *frames = blocks.frames;
	uint32_t n = blocks.list[i].count;

	return suppress_frames_match(lines, n, frames, nframes) ||
	       (n > 1 && names_allocator(lines[0]) &&
		suppress_frames_match(lines + 1, n - 1, frames, nframes));
}

bool suppress_block_matches(const struct leak_record *r)
{
	uint32_t nframes = blocks.count ? collect(r->site, blocks.frames) : 0;

	for (uint32_t i = 0; i < blocks.count; i++) {
		if (!(blocks.list[i].kinds >> r->kind & 1) || !block_matches(i, nframes))
			continue;
		blocks.list[i].objects += r->objects;
		blocks.list[i].bytes += r->bytes;
		return true;
	}
	return false;
}

uint32_t suppress_blocks_with_source(void)
{
	return blocks.with_source;
}

void suppress_block_each(void (*fn)(const char *name, uint64_t objects, uint64_t bytes,
				    void *arg),
			 void *arg)
{
	for (uint32_t i = 0; i < blocks.count; i++)
		fn(blocks.list[i].name, blocks.list[i].objects, blocks.list[i].bytes,
		   arg);
}
