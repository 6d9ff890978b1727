"""Benchmarks of streams: one job over a file of ten times the ceiling, side by side, as ratios within one run.

    python bench/stream.py [--rounds 3] [--ceiling 96] [--times 10] [--jobs text,csv,jsonl] [--only plain,lowtide]

Run with a Python that has lowtide[stream], bench/requirements.txt, pandas and Dask. Prints a Markdown table for each job.
Times are medians of rounds in which all take turns, in wall time and in processor time of all processes; memory is that of
all processes of the program together, of pages that several share each its part (PSS), looked at every 20 ms, the most over
all rounds. Each program must write the same records; what one leaves in another form is compared as values.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs" / "stream_jobs.py"
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()
_TICK = os.sysconf("SC_CLK_TCK")


def log_lines(i: int) -> str:
    time_of_day = f"2026-11-21T{i % 24:02}:{i % 60:02}:{i % 59:02}Z"
    level, word = ("INFO", "DEBUG", "WARN", "ERROR")[i % 4], WORDS[i % 12]
    return f"{time_of_day} {level} host{i % 97} {word} request {i} took {i * 7919 % 10007} ms path=/api/v1/{word}/{i % 1000}\n"


def rows(i: int) -> str:
    note = f'"said ""{WORDS[i % 5]}"", and went"' if i % 10 == 0 else f"plain note number {i}"
    return f"{i}, {WORDS[i % 12]} {WORDS[i * 7 % 12]} ,{i * 7919 % 100007},{WORDS[i * 3 % 12]},{note}\n"


def requests(i: int) -> str:
    request = {"id": i, "user": WORDS[i % 12], "status": 200 + i % 400, "ms": i * 7919 % 10007 / 10}
    return json.dumps({**request, "tags": [WORDS[i % 7], WORDS[i % 5]], "path": f"/api/{WORDS[i % 12]}/{i}"}) + "\n"


JOBS: dict[str, tuple[str, Callable[[int], str]]] = {
    "text": ("", log_lines),
    "csv": ("id,name,cents,city,note\n", rows),
    "jsonl": ("", requests),
}


def make_source(path: Path, job: str, size: int) -> None:
    head, record = JOBS[job]
    with open(path, "w") as file:
        file.write(head)
        number = 0
        while file.tell() < size:
            file.write("".join(map(record, range(number, number + 20_000))))
            number += 20_000


class Session:
    """A program in a session of its own, and all that it starts, whoever their parent is by now."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True)
        self.cpu: dict[tuple[int, str], float] = {}
        self.peak_bytes = 0

    def _look(self) -> None:
        total = 0
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) != self.process.pid:
                    continue
                self.cpu[int(name), fields[19].decode()] = sum(map(int, fields[11:13])) / _TICK
                for line in Path(f"/proc/{name}/smaps_rollup").read_bytes().splitlines():
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) << 10
            except (OSError, IndexError):
                continue
        self.peak_bytes = max(self.peak_bytes, total)

    def run(self) -> tuple[float, float, int]:
        """Seconds, seconds of processors, and the most bytes seen."""
        start = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        while True:
            self._look()
            try:
                self.process.wait(0.02)
                break
            except subprocess.TimeoutExpired:
                continue
        taken = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert self.process.stderr is not None
        if self.process.returncode:
            raise SystemExit(f"bench: {self.process.args!r} failed: {self.process.stderr.read()[-2000:]}")
        # Those that nobody waited for are known from their last look.
        waited = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        others = sum(seconds for (pid, _), seconds in self.cpu.items() if pid != self.process.pid)
        return taken, waited + others, self.peak_bytes


def digest(path: Path, job: str) -> str:
    """Of the records as values, so that 1.50 and 1.5 or "a" and a are the same."""

    def records() -> Iterator[bytes]:
        with open(path, newline="" if job == "csv" else None) as file:
            if job == "csv":
                yield from (repr(row).encode() for row in csv.reader(file))
            elif job == "jsonl":
                yield from (json.dumps(json.loads(line), sort_keys=True).encode() for line in file)
            else:
                yield from (line.encode() for line in file)

    found = hashlib.sha256()
    for record in records():
        found.update(record)
    return found.hexdigest()


def compare(job: str, names: list[str], folder: Path, args: argparse.Namespace) -> None:
    source, out = folder / f"in.{job if job != 'text' else 'log'}", folder / f"out.{job if job != 'text' else 'log'}"
    make_source(source, job, args.times * args.ceiling << 20)
    got: dict[str, list[tuple[float, float, int]]] = {name: [] for name in names}
    wanted = ""
    for turn in range(args.rounds):
        for name in names:
            words = [sys.executable, str(PROGRAMS), name, job, str(source), str(out), f"{args.ceiling}MiB"]
            got[name].append(Session(words).run())
            if turn == 0:
                found = digest(out, job)
                wanted = wanted or found
                if found != wanted:
                    raise SystemExit(f"bench: {name} wrote other records than {names[0]}: {job}")
            out.unlink()
    size = source.stat().st_size
    print(
        f"\n| {job}, {size >> 20} MiB, ceiling {args.ceiling} MiB | s | processor s | throughput | peak | of the ceiling |"
    )
    print("|---|---|---|---|---|---|")
    base = statistics.median(taken for taken, _, _ in got[names[0]])
    for name in names:
        taken, cpu = (statistics.median(run[i] for run in got[name]) for i in (0, 1))
        peak = max(run[2] for run in got[name])
        print(
            f"| {name} | {taken:.1f} | {cpu:.1f} | {base / taken:.2f}× | {peak / 2**20:.0f} MiB "
            f"| {peak / (args.ceiling << 20):.2f} |",
            flush=True,
        )
    source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ceiling", type=int, default=96, help="in MiB")
    parser.add_argument("--times", type=int, default=10, help="how many ceilings the source is large")
    parser.add_argument("--jobs", default="text,csv,jsonl")
    parser.add_argument("--only", default="plain,unbounded,lowtide,lowtide-1,lowtide-2,pandas,polars,dask")
    parser.add_argument("--folder", help="where the files go; they take twice their size")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for job in args.jobs.split(","):
            compare(job, args.only.split(","), Path(folder), args)


if __name__ == "__main__":
    main()
