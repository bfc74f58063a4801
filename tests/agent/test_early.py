# SPDX-License-Identifier: Apache-2.0
"""A process that begins, or becomes another program, survives being asked."""
import os
import subprocess
import seeptest

ROUNDS = 1500


@seeptest.needs_ptrace
class Early(seeptest.TestCase):
    def start(self, name, *args, first=""):
        env = seeptest.clean_env()
        env["LD_PRELOAD"] = first + seeptest.LIB
        p = subprocess.Popen([seeptest.victim("agent/" + name), *args], env=env,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(p.kill)
        return p

    def test_before_the_library_is_relocated(self):
        p = self.start("early_main")
        self.assertEqual(p.stdout.read(1), b"1")
        tool = subprocess.Popen([seeptest.TOOL, "heap", "-q", str(p.pid)], cwd=self.dir,
                                stderr=subprocess.PIPE)
        # It has tried by then: the process has been stopped and went on, or is gone.
        with self.assertRaises(subprocess.TimeoutExpired):
            tool.wait(1)
        p.stdin.write(b"g")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), b"runs\n")
        text = tool.communicate(timeout=seeptest.TIMEOUT)[1].decode()
        self.assertEqual(tool.returncode, 0, text)
        p.stdin.close()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        p.stdout.close()

    def test_before_the_library_is_loaded(self):
        """The loader waits at a pipe that it is to load first."""
        pipe = os.path.join(self.dir, "pipe")
        os.mkfifo(pipe)
        p = self.start("live", first=pipe + ":")
        tool = subprocess.Popen([seeptest.TOOL, "check", str(p.pid)], cwd=self.dir,
                                stderr=subprocess.PIPE)
        # Longer than for any young process.
        with self.assertRaises(subprocess.TimeoutExpired):
            tool.wait(2)
        os.close(os.open(pipe, os.O_WRONLY))
        text = tool.communicate(timeout=seeptest.TIMEOUT)[1].decode()
        self.assertEqual((tool.returncode, text.splitlines()[-1]), (0, "seep: clean"), text)
        p.stdin.close()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        p.stdout.close()

    def test_at_an_exec(self):
        p = self.start("execs", str(ROUNDS))
        self.assertEqual(p.stdout.readline(), b"began\n")
        while p.poll() is None:
            r = seeptest.seep("heap", "-q", str(p.pid), cwd=self.dir)
            self.assertIn(r.returncode, (0, 24), r.stderr)
        self.assertEqual(p.returncode, 0)
        self.assertEqual(p.stdout.read(), b"done\n")
        p.stdout.close()
        p.stdin.close()

    def test_in_an_exec_that_takes_long(self):
        """A signal that waits there would end the new program."""
        p = self.start("slow_exec")
        pid = int(p.stdout.readline())
        r = seeptest.seep("heap", "-q", str(pid), cwd=self.dir)
        p.stdin.write(b"g")
        p.stdin.close()
        self.assertEqual(p.stdout.read(), b"7 0\n")
        self.assertEqual(r.returncode, 24)
        self.assertIn(b"no signal comes", r.stderr)
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        p.stdout.close()

    def test_a_device_is_not_replaced(self):
        p = self.start("early_main")
        self.assertEqual(p.stdout.read(1), b"1")
        p.stdin.write(b"g")
        p.stdin.flush()
        self.assertEqual(p.stdout.readline(), b"runs\n")
        null = os.path.join(self.dir, "null")
        os.symlink("/dev/null", null)
        for command in (["heap", "-q", "-o", null], ["leak", "-q", "-o", null],
                        ["check", "-q", "--save", null], ["check", "-q", "--json", null]):
            r = seeptest.seep(*command, str(p.pid), cwd=self.dir)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertTrue(os.path.islink(null), command)
        p.stdin.close()
        self.assertEqual(p.wait(seeptest.TIMEOUT), 0)
        p.stdout.close()


seeptest.main()
