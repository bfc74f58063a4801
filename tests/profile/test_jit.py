# SPDX-License-Identifier: Apache-2.0
"""Stacks through code that is in no module end decently, or go on behind it."""
import pbgz
import seeptest


class Jit(seeptest.TestCase):
    def stacks(self):
        r = seeptest.run([seeptest.victim("profile/jit")],
                         options=f"mode=exact:out={self.dir}/x")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        return {s["values"][3]: s["stack"] for s in pbgz.read(self.one("x.*.heap.pb.gz"))}

    def test_marks(self):
        stacks = self.stacks()
        self.assertEqual(stacks[1000], ["make_under_code", "[jit]"])
        self.assertEqual(stacks[2000], ["make_under_builtin", "builtin", "[jit]"])
        self.assertEqual(stacks[4000][:3], ["make_between", "[jit]", "main"])


seeptest.main()
