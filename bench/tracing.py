"""What lowtide.tracemalloc adds to a program's time and memory, as a share of what the standard library's adds.

    python bench/tracing.py [PYTHON] [--package DIR] [--rounds N] [--frames N …]

Each program runs plain, under one tracer and under the other, in turn, round by round. Time is the process's own (user and system);
`added` is its median less the plain one's, and the ratio is of both tracers' added time. Memory is the highest RSS.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAMS = {
    "records": """
for _ in range(3):
    rows = [{"id": i, "name": str(i), "values": [i, i + 1, float(i)]} for i in range(60_000)]
""",
    "json": """
import json
rows = [{"id": i, "name": str(i), "values": [i, i + 1, float(i)]} for i in range(20_000)]
for _ in range(3): back = json.loads(json.dumps(rows))
""",
    "calls": """
class P:
    def __init__(self, a): self.a = a
    def step(self): return P(self.a + 1.5)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(23)
p = P(0)
for i in range(300_000): p = p.step()
""",
    "regex": """
import re
pattern = re.compile(r"(\\w+)@(\\w+)\\.(com|org)")
text = "someone@example.com and no one at all, " * 500
for _ in range(60): found = [m.groups() for m in pattern.finditer(text)]
""",
    "deep": """
def deep(n): return deep(n - 1) if n else [str(i) for i in range(200_000)]
for _ in range(3): kept = deep(60)
""",
}
TIMED = """
import resource, sys, time
sys.path.insert(0, {package!r})
tracer = {tracer}
if tracer: tracer.start({frames})
begun = time.process_time()
{code}
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
TRACERS = {
    "plain": "None",
    "stdlib": "__import__('tracemalloc')",
    "lowtide": "__import__('lowtide.tracemalloc', fromlist='x')",
}


def once(python: str, package: str, tracer: str, frames: int, code: str) -> tuple[float, float]:
    program = TIMED.format(package=package, tracer=TRACERS[tracer], frames=frames, code=code)
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    seconds, kib = done.stdout.split()
    return float(seconds), float(kib) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="lowtide.tracemalloc beside the standard library's")
    parser.add_argument("python", nargs="?", default=sys.executable)
    parser.add_argument("--package", default=os.fspath(ROOT / "build/bench-package"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 25])
    asked = parser.parse_args()
    package = Path(asked.package)
    if asked.package == parser.get_default("package"):  # sources and extension as they are in the tree
        (package / "lowtide").mkdir(parents=True, exist_ok=True)
        for source in [*(ROOT / "python/lowtide").glob("*.py"), *(ROOT / "build/python/lowtide").glob("_core*.so")]:
            (package / "lowtide" / source.name).unlink(missing_ok=True)
            (package / "lowtide" / source.name).symlink_to(source)
    for frames in asked.frames:
        ratios = []
        print(
            f"{frames} frame{'s'[: frames > 1]:8} plain s   + stdlib  + lowtide  added: ratio     plain MiB  stdlib  lowtide"
        )
        for name, code in PROGRAMS.items():
            runs: dict[str, list[tuple[float, float]]] = {tracer: [] for tracer in TRACERS}
            for _ in range(asked.rounds):
                for tracer, figures in runs.items():
                    figures.append(once(asked.python, os.fspath(package), tracer, frames, code))
            seconds = {t: statistics.median(run[0] for run in figures) for t, figures in runs.items()}
            mib = {t: statistics.median(run[1] for run in figures) for t, figures in runs.items()}
            added = {t: seconds[t] - seconds["plain"] for t in ("stdlib", "lowtide")}
            ratios.append(max(added["lowtide"], 1e-3) / added["stdlib"])
            print(
                f"{name:16} {seconds['plain']:7.3f} {added['stdlib']:10.3f} {added['lowtide']:10.3f} {ratios[-1]:13.3f}"
                f" {mib['plain']:13.0f} {mib['stdlib']:7.0f} {mib['lowtide']:8.0f}"
            )
        mean = math.exp(statistics.mean(map(math.log, ratios)))
        print(f"{'geometric mean':16} {mean:43.3f}\n")


if __name__ == "__main__":
    main()
