"""Allocates in many ways under one of two tracemallocs, and prints what it said of this file.

    python tracemalloc_program.py lowtide|stdlib FRAMES

Prints, as one literal: the blocks made by lines of this file (size, frames, frames in all: how many), the traced bytes before and
after each part, and its peak.
"""

import collections
import gc
import json
import re
import sys
import threading
import tracemalloc as stdlib
import types

from lowtide import tracemalloc as by_lowtide

tracemalloc = by_lowtide if sys.argv[1] == "lowtide" else stdlib  # both are imported in either case

kept = []


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


class Plain:
    def __init__(self, n):
        self.n = [n] * n
        self.name = f"plain {n}"

    @property
    def doubled(self):
        return self.n + self.n


def objects():
    kept.append([Plain(i) for i in range(50)])
    kept.append([Slotted(str(i), (i, i)) for i in range(1000, 1050)])
    kept.append([plain.doubled for plain in kept[0]])


def buffers():
    kept.append([bytes(n) for n in (1, 400, 513, 100_000, 3_000_000)])
    grown = bytearray()
    for i in range(2000):
        grown += b"x" * (i % 50)
    del grown[1000:]
    kept.append(grown)
    shrunk = list(range(10_000))
    del shrunk[10:]
    kept.append(shrunk)


def tables():
    table = {}
    for i in range(3000):
        table[i * 1_000_003] = str(i)
    for i in range(0, 3000, 2):
        del table[i * 1_000_003]
    kept.append(table)
    kept.append(collections.deque(range(5000), maxlen=3000))
    kept.append({str(i) for i in range(2000)})


def texts():
    data = [{"id": i, "text": "é" * i, "list": [i / 7, None, {"a": -i}]} for i in range(200)]
    text = json.dumps(data)
    kept.append((text, json.loads(text)))
    kept.append(re.findall(r"\d+\.\d+", text))
    whole = ""
    for i in range(500):
        whole += str(i)
    kept.append(whole)


def deep(n):
    return [n, deep(n - 1) if n else [str(n)]]


def count(n):
    for i in range(n):
        yield [i] * 5
    yield from (str(n) * i for i in range(1, n))


def stacks():
    kept.append(deep(100))
    kept.append(list(count(30)))
    kept.append(sorted((str(i) for i in range(100)), key=lambda s: s[::-1]))
    steps = count(5)
    kept.append([next(steps) for _ in range(3)])
    kept.append(steps)
    for i in range(5):
        try:
            raise ValueError([i] * 100)
        except ValueError as error:
            kept.append(error)


def code():
    for i in range(20):
        space = {}
        exec("\n" * i + f"def f():\n    return ['{i}' * 50]\nmade = f()\n", space)
        kept.append(space["made"])
        del space
    made = [types.FunctionType(compile(f"[{i}, str({i})]", "<made>", "eval"), {})() for i in range(30)]
    kept.append(made)


def threads():
    def work(i):
        kept.append([bytes(100 + i), {"i": [i]}])

    for i in range(5):
        thread = threading.Thread(target=work, args=(i,))
        thread.start()
        thread.join()
    kept.append([threading.Lock() for _ in range(20)])


def waste():
    for i in range(300):
        row = [str(i)] * i
        ring = [row]
        ring.append(ring)
    gc.collect()


def run():
    figures = []
    for part in (objects, buffers, tables, texts, stacks, code, waste, threads):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        part()
        after, peak = tracemalloc.get_traced_memory()
        figures.append((part.__name__, after - before, peak - before))
    return figures


gc.collect()
gc.disable()
run()  # what is made once, is
kept.clear()
gc.collect()
tracemalloc.start(int(sys.argv[2]))
figures = run()
snapshot = tracemalloc.take_snapshot()
tracemalloc.stop()
blocks = collections.Counter(
    (trace.size, trace._trace[2], trace.traceback.total_nframe)
    for trace in snapshot.traces
    if trace.traceback[-1].filename in (__file__, "<string>", "<made>")
)
print(repr({"figures": figures, "blocks": dict(blocks)}))
