# SPDX-License-Identifier: Apache-2.0
"""Who is blocked for ever, and who only looks like it, in programs of one compiler.

Arguments: the language, and the program, each of whose cases names its threads "stuck"
when they are blocked for ever and "fine" when they are not."""
import re
import subprocess
import sys
import unittest
import seeptest

LOST, DEADLOCK = "what it waits for is lost", "deadlock"
HELD = "the holder of the mutex is blocked for ever"
JOINED = "the thread it joins is blocked for ever"
LACKING = 77  # status
LANGUAGE, PROGRAM = sys.argv[1:3]
del sys.argv[1:3]
# Old pointers in memory that is handed out again hide the lost: it is cleared then.
CLEARED = "mode=exact:leak=exit"

STUCK = {
    "c": {
        "lost": (3, LOST), "freed": (1, "what it waits for has been freed"),
        "semaphore": (1, LOST), "producer": (1, LOST), "own-stack": (1, LOST),
        "rwlock": (1, LOST), "rwlock-signals": (1, LOST), "barrier": (1, LOST),
        "deadlock2": (2, DEADLOCK), "deadlock3": (3, DEADLOCK), "self": (1, DEADLOCK),
        "known-by-errno": (1, LOST), "holder": (3, LOST, HELD), "join": (2, LOST, JOINED),
    },
    "odd": {"cancel-lost": (1, LOST), "cancel-mutex": (1, LOST), "harmless": (1, LOST)},
    "c11": {"condition": (1, LOST), "join": (2, LOST, JOINED), "deadlock": (2, DEADLOCK)},
    "c++": {
        "condition": (1, LOST), "mutex": (1, LOST), "deadlock": (2, DEADLOCK),
        "future": (1, LOST), "shared_mutex": (1, LOST), "join": (2, LOST, JOINED),
        "semaphore": (1, LOST), "latch": (1, LOST), "atomic": (1, LOST),
    },
    "rust": {
        "condvar": (1, LOST), "deadlock": (2, LOST), "rwlock": (1, LOST),
        "barrier": (1, LOST), "join": (2, LOST, JOINED), "park": (1, LOST),
        "channel": (1, LOST), "rendezvous": (1, LOST), "mutex": (1, LOST),
    },
    "glib": {"queue": (1, LOST), "condition": (1, LOST)},
}[LANGUAGE]
FINE = {
    "c": ["global", "timed", "pool", "shared", "epoll", "mapped", "locked", "join-fine",
          "semaphore-signals", "ended", "own-stack-known", "rwlock-known",
          "barrier-known", "once", "listed", "listed-storage", "robust", "inherits"],
    # What can be found in odd places only, and waits that end by other means.
    "odd": ["cancel", "cancel-semaphore", "cancel-specific", "cancel-object",
            "cancel-joiner", "jump", "exit", "interrupt", "timer", "timer-thread",
            "messages", "pending", "pending-thread", "pipe", "socket", "datagram",
            "connection", "packet", "fault-handler", "eventfd", "ring", "aio",
            "dontfork", "wipeonfork", "tagged", "shifted", "unaligned", "specific",
            "thread-local", "register", "stack-again", "vfork", "cleared", "clock",
            "several"],
    "c11": ["condition-known"],
    # A barrier's waiters wait on a word of the library's, which anybody might wake.
    "c++": ["barrier", "atomic-long", "atomic-flag", "known latch", "known atomic",
            "known condition", "known mutex", "known future",
            "known semaphore", "known shared_mutex", "known join", "timed"],
    "rust": ["condvar-known", "channel-known", "park-known", "once"],
    "glib": ["pool", "exclusive-pool", "queue-known"],
}[LANGUAGE]


class Blocked(seeptest.TestCase):
    def ask(self, case, options):
        p = subprocess.Popen([PROGRAM, *case.split()], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE,
                             env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                    SEEP_OPTIONS=options))
        try:
            line = p.stdout.readline()
            if not line and p.wait() == LACKING:
                self.skipTest("the system lacks what " + case + " needs")
            self.assertEqual(line, b"up\n", case)
            r = seeptest.seep("threads", "--full", str(p.pid))
            self.assertEqual((r.returncode, r.stderr), (0, b""))
            return r.stdout.decode()
        finally:
            p.kill()
            p.communicate()

    def check(self, case, count, *reasons, options=CLEARED):
        text = self.ask(case, options)
        self.assertIn(f"\n{count} blocked for ever, ", text, (case, text))
        found = re.findall(r'thread \d+ "(.*)" .*\n    blocked for ever: (.*?)'
                           r"(?:, thread \d+)?\n", text)
        self.assertEqual([name for name, _ in found], ["stuck"] * count, (case, text))
        self.assertEqual({why for _, why in found}, set(reasons), (case, text))

    # Rust waits by syscall(), whose calls are known to a tracer only.
    @unittest.skipIf(LANGUAGE == "rust" and not seeptest.may_trace(), "ptrace is refused")
    def test_blocked_for_ever(self):
        for case, (count, *reasons) in STUCK.items():
            with self.subTest(case):
                self.check(case, count, *reasons)

    def test_able_to_run(self):
        for case in FINE:
            for options in (CLEARED, "mode=sampled"):
                with self.subTest(case, options=options):
                    self.check(case, 0, options=options)


seeptest.main()
