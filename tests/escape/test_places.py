# SPDX-License-Identifier: Apache-2.0
"""Places of the source, whatever number of calls a compiler makes of one."""
import json
import os
import sys
import seeptest

ROUNDS = 10


class Places(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        report = f"{self.dir}/r.json"
        r = seeptest.seep("escape", "-o", f"{self.dir}/x.%p", "--format", "json", "--top", "0",
                          "--report", report, "--", PROGRAM)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        with open(report) as f:
            self.sites = json.load(f)["profiles"][0]["sites"]

    def one(self, function, size):
        found = [s for s in self.sites
                 if s["function"] == function and s["size_max"] == size]
        self.assertEqual(len(found), 1, self.sites)
        return found[0]

    def test_calls_of_one_line(self):
        s = self.one("case_unrolled", 40)
        self.assertEqual((s["samples"], s["escape"]), (4 * ROUNDS, "none"))

    def test_several_at_a_time(self):
        s = self.one("case_loop", 56)
        self.assertEqual((s["several"], s["escape"]), (4 * ROUNDS, "none"))
        self.assertEqual(s["advice"], "several at a time: could come from an arena or an array "
                         "of case_loop")

    def test_one_at_a_time(self):
        self.assertEqual(self.one("make_not", 88)["several"], 0)

    def test_several_calls_of_one_function_make_no_wrapper(self):
        s = self.one("put_item", 24)
        self.assertEqual((s["samples"], s["escape"], s["dies_with"], s["depth_max"]),
                         (4 * ROUNDS, "caller", "case_called", 1))

    def test_second_word(self):
        s = self.one("make_any", 72)
        self.assertEqual((s["escape"], s["to"], s["dies_with"]),
                         ("returned", "second word of a structure", "case_any"))

    def test_left_in_the_register(self):
        s = self.one("make_not", 104)
        self.assertNotIn("returned", s["places"])


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
