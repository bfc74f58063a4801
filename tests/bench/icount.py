# SPDX-License-Identifier: Apache-2.0
"""Instructions of malloc and free by valgrind's callgrind, which repeats exactly.

For each loop two runs of different length are counted and subtracted, so start-up cancels;
loop and PLT calls are included. Last, the whole of /bin/true. Budgets: 64 B 52, 1 KiB 54,
8 KiB 64, ring of 64 58, ring of 4096 78; /bin/true 200 000.
"""
import re
import subprocess
import tempfile
import seeptest

MICRO = seeptest.victim("bench/micro")
BUDGETS = {"pair_64": 52, "pair_1k": 54, "pair_8k": 64, "ring_64": 58, "ring_4096": 78}
FEW, MANY = 20000, 120000


def count(*argv):
    with tempfile.TemporaryDirectory() as d:
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB)
        r = subprocess.run(["valgrind", "--tool=callgrind",
                            f"--callgrind-out-file={d}/out", *argv],
                           env=env, capture_output=True, text=True, cwd=d)
        return int(re.search(r"Collected : (\d+)", r.stderr).group(1))


for name, budget in BUDGETS.items():
    n = (count(MICRO, name, str(MANY)) - count(MICRO, name, str(FEW))) / (MANY - FEW)
    print(f"icount {name} {n:.1f} budget {budget}")
print(f"icount /bin/true {count('/bin/true')} budget 200000")
