# SPDX-License-Identifier: Apache-2.0
"""Suppressions by what only debug information tells: inlined functions, source files, lines.
The verdict, the reports, the profiles and what is said of them agree."""
import json
import os
import shutil
import subprocess
import time
import profilepb
import seeptest
from seeptest import seep

SOURCE = os.path.join(seeptest.SOURCE, "tests/profile/lines.cc")
VICTIM = seeptest.victim("profile/lines")
CLEAN = "seep: clean"
ALL = "seep: LEAK objects=5 bytes=8520 sites=5"
BUT_INNERMOST = "seep: LEAK objects=3 bytes=465 sites=3"
BUT_ORDER = "seep: LEAK objects=4 bytes=520 sites=4"


def line_of(word):
    with open(SOURCE) as f:
        return next(i for i, l in enumerate(f, 1) if f"/* {word} */" in l)


def block(*lines, kinds="all", name="a block"):
    text = "\n".join(lines)
    return f"{{\n{name}\nMemcheck:Leak\nmatch-leak-kinds: {kinds}\n{text}\n}}\n"


class Suppressed(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        self.supp = os.path.join(self.dir, "supp")

    def gate(self, text, *options, exe=VICTIM):
        """The last line; all that was written agrees with it."""
        with open(self.supp, "w") as f:
            f.write(text)
        shutil.rmtree(os.path.join(self.dir, "seep.out"), ignore_errors=True)
        r = seep("gate", "--suppressions", self.supp, *options, "--", exe, cwd=self.dir)
        self.text = r.stderr.decode()
        last = self.text.splitlines()[-1]
        with open(self.one("seep.out/lines.*.report.json")) as f:
            self.report = report = json.load(f)
        left, gone = report["leaks"], report["suppressed"]
        self.assertEqual(r.returncode, 23 if left else 0, self.text)
        self.assertEqual(last, "seep: LEAK objects=%d bytes=%d sites=%d" % (
            sum(l["objects"] for l in left), sum(l["bytes"] for l in left), len(left))
            if left else CLEAN)
        self.assertEqual(report["verdict"], "leak" if left else "clean")
        self.assertEqual((report["objects"], report["bytes"], report["sites"]), (
            sum(l["objects"] for l in left), sum(l["bytes"] for l in left), len(left)))
        self.assertEqual((report["suppressed_objects"], report["suppressed_bytes"]), (
            sum(l["objects"] for l in gone), sum(l["bytes"] for l in gone)))
        self.assertEqual(report["bytes"] + report["suppressed_bytes"], 8520)
        self.assertEqual(sum(s["objects"] for s in report["suppressions"]), len(gone))
        profile = profilepb.Profile(self.one("seep.out/lines.*.leak.pb.gz"))
        self.assertEqual(sorted(v for v, _ in profile.stacks("leaked_space")),
                         sorted(l["bytes"] for l in left))
        with open(os.path.join(self.dir, "seep.out/run.json")) as f:
            self.assertEqual(json.load(f)["verdict"], "leak" if left else "clean")
        return last

    def test_patterns(self):
        for text, last in (("innermost", BUT_INNERMOST), ("^innermost$", BUT_INNERMOST),
                           ("Shelf<long>::take", BUT_ORDER), ("shop::Shelf::take", BUT_ORDER),
                           ("lines.cc", CLEAN), ("/profile/lines.cc$", CLEAN),
                           ("^lines.cc", ALL), ("outermost", ALL), ("malloc", ALL)):
            self.assertEqual(self.gate(f"leak:{text}\n"), last, text)
            unused = f"seep: suppression not used: {text}" in self.text.splitlines()
            self.assertEqual(unused, last == ALL, self.text)

    def test_blocks(self):
        inner, quiet = line_of("at innermost"), line_of("at quiet")
        for text, last in (
                (block("fun:malloc", "fun:innermost"), BUT_INNERMOST),
                (block("fun:innermost", "fun:*take*", "fun:_ZN4shop5orderEm"), BUT_ORDER),
                (block("fun:innermost", "fun:_ZN4shop5orderEm"), ALL),
                (block("...", "fun:*take*", "...", "fun:main"), BUT_ORDER),
                (block(f"src:lines.cc:{inner}", "fun:*", "obj:*/lines"), BUT_INNERMOST),
                (block(f"src:{SOURCE}:{inner}"), BUT_INNERMOST),
                (block("src:lines.??", kinds="definite"), CLEAN),
                (block("src:lines.cc", kinds="possible"), ALL),
                (block(f"src:lines.cc:{quiet}"), "seep: LEAK objects=4 bytes=8220 sites=4"),
                (block(f"src:lines.c:{quiet}"), ALL)):
            self.assertEqual(self.gate(text), last, text)
            self.assertEqual("not used: a block" in self.text, last == ALL, self.text)

    def test_what_the_library_left(self):
        """Both have their part, and no debug information is no error."""
        both = "leak:quiet\nleak:innermost\nleak:nothing\n"
        last = "seep: LEAK objects=2 bytes=165 sites=2"
        self.assertEqual(self.gate(both), last)
        self.assertEqual({s["name"]: s["objects"] for s in self.report["suppressions"]},
                         {"quiet": 1, "innermost": 2, "nothing": 0})
        self.assertEqual(self.gate(both, "--no-symbolize"), last)
        self.assertNotIn("lines.cc", self.text)
        bare = os.path.join(self.dir, "lines")
        subprocess.run(["strip", "--strip-debug", VICTIM, "-o", bare], check=True)
        self.assertEqual(self.gate(both, exe=bare),
                         "seep: LEAK objects=4 bytes=8220 sites=4")

    def test_debug_information_that_never_comes(self):
        """It is said that nothing was looked up, and by what the verdict stands."""
        exe, debug = os.path.join(self.dir, "lines"), os.path.join(self.dir, "lines.debug")
        subprocess.run(["objcopy", "--only-keep-debug", VICTIM, debug], check=True)
        subprocess.run(["objcopy", "--strip-debug", f"--add-gnu-debuglink={debug}", VICTIM, exe],
                       check=True)
        os.truncate(debug, 1 << 37)  # its checksum is read for minutes
        self.assertEqual(self.gate("leak:innermost\nleak:quiet\n", exe=exe),
                         "seep: LEAK objects=4 bytes=8220 sites=4")
        self.assertIn("debug information could not be read in time", self.text)

    def test_with_the_other_options(self):
        """What is suppressed is neither saved nor generated again."""
        saved, made = os.path.join(self.dir, "saved"), os.path.join(self.dir, "made")
        self.gate("leak:innermost\n", "--save", saved, "--gen-suppressions", made)
        with open(saved) as f:
            self.assertEqual(len(json.load(f)["leaks"]), 3)
        with open(made) as f:
            made = f.read()
        self.assertEqual(made.count("Memcheck:Leak"), 3)
        self.assertEqual(self.gate(made + "leak:innermost\n"), CLEAN)
        r = seep("gate", "--since", saved, "--", VICTIM, cwd=self.dir)
        self.assertEqual(r.stderr.decode().splitlines()[-1],
                         "seep: LEAK objects=2 bytes=8055 sites=2")

    def test_a_process_that_runs(self):
        with open(self.supp, "w") as f:
            f.write("leak:innermost\n" + block("src:lines.cc:%d" % line_of("at quiet")))
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                 SEEP_OPTIONS=f"mode=exact:suppressions={self.supp}")
        with subprocess.Popen([VICTIM, "wait"], env=env, stdin=subprocess.PIPE) as p:
            end = time.monotonic() + seeptest.TIMEOUT
            while time.monotonic() < end:  # until it waits
                r = seep("check", "--stop", "--json", self.supp, str(p.pid), cwd=self.dir)
                if b"suppressed: 8355 bytes in 3 objects" in r.stderr:
                    break
            self.assertEqual(r.returncode, 23, r.stderr)
            self.assertEqual(r.stderr.decode().splitlines()[-1],
                             "seep: LEAK objects=2 bytes=165 sites=2")
            with open(self.supp) as f:
                self.assertEqual(len(json.load(f)["leaks"]), 2)
            out = os.path.join(self.dir, "x.pb.gz")
            r = seep("leak", "--stop", "-o", out, str(p.pid), cwd=self.dir)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertEqual(sorted(v for v, _ in
                                    profilepb.Profile(out).stacks("leaked_space")), [77, 88])
            p.stdin.close()


seeptest.main()
