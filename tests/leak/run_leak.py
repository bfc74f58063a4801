#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of one leak test program and compares each verdict with what is known.

  run_leak.py PROGRAM PLUGIN

An expected leak is (kind, objects, bytes, function): the function stands somewhere in the
stack. The set must be exact: nothing missing, nothing more. Prints TAP.
"""
import glob
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import seeptest

LEAK, CLEAN, INCOMPLETE = 23, 0, 24
# From glibc 2.41 on exit() holds a lock to its end, which these never come to.
LAST_GLIBC = "2.40"
NEED_OLD_EXIT = ["stream-held", "late-exit"]
# Where ptrace is refused, calls that wait end early, and /proc is needed.
NEED_PTRACE = ["unnoticed", "closed-no-proc", "no-proc-clean", "strace"]


def exit_is_new():
    name, version = platform.libc_ver()
    numbers = [[int(part) for part in v.split(".")] for v in (version or "0", LAST_GLIBC)]
    return name == "glibc" and numbers[0] > numbers[1]


def direct(objects, size, function):
    return ("direct", objects, size, function)


def indirect(objects, size, function):
    return ("indirect", objects, size, function)


LOST = {
    "direct": [direct(1, 48, "lose_direct")],
    "indirect": [direct(1, 32, "lose_indirect"), indirect(1, 64, "lose_indirect"),
                 indirect(1, 64, "lose_indirect")],
    "chain": [direct(1, 40, "lose_chain"), indirect(4, 160, "lose_chain")],
    "cycle": [direct(1, 40, "lose_cycle"), indirect(1, 40, "lose_cycle"),
              indirect(1, 40, "lose_cycle")],
    "cycle-tail": [direct(1, 40, "lose_cycle_with_tail"),
                   indirect(1, 40, "lose_cycle_with_tail"),
                   indirect(1, 36, "lose_cycle_with_tail")],
    "self": [direct(1, 40, "lose_self")],
    "thread": [direct(1, 100, "thread_loses")],
    "result": [direct(1, 90, "thread_returns"), direct(1, 91, "lose_result")],
    "detached-result": [direct(1, 93, "thread_tells_and_returns")],
    "late-detached-result": [direct(1, 93, "thread_tells_and_returns")],
    "small": [direct(1000, 24000, "lose_small")],
    "large": [direct(1, 1048676, "lose_large")],
    "realloc": [direct(1, 5000, "lose_realloc")],
    "realloc-in-place": [direct(1, 201, "lose_realloc_in_place")],
    "calloc": [direct(1, 130, "lose_calloc")],
    "aligned": [direct(1, 300, "lose_aligned"), direct(1, 8192, "lose_aligned"),
                direct(1, 100, "lose_aligned")],
    "strdup": [direct(1, 6, "lose_strdup")],
    "empty": [direct(1, 0, "lose_empty")],
    "behind-freed": [direct(1, 80, "lose_behind_freed")],
    "behind-freed-large": [direct(1, 80, "lose_behind_freed_large")],
    "large-holder": [direct(1, 200000, "lose_large_holder"),
                     indirect(1, 72, "lose_large_holder")],
    "shared": [direct(1, 32, "lose_shared"), direct(1, 32, "lose_shared"),
               indirect(1, 96, "lose_shared")],
    "and-keep": [direct(1, 48, "lose_direct")],
    "behind-tail": [direct(1, 72, "lose_behind_tail")],
    "behind-buffer": [direct(1, 72, "lose_behind_buffer")],
    "behind-shrunk": [direct(21, 21 * 72, "lose_behind_shrunk")],
    "behind-large-tail": [direct(1, 72, "lose_behind_large_tail")],
    "closed-plugin": [direct(1, 88, "plugin_lose")],
    "waiting-thread": [direct(1, 72, "make_hidden")],
    "at-once": [direct(1, 72, "make_hidden")],
    "stream-held": [direct(1, 48, "lose_direct")],
    "late-exit": [direct(1, 48, "lose_direct")],
    "left-at-flush": [direct(1, 48, "lose_direct")],
    "main-gone": [direct(1, 72, "make_hidden")],
    "two-exits": [direct(1, 48, "lose_direct")],
    "before-main": [direct(1, 72, "make_hidden")],
    "main-frame": [direct(1, 72, "lose_in_main_frame")],
    "quick-handler": [direct(1, 48, "lose_direct"), direct(1, 72, "lose_in_handler")],
}

KEPT = ["bss", "data", "tls", "interior", "tagged", "large-interior", "end-small",
        "end-large", "end-aligned", "exit-register", "quick-exit-register", "plugin-bss",
        "plugin-relro", "plugin-tls", "thread-plugin-tls", "key", "high-key", "thread-key",
        "thread-stack", "main-gone", "main-gone-frame", "unjoined-result", "sigaltstack", "signal-stack",
        "thread-signal-stack", "argument", "coroutine-mmap", "coroutine-heap", "exit-on-coroutine", "libc",
        "caller-register", "at-once-register", "environment"]

REGISTERS = ["thread", "xmm", "ymm", "zmm", "high-zmm", "blocked", "masked"]

MAPPED = ["mmap", "guarded", "guarded-old", "shared", "file", "beside-trap", "sealed", "code", "code-shared", "code-twice",
          "closed", "closed-map", "closed-map-old", "closed-map-deadly", "region", "region-gone", "region-in-heap", "brk",
          "sparse", "sparse-old", "closed-behind"]

LOST_BLOCK = [direct(1, 112, "make_block"), indirect(1, 112, "make_block")]
HANDED = {"epoll": [], "many": [], "no-main": [], "timer": [], "unshared": [],
          "removed": LOST_BLOCK, "closed": LOST_BLOCK, "no-timer": LOST_BLOCK}

OBJECTS = {
    "new": [direct(1, 40, "lose_new")],
    "array": [direct(1, 800, "lose_array")],
    "vector": [direct(1, 24, "lose_vector"), indirect(1, 8000, "lose_vector")],
    "string": [direct(1, 32, "lose_string"), indirect(1, 201, "lose_string")],
    "map": [direct(1, 48, "lose_map"), indirect(10, 480, "lose_map")],
    "exception": [direct(1, 40, "lose_exception")],
    "exception-pointer": [direct(1, 8, "catch_error"), indirect(1, 144, "catch_error"),
                          indirect(1, 85, "catch_error")],
}

OBJECTS_KEPT = ["keep-vector", "keep-string", "keep-map", "keep-second-base", "keep-array",
                "keep-array32", "keep-array64", "keep-empty-array", "keep-exception",
                "keep-caught", "keep-in-flight", "keep-in-flight-again", "keep-shared",
                "keep-local-static", "keep-thrown"]


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


class Run:
    """One run of a case: its status, its stderr and its reports."""

    def __init__(self, setup, case, options="", mode="exact"):
        self.dir = tempfile.TemporaryDirectory(prefix="seep-leak-", dir=seeptest.TEMPORARY)
        out = self.dir.name + "/x"
        env = seeptest.clean_env(LD_PRELOAD=seeptest.LIB,
                                 SEEP_OPTIONS=f"mode={mode}:leak=exit:out={out}" + options)
        command = [*setup.wrap, setup.program, case, setup.plugin]
        done = subprocess.run(command, env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seeptest.TIMEOUT,
                              check=False)
        self.status, self.stderr, self.stdout = done.returncode, done.stderr, done.stdout
        self.reports = []
        for path in sorted(glob.glob(out + ".*.report.json")):
            check(os.stat(path).st_mode & 0o777 == 0o600, "report.json is not mode 0600")
            with open(path, encoding="utf-8") as f:
                report = json.load(f)
            # A shell that starts the program reports, too, before it becomes it.
            if os.path.basename(report["exe"]) == os.path.basename(setup.program):
                self.reports.append(report)

    def verdict_line(self):
        lines = self.stderr.splitlines()
        return lines[-1] if lines else ""

    def report(self):
        check(len(self.reports) == 1, f"{len(self.reports)} reports instead of one")
        return self.reports[0]


def same_set(leaks, expected):
    """Every expected leak is matched by exactly one reported one, and none is left."""
    left = list(leaks)
    for kind, objects, size, function in expected:
        for leak in left:
            names = [frame["function"] for frame in leak["stack"]]
            if (leak["kind"], leak["objects"], leak["bytes"]) == (kind, objects, size) and \
                    any(re.search(r"\b" + function + r"\b", name) for name in names):
                left.remove(leak)
                break
        else:
            raise Failure(f"missing: {kind} {objects} objects {size} bytes {function}")
    check(not left, "more than expected: " + json.dumps(left)[:2000])


def expect(run, leaks, status=None):
    report = run.report()
    total = sum(leak[1] for leak in leaks), sum(leak[2] for leak in leaks)
    if status is None:
        status = LEAK if leaks else CLEAN
    try:
        same_set(report["leaks"], leaks)
        check(report["schema"] == 1, "schema")
        check(report["verdict"] == ("leak" if leaks else "clean"),
              f"verdict {report['verdict']}: {report['reason']}")
        check(run.status == status, f"status {run.status} instead of {status}")
        if leaks:
            line = f"seep: LEAK objects={total[0]} bytes={total[1]} sites={len(leaks)}"
        else:
            line = "seep: clean"
        check(run.verdict_line() == line, f"last line {run.verdict_line()!r}")
        check(all(text.startswith("seep: ") for text in run.stderr.splitlines()),
              "a line without prefix")
    except Failure as failure:
        raise Failure(f"{failure}\n{run.stderr}") from failure


def expect_status(run, status, last_line=None):
    check(run.status == status, f"status {run.status} instead of {status}\n{run.stderr}")
    if last_line is not None:
        check(run.verdict_line() == last_line, f"last line {run.verdict_line()!r}")


# ---- programs ----

def lost_child(setup):
    run = Run(setup, "child")
    check(len(run.reports) == 2, f"{len(run.reports)} reports instead of two")
    child, parent = sorted(run.reports, key=lambda r: r["pid"], reverse=True)
    same_set(child["leaks"], [direct(1, 48, "lose_direct")])
    check(not parent["leaks"], "the parent is charged: " + json.dumps(parent["leaks"]))
    expect_status(run, LEAK)  # the child's, passed on by the program


def lost_suppressed(setup):
    with tempfile.NamedTemporaryFile("w", suffix=".supp", dir=seeptest.TEMPORARY) as f:
        f.write("# known\nleak:lose_indi*ct\nnonsense\n")
        f.flush()
        run = Run(setup, "indirect", f":suppressions={f.name}")
    report = run.report()
    check(report["verdict"] == "clean", "verdict " + report["verdict"])
    check(report["suppressed_objects"] == 3, "suppressed objects")
    check(report["suppressed_bytes"] == 160, "suppressed bytes")
    check(not report["leaks"], "suppressed leaks are listed")
    same_set(report["suppressed"], LOST["indirect"])
    check(f"{f.name}:3:" in run.stderr, "bad line is not named:\n" + run.stderr)
    expect_status(run, CLEAN, "seep: clean")


def lost_suppressed_block(setup):
    """memcheck's form; the first line names malloc, which our stacks leave out."""
    with tempfile.NamedTemporaryFile("w", suffix=".supp", dir=seeptest.TEMPORARY) as f:
        f.write("{\n  known\n  Memcheck:Leak\n  match-leak-kinds: definite,indirect\n"
                "  fun:malloc\n  fun:make_block\n  ...\n  fun:main\n}\n")
        f.flush()
        run = Run(setup, "direct", f":suppressions={f.name}")
        other = Run(setup, "calloc", f":suppressions={f.name}")
    expect_status(run, CLEAN, "seep: clean")
    same_set(run.report()["suppressed"], LOST["direct"])
    expect(other, LOST["calloc"])


def lost_exit_code(setup):
    run = Run(setup, "direct", ":exitcode=7")
    expect(run, LOST["direct"], status=7)


def lost_sampled(setup):
    """Nothing is sampled: the loss is found all the same, without a stack."""
    run = Run(setup, "large", ":sample=64G:seed=1", mode="sampled")
    report = run.report()
    check(report["verdict"] == "leak", f"verdict {report['verdict']}")
    found = [leak for leak in report["leaks"] if leak["bytes"] == 1048676]
    check(len(found) == 1 and found[0]["stack"] == [], "lost block: " + str(found))
    check("[stack not sampled]" in run.stderr, run.stderr)
    expect_status(run, LEAK)


def lost_repeated(setup):
    """The same answer every time."""
    for _ in range(20):
        expect(Run(setup, "chain"), LOST["chain"])


def special_disabled_sampled(setup):
    """Most objects have no record there, but those must not be blamed."""
    run = Run(setup, "disabled", ":sample=64G:seed=1", mode="sampled")
    found = [(leak["objects"], leak["bytes"]) for leak in run.report()["leaks"]]
    check(found == [(1, 64)], str(found))  # the slot of 60 bytes that was not hidden


def special_ignored_sampled(setup):
    """With a record of each object, and of none."""
    for sample in ("1", "64G"):
        options = f":sample={sample}:seed=1"
        report = Run(setup, "ignored-many", options, mode="sampled").report()
        check(report["leaks"] == [], str(report["leaks"]))
        report = Run(setup, "ignored-freed", options, mode="sampled").report()
        check(report["objects"] == 200, str(report["leaks"]))


def special_disabled_known(setup):
    """All are sampled, and neither the stack nor the span is new."""
    run = Run(setup, "disabled-known", ":sample=1:seed=1", mode="sampled")
    check(run.report()["leaks"] == [], str(run.report()["leaks"]))


def lost_unused(setup):
    """What matched and what did not is told; a block matches its kinds only."""
    with tempfile.NamedTemporaryFile("w", suffix=".supp", dir=seeptest.TEMPORARY) as f:
        f.write("leak:nowhere\nleak:lose_indirect\n{\n other kind\n Memcheck:Leak\n"
                " match-leak-kinds: possible\n fun:*\n}\n{\n with lines\n Memcheck:Leak\n"
                " src:lost.c:12\n}\n")
        f.flush()
        run = Run(setup, "indirect", f":suppressions={f.name}")
    used = {s["name"]: s["objects"] for s in run.report()["suppressions"]}
    check(used == {"nowhere": 0, "lose_indirect": 3, "other kind": 0, "with lines": 0},
          str(used))
    check("seep: suppression not used: nowhere\n" in run.stderr and
          "seep: suppression not used: lose" not in run.stderr, run.stderr)
    check("not used: with lines (source files are known to seep gate" in run.stderr,
          run.stderr)
    expect_status(run, CLEAN, "seep: clean")


def kept_possible(setup):
    """Held for sure: what has a tag, and glibc's own of a thread."""
    for case in ("tagged", "thread-stack", "thread-key", "plugin-tls"):
        expect(Run(setup, case, ":possible=on"), [])


def inner_middle(setup):
    """A pointer into the middle: not counted, but listed; counted on demand."""
    run = Run(setup, "middle")
    expect(run, [])
    found = sorted((p["kind"], p["objects"], p["bytes"], p["retained"])
                   for p in run.report()["possible"])
    check(found == [("possible", 1, 112, 0), ("possible", 1, 112, 224)], str(found))
    run = Run(setup, "middle", ":possible=on")
    expect_status(run, LEAK, "seep: LEAK objects=2 bytes=224 sites=2")
    same_set(run.report()["leaks"], [("possible", 1, 112, "keep_middle")] * 2)
    ages = run.report()["leaks"][0]
    check(0 < ages["last_age_ns"] <= ages["first_age_ns"], str(ages))


def inner_behind(case):
    """What is reached only through what is possibly lost is that, too."""
    def test(setup):
        run = Run(setup, case, ":possible=on")
        same_set(run.report()["leaks"], [("possible", 1, 64, "keep_chain_by_middle"),
                                         ("possible", 1, 40, "make_behind")])
        found = sorted(p["retained"] for p in run.report()["leaks"])
        check(found == [0, 104], str(found))
        expect_status(run, LEAK, "seep: LEAK objects=2 bytes=104 sites=2")
    return test


# Much like what counts as held, but none of that.
INNER_ONLY = {"many-aligned": 256, "odd-aligned": 200, "not-empty": 12,
              "other-language": 160, "no-type": 160, "behind-thrown": 160,
              "short-string": 112}


def inner_only(case, size):
    def test(setup):
        found = [(p["objects"], p["bytes"]) for p in Run(setup, case).report()["possible"]]
        check(found == [(1, size)], str(found))
    return test


DISGUISES = {"high-tag": "tag16", "shifted": "shift12", "left": "left3",
             "xored": "xor0x123456789abcdef", "low-half": "tag8,low32", "packed": "unaligned"}


def kept_disguised(setup):
    """Lost, unless the disguise is named."""
    for case, decoder in DISGUISES.items():
        check(Run(setup, case).status == LEAK, f"{case} is seen without {decoder}")
        expect(Run(setup, case, f":pointers={decoder}"), [])
        expect_status(Run(setup, case, ":pointers=xor1,unaligned,tag1:pointers="), LEAK)
    run = Run(setup, "bss", ":pointers=tag16,sideways")
    check('"pointers=tag16,sideways" must be a list of' in run.stderr, run.stderr)


def special_retracted(setup):
    run = Run(setup, "retracted")
    report = run.report()
    check(report["objects"] == 2 and report["new_objects"] == 1, run.stderr)
    check(report["retracted_objects"] == 1 and report["retracted_bytes"] == 90, run.stderr)
    same_set(report["retracted"], [("retracted", 1, 90, "retracted")])
    check("seep: retracted: 90 bytes in 1 objects" in run.stderr, run.stderr)
    expect_status(run, LEAK, "seep: LEAK objects=2 bytes=120 sites=2")


def special_default_suppressions(setup):
    run = Run(setup, "default-suppressions")
    expect(run, [direct(1, 70, "default_suppressions")])
    same_set(run.report()["suppressed"], [direct(1, 60, "lose_one")])


def special_default_options(setup):
    """What the program says, as far as SEEP_OPTIONS says nothing else."""
    both = [direct(1, 60, "lose_one"), direct(1, 70, "default_exitcode")]
    run = Run(setup, "default-exitcode")
    expect(run, both, status=55)
    check("... and 1 more sites" in run.stderr, run.stderr)
    expect(Run(setup, "default-exitcode", ":exitcode=7"), both, status=7)
    expect(Run(setup, "default-exitcode", ":exitcode=23"), both, status=23)
    expect(Run(setup, "default-off"), [])
    run = Run(setup, "default-file")
    expect(run, [])
    same_set(run.report()["suppressed"], [direct(1, 60, "lose_one")])
    expect(Run(setup, "default-file", ":suppressions=/dev/null"),
           [direct(1, 60, "lose_one")])


def special_turned_off(setup):
    run = Run(setup, "turned-off")
    expect(run, [])
    check("turned leak checks off" in run.stderr, "not said:\n" + run.stderr)


def special_no_ptrace(setup):
    expect(Run(setup, "no-ptrace"), [direct(1, 60, "lose_one")])


def special_no_ptrace_deaf(setup):
    run = Run(setup, "no-ptrace-deaf")
    expect_status(run, INCOMPLETE)
    check(run.verdict_line().startswith("seep: INCOMPLETE: 1 of 1 "), run.verdict_line())
    check(run.report()["verdict"] == "incomplete", run.report()["verdict"])


def special_no_proc(setup):
    run = Run(setup, "no-proc-clean")
    if run.status == 77:
        return "SKIP needs chroot"
    return expect_status(run, CLEAN, "seep: clean")


def special_no_proc_thread(setup):
    run = Run(setup, "no-proc-thread")
    if run.status == 77:
        return "SKIP needs chroot"
    expect_status(run, INCOMPLETE)
    return check(run.verdict_line().startswith("seep: INCOMPLETE: "), run.verdict_line())


PLACES = ["plain", "many-threads", "container", "no-clone", "big-heap", "all-blocked",
          "dropped", "no-descriptors", "deadly"]


def mapped_still_closed(setup):
    """What was closed is closed again after a check: the status is its handler's."""
    expect(Run(setup, "still-closed"), [], status=42)
    expect(Run(setup, "map-still-closed"), [], status=42)


def mapped_closed_no_proc(setup):
    run = Run(setup, "closed-no-proc")
    if run.status == 77:
        return "SKIP needs chroot"
    return expect_status(run, CLEAN, "seep: clean")


def mapped_region_shut(setup):
    run = Run(setup, "region-shut")
    expect_status(run, INCOMPLETE)
    return check(run.verdict_line().startswith("seep: INCOMPLETE: ")
                 and "named as roots" in run.verdict_line(), run.verdict_line())


def handed_container(setup):
    expect_status(Run(setup, "container"), CLEAN, "seep: clean")


def handed_unseen(setup):
    run = Run(setup, "unseen")
    expect_status(run, INCOMPLETE)
    return check("what the kernel keeps for the program" in run.verdict_line(),
                 run.verdict_line())


def place(case):
    def test(setup):
        run = Run(setup, case)
        if run.status == 77:
            return "SKIP not possible here"
        if case == "dropped":  # the directory is not writable any more, or it is
            return expect_status(run, LEAK, "seep: LEAK objects=1 bytes=60 sites=1")
        return expect(run, [direct(1, 60, "lose_one")])
    return test


def place_read_only(setup):
    """The reports cannot be written: the verdict stands."""
    run = Run(setup, "plain", ":out=/proc/nowhere/x")
    expect_status(run, LEAK, "seep: LEAK objects=1 bytes=60 sites=1")


def place_little_address_space(setup):
    """Several small arenas instead of a large one."""
    script = 'ulimit -v 400000; exec "$@"'
    limited = Setup(setup.program, setup.plugin)
    limited.wrap = ["bash", "-c", script, "bash"]
    expect(Run(limited, "plain"), [direct(1, 60, "lose_one")])
    expect(Run(limited, "big-heap"), [direct(1, 60, "lose_one")])


def place_strace(setup):
    """ptrace is taken: threads are stopped by signal."""
    if not shutil.which("strace"):
        return "SKIP no strace"
    with tempfile.TemporaryDirectory() as d:
        done = subprocess.run(
            ["strace", "-f", "-o", d + "/log", "-E", "LD_PRELOAD=" + seeptest.LIB, "-E",
             "SEEP_OPTIONS=mode=exact:leak=exit", setup.program, "plain"], text=True,
            stderr=subprocess.PIPE, timeout=seeptest.TIMEOUT, check=False)
    check(done.returncode == LEAK, f"{done.returncode}\n{done.stderr}")
    return check(done.stderr.splitlines()[-1] == "seep: LEAK objects=1 bytes=60 sites=1",
                 done.stderr)


def place_gdb(setup):
    """So it is under a debugger, and the signal does not stop there."""
    if not shutil.which("gdb"):
        return "SKIP no gdb"
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "set environment LD_PRELOAD " + seeptest.LIB, "-ex",
         "set environment SEEP_OPTIONS mode=exact:leak=exit", "-ex", "run", "--args",
         setup.program, "plain"], text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seeptest.TIMEOUT, check=False)
    if "ptrace: " in done.stderr or "not being run" in done.stderr:
        return "SKIP gdb may not trace"
    check("exited with code 027" in done.stdout, done.stdout + done.stderr)
    return check("seep: LEAK objects=1 bytes=60 sites=1" in done.stderr.splitlines(),
                 done.stdout + done.stderr)


def lost_below_signal(setup):
    expect(Run(setup, "below-signal"), [direct(1, 72, "lose_below_signal")],
           status=-signal.SIGILL)


def kept_below_signal(setup):
    expect(Run(setup, "keep-below-signal"), [], status=-signal.SIGILL)


def known(case, leaks, options=""):
    return lambda setup: expect(Run(setup, case, options), leaks)


def tests_of(program):
    if program == "lost":
        tests = {case: known(case, leaks) for case, leaks in LOST.items()}
        tests.update({"child": lost_child, "suppressed": lost_suppressed,
                      "suppressed-block": lost_suppressed_block,
                      "exit-code": lost_exit_code, "sampled": lost_sampled,
                      "repeated": lost_repeated, "unused": lost_unused,
                      "below-signal": lost_below_signal,
                      "keep-below-signal": kept_below_signal})
        if exit_is_new():
            for case in NEED_OLD_EXIT:
                del tests[case]
    elif program == "kept":
        tests = {case: known(case, []) for case in KEPT}
        tests["possible"] = kept_possible
        tests["disguised"] = kept_disguised
    elif program == "inner":
        tests = {case: inner_behind(case) for case in ("behind-middle", "middle-of-middle")}
        tests.update({case: inner_only(case, size) for case, size in INNER_ONLY.items()})
        tests.update({case: known(case, [], ":possible=on")
                      for case in ("second-base", "cookie")})
        tests["middle"] = inner_middle
    elif program == "mapped":
        tests = {case: known(case, []) for case in MAPPED}
        tests["still-closed"] = mapped_still_closed
        tests["closed-no-proc"] = mapped_closed_no_proc
        tests["region-shut"] = mapped_region_shut
    elif program == "registers":
        tests = {way + case: known(way + case, [])
                 for way in ("", "signal-") for case in REGISTERS}
    elif program == "places":
        tests = {case: place(case) for case in PLACES}
        tests.update({"read-only": place_read_only,
                      "little-address-space": place_little_address_space,
                      "strace": place_strace, "gdb": place_gdb})
    elif program == "handed":
        tests = {case: known(case, leaks) for case, leaks in HANDED.items()}
        tests.update({"container": handed_container, "unseen": handed_unseen})
    elif program == "objects":
        tests = {case: known(case, leaks) for case, leaks in OBJECTS.items()}
        tests.update({case: known(case, [], ":possible=on") for case in OBJECTS_KEPT})
    else:
        tests = {
            "ignored": known("ignored", [direct(1, 60, "ignored")]),
            "ignored-many": known("ignored-many", []),
            "ignored-freed": known("ignored-freed", [direct(200, 20000, "ignored_freed")]),
            "ignored-sampled": special_ignored_sampled,
            "disabled": known("disabled", [direct(1, 60, "disabled")]),
            "disabled-sampled": special_disabled_sampled,
            "disabled-known": special_disabled_known,
            "retracted": special_retracted,
            "fatal-check": known("fatal-check", [direct(1, 60, "lose_one")]),
            "final-check": known("final-check", []),
            "default-options": special_default_options,
            "default-suppressions": special_default_suppressions,
            "turned-off": special_turned_off,
            "recoverable": known("recoverable", [direct(1, 60, "lose_one")]),
            "no-ptrace": special_no_ptrace,
            "fatal-ptrace": known("fatal-ptrace", [direct(1, 60, "lose_one")]),
            "no-ptrace-masked": known("no-ptrace-masked", [direct(1, 60, "lose_one")]),
            "no-ptrace-cancel": known("no-ptrace-cancel", [direct(1, 60, "lose_one")]),
            "no-ptrace-deaf": special_no_ptrace_deaf,
            "no-proc-clean": special_no_proc,
            "no-proc-thread": special_no_proc_thread,
            "status-three": lambda setup: expect(Run(setup, "status-three"), [], status=3),
        }
        for case in ("unnoticed", "busy", "busy-no-ptrace", "interrupted", "no-children",
                     "not-dumpable"):
            tests[case] = known(case, [])
    return tests


class Setup:
    def __init__(self, program, plugin):
        self.program, self.plugin = map(os.path.abspath, (program, plugin))
        self.wrap = []  # words before the command


def main():
    setup = Setup(*sys.argv[1:3])
    tests = tests_of(os.path.basename(setup.program))
    wanted = sys.argv[3:]
    may_trace = seeptest.may_trace()
    failed = 0
    print(f"1..{len(tests)}")
    for number, (name, test) in enumerate(tests.items(), 1):
        if wanted and name not in wanted:
            continue
        if name in NEED_PTRACE and not may_trace:
            print(f"ok {number} - {name} # SKIP ptrace is refused")
            continue
        try:
            note = test(setup)
            print(f"ok {number} - {name}" + (f" # {note}" if note else ""))
        except (Failure, subprocess.TimeoutExpired) as failure:
            failed += 1
            print(f"not ok {number} - {name}")
            print("\n".join("# " + line for line in str(failure).splitlines()))
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
