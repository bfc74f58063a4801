# SPDX-License-Identifier: Apache-2.0
"""The stacks of seep threads are those that gdb sees: the same frames, address by address."""
import collections
import os
import re
import shutil
import subprocess
import unittest
import seeptest

# For each thread: the addresses of its frames, the innermost first; not of those that gdb
# adds from debug information, of inlined functions and tail calls.
WALK = """
import gdb
gdb.execute("set backtrace past-main on")
gdb.execute("set backtrace past-entry on")
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame, pcs = gdb.newest_frame(), []
    while frame:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            pcs.append(hex(frame.pc() - (1 if pcs else 0)))
        frame = frame.older()
    print("stack", thread.ptid[1], *pcs)
"""
TRIES = 30
NODE = ("const crypto = require('crypto'); crypto.pbkdf2('a', 'b', 1, 9, 'sha1', "
        "() => console.log('up')); setInterval(() => {}, 1e9)")


def needs(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    return unittest.skipIf(missing, "not installed: " + ", ".join(missing))


@needs("gdb", "go")
class Gdb(seeptest.TestCase):
    def gdb(self, pid):
        """Counter of stacks, each a tuple of addresses."""
        path = self.dir + "/walk.py"
        with open(path, "w") as f:
            f.write(WALK)
        r = subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-iex",
                            "set debuginfod enabled off", "-x", path],
                           capture_output=True, stdin=subprocess.DEVNULL)
        found = re.findall(r"^stack \d+ (.*)$", r.stdout.decode(), re.M)
        if not found:
            self.skipTest("gdb may not attach: " + r.stderr.decode()[-300:])
        return collections.Counter(tuple(int(pc, 16) for pc in line.split())
                                   for line in found)

    def seep(self, pid):
        path = self.dir + "/t.pb.gz"
        r = seeptest.seep("threads", "--quick", "-o", path, str(pid))
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        raw = subprocess.run(["go", "tool", "pprof", "-raw", path], capture_output=True,
                             check=True).stdout.decode()
        os.unlink(path)
        places = {m[1]: int(m[2], 16)
                  for m in re.finditer(r"^ +(\d+): 0x([0-9a-f]+) M=", raw, re.M)}
        samples = raw.split("Samples:\n")[1].split("Locations\n")[0]
        stacks = collections.Counter()
        for m in re.finditer(r"^ +(\d+): ([\d ]+)$", samples, re.M):
            stacks[tuple(places.get(k, k) for k in m[2].split())] += int(m[1])
        return stacks

    def same(self, argv, ready):
        p = subprocess.Popen(argv, env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB),
                             cwd=self.dir, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        try:
            while True:
                line = p.stdout.readline()
                self.assertTrue(line)
                if ready in line:
                    break
            seen = []

            def same():
                """All its threads wait, but for a timer's work now and then, and the thread
                that has answered us."""
                seen[:] = [self.seep(p.pid), self.gdb(p.pid)]
                return seen[0] == seen[1] and \
                    sum(seen[1].values()) == len(os.listdir(f"/proc/{p.pid}/task"))
            for _ in range(TRIES):
                if same():
                    return
            self.assertEqual(*seen)
            self.fail("more or fewer threads than both have seen")
        finally:
            p.kill()
            p.communicate()

    def test_waiting_threads(self):
        for case in ("pool", "deadlock3", "barrier", "once"):
            self.same([seeptest.victim("agent/stuck"), case], b"up")

    def test_calls_that_go_on(self):
        """After the first look the threads are in the library's own code."""
        self.same([seeptest.victim("agent/partly"), "blocked"], b"up")

    @needs("redis-server")
    def test_redis(self):
        self.same(["redis-server", "--port", "0", "--unixsocket", self.dir + "/s",
                   "--io-threads", "4", "--save", ""], b"eady to accept")

    @needs("node")
    def test_node(self):
        self.same([os.path.realpath(shutil.which("node")), "-e", NODE], b"up")

    @needs("sqlite3", "perl")
    def test_one_thread(self):
        self.same(["sqlite3", "-interactive"], b"SQLite version")
        self.same(["perl", "-e", "$| = 1; print qq(up\\n); <STDIN>"], b"up")


seeptest.main()
