/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report_html: one page that shows itself: totals, a flame graph from the outermost frame
 * down, and the stacks as a list that can be searched. Style and script are in the page,
 * which forbids itself to load anything.
 *
 * A node of the graph narrower than a thousandth of the whole is left out.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/lib/reports.h"
#include "tools/lib/say.h"

#define LEAST_SHARE	0.001
#define MAX_GRAPH_DEPTH 200
#define MAX_LISTED	300 /* stacks of one file in the list */

struct node {
	const struct frame *frame; /* NULL: the whole */
	int64_t amount;
	size_t first, next; /* child, sibling; 0: none */
};

struct graph {
	struct node *nodes;
	size_t count, size;
	struct intern known; /* parent and function; numbers + 1 index nodes[] */
};

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
	"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	"style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
	"<meta name=\"viewport\" content=\"width=device-width\">\n"
	"<title>seep report</title>\n<style>\n"
	":root{color-scheme:light dark}\n"
	"body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;max-width:1400px}\n"
	"h1{font-size:1.3em}h2{font-size:1.1em;margin-top:1.5em}\n"
	"code,.f{font-family:ui-monospace,monospace;font-size:12px}\n"
	".leak,.incomplete{color:#c22}.clean{color:#282}\n"
	".g{overflow:hidden;border:1px solid #8886}\n"
	".n{overflow:hidden;flex:none}.n>span{display:block;overflow:hidden;"
	"white-space:nowrap;height:17px;line-height:17px;padding:0 3px;cursor:pointer;"
	"border:1px solid #fff6;box-sizing:border-box;color:#111;background:#f4b266}\n"
	".n:nth-child(2n)>span{background:#f08a5d}.n:nth-child(3n)>span{background:"
	"#ffd479}\n.c{display:flex}\n"
	"details{border-bottom:1px solid #8884;padding:3px 0}summary{cursor:pointer}\n"
	"ol{margin:.3em 0 .6em 1em}.p{opacity:.65}.k{opacity:.65}\n"
	"input{font:inherit;padding:3px 6px;width:24em;max-width:100%}\n"
	"</style></head><body>\n<h1>seep report</h1>\n";

static const char tail[] =
	"<script>\n"
	"document.querySelectorAll('.g').forEach(function(g){\n"
	" g.addEventListener('click',function(e){\n"
	"  var n=e.target.closest('.n');if(!n)return;\n"
	"  g.querySelectorAll('.n').forEach(function(x){x.style.width=x.dataset.w+'%';"
	"x.style.display='';});\n"
	"  for(var x=n;x&&x!==g;x=x.parentElement)if(x.classList.contains('n')){\n"
	"   x.style.width='100%';\n"
	"   for(var s=x.parentElement.firstElementChild;s;s=s.nextElementSibling)"
	"if(s!==x)s.style.display='none';}\n"
	" });});\n"
	"document.querySelectorAll('input').forEach(function(i){\n"
	" i.addEventListener('input',function(){var w=i.value.toLowerCase();\n"
	"  i.parentElement.querySelectorAll('details').forEach(function(d){\n"
	"   "
	"d.style.display=d.textContent.toLowerCase().indexOf(w)<0?'none':'';});});});\n"
	"</script>\n</body></html>\n";

/* ---- the graph ---- */

static size_t add_node(struct graph *g, const struct frame *frame)
{
	g->nodes = grown(g->nodes, g->count, &g->size, sizeof(*g->nodes));
	g->nodes[g->count] = (struct node){ .frame = frame };
	return g->count++;
}

static size_t child_of(struct graph *g, size_t parent, const struct frame *frame)
{
	size_t before = g->known.count, number;
	char *key = format_string("%zu %s", parent, frame->function);

	number = intern_text(&g->known, key);
	free(key);
	if (number == before) {
		size_t i = add_node(g, frame);

		g->nodes[i].next = g->nodes[parent].first;
		g->nodes[parent].first = i;
	}
	return number + 1;
}

static void build(struct graph *g, const struct findings *f)
{
	add_node(g, NULL);
	for (size_t i = 0; i < f->count; i++) {
		const struct finding *one = &f->list[i];
		size_t at = 0, depth = 0;

		if (one->amount <= 0) /* of a difference: it has no width */
			continue;
		g->nodes[0].amount += one->amount;
		for (size_t k = one->nframes; k > 0 && depth < MAX_GRAPH_DEPTH;
		     k--, depth++) {
			at = child_of(g, at, &one->frames[k - 1]);
			g->nodes[at].amount += one->amount;
		}
	}
}

static void write_node(const struct findings *f, FILE *out, const struct graph *g,
		       size_t i, double width);

static void write_children(const struct findings *f, FILE *out, const struct graph *g,
			   size_t parent)
{
	double whole = (double)g->nodes[0].amount;

	fputs("<div class=c>", out);
	for (size_t i = g->nodes[parent].first; i; i = g->nodes[i].next)
		if ((double)g->nodes[i].amount >= whole * LEAST_SHARE)
			write_node(f, out, g, i,
				   100.0 * (double)g->nodes[i].amount /
					   (double)g->nodes[parent].amount);
	fputs("</div>", out);
}

static void write_node(const struct findings *f, FILE *out, const struct graph *g,
		       size_t i, double width)
{
	const struct node *n = &g->nodes[i];
	char amount[32], *place = n->frame ? frame_place(n->frame) : NULL;

	findings_amount(f, n->amount, amount, sizeof(amount));
	fprintf(out, "<div class=n data-w=%.3f style=\"width:%.3f%%\"><span title=\"",
		width, width);
	reports_escape(out, n->frame ? n->frame->function : "all");
	fprintf(out, "&#10;%s (%.1f%%)&#10;", amount,
		100.0 * (double)n->amount / (double)g->nodes[0].amount);
	reports_escape(out, place ? place : "");
	fputs("\">", out);
	reports_escape(out, n->frame ? n->frame->function : "all");
	fputs("</span>", out);
	if (n->first)
		write_children(f, out, g, i);
	fputs("</div>\n", out);
	free(place);
}

static void write_graph(const struct findings *f, FILE *out)
{
	struct graph g = { 0 };

	build(&g, f);
	if (g.nodes[0].amount > 0) {
		fputs("<h2>Flame graph</h2>\n<div class=\"g f\">", out);
		write_node(f, out, &g, 0, 100.0);
		fputs("</div>\n", out);
	}
	intern_free(&g.known);
	free(g.nodes);
}

/* ---- the list ---- */

static void write_finding(const struct reports *r, FILE *out, const struct findings *f,
			  const struct finding *one)
{
	const struct frame *at = finding_frame(one);
	char *title = reports_title(f, one), *place = frame_place(at);

	fputs("<details><summary>", out);
	reports_escape(out, title);
	fputs(" <code>", out);
	reports_escape(out, at->function);
	fputs("</code> <span class=p>", out);
	reports_escape(out, reports_path(r, place));
	fputs("</span></summary><ol class=f>\n", out);
	for (size_t i = 0; i < one->nframes; i++) {
		char *line = frame_place(&one->frames[i]);

		fputs("<li>", out);
		reports_escape(out, one->frames[i].function);
		fputs(one->frames[i].inlined ? " <span class=k>(inline)</span>" : "",
		      out);
		fputs(" <span class=p>", out);
		reports_escape(out, reports_path(r, line));
		fputs("</span></li>\n", out);
		free(line);
	}
	fputs("</ol></details>\n", out);
	free(title);
	free(place);
}

static void write_list(const struct reports *r, FILE *out, const struct findings *f)
{
	size_t shown = reports_shown(r, f);

	if (shown > MAX_LISTED)
		shown = MAX_LISTED;
	fputs("<h2>Stacks</h2>\n<div><input type=search placeholder=\"search\" "
	      "aria-label=\"search\">\n",
	      out);
	for (size_t i = 0; i < shown; i++)
		write_finding(r, out, f, &f->list[i]);
	fputs("</div>\n", out);
	if (shown < f->count)
		fprintf(out, "<p>... and %zu more stacks.</p>\n", f->count - shown);
}

static void write_head(FILE *out, const struct findings *f)
{
	char amount[32];

	fputs("<h2><code>", out);
	reports_escape(out, *f->exe ? f->exe : f->path);
	fputs("</code></h2>\n<p>", out);
	reports_escape(out, f->path);
	if (f->pid)
		fprintf(out, ", process %lld", (long long)f->pid);
	fputs("<br>", out);
	reports_escape(out, f->type);
	fprintf(out, ": <b>%s</b>", findings_amount(f, f->amount, amount, 32));
	if (f->has_objects)
		fprintf(out, " in %lld objects", (long long)f->objects);
	fprintf(out, ", %zu stacks", f->count);
	if (f->verdict) {
		bool known = strcmp(f->verdict, "clean") == 0 ||
			     strcmp(f->verdict, "leak") == 0;

		fprintf(out, "<br>verdict: <b class=%s>",
			known ? f->verdict : "incomplete");
		reports_escape(out, f->verdict);
		fputs("</b> ", out);
		reports_escape(out, f->reason);
	}
	fputs("</p>\n", out);
}

void report_html(const struct reports *r, FILE *out)
{
	fputs(head, out);
	for (size_t i = 0; i < r->count; i++) {
		write_head(out, r->list[i]);
		write_graph(r->list[i], out);
		if (r->list[i]->count)
			write_list(r, out, r->list[i]);
	}
	fputs(tail, out);
}
