# SPDX-License-Identifier: Apache-2.0
"""Profiles of many distinct stacks: each is there, whole, with the names of its frames."""
import subprocess
import pbgz
import seeptest

STACKS = 20000
DEPTH = 30
SIZE = 24


class Stacks(seeptest.TestCase):
    def check(self, samples, objects, size):
        """Samples of the victim's own objects: as many as there are stacks, one each."""
        made = [s for s in samples if s["values"][size] == SIZE]
        self.assertEqual(len(made), STACKS)
        self.assertEqual({s["values"][objects] for s in made}, {1})
        for s in made:
            names = s["stack"][:2 * DEPTH + 1]
            self.assertEqual(set(names[0::2]), {"step"}, s["stack"])
            self.assertEqual([n for n in names[1::2] if not n.startswith("function_")], [])
            self.assertEqual(s["stack"][2 * DEPTH + 1], "main")

    def test_all_are_there(self):
        r = seeptest.run([seeptest.victim("profile/stacks"), str(STACKS)],
                         options=f"mode=exact:out={self.dir}/x")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"made\n", b""))
        for kind, objects, size in (("heap", 2, 3), ("allocs", 0, 1), ("peak", 0, 1)):
            self.check(pbgz.read(self.one(f"x.*.{kind}.pb.gz")), objects, size)

    def test_killed(self):
        p = subprocess.Popen([seeptest.victim("profile/stacks"), str(STACKS)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=(
                                 f"mode=exact:out={self.dir}/x")))
        self.assertEqual(p.stdout.readline(), b"made\n")
        p.kill()
        p.communicate()
        r = seeptest.seep("recover", self.one("x.*.store"))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.check(pbgz.read(self.one("x.*.heap.pb.gz")), 2, 3)


seeptest.main()
