# SPDX-License-Identifier: Apache-2.0
"""Wrong options and files that cannot be written: one line, and the program unharmed."""
import os
import resource
import seeptest

ECHO = ["printf", "hello"]


class BadInput(seeptest.TestCase):
    def check(self, options, words, argv=None, **kw):
        r = seeptest.run(argv or ["bash", "-c", "printf hello; exit 5"], options=options,
                         **kw)
        self.assertEqual((r.returncode, r.stdout), (5, b"hello"), r.stderr)
        lines = [l for l in r.stderr.decode().splitlines() if l.startswith("seep: ")]
        self.assertEqual(len(lines), 1, lines)
        for w in words:
            self.assertIn(w, lines[0])

    def test_unknown_key(self):
        self.check("frobnicate=1:mode=exact", ["frobnicate", "not an option"])

    def test_bad_value(self):
        self.check("mode=sometimes", ["mode=sometimes", "must be off, sampled or exact"])

    def test_bad_size(self):
        self.check("sample=12Q", ["sample=12Q"])

    def test_no_pair(self):
        self.check("exact", ["exact", "key=value"])

    def test_unwritable_out(self):
        self.check("mode=exact:out=/proc/nowhere/x", ["/proc/nowhere/x", "cannot write"])

    def test_missing_directory(self):
        self.check(f"mode=exact:out={self.dir}/none/x", ["none/x", "no such file or directory"])

    def test_missing_suppressions(self):
        r = seeptest.run(ECHO, options="mode=exact:leak=exit:suppressions=/nonexistent")
        self.assertEqual((r.returncode, r.stdout), (0, b"hello"))
        self.assertIn(b"cannot read suppressions /nonexistent: no such file or directory; none",
                      r.stderr)

    def test_garbage_suppressions(self):
        path = os.path.join(self.dir, "garbage")
        with open(path, "wb") as f:
            f.write(os.urandom(5000))
        r = seeptest.run(ECHO, options=f"mode=exact:leak=exit:suppressions={path}")
        self.assertEqual((r.returncode, r.stdout), (0, b"hello"))
        self.assertEqual(r.stderr.count(b"not a suppression"), 1)

    def test_no_descriptor_is_left(self):
        r = seeptest.run(["sh", "-c", "ulimit -n 3; printf hello; exit 5"],
                         options=f"mode=exact:out={self.dir}/x")
        self.assertEqual((r.returncode, r.stdout), (5, b"hello"))
        self.assertRegex(r.stderr, rb"^seep: cannot write \S+: too many open files\n$")

    def test_file_size_limit(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        self.check(f"mode=exact:out={self.dir}/x", ["cannot write", "file too large"],
                   preexec_fn=limit)
        self.assertEqual(os.listdir(self.dir), [])

    def test_full_disk(self):
        # A directory whose files cannot grow: /dev/full is no directory, so a quota of
        # descriptors stands in for the disk where no small file system can be mounted.
        mount = seeptest.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", self.dir],
                             preload=False)
        if mount.returncode != 0:
            self.check(f"mode=exact:out={self.dir}/x", ["cannot write"],
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)))
            return
        try:
            self.check(f"mode=exact:out={self.dir}/x", ["no space left"])
            self.assertEqual([f for f in os.listdir(self.dir) if f.endswith(".tmp")], [])
        finally:
            seeptest.run(["umount", self.dir], preload=False)

    def test_symbolic_link_is_not_followed(self):
        target = os.path.join(self.dir, "target")
        with open(target, "w") as f:
            f.write("precious")
        script = f"ln -s {target} {self.dir}/x.$$.heap.pb.gz; exec /bin/true"
        seeptest.run(["bash", "-c", script], preload=True,
                     options=f"mode=exact:out={self.dir}/x")
        with open(target) as f:
            self.assertEqual(f.read(), "precious")

    def test_closed_stderr(self):
        r = seeptest.run(f"exec 2>&-; LD_PRELOAD={seeptest.LIB} SEEP_OPTIONS="
                         "nonsense=1:mode=exact:leak=exit:out=/proc/nowhere/x "
                         "bash -c 'printf hello; exit 5'", preload=False)
        self.assertEqual((r.returncode, r.stdout, r.stderr), (5, b"hello", b""))


seeptest.main()
