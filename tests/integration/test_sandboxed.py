# SPDX-License-Identifier: Apache-2.0
"""Programs whose own filters of system calls kill for what we would like to ask: they end
as they would without us, with the same verdict, or with a reason."""
import subprocess
import seeptest
from seeptest import seep

SANDBOXED = seeptest.victim("integration/sandboxed")
LEAK = "seep: LEAK objects=1 bytes=300 sites=1"
# No difference at all; and what a check or its report cannot do without.
SAME = {"clone": 56, "ptrace": 101, "process_vm_readv": 310, "clock_gettime": 228,
        "memfd_create": 319, "madvise": 28, "mprotect": 10, "getpid": 39, "gettid": 186,
        "ioctl": 16, "prctl": 157, "futex": 202, "rt_sigprocmask": 14,
        "sched_getaffinity": 204, "pread64": 17, "close": 3}
# Not among the calls that systemd's @system-service allows, nor anybody's own.
UNCOMMON = {"mincore": 27, "ptrace": 101, "process_vm_readv": 310, "memfd_create": 319}
# Nor what the loader and libc call for a program that allocates.
SELDOM = {"prctl": 157, "readlink": 89, "getcwd": 79, "fstat": 5, "lseek": 8, "stat": 4,
          "sched_getaffinity": 204, "sigaltstack": 131, "tgkill": 234, "getpid": 39,
          "gettid": 186, "getppid": 110, "clone": 56, "exit": 60, "futex": 202}
# Those that fail instead: what is made of them by the loader, libc and us.
ASKED = {"getpid": 39, "gettid": 186, "getppid": 110, "sched_getaffinity": 204,
         "exit_group": 231, "prctl": 157, "readlink": 89, "tgkill": 234, "ptrace": 101}
NEEDED = {"openat": 257, "readlink": 89, "lseek": 8, "stat": 4}


class Sandboxed(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        if subprocess.run([SANDBOXED, "101", "prctl", "0"], env=seeptest.clean_env(),
                          check=False).returncode == 77:
            self.skipTest("no seccomp")

    def gate(self, *args):
        # A relative path takes getcwd().
        r = seep("gate", "-q", "-o", f"{self.dir}/%e.%p", "--", SANDBOXED, *map(str, args),
                 cwd=self.dir)
        return r.returncode, r.stderr.decode().splitlines()[-1]

    def test_same_verdict(self):
        for name, nr in SAME.items():
            for way in ("prctl", "seccomp", "odd"):
                self.assertEqual((name, way, *self.gate(nr, way, 0)),
                                 (name, way, 0, "seep: clean"))
            self.assertEqual((name, *self.gate(nr, "prctl", 1)), (name, 23, LEAK))

    def test_filters_that_are_not_known(self):
        """Those that were there before, and those of one thread only."""
        for name, nr in UNCOMMON.items():
            for way in ("before", "thread"):
                for options in ("", "mode=exact"):
                    r = subprocess.run([SANDBOXED, str(nr), way, "0"], check=False,
                                       env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                              SEEP_OPTIONS=options))
                    self.assertEqual((name, way, options, r.returncode), (name, way, options, 0))
            self.assertEqual((name, *self.gate(nr, "before", 1)), (name, 23, LEAK))

    def test_filters_from_before(self):
        """Where there is any, what the loader would not call is not called."""
        for name, nr in SELDOM.items():
            def plainly(**environment):
                return subprocess.run([SANDBOXED, str(nr), "before", "1"], check=False,
                                      env=seeptest.clean_env(**environment)).returncode
            if plainly() != 0:
                continue  # libc itself
            for options in ("", "mode=exact"):
                got = plainly(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=options)
                self.assertEqual((name, options, got), (name, options, 0))
            self.assertEqual((name, *self.gate(nr, "before", 1)), (name, 23, LEAK))

    def test_beside_threads(self):
        """Threads come and go, and one holds its objects to the end."""
        for name, nr in {"getpid": 39, "gettid": 186, "sched_getaffinity": 204}.items():
            for way in ("before", "error", "refuse"):
                for options in ("", "mode=exact", "mode=exact:leak=exit"):
                    r = subprocess.run([SANDBOXED, str(nr), way, "0", "3"], check=False,
                                       stderr=subprocess.PIPE, timeout=120,
                                       env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                              SEEP_OPTIONS=options))
                    self.assertEqual((name, way, options, r.returncode,
                                      r.stderr.splitlines()[-1:]),
                                     (name, way, options, 0,
                                      [b"seep: clean"] if "leak" in options else []))
                for leaks, status, last in ((0, 0, "seep: clean"), (1, 23, LEAK)):
                    self.assertEqual((name, way, *self.gate(nr, way, leaks, 3)),
                                     (name, way, status, last))

    def test_filters_from_before_that_refuse(self):
        for name, nr in ASKED.items():
            alone = subprocess.run([SANDBOXED, str(nr), "error", "1"], check=False,
                                   env=seeptest.clean_env())
            if alone.returncode < 0:  # glibc 2.41 without exit_group
                self.assertEqual(name, "exit_group")
                continue
            for options, status in (("", 0), ("mode=exact:leak=exit", 23)):
                r = subprocess.run([SANDBOXED, str(nr), "error", "1"], check=False,
                                   stderr=subprocess.DEVNULL, timeout=120,
                                   env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                          SEEP_OPTIONS=options))
                self.assertEqual((name, options, r.returncode), (name, options, status))
            self.assertEqual((name, *self.gate(nr, "error", 1)), (name, 23, LEAK))

    def test_or_a_reason(self):
        for name, nr in NEEDED.items():
            for leaks, verdict in ((0, "seep: clean"), (1, LEAK)):
                status, last = self.gate(nr, "prctl", leaks)
                self.assertIn(status, (24, 23 if leaks else 0), (name, leaks, last))
                if status == 24:
                    self.assertRegex(last, "^seep: INCOMPLETE: .")
                else:
                    self.assertEqual(last, verdict)

    def test_preloaded_only(self):
        for options in ("", "mode=exact:leak=exit", "hugepage=off"):
            for name, nr in (SAME | NEEDED).items():
                r = subprocess.run([SANDBOXED, str(nr), "prctl", "0"], stderr=subprocess.PIPE,
                                   env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                          SEEP_OPTIONS=options), check=False)
                self.assertIn(r.returncode, (0, 24), (options, name, r.stderr))


seeptest.main()
