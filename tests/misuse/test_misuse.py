# SPDX-License-Identifier: Apache-2.0
"""Programs that do one wrong thing. Those that are found die with an exact line on stderr
and SIGABRT; a count of all is printed. What is not found is listed here by name, so that a
loss is a failure and a gain is noticed."""
import re
import signal
import sys
import seeptest

ADDRESS = r"0x[0-9a-f]+"
DOUBLE = rf"double free of {ADDRESS} \(size class \d+\)"
GONE = rf"double free of {ADDRESS} \(its pages are free\)"
INSIDE = rf"invalid free of {ADDRESS}: inside an object \(size class \d+\)"
STACK = rf"invalid free of {ADDRESS}: on the stack"
OWN = rf"invalid free of {ADDRESS}: in a program's or library's own memory"
NOTHING = rf"invalid free of {ADDRESS}: nothing is there"
NO_BLOCK = rf"invalid free of {ADDRESS}: no block of any malloc"
FOUND = {
    "double_free": rf"double free of {ADDRESS} \(size class 3\)",
    "double_free_one_between": DOUBLE,
    "double_free_larger": DOUBLE,
    "double_free_larger_one_between": DOUBLE,
    "double_free_largest_slot": DOUBLE,
    "double_free_three_between": DOUBLE,
    "double_free_many_between": rf"double free of {ADDRESS} \(size class 4\)",
    "double_free_of_flushed": rf"double free of {ADDRESS} \(size class 4\)",
    "double_free_used_between": DOUBLE,
    "double_free_of_others": rf"double free of {ADDRESS} \(size class 7\)",
    "double_free_before_flush": DOUBLE,
    "double_free_later": rf"double free of {ADDRESS} \(size class 3\)",
    "double_free_large": GONE,
    "double_free_large_later": f"{GONE}|{DOUBLE}",
    "double_free_aligned": DOUBLE,
    "double_free_thread": rf"double free of {ADDRESS} \(size class 7\)",
    "double_free_in_thread": rf"double free of {ADDRESS} \(size class 7\)",
    "double_free_two_threads": rf"double free of {ADDRESS} \(size class 7\)",
    "double_free_large_between": GONE,
    "double_free_large_thread": GONE,
    "double_free_large_part": GONE + rf"|invalid free of {ADDRESS}: no object is there",
    "double_free_ending_thread": rf"double free of {ADDRESS} \(size class 7\)",
    "double_free_after_realloc": DOUBLE,
    "double_free_at_exit": DOUBLE,
    "double_free_until_exit": DOUBLE,
    "double_free_passed_on": DOUBLE,
    "double_delete": DOUBLE,
    "interior_reused":
        rf"invalid free of {ADDRESS}: inside an object \(size class 32\)",
    "interior_small": rf"invalid free of {ADDRESS}: inside an object \(size class 32\)",
    "interior_until_exit": INSIDE,
    "interior_small_flushed": INSIDE,
    "interior_large":
        rf"invalid free of {ADDRESS}: (inside a large object|no object is there)",
    "before_block": INSIDE + "|" + DOUBLE + rf"|invalid free of {ADDRESS}: .*",
    "behind_block": GONE + rf"|invalid free of {ADDRESS}: no object is there",
    "stack_pointer": STACK,
    "stack_pointer_thread": STACK,
    "thread_local_pointer": NO_BLOCK,
    "global_pointer": OWN,
    "code_pointer": OWN,
    "constant_pointer": OWN,
    "environment_pointer": STACK,
    "unaligned_pointer": rf"invalid free of {ADDRESS}: not aligned",
    "unaligned_block": INSIDE,
    "wild_pointer": NOTHING,
    "noncanonical_pointer": NOTHING,
    "mapped_pointer": NO_BLOCK,
    "mapped_pointer_start": NO_BLOCK,
    "mapped_unreadable": NO_BLOCK,
    "break_pointer": NO_BLOCK,
    "realloc_freed": rf"realloc of freed block {ADDRESS}",
    "realloc_freed_large": rf"realloc of freed block {ADDRESS}",
    "realloc_freed_small": rf"realloc of freed block {ADDRESS} \(size class 7\)",
    "realloc_freed_small_later": rf"realloc of freed block {ADDRESS} \(size class \d+\)",
    "realloc_freed_between":
        rf"(realloc of freed block|double free of) {ADDRESS} \(size class 7\)",
    "realloc_interior": rf"invalid realloc of {ADDRESS}: inside an object \(size class 32\)",
    "usable_size_wild": rf"invalid malloc_usable_size of {ADDRESS}: nothing is there",
    "usable_size_unaligned": rf"invalid malloc_usable_size of {ADDRESS}: not aligned",
    "usable_size_interior":
        rf"invalid malloc_usable_size of {ADDRESS}: inside an object \(size class \d+\)",
    "usable_size_interior_large":
        rf"invalid malloc_usable_size of {ADDRESS}: inside a large object",
    "usable_size_freed":
        rf"malloc_usable_size of freed block {ADDRESS} \(size class 7\)",
    "usable_size_freed_large": rf"malloc_usable_size of freed block {ADDRESS}",
    "realloc_stack": rf"invalid realloc of {ADDRESS}: on the stack",
}
# In a process that has freed some thousands of objects: the block is handed out twice
# before anything looks at it, but in exact mode, which knows of every object whether it is
# free.
MISSED_LATE = ["double_free_three_between", "double_free_many_between",
               "double_free_of_flushed", "double_free_used_between",
               "double_free_of_others", "interior_reused", "realloc_freed_between"]
# Not looked for in this mode: the program goes on, and so does the allocator.
HARMLESS = ["write_after_free", "write_after_free_large", "write_behind",
            "free_as_other_size", "delete_of_array"]
PROGRAM = seeptest.victim("misuse/misuse")


def is_found(r):
    return r.returncode == -signal.SIGABRT and r.stderr.startswith(b"seep: ")


class Misuse(seeptest.TestCase):
    def test_every_case_is_known(self):
        r = seeptest.run([PROGRAM], preload=False)
        self.assertEqual(sorted(r.stdout.decode().split()),
                         sorted([*FOUND, *HARMLESS]))

    def count(self, when, late):
        """In the default mode, with no option set."""
        lost = [c for c in FOUND if not is_found(seeptest.run([PROGRAM, c, *late]))]
        print(f"misuse: {when}: found {len(FOUND) - len(lost)} of {len(FOUND)}; not found: "
              f"{' '.join(lost) or 'none'}", file=sys.stderr)
        return lost

    def test_count(self):
        self.assertEqual(self.count("among the first frees", []), [])

    def test_count_late(self):
        lost = self.count("later", ["late"])
        self.assertEqual([c for c in lost if c not in MISSED_LATE], [], "not found any more")

    def test_count_crowd(self):
        """In a thread that may keep next to nothing of larger slots."""
        lost = self.count("in a crowd", ["crowd"])
        self.assertEqual([c for c in lost if c not in MISSED_LATE], [], "not found any more")


def stacks_of(stderr):
    """The functions of each stack that follows the line, by its title."""
    found = {}
    for line in stderr.decode().splitlines()[1:]:
        title = re.fullmatch(r"seep:   (allocated|freed|misused)( \(.*\))?:", line)
        frame = re.fullmatch(r"seep:     #\d+ (\S+)\+0x[0-9a-f]+.*", line)
        if title:
            names = found.setdefault(title.group(1), [])
        elif frame:
            names.append(frame.group(1))
    return found


class Stacks(seeptest.TestCase):
    """What the profiler knows of the object follows the line."""

    def stacks(self, case, options):
        r = seeptest.run([PROGRAM, case], options=options)
        self.assertEqual(r.returncode, -signal.SIGABRT)
        return stacks_of(r.stderr)

    def test_every_object_sampled(self):
        for case in ("double_free", "double_free_large", "realloc_freed_small_later"):
            got = self.stacks(case, "mode=sampled:sample=1:seed=1")
            # A small object that goes before the next is sampled leaves no more.
            want = ["allocated", "freed", "misused"]
            if case == "double_free":
                want.remove("freed")
            self.assertEqual(sorted(got), want, case)
            for title, names in got.items():
                self.assertEqual(names[0], case, title)
            self.assertIn("main", got["allocated"])

    def test_across_threads(self):
        got = self.stacks("double_free_thread", "mode=sampled:sample=1:seed=1")
        self.assertEqual([got[k][0] for k in ("allocated", "freed")],
                         ["double_free_thread", "free_it"])

    def test_exact(self):
        for case in ("double_free", "double_free_three_between", "interior_small_flushed",
                     "interior_large", "realloc_freed_small"):
            got = self.stacks(case, "mode=exact")
            self.assertEqual(sorted(got), ["allocated", "misused"], case)
            for title, names in got.items():
                self.assertEqual(names[0], case, title)
        self.assertEqual(sorted(self.stacks("double_free_large", "mode=exact")),
                         ["allocated", "freed", "misused"])

    def test_nothing_known(self):
        self.assertEqual(self.stacks("double_free", "mode=sampled:sample=1G:seed=1"), {})
        self.assertEqual(self.stacks("stack_pointer", "mode=exact"), {})


def add(name, pattern, mode, *late):
    def test(self):
        r = seeptest.run([PROGRAM, name, *late], options=f"mode={mode}")
        stacks = "" if mode == "off" else r"(seep:   .*\n)*"
        self.assertRegex(r.stderr.decode(), rf"\Aseep: ({pattern})\n{stacks}\Z")
        self.assertEqual(r.returncode, -signal.SIGABRT)
        self.assertNotIn(b"survived", r.stdout)
    setattr(Misuse, "_".join(["test", name, mode, *late]), test)


def add_harmless(name, mode, *late):
    def test(self):
        r = seeptest.run([PROGRAM, name, *late], options=f"mode={mode}")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"survived\n", b""))
    setattr(Misuse, "_".join(["test", name, mode, *late]), test)


for m in ("off", "sampled", "exact"):
    for case, text in FOUND.items():
        add(case, text, m)
    for case in HARMLESS:
        add_harmless(case, m)

for case in FOUND:
    if case not in MISSED_LATE:
        add(case, FOUND[case], "sampled", "late")
    add(case, FOUND[case], "exact", "late")
for case in HARMLESS:
    add_harmless(case, "sampled", "late")

seeptest.main()
