# SPDX-License-Identifier: Apache-2.0
"""The cases of C++: destructors, exceptions, containers, however the program was compiled."""
import os
import sys
import pbgz
import seeptest

CASES = {  # function that calls malloc or new: depth, confidence, escape, what it was found in
    "make_scoped": (0, "exact", "none", ""),
    "make_owner": (2, "exact", "caller", "frame +2"),
    "make_thrown": (2, "exact-exc", "global", "in_flight"),
    "make_cleaned": (0, "exact", "none", ""),
    "make_caught": (0, "exact", "none", ""),
    "make_shape": (1, "exact", "returned", ""),
    "make_captured": (1, "exact", "caller", "frame +1"),
}
CONTAINERS = {120: "make_vector", 136: "make_unique"}  # by size; the library's frames may be inlined
ROUNDS = 50


class Cases(seeptest.TestCase):
    def profile(self, options):
        r = seeptest.run([PROGRAM], options=f"{options}:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        return pbgz.read(self.one("x.*.escape.pb.gz"))

    def test_exact(self):
        samples = self.profile("mode=exact:escape=exact")
        for name, (depth, confidence, escape, to) in CASES.items():
            ended = [s for s in samples if s["stack"][0] == name]
            self.assertEqual(sum(s["samples"] for s in ended), ROUNDS, name)
            for s in ended:
                self.assertEqual((s["depth"], s["confidence"]), (depth, confidence), (name, s))
            known = [s for s in ended if s["escape"] not in ("unknown", "maybe-returned")]
            for s in known:
                self.assertEqual(s["escape"], escape, (name, s))
                self.assertIn(to, s.get("to", ""), (name, s))
            self.assertGreaterEqual(sum(s["samples"] for s in known), 0.8 * ROUNDS, ended)

    def test_containers_die_in_their_scope(self):
        samples = self.profile("mode=exact:escape=exact")
        for size, name in CONTAINERS.items():
            made = [s for s in samples if s["size_min"] == s["size_max"] == size]
            self.assertEqual(sum(s["samples"] for s in made), ROUNDS, name)
            for s in made:
                self.assertEqual((s["stack"][s["depth"]], s["confidence"]), (name, "exact"), s)

    def test_allocators_are_named(self):
        samples = self.profile("mode=exact:escape=exact")
        for name, allocator, freed in (("make_scoped", "operator new[]", "operator delete[]"),
                                       ("make_caught", "malloc", "free")):
            for s in samples:
                if s["stack"][0] == name:
                    self.assertEqual((s["allocator"], s["freed_with"]), (allocator, freed))

    def test_bound_is_a_lower_bound(self):
        for s in self.profile("mode=exact:escape=bound"):
            if s["stack"][0] in CASES and s["confidence"] == "bound":
                self.assertLessEqual(s["depth"], CASES[s["stack"][0]][0], s)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
