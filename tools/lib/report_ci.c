/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report_ci: findings for build servers: SARIF 2.1.0, which they show beside the lines of
 * a change, and JUnit's XML, which they show among the tests. A leak is an error or a
 * failed test; what a profile holds is only noted.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/lib/reports.h"
#include "tools/lib/say.h"

/* ---- SARIF ---- */

struct rule {
	const char *id, *name, *text, *level;
};
static const struct rule rules[] = {
	{ "seep/leak-direct", "DirectLeak",
	  "Memory that nothing in the process refers to any more.", "error" },
	{ "seep/leak-indirect", "IndirectLeak",
	  "Memory that only lost memory refers to: freed with it, it is gone too.",
	  "warning" },
	{ "seep/memory", "Memory", "Memory that was allocated here.", "note" },
	{ "seep/incomplete", "Incomplete", "The check could not be completed.", "error" },
};
enum { RULE_DIRECT, RULE_INDIRECT, RULE_MEMORY, RULE_INCOMPLETE, RULES };

static int rule_of(const struct finding *one)
{
	return !*one->kind			    ? RULE_MEMORY
	       : strcmp(one->kind, "indirect") == 0 ? RULE_INDIRECT
						    : RULE_DIRECT;
}

/* A path as a URI, allocated: what is neither a letter nor plain is %XX. */
static char *uri_of(const char *path)
{
	char *uri = allocate(3 * strlen(path) + 8), *to = uri;

	if (*path == '/')
		to = stpcpy(to, "file://");
	for (; *path; path++) {
		unsigned char c = (unsigned char)*path;

		if (((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9') ||
		    strchr("/-._~+", c))
			*to++ = *path;
		else
			to += sprintf(to, "%%%02X", c);
	}
	return uri;
}

static json_t *sarif_location(const struct reports *r, const struct frame *f)
{
	const char *file = reports_path(r, f->file);
	json_t *location =
		json_pack("{s:[{s:s,s:s}]}", "logicalLocations", "fullyQualifiedName",
			  f->function, "kind", "function");
	json_t *physical, *artifact;
	char *uri;

	if (!*f->file)
		return location;
	uri = uri_of(file);
	artifact = json_pack("{s:s}", "uri", uri);
	free(uri);
	if (*file != '/')
		json_object_set_new(artifact, "uriBaseId", json_string("SRCROOT"));
	physical = json_pack("{s:o}", "artifactLocation", artifact);
	if (f->line > 0)
		json_object_set_new(physical, "region",
				    json_pack("{s:I}", "startLine", (json_int_t)f->line));
	json_object_set_new(location, "physicalLocation", physical);
	return location;
}

static json_t *sarif_stack(const struct reports *r, const struct finding *one)
{
	json_t *frames = json_array();

	for (size_t i = 0; i < one->nframes; i++) {
		const struct frame *f = &one->frames[i];

		json_array_append_new(frames, json_pack("{s:o,s:s}", "location",
							sarif_location(r, f), "module",
							f->module));
	}
	return json_pack("[{s:{s:s},s:o}]", "message", "text", "allocated from", "frames",
			 frames);
}

static json_t *sarif_result(const struct reports *r, const struct findings *f,
			    const struct finding *one)
{
	int rule = rule_of(one);
	const struct frame *at = finding_frame(one);
	char *title = reports_title(f, one);
	char *text = format_string("%s, allocated in %s", title, at->function);
	char fingerprint[20];
	json_t *j;

	snprintf(fingerprint, sizeof(fingerprint), "%016" PRIx64,
		 finding_fingerprint(one));
	j = json_pack("{s:s,s:i,s:s,s:{s:s},s:[o],s:o,s:{s:s},s:{s:I,s:I,s:s}}", "ruleId",
		      rules[rule].id, "ruleIndex", rule, "level", rules[rule].level,
		      "message", "text", text, "locations", sarif_location(r, at),
		      "stacks", sarif_stack(r, one), "partialFingerprints",
		      "seepStack/v1", fingerprint, "properties", "amount",
		      (json_int_t)one->amount, "objects", (json_int_t)one->objects,
		      "program", f->exe);
	free(title);
	free(text);
	return j;
}

static json_t *sarif_incomplete(const struct findings *f)
{
	char *text = format_string("%s: the check could not be completed: %s", f->exe,
				   f->reason);
	json_t *j =
		json_pack("{s:s,s:i,s:s,s:{s:s}}", "ruleId", rules[RULE_INCOMPLETE].id,
			  "ruleIndex", RULE_INCOMPLETE, "level",
			  rules[RULE_INCOMPLETE].level, "message", "text", text);

	free(text);
	return j;
}

static json_t *sarif_rules(void)
{
	json_t *list = json_array();

	for (int i = 0; i < RULES; i++)
		json_array_append_new(
			list, json_pack("{s:s,s:s,s:{s:s},s:{s:s}}", "id", rules[i].id,
					"name", rules[i].name, "shortDescription", "text",
					rules[i].text, "defaultConfiguration", "level",
					rules[i].level));
	return list;
}

void report_sarif(const struct reports *r, FILE *out)
{
	json_t *results = json_array(), *root;
	char *base = format_string("%s/", r->source_root), *uri = uri_of(base);

	for (size_t i = 0; i < r->count; i++) {
		const struct findings *f = r->list[i];

		if (f->verdict && strcmp(f->verdict, "incomplete") == 0)
			json_array_append_new(results, sarif_incomplete(f));
		for (size_t k = 0; k < reports_shown(r, f); k++)
			json_array_append_new(results, sarif_result(r, f, &f->list[k]));
	}
	root = json_pack("{s:s,s:s,s:[{s:{s:{s:s,s:s,s:o}},s:{s:{s:s}},s:s,s:o}]}",
			 "$schema", "https://json.schemastore.org/sarif-2.1.0.json",
			 "version", "2.1.0", "runs", "tool", "driver", "name", "seep",
			 "version", SEEP_VERSION, "rules", sarif_rules(),
			 "originalUriBaseIds", "SRCROOT", "uri", uri, "columnKind",
			 "utf16CodeUnits", "results", results);
	json_dumpf(root, out, JSON_INDENT(1));
	putc('\n', out);
	json_decref(root);
	free(base);
	free(uri);
}

/* ---- JUnit ---- */

static void junit_case(FILE *out, const struct findings *f, const char *name)
{
	fputs("<testcase classname=\"", out);
	reports_escape(out, *f->exe ? f->exe : f->path);
	fputs("\" name=\"", out);
	reports_escape(out, name);
	putc('"', out);
}

static void junit_failure(const struct reports *r, FILE *out, const struct findings *f,
			  const struct finding *one)
{
	const struct frame *at = finding_frame(one);
	char *title = reports_title(f, one), *place = frame_place(at);
	char *name = format_string("leak in %s %s", at->function, reports_path(r, place));

	junit_case(out, f, name);
	fprintf(out, ">\n<failure type=\"%s leak\" message=\"", one->kind);
	reports_escape(out, title);
	fputs("\">", out);
	for (size_t i = 0; i < one->nframes; i++) {
		char *line = frame_place(&one->frames[i]);

		fprintf(out, "#%zu ", i);
		reports_escape(out, one->frames[i].function);
		putc(' ', out);
		reports_escape(out, reports_path(r, line));
		putc('\n', out);
		free(line);
	}
	fputs("</failure>\n</testcase>\n", out);
	free(name);
	free(place);
	free(title);
}

static void junit_suite(const struct reports *r, FILE *out, const struct findings *f)
{
	bool incomplete = f->verdict && strcmp(f->verdict, "incomplete") == 0;
	size_t failures = f->verdict ? reports_shown(r, f) : 0;
	size_t tests = failures + (incomplete || failures == 0);

	fputs("<testsuite name=\"seep ", out);
	reports_escape(out, f->path);
	fprintf(out, "\" tests=\"%zu\" failures=\"%zu\" errors=\"%d\" skipped=\"%d\">\n",
		tests, failures, incomplete, !f->verdict);
	for (size_t i = 0; i < failures; i++)
		junit_failure(r, out, f, &f->list[i]);
	if (incomplete) {
		junit_case(out, f, "leak check");
		fputs(">\n<error type=\"incomplete\" message=\"", out);
		reports_escape(out, f->reason);
		fputs("\"/>\n</testcase>\n", out);
	} else if (!f->verdict) {
		junit_case(out, f, f->type);
		fputs(">\n<skipped message=\"a profile, not a check\"/>\n</testcase>\n",
		      out);
	} else if (failures == 0) {
		junit_case(out, f, "leak check");
		fputs("/>\n", out);
	}
	fputs("</testsuite>\n", out);
}

void report_junit(const struct reports *r, FILE *out)
{
	fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"seep\">\n",
	      out);
	for (size_t i = 0; i < r->count; i++)
		junit_suite(r, out, r->list[i]);
	fputs("</testsuites>\n", out);
}
