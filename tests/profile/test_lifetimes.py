# SPDX-License-Identifier: Apache-2.0
"""lifetimes=on and labels=: what is said of objects whose lives are known."""
import glob
import json
import os
import signal
import subprocess
import time
import pbgz
import seeptest

LIVES = seeptest.victim("profile/lives")
WORK = seeptest.victim("profile/work")
OBJECTS, SPACE, SLACK, LIFETIME = range(4)


class Lifetimes(seeptest.TestCase):
    def make(self, options, *args, exe=LIVES, name="x"):
        r = seeptest.run([exe, *args], options=f"{options}:out={self.dir}/{name}")
        self.assertEqual((r.returncode, r.stderr), (0, b""))

    def of(self, site, kind="lifetimes", name="x.*"):
        """The samples whose stack has the function."""
        return [s for s in pbgz.read(self.one(f"{name}.{kind}.pb.gz")) if site in s["stack"]]

    def total(self, samples, value, **labels):
        return sum(s["values"][value] for s in samples
                   if all(s.get(k) == v for k, v in labels.items()))

    def test_ends(self):
        self.make("mode=exact:lifetimes=on")
        churn, handed = self.of("churn_site"), self.of("handed_site")
        self.assertEqual(self.total(churn, OBJECTS, end="freed", freed_by="same"), 1010)
        self.assertEqual(self.total(churn, OBJECTS), 1010)
        self.assertEqual(self.total(churn, SPACE), 101000)
        self.assertEqual(self.total(churn, SLACK), 12 * 1010) # a slot of 112 bytes
        self.assertEqual(self.total(handed, OBJECTS, freed_by="other"), 40)
        self.assertEqual(self.total(handed, OBJECTS), 40)
        held = self.of("held_site")
        self.assertEqual(self.total(held, OBJECTS, end="live"), 50)
        self.assertEqual(self.total(held, SPACE), 50000)
        for s in churn + handed:
            self.assertNotIn("age", s)
        for s in held:
            self.assertNotIn("lifetime", s)
            self.assertGreater(s["age"], 15 << 20) # 20 ms passed since

    def test_ranges(self):
        self.make("mode=exact:lifetimes=on")
        lasting = self.of("long_site")
        self.assertEqual(self.total(lasting, OBJECTS, freed_by="same"), 4)
        self.assertGreater(self.total(lasting, SLACK), 4096)
        for s in lasting:
            mean = s["values"][LIFETIME] / s["values"][OBJECTS]
            self.assertGreaterEqual(mean, 20e6)
            self.assertLessEqual(s["lifetime"], mean)
            self.assertGreaterEqual(s["lifetime"] * 1.25, mean)
        short = self.of("churn_site")
        for s in short:
            mean = s["values"][LIFETIME] / s["values"][OBJECTS]
            self.assertLessEqual(s["lifetime"], mean)
            self.assertGreaterEqual(s["lifetime"] * 1.34 + 1, mean)

    def test_allocations_are_the_freed_and_the_live(self):
        self.make("mode=exact:lifetimes=on", exe=WORK)
        for site in ("exported_churn", "leaf_small", "big_peak", "recurse"):
            self.assertEqual(self.total(self.of(site), OBJECTS),
                             self.total(self.of(site, "allocs"), 0), site)
            self.assertEqual(self.total(self.of(site), SPACE, end="live"),
                             self.total(self.of(site, "heap"), 3), site)

    def test_sampled(self):
        """500 MB of churn, one sample in 64 KiB: 7 standard deviations are 8 %."""
        self.make("mode=sampled:sample=64K:seed=3:lifetimes=on", "1000", exe=WORK)
        churn = self.of("exported_churn")
        total = 500e6
        self.assertLess(abs(self.total(churn, SPACE) - total), 7 * (total * 65536) ** .5)
        self.assertEqual(self.total(churn, SPACE),
                         self.total(self.of("exported_churn", "allocs"), 1))

    def test_fork(self):
        self.make("mode=exact:lifetimes=on", "fork")
        for path in glob.glob(f"{self.dir}/*.lifetimes.pb.gz"):
            one = [s for s in pbgz.read(path) if "churn_site" in s["stack"]]
            two = [s for s in pbgz.read(path.replace("lifetimes", "allocs"))
                   if "churn_site" in s["stack"]]
            self.assertEqual(self.total(one, OBJECTS), self.total(two, 0), path)
        self.assertEqual(len(glob.glob(f"{self.dir}/*.lifetimes.pb.gz")), 2)

    def test_off(self):
        self.make("mode=exact")
        self.assertEqual(glob.glob(f"{self.dir}/*.lifetimes.pb.gz"), [])
        self.assertEqual([s for s in self.of("main", "heap") if len(s) > 2], [])

    def test_labels(self):
        self.make("mode=exact:lifetimes=on:labels=thread,size")
        churn = self.of("churn_site", "allocs")
        self.assertEqual(self.total(churn, 0, thread="lives"), 1000)
        self.assertEqual(self.total(churn, 0, thread="consumer-of-all"), 10)
        self.assertEqual(self.total(churn, 0, bytes=112), 1010)
        long = self.of("long_site", "peak")
        self.assertEqual(self.total(long, 0, bytes=3072), 3)
        self.assertEqual(self.total(long, 0), 4)
        self.assertEqual(self.total(self.of("churn_site"), OBJECTS,
                                    thread="consumer-of-all", bytes=112), 10)
        for s in churn:
            self.assertEqual(s["stack"][0], "churn_site")

    def test_one_label(self):
        self.make("mode=exact:labels=size")
        self.assertEqual({s["bytes"] for s in self.of("churn_site", "allocs")}, {112})
        self.assertNotIn("thread", self.of("churn_site", "allocs")[0])

    def test_leaks_are_not_split(self):
        r = seeptest.run([seeptest.victim("profile/work")],
                         options=f"mode=exact:leak=exit:reachable=on:labels=size,thread:"
                                 f"out={self.dir}/x")
        self.assertEqual(r.returncode, 0)
        self.assertNotIn(b"0xe1", r.stderr)
        self.assertNotIn(b"0xe2", r.stderr)

    def of_killed(self, path):
        """What it says but for times, by innermost frame and end."""
        sums = {}
        for s in pbgz.read(path):
            key = s["stack"][0], s["end"], s.get("freed_by")
            n, size, slack = sums.get(key, (0, 0, 0))
            sums[key] = (n + s["values"][OBJECTS], size + s["values"][SPACE],
                         slack + s["values"][SLACK])
        return sums

    def test_lives_of_the_killed(self):
        """They are what an ordinary end says, in a forked child, too."""
        for mode in ("mode=exact", "mode=sampled:sample=1:seed=5"):
            for way in ([], ["fork"]):
                name = f"{len(mode)}{len(way)}"
                self.make(f"{mode}:lifetimes=on", *way, name=name)
                options = f"{mode}:lifetimes=on:out={self.dir}/{name}k"
                r = seeptest.run([LIVES, *way, "kill"], options=options)
                self.assertEqual(r.returncode, -9)
                stores = glob.glob(f"{self.dir}/{name}k.*.store")
                self.assertEqual(len(stores), 1 + len(way))
                for store in stores:
                    r = seeptest.seep("recover", store)
                    self.assertEqual((r.returncode, r.stdout), (0, b""), r.stderr)
                    self.assertRegex(r.stderr, rb"\{heap,allocs,peak,lifetimes\}.pb.gz")
                ended, killed = ([self.of_killed(p) for p in
                                  glob.glob(f"{self.dir}/{name}{k}.*.lifetimes.pb.gz")]
                                 for k in ("", "k"))
                live = "held_site", "live", None
                self.assertIn(("handed_site", "freed", "other"), killed[0])
                self.assertIn(("grown_site", "live", None), killed[0])
                for ends in (ended, killed):
                    ends.sort(key=lambda e: e[live])
                self.assertEqual(killed, ended)

    def test_ages_of_the_killed(self):
        options = f"mode=exact:lifetimes=on:out={self.dir}/x"
        self.assertEqual(seeptest.run([LIVES, "kill"], options=options).returncode, -9)
        seeptest.seep("recover", self.one("x.*.store"))
        for s in self.of("held_site"):
            self.assertGreater(s["age"], 15 << 20)
            self.assertLess(s["age"], 1 << 40)
        for s in self.of("long_site"):
            if s["stack"][1] == "live":
                self.assertGreaterEqual(s["values"][LIFETIME] / s["values"][OBJECTS], 20e6)

    def test_ages_of_the_idle(self):
        """They go on after the last allocation, until the end that the tool saw."""
        start = time.monotonic_ns()
        p = subprocess.Popen([seeptest.TOOL, "run", "-q", "--lifetimes", "-o",
                              f"{self.dir}/x", "--", "perl", "-e",
                              '$| = 1; print "ready\\n"; <STDIN>'],
                             env=seeptest.clean_env(), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), b"ready\n")
        since = time.monotonic_ns()
        with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
            pid = int(f.read().split()[0])  # the second one is the tool's witness
        time.sleep(2)  # what is measured
        idle = time.monotonic_ns() - since
        os.kill(pid, signal.SIGKILL)
        p.communicate()
        self.assertEqual(p.returncode, 137)
        lived = time.monotonic_ns() - start
        ages = [s["values"][LIFETIME] / s["values"][OBJECTS]
                for s in pbgz.read(self.one("x.*.lifetimes.pb.gz")) if s["end"] == "live"]
        self.assertGreaterEqual(max(ages), idle)
        self.assertLess(max(ages), lived)

    def test_run_of_the_killed(self):
        r = seeptest.seep("run", "--lifetimes", "-o", f"{self.dir}/x", "--", LIVES, "kill")
        self.assertEqual(r.returncode, 137)
        path = self.one("x.*.lifetimes.pb.gz")
        self.assertIn(path.encode(), r.stderr)
        self.assertEqual(self.total(self.of("churn_site"), OBJECTS, freed_by="same"), 1010)
        self.assertEqual(self.total(self.of("handed_site"), OBJECTS, freed_by="other"), 40)

    def test_killed(self):
        """Labels are in the store."""
        r = seeptest.seep("run", "-q", "--labels", "thread,size", "-o", f"{self.dir}/x",
                          "--", "sh", "-c", '"$0"; kill -9 $$', LIVES)
        self.assertEqual(r.returncode, 137)
        found = [s for p in glob.glob(f"{self.dir}/x.*.heap.pb.gz") for s in pbgz.read(p)
                 if s.get("thread") == "sh" and s.get("bytes")]
        self.assertNotEqual(found, [])

    def test_run(self):
        r = seeptest.seep("run", "--lifetimes", "--labels=size", "-o", f"{self.dir}/x", "--",
                          LIVES)
        self.assertEqual(r.returncode, 0)
        path = self.one("x.*.lifetimes.pb.gz")
        self.assertIn(path.encode(), r.stderr)
        self.assertEqual(self.total(self.of("churn_site"), OBJECTS, bytes=112), 1010)
        with open(os.path.join(self.dir, "run.json")) as f:
            self.assertIn(path, f.read())

    def test_report(self):
        self.make("mode=exact:lifetimes=on")
        path = self.one("x.*.lifetimes.pb.gz")
        text = seeptest.seep("report", path).stdout.decode()
        time = r"\d+(\.\d)? [num]?s"
        self.assertRegex(text, rf"\n1000 objects, from:\n    1000 freed after {time} on average, "
                               rf"p50 {time}, p90 {time}, p99 {time}\n    churn: \d+ objects, ")
        self.assertRegex(text, rf"\n    50 live, 48\.8 KiB, {time} old on average, the oldest ")
        self.assertIn("\n    40 freed (40 by another thread) after ", text)
        self.assertIn("slack: 11.7 KiB given beyond what was asked (12.0 %)\n    #0 churn_site",
                      text)
        r = seeptest.seep("report", "--format=json", path)
        found = {f["stack"][0]["function"]: f["lifetimes"]
                 for f in json.loads(r.stdout)["reports"][0]["findings"]}
        lasting = found["long_site"]
        self.assertEqual((lasting["freed"], lasting["live"]), (4, 0))
        for key in ("mean_ns", "p50_ns", "p99_ns"):
            self.assertGreater(lasting[key], 16e6, key)
        self.assertEqual(found["held_site"]["live_bytes"], 50000)
        self.assertGreaterEqual(found["held_site"]["age_mean_ns"], 20e6)
        self.assertEqual(found["handed_site"]["freed_by_other"], 40)

    def test_pprof(self):
        """Its tags choose by lifetime."""
        self.make("mode=exact:lifetimes=on")
        path = self.one("x.*.lifetimes.pb.gz")
        env = seeptest.clean_env(HOME=self.dir, PPROF_TMPDIR=self.dir)

        def top(focus):
            r = subprocess.run(["go", "tool", "pprof", "-top", focus, path], env=env,
                               capture_output=True, timeout=seeptest.TIMEOUT)
            self.assertEqual(r.returncode, 0, r.stderr)
            return r.stdout.decode()
        self.assertRegex(top("-tagfocus=lifetime=10ms:"), r"\b4\b.*long_site")
        self.assertNotIn("held_site", top("-tagfocus=lifetime=0ns:"))
        self.assertRegex(top("-tagfocus=freed_by=other"), r"\b40\b.*handed_site")
        self.assertRegex(top("-tagfocus=end=live"), r"\b50\b.*held_site")

    def test_bad_options(self):
        for bad in ("labels=tid", "labels=thread,,size", "lifetimes=yes"):
            r = seeptest.run(["true"], options=bad)
            self.assertIn(f'seep: SEEP_OPTIONS: "{bad}" must be'.encode(), r.stderr)


seeptest.main()
