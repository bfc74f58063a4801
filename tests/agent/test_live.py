# SPDX-License-Identifier: Apache-2.0
"""seep check and seep leak: what a running process has lost, while it runs on."""
import json
import os
import re
import shutil
import subprocess
import unittest
import seeptest
from asked import Obedient, until

CHECKS = int(os.environ.get("SEEP_TEST_CHECKS", "60"))


class Live(Obedient):
    """The program tests/agent/live.c."""

    def __init__(self, options="mode=exact", victim="live", **kw):
        super().__init__(victim, options, **kw)
        if victim == "live":  # past the loader: the library is there
            self.say("ready")

    def descriptors(self):
        return sorted(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return os.listdir(f"/proc/{self.pid}/task")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(child) for child in f.read().split()]


def looks(pid):
    """The system calls that a process has read by."""
    with open(f"/proc/{pid}/io") as f:
        return int(f.read().split("syscr: ")[1].split()[0])


class TestCase(seeptest.TestCase):
    def ask(self, pid, *args, status=None, command="check"):
        for _ in range(10):
            r = seeptest.seep(command, *args, str(pid), cwd=self.dir)
            # A thread may not come to run for seconds beside a hundred others.
            if r.returncode != 24 or b"could not be stopped" not in r.stderr:
                break
        if status is not None:
            self.assertEqual(r.returncode, status, r.stderr.decode())
        return r.returncode, r.stderr.decode()

    def check(self, pid, *args, status=None):
        """The report; its verdict agrees with the status and the last line."""
        path = os.path.join(self.dir, "check.json")
        code, text = self.ask(pid, "--json", path, "--no-symbolize", *args, status=status)
        self.assertIn(code, (0, 23), text)
        self.assertRegex(text.splitlines()[-1],
                         "^seep: clean$" if code == 0 else "^seep: LEAK objects=[1-9]")
        with open(path) as f:
            report = json.load(f)
        report["status"], report["text"] = code, text
        return report

    def amounts(self, report, function, key="objects"):
        """By kind, the objects whose stacks have the function."""
        found = {}
        for leak in report["leaks"] + report["possible"] + report["retracted"]:
            if any(f["function"] == function for f in leak["stack"]):
                found[leak["kind"]] = found.get(leak["kind"], 0) + leak[key]
        return found


class Verdicts(TestCase):
    def test_clean(self):
        with Live() as p:
            p.say("grow 1000")
            r = self.check(p.pid, status=0)
            self.assertEqual(r["leaks"], [])
            self.assertEqual((r["way"], r["verdict"], r["mode"]),
                             ("concurrent", "clean", "exact"))
            self.assertGreater(r["screen_ns"], 0)
            self.assertEqual((r["confirm_ns"], r["instead"]), (0, ""))
            self.assertGreaterEqual(r["reachable_objects"], 1000)
            snapshot = self.check(p.pid, "--snapshot", status=0)
            self.assertEqual((snapshot["way"], snapshot["instead"]), ("snapshot", ""))
            for key in "reachable_objects", "reachable_bytes", "objects", "possible_objects":
                self.assertEqual(snapshot[key], r[key])

    def test_lost(self):
        with Live() as p:
            p.say("sleepers 3")
            p.say("lose 20")
            p.say("list 30")
            p.say("grow 5")
            r = self.check(p.pid, "--stop", status=23)
            self.assertEqual(self.amounts(r, "lose"), {"direct": 20})
            self.assertEqual(self.amounts(r, "lose_list"), {"direct": 1, "indirect": 29})
            self.assertEqual(self.amounts(r, "lose_list", "retained"),
                             {"direct": 30 * 48, "indirect": 0})
            self.assertEqual(self.amounts(r, "grow"), {})
            self.assertIn("\nseep: LEAK objects=50 bytes=2400 sites=3\n", r["text"])
            self.assertGreaterEqual(r["threads_stopped"], 4)

    @seeptest.needs_ptrace
    def test_screen_then_confirm(self):
        """Only what is new is worth a stop."""
        with Live() as p:
            p.say("lose 20")
            p.say("lose 1")
            first = self.check(p.pid, status=23)
            self.assertGreaterEqual(first["candidates"], 20)
            self.assertGreater(first["confirm_ns"], 0)
            self.assertEqual(first["stopped_by"], "ptrace")
            self.assertRegex(first["text"], r"screen: concurrent, pause [\d.]+ ms, \d+ new candidates")
            self.assertRegex(first["text"], r"confirm: pause [\d.]+ ms, 1 thread stopped")
            again = self.check(p.pid, status=23)
            if again["candidates"] == 0:
                self.assertEqual((again["confirm_ns"], again["stopped_by"]), (0, ""))
            self.assertGreaterEqual(sum(self.amounts(again, "lose").values()), 20)

    def test_sampled(self):
        with Live("sample=64") as p:
            p.say("lose 500")
            r = self.check(p.pid, "--stop", status=23)
            self.assertEqual(r["mode"], "sampled")
            self.assertEqual(sum(l["objects"] for l in r["leaks"]), 500)
            known = self.amounts(r, "lose")["direct"]
            self.assertGreater(known, 100)
            for leak in r["leaks"]:
                if leak["sampled"]:
                    self.assertGreaterEqual(leak["first_age_ns"], leak["last_age_ns"])
                    self.assertGreater(leak["last_age_ns"], 0)
            self.assertRegex(self.ask(p.pid)[1],
                             r"    allocated \d+\.\d+ to \d+\.\d+ s before the check")

    def test_possible(self):
        with Live() as p:
            p.say("inner 7")
            r = self.check(p.pid, status=0)
            self.assertEqual(self.amounts(r, "keep_inner"), {"possible": 7})
            self.assertIn("possibly lost, not counted: 448 bytes in 7 objects", r["text"])
            self.check(p.pid, "--possible", status=23)

    def test_possible_behind(self):
        """What is reached only through what is possibly lost is that, too."""
        for way in (), ("--stop",), ("--snapshot",), ("--standing",):
            with Live() as p:
                p.say("lose 1")  # or no look is confirmed
                p.say("behind 7")
                r = self.check(p.pid, "--possible", *way, status=23)
                self.assertEqual(self.amounts(r, "keep_behind"), {"possible": 21}, way)
                for key in "bytes", "retained":
                    self.assertEqual(self.amounts(r, "keep_behind", key),
                                     {"possible": 7 * 224}, way)
                self.assertEqual(self.amounts(r, "lose"), {"direct": 1}, way)

    def test_suppressed(self):
        path = os.path.join(self.dir, "supp")
        with open(path, "w") as f:
            f.write("leak:lose_list\n")
        with Live("mode=exact:suppressions=" + path) as p:
            p.say("list 10")
            self.assertIn("suppressed: 480 bytes", self.check(p.pid, "--stop", status=0)["text"])

    def test_mode_off(self):
        with Live("mode=off") as p:
            self.assertIn("mode=off", self.ask(p.pid, status=24)[1])

    def test_closed_library(self):
        """Names of a library that is gone by now."""
        with Live() as p:
            lib = seeptest.victim("agent/liblive_plugin.so")
            self.assertEqual(p.say("plugin " + lib), 0)
            with open(f"/proc/{p.pid}/maps") as f:
                self.assertNotIn("live_plugin", f.read())
            r = self.check(p.pid, "--stop", status=23)
            self.assertEqual(self.amounts(r, "plugin_loses"), {"direct": 5})

    def test_memory_that_fork_does_not_copy(self):
        with Live() as p:
            self.assertEqual(p.say("dontfork"), 0)
            self.assertEqual(p.say("wipe"), 0)
            r = self.check(p.pid, "--stop", status=0)
            self.assertEqual(self.amounts(r, "keep_apart"), {})

    def test_many_sites(self):
        with Live() as p:
            p.say("sites 10000")
            r = self.check(p.pid, "--stop", status=23)
            sites = [l for l in r["leaks"]
                     if any(f["function"] == "at_site" for f in l["stack"])]
            self.assertEqual(len(sites), 10000)
            self.assertIn("... and ", r["text"])

    @unittest.skipUnless(seeptest.may_become(), "needs root")
    def test_another_user(self):
        """Who has changed its user may not open its own memory any more: few need it."""
        with Live() as p:
            for line in ("lose 20", "user 65534"):
                self.assertEqual(p.say(line), 0)
            r = self.check(p.pid, status=23)
            self.assertEqual(self.amounts(r, "lose"), {"direct": 20})
        with Live() as p:
            for line in ("lose 20", "dontfork", "user 65534"):
                self.assertEqual(p.say(line), 0)
            _, text = self.ask(p.pid, status=24)
            self.assertIn("MADV_DONTFORK", text)

    def test_stacks_behind_larger_places(self):
        with Live() as p:
            p.say("keeps 300")
            p.say("lose 1")
            _, text = self.ask(p.pid, status=23)
            self.assertRegex(text, r"\nseep: direct leak: 48 bytes in 1 object, from:\n"
                                   r"seep:     #0 fresh .*\nseep:     #1 lose ")

    def test_profile(self):
        with Live() as p:
            p.say("lose 20")
            path = os.path.join(self.dir, "x.pb.gz")
            text = self.ask(p.pid, "--stop", "-o", path, status=0, command="leak")[1]
            self.assertIn(f"look closer: go tool pprof -top {path}", text)
            self.assertIn("seep: LEAK objects=20", text)
            raw = subprocess.run(["go", "tool", "pprof", "-raw", path], check=True,
                                 capture_output=True).stdout.decode()
            self.assertIn("leaked_objects/count leaked_space/bytes[dflt] "
                          "retained_space/bytes", raw)
            self.assertRegex(raw, r"\n +20 +960 +960:")
            self.ask(p.pid, "-q", status=0, command="leak")
            self.assertEqual(os.listdir(self.dir + "/seep.out"),
                             [f"live.{p.pid}.leak.pb.gz"])


    def test_profile_to_an_open_file(self):
        """What /dev/stdout and its like are links to is written, the link not replaced."""
        path = os.path.join(self.dir, "x.gz")
        with Live() as p:
            p.say("lose 20")
            for name in ("/proc/self/fd/1", "-"):
                with open(path, "wb") as f:
                    r = subprocess.run([seeptest.TOOL, "leak", "-q", "-o", name, str(p.pid)],
                                       stdout=f, stderr=subprocess.PIPE)
                self.assertEqual(r.returncode, 0, r.stderr)
                subprocess.run(["gzip", "-t", path], check=True)

    def test_closed_descriptors(self):
        """The tool's own files do not get what is meant for a closed one."""
        with Live() as p:
            p.say("lose 20")
            for closed in ("0<&-", "2>&-", "0<&- 1>&- 2>&-"):
                r = subprocess.run(["sh", "-c", f'"$0" check --stop $1 {closed}',
                                    seeptest.TOOL, str(p.pid)])
                self.assertEqual(r.returncode, 23, closed)


class Since(TestCase):
    def test_since_the_check_before(self):
        with Live() as p:
            p.say("lose 20")
            self.check(p.pid, "--stop", status=23)
            r = self.check(p.pid, "--stop", "--since", status=0)
            self.assertEqual(self.amounts(r, "lose"), {"direct": 20})
            p.say("lose 3")
            r = self.check(p.pid, "--stop", "--since", status=23)
            self.assertIn("LEAK objects=3 bytes=144 sites=1", r["text"])
            self.assertIn("direct leak: 144 bytes in 3 new objects", r["text"])
            self.assertIn("LEAK objects=23", self.check(p.pid, status=23)["text"])

    def test_since_a_baseline(self):
        base = os.path.join(self.dir, "base.json")
        with Live() as p:
            p.say("lose 20")
            self.check(p.pid, "--stop", "--save", base, status=23)
            self.assertEqual(os.stat(base).st_mode & 0o777, 0o600)
            self.check(p.pid, "--since=" + base, status=0)
        with Live() as p:  # another process, other addresses
            p.say("lose 22")
            p.say("list 4")
            r = self.check(p.pid, "--stop", "--since=" + base, status=23)
            self.assertEqual(self.amounts(r, "lose", "new_objects"), {"direct": 2})
            self.assertIn("LEAK objects=6 bytes=288 sites=3", r["text"])
            for bad in ("/nonexistent", seeptest.LIB):
                self.ask(p.pid, "--since=" + bad, status=24)

    def gate(self, lines, *args, status):
        path = os.path.join(self.dir, "lines")
        with open(path, "w") as f:
            f.write(lines)
        with open(path) as f:
            r = seeptest.seep("gate", *args, "--", "sh", "-c", '"$0"; :',
                              seeptest.victim("agent/live"), cwd=self.dir, stdin=f)
        self.assertEqual(r.returncode, status, r.stderr.decode())
        return r.stderr.decode()

    def test_gate_since_a_baseline(self):
        base = os.path.join(self.dir, "base.json")
        self.gate("lose 20\n", "--save", base, status=23)
        self.assertEqual(os.stat(base).st_mode & 0o777, 0o600)
        self.assertIn("\nseep: clean\n", "\n" + self.gate("lose 20\n", "--since", base, status=0))
        text = self.gate("lose 22\nlist 4\n", "--since", base, status=23)
        self.assertIn("\nseep: LEAK objects=6 bytes=288 sites=3\n", text)
        self.assertIn("288 bytes in 6 new objects lost", text)
        self.assertRegex(text, r"direct leak: 96 bytes in 2 new objects, from:\n.* fresh")
        with Live() as p:  # what the gate has kept serves a live check as well
            p.say("lose 21")
            self.assertIn("LEAK objects=1 bytes=48",
                          self.check(p.pid, "--stop", "--since=" + base)["text"])
        self.gate("", "--since", "/nonexistent", status=24)

    def test_retracted(self):
        """It was said to be lost, and freed: shown."""
        with Live() as p:
            p.say("hide 9")
            self.check(p.pid, "--stop", status=23)
            p.say("show")
            r = self.check(p.pid, status=0)
            self.assertEqual((r["retracted_objects"], r["retracted_freed_objects"]), (9, 9))
            self.assertIn("retracted: 576 bytes in 9 objects of the check before: 9 freed",
                          r["text"])
            self.assertEqual(self.check(p.pid, status=0)["retracted_objects"], 0)

    def test_reached_again(self):
        """It is said to be lost, reached, and lost again: that is nothing new."""
        for how in ((), ("--stop",), ("--snapshot",)):
            p = Live("mode=exact:leak=exit")  # births are recorded
            try:
                p.say("hide 9")
                self.check(p.pid, *how, "--since", status=23)
                for taken_back in (9, 0):
                    p.say("turn")
                    r = self.check(p.pid, *how, "--since", status=0)
                    self.assertEqual((r["retracted_objects"], r["retracted_freed_objects"]),
                                     (taken_back, 0), r["text"])
                    if taken_back:
                        self.assertIn(": 0 freed since, 9 reached again", r["text"])
                r = self.check(p.pid, *how, status=23)
                self.assertEqual((r["objects"], r["new_objects"]), (9, 0))
            finally:
                p.proc.kill()
                p.proc.communicate()

    def test_growing(self):
        with Live() as p:
            for _ in range(3):
                p.say("grow 100")
                r = self.check(p.pid, status=0)
            self.assertEqual([(e["bytes"], e["grown_bytes"]) for e in r["reachable"]],
                             [(14400, 9600)])
            self.assertIn("growing: by 9600 bytes in the last 3 checks:", r["text"])
            self.assertRegex(r["reachable"][0]["root"], r"^kept\+0x0 ")
            self.assertEqual(self.check(p.pid, status=0)["reachable"], [])

    def test_growth_by_chance(self):
        """Samples of what stays as large go up and down: that is not growing."""
        with Live("sample=64") as p:
            p.say("grow 1000")
            self.check(p.pid)
            for _ in range(3):
                p.say("grow 3")
                r = self.check(p.pid)
            self.assertEqual([e for e in r["reachable"] if e["growing"]], [])

    def test_reachable(self):
        with Live() as p:
            p.say("grow 10")
            r = self.check(p.pid, "--reachable", status=0)
            mine = [e for e in r["reachable"]
                    if any(f["function"] == "grow" for f in e["stack"])]
            self.assertEqual([(e["objects"], e["growing"]) for e in mine], [(10, False)])
            self.assertIn("held by kept+0x0", r["text"])


class Unnoticed(TestCase):
    def test_moving_pointers(self):
        """The only pointers to live objects are in registers most of the time."""
        with Live() as p:
            p.say("move 8")
            candidates = 0
            ways = ["--stop"], ["--stop", "--snapshot"], ["--snapshot"], []
            for i in range(CHECKS):
                r = self.check(p.pid, *ways[i % 4], status=0)
                self.assertEqual(r["way"], "snapshot" if i % 4 in (1, 2) or
                                 i % 4 == 0 and r["copied"] else "concurrent")
                self.assertEqual(r["retracted_objects"], 0)
                candidates += r["candidates"]
            self.assertGreater(candidates, 0, "the screen never saw one: no test")
            p.say("lose 5")
            # An old pointer may be left to one or another, until a thread overwrites it.
            until(lambda: self.amounts(self.check(p.pid, "--stop"), "lose") == {"direct": 5})
            self.assertEqual(p.say("stay"), 0)
            self.check(p.pid, "--stop", status=23)

    def test_large_objects(self):
        """Nobody but the allocator has the address of one that it is making or freeing."""
        with Live("sample=512K") as p:
            p.say("large 8")
            for i in range(CHECKS):
                self.check(p.pid, "--stop", *(["--snapshot"] if i % 2 else []), status=0)
            self.assertEqual(p.say("stay"), 0)

    def test_objects_made_anew(self):
        """Who holds an object now was not there when the others were searched."""
        with Live("sample=512K") as p:
            p.say("renew 8")
            for _ in range(CHECKS):
                self.check(p.pid, "--stop", status=0)
            self.assertEqual(p.say("stay"), 0)

    def test_moving_pointers_sampled(self):
        with Live("sample=512K") as p:
            p.say("move 8")
            for i in range(CHECKS // 3):
                self.check(p.pid, *(["--stop"] if i % 3 == 0 else []), status=0)
            self.assertEqual(p.say("stay"), 0)

    def blocked(self, p):
        """Every thread waits; the agent's may be gone by now."""
        try:
            for tid in p.threads():
                with open(f"/proc/{p.pid}/task/{tid}/stat") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] != "S":
                        return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    @seeptest.needs_ptrace
    def test_no_call_ends(self):
        with Live(victim="calls") as p:
            self.assertEqual(p.proc.stdout.readline(), b"up 31\n")
            until(lambda: len(p.threads()) == 33 and self.blocked(p))
            for i in range(6):
                r = self.check(p.pid, *(["--stop"] if i % 2 else []), status=23)
                self.assertEqual(r["stopped_by"] or "ptrace", "ptrace")
                self.assertEqual(r["threads_stopped"], 33 if r["stopped_by"] else 0)
                until(lambda: self.blocked(p))
                p.proc.stdin.write(b"who\n")
                p.proc.stdin.flush()
                self.assertEqual(p.proc.stdout.readline(), b"\n")

    @seeptest.needs_ptrace
    def test_no_call_ends_for_several(self):
        """Requests that come together trace the same threads."""
        with Live(victim="calls") as p:
            self.assertEqual(p.proc.stdout.readline(), b"up 31\n")
            until(lambda: len(p.threads()) == 33 and self.blocked(p))
            for _ in range(8):
                tools = [subprocess.Popen([seeptest.TOOL, what, str(p.pid)], cwd=self.dir,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                         for what in ("check", "check", "heap", "threads")]
                self.assertEqual([t.wait(seeptest.TIMEOUT) for t in tools], [23, 23, 0, 0])
                until(lambda: self.blocked(p))
                p.proc.stdin.write(b"who\n")
                p.proc.stdin.flush()
                self.assertEqual(p.proc.stdout.readline(), b"\n")

    def test_no_child_and_no_descriptor(self):
        with Live() as p:
            p.say("watch")
            before = p.descriptors()
            for i in range(CHECKS // 4):
                p.say("lose 10")
                with subprocess.Popen([seeptest.TOOL, "check", "-q", str(p.pid)],
                                      stderr=subprocess.DEVNULL) as tool:
                    while tool.poll() is None:
                        self.assertEqual(p.say("pipes 20"), 0)
                    self.assertIn(tool.returncode, (0, 23))
            until(lambda: len(p.threads()) == 2)  # the agent is gone
            self.assertEqual(p.say("children"), 0)
            self.assertEqual(p.descriptors(), before)

    def memory(self, p):
        with open(f"/proc/{p.pid}/status") as f:
            fields = dict(line.split(":", 1) for line in f)
        return seeptest.resident(p.pid), int(fields["VmSize"].split()[0])

    def mappings(self, p):
        with open(f"/proc/{p.pid}/maps") as f:
            return len(f.readlines())

    def test_many_checks(self):
        """SEEP_TEST_CHECKS=10000 for the long one."""
        with Live(preexec_fn=seeptest.without_huge_pages) as p:
            p.say("grow 1000")
            p.say("lose 100")
            p.say("sleepers 4")
            for _ in range(10):
                self.check(p.pid, "--stop", status=23)
            before = self.memory(p)
            mappings = self.mappings(p)
            for i in range(CHECKS):
                self.ask(p.pid, "-q", *(["--stop"] if i % 2 else []), status=23)
            until(lambda: len(p.threads()) == 5)
            after = self.memory(p)
            self.assertLess(after[0] - before[0], 400)
            self.assertLess(after[1] - before[1], 2048)
            self.assertLessEqual(self.mappings(p) - mappings, 4)

    def test_nothing_is_left(self):
        with Live() as p:
            p.say("lose 10")
            self.check(p.pid, status=23)
            until(lambda: len(p.threads()) == 1)
            self.assertEqual(children(p.pid), [])


class Ways(TestCase):
    """The fallbacks, in their order."""

    def test_without_ptrace_by_signal(self):
        with Live() as p:
            self.assertEqual(p.say("filter ptrace"), 0)
            p.say("sleepers 3")
            p.say("lose 5")
            p.say("lose 5")
            self.assertIn("--force", self.ask(p.pid, status=24)[1])
            r = self.check(p.pid, "--force", "--stop", status=23)
            self.assertEqual((r["way"], r["stopped_by"]), ("snapshot", "signal"))
            self.assertIn("stopped by signal (ptrace was refused", r["text"])
            self.assertEqual(self.amounts(r, "lose"), {"direct": 10})

    @seeptest.needs_ptrace
    @unittest.skipUnless(shutil.which("strace"), "no strace")
    def test_traced_by_another(self):
        with Live(argv=["strace", "-f", "-qq", "-o", self.dir + "/trace"]) as p:
            p.say("lose 10")
            child = children(p.pid)[0]
            r = self.check(child, "--stop", status=23)
            self.assertEqual(r["stopped_by"], "signal")
            self.assertEqual(self.amounts(r, "lose"), {"direct": 10})

    def test_without_clone_standing(self):
        with Live() as p:
            self.assertEqual(p.say("filter clone"), 0)
            p.say("sleepers 3")
            p.say("lose 5")
            p.say("lose 5")
            self.assertIn("--standing allows it",
                          self.ask(p.pid, "--force", status=24)[1])
            r = self.check(p.pid, "--force", "--standing", status=23)
            self.assertEqual(r["way"], "standing")
            self.assertIn("the process stood still for", r["text"])
            self.assertEqual(self.amounts(r, "lose"), {"direct": 10})
            self.check(p.pid, "--force", "--standing", "--since", status=0)

    def test_without_munmap(self):
        """What stays mapped of one check hides nothing from the next."""
        with Live() as p:
            self.assertEqual(p.say("filter munmap"), 0)
            p.say("sleepers 3")
            p.say("lose 10")
            for _ in range(3):
                r = self.check(p.pid, "--force", "--stop", status=23)
                self.assertEqual(self.amounts(r, "lose"), {"direct": 10})

    def test_without_exit(self):
        """What helps with a check ends all the same, and the program goes on."""
        for call in "exit_group", "exit":
            with self.subTest(call):
                p = Live()
                self.addCleanup(p.proc.stderr.close)
                self.addCleanup(p.proc.stdout.close)
                self.addCleanup(p.proc.stdin.close)
                self.addCleanup(p.proc.wait)
                self.addCleanup(p.proc.kill)
                p.say("sleepers 3")
                p.say("lose 10")
                self.assertEqual(p.say("filter " + call), 0)
                r = self.check(p.pid, "--force", "--stop", status=23)
                self.assertEqual(self.amounts(r, "lose"), {"direct": 10})
                self.assertEqual(r["way"], "snapshot")
                self.assertEqual(p.say("lose 1"), 0)

    def test_refused_calls_are_named(self):
        for call, args, why in (
                ("clone", (), "clone of a process failed with EPERM"),
                ("mmap", ("--standing",), "mmap failed with EPERM")):
            with self.subTest(call), Live() as p:
                p.say("lose 10")
                self.assertEqual(p.say("filter " + call), 0)
                self.assertIn(why, self.ask(p.pid, "--force", *args, status=24)[1])
                self.assertEqual(p.say("lose 1"), 0)

    def test_without_wait(self):
        """The agent cannot wait for a snapshot; what that has found by then counts."""
        with Live() as p:
            p.say("lose 10")
            self.assertEqual(p.say("filter wait4"), 0)
            status, text = self.ask(p.pid, "--force", "--stop")
            self.assertIn("wait4 for the snapshot failed with EPERM" if status == 24
                          else "LEAK objects=10", text)
            self.assertEqual(p.say("lose 1"), 0)

    def test_without_sockets(self):
        with Live() as p:
            self.assertEqual(p.say("filter socket"), 0)
            self.assertIn("has a seccomp filter, which refuses what an answer takes",
                          self.ask(p.pid, "--force", status=24)[1])

    def test_refused_by_its_pause(self):
        with Live("mode=exact:hugepage=off", preexec_fn=seeptest.without_huge_pages) as p:
            p.say("grow 200000")
            for way in "--stop", "--snapshot", "--reachable", "--standing":
                text = self.ask(p.pid, "--max-pause", "0.1", way, status=24)[1]
                self.assertRegex(text,
                                 r"^seep: predicted pause: [\d.]+ ms \(0 B in huge pages, ")
                self.assertIn("more than --max-pause 0.1; nothing was done", text)
            self.check(p.pid, "--max-pause", "10000", status=0)
            # The first look takes none; what it finds is not confirmed.
            self.assertEqual(self.check(p.pid, "--max-pause", "0.1", status=0)["way"],
                             "concurrent")
            p.say("lose 7")
            p.say("lose 1")
            for _ in range(2):
                text = self.ask(p.pid, "--max-pause", "0.1", status=24)[1]
                self.assertRegex(text, r"INCOMPLETE: process \d+: [78] new objects seem lost, "
                                 r"which only a stop can confirm, but it would stand still for "
                                 r"about [\d.]+ ms, which is more than --max-pause 0.1\n$")
            r = self.check(p.pid, "--max-pause", "10000", status=23)
            # What is known does not need to be confirmed again.
            if self.amounts(r, "lose")["direct"] == 8:
                self.check(p.pid, "--max-pause", "0.1", status=23)
        for bad in ("x", "-1", ""):
            self.ask(1, "--max-pause", bad, status=25)

    @seeptest.needs_ptrace
    def test_allowed_without_a_copy(self):
        """Small pages take long to copy, but not to be asked for."""
        with Live("mode=exact:hugepage=off", preexec_fn=seeptest.without_huge_pages) as p:
            p.say("grow 300000")
            p.say("lose 7")
            p.say("lose 1")
            text = self.ask(p.pid, "--max-pause", "0", status=24)[1]
            predicted = [float(x) for x in re.findall(r"([\d.]+) ms (?:to stop|without)", text)]
            if len(predicted) < 2:
                self.skipTest("the kernel does not tell which pages are written")
            self.assertLess(predicted[1], predicted[0])
            r = self.check(p.pid, "--max-pause", str(predicted[1] + .1), status=23)
            self.assertEqual(r["copied"], "")
            self.assertGreater(r["confirm_ns"], 0)

    def test_predicted_by_mappings(self):
        """Each costs, with nothing in it: a stack is one, and the guard below it."""
        with Live("mode=exact:hugepage=off", preexec_fn=seeptest.without_huge_pages) as p:
            def predicted():
                text = self.ask(p.pid, "--stop", "--max-pause", "0.001", status=24)[1]
                return float(re.match(r"seep: predicted pause: ([\d.]+) ms", text)[1])
            before = predicted()
            p.say("sleepers 200")
            self.assertGreater(predicted(), before + 1.3)

    def test_predicted_when_pages_are_restored(self):
        """An agent that is at work on them, or what looks like one, is waited for."""
        with Live("mode=exact:hugepage=off", preexec_fn=seeptest.without_huge_pages) as p:
            p.say("grow 200000")
            p.say("agent seep-agent")
            argv = [seeptest.TOOL, "check", "-q", "--no-symbolize", "--stop", "--max-pause",
                    "0.001", str(p.pid)]
            with subprocess.Popen(argv, env=seeptest.clean_env(), stderr=subprocess.PIPE) as tool:
                # It looks at this thread's name again and again.
                before = looks(tool.pid)
                until(lambda: looks(tool.pid) > before + 20 or tool.poll() is not None)
                self.assertIsNone(tool.poll())
                p.say("agent other")
                self.assertEqual(tool.wait(), 24)
                self.assertIn(b"nothing was done", tool.stderr.read())

    def test_forked_child(self):
        """What the parent remembers is not the child's."""
        with Live() as p:
            p.say("hide 5")
            self.check(p.pid, "--stop", status=23)
            child = p.say("fork")
            self.assertIn(child, children(p.pid))
            p.say("lose 3")
            r = self.check(child, "--stop", "--since", status=23)
            # Both are new to the child, which has not been asked before; only its own count.
            self.assertEqual(self.amounts(r, "lose"), {"direct": 3})
            self.assertEqual(self.amounts(r, "hide"), {})
            r = self.check(child, "--stop", "--since", status=0)
            self.assertEqual(self.amounts(r, "lose"), {"direct": 3})
            p.say("show")  # the parent's objects, of the parent's report
            self.assertEqual(self.check(child, "--stop", status=23)["retracted_objects"], 0)
            # The parent remembers what it has said, and that the child freed nothing of it.
            r = self.check(p.pid, "--stop", "--since", status=0)
            self.assertEqual((self.amounts(r, "hide"), r["retracted_objects"]),
                             ({"direct": 5}, 0))


seeptest.main()
