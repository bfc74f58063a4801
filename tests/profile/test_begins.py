# SPDX-License-Identifier: Apache-2.0
"""What constructors of libraries allocate before the library's own is profiled, too."""
import subprocess
import pbgz
import seeptest

EARLY = 10 * 1000 + 3000
LATE = 500
PEAK = 10 * 1000 + 700000


class Begins(seeptest.TestCase):
    def make(self, options):
        r = seeptest.run([seeptest.victim("profile/begins")],
                         options=f"{options}:out={self.dir}/x")
        self.assertEqual((r.returncode, r.stderr, r.stdout), (0, b"", b""))

    def stacks(self, kind, value):
        """{innermost function of ours: (bytes, stack)} of what was asked for by name."""
        found = {}
        for s in pbgz.read(self.one(f"x.*.{kind}.pb.gz")):
            if s["values"][value] > 0:
                found.setdefault(s["stack"][0], []).append((s["values"][value], s["stack"]))
        return found

    def test_exact(self):
        self.make("mode=exact")
        live = self.stacks("heap", 3)
        self.assertEqual(sum(n for n, _ in live["begins_constructor"]), 10000)
        self.assertEqual(sum(n for n, _ in live["make_in_thread"]), 3000)
        self.assertEqual(sum(n for n, _ in live["main"]), LATE)
        for _, stack in live["begins_constructor"]:
            self.assertRegex(stack[-1], "^(ld-linux|_dl_start_user)")
        made = self.stacks("allocs", 1)
        self.assertEqual(sum(n for n, _ in made["begins_constructor"]), PEAK)
        peak = self.stacks("peak", 1)
        self.assertEqual(sum(n for n, _ in peak["begins_constructor"]), PEAK)

    def test_sampled(self):
        """A mean of four bytes misses none of these."""
        self.make("mode=sampled:sample=4")
        live = self.stacks("heap", 3)
        self.assertEqual(sum(n for n, _ in live["begins_constructor"]), 10000)
        self.assertEqual(sum(n for n, _ in live["main"]), LATE)

    def test_off(self):
        r = seeptest.run([seeptest.victim("profile/begins")],
                         options=f"mode=off:out={self.dir}/x")
        self.assertEqual((r.returncode, r.stderr), (0, b""))

    def test_no_environment(self):
        """The loader's own variable is all that there is."""
        r = subprocess.run(["env", "-i", f"LD_PRELOAD={seeptest.LIB}",
                            seeptest.victim("profile/begins")], capture_output=True,
                           timeout=seeptest.TIMEOUT)
        self.assertEqual((r.returncode, r.stderr), (0, b""))


seeptest.main()
