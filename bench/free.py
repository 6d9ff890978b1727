"""What goes back to the system, side by side with gc.collect and malloc_trim and with psutil's heap_trim; what the ledger explains; and
what the package itself takes.

    python bench/free.py [--runs 3]

Each case runs in a process of its own for each way of freeing, and the ways take turns; figures are medians. "of what may go" is the
share that went of what the case took beyond the interpreter that ran it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

HEAD = """
import ctypes, gc, json, resource, threading, time
import lowtide
lowtide.rss(); gc.collect()
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
def cpu_ms():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1000
start = rss()
"""
TAIL = """
{ready}
before = rss()
began, worked = time.perf_counter(), cpu_ms()
{way}
wall_ms, work_ms = (time.perf_counter() - began) * 1000, cpu_ms() - worked
print(json.dumps([start, before, rss(), wall_ms, work_ms, collect_ms]))
"""
COLLECT = "gc.collect(); collect_ms = (time.perf_counter() - began) * 1000; "
WAYS = {  # what it needs beforehand, what it does
    "gc + malloc_trim": ("trim = ctypes.CDLL(None).malloc_trim", COLLECT + "trim(0)"),
    "gc + psutil.heap_trim": ("import psutil", COLLECT + "psutil.heap_trim()"),
    "lowtide.free": ("", "freed = lowtide.free(); collect_ms = {l.name: l.ms for l in freed.layers}['collect']"),
}
THREADS = """
started, done = threading.Barrier(25), threading.Event()
def work():
    x = [bytes(900 + i % 900) for i in range(7000)]; kept = {kept}; del x; started.wait(); done.wait()
for _ in range(24): threading.Thread(target=work, daemon=True).start()
started.wait()
"""
CASES = {
    "3 M tuples, 1 in 5000 kept": "x = [(i, i + 1, i + 2) for i in range(3_000_000)]; kept = x[::5000]; del x",
    "malloc, 831 MiB, 1 % kept": "x = [bytes(600 + i % 4400) for i in range(311_000)]; kept = x[::100]; del x",
    "24 threads, all dropped": THREADS.format(kept="None"),
    "24 threads, 1 % kept": THREADS.format(kept="x[::100]"),
}
LEDGER = {
    "bare interpreter": "",
    "numpy and pandas": "import numpy, pandas; d = pandas.DataFrame({'a': numpy.arange(2e6), 'b': numpy.ones(2000000)})",
    "threaded server": """
import http.server, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"x" * 100_000)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for _ in range(300): urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").read()""",
    "24 threads": CASES["24 threads, 1 % kept"],
    "a 300 MiB mmap": "import mmap; m = mmap.mmap(-1, 300 << 20); m.write(b'x' * (300 << 20))",
    "private mmap, 300 MiB": "import mmap; m = mmap.mmap(-1, 300 << 20, flags=mmap.MAP_PRIVATE); m.write(b'x' * (300 << 20))",
    "pyarrow": "import pyarrow; t = pyarrow.table({'a': pyarrow.array(range(2_000_000))})",
    "scikit-learn": "import sklearn.ensemble, sklearn.linear_model",
    "torch": "import torch; t = torch.ones(1000, 1000)",
}
SEEN = """
ledger = lowtide.rss()
whole = None
try:
    import psutil; p = psutil.Process().memory_full_info(); whole = [p.rss, p.uss, p.shared]
except ImportError: pass
print(json.dumps([ledger.rss_bytes, ledger.lines[-1].bytes, len(ledger.lines), whole]))
"""


def run(code: str) -> list[float] | None:
    """None: a package that the code imports is not here."""
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(done.stderr)
    figures: list[float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def mib(count: float) -> str:
    return f"{count / 2**20:.0f}"


def freed(runs: int) -> None:
    print(
        "| MiB resident | way | started at | before | after | of what may go | ms | of it collecting | user + system ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, code in CASES.items():
        figures: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(runs):
            for way, (ready, words) in WAYS.items():
                got = run(code + TAIL.format(ready=ready, way=words))
                if got is not None:
                    figures[way].append(got)
        for way, rows in figures.items():
            if not rows:
                print(f"| {name} | {way} | not installed |")
                continue
            start, before, after, wall, work, collect = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            share = (before - after) / max(1, before - start)
            cells = [name, way, mib(start), mib(before), mib(after), f"{share:.0%}"]
            print("|", " | ".join([*cells, f"{wall:.0f}", f"{collect:.0f}", f"{work:.0f}"]), "|")


def explained() -> None:
    print("\n| program | MiB resident | explained | lines | psutil's memory_full_info, MiB |")
    print("|---|---|---|---|---|")
    for name, code in LEDGER.items():
        got = run(code + SEEN)
        if got is None:
            print(f"| {name} | not installed |")
            continue
        resident, unexplained, lines, whole = got
        peer = "rss {}, uss {}, shared {}".format(*map(mib, whole)) if isinstance(whole, list) else "not installed"
        print(f"| {name} | {mib(resident)} | {1 - unexplained / resident:.1%} | {lines:.0f} | {peer} |")


def imported(runs: int) -> None:
    """Of a bare interpreter, what it is asked for, and how long that took it."""
    code = """
import time; began = time.perf_counter()
{}
ms = (time.perf_counter() - began) * 1000
with open("/proc/self/statm") as f: print([int(f.read().split()[1]) * 4096, ms])"""
    cases = (
        "pass",
        "import lowtide",
        "import lowtide; lowtide.rss()",
        "import lowtide; lowtide.free()",
        "import psutil",
    )
    print("\n| in a bare interpreter | MiB resident | ms |\n|---|---|---|")
    rows: dict[str, list[list[float]]] = {case: [] for case in cases}
    for _ in range(2 * runs + 1):
        for case in cases:
            done = subprocess.run([sys.executable, "-I", "-c", code.format(case)], capture_output=True, text=True)
            if not done.returncode:
                rows[case].append(json.loads(done.stdout))
    for case, figures in rows.items():
        if figures:
            resident, ms = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"| {case} | {resident / 2**20:.1f} | {ms:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    freed(runs)
    explained()
    imported(runs)


if __name__ == "__main__":
    main()
