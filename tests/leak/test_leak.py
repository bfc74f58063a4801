# SPDX-License-Identifier: Apache-2.0
"""Known leaks are found to the byte, and nothing else is."""
import os
import shutil
import subprocess
import unittest
import seeptest

NODE = 48
# name: objects, bytes, {(kind): objects}
LEAKS = {
    "direct": (1, 100, {"direct": 1}),
    "large": (1, 1 << 20, {"direct": 1}),
    "thousand": (1000, 16000, {"direct": 1000}),
    "indirect": (10, 10 * NODE, {"direct": 1, "indirect": 9}),
    "cyclic": (3, 3 * NODE, {"direct": 1, "indirect": 2}),
    "self": (1, NODE, {"direct": 1}),
    "thread": (1, 333, {"direct": 1}),
    "grown": (1, 70000, {"direct": 1}),
    "others": (3, 33 + 100 + 10, {"direct": 3}),
}
HELD = ["in_tls", "interior", "last_byte", "tsd_low", "tsd_high", "in_mapping",
        "in_shared_mapping", "other_stack", "other_register", "in_library",
        "on_alternate_stack", "coroutine", "past_end", "supplied"]


class Leaks(seeptest.TestCase):
    def check(self, argv, **kw):
        env = {"VICTIM_LIBRARY": os.environ["VICTIM_LIBRARY"]}
        return seeptest.run(argv, options=f"mode=exact:leak=exit:out={self.dir}/x",
                            env=env, **kw)

    def verdict(self, r):
        return r.stderr.decode().splitlines()[-1]

    def test_forked_child_reports_only_its_own(self):
        r = self.check([seeptest.victim("leak/leaks"), "forked"])
        lines = [l for l in r.stderr.decode().splitlines()
                 if l.startswith(("seep: LEAK", "seep: clean"))]
        self.assertEqual(sorted(lines),
                         ["seep: LEAK objects=1 bytes=60 sites=1", "seep: clean"])

    def test_cxx_holds(self):
        r = self.check([seeptest.victim("leak/cxx"), "hold"])
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)

    def test_cxx_throw(self):
        r = self.check([seeptest.victim("leak/cxx"), "throw"])
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)

    def test_cxx_lose(self):
        r = self.check([seeptest.victim("leak/cxx"), "lose"])
        self.assertEqual(r.returncode, 23)
        j = self.report()
        self.assertEqual(j["objects"], 2)
        kinds = {l["kind"]: l["bytes"] for l in j["leaks"]}
        self.assertEqual(kinds["indirect"], 101)

    def test_suppressed(self):
        path = os.path.join(self.dir, "supp")
        with open(path, "w") as f:
            f.write("# known\nleak:^lose$\n")
        r = seeptest.run([seeptest.victim("leak/leaks"), "direct"],
                         options=f"mode=exact:leak=exit:suppressions={path}")
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)
        self.assertIn(b"suppressed: 100 bytes in 1 objects", r.stderr)

    def test_gate_writes_suppressions(self):
        """What it writes covers what it found; what nobody needs is named."""
        path = os.path.join(self.dir, "supp")
        gate = ["gate", "-o", f"{self.dir}/%e.%p"]
        program = [seeptest.victim("leak/leaks"), "indirect"]
        r = seeptest.seep(*gate, "--gen-suppressions", path, "--", *program)
        self.assertEqual(r.returncode, 23, r.stderr)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        with open(path, "a") as f:
            f.write("leak:nobody_needs_this\n")
        r = seeptest.seep(*gate, "--suppressions", path, "--", *program)
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)
        self.assertEqual([l for l in r.stderr.decode().splitlines() if "not used" in l],
                         ["seep: suppression not used: nobody_needs_this"])
        r = seeptest.seep(*gate, "--suppressions", path, "--", program[0], "direct")
        self.assertEqual(r.returncode, 23, r.stderr)
        r = seeptest.seep(*gate, "--gen-suppressions", "/nowhere/x", "--", *program)
        self.assertEqual(r.returncode, 23, r.stderr)
        self.assertIn(b"cannot write suppressions to /nowhere/x", r.stderr)

    def test_table_out_of_reach(self):
        """A process of a gate that sits in a sandbox keeps its status, and reports itself."""
        r = seeptest.run([seeptest.victim("leak/leaks"), "direct"],
                         options="mode=exact:leak=exit:run=/proc/nowhere/table")
        self.assertEqual((r.returncode, self.verdict(r)),
                         (0, "seep: LEAK objects=1 bytes=100 sites=1"), r.stderr)

    def test_gate_of_fatal_check(self):
        """A program that ends at its own check has been checked."""
        r = seeptest.seep("gate", "-o", f"{self.dir}/%e.%p", "--",
                          seeptest.victim("leak/special"), "fatal-check")
        self.assertEqual((r.returncode, self.verdict(r)),
                         (23, "seep: LEAK objects=1 bytes=60 sites=1"), r.stderr)

    def test_exec_beside_a_check(self):
        r = seeptest.run([seeptest.victim("leak/stopped_exec"), "300"], options="mode=exact")
        if r.returncode == 77:
            self.skipTest("no seccomp")
        self.assertEqual(r.returncode, 0, r.stderr[-2000:])

    @unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
    def test_in_valgrind(self):
        """Whose memory is in the list of mappings, and goes while it is looked at."""
        r = self.check(["valgrind", "-q", "--tool=none", seeptest.victim("leak/leaks"),
                        "direct"])
        self.assertEqual((r.returncode, self.verdict(r)),
                         (24, "seep: INCOMPLETE: valgrind runs the program"))
        with open(f"{self.dir}/supp", "w") as f:  # newer launchers lose what they build
            f.write("leak:valgrind.bin\n")
        r = seeptest.seep("gate", "-q", "-o", f"{self.dir}/%e.%p", "--suppressions",
                          f"{self.dir}/supp", "--", "sh", "-c",
                          "valgrind -q --error-exitcode=9 /bin/echo text; echo $?")
        self.assertEqual((r.returncode, r.stdout, self.verdict(r).endswith("runs the program")),
                         (24, b"text\n0\n", True))

    def test_reachable(self):
        """What is held is listed with the way to it, and is no leak."""
        r = self.check([seeptest.victim("leak/held")])
        self.assertEqual(self.report()["reachable"], [])
        os.unlink(self.one("*.report.json"))
        r = seeptest.seep("gate", "--reachable", "-o", f"{self.dir}/x", "--",
                          seeptest.victim("leak/held"))
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)
        found = {e["stack"][0]["function"]: e for e in self.report()["reachable"]}
        value, last = found["make_value"], found["make_last"]
        self.assertEqual((value["objects"], value["bytes"]), (1, 5000))
        self.assertEqual(value["root"], "cache_table+0x40 (held)")
        self.assertEqual([(s["offset"], s["bytes"], s["from"]["function"])
                          for s in value["chain"]], [(40, 48, "make_entry")])
        self.assertEqual((last["root"], last["chain_length"]), ("long_list+0x0 (held)", 21))
        self.assertEqual([s["offset"] for s in last["chain"]], [0, 0, 0, 0, 0, 40])
        self.assertIn("seep:     held by cache_table+0x40 (held)", r.stderr.decode())
        r = seeptest.run([seeptest.victim("leak/held")],
                         options="mode=exact:leak=exit:reachable=on")
        self.assertIn("seep:     -> +40 of 48 bytes from make_entry", r.stderr.decode())
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)

    def test_growing(self):
        r = seeptest.run([seeptest.victim("leak/held"), "grow"],
                         options=f"mode=exact:leak=exit:reachable=on:out={self.dir}/x")
        self.assertEqual(r.returncode, 0, r.stderr)
        text = r.stderr.decode()
        self.assertEqual(text.count("seep: growing by 70000 bytes in the last 3 checks:"), 1)
        found = {e["stack"][0]["function"]: e for e in self.report()["reachable"]}
        # The check at the end found no more than the one before.
        self.assertEqual([(e["growing"], e["rises"], e["grown_bytes"]) for e in
                          (found["make_last"], found["make_value"])], [(False, 0, 0)] * 2)

    def test_friend(self):
        """seep.h, with Seep and without."""
        program = seeptest.victim("leak/friend")
        self.assertEqual(subprocess.run([program], env=seeptest.clean_env()).returncode, 42)
        r = seeptest.run([program], options="mode=exact")
        self.assertEqual(r.returncode, 0, r.stderr)

    def test_friend_compiles(self):
        path = os.path.join(seeptest.SOURCE, "preload/api/seep.h")
        for cc in (["gcc", "-xc", "-std=c99"], ["g++", "-xc++", "-std=c++98"],
                   ["clang", "-xc", "-std=c11"]):
            r = subprocess.run([*cc, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-include",
                                path, "/dev/null"], capture_output=True)
            self.assertEqual(r.returncode, 0, r.stderr)

    def test_exitcode(self):
        r = seeptest.run([seeptest.victim("leak/leaks"), "direct"],
                         options="mode=exact:leak=exit:exitcode=77")
        self.assertEqual(r.returncode, 77)
        # 0: the report is wanted, and the status stays.
        r = seeptest.run(["perl", "-e", "@a = (1 .. 3); exit 6"],
                         options="mode=exact:leak=exit:exitcode=0")
        self.assertRegex(self.verdict(r), "^seep: LEAK objects=")
        self.assertEqual(r.returncode, 6)

    def test_sampled_mode_finds_leaks_without_stacks(self):
        r = seeptest.run([seeptest.victim("leak/leaks"), "thousand"],
                         options="mode=sampled:sample=1G:leak=exit")
        self.assertEqual(r.returncode, 23)
        self.assertIn(b"[stack not sampled]", r.stderr)
        self.assertIn("seep: LEAK objects=1000 ", self.verdict(r))


def add_leak(name, objects, size, kinds):
    def test(self):
        r = self.check([seeptest.victim("leak/leaks"), name])
        self.assertEqual(r.returncode, 23, r.stderr)
        j = self.report()
        self.assertEqual((j["verdict"], j["objects"], j["bytes"]),
                         ("leak", objects, size), r.stderr.decode())
        found = {}
        for leak in j["leaks"]:
            found[leak["kind"]] = found.get(leak["kind"], 0) + leak["objects"]
            names = [f["function"] for f in leak["stack"]]
            self.assertNotIn("[truncated]", names)
            self.assertTrue("main" in names or name == "thread", names)
        self.assertEqual(found, kinds)
        self.assertEqual(self.verdict(r), f"seep: LEAK objects={objects} bytes={size} "
                                          f"sites={len(j['leaks'])}")
    setattr(Leaks, f"test_{name}", test)


def add_held(name):
    def test(self):
        r = self.check([seeptest.victim("leak/leaks"), name])
        self.assertEqual((r.returncode, self.verdict(r)), (0, "seep: clean"), r.stderr)
        self.assertEqual(self.report()["leaks"], [])
    setattr(Leaks, f"test_{name}", test)


for leak_name, (o, b, k) in LEAKS.items():
    add_leak(leak_name, o, b, k)
for held_name in HELD:
    add_held(held_name)

seeptest.main()
