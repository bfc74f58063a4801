# SPDX-License-Identifier: Apache-2.0
"""Objects of a library that was opened by dlopen are followed like any others."""
import os
import sys
import pbgz
import seeptest


class Opened(seeptest.TestCase):
    def test_exact(self):
        r = seeptest.run([PROGRAM, PLUGIN], options=f"mode=exact:escape=exact:out={self.dir}/x.%p")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"done\n", b""))
        samples = pbgz.read(self.one("x.*.escape.pb.gz"))
        for name, depth, escape, to in (("plugin_use", 0, "none", None),
                                        ("plugin_keep", 1, "global", "plugin_kept")):
            own = [s for s in samples if s["stack"][0] == name]
            self.assertEqual(sum(s["samples"] for s in own), 40)
            for s in own: # several where the compiler has unrolled the loop
                self.assertEqual((s["depth"], s["confidence"], s["escape"], s.get("to")),
                                 (depth, "exact", escape, to))


PROGRAM, PLUGIN = [os.path.abspath(sys.argv.pop(1)) for _ in range(2)]
seeptest.main()
