# SPDX-License-Identifier: Apache-2.0
"""What the program-level tests share: running programs under the library or the tool."""
import glob
import json
import os
import subprocess
import tempfile
import unittest

LIB = os.environ["SEEP_LIB"]
TOOL = os.environ.get("SEEP_TOOL", "")
SOURCE = os.environ["SEEP_SOURCE"]
TIMEOUT = 240


def clean_env(**extra):
    """The environment without anything of Seep's, plus extra."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("SEEP_") and k not in ("LD_PRELOAD", "MALLOC_PERTURB_")}
    env["LC_ALL"] = "C.UTF-8"
    env.update(extra)
    return env


def run(argv, options=None, preload=True, env=None, **kw):
    """Runs argv (list, or text for bash) to its end; options is SEEP_OPTIONS."""
    e = clean_env(**(env or {}))
    if preload:
        e["LD_PRELOAD"] = LIB
        if options is not None:
            e["SEEP_OPTIONS"] = options
    if isinstance(argv, str):
        argv = ["bash", "-c", argv]
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(argv, env=e, capture_output=True, timeout=TIMEOUT, **kw)


def seep(*argv, env=None, **kw):
    """Runs the seep command."""
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([TOOL, *argv], env=clean_env(**(env or {})),
                          capture_output=True, timeout=TIMEOUT, **kw)


class TestCase(unittest.TestCase):
    """A test with a directory of its own."""
    maxDiff = None

    def setUp(self):
        self._dir = tempfile.TemporaryDirectory(prefix="seep-test-")
        self.dir = self._dir.name

    def tearDown(self):
        self._dir.cleanup()

    def one(self, pattern):
        """The only file that matches pattern in the test's directory."""
        found = glob.glob(os.path.join(self.dir, pattern))
        self.assertEqual(len(found), 1, f"{pattern}: {found}")
        return found[0]

    def report(self, pattern="*.report.json"):
        with open(self.one(pattern)) as f:
            return json.load(f)


def victim(name):
    """A program that meson built for the tests."""
    return os.path.join(os.environ["SEEP_VICTIMS"], name)


main = unittest.main
