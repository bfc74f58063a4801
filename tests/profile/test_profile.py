# SPDX-License-Identifier: Apache-2.0
"""Our files as go tool pprof sees them, with the program's binary moved away."""
import lzma
import math
import os
import re
import shutil
import subprocess
import pbgz
import seeptest

NAMED = ["leaf_small", "middle_keep", "exported_churn", "recurse", "main", "_start"]


class Profile(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        self.exe = os.path.join(self.dir, "work")
        shutil.copy(seeptest.victim("profile/work"), self.exe)

    def make(self, options, name, rounds="1"):
        r = seeptest.run([self.exe, rounds], options=f"{options}:out={self.dir}/{name}")
        self.assertEqual((r.returncode, r.stderr), (0, b""))

    def pprof(self, *args):
        """go tool pprof with nothing but the profile to go by."""
        env = seeptest.clean_env(HOME=self.dir, GOFLAGS="", PPROF_TMPDIR=self.dir,
                                 GOCACHE=f"{self.dir}/cache")
        hidden = self.exe + ".away"
        os.rename(self.exe, hidden)
        try:
            r = subprocess.run(["go", "tool", "pprof", *args], env=env,
                               capture_output=True, timeout=seeptest.TIMEOUT)
        finally:
            os.rename(hidden, self.exe)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout.decode()

    def totals(self, kind, name, sample):
        """{function: (flat, cum)} in bytes or objects."""
        text = self.pprof("-top", "-nodecount=1000", "-nodefraction=0", "-unit=B",
                          f"-sample_index={sample}", self.one(f"{name}.*.{kind}.pb.gz"))
        rows = re.findall(r"^\s*(-?[\d.]+)B?\s+\S+%\s+\S+%\s+(-?[\d.]+)B?\s+\S+%\s+(.*)$", text,
                          re.M)
        return {f: (float(a), float(b)) for a, b, f in rows}

    def test_exact_heap(self):
        self.make("mode=exact", "x")
        live = self.totals("heap", "x", "inuse_space")
        self.assertEqual(live["leaf_small"], (20000, 20000))
        self.assertEqual(live["middle_keep"], (0, 20000))
        self.assertEqual(live["recurse"], (5000, 5000))
        self.assertEqual(live["main"][1], 25000)
        self.assertNotIn("exported_churn", live)
        objects = self.totals("heap", "x", "inuse_objects")
        self.assertEqual(objects["leaf_small"], (200, 200))
        allocs = self.totals("allocs", "x", "alloc_space")
        self.assertEqual(allocs["exported_churn"], (500000, 500000))
        self.assertEqual(allocs["big_peak"], (8 << 20, 8 << 20))

    def test_heap_and_allocs_are_one_work(self):
        """The same bytes but for the default type at the end, and each a sound file."""
        self.make("mode=exact", "x")
        heap, allocs = self.one("x.*.heap.pb.gz"), self.one("x.*.allocs.pb.gz")
        texts = []
        for path, kind in ((heap, "inuse_space"), (allocs, "alloc_space")):
            subprocess.run(["gzip", "-t", path], check=True)
            text = self.pprof("-raw", path)
            self.assertIn(f"{kind}/bytes[dflt]", text)
            texts.append(text.replace("[dflt]", ""))
        self.assertEqual(*texts)

    def test_one_of_two_files_cannot_be_written(self):
        r = seeptest.run(f"ln -s /nowhere {self.dir}/x.$$.allocs.pb.gz; "
                         f"LD_PRELOAD={seeptest.LIB} SEEP_OPTIONS=mode=exact:out={self.dir}/x "
                         f"exec {self.exe} 1", preload=False)
        self.assertEqual(r.returncode, 0)
        self.assertIn(b"a symbolic link is in the way", r.stderr)
        self.assertEqual(self.totals("heap", "x", "inuse_space")["leaf_small"], (20000, 20000))
        link = [f for f in os.listdir(self.dir) if f.endswith(".allocs.pb.gz")]
        self.assertEqual(os.readlink(os.path.join(self.dir, link[0])), "/nowhere")

    def test_peak(self):
        self.make("mode=exact", "x")
        peak = self.totals("peak", "x", "peak_space")
        self.assertEqual(peak["big_peak"], (8 << 20, 8 << 20))
        self.assertEqual(peak["leaf_small"], (20000, 20000))

    def test_peak_is_the_true_one(self):
        """Sites add up to the highest total, however slowly it was reached."""
        sql = ("create table t(a integer primary key, b); with recursive n(i) as (select 1 "
               "union all select i+1 from n where i<20000) insert into t select i, 'x'||i "
               "from n; select count(distinct b) from t;")
        r = seeptest.run(["sqlite3", ":memory:", sql],
                         options=f"mode=exact:out={self.dir}/x")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        path = self.one("x.*.peak.pb.gz")
        said = re.search(r"peak (\d+) bytes", " ".join(pbgz.comments(path)))
        self.assertGreater(int(said[1]), 500000)
        self.assertEqual(sum(s["values"][1] for s in pbgz.read(path)), int(said[1]))

    def test_frames_are_named(self):
        self.make("mode=exact", "x")
        raw = self.pprof("-raw", self.one("x.*.heap.pb.gz"))
        self.assertIn("inuse_space/bytes[dflt]", raw)
        for name in NAMED:
            self.assertRegex(raw, rf"\b{name}\b")
        stacks = self.pprof("-traces", self.one("x.*.heap.pb.gz"))
        self.assertEqual(stacks.count("recurse"), 31)
        self.assertNotIn("[truncated]", stacks)
        for report in ("-tree", "-peek=leaf_small"):
            text = self.pprof(report, self.one("x.*.heap.pb.gz"))
            self.assertIn("middle_keep", text)

    def test_every_symbol_of_the_program_is_found(self):
        self.make("mode=exact", "x")
        raw = self.pprof("-raw", self.one("x.*.allocs.pb.gz"))
        locations = raw.split("Locations\n")[1].split("Mappings\n")[0]
        mappings = raw.split("Mappings\n")[1].splitlines()
        first = mappings[0].split(":")[0].strip()
        self.assertIn("/work", mappings[0])
        for line in locations.splitlines():
            parts = line.split()
            if len(parts) > 2 and parts[2] == "M=" + first:
                self.assertGreater(len(parts), 3, line)

    def pack_symbols(self):
        """Strips the program; .symtab goes to .gnu_debugdata, as distributions do it."""
        symbols, packed = self.exe + ".symbols", self.exe + ".xz"
        subprocess.run(["objcopy", "--only-keep-debug", self.exe, symbols], check=True)
        with open(symbols, "rb") as f:
            data = lzma.compress(f.read())
        with open(packed, "wb") as f:
            f.write(data)
        subprocess.run(["objcopy", "--strip-all", self.exe], check=True)
        subprocess.run(["objcopy", "--add-section", f".gnu_debugdata={packed}", self.exe],
                       check=True)
        return data

    def test_packed_symbols(self):
        """Without the tool, whose libdw would find them afterwards."""
        data = self.pack_symbols()
        self.make("mode=exact", "x")
        raw = self.pprof("-raw", self.one("x.*.heap.pb.gz"))
        for name in NAMED:
            self.assertRegex(raw, rf"\b{name}\b")
        # damaged: no names, no harm
        with open(self.exe, "rb") as f:
            program = bytearray(f.read())
        at = program.index(data)
        for i in range(at + 40, at + len(data) - 40, 7):
            program[i] ^= 0x55
        with open(self.exe, "wb") as f:
            f.write(program)
        self.make("mode=exact", "y")
        raw = self.pprof("-raw", self.one("y.*.heap.pb.gz"))
        self.assertNotRegex(raw, r"\bleaf_small\b")

    def test_two_runs_cancel(self):
        self.make("mode=exact", "a")
        self.make("mode=exact", "b")
        for kind, sample in (("heap", "inuse_space"), ("allocs", "alloc_space")):
            text = self.pprof("-top", f"-sample_index={sample}",
                              "-diff_base", self.one(f"a.*.{kind}.pb.gz"),
                              self.one(f"b.*.{kind}.pb.gz"))
            self.assertRegex(text, r"accounting for 0, 0% of|of 0 total|0B? total", text)
            rows = [l for l in text.splitlines() if re.match(r"^\s+-?[1-9]", l)]
            self.assertEqual(rows, [])

    def test_sampled_totals(self):
        """1000 rounds allocate 500 MB; one sample in 64 KiB; seven standard deviations."""
        self.make("mode=sampled:sample=64K:seed=7", "s", rounds="1000")
        allocs = self.totals("allocs", "s", "alloc_space")
        total = 1000 * 500 * 1000
        sigma = math.sqrt(total * 65536)
        self.assertLess(abs(allocs["exported_churn"][0] - total), 7 * sigma)
        self.make("mode=sampled:sample=64K:seed=7", "again", rounds="1000")
        self.assertEqual(self.totals("allocs", "again", "alloc_space"), allocs)

    def test_truncated_stacks_say_so(self):
        self.make("mode=exact:stack=10", "x")
        text = self.pprof("-traces", self.one("x.*.heap.pb.gz"))
        self.assertIn("[truncated]", text)

    def test_comments(self):
        self.make("mode=exact", "x")
        text = self.pprof("-comments", self.one("x.*.heap.pb.gz"))
        self.assertIn("mode: exact", text)
        self.assertIn("command: " + self.exe, text)

    def test_escape_and_threads(self):
        self.make("mode=exact:escape=bound:threads=on", "x")
        path = self.one("x.*.escape.pb.gz")
        none = self.pprof("-top", "-tagfocus=escape=none", "-sample_index=objects", path)
        self.assertRegex(none, r"\b500\b.*exported_churn")
        self.assertNotIn("leaf_small", none)
        live = self.pprof("-top", "-tagfocus=confidence=live", "-sample_index=objects", path)
        self.assertRegex(live, r"\b200\b.*leaf_small")
        threads = self.pprof("-top", self.one("x.*.threads.pb.gz"))
        self.assertIn("Type: threads", threads)
        created = self.pprof("-top", self.one("x.*.threadcreate.pb.gz"))
        self.assertIn("Type: threadcreate", created)


seeptest.main()
