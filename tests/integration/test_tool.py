# SPDX-License-Identifier: Apache-2.0
"""The seep command: usage, programs it cannot help, environment, signals, verdicts."""
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import seeptest
from seeptest import seep

LEAKS = seeptest.victim("leak/leaks")


class Tool(seeptest.TestCase):
    def seep(self, *argv, **kw):
        kw.setdefault("cwd", self.dir)
        return seep(*argv, **kw)

    def last(self, r):
        return r.stderr.decode().splitlines()[-1]

    def test_help(self):
        for argv in (["--help"], ["run", "--help"], ["gate", "--help"]):
            r = self.seep(*argv)
            self.assertEqual((r.returncode, r.stderr), (0, b""))
            self.assertIn(b"usage: seep", r.stdout)
        for word in self.seep("--help").stdout.decode().split("Commands:")[1].split("\n\n")[0] \
                .splitlines()[1:]:
            self.assertEqual(self.seep(word.split()[0], "--help").returncode, 0, word)

    def test_sanitizers(self):
        """Refused is what is linked so, not what mentions one."""
        path = os.path.join(self.dir, "program")
        shutil.copy("/bin/true", path)
        with open(path, "ab") as f:
            f.write(b"libasan.so.8\0libtsan.so.2\0liblsan.so.0\0")
        r = self.seep("gate", "--", path)
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"))
        for name, word in (("address", "Address"), ("thread", "Thread"), ("leak", "Leak")):
            made = subprocess.run(["gcc", "-xc", "-", "-o", path, "-fsanitize=" + name],
                                  input=b"int main(void) { return 0; }", capture_output=True)
            if made.returncode == 0:
                r = self.seep("gate", "--", path)
                self.assertEqual((r.returncode, self.last(r)), (
                    24, f"seep: INCOMPLETE: {path} is built with {word}Sanitizer, which "
                    "brings its own malloc; build it without"))

    def test_version(self):
        self.assertRegex(self.seep("--version").stdout.decode(), r"^seep \d+\.\d+\.\d+\n$")

    def test_usage_errors(self):
        for argv in ([], ["frobnicate"], ["run"], ["gate"], ["run", "--nonsense", "true"],
                     ["gate", "--exitcode=999", "true"], ["run", "-O", "x", "true"],
                     ["gate", "--lib=/nonexistent", "true"]):
            r = self.seep(*argv)
            self.assertEqual(r.returncode, 25, argv)
            self.assertEqual(len(r.stderr.decode().splitlines()), 1, argv)
            self.assertEqual(r.stdout, b"")

    def test_a_usage_error_names_option_and_value(self):
        for argv, message in (
                (["gate", "--exitcode=x", "true"], "--exitcode x: not a number"),
                (["gate", "--exitcode=256", "true"], "--exitcode 256: must be from 0 to 255"),
                (["escape", "--top=-1", "true"], "--top -1: must be at least 0"),
                (["escape", "-O", "x", "true"], "-O x: not KEY=VALUE"),
                (["heap", "--signal=65", "1"], "--signal 65: must be from 1 to 64"),
                (["diff", "-n", "99999999999999999999", "a", "b"],
                 "-n 99999999999999999999: not a number")):
            r = self.seep(*argv)
            self.assertEqual((r.returncode, r.stderr.decode()), (25, f"seep: {message}\n"))

    def test_options_are_looked_at_before_the_start(self):
        directory = os.path.join(self.dir, "directory")
        os.mkdir(directory)
        for argv, words in ((["--mode", "loud"], '"mode=loud" must be off, sampled or exact'),
                            (["--sample=0"], '"sample=0" must be a size'),
                            (["-O", "bogus=1"], '"bogus" is not an option'),
                            (["--suppressions", "/none"],
                             "suppressions /none: No such file or directory"),
                            (["--suppressions", directory], "Is a directory"),
                            (["-o", "/none/x/y"], "cannot write to /none/x: No such file"),
                            (["-o", "/dev/null/y"], "cannot write to /dev/null: "),
                            (["--quiet=x"], "--quiet=x: takes no value"),
                            (["--sample"], "--sample: its value is missing"),
                            (["--nonsense"], "--nonsense: unknown option")):
            r = self.seep("run", *argv, *(["--", "echo", "hi"] if argv != ["--sample"] else []))
            lines = r.stderr.decode().splitlines()
            self.assertEqual((r.returncode, r.stdout, len(lines)), (25, b"", 1), (argv, lines))
            self.assertIn(words, lines[0])

    def test_a_gate_needs_no_files(self):
        r = self.seep("gate", "-o", "/dev/null/y", "--", LEAKS, "direct")
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1"))
        self.assertEqual(r.stderr.count(b"/dev/null"), 1)
        r = self.seep("gate", "-o", "/dev/null/y", "--", "true")
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"))

    def test_nobody_reads_the_lines(self):
        """The status is the program's, and nothing is left behind."""
        for command, status in (("run", 5), ("gate", 5)):
            reader, writer = os.pipe()
            os.close(reader)
            p = subprocess.run([seeptest.TOOL, command, "--", "sh", "-c", "exit 5"],
                               stderr=writer, cwd=self.dir,
                               env=seeptest.clean_env(TMPDIR=self.dir))
            os.close(writer)
            self.assertEqual(p.returncode, status, command)
            self.assertEqual(os.listdir(self.dir), ["seep.out"])

    def test_standard_output_is_full(self):
        seep("run", "-q", "-o", "x", "--no-follow", "--", "ls", cwd=self.dir)
        for argv in (["--help"], ["gate", "--help"], ["--version"],
                     ["report", self.one("x.*.heap.pb.gz")],
                     ["escape", "--from", self.one("x.*.escape.pb.gz")]):
            with open("/dev/full", "wb") as full:
                r = subprocess.run([seeptest.TOOL, *argv], stdout=full,
                                   stderr=subprocess.PIPE, env=seeptest.clean_env())
            self.assertEqual((r.returncode, r.stderr.count(b"\n")), (24, 1), argv)
            self.assertIn(b"No space left on device", r.stderr)

    def test_colours(self):
        """On a terminal that can, unless it is unwanted."""
        for env, wanted in (({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False),
                            ({"TERM": "xterm", "NO_COLOR": "1"}, False),
                            ({"TERM": "xterm", "NO_COLOR": ""}, True)):
            master, slave = os.openpty()
            subprocess.run([seeptest.TOOL, "frobnicate"], stderr=slave,
                           env=seeptest.clean_env(**env))
            os.close(slave)
            self.assertEqual(b"\033[31m" in os.read(master, 1000), wanted, env)
            os.close(master)

    def test_summary_names_what_is_there(self):
        """Each line of the top once; no file that could not be written."""
        r = self.seep("run", "--", "perl", "-e", "1")
        sites = re.findall(r"in +\d+  (.* < .*)", r.stderr.decode())
        self.assertGreater(len(sites), 3)
        self.assertEqual(len(sites), len(set(sites)))
        r = self.seep("run", "--mode=off", "--no-threads", "--no-escape", "--", "true")
        self.assertEqual((r.returncode, r.stderr),
                         (0, b"seep: true has recorded nothing: mode=off, or it ended by a "
                          b"system call of its own\n"))
        r = seep("run", "--", "true", cwd=self.dir, preexec_fn=lambda:
                 resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
        self.assertEqual((r.returncode, r.stderr.count(b"\n")), (24, 1))
        self.assertIn(b"File too large (see ulimit -f)", r.stderr)

    def test_not_found(self):
        self.assertEqual(self.seep("run", "no-such-program").returncode, 127)
        path = os.path.join(self.dir, "plain")
        open(path, "w").close()
        self.assertEqual(self.seep("gate", path).returncode, 126)
        r = self.seep("threads", self.dir + "/none")
        self.assertEqual((r.returncode, r.stderr.decode()),
                         (25, f"seep: {self.dir}/none: neither a process id nor a file to "
                               "be read\n"))

    def test_cannot_be_run(self):
        """One line says why; the shell is not asked about what is no script."""
        self.assertEqual(self.seep("run", "--", self.dir).stderr.decode(),
                         f"seep: {self.dir}: it is a directory\n")
        path = self.dir + "/file"
        for start, why in (("#!/none\n", "its interpreter is not there"),
                           ("\x7fELF", "Exec format error")):
            with open(path, "w") as f:
                f.write(start + "exit 9\n")
            os.chmod(path, 0o755)
            r = self.seep("run", "--", path)
            self.assertEqual((r.returncode, r.stderr.decode()),
                             (126, f"seep: cannot run {path}: {why}\n"))
            r = self.seep("gate", "--", path)
            self.assertEqual((r.returncode, r.stderr.decode().splitlines()[-1]),
                             (126, f"seep: INCOMPLETE: {path} could not be run: {why}"))

    def test_script_without_interpreter(self):
        """The shell runs it, with its arguments."""
        path = self.dir + "/script"
        with open(path, "w") as f:
            f.write('echo "$0 $2"\nexit 5\n')
        os.chmod(path, 0o755)
        for command in ("run", "gate"):
            r = self.seep(command, "--", path, "a", "b c")
            self.assertEqual((r.returncode, r.stdout.decode()), (5, f"{path} b c\n"))

    def test_help_of_a_command(self):
        self.assertEqual(self.seep("help", "gate").stdout,
                         self.seep("gate", "--help").stdout)
        self.assertEqual(self.seep("help", "none").returncode, 25)

    def test_status_and_output_are_the_programs(self):
        for command in ("run", "gate"):
            r = self.seep(command, "--", "bash", "-c", "cat; exit 7", stdin=None,
                          input=b"abc")
            self.assertEqual((r.returncode, r.stdout), (7, b"abc"))
            r = self.seep(command, "--", "bash", "-c", "kill -KILL $$")
            self.assertEqual(r.returncode, 128 + 9)

    def test_run_writes_and_summarizes(self):
        r = self.seep("run", "--", "bash", "-c", "echo hi")
        self.assertEqual((r.returncode, r.stdout), (0, b"hi\n"))
        for kind in ("heap", "allocs", "peak", "escape", "threads"):
            self.one(f"seep.out/bash.*.{kind}.pb.gz")
        text = r.stderr.decode()
        self.assertTrue(all(l.startswith("seep: ") for l in text.splitlines()))
        for word in ("peak", "top sites", "files:", "go tool pprof"):
            self.assertIn(word, text)
        self.assertEqual(os.stat(os.path.join(self.dir, "seep.out")).st_mode & 0o777, 0o700)
        with open(os.path.join(self.dir, "seep.out/run.json")) as f:
            j = json.load(f)
        self.assertEqual(j["schema"], 1)
        self.assertTrue(j["processes"][0]["served"])
        for f in j["files"]:
            self.assertEqual(os.stat(f).st_mode & 0o777, 0o600)

    def test_files_that_cannot_be_written_are_not_listed(self):
        """The program puts a file where the directory was."""
        r = self.seep("run", "-o", "gone/%e", "--", "bash", "-c", "rm -r gone; : >gone")
        self.assertEqual(r.returncode, 0)
        self.assertRegex(r.stderr, b"cannot write .*/gone/bash")
        self.assertNotIn(b"seep: files:", r.stderr)
        self.assertNotIn(b"look closer", r.stderr)

    def test_older_files_stay(self):
        for _ in range(2):
            self.seep("run", "-q", "-o", "same%%", "--", "true")
        self.assertEqual(len([f for f in os.listdir(self.dir) if ".heap." in f]), 2)

    def test_preload_is_kept(self):
        holder = seeptest.preloadable(os.environ["VICTIM_LIBRARY"])
        r = self.seep("run", "-q", "--", "bash", "-c", "echo $LD_PRELOAD; cat /proc/$$/maps",
                      env={"LD_PRELOAD": holder})
        self.assertIn(holder, r.stdout.decode().splitlines()[0])
        self.assertIn(b"libseep.so", r.stdout)

    def test_library_path_with_spaces_and_colons(self):
        odd = os.path.join(self.dir, "a b:c")
        os.mkdir(odd)
        shutil.copy(seeptest.LIB, os.path.join(odd, "libseep.so"))
        r = self.seep("gate", "--lib", os.path.join(odd, "libseep.so"), "--", "true")
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"))

    def test_hopeless_programs(self):
        static = seeptest.victim("integration/static_victim")
        r = self.seep("run", "--", static)
        self.assertEqual((r.returncode, r.stdout), (3, b"static\n"))
        self.assertIn(b"statically linked", r.stderr)
        own = seeptest.victim("integration/own_malloc")
        r = self.seep("gate", "--", own)
        self.assertIn(b"has its own malloc", r.stderr)
        self.assertEqual(r.returncode, 24)
        self.assertIn("brings its own malloc", self.last(r))
        r = self.seep("run", "--", own)
        self.assertEqual(r.returncode, 0)
        self.assertIn(b"served no call", r.stderr)

    def test_the_loader_as_program(self):
        loader = "/lib64/ld-linux-x86-64.so.2"
        r = self.seep("gate", "-q", "--", loader, LEAKS, "direct")
        self.assertEqual((r.returncode, r.stderr.decode()),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1\n"))

    def test_fixed_address_is_not_its_own_malloc(self):
        r = self.seep("gate", "--", seeptest.victim("integration/fixed_address"))
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=77 sites=1"))

    def test_gate_verdicts(self):
        r = self.seep("gate", "--", LEAKS, "direct")
        self.assertEqual((r.returncode, self.last(r)),
                         (23, "seep: LEAK objects=1 bytes=100 sites=1"))
        self.assertIn(b"lose", r.stderr)
        r = self.seep("gate", "--exitcode=9", "--", LEAKS, "direct")
        self.assertEqual(r.returncode, 9)
        r = self.seep("gate", "--", LEAKS, "interior")
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"))
        r = self.seep("gate", "--", "bash", "-c", "kill -KILL $$")
        self.assertTrue(self.last(r).startswith("seep: INCOMPLETE: "), r.stderr)

    def test_gate_of_a_tree(self):
        r = self.seep("gate", "--", "bash", "-c",
                      '"$0" direct && "$0" thousand && echo fine', LEAKS)
        self.assertEqual((r.returncode, r.stdout, self.last(r)),
                         (23, b"fine\n", "seep: LEAK objects=1001 bytes=16100 sites=2"))
        r = self.seep("gate", "--", "bash", "-c", "(kill -KILL $BASHPID); exit 0")
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"), r.stderr)
        self.assertIn(b"not checked", r.stderr)
        r = self.seep("gate", "--strict", "--", "bash", "-c", "(kill -KILL $BASHPID); exit 0")
        self.assertEqual(r.returncode, 24)

    def test_gate_survives_closed_descriptors(self):
        r = self.seep("gate", "--", "bash", "-c", 'exec 2>&- "$0" direct', LEAKS)
        self.assertEqual(self.last(r), "seep: LEAK objects=1 bytes=100 sites=1")

    def test_suppressions(self):
        path = os.path.join(self.dir, "supp")
        with open(path, "w") as f:
            f.write("leak:lose\n")
        r = self.seep("gate", "--suppressions", path, "--", LEAKS, "direct")
        self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"))

    def test_suppressions_that_cannot_be_read(self):
        """Too large, too many, binary: said, and nothing more is suppressed."""
        path, pipe = os.path.join(self.dir, "supp"), os.path.join(self.dir, "pipe")
        os.mkfifo(pipe)
        self.assertEqual(self.seep("gate", "--suppressions", pipe, "true").returncode, 25)
        for text, why in ((b"#" * (4 << 20) + b"\n", "more than 4 MiB"),
                          (b"leak:nobody\n" * 5000, "904 suppressions are left out"),
                          (b"leak:los\0leak\n", "supp:1: not a suppression"),
                          (b"{\nx\nMemcheck:Leak\n...\n}\n", "supp:5: not a suppression")):
            with open(path, "wb") as f:
                f.write(text)
            r = self.seep("gate", "--suppressions", path, LEAKS, "direct")
            self.assertEqual((r.returncode, self.last(r)),
                             (23, "seep: LEAK objects=1 bytes=100 sites=1"))
            self.assertIn(why, r.stderr.decode())

    def test_odd_names(self):
        """A line stays one, and suppressions that were made of it can be read."""
        for name in ("new\nseep: clean", "tab\t\x1b[31m", "q\"uo'te*", "<b>]]>&", "\udcff",
                     "l" * 200):
            program = os.path.join(self.dir, name)
            shutil.copy(LEAKS, program)
            r = self.seep("gate", "--gen-suppressions", "supp", program, "direct")
            lines = r.stderr.split(b"\n")
            self.assertEqual((r.returncode, lines.pop()), (23, b""), name)
            for line in lines:
                self.assertRegex(line, rb"^seep: [^\x00-\x1f\x7f]*$", name)
            r = self.seep("gate", "--suppressions", "supp", program, "direct")
            self.assertEqual((r.returncode, self.last(r)), (0, "seep: clean"), name)

    def test_signals_are_forwarded(self):
        for command in ("run", "gate"):
            p = subprocess.Popen([seeptest.TOOL, command, "--", "bash", "-c",
                                  "mkfifo f; exec 3<>f; rm f; "
                                  "trap 'echo got; exit 0' TERM; echo ready; "
                                  "while :; do read -t 1 -u 3 x; done"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env=seeptest.clean_env(), cwd=self.dir)
            self.assertEqual(p.stdout.readline(), b"ready\n")
            p.send_signal(signal.SIGTERM)
            out, err = p.communicate(timeout=seeptest.TIMEOUT)
            # bash may lose memory of its own on the way; that is the gate's to say.
            self.assertIn(p.returncode, (0, 23) if command == "gate" else (0,), err)
            self.assertEqual(out, b"got\n")

    def test_own_options_win(self):
        r = self.seep("run", "-q", "-o", "x", "--mode", "sampled", "--", "true",
                      env={"SEEP_OPTIONS": "mode=off"})
        self.assertEqual(r.returncode, 0)
        self.one("x.*.heap.pb.gz")


seeptest.main()
