/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads: `seep threads PID`: what the threads of a live process are doing, which of
 * them can never run again, and which have ended without being joined. `seep threads
 * FILE` shows the same of a profile that was written before.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/lib/agent.h"
#include "tools/lib/output.h"
#include "tools/lib/say.h"
#include "tools/lib/threadfile.h"

static const char usage[] =
	"usage: seep threads [OPTIONS] PID\n"
	"       seep threads [--created] [--full] FILE\n\n"
	"Shows the threads of a running process that has libseep.so loaded: grouped by\n"
	"stack, with their states; those that are blocked for ever, since nobody who "
	"could\n"
	"wake them can run or find what they wait for; those that have ended and were "
	"never\n"
	"joined. The process stands still for as long as the first line says.\n"
	"With FILE: what a profile shows that was written by -o, or at the end of a "
	"process\n"
	"(.threads.pb.gz, and .threadcreate.pb.gz with --created).\n\n"
	"  --created          instead, the sites that create threads: how many, how many "
	"of\n"
	"                     them live, and whether these become more and more; nothing "
	"is\n"
	"                     stopped for it\n"
	"  --full             each thread by itself, with the stack that created it\n"
	"  -o, --out FILE     also the profile, for go tool pprof; - for standard "
	"output,\n"
	"                     instead of the text\n"
	"  --quick            of the blocked ones only deadlocks: no snapshot of memory\n"
	"  --signal N         the signal= that the process was started with\n"
	"  --force            ask even where a seccomp filter might kill the process for "
	"it\n"
	"  -h, --help         this text\n\n"
	"Exit status: 0; 24 when the process cannot be asked or did not answer, with "
	"the\n"
	"reason; 25 for wrong usage.\n";

static const struct option options[] = {
	{ "created", no_argument, NULL, 'C' },
	{ "full", no_argument, NULL, 'F' },
	{ "out", required_argument, NULL, 'o' },
	{ "quick", no_argument, NULL, 'Q' },
	AGENT_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct threads {
	struct agent_target target;
	const char *out;
	bool full, quick, created;
	const char *path; /* of a written profile; NULL: a process is asked */
	struct threadfile *file;
	size_t n;   /* samples */
	bool *done; /* samples that were printed in a group */
};

static bool is_number(const char *text)
{
	return text[0] && text[strspn(text, "0123456789")] == '\0';
}

static void parse(struct threads *t, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
		switch (c) {
		case 'C':
			t->created = true;
			break;
		case 'F':
			t->full = true;
			break;
		case 'o':
			t->out = optarg;
			break;
		case 'Q':
			t->quick = true;
			break;
		case AGENT_OPTION_SIGNAL:
		case AGENT_OPTION_FORCE:
			agent_option(&t->target, c);
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			die_option(argv[optind - 1], "threads");
		}
	}
	if (optind + 1 != argc)
		die(EXIT_USAGE, "one process id or file is needed; see seep threads "
				"--help");
	if (is_number(argv[optind])) {
		t->target.pid = agent_parse_pid(argv[optind]);
		return;
	}
	t->path = argv[optind];
	if (access(t->path, R_OK) != 0)
		die(EXIT_USAGE, "%s: neither a process id nor a file to be read",
		    t->path);
	if (t->out || t->quick)
		die(EXIT_USAGE, "a file is only shown; see seep threads --help");
}

/* ---- text ---- */

static const struct thread_sample *at(const struct threads *t, size_t i)
{
	return threadfile_at(t->file, i);
}

static void print_stack(const struct thread_sample *s)
{
	for (size_t i = 0; i < s->nframes; i++) {
		const struct thread_frame *f = &s->frames[i];

		if (f->function[0])
			printf("    #%zu %s%s%s%s\n", i, f->function,
			       f->file[0] ? " (" : "", f->file, f->file[0] ? ")" : "");
		else
			printf("    #%zu %#llx (%s)\n", i, (unsigned long long)f->address,
			       f->file);
	}
}

static void print_blocked(const struct thread_sample *s)
{
	if (!s->blocked[0])
		return;
	printf("    blocked for ever: %s", s->blocked);
	if (s->other)
		printf(", thread %lld", (long long)s->other);
	printf("\n");
}

static const struct thread_sample *creator(const struct threads *t, int64_t tid)
{
	for (size_t i = 0; i < t->n; i++)
		if (at(t, i)->tid == tid && strcmp(at(t, i)->role, "created") == 0)
			return at(t, i);
	return NULL;
}

static void print_each(const struct threads *t)
{
	char wait[32];

	for (size_t i = 0; i < t->n; i++) {
		const struct thread_sample *s = at(t, i), *c;

		if (s->role[0])
			continue;
		threadfile_wait(s->wait_ns, wait, sizeof(wait));
		if (s->tid)
			printf("\nthread %lld \"%s\" [%s%s]:\n", (long long)s->tid,
			       s->name, s->state, wait);
		else /* of a written profile, one for all alike */
			printf("\n%lld thread%s \"%s\" [%s%s]:\n", (long long)s->count,
			       s->count == 1 ? "" : "s", s->name, s->state, wait);
		print_blocked(s);
		print_stack(s);
		c = s->tid ? creator(t, s->tid) : NULL;
		if (c) {
			printf("  created by:\n");
			print_stack(c);
		}
	}
}

static bool same_stack(const struct thread_sample *a, const struct thread_sample *b)
{
	return a->stack == b->stack && strcmp(a->state, b->state) == 0 &&
	       strcmp(a->role, b->role) == 0 && strcmp(a->blocked, b->blocked) == 0;
}

/* The names of a group: "a, b, c". */
static char *names_of(const struct threads *t, size_t first)
{
	char *names = format_string("%s", "");

	for (size_t i = first; i < t->n; i++) {
		char *more;

		if (!same_stack(at(t, first), at(t, i)) || strstr(names, at(t, i)->name))
			continue;
		more = format_string("%s%s%s", names, *names ? ", " : "", at(t, i)->name);
		free(names);
		names = more;
	}
	return names;
}

static void print_group(const struct threads *t, size_t first, size_t count)
{
	const struct thread_sample *s = at(t, first);
	char *names = names_of(t, first);
	int64_t longest = 0;
	char wait[32];

	for (size_t i = first; i < t->n; i++)
		if (same_stack(s, at(t, i)) && at(t, i)->wait_ns > longest)
			longest = at(t, i)->wait_ns;
	printf("\n%zu thread%s [%s%s]: %s\n", count, count == 1 ? "" : "s", s->state,
	       threadfile_wait(longest, wait, sizeof(wait)), names);
	if (count == 1 || !s->other)
		print_blocked(s);
	else
		for (size_t i = first; i < t->n; i++)
			if (same_stack(s, at(t, i)))
				print_blocked(at(t, i));
	print_stack(s);
	free(names);
}

/* How many of the samples from first on are like it; they are done then. */
static size_t take_group(struct threads *t, size_t first, int64_t *out_bytes)
{
	size_t count = 0;

	*out_bytes = 0;
	for (size_t i = first; i < t->n; i++) {
		if (t->done[i] || !same_stack(at(t, first), at(t, i)))
			continue;
		t->done[i] = true;
		*out_bytes += at(t, i)->bytes;
		count += (size_t)at(t, i)->count;
	}
	return count;
}

struct group {
	size_t first, count;
	int64_t bytes;
	bool blocked;
};

/* Blocked ones first, then the largest. */
static int before(const void *x, const void *y)
{
	const struct group *a = x, *b = y;

	if (a->blocked != b->blocked)
		return a->blocked ? -1 : 1;
	if (a->count != b->count)
		return a->count > b->count ? -1 : 1;
	return a->first < b->first ? -1 : 1;
}

static size_t make_groups(struct threads *t, const char *role, struct group *groups)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n; i++) {
		struct group g = { .first = i, .blocked = at(t, i)->blocked[0] != '\0' };

		if (t->done[i] || strcmp(at(t, i)->role, role) != 0)
			continue;
		g.count = take_group(t, i, &g.bytes);
		groups[n++] = g;
	}
	qsort(groups, n, sizeof(*groups), before);
	return n;
}

static void print_ended(struct threads *t, struct group *groups)
{
	size_t n = make_groups(t, "ended", groups);
	char bytes[32];

	for (size_t i = 0; i < n; i++) {
		const struct group *g = &groups[i];

		printf("\n%zu thread%s ended and never joined nor detached, %s of "
		       "stack kept, created by:\n",
		       g->count, g->count == 1 ? "" : "s",
		       say_bytes((uint64_t)g->bytes, bytes, sizeof(bytes)));
		print_stack(at(t, g->first));
	}
}

static void print_growing(struct threads *t)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct thread_sample *s = at(t, i);

		if (strcmp(s->role, "growing") != 0)
			continue;
		printf("\n%lld live threads, more and more (at least, over time: %s), "
		       "created by:\n",
		       (long long)s->count, s->over_time);
		print_stack(s);
	}
}

/* ---- sites that create threads ---- */

static int most_live_first(const void *x, const void *y)
{
	const struct thread_sample *a = *(const struct thread_sample *const *)x;
	const struct thread_sample *b = *(const struct thread_sample *const *)y;

	if (a->live != b->live)
		return a->live > b->live ? -1 : 1;
	return a->count > b->count ? -1 : a->count < b->count;
}

static void print_sites(const struct threads *t)
{
	const struct thread_sample **s = allocate((t->n + 1) * sizeof(*s));
	char *program = t->path ? NULL : agent_program(t->target.pid);
	int64_t created = 0, live = 0;

	for (size_t i = 0; i < t->n; i++) {
		s[i] = at(t, i);
		created += s[i]->count;
		live += s[i]->live;
	}
	qsort(s, t->n, sizeof(*s), most_live_first);
	if (t->path)
		printf("%s: ", t->path);
	else
		printf("%s (process %d): ", program, t->target.pid);
	printf("%lld threads created at %zu site%s, %lld live\n", (long long)created,
	       t->n, t->n == 1 ? "" : "s", (long long)live);
	for (size_t i = 0; i < t->n; i++) {
		printf("\n%lld live of %lld created, at most %lld at once%s "
		       "(at least, over time: %s):\n",
		       (long long)s[i]->live, (long long)s[i]->count,
		       (long long)s[i]->peak, s[i]->growing[0] ? ", more and more" : "",
		       s[i]->over_time);
		print_stack(s[i]);
	}
	free(program);
	free(s);
}

/* ---- deadlocks ---- */

static size_t thread_of(const struct threads *t, int64_t tid)
{
	size_t i = 0;

	while (i < t->n && (at(t, i)->role[0] || at(t, i)->tid != tid))
		i++;
	return i;
}

/* Who waits for whom, around to the first one again. */
static void print_cycle(const struct threads *t, size_t first, bool *seen)
{
	size_t i = first, count = 0;
	char wait[32];

	do {
		count++;
		i = thread_of(t, at(t, i)->other);
	} while (i < t->n && i != first && count <= t->n);
	if (i != first)
		return;
	printf("\ndeadlock of %zu thread%s:\n", count, count == 1 ? "" : "s");
	do {
		const struct thread_sample *s = at(t, i);

		seen[i] = true;
		printf("  thread %lld \"%s\" [%s%s] waits for %#llx, which thread %lld "
		       "has:\n",
		       (long long)s->tid, s->name, s->state,
		       threadfile_wait(s->wait_ns, wait, sizeof(wait)),
		       (unsigned long long)s->address, (long long)s->other);
		print_stack(s);
		i = thread_of(t, s->other);
	} while (i != first);
}

static void print_deadlocks(const struct threads *t)
{
	bool *seen = allocate(t->n + 1);

	for (size_t i = 0; i < t->n; i++)
		if (!at(t, i)->role[0] && !seen[i] && at(t, i)->tid &&
		    strcmp(at(t, i)->blocked, "deadlock") == 0)
			print_cycle(t, i, seen);
	free(seen);
}

/* How far it was looked for the blocked. */
static const char *how_judged(const struct threads *t)
{
	if (t->quick || threadfile_has_comment(t->file, "blocked: only deadlocks"))
		return " (only deadlocks looked for)";
	return threadfile_has_comment(t->file, "blocked: judged")
		       ? ""
		       : " (could not be judged)";
}

/* r NULL: of a written profile. */
static void print_head(const struct threads *t, const struct agent_reply *r)
{
	int64_t threads = 0, blocked = 0, ended = 0;

	for (size_t i = 0; i < t->n; i++) {
		const struct thread_sample *s = at(t, i);

		threads += s->role[0] ? 0 : s->count;
		blocked += s->blocked[0] ? s->count : 0;
		ended += strcmp(s->role, "ended") == 0 ? s->count : 0;
	}
	if (r) {
		char *program = agent_program(t->target.pid);

		printf("%s (process %d): %u thread%s, stopped for %.1f ms\n", program,
		       t->target.pid, r->count, r->count == 1 ? "" : "s",
		       (double)r->pause_ns / 1e6);
		free(program);
	} else {
		printf("%s: %lld thread%s\n", t->path, (long long)threads,
		       threads == 1 ? "" : "s");
	}
	printf("%lld blocked for ever%s", (long long)blocked, how_judged(t));
	if (r || ended) /* written by -o it has none of these */
		printf(", %lld ended and never joined", (long long)ended);
	printf("\n");
}

static void print_text(struct threads *t, const struct agent_reply *r)
{
	struct group *groups = allocate((t->n + 1) * sizeof(*groups));
	size_t n;

	t->done = allocate(t->n + 1);
	print_head(t, r);
	print_deadlocks(t);
	if (t->full) {
		print_each(t);
	} else {
		n = make_groups(t, "", groups);
		for (size_t i = 0; i < n; i++)
			print_group(t, groups[i].first, groups[i].count);
	}
	print_ended(t, groups);
	print_growing(t);
	free(groups);
	free(t->done);
}

static int show_file(struct threads *t)
{
	t->file = threadfile_read(t->path);
	if (!t->file || !threadfile_is(t->file, t->created ? "threadcreate" : "threads"))
		die(EXIT_USAGE, "%s: no %s profile", t->path,
		    t->created ? "threadcreate" : "threads");
	t->n = threadfile_count(t->file);
	if (t->created)
		print_sites(t);
	else
		print_text(t, NULL);
	return 0;
}

int command_threads(int argc, char **argv)
{
	struct threads t = { .quick = false };
	struct agent_request q = { .magic = 0 };
	struct agent_reply r;
	struct output o;
	char *path;
	int fd = memfd_create("seep", MFD_CLOEXEC);

	parse(&t, argc, argv);
	if (t.path)
		return show_file(&t);
	if (fd < 0)
		die(EXIT_INCOMPLETE, "memory: %s", strerror(errno));
	if (t.out)
		output_open(&o, t.out, t.target.pid,
			    t.created ? "threadcreate" : "threads");
	q.command = t.created ? AGENT_THREADCREATE : AGENT_THREADS;
	q.flags = t.quick && !t.created ? AGENT_QUICK : 0;
	agent_ask(&t.target, &q, fd, &r);
	path = format_string("/proc/self/fd/%d", fd);
	t.file = threadfile_read(path);
	free(path);
	if (!t.file)
		die(EXIT_INCOMPLETE, "process %d: its answer is not readable",
		    t.target.pid);
	t.n = threadfile_count(t.file);
	if (!t.out || strcmp(t.out, "-") != 0) {
		if (t.created)
			print_sites(&t);
		else
			print_text(&t, &r);
	}
	if (t.out) {
		if (t.created)
			output_copy(fd, o.fd, t.out);
		else if (!threadfile_write_groups(t.file, o.fd))
			die(EXIT_INCOMPLETE, "%s: cannot be written", t.out);
		output_finish(&o);
	}
	return 0;
}
