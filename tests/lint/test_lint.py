# SPDX-License-Identifier: Apache-2.0
"""Rules of the house that a machine can check."""
import os
import re
import subprocess
import tempfile
import seeptest

ORDER = ["preload/base", "preload/heap", "profiler/stack", "profiler/site", "profiler/pprof",
         "profiler/sample", "profiler/leak", "profiler/thread", "profiler/escape",
         "profiler/control", "preload/api"]
TOOLS_MAY = ["profiler/control/runtable.h", "profiler/control/request.h",
             "preload/base/opt.h", "preload/base/pattern.h"]
MAX_LINES = 700
HERE = os.path.join(seeptest.SOURCE, "tests", "lint")
GENERATED = os.path.join(os.path.dirname(seeptest.TOOL), "..", "profiler", "pprof")


def out(*argv):
    return subprocess.run(argv, capture_output=True, check=True,
                          cwd=seeptest.SOURCE).stdout.decode()


def tracked(*patterns):
    """Files of the tree, also outside a git checkout."""
    found = []
    for top in ("preload", "profiler", "tools", "tests"):
        for d, dirs, files in os.walk(os.path.join(seeptest.SOURCE, top)):
            dirs[:] = [x for x in dirs if x != "__pycache__"]
            found += [os.path.relpath(os.path.join(d, f), seeptest.SOURCE) for f in files]
    return sorted(f for f in found if f.endswith(patterns))


def read(path):
    with open(os.path.join(seeptest.SOURCE, path), encoding="utf-8") as f:
        return f.read()


def listed(name):
    with open(os.path.join(HERE, name)) as f:
        return sorted(l.strip() for l in f if l.strip() and not l.startswith("#"))


class Lint(seeptest.TestCase):
    def test_layers(self):
        for path in tracked(".c", ".h"):
            folder = os.path.dirname(path)
            for inc in re.findall(r'^#include "((?:preload|profiler|tools)/[^"]+)"',
                                  read(path), re.M):
                target = os.path.dirname(inc)
                if folder in ORDER:
                    self.assertIn(target, ORDER[:ORDER.index(folder) + 1],
                                  f"{path} includes {inc}")
                elif folder.startswith("tools"):
                    self.assertTrue(inc in TOOLS_MAY or target.startswith("tools"),
                                    f"{path} includes {inc}")

    def test_exports(self):
        names = [l.split()[2] for l in out("nm", "-D", "--defined-only",
                                           seeptest.LIB).splitlines()]
        self.assertEqual(sorted(names), listed("exports.txt"))

    def test_imports(self):
        names = {re.sub(r"@.*", "", l.split()[-1])
                 for l in out("nm", "-D", "--undefined-only", seeptest.LIB).splitlines()}
        self.assertEqual(sorted(names - set(listed("imports.txt"))), [])

    def test_needed(self):
        needed = re.findall(r"NEEDED.*\[(.*)\]", out("readelf", "-d", seeptest.LIB))
        self.assertEqual(needed, ["libc.so.6"])

    def test_no_lazy_binding_and_no_unloading(self):
        flags = out("readelf", "-dW", seeptest.LIB)
        for word in ("NOW", "NODELETE"):
            self.assertIn(word, flags)

    def test_headers_stand_alone(self):
        with tempfile.TemporaryDirectory() as d:
            for path in tracked(".h"):
                if path.startswith("tests/"):
                    continue
                for cc in ("gcc", "clang"):
                    r = subprocess.run(
                        [cc, "-std=gnu11", "-D_GNU_SOURCE", "-DCONFIG_PROFILER=1",
                         "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I.", "-I",
                         GENERATED, "-include", path, "-x", "c", "/dev/null"],
                        cwd=seeptest.SOURCE, capture_output=True)
                    self.assertEqual(r.returncode, 0, f"{cc} {path}: {r.stderr.decode()}")

    def test_format(self):
        version = subprocess.run(["clang-format", "--version"], capture_output=True).stdout
        if b"version 14." not in version:
            self.skipTest("each version formats in its own way: 14 is ours")
        files = tracked(".c", ".h")
        r = subprocess.run(["clang-format", "--dry-run", "-Werror", *files],
                           cwd=seeptest.SOURCE, capture_output=True)
        self.assertEqual(r.returncode, 0, r.stderr.decode()[-3000:])

    def test_every_file_opens_with_its_licence(self):
        for path in tracked(".c", ".h", ".cc", ".py", "meson.build", ".proto"):
            head = "".join(read(path).splitlines()[:3])
            self.assertIn("SPDX-License-Identifier: Apache-2.0", head, path)

    def test_files_are_short(self):
        for path in tracked(".c", ".h", ".py"):
            self.assertLessEqual(len(read(path).splitlines()), MAX_LINES, path)

    def test_folders_have_a_readme(self):
        for folder in ORDER + ["tools", "tests"]:
            text = read(folder + "/README.md")
            self.assertLessEqual(len(text.splitlines()), 60, folder)

    def test_readme_lists_the_build_options(self):
        options = re.findall(r"^option\('(\w+)'", read("meson_options.txt"), re.M)
        table = re.findall(r"^\| `-D(\w+)", read("README.md"), re.M)
        self.assertEqual(sorted(options), sorted(table))

    def test_readme_lists_the_library_options(self):
        keys = set(re.findall(r'strcmp\(key, "(\w+)"\)', read("preload/base/opt.c")))
        table = set(re.findall(r"^\| `(\w+)=", read("README.md"), re.M))
        self.assertEqual(keys - {"run", "recover"}, table)

    def test_nothing_is_left_of_a_merge(self):
        self.assertEqual(tracked(".orig", ".rej", ".bak", "~"), [])

    def test_nothing_of_this_machine(self):
        for path in tracked(".c", ".h", ".cc", ".py", ".md", "meson.build", "run"):
            self.assertNotRegex(read(path), r"/(wo" + r"rk|fa" + r"rm)/(main|shared)", path)


seeptest.main()
