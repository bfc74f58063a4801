# SPDX-License-Identifier: Apache-2.0
"""seep diff and seep report: what they say of known programs, and their formats."""
import html.parser
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
import profilepb
import seeptest
from seeptest import seep

WORK = seeptest.victim("profile/work")
LINES = seeptest.victim("profile/lines")
SARIF_LEVELS = {"none", "note", "warning", "error"}


class Page(html.parser.HTMLParser):
    """Counts tags, checks that they nest, and keeps what they load."""
    VOID = {"meta", "input", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.names = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


class Report(seeptest.TestCase):
    def make(self, name, exe=WORK, args=(), options="mode=exact"):
        r = seeptest.run([exe, *args], options=f"{options}:out={self.dir}/{name}")
        self.assertIn(r.returncode, (0, 23))

    def ok(self, *argv):
        r = seep(*argv)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        return r.stdout.decode()

    # ---- diff ----

    def two(self):
        self.make("a", args=["1"])
        self.make("b", args=["3"])
        return self.one("a.*.allocs.pb.gz"), self.one("b.*.allocs.pb.gz")

    def test_diff_text(self):
        a, b = self.two()
        text = self.ok("diff", a, b)
        self.assertRegex(text, r"^alloc_space: \S+ MiB -> \S+ MiB, \+976\.6 KiB")
        self.assertIn("+976.6 KiB in +1000 objects (488.3 KiB -> 1.4 MiB)", text)
        self.assertRegex(text, r"\n    exported_churn  /.*\n    main ")
        self.assertEqual(self.ok("diff", a, a).splitlines()[1:], ["nothing grew"])
        self.assertIn("nothing grew", self.ok("diff", b, a))
        self.assertIn("-976.6 KiB in -1000 objects", self.ok("diff", "--shrunk", b, a))

    def test_diff_json(self):
        a, b = self.two()
        j = json.loads(self.ok("diff", "--format=json", "--by=function",
                               "--sample-index=alloc_objects", a, b))
        self.assertEqual((j["schema"], j["unit"]), (1, "count"))
        self.assertEqual([(e["stack"][0]["function"], e["old"], e["new"], e["delta"])
                          for e in j["entries"]], [("exported_churn", 500, 1500, 1000)])
        self.assertEqual(j["new_total"] - j["old_total"], 1000)

    def entries(self, *argv):
        return json.loads(self.ok("diff", "--format=json", *argv))["entries"]

    def test_diff_order(self):
        """Most first, as many as asked for; what is the same in both is never shown."""
        self.make("a", args=["1"])
        self.make("b", seeptest.victim("profile/sizes"))
        a, b = self.one("a.*.allocs.pb.gz"), self.one("b.*.allocs.pb.gz")
        grown = self.entries("-n", "0", a, b)
        self.assertGreater(len(grown), 3)
        self.assertEqual([e["delta"] for e in grown],
                         sorted((e["delta"] for e in grown), reverse=True))
        self.assertTrue(all(e["delta"] > 0 for e in grown))
        self.assertEqual(self.entries("-n", "2", a, b), grown[:2])
        text = self.ok("diff", "-n", "2", a, b)
        self.assertEqual(len(re.findall(r"\n[+-]\S+ \S+ in ", text)), 2)
        self.assertIn(f"... and {len(grown) - 2} more; -n 0 shows all", text)
        both = self.entries("-n", "0", "--shrunk", a, b)
        self.assertGreater(len(both), len(grown))
        self.assertTrue(all(e["delta"] < 0 for e in both[len(grown):]))
        self.assertEqual(self.entries("--shrunk", b, b), [])

    def test_diff_by(self):
        """A function's lines are added up, or each is one of its own."""
        self.make("a", args=["1"])
        self.make("b", seeptest.victim("profile/sizes"), ["all"])
        a, b = self.one("a.*.allocs.pb.gz"), self.one("b.*.allocs.pb.gz")
        self.assertEqual(seep("symbolize", b, "-o", b).returncode, 0)
        by = {what: self.entries("-n", "0", "--sample-index=alloc_objects", "--by", what, a, b)
              for what in ("function", "line")}
        lines = {}
        for e in by["line"]:
            self.assertEqual(len(e["stack"]), 1)
            lines.setdefault(e["stack"][0]["function"], []).append(e["delta"])
        self.assertEqual({e["stack"][0]["function"]: e["delta"] for e in by["function"]},
                         {function: sum(deltas) for function, deltas in lines.items()})
        self.assertEqual(len(by["function"]), len(lines))
        self.assertEqual(len(lines["grown"]), 2)  # malloc and realloc

    def test_diff_profile(self):
        """The written difference is what pprof makes of the two files."""
        a, b = self.two()
        out = os.path.join(self.dir, "d.pb.gz")
        self.ok("diff", "-o", out, a, b)
        p = profilepb.Profile(out)
        self.assertEqual(p.types, profilepb.Profile(a).types)
        values = [(v, s[0]["name"]) for v, s in p.stacks("alloc_space")]
        self.assertEqual(values, [(1000000, "exported_churn")])
        env = seeptest.clean_env(HOME=self.dir)
        r = subprocess.run(["go", "tool", "pprof", "-top", "-sample_index=alloc_space", out],
                           env=env, capture_output=True, timeout=seeptest.TIMEOUT)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stdout.decode(), r"976\.56kB .* exported_churn")
        self.ok("diff", "-o", out, a, a)
        self.assertEqual(profilepb.Profile(out).samples, [])

    def test_diff_refuses(self):
        a, _ = self.two()
        peak = self.one("a.*.peak.pb.gz")
        for argv, status in (((a,), 25), ((a, peak), 24), ((a, "/nonexistent"), 24),
                             (("--by=x", a, a), 25), (("--sample-index=x", a, a), 25),
                             (("-n", "x", a, a), 25), (("--format=xml", a, a), 25)):
            r = seep("diff", *argv)
            self.assertEqual((r.returncode, r.stdout), (status, b""), argv)
            self.assertEqual(len(r.stderr.decode().splitlines()), 1)

    # ---- report ----

    def leaks(self):
        r = seep("gate", "-o", f"{self.dir}/g", "--", LINES)
        self.assertEqual(r.returncode, 23)
        return self.one("g.*.report.json")

    def line(self, word):
        with open(os.path.join(seeptest.SOURCE, "tests/profile/lines.cc")) as f:
            return [i for i, l in enumerate(f, 1) if f"/* {word} */" in l][0]

    def test_all_files_of_a_run(self):
        """As the shell expands seep.out/*.json: run.json among them is no report."""
        seep("gate", "-q", "-o", f"{self.dir}/%e", "--", seeptest.victim("leak/leaks"), "direct")
        files = [self.one("*.report.json"), self.one("run.json")]
        for given in (files, files[::-1]):
            self.assertIn("verdict: leak", self.ok("report", *given))
        r = seep("report", files[1])
        self.assertEqual((r.returncode, r.stderr.decode()), (
            24, f"seep: {files[1]}: it is the list of a run's files; give those\n"))

    def test_json_agrees_with_the_check(self):
        path = self.leaks()
        with open(path) as f:
            check = json.load(f)
        for source in (path, self.one("g.*.leak.pb.gz")):
            j = json.loads(self.ok("report", source, "--format=json"))
            report = j["reports"][0]
            self.assertEqual(report["verdict"], "leak")
            self.assertEqual((report["objects"], report["amount"]),
                             (check["objects"], check["bytes"]))
            lost = [f for f in report["findings"] if f["amount"] == 55]
            self.assertEqual([x["function"] for x in lost[0]["stack"][:3]],
                             ["innermost", "lose", "main"])
            self.assertEqual(lost[0]["kind"], "direct")

    def test_text(self):
        text = self.ok("report", self.leaks(), "--source-root", seeptest.SOURCE)
        self.assertIn("verdict: leak", text)
        self.assertRegex(text, r"direct leak of 55 B in 1 object, from:\n"
                               rf"    #0 innermost \(inline\)  .*lines\.cc:\d+\n"
                               rf"    #1 lose  .*lines\.cc:{self.line('at lose')}\n")

    def test_sarif(self):
        j = json.loads(self.ok("report", self.leaks(), "--format=sarif"))
        self.assertEqual(j["version"], "2.1.0")
        run = j["runs"][0]
        rules = [r["id"] for r in run["tool"]["driver"]["rules"]]
        self.assertTrue(run["originalUriBaseIds"]["SRCROOT"]["uri"].endswith("/"))
        self.assertGreater(len(run["results"]), 0)
        for result in run["results"]:
            self.assertEqual(rules[result["ruleIndex"]], result["ruleId"])
            self.assertIn(result["level"], SARIF_LEVELS)
            self.assertTrue(result["message"]["text"])
            for frame in result["stacks"][0]["frames"]:
                self.assertIn("logicalLocations", frame["location"])
        lost = [r for r in run["results"] if r["properties"]["amount"] == 55][0]
        physical = lost["locations"][0]["physicalLocation"]
        self.assertRegex(physical["artifactLocation"]["uri"], r"lines\.cc$")
        self.assertEqual(physical["region"]["startLine"], self.line("at innermost"))
        again = json.loads(self.ok("report", self.one("g.*.leak.pb.gz"), "--format=sarif"))
        prints = [sorted(r["partialFingerprints"]["seepStack/v1"] for r in x["runs"][0]
                         ["results"]) for x in (j, again)]
        self.assertEqual(prints[0], prints[1])

    def test_junit(self):
        path = self.leaks()
        clean = seep("gate", "-o", f"{self.dir}/clean", "--", "true")
        self.assertEqual(clean.returncode, 0)
        incomplete = os.path.join(self.dir, "odd.report.json")
        with open(incomplete, "w") as f:
            json.dump({"schema": 1, "pid": 1, "exe": "/bin/<odd> & \"x\"", "leaks": [],
                       "verdict": "incomplete", "reason": "a < b \x01 'c'"}, f)
        root = ET.fromstring(self.ok("report", path, self.one("clean.*.report.json"),
                                     incomplete, self.one("clean.*.heap.pb.gz"),
                                     "--format=junit"))
        suites = list(root)
        self.assertEqual([(int(s.get("errors")), int(s.get("skipped"))) for s in suites],
                         [(0, 0), (0, 0), (1, 0), (0, 1)])
        for s in suites:
            self.assertEqual(int(s.get("tests")), len(s.findall("testcase")))
            self.assertEqual(int(s.get("failures")), len(s.findall("testcase/failure")))
        self.assertGreater(int(suites[0].get("failures")), 0)
        self.assertEqual(int(suites[1].get("failures")), 0)
        case = suites[2].find("testcase")
        self.assertEqual(case.get("classname"), '/bin/<odd> & "x"')
        self.assertEqual(case.find("error").get("message"), "a < b ? 'c'")

    def test_html(self):
        self.make("w")
        out = os.path.join(self.dir, "r.html")
        self.ok("report", self.leaks(), self.one("w.*.heap.pb.gz"), "--format=html", "-o", out)
        with open(out) as f:
            text = f.read()
        page = Page()
        page.feed(text)
        page.close()
        self.assertEqual((page.open, page.loads), ([], []))
        self.assertNotRegex(text, r"https?://|@import|url\(")
        self.assertIn("default-src 'none'", text)
        self.assertEqual(text.count("<div class=\"g f\">"), 2)
        self.assertIn("leaf_small", text)
        self.assertIn("lose", text)
        self.assertGreaterEqual(page.names.count("details"), 3)

    def test_odd_names_do_no_harm(self):
        path = os.path.join(self.dir, "x.report.json")
        name = "<script>alert('1')</script>&\"\u00e9\u202e"
        frame = {"function": name, "file": f"/a b/{name}.c", "line": 3, "module": name,
                 "offset": 1}
        with open(path, "w") as f:
            json.dump({"schema": 1, "exe": name, "verdict": "leak", "reason": "",
                       "leaks": [{"kind": "direct", "objects": 1, "bytes": 2,
                                  "stack": [frame]},
                                 {"kind": "direct", "objects": 1, "bytes": 1,
                                  "stack": []}]}, f)
        page = self.ok("report", path, "--format=html")
        self.assertEqual(page.count("<script>"), 1)
        ET.fromstring(self.ok("report", path, "--format=junit"))
        j = json.loads(self.ok("report", path, "--format=sarif"))
        result = j["runs"][0]["results"][0]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        self.assertRegex(uri, r"^file:///a%20b/%3Cscript%3E[-A-Za-z0-9%./_~+]+$")
        j = json.loads(self.ok("report", path, "--format=json"))
        self.assertEqual(j["reports"][0]["findings"][0]["stack"][0]["function"], name)
        self.assertIn("[stack not sampled]", self.ok("report", path))

    def test_profiles(self):
        self.make("w")
        heap = self.one("w.*.heap.pb.gz")
        text = self.ok("report", heap)
        self.assertRegex(text, r"inuse_space: 24\.4 KiB in 201 objects")
        self.assertRegex(text, r"\n19\.5 KiB in 200 objects, from:\n    #0 leaf_small")
        self.assertIn("... and", self.ok("report", "-n", "1", heap))
        j = json.loads(self.ok("report", "--sample-index=inuse_objects", "--format=json", heap))
        self.assertEqual((j["reports"][0]["unit"], j["reports"][0]["amount"]), ("count", 201))

    def test_refuses(self):
        bad = os.path.join(self.dir, "bad")
        with open(bad, "w") as f:
            f.write("{}")
        for argv, status in (((), 25), (("--format=pdf", bad), 25), ((bad,), 24),
                             (("/nonexistent",), 24), (("-n", "-1", bad), 25)):
            r = seep("report", *argv)
            self.assertEqual((r.returncode, r.stdout), (status, b""), argv)
            self.assertEqual(len(r.stderr.decode().splitlines()), 1)
        empty = os.path.join(self.dir, "empty")
        open(empty, "w").close()
        r = seep("report", empty)
        self.assertEqual((r.returncode, r.stderr), (24, f"seep: {empty}: it is empty\n".encode()))


seeptest.main()
