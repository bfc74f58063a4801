# SPDX-License-Identifier: Apache-2.0
"""What the agent's tests share: a preloaded program that obeys, and asking it."""
import gzip
import os
import re
import subprocess
import time
import seeptest

DEADLINE = 300  # seconds, of a loaded machine's


def until(condition):
    """Waits for something that must become true."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not happen")
        time.sleep(0.002)


class Obedient:
    """A program of tests/agent with the library preloaded: obeys lines, ends with its input."""

    def __init__(self, victim, options="mode=exact", argv=(), preexec_fn=None, **extra):
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=options, **extra)
        self.proc = subprocess.Popen([*argv, seeptest.victim("agent/" + victim)], env=env,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, preexec_fn=preexec_fn)
        self.pid = self.proc.pid

    def tell(self, line):
        """The line that it answers."""
        self.proc.stdin.write(line.encode() + b"\n")
        self.proc.stdin.flush()
        answer = self.proc.stdout.readline()
        if not answer:
            raise AssertionError(f"it ended: {self.proc.wait()} {self.proc.stderr.read()}")
        return answer.decode().strip()

    def say(self, line):
        return int(self.tell(line))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.stdin.close()
        self.rest = self.proc.stdout.read()
        status = self.proc.wait(seeptest.TIMEOUT)
        text = self.proc.stderr.read()
        self.proc.stdout.close()
        self.proc.stderr.close()
        if (status, text) != (0, b""):
            raise AssertionError((status, text))


class Asked(Obedient):
    """The program tests/agent/asked.c, with the library preloaded."""

    def __init__(self, options=None, preload=True, **kw):
        env = seeptest.clean_env()
        if preload:
            env["LD_PRELOAD"] = seeptest.LIB
            if options is not None:
                env["SEEP_OPTIONS"] = options
        self.proc = subprocess.Popen([seeptest.victim("agent/asked")], env=env,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, **kw)
        self.pid = self.proc.pid
        self.say("ready")

    def end(self):
        """Its status; it has written nothing to stderr."""
        self.proc.stdin.close()
        status = self.proc.wait(DEADLINE)
        text = self.proc.stderr.read()
        self.proc.stdout.close()
        self.proc.stderr.close()
        if text:
            raise AssertionError(text)
        return status

    def threads(self):
        return sorted(os.listdir(f"/proc/{self.pid}/task"))

    def descriptors(self):
        return sorted(os.listdir(f"/proc/{self.pid}/fd"))


def raw(path):
    """A profile as go tool pprof reads it."""
    r = subprocess.run(["go", "tool", "pprof", "-raw", path], capture_output=True,
                       check=True)
    return r.stdout.decode()


def total(path, index, function="asked_alloc"):
    """The sum of one value over the samples whose stacks have the function."""
    r = subprocess.run(["go", "tool", "pprof", "-top", "-cum", "-unit=b",
                        "-nodecount=100000", f"-sample_index={index}", path],
                       capture_output=True, check=True).stdout.decode()
    m = re.search(rf"(\S+)\s+\S+%\s+{function}$", r, re.M)
    return float(re.sub("[A-Za-z]", "", m.group(1))) if m else 0.0


def everything(path, index):
    """The sum of one value over all samples."""
    r = subprocess.run(["go", "tool", "pprof", "-top", f"-sample_index={index}", path],
                       capture_output=True, check=True).stdout.decode()
    return float(re.search(r"% of (\S+) total", r).group(1))


def comments(path):
    with gzip.open(path) as f:
        return f.read()


def state(pid):
    """The letter of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]
