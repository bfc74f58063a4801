# SPDX-License-Identifier: Apache-2.0
"""A program that libc takes for single-threaded, and so locks without atomics, is asked
while it takes the loader's locks."""
import subprocess
import seeptest

ASKED = 25


class Alone(seeptest.TestCase):
    def ask(self, *argv):
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB)
        p = subprocess.Popen([seeptest.victim("agent/alone"), *argv], env=env,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline(), b"up\n")
        for i in range(ASKED):
            r = seeptest.seep("check", "-q", *(["--stop"] if i % 2 else []), str(p.pid),
                              cwd=self.dir)
            self.assertEqual((r.returncode, r.stderr), (0, b"seep: clean\n"))
        p.stdin.close()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)

    def test_walking(self):
        self.ask("walk")

    def test_opening(self):
        self.ask("open", seeptest.victim("agent/liblive_plugin.so"))


seeptest.main()
