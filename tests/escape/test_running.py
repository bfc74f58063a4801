# SPDX-License-Identifier: Apache-2.0
"""Objects on the stack of a thread that never waits."""
import os
import sys
import pbgz
import seeptest

ROUNDS = 40


class Running(seeptest.TestCase):
    def samples(self):
        r = seeptest.run([PROGRAM], options=f"mode=exact:escape=exact:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        return pbgz.read(self.one("x.*.escape.pb.gz"))

    def of(self, name):
        samples = [s for s in self.samples() if s["stack"][0] == name]
        self.assertEqual(sum(s["samples"] for s in samples), ROUNDS)
        self.assertEqual({(s["depth"], s["confidence"]) for s in samples}, {(1, "exact")})
        return samples

    def test_held(self):
        seen = [s for s in self.of("make_shared") if s["escape"] == "thread"]
        self.assertGreater(sum(s["samples"] for s in seen), 0)  # looks have a budget of time
        self.assertEqual({s["to"] for s in seen}, {"stack of a thread made by main"})

    def test_left_over(self):
        """An old pointer to the same address is no reference to the new object."""
        self.assertNotIn("thread", {s["escape"] for s in self.of("make_private")})


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
