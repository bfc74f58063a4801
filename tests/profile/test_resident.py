# SPDX-License-Identifier: Apache-2.0
"""What resident memory is made of: the parts add up, and each is what the program did."""
import json
import os
import re
import subprocess
import seeptest

RESIDENT = seeptest.victim("profile/resident")
MIB = 1 << 20
PARTS = ("live", "slack", "free", "metadata", "profiler", "other")
# Which part, how much of it at least and at most, in MiB.
EXPECT = {"l": ("live", 39.9, 40.5), "s": ("slack", 2.6, 3.3), "f": ("free", 23.5, 26.5),
          "u": ("live", 9.9, 11), "o": ("other", 40, 50)}


class Resident(seeptest.TestCase):
    def run_one(self, what, *options, **kw):
        r = seeptest.seep("run", "--no-escape", *options, "--", RESIDENT, what, cwd=self.dir,
                          **kw)
        with open(os.path.join(self.dir, "seep.out/run.json")) as f:
            return int(r.stdout), json.load(f)["processes"][0], r.stderr.decode()

    def check_sum(self, what, said, process):
        rss = process["rss"]
        self.assertEqual(sum(rss[p] for p in PARTS), rss["total"])
        # What the program does to say it may touch a huge page, and so may we.
        grown = rss["total"] - said
        self.assertLess(grown, 0.02 * said + 4.5 * MIB, (what, rss))
        self.assertGreater(grown, -0.02 * said - MIB / 2, (what, rss))

    def test_parts(self):
        for what, (part, least, most) in EXPECT.items():
            self.check_sum(what, *self.run_one(what)[:2])
            said, process, text = self.run_one(what, preexec_fn=seeptest.without_huge_pages)
            self.check_sum(what, said, process)
            rss = process["rss"]
            self.assertGreaterEqual(rss[part], least * MIB, (what, rss))
            self.assertLessEqual(rss[part], most * MIB, (what, rss))
            self.assertIn("resident at the end", text)

    def test_sampled(self):
        _, process, _ = self.run_one("l", "--mode", "sampled", "--sample", "64K", "--seed", "1")
        self.assertGreater(process["rss"]["live"], 30 * MIB)
        self.assertLess(process["rss"]["profiler"], 2 * MIB)

    def test_comment(self):
        _, process, _ = self.run_one("l")
        heap = [f for f in process["files"] if ".heap." in f][0]
        text = subprocess.run(["go", "tool", "pprof", "-comments", heap], check=True,
                              env=seeptest.clean_env(HOME=self.dir, PPROF_TMPDIR=self.dir),
                              capture_output=True, timeout=seeptest.TIMEOUT).stdout.decode()
        line = re.search(r"resident (\d+) bytes = (.*)", text)
        self.assertEqual(sum(int(n) for n in re.findall(r"\d+", line[2])), int(line[1]))


seeptest.main()
