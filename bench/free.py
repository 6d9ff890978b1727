"""What goes back to the system: lowtide.free() beside gc.collect and malloc_trim, and what the ledger explains beside psutil.

    python bench/free.py

Each case runs in a process of its own, twice: once with gc.collect and malloc_trim alone, then with lowtide.free().
"""

from __future__ import annotations

import json
import subprocess
import sys

HEAD = """
import ctypes, gc, json, threading, time
import lowtide
trim = ctypes.CDLL(None).malloc_trim
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
"""
TAIL = """
before = rss()
began = time.perf_counter(); gc.collect(); trim(0)
plain_ms, plain = (time.perf_counter() - began) * 1000, rss()
began = time.perf_counter(); freed = lowtide.free()
print(json.dumps([before, plain, plain_ms, rss(), (time.perf_counter() - began) * 1000]))
"""
CASES = {
    "3 M tuples, 1 in 5000 kept": "x = [(i, i + 1, i + 2) for i in range(3_000_000)]; kept = x[::5000]; del x",
    "malloc, 831 MiB, 1 % kept": "x = [bytes(600 + i % 4400) for i in range(311_000)]; kept = x[::100]; del x",
    "24 threads": """
done = threading.Event()
def work():
    x = [bytes(900 + i % 900) for i in range(4500)]; kept = x[::100]; del x; done.wait()
for _ in range(24): threading.Thread(target=work, daemon=True).start()
time.sleep(1)""",
}
LEDGER = {
    "bare": "",
    "numpy and pandas": "import numpy, pandas; d = pandas.DataFrame({'a': numpy.arange(2e6), 'b': numpy.ones(2000000)})",
    "24 threads": CASES["24 threads"],
    "a 300 MiB mmap": "import mmap; m = mmap.mmap(-1, 300 << 20); m.write(b'x' * (300 << 20))",
}
SEEN = """
ledger = lowtide.rss()
print(json.dumps([ledger.rss_bytes, ledger.lines[-1].bytes, len(ledger.lines)]))
"""


def run(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=True)
    figures: list[float] = json.loads(done.stdout)
    return figures


def main() -> None:
    print(f"{'MiB resident':32} {'before':>8} {'gc+trim':>8} {'ms':>7} {'free()':>8} {'ms':>7}")
    for name, code in CASES.items():
        before, plain, plain_ms, after, ms = run(code + TAIL)
        print(f"{name:32} {before / 2**20:8.0f} {plain / 2**20:8.0f} {plain_ms:7.1f} {after / 2**20:8.0f} {ms:7.1f}")
    print(f"\n{'explained of resident':32} {'MiB':>8} {'lowtide':>8} {'lines':>7}   psutil: one number, rss")
    for name, code in LEDGER.items():
        resident, unexplained, lines = run(code + SEEN)
        print(f"{name:32} {resident / 2**20:8.0f} {1 - unexplained / resident:8.1%} {lines:7.0f}")


if __name__ == "__main__":
    main()
