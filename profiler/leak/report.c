/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report: a leak check's result as text, as leak.pb.gz and as report.json.
 */
#include <errno.h>
#include <string.h>

#include "preload/base/fmt.h"
#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/base/os.h"
#include "profiler/leak/annotate.h"
#include "profiler/leak/chain.h"
#include "profiler/leak/leak.h"
#include "profiler/leak/suppress.h"
#include "profiler/pprof/file.h"
#include "profiler/pprof/pprof.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"

#define MAX_TEXT_RECORDS 50
#define MAX_UNUSED	 20

/* ---- text ---- */

static void print_stack(uint32_t site)
{
	if (site == SITE_NONE) {
		log_line("    [stack not sampled]");
		return;
	}
	symbol_log_stack(site);
}

static const char *const kinds[] = { [LEAK_INDIRECT] = "indirect",
				     [LEAK_DIRECT] = "direct",
				     [LEAK_POSSIBLE] = "possible",
				     [LEAK_RETRACTED] = "retracted",
				     [LEAK_REACHABLE] = "reachable" };

/* "1.204" of seconds. */
static void format_age(char *text, size_t size, uint64_t ns)
{
	fmt_string(text, size, "%lu.%03lu", ns / 1000000000, ns / 1000000 % 1000);
}

static uint64_t age_of(const struct leak_result *r, uint64_t born_ns)
{
	return born_ns && r->checked_ns > born_ns ? r->checked_ns - born_ns : 0;
}

static void print_record(const struct leak_result *r, const struct leak_record *rec)
{
	char first[24], last[24], also[64] = "";

	if (rec->retained > rec->bytes)
		fmt_string(also, sizeof(also), ", retaining %lu bytes", rec->retained);
	log_line("%s leak: %lu bytes in %lu object%s%s, from:", kinds[rec->kind],
		 rec->bytes, rec->objects, rec->objects == 1 ? "" : "s", also);
	print_stack(rec->site);
	if (rec->first_ns == 0)
		return;
	format_age(first, sizeof(first), age_of(r, rec->first_ns));
	format_age(last, sizeof(last), age_of(r, rec->last_ns));
	if (rec->objects == 1)
		log_line("    allocated %s s before the check", first);
	else
		log_line("    allocated %s to %s s before the check", first, last);
}

/* Is it one of those that the verdict is about? */
static bool counts(const struct leak_record *r)
{
	if (r->kind > LEAK_POSSIBLE)
		return false;
	return !r->suppressed && (r->kind != LEAK_POSSIBLE || opt_get()->possible);
}

/* "root -> +8 of 48 bytes from make_node+0x12 (program)" */
static void print_chain(const struct leak_chain *c)
{
	uint32_t kept = c->length < LEAK_CHAIN_STEPS ? c->length : LEAK_CHAIN_STEPS;
	char text[320];

	chain_describe_root(c->root, text, sizeof(text));
	log_line("    held by %s", text);
	if (c->length > kept)
		log_line("    -> %u more objects", c->length - kept);
	for (uint32_t i = kept; i > 0; i--) {
		const struct leak_step *s = &c->steps[i - 1];

		fmt_string(text, sizeof(text), "[stack not sampled]");
		if (s->site)
			symbol_describe(site_pc(s->site) - 1, text, sizeof(text));
		log_line("    -> +%lu of %lu bytes from %s", s->offset, s->bytes, text);
	}
}

static void print_reachable(const struct leak_result *r)
{
	for (uint32_t i = 0; i < r->nrecords; i++) {
		const struct leak_record *rec = &r->records[i];

		if (!rec->chain)
			continue;
		if (rec->growing)
			log_line("growing by %lu bytes in the last %u checks:",
				 rec->grown_bytes, rec->rises + 1);
		log_line("reachable: %lu bytes in %lu object%s, from:", rec->bytes,
			 rec->objects, rec->objects == 1 ? "" : "s");
		print_stack(rec->site);
		print_chain(&r->chains[rec->chain - 1]);
	}
}

static bool has_source(const struct suppress_entry *e)
{
	for (uint32_t i = 0; i < e->nlines; i++)
		if (strncmp(e->lines[i], "src:", 4) == 0)
			return true;
	return false;
}

static void print_unused(const struct suppress_entry *e, void *arg)
{
	uint32_t *count = arg;

	if (e->objects == 0 && (*count)++ < MAX_UNUSED)
		log_line("suppression not used: %.400s%s", e->name,
			 has_source(e) ? " (source files are known to seep gate and "
					 "seep check only)"
				       : "");
}

void leak_print(const struct leak_result *r)
{
	uint32_t shown = 0, left = 0, unused = 0, most = annotate_max_leaks();

	if (most == 0 || most > MAX_TEXT_RECORDS)
		most = MAX_TEXT_RECORDS;

	for (uint32_t i = 0; i < r->nrecords; i++) {
		if (!counts(&r->records[i]))
			continue;
		if (shown == most) {
			left++;
			continue;
		}
		print_record(r, &r->records[i]);
		shown++;
	}
	if (left)
		log_line("... and %u more sites", left);
	print_reachable(r);
	if (r->retracted_objects)
		log_line("retracted: %lu bytes in %lu objects of the check before: %lu "
			 "freed "
			 "since, %lu reached again",
			 r->retracted_bytes, r->retracted_objects, r->retracted_freed,
			 r->retracted_objects - r->retracted_freed);
	if (r->possible_objects && !opt_get()->possible && r->verdict == LEAK_FOUND)
		log_line("possibly lost, not counted: %lu bytes in %lu objects",
			 r->possible_bytes, r->possible_objects);
	if (r->suppressed_objects)
		log_line("suppressed: %lu bytes in %lu objects", r->suppressed_bytes,
			 r->suppressed_objects);
	suppress_each(print_unused, &unused);
	if (unused > MAX_UNUSED)
		log_line("... and %u more", unused - MAX_UNUSED);
}

void leak_print_verdict(const struct leak_result *r)
{
	if (r->verdict == LEAK_CLEAN)
		log_line("clean");
	else if (r->verdict == LEAK_FOUND)
		log_line("LEAK objects=%lu bytes=%lu sites=%lu", r->objects, r->bytes,
			 r->sites);
	else
		log_line("INCOMPLETE: %s", r->reason);
}

/* ---- pprof ---- */

/* prefix NULL: into fd. */
static int write_profile(const struct leak_result *r, const char *prefix, int fd)
{
	static const char *const comments[] = { "seep " SEEP_VERSION, "leak check",
						NULL };
	const int64_t period = sample_is_exact() ? 1 : (int64_t)sample_period();
	size_t max = opt_get()->stack + 1;
	uintptr_t *pcs = meta_map(max * sizeof(*pcs), META_LEAK);
	struct pprof *p;
	int error;

	if (!pcs)
		return -ENOMEM;
	if (prefix)
		error = pprof_begin(&p, &pprof_kind_leak, prefix, period, comments);
	else
		error = pprof_begin_fd(&p, &pprof_kind_leak, fd, period, comments);
	for (uint32_t i = 0; error == 0 && i < r->nrecords; i++) {
		const struct leak_record *rec = &r->records[i];
		const int64_t values[] = { (int64_t)rec->objects, (int64_t)rec->bytes,
					   (int64_t)rec->retained };
		const struct pprof_label label = { .key = "kind",
						   .text = kinds[rec->kind] };
		int n = site_stack(rec->site, pcs, (int)max);

		if (counts(rec))
			pprof_sample(p, pcs, n, false, values, &label, 1);
	}
	if (error == 0)
		error = pprof_finish(p);
	meta_unmap(pcs, max * sizeof(*pcs), META_LEAK);
	return error;
}

int leak_write_profile(const struct leak_result *r, const char *prefix)
{
	return write_profile(r, prefix, -1);
}

int leak_write_profile_fd(const struct leak_result *r, int fd)
{
	return write_profile(r, NULL, fd);
}

/* ---- JSON ---- */

static void json_frame(struct out *o, uintptr_t pc)
{
	struct symbol s = { 0 };
	char text[512];
	const char *name = "";

	if (pc <= FRAME_PSEUDO_MAX)
		name = pc == FRAME_JIT_PC ? "[jit]" : "[truncated]";
	else if (symbol_lookup(pc - 1, &s) && s.function)
		name = symbol_demangle(s.function, text, sizeof(text));
	out_str(o, "{\"function\":");
	out_json(o, name);
	out_str(o, ",\"file\":\"\",\"line\":0,\"module\":");
	out_json(o, s.module ? s.module->path : "");
	out_format(o, ",\"offset\":%lu}", s.module ? s.offset : 0ul);
}

/* "chain": the root's name, then the objects from there to this one. */
static void json_chain(struct out *o, const struct leak_chain *c)
{
	uint32_t kept = c->length < LEAK_CHAIN_STEPS ? c->length : LEAK_CHAIN_STEPS;
	char text[320];

	chain_describe_root(c->root, text, sizeof(text));
	out_str(o, ",\"root\":");
	out_json(o, text);
	out_format(o, ",\"chain_length\":%u,\"chain\":[", c->length);
	for (uint32_t i = kept; i > 0; i--) {
		const struct leak_step *s = &c->steps[i - 1];

		out_format(o, "%s{\"offset\":%lu,\"bytes\":%lu,\"from\":",
			   i == kept ? "" : ",", s->offset, s->bytes);
		if (s->site)
			json_frame(o, site_pc(s->site));
		else
			out_str(o, "null");
		out_str(o, "}");
	}
	out_str(o, "]");
}

static void json_record(struct out *o, const struct leak_result *result,
			const struct leak_record *r, bool with_stack)
{
	out_format(o,
		   "\n{\"kind\":\"%s\",\"objects\":%lu,\"bytes\":%lu,\"retained\":%lu,"
		   "\"new_objects\":%lu,\"new_bytes\":%lu,",
		   kinds[r->kind], r->objects, r->bytes, r->retained, r->new_objects,
		   r->new_bytes);
	if (r->kind == LEAK_REACHABLE)
		out_format(o, "\"growing\":%s,\"rises\":%u,\"grown_bytes\":%lu,",
			   r->growing ? "true" : "false", r->rises, r->grown_bytes);
	if (r->first_ns)
		out_format(o, "\"first_age_ns\":%lu,\"last_age_ns\":%lu,",
			   age_of(result, r->first_ns), age_of(result, r->last_ns));
	out_format(o, "\"sampled\":%s,\"stack\":[", r->site ? "true" : "false");
	for (uint32_t site = with_stack ? r->site : 0; site; site = site_parent(site)) {
		json_frame(o, site_pc(site));
		if (site_parent(site))
			out_str(o, ",");
	}
	out_str(o, "]");
	if (r->chain)
		json_chain(o, &result->chains[r->chain - 1]);
	out_str(o, "}");
}

enum list { LIST_LEAKS, LIST_POSSIBLE, LIST_SUPPRESSED, LIST_RETRACTED, LIST_REACHABLE };

static enum list list_of(const struct leak_record *r)
{
	if (r->kind == LEAK_RETRACTED)
		return LIST_RETRACTED;
	if (r->kind == LEAK_REACHABLE)
		return LIST_REACHABLE;
	if (r->suppressed)
		return LIST_SUPPRESSED;
	return counts(r) ? LIST_LEAKS : LIST_POSSIBLE;
}

static void json_records(struct out *o, const struct leak_result *r, enum list list)
{
	/* With suppressions the tool matches stacks. */
	bool all = r->max_stacks == 0 || (list <= LIST_POSSIBLE && suppress_any());
	bool first = true;
	uint32_t count = 0;

	for (uint32_t i = 0; i < r->nrecords; i++) {
		if (list_of(&r->records[i]) != list ||
		    (list == LIST_REACHABLE && !r->with_chains && !r->records[i].growing))
			continue;
		if (!first)
			out_str(o, ",");
		first = false;
		json_record(o, r, &r->records[i],
			    all || count++ < r->max_stacks || list == LIST_REACHABLE);
	}
}

struct json_list {
	struct out *o;
	bool first;
	bool with_lines;
};

/* For the tool, which knows more names. */
static void json_lines(struct out *o, const struct suppress_entry *e)
{
	const char *comma = "";

	out_str(o, ",\"lines\":[");
	for (uint32_t i = 0; i < e->nlines; i++) {
		out_str(o, i ? "," : "");
		out_json(o, e->lines[i]);
	}
	out_str(o, "]");
	if (e->kinds == ~0u)
		return;
	out_str(o, ",\"kinds\":[");
	for (unsigned k = 0; k <= LEAK_POSSIBLE; k++)
		if (e->kinds >> k & 1) {
			out_format(o, "%s\"%s\"", comma, kinds[k]);
			comma = ",";
		}
	out_str(o, "]");
}

static void json_suppression(const struct suppress_entry *e, void *arg)
{
	struct json_list *l = arg;

	out_str(l->o, l->first ? "\n{\"name\":" : ",\n{\"name\":");
	l->first = false;
	out_json(l->o, e->name);
	out_format(l->o, ",\"objects\":%lu,\"bytes\":%lu", e->objects, e->bytes);
	if (l->with_lines && e->lines)
		json_lines(l->o, e);
	out_str(l->o, "}");
}

static void json_suppressions(struct out *o, const struct leak_result *r)
{
	struct json_list list = { o, true, r->objects + r->possible_objects > 0 };

	suppress_each(json_suppression, &list);
}

static void json_exe(struct out *o)
{
	char exe[400];
	/* The process's own link is gone once the main thread has ended. */

	os_program(exe, sizeof(exe));
	out_json(o, exe);
}

/* By these the offline tools find the files again, and know that they are the same. */
static void json_modules(struct out *o)
{
	uint32_t count = module_count();

	for (uint32_t i = 0; i < count; i++) {
		const struct module *m = module_at(i);

		out_str(o, i ? ",\n{\"path\":" : "\n{\"path\":");
		out_json(o, m->path);
		out_str(o, ",\"build_id\":\"");
		for (uint32_t k = 0; k < m->build_id_size; k++)
			out_format(o, "%02x", m->build_id[k]);
		out_str(o, "\"}");
	}
}

static void json_report(struct out *o, const struct leak_result *r)
{
	static const char *const words[] = { [LEAK_CLEAN] = "clean",
					     [LEAK_FOUND] = "leak",
					     [LEAK_INCOMPLETE] = "incomplete" };

	out_format(o, "{\"schema\":1,\"pid\":%d,\"exe\":", os_getpid());
	json_exe(o);
	out_format(o, ",\"verdict\":\"%s\",\"reason\":", words[r->verdict]);
	out_json(o, r->reason);
	out_format(o, ",\"mode\":\"%s\",\"objects\":%lu,\"bytes\":%lu,\"sites\":%lu",
		   sample_is_exact() ? "exact" : "sampled", r->objects, r->bytes,
		   r->sites);
	out_format(o, ",\"suppressed_objects\":%lu,\"suppressed_bytes\":%lu",
		   r->suppressed_objects, r->suppressed_bytes);
	out_format(o, ",\"new_objects\":%lu,\"retracted_objects\":%lu", r->new_objects,
		   r->retracted_objects);
	out_format(o, ",\"retracted_bytes\":%lu,\"retracted_freed_objects\":%lu",
		   r->retracted_bytes, r->retracted_freed);
	out_format(o, ",\"possible_objects\":%lu,\"possible_bytes\":%lu",
		   r->possible_objects, r->possible_bytes);
	out_format(o, ",\"reachable_objects\":%lu,\"reachable_bytes\":%lu",
		   r->reachable_objects, r->reachable_bytes);
	out_format(o, ",\"threads_stopped\":%u,\"stop_ns\":%lu,\"mark_ns\":%lu",
		   r->nthreads, r->stop_ns, r->mark_ns);
	if (r->way) {
		out_format(o,
			   ",\"way\":\"%s\",\"stopped_by\":\"%s\",\"screen_ns\":%lu,"
			   "\"confirm_ns\":%lu,\"candidates\":%lu",
			   r->way, r->stopped_by, r->screen_ns, r->confirm_ns,
			   r->candidates);
		out_str(o, ",\"instead\":");
		out_json(o, r->instead);
		out_str(o, ",\"copied\":");
		out_json(o, r->copied ? r->copied : "");
	}
	out_str(o, ",\"leaks\":[");
	json_records(o, r, LIST_LEAKS);
	out_str(o, "],\"possible\":[");
	json_records(o, r, LIST_POSSIBLE);
	out_str(o, "],\"suppressed\":[");
	json_records(o, r, LIST_SUPPRESSED);
	out_str(o, "],\"retracted\":[");
	json_records(o, r, LIST_RETRACTED);
	out_str(o, "],\"reachable\":[");
	json_records(o, r, LIST_REACHABLE);
	out_str(o, "],\"suppressions\":[");
	json_suppressions(o, r);
	out_str(o, "],\"modules\":[");
	json_modules(o);
	out_str(o, "]}\n");
}

static int write_json(const struct leak_result *r, const char *prefix, int fd)
{
	struct out_file *f = meta_map(sizeof(*f), META_LEAK);
	char *buf = meta_map(64 * KIB, META_LEAK);
	int error = -ENOMEM;
	struct out o;

	if (f && buf && prefix)
		error = out_file_open(f, prefix, "report.json");
	if (f && buf && !prefix) {
		out_file_adopt(f, fd);
		error = 0;
	}
	if (error == 0) {
		out_init(&o, buf, 64 * KIB, out_file_write, f);
		json_report(&o, r);
		out_flush(&o);
		error = out_file_close(f);
	}
	meta_unmap(buf, 64 * KIB, META_LEAK);
	meta_unmap(f, sizeof(*f), META_LEAK);
	return error;
}

int leak_write_json(const struct leak_result *r, const char *prefix)
{
	return write_json(r, prefix, -1);
}

int leak_write_json_fd(const struct leak_result *r, int fd)
{
	return write_json(r, NULL, fd);
}
