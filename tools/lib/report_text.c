/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report_text: findings for people, and as JSON; what all formats share.
 *
 * The JSON is {"schema":1,"reports":[{"file","exe","pid","type","unit","verdict"?,
 * "reason"?,"amount","objects","standard_error"?,"findings":[{"kind","amount","objects",
 * "retained"?,"standard_error"?,"lifetimes"?,
 * "fingerprint","stack":[{"function","file","line","module","inlined"}]}]}]}. Extended,
 * never renamed.
 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/estimate.h"
#include "tools/lib/reports.h"
#include "tools/lib/say.h"

size_t reports_shown(const struct reports *r, const struct findings *f)
{
	return r->top == 0 || (size_t)r->top > f->count ? f->count : (size_t)r->top;
}

const char *reports_path(const struct reports *r, const char *file)
{
	size_t n = strlen(r->source_root);

	if (n > 1 && strncmp(file, r->source_root, n) == 0 && file[n] == '/')
		return file + n + 1;
	return file;
}

char *reports_title(const struct findings *f, const struct finding *one)
{
	char amount[32], retained[48] = "", objects[48] = "", error[32];

	findings_amount(f, one->amount, amount, sizeof(amount));
	estimate_text((double)one->amount, one->variance, error, sizeof(error));
	if (f->has_objects)
		snprintf(objects, sizeof(objects), " in %lld object%s",
			 (long long)one->objects, one->objects == 1 ? "" : "s");
	else if (strcmp(f->type, "objects") == 0)
		snprintf(objects, sizeof(objects), " object%s",
			 one->amount == 1 ? "" : "s");
	if (one->retained > one->amount) {
		char bytes[32];

		snprintf(retained, sizeof(retained), ", retaining %s",
			 findings_amount(f, one->retained, bytes, sizeof(bytes)));
	}
	if (*one->kind)
		return format_string("%s leak of %s%s%s", one->kind, amount, objects,
				     retained);
	return format_string("%s%s%s%s", amount, error, objects, retained);
}

void reports_escape(FILE *out, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", out);
			break;
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		case '\'':
			fputs("&#39;", out);
			break;
		default:
			putc(*text, out);
		}
	}
}

/* ---- text ---- */

static void print_finding(const struct reports *r, FILE *out, const struct findings *f,
			  const struct finding *one)
{
	char *title = reports_title(f, one);

	fprintf(out, "\n%s, from:\n", title);
	free(title);
	if (one->lives)
		lifetimes_print(one->lives, out);
	for (size_t i = 0; i < one->nframes; i++) {
		const struct frame *fr = &one->frames[i];
		char *place = frame_place(fr);

		fprintf(out, "    #%zu %s%s%s%s\n", i, fr->function,
			fr->inlined ? " (inline)" : "", *place ? "  " : "",
			reports_path(r, place));
		free(place);
	}
}

static void print_one(const struct reports *r, FILE *out, const struct findings *f)
{
	size_t shown = reports_shown(r, f);
	char amount[32], error[32];

	fprintf(out, "%s%s%s", f->path, *f->exe ? ": " : "", f->exe);
	if (f->pid)
		fprintf(out, " (process %lld)", (long long)f->pid);
	fprintf(out, "\n%s: %s%s", f->type,
		findings_amount(f, f->amount, amount, sizeof(amount)),
		estimate_text((double)f->amount, f->variance, error, sizeof(error)));
	if (f->has_objects)
		fprintf(out, " in %lld object%s", (long long)f->objects,
			f->objects == 1 ? "" : "s");
	fprintf(out, ", %zu stack%s\n", f->count, f->count == 1 ? "" : "s");
	if (f->verdict)
		fprintf(out, "verdict: %s%s%s\n", f->verdict, *f->reason ? ": " : "",
			f->reason);
	for (size_t i = 0; i < shown; i++)
		print_finding(r, out, f, &f->list[i]);
	if (shown < f->count)
		fprintf(out, "\n... and %zu more stacks\n", f->count - shown);
}

void report_text(const struct reports *r, FILE *out)
{
	for (size_t i = 0; i < r->count; i++) {
		if (i > 0)
			putc('\n', out);
		print_one(r, out, r->list[i]);
	}
}

/* ---- JSON ---- */

static json_t *json_finding(const struct finding *one)
{
	char fingerprint[20];
	json_t *stack = json_array(), *j;

	snprintf(fingerprint, sizeof(fingerprint), "%016" PRIx64,
		 finding_fingerprint(one));
	for (size_t i = 0; i < one->nframes; i++) {
		const struct frame *f = &one->frames[i];

		json_array_append_new(
			stack, json_pack("{s:s,s:s,s:I,s:s,s:b}", "function", f->function,
					 "file", f->file, "line", (json_int_t)f->line,
					 "module", f->module, "inlined", f->inlined));
	}
	j = json_pack("{s:s,s:I,s:I,s:s,s:o}", "kind", one->kind, "amount",
		      (json_int_t)one->amount, "objects", (json_int_t)one->objects,
		      "fingerprint", fingerprint, "stack", stack);
	if (one->retained)
		json_object_set_new(j, "retained", json_integer(one->retained));
	if (one->variance > 0)
		json_object_set_new(j, "standard_error", json_real(sqrt(one->variance)));
	if (one->lives)
		json_object_set_new(j, "lifetimes", lifetimes_json(one->lives));
	return j;
}

static json_t *json_findings(const struct reports *r, const struct findings *f)
{
	json_t *list = json_array(), *j;

	for (size_t i = 0; i < reports_shown(r, f); i++)
		json_array_append_new(list, json_finding(&f->list[i]));
	j = json_pack("{s:s,s:s,s:I,s:s,s:s,s:I,s:I,s:o}", "file", f->path, "exe", f->exe,
		      "pid", (json_int_t)f->pid, "type", f->type, "unit", f->unit,
		      "amount", (json_int_t)f->amount, "objects", (json_int_t)f->objects,
		      "findings", list);
	if (f->variance > 0)
		json_object_set_new(j, "standard_error", json_real(sqrt(f->variance)));
	if (f->verdict) {
		json_object_set_new(j, "verdict", json_string(f->verdict));
		json_object_set_new(j, "reason", json_string(f->reason));
	}
	return j;
}

void report_json(const struct reports *r, FILE *out)
{
	json_t *list = json_array(), *root;

	for (size_t i = 0; i < r->count; i++)
		json_array_append_new(list, json_findings(r, r->list[i]));
	root = json_pack("{s:i,s:o}", "schema", 1, "reports", list);
	json_dumpf(root, out, JSON_INDENT(1));
	putc('\n', out);
	json_decref(root);
}
