# SPDX-License-Identifier: Apache-2.0
"""Handlers that leave malloc and free at any instruction: the thread is recorded as before."""
import re
import profilepb
import seeptest

# Where the call takes no lock: a step, unlike other signals, cannot be put off until that
# is released. (With lifetimes=on malloc takes that of the entries in the file.)
MODES = {"malloc": ["mode=exact", "mode=sampled:sample=1"],
         "free": ["mode=exact"]}


class Leaver(seeptest.TestCase):
    def allocated(self, call, way, options):
        """How often the call was left, and how many times allocate_after() is recorded."""
        r = seeptest.run([seeptest.victim("profile/leaver"), call, way],
                         options=f"{options}:out={self.dir}/{call}-{way}")
        self.assertEqual((r.returncode, r.stderr), (0, b""), f"{call} {way} {options}")
        left = int(re.fullmatch(r"left (\d+) times\n", r.stdout.decode())[1])
        self.assertGreater(left, 50)
        path = self.one(f"{call}-{way}.*.allocs.pb.gz")
        stacks = profilepb.Profile(path).stacks("alloc_objects")
        return left, sum(value for value, frames in stacks
                         if frames[0]["name"] == "allocate_after")

    def check(self, call, way, extra):
        for options in MODES[call]:
            self.tearDown()
            self.setUp()
            left, recorded = self.allocated(call, way, options)
            self.assertEqual(recorded, left + extra, options)

    def test_malloc_is_left(self):
        self.check("malloc", "leave", 1)

    def test_free_is_left(self):
        self.check("free", "leave", 1)

    def test_malloc_goes_on(self):
        self.check("malloc", "return", 0)

    def test_free_goes_on(self):
        self.check("free", "return", 0)


seeptest.main()
