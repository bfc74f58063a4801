# SPDX-License-Identifier: Apache-2.0
"""The hazards of preloading a malloc, one test each; the table is in hazards.c."""
import glob
import os
import re
import stat
import unittest
import seeptest

MODES = ["mode=off", "mode=sampled:sample=4K", "mode=exact:escape=bound:threads=on"]
CASES = {
    "hazards": ["early", "fork", "forks", "spawn", "many_threads", "little_space",
                "exit_handlers", "environment", "descriptors", "signals", "loading"],
    "hazards_stack": ["small_stack", "coroutines", "signal_stack", "frame_pointer",
                      "deep_recursion", "cancel"],
    "hazards_load": ["deepbind", "dlmopen", "runpath", "unload", "load_threads"],
    "hazards_proc": ["clone_vm", "clone_copy", "just_outside", "fork_handlers",
                     "fork_at_exit", "vfork_exec", "spawn_threads", "reexec", "daemon",
                     "no_proc", "no_arguments", "break", "no_counter", "sandbox_refuses",
                     "sandbox_kills"],
}
HOOK = seeptest.preloadable(seeptest.victim("integration/libhazard_hook.so"))
PLUGINS = {"PLUGINS": seeptest.victim("integration"), "LATE": seeptest.LIB}


def victim(name):
    return seeptest.victim("integration/" + name)


class Hazards(seeptest.TestCase):
    def passes(self, argv, options=None, **kw):
        kw.setdefault("env", {}).update(PLUGINS, LD_LIBRARY_PATH="")
        r = seeptest.run(argv, options=options, **kw)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        return r

    def test_deepbind_on(self):
        self.passes([victim("hazards_load"), "deepbind_on"], options="deepbind=on",
                    env={"PLUGIN_QUIET": "1"})

    def test_load_late(self):
        for mode in MODES:
            r = self.passes([victim("hazards_load"), "load_late"], preload=False,
                            env={"SEEP_OPTIONS": mode})
            self.assertEqual(r.stderr, b"")

    def test_beside_hooks(self):
        for preload in (f"{HOOK}:{seeptest.LIB}", f"{seeptest.LIB}:{HOOK}"):
            for mode in MODES:
                for argv in ((victim("hazards"), "early"), (victim("hazards"), "forks"),
                             (victim("hazards"), "exit_handlers"),
                             (victim("hazards_stack"), "cancel"),
                             (victim("hazards_load"), "load_threads")):
                    self.passes(argv, preload=False,
                                env={"LD_PRELOAD": preload, "SEEP_OPTIONS": mode})

    def test_audit(self):
        for mode in MODES:
            for argv in ((victim("hazards"), "early"), (victim("hazards_load"), "unload")):
                self.passes(argv, options=mode, env={"LD_AUDIT": HOOK})

    def check_tree(self, pattern, prefix):
        r = self.passes([victim("hazards_proc"), "family_tree"],
                        options=f"mode=exact:leak=exit:exitcode=0:out={pattern}")
        lost = {"parent": 1111}
        pids = re.findall(r"(\w+) (\d+)", r.stdout.decode())
        self.assertEqual([who for who, _ in pids], ["child", "child", "parent"])
        for (who, pid), size in zip(pids, (2222, 3333, 1111)):
            report = self.report(f"{prefix}{pid}.report.json")
            self.assertEqual(report["pid"], int(pid))
            self.assertEqual([l["bytes"] for l in report["leaks"]], [size], who)
            self.one(f"{prefix}{pid}.heap.pb.gz")
        for f in glob.glob(self.dir + "/*"):
            self.assertEqual(stat.S_IMODE(os.stat(f).st_mode), 0o600)
        self.assertEqual(len(glob.glob(self.dir + "/*.heap.pb.gz")), 3)

    def test_child_profiles(self):
        self.check_tree(self.dir + "/x.%p", "x.")

    def test_child_profiles_without_pid(self):
        self.check_tree(self.dir + "/%e", "hazards_proc.")

    def test_child_not_followed(self):
        r = self.passes([victim("hazards_proc"), "family_tree"],
                        options=f"mode=exact:follow=off:out={self.dir}/x")
        parent = re.search(rb"parent (\d+)", r.stdout)[1].decode()
        self.one(f"x.{parent}.heap.pb.gz")
        self.assertEqual(len(glob.glob(self.dir + "/*.heap.pb.gz")), 1)

    def test_exec_children(self):
        self.passes("sh -c /bin/true; true; exec /bin/true",
                    options=f"mode=exact:out={self.dir}/%e")
        names = [os.path.basename(f) for f in glob.glob(self.dir + "/*.heap.pb.gz")]
        # One for each program that a process ran, those before exec as well.
        self.assertEqual(sorted(n.split(".")[0] for n in names),
                         ["bash", "dash", "true", "true"], names)

    def test_fixed_address(self):
        self.passes([victim("fixed")],
                    options=f"mode=exact:leak=exit:exitcode=0:out={self.dir}/x")
        self.assertEqual([l["bytes"] for l in self.report()["leaks"]], [4321])

    def test_reexec_files(self):
        script = ("import os,sys; n=len(sys.argv)\n"
                  "if n == 1 and os.fork() == 0: os.execv(sys.executable, "
                  "[sys.executable, '-c', 'pass'])\n"
                  "if n == 1: os.wait()")
        self.passes(["/usr/bin/python3", "-c", script],
                    options=f"mode=exact:out={self.dir}/x")
        self.assertEqual(len(glob.glob(self.dir + "/x.*.heap.pb.gz")), 2)

    @unittest.skipUnless(seeptest.may_become(), "needs another user")
    def test_secure(self):
        """AT_SECURE: a set-user-ID program linked with the library obeys no environment."""
        program = self.dir + "/secure"
        with open(victim("secure"), "rb") as f, open(program, "wb") as g:
            g.write(f.read())
        os.chmod(program, 0o4755)
        os.chmod(self.dir, 0o777)
        env = {"SEEP_OPTIONS": f"nonsense=1:mode=exact:leak=exit:out={self.dir}/x",
               "LD_PRELOAD": seeptest.LIB}
        r = self.passes([program], preload=False, env=env,
                        preexec_fn=lambda: os.setresuid(65534, 65534, 65534))
        if r.stdout != b"secure 1\n":
            self.skipTest("set-user-ID has no effect here")
        self.assertEqual(r.stderr, b"")
        self.assertEqual(os.listdir(self.dir), ["secure"])


def add(program, case, mode):
    def test(self):
        self.passes([victim(program), case],
                    options=f"{mode}:out={self.dir}/x" if "exact" in mode and
                    "sandbox" not in case else mode)
    setattr(Hazards, f"test_{case}_{MODES.index(mode)}", test)


for p, names in CASES.items():
    for c in names:
        for m in MODES:
            add(p, c, m)

seeptest.main()
