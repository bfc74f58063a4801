# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory beside glibc and the packaged allocators, interleaved in one run.

bench.py micro|programs|large [ROUNDS] [NAME=LIBRARY ...]. large: programs of hundreds of MB. Every round runs each workload once under
each allocator; each NAME is one more, SEEP_BENCH_ONLY=WORKLOAD,... leaves out the others.
Prints a table of the minimum and median over the rounds, ratios to glibc and to the best
peer, and one machine-readable line a cell: "bench WORKLOAD ALLOCATOR MIN MEDIAN KIB".
"""
import glob
import math
import os
import statistics
import subprocess
import sys
import tempfile
import seeptest

ALLOCATORS = {
    "glibc": None,
    "mimalloc": "libmimalloc.so.2*",
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "seep": seeptest.LIB,
}
MICRO = seeptest.victim("bench/micro")
CXX = """#include <map>
#include <regex>
#include <string>
#include <vector>
#include <iostream>
int main() { std::map<std::string, std::vector<int>> m; std::regex r("a+");
std::cout << m.size() << std::regex_match("aaa", r); }
"""
PROGRAMS = {
    "lua": "lua5.4 -e 'for k=1,4 do local t={} for i=1,300000 do t[i]={i,tostring(i)} end end'",
    "python": "PYTHONMALLOC=malloc /usr/bin/python3 -c 'import json\n"
              "for k in range(6): json.loads(json.dumps([{str(i):[i]*3} for i in range(30000)]))'",
    "perl": "perl -e 'for $k (1..4) { %h=map{$_=>\"x$_\"}1..150000 }'",
    "gawk": "gawk 'BEGIN{for(i=0;i<2000000;i++)a[i%50000]=a[i%50000] i%10}'",
    "sqlite": "sqlite3 :memory: 'create table t(a,b); with recursive c(x) as (select 1 union "
              "all select x+1 from c where x<300000) insert into t select x,hex(x) from c; "
              "create index i on t(b); select count(*) from t where b like \"%3%\";'",
    "gs": "echo '0 1 20000 {dup string pop pop} for quit' | gs -q -dNODISPLAY -dBATCH -",
    "z3": "echo '(declare-const x Int)(declare-const y Int)(assert (= (+ (* x x) (* y y)) "
          "3125))(assert (< 0 x y))(check-sat)' | z3 -in",
    "clang": "clang++ -O1 -std=c++17 -c big.cc -o big.o",
    "node": "node -e 'let a=[];for(let k=0;k<5;k++)for(let i=0;i<1e5;i++)a[i]={i,s:\"x\"+i};"
            "JSON.stringify(a)'",
    # The server's time alone, as it tells it itself.
    "redis": "redis-server --port 0 --unixsocket s --save '' --appendonly no >/dev/null & "
             "until redis-cli -s s ping >/dev/null 2>&1; do :; done; "
             "env -u LD_PRELOAD redis-benchmark -s s -q -n 60000 -r 100000 -d 100 "
             "-t set,get,lpush,hset,zadd,sadd,lrange_100 >/dev/null; "
             "env -u LD_PRELOAD redis-cli -s s info cpu | "
             "awk -F: '/^used_cpu_(sys|user):/{s+=$2} END{print s}'; "
             "redis-cli -s s shutdown nosave; wait",
}
TELL_TIME = {"redis"}
LARGE = {
    "lua": "lua5.4 -e 'local t={} for i=1,1500000 do t[i]={i,tostring(i)} end'",
    "python": "PYTHONMALLOC=malloc /usr/bin/python3 -c 'import json\n"
              "json.loads(json.dumps([{str(i):[i]*3} for i in range(250000)]))'",
    "perl": "perl -e '%h=map{$_=>\"x$_\"}1..900000'",
    "gawk": "gawk 'BEGIN{for(i=0;i<1200000;i++)a[i]=a[i-1] % 97 \"\" i}'",
    "sqlite": PROGRAMS["sqlite"].replace("300000", "900000"),
    "clang": PROGRAMS["clang"].replace("-O1", "-O2"),
    "node": "node -e 'let a=[];for(let k=0;k<2;k++)for(let i=0;i<1e6;i++)a[i]={i,s:\"x\"+i};"
            "JSON.stringify(a)'",
}


def libraries(more):
    found = {}
    for name, pattern in ALLOCATORS.items():
        if pattern is None or pattern.startswith("/"):
            found[name] = pattern
            continue
        match = sorted(glob.glob(f"/usr/lib/x86_64-linux-gnu/{pattern}"))
        if match:
            found[name] = match[0]
        else:
            print(f"{name}: not installed, left out")
    for name, _, path in (m.partition("=") for m in more):
        if not os.path.exists(path):
            raise SystemExit(f"bench.py: no library {path!r} for {name}")
        found[name] = os.path.abspath(path)
    return found


def cell(script, lib, cwd):
    """CPU seconds, KiB of memory and stdout of one run."""
    env = seeptest.clean_env()
    if lib:
        env["LD_PRELOAD"] = lib
    p = subprocess.Popen(["bash", "-c", script],
                         env=env, cwd=cwd, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    out = p.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        raise SystemExit(f"{script}: status {status}")
    kids = usage.ru_utime + usage.ru_stime
    return kids, usage.ru_maxrss, out


def measure(kind, rounds, more):
    libs = libraries(more)
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "big.cc"), "w") as f:
            f.write(CXX)
        if kind == "micro":
            names = subprocess.run([MICRO, "--list"], capture_output=True,
                                   check=True).stdout.decode().split()
            work = {n: f"{MICRO} {n}" for n in names}
        else:
            work = LARGE if kind == "large" else PROGRAMS
        only = os.environ.get("SEEP_BENCH_ONLY")
        work = {w: s for w, s in work.items() if not only or w in only.split(",")}
        cells = {(w, a): [] for w in work for a in libs}
        rss = dict.fromkeys(cells, 0)
        for _ in range(rounds):
            for w, script in work.items():
                for a, lib in libs.items():
                    cpu, kib, out = cell(script, lib, d)
                    told = kind == "micro" or w in TELL_TIME
                    cells[w, a].append(float(out) if told else cpu)
                    rss[w, a] = max(rss[w, a], kib)
    return list(work), list(libs), cells, rss


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def table(kind, works, libs, cells, rss):
    unit = "ns/op" if kind == "micro" else "CPU s"
    print(f"\n{unit:16}" + "".join(f"{a:>20}" for a in libs) + f"{'seep/best peer':>16}")
    peers = [a for a in libs if a != "seep"]
    ratios = []
    for w in works:
        best = min(min(cells[w, a]) for a in peers)
        ratios.append(min(cells[w, "seep"]) / max(best, 1e-9))
        print(f"{w:16}" + "".join(
            f"{min(cells[w, a]):10.3f}/{statistics.median(cells[w, a]):9.3f}" for a in libs)
            + f"{ratios[-1]:16.2f}")
    for a in libs:
        cpu = geomean([max(min(cells[w, a]), 1e-9) / max(min(cells[w, "glibc"]), 1e-9)
                       for w in works])
        mem = geomean([rss[w, a] / rss[w, "glibc"] for w in works])
        print(f"geomean {a:10} CPU {cpu:5.2f} x glibc, memory {mem:5.2f} x glibc")
    for (w, a), values in cells.items():
        print(f"bench {w} {a} {min(values):.4f} {statistics.median(values):.4f} {rss[w, a]}")


if __name__ == "__main__":
    which = sys.argv[1] if len(sys.argv) > 1 else "micro"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    table(which, *measure(which, count, sys.argv[3:]))
