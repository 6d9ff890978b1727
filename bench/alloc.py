"""What watching allocations costs a program, beside the tools that do the same: `python bench/alloc.py [PYTHON]`.

Each program measures its own processor time; every tool runs it in turn, round by round, and a figure is the median of the
rounds divided by the plain run's. PYTHON should have memray and heapwise where they are to be compared.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LOWTIDE = Path(os.environ.get("LOWTIDE_EXE", Path(__file__).resolve().parent.parent / "build/bin/lowtide"))

PROGRAMS = {
    "records": """
for _ in range(4):
    rows = [{"id": i, "name": str(i), "values": [i, i + 1, float(i)]} for i in range(60_000)]
""",
    "json": """
import json
rows = [{"id": i, "name": str(i), "values": [i, i + 1, float(i)]} for i in range(20_000)]
for _ in range(6):
    back = json.loads(json.dumps(rows))
""",
    "calls": """
class P:
    def __init__(self, a): self.a = a
    def step(self): return P(self.a + 1.5)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(25)
p = P(0)
for i in range(600_000): p = p.step()
""",
    "web": """
import io, json
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults
def app(environ, start):
    body = json.dumps({"path": environ["PATH_INFO"], "rows": [{"n": n, "name": f"row {n}"} for n in range(40)]})
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body.encode()]
for number in range(1500):
    environ = {"PATH_INFO": f"/items/{number}"}
    setup_testing_defaults(environ)
    SimpleHandler(io.BytesIO(), io.BytesIO(), io.StringIO(), environ).run(app)
""",
    "regex": """
import re
pattern = re.compile(r"(\\w+)@(\\w+)\\.(com|org)")
text = "someone@example.com and no one at all, " * 500
for _ in range(120): found = [m.groups() for m in pattern.finditer(text)]
""",
    "numpy": """
import numpy
a = numpy.arange(200_000.0)
for _ in range(600): b = numpy.sqrt(a * 2 + 1).sum()
""",
}
TIMED = """
import time
code = compile({code!r}, "program", "exec")
begun = time.process_time()
for _ in range(5): exec(code, {{"__name__": "program"}})
print("seconds", time.process_time() - begun)
"""


def tools(python: str, directory: Path) -> dict[str, list[str]]:
    out = str(directory / "out")
    run = [str(LOWTIDE), "run", "--no-report", "-o", out]
    return {
        "plain": [python],
        "lowtide": [*run, "--", python],
        "lowtide --exact": [*run, "--exact", "--", python],
        "heapwise": [python, "-m", "heapwise", "run"],
        "memray": [python, "-m", "memray", "run", "-q", "-f", "--trace-python-allocators", "-o", out],
        "tracemalloc": [python, "-X", "tracemalloc=1"],
    }


def seconds(command: list[str], script: Path) -> float | None:
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, cwd=script.parent)
    for line in done.stdout.splitlines():
        if line.startswith("seconds "):
            return float(line.split()[1])
    return None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("python", nargs="?", default=sys.executable)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        commands = tools(chosen.python, Path(name))
        print("program   " + "".join(f"{tool:>17}" for tool in commands))
        for program, code in PROGRAMS.items():
            script = Path(name) / f"program_{program}.py"
            script.write_text(TIMED.format(code=code))
            taken: dict[str, list[float]] = {}
            for _ in range(chosen.rounds):
                for tool, command in commands.items():
                    one = seconds(command, script)
                    if one is not None:
                        taken.setdefault(tool, []).append(one)
            if "plain" not in taken:
                print(f"{program:10}  cannot be run by this Python")
                continue
            plain = statistics.median(taken["plain"])
            row = {tool: statistics.median(times) / plain for tool, times in taken.items()}
            for tool, ratio in row.items():
                ratios.setdefault(tool, []).append(ratio)
            cells = [f"{plain:15.3f} s", *(f"{row[t]:17.3f}" if t in row else f"{'–':>17}" for t in list(commands)[1:])]
            print(f"{program:10}" + "".join(cells), flush=True)
    means = (
        f"{math.exp(statistics.fmean(map(math.log, ratios[t]))):17.3f}" if t in ratios else f"{'–':>17}"
        for t in commands
    )
    print(f"{'geomean':10}" + "".join(means))


if __name__ == "__main__":
    main()
