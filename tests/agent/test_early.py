# SPDX-License-Identifier: Apache-2.0
"""A process that begins, or becomes another program, survives being asked."""
import os
import subprocess
import seeptest

ROUNDS = 1500


class Early(seeptest.TestCase):
    def start(self, name, *args):
        env = seeptest.clean_env()
        env["LD_PRELOAD"] = seeptest.LIB
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
        text = tool.communicate(timeout=60)[1].decode()
        self.assertEqual(tool.returncode, 0, text)
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)
        p.stdout.close()

    def test_before_the_library_is_mapped(self):
        """The loader waits for a writer of the first thing that it is to preload."""
        fifo = os.path.join(self.dir, "fifo")
        os.mkfifo(fifo)
        env = seeptest.clean_env()
        env["LD_PRELOAD"] = f"{fifo} {seeptest.LIB}"
        p = subprocess.Popen(["cat"], env=env, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(p.kill)
        tool = subprocess.Popen([seeptest.TOOL, "heap", "-q", str(p.pid)], cwd=self.dir,
                                stderr=subprocess.PIPE)
        with self.assertRaises(subprocess.TimeoutExpired):
            tool.wait(3)  # older than a process that may be about to exec
        with open(fifo, "wb"):
            pass
        text = tool.communicate(timeout=60)[1].decode()
        self.assertEqual(tool.returncode, 0, text)
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)
        p.stdout.close()

    def test_at_once(self):
        """server & seep heap $!"""
        r = seeptest.run(f"for i in 1 2 3 4 5 6 7 8 9 10; do "
                         f"LD_PRELOAD={seeptest.LIB} sleep 60 & "
                         f"{seeptest.TOOL} heap -q $! || echo \"status $?\"; kill $!; wait $! || true; done",
                         preload=False, cwd=self.dir)
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, b"", b""))

    def test_a_program_without_the_library(self):
        p = subprocess.Popen(["cat"], env=seeptest.clean_env(), stdin=subprocess.PIPE)
        self.addCleanup(p.kill)
        r = seeptest.seep("heap", "-q", str(p.pid), cwd=self.dir)
        self.assertEqual(r.returncode, 24)
        self.assertIn(b"libseep.so is not loaded", r.stderr)
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)

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
        self.assertEqual(p.wait(60), 0)
        p.stdout.close()


seeptest.main()
