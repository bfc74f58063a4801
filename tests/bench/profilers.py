# SPDX-License-Identifier: Apache-2.0
"""What heap profilers cost: CPU time and memory of programs under each, beside glibc.

profilers.py [ROUNDS [PROGRAM ...]]. In every round each program runs once under each
profiler that is installed, so that all of them meet the same machine; the minimum counts.
Those that run a program an order of magnitude slower do so in the first round only. CPU is
user and system time of the program and of what the profiler starts beside it; memory is
the largest process. For allocators that profile, "off" is the same one without.
"""
import glob
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import bench
import seeptest

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
PAIRS = seeptest.victim("bench/pairs")
PROGRAMS = {
    "pairs": f"{PAIRS} 1",
    "lua": "lua5.4 -e 'local t={} for i=1,150000 do t[i]={i,tostring(i)} end'",
    "sqlite": bench.PROGRAMS["sqlite"].replace("300000", "60000"),
    "python": bench.PROGRAMS["python"].replace("range(6)", "range(1)"),
    "perl": bench.PROGRAMS["perl"].replace("(1..4)", "(1..1)"),
    "git": f"git --no-pager -C {seeptest.SOURCE} log -p -n 60",
    "clang": bench.PROGRAMS["clang"],
}


def preload(path, **env):
    return lambda script: (["bash", "-c", script], {"LD_PRELOAD": path, **env})


def seep(options):
    return preload(seeptest.LIB, SEEP_OPTIONS=options)


def wrapped(*argv):
    return lambda script: ([*argv, "bash", "-c", f"exec {script}"
                            if not script.startswith("PYTHON") else script], {})


def jemalloc_profiles(path):
    r = subprocess.run(["true"], stderr=subprocess.PIPE, env={
        "LD_PRELOAD": path, "MALLOC_CONF": "stats_print:true"})
    return b"config.prof: true" in r.stderr


def profilers(at):
    """{name: (how to run a script under it, is it slow?)}"""
    found = {"glibc": (lambda script: (["bash", "-c", script], {}), False),
             "seep 512K": (seep("mode=sampled"), False),
             "seep 64K": (seep("mode=sampled:sample=64K"), False),
             "seep exact": (seep("mode=exact"), False),
             "seep exact,out": (seep(f"mode=exact:out={at}/e"), False),
             "seep lifetimes": (seep(f"mode=exact:lifetimes=on:out={at}/l"), False),
             "seep run": (wrapped(seeptest.TOOL, "run", "-q", "-o", f"{at}/r", "--"), False)}
    for path in glob.glob("/usr/lib/heaptrack/libheaptrack_preload.so"):
        found["heaptrack lib"] = preload(path, DUMP_HEAPTRACK_OUTPUT=f"{at}/h.$$"), False
        if shutil.which("heaptrack"):
            found["heaptrack"] = wrapped("heaptrack", "-o", f"{at}/heaptrack"), False
    for path in glob.glob(f"{LIBRARIES}/libtcmalloc.so.4"):
        found["tcmalloc off"] = preload(path), False
        found["tcmalloc 512K"] = preload(path, TCMALLOC_SAMPLE_PARAMETER="524288"), False
        found["tcmalloc exact"] = preload(path, HEAPPROFILE=f"{at}/tc",
                                          HEAP_PROFILE_ALLOCATION_INTERVAL="1000000000000",
                                          HEAP_PROFILE_INUSE_INTERVAL="1000000000000"), True
    for path in glob.glob(f"{LIBRARIES}/libjemalloc.so.2"):
        found["jemalloc off"] = preload(path), False
        if jemalloc_profiles(path):
            found["jemalloc 512K"] = preload(path, MALLOC_CONF="prof:true"), False
            found["jemalloc exact"] = preload(
                path, MALLOC_CONF="prof:true,lg_prof_sample:0"), True
    if shutil.which("valgrind"):
        for tool in "massif", "dhat":
            found[tool] = wrapped("valgrind", "-q", f"--tool={tool}", "--trace-children=yes",
                                  f"--{tool}-out-file={at}/{tool}.%p"), True
    return found


def run(argv, env, cwd):
    """CPU seconds and KiB of a process and all that it waited for; None: it failed. The
    script heaptrack ends with a status of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    p = subprocess.Popen(argv, env={**seeptest.clean_env(), **env}, cwd=cwd,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(after[:2]) - sum(before[:2])
    return (cpu, usage.ru_maxrss) if status == 0 or argv[0] == "heaptrack" else None


def measure(script, all_profilers, rounds, cwd):
    best = {}
    for r in range(rounds):
        for name, (how, slow) in all_profilers.items():
            one = run(*how(script), cwd) if r == 0 or not slow else None
            if one:
                old = best.get(name, one)
                best[name] = min(old[0], one[0]), min(old[1], one[1])
    return best


def main(rounds, names):
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "big.cc"), "w") as f:
            f.write(bench.CXX)
        found = profilers(d)
        for name in names:
            best = measure(PROGRAMS[name], found, rounds, d)
            cpu, kib = best["glibc"]
            print(f"{name}: glibc {cpu:.3f} s, {kib >> 10} MiB")
            for who in found:
                if who in best and who != "glibc":
                    print(f"  {who:15} CPU {best[who][0] / cpu:6.2f}  memory "
                          f"{best[who][1] / kib:5.2f}", flush=True)
                elif who not in best:
                    print(f"  {who:15} failed", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:] or list(PROGRAMS))
