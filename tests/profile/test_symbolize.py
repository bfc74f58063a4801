# SPDX-License-Identifier: Apache-2.0
"""seep symbolize: lines and inlined frames, where debug information comes from, what pprof
makes of it with the binary gone, and what must not happen."""
import ctypes
import gzip
import glob
import http.server
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import threading
import profilepb
import seeptest
from seeptest import seep

SOURCE = os.path.join(seeptest.SOURCE, "tests/profile/lines.cc")
VICTIM = seeptest.victim("profile/lines")


def line_of(word):
    with open(SOURCE) as f:
        found = [i for i, l in enumerate(f, 1) if f"/* {word} */" in l]
    assert len(found) == 1, word
    return found[0]


def tool(*argv):
    subprocess.run(argv, check=True, capture_output=True)


class Symbolize(seeptest.TestCase):
    def setUp(self):
        super().setUp()
        self.exe = os.path.join(self.dir, "lines")
        shutil.copy(VICTIM, self.exe)

    def profile(self, name="p", options="mode=exact"):
        r = seeptest.run([self.exe], options=f"{options}:out={self.dir}/{name}")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        return self.one(name + ".*.allocs.pb.gz")

    def symbolize(self, path, *options, status=0, env=None):
        out = os.path.join(self.dir, "out.pb.gz")
        r = seep("symbolize", path, "-o", out, *options, env=env)
        self.assertEqual(r.returncode, status, r.stderr)
        return out

    def pprof(self, *args):
        env = seeptest.clean_env(HOME=self.dir, PPROF_TMPDIR=self.dir,
                                 GOCACHE=f"{self.dir}/cache")
        r = subprocess.run(["go", "tool", "pprof", *args], env=env, capture_output=True,
                           timeout=seeptest.TIMEOUT, cwd=self.dir)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout.decode()

    def stack(self, path, nbytes):
        """The frames of the only sample that allocated so many bytes: (name, line)."""
        found = [s for v, s in profilepb.Profile(path).stacks("alloc_space") if v == nbytes]
        self.assertEqual(len(found), 1)
        return found[0]

    def check_order(self, path):
        s = self.stack(path, 8000)[:4]
        self.assertEqual([(f["name"], f["line"]) for f in s], [
            ("innermost", line_of("at innermost")),
            ("shop::Shelf::take", line_of("at take")),
            ("shop::order", line_of("at order")), ("main", line_of("at main"))])
        self.assertEqual({f["file"] for f in s}, {os.path.realpath(SOURCE)})
        self.assertEqual(s[2]["start"], line_of("start order"))
        self.assertEqual(s[2]["system"], "_ZN4shop5orderEm")

    def flags(self, path):
        return [m["flags"] for m in profilepb.Profile(path).mappings.values()
                if m["file"] == self.exe][0]

    def test_lines_and_inlined_frames(self):
        raw = self.profile()
        before = profilepb.Profile(raw)
        out = self.symbolize(raw)
        self.check_order(out)
        self.assertEqual(self.flags(out), dict.fromkeys(
            ["functions", "filenames", "line_numbers", "inline_frames"], True))
        self.assertEqual(os.stat(out).st_mode & 0o777, 0o600)
        after = profilepb.Profile(out)
        self.assertEqual([s[0] for s in before.samples], [s[0] for s in after.samples])
        self.assertEqual([s[1] for s in before.samples], [s[1] for s in after.samples])
        self.assertEqual(before.types, after.types)
        self.assertEqual(before.comments, after.comments)

    def test_nothing_to_add(self):
        """In place, and nothing is known: the file is not written again."""
        raw = self.profile()
        os.rename(self.exe, self.exe + ".gone")
        profile = os.path.join(self.dir, "empty.pb.gz")
        with gzip.open(profile, "wb") as f:  # no places, one string beside the first
            f.write(b"\x0a\x04\x08\x01\x10\x02" + b"\x32\x00"
                    + b"\x32\x05space" + b"\x32\x05bytes")
        before = os.stat(profile).st_ino
        self.assertEqual(seep("symbolize", profile, "-o", profile).returncode, 0)
        self.assertEqual(os.stat(profile).st_ino, before)
        before = os.stat(raw).st_ino  # names of C++ in it become readable
        self.assertEqual(seep("symbolize", raw, "-o", raw).returncode, 0)
        self.assertNotEqual(os.stat(raw).st_ino, before)

    def test_names(self):
        out = self.symbolize(self.profile())
        for nbytes, name, at in ((77, "mycrate::parse::token", "token"),
                                 (88, "crate::heap::grow", "grow"),
                                 (300, "shop::quiet", "quiet")):
            frame = self.stack(out, nbytes)[0]
            self.assertEqual((frame["name"], frame["line"]), (name, line_of("at " + at)))
        # what an allocation function of Rust allocates is its caller's
        for path in (out, self.one("p.*.allocs.pb.gz")):
            text = self.pprof("-top", "-nodefraction=0", "-unit=B",
                              "-sample_index=alloc_space", path)
            self.assertRegex(text, r"\n +99B +\S+ +\S+ +99B +\S+ +.*of_rust")
            self.assertNotIn("alloc::alloc", text)
        full = self.symbolize(self.one("p.*.allocs.pb.gz"), "--demangle=full")
        self.assertEqual(self.stack(full, 8000)[1]["name"],
                         "shop::Shelf<long>::take(unsigned long)")
        plain = self.symbolize(self.one("p.*.allocs.pb.gz"), "--demangle=none")
        self.assertEqual(self.stack(plain, 8000)[2]["name"], "_ZN4shop5orderEm")

    def test_pprof_with_the_binary_gone(self):
        for name in ("a", "b"):
            self.symbolize(self.profile(name))
            shutil.copy(os.path.join(self.dir, "out.pb.gz"),
                        os.path.join(self.dir, name + ".pb.gz"))
        escape = seep("run", "-q", "-o", f"{self.dir}/r", "--", self.exe)
        self.assertEqual(escape.returncode, 0)
        os.unlink(self.exe)
        a, b = os.path.join(self.dir, "a.pb.gz"), os.path.join(self.dir, "b.pb.gz")
        text = self.pprof("-list=shop::order", "-sample_index=alloc_space", a)
        self.assertRegex(text, r"7\.81kB +\d+:.*at order")
        self.assertIn("Shelf<long>::take(n)", text)
        text = self.pprof("-peek=shop::order", "-sample_index=alloc_space", a)
        self.assertRegex(text, r"shop::Shelf::take \(inline\)")
        text = self.pprof("-tree", "-sample_index=alloc_space", a)
        self.assertIn("innermost (inline)", text)
        text = self.pprof("-top", "-lines", "-sample_index=alloc_space", a)
        self.assertRegex(text, rf"lines\.cc:{line_of('at innermost')}")
        text = self.pprof("-top", "-sample_index=alloc_space", "-diff_base", a, b)
        self.assertEqual([l for l in text.splitlines() if re.match(r"^\s+-?[1-9]", l)], [])
        text = self.pprof("-top", "-tagfocus=confidence=live",
                          "-sample_index=space", self.one("r.*.escape.pb.gz"))
        self.assertIn("innermost", text)

    def test_debug_information_elsewhere(self):
        raw = self.profile()
        debug = self.exe + ".debug"
        tool("objcopy", "--only-keep-debug", self.exe, debug)
        # away from where the file is looked for, and without the link: names only
        tool("objcopy", "--strip-all", self.exe)
        os.rename(debug, os.path.join(self.dir, "kept"))
        bare = self.symbolize(raw)
        self.assertEqual(self.flags(bare), {"functions": True, "filenames": False,
                                            "line_numbers": False, "inline_frames": False})
        self.assertEqual(self.stack(bare, 300)[0]["name"], "shop::quiet")
        # by .gnu_debuglink, in .debug beside the program
        os.mkdir(os.path.join(self.dir, ".debug"))
        linked = os.path.join(self.dir, ".debug", "lines.debug")
        os.rename(os.path.join(self.dir, "kept"), linked)
        tool("objcopy", f"--add-gnu-debuglink={linked}", self.exe)
        self.check_order(self.symbolize(raw))
        # by build-id in a directory, with the program gone
        build_id = profilepb.Profile(raw).mappings[1]["build_id"]
        store = os.path.join(self.dir, "store", ".build-id", build_id[:2])
        os.makedirs(store)
        os.rename(linked, os.path.join(store, build_id[2:] + ".debug"))
        os.unlink(self.exe)
        self.check_order(self.symbolize(raw, "-d", os.path.join(self.dir, "store")))
        # the program itself, under its name in a directory
        shutil.rmtree(os.path.join(self.dir, "store"))
        os.mkdir(os.path.join(self.dir, "store"))
        shutil.copy(VICTIM, os.path.join(self.dir, "store", "lines"))
        self.check_order(self.symbolize(raw, "-d", os.path.join(self.dir, "store")))
        # from a debuginfod cache
        shutil.rmtree(os.path.join(self.dir, "store"))
        os.makedirs(os.path.join(self.dir, "cache", build_id))
        shutil.copy(VICTIM, os.path.join(self.dir, "cache", build_id, "debuginfo"))
        self.check_order(self.symbolize(
            raw, env={"DEBUGINFOD_CACHE_PATH": os.path.join(self.dir, "cache")}))

    def compressed(self):
        """Section headers of the program's compressed debug sections, by name: (offset of
        the header, offset and size of the data)."""
        with open(self.exe, "rb") as f:
            data = f.read()
        table, = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        names, = struct.unpack_from("<Q", data, table + 64 * names + 24)
        found = {}
        for at in range(table, table + 64 * count, 64):
            name, _, flags, _, offset, size = struct.unpack_from("<IIQQQQ", data, at)
            if flags & 0x800:
                name = data[names + name:data.index(b"\0", names + name)].decode()
                found[name] = at, offset, size
        return found

    def bytes_of(self, raw):
        with gzip.open(self.symbolize(raw)) as f:
            return f.read()

    def test_compressed_debug_information(self):
        raw = self.profile()
        plain = self.bytes_of(raw)
        tool("objcopy", "--compress-debug-sections=zlib", self.exe)
        self.assertIn(".debug_info", self.compressed())
        self.assertEqual(self.bytes_of(raw), plain)
        debug = self.exe + ".debug"
        tool("objcopy", "--only-keep-debug", self.exe, debug)
        tool("objcopy", "--strip-debug", f"--add-gnu-debuglink={debug}", self.exe)
        self.assertEqual(self.bytes_of(raw), plain)
        os.unlink(debug)
        self.assertFalse(self.flags(self.symbolize(raw))["line_numbers"])

    def test_damaged_compressed_debug_information(self):
        """No lines, or some; names as without."""
        raw = self.profile()
        tool("objcopy", "--compress-debug-sections=zlib", self.exe)
        sections = self.compressed()
        with open(self.exe, "rb") as f:
            whole = f.read()
        size_fields = (b"\0" * 8, b"\xff" * 8, struct.pack("<Q", 1 << 30),
                       struct.pack("<Q", 5))
        damages = [(offset + 8, text) for _, offset, _ in sections.values()
                   for text in size_fields]
        damages += [(offset + 24 + size // 2, b"\xa5" * 16)
                    for _, offset, size in sections.values() if size > 64]
        damages += [(at + 24, struct.pack("<Q", len(whole) - 8))
                    for at, _, _ in sections.values()]
        damages += [(sections[".debug_info"][1], struct.pack("<I", kind)) for kind in (0, 2, 9)]
        for at, text in damages:
            with open(self.exe, "wb") as f:
                f.write(whole[:at] + text + whole[at + len(text):])
            name = self.stack(self.symbolize(raw), 300)[0]["name"]
            self.assertEqual(name, "shop::quiet", (at, text))

    def serve(self, files):
        """An HTTP server with those files; its address, and what it was asked for."""
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                data = files.get(self.path)
                self.send_response(200 if data else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}", asked

    def test_debuginfod(self):
        """Servers are asked when the environment names them; never by seep run."""
        try:
            ctypes.CDLL("libdebuginfod.so.1")
        except OSError:
            self.skipTest("no libdebuginfod")
        raw = self.profile()
        build_id = profilepb.Profile(raw).mappings[1]["build_id"]
        with open(self.exe, "rb") as f:
            data = f.read()
        path = f"/buildid/{build_id}/debuginfo"
        url, asked = self.serve({path: data})
        tool("objcopy", "--strip-debug", self.exe)
        for n in range(2): # the program without its debug information, and gone
            env = {"DEBUGINFOD_URLS": url, "HOME": self.dir, "XDG_CACHE_HOME": "",
                   "DEBUGINFOD_CACHE_PATH": f"{self.dir}/cache{n}"}
            r = seep("run", "-q", "-o", f"{self.dir}/r{n}", "--", VICTIM, env=env)
            self.assertEqual((r.returncode, asked), (0, []))
            off = self.symbolize(raw, env=dict(env, DEBUGINFOD_URLS=""))
            self.assertEqual((self.flags(off)["line_numbers"], asked), (False, []))
            self.check_order(self.symbolize(raw, env=env))
            self.assertIn(path, asked)
            asked.clear()
            if n == 0:
                os.unlink(self.exe)

    def test_another_file_at_the_path_is_not_used(self):
        raw = self.profile()
        os.unlink(self.exe)
        shutil.copy(seeptest.victim("profile/work"), self.exe)
        out = self.symbolize(raw)
        self.assertFalse(self.flags(out)["line_numbers"])
        self.assertEqual(self.stack(out, 300)[0]["name"], "shop::quiet")

    def test_damaged_profiles(self):
        raw = self.profile()
        with open(raw, "rb") as f:
            data = f.read()
        bad = os.path.join(self.dir, "bad.pb.gz")
        for content in (b"", b"hello", data[:len(data) // 2], b"{}", b'{"leaks":3}',
                        b"\x0a\xff\xff\xff\xff\x0f"):
            with open(bad, "wb") as f:
                f.write(content)
            self.symbolize(bad, status=24)
            self.assertFalse(os.path.exists(os.path.join(self.dir, "out.pb.gz")))
            with open(bad, "rb") as f:
                self.assertEqual(f.read(), content)
        self.symbolize(os.path.join(self.dir, "missing"), status=24)
        self.assertEqual(glob.glob(os.path.join(self.dir, "*.tmp")), [])

    def test_in_place_and_twice(self):
        raw = self.profile()
        other = self.one("p.*.heap.pb.gz")
        os.chmod(other, 0o640)
        for _ in range(2):
            self.assertEqual(seep("symbolize", "-q", raw, other).returncode, 0)
            self.check_order(raw)
        self.assertEqual(os.stat(raw).st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(other).st_mode & 0o777, 0o640)
        self.assertEqual(seep("symbolize", raw, other, "-o", "x").returncode, 25)

    def test_run_does_it(self):
        r = seep("run", "-o", f"{self.dir}/r", "--", self.exe)
        self.assertEqual(r.returncode, 0)
        self.check_order(self.one("r.*.allocs.pb.gz"))
        r = seep("run", "-q", "--no-symbolize", "-o", f"{self.dir}/n", "--", self.exe)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertFalse(self.flags(self.one("n.*.heap.pb.gz"))["line_numbers"])

    def test_gate_does_it(self):
        r = seep("gate", "-o", f"{self.dir}/g", "--", self.exe)
        self.assertEqual(r.returncode, 23)
        text = r.stderr.decode()
        self.assertRegex(text, rf"#0 innermost .*lines\.cc:{line_of('at innermost')}\n")
        self.assertRegex(text, rf"#1 lose .*lines\.cc:{line_of('at lose')}\n")
        with open(self.one("g.*.report.json")) as f:
            stacks = [leak["stack"] for leak in json.load(f)["leaks"]]
        mine = [s for s in stacks if s[1]["function"] == "lose"]
        self.assertEqual([s[1]["line"] for s in mine], [line_of("at lose")])
        self.assertTrue(mine[0][0]["inlined"])
        self.assertNotIn("inlined", mine[0][1])

    def test_gate_shows_what_is_held(self):
        """With lines, though nothing is lost."""
        r = seep("gate", "--reachable", "-o", f"{self.dir}/g", "--",
                 seeptest.victim("profile/sizes"))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stderr.decode(), r"#0 huge .*sizes\.c:[0-9]+\n")

    def test_a_signal_ends_it(self):
        """Debug information that never comes: the reader is stopped, not waited for."""
        debug = os.path.join(self.dir, "lines.debug")
        tool("objcopy", "--only-keep-debug", self.exe, debug)
        tool("objcopy", "--strip-debug", f"--add-gnu-debuglink={debug}", self.exe)
        os.truncate(debug, 1 << 37)  # its checksum is read for minutes
        screen, terminal = pty.openpty()
        p = subprocess.Popen([seeptest.TOOL, "gate", "-o", f"{self.dir}/g", "--", self.exe],
                             env=seeptest.clean_env(), stdin=subprocess.DEVNULL,
                             stderr=terminal)
        os.close(terminal)
        text = ""
        with open(screen, "rb", buffering=0) as f:
            while "reading debug information" not in text:
                text += f.read(1024).decode()
            p.send_signal(signal.SIGTERM)
            try:
                while more := f.read(1024):
                    text += more.decode()
            except OSError:  # nobody writes to it any more
                pass
        p.wait(timeout=seeptest.TIMEOUT)
        self.assertEqual(p.returncode, 23)
        self.assertRegex(text, r"\d of \d files got no lines in time")
        self.assertIn("crate::heap::grow", text)
        self.assertEqual(glob.glob(os.path.join(self.dir, "*.tmp")), [])

    def test_a_run_survives_broken_debug_information(self):
        with open(self.exe, "rb") as f:
            data = bytearray(f.read())
        start = data.rindex(b"lines.cc")  # in the string sections of the debug information
        for i in range(start - 4000, start):
            data[i] = 0xff - data[i]
        broken = os.path.join(self.dir, "broken")
        with open(broken, "wb") as f:
            f.write(data)
        for size in (len(data), len(data) // 2):
            os.truncate(broken, size)
            os.chmod(broken, 0o755)
            r = seep("run", "-q", "-o", f"{self.dir}/x{size}.%e", "--", "bash", "-c",
                     f"{self.exe} && cp {broken} {self.exe}.new && "
                     f"mv {self.exe}.new {self.exe}; echo done")
            self.assertEqual((r.returncode, r.stdout), (0, b"done\n"))
            text = self.pprof("-top", "-nodefraction=0", "-sample_index=alloc_space",
                              self.one(f"x{size}.lines.*.allocs.pb.gz"))
            self.assertIn("mycrate::parse::token", text)
            shutil.copy(VICTIM, self.exe)


seeptest.main()
