# SPDX-License-Identifier: Apache-2.0
"""seep threads: stacks and states, who is blocked for ever, who was never joined."""
import os
import re
import shutil
import socket
import subprocess
import unittest
import seeptest
from asked import until

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
        r = seeptest.seep("gate", "-o", self.dir + "/x", *args, "--",
                          seeptest.victim("agent/stuck"), case, "exit", cwd=self.dir)
        return r.returncode, r.stderr.decode()

    def test_threads_are_leaks(self):
        for case, blocked, ended, line in (
                ("lost", 3, 0, 'blocked for ever: 3 threads "stuck": ' + LOST),
                ("deadlock2", 2, 0, 'blocked for ever: 2 threads "stuck": deadlock'),
                ("ended", 0, 100, "thread leak: 100 threads ended and never joined nor "
                                  "detached, created by:\nseep:     #0 start (")):
            status, text = self.gate(case, "--threads")
            self.assertEqual(status, 23, text)
            self.assertIn(f"\nseep: THREADS blocked={blocked} ended={ended}\n", text)
            self.assertIn(line, text)
            self.assertRegex(text.splitlines()[-1], "^seep: LEAK objects=")

    def test_idle_threads_are_none(self):
        for case in ("global", "pool", "timed", "join-fine", "locked"):
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
            self.assertIn("locks_two", text)

    def test_ended_and_never_joined(self):
        with Stuck("stuck", "ended") as p:
            text = self.ask(p.pid)
        self.assertIn("0 blocked for ever, 100 ended and never joined\n", text)
        self.assertRegex(text, r"\n100 threads ended and never joined nor detached, "
                               r"\S+ MiB of stack kept, created by:\n    #0 start \(")

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
            self.assertRegex(tags, r"3\.0 \(75.00%\): stuck")
            self.assertRegex(tags, r"3\.0 \(75.00%\): futex")
            self.assertRegex(tags, r"3\.0 \(  100%\): " + LOST)
            self.assertNotIn("tid", tags)

    def test_full(self):
        with Stuck("stuck", "global") as p:
            text = self.ask(p.pid, "--full")
        self.assertRegex(text, r'thread \d+ "fine" \[futex[^\]]*\]:\n(    #.*\n)+'
                               r"  created by:\n    #0 start ")
        self.assertRegex(text, rf'thread {p.pid} "main" \[read')

    @unittest.skipUnless(shutil.which("gdb"), "needs gdb")
    def test_same_stacks_as_gdb(self):
        with Stuck("stuck", "pool") as p:
            mine = self.ask(p.pid, "--full")
            r = subprocess.run(["gdb", "-p", str(p.pid), "-batch", "-nx", "-ex",
                                "thread apply all bt"], capture_output=True,
                               stdin=subprocess.DEVNULL)
        theirs = re.findall(r"^#\d+ .*? in (\w+) \(|^#0 +(\w+) \(",
                            r.stdout.decode(), re.M)
        if not theirs:
            self.skipTest("gdb may not attach")
        parts = [t.split("  created by:")[0] for t in mine.split("\n\n")[1:]]
        for name in ("fine_worker", "take", "main"):
            self.assertEqual(sum(t.count(f" {name} (") for t in parts),
                             sum(name in f for f in theirs), name)

    def serve(self, argv, port):
        p = subprocess.Popen(argv, env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB),
                             stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                             cwd=self.dir)

        def answers():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0
        try:
            until(answers)
            text = self.ask(p.pid)
        finally:
            p.terminate()
            p.stdin.close()
            p.wait()
        self.assertRegex(text, r"\n0 blocked for ever, 0 ended", text)
        return text

    def port(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    @unittest.skipUnless(shutil.which("redis-server"), "needs redis")
    def test_redis(self):
        port = self.port()
        text = self.serve(["redis-server", "--port", str(port), "--io-threads", "4",
                           "--save", "", "--dir", self.dir], port)
        self.assertIn("bio_", text)

    @unittest.skipUnless(shutil.which("node"), "needs node")
    def test_node(self):
        port = self.port()
        self.serve([os.path.realpath(shutil.which("node")), "-e",
                    f"require('http').createServer(()=>1).listen({port},'127.0.0.1')"],
                   port)

    def test_wrong_usage(self):
        for argv in ([], ["x"], ["1", "2"], ["--nonsense", "1"]):
            self.assertEqual(seeptest.seep("threads", *argv).returncode, 25, argv)
        r = seeptest.seep("threads", "--help")
        self.assertEqual((r.returncode, r.stderr), (0, b""))


seeptest.main()
