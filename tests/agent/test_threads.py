# SPDX-License-Identifier: Apache-2.0
"""seep threads: stacks and states, who is blocked for ever, who was never joined."""
import os
import re
import resource
import subprocess
import time
import unittest
import seeptest
from asked import until

STACK = 4 << 20  # of each thread
UNITS = {"ms": 1, "s": 1000, "minutes": 60000}
LOST, DEADLOCK = "what it waits for is lost", "deadlock"


class Stuck:
    """A program of the tests whose threads all wait."""

    def __init__(self, *argv, options=None):
        extra = {"SEEP_OPTIONS": options} if options else {}
        self.proc = subprocess.Popen(
            [seeptest.victim("agent/" + argv[0]), *argv[1:]],
            env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB, **extra),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.proc.pid
        line = self.proc.stdout.readline()
        if line != b"up\n":
            raise AssertionError(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.stdin.close()
        self.proc.stdout.close()
        if self.proc.wait() != 0:
            raise AssertionError(f"status {self.proc.returncode}")


class Gate(seeptest.TestCase):
    """seep gate --threads: at the end of the process."""

    def gate(self, case, *args):
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        stack = STACK if hard == resource.RLIM_INFINITY else min(STACK, hard)
        r = seeptest.seep("gate", "-o", self.dir + "/x", *args, "--",
                          seeptest.victim("agent/stuck"), case, "exit", cwd=self.dir,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK,
                                                                (stack, hard)))
        return r.returncode, r.stderr.decode()

    def test_threads_are_leaks(self):
        for case, blocked, ended, line in (
                ("lost", 3, 0, 'blocked for ever: 3 threads "stuck": ' + LOST),
                ("deadlock2", 2, 0, 'blocked for ever: 2 threads "stuck": deadlock'),
                ("ended", 0, 100, "thread leak: 100 threads ended and never joined nor "
                                  "detached, 400.0 MiB of stack kept, created by:\n"
                                  "seep:     #0 start (")):
            status, text = self.gate(case, "--threads")
            self.assertEqual(status, 23, text)
            self.assertIn(f"\nseep: THREADS blocked={blocked} ended={ended}\n", text)
            self.assertIn(line, text)
            self.assertRegex(text.splitlines()[-1], "^seep: LEAK objects=")

    def test_idle_threads_are_none(self):
        for case in ("global", "pool", "timed", "join-fine", "locked", "forked"):
            text = self.gate(case, "--threads")[1]
            self.assertRegex(text.splitlines()[-1], "^seep: (clean|LEAK)", case)
            self.assertNotIn("THREADS", text, case)

    def test_off_by_default(self):
        self.assertNotIn("THREADS", self.gate("ended")[1])

    def test_suppressed(self):
        path = self.dir + "/supp"
        with open(path, "w") as f:
            f.write("leak:stuck_worker\nleak:ended\n")
        for case in ("lost", "ended"):
            status, text = self.gate(case, "--threads", "--suppressions", path)
            self.assertNotIn("THREADS", text)


class Threads(seeptest.TestCase):
    def ask(self, pid, *args):
        r = seeptest.seep("threads", *args, str(pid), cwd=self.dir)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        return r.stdout.decode()

    def groups(self, text):
        """[(count, state, names, blocked, functions)]"""
        found = []
        for part in text.split("\n\n")[1:]:
            m = re.match(r"(\d+) threads? \[([^,\]]+)[^\]]*\]: (.*)\n", part)
            if not m:
                continue
            blocked = sorted(set(re.findall(r"blocked for ever: ([^,\n]*)", part)))
            found.append((int(m[1]), m[2], m[3], blocked,
                          re.findall(r"#\d+ (\S+)", part)))
        return found

    def check(self, case, count, *reasons, options=None):
        with Stuck("stuck", case, options=options) as p:
            text = self.ask(p.pid)
        self.assertIn(f"\n{count} blocked for ever, ", text)
        groups = self.groups(text)
        self.assertEqual(sum(g[0] for g in groups if g[3]), count, text)
        for n, _, names, blocked, _ in groups:
            self.assertEqual(bool(blocked), names == "stuck", text)
        self.assertEqual(sorted({b for g in groups for b in g[3]}), sorted(reasons))
        return text

    def test_lost_queue(self):
        text = self.check("lost", 3, LOST)
        self.assertRegex(text, r"3 threads \[futex.*\]: stuck")
        self.check("lost", 3, LOST, options="mode=exact")

    def test_deadlocks(self):
        for case, count in (("deadlock2", 2), ("deadlock3", 3), ("self", 1)):
            text = self.check(case, count, DEADLOCK)
            with Stuck("stuck", case) as p:
                quick = self.ask(p.pid, "--quick")
                full = self.ask(p.pid, "--full")
            self.assertIn(f"\n{count} blocked for ever (only deadlocks", quick)
            tids = re.findall(r'^thread (\d+) "stuck"', full, re.M)
            holders = re.findall(r"blocked for ever: deadlock, thread (\d+)", full)
            self.assertEqual(sorted(tids), sorted(holders))
            # Once around, each with its stack.
            for form in text, quick, full:
                m = re.search(rf"\ndeadlock of {count} threads?:\n((  .*\n)+)", form)
                chain = re.findall(r'  thread (\d+) "stuck" \[futex[^]]*\] waits for '
                                   r"0x[0-9a-f]+, which thread (\d+) has:\n    #0 ", m[1])
                self.assertEqual([a for _, a in chain],
                                 [b for b, _ in chain[1:] + chain[:1]])
                self.assertEqual(len(chain), count)
                self.assertEqual(m[1].count(" locks_two ("), count)

    def test_ended_and_never_joined(self):
        with Stuck("stuck", "ended") as p:
            text = self.ask(p.pid)
        self.assertIn("0 blocked for ever, 100 ended and never joined\n", text)
        self.assertRegex(text, r"\n100 threads ended and never joined nor detached, "
                               r"\S+ MiB of stack kept, created by:\n    #0 start \(")

    def test_hangs_in_the_loader(self):
        """All its threads wait, all signals are blocked, the loader's lock is taken."""
        p = subprocess.Popen([seeptest.victim("agent/hangs"),
                              seeptest.victim("agent/hangs_module.so")],
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB))

        def waits():
            calls = []
            for t in os.listdir(f"/proc/{p.pid}/task"):
                with open(f"/proc/{p.pid}/task/{t}/syscall") as f:
                    calls.append(f.read().split()[0])
            return calls == ["202", "202"]
        try:
            until(waits)
            r = seeptest.seep("threads", "--quick", str(p.pid))
        finally:
            p.kill()
            p.wait()
        text = r.stdout.decode()
        if r.returncode == 24 and b"ptrace is refused" in r.stderr:
            self.skipTest("ptrace is refused")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertIn("\n2 blocked for ever (", text)
        part = text.split("\ndeadlock of 2 threads:\n")[1].split("\n\n")[0]
        for function in ("begin", "dlopen", "main", "dlsym", "ask_loader"):
            self.assertIn(f" {function} (", part)

    def test_created(self):
        with Stuck("stuck", "ended", options="mode=exact") as p:
            text = self.ask(p.pid, "--created", "-o", "x.pb.gz")
        self.assertRegex(text, r"^stuck \(process \d+\): 141 threads created at 6 sites, "
                               r"0 live\n")
        sites = [(int(m[1]), re.findall(r"#\d+ (\S+)", m[2])) for m in re.finditer(
            r"\n0 live of (\d+) created, at most \d+ at once \(at least, over time: "
            r"\d+ \d+ \d+ \d+\):\n((?:    .*\n)*)", text)]
        self.assertEqual(sorted(n for n, _ in sites), [1, 10, 10, 10, 10, 100])
        self.assertEqual(sum(f[:2] == ["start", "ended"] for _, f in sites), 4)
        with Stuck("stuck", "pool") as p:
            text = self.ask(p.pid, "--created", "-o", "y.pb.gz")
            self.assertNotIn("more and more", self.ask(p.pid))
        self.assertRegex(text, r"\n4 live of 4 created, at most 4 at once \(")

        def pprof(*args):
            return subprocess.run(["go", "tool", "pprof", *args], cwd=self.dir,
                                  capture_output=True, check=True).stdout.decode()
        top = pprof("-top", "x.pb.gz")
        self.assertIn("Type: threadcreate", top)
        self.assertRegex(top, r"(?m)\b140\b.*\bended$")
        self.assertRegex(pprof("-top", "-sample_index=live", "y.pb.gz"), r"(?m)\b4\b.*\bpool$")
        self.assertRegex(pprof("-tags", "y.pb.gz"), r"4(\.0)? \(80.00%\)")

    def test_profile(self):
        with Stuck("stuck", "lost") as p:
            self.ask(p.pid, "-o", "x.pb.gz")
            r = seeptest.seep("threads", "-o", "-", str(p.pid), cwd=self.dir)
        with open(self.dir + "/y.pb.gz", "wb") as f:
            f.write(r.stdout)
        for name in ("x.pb.gz", "y.pb.gz"):
            def pprof(*args):
                return subprocess.run(["go", "tool", "pprof", *args, name],
                                      cwd=self.dir, capture_output=True,
                                      check=True).stdout.decode()
            self.assertIn("Type: threads", pprof("-top"))
            self.assertRegex(pprof("-raw"), r"\n\s+3: \d+ ")
            tags = pprof("-tags")
            self.assertRegex(tags, r"3(\.0)? \(75.00%\): stuck")
            self.assertRegex(tags, r"3(\.0)? \(75.00%\): futex")
            self.assertRegex(tags, r"3(\.0)? \(( *100|75.00)%\): " + LOST)
            self.assertNotIn("tid", tags)

    def test_written_file(self):
        """What a profile shows that was written before: both forms."""
        def show(*args):
            r = seeptest.seep("threads", *args, cwd=self.dir)
            self.assertEqual((r.returncode, r.stderr), (0, b""))
            return r.stdout.decode()
        with Stuck("stuck", "lost") as p:
            live = self.ask(p.pid, "-o", "x.pb.gz")
            self.ask(p.pid, "--created", "-o", "c.pb.gz")
        text = show("x.pb.gz")
        self.assertTrue(text.startswith("x.pb.gz: 4 threads\n3 blocked for ever\n"), text)

        def groups(t):
            return [(g[0], g[1], g[2], g[3], g[4]) for g in self.groups(t)]
        self.assertEqual(groups(text), groups(live))
        full = show("--full", "x.pb.gz")
        self.assertRegex(full, r'\n3 threads "stuck" \[futex[^\]]*\]:\n    blocked for '
                               "ever: " + LOST + "\n    #0 ")
        self.assertRegex(full, r'\n1 thread "main" \[read')
        self.assertRegex(show("--created", "c.pb.gz"),
                         r"^c\.pb\.gz: 4 threads created at 2 sites, 3 live\n")
        with Stuck("stuck", "deadlock3") as p:
            self.ask(p.pid, "-o", "d.pb.gz")
        m = re.search(r"\ndeadlock of 3 threads:\n((  .*\n)+)", show("d.pb.gz"))
        self.assertEqual(m[1].count(" locks_two ("), 3)
        for argv in (["--created", "x.pb.gz"], ["c.pb.gz"], ["--quick", "x.pb.gz"],
                     ["-o", "y", "x.pb.gz"], ["/etc/passwd"]):
            self.assertEqual(seeptest.seep("threads", *argv, cwd=self.dir).returncode, 25,
                             argv)

    def test_file_of_the_end(self):
        for case, options in (("global", "threads=on"), ("deadlock2", "threads=on")):
            subprocess.run([seeptest.victim("agent/stuck"), case, "exit"], check=True,
                           env=seeptest.clean_env(
                               LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=options + ":out=" +
                               self.dir + "/" + case), stderr=subprocess.DEVNULL)
            files = [f for f in os.listdir(self.dir)
                     if f.startswith(case) and f.endswith(".threads.pb.gz")]
            text = seeptest.seep("threads", files[0], cwd=self.dir).stdout.decode()
            blocked = 2 if case == "deadlock2" else 0
            self.assertIn(f"\n{blocked} blocked for ever (only deadlocks looked for)\n",
                          text)
            self.assertEqual("\ndeadlock of 2 threads:\n" in text, blocked == 2, text)

    @unittest.skipUnless(os.path.exists("/proc/self/sched"), "the kernel does not tell")
    def test_waits_on_over_requests(self):
        """To be asked does not end a wait. On one processor: each has a clock of its own,
        which leaves out what other machines were given of it."""
        processors = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, processors)
        os.sched_setaffinity(0, {min(processors)})
        with Stuck("stuck", "pool") as p:
            def ask():
                """How long they have waited, in ms; nothing is said of less than one."""
                m = re.search(r"\n4 threads \[futex(?:, (\d+) (ms|s|minutes))?\]: fine\n",
                              self.ask(p.pid))
                return int(m[1] or 0) * UNITS[m[2] or "ms"]

            start = time.monotonic()
            until(lambda: time.monotonic() - start > 0.4)
            waits = [ask() for _ in range(3)]
        if waits[0] < 50:
            self.skipTest(f"the processor was other machines': {waits}")
        self.assertGreaterEqual(min(waits), waits[0] // 2)

    def test_full(self):
        with Stuck("stuck", "global") as p:
            text = self.ask(p.pid, "--full")
        self.assertRegex(text, r'thread \d+ "fine" \[futex[^\]]*\]:\n(    #.*\n)+'
                               r"  created by:\n    #0 start ")
        self.assertRegex(text, rf'thread {p.pid} "main" \[read')

    def test_wrong_usage(self):
        for argv in ([], ["x"], ["1", "2"], ["--nonsense", "1"]):
            self.assertEqual(seeptest.seep("threads", *argv).returncode, 25, argv)
        r = seeptest.seep("threads", "--help")
        self.assertEqual((r.returncode, r.stderr), (0, b""))


seeptest.main()
