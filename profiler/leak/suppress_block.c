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
 * dropped. Lines of source files ("src:x.c:12") match nothing here: the tool matches
 * them.
 */
#include "profiler/leak/suppress.h"

#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/pattern.h"
#include "profiler/leak/leak.h"
#include "profiler/pprof/symbol.h"
#include "profiler/site/site.h"
#include "profiler/stack/unwind.h"

#define MAX_BLOCKS SUPPRESS_MAX_BLOCKS
#define MAX_LINES  16384 /* frame lines of all blocks */
#define MAX_DEPTH  48	 /* innermost frames of a stack that are looked at */
#define NAME_BYTES 512
#define MEMO_LG	   14

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
	uint32_t too_many; /* left out */
	/* While a block is read: */
	uint32_t seen; /* lines of its head: name, kind */
	bool inside, wanted;
	/* Of the stack that is being matched; guarded by the leak check's lock. */
	struct symbol frames[MAX_DEPTH];
	uintptr_t pcs[MAX_DEPTH];
	char names[MAX_DEPTH][NAME_BYTES];
} blocks;

/* A gap tries every frame below it, and stacks have most of their frames in common: what
 * was found for a line and a frame, until suppress_block_begin(). Guarded by the leak
 * check's lock. */
static struct {
	const char *line;
	uint64_t pc : 63, matches : 1;
} memo[1 << MEMO_LG];

_Static_assert(MAX_DEPTH <= 64, "a bit for each");

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
	if (strcmp(line, "...") != 0 && !starts_with(line, "fun:") &&
	    !starts_with(line, "obj:") && !starts_with(line, "src:"))
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

struct framed {
	const struct symbol *frames;
	/* Demangled names of the first MAX_DEPTH, made when they are asked for; NULL:
	 * kept nowhere. */
	char (*names)[NAME_BYTES];
	uint64_t *known; /* bits */
};

static const char *name_of(const struct framed *stack, uint32_t frame, char *text)
{
	const char *function = stack->frames[frame].function, *plain;

	if (!stack->names)
		return symbol_demangle(function, text, NAME_BYTES);
	if (!(*stack->known >> frame & 1)) {
		plain = symbol_demangle(function, text, NAME_BYTES);
		fmt_string(stack->names[frame], NAME_BYTES, "%s", plain);
		*stack->known |= (uint64_t)1 << frame;
	}
	return stack->names[frame];
}

static bool frame_matches(const char *line, uint32_t frame, const struct framed *stack)
{
	const struct symbol *s = &stack->frames[frame];
	char text[NAME_BYTES];

	if (starts_with(line, "obj:"))
		return s->module && pattern_whole(line + 4, s->module->path);
	if (!starts_with(line, "fun:") || !s->function)
		return false;
	return pattern_whole(line + 4, s->function) ||
	       pattern_whole(line + 4, name_of(stack, frame, text));
}

static bool frame_matches_new(const char *line, uint32_t frame, void *arg)
{
	return frame_matches(line, frame, arg);
}

static bool frame_matches_known(const char *line, uint32_t frame, void *arg)
{
	const uintptr_t pc = blocks.pcs[frame];
	const uint64_t key = (pc ^ (uintptr_t)line << 20) * 0x9e3779b97f4a7c15u;
	const size_t i = key >> (64 - MEMO_LG);

	if (memo[i].line != line || memo[i].pc != pc) {
		memo[i].line = line;
		memo[i].pc = pc & (UINT64_MAX >> 1);
		memo[i].matches = frame_matches(line, frame, arg);
	}
	return memo[i].matches;
}

void suppress_block_begin(void)
{
	if (blocks.count > 0)
		memset(memo, 0, sizeof(memo));
}

bool suppress_frames_match(const char *const *lines, uint32_t nlines,
			   const struct symbol *frames, uint32_t nframes)
{
	struct framed stack = { .frames = frames };

	return pattern_stack(lines, nlines, nframes, frame_matches_new, &stack);
}

static uint32_t collect(uint32_t site)
{
	uint32_t n = 0;

	for (; site && n < MAX_DEPTH; site = site_parent(site), n++) {
		uintptr_t pc = site_pc(site);

		blocks.pcs[n] = pc;
		if (pc <= FRAME_PSEUDO_MAX || !symbol_lookup(pc - 1, &blocks.frames[n]))
			blocks.frames[n] = (struct symbol){ 0 };
	}
	return n;
}

bool suppress_block_matches(const struct leak_record *r)
{
	uint32_t nframes = blocks.count ? collect(r->site) : 0;
	uint64_t known = 0;
	struct framed stack = { .frames = blocks.frames,
				.names = blocks.names,
				.known = &known };

	for (uint32_t i = 0; i < blocks.count; i++) {
		if (!(blocks.list[i].kinds >> r->kind & 1) ||
		    !pattern_stack(&blocks.lines[blocks.list[i].first],
				   blocks.list[i].count, nframes, frame_matches_known,
				   &stack))
			continue;
		blocks.list[i].objects += r->objects;
		blocks.list[i].bytes += r->bytes;
		return true;
	}
	return false;
}

void suppress_block_each(suppress_fn fn, void *arg)
{
	for (uint32_t i = 0; i < blocks.count; i++) {
		const struct suppress_entry e = {
			.name = blocks.list[i].name,
			.lines = &blocks.lines[blocks.list[i].first],
			.nlines = blocks.list[i].count,
			.kinds = blocks.list[i].kinds,
			.objects = blocks.list[i].objects,
			.bytes = blocks.list[i].bytes,
		};

		fn(&e, arg);
	}
}
