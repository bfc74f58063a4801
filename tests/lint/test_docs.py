# SPDX-License-Identifier: Apache-2.0
"""What `seep --help` and each command's help say is in man pages and completions, and the
other way round."""
import glob
import os
import re
import shutil
import subprocess
import seeptest

MAN = os.path.join(seeptest.SOURCE, "tools/man")
COMPLETIONS = os.path.join(seeptest.SOURCE, "tools/completions")
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"]
MACROS = set("TH SH SS TP PP B I BR BI IR IB RB RI br EX EE RS RE nf fi".split())


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return f.read()


def help_of(*command):
    r = seeptest.seep(*command, "--help")
    assert (r.returncode, r.stderr) == (0, b""), command
    return r.stdout.decode()


def commands():
    part = help_of().split("Commands:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in part.splitlines()]


def options(text):
    """Those that a help text describes: lines that start with one."""
    found = set()
    for line in text.splitlines():
        m = re.match(r"^  (-\w)?(?:, )?(--[\w-]+)?", line)
        found |= {g for g in m.groups() if g} if m else set()
    return found


class Docs(seeptest.TestCase):
    def everything(self):
        found = {c: options(help_of(c)) for c in commands()}
        self.assertIn("gate", found)
        for c, o in found.items():
            self.assertLessEqual({"-h", "--help"}, o, c)
        return found

    def page(self, name):
        """Options of a man page, after checks of its form."""
        text = read(MAN, name + ".1")
        macros = set(re.findall(r"^\.([A-Za-z]+)", text, re.M))
        self.assertEqual(macros - MACROS, set(), name)
        sections = re.findall(r"^\.SH (.*)$", text, re.M)
        self.assertEqual([s for s in SECTIONS if s not in sections], [], name)
        plain = text.replace("\\-", "-")
        self.assertRegex(plain, rf"\.SH NAME\n{name} - \S")
        body = plain.split(".SH OPTIONS\n")[1].split("\n.SH ")[0]
        heads = re.findall(r"^\.TP\n(.*)$", body, re.M)
        return set(re.findall(r"\\fB(--?[\w-]+)\\fR", "\n".join(heads)))

    def test_man_pages(self):
        for command, expected in self.everything().items():
            self.assertEqual(self.page("seep-" + command), expected, command)
        self.assertEqual(self.page("seep"), {"-h", "--help", "--version"})
        have = {os.path.basename(p) for p in glob.glob(MAN + "/*")}
        self.assertEqual(have, {"seep.1"} | {f"seep-{c}.1" for c in commands()})

    def test_the_overview_lists_all(self):
        text = read(MAN, "seep.1").replace("\\-", "-")
        for command in commands():
            self.assertIn(f".BR seep-{command} (1)", text)
        keys = set(re.findall(r'strcmp\(key, "(\w+)"\)',
                              read(seeptest.SOURCE, "preload/base/opt.c"))) - {"run"}
        environment = text.split(".SH ENVIRONMENT")[1].split(".SH ")[0]
        self.assertEqual([k for k in keys if not re.search(rf"\b{k}\b", environment)], [])

    def test_bash(self):
        path = os.path.join(COMPLETIONS, "seep.bash")
        words = subprocess.run(["bash", "-c", '. "$0"; echo $_seep_commands', path],
                               capture_output=True, check=True).stdout.decode().split()
        self.assertEqual(words, commands())
        for command, expected in self.everything().items():
            r = subprocess.run(["bash", "-c", '. "$0"; _seep_options "$1"', path, command],
                               capture_output=True, check=True)
            self.assertEqual(set(r.stdout.decode().split()), expected, command)

    def bash(self, *words):
        """What bash offers for the last of words."""
        script = ('. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _seep; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        r = subprocess.run(["bash", "-c", script, os.path.join(COMPLETIONS, "seep.bash"),
                            *words], capture_output=True, check=True, cwd=self.dir)
        self.assertEqual(r.stderr, b"")
        return r.stdout.decode().split()

    def test_bash_completes(self):
        open(os.path.join(self.dir, "a.pb.gz"), "w").close()
        self.assertEqual(self.bash("seep", "sym"), ["symbolize"])
        self.assertEqual(self.bash("seep", "run", "--mode", "ex"), ["exact"])
        self.assertEqual(self.bash("seep", "report", "--format", "s"), ["sarif"])
        self.assertEqual(self.bash("seep", "diff", "a."), ["a.pb.gz"])
        self.assertEqual(self.bash("seep", "gate", "--stri"), ["--strict"])
        # behind the program nothing is an option of ours
        self.assertEqual(self.bash("seep", "gate", "--", "cat", "--stri"), [])
        self.assertEqual(self.bash("seep", "run", "-o", "x", "cat", "a"), ["a.pb.gz"])

    def test_zsh(self):
        text = read(COMPLETIONS, "_seep")
        self.assertEqual(re.findall(r"^\t\t'([a-z]\w*):", text, re.M), commands())
        index = re.search(r"index='(--[\w-]+)", text).group(1)
        for command, expected in self.everything().items():
            part = text.split(f"\n\t{command})\n")[1].split("\n\t\t;;")[0]
            part = part.replace("$index", f"'{index}[")
            found = set(re.findall(r"'(--[\w-]+)\[", part))
            for pair in re.findall(r"\{(-\w),(--[\w-]+)\}", part):
                found |= set(pair)
            self.assertEqual(found, expected, command)
        if shutil.which("zsh"):
            subprocess.run(["zsh", "-n", os.path.join(COMPLETIONS, "_seep")], check=True)

    def test_fish(self):
        text = read(COMPLETIONS, "seep.fish")
        lines = re.findall(r"^complete -c seep (.*)$", text, re.M)
        names = [m.group(1) for m in (re.match(r"-n __seep_no_command -a (\w+)", l)
                                      for l in lines) if m]
        self.assertEqual(names, commands())
        for command, expected in self.everything().items():
            found = set()
            for line in lines:
                where = re.match(r"-n '__seep_in ([\w ]+)' (.*)$", line)
                if where and command not in where.group(1).split():
                    continue
                if line.startswith("-n __seep_no_command"):
                    continue
                rest = where.group(2) if where else line
                found |= {"-" + s for s in re.findall(r"(?:^| )-s (\w)\b", rest)}
                found |= {"--" + l for l in re.findall(r"(?:^| )-l ([\w-]+)", rest)}
            self.assertEqual(found, expected, command)
        if shutil.which("fish"):
            subprocess.run(["fish", "-n", os.path.join(COMPLETIONS, "seep.fish")], check=True)

    def test_all_is_installed(self):
        build = read(seeptest.SOURCE, "tools/meson.build")
        for path in glob.glob(MAN + "/*") + glob.glob(COMPLETIONS + "/*"):
            self.assertIn(f"'{os.path.relpath(path, seeptest.SOURCE)[6:]}'", build)


seeptest.main()
