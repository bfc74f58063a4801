# SPDX-License-Identifier: Apache-2.0
"""The first look of seep check, which is taken beside the running program: nothing that the
program does meanwhile, and nothing that is done to the one who looks, may hurt it."""
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import unittest
import seeptest
from asked import Obedient, until

CHECKS = int(os.environ.get("SEEP_TEST_CHECKS", "24"))


class Program(Obedient):
    def mapping_processes(self):
        """Children of any of its threads: who looks, or a copy."""
        found = set()
        try:
            for tid in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{tid}/children") as f:
                    found.update(int(child) for child in f.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
        return found


class TestCase(seeptest.TestCase):
    def check(self, pid, *args, status=0):
        path = os.path.join(self.dir, "check.json")
        r = seeptest.seep("check", "--json", path, "--no-symbolize", *args, str(pid),
                          cwd=self.dir)
        self.assertEqual(r.returncode, status, r.stderr.decode())
        with open(path) as f:
            report = json.load(f)
        report["text"] = r.stderr.decode()
        return report

    def lost(self, report, function):
        return sum(leak["objects"] for leak in report["leaks"]
                   if any(f["function"] == function for f in leak["stack"]))


class Churn(TestCase):
    """Nothing is lost, and nothing is found. SEEP_TEST_CHECKS=200 for a long one. Which
    way a check goes is the scheduler's: it may find pages closed each time."""

    def churn(self, options, checks=CHECKS):
        with Program("churn", options) as p:
            for _ in range(checks):
                r = self.check(p.pid)
                self.assertEqual(r["retracted_objects"], 0)
                self.assertIn(r["way"], ("concurrent", "snapshot"))
                self.assertEqual(r["way"] == "snapshot", r["instead"] != "")
            p.tell("2")
        self.assertEqual(p.rest, b"1\n")

    def test_exact(self):
        self.churn("mode=exact")

    def test_sampled(self):
        self.churn("sample=4096")

    def test_disguised_pointers(self):
        self.churn("mode=exact:pointers=unaligned", CHECKS // 4)


class Rings(TestCase):
    """Objects that only pointers into their middle hold, and that come and go while what
    they hold is looked at: they are possibly lost at most. SEEP_TEST_CHECKS as above."""

    def rings(self, options, *args, **extra):
        with Program("rings", options, **extra) as p:
            for _ in range(CHECKS):
                r = self.check(p.pid, *args)
                self.assertEqual((r["leaks"], r["retracted_objects"]), ([], 0), r["text"])
        self.assertEqual(p.rest, b"1\n")

    def test_exact(self):
        self.rings("mode=exact", "--stop")

    def test_sampled(self):
        self.rings("sample=4096", "--stop")

    def test_with_a_screen(self):
        self.rings("mode=exact")

    def test_mappings_after_the_copy(self):
        """They are none that the program keeps from its copy: the check can be completed."""
        self.rings("mode=exact", "--snapshot", RINGS_MOVE="1")


class Wander(TestCase):
    """Pointers in places that were dead, empty or closed when the look began. More often
    than by chance only many checks find that one is not looked at: SEEP_TEST_CHECKS."""

    def wander(self, where, *args):
        with Program("wander", "mode=exact", WANDER=where) as p:
            for _ in range(CHECKS):
                r = self.check(p.pid, "--stop", *args)
                self.assertEqual((r["leaks"], r["retracted_objects"]), ([], 0), r["text"])
        self.assertEqual(p.rest, b"1\n")

    def test_deep_in_a_stack(self):
        self.wander("deep")

    def test_in_a_thread_that_has_just_begun(self):
        self.wander("begun")

    def test_in_memory_that_was_closed(self):
        self.wander("closed")

    def test_in_a_hole(self):
        self.wander("hole")

    def test_in_the_kernel(self):
        self.wander("kernel")
        self.wander("kernel", "--snapshot")

    def test_start_in_a_register(self):
        """It is not even possibly lost, nor is what it holds."""
        with Program("wander", "mode=exact", WANDER="register") as p:
            for _ in range(3):
                r = self.check(p.pid, "--stop")
                self.assertEqual((r["leaks"], r["possible_objects"]), ([], 0), r["text"])


class Hurt(TestCase):
    """Who looks ends in the middle of it: the program goes on, and an answer comes."""

    def hurt(self, p, sig, most, *args):
        """The report of a check, of whose processes the first few get the signal."""
        path = os.path.join(self.dir, "check.json")
        argv = [seeptest.TOOL, "check", "--json", path, "--no-symbolize", *args, str(p.pid)]
        seen = p.mapping_processes()
        hurt = 0
        with subprocess.Popen(argv, env=seeptest.clean_env(), stderr=subprocess.PIPE) as tool:
            while tool.poll() is None:
                for child in p.mapping_processes() - seen:
                    if hurt == most:
                        break
                    seen.add(child)
                    try:
                        os.kill(child, sig)
                        hurt += 1
                    except ProcessLookupError:
                        pass
            text = tool.stderr.read().decode()
        self.assertIn(tool.returncode, (0, 23, 24), text)
        if tool.returncode == 24:
            self.assertRegex(text, "INCOMPLETE: ")
            return None
        with open(path) as f:
            return json.load(f)

    def until_instead(self, p, sig, why):
        """Until both tries are hit in time, which is the scheduler's."""
        for _ in range(100):
            r = self.hurt(p, sig, 2)
            self.assertEqual(p.say("lose 0"), 0)
            if r and r["way"] == "snapshot":
                # A fault may be the end of one that has no handler yet.
                self.assertIn(r["instead"], (why, "who looked was killed"))
                return r
        return self.skipTest("never hit in time")

    def case(self, sig, why):
        with Program("live") as p:
            p.say("grow 400000")
            p.say("lose 20")
            p.say("lose 1")
            r = self.until_instead(p, sig, why)
            self.assertGreaterEqual(self.lost(r, "lose"), 20)
            self.assertIn(f"screen: snapshot ({why}), pause ", self.again(p, sig, why))
            self.assertEqual(p.say("lose 1"), 0)
            r = self.check(p.pid, status=23)
            self.assertEqual((r["way"], r["instead"]), ("concurrent", ""))
            until(lambda: len(os.listdir(f"/proc/{p.pid}/task")) == 1)
            self.assertEqual(p.mapping_processes(), set())

    def again(self, p, sig, why):
        """The same in words."""
        for _ in range(100):
            seen, hurt = set(), 0
            with subprocess.Popen([seeptest.TOOL, "check", "--no-symbolize", str(p.pid)],
                                  env=seeptest.clean_env(), stderr=subprocess.PIPE) as tool:
                while tool.poll() is None:
                    for child in p.mapping_processes() - seen:
                        if hurt < 2:
                            seen.add(child)
                            hurt += 1
                            try:
                                os.kill(child, sig)
                            except ProcessLookupError:
                                pass
                text = tool.stderr.read().decode()
            if why in text:
                return text
        return self.skipTest("never hit in time")

    def test_killed(self):
        self.case(signal.SIGKILL, "who looked was killed")

    def test_fault(self):
        self.case(signal.SIGSEGV, "memory was taken away under the look")

    def test_shares_no_directory(self):
        """Else a program that becomes a set-user-ID one meanwhile would stay who it is."""
        KCMP, FS = 312, 3
        kcmp = ctypes.CDLL(None, use_errno=True).syscall
        seen = 0
        with Program("live") as p:
            p.say("grow 400000")
            before = p.mapping_processes()
            for _ in range(20):
                with subprocess.Popen([seeptest.TOOL, "check", "-q", str(p.pid)],
                                      env=seeptest.clean_env()) as tool:
                    while tool.poll() is None:
                        for child in p.mapping_processes() - before:
                            same = kcmp(KCMP, p.pid, child, FS, 0, 0)
                            seen += same >= 0  # else it is gone, or may not be asked
                            self.assertNotEqual(same, 0)
                if seen:
                    break
        if not seen:
            self.skipTest("nobody was met")

    def test_other_signals_do_not_reach_it(self):
        with Program("live") as p:
            p.say("grow 400000")
            for sig in signal.SIGABRT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1:
                for _ in range(10):
                    r = self.hurt(p, sig, 1)
                    if r:  # else it was a copy made for a confirm
                        self.assertEqual(r["leaks"], [])


class Fallbacks(TestCase):
    def test_closed_pages(self):
        """A pointer in memory that the program has closed counts."""
        with Program("live") as p:
            p.say("close")
            r = self.check(p.pid)
            self.assertEqual((r["way"], r["instead"]),
                             ("snapshot", "the program has closed memory to itself "
                              "(PROT_NONE)"))
            self.assertIn("(the program has closed memory to itself (PROT_NONE))", r["text"])
            p.say("open")
            self.assertEqual(self.check(p.pid)["way"], "concurrent")

    def test_supplied_pages(self):
        with Program("live") as p:
            if p.say("supply") != 0:
                self.skipTest("no userfaultfd")
            self.assertEqual(self.check(p.pid)["instead"],
                             "it has a userfaultfd, or its descriptors cannot be seen")

    def test_not_beside_and_not_stopped(self):
        with Program("live", "mode=exact:hugepage=off") as p:
            p.say("close")
            for limit in ("0.001", "0"):
                r = seeptest.seep("check", "--max-pause", limit, str(p.pid))
                self.assertEqual(r.returncode, 24)
                self.assertRegex(r.stderr.decode(),
                                 r"INCOMPLETE: process \d+: it cannot be looked at while it "
                                 r"runs: the program has closed memory to itself "
                                 r"\(PROT_NONE\), but it would stand still for about [\d.]+ ms,"
                                 rf" which is more than --max-pause {limit}\n$")


class Sizes(TestCase):
    """No object is left out, whatever its size: the first spans of a size are short."""

    def test_kept(self):
        with Program("live") as p:
            p.say("tables 40")
            r = self.check(p.pid)
            self.assertEqual((r["way"], r["candidates"], r["leaks"]), ("concurrent", 0, []))

    def test_lost(self):
        with Program("live") as p:
            p.say("spill 40")
            r = self.check(p.pid, status=23)
            self.assertEqual(r["way"], "concurrent")
            # An old pointer may be left to one or another.
            self.assertGreaterEqual(self.lost(r, "lose_tables"), 36)


class Same(TestCase):
    def test_same_as_a_snapshot(self):
        """Both ways find the same, of every kind of loss."""
        kinds = "grow 500", "lose 20", "list 30", "inner 7", "behind 3", "lose 1"
        found = {}
        for way in (), ("--snapshot",):
            with Program("live") as p:
                p.say("ready")
                for line in kinds:
                    p.say(line)
                self.check(p.pid, "--stop", status=23)
                r = self.check(p.pid, *way, status=23)
                if r["candidates"] == 0:
                    self.assertEqual(r["confirm_ns"], 0)
                found[way] = sorted((leak["kind"], leak["objects"], leak["bytes"],
                                     leak["retained"], leak["new_objects"])
                                    for leak in r["leaks"] + r["possible"])
        self.assertEqual(found[()], found[("--snapshot",)])

    def test_memory_comes_back(self):
        """What a look maps is gone after it, and huge pages are as they were."""
        with Program("live", "") as p:
            p.say("grow 400000")
            self.check(p.pid)
            until(lambda: len(os.listdir(f"/proc/{p.pid}/task")) == 1)

            def size():
                with open(f"/proc/{p.pid}/status") as f:
                    return int(re.search(r"VmSize:\s+(\d+)", f.read())[1])
            before = size()
            for _ in range(5):
                self.assertEqual(self.check(p.pid)["way"], "concurrent")
            until(lambda: len(os.listdir(f"/proc/{p.pid}/task")) == 1)
            self.assertLessEqual(size() - before, 2048)

    def test_exec_meanwhile(self):
        """The program becomes another while it is looked at."""
        for _ in range(10):
            with Program("live") as p:
                p.say("grow 400000")
                seen = p.mapping_processes()
                with subprocess.Popen([seeptest.TOOL, "check", "-q", str(p.pid)],
                                      env=seeptest.clean_env(), stderr=subprocess.PIPE) as tool:
                    while tool.poll() is None and not p.mapping_processes() - seen:
                        pass
                    self.assertEqual(p.tell("exec"), "here")
                    tool.stderr.read()
                self.assertIn(tool.returncode, (0, 24))
                until(lambda: not p.mapping_processes())


seeptest.main()
