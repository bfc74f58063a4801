# SPDX-License-Identifier: Apache-2.0
"""The live leak check: its pauses beside what was predicted, on huge pages, after writes
have split them, on 4 KiB pages, and with many threads; what a client of such a program
sees meanwhile; what it takes beyond the mark for
many sites; and what redis-benchmark loses by a check every so many seconds.

    meson test --benchmark live        or live.py pauses|latency|sites|redis [ARGUMENTS]
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import seeptest

CHECKS = 9


def check(pid, path, *args, meanwhile=None):
    with subprocess.Popen([seeptest.TOOL, "check", "--json", path, "--no-symbolize", *args,
                           str(pid)], stderr=subprocess.PIPE) as tool:
        while meanwhile and tool.poll() is None:
            meanwhile()
        text = tool.stderr.read()
    if tool.returncode not in (0, 23):
        sys.exit(text.decode())
    with open(path) as f:
        report = json.load(f)
    m = re.search(rb"pause: ([\d.]+) ms .* ([\d.]+) ms to stop", text)
    report["predicted"] = [float(x) for x in m.groups()]
    return report


class Held:
    """The program tests/bench/held.c."""

    def __init__(self, options, *args):
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=options)
        self.proc = subprocess.Popen([seeptest.victim("bench/held"), *map(str, args)], env=env,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.proc.stdout.readline()
        self.pid = self.proc.pid

    def latency(self):
        """Requests, p50, p99 and longest in microseconds, since the last time."""
        self.proc.stdin.write(b"latency\n")
        self.proc.stdin.flush()
        return [int(word) for word in self.proc.stdout.readline().split()]

    def touch(self, n):
        self.proc.stdin.write(b"touch %d\n" % n)
        self.proc.stdin.flush()
        self.proc.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.stdin.close()
        self.proc.wait()


def spread(values):
    return f"min {min(values):6.2f} p50 {statistics.median(values):6.2f} max {max(values):6.2f}"


def measure(name, p, path, touch=0):
    """A row for screens, and one for what a stop takes more."""
    screens, confirms, predicted = [], [], []
    for _ in range(CHECKS):
        for args, to, key in (((), screens, "screen_ns"), (("--stop",), confirms, "confirm_ns")):
            r = check(p.pid, path, *args, meanwhile=touch and (lambda: p.touch(touch)))
            to.append(r[key] / 1e6)
            predicted.append(r["predicted"])
    print(f"pauses\t{name}\tscreen {spread(screens)}\tpredicted "
          f"{statistics.median(x[0] for x in predicted):6.2f}\tms")
    print(f"pauses\t{name}\tconfirm {spread(confirms)}\tpredicted "
          f"{statistics.median(x[1] for x in predicted):6.2f}\tms")
    sys.stdout.flush()


def pauses(megabytes="1024", threads="1"):
    with tempfile.TemporaryDirectory() as d:
        path = d + "/report"
        name = f"{megabytes} MiB, {threads} threads"
        with Held("", megabytes, 64, threads, 2) as p:
            measure(f"{name}, huge pages", p, path)
            measure(f"{name}, 1000 writes at once during each", p, path, 1000)
            measure(f"{name}, 200000 writes at once during each", p, path, 200000)
        with Held("hugepage=off", megabytes, 64, threads, 2) as p:
            measure(f"{name}, 4 KiB pages", p, path)


def latency(megabytes="4096", threads="64", options=""):
    """Intervals of the same length with a check and without, interleaved."""
    with tempfile.TemporaryDirectory() as d, Held(options, megabytes, 64, threads, 2) as p:
        rows, pauses = {}, {"screen_ns": [], "confirm_ns": []}
        for i in range(3 * CHECKS):
            kind = ("no check", "screen", "stop and confirm")[i % 3]
            p.latency()
            start = time.monotonic()
            if i % 3:
                r = check(p.pid, d + "/report", *(["--stop"] if i % 3 == 2 else []))
                for key, to in pauses.items():
                    if r[key]:
                        to.append(r[key] / 1e6)
                spent = time.monotonic() - start
            else:
                time.sleep(spent if i else 2)
            rows.setdefault(kind, []).append(p.latency())
        for kind, seen in rows.items():
            p50, p99, longest = ([row[k] / 1e3 for row in seen] for k in (1, 2, 3))
            print(f"latency\t{megabytes} MiB, {threads} threads {options}\t{kind:16}\tms: "
                  f"p50 {statistics.median(p50):.3f}\tp99 {statistics.median(p99):.3f}\t"
                  f"longest {spread(longest)}")
        for key, values in pauses.items():
            if values:
                print(f"latency\tpause {key[:-3]}\t{spread(values)}\tms", flush=True)


def sites(count="10000"):
    """Wall time of the whole command; the mark of so few objects is a millisecond."""
    env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS="mode=exact")
    proc = subprocess.Popen([seeptest.victim("agent/live")], env=env, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)
    proc.stdin.write(f"sites {count}\n".encode())
    proc.stdin.flush()
    proc.stdout.readline()
    with tempfile.TemporaryDirectory() as d:
        for args in (("--no-symbolize",), (), ("--json", d + "/report")):
            times = []
            for _ in range(5):
                start = time.monotonic()
                r = seeptest.seep("check", *args, str(proc.pid))
                times.append(time.monotonic() - start)
                assert r.returncode == 23 and f"sites={count}" in r.stderr.decode()
            print(f"sites\t{count}\t{' '.join(args[:1]) or 'with lines'}\t{spread(times)}\ts")
    proc.stdin.close()
    proc.wait()


def throughput(sock, requests):
    r = subprocess.run(["redis-benchmark", "-s", sock, "-n", str(requests), "-c", "20", "-P",
                        "4", "-r", "1000000", "-d", "64", "-t", "set", "--csv"],
                       env=seeptest.clean_env(), capture_output=True, check=True)
    row = [line for line in r.stdout.decode().splitlines() if line.startswith('"SET"')][0]
    fields = [float(x) for x in row.replace('"', "").split(",")[1:]]
    return fields[0], fields[5], fields[6]  # per second; p99 and max in ms


def cpu(pid):
    """Seconds of the main thread, and of the whole process with its copies."""
    def seconds(path, fields):
        with open(path) as f:
            values = f.read().rsplit(")", 1)[1].split()
        return sum(int(values[i]) for i in fields) / os.sysconf("SC_CLK_TCK")
    return (seconds(f"/proc/{pid}/task/{pid}/stat", (11, 12)),
            seconds(f"/proc/{pid}/stat", (11, 12, 13, 14)))


def redis(every="60", rounds="4", requests="2000000"):
    """Interleaved: with a check in the middle of so many seconds of load, and without."""
    with tempfile.TemporaryDirectory() as d:
        sock = d + "/sock"
        server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", sock,
                                   "--save", ""], cwd=d, stdout=subprocess.DEVNULL,
                                  env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB))
        while subprocess.run(["redis-cli", "-s", sock, "ping"], capture_output=True
                             ).stdout != b"PONG\n":
            time.sleep(0.1)
        throughput(sock, 1000000)  # fills it
        figures, costs = {True: [], False: []}, {True: [], False: []}
        for i in range(2 * int(rounds)):
            checked = i % 2 == 0
            start = time.monotonic()
            rates, worst, before = [], 0.0, cpu(server.pid)
            while time.monotonic() - start < float(every):
                if checked and not rates:
                    asked = subprocess.Popen([seeptest.TOOL, "check", "-q", str(server.pid)],
                                             stderr=subprocess.DEVNULL)
                rate, p99, most = throughput(sock, int(requests))
                rates.append(rate)
                worst = max(worst, most)
            if checked:
                asked.wait()
            figures[checked].append(len(rates) / sum(1 / r for r in rates))
            used = [(a - b) / len(rates) / int(requests) * 1e6
                    for a, b in zip(cpu(server.pid), before)]
            costs[checked].append(used)
            print(f"redis\t{'a check' if checked else 'no check'} in {every} s\t"
                  f"{figures[checked][-1]:9.0f} a second\tp99 {p99} ms\tmax {worst} ms\t"
                  f"CPU us a request: {used[0]:.3f} main thread, {used[1]:.3f} all",
                  flush=True)
        ratio = max(figures[True]) / max(figures[False])
        print(f"redis\tbest with / best without\t{ratio:.3f}\tmedian "
              f"{statistics.median(figures[True]) / statistics.median(figures[False]):.3f}")
        for k, name in enumerate(("main thread", "all")):
            best = [min(c[k] for c in costs[x]) for x in (True, False)]
            print(f"redis\tCPU a request, {name}: least with / least without\t"
                  f"{best[0] / best[1]:.3f}")
        server.terminate()
        server.wait()


def main():
    kinds = {"pauses": pauses, "latency": latency, "sites": sites, "redis": redis}
    if len(sys.argv) > 1:
        kinds[sys.argv[1]](*sys.argv[2:])
        return
    pauses("1024", "1")
    pauses("1024", "64")
    latency("1024", "64")
    sites()
    if shutil.which("redis-benchmark"):
        redis("20", "3")


if __name__ == "__main__":
    main()
