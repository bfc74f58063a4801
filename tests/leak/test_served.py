# SPDX-License-Identifier: Apache-2.0
"""Pages of the heap that cannot be read: no check waits for them or dies of them. What
they may hold is said, where it matters."""
import signal
import subprocess
import seeptest
from seeptest import seep

SERVED = seeptest.victim("leak/served")
ALL = ("missing", "elsewhere", "protected", "minor", "shared", "cut_off", "unmapped",
       "guarded")
# Somebody may put a pointer there yet.
AWAITED = ("missing", "elsewhere", "protected", "minor")
WHY = "pages of objects wait for being supplied"
BLOCK = 32 * 4096


class Served(seeptest.TestCase):
    def gate(self, *args):
        r = seep("gate", "-q", "-o", f"{self.dir}/x.%p", "--", SERVED, *args)
        return r.returncode, r.stderr.decode().splitlines()[-1]

    def possible(self, case):
        r = subprocess.run([SERVED, case], env=seeptest.clean_env(), check=False)
        return r.returncode == 0

    def test_nothing_lost(self):
        for case in filter(self.possible, ALL):
            self.assertEqual((case, *self.gate(case)), (case, 0, "seep: clean"))

    def test_lost(self):
        for case in filter(self.possible, ALL):
            status, last = self.gate(case, "lose")
            if case in AWAITED:
                self.assertEqual((case, status), (case, 24))
                self.assertRegex(last, "^seep: INCOMPLETE: .*" + WHY)
            else:
                self.assertEqual((case, status, last), (
                    case, 23, f"seep: LEAK objects=2 bytes={BLOCK + 100} sites=2"))

    def check_live(self, case, what):
        p = subprocess.Popen([SERVED, case, what, "wait"], stdout=subprocess.PIPE,
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                    SEEP_OPTIONS="mode=exact"))
        try:
            p.stdout.read(1)
            r = seep("check", str(p.pid))
            return r.returncode, r.stderr.decode().splitlines()[-1]
        finally:
            p.send_signal(signal.SIGKILL)
            p.wait()
            p.stdout.close()

    def test_live(self):
        for case in filter(self.possible, ALL):
            self.assertEqual((case, *self.check_live(case, "stay")), (case, 0, "seep: clean"))

    def test_live_lost(self):
        """A snapshot reads pages that were not supplied as empty; others it sees."""
        for case in filter(self.possible, ALL):
            status, last = self.check_live(case, "lose")
            if case == "minor":  # the block is mapped twice: the pointer still stands there
                self.assertEqual((status, last), (
                    23, f"seep: LEAK objects=1 bytes={BLOCK} sites=1"))
            elif case in AWAITED:
                self.assertEqual((case, status), (case, 24), last)
                self.assertRegex(last, "^seep: INCOMPLETE: .*" + WHY)
            else:
                self.assertEqual((case, status, last), (
                    case, 23, f"seep: LEAK objects=2 bytes={BLOCK + 100} sites=2"))


seeptest.main()
