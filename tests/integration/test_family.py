# SPDX-License-Identifier: Apache-2.0
"""The malloc family, and the C++ operators, in every mode."""
import resource
import seeptest

MODES = ["mode=off", "mode=sampled", "mode=sampled:sample=4K", "mode=exact",
         "mode=exact:leak=exit:exitcode=0"]


class Family(seeptest.TestCase):
    def test_static_tls_is_small(self):
        r = seeptest.run(["readelf", "-lW", seeptest.LIB], preload=False)
        tls = [l.split() for l in r.stdout.decode().splitlines()
               if l.split()[:1] == ["TLS"]]
        self.assertLessEqual(int(tls[0][5], 16), 64)

    def test_ulimit_v(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
        r = seeptest.run(["sort", "/etc/passwd"], preexec_fn=limit)
        plain = seeptest.run(["sort", "/etc/passwd"], preload=False)
        self.assertEqual((r.returncode, r.stdout), (0, plain.stdout))


def add(name, argv, mode):
    def test(self):
        r = seeptest.run(argv, options=f"{mode}:escape=bound:threads=on")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
    setattr(Family, f"test_{name}_{MODES.index(mode)}", test)


for m in MODES:
    add("malloc_family", [seeptest.victim("integration/malloc_family")], m)
    add("extended", [seeptest.victim("integration/extended")], m)
    add("new_delete", [seeptest.victim("integration/new_delete")], m)
    for forms in 1, 2, 4, 8, 15:
        name = f"replaced_{forms}"
        add(name, [seeptest.victim(f"integration/{name}")], m)

seeptest.main()
