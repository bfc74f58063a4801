# SPDX-License-Identifier: Apache-2.0
"""seep escape: its lines and its JSON for programs whose escapes are known."""
import json
import os
import re
import sys
import seeptest


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
        for name, size, rest in (
                ("make_lent", "104", r"does not escape \(n=50, exact; .*could be automatic$"),
                ("make_large", "200000", r"does not escape .*one buffer could be kept"),
                ("make_dynamic", r"1000\.\.5900", r"does not escape .*small ones"),
                ("make_global", "64", r"escapes to global kept_global \(seen 50/50\)"),
                ("make_sent", "160", r"escapes to another thread \(freed there 50/50\)"),
                ("make_returned", "48", r"is returned \(50/50\), dies with case_returned, 1 "
                 "frame up .*caller could supply it"),
                ("make_deep", "152", r"caller's memory, frame of case_deep .*dies with case_deep, 3 frames up"),
                ("make_replaced", "176", r"global .*buffer.*freed by make_replaced.*used again"),
                ("make_element", "80", r"to the heap, object of case_element, offset 24"),
                ("make_live", "168", r"global list .*live")):
            self.assertRegex(self.line(text, name), rf"heap\({size}\) in {name} .*{rest}")
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

    def test_bound(self):
        text = self.escape("--bound", "--", PROGRAM)
        self.assertRegex(self.line(text, "make_lent"), r"does not escape \(n=50, bound;")

    def test_wrong_usage(self):
        for args in ([], ["--format", "xml", "true"], ["--from", "a", "true"],
                     ["--top", "x", "true"]):
            self.assertEqual(seeptest.seep("escape", *args).returncode, 25, args)
        r = seeptest.seep("escape", "--from", "/etc/passwd")
        self.assertIn(b"not an escape profile", r.stderr)
        self.assertEqual(r.returncode, 24)

    def test_status_is_the_programs(self):
        r = seeptest.seep("escape", "-o", f"{self.dir}/x.%p", "--", "bash", "-c", "exit 7")
        self.assertEqual(r.returncode, 7)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
