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
#include "profiler/leak/leak.h"
#include "profiler/pprof/file.h"
#include "profiler/pprof/pprof.h"
#include "profiler/pprof/symbol.h"
#include "profiler/sample/sample.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/unwind.h"

#define MAX_TEXT_RECORDS 50
#define MAX_TEXT_FRAMES	 40

/* ---- text ---- */

static void print_stack(uint32_t site)
{
	char text[640];

	if (site == SITE_NONE) {
		log_line("    [stack not sampled]");
		return;
	}
	for (int i = 0; site && i < MAX_TEXT_FRAMES; site = site_parent(site), i++) {
		uintptr_t pc = site_pc(site);

		symbol_describe(pc <= FRAME_PSEUDO_MAX ? pc : pc - 1, text, sizeof(text));
		log_line("    #%d %s", i, text);
	}
	if (site)
		log_line("    ... %u more frames", site_depth(site));
}

static void print_record(const struct leak_record *r)
{
	if (r->direct && r->retained > r->bytes)
		log_line("direct leak: %lu bytes in %lu object%s, retaining %lu bytes, "
			 "from:",
			 r->bytes, r->objects, r->objects == 1 ? "" : "s", r->retained);
	else
		log_line("%s leak: %lu bytes in %lu object%s",
			 r->direct ? "direct" : "indirect", r->bytes, r->objects,
			 r->objects == 1 ? "" : "s");
	print_stack(r->site);
}

void leak_print(const struct leak_result *r)
{
	uint32_t shown = 0, left = 0;

	for (uint32_t i = 0; i < r->nrecords; i++) {
		if (r->records[i].suppressed)
			continue;
		if (shown == MAX_TEXT_RECORDS) {
			left++;
			continue;
		}
		print_record(&r->records[i]);
		shown++;
	}
	if (left)
		log_line("... and %u more sites", left);
	if (r->suppressed_objects)
		log_line("suppressed: %lu bytes in %lu objects", r->suppressed_bytes,
			 r->suppressed_objects);
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

int leak_write_profile(const struct leak_result *r, const char *prefix)
{
	static const char *const comments[] = { "seep " SEEP_VERSION, "leak check",
						NULL };
	size_t max = opt_get()->stack + 1;
	uintptr_t *pcs = meta_map(max * sizeof(*pcs), META_LEAK);
	struct pprof *p;
	int error;

	if (!pcs)
		return -ENOMEM;
	error = pprof_begin(&p, &pprof_kind_leak, prefix,
			    sample_is_exact() ? 1 : (int64_t)opt_get()->sample, comments);
	for (uint32_t i = 0; error == 0 && i < r->nrecords; i++) {
		const struct leak_record *rec = &r->records[i];
		const int64_t values[] = { (int64_t)rec->objects, (int64_t)rec->bytes,
					   (int64_t)rec->retained };
		const struct pprof_label label = { .key = "kind",
						   .text = rec->direct ? "direct"
								       : "indirect" };
		int n = site_stack(rec->site, pcs, (int)max);

		if (!rec->suppressed)
			pprof_sample(p, pcs, n, false, values, &label, 1);
	}
	if (error == 0)
		error = pprof_finish(p);
	meta_unmap(pcs, max * sizeof(*pcs), META_LEAK);
	return error;
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

static void json_record(struct out *o, const struct leak_record *r)
{
	out_format(o,
		   "\n{\"kind\":\"%s\",\"objects\":%lu,\"bytes\":%lu,\"retained\":%lu,",
		   r->direct ? "direct" : "indirect", r->objects, r->bytes, r->retained);
	out_format(o, "\"sampled\":%s,\"stack\":[", r->site ? "true" : "false");
	for (uint32_t site = r->site; site; site = site_parent(site)) {
		json_frame(o, site_pc(site));
		if (site_parent(site))
			out_str(o, ",");
	}
	out_str(o, "]}");
}

static void json_records(struct out *o, const struct leak_result *r, bool suppressed)
{
	bool first = true;

	for (uint32_t i = 0; i < r->nrecords; i++) {
		if (r->records[i].suppressed != suppressed)
			continue;
		if (!first)
			out_str(o, ",");
		first = false;
		json_record(o, &r->records[i]);
	}
}

static void json_exe(struct out *o)
{
	char exe[400];
	/* The process's own link is gone once the main thread has ended. */
	long n = os_readlink("/proc/thread-self/exe", exe, sizeof(exe) - 1);

	exe[n > 0 ? n : 0] = '\0';
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
	out_format(o, ",\"reachable_objects\":%lu,\"reachable_bytes\":%lu",
		   r->reachable_objects, r->reachable_bytes);
	out_format(o, ",\"threads_stopped\":%u,\"stop_ns\":%lu,\"mark_ns\":%lu",
		   r->nthreads, r->stop_ns, r->mark_ns);
	out_str(o, ",\"leaks\":[");
	json_records(o, r, false);
	out_str(o, "],\"suppressed\":[");
	json_records(o, r, true);
	out_str(o, "],\"modules\":[");
	json_modules(o);
	out_str(o, "]}\n");
}

int leak_write_json(const struct leak_result *r, const char *prefix)
{
	struct out_file *f = meta_map(sizeof(*f), META_LEAK);
	char *buf = meta_map(64 * KIB, META_LEAK);
	int error = -ENOMEM;
	struct out o;

	if (f && buf)
		error = out_file_open(f, prefix, "report.json");
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
