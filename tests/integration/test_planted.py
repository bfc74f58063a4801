# SPDX-License-Identifier: Apache-2.0
"""Real servers lose what a library in them loses (planted.c), and no more: for a check of
the running process, and for the gate when the server is told to stop."""
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import unittest
import seeptest
import servers

PLANTED = seeptest.preloadable(seeptest.victim("integration/libplanted.so"))
DEADLINE = 300  # seconds, of a loaded machine's
START = {"planted_direct": 4, "planted_list": 5}
REQUESTS = 2
BY_REQUEST = {"planted_by_request": 3 * REQUESTS}


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(child) for child in f.read().split()]


def needs_redis_with_lzf():
    if not shutil.which("redis-server"):
        return False
    r = subprocess.run(["ldd", shutil.which("redis-server")], capture_output=True)
    return b"liblzf.so.1" in r.stdout


class Planted(seeptest.TestCase):
    user = {}

    def start(self, argv, gated, env, preload=()):
        """The server, ready; under the gate, or with the library in it."""
        lib = self.copy(seeptest.LIB)
        preload = [self.copy(path) for path in preload]
        if gated:
            argv = [self.copy(seeptest.TOOL), "gate", "--lib", lib, "-q", "--", *argv]
        else:
            preload.insert(0, lib)
            env = dict(env, SEEP_OPTIONS="mode=exact")
        if preload:
            env = dict(env, LD_PRELOAD=":".join(preload))
        p = subprocess.Popen(argv, cwd=self.dir, env=seeptest.clean_env(HOME=self.dir, **env),
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, **self.user)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.until(lambda: p.poll() is not None or self.is_ready())
        self.assertIsNone(p.poll())
        return p

    def copy(self, path):
        """Where any user can read it."""
        place = os.path.join(self.dir, os.path.basename(path))
        shutil.copy(path, place)
        os.chmod(place, 0o755)
        return place

    def until(self, condition):
        end = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def talk(self, message):
        """What comes back, and that it does: then the server has read the message."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.socket)
            s.sendall(message)
            return s.recv(1000)

    def planted(self, report):
        """By function, and all other objects."""
        found, others = {}, 0
        for leak in report["leaks"]:
            names = [f["function"] for f in leak["stack"]]
            mine = [n for n in ("planted_by_request", "planted_direct", "planted_list")
                    if n in names]
            if mine:
                found[mine[0]] = found.get(mine[0], 0) + leak["objects"]
            else:
                others += leak["objects"]
        # One may be held by the middle, by an old word in an object of the server's.
        if any(f["function"] == "planted_direct" and leak["objects"] == 1
               for leak in report.get("possible", []) for f in leak["stack"]):
            found["planted_direct"] = found.get("planted_direct", 0) + 1
        return found, others

    def check(self, pid):
        """By a stop of the threads and by a screen, which have to agree."""
        seen = []
        for args in ("--stop",), ():
            path = self.dir + "/check.json"
            r = seeptest.seep("check", "--json", path, "--no-symbolize", *args, str(pid))
            self.assertIn(r.returncode, (0, 23), r.stderr.decode())
            with open(path) as f:
                seen.append(self.planted(json.load(f)))
        self.assertEqual(seen[0], seen[1])
        return seen[0]

    def gate(self, server):
        """What the processes of the tree have lost at the end, together."""
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(seeptest.TIMEOUT), 23)
        total, others = {}, 0
        for path in glob.glob(self.dir + "/seep.out/*.report.json"):
            with open(path) as f:
                report = json.load(f)
            self.assertIn(report["verdict"], ("clean", "leak"))
            found, more = self.planted(report)
            others += more
            for name, n in found.items():
                total[name] = total.get(name, 0) + n
        shutil.rmtree(self.dir + "/seep.out")
        return total, others


@unittest.skipUnless(shutil.which("redis-server"), "no redis")
class Redis(Planted):
    def is_ready(self):
        try:
            return self.talk(b"PING\r\n") == b"+PONG\r\n"
        except OSError:
            return False

    def serve(self, gated, *args, preload=(), **env):
        self.socket = self.dir + "/sock"
        if os.path.exists(self.socket):
            os.remove(self.socket)
        p = self.start(["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "",
                        *args], gated, env, preload)
        for _ in range(REQUESTS):
            self.assertEqual(self.talk(b"PING PLANTED\r\n"), b"$7\r\nPLANTED\r\n")
        return p

    def both(self, expected, *args, **kw):
        p = self.serve(False, *args, **kw)
        self.assertEqual(self.check(p.pid), (expected, 0))
        p.terminate()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        self.assertEqual(self.gate(self.serve(True, *args, **kw)), (expected, 0))

    def test_preloaded(self):
        self.both({**START, **BY_REQUEST}, preload=[PLANTED], PLANTED="1")

    def test_module(self):
        """Its read() comes too late to be the program's."""
        self.both(START, "--loadmodule", PLANTED, PLANTED="1")

    @unittest.skipUnless(needs_redis_with_lzf(), "redis does not need liblzf")
    def test_in_the_library_path(self):
        place = self.dir + "/lib"
        os.mkdir(place)
        shutil.copy(PLANTED, place + "/liblzf.so.1")
        self.both({**START, **BY_REQUEST}, LD_LIBRARY_PATH=place, PLANTED="1")


@unittest.skipUnless(shutil.which("nginx"), "no nginx")
class Nginx(Planted):
    def is_ready(self):
        try:
            return b" 204 " in self.talk(b"GET / HTTP/1.0\r\n\r\n")
        except OSError:
            return False

    def serve(self, gated):
        self.socket = self.dir + "/sock"
        p = self.start(servers.nginx(self.dir), gated, {"PLANTED": "1"}, [PLANTED])
        for _ in range(REQUESTS):
            self.assertIn(b" 204 ", self.talk(b"GET / HTTP/1.0\r\nX: PLANTED\r\n\r\n"))
        return p

    def test_preloaded(self):
        p = self.serve(False)
        self.assertEqual(self.check(p.pid), (START, 0))
        self.assertEqual(self.check(children(p.pid)[0]), (BY_REQUEST, 0))
        p.terminate()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        # At its end a worker loses the table of its connections, too.
        self.assertEqual(self.gate(self.serve(True))[0], {**START, **BY_REQUEST})


@unittest.skipUnless(servers.POSTGRES, "no postgres")
class Postgres(Planted):
    def setUp(self):
        super().setUp()
        self.user = servers.not_root(self)

    def run_tool(self, name, *args):
        return subprocess.run([servers.postgres_tool(name), *args],
                              env=seeptest.clean_env(HOME=self.dir), cwd=self.dir, check=True,
                              capture_output=True, **self.user).stdout.decode()

    def is_ready(self):
        try:
            return "accepting" in self.run_tool("pg_isready", "-h", self.dir)
        except subprocess.CalledProcessError:
            return False

    def serve(self, gated):
        return self.start(servers.postgres(self, self.user), gated, {"PLANTED": "1"}, [PLANTED])

    def test_preloaded(self):
        p = self.serve(False)
        # It loses a copy of its environment, and others of its own are held by the middle.
        self.assertEqual(self.check(p.pid)[0], START)
        psql = subprocess.Popen([servers.postgres_tool("psql"), "-h", self.dir,
                                 "-U", "me", "-qAt", "postgres"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                env=seeptest.clean_env(HOME=self.dir), cwd=self.dir, **self.user)
        with psql:
            for i in range(REQUESTS):
                psql.stdin.write(b"select 'PLANTED', pg_backend_pid();\n")
                psql.stdin.flush()
                backend = int(psql.stdout.readline().split(b"|")[1])
            self.assertEqual(self.check(backend), (BY_REQUEST, 0))
            psql.stdin.close()
        p.terminate()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        p = self.serve(True)
        for _ in range(REQUESTS):
            self.run_tool("psql", "-h", self.dir, "-U", "me", "-c", "select 'PLANTED'", "postgres")
        self.assertEqual(self.gate(p)[0], {**START, **BY_REQUEST})


seeptest.main()
