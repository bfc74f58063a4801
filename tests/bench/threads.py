# SPDX-License-Identifier: Apache-2.0
"""How long a process stands still for seep threads: minimum, median and largest of ROUNDS,
in milliseconds, as the tool says it. The budget is 20 ms for 512 threads."""
import re
import subprocess
import sys
import seeptest

ROUNDS = 15
PROGRAM = sys.argv[1]


def pauses(threads, computing, *args):
    p = subprocess.Popen([PROGRAM, str(threads), str(computing)],
                         env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline() == b"up\n"
        found = []
        for _ in range(ROUNDS):
            text = seeptest.seep("threads", *args, str(p.pid)).stdout.decode()
            found.append(float(re.search(r"stopped for ([0-9.]+) ms", text)[1]))
        return sorted(found)
    finally:
        p.kill()
        p.communicate()


for threads, computing in ((1, 0), (64, 0), (512, 0), (512, 2)):
    for args in ((), ("--quick",)):
        v = pauses(threads, computing, *args)
        print(f"pause threads={threads} computing={computing} {' '.join(args) or '-'} "
              f"min={v[0]} median={v[ROUNDS // 2]} max={v[-1]}", flush=True)
