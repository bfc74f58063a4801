# SPDX-License-Identifier: Apache-2.0
"""The instruction table: tests/data/instructions.txt holds a line "WORKLOAD INSTRUCTIONS"
for each of icount.BUDGETS, as gcc 12 compiles the release build. A change that moves a
figure by more than 2 % and one instruction, up or down, is a change to that file:

    ninja -C build golden
"""
import os
import sys
import unittest
import icount
import seeptest

TABLE = os.path.join(seeptest.SOURCE, "tests/data/instructions.txt")
HEAD = "# Instructions an operation, and of /bin/true as a whole: see tests/lib/icount.py.\n"


def read():
    with open(TABLE) as f:
        rows = [line.split() for line in f if line.strip() and not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def write():
    with open(TABLE, "w") as f:
        f.write(HEAD)
        for name in icount.BUDGETS:
            f.write(f"{name} {icount.count(name)}\n")


@unittest.skipUnless(icount.is_possible(), "valgrind is not installed")
class Instructions(unittest.TestCase):
    def test_table(self):
        golden = read()
        self.assertEqual(list(golden), list(icount.BUDGETS))
        for name, want in golden.items():
            with self.subTest(name):
                got = icount.count(name)
                print(f"instructions {name} {got} golden {want}", file=sys.stderr)
                self.assertLessEqual(want, icount.BUDGETS[name], "over its budget")
                if name.startswith("/") and not icount.is_reference():
                    self.skipTest("another processor or glibc than the table's")
                self.assertLessEqual(abs(got - want), max(1, want * 0.02))


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        unittest.main()
