# SPDX-License-Identifier: Apache-2.0
"""Whatever comes by the agent's signal or socket, the program runs on as before."""
import array
import ctypes
import os
import random
import signal
import socket
import struct
import seeptest
from asked import DEADLINE, Asked, until

SIGNAL = 57
SI_QUEUE = -1
MAGIC, VERSION = 0x746e6567617065, 1
HEAP, SHOW, SET, LEAK = 1, 5, 6, 7
libc = ctypes.CDLL(None, use_errno=True)
SYS_RT_SIGQUEUEINFO = 129


def queue(pid, value, uid=None, code=SI_QUEUE):
    info = bytearray(128)
    struct.pack_into("=iiiiiIQ", info, 0, SIGNAL, 0, code, 0, os.getpid(),
                     os.getuid() if uid is None else uid, value)
    ret = libc.syscall(SYS_RT_SIGQUEUEINFO, pid, SIGNAL, bytes(info))
    if ret:
        raise OSError(ctypes.get_errno(), "rt_sigqueueinfo")


def request(command=SHOW, magic=MAGIC, version=VERSION, mode=0xffffffff, flags=0,
            sample=0):
    return struct.pack("=QIIIIQ", magic, version, command, mode, flags, sample)


class Hostile(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        self.p = Asked("mode=exact")
        self.p.say("alloc 100 100")

    def tearDown(self):
        until(lambda: len(self.p.threads()) == 1)
        self.assertEqual(self.p.say("alloc 1 1"), 0)
        r = seeptest.seep("heap", "-q", str(self.p.pid), cwd=self.dir)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(self.p.end(), 0)
        super().tearDown()

    def test_signal_of_another_user(self):
        """It is answered no more than by silence: the next request is served at once."""
        key = random.getrandbits(64)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(b"\0seep-%016x" % key)
            s.listen(1)
            s.setblocking(False)
            queue(self.p.pid, key, uid=12345)
            self.connect().close()
            with self.assertRaises(BlockingIOError):
                s.accept()

    def connect(self):
        """The agent's end of a conversation that we began."""
        until(lambda: len(self.p.threads()) == 1)
        key = random.getrandbits(64)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(b"\0seep-%016x" % key)
            s.listen(1)
            s.settimeout(DEADLINE)
            queue(self.p.pid, key)
            c = s.accept()[0]
        c.settimeout(DEADLINE)
        return c

    def talk(self, message, fds=()):
        """The reply: error and text; None: it hung up."""
        with self.connect() as c:
            c.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                   array.array("i", fds))] if fds else [])
            try:
                reply = c.recv(4096)
            except ConnectionResetError:
                reply = b""
        if not reply:
            return None
        self.assertEqual(len(reply), 200)
        self.assertEqual(struct.unpack_from("=QI", reply), (MAGIC, VERSION))
        return struct.unpack_from("=i", reply, 12)[0], reply[40:].split(b"\0")[0]

    def test_a_good_request(self):
        self.assertEqual(self.talk(request()), (0, b""))

    def test_the_signal_alone(self):
        for _ in range(100):
            os.kill(self.p.pid, SIGNAL)
        for value in (0, 1, 2 ** 64 - 1, 0xdeadbeef):
            queue(self.p.pid, value)
        queue(self.p.pid, 5, uid=12345)
        for code in (-2, -3, -4, -60):
            queue(self.p.pid, 5, code=code)

    def test_malformed(self):
        good = request()
        for message in (b"x", good[:-1], good + b"\0", b"\0" * len(good), b"A" * 100000,
                        request(magic=1), request(version=2), request(flags=2 ** 31),
                        request(command=0), request(command=99),
                        request(command=2 ** 32 - 1)):
            self.assertIsNone(self.talk(message), message[:40])

    def test_random_requests(self):
        r = random.Random(4)
        for _ in range(50):
            self.assertIsNone(self.talk(r.randbytes(r.randrange(1, 200))))

    def test_no_request(self):
        for _ in range(10):
            self.connect().close()

    def test_no_file_or_a_bad_one(self):
        r, w = os.pipe()
        reader = os.open("/proc/self/exe", os.O_RDONLY)
        directory = os.open(self.dir, os.O_RDONLY)
        with open(os.path.join(self.dir, "good"), "wb") as good:
            for command in (HEAP, LEAK):
                for fds in ((), (w,), (r,), (reader,), (directory,), (w, w)):
                    self.assertEqual(self.talk(request(command), fds)[1],
                                     b"no regular file came with the request")
            for bad in (w, reader, directory):
                self.assertEqual(self.talk(request(LEAK), (good.fileno(), bad))[1],
                                 b"no regular file came with the request")
        self.assertIsNone(self.talk(request(HEAP), (reader,) * 100))
        for fd in (r, w, reader, directory):
            os.close(fd)

    def test_bad_settings(self):
        for kw in ({"mode": 3}, {"mode": 2 ** 31}, {"sample": 2 ** 63}):
            self.assertEqual(self.talk(request(SET, **kw))[0], -22)

    def test_a_full_disk(self):
        with open("/dev/full", "wb") as f:
            self.assertEqual(self.talk(request(HEAP), (f.fileno(),))[1],
                             b"no regular file came with the request")

    def test_someone_else_with_the_key(self):
        if not seeptest.may_become():
            self.skipTest("needs root")
        key = random.getrandbits(64)
        pid = os.fork()
        if pid == 0:
            os._exit(self.listen_as_nobody(key))
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)

    def listen_as_nobody(self, key):
        """A socket of another user's: the agent connects, looks, and hangs up."""
        target = self.p.pid
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.bind(b"\0seep-%016x" % key)
        s.settimeout(DEADLINE)
        os.seteuid(65534)
        s.listen(1)
        os.seteuid(0)
        queue(target, key)
        c = s.accept()[0]
        try:
            c.send(request())
            return 0 if c.recv(4096) == b"" else 1
        except (BrokenPipeError, ConnectionResetError):
            return 0


seeptest.main()
