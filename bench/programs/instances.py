"""N instances with a string and a list of two numbers each: five objects an instance. Then does what a line on stdin says.

python instances.py N
> guppy3 | pympler     times that tool's table from inside, prints seconds
> watch SECONDS        a thread watches the clock; prints the longest gap it saw, in ms
> exit
"""

import sys
import threading
import time


class Row:
    def __init__(self, i: int) -> None:
        self.name = f"row number {i}"
        self.cells = [i + 1_000_000, i / 7]


def guppy3() -> float:
    start = time.perf_counter()
    import guppy

    str(guppy.hpy().heap())
    return time.perf_counter() - start


def pympler() -> float:
    start = time.perf_counter()
    from pympler import muppy, summary

    summary.summarize(muppy.get_objects())
    return time.perf_counter() - start


def watch(seconds: float) -> float:
    gap = 0.0

    def look() -> None:
        nonlocal gap
        last = time.perf_counter()
        end = last + seconds
        while last < end:
            now = time.perf_counter()
            gap = max(gap, now - last)
            last = now

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return gap * 1000


rows = [Row(i) for i in range(int(sys.argv[1]))]
print("ready", flush=True)
for line in sys.stdin:
    word, *arguments = line.split()
    if word == "exit":
        break
    tool = {"guppy3": guppy3, "pympler": pympler, "watch": watch}[word]
    print(tool(*map(float, arguments)), flush=True)
