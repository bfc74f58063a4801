# SPDX-License-Identifier: Apache-2.0
"""Functions that only hand on what they allocate are looked through."""
import json
import os
import sys
import seeptest


class Wrapped(seeptest.TestCase):
    def test_callers_are_named(self):
        r = seeptest.seep("escape", "-o", f"{self.dir}/x.%p", "--format", "json", "--report",
                          f"{self.dir}/r.json", "--", PROGRAM)
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        with open(f"{self.dir}/r.json") as f:
            sites = {s["function"]: s for s in json.load(f)["profiles"][0]["sites"]}
        inside, keeps = sites["uses_inside"], sites["keeps"]
        self.assertEqual((inside["through"], inside["escape"], inside["size_max"],
                          inside["samples"], inside["depth_max"]),
                         ("xmalloc", "none", 100, 100, 0))
        self.assertEqual(inside["advice"], "could be automatic")
        self.assertEqual((keeps["escape"], keeps["size_min"], keeps["samples"]),
                         ("global", 200, 100))
        self.assertEqual(sites["hands_on"]["dies_with"], "main")
        self.assertEqual(sites["hands_on"]["depth_max"], 1)
        self.assertNotIn("inner_get", sites)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
