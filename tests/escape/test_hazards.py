# SPDX-License-Identifier: Apache-2.0
"""Frames left by exceptions, longjmp, cancellation, coroutines: same output, right depth,
and no stub that stays behind."""
import glob
import os
import re
import sys
import pbgz
import seeptest


class Hazards(seeptest.TestCase):
    def profile(self, escape):
        """Runs the program, which must not notice; the profile's path and its samples."""
        plain = seeptest.run([PROGRAM], preload=False)
        r = seeptest.run([PROGRAM], options=f"mode=exact:escape={escape}:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr),
                         (0, plain.stdout, plain.stderr))
        # The children of fork leave by _exit and report next to nothing.
        path = max(glob.glob(f"{self.dir}/x.*.escape.pb.gz"), key=os.path.getsize)
        samples = [s for s in pbgz.read(path) if s["confidence"] != "live"]
        return path, samples

    def test_all(self):
        path, samples = self.profile("exact")
        kept = [s for s in samples if "make_kept" in s["stack"][0] and s["size_min"] == 140]
        # longjmp loses objects, and past half of the pool only some are followed
        self.assertGreater(sum(s["samples"] for s in kept), 300)
        for s in kept:  # freed in catch_kept: make_kept and middle_kept were left
            self.assertIn("make_kept", s["stack"][0])
            frames = [i for i, f in enumerate(s["stack"]) if "catch_kept" in f]
            self.assertEqual((s["depth"], s["confidence"]), (frames[0], "exact-exc"))
        jumped = [s for s in samples
                  if "make_jumped" in s["stack"][0] and s["size_min"] == 240]
        self.assertGreater(sum(s["samples"] for s in jumped), 5000)
        for s in jumped:
            frames = [i for i, f in enumerate(s["stack"]) if "jump_once" in f]
            self.assertEqual((s["depth"], s["confidence"]), (frames[0], "exact-exc"))
        stubs = [c for c in pbgz.comments(path) if c.startswith("escape=exact")][0]
        self.assertLess(int(re.search(r"in use (\d+)", stubs)[1]), 20, stubs)
        self.assertGreater(int(re.search(r"unwound (\d+)", stubs)[1]), 1000, stubs)
        if "O0" in PROGRAM:  # 6000 frames that all allocate
            self.assertGreater(int(re.search(r"none free (\d+)", stubs)[1]), 1000, stubs)

    def test_bound(self):
        """Frames that are left are gone at the free too: never more than really ended."""
        samples = self.profile("bound")[1]
        for maker, size, last in (("make_kept", 140, "catch_kept"),
                                  ("make_jumped", 240, "jump_once")):
            made = [s for s in samples
                    if maker in s["stack"][0] and s["size_min"] == size]
            self.assertGreater(sum(s["samples"] for s in made), 300)
            for s in made:
                ended = [i for i, f in enumerate(s["stack"]) if last in f][0]
                self.assertEqual(s["confidence"], "bound")
                self.assertTrue(0 < s["depth"] <= ended, s)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
