# SPDX-License-Identifier: Apache-2.0
"""Incremental captures against full walks, on random stacks: no difference.

test_capture.py CAPTURE PLUGIN... [--count N]: a million captures, or N.
"""
import random
import subprocess
import sys
import seeptest

COUNT = "1000000"
if "--count" in sys.argv:
    at = sys.argv.index("--count")
    COUNT = sys.argv[at + 1]
    del sys.argv[at:at + 2]
CAPTURE, PLUGINS = sys.argv[1], sys.argv[2:]
SEED = str(random.SystemRandom().randrange(1, 1 << 30))


class Capture(seeptest.TestCase):
    def test_no_difference(self):
        r = subprocess.run([CAPTURE, SEED, COUNT, "4", *PLUGINS], capture_output=True,
                           text=True, env=seeptest.clean_env(), timeout=850)
        told = f"seed {SEED}: {r.stdout[-3000:]}{r.stderr[-500:]}"
        self.assertEqual(r.returncode, 0, told)
        counts = dict(l.split() for l in r.stdout.splitlines() if l.count(" ") == 1)
        self.assertEqual(counts.pop("differences"), "0", told)
        for what, n in counts.items(): # each of the hazards was met
            self.assertGreater(int(n), 10, f"{what}: {told}")
        # and most captures were incremental
        known = int(counts["incremental"]) + int(counts["nodes"])
        self.assertGreater(known, 0.8 * int(COUNT), told)


seeptest.unittest.main(argv=sys.argv[:1])
