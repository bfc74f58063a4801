# SPDX-License-Identifier: Apache-2.0
"""The gate of whole trees: what is not covered is listed, statuses stay, daemons and servers
are checked before they end."""
import ctypes.util
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import termios
import time
import unittest
import seeptest
import servers

EXITS = seeptest.victim("integration/exits")
STATIC = seeptest.victim("integration/static_victim")
PYTHON = "/usr/bin/python3"
DEADLINE = 300  # seconds, of a loaded machine's
HOWS = ["_exit", "handler-exit", "exec", "abort", "segv", "raise-2", "raise-13", "fork-raise",
        "thread-fork-exit", "vfork-exec"]
MAKEFILE = "check: %s\n" % " ".join(f"{h}.log" for h in HOWS) + """
%.log:
\t@s=0; $(EXITS) $* > $@ || s=$$?; echo "status $$s" >> $@; exit $$s
recurse:
\t@$(MAKE) -s -f $(firstword $(MAKEFILE_LIST)) check || echo "make $$?"
"""


def answers(path):
    """A server is there, and has closed the connection or answered."""
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(s.recv(1))
        except OSError:
            return False


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def pending(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return sum(int(line.split()[1], 16) for line in f
                   if line.startswith(("SigPnd", "ShdPnd")))


def is_tool(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().startswith(seeptest.TOOL.encode())
    except OSError:
        return False


class Gate(seeptest.TestCase):
    def gate(self, *argv, options=("-q",), **kw):
        return seeptest.seep("gate", *options, "--", *argv, cwd=self.dir, **kw)

    def last(self, r):
        return r.stderr.decode().splitlines()[-1]

    def processes(self):
        with open(self.dir + "/seep.out/run.json") as f:
            return json.load(f)["processes"]

    def test_slices_are_noted(self):
        """One line for all processes whose GLib hides leaks, unless it is told something."""
        mapped = "import ctypes, os, sys\n" \
                 "ctypes.CDLL(sys.argv[1])\n" \
                 "if os.fork():\n  os.wait()\n"
        real = os.path.join(self.dir, "libglib-2.0.so.0.")
        link = os.path.join(self.dir, "libglib-2.0.so.0")
        libm = ctypes.util.find_library("m")
        source = next(d for d in ("/lib/x86_64-linux-gnu/", "/usr/lib64/", "/lib64/",
                                  "/usr/lib/") if os.path.exists(d + libm)) + libm
        for version, env, notes in (("7400.6", {}, 1), ("7400.6", {"G_SLICE": "all"}, 0),
                                    ("7600.0", {}, 0), ("5", {}, 1), ("x", {}, 0)):
            shutil.copy(source, real + version)
            os.symlink(real + version, link)
            for options in ([], ["-q"]):
                r = self.gate(PYTHON, "-c", mapped, link, options=options,
                              env={"PYTHONMALLOC": "malloc", **env})
                text = r.stderr.decode()
                self.assertEqual(text.count("GLib's slices"), 0 if options else notes,
                                 (version, env, text))
            os.unlink(link)
            os.unlink(real + version)

    def test_static_command_runs(self):
        for strict in ([], ["--strict"]):
            r = self.gate(STATIC, "0", options=strict)
            self.assertEqual((r.returncode, r.stdout), (24, b"static\n"))
            self.assertIn("statically linked", self.last(r))
        r = self.gate(STATIC, "5")
        self.assertEqual((r.returncode, r.stdout), (5, b"static\n"))

    def test_children_of_a_static_command(self):
        """They are covered."""
        r = self.gate(STATIC, "0", EXITS, "return")
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1"))

    def test_inside_a_gate(self):
        """The inner one has its own processes and options, and loses nothing itself."""
        inner = f"{seeptest.TOOL} gate -q -- {EXITS} return; echo $?"
        r = self.gate("bash", "-c", inner, options=["-q", "-o", "outer/%e", "--possible"],
                      env={"SEEP_OPTIONS": "seed=3"})
        lines = r.stderr.decode().splitlines()
        self.assertEqual((r.returncode, r.stdout, lines[0], lines[-1]),
                         (0, b"23\n", "seep: LEAK objects=1 bytes=100 sites=1",
                          "seep: clean"), r)
        inner = f"{seeptest.TOOL} run -q -- bash -c 'echo $SEEP_OPTIONS'"
        r = self.gate("bash", "-c", inner, options=["-q", "-o", "outer/%e", "--possible"],
                      env={"SEEP_OPTIONS": "seed=3"})
        self.assertRegex(r.stdout.decode(), "^mode=exact:escape=bound:threads=on:run=[^:]*:"
                         "seed=3:run=[^:]*:out=seep.out/%e.%p\n$")

    def test_where_files_go(self):
        """-o, then -O out=, then SEEP_OPTIONS, then seep.out."""
        env = {"SEEP_OPTIONS": "out=three/%e"}
        for options, place in ((["-O", "out=two/%e", "-o", "one/%e"], "one"),
                               (["-O", "out=two/%e"], "two"), ([], "three")):
            self.gate(EXITS, "return", options=["-q", *options], env=env)
            files = os.listdir(f"{self.dir}/{place}")
            self.assertEqual([f for f in files if f.endswith(".report.json")],
                             [f for f in files if f.startswith("exits.")
                              and f.endswith(".report.json")])
            self.assertIn("run.json", files)
            self.assertEqual(len(files), 6, files)
        self.assertEqual(sorted(os.listdir(self.dir)), ["one", "three", "two"])

    def test_uncovered_are_listed(self):
        """However they were started."""
        with open(self.dir + "/m", "w") as f:
            f.write(f"all:\n\t@{STATIC} 0\n")
        spawn = f"import os; os.posix_spawn('{STATIC}', ['s', '0'], os.environ); os.wait()"
        call = f"import subprocess; subprocess.call(['{STATIC}', '0'])"
        for argv in (["sh", "-c", f"{STATIC} 0; true"], ["bash", "-c", f"{STATIC} 0; true"],
                     ["make", "-f", "m"], ["env", "-i", "true"],
                     ["sh", "-c", "env -i true; true"], ["perl", "-e", f"system('{STATIC} 0')"],
                     [PYTHON, "-c", spawn], [PYTHON, "-c", call]):
            r = self.gate(*argv, options=())
            self.assertRegex(r.stderr.decode(), r"(?m)^seep: not checked: .* without Seep \(",
                             argv)
            r = self.gate(*argv, options=("-q", "--strict"))
            self.assertEqual((argv, r.returncode),
                             (argv, 23 if b"LEAK" in r.stderr else 24))
            self.assertRegex(self.last(r), "LEAK|without Seep")

    def test_name_without_proc(self):
        if subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
            self.skipTest("unshare is not permitted")
        r = self.gate("unshare", "-m", "sh", "-c",
                      f"mount -t tmpfs none /proc && exec {EXITS} return", options=())
        self.assertRegex(self.last(r), r"^seep: INCOMPLETE: \S*/exits \(process \d+\): the list")

    def test_covered_are_not(self):
        """Of programs that there are not nothing is said either."""
        for argv in (["sh", "-c", "nosuch; true; ls / >/dev/null"],
                     ["sh", "-c", "env -u HOME true; (exec true); true | cat"],
                     ["make", "-f", "/dev/null", "-v"]):
            r = self.gate(*argv, options=("--strict",))
            self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"), r.stderr)
            self.assertEqual({p["state"] for p in self.processes()} - {"replaced"}, {"done"})

    def test_exec_unseen(self):
        """A program that makes room for another by a system call of its own is not clean."""
        said = f"{EXITS} (process N) became another program without a check"
        for argv, options, status in (([EXITS, "exec-syscall"], (), 24),
                                      (["sh", "-c", f"{EXITS} exec-syscall; true"], (), 0),
                                      (["sh", "-c", f"{EXITS} exec-syscall; true"],
                                       ("--strict",), 24)):
            r = self.gate(*argv, options=options)
            self.assertEqual(r.returncode, status, r.stderr)
            lines = re.sub(r"process \d+", "process N", r.stderr.decode())
            self.assertIn("seep: not checked: " + said, lines)
            self.assertIn("INCOMPLETE: " + said if status else "seep: clean", lines)

    def gate_dropped(self, *command):
        """A process that gives up its privileges cannot write into the tool's directory."""
        if os.geteuid() != 0:
            self.skipTest("needs root")
        r = self.gate(*command, EXITS, "dropped", options=())
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1"), r.stderr)
        self.assertRegex(r.stderr, b"(?m)^seep:     #1 main ")
        return self.processes()[0]

    def test_dropped_privileges(self):
        """Its report is shown all the same, and its files are there."""
        p = self.gate_dropped()
        kinds = {f.split(".", 3)[-1] for f in p["files"]}
        self.assertEqual(kinds, {"heap.pb.gz", "allocs.pb.gz", "peak.pb.gz", "leak.pb.gz",
                                 "report.json"})
        self.assertEqual(p["reason"], "")
        for f in p["files"]:
            st = os.stat(f)
            self.assertEqual((st.st_uid, st.st_mode & 0o777), (0, 0o600))
            with open(f, "rb") as opened:
                self.assertEqual(opened.read(2) == b"\x1f\x8b", f.endswith(".gz"), f)

    def test_dropped_privileges_choose_no_directory(self):
        """What such a process says of its files is followed into the tool's directory only."""
        os.mkdir(self.dir + "/elsewhere", 0o700)
        self.gate_dropped("sh", "-c", 'SEEP_OPTIONS="$SEEP_OPTIONS:out=$0" exec "$@"',
                          self.dir + "/elsewhere/x")
        self.assertEqual(os.listdir(self.dir + "/elsewhere"), [])

    def test_no_place_for_files(self):
        """The report is shown without any."""
        r = self.gate(EXITS, "return", options=("-o", "/proc/nowhere/x"))
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1"), r.stderr)
        self.assertIn(b"no files will be written", r.stderr)
        self.assertRegex(r.stderr, b"(?m)^seep:     #1 main ")

    def test_no_memory_for_the_check(self):
        """A process that may map nothing any more says that, not that it was killed."""
        r = self.gate(PYTHON, "-c", "import os, resource\n"
                      "resource.setrlimit(resource.RLIMIT_DATA, (0, 0))\nos._exit(4)")
        self.assertEqual(r.returncode, 4, r)
        self.assertIn(b"seep: INCOMPLETE: ", r.stderr)
        self.assertIn(b"out of memory", r.stderr)

    def test_many_processes(self):
        many = "i=0; while [ $i -lt 150 ]; do /bin/true; i=$((i+1)); done"
        r = self.gate("sh", "-c", many)
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"))
        self.assertEqual(len(self.processes()), 151)
        self.assertEqual({p["state"] for p in self.processes()}, {"done"})
        # no room for some: never a clean verdict, and nothing happens to the program

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (250000, 250000))
        r = self.gate("sh", "-c", many + "; echo end", preexec_fn=limit)
        self.assertEqual((r.returncode, r.stdout), (24, b"end\n"))
        self.assertEqual(self.last(r), "seep: INCOMPLETE: some processes were not followed: "
                                       "there was no room for them")

    def test_make_check(self):
        """Four at a time, some fail, some are killed: as without the gate."""
        with open(self.dir + "/m", "w") as f:
            f.write(MAKEFILE)
        seen = []
        for gate in ([], [seeptest.TOOL, "gate", "-q", "--"]):
            r = subprocess.run([*gate, "make", "-s", "-k", "-j4", "-f", "m", "EXITS=" + EXITS,
                                "check"], cwd=self.dir, env=seeptest.clean_env(),
                               capture_output=True, timeout=seeptest.TIMEOUT)
            logs = {}
            for how in HOWS:
                with open(f"{self.dir}/{how}.log") as f:
                    logs[how] = f.read()
                os.unlink(f"{self.dir}/{how}.log")
            seen.append((r.returncode, r.stdout, logs))
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0][0], 2)
        self.assertIn("status 134\n", seen[0][2]["abort"])
        # Each lost its 100 bytes, the forked children theirs too, wherever they had ended.
        self.assertRegex(self.last(r), r"^seep: LEAK objects=12 bytes=1200 ")
        exits = [p for p in self.processes() if p["exe"].endswith("/exits")]
        self.assertEqual(sum(p["verdict"] == "leak" for p in exits), 12)

    def test_signals_look_as_without(self):
        """Handlers of our own are shown to nobody (gdb says something about each)."""
        code = "import signal; print([signal.getsignal(s) for s in signal.valid_signals()])"
        plain = subprocess.run([PYTHON, "-c", code], capture_output=True, check=True,
                               env=seeptest.clean_env())
        self.assertEqual(self.gate(PYTHON, "-c", code).stdout, plain.stdout)
        self.assertNotIn(b"None", plain.stdout)

    def test_children_ignored(self):
        """Started by somebody who ignores SIGCHLD: as the program is, too."""
        def ignore():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        mask = ["sh", "-c", "grep SigIgn /proc/$$/status"]
        plain = subprocess.run(mask, capture_output=True, check=True, preexec_fn=ignore,
                               env=seeptest.clean_env())
        r = self.gate(*mask, preexec_fn=ignore)
        self.assertEqual((r.returncode, r.stdout, self.last(r)),
                         (0, plain.stdout, "seep: clean"))
        r = self.gate(EXITS, "return", preexec_fn=ignore)
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1"))

    def test_make_in_make(self):
        with open(self.dir + "/m", "w") as f:
            f.write(MAKEFILE)
        r = self.gate("make", "-s", "-j4", "-f", "m", "EXITS=true", "recurse")
        self.assertEqual((r.returncode, r.stdout, self.last(r)), (0, b"", "seep: clean"))

    def test_daemon(self):
        """Its parent is gone, its descriptors are closed; cat ends with it."""
        r = self.gate("sh", "-c", f"{EXITS} daemon | cat")
        self.assertEqual((r.returncode, r.stdout), (23, b"daemon\n"))
        self.assertEqual(self.last(r), "seep: LEAK objects=3 bytes=300 sites=3")
        self.assertEqual({p["state"] for p in self.processes()} - {"replaced"}, {"done"})

    def left_behind(self, what, *options):
        """A command that leaves a child behind, which waits until the command has ended, and
        then for a line in the file `go`. The tool, and the child's pid."""
        os.mkfifo(self.dir + "/go")
        os.mkfifo(self.dir + "/said")
        script = f"(read x < go; exec {what}) & echo $$ $! > said"
        p = subprocess.Popen([seeptest.TOOL, "gate", "-q", *options, "--", "sh", "-c", script],
                             cwd=self.dir, env=seeptest.clean_env(), stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with open(self.dir + "/said") as f:
            command, child = map(int, f.read().split())
        while os.path.exists(f"/proc/{command}"):
            time.sleep(0.01)
        return p, child

    def test_left_behind(self):
        """What outlives the command is waited for, and checked."""
        p, _ = self.left_behind(f"{EXITS} return", "--wait", "3600")
        with open(self.dir + "/go", "w") as f:
            f.write("\n")
        self.assertEqual(p.communicate(timeout=DEADLINE * 10)[1].decode().splitlines()[-1:],
                         ["seep: LEAK objects=1 bytes=100 sites=1"])
        self.assertEqual(p.returncode, 23)

    def test_left_behind_for_long(self):
        """But not for ever, nor once the user has asked for an end."""
        for options, asked in ((["--wait", "0"], False), (["--wait", "3600"], True)):
            p, child = self.left_behind("true", "--strict", *options)
            while asked and p.poll() is None:
                p.send_signal(signal.SIGINT)
                time.sleep(0.01)
            p.wait(DEADLINE * 10)
            os.kill(child, signal.SIGKILL)
            err = p.communicate()[1].decode().splitlines()[-1]
            self.assertRegex(err, r"^seep: INCOMPLETE: .*\(process \d+\) is still running$")
            self.assertEqual(p.returncode, 24)
            os.unlink(self.dir + "/go")
            os.unlink(self.dir + "/said")

    def test_daemon_alone(self):
        """The command has ended, perhaps before what it leaves is known of."""
        for how in ("daemon", "grandchild"):
            r = self.gate(EXITS, how, options=("-q", "--wait", "600"))
            self.assertEqual((how, r.returncode, self.last(r).split(" ")[1]),
                             (how, 23, "LEAK"))
            live = [p for p in self.processes() if p["state"] != "replaced"]
            self.assertEqual({p["state"] for p in live}, {"done"})

    # ---- signals ----

    def count_terms(self, send, how):
        """How many SIGTERMs the program gets before a SIGUSR1 that is for the tool alone."""
        p = subprocess.Popen([seeptest.TOOL, "gate", "-q", "--", EXITS, how], cwd=self.dir,
                             env=seeptest.clean_env(), stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        self.assertEqual(p.stdout.readline(), b"ready\n")
        send(p)
        self.assertEqual(p.stdout.readline(), b"came\n")
        p.send_signal(signal.SIGCONT)
        while pending(p.pid):
            os.sched_yield()
        p.send_signal(signal.SIGUSR1)
        return p.communicate(timeout=seeptest.TIMEOUT)[0].split()[-1]

    def test_signals_arrive_once(self):
        def to_the_group(p, first=None):
            """The program has it before the tool does anything."""
            p.send_signal(signal.SIGSTOP)
            while state(p.pid) != "T":
                os.sched_yield()
            if first:
                first(p)
            os.killpg(p.pid, signal.SIGTERM)

        def by_timeout(p):
            """It tells the tool, then the group."""
            to_the_group(p, to_the_tool)

        def to_the_tool(p):
            p.send_signal(signal.SIGTERM)

        def by_name(p):
            """All that bear the tool's name or arguments."""
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if is_tool(pid) and os.getpgid(int(pid)) == p.pid:
                    os.kill(int(pid), signal.SIGTERM)

        for send in (to_the_group, by_timeout, to_the_tool, by_name):
            self.assertEqual((send.__name__, self.count_terms(send, "count")),
                             (send.__name__, b"1"))
        # A program that is in a group of its own hears of it by the tool alone.
        self.assertEqual(self.count_terms(lambda p: os.killpg(p.pid, signal.SIGTERM),
                                          "count-apart"), b"1")

    # ---- servers that are told to stop ----

    def stop(self, argv, how, ready, **kw):
        """From a terminal of its own; how is a signal, or None: Ctrl-C."""
        tool, lib = seeptest.TOOL, seeptest.LIB
        if "user" in kw:
            tool, lib = shutil.copy(tool, self.dir), shutil.copy(lib, self.dir)
        master, slave = pty.openpty()
        p = subprocess.Popen([tool, "gate", "--lib", lib, "-q", "--", *argv],
                             cwd=self.dir, env=seeptest.clean_env(HOME=self.dir), stdin=slave,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             start_new_session=True,
                             preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **kw)
        os.close(slave)
        end = time.monotonic() + DEADLINE
        while not ready():
            self.assertIsNone(p.poll())
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        if how is None:
            os.write(master, b"\x03")
        else:
            p.send_signal(how)
        text = p.communicate(timeout=seeptest.TIMEOUT)[1].decode()
        os.close(master)
        return p.returncode, text.splitlines()[-1]

    def hows(self, argv, ready, status, **kw):
        for how in (signal.SIGTERM, signal.SIGINT, None):
            code, last = self.stop(argv, how, ready, **kw)
            self.assertEqual((how, code), (how, status), last)
            self.assertRegex(last, "^seep: (clean$|LEAK )")
            for p in self.processes():
                self.assertIn(p["state"], ("done", "replaced"))
                self.assertIn(p["verdict"], ("clean", "leak"))

    @unittest.skipUnless(shutil.which("redis-server"), "no redis")
    def test_redis(self):
        sock = self.dir + "/sock"
        self.hows(["redis-server", "--port", "0", "--unixsocket", sock, "--save", ""],
                  lambda: answers(sock), 0)

    @unittest.skipUnless(shutil.which("nginx"), "no nginx")
    def test_nginx(self):
        """Only epoll's data leads to a worker's table of connections when it ends."""
        self.hows(servers.nginx(self.dir), lambda: answers(self.dir + "/sock"), 0)

    @unittest.skipUnless(servers.POSTGRES, "no postgres")
    def test_postgres(self):
        """It does lose a copy of its environment."""
        user = servers.not_root(self)

        def ready():
            return subprocess.run([servers.postgres_tool("pg_isready"), "-h", self.dir],
                                  capture_output=True).returncode == 0
        self.hows(servers.postgres(self, user), ready, 23, **user)


seeptest.main()
