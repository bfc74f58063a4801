# SPDX-License-Identifier: Apache-2.0
"""A running process answers, from almost everywhere, and does not notice."""
import os
import shutil
import signal
import subprocess
import unittest
import pbgz
import seeptest
from asked import Asked, comments, everything, raw, state, total, until

COUNT, SIZE = 4000, 1000


class Agent(seeptest.TestCase):
    def ask(self, command, pid, *args, status=0):
        r = seeptest.seep(command, *args, str(pid), cwd=self.dir)
        self.assertEqual(r.returncode, status, r.stderr.decode())
        return r.stderr.decode()

    def heap(self, pid, kind="heap", *args):
        path = os.path.join(self.dir, kind + ".pb.gz")
        self.ask(kind, pid, "-q", "-o", path, *args)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        return path

    def set(self, pid, *pairs):
        r = seeptest.seep("set", str(pid), *pairs, cwd=self.dir)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        return r.stderr.decode()

    def test_profiles_of_a_bare_preload(self):
        p = Asked()
        p.say(f"alloc {COUNT * 10} {SIZE}")
        before = p.descriptors()
        self.assertEqual(p.threads(), [str(p.pid)])
        for kind, index in (("heap", "inuse_space"), ("allocs", "alloc_space"),
                            ("peak", "peak_space")):
            got = total(self.heap(p.pid, kind), index)
            # 76 samples on average: fewer than 23, or more than 167, are had once in 10^11
            self.assertGreater(got, COUNT * 10 * SIZE * 0.3)
            self.assertLess(got, COUNT * 10 * SIZE * 2.2)
        until(lambda: p.threads() == [str(p.pid)])
        self.assertEqual(p.descriptors(), before)
        self.assertEqual(sorted(os.listdir(self.dir)),
                         ["allocs.pb.gz", "heap.pb.gz", "peak.pb.gz"])
        self.assertEqual(p.end(), 0)

    def test_files_with_names_take_no_memory_afterwards(self):
        """libc's, with all its symbols, and the program's, which were mapped to be read."""
        def mapped():
            found, name = {}, None
            with open(f"/proc/{p.pid}/smaps") as f:
                for line in f:
                    words = line.split()
                    if not words[0].endswith(":"):
                        name = words[0] if len(words) == 6 else None
                    elif words[0] == "Rss:" and name:
                        found[name] = int(words[1])
            return found

        p = Asked("mode=exact")
        p.say(f"alloc {COUNT} {SIZE}")
        before = mapped()
        self.heap(p.pid)
        until(lambda: p.threads() == [str(p.pid)])
        fresh = {k: v for k, v in mapped().items() if k not in before}
        self.assertGreater(len(fresh), 0)
        self.assertEqual(sum(fresh.values()), 0, fresh)
        again = total(self.heap(p.pid), "inuse_space")
        self.assertEqual(again, COUNT * SIZE)
        self.assertEqual(p.end(), 0)

    def test_default_file_and_summary(self):
        p = Asked("mode=exact")
        p.say(f"alloc {COUNT} {SIZE}")
        text = self.ask("heap", p.pid)
        self.assertRegex(text, rf"seep: asked \(process {p.pid}\), mode exact")
        self.assertRegex(text, r"3\.8 MiB in +4000  asked_alloc < ")
        self.assertRegex(text, r"resident now: \d+\.\d MiB\nseep: +3\.\d MiB +\d+\.\d %  live\n")
        self.ask("heap", p.pid)
        self.assertEqual(sorted(os.listdir(self.dir + "/seep.out")),
                         [f"asked.{p.pid}.2.heap.pb.gz", f"asked.{p.pid}.heap.pb.gz"])
        self.assertEqual(p.end(), 0)

    def test_lifetimes(self):
        p = Asked("mode=exact:lifetimes=on")
        p.say(f"alloc {COUNT} {SIZE}")
        path = os.path.join(self.dir, "l.pb.gz")
        text = self.ask("lifetimes", p.pid, "-o", path)
        self.assertIn(f"look closer: seep report {path}", text)
        self.assertEqual(sum(s["values"][0] for s in pbgz.read(path)
                             if "asked_alloc" in s["stack"] and s["end"] == "live"), COUNT)
        self.assertEqual(p.end(), 0)
        p = Asked("mode=exact")
        self.assertIn("not started with lifetimes=on",
                      self.ask("lifetimes", p.pid, "-o", path, status=24))
        self.assertEqual(p.end(), 0)

    def test_standard_output(self):
        p = Asked("mode=exact")
        p.say(f"alloc {COUNT} {SIZE}")
        r = seeptest.seep("heap", "-q", "-o", "-", str(p.pid), cwd=self.dir)
        path = os.path.join(self.dir, "x.pb.gz")
        with open(path, "wb") as f:
            f.write(r.stdout)
        self.assertEqual(total(path, "inuse_objects"), COUNT)
        self.assertEqual(p.end(), 0)

    def test_settings_change_without_restart(self):
        p = Asked("mode=off")
        p.say(f"alloc {COUNT} {SIZE}")
        r = seeptest.seep("heap", str(p.pid), cwd=self.dir)
        self.assertEqual(r.returncode, 24)
        self.assertIn(b"mode=off since the start", r.stderr)
        self.assertIn("mode=off", self.set(p.pid))
        self.assertIn("mode=exact, sample=65536",
                      self.set(p.pid, "mode=exact,sample=64K"))
        p.say(f"alloc {COUNT} {SIZE}")
        path = self.heap(p.pid)
        self.assertEqual(total(path, "inuse_objects"), COUNT)
        self.assertRegex(comments(path), rb"mode: exact, since \d+ seconds ago")
        self.set(p.pid, "mode=off")
        p.say(f"alloc {COUNT} {SIZE}")
        self.assertEqual(total(self.heap(p.pid), "inuse_objects"), COUNT)
        self.set(p.pid, "mode=sampled")
        p.say("free")
        self.assertEqual(total(self.heap(p.pid), "inuse_objects"), 0)
        self.assertEqual(p.end(), 0)

    def test_each_object_leaves_with_the_weight_it_came_with(self):
        p = Asked("mode=sampled:sample=4K:seed=7")
        for mode in ("mode=sampled,sample=512", "mode=exact", "mode=sampled,sample=64K",
                     "mode=sampled,sample=1K"):
            p.say(f"alloc {COUNT} {SIZE}")
            self.set(p.pid, mode)
        p.say(f"alloc {COUNT} {SIZE}")
        held = total(self.heap(p.pid), "inuse_objects")
        self.assertGreater(held, COUNT * 5 * 0.5)
        self.assertLess(held, COUNT * 5 * 1.6)
        p.say("free")
        self.assertEqual(total(self.heap(p.pid), "inuse_objects"), 0)
        self.assertEqual(total(self.heap(p.pid), "inuse_space"), 0)
        self.assertEqual(p.end(), 0)

    def test_all_descriptors_closed(self):
        p = Asked("mode=exact")
        p.say("close")
        p.say(f"alloc {COUNT} {SIZE}")
        self.assertEqual(total(self.heap(p.pid), "inuse_objects"), COUNT)
        self.assertEqual(p.descriptors(), ["0", "1"])
        self.assertEqual(p.end(), 0)

    def test_forked_child(self):
        p = Asked("mode=exact")
        p.say(f"alloc {COUNT} {SIZE}")
        self.heap(p.pid)
        child = p.say("fork")
        p.say(f"alloc {COUNT} {SIZE}")
        self.assertEqual(total(self.heap(child), "inuse_objects"), 2 * COUNT)
        self.assertEqual(total(self.heap(p.pid), "inuse_objects"), COUNT)
        self.assertEqual(p.end(), 0)

    @unittest.skipUnless(seeptest.may_become(), "needs root")
    def test_chroot_and_another_user(self):
        p = Asked("mode=exact")
        p.say(f"alloc {COUNT} {SIZE}")
        if p.say(f"chroot {self.dir}") != 0:
            p.end()
            self.skipTest("chroot is not permitted")
        self.assertEqual(p.say("setuid 65534"), 0)
        # without /proc and the program's file its functions have no names
        self.assertGreaterEqual(everything(self.heap(p.pid), "inuse_objects"), COUNT)
        self.assertEqual(p.end(), 0)

    @unittest.skipUnless(seeptest.may_become(), "needs root")
    def test_another_user_may_not(self):
        p = Asked("mode=exact")
        os.chmod(self.dir, 0o777)
        tool = shutil.copy(seeptest.TOOL, self.dir)  # it may be in a directory of root's
        r = subprocess.run([tool, "heap", str(p.pid)], cwd=self.dir, user=65534, group=65534,
                           extra_groups=[], env=seeptest.clean_env(), capture_output=True,
                           timeout=seeptest.TIMEOUT)
        self.assertEqual(r.returncode, 24, r.stderr)
        self.assertIn(b"another user", r.stderr)
        self.assertEqual(p.end(), 0)

    def test_another_network_and_process_namespace(self):
        new = ["unshare", "-n", "-m", "-p", "-f"]
        if subprocess.run(new + ["true"], capture_output=True).returncode:
            self.skipTest("unshare is not permitted")
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS="mode=exact")
        p = subprocess.Popen(new + [seeptest.victim("agent/asked")], env=env,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        p.stdin.write(f"alloc {COUNT} {SIZE}\n".encode())
        p.stdin.flush()
        p.stdout.readline()
        with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
            child = int(f.read())
        self.assertEqual(total(self.heap(child), "inuse_objects"), COUNT)
        p.stdin.close()
        self.assertEqual(p.wait(), 0)
        p.stdout.close()

    def test_another_signal(self):
        p = Asked("mode=exact:signal=40")
        p.say(f"alloc {COUNT} {SIZE}")
        self.assertEqual(total(self.heap(p.pid), "inuse_objects"), COUNT)
        self.assertEqual(total(self.heap(p.pid, "heap", "--signal", "40"),
                               "inuse_objects"), COUNT)
        self.assertEqual(p.end(), 0)

    def may_trace(self):
        try:
            with open("/proc/sys/kernel/yama/ptrace_scope") as f:
                return f.read() == "0\n" or os.geteuid() == 0
        except OSError:
            return True

    def test_signal_that_is_not_ours(self):
        """Taken before us, blocked by all, or taken from us: by ptrace."""
        if not self.may_trace():
            self.skipTest("ptrace is not permitted")
        for what in ("", "block", f"read {seeptest.LIB}", "take 57"):
            p = Asked("mode=exact", preexec_fn=None if what else lambda:
                      signal.signal(57, signal.SIG_IGN))
            p.say(f"alloc {COUNT} {SIZE}")
            if what:
                p.say(what)
            if what.startswith("read"):  # and is found all the same
                p.say("block")
            self.assertEqual(total(self.heap(p.pid), "inuse_objects"), COUNT, what)
            until(lambda: len(p.threads()) == 1)
            self.assertEqual(total(self.heap(p.pid), "inuse_objects"), COUNT, what)
            self.assertEqual(p.end(), 0)

    def test_neither_signal_nor_ptrace(self):
        p = Asked("mode=exact")
        p.say("block")
        tracer = subprocess.Popen(
            ["gdb", "-nx", "-batch", "-p", str(p.pid), "-ex", "echo here\\n", "-ex",
             "continue"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL) if shutil.which("gdb") else None
        if not tracer:
            self.skipTest("needs gdb")
        for line in tracer.stdout:
            if line == b"here\n":
                break
        until(lambda: state(p.pid) == "S")
        self.assertRegex(self.ask("heap", p.pid, status=24),
                         "signal 57 cannot be used: every thread blocks it; and ptrace "
                         "is refused")
        tracer.terminate()
        tracer.wait()
        tracer.stdout.close()
        self.assertEqual(p.end(), 0)

    def test_who_cannot_be_asked(self):
        p = Asked("signal=0")
        self.assertIn("signal=0", self.ask("heap", p.pid, status=24))
        self.assertEqual(p.end(), 0)
        p = Asked(preload=False)
        self.assertIn("libseep.so is not loaded", self.ask("heap", p.pid, status=24))
        self.assertEqual(p.end(), 0)
        p = Asked()
        p.proc.send_signal(signal.SIGSTOP)
        until(lambda: state(p.pid) == "T")
        self.assertIn("stopped", self.ask("heap", p.pid, status=24))
        p.proc.send_signal(signal.SIGCONT)
        self.assertEqual(p.end(), 0)
        self.assertIn("no such process", self.ask("heap", p.pid, status=24))
        self.assertIn("no such process", self.ask("heap", 2 ** 30, status=24))
        self.assertEqual(os.listdir(self.dir), ["seep.out"])
        self.assertEqual(os.listdir(self.dir + "/seep.out"), [])

    def test_wrong_usage(self):
        for argv in (["heap"], ["heap", "x"], ["heap", "-1"], ["heap", "1", "2"],
                     ["heap", "--nonsense", "1"], ["set"], ["set", "1", "mode=loud"],
                     ["set", "1", "sample=0"], ["set", "1", "sample=1X"],
                     ["set", "1", "sample=99999G"], ["set", "1", "stack=3"]):
            self.assertEqual(seeptest.seep(*argv, cwd=self.dir).returncode, 25, argv)
        for command in ("heap", "allocs", "peak", "set"):
            r = seeptest.seep(command, "--help")
            self.assertEqual((r.returncode, r.stderr), (0, b""))
            self.assertTrue(r.stdout.startswith(b"usage: seep "))

    def test_many_questions_while_threads_allocate(self):
        p = Asked("sample=1K")
        p.say("thread")
        p.say("alloc 100000 100")
        asking = [  # all at once: one is served after the other
            subprocess.Popen([seeptest.TOOL, "heap", "-q", "-o",
                                    f"{self.dir}/{i}.pb.gz", str(p.pid)],
                                   env=seeptest.clean_env(), stderr=subprocess.PIPE)
                  for i in range(8)]
        for _ in range(20):
            p.say("alloc 20000 100")
            p.say("free")
        for i, a in enumerate(asking):
            self.assertEqual((a.communicate()[1], a.returncode), (b"", 0))
            self.assertIn("inuse_space", raw(f"{self.dir}/{i}.pb.gz"))
        until(lambda: len(p.threads()) == 2)
        self.assertEqual(p.end(), 0)


class Waits(seeptest.TestCase):
    """No system call of the program fails because it is asked."""
    UNTIL_INPUT = ["read", "poll", "ppoll", "select", "epoll"]
    UNTIL_TIME = ["poll-time", "epoll-time", "nanosleep", "clock-nanosleep", "usleep",
                  "semaphore", "condition", "recv", "sigtimedwait", "semop"]

    def start(self, call):
        p = subprocess.Popen([seeptest.victim("agent/waits"), call],
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             preexec_fn=self.before)
        self.assertEqual(p.stdout.read(1), b".")
        until(lambda: state(p.pid) == "S")
        return p

    before = None

    def ask(self, p):
        r = seeptest.seep("set", str(p.pid))
        if self.before and b"ptrace is refused" in r.stderr:
            self.skipTest("ptrace is not permitted")
        self.assertEqual(r.returncode, 0, r.stderr)

    def check(self, call, p):
        text = p.stdout.read().decode()
        self.assertEqual(text, "0 ok\n", call)
        self.assertEqual(p.wait(), 0)
        p.stdin.close()
        p.stdout.close()

    def test_until_input(self):
        for call in self.UNTIL_INPUT:
            p = self.start(call)
            for _ in range(3):
                self.ask(p)
            p.stdin.write(b"x")
            p.stdin.flush()
            self.check(call, p)

    def test_until_time(self):
        started = []
        for call in self.UNTIL_TIME:
            started.append((call, self.start(call)))
            self.ask(started[-1][1])
        for call, p in started:
            self.check(call, p)

    def test_own_signals_still_interrupt(self):
        p = self.start("pause")
        self.ask(p)
        self.assertIsNone(p.poll())
        p.send_signal(signal.SIGUSR1)
        self.check("pause", p)


class WaitsTraced(Waits):
    """The same when the signal cannot be used."""
    @staticmethod
    def before():
        signal.signal(57, signal.SIG_IGN)


seeptest.main()
