# SPDX-License-Identifier: Apache-2.0
"""Profiles of processes that were killed: readable, and true up to the last allocations."""
import glob
import json
import os
import pwd
import random
import re
import resource
import subprocess
import time
import unittest
import seeptest

GROW = seeptest.victim("profile/grow")
KILLS = 20
STEP = 50


class Killed(seeptest.TestCase):
    def objects(self, path, function, sample="inuse_objects"):
        """Of all samples that a function has a part in."""
        env = seeptest.clean_env(HOME=self.dir, PPROF_TMPDIR=self.dir)
        text = subprocess.run(["go", "tool", "pprof", "-top", "-nodefraction=0",
                               f"-sample_index={sample}", path], env=env, check=True,
                              capture_output=True, timeout=seeptest.TIMEOUT).stdout.decode()
        found = re.search(rf"(\d+)\s+\S+%\s+{function}$", text, re.M)
        return int(found[1]) if found else 0

    def kill_at(self, count, argv, **kw):
        """Kills the process of our own after so many lines; returns its last word."""
        p = subprocess.Popen(argv, cwd=self.dir, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, **kw)
        last = [int(p.stdout.readline()) for _ in range(count)][-1]
        with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
            pid = int((f.read().split() or [p.pid])[0])
        with open(f"/proc/{pid}/environ") as f:
            self.table = re.search(r"[:=]run=([^:\0]*)", f.read() + ":run=")[1]
        os.kill(pid, 9)
        rest = p.stdout.read().split(b"\n")
        text = p.stderr.read().decode()
        p.communicate()
        return max([last] + [int(x) for x in rest if x]), p.returncode, text

    def test_kills_at_random_moments(self):
        seed = random.randrange(1 << 32)
        choose = random.Random(seed)
        for i in range(KILLS):
            out = f"{self.dir}/k{i}"
            said, status, _ = self.kill_at(choose.randint(1, 40), [
                seeptest.TOOL, "run", "-q", "-o", out + "/%e.%p", "--", GROW],
                env=seeptest.clean_env())
            self.assertEqual(status, 137, f"seed {seed}")
            for kind in ("heap", "allocs", "peak"):
                path = self.one(f"k{i}/grow.*.{kind}.pb.gz")
                n = self.objects(path, "grow",
                                 {"heap": "inuse_objects", "allocs": "alloc_objects",
                                  "peak": "peak_objects"}[kind])
                # The last steps may have been done, or begun, without a word; what the
                # other threads had under way at the peak is in no step, and may have been
                # more then than it is later: the largest of theirs is as large as 40.
                self.assertGreaterEqual(n, said * 0.8 - 45 if kind == "peak" else said,
                                        (seed, i, kind))
                self.assertLessEqual(n, said + 2 * STEP + (said if kind == "allocs" else 0),
                                     (seed, i, kind))

    def has_ended(self, pid):
        """Perhaps nobody has asked for its status. All threads have: the first one's state
        says nothing of the others."""
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
                return fields[0] in "ZX" and int(fields[17]) <= 1
        except OSError:
            return True

    def test_summary(self):
        _, _, text = self.kill_at(5, [seeptest.TOOL, "run", "--", GROW],
                                  env=seeptest.clean_env())
        self.assertIn("was killed by signal 9", text)
        self.assertIn("keep_block < grow", text)
        with open(os.path.join(self.dir, "seep.out/run.json")) as f:
            process = json.load(f)["processes"][0]
        self.assertEqual(process["state"], "recovered")
        self.assertGreaterEqual(process["live_bytes"], 5 * STEP * 100)
        self.assertEqual(len(process["files"]), 3)
        self.assertGreater(process["rss"]["peak"], 1 << 20)
        self.assertIn("seep: resident: never more than ", text)

    def test_killed_before_it_began(self):
        r = seeptest.seep("run", "--", seeptest.victim("profile/early"))
        self.assertEqual(r.returncode, 137)
        self.assertRegex(r.stderr.decode(), r"^seep: \S*early was killed by signal 9 "
                         r"\(Killed\) before Seep was loaded into it\n$")

    def test_ends_by_a_system_call(self):
        """No handler of anybody's runs at exit_group itself; it is no signal."""
        r = seeptest.seep("run", "-o", f"{self.dir}/x", "--", "python3", "-c",
                          "import ctypes; ctypes.CDLL(None).syscall(231, 9)")
        self.assertEqual(r.returncode, 9)
        self.assertIn(b"seep: python3 ended itself by a system call; what it held then:",
                      r.stderr)
        self.assertNotIn(b"signal", r.stderr)
        self.one("x*.heap.pb.gz")

    def test_nothing_is_left_behind(self):
        for env in ({"TMPDIR": self.dir}, {"TMPDIR": ""}):
            self.kill_at(2, [seeptest.TOOL, "run", "-q", "--", GROW],
                         env=seeptest.clean_env(**env))
            directory = os.path.dirname(self.table)
            self.assertRegex(directory, r"/seep-run\.\w+$")
            self.assertFalse(os.path.exists(directory), directory)
            self.assertEqual(os.path.dirname(directory) == self.dir, bool(env["TMPDIR"]))

    def test_tool_is_killed(self):
        """The next run clears up, but for what still runs, and what is another tool's."""
        env = seeptest.clean_env(TMPDIR=self.dir)

        def start(name):
            p = subprocess.Popen([seeptest.TOOL, "run", "-q", "-o", f"{self.dir}/{name}", "--",
                                  GROW], env=env, cwd=self.dir, stdout=subprocess.PIPE)
            said = [int(p.stdout.readline()) for _ in range(3)][-1]
            with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
                return p, int(f.read().split()[0]), said

        def directories():
            return sorted(glob.glob(self.dir + "/seep-run.*"))

        def another_run():
            r = seeptest.seep("run", "-q", "-o", f"{self.dir}/n", "--", "true", env={
                "TMPDIR": self.dir}, cwd=self.dir)
            self.assertEqual(r.returncode, 0)
            return r.stderr.decode()
        tool, program, said = start("a")
        left = directories()
        self.assertEqual(len(left), 1)
        tool.kill()
        tool.wait()
        self.assertEqual((another_run(), directories()), ("", left))  # the program runs
        other, other_program, _ = start("b")
        both = directories()
        os.kill(program, 9)
        tool.stdout.close()
        while not self.has_ended(program):
            pass
        self.assertEqual(another_run(), "")
        self.assertEqual(directories(), [d for d in both if d not in left])
        self.assertGreaterEqual(self.objects(self.one("a.*.heap.pb.gz"), "grow"), said)
        os.kill(other_program, 9)
        other.communicate()
        self.assertEqual((other.returncode, directories()), (137, []))
        self.one("b.*.heap.pb.gz")

    def test_main_thread_has_ended(self):
        """It looks like a process that has, but others of its threads run."""
        p = subprocess.Popen([seeptest.TOOL, "run", "-o", f"{self.dir}/l", "--", GROW, "leave"],
                             env=seeptest.clean_env(), cwd=self.dir, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        text = p.stderr.read().decode()
        p.stdin.close()
        p.stdout.read()  # until the other has ended
        self.assertEqual(p.wait(), 0, text)
        self.assertIn("seep: 1 process is still running\n", text)
        p.stdout.close()
        p.stderr.close()

    @unittest.skipUnless(seeptest.may_become(), "root becomes another user")
    def test_another_user(self):
        """What a user wrote of where profiles go is done with that user's rights."""
        program = """
import os, signal, sys
who, path = int(sys.argv[1]), sys.argv[2]
if os.fork() == 0:
    os.setgroups([])
    os.setresgid(who, who, who)
    os.setresuid(who, who, who)
    if os.fork() == 0:
        kept = [bytes(10000) for _ in range(100)]
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
else:
    os.wait()
"""
        who = pwd.getpwnam("nobody").pw_uid
        os.chmod(self.dir, 0o755)
        for name, mode in (("theirs", 0o777), ("ours", 0o700)):
            directory = f"{self.dir}/{name}"
            os.mkdir(directory)
            os.chmod(directory, mode)
            r = seeptest.seep("run", "-o", directory + "/%p", "--", "/usr/bin/python3", "-c",
                              program, str(who), directory)
            self.assertEqual(r.returncode, 0)
            owners = {os.stat(f).st_uid for f in glob.glob(directory + "/*.heap.pb.gz")}
            self.assertEqual(owners, {0, who} if mode == 0o777 else {0}, r.stderr)
            self.assertEqual(b"could not be recovered" in r.stderr, mode != 0o777, r.stderr)

    def test_forked_child(self):
        seeptest.seep("run", "-q", "--", GROW, "fork", cwd=self.dir)
        counts = sorted(self.objects(f, "child_part")
                        for f in glob.glob(self.dir + "/seep.out/grow.*.heap.pb.gz"))
        self.assertEqual(counts, [13, 30])

    def test_without_the_tool(self):
        options = f"mode=exact:out={self.dir}/p"
        said, status, _ = self.kill_at(
            4, [GROW], env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=options))
        self.assertEqual(status, -9)
        store = self.one("p.*.store")
        r = seeptest.seep("recover", store)
        self.assertEqual((r.returncode, r.stdout), (0, b""), r.stderr)
        self.assertGreaterEqual(self.objects(self.one("p.*.heap.pb.gz"), "grow"), said)
        r = seeptest.seep("recover", "/none")
        self.assertEqual((r.returncode, r.stderr),
                         (1, b"seep: /none: No such file or directory\n"))
        r = seeptest.seep("recover", GROW)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"not a profile store", r.stderr)
        r = seeptest.run([GROW, "fork"], options=f"mode=exact:out={self.dir}/q")
        self.assertEqual(len(glob.glob(self.dir + "/q.*.store")), 1)  # the child's

    def without_swap(self, group, limit):
        """Else a program would not run out of memory; OSError where it cannot be had."""
        with open("/proc/swaps") as f:
            if len(f.readlines()) < 2:
                return
        for name, value in (("memory.memsw.limit_in_bytes", limit), ("memory.swap.max", 0)):
            if os.path.exists(os.path.join(group, name)):
                with open(os.path.join(group, name), "w") as f:
                    f.write(str(value))
                return
        raise OSError

    def remove_group(self, group):
        """Once the last of its processes is gone."""
        end = time.monotonic() + seeptest.TIMEOUT
        while True:
            try:
                return os.rmdir(group)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def memory_group(self, limit):
        """A new memory control group, or the test is skipped."""
        for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                           ("/sys/fs/cgroup", "memory.max")):
            group = f"{root}/seep-test-{os.getpid()}"
            try:
                os.mkdir(group)
            except OSError:
                continue
            self.addCleanup(self.remove_group, group)
            try:
                with open(os.path.join(group, name), "w") as f:
                    f.write(str(limit))
                self.without_swap(group, limit)
                return group
            except OSError:
                continue
        self.skipTest("no control group can be made here")

    def test_killed_for_memory(self):
        group = self.memory_group(100 << 20)

        def enter():
            with open(f"{group}/cgroup.procs", "w") as f:
                f.write(str(os.getpid()))
        r = seeptest.seep("run", "--no-symbolize", "-o", f"{self.dir}/x", "--", "python3",
                          "-c", "kept = [b'x' * 100000 + bytes([i & 255]) for i in range(50000)]",
                          cwd=self.dir, preexec_fn=enter)
        text = r.stderr.decode()
        self.assertEqual(r.returncode, 137, text)
        self.assertIn("seep: python3 was killed because memory ran out; what it held then:\n",
                      text)
        live = re.search(r"at the end (\d+\.\d) MiB in (\d+) objects", text)
        self.assertTrue(50 < float(live[1]) < 100, text)
        top = re.search(r"top sites by memory still held at the end:\nseep: +(\S+) MiB", text)
        self.assertGreater(float(top[1]), 50)
        self.one("x.*.peak.pb.gz")

    def test_no_room_for_the_store(self):
        r = seeptest.run([GROW, "fork"], options=f"out={self.dir}/p", preexec_fn=lambda:
                         resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)))
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.one("p.*.heap.pb.gz")
        self.assertEqual(glob.glob(self.dir + "/*.store"), [])


seeptest.main()
