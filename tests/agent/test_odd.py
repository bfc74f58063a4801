# SPDX-License-Identifier: Apache-2.0
"""Processes in states that few are in: each is answered, or named, within a bounded time,
and none stands still for long."""
import json
import os
import resource
import shutil
import signal
import subprocess
import unittest
import seeptest
from asked import until


def state(tid):
    with open(f"/proc/{tid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


class Odd(seeptest.TestCase):
    def start(self, what, **kw):
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS="mode=exact")
        p = subprocess.Popen([seeptest.victim("agent/odd"), what], env=env,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kw)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.kill)
        self.assertEqual(p.stdout.readline(), b"up\n")
        return p

    def check(self, p, *args):
        path = os.path.join(self.dir, "report")
        r = seeptest.seep("check", "--no-symbolize", "--json", path, *args, str(p.pid),
                          cwd=self.dir)
        with open(path) as f:
            return r.returncode, r.stderr.decode(), json.load(f)

    def refused(self, p, reason):
        r = seeptest.seep("check", str(p.pid), cwd=self.dir)
        self.assertEqual(r.returncode, 24, r.stderr)
        self.assertIn(reason, r.stderr.decode().splitlines()[-1])

    def end(self, p):
        p.stdin.close()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)

    def thread_in(self, p, wanted):
        return any(state(tid) == wanted for tid in os.listdir(f"/proc/{p.pid}/task"))

    def test_main_thread_has_ended(self):
        p = self.start("leader")
        self.assertEqual(state(p.pid), "Z")
        for args in ((), ("--stop",)):
            code, text, report = self.check(p, *args)
            self.assertEqual((code, report["objects"]), (23, 5), text)
        r = seeptest.seep("leak", "-q", str(p.pid), cwd=self.dir)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(os.listdir(self.dir + "/seep.out"), [f"odd.{p.pid}.leak.pb.gz"])
        for command in ("heap", "threads"):
            r = seeptest.seep(command, "-o", self.dir + "/" + command, str(p.pid))
            self.assertEqual(r.returncode, 0, r.stderr)
        self.end(p)

    @seeptest.needs_ptrace
    def test_a_thread_in_vfork(self):
        """It cannot be stopped: the others are not kept waiting for it."""
        p = self.start("thread")
        until(lambda: self.thread_in(p, "D"))
        code, text, report = self.check(p, "--stop")
        self.assertEqual((code, report["verdict"]), (24, "incomplete"), text)
        self.assertIn("1 of 2 other threads could not be stopped", report["reason"])
        self.end(p)

    def test_its_only_thread_in_vfork(self):
        p = self.start("alone")
        until(lambda: state(p.pid) == "D")
        self.refused(p, "it waits in the kernel where no signal comes")
        self.end(p)

    def test_no_descriptor(self):
        p = self.start("leader")
        resource.prlimit(p.pid, resource.RLIMIT_NOFILE, (0, 1024))
        self.refused(p, f"prlimit --pid {p.pid} --nofile=16")
        resource.prlimit(p.pid, resource.RLIMIT_NOFILE, (16, 1024))
        self.assertEqual(self.check(p)[0], 23)
        self.end(p)

    @seeptest.needs_ptrace
    def test_a_second_signal_comes_late(self):
        """The thread stands still for the tool, which has its answer already."""
        for case in ("pool", "once"):
            p = subprocess.Popen([seeptest.victim("agent/stuck"), case], cwd=self.dir,
                                 env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB),
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.addCleanup(p.communicate)
            self.addCleanup(p.kill)
            self.assertIn(b"up", p.stdout.readline())
            for way in (["--stop"], []):
                r = seeptest.seep("check", *way, str(p.pid), cwd=self.dir,
                                  env={"LD_PRELOAD": seeptest.victim("agent/liblate_tool.so")})
                self.assertIn(r.returncode, (0, 23), r.stderr)
                self.assertNotIn(b"stopped by signal", r.stderr)
            self.assertNotIn("t", [state(tid) for tid in os.listdir(f"/proc/{p.pid}/task")])

    def test_stopped(self):
        p = self.start("leader")
        tid = next(t for t in os.listdir(f"/proc/{p.pid}/task") if state(t) != "Z")
        os.kill(p.pid, signal.SIGSTOP)
        until(lambda: state(tid) == "T")
        self.refused(p, "is stopped by a signal (SIGSTOP): let it go on first")
        os.kill(p.pid, signal.SIGCONT)
        self.assertEqual(self.check(p)[0], 23)
        self.end(p)

    @seeptest.needs_ptrace
    @unittest.skipUnless(shutil.which("gdb"), "no gdb")
    def test_a_debugger_that_stops_at_our_signal(self):
        p = self.start("leader")
        gdb = subprocess.Popen(["gdb", "-nx", "-q", "-p", str(p.pid), "-iex",
                                "set debuginfod enabled off", "-ex", "continue"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
        self.addCleanup(gdb.stdout.close)
        self.addCleanup(gdb.wait)
        self.addCleanup(gdb.stdin.close)
        self.addCleanup(gdb.kill)
        while b"Continuing" not in (line := gdb.stdout.readline()):
            if not line or b"not permitted" in line:
                self.skipTest("gdb may not attach")
        self.refused(p, 'in gdb "handle SIG57 nostop noprint pass"')
        gdb.kill()
        gdb.wait()
        self.assertEqual(self.check(p)[0], 23)
        self.end(p)

    @unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
    def test_in_valgrind(self):
        """It would end the program for a thread of ours, or be ended by the signal."""
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS="mode=exact")
        with subprocess.Popen(["valgrind", "-q", "--tool=none", "/bin/cat"], env=env,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
            p.stdin.write(b"there\n")
            p.stdin.flush()
            self.assertEqual(p.stdout.readline(), b"there\n")
            self.refused(p, "INCOMPLETE")
            p.stdin.write(b"still\n")
            p.stdin.close()
            self.assertEqual((p.stdout.read(), p.wait()), (b"still\n", 0))


seeptest.main()
