# SPDX-License-Identifier: Apache-2.0
"""What exact mode costs: CPU time and memory beside glibc, interleaved in one run.

exact.py [ROUNDS]. Every round runs each program once plain and once with every allocation
recorded. Prints the minimum over the rounds and the ratio, and the budget; the memory of
the least run; last, two threads that allocate at the same stacks beside one.
"""
import os
import subprocess
import sys
import tempfile
import bench
import seeptest

BUDGETS = {"git": 1.10, "sqlite": 1.20, "perl": 1.20, "lua": 1.30, "clang": 1.35,
           "python": 1.45}
PROGRAMS = {name: bench.PROGRAMS[name] for name in BUDGETS if name in bench.PROGRAMS}
PROGRAMS["git"] = f"git --no-pager -C {seeptest.SOURCE} log -p -n 200"
EXACT = {"LD_PRELOAD": seeptest.LIB, "SEEP_OPTIONS": "mode=exact"}


def run(argv, cwd, more):
    env = {**seeptest.clean_env(), **more}
    p = subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.DEVNULL,
                         stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        raise SystemExit(f"{argv}: status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def least(rounds, argv, cwd):
    runs = {"glibc": [], "exact": []}
    for _ in range(rounds):
        runs["glibc"].append(run(argv, cwd, {}))
        runs["exact"].append(run(argv, cwd, EXACT))
    return {k: (min(c for c, _ in v), min(m for _, m in v)) for k, v in runs.items()}


def main(rounds):
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "big.cc"), "w") as f:
            f.write(bench.CXX)
        for name, script in PROGRAMS.items():
            r = least(rounds, ["bash", "-c", script], d)
            (cpu, kib), (exact, exact_kib) = r["glibc"], r["exact"]
            print(f"exact {name} {exact:.3f} glibc {cpu:.3f} ratio {exact / cpu:.2f} "
                  f"budget {BUDGETS[name]:.2f} memory {exact_kib / kib:.2f}", flush=True)
        for threads in (1, 2):
            r = least(rounds, [seeptest.victim("bench/pairs"), str(threads)], d)
            print(f"exact threads {threads} {r['exact'][0] / threads:.3f} glibc "
                  f"{r['glibc'][0] / threads:.3f} CPU s a thread", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
