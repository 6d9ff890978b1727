"""Benchmarks of streams: one job over a file of ten times the ceiling, side by side, as ratios within one run.

    python bench/stream.py [--rounds 3] [--peer-rounds 1] [--times 10] [--jobs text,csv,jsonl,parquet,arrow]
                           [--only plain,lowtide-2] [--ceiling 64]

Run with a Python that has lowtide[stream], bench/requirements.txt, pandas and Dask. Prints a Markdown table for each job.
`plain` is the program that anybody writes, without a ceiling: a loop over the file with the csv module, the json module,
or pyarrow's batches. Times are medians of rounds in which all take turns, in wall time and in processor time of all
processes; those who are neither plain nor lowtide take part in the first rounds only. Memory is that of all processes of the
program together, of pages that several share each its part (PSS), looked at every 20 ms, the most over all rounds. A program's
time ends once its output is on the disk (fsync), as lowtide's does anyway. Each must write the same records; what one leaves in another form is compared as values.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs" / "stream_jobs.py"
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()
_TICK = os.sysconf("SC_CLK_TCK")


def log_lines(i: int) -> str:
    time_of_day = f"2026-11-21T{i % 24:02}:{i % 60:02}:{i % 59:02}Z"
    level, word = ("INFO", "DEBUG", "WARN", "ERROR")[i % 4], WORDS[i % 12]
    return f"{time_of_day} {level} host{i % 97} {word} request {i} took {i * 7919 % 10007} ms path=/api/v1/{word}/{i % 1000}\n"


def rows(i: int) -> str:
    note = (
        f'"said ""{WORDS[i % 5]}"", and went"'
        if i % 10 == 0
        else f"plain note number {i} kept as its author wrote it some time ago"
    )
    return f"{i}, {WORDS[i % 12]} {WORDS[i * 7 % 12]} ,{i * 7919 % 100007},{WORDS[i * 3 % 12]},{note}\n"


def requests(i: int) -> str:
    request = {"id": i, "user": WORDS[i % 12], "status": 200 + i % 400, "ms": i * 7919 % 10007 / 10}
    return json.dumps({**request, "tags": [WORDS[i % 7], WORDS[i % 5]], "path": f"/api/{WORDS[i % 12]}/{i}"}) + "\n"


JOBS: dict[str, tuple[str, Callable[[int], str]]] = {
    "text": ("", log_lines),
    "csv": ("id,name,cents,city,note\n", rows),
    "jsonl": ("", requests),
}
TABLES = ("parquet", "arrow")
# MiB: what two workers need, and some more.
CEILINGS = {"text": 64, "csv": 48, "jsonl": 48, "parquet": 240, "arrow": 240}
SUFFIXES = {"text": "log"}
OURS = ("plain", "lowtide", "lowtide-2")


def documents(numbers: range, noise: random.Random) -> Any:
    """Records of two kilobytes, most of it text that does not compress."""
    import pyarrow as pa

    bodies = noise.randbytes(900 * len(numbers)).hex()
    return pa.table(
        {
            "id": list(numbers),
            "title": [f" {WORDS[i % 12]} {WORDS[i * 7 % 12]} {i} " for i in numbers],
            "cents": [i * 7919 % 100007 for i in numbers],
            "city": [WORDS[i * 3 % 12] for i in numbers],
            "body": [bodies[at : at + 1800] for at in range(0, len(bodies), 1800)],
        }
    )


def make_tables(path: Path, job: str, size: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise = random.Random(7)
    schema = documents(range(1), noise).schema
    with open(path, "wb") as file:
        writer: Any = pq.ParquetWriter(file, schema) if job == "parquet" else pa.ipc.new_file(file, schema)
        with writer:
            number = 0
            while file.tell() < size:
                writer.write_table(documents(range(number, number + 5_000), noise))
                number += 5_000


def make_source(path: Path, job: str, size: int) -> None:
    if job in TABLES:
        return make_tables(path, job, size)
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


def table_digest(path: Path) -> str:
    """Column by column, however the rows are grouped; `path` may be a folder of parts."""
    import pyarrow as pa
    import pyarrow.dataset as dataset

    parts = sorted(path.glob("*.parquet"), key=lambda part: int(part.name.split(".")[1])) if path.is_dir() else [path]
    found = {name: hashlib.sha256() for name in ("id", "title", "cents", "city", "body")}
    for part in parts:
        table = dataset.dataset(part, format="ipc" if path.suffix == ".arrow" else "parquet")
        for batch in table.to_batches(batch_size=8192, batch_readahead=1, fragment_readahead=1, use_threads=False):
            for name, column in found.items():
                values = batch.column(name)
                number = name in ("id", "cents")
                column.update(
                    values.cast(pa.int64()).to_numpy() if number else "\n".join([*values.to_pylist(), ""]).encode()
                )
    return " ".join(column.hexdigest() for column in found.values())


def raw_digest(path: Path) -> str:
    if path.is_dir():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path, job: str) -> str:
    """Of the records as values, so that 1.50 and 1.5 or "a" and a are the same."""

    if job in TABLES:
        return table_digest(path)

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
    ceiling, suffix = args.ceiling or CEILINGS[job], SUFFIXES.get(job, job)
    source, out = folder / f"in.{suffix}", folder / f"out.{suffix}"
    make_source(source, job, args.times * ceiling << 20)
    got: dict[str, list[tuple[float, float, int]]] = {name: [] for name in names}
    wanted: tuple[str, str] | None = None
    for turn in range(args.rounds):
        for name in names:
            if turn >= args.peer_rounds and name not in OURS:
                continue
            words = [sys.executable, str(PROGRAMS), name, job, str(source), str(out), f"{ceiling}MiB"]
            got[name].append(Session(words).run())
            if turn == 0:
                wanted = wanted or (raw_digest(out), digest(out, job))
                if raw_digest(out) != wanted[0] and digest(out, job) != wanted[1]:
                    raise SystemExit(f"bench: {name} wrote other records than {names[0]}: {job}")
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()
    size = source.stat().st_size
    print(
        f"\n| {job}, {size >> 20} MiB, ceiling {ceiling} MiB | s | processor s | throughput | peak | of the ceiling | rounds |"
    )
    print("|---|---|---|---|---|---|---|")
    base = statistics.median(taken for taken, _, _ in got[names[0]])
    for name in filter(got.get, names):
        taken, cpu = (statistics.median(run[i] for run in got[name]) for i in (0, 1))
        peak = max(run[2] for run in got[name])
        print(
            f"| {name} | {taken:.1f} | {cpu:.1f} | {base / taken:.2f}× | {peak / 2**20:.0f} MiB "
            f"| {peak / (ceiling << 20):.2f} | {len(got[name])} |",
            flush=True,
        )
    source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=1, help="in how many of them the others take part; 0: none")
    parser.add_argument("--ceiling", type=int, help="in MiB, instead of each job's own")
    parser.add_argument("--times", type=int, default=10, help="how many ceilings the source is large")
    parser.add_argument("--jobs", default=",".join(CEILINGS))
    parser.add_argument("--only", default="plain,lowtide,lowtide-2,pandas,polars,dask")
    parser.add_argument("--folder", help="where the files go; they take up to four times the largest source")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for job in args.jobs.split(","):
            # Dask has no reader of Arrow files.
            compare(
                job, [name for name in args.only.split(",") if (job, name) != ("arrow", "dask")], Path(folder), args
            )


if __name__ == "__main__":
    main()
