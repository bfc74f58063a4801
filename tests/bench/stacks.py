# SPDX-License-Identifier: Apache-2.0
"""What profiles of 20 000 distinct stacks cost: milliseconds of CPU that a program's end
takes for all its files, and by how much its resident memory grows for one of a running
process. The budget is 300 ms and 8 MiB. stacks.py [ROUNDS]."""
import os
import re
import subprocess
import sys
import tempfile
import seeptest

PROGRAM = seeptest.victim("profile/stacks")
STACKS = "20000"
NOWHERE = "/nonexistent/x"  # what it records is the same


def cpu(out):
    p = subprocess.Popen([PROGRAM, STACKS], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, env=seeptest.clean_env(
                             LD_PRELOAD=seeptest.LIB, SEEP_OPTIONS=f"mode=exact:out={out}"))
    _, status, usage = os.wait4(p.pid, 0)
    assert status == 0
    return (usage.ru_utime + usage.ru_stime) * 1000


def resident(pid, key):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(rf"{key}:\s+(\d+) kB", f.read())[1])


def growth(directory):
    p = subprocess.Popen([PROGRAM, STACKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         env=seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                                SEEP_OPTIONS="mode=exact"))
    try:
        assert p.stdout.readline() == b"made\n"
        with open(f"/proc/{p.pid}/clear_refs", "w") as f:
            f.write("5")
        before = resident(p.pid, "VmRSS")
        r = seeptest.seep("heap", "-o", f"{directory}/live.pb.gz", str(p.pid))
        assert r.returncode == 0, r.stderr
        return resident(p.pid, "VmHWM") - before
    finally:
        p.kill()
        p.communicate()


rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
with tempfile.TemporaryDirectory() as at:
    with_files, without = [], []
    for i in range(rounds):
        with_files.append(cpu(f"{at}/x{i}"))
        without.append(cpu(NOWHERE))
    print(f"stacks n={STACKS} end_ms={min(with_files) - min(without):.0f} "
          f"run_ms={min(without):.0f} live_growth_kib={growth(at)}")
