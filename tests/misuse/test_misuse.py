# SPDX-License-Identifier: Apache-2.0
"""Programs that do one wrong thing: an exact line on stderr, then SIGABRT."""
import signal
import seeptest

ADDRESS = r"0x[0-9a-f]+"
CASES = {
    "double_free": rf"double free of {ADDRESS} \(size class 3\)",
    "double_free_later": rf"double free of {ADDRESS} \(size class 3\)",
    "double_free_large": rf"double free of {ADDRESS} \(its pages are free\)",
    "double_free_thread": rf"double free of {ADDRESS} \(size class 7\)",
    "interior_small": rf"invalid free of {ADDRESS}: inside an object \(size class 32\)",
    "interior_large": rf"invalid free of {ADDRESS}: (inside a large object|no object is there)",
    "stack_pointer": rf"invalid free of {ADDRESS}: on the stack",
    "global_pointer": rf"invalid free of {ADDRESS}: in a program's or library's own memory",
    "unaligned_pointer": rf"invalid free of {ADDRESS}: not aligned",
    "wild_pointer": rf"invalid free of {ADDRESS}: nothing is there",
    "realloc_freed": rf"realloc of freed block {ADDRESS}",
}


class Misuse(seeptest.TestCase):
    pass


def add(name, pattern, mode):
    def test(self):
        r = seeptest.run([seeptest.victim("misuse/misuse"), name], options=f"mode={mode}")
        self.assertRegex(r.stderr.decode(), rf"\Aseep: {pattern}\n\Z")
        self.assertEqual(r.returncode, -signal.SIGABRT)
        self.assertNotIn(b"survived", r.stdout)
    setattr(Misuse, f"test_{name}_{mode}", test)


for case, text in CASES.items():
    for m in ("sampled", "exact"):
        add(case, text, m)

seeptest.main()
