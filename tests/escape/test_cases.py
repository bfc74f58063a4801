# SPDX-License-Identifier: Apache-2.0
"""The classic cases: depth and place of each, however the program was compiled."""
import os
import sys
import pbgz
import seeptest

CASES = {  # function that calls malloc: depth, escape, what it was found in
    "make_returned": (1, "returned", ""),
    "make_twice": (2, "returned", ""),
    "make_global": (1, "global", "kept_global"),
    "make_member": (1, "global", "kept_pair+8"),
    "make_element": (1, "heap", "object of case_element, offset 24"),
    "make_append": (1, "heap", "object of case_append, offset 0"),
    "make_interface": (1, "caller", "frame +1"),
    "make_large": (0, "none", ""),
    "make_dynamic": (0, "none", ""),
    "make_lent": (0, "none", ""),
    "make_consumed": (0, "none", ""),
    "make_tail": (0, "none", ""),
    "make_replaced": (1, "global", "buffer"),
    "make_tls": (1, "tls", "kept_tls"),
    "make_out": (1, "caller", "frame +1"),
    "make_by_value": (1, "caller", "frame +1"),
    "make_deep": (3, "caller", "frame +3"),
    "case_element": (0, "none", ""),
    "case_append": (0, "none", ""),
}
ROUNDS = 50


class Cases(seeptest.TestCase):
    def profile(self, options):
        r = seeptest.run([PROGRAM], options=f"{options}:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        return pbgz.read(self.one("x.*.escape.pb.gz"))

    def test_exact(self):
        samples = self.profile("mode=exact:escape=exact")
        for name, (depth, escape, to) in CASES.items():
            ended = [s for s in samples if s["stack"][0] == name
                     and s["confidence"] != "live"]
            self.assertTrue(ended, name)
            for s in ended:
                self.assertEqual((s["depth"], s["confidence"]), (depth, "exact"), (name, s))
            known = [s for s in ended if s["escape"] not in ("unknown", "maybe-returned")]
            for s in known:
                self.assertEqual(s["escape"], escape, (name, s))
                self.assertIn(to, s.get("to", ""), (name, s))
            count = sum(s["samples"] for s in known)
            self.assertGreaterEqual(count, 0.8 * sum(s["samples"] for s in ended), name)

    def test_closure(self):
        """One function makes both: what it returns, and what that captured."""
        samples = self.profile("mode=exact:escape=exact")
        made = {s["size_min"]: s for s in samples
                if s["stack"][0] == "make_closure" and s["scanned"]}
        self.assertEqual((made[16]["depth"], made[16]["escape"]), (1, "returned"))
        self.assertEqual((made[88]["depth"], made[88]["escape"], made[88]["to"]),
                         (1, "heap", "object of make_closure, offset 8"))

    def test_thread(self):
        samples = [s for s in self.profile("mode=exact:escape=exact")
                   if s["stack"][0] == "make_sent"]
        self.assertEqual(sum(s["samples"] for s in samples), ROUNDS)
        for s in samples:
            self.assertEqual((s["escape"], s["confidence"], s["freed_by"]),
                             ("thread", "thread", "receive"))
        self.assertTrue([s for s in samples if s.get("to", "").startswith("queue+")])

    def test_thread_by_its_stack(self):
        """Freed by the thread that made it, but held by another one meanwhile."""
        samples = [s for s in self.profile("mode=exact:escape=exact")
                   if s["stack"][0] == "make_handed"]
        self.assertEqual(sum(s["samples"] for s in samples), ROUNDS)
        self.assertEqual({(s["depth"], s["confidence"]) for s in samples}, {(1, "exact")})
        seen = [s for s in samples if s["escape"] == "thread"]
        self.assertGreater(sum(s["samples"] for s in seen), 0)  # looks have a budget of time
        self.assertEqual({s["to"] for s in seen}, {"stack of a thread made by case_holder"})
        self.assertFalse([s for s in samples if s["escape"] not in ("thread", "unknown")])

    def test_live(self):
        live = [s for s in self.profile("mode=exact:escape=exact")
                if s["stack"][0] == "make_live"]
        self.assertEqual(sum(s["samples"] for s in live), ROUNDS)
        self.assertEqual({s["confidence"] for s in live}, {"live"})
        self.assertIn("list", {s.get("to") for s in live})

    def test_numbers(self):
        samples = {s["stack"][0]: s for s in self.profile("mode=exact:escape=exact")}
        s = samples["make_dynamic"]
        self.assertEqual((s["samples"], s["size_min"], s["size_max"]),
                         (ROUNDS, 1000, 1000 + 100 * (ROUNDS - 1)))
        self.assertEqual(s["values"][0], ROUNDS)
        self.assertGreater(s["median"], 0)

    def test_bound_is_a_lower_bound(self):
        for s in self.profile("mode=exact:escape=bound"):
            if s["stack"][0] in CASES and s["confidence"] == "bound":
                self.assertLessEqual(s["depth"], CASES[s["stack"][0]][0], s)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
