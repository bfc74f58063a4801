# SPDX-License-Identifier: Apache-2.0
"""Our marker beside a collection by libgc and a check by LeakSanitizer, on the same graphs
of 64-byte nodes; one marker each, and two of ours and of libgc's. Interleaved, each a
process of its own; the least of the rounds, in nanoseconds a node.

    meson test --benchmark mark     or mark.py PROGRAM... [MILLIONS [ROUNDS [KIND...]]]
"""
import os
import subprocess
import sys

KINDS = ["list", "tree", "shuffled-tree", "random"]


def ask(program, kind, millions, *more):
    """{markers: [CPU, wall]}, memory in percent."""
    out = subprocess.run([program, kind, millions, *more], capture_output=True, text=True,
                         check=True).stdout
    rows, memory = {}, None
    for words in (line.split() for line in out.splitlines()):
        if words[2] == "memory":
            memory = words[3]
        else:
            rows[int(words[3])] = [float(x) for x in words[4:6]]
    return rows, memory


def least(kept, key, row):
    kept[key] = [min(a, b) for a, b in zip(kept.get(key, row), row)]


def run(programs, kind, millions, rounds):
    kept, memory = {}, None
    for _ in range(rounds):
        for markers in ("1", "2"):
            for name, program in programs.items():
                if name == "graphs" and markers == "1":
                    rows, memory = ask(program, kind, millions, "2")
                elif name == "graphs_gc":
                    rows, _ = ask(program, kind, millions, "2", markers)
                elif name == "graphs_lsan" and markers == "1":
                    rows, _ = ask(program, kind, millions, "1")
                else:
                    continue
                for n, row in rows.items():
                    least(kept, (name, n), row)
    ours = kept[("graphs", 1)][0]
    for (name, n), (cpu, wall) in sorted(kept.items()):
        print(f"mark\t{kind}\t{millions} M nodes\t{name}\t{n} markers\tCPU {cpu:7.1f}\t"
              f"wall {wall:7.1f} ns a node\tCPU {cpu / ours:5.1f} x ours")
    print(f"mark\t{kind}\t{millions} M nodes\tmemory of ours {memory} of the heap", flush=True)


def main():
    programs = {os.path.basename(a): a for a in sys.argv[1:] if os.path.exists(a)}
    rest = [a for a in sys.argv[1:] if not os.path.exists(a)]
    for kind in rest[2:] or KINDS:
        run(programs, kind, rest[0] if rest else "1.6", int(rest[1]) if len(rest) > 1 else 3)


main()
