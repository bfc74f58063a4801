# SPDX-License-Identifier: Apache-2.0
"""A call that has moved a part of its bytes goes on with the rest, whoever looks."""
import array
import fcntl
import subprocess
import termios
import seeptest
from asked import until

BYTES = 1 << 20
WAYS = [["check", "--stop"], ["threads"], ["threads", "--quick"], ["leak", "--force"], ["heap"]]


class Partly(seeptest.TestCase):
    def start(self, *argv):
        p = subprocess.Popen([seeptest.victim("agent/partly"), *argv],
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB),
                             cwd=self.dir, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        return p

    def up(self, *argv):
        p = self.start(*argv)
        line = p.stdout.readline()
        if not line and p.wait() == 77:
            self.skipTest("no seccomp filter can be set here")
        self.assertEqual(line, b"up\n")
        return p

    def ask(self, p, way):
        r = seeptest.seep(*way, str(p.pid), cwd=self.dir)
        self.assertEqual(r.returncode, 0, (way, r.stderr))
        return r.stderr.decode()

    def is_whole(self, p, way):
        out = p.communicate()[0]
        self.assertEqual((out, p.wait()), (b"whole\n", 0), way)

    def test_blocked(self):
        for way in WAYS:
            for times in (1, 3):
                p = self.up("blocked")
                for _ in range(times):
                    self.ask(p, way)
                self.is_whole(p, way)

    def test_in_turn(self):
        p = self.up("blocked")
        for way in WAYS + WAYS[::-1]:
            self.ask(p, way)
        self.is_whole(p, "all")

    def test_stopped_by_signal(self):
        p = self.up("blocked", "unseen")
        for _ in range(3):
            said = self.ask(p, ["check", "--stop", "--force"])
            self.assertIn("stopped by signal", said)
        self.is_whole(p, "signal")

    def test_flow(self):
        p = self.up("flow")
        for i in range(50):
            self.ask(p, WAYS[i % len(WAYS)])
        self.is_whole(p, "all")

    def test_flow_stopped_by_signal(self):
        p = self.up("flow", "unseen")
        for _ in range(20):
            self.ask(p, ["check", "--stop", "--force"])
        self.is_whole(p, "signal")

    def test_alone(self):
        for way in WAYS:
            p = self.start("alone")
            waiting = array.array("i", [0])

            def is_full():
                before = waiting[0]
                fcntl.ioctl(p.stdout, termios.FIONREAD, waiting)
                return waiting[0] == before > 0
            until(is_full)
            for _ in range(3):
                self.ask(p, way)
            self.assertEqual(len(p.communicate()[0]), BYTES)
            self.assertEqual(p.wait(), 0, way)


seeptest.main()
