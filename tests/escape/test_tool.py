# SPDX-License-Identifier: Apache-2.0
"""seep escape: its lines and its JSON for programs whose escapes are known."""
import json
import os
import re
import shutil
import subprocess
import sys
import seeptest


LIFE = r"\(n=50, exact; [0-9.]+ [kMG]?B/s, median life [0-9]+ [a-z]+"
LINES = [  # function, call, the rest of its line
    ("make_lent", r"malloc\(104\)", rf"does not escape {LIFE}\): could be automatic"),
    ("make_large", r"malloc\(200000\)", rf"does not escape {LIFE}\): one buffer could be kept "
     "and used again"),
    ("make_dynamic", r"malloc\(1000\.\.5900\)", rf"does not escape {LIFE}\): small ones .*"),
    ("make_global", r"malloc\(64\)", r"escapes to global kept_global \(seen 50/50\), dies with "
     rf"case_global, 1 frame up {LIFE}, freed by drop_global\): could come from an arena or pool "
     "of case_global"),
    ("make_sent", r"malloc\(160\)", rf"escapes to another thread \(freed there 50/50\) {LIFE}, "
     r"freed by receive\): could come from a pool .*"),
    ("make_returned", r"malloc\(48\)", r"is returned \(50/50\), dies with case_returned, 1 frame "
     rf"up {LIFE}, freed by case_returned\): could be a buffer that its caller, case_returned, "
     "supplies"),
    ("make_deep", r"malloc\(152\)", r"escapes to the caller's memory, frame of case_deep \(seen "
     rf"50/50\), dies with case_deep, 3 frames up {LIFE}, freed by case_deep\): could come from "
     "an arena or pool of case_deep"),
    ("make_replaced", r"malloc\(176\)", r"escapes to global buffer\.\d+ .*freed by make_replaced"
     r"\): replaced in a loop: .*"),
    ("make_element", r"malloc\(80\)", r"escapes to the heap, object of case_element, offset 24 "
     r".*"),
    ("make_append", r"realloc\(64\.\.4096\)", r"escapes to the heap, object of case_append, "
     r"offset 0 \(seen 7/7\).*, moved by realloc 6/7\)"),
    ("make_grown", r"realloc\(64\.\.512\)", r"does not escape \(n=200, .*moved by realloc "
     r"150/200\): could be automatic, with room for 512 bytes"),
    ("make_returned_grown", r"realloc\(64\.\.512\)", r".*: grown step by step: room for 512 "
     "bytes could be reserved at once"),
    ("make_handed", r"malloc\(216\)", r"escapes to another thread, stack of a thread made by "
     r"case_holder \(seen \d+/50\), dies with case_handed, 1 frame up .*"),
    ("make_live", r"malloc\(168\)", r"escapes to global list .*live;.*\)"),
]


class Tool(seeptest.TestCase):
    def escape(self, *args):
        r = seeptest.seep("escape", "-o", f"{self.dir}/x.%p", "--top", "0", *args)
        self.assertEqual((r.returncode, r.stdout), (0, b"done\n"), r.stderr)
        return r.stderr.decode()

    def line(self, text, name):
        found = [l for l in text.splitlines() if f" in {name} " in l]
        self.assertEqual(len(found), 1, f"{name}: {found}")
        return found[0]

    def test_text(self):
        text = self.escape("--", PROGRAM)
        for line in text.splitlines():
            self.assertRegex(line, "^seep: ")
        for name, call, rest in LINES:
            self.assertRegex(self.line(text, name), rf": {call} in {name} {rest}$")
        self.assertNotIn("safe", text)

    def test_sorted_by_gain(self):
        self.escape("--format", "json", "--report", f"{self.dir}/r.json", "--", PROGRAM)
        with open(f"{self.dir}/r.json") as f:
            sites = json.load(f)["profiles"][0]["sites"]
        gains = [s["gain"] for s in sites]
        self.assertEqual(gains, sorted(gains, reverse=True))
        site = {s["function"]: s for s in sites}
        self.assertEqual(sites[0]["function"], "make_large")
        self.assertEqual(sites[0]["escape"], "none")
        self.assertEqual(site["make_tls"]["to"], "kept_tls")
        self.assertEqual(site["make_twice"]["depth_min"], 2)
        self.assertEqual(site["make_twice"]["dies_with"], "case_twice")
        self.assertEqual(site["make_live"]["confidence"]["live"], 50)
        self.assertEqual(site["make_live"]["gain"], 0)

    def test_from_a_file(self):
        text = self.escape("--", PROGRAM)
        path = self.one("x.*.escape.pb.gz")
        r = seeptest.seep("escape", "--from", path, "--top", "0")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertEqual(r.stdout.decode(), re.sub("(?m)^seep: ", "", text))

    def test_lines_come_by_themselves(self):
        """With debug information: file, line and column, of the call as the source has it."""
        text = self.escape("--", WITH_LINES)
        path = os.path.join(seeptest.SOURCE, "tests/escape/cases.c")
        with open(path) as f:
            source = f.read().splitlines()
        for name, call in (("make_returned", "malloc(48)"), ("make_global", "malloc(64)"),
                           ("make_lent", "malloc(104)"), ("make_sent", "malloc(160)")):
            m = re.search(rf"tests/escape/cases\.c:(\d+):(\d+): {re.escape(call)} in {name} ",
                          text)
            self.assertTrue(m, (name, text))
            self.assertTrue(source[int(m[1]) - 1][int(m[2]) - 1:].startswith("malloc"), m[0])
        for name, call in (("element", "malloc("), ("append", "calloc(")):
            m = re.search(rf"object of case_{name} \(cases\.c:(\d+)\), offset", text)
            self.assertTrue(m, (name, text))
            self.assertIn(call, source[int(m[1]) - 1])

    def test_types_settle_what_is_returned(self):
        """Where the caller's code does not say whether it reads the register."""
        text = self.escape("--", PROGRAM)
        for name in ("make_maybe", "make_left"):
            self.assertIn(" is maybe returned (50/50), ", self.line(text, name))
        text = self.escape("--", WITH_LINES)
        self.assertIn(" is returned (50/50), ", self.line(text, "make_maybe"))
        self.assertIn(" escapes, dies with case_left", self.line(text, "make_left"))

    def test_only_some_are_seen(self):
        """n is what was followed; the estimate of all is told beside it."""
        text = self.escape("--sample", "500", "-O", "seed=7", "--", PROGRAM)
        self.assertRegex(self.line(text, "make_large"), r"\(n=50, exact; ")
        self.assertRegex(text, r"\(n=\d+ of \d+, ")

    def test_go_tool_pprof_reads_the_labels(self):
        """A flame graph of what could be on the stack, by -tagfocus."""
        if not shutil.which("go"):
            self.skipTest("no go")
        self.escape("--", PROGRAM)
        r = subprocess.run(["go", "tool", "pprof", "-top", "-nodecount=100",
                            "-sample_index=objects", "-tagfocus=escape=none",
                            self.one("x.*.escape.pb.gz")], capture_output=True, text=True,
                           timeout=seeptest.TIMEOUT, env=seeptest.clean_env(HOME=self.dir))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("make_lent", r.stdout)
        self.assertIn("make_large", r.stdout)
        for other in ("make_global", "make_returned", "make_sent", "make_live"):
            self.assertNotRegex(r.stdout, rf"\b{other}\b")

    def test_bound(self):
        text = self.escape("--bound", "--", PROGRAM)
        self.assertRegex(self.line(text, "make_lent"), r"does not escape \(n=50, bound;")

    def test_default_is_exact(self):
        """Why: comparison takes what each call grows for something that never leaves it."""
        exact = self.line(self.escape("--", PROGRAM), "make_append")
        self.assertRegex(exact, r"\(seen 7/7\), dies with case_append, 1 frame up \(n=7, exact")
        bound = self.line(self.escape("--bound", "--", PROGRAM), "make_append")
        self.assertIn("not always: 6/7 ended inside", bound)

    def test_no_symbolize(self):
        text = self.escape("--no-symbolize", "--", WITH_LINES)
        self.assertNotIn("cases.c:", text)

    def test_wrong_usage(self):
        for args in ([], ["--format", "xml", "true"], ["--from", "a", "true"],
                     ["--top", "x", "true"]):
            self.assertEqual(seeptest.seep("escape", *args).returncode, 25, args)
        r = seeptest.seep("escape", "--from", "/none")
        self.assertEqual((r.returncode, r.stderr),
                         (24, b"seep: /none: No such file or directory\n"))
        r = seeptest.seep("escape", "--from", "/etc/passwd")
        self.assertIn(b"not an escape profile", r.stderr)
        self.assertEqual(r.returncode, 24)

    def test_status_is_the_programs(self):
        r = seeptest.seep("escape", "-o", f"{self.dir}/x.%p", "--", "bash", "-c", "exit 7")
        self.assertEqual(r.returncode, 7)


PROGRAM, WITH_LINES = [os.path.abspath(sys.argv.pop(1)) for _ in range(2)]
seeptest.main()
