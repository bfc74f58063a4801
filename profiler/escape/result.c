/* SPDX-License-Identifier: Apache-2.0 */
/*
 * result: see result.h.
 *
 * Structure: results in a dense list, found by an open-addressed table of their numbers,
 * at most half full: going through them touches no more than what there is. Labels of a
 * sample: escape, depth, confidence; and, for the text report, what is known of it
 * beyond: `to` (name of the global or of the holder's site), `holder` (the address of
 * that site's call, whose line seep symbolize puts into `to`), `allocator` (the function
 * that was called: malloc, calloc), argument_min and argument_max (calloc's count, an
 * alignment), `freed_by` (the function that called free) and
 * `freed_with` (what it called: free, realloc), size_min and size_max, the median of
 * lifetimes and their distribution (lives, see describe_lives()), how many objects were
 * really seen (samples), looked for (scanned), lived
 * beside another of their site in one activation (several), and grown in place.
 */
#include "profiler/escape/result.h"

#include <errno.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/escape/callee.h"
#include "profiler/escape/dataname.h"
#include "profiler/pprof/pprof.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"

#define SLOTS	    (2 * RESULT_MAX)
#define TEXT_BYTES  256
#define LIVES_BYTES (RESULT_BUCKETS * 14) /* "35:4294967295 " */

static struct {
	uint16_t *table;     /* 1 + index in list; 0: empty */
	struct result *list; /* RESULT_MAX */
	uint32_t used;
	uint64_t lost;
	/* scratch of the report, one at a time */
	char to[TEXT_BYTES], by[TEXT_BYTES], holder[TEXT_BYTES];
	char allocator[TEXT_BYTES], with[TEXT_BYTES], lives[LIVES_BYTES];
} results;

bool result_init(void)
{
	results.table = meta_map(SLOTS * sizeof(*results.table), META_ESCAPE);
	results.list = meta_map(RESULT_MAX * sizeof(*results.list), META_ESCAPE);
	return results.table && results.list;
}

_Static_assert(RESULT_MAX < UINT16_MAX, "table's numbers");

static uint32_t hash(const struct result_key *k)
{
	uint64_t h = k->site * 0x9e3779b97f4a7c15u;

	h ^= (h >> 29) + ((uint64_t)k->depth << 16 | (uint32_t)(k->end << 8) | k->place);
	h *= 0xbf58476d1ce4e5b9u;
	h ^= (h >> 31) + k->detail;
	h *= 0x94d049bb133111ebu;
	h ^= (h >> 30) + k->freed;
	h *= 0x9e3779b97f4a7c15u;
	return (uint32_t)(h >> 40) % SLOTS;
}

static bool same_key(const struct result_key *a, const struct result_key *b)
{
	return a->site == b->site && a->depth == b->depth && a->end == b->end &&
	       a->place == b->place && a->detail == b->detail && a->freed == b->freed;
}

/* The entry of key, made now if need be; NULL: no room. */
static struct result *find(const struct result_key *key)
{
	uint32_t i = hash(key);

	while (results.table[i]) {
		struct result *r = &results.list[results.table[i] - 1];

		if (same_key(&r->key, key))
			return r;
		i = (i + 1) % SLOTS;
	}
	if (results.used == RESULT_MAX)
		return NULL;
	results.list[results.used].key = *key;
	results.table[i] = (uint16_t)++results.used;
	return &results.list[results.used - 1];
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned i = ns ? 63 - (unsigned)__builtin_clzl(ns) : 0;

	return i < RESULT_BUCKETS ? i : RESULT_BUCKETS - 1;
}

void result_add(const struct result_key *key, const struct ended *e)
{
	struct result *r = find(key);

	if (!r) {
		results.lost++;
		return;
	}
	if (r->samples == 0 || e->size < r->size_min)
		r->size_min = e->size;
	if (e->size > r->size_max)
		r->size_max = e->size;
	if (r->samples == 0 || e->argument < r->argument_min)
		r->argument_min = e->argument;
	if (e->argument > r->argument_max)
		r->argument_max = e->argument;
	r->samples++;
	r->scanned += e->scanned;
	r->grown += e->grown;
	r->several += e->several;
	r->objects += e->weight;
	r->bytes += (uint64_t)((uint128)e->size * e->weight >> SITE_SHIFT);
	r->lifetime_ns += (uint64_t)((uint128)e->lifetime_ns * e->weight >> SITE_SHIFT);
	r->lifetimes[bucket_of(e->lifetime_ns)]++;
}

void result_clear(void)
{
	if (results.used > 0)
		memset(results.table, 0, SLOTS * sizeof(*results.table));
	memset(results.list, 0, results.used * sizeof(*results.list));
	results.used = 0;
	results.lost = 0;
}

/* The keys stay: taking one out would break the probing of others. */
void result_clear_live(void)
{
	for (uint32_t i = 0; i < results.used; i++) {
		struct result *r = &results.list[i];

		if (r->key.end == END_LIVE)
			*r = (struct result){ .key = r->key };
	}
}

uint64_t result_lost(void)
{
	return results.lost;
}

void result_each(bool (*fn)(const struct result *r, void *arg), void *arg)
{
	for (uint32_t i = 0; i < results.used; i++)
		if (results.list[i].samples && !fn(&results.list[i], arg))
			return;
}

/* ---- the profile ---- */

static const char *escape_word(const struct result_key *k)
{
	static const char *const places[PLACE_COUNT] = {
		[PLACE_UNSEEN] = "unknown",    [PLACE_MAYBE_RETURNED] = "maybe-returned",
		[PLACE_RETURNED] = "returned", [PLACE_CALLER] = "caller",
		[PLACE_TLS] = "tls",	       [PLACE_HEAP] = "heap",
		[PLACE_GLOBAL] = "global",     [PLACE_THREAD] = "thread",
	};

	if (k->end == END_THREAD)
		return "thread";
	if (k->end != END_LIVE && k->end != END_UNKNOWN && k->depth == 0)
		return "none";
	return places[k->place];
}

static const char *confidence_word(enum end_kind end)
{
	static const char *const words[] = {
		[END_BOUND] = "bound",	 [END_EXACT] = "exact", [END_EXC] = "exact-exc",
		[END_THREAD] = "thread", [END_LIVE] = "live",	[END_REFUSED] = "refused",
		[END_UNKNOWN] = "bound",
	};

	return words[end];
}

/* The middle of the samples' lifetimes, to a factor of two. */
static int64_t median(const struct result *r)
{
	uint32_t below = 0;

	for (unsigned i = 0; i < RESULT_BUCKETS; i++) {
		below += r->lifetimes[i];
		if (2 * (uint64_t)below >= r->samples)
			return (int64_t)((uint64_t)3 << i) / 2;
	}
	return 0;
}

/* "8:12 9:40": 12 samples lived for 2^8 ns and less than twice that, and so on. */
static const char *describe_lives(const struct result *r, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < RESULT_BUCKETS; i++)
		if (r->lifetimes[i] && n < size)
			n += fmt_string(buf + n, size - n, "%s%u:%u", n ? " " : "", i,
					r->lifetimes[i]);
	return buf;
}

/* By the function that made it: the caller of pthread_create. */
static void name_thread(uint32_t site, char *buf, size_t size)
{
	struct symbol sym = { 0 };

	while (site && symbol_lookup(site_pc(site) - 1, &sym) && sym.function &&
	       strncmp(sym.function, "pthread_create", 14) == 0)
		site = site_parent(site);
	if (site && sym.function)
		fmt_string(buf, size, "stack of a thread made by %s",
			   symbol_demangle(sym.function, results.holder, TEXT_BYTES));
	else
		fmt_string(buf, size, "stack of another thread");
}

/* What the place is called: "conf_root", "buffer+16"; for heap the holder's site. */
static void name_place(const struct result_key *k, char *buf, size_t size)
{
	struct symbol sym;
	uint32_t holder = (uint32_t)(k->detail >> 32);

	buf[0] = '\0';
	switch (k->place) {
	case PLACE_GLOBAL:
		dataname_global((uintptr_t)k->detail, buf, size);
		break;
	case PLACE_TLS:
		dataname_tls((uintptr_t)k->detail, buf, size);
		break;
	case PLACE_HEAP:
		if (holder && symbol_lookup(site_pc(holder) - 1, &sym) && sym.function)
			fmt_string(
				buf, size, "object of %s, offset %u",
				symbol_demangle(sym.function, results.holder, TEXT_BYTES),
				(uint32_t)k->detail);
		else
			fmt_string(buf, size, "object of an unknown site, offset %u",
				   (uint32_t)k->detail);
		break;
	case PLACE_THREAD:
		name_thread((uint32_t)k->detail, buf, size);
		break;
	case PLACE_MAYBE_RETURNED:
		if (k->detail)
			fmt_string(buf, size, "second word of a structure");
		break;
	case PLACE_CALLER:
		fmt_string(buf, size, "frame +%u", (uint32_t)k->detail);
		break;
	default:
		break;
	}
}

static const char *name_free(uintptr_t pc, char *buf, size_t size)
{
	struct symbol sym;

	if (!pc || !symbol_lookup(pc - 1, &sym) || !sym.function)
		return NULL;
	return symbol_demangle(sym.function, buf, size);
}

/* What was called before return address pc, without parameters; NULL: not known. */
static const char *name_call(uintptr_t pc, char *buf)
{
	const char *name = pc ? callee_name(pc) : NULL;
	char *end;

	if (!name)
		return NULL;
	fmt_string(buf, TEXT_BYTES, "%s",
		   symbol_demangle(name, results.holder, TEXT_BYTES));
	end = strchr(buf, '(');
	if (end && end != buf)
		*end = '\0';
	return buf;
}

struct writing {
	struct pprof *p;
	uintptr_t *pcs;
	int max;
};

#define MAX_LABELS 19

static bool write_result(const struct result *r, void *arg)
{
	struct writing *w = arg;
	const struct result_key *k = &r->key;
	const int64_t values[] = { (int64_t)(r->objects >> SITE_SHIFT), (int64_t)r->bytes,
				   (int64_t)r->lifetime_ns };
	const char *freed = name_free(k->freed, results.by, TEXT_BYTES);
	const char *with = name_call(k->freed, results.with);
	const char *allocator = name_call(site_pc(k->site), results.allocator);
	struct pprof_label labels[MAX_LABELS] = {
		{ .key = "escape", .text = escape_word(k) },
		{ .key = "confidence", .text = confidence_word(k->end) },
		{ .key = "samples", .number = r->samples, .unit = "count" },
		{ .key = "scanned", .number = r->scanned, .unit = "count" },
		{ .key = "size_min", .number = (int64_t)r->size_min, .unit = "bytes" },
		{ .key = "size_max", .number = (int64_t)r->size_max, .unit = "bytes" },
		{ .key = "median", .number = median(r), .unit = "nanoseconds" },
		{ .key = "lives",
		  .text = describe_lives(r, results.lives, sizeof(results.lives)) },
	};
	int n = 8;

	name_place(k, results.to, TEXT_BYTES);
	if (results.to[0])
		labels[n++] = (struct pprof_label){ .key = "to", .text = results.to };
	if (k->place == PLACE_HEAP && k->detail >> 32)
		labels[n++] = (struct pprof_label){
			.key = "holder",
			.number = (int64_t)site_pc((uint32_t)(k->detail >> 32)) - 1,
			.unit = "address"
		};
	if (allocator)
		labels[n++] =
			(struct pprof_label){ .key = "allocator", .text = allocator };
	if (with)
		labels[n++] = (struct pprof_label){ .key = "freed_with", .text = with };
	if (freed)
		labels[n++] = (struct pprof_label){ .key = "freed_by", .text = freed };
	if (k->end != END_THREAD && k->end != END_UNKNOWN)
		labels[n++] = (struct pprof_label){ .key = "depth",
						    .number = k->depth,
						    .unit = "frames" };
	if (r->argument_min) {
		labels[n++] = (struct pprof_label){ .key = "argument_min",
						    .number = (int64_t)r->argument_min };
		labels[n++] = (struct pprof_label){ .key = "argument_max",
						    .number = (int64_t)r->argument_max };
	}
	if (r->grown)
		labels[n++] = (struct pprof_label){ .key = "grown",
						    .number = r->grown,
						    .unit = "count" };
	if (r->several)
		labels[n++] = (struct pprof_label){ .key = "several",
						    .number = r->several,
						    .unit = "count" };
	pprof_sample(w->p, w->pcs, site_stack(k->site, w->pcs, w->max), false, values,
		     labels, n);
	return true;
}

int result_write(const char *prefix, const char *how, uint64_t since_ns)
{
	const char *comments[] = { "seep " SEEP_VERSION, how,
				   results.lost ? "the table of results was full" : NULL,
				   NULL };
	size_t max = opt_get()->stack + 1;
	struct writing w = { .max = (int)max };
	int error;

	w.pcs = meta_map(max * sizeof(*w.pcs), META_ESCAPE);
	if (!w.pcs)
		return -ENOMEM;
	error = pprof_begin(&w.p, &pprof_kind_escape, prefix,
			    sample_is_exact() ? 1 : (int64_t)opt_get()->sample, comments);
	if (error == 0) {
		pprof_duration(w.p, os_now_ns() - since_ns);
		result_each(write_result, &w);
		error = pprof_finish(w.p);
	}
	meta_unmap(w.pcs, max * sizeof(*w.pcs), META_ESCAPE);
	return error;
}
