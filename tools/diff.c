/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff: `seep diff`: what grew between two profiles. Stacks are compared by the names of
 * their functions, so that the two may be of different builds.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/commands.h"
#include "tools/lib/estimate.h"
#include "tools/lib/pbmerge.h"
#include "tools/lib/say.h"
#include "tools/lib/stacks.h"

#define MAX_FRAMES 12 /* printed for one stack */

static const char usage[] =
	"usage: seep diff [OPTIONS] OLD NEW\n\n"
	"Compares two profiles (.pb.gz) of one kind and prints what grew, most first.\n\n"
	"  --by WHAT              stack (default), function or line: what to add up\n"
	"  --sample-index TYPE    inuse_space, alloc_objects ... (the profile's "
	"default)\n"
	"  -n, --top N            so many entries (20); 0: all\n"
	"  --shrunk               what shrank as well\n"
	"  --format FORMAT        text (default) or json\n"
	"  -o, --out FILE         write NEW less OLD as a profile for go tool pprof\n"
	"  -h, --help             this text\n\n"
	"Exit status: 0; 24 when a file cannot be read or written, or the two do not\n"
	"compare; 25 wrong usage.\n";

enum { OPT_BY = 256, OPT_INDEX, OPT_SHRUNK, OPT_FORMAT };

static const struct option options[] = {
	{ "by", required_argument, NULL, OPT_BY },
	{ "sample-index", required_argument, NULL, OPT_INDEX },
	{ "top", required_argument, NULL, 'n' },
	{ "shrunk", no_argument, NULL, OPT_SHRUNK },
	{ "format", required_argument, NULL, OPT_FORMAT },
	{ "out", required_argument, NULL, 'o' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

enum by { BY_STACK, BY_FUNCTION, BY_LINE };

/* What is compared: one stack, or one function or line with what it allocated itself. */
struct entry {
	int64_t values[2];  /* old, new */
	int64_t objects[2]; /* where the profile counts them */
	double variance;    /* of both together, where they are estimates */
	struct frame *frames;
	size_t nframes;
};

struct diff {
	enum by by;
	const char *index, *out, *paths[2];
	long top;
	bool shrunk, json;
	struct pbfile *files[2];
	int type, objects_type; /* -1: none */
	struct intern keys;	/* numbers index entries[] */
	struct entry *entries;
	size_t entries_size;
	struct arena arena;
	int64_t totals[2];
	double variance; /* of both */
};

static enum by parse_by(const char *word)
{
	static const char *const words[] = { "stack", "function", "line" };

	for (int i = 0; i < 3; i++)
		if (strcmp(word, words[i]) == 0)
			return (enum by)i;
	die(EXIT_USAGE, "--by %s: not stack, function or line", word);
}

static void parse_one(struct diff *d, int c)
{
	switch (c) {
	case OPT_BY:
		d->by = parse_by(optarg);
		break;
	case OPT_INDEX:
		d->index = optarg;
		break;
	case 'n':
		d->top = parse_number("-n", optarg, 0, LONG_MAX);
		break;
	case OPT_SHRUNK:
		d->shrunk = true;
		break;
	case OPT_FORMAT:
		d->json = strcmp(optarg, "json") == 0;
		if (!d->json && strcmp(optarg, "text") != 0)
			die(EXIT_USAGE, "--format %s: not text or json", optarg);
		break;
	case 'o':
		d->out = optarg;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		die(EXIT_USAGE, "see seep diff --help");
	}
}

static void parse(struct diff *d, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "n:o:h", options, NULL)) != -1) {
		if (c == '?')
			die_option(argv[optind - 1], "diff");
		parse_one(d, c);
	}
	if (argc - optind != 2)
		die(EXIT_USAGE, "two profiles are needed, OLD and NEW; see seep diff "
				"--help");
	d->paths[0] = argv[optind];
	d->paths[1] = argv[optind + 1];
}

/* ---- reading ---- */

static void load(struct diff *d)
{
	const char *mismatch, *name;
	char *why;

	for (int i = 0; i < 2; i++) {
		d->files[i] = pbfile_read(d->paths[i], &why);
		if (!d->files[i])
			die(EXIT_INCOMPLETE, "%s: %s", d->paths[i], why);
	}
	mismatch = pbmerge_mismatch(d->files[0], d->files[1]);
	if (mismatch)
		die(EXIT_INCOMPLETE, "cannot compare %s and %s: %s", d->paths[0],
		    d->paths[1], mismatch);
	d->type = pbfile_type(d->files[1], d->index);
	if (d->type < 0)
		die(EXIT_USAGE, "--sample-index %s: the profile has no such type",
		    d->index);
	/* inuse_space goes with inuse_objects */
	name = pbfile_text(d->files[1], d->files[1]->p->sample_type[d->type]->type);
	d->objects_type = -1;
	if (strstr(name, "space")) {
		char *objects = format_string("%.*sobjects",
					      (int)(strstr(name, "space") - name), name);

		d->objects_type = pbfile_type(d->files[1], objects);
		free(objects);
	}
}

/* ---- adding up ---- */

static size_t key_of(struct diff *d, const struct frame *frames, size_t n)
{
	size_t size = 0;
	char *key, *at;
	size_t number;

	if (d->by != BY_STACK)
		n = 1;
	for (size_t i = 0; i < n; i++)
		size += strlen(frames[i].function) + strlen(frames[i].file) + 32;
	key = at = allocate(size + 1);
	for (size_t i = 0; i < n; i++) {
		at = stpcpy(at, frames[i].function) + 1;
		if (d->by == BY_LINE)
			at += sprintf(at, "%s:%lld", frames[i].file,
				      (long long)frames[i].line);
	}
	number = intern_bytes(&d->keys, key, (size_t)(at - key));
	free(key);
	return number;
}

static struct entry *entry_of(struct diff *d, const struct frame *frames, size_t n)
{
	size_t before = d->keys.count, number = key_of(d, frames, n);
	struct entry *e;

	if (number < before)
		return &d->entries[number];
	d->entries = grown(d->entries, number, &d->entries_size, sizeof(*e));
	e = &d->entries[number];
	*e = (struct entry){ .nframes = d->by == BY_STACK ? n : 1 };
	e->frames = arena_alloc(&d->arena, e->nframes * sizeof(*e->frames));
	memcpy(e->frames, frames, e->nframes * sizeof(*e->frames));
	return e;
}

static void add_up(struct diff *d, struct stacks stacks[2])
{
	for (int i = 1; i >= 0; i--) { /* the new file's lines are shown */
		const Seep__Pprof__Profile *p = d->files[i]->p;
		struct estimate estimate = estimate_of(d->files[i], d->type);

		stacks_init(&stacks[i], d->files[i]);
		for (size_t k = 0; k < p->n_sample; k++) {
			const Seep__Pprof__Sample *s = p->sample[k];
			const struct frame *frames;
			size_t n = stacks_of(&stacks[i], s, &frames);
			struct entry *e = entry_of(d, frames, n);
			double variance =
				estimate_variance(&estimate, s, s->value[d->type]);

			e->variance += variance;
			d->variance += variance;
			e->values[i] += s->value[d->type];
			d->totals[i] += s->value[d->type];
			if (d->objects_type >= 0)
				e->objects[i] += s->value[d->objects_type];
		}
	}
}

static int64_t delta(const struct entry *e)
{
	return e->values[1] - e->values[0];
}

static int grown_first(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (delta(x) != delta(y))
		return delta(x) > delta(y) ? -1 : 1;
	return strcmp(x->frames[0].function, y->frames[0].function);
}

/* ---- printing ---- */

static const char *amount(const struct diff *d, int64_t value, char buf[32])
{
	const struct pbfile *f = d->files[1];
	bool bytes =
		strcmp(pbfile_text(f, f->p->sample_type[d->type]->unit), "bytes") == 0;

	if (bytes)
		say_bytes(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, buf, 32);
	else
		snprintf(buf, 32, "%llu",
			 value < 0 ? 0 - (unsigned long long)value
				   : (unsigned long long)value);
	return buf;
}

/* " ±12.0 KiB" of a difference: what is left of two estimates is no share of either. */
static const char *error_text(const struct diff *d, double variance, char buf[48])
{
	char a[32];

	buf[0] = '\0';
	if (variance > 0)
		snprintf(buf, 48, " ±%s", amount(d, llround(sqrt(variance)), a));
	return buf;
}

static void print_entry(const struct diff *d, const struct entry *e)
{
	char a[32], b[32], c[32], error[48];

	printf("\n%c%s%s", delta(e) < 0 ? '-' : '+', amount(d, delta(e), a),
	       error_text(d, e->variance, error));
	if (d->objects_type >= 0)
		printf(" in %+lld objects", (long long)(e->objects[1] - e->objects[0]));
	printf(" (%s -> %s)\n", amount(d, e->values[0], b), amount(d, e->values[1], c));
	for (size_t i = 0; i < e->nframes && i < MAX_FRAMES; i++) {
		char *place = frame_place(&e->frames[i]);

		printf("    %s%s  %s\n", e->frames[i].function,
		       e->frames[i].inlined ? " (inline)" : "", place);
		free(place);
	}
	if (e->nframes > MAX_FRAMES)
		printf("    ... %zu more\n", e->nframes - MAX_FRAMES);
}

static bool shown(const struct diff *d, const struct entry *e)
{
	return delta(e) > 0 || (d->shrunk && delta(e) < 0);
}

static void print_text(const struct diff *d)
{
	int64_t grown = d->totals[1] - d->totals[0];
	const struct pbfile *f = d->files[1];
	char a[32], b[32], c[32], error[48];
	size_t left = 0;
	long printed = 0;

	printf("%s: %s -> %s, %c%s%s", pbfile_text(f, f->p->sample_type[d->type]->type),
	       amount(d, d->totals[0], a), amount(d, d->totals[1], b),
	       grown < 0 ? '-' : '+', amount(d, grown, c),
	       error_text(d, d->variance, error));
	if (d->totals[0] > 0)
		printf(" (%+.1f%%)", 100.0 * (double)grown / (double)d->totals[0]);
	putchar('\n');
	for (size_t i = 0; i < d->keys.count; i++) {
		if (!shown(d, &d->entries[i]))
			continue;
		if (d->top && printed == d->top) {
			left++;
			continue;
		}
		print_entry(d, &d->entries[i]);
		printed++;
	}
	if (left)
		printf("\n... and %zu more; -n 0 shows all\n", left);
	if (printed == 0)
		puts(d->shrunk ? "nothing changed" : "nothing grew");
}

static json_t *json_entry(const struct diff *d, const struct entry *e)
{
	json_t *stack = json_array();
	json_t *j = json_pack("{s:I,s:I,s:I}", "old", (json_int_t)e->values[0], "new",
			      (json_int_t)e->values[1], "delta", (json_int_t)delta(e));

	if (d->objects_type >= 0)
		json_object_set_new(j, "objects_delta",
				    json_integer(e->objects[1] - e->objects[0]));
	if (e->variance > 0)
		json_object_set_new(j, "standard_error", json_real(sqrt(e->variance)));
	for (size_t i = 0; i < e->nframes; i++) {
		const struct frame *f = &e->frames[i];

		json_array_append_new(
			stack, json_pack("{s:s,s:s,s:I,s:s,s:b}", "function", f->function,
					 "file", f->file, "line", (json_int_t)f->line,
					 "module", f->module, "inlined", f->inlined));
	}
	json_object_set_new(j, "stack", stack);
	return j;
}

static void print_json(const struct diff *d)
{
	const Seep__Pprof__ValueType *type = d->files[1]->p->sample_type[d->type];
	json_t *entries = json_array(), *root;
	long n = 0;

	for (size_t i = 0; i < d->keys.count; i++)
		if (shown(d, &d->entries[i]) && (d->top == 0 || n++ < d->top))
			json_array_append_new(entries, json_entry(d, &d->entries[i]));
	root = json_pack("{s:i,s:s,s:s,s:s,s:s,s:I,s:I,s:o}", "schema", 1, "old",
			 d->paths[0], "new", d->paths[1], "sample_type",
			 pbfile_text(d->files[1], type->type), "unit",
			 pbfile_text(d->files[1], type->unit), "old_total",
			 (json_int_t)d->totals[0], "new_total", (json_int_t)d->totals[1],
			 "entries", entries);
	if (!root)
		die(EXIT_INCOMPLETE, "a path is not UTF-8");
	json_dumpf(root, stdout, JSON_INDENT(1));
	putchar('\n');
	json_decref(root);
}

int command_diff(int argc, char **argv)
{
	struct diff d = { .top = 20 };
	struct stacks stacks[2];

	parse(&d, argc, argv);
	load(&d);
	add_up(&d, stacks);
	if (d.keys.count > 0)
		qsort(d.entries, d.keys.count, sizeof(*d.entries), grown_first);
	if (d.json)
		print_json(&d);
	else
		print_text(&d);
	if (fflush(stdout) != 0)
		die(EXIT_INCOMPLETE, "cannot write: %s", strerror(errno));
	stacks_free(&stacks[0]);
	stacks_free(&stacks[1]);
	if (d.out) {
		pbmerge_subtract(d.files[1], d.files[0]);
		if (!pbfile_write(d.files[1], d.out))
			die(EXIT_INCOMPLETE, "cannot write %s: %s", d.out,
			    strerror(errno));
	}
	pbfile_free(d.files[0]);
	pbfile_free(d.files[1]);
	intern_free(&d.keys);
	arena_free(&d.arena);
	free(d.entries);
	return 0;
}
