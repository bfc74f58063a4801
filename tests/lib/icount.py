# SPDX-License-Identifier: Apache-2.0
"""Instructions of malloc and free by valgrind's callgrind, which repeats exactly.

For each loop two runs of different length are counted and subtracted, so start-up cancels;
loop and PLT calls are included. Last, the whole of /bin/true, in an environment of three
variables (the loader reads all of them, a thousand instructions each), with the library at a
path of always the same length (the loader goes over it several times). The seed is fixed in
loops, so that the same objects are sampled. As a program, prints all beside the budgets.
"""
import platform
import re
import shutil
import subprocess
import tempfile
import seeptest

MICRO = seeptest.victim("bench/micro")
BUDGETS = {"pair_64": 52, "pair_1k": 54, "pair_8k": 64, "pair_256k": 300,
           "ring_64": 58, "ring_4096": 78, "/bin/true": 200000}
FEW, MANY = 20000, 120000


def is_reference():
    """Does the loader's part of a start count as in the table? It is glibc 2.36's; valgrind
    shows all processors that have AVX2 as the same one, and others choose other functions."""
    with open("/proc/cpuinfo") as f:
        return " avx2 " in f.read() and platform.libc_ver() == ("glibc", "2.36")


def is_possible():
    return shutil.which("valgrind") is not None


def count_run(*argv, **env):
    """Instructions of one run from its first to its last."""
    with tempfile.TemporaryDirectory(prefix="seep-", dir="/tmp") as d:
        shutil.copy(seeptest.LIB, d)
        r = subprocess.run(["valgrind", "--tool=callgrind",
                            f"--callgrind-out-file={d}/out", *argv],
                           env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin",
                                "LD_PRELOAD": d + "/libseep.so", **env},
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=d,
                           timeout=seeptest.TIMEOUT)
        if r.returncode != 0:
            raise SystemExit(f"{argv}: status {r.returncode}\n{r.stderr}")
        return int(re.search(r"Collected : (\d+)", r.stderr).group(1))


def count(name):
    """Instructions of one operation of a loop, or of the program at path name."""
    if name.startswith("/"):
        return count_run(name)
    runs = [count_run(MICRO, name, str(n), SEEP_OPTIONS="seed=1") for n in (FEW, MANY)]
    return round((runs[1] - runs[0]) / (MANY - FEW), 1)


if __name__ == "__main__":
    for workload, budget in BUDGETS.items():
        print(f"icount {workload} {count(workload)} budget {budget}")
