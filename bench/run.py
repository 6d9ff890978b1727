"""Benchmarks of the heap: every figure that the README claims, as a ratio within one run, medians of several runs.

    python bench/run.py --lowtide build/bin/lowtide [--runs 3] [--instances 1000000] [--large]

Run with a Python that has bench/requirements.txt installed; that Python is the target too. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = Path(__file__).parent / "programs" / "instances.py"


class Target:
    """A running instances.py that is told what to do through its standard input."""

    def __init__(self, instances: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(instances)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        text = self.process.stdout.readline().strip()
        if not text:
            raise SystemExit("bench: the target ended early; is there memory enough?")
        return text

    def say(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def ask(self, words: str) -> float:
        self.say(words)
        return float(self.line())

    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.say("exit")
        self.process.wait()


class Shot:
    """One dump and one report of a target, with what they cost."""

    def __init__(self, lowtide: str, target: Target, folder: str) -> None:
        file = str(Path(folder) / "bench.tide")
        start = time.perf_counter()
        dump = subprocess.run(
            [lowtide, "dump", str(target.process.pid), "-o", file, "--json"], check=True, stdout=subprocess.PIPE
        )
        self.dump_s = time.perf_counter() - start
        start = time.perf_counter()
        report = subprocess.Popen([lowtide, "report", file, "--json"], stdout=subprocess.PIPE)
        assert report.stdout is not None
        json.load(report.stdout)
        _, status, usage = os.wait4(report.pid, 0)
        self.report_s = time.perf_counter() - start
        if status:
            raise SystemExit(f"bench: lowtide report ended with status {status}")
        self.explain_bytes = usage.ru_maxrss * 1024
        capture = json.loads(dump.stdout)["capture"]
        self.objects, self.edges = capture["objects"], capture["edges"]
        self.file_bytes = os.path.getsize(file)
        self.total_s = self.dump_s + self.report_s


def median(runs: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(runs))


def versus_peers(args: argparse.Namespace, folder: str) -> list[tuple[str, str, str]]:
    ours: list[Shot] = []
    peers: dict[str, list[float]] = {"guppy3": [], "pympler": []}
    for _ in range(args.runs):
        with Target(args.instances) as target:
            ours.append(Shot(args.lowtide, target, folder))
        for peer, times in peers.items():
            with Target(args.instances) as target:
                times.append(target.ask(peer))
    total = statistics.median(shot.total_s for shot in ours)
    dump = statistics.median(shot.dump_s for shot in ours)
    shot = ours[-1]
    bound = 48 * shot.objects + 8 * shot.edges
    memory = statistics.median(s.explain_bytes for s in ours)
    guppy, pympler = (statistics.median(peers[peer]) for peer in ("guppy3", "pympler"))
    return [
        (
            f"capture and explain {shot.objects / 1e6:.1f} M objects, {shot.edges / 1e6:.1f} M references",
            f"{total:.2f} s (dump {dump:.2f}, report {total - dump:.2f})",
            "",
        ),
        ("… guppy3 `heap()` with its table", f"{guppy:.2f} s: {guppy / total:.1f}×", "≥ 4×"),
        ("… Pympler muppy summary", f"{pympler:.2f} s: {pympler / total:.1f}×", "≥ 10×"),
        (
            "peak memory of the explanation",
            f"{memory / 2**20:.0f} MiB: {memory / bound:.2f} of 48 B an object + 8 B a reference",
            "≤ 1",
        ),
        ("recording on disk", f"{shot.file_bytes / shot.objects:.1f} B an object", "≤ 24 B"),
    ]


def linearity(args: argparse.Namespace, folder: str) -> list[tuple[str, str, str]]:
    def seconds(instances: int) -> float:
        with Target(instances) as target:
            return median(args.runs, lambda: Shot(args.lowtide, target, folder).total_s)

    ratio = seconds(args.instances) / seconds(args.instances // 4)
    return [("time for 4× the objects", f"{ratio:.2f}×", "≤ 5×")]


def pause(args: argparse.Namespace, folder: str) -> list[tuple[str, str, str]]:
    gaps: list[float] = []
    quiet: list[float] = []
    with Target(args.instances) as target:
        rss = target.rss_bytes()
        for _ in range(args.runs):
            quiet.append(target.ask("watch 2"))
            target.say("watch 4")
            time.sleep(0.5)
            Shot(args.lowtide, target, folder)
            gaps.append(float(target.line()))
    gap, bound = statistics.median(gaps), 5 + 25 * rss / 1e9
    return [
        (
            f"longest pause seen by a thread of the target, {rss / 2**20:.0f} MiB RSS",
            f"{gap:.1f} ms (undisturbed {statistics.median(quiet):.1f} ms): {gap / bound:.2f} of 25 ms a GB + 5 ms",
            "≤ 1",
        )
    ]


def large(args: argparse.Namespace, folder: str) -> list[tuple[str, str, str]]:
    with Target(10 * args.instances) as target:
        shot = Shot(args.lowtide, target, folder)
    bound = 48 * shot.objects + 8 * shot.edges
    return [
        (
            f"{shot.objects / 1e6:.0f} M objects, {shot.edges / 1e6:.0f} M references, once",
            f"dump {shot.dump_s:.1f} s, report {shot.report_s:.1f} s, "
            f"{shot.explain_bytes / 2**30:.2f} GiB: {shot.explain_bytes / bound:.2f} of the bound",
            "≤ 1",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowtide", required=True, help="the executable to measure")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--large", action="store_true", help="also ten times the instances, once")
    args = parser.parse_args()
    cases = [versus_peers, linearity, pause] + ([large] if args.large else [])
    print("| what | measured | goal |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            for row in case(args, folder):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
