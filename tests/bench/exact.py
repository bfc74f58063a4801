# SPDX-License-Identifier: Apache-2.0
"""What exact mode costs: CPU time and memory beside glibc, interleaved in one run.

exact.py [ROUNDS]. Every round runs each program once plain and once with every allocation
recorded. Prints the minimum over the rounds and the ratio, and the budget; the memory of
the least run, and what it may be, which is 1.15 times glibc's and 16 bytes for each
object that was live at the peak, as a profile of one more run has it (a program smaller
than this script counts as large as it: git); last, two threads that allocate at the same stacks beside one. redis-server
stands beside itself with glibc preloaded, since Debian's is linked with jemalloc.
"""
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import bench
import profilepb
import seeptest

BUDGETS = {"git": 1.10, "sqlite": 1.20, "perl": 1.20, "lua": 1.30, "clang": 1.35,
           "python": 1.45}
PROGRAMS = {name: bench.PROGRAMS[name] for name in BUDGETS if name in bench.PROGRAMS}
PROGRAMS["git"] = f"git --no-pager -C {seeptest.SOURCE} log -p -n 200"
REDIS_BUDGET = 1.30
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
EXACT = {"LD_PRELOAD": seeptest.LIB, "SEEP_OPTIONS": "mode=exact"}
MEMORY_BUDGET = 1.15
OBJECT_BYTES = 16


def run(argv, cwd, more):
    env = {**seeptest.clean_env(), **more}
    p = subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.DEVNULL,
                         stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        raise SystemExit(f"{argv}: status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def run_redis(_, cwd, more):
    """What the server takes under redis-benchmark."""
    path = os.path.join(cwd, "redis.socket")
    p = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--save", "",
                          "--appendonly", "no"],
                         env={**seeptest.clean_env(), "LD_PRELOAD": LIBC, **more}, cwd=cwd,
                         stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    while p.poll() is None:
        with socket.socket(socket.AF_UNIX) as s:
            if s.connect_ex(path) == 0:
                break
        os.sched_yield()
    subprocess.run(["redis-benchmark", "-s", path, "-q", "-n", "100000", "-r", "100000", "-P",
                    "16", "-t", "set,lpush,sadd,hset,zadd"],
                   env=seeptest.clean_env(), stdout=subprocess.DEVNULL, check=True)
    p.terminate()
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        raise SystemExit(f"redis-server: status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def least(rounds, argv, cwd, run_one=run):
    runs = {"glibc": [], "exact": []}
    for _ in range(rounds):
        runs["glibc"].append(run_one(argv, cwd, {}))
        runs["exact"].append(run_one(argv, cwd, EXACT))
    return {k: (min(c for c, _ in v), min(m for _, m in v)) for k, v in runs.items()}


def peak_objects(argv, cwd, run_one=run):
    """Objects live at the peak, of the process that had most."""
    with tempfile.TemporaryDirectory() as d:
        run_one(argv, cwd, {**EXACT, "SEEP_OPTIONS": f"mode=exact:out={d}/%p"})
        # In a process of its own: a child's memory is at least what ours is when it starts.
        return int(subprocess.run([sys.executable, __file__, "--objects", d], check=True,
                                  capture_output=True).stdout)


def print_objects(d):
    print(max(sum(v for v, _ in profilepb.Profile(f).stacks("peak_objects"))
              for f in glob.glob(f"{d}/*.peak.pb.gz")))


def show(name, r, budget, objects):
    (cpu, kib), (exact, exact_kib) = r["glibc"], r["exact"]
    limit = MEMORY_BUDGET * kib + objects * OBJECT_BYTES / 1024
    print(f"exact {name} {exact:.3f} glibc {cpu:.3f} ratio {exact / cpu:.2f} "
          f"budget {budget:.2f} memory {exact_kib} KiB glibc {kib} KiB ratio "
          f"{exact_kib / kib:.2f} objects {objects} limit {limit:.0f} KiB", flush=True)


def main(rounds):
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "big.cc"), "w") as f:
            f.write(bench.CXX)
        for name, script in PROGRAMS.items():
            argv = ["bash", "-c", script]
            show(name, least(rounds, argv, d), BUDGETS[name], peak_objects(argv, d))
        if shutil.which("redis-server") and shutil.which("redis-benchmark"):
            show("redis", least(rounds, None, d, run_redis), REDIS_BUDGET,
                 peak_objects(None, d, run_redis))
        for threads in (1, 2):
            r = least(rounds, [seeptest.victim("bench/pairs"), str(threads)], d)
            print(f"exact threads {threads} {r['exact'][0] / threads:.3f} glibc "
                  f"{r['glibc'][0] / threads:.3f} CPU s a thread", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--objects"]:
        print_objects(sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
