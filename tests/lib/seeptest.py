# SPDX-License-Identifier: Apache-2.0
"""What the program-level tests share: running programs under the library or the tool."""
import atexit
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

TOOL = os.environ.get("SEEP_TOOL", "")
SOURCE = os.environ["SEEP_SOURCE"]
TIMEOUT = 600  # seconds, of a loaded machine's
os.environ["PATH"] += ":/usr/sbin:/sbin"  # where servers are
# What somebody may have set for programs that the tests run, or for Seep.
FOREIGN = re.compile("(SEEP|MALLOC|PYTHON|PERL|LUA|NODE|JAVA|_JAVA|JDK_JAVA|GIT|PG|PPROF|LSAN|"
                     "ASAN|TSAN|UBSAN|VALGRIND|G|LC|DEBUGINFOD|LD)_.*|"
                     "(PYTHON|PERL5|LUA|PG|PHP)[A-Z0-9_]+|GLIBC_TUNABLES|POSIXLY_CORRECT|"
                     "LANG|LANGUAGE|NO_COLOR|COLUMNS|LINES|BASH_ENV|ENV|CDPATH|IFS")
KEPT = ("LD_LIBRARY_PATH",)
# As nohup, or a script that runs the tests in the background, hands them down.
for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)
# Neither LD_PRELOAD nor every script and socket can do with any directory.
TEMPORARY = tempfile.gettempdir()
if re.search(r"[\s:'\"\\$%]", TEMPORARY) or len(TEMPORARY) > 50:
    TEMPORARY = "/tmp"


def preloadable(path):
    """A file or directory by a name without blanks, as LD_PRELOAD and scripts need it."""
    if not re.search(r"[\s:'\"\\$]", path):
        return path
    place = tempfile.mkdtemp(prefix="seep-test-", dir="/tmp")
    atexit.register(shutil.rmtree, place)
    os.chmod(place, 0o755)
    link = os.path.join(place, os.path.basename(path))
    os.symlink(path, link)
    return link


LIB = preloadable(os.environ["SEEP_LIB"])
VICTIMS = preloadable(os.environ["SEEP_VICTIMS"])


def clean_env(**extra):
    """The environment without anything of Seep's or for other programs, plus extra."""
    env = {k: v for k, v in os.environ.items()
           if k in KEPT or not FOREIGN.fullmatch(k)}
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
        self._dir = tempfile.TemporaryDirectory(prefix="seep-test-", dir=TEMPORARY)
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


def may_trace():
    """Not in a container that refuses the system call, for example."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else 1)  # PTRACE_TRACEME
    return os.waitpid(pid, 0)[1] == 0


def may_become(uid=65534):
    """Root that may be somebody else, which not every container's may."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0 and os.geteuid() == 0


def without_huge_pages():
    """For preexec_fn: resident memory is what was touched, whatever the kernel is set to."""
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE


def on_one_processor():
    """For preexec_fn. The kernel counts resident pages for each processor apart, and tells
    the sum when it gets round to it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def resident(pid):
    """KiB of private memory that is no file's: counted page by page, not by the kernel's
    counters, each of which is behind by up to some dozens of pages a thread or processor."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Anonymous: +(\d+)", f.read(), re.M)[1])


# Threads are stopped by a signal otherwise: calls end early, what a thread waits for is not
# seen, and the tool cannot see a signal through an exec.
needs_ptrace = unittest.skipUnless(may_trace(), "ptrace is refused")


def victim(name):
    """A program that meson built for the tests."""
    return os.path.join(VICTIMS, name)


main = unittest.main
