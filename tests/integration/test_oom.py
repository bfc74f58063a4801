# SPDX-License-Identifier: Apache-2.0
"""No memory, for every reason that can be made without harm to the machine."""
import resource
import seeptest

MB = 1 << 20
# Of the address space, from start.
LIMITS = {"start": 160 * MB, "start_tight": 64 * MB, "beyond_data": 1000 * MB,
          "in_turn": 300 * MB}
CASES = ["start", "start_tight", "later", "raised", "vforked", "data", "nearly", "realloc",
         "threads", "full", "mappings", "no_commit", "beyond", "beyond_data", "room", "in_turn"]
MODES = {"off": ["start", "later", "raised", "vforked", "nearly", "mappings", "beyond", "room",
                 "in_turn"],
         "sampled": CASES,
         "exact": ["start_tight", "realloc", "full", "no_commit", "in_turn"]}


class OutOfMemory(seeptest.TestCase):
    def test_fork(self):
        for more in "", ":lifetimes=on":
            r = seeptest.run([seeptest.victim("integration/hazards_oom"), "fork"],
                             options=f"mode=exact:out={self.dir}/%e.%p{more}")
            self.assertEqual(r.returncode, 0, r.stdout + r.stderr)


def add(case, mode):
    def limit():
        if case in LIMITS:
            resource.setrlimit(resource.RLIMIT_AS, (LIMITS[case], LIMITS[case]))

    def test(self):
        r = seeptest.run([seeptest.victim("integration/hazards_oom"), case],
                         options=f"mode={mode}", preexec_fn=limit)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
    setattr(OutOfMemory, f"test_{case}_{mode}", test)


for m, names in MODES.items():
    for c in names:
        add(c, m)

seeptest.main()
