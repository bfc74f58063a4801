# SPDX-License-Identifier: Apache-2.0
"""Looking through memory takes a share of the CPU time that the program has used, however
long it waited."""
import os
import re
import sys
import pbgz
import seeptest

START_US, SHARE = 100, 500
LOOK_US = 1000  # the last one may take longer than it was given: other programs run too


class Budget(seeptest.TestCase):
    def test_sampled(self):
        r = seeptest.run([PROGRAM], options=f"sample=300:escape=exact:out={self.dir}/x.%p")
        self.assertEqual(r.returncode, 0, r.stderr)
        text = "\n".join(pbgz.comments(self.one("x.*.escape.pb.gz")))
        found = re.search(r"looks (\d+), (\d+) of (\d+) us of CPU time", text)
        looks, spent, process = [int(n) for n in found.groups()]
        self.assertGreater(looks, 0)
        self.assertGreater(process, spent)
        self.assertLess(spent, START_US + process / SHARE + LOOK_US, text)


PROGRAM = os.path.abspath(sys.argv.pop(1))
seeptest.main()
