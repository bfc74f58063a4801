# SPDX-License-Identifier: Apache-2.0
"""Return addresses that are left alone: of JIT code, code without call frame information, a
runtime that has tables of them, the loader, coroutines' starts and signal handlers. Nothing is
claimed to be exact there."""
import os
import sys
import pbgz
import seeptest

NAMES = ("make_under_jit", "make_under_bare", "make_in_constructor", "make_in_context",
         "make_in_handler")
ROUNDS = 30


class Refused(seeptest.TestCase):
    def test_left_alone(self):
        r = seeptest.run([PROGRAM, PLUGIN],
                         options=f"mode=exact:escape=exact:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        samples = pbgz.read(self.one("x.*.escape.pb.gz"))
        for name in NAMES:
            made = [s for s in samples if s["stack"][0] == name]
            self.assertEqual(sum(s["samples"] for s in made), ROUNDS, name)
            for s in made:
                self.assertIn(s["confidence"], ("refused", "bound"), s)
                self.assertNotEqual(s.get("depth", 1), 0, s)
        refused = {s["stack"][0] for s in samples if s["confidence"] == "refused"}
        self.assertLessEqual({"make_in_constructor", "make_in_handler"}, refused)

    def test_tables(self):
        r = seeptest.run([TABLES], options=f"mode=exact:escape=exact:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        made = [s for s in pbgz.read(self.one("x.*.escape.pb.gz"))
                if s["stack"][0] == "make_under_table"]
        self.assertEqual(sum(s["samples"] for s in made), ROUNDS)
        self.assertEqual({s["confidence"] for s in made}, {"refused"})


PROGRAM, PLUGIN, TABLES = [os.path.abspath(sys.argv.pop(1)) for _ in range(3)]
seeptest.main()
