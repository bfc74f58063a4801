# SPDX-License-Identifier: Apache-2.0
"""Every way out of a process: checked, profiled, and ending as it would have without us."""
import array
import fcntl
import os
import signal
import subprocess
import termios
import seeptest
from seeptest import seep

EXITS = seeptest.victim("integration/exits")
STATIC = seeptest.victim("integration/static_victim")
ONE = "seep: LEAK objects=1 bytes=100 sites=1"
TWO = "seep: LEAK objects=2 bytes=200 sites=2"
LEAVING = {"_exit": 7, "_Exit": 7, "quick_exit": 7, "exec-fails": 7, "exec": 1,
           "handler-exit": 5}
DYING = {"abort": 6, "segv": 11, "ill": 4, "trap": 5, "fpe": 8, "alternate": 15,
         "restored": 15, "raise-1": 1, "raise-2": 2, "raise-3": 3, "raise-7": 7,
         "raise-13": 13, "raise-16": 16, "raise-24": 24, "raise-25": 25, "raise-26": 26,
         "raise-27": 27, "raise-29": 29, "raise-30": 30, "raise-31": 31}


def states(pid):
    """The letters of its threads."""
    letters = ""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8") as f:
            letters += f.read().rsplit(")", 1)[1].split()[0]
    return letters


class Exits(seeptest.TestCase):
    def gate(self, *argv, **kw):
        return seep("gate", *kw.pop("options", ["-q"]), "--", EXITS, *argv, cwd=self.dir, **kw)

    def last(self, r):
        return r.stderr.decode().splitlines()[-1]

    def test_leaving(self):
        for how, status in LEAVING.items():
            r = self.gate(how)
            self.assertEqual((how, r.returncode, self.last(r)), (how, status, ONE))

    def test_handlers_of_quick_exit(self):
        """The check comes after them."""
        for how in ("quick_exit-late", "quick_exit-late-many"):
            r = self.gate(how)
            self.assertEqual((how, r.returncode, self.last(r)), (how, 7, TWO))
            r = seeptest.run([EXITS, how], options="mode=exact:leak=exit")
            self.assertEqual((how, r.returncode, self.last(r)), (how, 23, TWO))

    def test_dying(self):
        for how, sig in DYING.items():
            r = self.gate(how)
            self.assertEqual((how, r.returncode, self.last(r)), (how, 128 + sig, ONE))
            self.assertEqual(r.stdout, b"default\n" if how == "restored" else b"")

    def test_file_size_limit(self):
        """The signal of a write beyond it, where none of our files can be written."""
        r = self.gate("file-limit")
        self.assertEqual((r.returncode, self.last(r)), (128 + signal.SIGXFSZ, ONE))
        for options in ("", f"out={self.dir}/p", "mode=exact:leak=exit"):
            r = seeptest.run([EXITS, "file-limit"], options=options)
            self.assertEqual(r.returncode, -signal.SIGXFSZ, options)
            with open(self.dir + "/err", "wb") as f:
                p = subprocess.run([EXITS, "file-limit"], stderr=f, stdin=subprocess.DEVNULL,
                                   env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                          SEEP_OPTIONS=options))
            self.assertEqual(p.returncode, -signal.SIGXFSZ, options)

    def test_status_without_the_tool(self):
        """The wait status itself; a verdict on a leak forces one only on _exit and the like."""
        for options in ("", f"out={self.dir}/p", "mode=exact:leak=exit"):
            for how, sig in DYING.items():
                r = seeptest.run([EXITS, how], options=options)
                self.assertEqual((options, how, r.returncode), (options, how, -sig))
            r = seeptest.run([EXITS, "_exit"], options=options)
            self.assertEqual(r.returncode, 23 if "leak" in options else 7)
            r = seeptest.run([EXITS, "exec"], options=options)
            self.assertEqual(r.returncode, 1)
        self.assertGreaterEqual(len([f for f in os.listdir(self.dir) if ".heap." in f]),
                                len(DYING) + 2)

    def test_two_signals_at_once(self):
        """timeout and systemd tell a process, and its whole group, too."""
        r = self.gate("twice")
        self.assertEqual((r.returncode, self.last(r)), (128 + signal.SIGTERM, ONE))

    def test_children(self):
        """A vfork child is nobody; a forked one reports what it lost itself."""
        for how, child, verdict in (
                ("vfork-exit", 3, ONE), ("vfork-exec", 1, ONE), ("fork-exit", 3, TWO),
                ("fork-raise", 143, TWO), ("fork-exec", 1, TWO),
                ("fork-syscall", 3, TWO), ("fork-clone", 3, TWO),
                ("fork-clone-syscall", 3, TWO), ("fork-clone3", 3, TWO),
                ("thread-fork-exit", 3, TWO), ("thread-fork-exec", 1, TWO)):
            r = self.gate(how)
            self.assertEqual((how, r.returncode, r.stdout, self.last(r)),
                             (how, 23, b"child %d\n" % child, verdict))

    def test_uncovered(self):
        r = self.gate("syscall")
        self.assertEqual(r.returncode, 7)
        self.assertRegex(self.last(r), "^seep: INCOMPLETE: .*it was killed")
        r = self.gate("exec-static", STATIC, options=[])
        self.assertEqual((r.returncode, r.stdout), (3, b"static\n"))
        self.assertIn(b"became a program without Seep", r.stderr)

    def end_late(self, how, sig, options):
        """Ends while its report waits for room in a pipe; the signal comes then."""
        r, w = os.pipe()
        fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
        os.write(w, b"." * (4096 - 100))  # more than the first line of the report needs
        p = subprocess.Popen([EXITS, how], stderr=w, stdout=subprocess.DEVNULL,
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                    SEEP_OPTIONS=options))
        os.close(w)
        waiting = array.array("i", [0])
        while waiting[0] <= 4096 - 100 and p.poll() is None:
            os.sched_yield()
            fcntl.ioctl(r, termios.FIONREAD, waiting)
        if sig is None:  # another thread crashes: it runs until then
            while p.poll() is None and "R" in states(p.pid):
                os.sched_yield()
        else:
            p.send_signal(sig)
        with os.fdopen(r, "rb") as f:
            text = f.read().decode()
        return p.wait(timeout=seeptest.TIMEOUT), text.splitlines()[-1]

    def test_signals_during_the_check(self):
        """Without us nobody would have been there to take them."""
        for how in ("late", "late-_exit", "late-handled", "late-_exit-handled",
                    "late-thread", "late-thread-handled"):
            for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                for forced, status in (("", 23), (":exitcode=0", 7)):
                    got = self.end_late(how, sig, "mode=exact:leak=exit" + forced)
                    self.assertEqual((how, sig, *got), (how, sig, status, ONE))
        for sig in (signal.SIGUSR1, signal.SIGALRM, signal.SIGQUIT):
            got = self.end_late("late", sig, "mode=exact:leak=exit:exitcode=0")
            self.assertEqual((sig, *got), (sig, 7, ONE))

    def test_crashes_during_the_check(self):
        for how in ("late-crash", "late-_exit-crash"):
            got = self.end_late(how, None, "mode=exact:leak=exit:exitcode=0")
            self.assertEqual((how, *got), (how, 7, ONE))

    def stop(self, argv, sig, word, **kw):
        p = subprocess.Popen([seeptest.TOOL, "gate", "-q", "--", *argv], cwd=self.dir,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=seeptest.clean_env())
        for line in p.stdout:
            if word in line:
                break
        p.send_signal(sig)
        err = p.communicate(timeout=seeptest.TIMEOUT)[1].decode()
        return p.returncode, err.splitlines()[-1]

    def test_servers_are_checked_when_stopped(self):
        for sig in (signal.SIGTERM, signal.SIGINT):
            for how in ("wait", "spin"):
                self.assertEqual(self.stop([EXITS, how], sig, b"ready"), (23, ONE))
            redis = ["redis-server", "--port", "0", "--unixsocket", self.dir + "/sock",
                     "--save", ""]
            self.assertEqual(self.stop(redis, sig, b"eady to accept"), (0, "seep: clean"))


seeptest.main()
