# SPDX-License-Identifier: Apache-2.0
"""seep threads asks real servers, idle and under load: no thread of theirs is blocked for
ever, however many wait."""
import os
import pwd
import shutil
import socket
import subprocess
import unittest
import seeptest
from asked import until

ASKED = 5  # times under load
JAVA = """
import java.util.concurrent.*;
import java.util.concurrent.locks.*;
public class Work {
  static long burn() {
    java.util.ArrayList<byte[]> kept = new java.util.ArrayList<>();
    for (int i = 0; i < 20000; i++) kept.add(new byte[200]);
    return kept.size();
  }
  public static void main(String[] args) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(4);
    Executors.newScheduledThreadPool(2).scheduleAtFixedRate(() -> {}, 1, 1,
                                                            TimeUnit.MILLISECONDS);
    Object lock = new Object();
    new Thread(() -> {
      synchronized (lock) { try { lock.wait(); } catch (InterruptedException e) {} }
    }).start();
    new Thread(() -> LockSupport.park()).start();
    CountDownLatch never = new CountDownLatch(1);
    new Thread(() -> { try { never.await(); } catch (InterruptedException e) {} }).start();
    pool.submit(() -> burn()).get();
    System.out.println("up");
    while (args.length > 0) {
      CompletableFuture<?>[] all = new CompletableFuture<?>[8];
      for (int i = 0; i < all.length; i++)
        all[i] = CompletableFuture.supplyAsync(Work::burn, pool);
      CompletableFuture.allOf(all).join();
    }
    System.in.read();
    System.exit(0);
  }
}
"""
NODE = """
const zlib = require('zlib'), fs = require('fs');
require('http').createServer((q, r) => zlib.deflate(Buffer.alloc(10000), () =>
  fs.readFile('/etc/passwd', (e, data) => r.end(data)))).listen('SOCKET');
"""
NGINX = """daemon off; worker_processes 2; pid DIR/pid; error_log DIR/log; user root;
thread_pool default threads=4;
events { worker_connections 64; }
http { aio threads; access_log off; sendfile off; output_buffers 1 32k;
client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3;
uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;
server { listen unix:DIR/socket; root DIR; } }
"""


def needs(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    return unittest.skipIf(missing, "not installed: " + ", ".join(missing))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(address):
    """A port of this machine, or a path."""
    is_port = isinstance(address, int)
    with socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as s:
        return s.connect_ex(("127.0.0.1", address) if is_port else address) == 0


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(c) for c in f.read().split()]


class Servers(seeptest.TestCase):
    def start(self, argv, preload=True, **kw):
        env = seeptest.clean_env(**({"LD_PRELOAD": seeptest.LIB} if preload else {}))
        p = subprocess.Popen(argv, env=kw.pop("env", env), stdin=subprocess.PIPE,
                             stdout=kw.pop("stdout", subprocess.DEVNULL),
                             stderr=subprocess.DEVNULL, cwd=self.dir, **kw)
        self.addCleanup(self.stop, p)
        return p

    def setUp(self):
        super().setUp()
        self.socket = self.dir + "/socket"

    def tearDown(self):
        self.doCleanups()  # before the directory goes
        super().tearDown()

    @staticmethod
    def stop(p):
        p.terminate()
        p.stdin.close()
        try:
            p.wait(20)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        if p.stdout:
            p.stdout.close()

    def load(self, *argv, **kw):
        """Something that keeps the server busy until the end of the test."""
        return self.start(argv, preload=False, **kw)

    def ask(self, pid):
        r = seeptest.seep("threads", str(pid))
        if r.returncode == 24 and not os.path.exists(f"/proc/{pid}"):
            return ""  # it was a helper that has ended
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        text = r.stdout.decode()
        self.assertRegex(text, r"\n0 blocked for ever, 0 ended", text)
        return text

    def ask_often(self, pids):
        for _ in range(ASKED):
            for pid in pids:
                self.ask(pid)

    def fetch(self, path="/"):
        """Four clients."""
        for _ in range(4):
            self.load("sh", "-c", f"while :; do curl -s --unix-socket {self.socket} "
                                  f"'http://x{path}?[1-100]' >/dev/null || exit; done")

    @needs("redis-server", "redis-benchmark")
    def test_redis(self):
        p = self.start(["redis-server", "--port", "0", "--unixsocket", self.socket,
                        "--io-threads", "4", "--io-threads-do-reads", "yes", "--save", "",
                        "--dir", self.dir])
        until(lambda: answers(self.socket))
        self.assertIn("bio_", self.ask(p.pid))
        busy = self.load("redis-benchmark", "-s", self.socket, "-n", "100000000", "-c", "50",
                         "-P", "16", "-q")
        self.ask_often([p.pid])
        self.assertIsNone(busy.poll())

    @needs("nginx", "curl")
    def test_nginx(self):
        with open(self.dir + "/conf", "w") as f:
            f.write(NGINX.replace("DIR", self.dir))
        with open(self.dir + "/file", "w") as f:
            f.write("x" * 1000000)
        p = self.start(["nginx", "-c", self.dir + "/conf"])
        until(lambda: answers(self.socket) and len(children(p.pid)) == 2)
        workers = children(p.pid)
        until(lambda: all(len(os.listdir(f"/proc/{w}/task")) == 5 for w in workers))
        for pid in [p.pid, *workers]:
            self.ask(pid)
        self.fetch("/file")
        self.ask_often(workers)

    @needs("node", "curl")
    def test_node(self):
        p = self.start([os.path.realpath(shutil.which("node")), "-e",
                        NODE.replace("SOCKET", self.socket)])
        until(lambda: answers(self.socket))
        self.ask(p.pid)
        self.fetch()
        self.ask_often([p.pid])

    @needs("java", "javac")
    def test_java(self):
        with open(self.dir + "/Work.java", "w") as f:
            f.write(JAVA)
        subprocess.run(["javac", "Work.java"], cwd=self.dir, check=True)
        for args in ([], ["load"]):
            p = self.start(["java", "-Xmx128m", "-cp", self.dir, "Work", *args],
                           stdout=subprocess.PIPE)
            self.assertEqual(p.stdout.readline(), b"up\n")
            self.ask_often([p.pid])

    @needs("rmiregistry")
    def test_java_registry(self):
        while True:  # somebody else may take the port first
            port = free_port()
            p = self.start(["rmiregistry", str(port)])
            until(lambda: p.poll() is not None or answers(port))
            if p.poll() is None:
                break
        self.ask_often([p.pid])

    @unittest.skipUnless(os.path.isdir("/usr/lib/postgresql"), "not installed: postgresql")
    @unittest.skipUnless(seeptest.may_become(), "needs root, to be somebody else")
    def test_postgres(self):
        versions = "/usr/lib/postgresql"
        programs = os.path.join(versions, max(os.listdir(versions)), "bin")
        user = pwd.getpwnam("postgres")
        os.chmod(self.dir, 0o711)
        lib = shutil.copy(seeptest.LIB, self.dir)
        os.chmod(lib, 0o755)
        home = self.dir + "/db"
        os.mkdir(home)
        os.chown(home, user.pw_uid, user.pw_gid)
        clean = seeptest.clean_env(HOME=home, LC_ALL="C")
        kw = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

        def run(*argv):
            return subprocess.run(argv, env=clean, cwd=home, stdin=subprocess.DEVNULL,
                                  capture_output=True, **kw)
        r = run(programs + "/initdb", "-D", home + "/data", "-A", "trust", "-N")
        self.assertEqual(r.returncode, 0, r.stderr)
        p = self.start([programs + "/postgres", "-D", home + "/data", "-h", "", "-k", home],
                       env=dict(clean, LD_PRELOAD=lib), **kw)
        until(lambda: run(programs + "/pg_isready", "-h", home).returncode == 0)
        r = run(programs + "/pgbench", "-i", "-h", home, "postgres")
        self.assertEqual(r.returncode, 0, r.stderr)
        helpers = children(p.pid)
        for pid in [p.pid, *helpers]:
            self.ask(pid)
        busy = self.load(programs + "/pgbench", "-h", home, "-c", "4", "-T", "600",
                         "postgres", env=clean, **kw)
        until(lambda: len(set(children(p.pid)) - set(helpers)) >= 4)
        self.ask_often([p.pid, *children(p.pid)])
        self.assertIsNone(busy.poll())
        self.assertTrue(os.path.exists(f"/proc/{p.pid}"))


seeptest.main()
