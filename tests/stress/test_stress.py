# SPDX-License-Identifier: Apache-2.0
"""Random work by several threads under every mode; the leak check finds nothing after it.
A storm of forks beside allocating threads and one that opens and closes libraries: the
environment variable SEEP_TEST_FORKS says how many (10000 is the full storm)."""
import os
import random
import seeptest

FORKS = os.environ.get("SEEP_TEST_FORKS", "150")
SEED = random.SystemRandom().randrange(1, 1 << 30)


class Stress(seeptest.TestCase):
    def check(self, options, threads, steps):
        argv = [seeptest.victim("stress/stress"), str(SEED), str(threads), str(steps)]
        r = seeptest.run(argv, options=options)
        self.assertEqual(r.returncode, 0, f"seed {SEED}: {r.stderr[-3000:]}")
        return r

    def storm(self, options, forkers, allocators):
        argv = [seeptest.victim("stress/forks"), FORKS, str(forkers), str(allocators)]
        r = seeptest.run(argv, options=options)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr[-3000:])

    def test_forks_one_thread(self):
        self.storm("mode=sampled", 1, 4)

    def test_forks_several_threads(self):
        self.storm("mode=sampled:sample=4K", 4, 4)

    def test_forks_exact(self):
        self.storm("mode=exact:escape=bound:threads=on", 3, 2)

    def test_forks_and_stdio(self):
        for options in ("mode=off", "mode=sampled:sample=4K", "mode=exact"):
            r = seeptest.run([seeptest.victim("stress/fork_stdio"), FORKS], options=options)
            self.assertEqual((r.returncode, r.stderr), (0, b""), options)

    def test_off(self):
        self.check("mode=off", 4, 60000)

    def test_sampled(self):
        self.check("mode=sampled", 4, 60000)

    def test_sampled_often(self):
        self.check("mode=sampled:sample=1K:escape=bound:threads=on:out=%s/x" % self.dir,
                   4, 20000)

    def test_exact(self):
        self.check("mode=exact:escape=bound:threads=on:out=%s/x" % self.dir, 4, 10000)

    def test_many_threads(self):
        self.check("mode=exact", 48, 1000)

    def test_handlers_that_interrupt_malloc(self):
        for options in ("mode=off", "sample=1K", "mode=exact"):
            r = seeptest.run([seeptest.victim("stress/handlers"), "100000"], options=options)
            self.assertEqual(r.returncode, 0, f"{options}: {r.stderr[-3000:]}")
            self.assertRegex(r.stdout.decode(), r"handled [1-9]\d{3,} signals")

    def test_freed_memory_has_no_power(self):
        for options in ("mode=off", "mode=sampled:sample=64K", "mode=exact"):
            r = seeptest.run([seeptest.victim("stress/scribble"), str(SEED)], options=options)
            self.assertEqual((r.returncode, r.stderr), (0, b""), f"{options}: seed {SEED}")

    def test_nothing_is_lost(self):
        r = self.check("mode=exact:leak=exit", 4, 5000)
        lines = r.stderr.decode().splitlines()
        self.assertEqual(set(lines), {"seep: clean"}, f"seed {SEED}")


seeptest.main()
