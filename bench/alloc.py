"""What watching allocations costs a program, beside the tools that do the same: `python bench/alloc.py [PYTHON]`.

    --programs records,json     some of bench/programs/allocating.py    --tools plain,lowtide   some of the tools
    --rounds 3                  of who is to be told apart by percents; sampling peers have one less, exact tools one
    --minute                    only how large the recordings of a minute are, and what the recorder needs

Every tool runs each program in turn, round by round. A cell is the median of the rounds divided by the plain run's: of the processor
time that the program itself measures around its work, and of the most that it had resident. PYTHON has bench/requirements.txt;
what it lacks is left out with a dash. About a quarter of an hour.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from programs.allocating import OWN, names, write_script

LOWTIDE = Path(os.environ.get("LOWTIDE_EXE", Path(__file__).resolve().parent.parent / "build/bin/lowtide"))
MPROFILE = """
import mprofile, runpy, sys
mprofile.start(sample_rate={rate})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MIB = 1 << 20


@dataclass
class Tool:
    command: list[str]
    less_rounds: int  # than are asked for; always one at least


def tools(python: str, out: str) -> dict[str, Tool]:
    run = [str(LOWTIDE), "run", "--no-report", "-o", out]

    def mprofile(rate: int) -> list[str]:
        return [python, "-c", MPROFILE.format(rate=rate)]

    heapwise = [python, "-m", "heapwise", "run", "--no-html"]
    memray = [python, "-m", "memray", "run", "-q", "-f", "--trace-python-allocators", "-o", out]
    return {
        "plain": Tool([python], 0),
        "lowtide": Tool([*run, "--", python], 0),
        "lowtide 128K": Tool([*run, "--interval=128K", "--", python], 1),
        "lowtide 32K": Tool([*run, "--interval=32K", "--", python], 1),
        "mprofile 512K": Tool(mprofile(512 << 10), 1),
        "mprofile 128K": Tool(mprofile(128 << 10), 1),
        "heapwise 512K": Tool([*heapwise, "--rate", str(512 << 10)], 1),
        "heapwise 32K": Tool([*heapwise, "--rate", str(32 << 10)], 1),
        "lowtide exact": Tool([*run, "--exact", "--", python], 1),
        "memray": Tool(memray, 99),
        "tracemalloc": Tool([python, "-X", "tracemalloc=1"], 99),
    }


@dataclass
class Run:
    seconds: float
    peak_bytes: int
    file_bytes: int
    all_seconds: float  # processor time of everybody whom the command started


def run_once(command: list[str], script: Path, out: str, **environment: str) -> Run | None:
    Path(out).unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, str(script)], capture_output=True, text=True, cwd=script.parent, env=os.environ | environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if len(line.split()) == 2}
    if "seconds" not in told or "peak" not in told:
        return None
    size = os.path.getsize(out) if os.path.exists(out) else 0
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(float(told["seconds"]), int(told["peak"]), size, used)


def measure(commands: dict[str, Tool], script: Path, out: str, rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    for number in range(rounds):
        for name, tool in commands.items():
            if number < max(1, rounds - tool.less_rounds) and (number == 0 or name in runs):
                one = run_once(tool.command, script, out)
                if one:
                    runs.setdefault(name, []).append(one)
    return runs


def row(title: str, cells: Iterable[str]) -> str:
    return f"{title:19}" + "".join(f"{cell:>14}" for cell in cells)


def geomean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def costs(options: argparse.Namespace, folder: Path) -> None:
    out = str(folder / "out")
    commands = tools(options.python, out)
    if options.tools:
        commands = {name: tool for name, tool in commands.items() if name in {"plain", *options.tools.split(",")}}
    watching = [name for name in commands if name != "plain"]
    ratios: dict[str, dict[str, float]] = {name: {} for name in watching}
    memory, files, added = [], [], {}
    print("TIME, ratio to plain\n" + row("program", ["plain", *watching]), flush=True)
    for program in options.programs.split(",") if options.programs else names():
        runs = measure(commands, write_script(program, folder), out, options.rounds)
        if "plain" not in runs:
            print(row(program, ["not to be run"]))
            continue
        plain = statistics.median(run.seconds for run in runs["plain"])
        rss = statistics.median(run.peak_bytes for run in runs["plain"])
        peaks = {name: statistics.median(run.peak_bytes for run in of) for name, of in runs.items()}
        for name in runs.keys() - {"plain"}:
            ratios[name][program] = statistics.median(run.seconds for run in runs[name]) / plain
        cells = (f"{ratios[name][program]:.3f}" if program in ratios[name] else "–" for name in watching)
        print(row(program, [f"{plain:.2f} s", *cells]), flush=True)
        memory.append(
            row(program, [mib(rss), *(mib(peaks[name] - rss) if name in peaks else "–" for name in watching)])
        )
        written = {name: statistics.median(run.file_bytes for run in runs[name]) for name in runs}
        files.append(row(program, ["", *(mib(written[n]) if written.get(n) else "–" for n in watching)]))
        added[program] = (peaks.get("lowtide", rss) - rss - 0.02 * rss) / MIB
    for title, sum_up in (("geometric mean", geomean), ("worst", max)):
        print(row(title, ["", *(f"{sum_up(list(ratios[n].values())):.3f}" if ratios[n] else "–" for n in watching)]))
    print("\nMEMORY, most resident: plain, and what is added\n" + row("program", ["plain", *watching]))
    print("\n".join(memory))
    print("\nFILE, lowtide's with the heap\n" + row("program", ["", *watching]) + "\n" + "\n".join(files))
    judge(ratios, added)


def mib(n: float) -> str:
    return f"{n / MIB:.1f} MiB"


def judge(ratios: dict[str, dict[str, float]], added: dict[str, float]) -> None:
    """The goals, each with what was measured."""
    print("\nGOALS")

    def say(what: str, value: float, most: float, unit: str = "") -> None:
        print(f"{'ok    ' if value <= most else 'MISSED'} {what}: {value:.3f}{unit}, goal {most:g}{unit}")

    sampled, exact = ratios.get("lowtide"), ratios.get("lowtide exact")
    if sampled:
        say("sampled, geometric mean", geomean(list(sampled.values())), 1.02)
        say("sampled, worst", max(sampled.values()), 1.05)
        say("sampled, most memory added beyond 2 % of plain", max(added.values()), 8, " MiB")
    for peer in ("mprofile", "heapwise"):
        for rate in ("512K", "128K", "32K"):
            theirs, ours = ratios.get(f"{peer} {rate}"), ratios.get("lowtide" + (rate != "512K") * f" {rate}")
            if theirs and ours:
                both = theirs.keys() & ours.keys()
                say(f"sampled at {rate}, of {peer}'s factor", geomean([ours[p] / theirs[p] for p in both]), 1)
    for peer, most in (("memray", 1 / 3), ("tracemalloc", 1 / 5)):
        theirs = ratios.get(peer)
        if exact and theirs:
            parts = [(exact[p] - 1) / (theirs[p] - 1) for p in exact.keys() & theirs.keys() if theirs[p] > 1.1]
            say(f"exact, added time of {peer}'s, median", statistics.median(parts), round(most, 3))
            say(f"exact, added time of {peer}'s, worst", max(parts), round(most, 3))


def minute(options: argparse.Namespace, folder: Path) -> None:
    """The profile alone: the program ends by SIGKILL, so no heap is captured; a recording's heap is as large as the heap."""
    out = str(folder / "out")
    commands = tools(options.python, out)
    print("\nA MINUTE: size of the recording, and the recorder's processor time")
    chosen = [name for name in options.programs.split(",") if name in OWN]  # pyperf runs once in a process
    for program in chosen or ["web"]:
        script = write_script(program, folder)
        for name, most in (("lowtide", 1), ("lowtide exact", 5)):
            run = run_once(commands[name].command, script, out, BENCH_KILL="1", BENCH_SECONDS="60")
            if not run:
                print(row(program, [name, "not to be run"]))
                continue
            others = f"{max(0.0, run.all_seconds - run.seconds):.2f} s"
            print(row(program, [name, mib(run.file_bytes), f"goal {most} MiB", others]), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("python", nargs="?", default=sys.executable)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--programs", default="")
    options.add_argument("--tools", default="")
    options.add_argument("--minute", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not chosen.minute:
            costs(chosen, Path(name))
        minute(chosen, Path(name))


if __name__ == "__main__":
    main()
