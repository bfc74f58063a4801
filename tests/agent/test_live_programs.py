# SPDX-License-Identifier: Apache-2.0
"""seep check on real servers: redis under load, a backend of postgres, nginx; as they are,
and with a library in them that loses memory."""
import json
import os
import shutil
import socket
import subprocess
import unittest
import seeptest
import servers
from asked import until

PLUGIN = seeptest.preloadable(seeptest.victim("agent/liblive_plugin.so"))


class TestCase(seeptest.TestCase):
    def check(self, pid, *args, status=(0,)):
        path = os.path.join(self.dir, "check.json")
        r = seeptest.seep("check", "--json", path, "--no-symbolize", *args, str(pid),
                          cwd=self.dir)
        self.assertIn(r.returncode, status, r.stderr.decode())
        with open(path) as f:
            return json.load(f)

    def lost(self, report):
        """Objects of the plugin's; and all others."""
        mine, possible = [sum(leak["objects"] for leak in report[kind]
                              if any(f["function"] == "plugin_loses" for f in leak["stack"]))
                          for kind in ("leaks", "possible")]  # old words in a server's objects
        return mine + min(possible, 1), report["objects"] - mine

    def start(self, argv, options, preload=(seeptest.LIB,), **kw):
        env = seeptest.clean_env(LD_PRELOAD=":".join(preload),
                                 SEEP_OPTIONS=options, **kw.pop("env", {}))
        server = subprocess.Popen(argv, env=env, cwd=self.dir, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  **kw)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        return server


@unittest.skipUnless(shutil.which("redis-server"), "no redis")
class Redis(TestCase):
    def redis(self, options, *args, **kw):
        self.socket = os.path.join(self.dir, "sock")
        server = self.start(["redis-server", "--port", "0", "--unixsocket", self.socket,
                             "--save", "", *args], options, **kw)
        until(lambda: server.poll() is not None or self.cli("ping") == "PONG")
        self.assertIsNone(server.poll())
        return server.pid

    def cli(self, *args):
        r = subprocess.run(["redis-cli", "-s", self.socket, *args], env=seeptest.clean_env(),
                           capture_output=True)
        return r.stdout.decode().strip()

    def load(self, requests=4000, keys=10000, tests="set,get,lpush,hset"):
        return subprocess.Popen(["redis-benchmark", "-s", self.socket, "-q", "-n",
                                 str(requests), "-c", "20", "-r", str(keys), "-t", tests],
                                env=seeptest.clean_env(), stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)

    def test_tables_that_grow(self):
        """Most pointers to what is new are written to inner pages of large tables."""
        pid = self.redis("")
        with self.load(300000, 1000000, "set,set,set,set") as load:
            for _ in range(25):
                self.check(pid, "--stop")
            load.kill()

    def test_clean_under_load(self):
        for options in ("", "mode=exact"):
            pid = self.redis(options)
            with self.load() as load:
                checks = 0
                while load.poll() is None or checks < 3:
                    self.check(pid, *(["--stop"] if checks % 2 else []))
                    checks += 1
                self.assertEqual(load.returncode, 0)
            self.assertEqual(self.cli("set", "a", "b"), "OK")
            self.assertEqual(self.cli("get", "a"), "b")
            self.cli("shutdown", "nosave")

    def test_a_library_that_loses(self):
        pid = self.redis("mode=exact", preload=(seeptest.LIB, PLUGIN), env={"SEEP_TEST_LOSE": "1"})
        with self.load() as load:
            found = 0

            def look():
                nonlocal found
                mine, others = self.lost(self.check(pid, "--stop", status=(0, 23)))
                self.assertGreaterEqual(mine, found)
                self.assertEqual(others, 0)
                found = mine
                return found >= 20
            while load.poll() is None:
                look()
            self.assertEqual(load.returncode, 0)
            until(look)

    def test_a_module(self):
        pid = self.redis("mode=exact", "--loadmodule", PLUGIN)
        self.assertIn("leaky", self.cli("module", "list"))
        self.assertEqual(self.lost(self.check(pid, "--stop", status=(23,))), (5, 0))
        self.check(pid, "--stop", "--since")


@unittest.skipUnless(servers.POSTGRES, "no postgres")
class Postgres(TestCase):
    def setUp(self):
        super().setUp()
        self.user = servers.not_root(self)
        self.env = seeptest.clean_env(HOME=self.dir)

    def run_tool(self, name, *args):
        return subprocess.run([servers.postgres_tool(name), *args], env=self.env,
                              cwd=self.dir, capture_output=True, **self.user)

    def session(self, options, **kw):
        """A server and one open session: the backend's pid and psql."""
        server = self.start(servers.postgres(self, self.user), options, **kw, **self.user)
        until(lambda: server.poll() is not None or self.run_tool(
            "pg_isready", "-h", self.dir).returncode == 0)
        self.assertIsNone(server.poll())
        psql = subprocess.Popen([servers.postgres_tool("psql"), "-h", self.dir, "-U", "me",
                                 "-qAt", "postgres"], env=self.env, cwd=self.dir,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, **self.user)
        self.addCleanup(psql.wait)
        self.addCleanup(psql.stdout.close)
        self.addCleanup(psql.stdin.close)
        return int(self.sql(psql, "select pg_backend_pid();")), psql

    def sql(self, psql, text):
        psql.stdin.write(text.encode() + b"\n")
        psql.stdin.flush()
        return psql.stdout.readline().decode().strip()

    def library(self, path):
        """Where the server's user can read it."""
        copy = os.path.join(self.dir, os.path.basename(path))
        shutil.copy(path, copy)
        return copy

    def test_backend(self):
        backend, psql = self.session("mode=exact", preload=(self.library(seeptest.LIB),),
                                     env={"SEEP_TEST_LOSE": "load"})
        self.sql(psql, "create table t as select x, x*7 y from generate_series(1,20000) x;"
                       "select count(*) from t;")
        self.check(backend, "--stop")
        # It is none of postgres's, which closes it again.
        self.sql(psql, f"load '{self.library(PLUGIN)}';\nselect 1;")
        self.assertEqual(self.lost(self.check(backend, "--stop", status=(23,))), (5, 0))
        self.assertEqual(self.sql(psql, "select sum(y) from t;"), str(7 * 20001 * 10000))
        self.check(backend, "--since")


@unittest.skipUnless(shutil.which("nginx"), "no nginx")
class Nginx(TestCase):
    def nginx(self, **kw):
        with open(os.path.join(self.dir, "file"), "w") as f:
            f.write("x" * 100000)
        command = servers.nginx(self.dir, "master_process off",
                                f"gzip on; gzip_types *; root {self.dir};")
        server = self.start(command, "mode=exact", **kw)
        until(lambda: server.poll() is not None or self.serves())
        self.assertIsNone(server.poll())
        return server.pid

    def fetch(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.path.join(self.dir, "sock"))
            s.sendall(b"GET /file HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n"
                      b"Connection: close\r\n\r\n")
            parts = list(iter(lambda: s.recv(65536), b""))
        return b"".join(parts)

    def serves(self):
        try:
            return b"200 OK" in self.fetch()
        except OSError:
            return False

    def test_clean(self):
        pid = self.nginx()
        for i in range(10):
            self.assertTrue(self.serves())
            self.check(pid, *(["--stop"] if i % 2 else []))

    def test_a_library_that_loses(self):
        pid = self.nginx(preload=(seeptest.LIB, PLUGIN), env={"SEEP_TEST_LOSE": "1"})

        def look():
            self.assertTrue(self.serves())
            mine, others = self.lost(self.check(pid, "--stop", status=(0, 23)))
            self.assertEqual(others, 0)
            return mine >= 20
        until(look)


seeptest.main()
