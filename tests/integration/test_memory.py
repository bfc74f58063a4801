# SPDX-License-Identifier: Apache-2.0
"""What the heap keeps: purging, caches of threads, fragmentation, faults, huge pages, and
the numbers that it tells about itself. memory.c builds the heaps.

With the environment variable SEEP_FULL the sizes of the budgets are used (1 GiB, 20 000
threads, 1000 idle ones); else smaller ones of the same shape.
"""
import os
import re
import resource
import sys
import unittest
from xml.etree import ElementTree
import seeptest

MEMORY = seeptest.victim("integration/memory")
NO_VDSO = seeptest.victim("integration/no_vdso")
FULL = bool(os.environ.get("SEEP_FULL"))
MIB = 1024  # in KiB, as all sizes here


def figures(*argv, options=None, **kw):
    """The figures of one case, and its whole result."""
    r = seeptest.run([MEMORY, *map(str, argv)], options=options, **kw)
    if r.returncode != 0:
        raise AssertionError(f"{argv}: {r.returncode}\n{r.stdout}\n{r.stderr}")
    pairs = re.findall(r"^(\w+) ([\d.]+)$", r.stdout.decode(), re.M)
    return {name: float(value) for name, value in pairs}, r


def show(name, value):
    """For the log, which is read when a figure is asked for."""
    print(f"memory {name} {value:.0f}" if value > 20 else f"memory {name} {value:.3f}",
          file=sys.stderr)


class Purging(seeptest.TestCase):
    def decays(self, options):
        # The victim looks until RSS is below the goal, or far too long.
        f, _ = figures("decay", 1024 if FULL else 256, 100 * MIB, options=options)
        self.assertGreater(f["full_kib"], 250 * MIB)
        self.assertLess(f["freed_kib"], 100 * MIB)
        show("decay_seconds", f["seconds"])

    def test_idle_memory_goes_in_a_program_that_does_little(self):
        self.decays(None)

    def test_without_samples(self):
        self.decays("mode=off")

    def test_in_a_program_that_needs_nothing_but_its_cache(self):
        # The last one: also where next to nothing is sampled.
        for options in (None, "mode=exact", "sample=16G"):
            f, _ = figures("decay_in_cache", 1024 if FULL else 256, options=options)
            self.assertGreater(f["full_kib"], 250 * MIB, options)
            self.assertLess(f["freed_kib"], 100 * MIB, options)
            show(f"decay_in_cache_seconds {options}", f["seconds"])

    def test_trim_gives_back_at_once(self):
        f, _ = figures("trim", 1024 if FULL else 256)
        self.assertGreater(f["full_kib"], 250 * MIB)
        self.assertEqual(f["trimmed"], 1)
        self.assertLess(f["freed_kib"], 40 * MIB)
        show("trimmed_kib", f["freed_kib"])

    def test_trim_gives_back_what_the_profiler_had(self):
        # 8 bytes of each object: 32 MiB, or 128.
        f, _ = figures("trim_small", 1024 if FULL else 256, options="mode=exact")
        self.assertLess(f["freed_kib"], (40 if FULL else 20) * MIB)
        show("trimmed_exact_kib", f["freed_kib"])

    def test_no_storm_of_faults(self):
        # All of the touched pages would be faults if every release were given back. Ten
        # times a second a part of what lay idle is: a quarter of 96 MiB at most.
        rounds = 20000 if FULL else 3000
        for option in ("hugepage=auto", "hugepage=off"):
            f, _ = figures("faults", rounds, options=option)
            ticks = f["seconds"] * 10
            self.assertLess(f["faults"], f["pages"] / 20 + ticks * 6144, option)
            self.assertLess(f["freed_kib"], 160 * MIB, option)
            show(option + " faults", f["faults"])


class Threads(seeptest.TestCase):
    def test_short_threads_leave_nothing(self):
        f, _ = figures("threads", 20000 if FULL else 2000)
        self.assertLess(f["peak_kib"], 150 * MIB if FULL else 16 * MIB)
        show("threads_peak_kib", f["peak_kib"])

    def test_idle_threads_hold_little(self):
        f, _ = figures("idle", 1000 if FULL else 200)
        self.assertLess(f["bytes_a_thread"], 64 * 1024)
        show("idle_bytes_a_thread", f["bytes_a_thread"])

    def test_idle_threads_that_used_every_size(self):
        # Objects of each; before they were bounded 1 MiB was left of one, and 3.6 of eight.
        for count, limit in (1, 48), (3, 64), (8, 80):
            f, _ = figures("idle", 1000, count)
            self.assertLess(f["bytes_a_thread"], limit * 1024)
            show(f"idle_bytes_a_thread_of_{count}", f["bytes_a_thread"])

    def test_idle_threads_that_used_random_sizes(self):
        # A thousand objects of up to 4 KiB, 64 at a time: it was 0.5 MiB.
        f, _ = figures("idle", 1000, 0, 4096)
        self.assertLess(f["bytes_a_thread"], 64 * 1024)
        show("idle_bytes_a_thread_of_random", f["bytes_a_thread"])


class Start(seeptest.TestCase):
    def least(self, **kw):
        return min(figures("start", **kw)[0]["rss_kib"] for _ in range(5))

    def test_memory(self):
        more = self.least() - self.least(preload=False)
        self.assertLess(more, 1 * MIB)
        show("start_more_kib", more)

    def test_address_space_under_a_limit(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        space = {preload: figures("start", preload=preload, preexec_fn=limit)[0]["space_kib"]
                 for preload in (True, False)}
        self.assertLessEqual(space[True] - space[False], 64 * MIB)
        show("start_space_kib", space[True] - space[False])

    @unittest.skipUnless(seeptest.may_trace(), "no ptrace")
    def test_address_space_in_an_emulator(self):
        r = seeptest.run([NO_VDSO, MEMORY, "start"])
        self.assertEqual(r.returncode, 0, r.stderr)
        space = int(re.search(rb"^space_kib (\d+)$", r.stdout, re.M)[1])
        self.assertLess(space, 2048 * MIB)


class Fragmentation(seeptest.TestCase):
    def test_every_second_object(self):
        # Half of it is live and as much again in another class: 1.5 and its overhead.
        f, _ = figures("fragment", 1024 if FULL else 64)
        for kind in ("small", "medium", "large"):
            show(f"growth_{kind}", f[f"growth_{kind}"])
            self.assertLess(f[f"growth_{kind}"], 1.6, kind)
            self.assertGreater(f[f"growth_{kind}"], 1, kind)
            self.assertLess(f[f"left_{kind}_kib"], 64 * MIB, kind)


# MiB of heap, whose last part is asked about: smaller ones ask for huge pages only while
# these are cheap.
LARGE = 700
THP = "/sys/kernel/mm/transparent_hugepage/enabled"


class HugePages(seeptest.TestCase):
    def advised(self, options, mib, case="huge"):
        return figures(case, mib, options=options)[0]["advised"]

    @unittest.skipUnless(os.path.isdir("/sys/kernel/mm/transparent_hugepage"),
                         "the kernel has no transparent huge pages")
    def test_option(self):
        self.assertEqual(self.advised("hugepage=auto", LARGE), 1)
        self.assertEqual(self.advised("hugepage=auto", 4), 0)
        self.assertEqual(self.advised("hugepage=off", 64), 0)
        self.assertEqual(self.advised("hugepage=on", 6), 1)

    @unittest.skipUnless(os.path.exists(THP) and "[always]" not in open(THP).read(),
                         "there are no huge pages, or the kernel does not wait to be asked")
    def test_large_objects(self):
        """A program that hardly touches its large objects must not pay for all of them."""
        self.assertEqual(self.advised("hugepage=auto", LARGE, "huge_filled"), 1)
        self.assertEqual(self.advised("hugepage=auto", LARGE, "huge_sparse"), 0)
        self.assertEqual(self.advised("hugepage=on", 256, "huge_sparse"), 1)


class Tables(seeptest.TestCase):
    """Call frame information is given back only where it is a file's."""
    OPTIONS = "mode=sampled:sample=64"

    def test_of_a_file(self):
        f, _ = figures("file_tables", options="mode=exact")
        self.assertGreater(f["dropped"], 0)
        show("tables_resident_kib", f["resident_kib"])
        # How many rows there were to compile differs from run to run.
        self.assertGreater(max(figures("file_tables", options=f"{self.OPTIONS}:seed={seed}")[0]
                               ["dropped"] for seed in range(1, 13)), 0)

    def test_not_of_a_file(self):
        f, _ = figures("own_tables", options=self.OPTIONS)
        self.assertGreater(f["bytes"], 50000)
        self.assertEqual(f["intact"], 1)


class Cleared(seeptest.TestCase):
    def test_what_hardly_holds_anything_is_not_filled(self):
        for options in (None, "mode=exact"):
            f, _ = figures("tables", 512, options=options)
            self.assertLess(f["rss_kib"], 32 * MIB)


class Numbers(seeptest.TestCase):
    """1000 objects of 1000 bytes (slots of 1024) and 10 of 1 MiB come and go."""

    def near(self, got, want, what):
        self.assertLess(abs(got - want), want * 0.03 + 20000, f"{what}: {got}, not {want}")

    def test_all_agree(self):
        f, r = figures("numbers")
        more = {k: f["full_" + k] - f["before_" + k] for k in ("used", "large", "nlarge")}
        self.near(more["used"], 1000 * 1024, "uordblks")
        self.assertEqual((more["large"], more["nlarge"]), (10 << 20, 10))
        for k in ("used", "large", "nlarge"):
            self.assertLessEqual(abs(f["after_" + k] - f["before_" + k]), 20000, k)
        for when in ("before", "full", "after"):
            self.assertEqual(f[when + "_used"] + f[when + "_free"], f[when + "_arena"], when)
        live = [int(v) for v in
                re.findall(r'<total type="live" size="(\d+)"/>', r.stdout.decode())]
        self.near(live[1] - live[0], (10 << 20) + 1000 * 1024, "malloc_info")
        self.near(live[1] - live[2], (10 << 20) + 1000 * 1024, "malloc_info after")
        for text in re.findall(rb"<malloc .*?</malloc>", r.stdout, re.S):
            size = {(e.tag, e.get("type")): int(e.get("size"))
                    for e in ElementTree.fromstring(text).iter() if e.get("size")}
            self.assertGreaterEqual(size["system", "max"], size["system", "current"])
            self.assertGreaterEqual(size["system", "current"],
                                    size["inuse", "small"] + size["inuse", "large"])
        stats = r.stderr.decode()
        used = int(re.search(r"in use (\d+) KiB", stats).group(1))
        self.near(used * 1024, live[1], "malloc_stats")
        row = re.search(r"^seep: +\d+ +1024 +\d+ +\d+ +(\d+) ", stats, re.M)
        self.near(int(row.group(1)), 1000, "live objects of the class")


seeptest.main()
