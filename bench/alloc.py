"""What watching allocations costs a program, beside the tools that do the same: `python bench/alloc.py [PYTHON]`.

    --programs records,json     some of bench/programs/allocating.py
    --tools plain,lowtide       some of the tools; those that tell functions of C, too, only so: native, exact native,
                                memray native
    --rounds 6 --most 20        of lowtide, see below; other samplers have two, exact tools one
    --minute                    only how large the recordings of a minute are, and what the recorder needs

A machine is now faster and now slower, by more than what is to be told apart: neighbours, other processes, where memory happens to
lie. So a tool runs at once with the plain program, both pinned to one core, where the scheduler gives each some milliseconds in turn:
what is slow then is slow for both, and only their ratio is used. (One and the same program beside itself: 1 ± 0.02, where two runs one
after the other differ by 0.08.) The other processes of a tool run where they like. Each round has its own random hash seed, the
same for all, and each process its own addresses and size of environment, so that rounds average over layouts. Lowtide's
goes on until the 95 % interval of the median (bootstrap) is within ± 0.01, --most rounds, or 30 s a program; peers come two at a time.
A run then lasts twice as long as its processor time, so what lowtide does by the clock counts twice: its cost is rather overstated.

A cell is the median of the rounds' ratios: of the processor time that the program itself measures around its work; with it stands half
of that interval for lowtide. Memory is the most that it had resident. PYTHON has bench/requirements.txt; what it lacks is
left out with a dash. About twenty minutes.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
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
OUT = "<out>"  # in a command: a path that is this run's own
WITHIN, SECONDS_MOST = 0.01, 30


@dataclass
class Tool:
    command: list[str]
    rounds: int  # 0: as many as it takes


def tools(python: str) -> dict[str, Tool]:
    run = [str(LOWTIDE), "run", "--no-report", "-o", OUT]

    def mprofile(rate: int) -> list[str]:
        return [python, "-c", MPROFILE.format(rate=rate)]

    heapwise = [python, "-m", "heapwise", "run", "--no-html"]
    memray = [python, "-m", "memray", "run", "-q", "-f", "--trace-python-allocators", "-o", OUT]
    return {
        "plain": Tool([python], 0),
        "lowtide": Tool([*run, "--", python], 0),
        "lowtide 128K": Tool([*run, "--interval=128K", "--", python], 2),
        "lowtide 32K": Tool([*run, "--interval=32K", "--", python], 2),
        "mprofile 512K": Tool(mprofile(512 << 10), 2),
        "mprofile 128K": Tool(mprofile(128 << 10), 2),
        "heapwise 512K": Tool([*heapwise, "--rate", str(512 << 10)], 2),
        "heapwise 32K": Tool([*heapwise, "--rate", str(32 << 10)], 2),
        "lowtide exact": Tool([*run, "--exact", "--", python], 2),
        "memray": Tool(memray, 1),
        "tracemalloc": Tool([python, "-X", "tracemalloc=1"], 1),
        # Only where they are asked for:
        "native": Tool([*run, "--native", "--", python], 3),
        "exact native": Tool([*run, "--exact", "--native", "--", python], 1),
        "memray native": Tool([*memray, "--native"], 1),
    }


@dataclass
class Run:
    seconds: float
    peak_bytes: int
    file_bytes: int


def run_together(commands: dict[str, list[str]], script: Path, **environment: str) -> dict[str, Run]:
    """All at once; who fails is left out."""
    started = {}
    for number, name in enumerate(random.sample(list(commands), len(commands))):
        out = str(script.parent / f"out{number}")
        Path(out).unlink(missing_ok=True)
        padding = {"BENCH_PADDING": "x" * random.randrange(4096)}
        started[name] = (
            out,
            subprocess.Popen(
                [*(word.replace(OUT, out) for word in commands[name]), str(script)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=script.parent,
                env=os.environ | environment | padding,
            ),
        )
    runs = {}
    for name, (out, process) in started.items():
        told = {
            line.split()[0]: line.split()[1] for line in process.communicate()[0].splitlines() if len(line.split()) == 2
        }
        if "seconds" in told and "peak" in told:
            size = os.path.getsize(out) if os.path.exists(out) else 0
            runs[name] = Run(float(told["seconds"]), int(told["peak"]), size)
    return runs


@dataclass
class Measured:
    """Of one tool, a round each."""

    runs: list[Run]
    ratios: list[float]  # of seconds, to plain's of the same round

    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def interval(self) -> tuple[float, float]:
        """Of the median, 95 %: by bootstrap."""
        chance = random.Random(1)
        medians = sorted(statistics.median(chance.choices(self.ratios, k=len(self.ratios))) for _ in range(2000))
        return medians[50], medians[-50]

    def half(self) -> float:
        low, high = self.interval()
        return (high - low) / 2


def measure(commands: dict[str, Tool], script: Path, least: int, most: int) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}

    def one_round(*names: str) -> None:
        core = random.choice(sorted(os.sched_getaffinity(0)))
        seed = str(random.randrange(1, 1 << 32))
        due = {name: commands[name].command for name in ("plain", *names)}
        runs = run_together(due, script, BENCH_CORE=str(core), PYTHONHASHSEED=seed)
        for name, run in runs.items() if "plain" in runs else ():
            one = measured.setdefault(name, Measured([], []))
            one.runs.append(run)
            one.ratios.append(run.seconds / runs["plain"].seconds)

    begun = time.monotonic()
    first = [name for name, tool in commands.items() if not tool.rounds and name != "plain"]
    for number in range(1, most + 1):
        one_round(*first)
        told = measured.get("lowtide")
        late = time.monotonic() > begun + SECONDS_MOST
        if not told or (number >= least and (late or told.half() <= WITHIN)):
            break
    for number in range(max(tool.rounds for tool in commands.values())):
        due = [n for n, tool in commands.items() if number < tool.rounds and (number == 0 or n in measured)]
        for i in range(0, len(due), 2):
            one_round(*due[i : i + 2])
    return measured


def row(title: str, cells: Iterable[str]) -> str:
    return f"{title:19}" + "".join(f"{cell:>14}" for cell in cells)


def geomean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def costs(options: argparse.Namespace, folder: Path) -> None:
    commands = tools(options.python)
    default = [name for name in commands if "native" not in name]
    chosen = ["plain", *options.tools.split(",")] if options.tools else default
    commands = {name: tool for name, tool in commands.items() if name in chosen}
    watching = [name for name in commands if name != "plain"]
    ratios: dict[str, dict[str, float]] = {name: {} for name in watching}
    memory, files, added, intervals = [], [], {}, {}
    print("TIME, ratio to plain\n" + row("program", ["plain", *watching]), flush=True)
    for program in options.programs.split(",") if options.programs else names():
        measured = measure(commands, write_script(program, folder), options.rounds, options.most)
        if "plain" not in measured:
            print(row(program, ["not to be run"]))
            continue
        plain = statistics.median(run.seconds for run in measured["plain"].runs)
        peaks = {name: statistics.median(run.peak_bytes for run in of.runs) for name, of in measured.items()}
        rss = peaks["plain"]
        for name in measured.keys() - {"plain"}:
            ratios[name][program] = measured[name].ratio()
        if "lowtide" in measured:
            intervals[program] = measured["lowtide"].interval()
        cells = {name: f"{measured[name].ratio():.3f}" for name in watching if name in measured}
        if "lowtide" in cells:
            cells["lowtide"] += f" ± {measured['lowtide'].half():.3f}"
        print(row(program, [f"{plain:.2f} s", *(cells.get(name, "–") for name in watching)]), flush=True)
        memory.append(
            row(program, [mib(rss), *(mib(peaks[name] - rss) if name in peaks else "–" for name in watching)])
        )
        written = {name: statistics.median(run.file_bytes for run in of.runs) for name, of in measured.items()}
        files.append(row(program, ["", *(mib(written[n]) if written.get(n) else "–" for n in watching)]))
        added[program] = (peaks.get("lowtide", rss) - rss - 0.02 * rss) / MIB
    for title, sum_up in (("geometric mean", geomean), ("worst", max)):
        print(row(title, ["", *(f"{sum_up(list(ratios[n].values())):.3f}" if ratios[n] else "–" for n in watching)]))
    print("\nMEMORY, most resident: plain, and what is added\n" + row("program", ["plain", *watching]))
    print("\n".join(memory))
    print("\nFILE, lowtide's with the heap\n" + row("program", ["", *watching]) + "\n" + "\n".join(files))
    judge(ratios, added, intervals)


def mib(n: float) -> str:
    return f"{n / MIB:.1f} MiB"


def judge(
    ratios: dict[str, dict[str, float]], added: dict[str, float], intervals: dict[str, tuple[float, float]]
) -> None:
    """The goals, each with what was measured."""
    print("\nGOALS")

    def say(what: str, value: float, most: float, unit: str = "") -> None:
        print(f"{'ok    ' if value <= most else 'MISSED'} {what}: {value:.3f}{unit}, goal {most:g}{unit}")

    sampled, exact = ratios.get("lowtide"), ratios.get("lowtide exact")
    if sampled:
        say("sampled, geometric mean", geomean(list(sampled.values())), 1.02)
        worst = max(sampled, key=lambda program: sampled[program])
        low, high = intervals[worst]
        say(f"sampled, worst ({worst}, {low:.3f} to {high:.3f})", sampled[worst], 1.05)
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
    """The profile alone: the program ends by SIGKILL, so no heap is captured, and none at its peak; a heap's size is the heap's."""
    commands = tools(options.python)
    print("\nA MINUTE: size of the recording, and the recorder's processor time")
    chosen = [name for name in options.programs.split(",") if name in OWN]  # pyperf runs once in a process
    for program in chosen or ["web"]:
        script = write_script(program, folder)
        for name, most in (("lowtide", 1), ("lowtide exact", 5)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [*commands[name].command[:2], "--no-peak-snapshot", *commands[name].command[2:]]
            run = run_together({name: command}, script, BENCH_KILL="1", BENCH_SECONDS="60").get(name)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if not run:
                print(row(program, [name, "not to be run"]))
                continue
            all_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            others = f"{max(0.0, all_seconds - run.seconds):.2f} s"
            size = f"{run.file_bytes / 1024:.0f} KiB"
            print(row(program, [name, size, f"goal {most} MiB", others]), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("python", nargs="?", default=sys.executable)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--most", type=int, default=20)
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
